//! A lane that lags: what the others delivered is given back, and what it still has to deliver is
//! all there, whatever happens meanwhile.

use std::collections::BTreeMap;

use super::damage::adds_up;
use super::running::damage_frame;
use super::*;
use crate::queue::engine::{Op, folder_bytes};
use crate::queue::fault::{self, Failure};
use crate::queue::frame::{Content, FrameHeader, left_out};
use crate::telemetry::ledger::DropReason;

const EVENTS: u64 = 2_600;

fn tiny(dir: &Path) -> Options {
    // Sealed at 768 KiB, compacted from 3 MiB on.
    Options { max_bytes: 6 << 20, ..options(dir) }
}

/// A folder with some generations, of which three lanes of four have delivered everything; what
/// waits for the fourth.
async fn lagging() -> (tempfile::TempDir, BTreeMap<u64, QueuedEvent>) {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open_with(&tiny(dir.path())).unwrap();
    for number in 0..EVENTS / 20 {
        let users: Vec<String> = (0..20).map(|n| format!("u{}", number * 7 + n)).collect();
        let users: Vec<&str> = users.iter().map(String::as_str).collect();
        // Some are larger than a frame.
        let size = if number % 40 == 3 { 9_000 } else { 300 };
        fixture.queue.append(submission(&users, size)).await.unwrap();
    }
    let events = fixture.read_all(1).await;
    assert_eq!(events.len() as u64, EVENTS);
    let mut waiting = BTreeMap::new();
    let mut settled = [0; 4];
    for event in events {
        let lane = event.user.partition().index() % 4;
        settled[lane] += 1;
        if lane == 0 {
            waiting.insert(event.sequence.get(), event);
        }
    }
    for (lane, count) in settled.into_iter().enumerate().skip(1) {
        fixture.settle(lane, EVENTS + 1, count).await;
    }
    let crashed = copy_of(dir.path());
    fixture.close();
    (crashed, waiting)
}

/// Whether what waits in the log is this.
async fn assert_waiting(fixture: &Fixture, waiting: &BTreeMap<u64, QueuedEvent>) {
    let lane = Partitions::of_lane(0, 4);
    let mut found = BTreeMap::new();
    let mut position = Sequence::FIRST;
    loop {
        let limit = ReadLimit { events: 70, bytes: 1 << 20 };
        let chunk = fixture.queue.read(position, &lane, limit).await.unwrap();
        assert!(chunk.events.is_sorted_by(|a, b| a.sequence < b.sequence));
        found.extend(chunk.events.into_iter().map(|event| (event.sequence.get(), event)));
        if chunk.position == position {
            break;
        }
        position = chunk.position;
    }
    assert_eq!(found.len(), waiting.len());
    assert!(found == *waiting, "as they were");
    let some: Vec<_> = waiting.keys().step_by(97).map(|n| Sequence::new(*n)).collect();
    let exactly = fixture.queue.read_exactly(&some).await.unwrap();
    assert!(exactly.iter().eq(some.iter().map(|sequence| &waiting[&sequence.get()])));
    let snapshot = fixture.metrics.ledger.snapshot();
    assert_eq!(snapshot.queued(), waiting.len() as u64, "{snapshot:?}");
    adds_up(fixture);
}

/// How many generations are compacted.
fn compacted(dir: &Path) -> usize {
    let generations = std::fs::read_dir(dir.join("queue")).unwrap();
    let has_left_out = |folder: &Path| {
        let bytes = std::fs::read(folder.join("db")).unwrap_or_default();
        frames_in(&bytes).any(|(_, frame)| left_out(&frame) > 0)
    };
    generations.filter(|generation| has_left_out(&generation.as_ref().unwrap().path())).count()
}

/// Gives the keeper work, until `done` or for some seconds.
async fn keep_busy(fixture: &Fixture, mut done: impl FnMut() -> bool) -> bool {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while std::time::Instant::now() < deadline {
        let _fails_when_killed = fixture.queue.lanes(4).await;
        if done() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}

/// Opens the folder and waits until `count` generations are compacted.
async fn compact(dir: &Path, count: usize) -> Fixture {
    let fixture = Fixture::open_with(&tiny(dir)).unwrap();
    assert!(keep_busy(&fixture, || compacted(dir) >= count).await, "{}", compacted(dir));
    fixture
}

#[tokio::test]
async fn a_lane_that_lags_keeps_little_of_what_the_others_delivered() {
    let (dir, waiting) = lagging().await;
    let before = folder_bytes(&dir.path().join("queue"));
    let fixture = compact(dir.path(), 2).await;
    // Down to half of max_bytes, no further.
    keep_busy(&fixture, || folder_bytes(&dir.path().join("queue")) < 3 << 20).await;
    let after = folder_bytes(&dir.path().join("queue"));
    assert!(after < before * 2 / 3 && after < 3 << 20, "{before} to {after}");
    assert_waiting(&fixture, &waiting).await;
    let crashed = copy_of(dir.path());
    let recovered = Fixture::open_with(&tiny(crashed.path())).unwrap();
    assert_eq!(recovered.queue.damages(), []);
    assert_waiting(&recovered, &waiting).await;
    recovered.append(&["a"]).await;
    recovered.close();
    fixture.settle(0, EVENTS + 1, waiting.len() as u64).await;
    fixture.queue.lanes(4).await.unwrap();
    fixture.queue.lanes(4).await.unwrap();
    assert_eq!(fixture.metrics.ledger.snapshot().queued(), 0);
    assert_eq!(generation_count(dir.path()), 1, "given back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_compaction_and_its_generation_may_go_meanwhile() {
    let (dir, waiting) = lagging().await;
    let fixture = Fixture::open_with(&tiny(dir.path())).unwrap();
    let fresh = dir.path().join("queue/compacted");
    fault::hold(&fresh, Op::Write);
    assert!(keep_busy(&fixture, || fault::is_holding(&fresh)).await);
    let meanwhile = async {
        assert_waiting(&fixture, &waiting).await;
        assert!(fixture.append(&["a"]).await.0 > EVENTS);
        fixture.settle(0, EVENTS + 1, waiting.len() as u64).await;
        fixture.queue.lanes(4).await.unwrap();
        assert_eq!(fixture.metrics.ledger.snapshot().queued(), 1);
        assert_eq!(generation_count(dir.path()), 1, "given back");
    };
    tokio::time::timeout(Duration::from_secs(60), meanwhile).await.unwrap();
    assert!(fault::is_holding(&fresh), "it is still under way");
    fault::end(&fresh);
    fixture.close();
    assert_eq!(generation_count(dir.path()), 1, "it does not come back");
    assert!(!fresh.exists(), "what was written is thrown away");
    let fixture = Fixture::open_with(&tiny(dir.path())).unwrap();
    assert_eq!(fixture.queue.damages(), []);
    assert_eq!(fixture.metrics.ledger.snapshot().queued(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generation_that_is_rebuilt_meanwhile_stays_as_it_is() {
    let (dir, waiting) = lagging().await;
    let fixture = Fixture::open_with(&tiny(dir.path())).unwrap();
    let fresh = dir.path().join("queue/compacted");
    fault::hold(&fresh, Op::Write);
    assert!(keep_busy(&fixture, || fault::is_holding(&fresh)).await);
    let generation = dir.path().join("queue/gen-00000000000000000001");
    let bytes = std::fs::read(generation.join("db")).unwrap();
    let frames: Vec<_> = frames_in(&bytes).map(|(_, frame)| frame.header).collect();
    damage_frame(&generation, frames[frames.len() / 2].first.get());
    let found = fixture.read_all(1).await.len();
    assert!((found as u64) < EVENTS, "it was rebuilt");
    assert!(found > waiting.len(), "and not compacted");
    let rebuilt = std::fs::read(generation.join("db")).unwrap();
    fault::end(&fresh);
    fixture.close();
    assert!(!fresh.exists());
    let fixture = Fixture::open_with(&tiny(dir.path())).unwrap();
    assert_eq!(fixture.read_all(1).await.len(), found);
    assert_eq!(std::fs::read(generation.join("db")).unwrap(), rebuilt);
    adds_up(&fixture);
}

#[tokio::test]
async fn whenever_the_process_ends_or_the_disk_fails_what_waits_is_there() {
    let (dir, waiting) = lagging().await;
    let is_long = std::env::var_os("GMFY_LONG").is_some();
    let step = if is_long { 1 } else { 3 };
    // Steps of the first compaction: read, create, write, sync, sync the folder, rename, sync it.
    for call in 0..9 {
        let copy = copy_of(dir.path());
        let fixture = Fixture::open_with(&tiny(copy.path())).unwrap();
        fault::plan(copy.path(), Some((call..call + 1, Failure::Kill)));
        let killed = fault::killed(copy.path());
        assert!(keep_busy(&fixture, || killed.exists()).await, "no call {call}");
        fixture.close();
        fault::end(copy.path());
        let recovered = Fixture::open_with(&tiny(&killed)).unwrap();
        assert_eq!(recovered.queue.damages(), []);
        assert_waiting(&recovered, &waiting).await;
        recovered.close();
        std::fs::remove_dir_all(killed).unwrap();
    }
    let failing = |failure| (0..9).step_by(step).map(move |call| (failure, call));
    let failing = failing(Failure::Io).chain(failing(Failure::NoSpace));
    for (failure, call) in failing.chain([(Failure::Short, 0)]) {
        let copy = copy_of(dir.path());
        let fixture = Fixture::open_with(&tiny(copy.path())).unwrap();
        fault::plan(copy.path(), Some((call..call + 1, failure)));
        // One that failed is tried again; behind two, the call is over.
        assert!(keep_busy(&fixture, || compacted(copy.path()) >= 2).await);
        assert!(fault::end(copy.path()) > call, "{failure:?} at {call}");
        assert_waiting(&fixture, &waiting).await;
        fixture.close();
        let again = Fixture::open_with(&tiny(copy.path())).unwrap();
        assert_waiting(&again, &waiting).await;
    }
}

#[tokio::test]
async fn without_the_state_what_waits_is_delivered_and_the_account_adds_up() {
    let (dir, waiting) = lagging().await;
    compact(dir.path(), 2).await.close();
    std::fs::remove_dir_all(dir.path().join("state")).unwrap();
    let fixture = Fixture::open_with(&tiny(dir.path())).unwrap();
    let found = fixture.read_all(1).await;
    let lane = Partitions::of_lane(0, 4);
    let of_lane = found.iter().filter(|event| lane.contains(event.user.partition()));
    assert!(of_lane.eq(waiting.values()));
    assert!((found.len() as u64) < EVENTS, "what was left out is not delivered again");
    assert_eq!(fixture.metrics.ledger.snapshot().queued(), found.len() as u64);
    adds_up(&fixture);
    assert!(fixture.append(&["a"]).await.0 > EVENTS);
}

#[tokio::test]
async fn damage_in_what_was_compacted_is_counted_exactly() {
    let (dir, waiting) = lagging().await;
    let fixture = compact(dir.path(), 2).await;
    fixture.close();
    let generation = dir.path().join("queue/gen-00000000000000000001");
    let bytes = std::fs::read(generation.join("db")).unwrap();
    // A frame may stand for settled events only, between large ones that wait.
    let holds_some = |header: &FrameHeader| {
        let range = header.first.get()..header.end().get();
        header.content == Content::Events && waiting.range(range).next().is_some()
    };
    let headers = frames_in(&bytes).map(|(_, frame)| frame.header);
    let frames: Vec<_> = headers.filter(holds_some).collect();
    let harmed = &frames[frames.len() / 2];
    damage_frame(&generation, harmed.first.get());
    let fixture = Fixture::open_with(&tiny(dir.path())).unwrap();
    let lane = Partitions::of_lane(0, 4);
    let mut found = fixture.read_all(1).await;
    found.retain(|event| lane.contains(event.user.partition()));
    let lost = (waiting.len() - found.len()) as u64;
    assert!(lost > 0 && lost <= u64::from(harmed.count), "{lost} of {harmed:?}");
    let damages = fixture.queue.damages();
    assert_eq!(damages[0].lost.len(), 1, "{damages:?}");
    // Past the damage, not past its generation.
    let behind = harmed.end().get() + 5;
    let count = found.iter().filter(|event| event.sequence.get() < behind).count() as u64;
    fixture.settle(0, behind, count).await;
    fixture.queue.lanes(4).await.unwrap();
    fixture.queue.lanes(4).await.unwrap();
    let snapshot = fixture.metrics.ledger.snapshot();
    assert_eq!(snapshot.dropped[&DropReason::Damaged], lost, "{snapshot:?}");
    assert_eq!(snapshot.queued(), found.len() as u64 - count);
    adds_up(&fixture);
}
