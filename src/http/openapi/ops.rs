//! The ops listener.

use serde_json::json;
use utoipa::openapi::ContentBuilder;
use utoipa::openapi::path::{HttpMethod, PathItem};

use super::super::ops::PATHS;
use super::schemas::schema;
use super::{Operation, answer, path};

const SERVER: &str = "http://127.0.0.1:7461";

pub(super) fn paths() -> impl Iterator<Item = (&'static str, PathItem)> {
    PATHS.into_iter().map(|(name, summary)| {
        let text = |value: &str| {
            ContentBuilder::new()
                .schema(Some(schema(json!({ "type": "string" }))))
                .example(Some(json!(value)))
                .build()
        };
        let well = if name == "/metrics" { "gmfy_queue_events 0\n" } else { "ok\n" };
        let mut answers = vec![("200", answer(summary, "text/plain", text(well)))];
        if matches!(name, "/livez" | "/readyz") {
            let ill = answer("Not so; the text says why.", "text/plain", text("stopping\n"));
            answers.push(("503", ill));
        }
        if name == "/metrics" {
            let failed = "The metrics can't be written.";
            answers.push(("500", answer(failed, "text/plain", text("failed\n"))));
        }
        let operation = Operation {
            method: HttpMethod::Get,
            id: name.trim_start_matches('/'),
            summary,
            parameters: Vec::new(),
            body: None,
            answers,
            problems: vec!["method-not-allowed"],
        };
        (name, path("ops", SERVER, &[], vec![operation]))
    })
}
