//! A steady stream through a shallow queue: the folder stays small for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::client;
use crate::load::{acknowledged, fill};
use crate::process::{Process, sidecar};
use crate::sink::Sink;
use crate::usage::{self, MIB, folder_bytes, memory, mib};

const FOLDER: u64 = 64 * MIB;
const POSTERS: usize = 4;
const BATCH: u64 = 100;
/// How many events may wait: more than that, and the posters pause.
const DEPTH: u64 = 20_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_steady_stream_through_a_shallow_queue_does_not_grow_the_folder() {
    let events = crate::events(2_000_000, 20_000_000);
    let sink = Sink::start(false).await;
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::spawn(sidecar(folder.path(), &sink.url, &["delivery.linger=10ms"]));
    let addresses = process.ready().await;

    let (done, mut is_done) = watch::channel(());
    let mut sampling = JoinSet::new();
    let path = folder.path().to_owned();
    sampling.spawn(async move {
        let mut samples = Vec::new();
        // Sampled as often as it changes much; it ends with the stream.
        while tokio::time::timeout(Duration::from_millis(20), is_done.changed()).await.is_err() {
            samples.push(folder_bytes(&path));
        }
        samples
    });
    let posted = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&sink.seen);
    let posters = fill(addresses.api, 0..POSTERS, events, BATCH, move || {
        let (posted, seen) = (Arc::clone(&posted), Arc::clone(&seen));
        async move {
            let mine = posted.fetch_add(BATCH, Ordering::Relaxed);
            crate::eventually("the queue is shallow", Duration::from_secs(60), || {
                std::future::ready(mine <= seen.delivered() + DEPTH)
            })
            .await;
        }
    })
    .await;
    drop(done);
    let samples = sampling.join_next().await.unwrap().unwrap();
    crate::eventually("the queue is empty", Duration::from_secs(60), || async {
        client::assert_account(addresses.ops).await == 0
    })
    .await;
    let again = sink.assert_has_all_of(&posters);
    let memory = memory(process.id());
    process.kill().await;

    let total = acknowledged(&posters);
    let largest = |samples: &[u64]| samples.iter().copied().max().unwrap_or(0);
    let (first, second) = samples.split_at(samples.len() / 2);
    crate::report(&format!(
        "stream: {total} events through a queue of at most {DEPTH}, {again} again: folder at most {} in the \
         first half, {} in the second, of {} samples; resident at most {}",
        mib(largest(first)),
        mib(largest(second)),
        samples.len(),
        mib(memory.peak)
    ));
    assert!(samples.len() >= 20, "too few samples to say anything: {}", samples.len());
    assert!(largest(&samples) <= FOLDER, "the folder grew to {}", mib(largest(&samples)));
    assert!(memory.peak <= usage::MEMORY, "resident: {}", mib(memory.peak));
}
