//! The description of all three listeners as OpenAPI 3.1, made from what they answer by: the
//! routes, the problems, the documents.

mod admin;
mod api;
mod ops;
mod schemas;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, Parameter, ParameterBuilder, ParameterIn, PathItem, PathsBuilder,
};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::server::ServerBuilder;
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    Content, Header, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Required, Response,
    ResponseBuilder, Schema, SecurityRequirement,
};

use super::problem::{self, PROBLEM};

/// Answers of GMFY that have no status of their own in the description.
const GMFYS: &str = "Whatever else GMFY answers, as it came: status, body, `Content-Type`, \
                     `Content-Encoding` and `Retry-After`.";

const JSON: &str = "application/json";

/// The document, as indented JSON.
#[must_use]
pub fn openapi_json() -> String {
    // Neither fails but on maps with keys that aren't text, of which the document has none.
    let mut document = serde_json::to_value(document()).unwrap_or_default();
    // As they are written: utoipa's model of a schema knows no `not`.
    for (name, schema) in schemas::written() {
        document["components"]["schemas"][name] = schema;
    }
    serde_json::to_string_pretty(&document).unwrap_or_default()
}

fn document() -> OpenApi {
    let mut paths = PathsBuilder::new();
    for (path, item) in api::paths().chain(ops::paths()).chain(admin::paths()) {
        paths = paths.path(path, item);
    }
    let mut components = schemas::components();
    for (name, scheme) in security_schemes() {
        components.add_security_scheme(name, scheme);
    }
    let about = "What the sidecar answers on its three listeners. Every path may lack its last \
                 slash. A wrong method is answered 405 with `Allow`, an unknown path 404, both as \
                 problem documents (RFC 9457); what is no HTTP is answered 400, 414 or 431 without \
                 a body, and the connection closed.";
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title(env!("CARGO_PKG_NAME"))
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(about))
                .build(),
        )
        .tags(Some([
            tag("api", "The application listener: GMFY's own paths."),
            tag("ops", "The ops listener: probes and metrics."),
            tag("admin", "The admin listener: status and operations."),
        ]))
        .paths(paths.build())
        .components(Some(components))
        .build()
}

fn tag(name: &str, about: &str) -> utoipa::openapi::Tag {
    TagBuilder::new().name(name).description(Some(about)).build()
}

fn security_schemes() -> [(&'static str, SecurityScheme); 3] {
    let key = "One of api.keys, where any is set.";
    let token = "admin.token, where it is set.";
    let http = |scheme| {
        SecurityScheme::Http(HttpBuilder::new().scheme(scheme).description(Some(token)).build())
    };
    [
        (
            "key",
            SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description("x-api-key", key))),
        ),
        ("token", http(HttpAuthScheme::Bearer)),
        ("password", http(HttpAuthScheme::Basic)),
    ]
}

/// One operation of a listener.
struct Operation {
    method: HttpMethod,
    id: &'static str,
    summary: &'static str,
    parameters: Vec<Parameter>,
    body: Option<RequestBody>,
    /// What it answers but for problems.
    answers: Vec<(&'static str, ResponseBuilder)>,
    /// The names of the problems that it answers.
    problems: Vec<&'static str>,
}

/// A path with its operations on a listener.
fn path(
    tag: &'static str,
    server: &str,
    security: &[&'static str],
    operations: Vec<Operation>,
) -> PathItem {
    let mut item = PathItem::default();
    item.servers = Some(vec![ServerBuilder::new().url(server).build()]);
    for operation in operations {
        let mut built = OperationBuilder::new()
            .tag(tag)
            .operation_id(Some(operation.id))
            .summary(Some(operation.summary))
            .request_body(operation.body);
        for scheme in security {
            let none: [&str; 0] = [];
            built = built.security(SecurityRequirement::new(*scheme, none));
        }
        for parameter in operation.parameters {
            built = built.parameter(parameter);
        }
        let mut answers: BTreeMap<String, Response> = problem_answers(&operation.problems);
        let gmfys = operation.answers.iter().any(|(status, _)| *status == "default");
        if gmfys {
            // GMFY may answer with a status that is a problem of ours too.
            for answer in answers.values_mut() {
                answer.content.insert(JSON.to_owned(), any_json());
            }
        }
        for (status, answer) in operation.answers {
            answers.insert(status.to_owned(), answer.build());
        }
        for (status, answer) in answers {
            built = built.response(status, answer);
        }
        item = merged(item, PathItem::new(operation.method, built));
    }
    item
}

fn merged(mut item: PathItem, other: PathItem) -> PathItem {
    item.merge_operations(other);
    item
}

/// The problems of these names, by status.
fn problem_answers(names: &[&'static str]) -> BTreeMap<String, Response> {
    let mut by_status: BTreeMap<u16, Vec<problem::Described>> = BTreeMap::new();
    for kind in problem::described().filter(|kind| names.contains(&kind.name)) {
        by_status.entry(kind.status).or_default().push(kind);
    }
    let answer = |(status, kinds): (u16, Vec<problem::Described>)| {
        let titles: Vec<_> = kinds.iter().map(|kind| kind.title).collect();
        let examples = kinds.iter().map(|kind| (kind.name, example(&kind.example())));
        let content = ContentBuilder::new()
            .schema(Some(reference("Problem")))
            .examples_from_iter(examples)
            .build();
        let mut answer =
            ResponseBuilder::new().description(titles.join(", or: ")).content(PROBLEM, content);
        for (needed, name, about) in [
            (503, "Retry-After", "Seconds until it is worth another try."),
            (401, "WWW-Authenticate", "What is asked for, on the admin listener."),
            (415, "Accept-Encoding", "What is taken, where a Content-Encoding is not."),
        ] {
            if status == needed {
                answer = answer.header(name, header(about));
            }
        }
        (status.to_string(), answer.build())
    };
    by_status.into_iter().map(answer).collect()
}

fn example(value: &Value) -> utoipa::openapi::example::Example {
    utoipa::openapi::example::ExampleBuilder::new().value(Some(value.clone())).build()
}

fn any_json() -> Content {
    ContentBuilder::new().schema(Some(reference("Any"))).build()
}

fn header(about: &str) -> Header {
    HeaderBuilder::new()
        .schema(schemas::schema(json!({ "type": "string" })))
        .description(Some(about))
        .build()
}

fn reference(name: &str) -> RefOr<Schema> {
    RefOr::Ref(Ref::from_schema_name(name))
}

/// JSON of a component's schema, with an example.
fn content(schema: &str, value: Value) -> Content {
    ContentBuilder::new().schema(Some(reference(schema))).example(Some(value)).build()
}

fn answer(about: &str, media: &str, content: Content) -> ResponseBuilder {
    ResponseBuilder::new().description(about).content(media, content)
}

fn body(about: &str, contents: Vec<(&str, Content)>, required: bool) -> RequestBody {
    let mut body = RequestBodyBuilder::new().description(Some(about)).required(Some(if required {
        Required::True
    } else {
        Required::False
    }));
    for (media, content) in contents {
        body = body.content(media, content);
    }
    body.build()
}

fn parameter(
    place: ParameterIn,
    name: &str,
    about: &str,
    required: bool,
    schema: Value,
) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .description(Some(about))
        .required(if required { Required::True } else { Required::False })
        .schema(Some(schemas::schema(schema)))
        .build()
}

#[cfg(test)]
mod tests;
