//! The admin listener. Only what its router takes is described.

use serde_json::{Value, json};
use utoipa::openapi::ContentBuilder;
use utoipa::openapi::path::{HttpMethod, Parameter, ParameterIn, PathItem};
use utoipa::openapi::request_body::RequestBody;

use super::super::admin::takes;
use super::schemas::schema;
use super::{JSON, Operation, answer, body, content, parameter, path};

const SERVER: &str = "http://127.0.0.1:7462";
const SECURITY: [&str; 2] = ["token", "password"];

const ALWAYS: [&str; 6] =
    ["bad-host", "misdirected", "token-needed", "internal", "bad-query", "method-not-allowed"];
const CHANGES: [&str; 8] = [
    "foreign-site",
    "media-type",
    "broken-body",
    "bad-encoding",
    "content-encoding",
    "body-timeout",
    "too-large",
    "busy",
];
const OPTIONS: [&str; 2] = ["not-json", "bad-options"];

pub(super) fn paths() -> impl Iterator<Item = (&'static str, PathItem)> {
    described().into_iter().filter_map(|(name, operations)| {
        let taken = operations.into_iter().filter(|(method, _)| takes(method, &sample(name)));
        let operations: Vec<_> = taken.map(|(_, operation)| operation).collect();
        (!operations.is_empty()).then(|| (name, path("admin", SERVER, &SECURITY, operations)))
    })
}

/// A path of this template.
fn sample(template: &str) -> String {
    template.replace("{seq}", "1")
}

type Described = (&'static str, Vec<(http::Method, Operation)>);

fn described() -> Vec<Described> {
    let get = |name, operation| (name, vec![(http::Method::GET, operation)]);
    let post = |name, operation| (name, vec![(http::Method::POST, operation)]);
    let page = ContentBuilder::new().schema(Some(schema(json!({ "type": "string" })))).build();
    let page = read("page", "The status page", "text/html", page);
    let stream = ContentBuilder::new().schema(Some(schema(json!({ "type": "string" })))).build();
    let letter = json!({
        "seq": 1, "reason": "rejected", "status": 422, "answer": "", "attempts": 1,
        "accepted_at": "2026-01-01T00:00:00Z",
        "dead_lettered_at": "2026-01-01T00:00:00Z", "event": { "userId": "1", "type": "register" },
    });
    let letters = json!({ "dead_letters": [letter], "next": null });
    let requeued = json!({ "requeued": [{ "seq": 1, "new_seq": 2 }] });
    let event = json!({ "seq": 1, "state": "queued", "attempts": 0 });
    vec![
        get("/", page),
        get(
            "/api/status",
            reading("status", "The sidecar as it stands", "Status", status(), vec![]),
        ),
        get("/api/status/stream", {
            let what = "The status, each second; every event's data is a Status";
            let mut watch = read("watch_status", what, "text/event-stream", stream.clone());
            watch.problems.push("too-many-readers");
            watch
        }),
        post("/api/flush", {
            let wait = parameter(
                ParameterIn::Query,
                "wait",
                "How long at most; 5s by default, 5m at the longest.",
                false,
                json!({ "type": "string", "pattern": "^(0|[0-9]{1,2}s|[0-4]m)$" }),
            );
            let mut flush = change("flush", "Sends what waits without lingering", "NoOptions");
            flush.parameters = vec![wait];
            let left = json!({ "remaining": 0 });
            let left = || content("Remaining", left.clone());
            flush.answers = vec![
                ("200", answer("The queue is empty.", JSON, left())),
                ("202", answer("Some events are left.", JSON, left())),
            ];
            flush
        }),
        post("/api/delivery/pause", {
            let pause = "Sends nothing more until resumed, also after a restart";
            changed(change("pause", pause, "NoOptions"), "UpstreamStatus", upstream())
        }),
        post("/api/delivery/resume", {
            let resume = "Ends a pause, a misconfiguration and a wait";
            changed(change("resume", resume, "ResumeOptions"), "UpstreamStatus", upstream())
        }),
        ("/api/log-level", {
            let level = json!({ "level": "info" });
            let show =
                reading("log_level", "What is logged", "ShownLogLevel", level.clone(), vec![]);
            let set = change("set_log_level", "Logs more or less, until a restart", "LogLevel");
            let set = changed(set, "ShownLogLevel", level);
            vec![(http::Method::GET, show), (http::Method::POST, set)]
        }),
        get("/api/dead-letters", {
            let number = |name: &str, about: &str, least: u64, most: u64| {
                let schema = json!({ "type": "integer", "minimum": least, "maximum": most });
                parameter(ParameterIn::Query, name, about, false, schema)
            };
            let parameters = vec![
                number("after", "Only those with a higher sequence.", 0, u64::MAX),
                number("limit", "How many at most; 100 by default.", 1, 1000),
            ];
            let list = "Dead letters, ascending";
            reading("list_dead_letters", list, "DeadLetters", letters, parameters)
        }),
        ("/api/dead-letters/{seq}", {
            let show = "One dead letter";
            let mut show = reading("show_dead_letter", show, "DeadLetter", letter, vec![seq()]);
            show.problems.extend(["not-found", "no-dead-letter"]);
            let mut discard = bare("discard_dead_letter", "Throws a dead letter away");
            discard.method = HttpMethod::Delete;
            discard.parameters = vec![seq()];
            discard.problems.extend([
                "not-found",
                "foreign-site",
                "no-dead-letter",
                "store-failed",
            ]);
            discard.answers = vec![(
                "200",
                answer("It is gone.", JSON, content("Discarded", json!({ "discarded": 1 }))),
            )];
            vec![(http::Method::GET, show), (http::Method::DELETE, discard)]
        }),
        post("/api/dead-letters/{seq}/requeue", {
            let mut one = changed(
                change("requeue_dead_letter", "Accepts a dead letter anew", "NoOptions"),
                "Requeued",
                requeued.clone(),
            );
            one.parameters = vec![seq()];
            one.problems.extend([
                "not-found",
                "no-dead-letter",
                "queue-full",
                "disk-full",
                "stopping",
            ]);
            one
        }),
        post("/api/dead-letters/requeue", {
            let all = "Accepts all dead letters anew";
            let mut all = changed(change("requeue_all", all, "NoOptions"), "Requeued", requeued);
            all.problems.extend(["queue-full", "disk-full", "stopping"]);
            all
        }),
        post("/api/dead-letters/discard", {
            let all = change("discard_all", "Throws all dead letters away", "NoOptions");
            changed(all, "Discarded", json!({ "discarded": 1 }))
        }),
        get("/api/events/stream", {
            let what = "What becomes of events, as it happens";
            let mut follow = read("follow_events", what, "text/event-stream", stream);
            let text = |name: &str, about: &str| {
                let schema = json!({ "type": "string" });
                parameter(ParameterIn::Query, name, about, false, schema)
            };
            let outcomes = crate::telemetry::stream::EventOutcome::ALL.map(|one| one.as_str());
            let outcome = json!({ "type": "string", "enum": outcomes });
            follow.parameters = vec![
                text("user", "Only events of this user."),
                text("type", "Only events of this type."),
                parameter(ParameterIn::Query, "outcome", "Only this outcome.", false, outcome),
            ];
            follow.problems.push("too-many-readers");
            follow
        }),
        get("/api/events/{seq}", {
            let what = "What became of one event";
            let mut show = reading("show_event", what, "EventState", event, vec![seq()]);
            show.problems.push("not-found");
            show
        }),
        get("/openapi.json", {
            let any = ContentBuilder::new().schema(Some(schema(json!({ "type": "object" }))));
            read("openapi", "This document", JSON, any.build())
        }),
    ]
}

fn seq() -> Parameter {
    let schema = json!({ "type": "integer", "minimum": 0, "maximum": u64::MAX });
    parameter(ParameterIn::Path, "seq", "An event's sequence number.", true, schema)
}

fn bare(id: &'static str, summary: &'static str) -> Operation {
    Operation {
        method: HttpMethod::Get,
        id,
        summary,
        parameters: Vec::new(),
        body: None,
        answers: Vec::new(),
        problems: ALWAYS.to_vec(),
    }
}

fn read(
    id: &'static str,
    summary: &'static str,
    media: &'static str,
    shown: utoipa::openapi::Content,
) -> Operation {
    Operation { answers: vec![("200", answer(summary, media, shown))], ..bare(id, summary) }
}

fn reading(
    id: &'static str,
    summary: &'static str,
    schema: &str,
    example: Value,
    parameters: Vec<Parameter>,
) -> Operation {
    let answers = vec![("200", answer(summary, JSON, content(schema, example)))];
    Operation { parameters, answers, ..bare(id, summary) }
}

fn change(id: &'static str, summary: &'static str, options: &str) -> Operation {
    let mut operation = bare(id, summary);
    operation.method = HttpMethod::Post;
    operation.body = Some(options_body(options));
    operation.problems.extend(CHANGES.iter().chain(&OPTIONS).copied());
    operation.problems.push("store-failed");
    operation
}

fn options_body(options: &str) -> RequestBody {
    body("Options; an empty body, too, is fine.", vec![(JSON, content(options, json!({})))], true)
}

fn changed(mut operation: Operation, schema: &str, example: Value) -> Operation {
    operation.answers = vec![("200", answer("Done.", JSON, content(schema, example)))];
    operation
}

fn upstream() -> Value {
    json!({
        "state": "up", "since": "2026-01-01T00:00:00Z", "why": null, "next_attempt_at": null,
        "dead_lettering_status": null,
    })
}

fn status() -> Value {
    json!({
        "version": "0.1.0", "revision": "unknown", "started_at": "2026-01-01T00:00:00Z",
        "uptime_seconds": 1, "ready": { "ready": true, "why": null }, "upstream": upstream(),
        "queue": {
            "events": 0, "bytes": 0, "capacity_bytes": 1_073_741_824,
            "oldest_age_seconds": null, "durability": "sync", "damages": [],
        },
        "lanes": [], "dead_letters": 0,
        "events": {
            "accepted": 0, "duplicates": 0, "recovered": 0, "requeued": 0, "delivered": 0,
            "dead_lettered": 0, "dropped": 0,
        },
        "cache": { "entries": 0, "bytes": 0, "routes": {}, "hit_ratio": {} },
    })
}
