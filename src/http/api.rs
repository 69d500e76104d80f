//! The application listener: GMFY's own paths.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures_util::FutureExt as _;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, Method, Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::sync::SemaphorePermit;

use super::body::Body;
use super::events::{self, BatchForm};
use super::http_metrics::{HttpMetrics, method_label};
use super::idempotency;
use super::in_force::{ApiSettings, InForce};
use super::listener::{self, Stop};
use super::passed::{self, Gmfy};
use super::prefer;
use super::problem::Problem;
use super::request_body;
use super::request_id::{self, RequestIds, X_REQUEST_ID};
use super::route::{Action, Matched, matched};
use super::socket::{BindError, Socket};
use crate::config::Api;
use crate::queue::Appender;
use crate::telemetry::Metrics;
use crate::telemetry::request::{Current, RequestId};
use crate::telemetry::traces::Span;

/// The longest path with its query, in bytes.
const MAX_TARGET: usize = 8 * 1024;

/// What the application listener works with.
#[derive(Debug)]
pub struct ApiState<A, G> {
    pub appender: A,
    pub gmfy: G,
    pub metrics: Arc<Metrics>,
}

/// A bound application listener.
#[derive(Debug)]
pub struct ApiListener {
    sockets: Vec<Socket>,
}

/// How many requests for events came, so that a stop can tell whether the application is quiet.
#[derive(Clone, Debug, Default)]
pub struct Activity(Arc<AtomicU64>);

impl Activity {
    /// Requests for events since the start.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn note(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl ApiListener {
    /// Binds `api.listen`, and `api.unix_socket` if it is set.
    ///
    /// # Errors
    /// When one can't be bound; names the setting.
    pub async fn bind(settings: &Api) -> Result<Self, BindError> {
        let mut sockets = vec![Socket::tcp("api.listen", settings.listen).await?];
        if let Some(path) = &settings.unix_socket {
            sockets.push(Socket::unix(path, settings.unix_socket_mode).await?);
        }
        Ok(Self { sockets })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.sockets.first().and_then(Socket::address)
    }

    /// Serves until told to stop.
    pub async fn serve<A: Appender, G: Gmfy>(
        self,
        settings: ApiSettings,
        state: ApiState<A, G>,
        activity: Activity,
        stop: Stop,
    ) {
        let limits = settings.limits();
        let service = Service {
            settings,
            metrics: HttpMetrics::new(Arc::clone(&state.metrics)),
            request_ids: RequestIds::default(),
            activity,
            state,
        };
        let service = Arc::new(service);
        // No router: it would box what it routes, a request's future and both its bodies.
        let handler = service_fn(move |request| {
            let service = Arc::clone(&service);
            async move { Ok::<_, Infallible>(handle(&service, request).await) }
        });
        listener::serve(self.sockets, handler, limits, stop).await;
    }
}

struct Service<A, G> {
    state: ApiState<A, G>,
    settings: ApiSettings,
    metrics: HttpMetrics,
    request_ids: RequestIds,
    activity: Activity,
}

/// Every request, with the id and the span that its log lines tell.
async fn handle<A: Appender, G: Gmfy>(
    service: &Service<A, G>,
    request: Request<Incoming>,
) -> Response<Body> {
    let began = Instant::now();
    let id = service.request_ids.of(request.headers());
    let mut span = service.state.metrics.traces.as_ref().map(|traces| {
        let route = matched(request.uri().path()).route.template();
        traces.request(method_label(request.method()), route, request.headers())
    });
    let current = Current::new(id.clone(), span.as_ref().map(Span::scope));
    let response = current.scope(respond(service, request, &id, began)).await;
    if let Some(span) = &mut span {
        span.answered(response.status().as_u16());
    }
    response
}

/// Paths are matched here, from their raw bytes, and not by the router, which would match them
/// decoded.
async fn respond<A: Appender, G: Gmfy>(
    service: &Service<A, G>,
    request: Request<Incoming>,
    id: &RequestId,
    began: Instant,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let http::request::Parts { method, uri, version, mut headers, .. } = head;
    let matched = matched(uri.path());
    let now = service.settings.now();
    let answer = match now.admit(&uri, version, &headers) {
        Ok(_place) => {
            let answer = service.answer(&now, matched, (&method, &uri), &mut headers, body);
            // Whatever a defect leaves behind is in this one request.
            let caught = AssertUnwindSafe(answer).catch_unwind().await;
            caught.unwrap_or_else(|_| Err(Problem::panicked()))
        }
        Err(problem) => Err(problem),
    };
    let mut response = answer.unwrap_or_else(|problem| {
        if matched.route.takes_events() && method == Method::POST {
            service.metrics.refused(&problem);
        }
        problem.into_response()
    });
    response.headers_mut().insert(X_REQUEST_ID, request_id::header(id));
    if method == Method::HEAD {
        let length = http_body::Body::size_hint(response.body()).exact();
        *response.body_mut() = Body::empty();
        if let Some(length) = length.filter(|length| *length > 0) {
            response.headers_mut().insert(CONTENT_LENGTH, length.into());
        }
    }
    tracing::debug!(
        http.method = %method,
        http.route = matched.route.template(),
        http.status = response.status().as_u16(),
        duration_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
        "answered"
    );
    service.metrics.answered(matched.route, &method, response.status(), began);
    response
}

impl InForce {
    /// What every request must keep; gives it its place.
    fn admit(
        &self,
        uri: &Uri,
        version: Version,
        headers: &HeaderMap,
    ) -> Result<SemaphorePermit<'_>, Problem> {
        self.hosts.check(uri, headers, version)?;
        self.authenticate(headers)?;
        if uri.path_and_query().is_some_and(|target| target.as_str().len() > MAX_TARGET) {
            return Err(Problem::uri_too_long(MAX_TARGET));
        }
        let busy = "As many requests are under way as api.max_requests allows.";
        self.places.try_acquire().map_err(|_| Problem::busy(busy))
    }

    fn authenticate(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let sent = headers.get("x-api-key").map_or(&[][..], |key| key.as_bytes());
        // All are compared, so that the time tells nothing about which one is near.
        let matches = self.keys.iter().filter(|key| key.matches(sent)).count();
        if matches > 0 { Ok(()) } else { Err(Problem::unauthorized()) }
    }
}

impl<A: Appender, G: Gmfy> Service<A, G> {
    async fn answer(
        &self,
        now: &InForce,
        matched: Matched<'_>,
        (method, uri): (&Method, &Uri),
        headers: &mut HeaderMap,
        body: Incoming,
    ) -> Result<Response<Body>, Problem> {
        match matched.action(method, uri.path())? {
            Action::PostEvent => {
                self.activity.note();
                require_json(headers)?;
                let body = request_body::read(body, headers, &now.body).await?;
                let (rules, appender) = (&now.rules, &self.state.appender);
                let route = matched.route.template();
                match idempotency::begin(appender, route, headers, &body.bytes)? {
                    idempotency::Request::Replay(answer) => Ok(events::replay(&answer)),
                    idempotency::Request::New(key) => {
                        let headers = std::mem::take(headers);
                        events::post_one(rules, appender, body.bytes, key, headers).await
                    }
                }
            }
            Action::PostBatch => {
                self.activity.note();
                let form = batch_form(headers)?;
                let lenient = prefer::is_lenient(headers);
                let body = request_body::read(body, headers, &now.body).await?;
                let (rules, appender) = (&now.rules, &self.state.appender);
                let route = matched.route.template();
                let key = match idempotency::begin(appender, route, headers, &body.bytes)? {
                    idempotency::Request::Replay(answer) => return Ok(events::replay(&answer)),
                    idempotency::Request::New(key) => key,
                };
                let taken =
                    events::post_batch(rules, appender, body.bytes, form, lenient, key).await?;
                self.metrics.refused_for("invalid", taken.left_out);
                Ok(taken.response)
            }
            Action::Read(call) => {
                // Boxed, as the rest that is large: it is moved with every request, of events too.
                let get = self.state.gmfy.get(&call, uri.query(), headers);
                Ok(passed::read(Box::pin(get).await?))
            }
            Action::Write(call) => {
                require_json(headers)?;
                let body = request_body::read(body, headers, &now.body).await?;
                let content_type = headers.get(CONTENT_TYPE).cloned();
                let post = self.state.gmfy.post(&call, content_type, body.bytes);
                Ok(passed::back(Box::pin(post).await?))
            }
        }
    }
}

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

/// Every POST says that it is JSON, so that no web page can send it without asking first.
fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    if media_type(headers).is_some_and(|media| media.eq_ignore_ascii_case(JSON)) {
        Ok(())
    } else {
        Err(Problem::media_type(JSON))
    }
}

fn batch_form(headers: &HeaderMap) -> Result<BatchForm, Problem> {
    match media_type(headers) {
        Some(media) if media.eq_ignore_ascii_case(JSON) => Ok(BatchForm::Array),
        Some(media) if media.eq_ignore_ascii_case(NDJSON) => Ok(BatchForm::Lines),
        _ => Err(Problem::media_type("application/json (an array) or application/x-ndjson")),
    }
}

/// The one Content-Type, without its parameters.
fn media_type(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let value = values.next()?.to_str().ok()?;
    let media = value.split(';').next().unwrap_or_default().trim();
    values.next().is_none().then_some(media)
}
