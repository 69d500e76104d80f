//! A small HTTP/1 client that sends exactly the bytes that it is told to.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::PATIENCE;

/// A request: by default with `Host: localhost`, and `Content-Type: application/json` on a POST.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

pub(crate) fn get(path: &str) -> Request {
    Request::new("GET", path)
}

/// A POST of JSON.
pub(crate) fn post(path: &str, body: impl AsRef<[u8]>) -> Request {
    Request::new("POST", path).header("content-type", "application/json").body(body)
}

impl Request {
    pub(crate) fn new(method: &str, path: &str) -> Self {
        let headers = vec![("host".to_owned(), "localhost".to_owned())];
        Self { method: method.to_owned(), path: path.to_owned(), headers, body: None }
    }

    /// Sets a header in place of what it was.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self = self.without(name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(sent, _)| !sent.eq_ignore_ascii_case(name));
        self
    }

    pub(crate) fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = Some(body.as_ref().to_vec());
        self
    }

    /// As it goes over the wire.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.path).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend(format!("{name}: {value}\r\n").bytes());
        }
        if let Some(body) = &self.body {
            bytes.extend(format!("content-length: {}\r\n", body.len()).bytes());
        }
        bytes.extend(b"\r\n");
        bytes.extend(self.body.iter().flatten());
        bytes
    }

    /// Sends it on a connection of its own.
    pub(crate) async fn send(&self, address: SocketAddr) -> Reply {
        let mut wire = Wire::connect(address).await;
        wire.ask(self).await
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Wire<S = TcpStream> {
    stream: S,
    /// What came and is not read yet.
    unread: Vec<u8>,
}

impl Wire {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).await.unwrap())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(crate) const fn new(stream: S) -> Self {
        Self { stream, unread: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Sends a request and reads its answer.
    pub(crate) async fn ask(&mut self, request: &Request) -> Reply {
        self.send(request.bytes()).await;
        if request.method == "HEAD" { self.head().await } else { self.reply().await }
    }

    /// Reads an answer whole.
    pub(crate) async fn reply(&mut self) -> Reply {
        let mut reply = self.head().await;
        if reply.status < 200 || matches!(reply.status, 204 | 304) {
            return reply;
        }
        if reply.header("transfer-encoding") == Some("chunked") {
            loop {
                let chunk = self.chunk().await;
                if chunk.is_empty() {
                    return reply;
                }
                reply.body.extend(chunk);
            }
        }
        match reply.header("content-length") {
            Some(length) => reply.body = self.exactly(length.parse().unwrap()).await,
            None => reply.body = self.rest().await,
        }
        reply
    }

    /// Reads the next chunk of a chunked body; empty at its end.
    pub(crate) async fn chunk(&mut self) -> Vec<u8> {
        let line = self.until(b"\r\n").await;
        let length = std::str::from_utf8(&line).unwrap().trim();
        let length = usize::from_str_radix(length, 16).unwrap();
        let mut chunk = self.exactly(length + 2).await;
        chunk.truncate(length);
        chunk
    }

    /// Reads an answer's head only.
    pub(crate) async fn head(&mut self) -> Reply {
        let head = self.until(b"\r\n\r\n").await;
        Reply::parse_head(std::str::from_utf8(&head).unwrap())
    }

    /// Waits until the other side closes, and returns what came before.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.unread)
    }

    async fn until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|window| window == end) {
                return self.unread.drain(..at + end.len()).collect();
            }
            let came = self.more().await;
            let so_far = String::from_utf8_lossy(&self.unread);
            assert!(came, "the connection was closed within an answer: {so_far:?}");
        }
    }

    async fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.unread.len() < length {
            assert!(self.more().await, "the connection was closed within an answer's body");
        }
        self.unread.drain(..length).collect()
    }

    /// Reads some more; false at the end, be it by a reset.
    async fn more(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.unread)).await;
        read.expect("an answer, or an end").is_ok_and(|read| read > 0)
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    fn parse_head(head: &str) -> Self {
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap();
        let headers = lines.filter_map(|line| line.split_once(": "));
        Self {
            status: status.parse().unwrap(),
            headers: headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect(),
            body: Vec::new(),
        }
    }

    /// The one header of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(sent, _)| sent == name);
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "several {name} headers");
        value
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("{error}: {:?}", String::from_utf8_lossy(&self.body));
        })
    }
}
