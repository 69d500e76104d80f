//! The listener and its connections.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tracing::{debug, warn};

use super::core::Shared;
use super::gate::Connection;
use super::{control, routes};

/// How many connections are served at once; more wait in the system's queue.
const CONNECTIONS_MAX: usize = 4096;
/// The wait after a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a connection may keep silent while the simulator is down.
const PEEK_WAIT: Duration = Duration::from_millis(200);

pub(super) async fn run(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    let router = routes::router(Arc::clone(&shared)).merge(control::router(Arc::clone(&shared)));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_ended) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, router.clone(), Arc::clone(&shared)));
                }
                Err(error) => {
                    warn!(target: "gmfy_simulator", %error, "can't accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    connections.shutdown().await;
}

/// Serves one connection until it ends or is cut; dropping the stream closes it.
async fn serve(stream: TcpStream, router: Router, shared: Arc<Shared>) {
    let connection = Connection::default();
    if shared.outage().is_cancelled() {
        if !wants_control(&stream).await {
            return;
        }
        connection.mark_control();
    }
    if let Err(error) = stream.set_nodelay(true) {
        debug!(target: "gmfy_simulator", %error, "can't set TCP_NODELAY");
    }
    let service = hyper::service::service_fn(|request: Request<Incoming>| {
        answer(request, router.clone(), connection.clone())
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let served = builder.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        biased;
        () = connection.cut_short() => {}
        () = closed_by_outage(&shared, &connection) => {}
        ended = served => if let Err(error) = ended {
            debug!(target: "gmfy_simulator", %error, "a connection ended early");
        },
    }
}

async fn answer(
    request: Request<Incoming>,
    router: Router,
    connection: Connection,
) -> Result<Response, Infallible> {
    if request.uri().path().starts_with(control::PREFIX) {
        connection.mark_control();
    }
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(connection);
    router.oneshot(request).await
}

/// Resolves when the simulator goes down; never for a connection of the control routes.
async fn closed_by_outage(shared: &Shared, connection: &Connection) {
    if !connection.is_control() {
        shared.outage().cancelled().await;
    }
    if connection.is_control() {
        std::future::pending().await
    }
}

/// Whether the first bytes, which stay unread, ask for a control route.
async fn wants_control(stream: &TcpStream) -> bool {
    let mut start = [0; 24];
    let peeked = tokio::time::timeout(PEEK_WAIT, stream.peek(&mut start)).await;
    let Ok(Ok(length)) = peeked else { return false };
    let start = start.get(..length).unwrap_or_default();
    let path = start.splitn(2, |byte| *byte == b' ').nth(1).unwrap_or_default();
    path.starts_with(control::PREFIX.as_bytes())
}
