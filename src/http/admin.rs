//! The admin listener: what operators, their tools and their page ask of a running sidecar.
//!
//! Whoever comes here may lose events by a click, so a request has to pass, in this order: a Host
//! that is allowed (`host`), the token where one is set, on every path (`access`), a path and
//! method that exist (`route`), and, where it changes something, the guards against web pages
//! (`access`): a JSON body, and no foreign origin. A token replaces none of these, since browsers
//! send Basic credentials again by themselves.
//!
//! What is asked for is done by the [`Operations`] of the composition root.

mod access;
mod letters;
mod operations;
mod page;
mod query;
mod route;
mod standing;
mod status;
mod status_stream;
mod stream;

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use futures_util::FutureExt as _;
use http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use hyper_util::service::TowerToHyperService;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::body::Body;
use super::host::AllowedHosts;
use super::listener::{self, Limits, Stop};
use super::problem::Problem;
use super::request_body::{self, BodyLimits};
use super::socket::{BindError, Socket};
use crate::config::{Admin, Settings};
use crate::queue::Sequence;

pub use letters::{
    DeadLetterDocument, DeadLettersDocument, DiscardedDocument, RequeuedDocument, RequeuedLetter,
};
pub use operations::Operations;
use query::Query;
use route::{Action, LettersAction};
pub use standing::{EventStanding, EventState};
pub use status::{
    CacheStatus, DamageStatus, EventCounts, LaneStatus, NatsStatus, QueueStatus, Ready,
    SpillStatus, Status, UpstreamStatus,
};
use status_stream::Places;
pub use stream::{EventNotice, FollowRequest, LostNotices};

/// The paths, in words.
#[cfg(test)]
pub(super) use route::PATHS;

/// Whether this listener has a method at a path.
pub(super) fn takes(method: &Method, path: &str) -> bool {
    route::action(method, path).is_ok()
}

const CONNECTIONS: usize = 64;
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Bodies hold a few options.
const MAX_BODY: usize = 64 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer may take to read an answer, or a stream's next part.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a flush waits when it isn't told, and at most.
const FLUSH_WAIT: Duration = Duration::from_secs(5);
const LONGEST_FLUSH_WAIT: Duration = Duration::from_secs(300);

/// A bound admin listener.
#[derive(Debug)]
pub struct AdminListener {
    socket: Socket,
}

impl AdminListener {
    /// Binds `admin.listen`.
    ///
    /// # Errors
    /// When it can't be bound.
    pub async fn bind(settings: &Admin) -> Result<Self, BindError> {
        Ok(Self { socket: Socket::tcp("admin.listen", settings.listen).await? })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.socket.address()
    }

    /// Serves until told to stop; then flushes and streams that wait end at once. Allowed hosts
    /// are those of the application listener; an address that this listener has is allowed too.
    /// Each request goes by the settings of its moment.
    pub async fn serve<O: Operations>(
        self,
        settings: watch::Receiver<Arc<Settings>>,
        operations: O,
        stop: Stop,
    ) {
        let service = Service {
            settings,
            operations,
            body: BodyLimits::new(MAX_BODY, BODY_TIMEOUT, CONNECTIONS * MAX_BODY),
            readers: Places::new(),
            stopping: stop.drain.clone(),
        };
        let router = Router::new().fallback(handle::<O>).with_state(Arc::new(service));
        let limits = Limits {
            connections: CONNECTIONS,
            head_timeout: HEAD_TIMEOUT,
            write_timeout: WRITE_TIMEOUT,
        };
        let (_unchanging, limits) = watch::channel(limits);
        listener::serve(vec![self.socket], TowerToHyperService::new(router), limits, stop).await;
    }
}

struct Service<O> {
    settings: watch::Receiver<Arc<Settings>>,
    operations: O,
    body: BodyLimits,
    /// Of the stream of statuses.
    readers: Places,
    stopping: CancellationToken,
}

async fn handle<O: Operations>(
    State(service): State<Arc<Service<O>>>,
    request: Request,
) -> Response<axum::body::Body> {
    let (head, body) = request.into_parts();
    let answer = AssertUnwindSafe(service.answer(&head, body)).catch_unwind().await;
    let answer = answer.unwrap_or_else(|_| Err(Problem::panicked()));
    let mut response = answer.unwrap_or_else(Problem::into_response);
    let headers = response.headers_mut();
    for (name, value) in EVERY_ANSWER {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if head.method == Method::HEAD {
        let length = http_body::Body::size_hint(response.body()).exact();
        *response.body_mut() = Body::empty();
        if let Some(length) = length.filter(|length| *length > 0) {
            response.headers_mut().insert(CONTENT_LENGTH, length.into());
        }
    }
    response.map(axum::body::Body::new)
}

/// What is said with every answer: it is for this listener's own page alone.
const EVERY_ANSWER: [(HeaderName, &str); 4] = [
    (CACHE_CONTROL, "no-store"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// What `resume` may be told.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ResumeOptions {
    /// Makes dead letters of the events that GMFY refuses with the status that stopped delivery.
    dead_letter_rejected: bool,
}

/// The other calls take no options.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct NoOptions {}

impl<O: Operations> Service<O> {
    async fn answer(
        self: &Arc<Self>,
        head: &http::request::Parts,
        body: axum::body::Body,
    ) -> Result<Response<Body>, Problem> {
        let settings = Arc::clone(&self.settings.borrow());
        AllowedHosts::new(&settings.api.allowed_hosts)
            .and_addresses_of(settings.admin.listen.ip())
            .check(&head.uri, &head.headers, head.version)?;
        if let Some(token) = &settings.admin.token
            && let Err(refused) = access::require_token(token, &head.headers)
        {
            return Ok(page::refusal(head, refused));
        }
        let action = route::action(&head.method, head.uri.path())?;
        if head.method != Method::GET && head.method != Method::HEAD {
            access::require_own_page(&head.method, &head.headers, &head.uri)?;
        }
        let mut query = Query::parse(head.uri.query());
        match action {
            Action::Page => Ok(page::page()),
            Action::OpenApi => {
                query.end()?;
                Ok(json_text(super::openapi::openapi_json().into_bytes()))
            }
            Action::Status => {
                query.end()?;
                Ok(json(StatusCode::OK, &self.operations.status()))
            }
            Action::WatchStatus => {
                query.end()?;
                let place = self.readers.take().map_err(|_| Problem::too_many_readers())?;
                let service = Arc::clone(self);
                let status = move || service.operations.status();
                Ok(status_stream::answer(place, status, self.stopping.clone()))
            }
            Action::LogLevel => {
                query.end()?;
                Ok(json(StatusCode::OK, &LogLevel { level: self.operations.log_level() }))
            }
            Action::SetLogLevel => {
                query.end()?;
                let asked: LogLevel = self.options(body, &head.headers).await?;
                let level = asked.level.as_deref().unwrap_or_default();
                self.operations.set_log_level(level).map_err(Problem::bad_options)?;
                Ok(json(StatusCode::OK, &LogLevel { level: self.operations.log_level() }))
            }
            Action::Flush => {
                let wait = query.duration("wait", LONGEST_FLUSH_WAIT)?.unwrap_or(FLUSH_WAIT);
                query.end()?;
                let NoOptions {} = self.options(body, &head.headers).await?;
                let remaining = self.flush(wait).await;
                let status = if remaining == 0 { StatusCode::OK } else { StatusCode::ACCEPTED };
                Ok(json(status, &Remaining { remaining }))
            }
            Action::Pause => {
                query.end()?;
                let NoOptions {} = self.options(body, &head.headers).await?;
                self.operations.pause().await?;
                Ok(json(StatusCode::OK, &self.operations.status().upstream))
            }
            Action::Resume => {
                query.end()?;
                let options: ResumeOptions = self.options(body, &head.headers).await?;
                self.operations.resume(options.dead_letter_rejected).await?;
                Ok(json(StatusCode::OK, &self.operations.status().upstream))
            }
            Action::DeadLetters => {
                let after = query.number("after", 0, u64::MAX)?.map(Sequence::new);
                let limit = query.number("limit", 1, letters::LONGEST_PAGE)?;
                query.end()?;
                let limit = limit.and_then(|limit| usize::try_from(limit).ok());
                let limit = limit.unwrap_or(letters::PAGE);
                let page = self.operations.dead_letters(after, limit).await?;
                Ok(json(StatusCode::OK, &DeadLettersDocument::from(&page)))
            }
            Action::Letters(action) => {
                query.end()?;
                if head.method == Method::POST {
                    let NoOptions {} = self.options(body, &head.headers).await?;
                }
                self.answer_letters(action).await
            }
            Action::Event(sequence) => {
                query.end()?;
                Ok(json(StatusCode::OK, &self.operations.event(sequence).await?))
            }
            Action::Follow => {
                let request = FollowRequest::from_query(&mut query)?;
                query.end()?;
                let follower = self.operations.follow(request)?;
                Ok(stream::answer(follower, self.stopping.clone()))
            }
        }
    }

    async fn answer_letters(&self, action: LettersAction) -> Result<Response<Body>, Problem> {
        let missing = Problem::no_dead_letter;
        match action {
            LettersAction::Show(sequence) => {
                let letter = self.operations.dead_letter(sequence).await?;
                let letter = letter.ok_or_else(|| missing(sequence))?;
                Ok(json(StatusCode::OK, &DeadLetterDocument::from(&letter)))
            }
            LettersAction::Requeue(sequence) => {
                let requeued = self.operations.requeue(sequence).await?;
                Ok(letters::requeued(vec![requeued.ok_or_else(|| missing(sequence))?]))
            }
            LettersAction::RequeueAll => {
                let mut requeued = Vec::new();
                match self.operations.requeue_all(&mut requeued).await {
                    Ok(()) => Ok(letters::requeued(requeued)),
                    Err(error) => Err(Problem::from(error).after_requeueing(requeued.len())),
                }
            }
            LettersAction::Discard(sequence) => {
                if !self.operations.discard(sequence).await? {
                    return Err(missing(sequence));
                }
                Ok(json(StatusCode::OK, &DiscardedDocument { discarded: 1 }))
            }
            LettersAction::DiscardAll => {
                let discarded = self.operations.discard_all().await?;
                Ok(json(StatusCode::OK, &DiscardedDocument { discarded }))
            }
        }
    }

    /// A body's options: a JSON object with no other fields than these, or nothing.
    async fn options<T: Default + DeserializeOwned>(
        &self,
        body: axum::body::Body,
        headers: &HeaderMap,
    ) -> Result<T, Problem> {
        let body = request_body::read(body, headers, &self.body).await?;
        if body.bytes.trim_ascii().is_empty() {
            return Ok(T::default());
        }
        let value = serde_json::from_slice(&body.bytes);
        let value = value.map_err(|why| Problem::options_not_json(&why))?;
        // As a value first: a struct would be read from an array too.
        let serde_json::Value::Object(_) = value else {
            return Err(Problem::bad_options("expected a JSON object, or no body".to_owned()));
        };
        serde_json::from_value(value).map_err(|why| Problem::bad_options(why.to_string()))
    }

    /// Flushes, at the longest until the listener is to stop.
    async fn flush(&self, wait: Duration) -> u64 {
        tokio::select! {
            remaining = self.operations.flush(wait) => remaining,
            () = self.stopping.cancelled() => self.operations.status().queue.events,
        }
    }
}

/// `log.level`, asked for and told.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct LogLevel {
    level: Option<String>,
}

#[derive(Serialize)]
struct Remaining {
    remaining: u64,
}

/// 200 with this JSON.
fn json_text(text: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer in JSON.
fn json(status: StatusCode, document: &impl Serialize) -> Response<Body> {
    let Ok(mut text) = serde_json::to_vec(document) else {
        // Fails only on maps with keys that aren't text, of which no document has any.
        return Problem::panicked().into_response();
    };
    text.push(b'\n');
    let mut response = json_text(text);
    *response.status_mut() = status;
    response
}
