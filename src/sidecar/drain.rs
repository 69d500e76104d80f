//! Delivery without listeners, until the queue is empty: for a folder whose sidecar is gone.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::tasks::Tasks;
use super::{LAST_WAIT, SidecarError, key_changes, open_folder};
use crate::clock::Clock;
use crate::config::Settings;
use crate::delivery::{self, Delivery};
use crate::queue::{Queue, Threads, Workers};
use crate::telemetry::Metrics;
use crate::telemetry::ledger::Counts;
use crate::upstream::Upstream;

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// The parts of a sidecar that bring events to GMFY; no more are accepted.
#[derive(Debug)]
pub struct Drain {
    settings: Settings,
    metrics: Arc<Metrics>,
    queue: Queue,
    threads: Threads,
    upstream: Upstream,
    delivery: Delivery<Queue, Upstream>,
}

impl Drain {
    /// Opens the queue.
    ///
    /// # Errors
    /// When the folder or a file that the settings name can't be used.
    pub async fn build(settings: Settings, clock: Clock) -> Result<Self, SidecarError> {
        let metrics = Arc::new(Metrics::new());
        let (upstream, queue, threads) = open_folder(&settings, &clock, &metrics).await?;
        if queue.was_paused() {
            info!("an operator had paused delivery; this goes on all the same");
        }
        let delivery = Delivery::new(
            delivery::Settings::from_config(&settings),
            queue.clone(),
            upstream.clone(),
            clock,
            Arc::clone(&metrics),
        )?;
        Ok(Self { settings, metrics, queue, threads, upstream, delivery })
    }

    /// The counts as they stand.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.metrics.ledger.snapshot()
    }

    /// Delivers until nothing is left, or `stop` is cancelled: then the requests under way are
    /// finished, for `shutdown.deadline` at most. `tell` is called with the counts as it goes on.
    /// Returns the last ones.
    ///
    /// # Errors
    /// When a part ended by itself. What is not delivered is on disk all the same.
    pub async fn run(
        self,
        stop: CancellationToken,
        mut tell: impl FnMut(&Counts),
    ) -> Result<Counts, SidecarError> {
        let Self { settings, metrics, queue, threads, upstream, delivery } = self;
        let controls = delivery.controls();
        let delivery_stop = delivery::Stop::default();
        let watches = CancellationToken::new();
        let mut tasks = Tasks::default();
        tasks.spawn("delivery", {
            let stop = delivery_stop.clone();
            async move { delivery.run(stop).await.map_err(|error| error.to_string()) }
        });
        tasks.spawn("watch of the key and certificates", {
            let (upstream, stop) = (upstream.clone(), watches.clone());
            async move {
                upstream.watch_files(stop).await;
                Ok(())
            }
        });
        let key_changed = {
            let controls = controls.clone();
            move || controls.reconfigured()
        };
        tasks.spawn("key changes", key_changes(upstream, key_changed, watches.clone()));

        let queue_ended = threads.ended();
        tokio::pin!(queue_ended);
        let failure = loop {
            tokio::select! {
                remaining = controls.flush(TELL_EVERY) => {
                    tell(&metrics.ledger.snapshot());
                    if remaining == 0 {
                        break None;
                    }
                }
                () = stop.cancelled() => {
                    // Nothing more is begun.
                    controls.pause();
                    break None;
                }
                ended = tasks.any_ended() => break Some(SidecarError::from(ended)),
                // Why it ended, joining tells.
                () = &mut queue_ended => break None,
            }
        };
        if let Some(failure) = &failure {
            error!(error = %failure, "a part ended by itself; stopping");
        }
        delivery_stop.drain.cancel();
        tasks.wait_for("delivery", Instant::now() + settings.shutdown.deadline).await;
        delivery_stop.abort.cancel();
        watches.cancel();
        tasks.wait_for("delivery", Instant::now() + LAST_WAIT).await;
        queue.close();
        drop(queue);
        Workers::Sled(threads).join().await?;
        failure.map_or_else(|| Ok(metrics.ledger.snapshot()), Err)
    }
}
