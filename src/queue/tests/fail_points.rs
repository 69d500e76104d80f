//! The disk that refuses and the process that ends, at each of the engine's calls in turn: nothing
//! acknowledged is lost, nothing comes out of order, nothing panics, and it goes on afterwards.

use std::collections::{BTreeMap, BTreeSet};

use super::damage::adds_up;
use super::*;
use crate::queue::fault::{self, Failure};

/// What the application and the lanes were told.
#[derive(Debug, Default)]
struct Told {
    /// Acknowledged events.
    accepted: BTreeMap<u64, String>,
    /// Everything before this was settled, as an answer to `save` says.
    settled: u64,
    /// Of these, and of all else before this, a `save` was tried; its outcome is unknown.
    tried: BTreeSet<u64>,
    tried_before: u64,
    buried: Vec<u64>,
}

fn tiny(dir: &Path) -> Options {
    // Sealed at 512 KiB.
    Options { max_bytes: 4 << 20, ..options(dir) }
}

/// A life of two processes: events, a generation that is sealed, cursors, a generation that is
/// removed, dead letters, an orderly stop, and more of it.
async fn life(dir: &Path) -> Told {
    let mut told = Told::default();
    for process in 0..2 {
        let Ok(fixture) = Fixture::open_with(&tiny(dir)) else { continue };
        for round in 0..8 {
            let users: Vec<String> = (0..12).map(|n| format!("{process}-{round}-{n}")).collect();
            let names: Vec<&str> = users.iter().map(String::as_str).collect();
            match fixture.queue.append(submission(&names, 6_000)).await {
                Ok(Appended { sequences: Some((first, _)), .. }) => {
                    told.accepted.extend((first.get()..).zip(users));
                }
                refused => assert!(
                    matches!(refused, Err(AppendError::Failed(_) | AppendError::DiskFull)),
                    "no clear answer: {refused:?}"
                ),
            }
            if round % 3 == 2 {
                settle_all(&fixture, &mut told).await;
            }
        }
        let sequence = 1 + process;
        let letter = super::damage::letter(sequence);
        if fixture.queue.bury(vec![letter]).await.is_ok() {
            told.buried.push(sequence);
        }
        fixture.close();
    }
    told
}

/// Settles half of what waits, in one lane.
async fn settle_all(fixture: &Fixture, told: &mut Told) {
    let Ok(starts) = fixture.queue.lanes(1).await else { return };
    let [start] = &starts.starts()[..] else { return };
    let low = start.cursor.watermarks[0].1;
    let limit = ReadLimit { events: 24, bytes: 1 << 20 };
    let Ok(chunk) = fixture.queue.read(low, &Partitions::all(), limit).await else { return };
    let mut cursor = start.cursor.clone();
    cursor.watermarks.iter_mut().for_each(|(_, mark)| *mark = chunk.position);
    let delivered = chunk.events.len() as u64;
    told.tried.extend(chunk.events.iter().map(|event| event.sequence.get()));
    told.tried_before = told.tried_before.max(chunk.position.get());
    let settlement = Settlement { delivered, ..Settlement::default() };
    if fixture.queue.save(0, cursor, settlement).await.is_ok() {
        told.settled = told.settled.max(chunk.position.get());
    }
}

/// A start on `dir` finds what was promised.
async fn holds(dir: &Path, told: &Told) {
    let fixture = Fixture::open_with(&tiny(dir)).unwrap();
    adds_up(&fixture);
    let found = fixture.read_all(1).await;
    assert!(found.is_sorted_by(|a, b| a.sequence < b.sequence), "in order, each once");
    let found: BTreeMap<u64, &QueuedEvent> =
        found.iter().map(|event| (event.sequence.get(), event)).collect();
    for (sequence, user) in &told.accepted {
        match found.get(sequence) {
            Some(event) => {
                let json = String::from_utf8_lossy(&event.json);
                assert!(json.contains(&format!("\"{user}\"")), "sequence {sequence} is another");
            }
            None => {
                assert!(told.tried.contains(sequence), "sequence {sequence} is lost")
            }
        }
    }
    let letters = fixture.queue.dead_letters(None, 10).await.unwrap();
    let letters: Vec<u64> = letters.letters.iter().map(|letter| letter.sequence.get()).collect();
    assert!(told.buried.iter().all(|sequence| letters.contains(sequence)), "{letters:?}");
    let newest = told.accepted.keys().chain(found.keys()).max().copied().unwrap_or_default();
    let (first, _) = fixture.append(&["new"]).await;
    assert!(first > newest.max(told.tried_before.saturating_sub(1)), "{first} was used before");
    adds_up(&fixture);
    fixture.close();
}

/// `length` calls fail, beginning with each in turn; `runs` of these, or all with `GMFY_LONG`.
async fn each_call_in_turn(failure: Failure, length: u64, runs: u64) {
    let dir = tempfile::tempdir().unwrap();
    fault::plan(dir.path(), Some((u64::MAX..u64::MAX, failure)));
    let told = life(dir.path()).await;
    let calls = fault::end(dir.path());
    assert!(told.accepted.len() == 192 && told.settled > 24 && told.buried.len() == 2, "{told:?}");
    holds(dir.path(), &told).await;
    let (mut tried, mut failed) = (0, 0);
    for call in in_turn(calls, runs) {
        let dir = tempfile::tempdir().unwrap();
        // Shown with a failing test.
        eprintln!("{failure:?} at call {call} of {calls}");
        fault::plan(dir.path(), Some((call..call.saturating_add(length), failure)));
        let told = life(dir.path()).await;
        let has_failed = fault::end(dir.path()) > call;
        failed += u64::from(has_failed);
        tried += 1;
        if failure == Failure::Kill && has_failed {
            let killed = fault::killed(dir.path());
            holds(&killed, &told).await;
            std::fs::remove_dir_all(killed).unwrap();
        } else {
            holds(dir.path(), &told).await;
        }
    }
    // How often the keeper syncs and compacts is a matter of time, so the last may not come.
    assert!(failed * 10 >= tried * 9, "{failed} of {tried} calls failed");
}

/// The numbers of calls to fail, of so many.
fn in_turn(calls: u64, runs: u64) -> impl Iterator<Item = u64> {
    let is_long = std::env::var_os("GMFY_LONG").is_some();
    let step = if is_long { 1 } else { calls.div_ceil(runs).max(1) };
    (0..calls).step_by(usize::try_from(step).unwrap())
}

#[tokio::test]
async fn a_failing_call_loses_nothing() {
    each_call_in_turn(Failure::Io, 1, 24).await;
}

#[tokio::test]
async fn two_failing_calls_lose_nothing() {
    each_call_in_turn(Failure::Io, 2, 16).await;
}

#[tokio::test]
async fn a_disk_that_is_full_for_a_while_loses_nothing() {
    each_call_in_turn(Failure::NoSpace, 9, 24).await;
}

#[tokio::test]
async fn a_short_write_loses_nothing() {
    each_call_in_turn(Failure::Short, 1, 24).await;
}

#[tokio::test]
async fn what_a_failed_sync_was_to_cover_is_not_taken_for_durable() {
    each_call_in_turn(Failure::Dropped, 1, 16).await;
    each_call_in_turn(Failure::Dropped, 2, 8).await;
}

#[tokio::test]
async fn a_kill_at_any_call_loses_nothing() {
    each_call_in_turn(Failure::Kill, u64::MAX, 32).await;
}
