//! The ops listener.

use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::harness::Answer;
use crate::config::Ops;
use crate::http::{Health, OpsListener, OpsState, Stop};
use crate::telemetry::Metrics;

#[derive(Debug, Default)]
struct FakeHealth {
    ill: AtomicBool,
}

impl Health for FakeHealth {
    fn alive(&self) -> Result<(), String> {
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        if self.ill.load(Ordering::Relaxed) { Err("the queue is full".to_owned()) } else { Ok(()) }
    }
}

async fn start(health: Arc<FakeHealth>, tasks: &mut JoinSet<()>) -> SocketAddr {
    let settings = Ops { listen: "127.0.0.1:0".parse().unwrap() };
    let listener = OpsListener::bind(&settings).await.unwrap();
    let address = listener.address().unwrap();
    let state = OpsState { metrics: Arc::new(Metrics::new()), health };
    tasks.spawn(listener.serve(state, Stop::default()));
    address
}

async fn ask(address: SocketAddr, request: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{request}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let body = answer.split_off(end);
    (String::from_utf8(answer).unwrap(), body)
}

#[tokio::test]
async fn probes_answer_whatever_the_host() {
    let (health, mut tasks) = (Arc::<FakeHealth>::default(), JoinSet::new());
    let address = start(Arc::clone(&health), &mut tasks).await;
    for path in ["/livez", "/readyz", "/startupz"] {
        let (head, body) = ask(address, &format!("GET {path} HTTP/1.1\r\nHost: 10.1.2.3:9")).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
        assert_eq!(body, b"ok\n");
    }
    health.ill.store(true, Ordering::Relaxed);
    let (head, body) = ask(address, "GET /readyz HTTP/1.1\r\nHost: a").await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert_eq!(body, b"the queue is full\n");
}

#[tokio::test]
async fn metrics_come_as_text_and_gzipped_where_asked() {
    let mut tasks = JoinSet::new();
    let address = start(Arc::default(), &mut tasks).await;
    let request = "GET /metrics HTTP/1.0\r\nHost: a";
    let (head, plain) = ask(address, request).await;
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(plain.starts_with(b"# HELP"));
    let (head, body) = ask(address, &format!("{request}\r\nAccept-Encoding: gzip")).await;
    assert!(head.contains("content-encoding: gzip"), "{head}");
    let mut unpacked = String::new();
    flate2::read::GzDecoder::new(&*body).read_to_string(&mut unpacked).unwrap();
    assert!(unpacked.contains("gmfy_queue_events 0"));
}

#[tokio::test]
async fn nothing_else_is_there() {
    let mut tasks = JoinSet::new();
    let address = start(Arc::default(), &mut tasks).await;
    for (line, status) in [("GET /v1/events/", 404), ("GET /", 404), ("POST /livez", 405)] {
        let (head, body) = ask(address, &format!("{line} HTTP/1.1\r\nHost: a")).await;
        let answer = Answer::parse(&(head + std::str::from_utf8(&body).unwrap()));
        let kind = answer.header("content-type");
        assert_eq!((answer.status, kind), (status, Some("application/problem+json")), "{line}");
    }
}
