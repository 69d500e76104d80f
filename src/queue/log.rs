//! What delivery needs of the queue: read on from a place, keep a lane's cursor, bury a dead letter.

use std::fmt;
use std::future::Future;

use bytes::Bytes;
use tokio::sync::watch;

use super::{DeadLetter, Partition, Partitions, Sequence, SequenceRanges, UserHash};
use crate::clock::Timestamp;
use crate::event::EventKind;
use crate::telemetry::ledger::{Counts, DeadLetterReason, DropReason};
use crate::telemetry::stream::Subject;

/// An accepted event, as it waits for its delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedEvent {
    pub sequence: Sequence,
    pub user: UserHash,
    pub kind: EventKind,
    pub accepted_at: Timestamp,
    /// The wire form.
    pub json: Bytes,
    /// What a repetition of it is known by, where it was stored with that; for the spill.
    #[cfg(feature = "nats")]
    pub mark: Option<[u8; 16]>,
}

impl QueuedEvent {
    /// As those who follow events are told of it.
    #[must_use]
    pub fn subject(&self) -> Subject<'_> {
        let (sequence, user_hash) = (self.sequence.get(), self.user.bits());
        Subject { sequence, user_hash, json: &self.json }
    }
}

/// How much one read returns at most; always at least one event where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimit {
    pub events: usize,
    /// Bytes of wire form.
    pub bytes: usize,
}

/// What a read found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// The events of the partitions asked for from where the read began up to `position`,
    /// in sequence order.
    pub events: Vec<QueuedEvent>,
    /// Where to read on. Equal to where the read began when nothing newer is committed.
    pub position: Sequence,
}

/// The name of a batch, sent as its `Idempotency-Key`; the same each time it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BatchKey(pub u128);

impl BatchKey {
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }
}

impl fmt::Display for BatchKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A batch that may be on its way to GMFY: stored before it is first sent, so that after a crash
/// the same events go out again in the same request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBatch {
    pub key: BatchKey,
    /// Ascending, not empty.
    pub sequences: Vec<Sequence>,
}

/// What is settled of a lane's partitions, and what is on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneCursor {
    /// For each partition of the lane: all its events before this are settled.
    pub watermarks: Vec<(Partition, Sequence)>,
    /// Settled sequences of the lane at or above its partitions' watermarks.
    pub settled: SequenceRanges,
    pub unfinished: Option<StoredBatch>,
}

/// A lane as it stands when delivery begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneStart {
    pub partitions: Partitions,
    pub cursor: LaneCursor,
}

/// The lanes that are this process's to deliver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lanes {
    /// How many lanes there are, those of others included.
    pub count: usize,
    /// This process's, by their index.
    pub mine: Vec<(usize, LaneStart)>,
    /// Their unfinished batches come first: then the lanes are to be asked for again.
    pub finish_only: bool,
}

impl Lanes {
    /// All lanes of a log that no other process delivers, where `wanted` were asked for.
    #[must_use]
    pub fn all(lanes: Vec<LaneStart>, wanted: usize) -> Self {
        let (count, finish_only) = (lanes.len(), lanes.len() != wanted);
        Self { count, mine: lanes.into_iter().enumerate().collect(), finish_only }
    }

    #[cfg(test)]
    pub(super) fn starts(self) -> Vec<LaneStart> {
        self.mine.into_iter().map(|(_, start)| start).collect()
    }
}

/// How many events a cursor's move settles, and as what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settlement {
    pub delivered: u64,
    pub dead_lettered: Vec<(DeadLetterReason, u64)>,
    pub dropped: Vec<(DropReason, u64)>,
}

impl Settlement {
    /// All events settled.
    #[must_use]
    pub fn total(&self) -> u64 {
        let dead: u64 = self.dead_lettered.iter().map(|(_, count)| count).sum();
        let dropped: u64 = self.dropped.iter().map(|(_, count)| count).sum();
        self.delivered + dead + dropped
    }

    /// Adds it to the counts of how events ended.
    pub(super) fn count(&self, counts: &mut Counts) {
        counts.delivered += self.delivered;
        for (reason, count) in &self.dead_lettered {
            *counts.dead_lettered.entry(*reason).or_default() += count;
        }
        for (reason, count) in &self.dropped {
            *counts.dropped.entry(*reason).or_default() += count;
        }
    }
}

/// Why the store did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The disk refused, perhaps for now (it is full, or failed): try again later.
    #[error("the store failed: {0}")]
    Io(String),
    /// `dead_letters.max_bytes` is reached.
    #[error("the dead letters take as much space as dead_letters.max_bytes allows")]
    DeadLettersFull,
    /// The lane is another process's by now: nothing of it may be sent or stored from here.
    #[error("the lane went to another replica")]
    LaneLost,
    /// The queue is closed: the process is about to end.
    #[error("the queue is closed")]
    Closed,
}

/// The durable log as delivery sees it.
///
/// Dropping any of these futures is safe; a change that was already handed over still happens.
pub trait Log: Clone + Send + Sync + 'static {
    /// The lanes to deliver with. These are the stored ones while any has an unfinished batch:
    /// finish those, then ask again. Otherwise `wanted` lanes, stored as such. A log that several
    /// processes share decides by itself how many there are, and which are this process's.
    fn lanes(&self, wanted: usize) -> impl Future<Output = Result<Lanes, StoreError>> + Send;

    /// Resolves when [`Log::lanes`] may answer otherwise than it did: lanes came, or are to go. It
    /// never does where no other process takes part. For one caller at a time.
    fn moved(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Whether the lane is still surely this process's, so that it may send. To be asked right
    /// before each request.
    fn holds(&self, _lane: usize) -> bool {
        true
    }

    /// The lane has ended here, its cursor stored: another process may have it.
    fn left(&self, _lane: usize) {}

    /// Reads events of `partitions` from `from` on, settled ones included. Returns at once.
    fn read(
        &self,
        from: Sequence,
        partitions: &Partitions,
        limit: ReadLimit,
    ) -> impl Future<Output = Result<Chunk, StoreError>> + Send;

    /// Reads just these events, ascending; those that are lost are left out.
    fn read_exactly(
        &self,
        sequences: &[Sequence],
    ) -> impl Future<Output = Result<Vec<QueuedEvent>, StoreError>> + Send;

    /// Waits until something for `partitions` is committed at or after `position`, and at least
    /// `at_least` (events or bytes of any partition, whichever comes first) are committed since
    /// then. May resolve early.
    fn committed(
        &self,
        position: Sequence,
        partitions: &Partitions,
        at_least: ReadLimit,
    ) -> impl Future<Output = ()> + Send;

    /// Stores lane `lane`'s cursor and counts what it settles, in one step. Resolves when the
    /// operating system has it, so that it survives kill -9.
    fn save(
        &self,
        lane: usize,
        cursor: LaneCursor,
        settlement: Settlement,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Events before this are to be dropped, but for those in flight: the queue is full, and
    /// `queue.when_full` prefers new events. It only grows.
    fn horizon(&self) -> watch::Receiver<Sequence>;

    /// Stores dead letters; resolves when they are on disk. One of the same sequence is replaced.
    fn bury(&self, letters: Vec<DeadLetter>)
    -> impl Future<Output = Result<(), StoreError>> + Send;
}
