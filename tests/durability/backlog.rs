//! A large backlog: memory and start do not grow with it, and its space is given back.

use std::time::{Duration, Instant};

use crate::client;
use crate::load::{acknowledged, fill};
use crate::process::{Process, sidecar};
use crate::sink::Sink;
use crate::usage::{self, MIB, bytes_read, folder_bytes, memory, mib};

/// What may be left on disk after a drain.
const LEFT: u64 = 64 * MIB;
/// What a start may read: the newest generation and the small state, not the backlog.
const READ_AT_START: u64 = 48 * MIB;
const POSTERS: usize = 4;
const BATCH: u64 = 500;

fn rate(events: u64, time: Duration) -> String {
    format!("{:.0}/s", events as f64 / time.as_secs_f64())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_costs_disk_only_and_gives_it_back() {
    backlog(crate::events(100_000, 2_000_000)).await;
}

async fn backlog(events: u64) {
    let sink = Sink::start(true).await;
    let folder = tempfile::tempdir().unwrap();
    let room = format!("queue.max_bytes={}", 64 * MIB + events * 250);
    let sets = [room.as_str(), "delivery.retry_max=1s"];

    let mut process = Process::spawn(sidecar(folder.path(), &sink.url, &sets));
    let api = process.ready().await.api;
    let idle = memory(process.id());
    let tenth = events / 10;
    let mut posters = Vec::new();
    let mut rates = Vec::new();
    for part in 0..10 {
        let begun = Instant::now();
        let these = part * POSTERS..(part + 1) * POSTERS;
        posters.extend(fill(api, these, tenth, BATCH, || async {}).await);
        rates.push(rate(tenth, begun.elapsed()));
    }
    let total = acknowledged(&posters);
    let filling = memory(process.id());
    let full = folder_bytes(folder.path());
    process.kill().await;

    let begun = Instant::now();
    let mut process = Process::spawn(sidecar(folder.path(), &sink.url, &sets));
    let ops = process.ready().await.ops;
    assert_eq!(client::get(ops, "/readyz").await.status, 200);
    let ready = begun.elapsed();
    let read = bytes_read(process.id());
    let restarted = memory(process.id());
    assert_eq!(client::assert_account(ops).await, total, "recovered");

    let begun = Instant::now();
    sink.set_down(false);
    let patience = Duration::from_secs(120 + events / 5_000);
    crate::eventually("the queue is empty", patience, || async {
        sink.delivered() >= total && client::assert_account(ops).await == 0
    })
    .await;
    let drained = begun.elapsed();
    let draining = memory(process.id());
    let mut left = u64::MAX;
    crate::eventually("the space is given back", Duration::from_secs(10), || {
        left = folder_bytes(folder.path());
        std::future::ready(left < LEFT.min(full))
    })
    .await;
    let again = sink.assert_has_all_of(&posters);
    process.kill().await;

    crate::report(&format!(
        "backlog: {total} events of 110 bytes in batches of {BATCH}; on disk {}, {} bytes an event; \
         after the drain {}\n  accepted {}\n  ready {} ms after kill -9, {} read; drained {}, \
         {again} again\n  resident: idle {}, filling at most {}, restarted {}, draining at most {}",
        mib(full),
        full / total,
        mib(left),
        rates.join(" "),
        ready.as_millis(),
        mib(read),
        rate(total, drained),
        mib(idle.now),
        mib(filling.peak),
        mib(restarted.now),
        mib(draining.peak)
    ));
    for (when, memory) in [("filling", filling), ("restarted", restarted), ("draining", draining)] {
        assert!(memory.peak <= usage::MEMORY, "{when}: {}", mib(memory.peak));
    }
    assert!(read <= READ_AT_START, "the start reads {}", mib(read));
}
