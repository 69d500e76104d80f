//! `GET /api/status/stream`: the status, each second, as server-sent events.
//!
//! Nothing is done for it while nobody reads it. A slow reader gets fewer of them, never old ones.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::Response;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::super::body::Body;
use super::Status;
use super::stream::server_sent;

const EVERY: Duration = Duration::from_secs(1);
/// Readers at a time at most; with those of events, fewer than the listener's connections.
pub(super) const READERS: usize = 16;

/// The places of the readers.
#[derive(Clone, Debug)]
pub(super) struct Places(Arc<Semaphore>);

impl Places {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(READERS)))
    }

    /// A place until it is dropped, if one is free.
    pub(super) fn take(&self) -> Result<OwnedSemaphorePermit, TryAcquireError> {
        Arc::clone(&self.0).try_acquire_owned()
    }
}

/// The answer that goes on until the reader hangs up or the listener is to stop. `status` is
/// asked when there is room to send, at most once a second.
pub(super) fn answer(
    place: OwnedSemaphorePermit,
    status: impl Fn() -> Status + Send + 'static,
    stopping: CancellationToken,
) -> Response<Body> {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let parts = stream::unfold((ticks, status, place), async |(mut ticks, status, place)| {
        ticks.tick().await;
        let part = event(&status());
        Some((part, (ticks, status, place)))
    });
    server_sent(parts, stopping)
}

fn event(status: &Status) -> Bytes {
    // Fails only on maps with keys that aren't text, of which a status has none.
    let json = serde_json::to_string(status).unwrap_or_default();
    format!("data: {json}\n\n").into()
}
