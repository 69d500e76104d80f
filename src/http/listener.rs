//! The accept loop: connections up to a limit, each a task that the loop owns, ended in order.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::socket::{Socket, Stream};
use super::timed_stream::{Patience, TimedStream};

/// Bytes of a request's head, and of HTTP/2's header list.
const MAX_HEAD: usize = 64 * 1024;
/// Requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 128;
/// What a peer may send on an HTTP/2 connection before it is read, in bytes, and on each stream.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const STREAM_WINDOW: u32 = 256 * 1024;
/// Answers that wait for a peer to read, on each stream of HTTP/2, in bytes.
const STREAM_SEND_BUFFER: usize = 64 * 1024;
/// Streams that a peer opened and reset before they were looked at, and those that we reset for its
/// errors; a peer with more of either is hung up on (CVE-2023-44487, CVE-2025-8671).
const RESET_STREAMS: usize = 32;
const ERROR_STREAMS: usize = 128;
/// Wait after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a listener's connections may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Further connections wait in the system's backlog.
    pub(super) connections: usize,
    /// For a request's head, counted from the connection's start or the end of the answer before.
    pub(super) head_timeout: Duration,
    /// For a peer to read its answer.
    pub(super) write_timeout: Duration,
}

/// How a listener is told to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Accept nothing more; connections end after the request that they are in.
    pub drain: CancellationToken,
    /// End what is left, once told to drain.
    pub abort: CancellationToken,
}

/// What answers a listener's requests.
pub(super) trait Handler:
    Service<
        Request<Incoming>,
        Response = Response<Self::Body>,
        Error = Infallible,
        Future: Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static
{
    type Body: http_body::Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>
        + Send
        + 'static;
}

impl<S, B> Handler for S
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    type Body = B;
}

/// Serves every socket until told to stop. Each connection's task is awaited. Changed limits count
/// for the connections that are accepted from then on.
pub(super) async fn serve(
    sockets: Vec<Socket>,
    handler: impl Handler,
    limits: watch::Receiver<Limits>,
    stop: Stop,
) {
    let connections = limits.borrow().connections;
    let places = Arc::new(Semaphore::new(connections));
    let mut loops = JoinSet::new();
    for socket in sockets {
        let (limits, places) = (limits.clone(), Arc::clone(&places));
        loops.spawn(accept_loop(socket, handler.clone(), limits, places, stop.clone()));
    }
    let ended = async {
        while let Some(ended) = loops.join_next().await {
            if let Err(error) = ended {
                warn!(%error, "an accept loop ended by a panic");
            }
        }
    };
    tokio::select! {
        () = ended => {}
        () = follow(limits, &places, connections) => {}
    }
}

/// Keeps as many places as the limits say, of which there are `have`: new ones at once, and fewer
/// as connections end. Never ends.
async fn follow(mut limits: watch::Receiver<Limits>, places: &Semaphore, mut have: usize) {
    loop {
        let wanted = limits.borrow_and_update().connections;
        if wanted > have {
            places.add_permits(wanted - have);
            have = wanted;
        }
        let gone = tokio::select! {
            gone = places.acquire(), if have > wanted => gone,
            changed = limits.changed() => match changed {
                Ok(()) => continue,
                // They can't change any more.
                Err(_) if have > wanted => places.acquire().await,
                Err(_) => std::future::pending().await,
            },
        };
        if let Ok(place) = gone {
            place.forget();
            have -= 1;
        }
    }
}

async fn accept_loop(
    socket: Socket,
    handler: impl Handler,
    limits: watch::Receiver<Limits>,
    places: Arc<Semaphore>,
    stop: Stop,
) {
    let mut connections = JoinSet::new();
    let mut accepting = true;
    loop {
        // Room first: what can't be served yet waits outside.
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, socket.accept().await)
        };
        tokio::select! {
            biased;
            () = stop.drain.cancelled() => break,
            Some(_) = connections.join_next() => {}
            (place, stream) = accepted => match stream {
                Ok(stream) => {
                    accepting = true;
                    let limits = *limits.borrow();
                    let connection = connection(stream, handler.clone(), limits, stop.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(error) if was_gone(&error) => {}
                Err(error) => {
                    // For want of descriptors or memory: a short wait lets some be freed. Told
                    // once, since it would fill the log until they are.
                    if std::mem::take(&mut accepting) {
                        warn!(%error, "connections can't be accepted; trying again and again");
                    }
                    tokio::select! {
                        () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                        () = stop.drain.cancelled() => {}
                    }
                }
            }
        }
    }
    // No new connection is accepted while the old ones end.
    drop(socket);
    while connections.join_next().await.is_some() {}
}

/// Whether a connection ended before it was accepted, which costs nothing.
fn was_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn protocol(head_timeout: Duration) -> Builder<TokioExecutor> {
    let mut http = Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        // Header fields have hyper's own limit, 100: to set one costs an allocation a request.
        .max_buf_size(MAX_HEAD);
    // Without pipeline_flush: with it, a request that can't be parsed is closed unanswered.
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .max_send_buf_size(STREAM_SEND_BUFFER)
        .max_pending_accept_reset_streams(RESET_STREAMS)
        .max_local_error_reset_streams(ERROR_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .keep_alive_interval(head_timeout)
        .keep_alive_timeout(head_timeout);
    http
}

async fn connection(stream: Stream, handler: impl Handler, limits: Limits, stop: Stop) {
    let http = protocol(limits.head_timeout);
    match stream {
        Stream::Tcp(stream) => speak(stream, &http, handler, limits, &stop).await,
        Stream::Unix(stream) => speak(stream, &http, handler, limits, &stop).await,
    }
}

async fn speak(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    http: &Builder<TokioExecutor>,
    handler: impl Handler,
    limits: Limits,
    stop: &Stop,
) {
    let patience = Patience { first: limits.head_timeout, write: limits.write_timeout };
    let io = TokioIo::new(TimedStream::new(stream, patience));
    let connection = http.serve_connection(io, handler);
    tokio::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = &mut connection => ended,
        () = stop.drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = &mut connection => ended,
                () = stop.abort.cancelled() => return,
            }
        }
    };
    if let Err(error) = ended {
        // Callers that hang up or speak no HTTP: their matter, of interest only when looked for.
        debug!(%error, "a connection ended early");
    }
}
