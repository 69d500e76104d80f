//! Where every request to the API passes: it is read whole, noted, and meets its fault.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::core::{Exchange, Fate, Shared, Verdict};
use super::faults::Scripted;
use super::journal::Outcome;

/// The largest body that is read, in bytes.
const BODY_MAX: usize = 64 << 20;

/// The connection that a request came by, among the request's extensions.
#[derive(Clone, Debug, Default)]
pub(super) struct Connection {
    cut: CancellationToken,
    control: Arc<AtomicBool>,
}

impl Connection {
    /// Resolves when the connection is to be closed at once.
    pub(super) async fn cut_short(&self) {
        self.cut.cancelled().await;
    }

    /// Closes the connection; whatever runs on it is dropped, the caller too.
    async fn cut<T>(&self) -> T {
        self.cut.cancel();
        std::future::pending().await
    }

    /// It serves the control routes, so that an outage doesn't close it.
    pub(super) fn mark_control(&self) {
        self.control.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_control(&self) -> bool {
        self.control.load(Ordering::Relaxed)
    }
}

/// A request's body and order, among its extensions for the handlers.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) body: Bytes,
    pub(super) order: u64,
}

/// An answer without effect.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<HeaderValue>,
    /// JSON.
    pub(super) body: String,
    pub(super) why: &'static str,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, why: &'static str) -> Self {
        Self::with_body(status, why, json!({ "error": why }))
    }

    #[allow(clippy::needless_pass_by_value, reason = "json! makes a value for this alone")]
    pub(super) fn with_body(
        status: StatusCode,
        why: &'static str,
        body: serde_json::Value,
    ) -> Self {
        Self { status, retry_after: None, body: body.to_string(), why }
    }

    pub(super) fn scripted(answer: Scripted) -> Self {
        let mut refusal = Self::new(answer.status, "a scripted answer");
        refusal.retry_after = answer.retry_after;
        refusal.body = answer.body.unwrap_or(refusal.body);
        refusal
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        info!(target: "gmfy_simulator", status = self.status.as_u16(), "refused: {}", self.why);
        let mut response = json_response(self.status, self.body);
        if let Some(value) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, value);
        }
        response
    }
}

/// An answer of JSON text; without a body where the status allows none.
pub(super) fn json_response(status: StatusCode, body: impl Into<Body>) -> Response {
    if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return status.into_response();
    }
    let json = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, json)], body.into()).into_response()
}

/// The middleware around the API's routes.
pub(super) async fn gate(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let connection = request.extensions().get::<Connection>().cloned().unwrap_or_default();
    let outage = shared.outage();
    let answer = tokio::select! {
        biased;
        () = outage.cancelled() => None,
        answer = Box::pin(pass(&shared, request, next)) => answer,
    };
    match answer {
        Some(response) => response,
        None => connection.cut().await,
    }
}

/// The answer, or none when the connection is to be cut.
async fn pass(shared: &Arc<Shared>, request: Request, next: Next) -> Option<Response> {
    let (mut parts, body) = request.into_parts();
    let body = match Limited::new(body, BODY_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            let refusal = Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large");
            return Some(refusal.into_response());
        }
        Err(_) => {
            let refusal = Refusal::new(StatusCode::BAD_REQUEST, "the body did not come whole");
            return Some(refusal.into_response());
        }
    };
    let path = parts.uri.path();
    let target = parts.uri.path_and_query().map_or(path, |target| target.as_str());
    let order = shared.lock().journal.began(&parts.method, target, &parts.headers, &body);
    let route = parts.extensions.get::<MatchedPath>().map_or("(unknown)", MatchedPath::as_str);
    let route = format!("{} {route}", known_method(&parts.method));
    let mut exchange = Exchange::new(Arc::clone(shared), order, route);

    let Verdict { latency, stalls, fate } = shared.judge(&parts.method, path, &parts.headers);
    if stalls {
        info!(target: "gmfy_simulator", "stalled: no answer to this request");
        return std::future::pending().await;
    }
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    parts.extensions.insert(Received { body, order: exchange.order() });
    let handle = next.run(Request::from_parts(parts, Body::empty()));
    let response = match fate {
        Fate::Handle => Some(handle.await),
        Fate::Refuse(refusal) => Some(refusal.into_response()),
        Fate::HandleThenAnswer(scripted) => Some(overridden(handle.await, scripted)),
        Fate::Cut => None,
        Fate::HandleThenCut => {
            handle.await;
            None
        }
    };
    match &response {
        Some(response) => exchange.end(Outcome::Answered(response.status())),
        None => {
            info!(target: "gmfy_simulator", "cut the connection instead of an answer");
            exchange.end(Outcome::Unanswered);
        }
    }
    response
}

/// The scripted answer; a scripted success changes the status of a success only.
fn overridden(handled: Response, scripted: Scripted) -> Response {
    if !scripted.status.is_success() {
        return Refusal::scripted(scripted).into_response();
    }
    if !handled.status().is_success() {
        return handled;
    }
    let mut response = match scripted.body {
        Some(body) => json_response(scripted.status, body),
        None => handled,
    };
    *response.status_mut() = scripted.status;
    if let Some(value) = scripted.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    response
}

/// Methods as callers spell them could be anything: a bounded set for the counts.
fn known_method(method: &axum::http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "(other)",
    }
}
