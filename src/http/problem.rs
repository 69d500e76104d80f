//! Problem documents (RFC 9457): the one place that says what an error looks like to a caller.

use std::borrow::Cow;
use std::time::Duration;

use http::header::{
    ACCEPT_ENCODING, ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use super::body::Body;
use crate::event::{BodyError, EventError};
use crate::queue::{AppendError, RequeueError, Sequence, StoreError};
use crate::telemetry::stream::TooManyFollowers;
use crate::upstream::{IdError, SendError};

/// How many errors of events an answer lists; beyond, it says how many more there are.
pub(super) const LISTED_ERRORS: usize = 1000;

/// A kind of problem. Its name is part of the interface and never changes.
#[derive(Debug, PartialEq, Eq)]
struct Kind {
    name: &'static str,
    status: StatusCode,
    title: &'static str,
    /// The value of the metrics' label `reason` where events are refused for it.
    reason: &'static str,
}

macro_rules! kinds {
    ($($kind:ident = $name:literal, $status:ident, $reason:literal, $title:literal;)*) => {
        $(const $kind: Kind = Kind {
            name: $name, status: StatusCode::$status, title: $title, reason: $reason,
        };)*
        const KINDS: &[Kind] = &[$($kind),*];
    };
}

kinds! {
    NOT_JSON = "not-json", BAD_REQUEST, "not_json", "The body is not JSON";
    BAD_ENCODING = "bad-encoding", BAD_REQUEST, "invalid", "The body can't be decompressed";
    BROKEN_BODY = "broken-body", BAD_REQUEST, "invalid", "The body did not arrive whole";
    BAD_ID = "bad-id", BAD_REQUEST, "invalid", "The path holds an id that can't be one";
    BAD_HOST = "bad-host", BAD_REQUEST, "host", "The request needs exactly one valid Host";
    BAD_KEY = "bad-idempotency-key", BAD_REQUEST, "invalid", "The Idempotency-Key can't be one";
    KEY_UNDERWAY = "idempotency-key-underway", CONFLICT, "underway",
        "A request with this Idempotency-Key is under way";
    KEY_REUSED = "idempotency-key-reused", UNPROCESSABLE_ENTITY, "key_reused",
        "The Idempotency-Key came before with another body";
    UNAUTHORIZED = "unauthorized", UNAUTHORIZED, "unauthorized", "An API key is needed";
    TOKEN_NEEDED = "token-needed", UNAUTHORIZED, "unauthorized", "The admin token is needed";
    FOREIGN_SITE = "foreign-site", FORBIDDEN, "invalid", "The request comes from another site";
    BAD_QUERY = "bad-query", BAD_REQUEST, "invalid", "The query is not taken";
    BAD_OPTIONS = "bad-options", UNPROCESSABLE_ENTITY, "invalid", "The body's options are not taken";
    NO_DEAD_LETTER = "no-dead-letter", NOT_FOUND, "invalid", "There is no such dead letter";
    TOO_MANY_READERS = "too-many-readers", SERVICE_UNAVAILABLE, "busy",
        "Too many read this stream";
    NOT_FOUND = "not-found", NOT_FOUND, "invalid", "There is nothing at this path";
    METHOD_NOT_ALLOWED = "method-not-allowed", METHOD_NOT_ALLOWED, "invalid",
        "The path does not take this method";
    BODY_TIMEOUT = "body-timeout", REQUEST_TIMEOUT, "timeout", "The body did not arrive in time";
    URI_TOO_LONG = "uri-too-long", URI_TOO_LONG, "invalid", "The target is too long";
    TOO_LARGE = "too-large", PAYLOAD_TOO_LARGE, "too_large", "The request is too large";
    MEDIA_TYPE = "media-type", UNSUPPORTED_MEDIA_TYPE, "media_type",
        "The Content-Type is not taken here";
    CONTENT_ENCODING = "content-encoding", UNSUPPORTED_MEDIA_TYPE, "media_type",
        "The Content-Encoding is not taken here";
    MISDIRECTED = "misdirected", MISDIRECTED_REQUEST, "host", "The Host is not allowed";
    INVALID = "invalid", UNPROCESSABLE_ENTITY, "invalid", "Events are invalid";
    QUEUE_FULL = "queue-full", SERVICE_UNAVAILABLE, "queue_full", "The queue is full";
    DISK_FULL = "disk-full", SERVICE_UNAVAILABLE, "disk_full", "The disk is full";
    BUSY = "busy", SERVICE_UNAVAILABLE, "busy", "Too many requests wait";
    STORE_FAILED = "store-failed", SERVICE_UNAVAILABLE, "store_failed", "The disk failed";
    QUEUE_UNREACHABLE = "queue-unreachable", SERVICE_UNAVAILABLE, "store_failed",
        "The queue can't be reached";
    STOPPING = "stopping", SERVICE_UNAVAILABLE, "stopping", "The sidecar is stopping";
    OUTCOME_UNKNOWN = "outcome-unknown", INTERNAL_SERVER_ERROR, "outcome_unknown",
        "It can't be known whether the events were stored";
    INTERNAL = "internal", INTERNAL_SERVER_ERROR, "invalid", "The sidecar failed";
    UNREACHABLE = "upstream-unreachable", BAD_GATEWAY, "invalid", "GMFY can't be reached";
    UPSTREAM_BROKE = "upstream-broken", BAD_GATEWAY, "invalid", "GMFY broke off its answer";
    UPSTREAM_TIMEOUT = "upstream-timeout", GATEWAY_TIMEOUT, "invalid", "GMFY did not answer";
}

/// The media type of problem documents.
pub(super) const PROBLEM: &str = "application/problem+json";

/// A kind of problem, for the description of the listeners.
#[derive(Clone, Copy, Debug)]
pub(super) struct Described {
    pub(super) name: &'static str,
    pub(super) status: u16,
    pub(super) title: &'static str,
}

impl Described {
    /// A document of this kind.
    pub(super) fn example(&self) -> serde_json::Value {
        serde_json::json!({
            "type": format!("urn:gmfy-sidecar:problem:{}", self.name),
            "title": self.title,
            "status": self.status,
            "detail": "What happened to this request, and what to do.",
        })
    }
}

/// Every kind of problem.
pub(super) fn described() -> impl Iterator<Item = Described> {
    KINDS.iter().map(|kind| Described {
        name: kind.name,
        status: kind.status.as_u16(),
        title: kind.title,
    })
}

/// Why a request is refused, as its caller is told.
#[derive(Debug)]
pub struct Problem {
    kind: &'static Kind,
    detail: Cow<'static, str>,
    errors: Vec<EventError>,
    /// How many events are refused with it.
    events: u64,
    retry_after: Option<Duration>,
    allow: Option<&'static str>,
}

impl Problem {
    fn new(kind: &'static Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        let detail = detail.into();
        Self { kind, detail, errors: Vec::new(), events: 1, retry_after: None, allow: None }
    }

    const fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(Duration::from_secs(seconds));
        self
    }

    /// The same problem, of a request that held this many events.
    pub(super) const fn with_events(mut self, events: u64) -> Self {
        self.events = events;
        self
    }

    #[cfg(test)]
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// How many events are refused, and the metrics' label `reason` for it.
    pub(super) const fn refused(&self) -> (&'static str, u64) {
        (self.kind.reason, self.events)
    }

    /// No such path; `nearest` is the path that was perhaps meant.
    pub(super) fn not_found(nearest: Option<&str>) -> Self {
        Self::new(
            &NOT_FOUND,
            nearest.map_or(Cow::Borrowed("The paths are those of GMFY's API."), |nearest| {
                format!("Did you mean {nearest}?").into()
            }),
        )
    }

    /// On a listener that has only these paths.
    pub(super) fn not_among(paths: &'static str) -> Self {
        Self::new(&NOT_FOUND, paths)
    }

    pub(super) fn method_not_allowed(allow: &'static str) -> Self {
        let detail = format!("This path takes {allow}.");
        Self { allow: Some(allow), ..Self::new(&METHOD_NOT_ALLOWED, detail) }
    }

    /// A `Content-Type` that is missing, or isn't one of `expected`.
    pub(super) fn media_type(expected: &'static str) -> Self {
        Self::new(&MEDIA_TYPE, format!("Send Content-Type: {expected}."))
    }

    pub(super) fn content_encoding() -> Self {
        Self::new(&CONTENT_ENCODING, "Send the body plain, or with gzip or zstd alone.")
    }

    /// A body that can't be decompressed, and why.
    pub(super) fn bad_encoding(why: &std::io::Error) -> Self {
        Self::new(&BAD_ENCODING, format!("It does not match its Content-Encoding: {why}."))
    }

    pub(super) fn broken_body() -> Self {
        Self::new(&BROKEN_BODY, "The connection or its framing broke before the body's end.")
    }

    pub(super) fn body_timeout(waited: Duration) -> Self {
        let detail = format!("Nothing, or too little, came for {} s.", waited.as_secs());
        Self::new(&BODY_TIMEOUT, detail)
    }

    pub(super) fn body_too_large(limit: usize) -> Self {
        let detail = format!("A body may have {limit} bytes once decompressed (api.max_body).");
        Self::new(&TOO_LARGE, detail)
    }

    /// Too much is under way; says of what.
    pub(super) fn busy(why: &'static str) -> Self {
        Self::new(&BUSY, why).retry_after(1)
    }

    pub(super) fn uri_too_long(limit: usize) -> Self {
        Self::new(&URI_TOO_LONG, format!("A path and its query may have {limit} bytes."))
    }

    pub(super) fn bad_host(why: &'static str) -> Self {
        Self::new(&BAD_HOST, why)
    }

    pub(super) fn misdirected() -> Self {
        Self::new(&MISDIRECTED, "Call the sidecar by a name that api.allowed_hosts lists.")
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(&UNAUTHORIZED, "Send one of api.keys as x-api-key.")
    }

    /// On a listener that asks for `admin.token`.
    pub(super) fn no_token() -> Self {
        let how =
            "Send admin.token as Authorization: Bearer TOKEN, or as the password of HTTP Basic.";
        Self::new(&TOKEN_NEEDED, how)
    }

    /// A call that changes something, with a header that only a foreign web page's has so.
    pub(super) fn foreign_site(header: &'static str) -> Self {
        let detail = format!("Its {header} header names another site than this listener's own.");
        Self::new(&FOREIGN_SITE, detail)
    }

    pub(super) fn too_many_readers() -> Self {
        Self::new(&TOO_MANY_READERS, "Close another one, or try again.").retry_after(5)
    }

    pub(super) fn no_dead_letter(sequence: Sequence) -> Self {
        let detail = format!(
            "Dead letter {sequence} was requeued or discarded, or never was. GET \
             /api/events/{sequence} tells where the event stands."
        );
        Self::new(&NO_DEAD_LETTER, detail)
    }

    /// The same, when some dead letters were requeued before it.
    pub(super) fn after_requeueing(mut self, count: usize) -> Self {
        if count > 0 {
            let detail = &self.detail;
            self.detail =
                format!("{count} dead letters are in the queue again; then: {detail}").into();
        }
        self
    }

    pub(super) fn bad_query(detail: String) -> Self {
        Self::new(&BAD_QUERY, detail)
    }

    /// A body that is JSON, but not the options that the path takes.
    pub(super) fn bad_options(why: String) -> Self {
        Self::new(&BAD_OPTIONS, why)
    }

    pub(super) fn options_not_json(why: &serde_json::Error) -> Self {
        Self::new(&NOT_JSON, why.to_string())
    }

    pub(super) fn bad_idempotency_key() -> Self {
        Self::new(&BAD_KEY, "Send one Idempotency-Key of 1 to 255 bytes.")
    }

    pub(super) fn key_underway() -> Self {
        let detail = "Its answer is not known yet: send it again, unchanged, a little later.";
        Self::new(&KEY_UNDERWAY, detail).retry_after(1)
    }

    pub(super) fn key_reused() -> Self {
        let detail = "Nothing was taken. Send a new key with each new body, and the same key only \
                      with the same bytes.";
        Self::new(&KEY_REUSED, detail)
    }

    pub(super) fn panicked() -> Self {
        Self::new(&INTERNAL, "This is a defect of the sidecar; its log says more.")
    }

    /// Elements of a batch, or a single event, that are wrong.
    pub(super) fn invalid(errors: Vec<EventError>) -> Self {
        let detail = match errors.len() {
            1 => "1 thing is wrong; nothing was taken.".into(),
            count => format!("{count} things are wrong; nothing was taken."),
        };
        Self { errors, ..Self::new(&INVALID, detail) }
    }

    /// The answer that says so.
    pub(super) fn into_response(self) -> Response<Body> {
        let (errors, errors_omitted) = listed(&self.errors);
        let document = Document {
            kind: format_args!("urn:gmfy-sidecar:problem:{}", self.kind.name),
            title: self.kind.title,
            status: self.kind.status.as_u16(),
            detail: &self.detail,
            errors,
            errors_omitted,
        };
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.kind.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
        if let Some(after) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs()));
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if *self.kind == TOKEN_NEEDED {
            // Browsers ask for Basic's password, which lets them open the page.
            let challenge = r#"Basic realm="gmfy-sidecar", charset="UTF-8""#;
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if *self.kind == CONTENT_ENCODING {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, zstd"));
        }
        // The rest of such a body is not worth reading. (HTTP/2 drops this header.)
        if matches!(self.kind.status, StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::NotJson(why) => Self::new(&NOT_JSON, why),
            BodyError::Invalid(errors) => Self::invalid(errors),
            BodyError::EventTooLarge(bytes) => {
                let detail =
                    format!("The event has {bytes} bytes, more than api.max_event allows.");
                Self::new(&TOO_LARGE, detail)
            }
            BodyError::TooManyEvents => Self::new(
                &TOO_LARGE,
                "There are more events than api.max_batch_events allows: send several batches.",
            ),
        }
    }
}

impl From<AppendError> for Problem {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::QueueFull => Self::new(
                &QUEUE_FULL,
                "The events that wait for GMFY fill queue.max_bytes. Nothing was stored.",
            )
            .retry_after(5),
            AppendError::DiskFull => {
                Self::new(&DISK_FULL, "The disk has no room for events. Nothing was stored.")
                    .retry_after(5)
            }
            AppendError::Busy => {
                Self::new(&BUSY, "Too many requests wait to be written. Nothing was stored.")
                    .retry_after(1)
            }
            // The cause names paths of the machine: it belongs in the log.
            AppendError::Failed(_) => {
                Self::new(&STORE_FAILED, "The disk failed. Nothing was stored.").retry_after(5)
            }
            AppendError::Unreachable => Self::new(
                &QUEUE_UNREACHABLE,
                "The servers that keep the queue can't be reached. Nothing was stored.",
            )
            .retry_after(5),
            AppendError::OutcomeUnknown => Self::new(
                &OUTCOME_UNKNOWN,
                "Send the request again with the same Idempotency-Key, so that events that were \
                 stored are not taken twice.",
            ),
            AppendError::Closed => {
                Self::new(&STOPPING, "It takes no more events. Nothing was stored.").retry_after(5)
            }
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            // The cause names paths of the machine: it belongs in the log.
            StoreError::Io(why) => {
                tracing::error!(error = why, "what an operator asked for could not be stored");
                Self::new(&STORE_FAILED, "The disk failed: what was asked for is not stored.")
                    .retry_after(5)
            }
            StoreError::DeadLettersFull => {
                Self::new(&STORE_FAILED, "The dead letters fill dead_letters.max_bytes.")
                    .retry_after(5)
            }
            // Only lanes are told so.
            StoreError::LaneLost => {
                Self::new(&STORE_FAILED, "Another replica took over. Nothing was stored.")
                    .retry_after(1)
            }
            StoreError::Closed => {
                Self::new(&STOPPING, "It does nothing new any more.").retry_after(5)
            }
        }
    }
}

impl From<RequeueError> for Problem {
    fn from(error: RequeueError) -> Self {
        match error {
            RequeueError::Store(error) => error.into(),
            RequeueError::Append(error) => error.into(),
        }
    }
}

impl From<TooManyFollowers> for Problem {
    fn from(_: TooManyFollowers) -> Self {
        Self::too_many_readers()
    }
}

impl From<SendError> for Problem {
    fn from(error: SendError) -> Self {
        // The causes name the upstream's address: they belong in the log.
        match error {
            SendError::Connect(_) => {
                Self::new(&UNREACHABLE, "No connection could be made. Nothing was sent.")
            }
            SendError::Tls(_) => {
                Self::new(&UNREACHABLE, "The TLS handshake failed. Nothing was sent.")
            }
            SendError::Timeout => {
                Self::new(&UPSTREAM_TIMEOUT, "GMFY may have acted on the request.")
            }
            SendError::Broken(_) => {
                Self::new(&UPSTREAM_BROKE, "GMFY may have acted on the request.")
            }
            SendError::Down { retry_in } => {
                let detail = "GMFY failed just now, and is asked again soon. Nothing was sent.";
                Self::new(&UNREACHABLE, detail).retry_after(retry_in.as_secs() + 1)
            }
        }
    }
}

impl From<IdError> for Problem {
    fn from(error: IdError) -> Self {
        Self::new(&BAD_ID, error.to_string())
    }
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "type")]
    kind: std::fmt::Arguments<'a>,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<ListedError<'a>>,
    #[serde(skip_serializing_if = "is_zero")]
    errors_omitted: usize,
}

/// An [`EventError`] as callers see it.
#[derive(Serialize)]
pub(super) struct ListedError<'a> {
    index: usize,
    pointer: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    suggestion: Option<&'a str>,
}

/// The errors to list, and how many more there are.
pub(super) fn listed(errors: &[EventError]) -> (Vec<ListedError<'_>>, usize) {
    let list: Vec<_> = errors
        .iter()
        .take(LISTED_ERRORS)
        .map(|error| ListedError {
            index: error.index,
            pointer: &error.pointer,
            message: &error.message,
            suggestion: error.suggestion.as_deref(),
        })
        .collect();
    let omitted = errors.len() - list.len();
    (list, omitted)
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(count: &usize) -> bool {
    *count == 0
}

#[cfg(test)]
#[path = "problem_tests.rs"]
mod tests;
