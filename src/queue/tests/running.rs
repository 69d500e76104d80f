//! Disks that fail, fill up or rot while the queue runs.

use super::damage::adds_up;
use super::*;
use crate::queue::fault::{self, Failure};
use crate::telemetry::ledger::DropReason;

const FOR_EVER: std::ops::Range<u64> = 0..u64::MAX;

fn small(dir: &Path) -> Options {
    // Sealed at 1 MiB.
    Options { max_bytes: 16 << 20, ..options(dir) }
}

/// Appends until there are so many generations; returns the last sequence.
async fn fill(fixture: &Fixture, dir: &Path, generations: usize) -> u64 {
    let users = ["a", "b", "c", "d", "e", "f", "g", "h"];
    loop {
        let appended = fixture.queue.append(submission(&users, 5_000)).await.unwrap();
        if std::fs::read_dir(dir.join("queue")).unwrap().count() >= generations {
            return appended.sequences.unwrap().1.get();
        }
    }
}

/// Damages every copy of the frame that begins with this sequence.
pub(super) fn damage_frame(generation: &Path, sequence: u64) {
    let file = generation.join("db");
    let mut bytes = std::fs::read(&file).unwrap();
    let frames: Vec<usize> = memchr::memmem::find_iter(&bytes, &MAGIC)
        .filter(|at| bytes.get(at + 8..at + 16) == Some(&sequence.to_le_bytes()[..]))
        .collect();
    assert!(!frames.is_empty());
    for at in frames {
        bytes[at + 30] ^= 0x40;
    }
    std::fs::write(&file, bytes).unwrap();
}

fn generation(dir: &Path, number: usize) -> std::path::PathBuf {
    let mut all: Vec<_> =
        std::fs::read_dir(dir.join("queue")).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all[number].clone()
}

#[tokio::test]
async fn a_full_disk_refuses_with_a_reason_lets_lanes_go_on_and_accepts_again_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open_with(&small(dir.path())).unwrap();
    let (_, last) = fixture.append(&["a", "b", "c"]).await;
    fault::plan(dir.path(), Some((FOR_EVER, Failure::NoSpace)));
    let refused = fixture.queue.append(submission(&["d"], 10)).await;
    assert_eq!(refused, Err(AppendError::DiskFull));
    assert_eq!(fixture.queue.ready(), Readiness::DiskFull);
    assert_eq!(dir.path().join("RESERVE").metadata().unwrap().len(), 0, "given to the cursors");
    let again = fixture.queue.append(submission(&["d"], 10)).await;
    assert_eq!(again, Err(AppendError::DiskFull));
    // The reserve's room lets cursors and dead letters be written: only events still fail.
    fault::plan(dir.path(), None);
    fault::refuse_reserve(dir.path(), true);
    fixture.settle(0, last + 1, 3).await;
    fixture.queue.bury(vec![super::damage::letter(2)]).await.unwrap();
    let still = fixture.queue.append(submission(&["d"], 10)).await;
    assert_eq!(still, Err(AppendError::DiskFull));
    assert_eq!(fixture.queue.ready(), Readiness::DiskFull);
    fault::refuse_reserve(dir.path(), false);
    fault::end(dir.path());
    // No one has to append for that.
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while fixture.queue.ready() != Readiness::Ready {
        assert!(std::time::Instant::now() < deadline, "not ready again by itself");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (first, _) = fixture.append(&["d"]).await;
    assert_eq!(fixture.read_all(last + 1).await.len(), 1, "the refused ones are not there");
    assert!(first > last);
    adds_up(&fixture);
    fixture.close();
    let fixture = Fixture::open_with(&small(dir.path())).unwrap();
    assert_eq!(fixture.metrics.ledger.snapshot().queued(), 1);
    assert_eq!(fixture.queue.damages(), []);
}

#[tokio::test]
async fn a_sync_that_fails_once_is_made_good_and_twice_voids_the_group() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open_with(&small(dir.path())).unwrap();
    let (_, before) = fixture.append(&["before"]).await;
    // Of the log, not of the state.
    let log = dir.path().join("queue");
    fault::fail_syncs(&log, 1);
    let (once, _) = fixture.append(&["once"]).await;
    assert_eq!(once, before + 1, "the same sequence, in a new generation");
    fault::fail_syncs(&log, 2);
    let twice = fixture.queue.append(submission(&["twice"], 60)).await;
    assert!(matches!(twice, Err(AppendError::Failed(_))), "{twice:?}");
    assert_eq!(fixture.queue.ready(), Readiness::Failed);
    fault::end(&log);
    let (after, _) = fixture.append(&["after"]).await;
    assert_eq!(fixture.queue.ready(), Readiness::Ready);
    assert!(after > once + 1, "the voided sequence is not used again");
    let expected = [before, once, after];
    let numbers = |events: Vec<QueuedEvent>| -> Vec<u64> {
        events.iter().map(|event| event.sequence.get()).collect()
    };
    assert_eq!(numbers(fixture.read_all(1).await), expected);
    let crashed = copy_of(dir.path());
    let recovered = Fixture::open_with(&small(crashed.path())).unwrap();
    assert_eq!(numbers(recovered.read_all(1).await), expected);
    assert_eq!(recovered.queue.damages(), []);
}

#[tokio::test]
async fn with_interval_a_failed_sync_writes_what_it_covered_anew() {
    let dir = tempfile::tempdir().unwrap();
    let interval = Some(Duration::from_millis(20));
    let fixture = Fixture::open_with(&Options { interval, ..small(dir.path()) }).unwrap();
    let log = dir.path().join("queue");
    fault::fail_syncs(&log, 1);
    fixture.append(&["a", "b"]).await;
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while fixture.queue.damages().is_empty() {
        assert!(std::time::Instant::now() < deadline, "the failed sync is not noticed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    fault::end(&log);
    assert_eq!(fixture.read_all(1).await.len(), 2);
    fixture.append(&["c"]).await;
    let crashed = copy_of(dir.path());
    let recovered = Fixture::open_with(&small(crashed.path())).unwrap();
    assert_eq!(recovered.read_all(1).await.len(), 3);
}

#[tokio::test]
async fn damage_that_shows_while_running_costs_what_it_touches_and_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open_with(&small(dir.path())).unwrap();
    let last = fill(&fixture, dir.path(), 4).await;
    fixture.close();
    let fixture = Fixture::open_with(&small(dir.path())).unwrap();
    fixture.append(&["newest"]).await;
    // Behind the back of the running queue, in a sealed generation.
    damage_frame(&generation(dir.path(), 1), {
        let name = generation(dir.path(), 1);
        let first: u64 = name.to_str().unwrap().rsplit_once('-').unwrap().1.parse().unwrap();
        first + 3
    });
    let found = fixture.read_all(1).await;
    assert_eq!(found.len() as u64, last, "all but one, and the newest");
    let damages = fixture.queue.damages();
    assert_eq!((damages.len(), damages[0].lost.len()), (1, 1), "{damages:?}");
    assert!(
        damages[0].aside.exists() && damages[0].aside.starts_with(dir.path().join("quarantine"))
    );
    // Counted when every lane is past it.
    assert_eq!(fixture.metrics.ledger.snapshot().queued(), last + 1);
    let counts = |lane: usize| {
        let of = |e: &&QueuedEvent| e.user.partition().index() % 4 == lane;
        found.iter().filter(of).count() as u64
    };
    let behind = found.last().unwrap().sequence.next();
    let end = fixture.queue.read(behind, &Partitions::all(), ALL).await.unwrap().position;
    for lane in 0..4 {
        fixture.settle(lane, end.get(), counts(lane)).await;
    }
    fixture.queue.lanes(4).await.unwrap();
    fixture.queue.lanes(4).await.unwrap();
    let snapshot = fixture.metrics.ledger.snapshot();
    assert_eq!(snapshot.dropped[&DropReason::Damaged], 1, "{snapshot:?}");
    assert_eq!(snapshot.queued(), 0);
    adds_up(&fixture);
}

#[tokio::test]
async fn damage_at_a_start_is_counted_at_once_and_only_once() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open_with(&small(dir.path())).unwrap();
    for _ in 0..9 {
        fixture.append(&["a", "b"]).await;
    }
    fixture.close();
    damage_frame(&generation(dir.path(), 0), 5);
    let fixture = Fixture::open_with(&small(dir.path())).unwrap();
    assert_eq!(adds_up(&fixture), 2);
    assert_eq!(fixture.metrics.ledger.snapshot().queued(), 16);
    assert_eq!(fixture.queue.damages()[0].lost, [Sequence::new(5)..=Sequence::new(6)]);
    fixture.close();
    let fixture = Fixture::open_with(&small(dir.path())).unwrap();
    assert_eq!((adds_up(&fixture), fixture.queue.damages().len()), (0, 0));
    assert_eq!(fixture.read_all(1).await.len(), 16);
    assert_eq!(fixture.metrics.ledger.snapshot().recovered, 16);
}

#[tokio::test]
async fn an_orderly_stop_tells_that_the_end_was_lost() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open_with(&small(dir.path())).unwrap();
    for _ in 0..5 {
        fixture.append(&["a"]).await;
    }
    fixture.close();
    damage_frame(&generation(dir.path(), 0), 5);
    let fixture = Fixture::open_with(&small(dir.path())).unwrap();
    assert_eq!(adds_up(&fixture), 1);
    let (first, _) = fixture.append(&["b"]).await;
    assert!(first >= 6);
    let found = fixture.read_all(1).await;
    let found: Vec<u64> = found.iter().map(|event| event.sequence.get()).collect();
    assert_eq!(found, [1, 2, 3, 4, first]);
}

#[tokio::test]
async fn no_file_ever_appears_under_blobs() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open_with(&small(dir.path())).unwrap();
    for (users, size) in [(40, 2_000), (1, 65_000), (300, 60), (12, 7_000), (3, 7_200)] {
        let users: Vec<String> = (0..users).map(|n| format!("u{n}")).collect();
        let users: Vec<&str> = users.iter().map(String::as_str).collect();
        for _ in 0..6 {
            fixture.queue.append(submission(&users, size)).await.unwrap();
        }
    }
    let letter = |sequence| DeadLetter {
        event: bytes::Bytes::from(vec![b'x'; 60_000]),
        ..super::damage::letter(sequence)
    };
    fixture.queue.bury((1..9).map(letter).collect()).await.unwrap();
    for lane in 0..4 {
        let start = fixture.queue.lanes(4).await.unwrap().starts()[lane].clone();
        let mut cursor = start.cursor;
        // A cursor as large as they get: many ranges, and a stored batch.
        (0..1_000).for_each(|n| cursor.settled.insert(Sequence::new(3 + 1_000 * n)));
        let sequences = (1..400).map(|n| Sequence::new(7 + 5 * n)).collect();
        cursor.unfinished = Some(StoredBatch { key: BatchKey(7), sequences });
        fixture.queue.save(lane, cursor, Settlement::default()).await.unwrap();
    }
    fixture.close();
    let blobs: Vec<_> = contents_of(dir.path())
        .into_keys()
        .filter(|path| path.parent().is_some_and(|folder| folder.ends_with("blobs")))
        .collect();
    assert_eq!(blobs, Vec::<std::path::PathBuf>::new(), "what lies there is never synced");
}
