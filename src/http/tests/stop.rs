//! A stop ends connections, not requests.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::harness::{Answer, EVENT, Server, Setup, until_closed};

async fn request_under_way() -> (Server, TcpStream) {
    let server = Server::with(Setup { gated: true, ..Setup::default() }).await;
    let mut stream = server.connect().await;
    let length = EVENT.len();
    let request = format!(
        "POST /v1/events/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    // Its handler wants the body: the request is under way.
    let mut interim = [0; 25];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut interim).await.unwrap();
    stream.write_all(EVENT.as_bytes()).await.unwrap();
    (server, stream)
}

#[tokio::test]
async fn a_request_under_way_is_answered_and_new_callers_are_refused() {
    let (mut server, mut stream) = request_under_way().await;
    let mut idle = server.connect().await;
    server.stop.drain.cancel();
    // A connection without a request ends at once.
    assert_eq!(until_closed(&mut idle).await, "");
    assert!(TcpStream::connect(server.address).await.is_err());
    server.queue.open_gate();
    assert_eq!(Answer::parse(&until_closed(&mut stream).await).status, 202);
    server.tasks.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn at_the_deadline_what_is_left_is_cut_off() {
    let (mut server, mut stream) = request_under_way().await;
    server.stop.drain.cancel();
    server.stop.abort.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(60), server.tasks.join_next()).await;
    ended.expect("ends without the queue's answer").unwrap().unwrap();
    assert_eq!(until_closed(&mut stream).await, "");
    assert_eq!(server.queue.appended(), 0);
}
