//! A running application listener with a queue and a GMFY that do as they are told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::config::{Api, Events, Secret, Settings, UnknownEvents};
use crate::http::{Activity, ApiListener, ApiSettings, ApiState, Gmfy, Stop};
use crate::queue::{
    AppendError, Appended, Appender, Begun, Readiness, RequestKey, Sequence, Submission,
};
use crate::reads::{self, Body};
use crate::telemetry::Metrics;
use crate::upstream::{Call, Passed, SendError};

/// Takes what comes, or refuses it as told.
#[derive(Clone, Debug)]
pub(super) struct FakeQueue(Arc<QueueState>);

#[derive(Debug)]
struct QueueState {
    refusal: Mutex<Option<AppendError>>,
    panics: bool,
    /// Appends wait for a permit each.
    gate: Semaphore,
    /// How many events came.
    appended: Mutex<u64>,
}

impl FakeQueue {
    fn with(panics: bool, permits: usize) -> Self {
        Self(Arc::new(QueueState {
            refusal: Mutex::new(None),
            panics,
            gate: Semaphore::new(permits),
            appended: Mutex::new(0),
        }))
    }

    pub(super) fn refuse(&self, error: AppendError) {
        *self.0.refusal.lock().unwrap() = Some(error);
    }

    pub(super) fn open_gate(&self) {
        self.0.gate.add_permits(1000);
    }

    pub(super) fn appended(&self) -> u64 {
        *self.0.appended.lock().unwrap()
    }
}

impl Appender for FakeQueue {
    async fn append(&self, submission: Submission) -> Result<Appended, AppendError> {
        assert!(!self.0.panics, "told to panic");
        self.0.gate.acquire().await.unwrap().forget();
        if let Some(refusal) = self.0.refusal.lock().unwrap().clone() {
            return Err(refusal);
        }
        let count = submission.len() as u64;
        let mut appended = self.0.appended.lock().unwrap();
        let first = Sequence::FIRST.plus(*appended);
        *appended += count;
        let sequences = Some((first, Sequence::new(*appended)));
        Ok(Appended { accepted: count, duplicates: 0, sequences })
    }

    fn begin(&self, _: RequestKey) -> Begun {
        Begun::Underway
    }

    fn ready(&self) -> Readiness {
        Readiness::Ready
    }
}

/// Answers each call with what was asked, or fails as told.
#[derive(Debug, Default)]
pub(super) struct FakeGmfy {
    pub(super) failure: Option<SendError>,
}

impl FakeGmfy {
    fn answer(&self, text: String) -> Result<Passed, SendError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let headers = HeaderMap::from_iter([
            (http::header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (http::header::RETRY_AFTER, HeaderValue::from_static("7")),
            (http::header::ETAG, HeaderValue::from_static("\"1\"")),
        ]);
        let body = futures_util::stream::iter([Ok(Bytes::from(text))]).boxed();
        Ok(Passed { status: StatusCode::IM_A_TEAPOT, headers, length: None, body })
    }
}

impl Gmfy for FakeGmfy {
    async fn get(
        &self,
        call: &Call,
        query: Option<&str>,
        _asked: &HeaderMap,
    ) -> Result<reads::Answer, SendError> {
        let passed = self.answer(format!("{call:?} {query:?}"))?;
        let mut headers = passed.headers;
        headers.remove(http::header::ETAG);
        let body = Body::Streamed(passed.body, passed.length);
        Ok(reads::Answer { status: passed.status, headers, body })
    }

    async fn post(
        &self,
        call: &Call,
        content_type: Option<HeaderValue>,
        body: Bytes,
    ) -> Result<Passed, SendError> {
        self.answer(format!("{call:?} {content_type:?} {body:?}"))
    }
}

/// How a server differs from the default.
#[derive(Debug, Default)]
pub(super) struct Setup {
    pub(super) keys: Vec<&'static str>,
    pub(super) unix_socket: Option<PathBuf>,
    pub(super) max_connections: Option<usize>,
    pub(super) max_requests: Option<usize>,
    pub(super) gated: bool,
    pub(super) panics: bool,
    pub(super) failure: Option<SendError>,
}

/// An application listener that serves.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) queue: FakeQueue,
    pub(super) metrics: Arc<Metrics>,
    pub(super) settings: ApiSettings,
    /// As they were at the start.
    pub(super) all: Settings,
    pub(super) stop: Stop,
    pub(super) tasks: JoinSet<()>,
}

impl Server {
    pub(super) async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    pub(super) async fn with(setup: Setup) -> Self {
        let settings = Api {
            listen: "127.0.0.1:0".parse().unwrap(),
            unix_socket: setup.unix_socket,
            unix_socket_mode: 0o600,
            keys: setup.keys.into_iter().map(Secret::new).collect(),
            allowed_hosts: vec!["localhost".to_owned()],
            max_body: 10_000,
            max_event: 1000,
            max_batch_events: 10,
            max_connections: setup.max_connections.unwrap_or(100),
            max_requests: setup.max_requests.unwrap_or(100),
            body_memory: 1_000_000,
            head_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
        };
        let events = Events {
            types: std::collections::BTreeMap::new(),
            unknown: UnknownEvents::Accept,
            dedupe_window: Duration::from_secs(600),
            dedupe_entries: 1000,
        };
        let queue = FakeQueue::with(setup.panics, if setup.gated { 0 } else { 1000 });
        let metrics = Arc::new(Metrics::new());
        let state = ApiState {
            appender: queue.clone(),
            gmfy: FakeGmfy { failure: setup.failure },
            metrics: Arc::clone(&metrics),
        };
        let listener = ApiListener::bind(&settings).await.unwrap();
        let mut all = Settings::with_upstream("http://localhost/", "a-key");
        (all.api, all.events) = (settings, events);
        let settings = ApiSettings::new(&all);
        let address = listener.address().unwrap();
        let stop = Stop::default();
        let mut tasks = JoinSet::new();
        let (told, serving) = (stop.clone(), settings.clone());
        tasks.spawn(async move {
            listener.serve(serving, state, Activity::default(), told).await;
        });
        Self { address, queue, metrics, settings, all, stop, tasks }
    }

    pub(super) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends these bytes, and returns all that comes until the server closes.
    pub(super) async fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_ref()).await.unwrap();
        until_closed(&mut stream).await
    }

    /// A request with one Host, closed after its answer; `headers` are whole lines.
    pub(super) async fn ask(&self, line: &str, headers: &[&str], body: &str) -> Answer {
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let length = body.len();
        let request = format!(
            "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Length: {length}\r\n{headers}\r\n{body}"
        );
        Answer::parse(&self.raw(request).await)
    }

    pub(super) async fn post(&self, path: &str, body: &str) -> Answer {
        self.ask(&format!("POST {path}"), &["Content-Type: application/json"], body).await
    }

    pub(super) fn rejected(&self, reason: &str) -> u64 {
        self.metrics.events_rejected.with_label_values(&[reason]).get()
    }
}

/// All that comes until the other side closes. Fails after a while, so that no test hangs.
pub(super) async fn until_closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(120), stream.read_to_end(&mut answer));
    match read.await.expect("the server closes") {
        Ok(_) => {}
        // A server that closes before it has read everything resets the connection.
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    String::from_utf8(answer).unwrap()
}

/// An answer, taken apart.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    head: String,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_owned(), body: body.to_owned() }
    }

    /// A header's value.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let named = |line: &'_ str| line.split_once(": ").is_some_and(|(n, _)| n == name);
        let line = self.head.lines().find(|line| named(line))?;
        line.split_once(": ").map(|(_, value)| value)
    }
}

pub(super) const EVENT: &str = r#"{"userId":"1","type":"register"}"#;
