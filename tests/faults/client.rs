//! A small HTTP/1.1 client: one connection, one request at a time.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

pub(crate) struct Client {
    sender: SendRequest<Full<Bytes>>,
    /// Drives the connection; ends with the client.
    _connection: JoinSet<()>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { connection.await.unwrap_or_default() });
        Self { sender, _connection: tasks }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> (StatusCode, Bytes) {
        self.sender.ready().await.unwrap();
        let response = self.sender.send_request(request).await.unwrap();
        let status = response.status();
        (status, response.into_body().collect().await.unwrap().to_bytes())
    }

    pub(crate) async fn get(&mut self, path: &str) -> (StatusCode, Bytes) {
        let request = Request::get(path).header("host", "localhost");
        self.send(request.body(Full::default()).unwrap()).await
    }

    /// Posts events in wire form as one batch; panics unless all were accepted.
    pub(crate) async fn accepted(&mut self, events: &[String]) {
        let (status, answer) = self.batch(events).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{}", String::from_utf8_lossy(&answer));
    }

    /// The same, until there is room for them.
    pub(crate) async fn taken(&mut self, events: &[String]) {
        loop {
            match self.batch(events).await {
                (StatusCode::ACCEPTED, _) => return,
                (StatusCode::SERVICE_UNAVAILABLE, _) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                (status, answer) => panic!("{status}: {}", String::from_utf8_lossy(&answer)),
            }
        }
    }

    async fn batch(&mut self, events: &[String]) -> (StatusCode, Bytes) {
        let body = format!("[{}]", events.join(","));
        let request = Request::post("/v1/events/batch/")
            .header("host", "localhost")
            .header("content-type", "application/json");
        let request = request.body(Full::from(body)).unwrap();
        self.send(request).await
    }
}

/// An event in wire form. `number` is told back by [`number`].
pub(crate) fn event(kind: &str, user: &str, number: usize) -> String {
    format!(r#"{{"type":"{kind}","userId":"{user}","data":{{"number":{number}}}}}"#)
}

/// The number of an [`event`], from its text.
pub(crate) fn number(text: &[u8]) -> usize {
    let event: serde_json::Value = serde_json::from_slice(text).unwrap();
    usize::try_from(event["data"]["number"].as_u64().unwrap()).unwrap()
}
