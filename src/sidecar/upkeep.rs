//! What the process does for itself every few seconds: its runtime beats, and the disk's free
//! space is measured.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::telemetry::Metrics;

pub(super) const EVERY: Duration = Duration::from_secs(5);

/// Goes on until `stop` is cancelled. `dir` is the queue's folder.
pub(super) async fn upkeep(
    metrics: Arc<Metrics>,
    clock: Clock,
    dir: PathBuf,
    every: Duration,
    stop: CancellationToken,
) {
    let pulse = metrics.heartbeats.part("runtime", &clock);
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Not waited for: a disk that hangs must not look like a runtime that does.
    let mut measuring = JoinSet::new();
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        pulse.beat();
        while measuring.try_join_next().is_some() {}
        if measuring.is_empty() {
            let (metrics, dir) = (Arc::clone(&metrics), dir.clone());
            measuring.spawn_blocking(move || {
                if let Some(free) = free_bytes(&dir) {
                    metrics.queue_disk_free.set(free);
                }
            });
        }
    }
}

/// What an unprivileged process may still write to the disk that holds `dir`.
fn free_bytes(dir: &Path) -> Option<i64> {
    let disk = rustix::fs::statvfs(dir).ok()?;
    i64::try_from(disk.f_bavail.saturating_mul(disk.f_frsize)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::telemetry::heartbeat::STUCK;
    use std::sync::mpsc;

    #[test]
    fn a_runtime_that_does_not_turn_is_noticed_and_one_that_does_again_too() {
        let (metrics, clock) = (Arc::new(Metrics::new()), Clock::manual(Timestamp::from_millis(0)));
        let dir = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_time().build().unwrap();
        let mut tasks = JoinSet::new();
        let (kept, folder) = (Arc::clone(&metrics), dir.path().to_owned());
        let every = Duration::from_millis(5);
        let running = upkeep(kept, clock.clone(), folder, every, stop.clone());
        tasks.spawn_on(running, runtime.handle());
        // The first beat, and the first measurement.
        let begun = std::time::Instant::now();
        while metrics.queue_disk_free.get() == 0 {
            assert!(begun.elapsed() < Duration::from_secs(20), "never measured");
            std::thread::yield_now();
        }
        assert_eq!(metrics.heartbeats.alive(), Ok(()));

        let (free, held) = mpsc::channel::<()>();
        let (is_held, holds) = mpsc::channel();
        tasks.spawn_on(
            async move {
                is_held.send(()).unwrap();
                // What must never happen: the only worker is kept from its other tasks.
                assert!(held.recv().is_err());
            },
            runtime.handle(),
        );
        holds.recv().unwrap();
        clock.advance(STUCK * 2);
        let why = metrics.heartbeats.alive().unwrap_err();
        assert!(why.contains("the runtime is stuck"), "{why}");
        drop(free);
        while metrics.heartbeats.alive().is_err() {
            assert!(begun.elapsed() < Duration::from_secs(40), "it never beat again");
            std::thread::yield_now();
        }
        stop.cancel();
        runtime.block_on(async { while tasks.join_next().await.is_some() {} });
    }
}
