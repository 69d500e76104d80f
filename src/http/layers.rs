//! What happens to every request of the application listener, in this order:
//!
//! 1. a request id, the caller's or a new one, which the answer carries too
//! 2. a span, at debug level: at info nothing is logged for a request
//! 3. a panic is caught, and is a 500
//! 4. counting, by route, method and status
//! 5. the host, then the key
//! 6. path and method
//! 7. the handler, which reads the body within its limits
//!
//! They are calls, not `tower` layers: an event's way allocates no future for them.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use futures_util::FutureExt as _;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use tracing::Instrument as _;

use super::api::Api;
use super::body::Body;
use super::passed::Gmfy;
use super::problem::Problem;
use super::request_id::X_REQUEST_ID;
use super::route;
use crate::config::Secret;
use crate::queue::Appender;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Answers a request.
pub(super) async fn answer<A: Appender, G: Gmfy>(
    api: &Api<A, G>,
    request: Request<Incoming>,
) -> Response<Body> {
    let began = Instant::now();
    let id = api.ids.of(request.headers());
    let route = route::matched(request.uri().path()).route;
    let method = request.method().clone();
    let version = request.version();
    let span = tracing::debug_span!(
        "request",
        id = id.to_str().unwrap_or_default(),
        method = %method,
        path = request.uri().path(),
    );
    let answered = AssertUnwindSafe(checked(api, request)).catch_unwind();
    let answered = async {
        let answered = answered.await;
        if answered.is_err() {
            tracing::error!(route = route.template(), "a request's handler panicked");
        }
        let answered = answered.unwrap_or_else(|_| Err(Problem::panicked()));
        if let Err(problem) = &answered {
            tracing::debug!(?problem, "refused");
        }
        answered
    };
    let mut response = match answered.instrument(span).await {
        Ok(response) => response,
        Err(problem) => {
            if route.takes_events() {
                api.metrics.refused(&problem);
            }
            problem.into_response()
        }
    };
    response.headers_mut().insert(X_REQUEST_ID, id);
    if version >= Version::HTTP_2 {
        response.headers_mut().remove(CONNECTION);
    }
    if method == Method::HEAD {
        response = without_body(response);
    }
    api.metrics.answered(route, &method, response.status(), began);
    response
}

async fn checked<A: Appender, G: Gmfy>(
    api: &Api<A, G>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    api.hosts.check(request.uri(), request.headers(), request.version())?;
    check_key(&api.keys, request.headers())?;
    let path = request.uri().path();
    let action = route::matched(path).action(request.method(), path)?;
    api.act(action, request).await
}

/// Unless keys are set any `x-api-key` is let through: GMFY's own client sends one.
fn check_key(keys: &[Secret], headers: &HeaderMap) -> Result<(), Problem> {
    if keys.is_empty() {
        return Ok(());
    }
    let mut sent = headers.get_all(X_API_KEY).iter();
    let (Some(sent), None) = (sent.next(), sent.next()) else {
        return Err(Problem::unauthorized());
    };
    // Every key is compared, so that the time doesn't tell which one matched.
    let matched = keys.iter().fold(false, |matched, key| matched | key.matches(sent.as_bytes()));
    if matched { Ok(()) } else { Err(Problem::unauthorized()) }
}

/// The answer to HEAD: the same head, its length kept where it is known.
pub(super) fn without_body(response: Response<Body>) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact() {
        head.headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    Response::from_parts(head, Body::empty())
}

