//! The client of GMFY: one table of its calls, one place that knows its key.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;

/// What GMFY answered to a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// How long GMFY asks to be left alone (`Retry-After`, both forms of RFC 9110 §10.2.3).
    pub retry_after: Option<Duration>,
    /// The start of the answer's body, at most [`ANSWER_KEPT`] bytes.
    pub body: Bytes,
}

/// How much of an answer's body is kept for people to read, in bytes.
pub const ANSWER_KEPT: usize = 4096;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No connection: nothing was sent.
    #[error("can't connect to GMFY: {0}")]
    Connect(String),
    /// The TLS handshake failed: nothing was sent, and waiting won't mend it.
    #[error("TLS to GMFY failed: {0}")]
    Tls(String),
    /// Sent, at least in part, and no whole answer came in time: GMFY may have acted on it.
    #[error("GMFY did not answer in time")]
    Timeout,
    /// Sent, at least in part, and the connection broke: GMFY may have acted on it.
    #[error("the connection to GMFY broke: {0}")]
    Broken(String),
}

/// Where delivery sends its batches; the client of GMFY implements it, and so do tests.
pub trait BatchSink: Clone + Send + Sync + 'static {
    /// Sends one batch, once: no retry here. `body` is a JSON array of events in wire form, `key`
    /// its `Idempotency-Key`.
    fn send_batch(
        &self,
        body: Bytes,
        key: String,
    ) -> impl Future<Output = Result<Answer, SendError>> + Send;
}

/// A call of GMFY's API that is passed through. Ids are decoded; they stay one path segment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    Users,
    User(String),
    Badges(String),
    RatingTop(String),
    ChallengeTop(String),
    Payment(String),
    Notifications,
    UserNotifications(String),
    UnreadNotifications,
    UserUnreadNotifications(String),
    Version,
    CreatePayment,
    ResendCode(String),
}

/// An answer of GMFY on its way back to the caller.
pub struct Passed {
    pub status: http::StatusCode,
    /// Those of GMFY's headers that concern the caller or the cache: Content-Type, Retry-After,
    /// Cache-Control, ETag, Last-Modified.
    pub headers: http::HeaderMap,
    pub body: futures_util::stream::BoxStream<'static, Result<Bytes, SendError>>,
}

impl std::fmt::Debug for Passed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passed").field("status", &self.status).finish_non_exhaustive()
    }
}

/// The client of GMFY. Clones share connections and the key.
#[derive(Clone, Debug)]
pub struct Upstream {}

impl Upstream {
    /// A GET of GMFY, retried a few times within the timeout when it fails on the way.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn get(&self, _call: &Call, _query: Option<&str>) -> Result<Passed, SendError> {
        unimplemented!()
    }

    /// A POST that is sent once, never again.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn post(
        &self,
        _call: &Call,
        _content_type: Option<http::HeaderValue>,
        _body: Bytes,
    ) -> Result<Passed, SendError> {
        unimplemented!()
    }
}
