//! The client against servers that answer well, badly or not at all, over real sockets.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::TryStreamExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;
use crate::config::Secret;

mod certificates;

const CANARY: &str = "canary-key";
const CREATED: &[u8] = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n[]";
const UNAVAILABLE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";

fn settings(url: String) -> config::Upstream {
    config::Upstream {
        url,
        api_key: Some(Secret::new(CANARY)),
        api_key_file: None,
        timeout: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(5),
        verify: true,
        ca_file: None,
        client_cert_file: None,
        client_key_file: None,
        unread_notifications_path: "v1/notifications/unread/".to_owned(),
    }
}

/// What a server does with a request once it has read it.
#[derive(Clone, Copy)]
enum Then {
    /// Writes this, then expects the next request on the connection.
    Answer(&'static [u8]),
    /// Writes this and closes.
    AnswerAndClose(&'static [u8]),
    /// Neither writes nor closes.
    Stall,
    /// Writes a head, and a body for as long as it is read.
    Endless,
    /// A head of over a megabyte.
    HugeHead,
}

/// A server on the loopback; its tasks end with it.
struct Server {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Answers the n-th request as the n-th of `script` says, the rest as the last one.
    async fn start(script: &'static [Then]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let connections = Arc::<AtomicUsize>::default();
        let (seen, accepted) = (Arc::clone(&requests), Arc::clone(&connections));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::SeqCst);
                open.spawn(serve(socket, script, Arc::clone(&seen)));
            }
        });
        Self { url, requests, connections, _tasks: tasks }
    }

    fn upstream(&self) -> Upstream {
        Upstream::new(&settings(self.url.clone()), 2, Arc::new(Metrics::new())).unwrap()
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut socket: S,
    script: &'static [Then],
    seen: Arc<Mutex<Vec<String>>>,
) {
    while let Some(request) = read_request(&mut socket).await {
        let number = {
            let mut seen = seen.lock().unwrap();
            seen.push(request);
            seen.len() - 1
        };
        let written = match script[number.min(script.len() - 1)] {
            Then::Answer(answer) => socket.write_all(answer).await,
            Then::AnswerAndClose(answer) => {
                let _closing = socket.write_all(answer).await;
                return;
            }
            Then::Stall => std::future::pending().await,
            Then::Endless => {
                let mut written = socket
                    .write_all(b"HTTP/1.1 422 No\r\nContent-Length: 9999999999\r\n\r\n")
                    .await;
                while written.is_ok() {
                    written = socket.write_all(&[b'x'; 16 * 1024]).await;
                }
                written
            }
            Then::HugeHead => {
                let head = format!("HTTP/1.1 200 OK\r\nX-Huge: {}\r\n\r\n", "x".repeat(1 << 20));
                socket.write_all(head.as_bytes()).await
            }
        };
        if written.is_err() {
            return;
        }
    }
}

/// The next request, its head in lower case; none when the connection is closed.
async fn read_request(socket: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_lowercase().replacen("get", "GET", 1).replacen("post", "POST", 1);
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return Some(format!("{head}\r\n\r\n{body}"));
            }
        }
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

async fn send(upstream: &Upstream) -> Result<Answer, SendError> {
    upstream.send_batch(BatchBody::Plain(Bytes::from_static(b"[{}]")), "key-1".to_owned()).await
}

async fn text(passed: Passed) -> Result<String, SendError> {
    let chunks: Vec<Bytes> = passed.body.try_collect().await?;
    Ok(String::from_utf8(chunks.concat()).unwrap())
}

#[tokio::test]
async fn a_batch_goes_out_as_the_contract_says() {
    let server = Server::start(&[Then::Answer(CREATED)]).await;
    let answer = send(&server.upstream()).await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (201, &b"[]"[..]));
    let request = &server.requests()[0];
    assert!(request.starts_with("POST /v1/events/batch/ http/1.1\r\n"), "{request}");
    for header in [
        "x-api-key: canary-key",
        "content-type: application/json",
        "idempotency-key: key-1",
        "accept-encoding: identity",
        "user-agent: gmfy-sidecar/",
        "content-length: 4",
    ] {
        assert!(request.contains(&format!("\r\n{header}")), "{header} in {request}");
    }
    assert!(request.ends_with("\r\n\r\n[{}]"), "{request}");
}

#[tokio::test]
async fn whatever_happens_to_a_batch_is_told_apart_and_sent_once() {
    type Check = fn(&Result<Answer, SendError>) -> bool;
    let status = |text: &'static [u8]| Then::AnswerAndClose(text);
    let table: [(&str, &'static [Then], Check); 11] = [
        ("close after reading", leak(status(b"")), |r| matches!(r, Err(SendError::Broken(_)))),
        ("garbage", leak(status(b"SSH-2.0-x\r\n\r\n")), |r| matches!(r, Err(SendError::Broken(_)))),
        ("half a head", leak(status(b"HTTP/1.1 20")), |r| matches!(r, Err(SendError::Broken(_)))),
        ("a huge head", &[Then::HugeHead], |r| matches!(r, Err(SendError::Broken(_)))),
        (
            "2xx, body cut",
            leak(status(b"HTTP/1.1 201 Created\r\nContent-Length: 9\r\n\r\nabc")),
            |r| matches!(r, Ok(Answer { status: 201, body, .. }) if &body[..] == b"abc"),
        ),
        ("422, body cut", leak(status(b"HTTP/1.1 422 No\r\nContent-Length: 9\r\n\r\nabc")), |r| {
            matches!(r, Err(SendError::Broken(_)))
        }),
        (
            "endless",
            &[Then::Endless],
            |r| matches!(r, Ok(Answer { status: 422, body, .. }) if body.len() == ANSWER_KEPT),
        ),
        (
            "redirect",
            leak(status(b"HTTP/1.1 307 X\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n")),
            |r| matches!(r, Ok(Answer { status: 307, .. })),
        ),
        (
            "100 first",
            leak(status(
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 C\r\nContent-Length: 0\r\n\r\n",
            )),
            |r| matches!(r, Ok(Answer { status: 201, .. })),
        ),
        (
            "429",
            leak(status(b"HTTP/1.1 429 X\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n")),
            |r| matches!(r, Ok(Answer { retry_after: Some(wait), .. }) if wait.as_secs() == 7),
        ),
        ("503", &[Then::Answer(UNAVAILABLE)], |r| matches!(r, Ok(Answer { status: 503, .. }))),
    ];
    for (name, script, check) in table {
        let server = Server::start(script).await;
        let result = send(&server.upstream()).await;
        assert!(check(&result), "{name}: {result:?}");
        assert_eq!(server.requests().len(), 1, "{name} was sent again");
        assert!(!format!("{result:?}").contains(CANARY), "{name}: {result:?}");
    }
}

fn leak(then: Then) -> &'static [Then] {
    Box::leak(Box::new([then]))
}

#[tokio::test]
async fn silence_is_a_timeout_and_a_closed_port_is_no_connection() {
    let server = Server::start(&[Then::Stall]).await;
    let mut settings = settings(server.url.clone());
    settings.timeout = Duration::from_millis(50);
    let upstream = Upstream::new(&settings, 2, Arc::default()).unwrap();
    assert_eq!(send(&upstream).await, Err(SendError::Timeout));
    assert_eq!(server.requests().len(), 1);

    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    settings.url = format!("http://{free}/");
    settings.timeout = Duration::from_secs(10);
    let upstream = Upstream::new(&settings, 2, Arc::default()).unwrap();
    let result = send(&upstream).await;
    assert!(
        matches!(&result, Err(SendError::Connect(why)) if why.contains("refused")),
        "{result:?}"
    );
}

#[tokio::test]
async fn a_delivery_reuses_a_young_connection_but_no_old_one() {
    let server = Server::start(&[Then::Answer(CREATED)]).await;
    let upstream = server.upstream();
    for _ in 0..3 {
        send(&upstream).await.unwrap();
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3)).await;
    tokio::time::resume();
    send(&upstream).await.unwrap();
    assert_eq!(server.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_read_is_tried_again_and_a_payment_is_not() {
    static OK: &[u8] =
        b"HTTP/1.1 200 OK\r\nContent-Type: text/x\r\nSet-Cookie: a\r\nContent-Length: 2\r\n\r\nhi";
    static SCRIPT: [Then; 4] = [
        Then::AnswerAndClose(b""),
        Then::Answer(UNAVAILABLE),
        Then::Answer(OK),
        Then::AnswerAndClose(b""),
    ];
    let server = Server::start(&SCRIPT).await;
    let upstream = server.upstream();
    let call = Call::RatingTop(Id::new("a/b").unwrap());
    let passed = upstream.get(&call, Some("limit=10&x=%2F")).await.unwrap();
    assert_eq!(passed.headers.get(CONTENT_TYPE).unwrap(), "text/x");
    assert_eq!(passed.headers.len(), 1);
    assert_eq!(text(passed).await.unwrap(), "hi");
    assert!(server.requests()[2].starts_with("GET /v1/ratings/a%2fb/top/?limit=10&x=%2f "));
    assert!(server.requests()[2].contains("\r\ncontent-type: application/json"));
    let retries = &upstream.shared.metrics.upstream_retries;
    assert_eq!(retries.with_label_values(&["get_rating_top_users"]).get(), 2);

    let call = Call::ResendCode(Id::new("p").unwrap());
    let result = upstream.post(&call, None, Bytes::new()).await;
    assert!(matches!(result, Err(SendError::Broken(_))), "{result:?}");
    assert_eq!(server.requests().len(), 4);
    let request = &server.requests()[3];
    assert!(request.contains("\r\ncontent-length: 0"), "{request}");
    let requests = &upstream.shared.metrics.upstream_requests;
    assert_eq!(requests.with_label_values(&["get_rating_top_users", "delivered"]).get(), 1);
    assert_eq!(requests.with_label_values(&["create_resend_code", "unknown"]).get(), 1);
}

#[tokio::test]
async fn a_replaced_key_is_used_by_the_next_request() {
    let server = Server::start(&[Then::Answer(CREATED)]).await;
    let upstream = server.upstream();
    let changes = upstream.key_changes();
    upstream.replace_key(ApiKey::new(&Secret::new("canary-2")).unwrap());
    assert!(changes.has_changed().unwrap());
    send(&upstream).await.unwrap();
    assert!(server.requests()[0].contains("x-api-key: canary-2\r\n"));
    assert!(!format!("{upstream:?}").contains("canary"), "{upstream:?}");
}

#[tokio::test]
async fn tls_failures_are_told_in_plain_words() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, made.cert.pem()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            if let Ok(socket) = acceptor.accept(socket).await {
                serve(socket, &[Then::AnswerAndClose(CREATED)], Arc::default()).await;
            }
        }
    });
    let plain_listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = format!("https://{}/", plain_listener.local_addr().unwrap());
    tasks.spawn(async move {
        let (mut socket, _) = plain_listener.accept().await.unwrap();
        socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        std::future::pending().await
    });
    let table: [(String, bool, bool, Option<&str>); 5] = [
        (format!("https://localhost:{port}/"), true, true, None),
        (format!("https://127.0.0.1:{port}/"), false, false, None),
        (format!("https://localhost:{port}/"), false, true, Some("issuer")),
        (format!("https://127.0.0.1:{port}/"), true, true, Some("another host name")),
        (plain, true, true, Some("does not speak TLS")),
    ];
    for (url, trusted, verify, words) in table {
        let mut settings = settings(url.clone());
        // Roots of our own in any case, so that the test needs none of the system's.
        let mut other = rcgen::CertificateParams::new(["other".to_owned()]).unwrap();
        other.distinguished_name.push(rcgen::DnType::CommonName, "another authority");
        let other = other.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let other_ca = folder.path().join("other.pem");
        std::fs::write(&other_ca, other.pem()).unwrap();
        settings.ca_file = Some(if trusted { ca.clone() } else { other_ca });
        settings.verify = verify;
        let result = send(&Upstream::new(&settings, 1, Arc::default()).unwrap()).await;
        match words {
            None => assert_eq!(result.map(|answer| answer.status), Ok(201), "{url}"),
            Some(words) => {
                let told = matches!(&result, Err(SendError::Tls(why)) if why.contains(words));
                assert!(told, "{url}: {result:?}");
            }
        }
    }
}

#[test]
fn what_cannot_be_used_is_named_at_start() {
    type Change = fn(&mut config::Upstream);
    let table: [(&str, Change); 8] = [
        ("upstream.url", |s| s.url = "gmfy.example".to_owned()),
        ("upstream.url", |s| s.url = "ftp://gmfy.example/".to_owned()),
        ("upstream.url", |s| s.url = "http://u:p@gmfy.example/".to_owned()),
        ("upstream.url", |s| s.url = "http://gmfy.example/?a".to_owned()),
        ("upstream.unread_notifications_path", |s| {
            s.unread_notifications_path = "v1/../x/".to_owned();
        }),
        ("upstream.api_key_file: can't use missing-key", |s| {
            s.api_key = None;
            s.api_key_file = Some("missing-key".into());
        }),
        ("upstream.ca_file: can't use missing-ca", |s| s.ca_file = Some("missing-ca".into())),
        ("upstream.client_cert_file is set without upstream.client_key_file", |s| {
            s.client_cert_file = Some("x".into());
        }),
    ];
    for (words, change) in table {
        let mut settings = settings("http://gmfy.example/".to_owned());
        change(&mut settings);
        let error = Upstream::new(&settings, 1, Arc::default()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}
