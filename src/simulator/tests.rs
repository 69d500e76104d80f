//! The simulator through real HTTP.

mod api;
mod faults;

use std::net::SocketAddr;

use axum::http::StatusCode;
use reqwest::{Method, Response};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Handle, Options, Simulator};
use crate::clock::{Clock, Timestamp};

const KEY: &str = "the-simulators-key";

/// A running simulator, and a client for it.
struct Running {
    address: SocketAddr,
    handle: Handle,
    client: reqwest::Client,
    stop: CancellationToken,
    task: JoinSet<()>,
}

/// A key, a recording, a clock that stands at 2026-01-01.
fn options() -> Options {
    let clock = Clock::manual(Timestamp::from_millis(1_767_225_600_000));
    Options { api_key: Some(KEY.to_owned()), record: 1000, clock, ..Options::default() }
}

fn client() -> reqwest::ClientBuilder {
    // Another test may have been first.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().retry(reqwest::retry::never())
}

impl Running {
    async fn start(options: Options) -> Self {
        let simulator = Simulator::bind(options).await.unwrap();
        let (address, handle) = (simulator.address(), simulator.handle());
        let stop = CancellationToken::new();
        let mut task = JoinSet::new();
        task.spawn(simulator.run(stop.clone()));
        Self { address, handle, client: client().build().unwrap(), stop, task }
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client
            .request(method, format!("http://{}/{path}", self.address))
            .header("x-api-key", KEY)
            .header("content-type", "application/json")
    }

    async fn get(&self, path: &str) -> Value {
        let response = self.request(Method::GET, path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        json(response).await
    }

    async fn post(&self, path: &str, body: impl Into<String>) -> reqwest::Result<Response> {
        self.request(Method::POST, path).body(body.into()).send().await
    }

    async fn status(&self, path: &str, body: impl Into<String>) -> u16 {
        self.post(path, body).await.unwrap().status().as_u16()
    }

    /// Sends one event, and expects it to be taken.
    async fn event(&self, user: &str, event_type: &str, key: Option<&str>) {
        let status = self.status("v1/events/", event(user, event_type, key)).await;
        assert_eq!(status, 201);
    }

    async fn end(mut self) {
        self.stop.cancel();
        self.task.join_next().await.unwrap().unwrap();
    }
}

async fn json(response: Response) -> Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

fn event(user: &str, event_type: &str, key: Option<&str>) -> String {
    match key {
        None => format!(r#"{{"userId":"{user}","type":"{event_type}"}}"#),
        Some(key) => {
            format!(r#"{{"userId":"{user}","idempotenceKey":"{key}","type":"{event_type}"}}"#)
        }
    }
}
