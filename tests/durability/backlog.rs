//! A large backlog: memory, start and the cost of an append do not grow with it, and its space is
//! given back.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::client;
use crate::load::{Poster, acknowledged, fill};
use crate::process::{Process, sidecar};
use crate::sink::Sink;
use crate::usage::{self, Cost, GIB, MIB, bytes_read, folder_bytes, memory, mib};

/// What may be left on disk after a drain.
const LEFT: u64 = 64 * MIB;
/// What a start may read: the newest generation and the small state, not the backlog. So it does not
/// grow with that; how long it took is told.
const READ_AT_START: u64 = 48 * MIB;
/// The last events may cost so much more than the first did, in bytes and in calls.
const MORE: f64 = 1.1;
/// The same in processor time, which depends on what else the machine does.
const MORE_TIME: f64 = 1.5;
const BATCH: u64 = 500;

fn rate(events: u64, time: Duration) -> String {
    format!("{:.0}/s", events as f64 / time.as_secs_f64())
}

/// Some events that one poster posted, one request after the other: so each is a commit.
struct Part {
    events: u64,
    time: Duration,
    cost: Cost,
}

impl Part {
    async fn post(process: u32, api: SocketAddr, id: usize, events: u64) -> (Self, Vec<Poster>) {
        let (begun, before) = (Instant::now(), Cost::of(process));
        let posters = fill(api, id..id + 1, events, BATCH, || async {}).await;
        let cost = Cost::of(process).since(before);
        (Self { events, time: begun.elapsed(), cost }, posters)
    }

    /// Asserts that these events cost about as much as those `before` did; a rate is never
    /// asserted here, see `benches/queue.rs`.
    fn assert_no_dearer_than(&self, before: &Self) {
        for (what, of, more) in [
            ("bytes written", (|c| c.written) as fn(&Cost) -> u64, MORE),
            ("bytes on the device", |c| c.stored, MORE),
            ("calls that write", |c| c.calls, MORE),
            ("processor time", |c| c.ticks, MORE_TIME),
        ] {
            let (last, first) = (of(&self.cost), of(&before.cost));
            assert!(first > 0, "{what}: nothing is measured");
            assert!(last as f64 <= first as f64 * more, "{what}: {first} at first, {last} at last");
        }
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { events, time, cost: Cost { written, stored, calls, ticks } } = *self;
        write!(
            f,
            "{}, {} bytes written an event, {} on the device, {:.1} calls a commit, {:.1} us of a \
             processor an event",
            rate(events, time),
            written / events,
            stored / events,
            calls as f64 * BATCH as f64 / events as f64,
            ticks as f64 * 10_000.0 / events as f64
        )
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_costs_disk_only_and_gives_it_back() {
    backlog(crate::events(2_000_000, 10_000_000)).await;
}

async fn backlog(events: u64) {
    let sink = Sink::start(true).await;
    let folder = tempfile::tempdir().unwrap();
    // More than twice what they take, so that none of it is compacted meanwhile.
    let room = format!("queue.max_bytes={}", GIB.max(events * 512));
    let sets = [room.as_str(), "delivery.retry_max=1s"];

    let mut process = Process::spawn(sidecar(folder.path(), &sink.url, &sets));
    let api = process.ready().await.api;
    let idle = memory(process.id());
    let tenth = events / 10;
    let (first, mut posters) = Part::post(process.id(), api, 0, tenth).await;
    let begun = Instant::now();
    posters.extend(fill(api, 1..5, events - 2 * tenth, BATCH, || async {}).await);
    let between = rate(events - 2 * tenth, begun.elapsed());
    let (last, more) = Part::post(process.id(), api, 5, tenth).await;
    posters.extend(more);
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
         after the drain {}\n  the first tenth: {first}\n  the last tenth: {last}\n  \
         between, by four posters: {between}\n  ready {} ms after kill -9, {} read; drained {}, \
         {again} again\n  resident: idle {}, filling at most {}, restarted {}, draining at most {}",
        mib(full),
        full / total,
        mib(left),
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
    last.assert_no_dearer_than(&first);
    assert!(read <= READ_AT_START, "the start reads {}", mib(read));
}
