//! A hostile or broken GMFY: what it sends neither hurts the sidecar nor loses an event.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::client;
use crate::notation::bomb;
use crate::process::{PATIENCE, Process, sidecar};
use crate::table::resident;

/// What is answered to a request once it is read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    first: Vec<u8>,
    /// Written again and again, so long apart, until nobody reads it.
    again: Option<(Vec<u8>, Duration)>,
    /// Whether the connection stays open, silent, after that.
    stalls: bool,
    /// Whether what was sent comes back in the body.
    echoes: bool,
}

impl Script {
    pub(crate) fn once(bytes: impl Into<Vec<u8>>) -> Self {
        Self { first: bytes.into(), ..Self::default() }
    }

    fn stalling(bytes: impl Into<Vec<u8>>) -> Self {
        Self { first: bytes.into(), stalls: true, ..Self::default() }
    }

    fn endless(first: impl Into<Vec<u8>>, again: Vec<u8>) -> Self {
        Self { first: first.into(), again: Some((again, Duration::ZERO)), ..Self::default() }
    }

    fn slow(first: impl Into<Vec<u8>>, again: Vec<u8>) -> Self {
        Self {
            again: Some((again, Duration::from_millis(100))),
            ..Self::endless(first, Vec::new())
        }
    }

    /// This status, with all that was sent as its body.
    pub(crate) fn echo(status: &str) -> Self {
        Self { echoes: true, ..Self::once(format!("HTTP/1.1 {status}\r\n")) }
    }

    fn good() -> Self {
        Self::once("HTTP/1.1 201 Created\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]")
    }
}

/// A GMFY that answers as told, on every connection.
#[derive(Debug)]
pub(crate) struct Hostile {
    pub(crate) url: String,
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<(Script, Vec<String>)>>,
    _tasks: JoinSet<()>,
}

impl Hostile {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new((Script::good(), Vec::new())));
        let shared = Arc::clone(&state);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { url: format!("http://{address}/"), address, state, _tasks: tasks }
    }

    /// Answers so from now on, and counts anew.
    pub(crate) fn answer(&self, script: Script) {
        *self.state.lock().unwrap() = (script, Vec::new());
    }

    /// The heads of the requests since.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().1.clone()
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<(Script, Vec<String>)>>) {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                break;
            }
        }
        match stream.read_buf(&mut bytes).await {
            Ok(1..) => {}
            _ => return,
        }
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let script = {
        let mut state = state.lock().unwrap();
        state.1.push(text.clone());
        state.0.clone()
    };
    let mut first = script.first;
    if script.echoes {
        let body = serde_json::json!({ "error": "I do not like this", "request": text });
        let body = body.to_string();
        first.extend(
            format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len())
                .bytes(),
        );
        first.extend(body.bytes());
    }
    if stream.write_all(&first).await.is_err() {
        return;
    }
    if let Some((again, pause)) = script.again {
        while stream.write_all(&again).await.is_ok() {
            tokio::time::sleep(pause).await;
        }
    }
    if script.stalls {
        // Until the other side has had enough.
        while stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {}
    }
}

fn head(lines: &str) -> Vec<u8> {
    format!("HTTP/1.1 {}\r\n\r\n", lines.replace('|', "\r\n")).into_bytes()
}

fn huge_head() -> Vec<u8> {
    head(&format!("200 OK|X: {}|Content-Length: 0", "x".repeat(1 << 20)))
}

fn many_headers() -> Vec<u8> {
    head(&format!("200 OK|{}Content-Length: 0", "X: 1|".repeat(5000)))
}

/// The cases, for deliveries and for reads.
fn cases() -> Vec<(&'static str, Script, Read)> {
    let zipped = bomb("gzip");
    let mut zip = head(&format!("200 OK|Content-Encoding: gzip|Content-Length: {}", zipped.len()));
    zip.extend(zipped);
    let interim = |line: &str, times| head(line).repeat(times);
    let created = head("200 OK|Content-Length: 2");
    vec![
        ("silence", Script::stalling(""), Read::Problem(504, "upstream-timeout")),
        ("a close", Script::once(""), Read::Problem(502, "upstream-broken")),
        ("no HTTP", Script::once("SSH-2.0-x\r\n\r\n"), Read::Problem(502, "upstream-broken")),
        (
            "another version",
            Script::once("HTTP/9.9 200 OK\r\n\r\n"),
            Read::Problem(502, "upstream-broken"),
        ),
        (
            "a status that is none",
            Script::once(head("20x OK")),
            Read::Problem(502, "upstream-broken"),
        ),
        (
            "half a head",
            Script::stalling("HTTP/1.1 200 OK\r\nX"),
            Read::Problem(504, "upstream-timeout"),
        ),
        (
            "a head a byte at a time",
            Script::slow("HTTP/1.1 200 OK\r\nX: ", b"x".to_vec()),
            Read::Problem(504, "upstream-timeout"),
        ),
        (
            "a header without a name",
            Script::once(head("200 OK|: x")),
            Read::Problem(502, "upstream-broken"),
        ),
        (
            "a NUL in a header",
            Script::once(head("200 OK|X: \0")),
            Read::Problem(502, "upstream-broken"),
        ),
        ("a megabyte of headers", Script::once(huge_head()), Read::Problem(502, "upstream-broken")),
        (
            "five thousand headers",
            Script::once(many_headers()),
            Read::Problem(502, "upstream-broken"),
        ),
        (
            "headers without an end",
            Script::endless("HTTP/1.1 200 OK\r\n", b"X: 1\r\n".repeat(1000)),
            Read::Problem(502, "upstream-broken"),
        ),
        (
            "a body without an end",
            Script::endless(
                head("200 OK|Transfer-Encoding: chunked"),
                [b"4000\r\n", &[b'x'; 0x4000][..], b"\r\n"].concat(),
            ),
            Read::Broken,
        ),
        (
            "a length without an end",
            Script::endless(head("200 OK|Content-Length: 99999999999"), vec![b'x'; 0x4000]),
            Read::Broken,
        ),
        (
            "a body until the close, without an end",
            Script::endless(head("200 OK"), vec![b'x'; 0x4000]),
            Read::Broken,
        ),
        (
            "a body that stalls",
            Script::stalling([head("200 OK|Content-Length: 9"), b"abc".to_vec()].concat()),
            Read::Broken,
        ),
        (
            "a body that breaks off",
            Script::once([head("200 OK|Content-Length: 9"), b"abc".to_vec()].concat()),
            Read::Broken,
        ),
        (
            "a chunk that is none",
            Script::once(
                [head("200 OK|Transfer-Encoding: chunked"), b"zz\r\nabc".to_vec()].concat(),
            ),
            Read::Broken,
        ),
        (
            "a chunk that breaks off",
            Script::once(
                [head("200 OK|Transfer-Encoding: chunked"), b"9\r\nabc".to_vec()].concat(),
            ),
            Read::Broken,
        ),
        (
            "more than the length says",
            Script::once(
                [head("200 OK|Content-Length: 2"), b"[]HTTP/1.1 200 OK\r\n\r\n".to_vec()].concat(),
            ),
            Read::Whole(200),
        ),
        (
            "two lengths",
            Script::once(head("200 OK|Content-Length: 2|Content-Length: 3")),
            Read::Problem(502, "upstream-broken"),
        ),
        (
            "a negative length",
            Script::once(head("200 OK|Content-Length: -2")),
            Read::Problem(502, "upstream-broken"),
        ),
        ("a gzip bomb that nobody asked for", Script::once(zip), Read::Whole(200)),
        (
            "100 many times",
            Script::once([interim("100 Continue", 50), created.clone(), b"[]".to_vec()].concat()),
            Read::Whole(200),
        ),
        (
            "103 many times",
            Script::once(
                [interim("103 Early Hints|Link: </x>", 50), created, b"[]".to_vec()].concat(),
            ),
            Read::Whole(200),
        ),
        (
            "103 without an end",
            Script::slow("", head("103 Early Hints|Link: </x>")),
            Read::Problem(504, "upstream-timeout"),
        ),
        (
            "an upgrade that nobody asked for",
            Script::once(head("101 Switching Protocols|Upgrade: x|Connection: Upgrade")),
            Read::Any,
        ),
        ("a status of no class", Script::once(head("999 Odd|Content-Length: 0")), Read::Whole(999)),
        ("429", Script::once(head("429 Slow|Retry-After: 0|Content-Length: 0")), Read::Whole(429)),
        ("503", Script::once(head("503 Down|Content-Length: 0")), Read::Whole(503)),
        ("504", Script::once(head("504 Late|Content-Length: 0")), Read::Whole(504)),
    ]
}

/// What a read's caller gets.
#[derive(Debug, PartialEq, Eq)]
enum Read {
    /// This status, and all of its body.
    Whole(u16),
    /// A body that visibly breaks off, or a problem that says so, if it broke soon.
    Broken,
    Problem(u16, &'static str),
    Any,
}

const SHORT: [&str; 6] = [
    "upstream.timeout=500ms",
    "delivery.retry_initial=5ms",
    "delivery.retry_max=20ms",
    "delivery.linger=1ms",
    "api.body_timeout=3s",
    "shutdown.deadline=5s",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_gmfy_sends_each_event_is_delivered_or_kept_with_its_reason() {
    let gmfy = Hostile::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::spawn(sidecar(folder.path(), &gmfy.url, &SHORT));
    let addresses = process.ready().await;
    let post = async |n: usize| {
        let event = format!(r#"{{"userId":"u","type":"t","n":{n}}}"#);
        assert_eq!(client::post(addresses.api, "/v1/events/", &event).await.status, 202);
    };
    let settled = async |what: &str| {
        crate::eventually(what, PATIENCE, || async {
            client::assert_account(addresses.ops).await == 0
        })
        .await;
    };
    post(0).await;
    settled("a first event").await;
    let before = resident(&process);
    for (n, (name, script, _)) in cases().into_iter().enumerate() {
        gmfy.answer(script);
        post(n + 1).await;
        crate::eventually(name, PATIENCE, || async { !gmfy.requests().is_empty() }).await;
        // Some answers settle it; it is sent again until it is.
        let so_far = gmfy.requests().len();
        crate::eventually(name, PATIENCE, || async {
            gmfy.requests().len() > so_far || client::assert_account(addresses.ops).await == 0
        })
        .await;
        gmfy.answer(Script::good());
        settled(name).await;
    }
    let grown = resident(&process).saturating_sub(before);
    println!("deliveries: the process grew by {} KiB", grown >> 10);
    assert!(grown < 40 << 20, "the process grew by {grown} bytes");
    let scrape = client::get(addresses.ops, "/metrics").await.text();
    assert_eq!(client::metric(&scrape, "gmfy_events_dropped_total"), 0);
    assert_eq!(client::metric(&scrape, "gmfy_events_dead_lettered_total"), 0);
    process.signal(rustix::process::Signal::TERM);
    assert_eq!(process.ended().await.remaining(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_gmfy_sends_a_reader_gets_an_answer_in_time() {
    let gmfy = Hostile::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::spawn(sidecar(folder.path(), &gmfy.url, &SHORT));
    let addresses = process.ready().await;
    read(addresses.api, "/v1/users/warm/").await;
    let before = resident(&process);
    let mut wrong = Vec::new();
    for (n, (name, script, expected)) in cases().into_iter().enumerate() {
        // A batch that is taken tells the reads, too, that GMFY is there.
        gmfy.answer(Script::good());
        let event = r#"{"userId":"u","type":"t"}"#;
        assert_eq!(client::post(addresses.api, "/v1/events/", event).await.status, 202);
        crate::eventually("GMFY is there", PATIENCE, || async {
            client::assert_account(addresses.ops).await == 0
        })
        .await;
        gmfy.answer(script);
        let found = read(addresses.api, &format!("/v1/users/{n}/")).await;
        let told = [Read::Problem(502, "upstream-broken"), Read::Problem(504, "upstream-timeout")];
        let fits = found == expected || expected == Read::Broken && told.contains(&found);
        if !fits && expected != Read::Any {
            wrong.push(format!("{name}: expected {expected:?}, found {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let grown = resident(&process).saturating_sub(before);
    println!("reads: the process grew by {} KiB", grown >> 10);
    assert!(grown < 40 << 20, "the process grew by {grown} bytes");

    // Callers that don't read what GMFY sends without an end keep nobody else from reading.
    gmfy.answer(Script::endless(head("200 OK"), vec![b'x'; 0x4000]));
    let mut stalled = Vec::new();
    for n in 0..40 {
        let mut stream = TcpStream::connect(addresses.api).await.unwrap();
        let get = format!("GET /v1/users/stalled-{n}/ HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(get.as_bytes()).await.unwrap();
        stalled.push(stream);
    }
    crate::eventually("they are under way", PATIENCE, || async { !gmfy.requests().is_empty() })
        .await;
    gmfy.answer(Script::once(head("200 OK|Content-Length: 0")));
    crate::eventually("others are answered again", PATIENCE, || async {
        read(addresses.api, "/v1/users/other/").await == Read::Whole(200)
    })
    .await;
    drop(stalled);
    process.signal(rustix::process::Signal::TERM);
    assert_eq!(process.ended().await.status.code(), Some(0));
}

/// One GET, read until the answer's end or its break.
async fn read(address: SocketAddr, path: &str) -> Read {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let get = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(get.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    // Only the end of a body is looked at: some have many gigabytes.
    let mut end = Vec::new();
    let mut length = 0_usize;
    let mut bytes = vec![0; 1 << 16];
    loop {
        let reading = tokio::time::timeout(PATIENCE, stream.read(&mut bytes)).await;
        let Ok(count @ 1..) = reading.expect("an answer, or an end") else { break };
        let mut came = &bytes[..count];
        if !head.ends_with(b"\r\n\r\n") {
            head.extend(came);
            let Some(at) = head.windows(4).position(|window| window == b"\r\n\r\n") else {
                continue;
            };
            let rest = head.split_off(at + 4);
            came = &bytes[count - rest.len()..count];
        }
        length += came.len();
        end.extend(came);
        let surplus = end.len().saturating_sub(1000);
        end.drain(..surplus);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let Some(status) = head.split(' ').nth(1) else { return Read::Broken };
    let status = status.parse().unwrap();
    if head.contains("application/problem+json") {
        let document: serde_json::Value = serde_json::from_slice(&end).unwrap();
        let kind = document["type"].as_str().unwrap();
        let kind = kind.strip_prefix("urn:gmfy-sidecar:problem:").unwrap().to_owned();
        return Read::Problem(status, Box::leak(kind.into_boxed_str()));
    }
    let announced = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let is_whole = match announced {
        Some(announced) => length == announced.parse::<usize>().unwrap(),
        None => end.ends_with(b"0\r\n\r\n"),
    };
    if is_whole { Read::Whole(status) } else { Read::Broken }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_is_never_followed_with_the_key() {
    let (gmfy, elsewhere) = (Hostile::start().await, Hostile::start().await);
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::spawn(sidecar(folder.path(), &gmfy.url, &SHORT));
    let addresses = process.ready().await;
    for target in [gmfy.url.clone(), elsewhere.url.clone(), "//localhost/".to_owned()] {
        for status in [301, 302, 303, 307, 308] {
            gmfy.answer(Script::once(head(&format!(
                "{status} Moved|Location: {target}|Content-Length: 0"
            ))));
            let path = format!("/v1/users/{status}/");
            assert_eq!(read(addresses.api, &path).await, Read::Whole(status), "{target}");
            assert_eq!(gmfy.requests().len(), 1, "{status} to {target} is followed");
        }
    }
    // A delivery pauses, says why, and keeps the event.
    let answer = client::post(addresses.api, "/v1/events/", r#"{"userId":"u","type":"t"}"#).await;
    assert_eq!(answer.status, 202);
    crate::eventually("it pauses", PATIENCE, || async {
        let status = client::get(addresses.admin, "/api/status").await.json();
        status["upstream"]["state"] == "misconfigured"
    })
    .await;
    let batches = gmfy.requests().iter().filter(|request| request.starts_with("POST")).count();
    assert_eq!(batches, 1, "no other request before the probe");
    assert!(elsewhere.requests().is_empty(), "the key went elsewhere");
    assert_eq!(client::assert_account(addresses.ops).await, 1);
    process.signal(rustix::process::Signal::TERM);
    assert_eq!(process.ended().await.remaining(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_429_without_an_end_is_waited_out_and_an_operator_can_end_the_wait() {
    let gmfy = Hostile::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::spawn(sidecar(folder.path(), &gmfy.url, &SHORT));
    let addresses = process.ready().await;
    let event = r#"{"userId":"u","type":"t"}"#;
    gmfy.answer(Script::once(head("429 Slow|Content-Length: 0")));
    assert_eq!(client::post(addresses.api, "/v1/events/", event).await.status, 202);
    crate::eventually("it is tried again", PATIENCE, || async { gmfy.requests().len() > 20 }).await;
    assert_eq!(client::assert_account(addresses.ops).await, 1);
    // Beyond all years: the wait is bounded, and `resume` ends it.
    gmfy.answer(Script::once(head("429 Slow|Retry-After: 99999999999999999999|Content-Length: 0")));
    crate::eventually("told to wait", PATIENCE, || async { !gmfy.requests().is_empty() }).await;
    gmfy.answer(Script::good());
    // Accepting and reading go on meanwhile.
    assert_eq!(client::post(addresses.api, "/v1/events/", event).await.status, 202);
    assert_eq!(client::get(addresses.ops, "/readyz").await.status, 200);
    assert_eq!(client::assert_account(addresses.ops).await, 2, "it waits");
    crate::eventually("resumed, all is delivered", PATIENCE, || async {
        client::post(addresses.admin, "/api/delivery/resume", "{}").await;
        client::assert_account(addresses.ops).await == 0
    })
    .await;
    process.signal(rustix::process::Signal::TERM);
    assert_eq!(process.ended().await.remaining(), 0);
}
