//! The client of GMFY: one table of its calls, one place that knows its key. And beside it, by the
//! same means, the client of the traces' collector.

mod call;
mod certificates;
mod circuit;
mod clients;
mod collector;
mod exchange;
mod failure;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod key;
mod mask;
mod retry_after;
mod target;
mod tls;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    AGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use reqwest::Url;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

pub use self::call::{Call, Id, IdError};
use self::circuit::Sign;
pub use self::clients::BuildError;
use self::clients::{Attempts, classify_read};
pub use self::collector::CollectorClient;
use self::exchange::{Drained, Record, Rest};
use self::failure::classify;
pub use self::key::{ApiKey, KeyError};
pub use self::target::Prepared;
use self::target::Target;
use crate::clock::Clock;
use crate::config;
use crate::telemetry::{Metrics, traces};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Content-Encoding as well: we ask for none, but what GMFY encodes all the same must say so.
const PASSED_HEADERS: [HeaderName; 5] =
    [CONTENT_TYPE, CONTENT_ENCODING, RETRY_AFTER, CACHE_CONTROL, AGE];
/// A longer answer to a batch costs its connection: it isn't read to the end.
const ANSWER_READ: usize = 64 * 1024;
/// How long the body of a 2xx to a batch is waited for: nobody needs it.
const SUCCESS_BODY_WAIT: Duration = Duration::from_secs(2);

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
    /// A read, and GMFY failed just now: nothing was sent. It is asked again in about `retry_in`.
    #[error("GMFY failed just now, and is asked again soon")]
    Down { retry_in: Duration },
}

impl SendError {
    /// Which of these it is, in a word.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Tls(_) => "tls",
            Self::Timeout => "timeout",
            Self::Broken(_) => "broken",
            Self::Down { .. } => "down",
        }
    }
}

/// A batch as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchBody {
    Plain(Bytes),
    /// Sent with `Content-Encoding: gzip`.
    Gzip(Bytes),
}

/// Where delivery sends its batches; the client of GMFY implements it, and so do tests.
pub trait BatchSink: Clone + Send + Sync + 'static {
    /// Sends one batch, once: no retry here. `body` is a JSON array of events in wire form, `key`
    /// its `Idempotency-Key`.
    fn send_batch(
        &self,
        body: BatchBody,
        key: String,
    ) -> impl Future<Output = Result<Answer, SendError>> + Send;
}

/// Where reads go; the client of GMFY implements it, and so do tests.
pub trait ReadSource: Clone + Send + Sync + 'static {
    /// Reads. `query` is without `?`.
    ///
    /// # Cancel safety
    /// Dropping this, or the answer's body, ends the exchange.
    fn read(
        &self,
        call: &Call,
        query: Option<&str>,
    ) -> impl Future<Output = Result<Passed, SendError>> + Send;
}

/// An answer of GMFY on its way back to the caller.
pub struct Passed {
    pub status: StatusCode,
    /// Those of GMFY's headers that concern the caller or the cache: Content-Type, Retry-After,
    /// Cache-Control, Age, and Content-Encoding where GMFY sets one unasked.
    pub headers: http::HeaderMap,
    /// The body's length in bytes, where GMFY says it beforehand.
    pub length: Option<u64>,
    pub body: futures_util::stream::BoxStream<'static, Result<Bytes, SendError>>,
}

impl std::fmt::Debug for Passed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passed").field("status", &self.status).finish_non_exhaustive()
    }
}

/// The client of GMFY. Clones share connections and the key.
#[derive(Clone, Debug)]
pub struct Upstream {
    shared: Arc<Shared>,
    clock: Clock,
    key_poll: Duration,
}

#[derive(Debug)]
struct Shared {
    /// Replaced by other settings, and when a file of certificates changes.
    target: watch::Sender<Arc<Target>>,
    /// Told of other settings, whose files are other ones to watch.
    reloaded: watch::Sender<()>,
    key: watch::Sender<ApiKey>,
    metrics: Arc<Metrics>,
}

impl Upstream {
    /// Builds the clients. Reads the files that the settings name, so it blocks on the disk.
    /// `reads_connections` is how many calls are passed through at once; others wait.
    ///
    /// # Errors
    /// When a setting or a file can't be used; says which.
    pub fn new(
        settings: &config::Upstream,
        reads_connections: usize,
        metrics: Arc<Metrics>,
    ) -> Result<Self, BuildError> {
        let Prepared { target, key } = Prepared::new(settings, reads_connections)?;
        let shared = Shared {
            target: watch::Sender::new(Arc::new(target)),
            reloaded: watch::Sender::new(()),
            key: watch::Sender::new(key),
            metrics,
        };
        Ok(Self { shared: Arc::new(shared), clock: Clock::system(), key_poll: key::POLL_INTERVAL })
    }

    /// The same with another clock, against which dates in `Retry-After` are held.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// The same with another interval at which the files are read again.
    #[must_use]
    pub fn with_key_poll(self, key_poll: Duration) -> Self {
        Self { key_poll, ..self }
    }

    /// Tells of each replaced key or certificate: what a wrong one had stopped may go on.
    #[must_use]
    pub fn key_changes(&self) -> watch::Receiver<ApiKey> {
        self.shared.key.subscribe()
    }

    /// Uses another key from the next request on.
    pub fn replace_key(&self, key: ApiKey) {
        self.shared.key.send_replace(key);
    }

    /// Checks other settings and builds what they need, changing nothing. Reads the files that they
    /// name, so it blocks on the disk.
    ///
    /// # Errors
    /// When a setting or a file can't be used; says which.
    pub fn prepare(
        settings: &config::Upstream,
        reads_connections: usize,
    ) -> Result<Prepared, BuildError> {
        Prepared::new(settings, reads_connections)
    }

    /// Uses what was prepared from the next request on.
    pub fn replace(&self, prepared: Prepared) {
        self.shared.target.send_replace(Arc::new(prepared.target));
        self.shared.key.send_replace(prepared.key);
        self.shared.reloaded.send_replace(());
    }

    /// Follows `upstream.api_key_file` and the files of certificates until `token` is cancelled.
    pub async fn watch_files(self, token: CancellationToken) {
        let mut reloaded = self.shared.reloaded.subscribe();
        while !token.is_cancelled() {
            reloaded.mark_unchanged();
            let these = token.child_token();
            let watching = self.watch_these(&these);
            tokio::pin!(watching);
            tokio::select! {
                () = &mut watching => {}
                // The sender is `self`'s.
                Ok(()) = reloaded.changed() => {
                    these.cancel();
                    watching.await;
                }
            }
        }
    }

    async fn watch_these(&self, token: &CancellationToken) {
        let shared = &self.shared;
        let target = shared.target();
        let key = async {
            match target.key_file.clone() {
                Some(file) => {
                    key::watch_file(file, self.key_poll, shared.key.clone(), token.clone()).await;
                }
                None => token.cancelled().await,
            }
        };
        let certificates = target.certificates.follow(self.key_poll, token, |clients| {
            shared.target.send_modify(|target| *target = Arc::new(target.with_clients(clients)));
            // The key is the same; what watches it tries again.
            shared.key.send_modify(|_| ());
        });
        tokio::join!(key, certificates);
    }

    /// A GET of GMFY, retried a few times within the timeout when it fails on the way. `query` is
    /// sent as it is, without `?`; what can't stand in a URL is percent-encoded. While GMFY is
    /// known to be down, it fails at once, or is the one probe that finds out.
    ///
    /// # Errors
    /// When there is no answer.
    ///
    /// # Cancel safety
    /// Dropping this, or the answer's body, ends the exchange.
    pub async fn get(&self, call: &Call, query: Option<&str>) -> Result<Passed, SendError> {
        self.pass(call, query, None, Bytes::new()).await
    }

    /// A POST that is sent once, never again.
    ///
    /// # Errors
    /// When there is no answer.
    ///
    /// # Cancel safety
    /// Dropping this doesn't undo what GMFY was sent.
    pub async fn post(
        &self,
        call: &Call,
        content_type: Option<HeaderValue>,
        body: Bytes,
    ) -> Result<Passed, SendError> {
        self.pass(call, None, content_type, body).await
    }

    /// Passes a call through. The table says whether it is a GET, and so may be sent again.
    async fn pass(
        &self,
        call: &Call,
        query: Option<&str>,
        content_type: Option<HeaderValue>,
        body: Bytes,
    ) -> Result<Passed, SendError> {
        let shared = &self.shared;
        let (endpoint, id) = call.endpoint();
        let is_read = endpoint.method == Method::GET;
        let span = traces::call(if is_read { "GET" } else { "POST" }, endpoint.name);
        let mut record = Record::start(Arc::clone(&shared.metrics), endpoint.name, span);
        let target = shared.target();
        let deadline = Instant::now() + target.timeout;
        let secret = shared.key();
        let mut request = target.request(&endpoint, id, content_type, &secret)?;
        request.url_mut().set_query(query);
        record.propagate(request.headers_mut());
        if request.method() == Method::POST {
            if body.is_empty() {
                // hyper leaves it out, and some servers answer a POST without a length by 411.
                request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
            *request.body_mut() = Some(body.into());
        }
        if is_read {
            target.circuit.check()?;
        }
        let permit = match timeout_at(deadline, Arc::clone(&target.passing).acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) | Err(_) => {
                let busy = "all of the connections for reads (reads.connections) are in use";
                return Err(SendError::Connect(busy.to_owned()));
            }
        };
        let leave = if is_read { Some(target.circuit.enter()?) } else { None };
        let probe = leave.as_ref().is_some_and(circuit::Leave::is_probe);
        let clients = &target.clients;
        let result = if is_read && !probe {
            let mut extensions = http::Extensions::new();
            let sent = clients.reads.execute_with_extensions(request, &mut extensions);
            let sent = timeout_at(deadline, sent).await;
            let attempts = extensions.get::<Attempts>().copied().unwrap_or_default();
            record.retried(attempts.0.saturating_sub(1));
            sent.map(|answer| answer.map_err(|error| classify_read(&error)))
        } else {
            let sent = timeout_at(deadline, clients.once.execute(request)).await;
            sent.map(|answer| answer.map_err(|error| classify(&error)))
        };
        let result = result.unwrap_or(Err(SendError::Timeout));
        let told = result.as_ref().map(reqwest::Response::status);
        record.note(told);
        let asked = result
            .as_ref()
            .ok()
            .and_then(|answer| retry_after::retry_after(answer.headers(), self.clock.now()));
        target.circuit.note(Sign::of(told), asked);
        drop(leave);
        let answer = result?;
        let circuit = Arc::clone(&target.circuit);
        let (status, headers) = (answer.status(), passed_headers(answer.headers()));
        let mut length = answer.content_length();
        let mut body = exchange::body(Rest { answer, deadline, record, circuit, _permit: permit });
        if status.is_client_error() || status.is_server_error() {
            body = mask::parts(body, secret.header());
            length = None;
        }
        Ok(Passed { status, headers, length, body })
    }
}

impl Shared {
    fn target(&self) -> Arc<Target> {
        Arc::clone(&self.target.borrow())
    }

    fn key(&self) -> ApiKey {
        self.key.borrow().clone()
    }

    async fn send(
        &self,
        body: BatchBody,
        key: &str,
        clock: &Clock,
        (target, deadline): (&Target, Instant),
    ) -> Result<Answer, SendError> {
        let secret = self.key();
        let mut request = target.request(&call::BATCH, None, None, &secret)?;
        let key = HeaderValue::from_str(key)
            .map_err(|_| SendError::Connect("the Idempotency-Key is no header".to_owned()))?;
        request.headers_mut().insert(IDEMPOTENCY_KEY, key);
        traces::propagate(request.headers_mut());
        let bytes = match body {
            BatchBody::Plain(bytes) => bytes,
            BatchBody::Gzip(bytes) => {
                request.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                bytes
            }
        };
        *request.body_mut() = Some(bytes.into());
        let answer = timeout_at(deadline, target.clients.deliveries.execute(request))
            .await
            .map_err(|_| SendError::Timeout)?
            .map_err(|error| classify(&error))?;
        let status = answer.status();
        let retry_after = retry_after::retry_after(answer.headers(), clock.now());
        let patience = if status.is_success() {
            deadline.min(Instant::now() + SUCCESS_BODY_WAIT)
        } else {
            deadline
        };
        let drained = timeout_at(patience, exchange::drain(answer, ANSWER_KEPT, ANSWER_READ)).await;
        let body = match drained {
            Ok(Drained::Enough(body)) => body,
            // The status says that GMFY took the batch; to send it again for the sake of a body
            // that nobody needs would only make duplicates.
            Ok(Drained::Broken(body, _)) if status.is_success() => body,
            Err(_) if status.is_success() => Bytes::new(),
            Ok(Drained::Broken(_, error)) => return Err(error),
            Err(_) => return Err(SendError::Timeout),
        };
        let body = mask::beginning(body, &secret.header());
        Ok(Answer { status: status.as_u16(), retry_after, body })
    }
}

impl BatchSink for Upstream {
    /// Times the exchange; what came of it is for delivery to judge and count. A 2xx whose body
    /// breaks off or stalls is an answer all the same.
    async fn send_batch(&self, body: BatchBody, key: String) -> Result<Answer, SendError> {
        let shared = &self.shared;
        let started = Instant::now();
        let target = shared.target();
        let until = (&*target, started + target.timeout);
        let result = shared.send(body, &key, &self.clock, until).await;
        let status = |answer: &Answer| StatusCode::from_u16(answer.status).unwrap_or_default();
        let asked = result.as_ref().ok().and_then(|answer| answer.retry_after);
        target.circuit.note(Sign::of(result.as_ref().map(status)), asked);
        let duration = &shared.metrics.upstream_request_duration;
        duration.with_label_values(&[call::BATCH.name]).observe(started.elapsed().as_secs_f64());
        result
    }
}

impl ReadSource for Upstream {
    async fn read(&self, call: &Call, query: Option<&str>) -> Result<Passed, SendError> {
        self.get(call, query).await
    }
}

/// `base` and then `path`, if they are a URL just as they stand, without any normalisation.
fn append(base: &Url, path: &str) -> Option<Url> {
    let text = format!("{base}{path}");
    Url::parse(&text).ok().filter(|url| url.as_str() == text)
}

fn base_url(text: &str) -> Result<Url, BuildError> {
    let refuse = |reason: &str| {
        Err(BuildError::Setting { setting: "upstream.url", reason: reason.to_owned() })
    };
    let Ok(mut url) = Url::parse(text) else { return refuse("it is not a URL") };
    if !matches!(url.scheme(), "http" | "https") {
        return refuse("it must begin with http:// or https://");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return refuse("it must not hold a user or password; the key is all that GMFY asks for");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return refuse("it must end with its path, without `?` or `#`");
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

fn unread_path(base: &Url, setting: &str) -> Result<String, BuildError> {
    let path = format!("{}/", setting.trim_matches('/'));
    match append(base, &path) {
        Some(url) if path != "/" && url.query().is_none() && url.fragment().is_none() => Ok(path),
        _ => Err(BuildError::Setting {
            setting: "upstream.unread_notifications_path",
            reason: "it must be a path as it stands in a URL, such as v1/notifications/unread/"
                .to_owned(),
        }),
    }
}

fn passed_headers(headers: &HeaderMap) -> HeaderMap {
    PASSED_HEADERS
        .into_iter()
        .filter_map(|name| headers.get(&name).cloned().map(|value| (name, value)))
        .collect()
}

#[cfg(test)]
mod tests;
