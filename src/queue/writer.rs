//! The one thread that appends: group commit.
//!
//! It takes all requests that wait, up to what one commit holds (see `inbox`), writes them as frames,
//! makes them durable with one flush and one fdatasync, and answers them all. While it waits for the
//! disk, the next group gathers; when idle, nothing waits for anything.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};
use tracing::{error, info, warn};

use super::answers::{Answers, Caller};
use super::dedupe::{Dedupe, Known, Pack};
use super::engine::{Database, EngineError};
use super::generations::Generations;
use super::group::{Group, GroupBuilder};
use super::inbox::{Outlet, Taken};
use super::keeper::Task;
use super::letters::LettersTask;
use super::live::Live;
use super::packer::Packer;
use super::readiness::AtomicReadiness;
use super::reserve::Reserve;
use super::state::{
    Change, GenerationRecord, PIECE, PackRecord, Sealed, put_generation, put_pack, remove_pack,
    reserve,
};
use super::store::Turn;
use super::tail::Tail;
use super::{AppendError, Appended, QueuedEvent, Readiness, Sequence, Submission};
use crate::clock::{Clock, Timestamp};
use crate::telemetry::heartbeat::BEAT;
use crate::telemetry::stream::{EventOutcome, Happening};
use crate::telemetry::traces::{Accepting, Span};
use crate::telemetry::{Metrics, Pulse};

/// What a commit may take beside its own bytes: a segment of sled's and a new generation's files.
const HEADROOM: u64 = 1024 * 1024;
/// Sequences that a generation may use, so that the reserve on disk is moved only when one begins.
pub(super) const RESERVE: u64 = 1 << 24;
/// More than this no request has: see `api.max_batch_events`.
const LARGEST_REQUEST: u64 = 10_000_000;
/// A generation is sealed at so many sequences too, however few bytes compression leaves of them: so
/// is bounded what a start decodes and remembers of the newest one, and with a request on top, and
/// that request's note, it stays within the reserve.
pub(super) const SEQUENCES: u64 = if cfg!(test) { 1 << 13 } else { 1 << 18 };
const _: () = assert!(SEQUENCES + LARGEST_REQUEST < RESERVE);
/// Commits of more bytes on average make do without zeros ahead of the log.
const LARGE: usize = 16 * 1024;
/// How often a full disk is looked at while nothing is appended.
const PROBE_EVERY: Duration = Duration::from_millis(500);

/// A request on its way to the disk.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) submission: Submission,
    pub(super) done: Caller,
    /// Its share of the memory that waiting requests may take; given back with the answer.
    pub(super) permit: OwnedSemaphorePermit,
    /// Of a requeue: nobody else works on dead letters until it is done.
    pub(super) turn: Option<Turn>,
}

/// A commit as a part of a request's trace.
#[derive(Debug)]
struct Traced {
    span: Span,
    request: Box<Accepting>,
}

/// What the writer knows of the generation it writes.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) first: Sequence,
    pub(super) database: Arc<Database>,
    pub(super) appended_before: u64,
    pub(super) events: u64,
    /// Set when a commit to it failed and that could not be recorded yet: nothing from here on
    /// counts, and nothing more may be written to it.
    pub(super) failed_at: Option<Sequence>,
}

/// What was committed since the log last neared the end of the zeros ahead of it.
#[derive(Debug, Default)]
pub(super) struct Recent {
    commits: usize,
    bytes: usize,
}

impl Recent {
    fn is_large(&self) -> bool {
        self.bytes > self.commits * LARGE
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) requests: Outlet,
    pub(super) keeper: Sender<Task>,
    /// None after a failure, until a new one is begun.
    pub(super) current: Option<Written>,
    pub(super) next: Sequence,
    pub(super) appended: u64,
    pub(super) generations: Arc<Generations>,
    pub(super) tail: Arc<Tail>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
    pub(super) readiness: Arc<AtomicReadiness>,
    pub(super) reserve: Arc<Reserve>,
    pub(super) max_bytes: u64,
    /// A generation is sealed once its file is longer than this, in bytes.
    pub(super) seal_at: u64,
    pub(super) recent: Recent,
    pub(super) live: Arc<Live>,
    pub(super) unsynced_since: Option<Instant>,
    pub(super) pulse: Pulse,
    /// Where the events that lanes are to keep begin.
    pub(super) horizon: watch::Sender<Sequence>,
    pub(super) dedupe: Arc<Dedupe>,
    /// What is to be known of the generation that is written.
    pub(super) pack: Pack,
    /// What is stored of the sealed ones, the oldest first.
    pub(super) packs: VecDeque<PackRecord>,
    pub(super) packer: Packer,
}

/// Why a group was not committed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommitError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("the state could not be written: {0}")]
    State(String),
}

impl CommitError {
    fn is_no_space(&self) -> bool {
        matches!(self, Self::Engine(EngineError::NoSpace))
    }
}

impl Writer {
    /// Works until the inbox is closed and empty.
    pub(super) fn run(mut self) {
        loop {
            self.pulse.beat();
            let interval = self.live.interval().unwrap_or_default();
            let due = match self.unsynced_since {
                Some(since) => interval.saturating_sub(since.elapsed()),
                None if self.reserve.is_released() => PROBE_EVERY,
                None => BEAT,
            };
            match self.requests.take(due.min(BEAT)) {
                Taken::Group { requests, events, bytes } => {
                    self.pulse.beat();
                    let (count, begun) = (requests.len(), Instant::now());
                    self.commit(requests, events, bytes);
                    self.requests.committed(count, begun.elapsed());
                }
                Taken::Nothing => {
                    // So that readiness is right also where no one asks to append meanwhile.
                    self.has_disk_space();
                    self.sync_if_due(interval);
                }
                Taken::Closed => break,
            }
        }
        self.sync_if_due(Duration::ZERO);
        self.leave_unused_reserve();
    }

    fn commit(&mut self, requests: Vec<Request>, events: usize, bytes: usize) {
        if !self.has_disk_space() {
            return answer_all(requests, &AppendError::DiskFull);
        }
        if self.live.drops_oldest() && self.is_full(bytes as u64 + self.seal_at) {
            self.move_horizon();
        }
        if self.is_full(bytes as u64) {
            if self.readiness.set_full(self.generations.disk_bytes()) != Readiness::QueueFull {
                warn!(
                    queue.capacity_bytes = self.max_bytes,
                    "the queue is full: events are refused until GMFY takes some"
                );
            }
            return answer_all(requests, &AppendError::QueueFull);
        }
        let started = Instant::now();
        let at = self.clock.now();
        let mut builder = GroupBuilder::new(self.next, at, (events, bytes), &mut self.packer);
        let mut answers = Vec::with_capacity(requests.len());
        let mut marks = 0;
        let mut duplicates = 0;
        for Request { mut submission, done, permit, turn } in requests {
            let traced = trace(&self.metrics, &mut submission);
            let mut repeated = 0;
            if submission.is_marked() {
                let (is_new, added) = self.dedupe.add_events(submission.marks(), at);
                marks += added;
                repeated = is_new.iter().filter(|is_new| !**is_new).count() as u64;
                if repeated > 0 {
                    submission.retain(&is_new);
                }
            }
            duplicates += repeated;
            let (appended, key) = builder.push(submission, repeated);
            // A key, or a turn, stays taken until the commit is done.
            answers.push((done, appended, traced, (key, permit, turn)));
        }
        let group = builder.finish();
        // Failed or not, these sequences are never used again.
        self.next = group.end;
        match self.store_with_one_retry(&group) {
            Ok(()) => {
                self.metrics.commit_duration.observe(started.elapsed().as_secs_f64());
                let size = (group.events.len(), answers.len());
                for (_, appended, traced, _) in &mut answers {
                    self.traced(traced.as_deref_mut(), appended, size);
                }
                let written = group.frames.iter().map(|frame| frame.value.len()).sum();
                self.publish(group, at, duplicates);
                self.readiness.set(Readiness::Ready);
                let mut replies = Answers::with_capacity(answers.len());
                for (done, appended, _traced, _held) in answers {
                    replies.push(done, Ok(appended));
                }
                replies.send();
                match self.live.interval() {
                    Some(interval) => self.sync_if_due(interval),
                    None if written > 0 => self.write_ahead(written),
                    None => {}
                }
            }
            Err(cause) => {
                self.dedupe.take_back(marks);
                let (state, answer) = if cause.is_no_space() || self.reserve.is_released() {
                    // Until the writer can take it back, no event is accepted.
                    self.reserve.release();
                    (Readiness::DiskFull, AppendError::DiskFull)
                } else {
                    (Readiness::Failed, AppendError::Failed(cause.to_string()))
                };
                if self.readiness.set(state) != state {
                    error!(error = %cause, "events are refused: they can't be stored");
                }
                let mut replies = Answers::with_capacity(answers.len());
                for (done, _, traced, _held) in answers {
                    if let Some(mut traced) = traced {
                        traced.span.failed("store_failed");
                    }
                    replies.push(done, Err(answer.clone()));
                }
                replies.send();
            }
        }
    }

    /// Tells what became of a traced request, before its events are delivered. `size` is the
    /// commit's, in events and requests.
    fn traced(&self, traced: Option<&mut Traced>, appended: &Appended, size: (usize, usize)) {
        let (Some(traces), Some(traced)) = (&self.metrics.traces, traced) else { return };
        let sequences = appended.sequences.map(|(first, last)| (first.get(), last.get()));
        traced.span.committed(size, sequences);
        if let Some((first, last)) = sequences {
            traces.accepted(&traced.request, first, last);
        }
    }

    /// Whether the disk is not known to be full; looks whether it still is.
    fn has_disk_space(&self) -> bool {
        if !self.reserve.is_released() {
            return true;
        }
        let has_space = self.reserve.refill().is_ok();
        let state = if has_space { Readiness::Ready } else { Readiness::DiskFull };
        match (self.readiness.set(state), has_space) {
            (Readiness::Closed, _) => drop(self.readiness.set(Readiness::Closed)),
            (Readiness::DiskFull, true) => info!("the disk has room again: events are accepted"),
            (Readiness::DiskFull, false) | (_, true) => {}
            (_, false) => error!("the disk is full: events are refused until there is room"),
        }
        has_space
    }

    /// Whether `bytes` more might take the queue over its limit.
    fn is_full(&self, bytes: u64) -> bool {
        let taken = self.generations.disk_bytes();
        taken.saturating_add(bytes.saturating_mul(2)).saturating_add(HEADROOM) > self.max_bytes
    }

    /// Has the lanes drop the oldest generation, well before the queue is full; the next one only
    /// when this one is gone.
    fn move_horizon(&self) {
        if let Some((first, end)) = self.generations.oldest_sealed()
            && first >= *self.horizon.borrow()
        {
            warn!(
                sequences.from = first.get(),
                sequences.before = end.get(),
                "the queue is nearly full: its oldest events are dropped, as queue.when_full says"
            );
            self.horizon.send_replace(end);
        }
    }

    /// Writes the group; where that fails, closes the generation and writes the group once more,
    /// with the same sequences, to a new one. Where that fails too, nothing of it counts: the old
    /// generation's record ends before it, and the new folder is gone.
    fn store_with_one_retry(&mut self, group: &Group) -> Result<(), CommitError> {
        if group.frames.is_empty() {
            // Repetitions only, of what is committed.
            return Ok(());
        }
        let first_failure = match self.store(group) {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        self.abandon(group.first);
        if first_failure.is_no_space() {
            return Err(first_failure);
        }
        error!(error = %first_failure, "a commit failed; writing it to a new generation");
        let second = self.store(group);
        if second.is_err() {
            self.abandon(group.first);
        }
        second
    }

    fn store(&mut self, group: &Group) -> Result<(), CommitError> {
        if let Some(end) = self.current.as_ref().and_then(|current| current.failed_at) {
            self.abandon(end);
            if self.current.is_some() {
                return Err(CommitError::State("a failed commit's end is not recorded".to_owned()));
            }
        }
        let is_done = |written: &Written| {
            written.database.length() > self.seal_at
                || group.first.get().saturating_sub(written.first.get()) >= SEQUENCES
        };
        if self.current.as_ref().is_none_or(is_done) || self.generations.is_written_damaged() {
            self.roll(group.first)?;
        }
        let Some(current) = &self.current else {
            return Err(CommitError::State("no generation is open".to_owned()));
        };
        for frame in &group.frames {
            current.database.insert(&frame.key, &frame.value)?;
        }
        current.database.flush()?;
        match self.live.interval().filter(|_| group.requeued == 0) {
            // A requeue's too: its dead letters are about to be deleted.
            None => {
                current.database.sync()?;
                // All that was written before is synced with it.
                self.unsynced_since = None;
            }
            Some(_) => {
                self.unsynced_since.get_or_insert_with(Instant::now);
            }
        }
        Ok(())
    }

    /// Has the next commits find room in the generation's file, after one of so many bytes. Each
    /// byte is written twice for it, so large commits make do without, and so does a disk, or a
    /// queue, that is about full.
    fn write_ahead(&mut self, written: usize) {
        self.recent.commits += 1;
        self.recent.bytes += written;
        let Some(current) = &self.current else { return };
        if self.reserve.is_released() || !current.database.nears_its_end() {
            return;
        }
        let room = self.max_bytes.saturating_sub(self.generations.disk_bytes() + HEADROOM);
        let limit = self.seal_at.min(current.database.length() + room);
        let is_large = std::mem::take(&mut self.recent).is_large();
        if current.database.lay_zeros(if is_large { 0 } else { limit }) {
            let bytes = self.generations.disk_bytes();
            self.metrics.ledger.update(|counts| counts.queue_bytes = bytes);
        }
    }

    /// Seals the generation that is written, and begins one at `first`.
    fn roll(&mut self, first: Sequence) -> Result<(), CommitError> {
        self.sync_if_due(Duration::ZERO);
        let mut changes = Vec::new();
        let mut packed = None;
        if let Some(current) = self.current.take() {
            if current.first == first {
                // Nothing was committed to it yet.
                self.current = Some(current);
                return Ok(());
            }
            self.generations.seal(current.first, first);
            changes.extend(self.seal_changes(&current, first));
            packed = Some(current.first);
        }
        let path = self.generations.path_of(first);
        let database = Arc::new(Database::open(&path)?);
        let appended_before = self.appended;
        changes
            .push(put_generation(first.get(), GenerationRecord { appended_before, sealed: None }));
        changes.push(reserve(first.get() + RESERVE));
        self.record(changes)?;
        packed.into_iter().for_each(|first| self.packed(first));
        self.generations.add_written(first, &database, appended_before);
        self.current =
            Some(Written { first, database, appended_before, events: 0, failed_at: None });
        Ok(())
    }

    /// Closes the generation that is written, of which nothing from `end` on counts.
    fn abandon(&mut self, end: Sequence) {
        self.unsynced_since = None;
        let Some(current) = self.current.take() else {
            // It failed before it was begun: its folder, if there is one, holds nothing.
            return;
        };
        if current.first == end {
            let first = current.first;
            drop(current);
            if let Err(error) = self.generations.remove(first) {
                error!(error = %error, generation = first.get(), "a failed generation is left over");
            }
            return;
        }
        self.generations.seal(current.first, end);
        match self.record(self.seal_changes(&current, end)) {
            Ok(()) => self.packed(current.first),
            Err(error) => {
                error!(error = %error, "a failed generation's end could not be recorded");
                // Without its end on disk nothing may follow it.
                self.current = Some(Written { failed_at: Some(end), ..current });
            }
        }
    }

    /// What is written when a generation is sealed; packs that say nothing any more go with it.
    fn seal_changes(&self, generation: &Written, end: Sequence) -> Vec<Change> {
        let mut changes = vec![seal_record(generation, end)];
        changes.extend(put_pack(generation.first.get(), &self.pack));
        let stale = self.packs.iter().take(self.stale_packs());
        changes.extend(stale.copied().flat_map(remove_pack));
        changes
    }

    /// How many of the oldest packs are out of the window, or beyond the entries.
    fn stale_packs(&self) -> usize {
        let limits = self.dedupe.limits();
        let now = self.clock.now();
        let mut entries = 0;
        let mut kept = self.packs.iter().rev();
        let kept = kept.by_ref().take_while(|pack| {
            let is_in = now.since(pack.newest) < limits.window && entries < limits.entries;
            entries += pack.entries;
            is_in
        });
        self.packs.len() - kept.count()
    }

    /// Notes that what [`Writer::seal_changes`] said of this generation is stored.
    fn packed(&mut self, first: Sequence) {
        self.packs.drain(..self.stale_packs());
        let pack = std::mem::take(&mut self.pack);
        self.packs.push_back(pack.record(first));
    }

    /// Has the keeper write these changes durably.
    fn record(&self, changes: Vec<Change>) -> Result<(), CommitError> {
        let (done, written) = oneshot::channel();
        let state = |reason: &str| CommitError::State(reason.to_owned());
        self.keeper
            .send(Task::Record { changes, done })
            .map_err(|_| state("its thread has ended"))?;
        match written.blocking_recv() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(CommitError::State(error.to_string())),
            Err(_) => Err(state("its thread has ended")),
        }
    }

    fn publish(&mut self, group: Group, at: Timestamp, duplicates: u64) {
        let count = group.events.len() as u64;
        self.appended += count;
        if let Some(current) = &mut self.current {
            current.events += count;
        }
        if !group.known.is_empty() {
            for known in &group.known {
                self.pack.push(at, known, PIECE);
            }
            let requeued: Vec<_> = group.known.iter().filter_map(Known::requeued).collect();
            if !requeued.is_empty() {
                // Without a keeper nobody asks for dead letters; the next start deletes them.
                drop(self.keeper.send(Task::Letters(LettersTask::Requeued(requeued))));
            }
            let answers = group.known.into_iter().filter_map(|known| match known {
                Known::Request(answer) => Some(*answer),
                Known::Event(_) | Known::Requeued(_) => None,
            });
            self.dedupe.committed(answers, at);
        }
        let bytes = self.generations.disk_bytes();
        let appended = self.appended;
        self.metrics.ledger.update(|counts| {
            counts.appended = appended;
            counts.queue_bytes = bytes;
            counts.duplicates += duplicates;
            counts.requeued += group.requeued;
            for (total, more) in counts.accepted.iter_mut().zip(group.kinds) {
                *total += more;
            }
        });
        if self.metrics.stream.is_followed() {
            let outcome = EventOutcome::Accepted;
            let what = Happening { at, outcome, batch: None, status: None };
            self.metrics.stream.publish(what, group.events.iter().map(QueuedEvent::subject));
        }
        self.metrics.commit_events.observe(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
        self.tail.push(group.end, group.events);
    }

    /// With durability `interval`: syncs what was written at least `age` ago.
    fn sync_if_due(&mut self, age: Duration) {
        let (Some(since), Some(current)) = (self.unsynced_since, &self.current) else { return };
        if since.elapsed() < age {
            return;
        }
        self.unsynced_since = None;
        if let Err(error) = current.database.sync() {
            error!(error = %error, "a sync failed: what was written since the last is written anew");
            let first = current.first;
            self.abandon(self.next);
            if let Err(error) = self.generations.distrust(first) {
                error!(
                    error = %error,
                    "events answered since the last sync may not survive a power cut"
                );
            }
        }
    }

    /// After an orderly end nothing was lost unseen: the next start goes on where this one ends.
    fn leave_unused_reserve(&self) {
        if let Err(error) = self.record(vec![reserve(self.next.get())]) {
            info!(error = %error, "the next start leaves a gap in the sequences");
        }
    }
}

/// Begins the span of a commit in a request's trace, where it has one.
fn trace(metrics: &Metrics, submission: &mut Submission) -> Option<Box<Traced>> {
    let traces = metrics.traces.as_ref()?;
    let request = submission.take_accepting()?;
    Some(Box::new(Traced { span: traces.commit(&request), request }))
}

fn seal_record(generation: &Written, end: Sequence) -> Change {
    let sealed = Some(Sealed { events: generation.events, end: end.get() });
    let record = GenerationRecord { appended_before: generation.appended_before, sealed };
    put_generation(generation.first.get(), record)
}

fn answer_all(requests: Vec<Request>, error: &AppendError) {
    let mut answers = Answers::with_capacity(requests.len());
    for Request { done, .. } in requests {
        answers.push(done, Err(error.clone()));
    }
    answers.send();
}
