//! The ops listener: probes and the scrape, nothing else.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use hyper_util::service::TowerToHyperService;
use tokio::sync::watch;
use tower_http::compression::CompressionLayer;

use super::listener::{self, Limits, Stop};
use super::problem::Problem;
use super::socket::{BindError, Socket};
use crate::config::Ops;
use crate::queue::Readiness;
use crate::telemetry::Metrics;

const CONNECTIONS: usize = 64;
/// What this listener has, with what it is for.
pub(super) const PATHS: [(&str, &str); 4] = [
    ("/metrics", "The metrics, as Prometheus text"),
    ("/livez", "Whether the process's own loops turn"),
    ("/readyz", "Whether events can be accepted"),
    ("/startupz", "Whether it has started"),
];
const NOT_AMONG: &str = "This listener has /metrics, /livez, /readyz and /startupz.";
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How the process is, as the probes ask.
pub trait Health: Send + Sync + 'static {
    /// Whether the process's own loops turn; why not, in words for the operator.
    ///
    /// # Errors
    /// When one is stuck.
    fn alive(&self) -> Result<(), String>;

    /// Whether events can be accepted.
    ///
    /// # Errors
    /// When not; says why.
    fn ready(&self) -> Result<(), String>;

    /// Called before each scrape, for figures that are only worked out when asked for.
    fn before_scrape(&self) {}
}

/// The words for a queue that can't accept.
#[must_use]
pub const fn readiness_text(readiness: Readiness) -> Option<&'static str> {
    match readiness {
        Readiness::Ready => None,
        Readiness::QueueFull => Some("the queue is full"),
        Readiness::DiskFull => Some("the disk is full"),
        Readiness::Failed => Some("the disk fails"),
        Readiness::Unreachable => Some("the queue can't be reached"),
        Readiness::Closed => Some("stopping"),
    }
}

/// What the ops listener works with.
#[derive(Clone)]
pub struct OpsState {
    pub metrics: Arc<Metrics>,
    pub health: Arc<dyn Health>,
}

impl fmt::Debug for OpsState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpsState").finish_non_exhaustive()
    }
}

/// A bound ops listener.
#[derive(Debug)]
pub struct OpsListener {
    socket: Socket,
}

impl OpsListener {
    /// Binds `ops.listen`.
    ///
    /// # Errors
    /// When it can't be bound.
    pub async fn bind(settings: &Ops) -> Result<Self, BindError> {
        Ok(Self { socket: Socket::tcp("ops.listen", settings.listen).await? })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.socket.address()
    }

    /// Serves until told to stop.
    pub async fn serve(self, state: OpsState, stop: Stop) {
        let router = Router::new()
            .route("/metrics", get(metrics).layer(CompressionLayer::new().gzip(true)))
            .route("/livez", get(async |State(s): State<OpsState>| probe(s.health.alive())))
            .route("/readyz", get(async |State(s): State<OpsState>| probe(s.health.ready())))
            // It is served only once the store is open and the ports are bound.
            .route("/startupz", get(async || probe(Ok(()))))
            .method_not_allowed_fallback(async || {
                Problem::method_not_allowed("GET, HEAD").into_response()
            })
            .fallback(async || Problem::not_among(NOT_AMONG).into_response())
            .with_state(state);
        let limits = Limits {
            connections: CONNECTIONS,
            head_timeout: HEAD_TIMEOUT,
            write_timeout: HEAD_TIMEOUT,
        };
        let (_unchanging, limits) = watch::channel(limits);
        listener::serve(vec![self.socket], TowerToHyperService::new(router), limits, stop).await;
    }
}

async fn metrics(State(state): State<OpsState>) -> Response<String> {
    state.health.before_scrape();
    match state.metrics.encode().map(String::from_utf8) {
        Ok(Ok(text)) => {
            let mut response = Response::new(text);
            let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, content_type);
            response
        }
        _ => text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics can't be written\n".to_owned()),
    }
}

fn probe(result: Result<(), String>) -> Response<String> {
    match result {
        Ok(()) => text(StatusCode::OK, "ok\n".to_owned()),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

fn text(status: StatusCode, text: String) -> Response<String> {
    let mut response = Response::new(text);
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
