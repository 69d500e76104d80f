//! HTTP/1 at its edges.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::harness::{Answer, EVENT, Server, Setup, until_closed};

const POST: &str =
    "POST /v1/events/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";

#[tokio::test]
async fn the_host_is_checked() {
    let server = Server::start().await;
    let end = "Connection: close\r\n\r\n";
    for (request, status) in [
        ("GET /v1/version/ HTTP/1.1\r\nHost: localhost:1\r\n", 418),
        ("GET /v1/version/ HTTP/1.1\r\n", 400),
        ("GET /v1/version/ HTTP/1.0\r\n", 400),
        ("GET /v1/version/ HTTP/1.0\r\nHost: localhost\r\n", 418),
        ("GET /v1/version/ HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n", 400),
        ("GET /v1/version/ HTTP/1.1\r\nHost: evil.example\r\n", 421),
        ("GET http://localhost:7460/v1/version/ HTTP/1.1\r\nHost: evil.example\r\n", 418),
        ("GET http://evil.example/v1/version/ HTTP/1.1\r\nHost: localhost\r\n", 421),
    ] {
        let answer = Answer::parse(&server.raw(format!("{request}{end}")).await);
        assert_eq!(answer.status, status, "{request}");
    }
}

#[tokio::test]
async fn framing_that_could_smuggle_is_refused() {
    let server = Server::start().await;
    for framing in [
        "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "Content-Length: -1\r\n\r\n",
        "Content-Length: 5x\r\n\r\nhello",
        "Transfer-Encoding: gzip\r\n\r\n",
        "Bad Header: 1\r\n\r\n",
    ] {
        let answer = Answer::parse(&server.raw(format!("{POST}{framing}")).await);
        assert_eq!(answer.status, 400, "{framing}");
    }
    // Transfer-Encoding overrides (RFC 9112 §6.3), and what follows is no second request.
    let both = format!(
        "{POST}Content-Length: 5\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
         {:x}\r\n{EVENT}\r\n0\r\n\r\nGET /v1/version/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        EVENT.len()
    );
    let answer = server.raw(both).await;
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    assert!(server.queue.appended() <= 1);
}

#[tokio::test]
async fn a_bad_chunk_stores_nothing() {
    let server = Server::start().await;
    let chunks = format!("{:x}\r\n{EVENT}\r\nzz\r\n", EVENT.len());
    let answer = server.raw(format!("{POST}Transfer-Encoding: chunked\r\n\r\n{chunks}")).await;
    assert!(answer.is_empty() || Answer::parse(&answer).status == 400, "{answer}");
    assert_eq!((server.queue.appended(), server.rejected("invalid")), (0, 1));
}

#[tokio::test]
async fn a_body_that_breaks_off_stores_nothing() {
    let server = Server::start().await;
    let mut stream = server.connect().await;
    let request = format!("{POST}Content-Length: 100\r\n\r\n{EVENT}");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    until_closed(&mut stream).await;
    assert_eq!(server.queue.appended(), 0);
}

#[tokio::test]
async fn a_caller_that_expects_100_continue_gets_it_when_its_body_is_wanted() {
    let server = Server::start().await;
    let mut stream = server.connect().await;
    let length = EVENT.len();
    let head = format!(
        "{POST}Content-Length: {length}\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(EVENT.as_bytes()).await.unwrap();
    assert_eq!(Answer::parse(&until_closed(&mut stream).await).status, 202);

    // A body that would be too large is refused before it is sent.
    let head = format!("{POST}Content-Length: 10001\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(Answer::parse(&server.raw(head).await).status, 413);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = Server::start().await;
    let one = format!("{POST}Content-Length: {}\r\n\r\n{EVENT}", EVENT.len());
    let last = "GET /v1/version/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answer = server.raw(format!("{one}{one}{last}")).await;
    let places = [r#""first_sequence":1"#, r#""first_sequence":2"#, "418"].map(|t| answer.find(t));
    assert!(places.is_sorted() && places.iter().all(Option::is_some), "{answer}");
}

#[tokio::test]
async fn a_head_beyond_the_limits_is_refused() {
    let server = Server::start().await;
    let many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    let answer = Answer::parse(&server.raw(format!("{POST}{many}\r\n")).await);
    assert_eq!(answer.status, 431);
    let mut stream = server.connect().await;
    let long = format!("{POST}x: {}", "x".repeat(200_000));
    // The server may close before all is sent.
    drop(stream.write_all(long.as_bytes()).await);
    let answer = until_closed(&mut stream).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn silence_and_a_slow_head_are_closed() {
    let server = Server::start().await;
    for sent in ["", "P", "PRI * HTTP/2.0\r\n", "GET /v1/version/ HTTP/1.1\r\nHost: loc"] {
        let began = tokio::time::Instant::now();
        let answer = server.raw(sent).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{sent}: {answer}");
        let waited = began.elapsed();
        assert!(
            waited >= Duration::from_secs(30) && waited < Duration::from_secs(31),
            "{waited:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_stalled_body_is_a_408() {
    let server = Server::start().await;
    let answer = server.raw(format!("{POST}Content-Length: 100\r\n\r\n{{")).await;
    let answer = Answer::parse(&answer);
    assert_eq!((answer.status, answer.header("connection")), (408, Some("close")));
    insta::assert_snapshot!(answer.body, @r#"{"type":"urn:gmfy-sidecar:problem:body-timeout","title":"The body did not arrive in time","status":408,"detail":"Nothing, or too little, came for 30 s."}"#);
    assert_eq!(server.rejected("timeout"), 1);
}

#[tokio::test]
async fn a_unix_socket_serves_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let setup = Setup { unix_socket: Some(path.clone()), ..Setup::default() };
    let mut server = Server::with(setup).await;
    for (host, status) in [("localhost", 418), ("evil.example", 421)] {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        let request =
            format!("GET /v1/version/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(Answer::parse(&until_closed(&mut stream).await).status, status);
    }
    server.stop.drain.cancel();
    server.tasks.join_next().await.unwrap().unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn beyond_the_limit_a_connection_waits_for_its_turn() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    // Both sockets share the one place, whichever of them is called.
    let setup =
        Setup { max_connections: Some(1), unix_socket: Some(path.clone()), ..Setup::default() };
    let server = Server::with(setup).await;
    let request = "GET /v1/version/ HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut first = server.connect().await;
    first.write_all(request.as_bytes()).await.unwrap();
    let mut byte = [0; 1];
    first.read_exact(&mut byte).await.unwrap();
    let mut second = UnixStream::connect(&path).await.unwrap();
    let closing = request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    second.write_all(closing.as_bytes()).await.unwrap();
    let waits = tokio::time::timeout(Duration::from_millis(50), second.read_exact(&mut byte)).await;
    assert!(waits.is_err(), "the limit holds");
    drop(first);
    until_closed(&mut second).await;
}
