//! Cleartext HTTP/2 with prior knowledge.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinSet;

use super::harness::{EVENT, Server};

#[tokio::test]
async fn requests_share_one_connection() {
    let server = Server::start().await;
    let stream = TokioIo::new(server.connect().await);
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { connection.await.unwrap() });
    let request = |authority: &str, path: &str| {
        Request::post(format!("http://{authority}{path}"))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from_static(EVENT.as_bytes())))
            .unwrap()
    };
    let answers = [
        client.send_request(request("localhost", "/v1/events/")),
        client.send_request(request("localhost:7460", "/v1/events")),
        client.send_request(request("evil.example", "/v1/events/")),
        client.send_request(request("localhost", "/v1/users/")),
    ];
    let statuses = futures_util::future::join_all(answers).await;
    let statuses: Vec<u16> = statuses.into_iter().map(|a| a.unwrap().status().as_u16()).collect();
    assert_eq!(statuses, [202, 202, 421, 405]);

    let head = Request::head("http://localhost/v1/users/").body(Full::default()).unwrap();
    let answer = client.send_request(head).await.unwrap();
    assert_eq!(answer.status(), 418);
    assert!(answer.into_body().collect().await.unwrap().to_bytes().is_empty());
}
