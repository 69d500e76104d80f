//! The tables, sent to the real binary: each request has exactly its answer, and afterwards the
//! process is alive, no larger, and every event that it accepted arrives.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use gmfy_sidecar::simulator::Faults;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::client;
use crate::gmfy::Gmfy;
use crate::notation::{Case, Expected, cases};
use crate::process::{KEY, PATIENCE, Process, sidecar};

/// How much the process may have grown in the end, in bytes.
const GROWTH: u64 = 40 << 20;
/// How many cases are tried at a time.
const AT_ONCE: usize = 16;

/// Small limits, so that a test can go beyond them, and short waits.
const LIMITS: [&str; 6] = [
    "api.max_body=64KiB",
    "api.max_event=1KiB",
    "api.max_batch_events=5",
    "api.head_timeout=1s",
    "api.body_timeout=1s",
    "delivery.linger=5ms",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_hostile_request_has_its_answer_and_does_no_harm() {
    let gmfy = Gmfy::start(Faults::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::spawn(sidecar(folder.path(), &gmfy.url, &LIMITS));
    let addresses = process.ready().await;
    for n in 0..100 {
        let event = format!(r#"{{"userId":"before","type":"t","n":{n}}}"#);
        let answer = client::post(addresses.api, "/v1/events/", &event).await;
        assert_eq!(answer.status, 202);
    }
    let on_api = [
        include_str!("table/framing.txt"),
        include_str!("table/head.txt"),
        include_str!("table/host.txt"),
        include_str!("table/passed.txt"),
        include_str!("table/events.txt"),
    ];
    let on_api: Vec<Case> = on_api.iter().flat_map(|table| cases(table)).collect();
    let on_ops = cases(include_str!("table/ops.txt"));
    assert!(on_api.len() + on_ops.len() >= 190, "cases are lost");
    let accepted = on_api.iter().flat_map(|case| &case.expected);
    let accepted = accepted.filter(|expected| expected.status == Some(202)).count();
    // But for the batch of nothing.
    let accepted = accepted - 1;
    let asked: BTreeSet<String> = on_api.iter().filter_map(|case| case.upstream.clone()).collect();

    // What a process needs at first is no growth: one round of everything that is harmless.
    let before = resident(&process);
    let mut wrong = try_all(addresses.api, on_api).await;
    wrong.extend(try_all(addresses.ops, on_ops).await);
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    let grown = resident(&process).saturating_sub(before);
    println!("the process grew by {} KiB", grown >> 10);
    assert!(grown < GROWTH, "the process grew by {grown} bytes");

    assert_eq!(client::get(addresses.ops, "/livez").await.status, 200);
    assert_eq!(client::get(addresses.ops, "/readyz").await.status, 200);
    crate::eventually("what was accepted arrives", PATIENCE, || async {
        gmfy.handle.events().len() == 100 + accepted
    })
    .await;
    let before = gmfy.handle.events().into_iter().filter(|event| event.user_id == "before");
    let numbers = before.map(|event| String::from_utf8(event.text.to_vec()).unwrap());
    for (n, text) in numbers.enumerate() {
        assert!(text.ends_with(&format!("\"n\":{n}}}")), "event {n} is {text}");
    }
    assert_eq!(client::assert_account(addresses.ops).await, 0);

    let mut reads = BTreeSet::new();
    for request in gmfy.handle.requests() {
        assert_eq!(request.header("x-api-key"), Some(KEY));
        for header in ["authorization", "cookie", "x-forwarded-for", "x-injected"] {
            assert_eq!(request.header(header), None, "{}", request.path_and_query);
        }
        if request.path_and_query != "/v1/events/batch/" {
            reads.insert(request.path_and_query.clone());
        }
    }
    assert_eq!(reads, asked, "GMFY is asked for what the table says, and nothing else");

    process.signal(rustix::process::Signal::TERM);
    let ended = process.ended().await;
    assert_eq!(ended.remaining(), 0);
    assert!(ended.warnings().is_empty(), "bad input is no matter for the log: {ended:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_without_a_key_learns_nothing() {
    let gmfy = Gmfy::start(Faults::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let sets = ["api.keys=callers-key-one,callers-key-two"];
    let mut process = Process::spawn(sidecar(folder.path(), &gmfy.url, &sets));
    let addresses = process.ready().await;
    let wrong = try_all(addresses.api, cases(include_str!("table/keys.txt"))).await;
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(gmfy.handle.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_listener_does_nothing_for_strangers_and_pages() {
    let gmfy = Gmfy::start(Faults::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let sets = ["admin.token=admin-token"];
    let mut process = Process::spawn(sidecar(folder.path(), &gmfy.url, &sets));
    let addresses = process.ready().await;
    let wrong = try_all(addresses.admin, cases(include_str!("table/admin.txt"))).await;
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    let scrape = client::get(addresses.ops, "/metrics").await.text();
    assert!(scrape.contains("gmfy_upstream_state{state=\"paused\"} 0"), "somebody paused it");
}

/// The process's memory, in bytes.
pub(crate) fn resident(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// What came otherwise than expected, in words.
pub(crate) async fn try_all(address: SocketAddr, cases: Vec<Case>) -> Vec<String> {
    let mut cases = cases.into_iter();
    let mut trying = JoinSet::new();
    let mut wrong = Vec::new();
    loop {
        while trying.len() < AT_ONCE
            && let Some(case) = cases.next()
        {
            trying.spawn(async move { (attempt(address, &case).await, case) });
        }
        let Some(tried) = trying.join_next().await else { return wrong };
        let (found, case) = tried.unwrap();
        if found != case.expected {
            let expected = &case.expected;
            wrong.push(format!("{}:\n  expected {expected:?}\n  found    {found:?}", case.name));
        }
    }
}

async fn attempt(address: SocketAddr, case: &Case) -> Vec<Expected> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server may close before it has read everything.
    let sent = stream.write_all(&case.sent).await;
    if case.ends && sent.is_ok() {
        stream.shutdown().await.unwrap();
    }
    let mut answers = Answers { stream, unread: Vec::new() };
    let mut found = Vec::new();
    for expected in &case.expected {
        match answers.next().await {
            Some((status, problem)) => {
                found.push(Expected { status: Some(status), problem, closes: expected.closes });
            }
            None => {
                found.push(Expected { status: None, problem: None, closes: true });
                return found;
            }
        }
    }
    let Some(last) = found.last_mut() else { return found };
    last.closes = case.ends || answers.is_closed(last.closes).await;
    found
}

struct Answers {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Answers {
    /// The next answer's status and problem; none at the connection's end.
    async fn next(&mut self) -> Option<(u16, Option<String>)> {
        let head = loop {
            if let Some(at) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                let head: Vec<u8> = self.unread.drain(..at + 4).collect();
                let head = String::from_utf8(head).unwrap();
                // Interim answers are none.
                if !head.starts_with("HTTP/1.1 1") {
                    break head;
                }
            } else if !self.more().await {
                assert!(self.unread.is_empty(), "half an answer: {:?}", self.unread);
                return None;
            }
        };
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let header = |name: &str| {
            head.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim())
        };
        let length = header("content-length:").map(|length| length.parse().unwrap());
        let is_problem = header("content-type:") == Some("application/problem+json");
        let body = match length {
            Some(length) => self.exactly(length).await,
            None if header("transfer-encoding:").is_some() => self.chunks().await,
            None => Vec::new(),
        };
        let problem = is_problem.then(|| {
            let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(document["status"], status);
            let kind = document["type"].as_str().unwrap();
            kind.strip_prefix("urn:gmfy-sidecar:problem:").unwrap().to_owned()
        });
        Some((status, problem))
    }

    async fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = loop {
                if let Some(at) = self.unread.windows(2).position(|window| window == b"\r\n") {
                    break self.unread.drain(..at + 2).collect::<Vec<u8>>();
                }
                assert!(self.more().await, "an answer breaks off");
            };
            let length = std::str::from_utf8(&line).unwrap().trim();
            let length = usize::from_str_radix(length, 16).unwrap();
            body.extend(self.exactly(length).await);
            self.exactly(2).await;
            if length == 0 {
                return body;
            }
        }
    }

    async fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.unread.len() < length {
            assert!(self.more().await, "an answer breaks off");
        }
        self.unread.drain(..length).collect()
    }

    /// Whether the connection is closed, without another word; one that should not be is asked
    /// for something else.
    async fn is_closed(&mut self, should_be: bool) -> bool {
        if !should_be {
            let probe = b"GET /livez-or-nothing HTTP/1.1\r\nHost: localhost\r\n\r\n";
            return self.stream.write_all(probe).await.is_err()
                || self.next().await.is_none_or(|(status, _)| ![404, 401].contains(&status));
        }
        let read = timeout(Duration::from_secs(20), self.stream.read_buf(&mut self.unread)).await;
        read.is_ok_and(|read| read.unwrap_or(0) == 0) && self.unread.is_empty()
    }

    /// Reads some more; false at the end, be it by a reset.
    async fn more(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.unread)).await;
        read.expect("an answer, or an end").is_ok_and(|read| read > 0)
    }
}
