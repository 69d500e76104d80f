//! Other settings while the listener serves.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::harness::{EVENT, Server, Setup, until_closed};
use crate::config::Secret;

#[tokio::test]
async fn the_next_request_goes_by_them() {
    let server = Server::with(Setup { keys: vec!["old"], ..Setup::default() }).await;
    let status = async |key: &str, body: &str| {
        let headers = ["Content-Type: application/json", &format!("x-api-key: {key}")];
        server.ask("POST /v1/events/", &headers, body).await.status
    };
    assert_eq!((status("old", EVENT).await, status("new", EVENT).await), (202, 401));
    let mut settings = server.all.clone();
    settings.api.keys = vec![Secret::new("new")];
    settings.api.max_event = EVENT.len();
    server.settings.replace(&settings);
    assert_eq!((status("old", EVENT).await, status("new", EVENT).await), (401, 202));
    assert_eq!(status("new", &EVENT.replace("register", "registered")).await, 413);
    settings.api.max_body = EVENT.len() - 1;
    server.settings.replace(&settings);
    assert_eq!(status("new", EVENT).await, 413);
    settings.api.allowed_hosts = vec!["example.org".to_owned()];
    server.settings.replace(&settings);
    assert_eq!(status("new", EVENT).await, 421);
}

#[tokio::test]
async fn a_request_under_way_ends_by_those_it_began_with() {
    let server = Server::with(Setup { gated: true, ..Setup::default() }).await;
    let mut stream = server.connect().await;
    let head = format!(
        "POST /v1/events/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Connection: close\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        EVENT.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.read_exact(&mut [0; 25]).await.unwrap();
    let mut settings = server.all.clone();
    settings.api.max_body = 1;
    server.settings.replace(&settings);
    stream.write_all(EVENT.as_bytes()).await.unwrap();
    server.queue.open_gate();
    assert!(until_closed(&mut stream).await.starts_with("HTTP/1.1 202"));
}

#[tokio::test]
async fn more_or_fewer_connections_are_taken() {
    const HEAD: &[u8] = b"HEAD /v1/users/ HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let server = Server::with(Setup { max_connections: Some(2), ..Setup::default() }).await;
    let limit = |connections: usize| {
        let mut settings = server.all.clone();
        settings.api.max_connections = connections;
        server.settings.replace(&settings);
    };
    let mut served = Vec::new();
    for connections in [2, 4] {
        limit(connections);
        while served.len() < connections {
            let mut stream = server.connect().await;
            stream.write_all(HEAD).await.unwrap();
            assert_ne!(stream.read(&mut [0; 4096]).await.unwrap(), 0);
            served.push(stream);
        }
    }
    limit(1);
    let mut waiting = server.connect().await;
    waiting.write_all(HEAD).await.unwrap();
    while served.len() > 1 {
        assert!(served.pop().is_some_and(|stream| stream.try_read(&mut [0; 1]).is_err()));
        let mut byte = [0; 1];
        let answered =
            tokio::time::timeout(std::time::Duration::from_millis(30), waiting.read(&mut byte));
        assert!(answered.await.is_err(), "{} are still served", served.len());
    }
    drop(served);
    assert_eq!(waiting.read(&mut [0; 1]).await.unwrap(), 1, "its turn");
}
