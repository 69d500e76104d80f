//! The corruption matrix: whatever happens to any file of the folder, a start succeeds, what the
//! damage did not touch is delivered, in order, and the account adds up.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::queue::fault::{self, Failure};
use crate::telemetry::ledger::DropReason;

/// What happens to a file.
#[derive(Clone, Copy, Debug)]
enum Harm {
    FlipBits(u8),
    ZeroPages(u8),
    Truncate,
    Empty,
    Remove,
}

/// For a database, and for the rest, which is small.
const HARMS: [Harm; 8] = [
    Harm::FlipBits(1),
    Harm::ZeroPages(1),
    Harm::Truncate,
    Harm::Remove,
    Harm::FlipBits(1),
    Harm::FlipBits(40),
    Harm::ZeroPages(30),
    Harm::Empty,
];
const FEW: usize = 4;

impl Harm {
    fn inflict(self, file: &Path, rng: &mut StdRng) {
        let mut bytes = std::fs::read(file).unwrap();
        let length = bytes.len();
        match self {
            Self::Remove => return std::fs::remove_file(file).unwrap(),
            Self::Empty => bytes.clear(),
            Self::Truncate => bytes.truncate(rng.random_range(0..=length)),
            Self::FlipBits(count) if length > 0 => {
                for _ in 0..count {
                    bytes[rng.random_range(0..length)] ^= 1 << rng.random_range(0..8);
                }
            }
            Self::ZeroPages(count) if length > 0 => {
                for _ in 0..count {
                    let start = rng.random_range(0..length) / 4096 * 4096;
                    bytes[start..length.min(start + 4096)].fill(0);
                }
            }
            Self::FlipBits(_) | Self::ZeroPages(_) => {}
        }
        std::fs::write(file, bytes).unwrap();
    }
}

/// A queue's folder, and what is in it.
pub(super) struct Original {
    pub(super) dir: tempfile::TempDir,
    events: BTreeMap<u64, QueuedEvent>,
    /// Of these the cursors are past.
    settled: BTreeSet<u64>,
    letters: Vec<DeadLetter>,
    /// The request with which the newest generation begins, which may take several frames; none
    /// after an orderly stop.
    newest: Option<RangeInclusive<u64>>,
}

pub(super) fn small(dir: &Path) -> Options {
    // Sealed at 1 MiB.
    Options { max_bytes: 8 << 20, ..options(dir) }
}

/// Three generations; the first half settled, and a few events ahead; some dead letters.
/// `in_order`: as an orderly stop leaves it, else as kill -9 does.
pub(super) async fn original(in_order: bool) -> Original {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open_with(&small(dir.path())).unwrap();
    let mut number = 0_usize;
    let mut newest = 0..=0;
    while std::fs::read_dir(dir.path().join("queue")).unwrap().count() < 3 {
        let users: Vec<String> = (0..1 + number % 5).map(|n| format!("u{}", n + number)).collect();
        let users: Vec<&str> = users.iter().map(String::as_str).collect();
        // Some larger than a frame.
        let size = if number.is_multiple_of(37) { 9_000 } else { 100 + number % 1_500 };
        let appended = fixture.queue.append(submission(&users, size)).await.unwrap();
        let (first, last) = appended.sequences.unwrap();
        newest = first.get()..=last.get();
        number += 1;
    }
    for _ in 0..20 {
        fixture.append(&["a", "b", "c"]).await;
    }
    let events: BTreeMap<u64, QueuedEvent> =
        fixture.read_all(1).await.into_iter().map(|event| (event.sequence.get(), event)).collect();
    let mut settled = BTreeSet::new();
    let half = events.len() as u64 / 2;
    for lane in 0..4 {
        let starts = fixture.queue.lanes(4).await.unwrap().starts();
        let mut cursor = starts[lane].cursor.clone();
        // Lanes are at different places.
        let watermark = half - 100 * lane as u64;
        for (_, mark) in &mut cursor.watermarks {
            *mark = Sequence::new(watermark);
        }
        let of_lane = |e: &QueuedEvent| starts[lane].partitions.contains(e.user.partition());
        let mut count = 0;
        for (sequence, event) in events.iter().filter(|(_, event)| of_lane(event)) {
            let ahead = *sequence >= watermark && sequence % 17 == 0;
            if ahead {
                cursor.settled.insert(event.sequence);
            }
            if ahead || *sequence < watermark {
                settled.insert(*sequence);
                count += 1;
            }
        }
        let settlement = Settlement { delivered: count, ..Settlement::default() };
        fixture.queue.save(lane, cursor, settlement).await.unwrap();
    }
    let letters: Vec<_> = (0..20).map(|n| letter(2 + 3 * n)).collect();
    fixture.queue.bury(letters.clone()).await.unwrap();
    if in_order {
        fixture.close();
        return Original { dir, events, settled, letters, newest: None };
    }
    let crashed = copy_of(dir.path());
    Original { dir: crashed, events, settled, letters, newest: Some(newest) }
}

pub(super) fn letter(sequence: u64) -> DeadLetter {
    DeadLetter { event: bytes::Bytes::from(vec![b'x'; 500]), ..super::letter(sequence) }
}

/// All files of the queue; the lock and the reserve hold nothing.
fn files(dir: &Path) -> Vec<PathBuf> {
    let is_data = |path: &PathBuf| !path.ends_with("LOCK") && !path.ends_with("RESERVE");
    let mut files: Vec<_> = contents_of(dir).into_keys().filter(is_data).collect();
    files.sort();
    files
}

/// The events of which, among these bytes, no byte was changed: a copy of each of their frames is
/// as it was.
fn untouched(before: &[u8], after: &[u8], events: &mut BTreeMap<u64, BTreeSet<Vec<u8>>>) {
    let after_of = |range: std::ops::Range<usize>| after.get(range);
    for (at, frame) in frames_in(before) {
        let header = frame.header;
        let range = at..at + frame.bytes.len();
        if after_of(range.clone()) == Some(&before[range]) {
            for sequence in header.first.get()..header.end().get() {
                events.entry(sequence).or_default().insert(header.key());
            }
        }
    }
}

/// Events all of whose frames are somewhere in the folder's generations as they were, and that a
/// start has to find.
pub(super) fn intact(original: &Original, harmed: &Path) -> BTreeSet<u64> {
    let (mut all, mut left) = (BTreeMap::new(), BTreeMap::new());
    for generation in std::fs::read_dir(original.dir.path().join("queue")).unwrap() {
        let generation = generation.unwrap();
        let before = std::fs::read(generation.path().join("db")).unwrap();
        let after = harmed.join("queue").join(generation.file_name()).join("db");
        let after = std::fs::read(after).unwrap_or_default();
        untouched(&before, &before, &mut all);
        untouched(&before, &after, &mut left);
    }
    let is_whole = |sequence: &u64| left.get(sequence) == all.get(sequence);
    let mut intact: BTreeSet<u64> = original.events.keys().copied().filter(is_whole).collect();
    if let Some(newest) = &original.newest
        && !newest.clone().all(|sequence| intact.contains(&sequence))
        && intact.range(newest.end() + 1..).next().is_none()
    {
        // At the end of a log that was cut off half a request is none.
        intact.retain(|sequence| !newest.contains(sequence));
    }
    intact
}

/// Delivers everything, as lanes would; returns what came.
async fn drain(fixture: &Fixture) -> BTreeMap<u64, QueuedEvent> {
    let mut delivered = BTreeMap::new();
    // A file that can't be read counts as damaged when that failed three times.
    for _ in 0..2 {
        if deliver(fixture, &mut delivered).await.is_ok() {
            return delivered;
        }
    }
    deliver(fixture, &mut delivered).await.unwrap();
    delivered
}

/// The same, until the store fails; `delivered` is what lanes tried to settle.
pub(super) async fn deliver(
    fixture: &Fixture,
    delivered: &mut BTreeMap<u64, QueuedEvent>,
) -> Result<(), StoreError> {
    let starts = fixture.queue.lanes(4).await?.starts();
    for (lane, start) in starts.iter().enumerate() {
        let low = start.cursor.watermarks.iter().map(|(_, mark)| *mark).min().unwrap();
        let watermarks: BTreeMap<_, _> =
            start.cursor.watermarks.iter().map(|(p, mark)| (p.number(), *mark)).collect();
        let mut position = low;
        let mut of_lane = BTreeMap::new();
        loop {
            let limit = ReadLimit { events: 300, bytes: 1 << 20 };
            let chunk = fixture.queue.read(position, &start.partitions, limit).await?;
            for event in chunk.events {
                assert!(event.sequence >= position, "in order");
                let is_settled = event.sequence < watermarks[&event.user.partition().number()]
                    || start.cursor.settled.contains(event.sequence);
                if !is_settled {
                    assert!(of_lane.insert(event.sequence.get(), event).is_none());
                }
            }
            if chunk.position == position {
                break;
            }
            position = chunk.position;
        }
        let mut cursor = start.cursor.clone();
        cursor.watermarks.iter_mut().for_each(|(_, mark)| *mark = position);
        let settlement = Settlement { delivered: of_lane.len() as u64, ..Settlement::default() };
        delivered.append(&mut of_lane);
        fixture.queue.save(lane, cursor, settlement).await?;
    }
    // What was lost is counted behind the answer of the last.
    fixture.queue.lanes(4).await?;
    fixture.queue.lanes(4).await?;
    Ok(())
}

pub(super) fn adds_up(fixture: &Fixture) -> u64 {
    let counts = fixture.metrics.ledger.snapshot();
    let dropped = counts.dropped.get(&DropReason::Damaged).copied().unwrap_or_default();
    let came_in = counts.recovered + counts.accepted.iter().sum::<u64>();
    assert_eq!(came_in, counts.delivered + dropped + counts.queued(), "{counts:?}");
    dropped
}

/// A start on `harmed` delivers at least these events, but for the `settled` ones, in order, and
/// accepts more.
pub(super) async fn survives(
    original: &Original,
    intact: &BTreeSet<u64>,
    settled: &BTreeSet<u64>,
    harmed: &Path,
) {
    let fixture = Fixture::open_with(&small(harmed)).unwrap();
    adds_up(&fixture);
    let (new, _) = fixture.append(&["new"]).await;
    let last = *original.events.keys().last().unwrap();
    assert!(new > last, "sequence {new} was used before");
    let mut delivered = drain(&fixture).await;
    assert!(delivered.remove(&new).is_some(), "the new event is not delivered");
    for (sequence, event) in &delivered {
        let before = original.events.get(sequence);
        assert_eq!(before, Some(event), "sequence {sequence} is not what it was");
    }
    for sequence in intact {
        let is_there = delivered.contains_key(sequence)
            || original.settled.contains(sequence)
            || settled.contains(sequence);
        assert!(is_there, "sequence {sequence} was not touched, and is lost");
    }
    let dropped = adds_up(&fixture);
    let counts = fixture.metrics.ledger.snapshot();
    assert_eq!(counts.queued(), 0, "{counts:?}");
    let unsettled = original.events.len() - original.settled.len();
    let lost = original
        .events
        .keys()
        .filter(|s| !original.settled.contains(s) && !delivered.contains_key(s))
        .count();
    assert!(
        dropped <= unsettled as u64 || dropped == lost as u64,
        "{dropped} dropped of {unsettled}, {lost} lost"
    );
    let letters = fixture.queue.dead_letters(None, 1000).await.unwrap();
    assert!(letters.letters.iter().all(|letter| original.letters.contains(letter)));
    fixture.close();
    let fixture = Fixture::open_with(&small(harmed)).unwrap();
    assert_eq!(fixture.queue.damages(), [], "it is whole again");
    assert_eq!(fixture.metrics.ledger.snapshot().queued(), 0);
    fixture.append(&["newer"]).await;
}

async fn matrix(in_order: bool, seed: u64, harms: usize) {
    let harms = if std::env::var_os("GMFY_LONG").is_some() { 40 * harms } else { harms };
    let original = original(in_order).await;
    let files = files(original.dir.path());
    assert!(files.iter().filter(|file| file.ends_with("db")).count() >= 5, "{files:?}");
    for file in &files {
        let harms = if file.ends_with("db") { harms } else { FEW };
        for (number, harm) in HARMS.into_iter().cycle().take(harms).enumerate() {
            let mut rng = StdRng::seed_from_u64(seed + number as u64);
            let harmed = copy_of(original.dir.path());
            let file = file.strip_prefix(original.dir.path()).unwrap();
            // Shown with a failing test.
            eprintln!("{harm:?} number {number} of {}", file.display());
            harm.inflict(&harmed.path().join(file), &mut rng);
            let intact = intact(&original, harmed.path());
            survives(&original, &intact, &BTreeSet::new(), harmed.path()).await;
        }
    }
}

#[tokio::test]
async fn any_damage_after_an_orderly_stop_is_survived() {
    matrix(true, 1, FEW).await;
}

#[tokio::test]
async fn any_damage_after_a_crash_is_survived() {
    matrix(false, 1_000, HARMS.len()).await;
}

#[tokio::test]
async fn a_read_that_fails_at_a_start_costs_nothing() {
    for failing in [1..2, 1..4] {
        let dir = tempfile::tempdir().unwrap();
        let fixture = Fixture::open_with(&small(dir.path())).unwrap();
        fixture.append(&["a", "b"]).await;
        let crashed = copy_of(dir.path());
        // Of the log: its folder is created, its newest generation is read.
        let log = crashed.path().join("queue");
        fault::plan(&log, Some((failing, Failure::Io)));
        drop(Fixture::open_with(&small(crashed.path())));
        fault::end(&log);
        let fixture = Fixture::open_with(&small(crashed.path())).unwrap();
        assert_eq!(fixture.read_all(1).await.len(), 2);
    }
}

/// Puts something else in the place of a file or folder: a file, or a folder with a file in it.
fn replace(path: &Path, by_file: bool) {
    if path.is_dir() {
        std::fs::remove_dir_all(path).unwrap();
    } else {
        std::fs::remove_file(path).unwrap();
    }
    if by_file {
        std::fs::write(path, "something else").unwrap();
    } else {
        std::fs::create_dir(path).unwrap();
        std::fs::write(path.join("something"), "else").unwrap();
    }
}

#[tokio::test]
async fn files_in_the_place_of_folders_and_folders_in_that_of_files_are_survived() {
    for in_order in [true, false] {
        let original = original(in_order).await;
        let mut places = Vec::new();
        for folder in std::fs::read_dir(original.dir.path().join("queue")).unwrap() {
            places.push(PathBuf::from("queue").join(folder.unwrap().file_name()));
        }
        places.extend(["state", "dead-letters"].map(PathBuf::from));
        places.extend(places.clone().iter().map(|folder| folder.join("db")));
        places.push("RESERVE".into());
        for place in places {
            for by_file in [true, false] {
                // Shown with a failing test.
                eprintln!("in order {in_order}: {} by file {by_file}", place.display());
                let harmed = copy_of(original.dir.path());
                replace(&harmed.path().join(&place), by_file);
                let intact = intact(&original, harmed.path());
                survives(&original, &intact, &BTreeSet::new(), harmed.path()).await;
            }
        }
    }
}
