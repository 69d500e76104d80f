//! One connection: HTTP/1.1 or cleartext HTTP/2, within limits.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::Body;
use super::timed_stream::TimedStream;

/// The largest head of a request, and so the read buffer of a connection, in bytes.
const MAX_HEAD: usize = 32 * 1024;
const MAX_HEADERS: usize = 100;
const MAX_STREAMS: u32 = 128;
/// Streams that a peer opened and reset before they were looked at (CVE-2023-44487).
const MAX_RESET_STREAMS: usize = 32;
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// What waits to be sent on an HTTP/2 stream, in bytes.
const SEND_BUFFER: usize = 64 * 1024;

/// Answers requests.
pub(super) trait Handler: Send + Sync + 'static {
    fn handle(&self, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send;
}

/// What connections may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionLimits {
    /// How many there are at once; others wait to be accepted.
    pub(super) connections: usize,
    /// The longest wait for a request's head.
    pub(super) head_timeout: Duration,
    /// The longest wait for a peer to take any of an answer.
    pub(super) stall_timeout: Duration,
}

/// Speaks HTTP on the connections of one listener.
#[derive(Clone, Debug)]
pub(super) struct Protocol {
    builder: auto::Builder<Streams>,
    limits: ConnectionLimits,
}

impl Protocol {
    pub(super) fn new(streams: Streams, limits: ConnectionLimits) -> Self {
        let mut builder = auto::Builder::new(streams);
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_timeout)
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_HEADERS);
        #[allow(clippy::cast_possible_truncation, reason = "a small literal")]
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(MAX_HEAD as u32)
            .max_concurrent_streams(MAX_STREAMS)
            .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .max_send_buf_size(SEND_BUFFER);
        Self { builder, limits }
    }

    /// Serves a connection to its end; on `stop` it ends with the requests under way.
    pub(super) async fn serve<S, H>(self, stream: S, handler: Arc<H>, stop: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        H: Handler,
    {
        let ConnectionLimits { head_timeout, stall_timeout, .. } = self.limits;
        let stream = TimedStream::new(stream, head_timeout, stall_timeout);
        let service = service_fn(move |request| {
            let handler = Arc::clone(&handler);
            async move { Ok::<_, Infallible>(handler.handle(request).await) }
        });
        let mut connection = pin!(self.builder.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            // Callers that break off or speak something else are everyday.
            tracing::debug!(%error, "connection ended");
        }
    }
}

/// Runs the streams of HTTP/2 connections, which the HTTP library spawns; they can be awaited,
/// and cut off.
#[derive(Clone, Debug, Default)]
pub(super) struct Streams {
    tasks: TaskTracker,
    abort: CancellationToken,
}

impl Streams {
    /// Cuts off what still runs, and waits for it.
    pub(super) async fn end(&self) {
        self.abort.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let abort = self.abort.clone();
        self.tasks.spawn(async move {
            abort.run_until_cancelled_owned(stream).await;
        });
    }
}
