//! The control routes: faults while running, figures, recorded events.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::core::Shared;
use super::faults::Faults;
use super::gate::{Refusal, json_response};
use super::journal::RecordedEvent;
use super::routes::Query;

/// What every path here begins with.
pub(super) const PREFIX: &str = "/control/";
/// How many events are shown at once at most.
const EVENTS_SHOWN: usize = 10_000;

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/control/faults", get(faults).put(replace_faults).patch(change_faults))
        .route("/control/reset", post(reset))
        .route("/control/stats", get(stats))
        .route("/control/events", get(events))
        .with_state(shared)
}

async fn faults(State(shared): State<Arc<Shared>>) -> Response {
    let faults = shared.lock().faults().to_json();
    json_response(StatusCode::OK, faults.to_string())
}

/// All faults anew: those that aren't named are off.
async fn replace_faults(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    set_faults(&shared, Faults::default(), &body)
}

/// Only those that are named.
async fn change_faults(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let faults = shared.lock().faults().clone();
    set_faults(&shared, faults, &body)
}

fn set_faults(shared: &Shared, base: Faults, json: &[u8]) -> Response {
    match base.patched(json) {
        Ok(faults) => {
            let shown = faults.to_json().to_string();
            shared.lock().set_faults(faults);
            tracing::info!(target: "gmfy_simulator", faults = %shown, "the faults have changed");
            json_response(StatusCode::OK, shown)
        }
        Err(error) => {
            let body = json!({ "error": error.to_string(), "field": error.field });
            json_response(StatusCode::BAD_REQUEST, body.to_string())
        }
    }
}

async fn reset(State(shared): State<Arc<Shared>>) -> Response {
    shared.reset();
    json_response(StatusCode::OK, "{}")
}

async fn stats(State(shared): State<Arc<Shared>>) -> Response {
    let counts = shared.lock().counts();
    json(&counts)
}

#[derive(Serialize)]
struct EventView<'a> {
    order: u64,
    request: u64,
    user_id: &'a str,
    #[serde(rename = "type")]
    event_type: &'a str,
    idempotence_key: Option<&'a str>,
    duplicate: bool,
    event: Option<&'a RawValue>,
}

impl<'a> From<&'a RecordedEvent> for EventView<'a> {
    fn from(event: &'a RecordedEvent) -> Self {
        Self {
            order: event.order,
            request: event.request,
            user_id: &event.user_id,
            event_type: &event.event_type,
            idempotence_key: event.idempotence_key.as_deref(),
            duplicate: event.duplicate,
            event: serde_json::from_slice(&event.text).ok(),
        }
    }
}

#[derive(Serialize)]
struct EventsView<'a> {
    recording: bool,
    events: Vec<EventView<'a>>,
    /// For `after`; none where nothing is left.
    next: Option<u64>,
}

async fn events(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let query = Query(query.as_deref());
    let after = query.number("after", 0)?;
    let limit = query.number("limit", 100)?.min(EVENTS_SHOWN);
    let (recording, found) = {
        let core = shared.lock();
        (core.journal.recording(), core.journal.events_after(after, limit))
    };
    let next = found.last().filter(|_| found.len() == limit).map(|last| last.order);
    let events = found.iter().map(EventView::from).collect();
    Ok(json(&EventsView { recording, events, next }))
}

fn json<T: Serialize>(value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => json_response(StatusCode::OK, body),
        Err(_) => json_response(StatusCode::INTERNAL_SERVER_ERROR, "{}"),
    }
}
