//! The queue as a whole, against what it promises: on disk before the answer, counted right,
//! readable from any place, and all there again after a crash.

mod compaction;
mod damage;
mod fail_points;
mod heartbeats;
mod letters;
mod quarantine;
mod repetition;
mod running;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::compactor::Waits;
use super::frame::{Frame, MAGIC, decode};
use super::*;
use crate::clock::{Clock, Timestamp};
use crate::event::{Event, EventKind};
use crate::telemetry::Metrics;
use crate::telemetry::ledger::DeadLetterReason;

const ALL: ReadLimit = ReadLimit { events: 10_000, bytes: 64 << 20 };

/// For compaction, so that nobody waits for it.
const IMPATIENT: Waits = Waits {
    pinned_for: Duration::from_millis(50),
    look_every: Duration::from_millis(10),
    pause: Duration::from_millis(10),
};

struct Fixture {
    queue: Queue,
    threads: Option<Threads>,
    metrics: Arc<Metrics>,
}

fn options(dir: &Path) -> Options {
    Options {
        dir: dir.to_owned(),
        max_bytes: 1 << 30,
        drops_oldest: false,
        interval: None,
        dead_letters_max_bytes: 1 << 20,
        dedupe: DedupeLimits { window: Duration::from_secs(600), entries: 10_000 },
    }
}

impl Fixture {
    fn open(dir: &Path) -> Self {
        Self::open_with(&options(dir)).unwrap()
    }

    fn open_with(options: &Options) -> Result<Self, OpenError> {
        let metrics = Arc::new(Metrics::new());
        let clock = Clock::manual(Timestamp::from_millis(1_000));
        let (queue, threads) = Queue::open_with(options, IMPATIENT, clock, Arc::clone(&metrics))?;
        Ok(Self { queue, threads: Some(threads), metrics })
    }

    fn close(mut self) {
        self.queue.close();
        self.threads.take().unwrap().join().unwrap();
    }

    async fn append(&self, users: &[&str]) -> (u64, u64) {
        let appended = self.queue.append(submission(users, 60)).await.unwrap();
        let (first, last) = appended.sequences.unwrap();
        assert_eq!(last.get() - first.get() + 1, users.len() as u64, "consecutive");
        assert_eq!(appended.accepted, users.len() as u64);
        (first.get(), last.get())
    }

    /// Everything from `from` on, as the lanes would read it.
    async fn read_all(&self, from: u64) -> Vec<QueuedEvent> {
        let mut events = Vec::new();
        let mut position = Sequence::new(from);
        loop {
            let chunk = self.queue.read(position, &Partitions::all(), ALL).await.unwrap();
            events.extend(chunk.events);
            if chunk.position == position {
                return events;
            }
            position = chunk.position;
        }
    }

    /// Settles all of lane `lane` before `position`.
    async fn settle(&self, lane: usize, position: u64, count: u64) {
        let starts = self.queue.lanes(4).await.unwrap().starts();
        let mut cursor = starts[lane].cursor.clone();
        for (_, watermark) in &mut cursor.watermarks {
            *watermark = Sequence::new(position);
        }
        let settlement = Settlement { delivered: count, ..Settlement::default() };
        self.queue.save(lane, cursor, settlement).await.unwrap();
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(threads) = self.threads.take() {
            drop(threads.join());
        }
    }
}

/// Events of so many bytes and more take their full length on disk.
const INCOMPRESSIBLE: usize = 300;

/// So many letters that can't be compressed, others for each number.
pub(super) fn noise(number: usize, length: usize) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut state = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut letter = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(LETTERS[usize::try_from(state >> 58).unwrap()])
    };
    (0..length).map(|_| letter()).collect()
}

pub(super) fn submission(users: &[&str], size: usize) -> Submission {
    let mut submission = Submission::with_capacity(users.len(), users.len() * size);
    for (number, user) in users.iter().enumerate() {
        let padding = if size < INCOMPRESSIBLE { "x".repeat(size) } else { noise(number, size) };
        submission.push(&Event {
            user_id: Cow::Borrowed(user),
            event_type: Cow::Borrowed("t"),
            idempotence_key: None,
            kind: EventKind::Classic,
            wire: Cow::Owned(format!(
                "{{\"userId\":\"{user}\",\"type\":\"t\",\"p\":\"{padding}\"}}"
            )),
        });
    }
    submission
}

fn letter(sequence: u64) -> DeadLetter {
    let user = format!("u{sequence}");
    DeadLetter {
        sequence: Sequence::new(sequence),
        reason: DeadLetterReason::Rejected,
        status: Some(422),
        answer: "bad".to_owned(),
        attempts: 2,
        accepted_at: Timestamp::from_millis(7),
        buried_at: Timestamp::from_millis(8),
        user: UserHash::of(&user),
        kind: EventKind::Action,
        event: bytes::Bytes::from(format!("{{\"userId\":\"{user}\",\"type\":\"t\"}}")),
    }
}

/// The frames that lie in these bytes, and where.
fn frames_in(bytes: &[u8]) -> impl Iterator<Item = (usize, Frame<'_>)> {
    memchr::memmem::find_iter(bytes, &MAGIC).filter_map(|at| Some((at, decode(&bytes[at..]).ok()?)))
}

/// Copies a folder.
pub(super) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The folder as kill -9 would leave it: what the operating system has at this moment.
fn copy_of(dir: &Path) -> tempfile::TempDir {
    let target = tempfile::tempdir().unwrap();
    copy(dir, target.path());
    target
}

fn generation_count(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir.join("queue")).unwrap().flatten();
    entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"gen-")).count()
}

#[tokio::test]
async fn zeros_lie_ahead_of_small_commits_only() {
    for (users, has_zeros) in [(1, true), (4, false)] {
        let dir = tempfile::tempdir().unwrap();
        let fixture = Fixture::open(dir.path());
        // They are laid after the first answer, so before the second.
        for _ in 0..2 {
            fixture.queue.append(submission(&vec!["a"; users], 5_000)).await.unwrap();
        }
        let generations = std::fs::read_dir(dir.path().join("queue")).unwrap();
        let newest = generations.map(|entry| entry.unwrap().path()).max().unwrap();
        let bytes = std::fs::read(newest.join("db")).unwrap();
        assert_eq!(bytes.ends_with(&[0; 64 * 1024]), has_zeros, "{users}");
        let told = fixture.metrics.ledger.snapshot().queue_bytes;
        assert!(told >= bytes.len() as u64, "{told} bytes told of {}", bytes.len());
    }
}

#[tokio::test]
async fn zeros_keep_within_the_capacity() {
    // Wherever in a generation the queue is full.
    for max_bytes in (12 << 20..16 << 20).step_by(400_000) {
        let dir = tempfile::tempdir().unwrap();
        let fixture = Fixture::open_with(&Options { max_bytes, ..options(dir.path()) }).unwrap();
        while fixture.queue.append(submission(&["a"], 12_000)).await.is_ok() {}
        assert_eq!(fixture.queue.ready(), Readiness::QueueFull);
        let bytes = super::engine::folder_bytes(&dir.path().join("queue"));
        assert!(bytes <= max_bytes, "{bytes} bytes on disk of {max_bytes}");
    }
}

#[tokio::test]
async fn what_is_acknowledged_is_read_back_after_a_crash_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    let mut expected = Vec::new();
    for round in 0..50_u64 {
        let users: Vec<String> = (0..=round % 7).map(|n| format!("u{n}")).collect();
        let users: Vec<&str> = users.iter().map(String::as_str).collect();
        let (first, last) = fixture.append(&users).await;
        expected.extend(first..=last);
    }
    let crashed = copy_of(dir.path());
    let before = fixture.read_all(1).await;
    let recovered = Fixture::open(crashed.path());
    let after = recovered.read_all(1).await;
    assert_eq!(after, before);
    assert_eq!(after.iter().map(|e| e.sequence.get()).collect::<Vec<_>>(), expected);
    let counts = recovered.metrics.ledger.snapshot();
    assert_eq!((counts.recovered, counts.queued()), (after.len() as u64, after.len() as u64));
    // A sequence is never used twice.
    let (first, _) = recovered.append(&["u"]).await;
    assert!(first > *expected.last().unwrap());
}

#[tokio::test]
async fn an_orderly_stop_leaves_no_gap_in_the_sequences() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    assert_eq!(fixture.append(&["a", "b"]).await, (1, 2));
    fixture.close();
    let fixture = Fixture::open(dir.path());
    assert_eq!(fixture.append(&["a"]).await, (3, 3));
    assert_eq!(fixture.read_all(1).await.len(), 3);
}

#[tokio::test]
async fn large_events_and_large_requests_come_back_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    for (users, size) in [(1, 65_000), (3, 9_000), (200, 300), (1, 7_100), (40, 2_000)] {
        let users: Vec<String> = (0..users).map(|n| format!("u{n}")).collect();
        let users: Vec<&str> = users.iter().map(String::as_str).collect();
        fixture.queue.append(submission(&users, size)).await.unwrap();
    }
    let before = fixture.read_all(1).await;
    let crashed = copy_of(dir.path());
    let recovered = Fixture::open(crashed.path());
    assert_eq!(recovered.read_all(1).await, before);
    assert_eq!(recovered.metrics.ledger.snapshot().queued(), 245);
    // From the middle of a large event's parts, and just these.
    let wanted: Vec<_> = [1, 2, 4, 5, 204, 205, 245].map(Sequence::new).to_vec();
    let found = recovered.queue.read_exactly(&wanted).await.unwrap();
    assert_eq!(found.iter().map(|e| e.sequence).collect::<Vec<_>>(), wanted);
    assert_eq!(found[4].json, before[203].json);
    assert_eq!(recovered.read_all(205).await[..], before[204..]);
}

#[tokio::test]
async fn a_lane_reads_its_partitions_only_also_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    let users: Vec<String> = (0..500).map(|n| format!("user-{n}")).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    fixture.append(&users).await;
    fixture.close();
    let fixture = Fixture::open(dir.path());
    let mut total = 0;
    for lane in 0..4 {
        let partitions = Partitions::of_lane(lane, 4);
        let mut position = Sequence::FIRST;
        loop {
            let limit = ReadLimit { events: 13, bytes: 4_000 };
            let chunk = fixture.queue.read(position, &partitions, limit).await.unwrap();
            assert!(chunk.events.len() <= 13);
            assert!(chunk.events.iter().all(|e| partitions.contains(e.user.partition())));
            assert!(chunk.events.iter().all(|e| e.sequence >= position));
            total += chunk.events.len();
            if chunk.position == position {
                break;
            }
            position = chunk.position;
        }
    }
    assert_eq!(total, 500);
}

#[tokio::test]
async fn generations_are_sealed_and_removed_when_every_lane_has_passed_them() {
    let dir = tempfile::tempdir().unwrap();
    // Sealed at an eighth: 1 MiB.
    let fixture =
        Fixture::open_with(&Options { max_bytes: 8 << 20, ..options(dir.path()) }).unwrap();
    let users = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let generations = || generation_count(dir.path());
    let mut last = 0;
    while generations() < 4 {
        let appended = fixture.queue.append(submission(&users, 5_000)).await.unwrap();
        last = appended.sequences.unwrap().1.get();
    }
    assert_eq!(fixture.read_all(1).await.len() as u64, last);
    let crashed = copy_of(dir.path());
    for lane in 0..3 {
        fixture.settle(lane, last + 1, last / 4).await;
    }
    assert!(generations() >= 4, "one lane has not passed");
    fixture.settle(3, last + 1, last - 3 * (last / 4)).await;
    assert_eq!(fixture.metrics.ledger.snapshot().queued(), 0);
    // The removal follows the answer: the next task waits for it.
    fixture.queue.lanes(4).await.unwrap();
    fixture.queue.lanes(4).await.unwrap();
    assert_eq!(generations(), 1, "only the one that is written is left");
    assert!(fixture.read_all(1).await.is_empty() || generations() == 1);
    // What was not settled when it crashed is all there.
    let recovered =
        Fixture::open_with(&Options { max_bytes: 8 << 20, ..options(crashed.path()) }).unwrap();
    assert_eq!(recovered.read_all(1).await.len() as u64, last);
    assert_eq!(recovered.metrics.ledger.snapshot().recovered, last);
}

#[tokio::test]
async fn a_full_queue_refuses_and_takes_again_when_it_has_drained() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { max_bytes: 4 << 20, ..options(dir.path()) };
    let fixture = Fixture::open_with(&options).unwrap();
    let mut last = 0;
    let refusal = loop {
        match fixture.queue.append(submission(&["a", "b"], 20_000)).await {
            Ok(appended) => last = appended.sequences.unwrap().1.get(),
            Err(error) => break error,
        }
    };
    assert_eq!(refusal, AppendError::QueueFull);
    assert_eq!(fixture.queue.ready(), Readiness::QueueFull);
    let bytes = super::engine::folder_bytes(&dir.path().join("queue"));
    assert!(bytes <= 4 << 20, "{bytes} bytes on disk");
    assert_eq!(fixture.read_all(1).await.len() as u64, last, "nothing that was taken is lost");
    for lane in 0..4 {
        fixture.settle(lane, last + 1, if lane == 0 { last } else { 0 }).await;
    }
    fixture.queue.lanes(4).await.unwrap();
    fixture.queue.lanes(4).await.unwrap();
    assert_eq!(fixture.queue.ready(), Readiness::Ready, "a tenth is free");
    fixture.append(&["a"]).await;
}

#[tokio::test]
async fn cursors_and_stored_batches_survive_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    fixture.append(&["a", "b", "c", "d", "e"]).await;
    let starts = fixture.queue.lanes(4).await.unwrap().starts();
    assert!(starts.iter().all(|s| s.cursor.watermarks.iter().all(|w| w.1 == Sequence::FIRST)));
    let mut cursor = starts[2].cursor.clone();
    cursor.settled.insert(Sequence::new(3));
    let batch =
        StoredBatch { key: BatchKey(99), sequences: vec![Sequence::new(1), Sequence::new(4)] };
    cursor.unfinished = Some(batch);
    let settlement = Settlement {
        delivered: 1,
        dead_lettered: vec![(DeadLetterReason::Rejected, 1)],
        ..Settlement::default()
    };
    fixture.queue.save(2, cursor.clone(), settlement).await.unwrap();
    let counts = fixture.metrics.ledger.snapshot();
    assert_eq!((counts.delivered, counts.queued()), (1, 3));
    assert_eq!(counts.dead_lettered[&DeadLetterReason::Rejected], 1);
    let crashed = copy_of(dir.path());
    let recovered = Fixture::open(crashed.path());
    assert_eq!(recovered.metrics.ledger.snapshot().recovered, 3);
    // Another number of lanes waits until the batch is finished.
    let starts = recovered.queue.lanes(7).await.unwrap().starts();
    assert_eq!(starts.len(), 4);
    assert_eq!(starts[2].cursor, cursor);
    cursor.unfinished = None;
    recovered
        .queue
        .save(2, cursor, Settlement { delivered: 2, ..Default::default() })
        .await
        .unwrap();
    let starts = recovered.queue.lanes(7).await.unwrap().starts();
    assert_eq!(starts.len(), 7);
    assert!(starts.iter().all(|start| start.cursor.settled.contains(Sequence::new(3))));
    assert_eq!(recovered.metrics.ledger.snapshot().queued(), 1);
    let crashed = copy_of(crashed.path());
    let again = Fixture::open(crashed.path());
    assert_eq!(again.queue.lanes(7).await.unwrap().starts(), starts);
    assert_eq!(again.metrics.ledger.snapshot().queued(), 1);
}

#[tokio::test]
async fn a_request_that_was_cut_off_is_dropped_whole() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    fixture.append(&["a", "b"]).await;
    fixture.close();
    // Half of a request of three frames, as a crash between two writes leaves it.
    let generation = dir.path().join("queue").join("gen-00000000000000000001");
    let database = super::engine::Database::open(&generation).unwrap();
    let mut packer = super::packer::Packer::default();
    let mut builder = super::group::GroupBuilder::new(
        Sequence::new(3),
        Timestamp::from_millis(5),
        (3, 0),
        &mut packer,
    );
    builder.push(submission(&["c", "d", "e"], 4_000), 0);
    let group = builder.finish();
    assert!(group.frames.len() > 1);
    for frame in group.frames.iter().take(group.frames.len() - 1) {
        database.insert(&frame.key, &frame.value).unwrap();
    }
    database.flush().unwrap();
    drop(database);
    let fixture = Fixture::open(dir.path());
    assert_eq!(fixture.read_all(1).await.len(), 2);
    assert_eq!(fixture.metrics.ledger.snapshot().queued(), 2);
    let (first, _) = fixture.append(&["f"]).await;
    assert!(first >= 5, "the sequences that were seen on disk are not used again");
    fixture.close();
    let fixture = Fixture::open(dir.path());
    assert_eq!(fixture.read_all(1).await.len(), 3);
}

/// The versions of the frames that lie in the log.
fn versions(dir: &Path) -> std::collections::BTreeSet<u8> {
    let entries = std::fs::read_dir(dir.join("queue")).unwrap();
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        std::fs::read(entry.unwrap().path().join("db")).unwrap_or_default()
    };
    let files: Vec<_> = entries.map(read).collect();
    files.iter().flat_map(|bytes| frames_in(bytes)).map(|(_, frame)| frame.bytes[4]).collect()
}

#[tokio::test]
async fn a_folder_of_format_1_is_read_and_goes_on_in_format_2() {
    let dir = tempfile::tempdir().unwrap();
    let format = dir.path().join("FORMAT");
    let fixture = Fixture::open(dir.path());
    for user in ["a", "b", "c"] {
        fixture.append(&[user]).await;
    }
    let before = fixture.read_all(1).await;
    fixture.close();
    // Events alone lie as they did before frames were compressed, byte for byte.
    assert!(versions(dir.path()).iter().eq([&1]));
    std::fs::write(&format, "format 1, check 6b64e0ba\n").unwrap();

    let fixture = Fixture::open(dir.path());
    assert_eq!(std::fs::read_to_string(&format).unwrap().find("format 2"), Some(0));
    assert_eq!(fixture.read_all(1).await, before);
    fixture.append(&["u"; 40]).await;
    let crashed = copy_of(dir.path());
    assert!(versions(crashed.path()).iter().eq([&1, &2]));
    let recovered = Fixture::open(crashed.path());
    let after = recovered.read_all(1).await;
    assert_eq!(after, fixture.read_all(1).await);
    assert_eq!((&after[..3], after.len()), (&before[..], 43));
}

#[tokio::test]
async fn a_generation_is_sealed_at_so_many_sequences_too() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    let requests = usize::try_from(super::writer::SEQUENCES / 1024).unwrap();
    for _ in 0..requests {
        fixture.append(&["u"; 1024]).await;
    }
    assert_eq!(generation_count(dir.path()), 1);
    let (first, _) = fixture.append(&["u"]).await;
    assert_eq!((generation_count(dir.path()), first), (2, super::writer::SEQUENCES + 1));
    let crashed = copy_of(dir.path());
    assert_eq!(Fixture::open(crashed.path()).read_all(1).await.len() as u64, first);
}

#[tokio::test]
async fn dead_letters_are_kept_apart_and_survive() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    fixture.queue.bury(vec![letter(4), letter(9)]).await.unwrap();
    assert_eq!(fixture.metrics.ledger.snapshot().dead_letters, 2);
    let crashed = copy_of(dir.path());
    let recovered = Fixture::open(crashed.path());
    assert_eq!(recovered.metrics.ledger.snapshot().dead_letters, 2);
    let listed = recovered.queue.dead_letters(Some(Sequence::new(4)), 10).await.unwrap();
    assert_eq!(listed, DeadLetterPage { letters: vec![letter(9)], next: None });
    let (first, _) = recovered.append(&["a"]).await;
    assert!(first > 9, "a sequence of a dead letter is not used again");
}

#[tokio::test]
async fn a_second_process_is_refused_and_told_who_holds_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    let Err(error) = Fixture::open_with(&options(dir.path())) else { panic!("opened twice") };
    let text = error.to_string();
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    fixture.close();
    Fixture::open(dir.path()).close();
    std::fs::write(dir.path().join("FORMAT"), "7\n").unwrap();
    let Err(error) = Fixture::open_with(&options(dir.path())) else { panic!("opened") };
    assert!(matches!(error, OpenError::NewerFormat { .. }), "{error}");
}

#[tokio::test]
async fn a_lost_log_end_is_noticed_and_new_events_are_not_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    fixture.append(&["a", "b", "c"]).await;
    for lane in 0..4 {
        fixture.settle(lane, 4, if lane == 0 { 3 } else { 0 }).await;
    }
    let crashed = copy_of(dir.path());
    std::fs::remove_dir_all(crashed.path().join("queue")).unwrap();
    let recovered = Fixture::open(crashed.path());
    assert_eq!(recovered.metrics.ledger.snapshot().queued(), 0);
    let (first, _) = recovered.append(&["a"]).await;
    assert!(first >= 4, "above the cursors, or it would be skipped");
    assert_eq!(recovered.metrics.ledger.snapshot().queued(), 1);
    assert_eq!(recovered.read_all(4).await.len(), 1);
}

#[tokio::test]
async fn a_closed_queue_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    fixture.queue.close();
    assert_eq!(fixture.queue.append(submission(&["a"], 1)).await, Err(AppendError::Closed));
    assert_eq!(fixture.queue.lanes(1).await, Err(StoreError::Closed));
    assert_eq!(fixture.queue.ready(), Readiness::Closed);
}

#[tokio::test]
async fn many_producers_are_committed_in_groups() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open_with(&Options {
        interval: Some(Duration::from_millis(5)),
        ..options(dir.path())
    })
    .unwrap();
    let mut producers = tokio::task::JoinSet::new();
    for number in 0..64 {
        let queue = fixture.queue.clone();
        producers.spawn(async move {
            for _ in 0..20 {
                queue.append(submission(&[&number.to_string()], 40)).await.unwrap();
            }
        });
    }
    while let Some(result) = producers.join_next().await {
        result.unwrap();
    }
    let commits = fixture.metrics.commit_events.get_sample_count();
    assert!(commits < 1280, "{commits} commits");
    assert_eq!(fixture.metrics.ledger.snapshot().queued(), 1280);
    assert_eq!(fixture.read_all(1).await.len(), 1280);
}

#[tokio::test]
async fn a_folder_at_rest_is_looked_at_without_changing_it() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Folder::open(dir.path()), Err(OpenError::Folder { .. })), "no queue there");
    let options = Options { max_bytes: 8 << 20, ..options(dir.path()) };
    let fixture = Fixture::open_with(&options).unwrap();
    let mut last = 0;
    while std::fs::read_dir(dir.path().join("queue")).unwrap().count() < 3 {
        let users = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let appended = fixture.queue.append(submission(&users, 5_000)).await.unwrap();
        last = appended.sequences.unwrap().1.get();
    }
    let lane_0 = UserHash::of("a").partition().index() % 4;
    fixture.settle(lane_0, 9, 1).await;
    assert!(matches!(Folder::open(dir.path()), Err(OpenError::Locked { .. })));
    fixture.close();
    let before = contents_of(dir.path());
    let folder = Folder::open(dir.path()).unwrap();
    assert!(matches!(Fixture::open_with(&options), Err(OpenError::Locked { .. })));
    let mut sequences = Vec::new();
    let mut settled = Vec::new();
    for generation in folder.generations() {
        let report = folder.verify(generation.first).unwrap();
        assert!(!report.is_damaged(), "{report:?}");
        assert!(generation.end.is_none_or(|end| end == report.end));
        assert!(generation.events.is_none_or(|events| events == report.events));
        assert!(generation.bytes > 0 && report.frames > 0);
        folder
            .each_event(generation.first, |event, is_settled| {
                sequences.push(event.sequence.get());
                settled.extend(is_settled.then_some(event.sequence.get()));
                true
            })
            .unwrap();
    }
    assert_eq!(sequences, (1..=last).collect::<Vec<_>>());
    assert!(settled.contains(&1) && settled.iter().all(|sequence| *sequence < 9), "{settled:?}");
    assert_eq!(folder.dead_letters(), DeadLettersReport::default());
    assert_eq!((folder.state_damage(), folder.quarantined().unwrap().len()), (None, 0));
    assert_eq!(contents_of(dir.path()), before);
    // Now the second one is damaged.
    let second = &folder.generations()[1];
    let file = second.path.join("db");
    let mut bytes = std::fs::read(&file).unwrap();
    let frames: Vec<_> = memchr::memmem::find_iter(&bytes, b"GMFY\x01").collect();
    for at in frames {
        bytes[at + 100] ^= 1;
    }
    std::fs::write(&file, bytes).unwrap();
    let report = folder.verify(second.first).unwrap();
    assert_eq!(report.lost, [second.first..=Sequence::new(second.end.unwrap().get() - 1)]);
    assert!(report.is_damaged() && report.events == 0, "{report:?}");
}

/// Every file under a folder, with its bytes; the lock's apart.
fn contents_of(dir: &Path) -> std::collections::BTreeMap<std::path::PathBuf, Vec<u8>> {
    let mut found = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents_of(&path));
        } else if !path.ends_with("LOCK") {
            found.insert(path.clone(), std::fs::read(path).unwrap());
        }
    }
    found
}
