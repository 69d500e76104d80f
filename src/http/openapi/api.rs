//! The application listener.

use serde_json::{Value, json};
use utoipa::openapi::ResponseBuilder;
use utoipa::openapi::path::{HttpMethod, Parameter, ParameterIn, PathItem};
use utoipa::openapi::request_body::RequestBody;

use super::super::route::Route;
use super::{GMFYS, JSON, Operation, answer, any_json, body, content, header, parameter, path};

const SERVER: &str = "http://127.0.0.1:7460";
const NDJSON: &str = "application/x-ndjson";

/// What every request may be answered.
const ALWAYS: [&str; 7] = [
    "bad-host",
    "misdirected",
    "unauthorized",
    "uri-too-long",
    "busy",
    "internal",
    "method-not-allowed",
];
/// What every body may be answered.
const BODIES: [&str; 6] =
    ["broken-body", "bad-encoding", "body-timeout", "too-large", "media-type", "content-encoding"];
const EVENTS: [&str; 11] = [
    "not-json",
    "invalid",
    "bad-idempotency-key",
    "idempotency-key-underway",
    "idempotency-key-reused",
    "queue-full",
    "disk-full",
    "store-failed",
    "queue-unreachable",
    "stopping",
    "outcome-unknown",
];
const UPSTREAM: [&str; 3] = ["upstream-unreachable", "upstream-broken", "upstream-timeout"];

pub(super) fn paths() -> impl Iterator<Item = (&'static str, PathItem)> {
    let ours = Route::ALL.into_iter().filter_map(|route| Some((route, operation(route)?)));
    ours.map(|(route, operation)| {
        (route.template(), path("api", SERVER, &["key"], vec![operation]))
    })
}

fn operation(route: Route) -> Option<Operation> {
    Some(match route {
        Route::Events => events(
            "create_event",
            "Takes an event: it is on disk before the answer",
            body("An event in either form.", vec![(JSON, content("Event", event()))], true),
        ),
        Route::Batch => {
            // OpenAPI 3.1 has no words for lines: each element is one.
            let lines = content("Events", json!([event()]));
            let mut batch = events(
                "create_batch_events",
                "Takes events: all, or none",
                body(
                    "An array of events, or NDJSON: the same events, one a line.",
                    vec![(JSON, content("Events", json!([event()]))), (NDJSON, lines)],
                    true,
                ),
            );
            batch.parameters.push(parameter(
                ParameterIn::Header,
                "Prefer",
                "`handling=lenient` (RFC 7240): the good events are taken and the rest listed.",
                false,
                json!({ "type": "string" }),
            ));
            batch
        }
        Route::Payments => {
            let payment = json!({
                "amount": { "value": 100.0, "currency": "USD" },
                "confirmation": { "returnUrl": "https://example.com/" },
                "userId": "1", "description": "Payment for order #123", "locale": "EN",
            });
            write(
                "create_payment",
                "Creates a payment: passed to GMFY once, never again",
                vec![],
                body("A payment.", vec![(JSON, content("Payment", payment))], true),
            )
        }
        Route::ResendCode => {
            let nothing = content("Any", json!({}));
            write(
                "create_resend_code",
                "Sends a payment's code again: passed to GMFY once, never again",
                vec![id("The payment's id.")],
                body("Nothing is needed, but its type.", vec![(JSON, nothing)], true),
            )
        }
        Route::Users => {
            let page = vec![
                number("offset", "How many users to skip."),
                number("limit", "How many at most."),
            ];
            read("get_users", "All users", page, "Users")
        }
        Route::User => read("get_user", "One user", vec![id("The user's id.")], "Users"),
        Route::Badges => {
            read("get_user_badges", "A user's badges", vec![id("The user's id.")], "Objects")
        }
        Route::RatingTop => {
            let parameters = vec![
                id("The rating's id."),
                number("offset", "How many places to skip; 0 by default."),
                number("limit", "How many places at most; 10 by default."),
                parameter(
                    ParameterIn::Query,
                    "sort",
                    "`ASC` by default.",
                    false,
                    json!({ "type": "string", "enum": ["ASC", "DESC"] }),
                ),
            ];
            read("get_rating_top_users", "The top of a rating", parameters, "Objects")
        }
        Route::ChallengeTop => {
            let parameters = vec![
                id("The challenge's id."),
                number("limit", "How many places at most; 10 by default."),
            ];
            read("get_challenge_top_users", "The top of a challenge", parameters, "Objects")
        }
        Route::Payment => {
            read("get_payment", "A payment", vec![id("The payment's id.")], "PaymentDetails")
        }
        Route::Notifications => {
            read("get_notifications", "All users' notifications", vec![], "Notifications")
        }
        Route::UserNotifications => {
            let user = vec![id("The user's id.")];
            read("get_user_notifications", "A user's notifications", user, "Notifications")
        }
        Route::Unread => {
            let all = "All users' unread notifications; never cached";
            read("get_unread_notifications", all, vec![], "Notifications")
        }
        Route::UserUnread => {
            let one = "A user's unread notifications; never cached";
            let user = vec![id("The user's id.")];
            read("get_user_unread_notifications", one, user, "Notifications")
        }
        Route::Version => read("get_api_version", "The version of GMFY's API", vec![], "Version"),
        Route::Other => return None,
    })
}

fn event() -> Value {
    json!({ "userId": "1", "type": "register" })
}

fn id(about: &str) -> Parameter {
    let about = format!("{about} One segment, percent-encoded; not `.` or `..`, and without NUL.");
    // What else can't be an id is told by 400.
    let schema = json!({ "type": "string", "minLength": 1, "pattern": "^[^\\u0000]+$" });
    parameter(ParameterIn::Path, "id", &about, true, schema)
}

fn number(name: &str, about: &str) -> Parameter {
    let schema = json!({ "type": "integer", "minimum": 0, "maximum": u64::MAX });
    parameter(ParameterIn::Query, name, about, false, schema)
}

fn problems(sets: &[&[&'static str]]) -> Vec<&'static str> {
    sets.concat()
}

fn events(id: &'static str, summary: &'static str, events: RequestBody) -> Operation {
    let accepted =
        json!({ "accepted": 1, "duplicates": 0, "first_sequence": 1, "last_sequence": 1 });
    let accepted = answer("They are on disk.", JSON, content("Accepted", accepted))
        .header("Idempotency-Replayed", header("`true`: as the first such request was answered."))
        .header("Preference-Applied", header("`handling=lenient`, where it was preferred."));
    let key = parameter(
        ParameterIn::Header,
        "Idempotency-Key",
        "The same key with the same body within events.dedupe_window takes nothing twice, and is \
         answered as before.",
        false,
        json!({ "type": "string", "minLength": 1, "maxLength": 255 }),
    );
    Operation {
        method: HttpMethod::Post,
        id,
        summary,
        parameters: vec![key],
        body: Some(events),
        answers: vec![("202", accepted)],
        problems: problems(&[&ALWAYS, &BODIES, &EVENTS]),
    }
}

fn write(
    id: &'static str,
    summary: &'static str,
    parameters: Vec<Parameter>,
    body: RequestBody,
) -> Operation {
    let schema = if id == "create_payment" { "CreatedPayment" } else { "PaymentDetails" };
    let done = answer("GMFY's answer.", JSON, gmfys_example(schema));
    let ids: &[&str] = if parameters.is_empty() { &[] } else { &["bad-id"] };
    Operation {
        method: HttpMethod::Post,
        id,
        summary,
        parameters,
        body: Some(body),
        answers: vec![("200", done), ("default", gmfys())],
        problems: problems(&[&ALWAYS, &BODIES, &UPSTREAM, ids]),
    }
}

fn read(
    id: &'static str,
    summary: &'static str,
    mut parameters: Vec<Parameter>,
    schema: &str,
) -> Operation {
    let ids: &[&str] = if id_of(&parameters) { &["bad-id"] } else { &[] };
    for (name, about) in [
        ("Cache-Control", "`no-cache` asks GMFY."),
        ("If-None-Match", "The `ETag` of an answer that the caller has."),
    ] {
        let schema = json!({ "type": "string" });
        parameters.push(parameter(ParameterIn::Header, name, about, false, schema));
    }
    let cached = |answer: ResponseBuilder| {
        answer
            .header("Age", header("Seconds since GMFY gave the answer."))
            .header("ETag", header("Tells this answer from others."))
            .header("Cache-Status", header("How the cache came to the answer (RFC 9211)."))
    };
    let fresh = answer("GMFY's answer, now or as cached.", JSON, gmfys_example(schema));
    let same = ResponseBuilder::new().description("The caller has the answer.");
    Operation {
        method: HttpMethod::Get,
        id,
        summary,
        parameters,
        body: None,
        answers: vec![("200", cached(fresh)), ("304", cached(same)), ("default", gmfys())],
        problems: problems(&[&ALWAYS, &UPSTREAM, ids]),
    }
}

/// Whether the path has an id.
fn id_of(parameters: &[Parameter]) -> bool {
    parameters.iter().any(|parameter| matches!(parameter.parameter_in, ParameterIn::Path))
}

fn gmfys() -> ResponseBuilder {
    ResponseBuilder::new().description(GMFYS).content(JSON, any_json())
}

/// As GMFY documents it.
fn gmfys_example(schema: &str) -> utoipa::openapi::Content {
    const ID: &str = "00000000-0000-4000-8000-000000000000";
    let value = match schema {
        "Version" => json!({ "version": "1.0", "deploymentDate": "2026-01-01T00:00:00Z" }),
        "CreatedPayment" => json!({
            "id": ID, "clientId": ID, "status": "CREATED",
            "confirmationUrl": "https://pay.example.com/",
        }),
        "PaymentDetails" => json!({
            "id": ID, "clientId": ID, "value": 100.0, "returnUrl": "https://example.com/",
            "description": "Payment for order #123", "currency": "USD", "status": "CREATED",
            "locale": "EN", "expiresIn": 600,
        }),
        "Notifications" => json!([{ "userId": "1", "clientId": ID, "message": "Well done" }]),
        "Users" => json!([{ "userId": "1", "clientId": ID }]),
        _ => json!([]),
    };
    content(schema, value)
}
