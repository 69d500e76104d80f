//! The threads' beats. Both work under the ledger's lock for a moment: whoever holds that lock
//! makes them hang.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::*;
use crate::telemetry::heartbeat::STUCK;

/// Holds the ledger's lock until it is dropped.
struct Held(Option<(mpsc::Sender<()>, std::thread::JoinHandle<()>)>);

impl Held {
    fn take(metrics: &Arc<Metrics>) -> Self {
        let ((free, held), (is_held, holds)) = (mpsc::channel(), mpsc::channel());
        let metrics = Arc::clone(metrics);
        let thread = std::thread::spawn(move || {
            metrics.ledger.update(|_| {
                is_held.send(()).unwrap();
                assert!(held.recv().is_err());
            });
        });
        holds.recv().unwrap();
        Self(Some((free, thread)))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let (free, thread) = self.0.take().unwrap();
        drop(free);
        thread.join().unwrap();
    }
}

/// Looks until `holds`, for far longer than a thread needs to get there.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(30), "never: {what}");
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_that_hangs_is_named_and_its_beat_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Timestamp::from_millis(1_000));
    let metrics = Arc::new(Metrics::new());
    let (queue, threads) =
        Queue::open(&options(dir.path()), clock.clone(), Arc::clone(&metrics)).unwrap();
    let beats = &metrics.heartbeats;
    assert_eq!(beats.alive(), Ok(()));
    queue.lanes(4).await.unwrap();

    for part in ["queue's writer", "queue's keeper"] {
        let held = Held::take(&metrics);
        let begun = queue.clone();
        let mut work = tokio::task::JoinSet::new();
        if part == "queue's writer" {
            work.spawn(async move {
                begun.append(submission(&["a"], 60)).await.unwrap();
            });
        } else {
            work.spawn(async move {
                let cursor = begun.lanes(4).await.unwrap().starts().remove(0).cursor;
                begun.save(0, cursor, Settlement::default()).await.unwrap();
            });
        }
        // The clock goes on until this thread is late; the other one beats as it waits.
        eventually(part, || {
            clock.advance(STUCK / 4);
            std::thread::yield_now();
            beats.alive().is_err_and(|why| why.contains(part))
        });
        drop(held);
        while work.join_next().await.is_some_and(|done| done.is_ok()) {}
        // Each goes round once more for a request of its own.
        queue.append(submission(&["a"], 60)).await.unwrap();
        queue.lanes(4).await.unwrap();
        eventually("alive again", || beats.alive().is_ok());
    }
    queue.close();
    drop(queue);
    threads.join().unwrap();
    clock.advance(STUCK * 2);
    assert_eq!(beats.alive(), Ok(()), "they ended");
}
