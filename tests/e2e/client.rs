//! A bare HTTP/1.1 client over one kept-alive connection: what is sent is in the test's hands.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{self, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// How long an answer may take at most.
const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    host: SocketAddr,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), host: address })
    }

    pub(crate) async fn post(&mut self, path: &str, json: &str) -> io::Result<Answer> {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            self.host,
            json.len()
        );
        self.exchange(head + json).await
    }

    pub(crate) async fn get(&mut self, path: &str) -> io::Result<Answer> {
        let key = crate::process::KEY;
        let head =
            format!("GET {path} HTTP/1.1\r\nHost: {}\r\nx-api-key: {key}\r\n\r\n", self.host);
        self.exchange(head).await
    }

    /// Sends these bytes, and reads one answer.
    pub(crate) async fn exchange(&mut self, request: String) -> io::Result<Answer> {
        let exchange = async {
            self.stream.get_mut().write_all(request.as_bytes()).await?;
            self.read_answer().await
        };
        tokio::time::timeout(TIMEOUT, exchange).await?
    }

    async fn read_answer(&mut self) -> io::Result<Answer> {
        let broken = || io::Error::from(io::ErrorKind::InvalidData);
        let status_line = self.read_line().await?;
        let status = status_line.split(' ').nth(1).ok_or_else(broken)?;
        let status = status.parse().map_err(|_| broken())?;
        let mut length = None;
        let mut chunked = false;
        let mut retry_after = None;
        loop {
            let line = self.read_line().await?.to_ascii_lowercase();
            match line.split_once(": ") {
                Some(("content-length", value)) => length = value.parse().ok(),
                Some(("transfer-encoding", "chunked")) => chunked = true,
                Some(("retry-after", value)) => retry_after = Some(value.to_owned()),
                Some(_) => {}
                None => break,
            }
        }
        let mut body = Vec::new();
        if chunked {
            loop {
                let size = usize::from_str_radix(&self.read_line().await?, 16);
                let size = size.map_err(|_| broken())?;
                self.read_exactly(size, &mut body).await?;
                self.read_line().await?;
                if size == 0 {
                    break;
                }
            }
        } else {
            self.read_exactly(length.ok_or_else(broken)?, &mut body).await?;
        }
        Ok(Answer { status, retry_after, body })
    }

    async fn read_exactly(&mut self, size: usize, body: &mut Vec<u8>) -> io::Result<()> {
        let start = body.len();
        body.resize(start + size, 0);
        let (_, rest) = body.split_at_mut(start);
        self.stream.read_exact(rest).await.map(|_read| ())
    }

    /// A line without its end.
    async fn read_line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await? == 0 || !line.ends_with("\r\n") {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.truncate(line.len() - 2);
        Ok(line)
    }
}

/// One GET on a connection of its own.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    Connection::open(address).await.unwrap().get(path).await.unwrap()
}

/// One POST of JSON on a connection of its own.
pub(crate) async fn post(address: SocketAddr, path: &str, json: &str) -> Answer {
    Connection::open(address).await.unwrap().post(path, json).await.unwrap()
}

/// A value of the metrics, summed over the series of a family.
pub(crate) fn metric(scrape: &str, family: &str) -> u64 {
    let mut found = None;
    for line in scrape.lines() {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        if series.split('{').next() == Some(family) {
            found = Some(found.unwrap_or(0.0) + value.parse::<f64>().unwrap());
        }
    }
    let sum = found.unwrap_or_else(|| panic!("no series of {family}"));
    format!("{sum:.0}").parse().unwrap()
}

/// Asserts the account of every event in one scrape, and returns how many are queued.
pub(crate) async fn assert_account(ops: SocketAddr) -> u64 {
    let scrape = get(ops, "/metrics").await.text();
    let sum =
        |families: &[&str]| families.iter().map(|family| metric(&scrape, family)).sum::<u64>();
    let queued = metric(&scrape, "gmfy_queue_events");
    let came = sum(&[
        "gmfy_events_accepted_total",
        "gmfy_events_recovered_total",
        "gmfy_events_requeued_total",
    ]);
    let went = sum(&[
        "gmfy_events_delivered_total",
        "gmfy_events_dead_lettered_total",
        "gmfy_events_dropped_total",
    ]);
    assert_eq!(came, went + queued, "the account does not balance:\n{scrape}");
    queued
}
