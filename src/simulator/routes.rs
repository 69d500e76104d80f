//! GMFY's routes.

use std::borrow::Cow;
use std::sync::Arc;

use axum::extract::{Extension, Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::json;
use tower_http::decompression::RequestDecompressionLayer;

use super::core::Shared;
use super::gate::{Received, Refusal, gate, json_response};
use super::log;
use super::wire::{self, BadBody, WireEvent};
use super::world::Effect;
use super::world::id::Id;
use super::world::payments::PaymentRequest;
use super::world::views::Page;

type SharedState = State<Arc<Shared>>;
type Answer = Result<Response, Refusal>;

/// How many users the list of all users shows at once.
const USERS_SHOWN: usize = 1000;

/// The API behind its gate.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/events/", post(create_event))
        .route("/v1/events/batch/", post(create_batch))
        .route("/v1/payments/", post(create_payment))
        .route("/v1/payments/{id}/", get(payment))
        .route("/v1/payments/{id}/resend-code/", post(resend_code))
        .route("/v1/users/", get(users))
        .route("/v1/users/{id}/", get(user))
        .route("/v1/badges/{id}/", get(badges))
        .route("/v1/ratings/{id}/top/", get(rating_top))
        .route("/v1/challenges/{id}/top/", get(challenge_top))
        .route("/v1/notifications/", get(notifications))
        .route("/v1/notifications/{id}/", get(user_notifications))
        .route("/v1/notifications/unread/", get(unread))
        .route("/v1/notifications/unread/{id}/", get(user_unread))
        .route("/v1/version/", get(version))
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), gate))
        .layer(RequestDecompressionLayer::new())
        .with_state(shared)
}

async fn not_found() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "there is no such path")
}

async fn create_event(
    State(shared): SharedState,
    Extension(received): Extension<Received>,
) -> Answer {
    let event = wire::parse_one(&received.body).map_err(bad_body)?;
    accept(&shared, &received, &[event], |body| vec![body])
}

async fn create_batch(
    State(shared): SharedState,
    Extension(received): Extension<Received>,
) -> Answer {
    let events = wire::parse_batch(&received.body).map_err(bad_body)?;
    let max_batch = shared.lock().faults().max_batch;
    if max_batch.is_some_and(|max_batch| events.len() > max_batch) {
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "the batch has too many events"));
    }
    accept(&shared, &received, &events, wire::texts)
}

/// Applies all events, or none if one is of a rejected type. `texts` finds each event's JSON.
fn accept(
    shared: &Shared,
    received: &Received,
    events: &[WireEvent<'_>],
    texts: fn(&str) -> Vec<&str>,
) -> Answer {
    let now = shared.options.clock.now();
    let shows_each = log::shows_each(events.len());
    let mut shown = Vec::new();
    let mut duplicates = 0;

    let mut core = shared.lock();
    let rejected = &core.faults().reject_types;
    if !rejected.is_empty()
        && let Some((index, event)) =
            events.iter().enumerate().find(|(_, event)| rejected.contains(&*event.event_type))
    {
        let event_type = &event.event_type;
        let error = format!("events of type {event_type:?} are refused");
        let body = json!({ "error": error, "type": event_type, "index": index });
        let why = "an event of a refused type";
        drop(core);
        let refusal = Refusal::with_body(StatusCode::UNPROCESSABLE_ENTITY, why, body);
        return Err(refusal);
    }
    // Found only for a recording, which may cost time.
    let texts: Vec<Bytes> = match std::str::from_utf8(&received.body) {
        Ok(body) if core.journal.recording() => {
            texts(body).into_iter().map(|text| received.body.slice_ref(text.as_bytes())).collect()
        }
        Ok(_) | Err(_) => Vec::new(),
    };
    for (index, event) in events.iter().enumerate() {
        let effect = core.world.apply(event, now);
        let duplicate = effect == Effect::Duplicate;
        duplicates += usize::from(duplicate);
        core.journal.applied(received.order, event, duplicate, texts.get(index).cloned());
        if shows_each {
            shown.push(effect);
        }
    }
    let users = core.world.user_count();
    drop(core);

    if shows_each {
        for (event, effect) in events.iter().zip(&shown) {
            log::event(event, effect);
        }
    } else {
        log::batch(events.len(), duplicates, users);
    }
    Ok(json_response(StatusCode::CREATED, "{}"))
}

async fn create_payment(
    State(shared): SharedState,
    Extension(received): Extension<Received>,
) -> Answer {
    let request = PaymentRequest::parse(&received.body)
        .map_err(|message| bad_body(BadBody { index: None, message }))?;
    let created = shared.lock().world.payments.create(request);
    Ok(show(&created))
}

async fn payment(State(shared): SharedState, Path(id): Path<String>) -> Answer {
    let id = known_id(&id)?;
    shared.lock().world.payments.read(id).map(|details| show(&details)).ok_or_else(unknown_id)
}

async fn resend_code(State(shared): SharedState, Path(id): Path<String>) -> Answer {
    let id = known_id(&id)?;
    let details = shared.lock().world.payments.resend_code(id);
    details.map(|details| show(&details)).ok_or_else(unknown_id)
}

async fn users(State(shared): SharedState, RawQuery(query): RawQuery) -> Answer {
    let query = Query(query.as_deref());
    let page =
        Page { offset: query.number("offset", 0)?, limit: query.number("limit", USERS_SHOWN)? };
    let page = Page { limit: page.limit.min(USERS_SHOWN), ..page };
    Ok(show(&shared.lock().world.users(page)))
}

async fn user(State(shared): SharedState, Path(id): Path<String>) -> Response {
    show(&shared.lock().world.user(&id))
}

async fn badges(State(shared): SharedState, Path(id): Path<String>) -> Response {
    show(&shared.lock().world.badges(&id))
}

async fn rating_top(
    State(shared): SharedState,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Answer {
    let query = Query(query.as_deref());
    let page = Page { offset: query.number("offset", 0)?, limit: query.number("limit", 10)? };
    let descending = match query.value("sort").as_deref() {
        None | Some("ASC") => false,
        Some("DESC") => true,
        Some(_) => {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "sort is neither ASC nor DESC"));
        }
    };
    let id = known_id(&id)?;
    let core = shared.lock();
    core.world.rating_top(id, page, descending).map(|top| show(&top)).ok_or_else(unknown_id)
}

async fn challenge_top(
    State(shared): SharedState,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Answer {
    let query = Query(query.as_deref());
    let page = Page { offset: query.number("offset", 0)?, limit: query.number("limit", 10)? };
    let id = known_id(&id)?;
    let core = shared.lock();
    core.world.challenge_top(id, page).map(|top| show(&top)).ok_or_else(unknown_id)
}

async fn notifications(State(shared): SharedState) -> Response {
    show(&shared.lock().world.notifications(None))
}

async fn user_notifications(State(shared): SharedState, Path(id): Path<String>) -> Response {
    show(&shared.lock().world.notifications(Some(&id)))
}

async fn unread(State(shared): SharedState) -> Response {
    show(&shared.lock().world.take_unread(None))
}

async fn user_unread(State(shared): SharedState, Path(id): Path<String>) -> Response {
    show(&shared.lock().world.take_unread(Some(&id)))
}

async fn version() -> Response {
    show(&json!({ "version": "1.0", "deploymentDate": "2026-01-15T09:30:00Z" }))
}

/// A 200 of JSON.
fn show<T: Serialize>(value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => json_response(StatusCode::OK, body),
        Err(_) => {
            let why = "the answer can't be written as JSON";
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, why).into_response()
        }
    }
}

fn bad_body(bad: BadBody) -> Refusal {
    let BadBody { index, message } = bad;
    let body = match index {
        Some(index) => json!({ "error": message, "index": index }),
        None => json!({ "error": message }),
    };
    Refusal::with_body(StatusCode::BAD_REQUEST, "a bad body", body)
}

/// What isn't a UUID can't be known.
fn known_id(id: &str) -> Result<Id, Refusal> {
    id.parse().map_err(|_| unknown_id())
}

fn unknown_id() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "there is nothing of this id")
}

/// A query string.
#[derive(Clone, Copy, Debug)]
pub(super) struct Query<'a>(pub(super) Option<&'a str>);

impl<'a> Query<'a> {
    /// The first value of that name, decoded.
    pub(super) fn value(self, name: &str) -> Option<Cow<'a, str>> {
        let pairs = self.0?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let (_, value) = pairs.into_iter().find(|(key, _)| *key == name)?;
        Some(percent_decode_str(value).decode_utf8_lossy())
    }

    /// A whole number, or the default where it is absent.
    ///
    /// # Errors
    /// A 400 that names the parameter.
    pub(super) fn number<T: std::str::FromStr>(self, name: &str, default: T) -> Result<T, Refusal> {
        let Some(value) = self.value(name) else { return Ok(default) };
        value.parse().map_err(|_| {
            let error = format!("{name} is not a whole number from 0");
            let body = json!({ "error": error, "field": name });
            Refusal::with_body(StatusCode::BAD_REQUEST, "a bad query", body)
        })
    }
}
