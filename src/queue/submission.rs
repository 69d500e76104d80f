//! A request's events, encoded for the log, on their way to the writer.

use std::future::Future;

use smallvec::SmallVec;

use super::dedupe::{Begun, Mark, RequestKey, Underway};
use super::frame::{EventHead, RECORD_HEADER, encode_record};
use super::{Sequence, UserHash};
use crate::event::{Event, EventKind};
use crate::telemetry::traces::Accepting;

/// The events of one request: appended together, or not at all.
#[derive(Debug, Default)]
pub struct Submission {
    /// The events' records, one behind the other, as they will lie in frames.
    records: Vec<u8>,
    entries: Entries,
    /// Set where the request has an `Idempotency-Key`.
    key: Option<Underway>,
    /// Whether any event has a mark.
    is_marked: bool,
    /// Set where the request is traced.
    accepting: Option<Box<Accepting>>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) head: EventHead,
    /// Where the event's record ends.
    pub(super) end: usize,
}

/// One for each event; that of a single event needs no memory of its own.
pub(super) type Entries = SmallVec<[Entry; 1]>;

impl Submission {
    /// An empty one with room for `events` events of `bytes` bytes of wire form in all.
    #[must_use]
    pub fn with_capacity(events: usize, bytes: usize) -> Self {
        Self {
            records: Vec::with_capacity(bytes + events * RECORD_HEADER),
            entries: Entries::with_capacity(events),
            ..Self::default()
        }
    }

    /// The same, of a request that has an `Idempotency-Key`: how it is answered is remembered.
    #[must_use]
    pub fn keyed(mut self, key: Option<Underway>) -> Self {
        self.key = key;
        self
    }

    /// The same, of a request that is traced: its commit is a part of the trace.
    #[must_use]
    pub fn traced(mut self, accepting: Option<Box<Accepting>>) -> Self {
        self.accepting = accepting;
        self
    }

    /// Adds an event behind those already in it. A unique one that was accepted lately is left out
    /// when it is appended, and counted as a duplicate.
    pub fn push(&mut self, event: &Event<'_>) {
        let mark = match (event.kind, &event.idempotence_key) {
            (EventKind::Unique, Some(key)) => {
                Some(Mark::of_event(&event.user_id, &event.event_type, key))
            }
            _ => None,
        };
        self.is_marked |= mark.is_some();
        let user = UserHash::of(&event.user_id);
        let head = EventHead { user, kind: event.kind, mark, origin: None };
        self.push_record(head, event.wire.as_bytes());
    }

    /// Adds a dead letter, to be delivered again: a new acceptance, which is no duplicate of
    /// anything. `origin` is its sequence, by which a start recognises it.
    pub fn push_requeued(
        &mut self,
        origin: Sequence,
        user: UserHash,
        kind: EventKind,
        wire: &[u8],
    ) {
        self.push_record(EventHead { user, kind, mark: None, origin: Some(origin) }, wire);
    }

    /// Adds an event for a queue that passes it on, with the identity that it has wherever it goes:
    /// this queue itself looks for no repetition of it.
    #[cfg(feature = "nats")]
    pub(super) fn push_spilled(
        &mut self,
        user: UserHash,
        kind: EventKind,
        mark: Mark,
        wire: &[u8],
    ) {
        self.push_record(EventHead { user, kind, mark: Some(mark), origin: None }, wire);
    }

    fn push_record(&mut self, head: EventHead, wire: &[u8]) {
        encode_record(&head, wire, &mut self.records);
        self.entries.push(Entry { head, end: self.records.len() });
    }

    /// How many events are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether there is nothing to write, nor an answer to remember.
    #[must_use]
    pub fn is_void(&self) -> bool {
        self.entries.is_empty() && self.key.is_none()
    }

    /// How many bytes it takes in the log, frames' headers apart.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.records.len()
    }

    pub(super) fn take_accepting(&mut self) -> Option<Box<Accepting>> {
        self.accepting.take()
    }

    pub(super) fn is_marked(&self) -> bool {
        self.is_marked
    }

    pub(super) fn marks(&self) -> impl Iterator<Item = Option<Mark>> + '_ {
        self.entries.iter().map(|entry| entry.head.mark)
    }

    /// Keeps the events for which `keep` says so, in order.
    pub(super) fn retain(&mut self, keep: &[bool]) {
        let (records, entries) =
            (std::mem::take(&mut self.records), std::mem::take(&mut self.entries));
        let mut start = 0;
        for (entry, keep) in entries.into_iter().zip(keep) {
            if *keep {
                self.records.extend_from_slice(records.get(start..entry.end).unwrap_or_default());
                self.entries.push(Entry { end: self.records.len(), ..entry });
            }
            start = entry.end;
        }
    }

    pub(super) fn into_parts(self) -> (Vec<u8>, Entries, Option<Underway>) {
        (self.records, self.entries, self.key)
    }
}

/// What an append did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    pub accepted: u64,
    pub duplicates: u64,
    /// The sequences of the accepted ones, consecutive; none when none was accepted.
    pub sequences: Option<(super::Sequence, super::Sequence)>,
}

/// Why nothing was appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// `queue.max_bytes` is reached.
    #[error("the queue is full")]
    QueueFull,
    /// The disk has no room.
    #[error("the disk is full")]
    DiskFull,
    /// Too many requests wait for the writer.
    #[error("too many requests wait to be written")]
    Busy,
    /// The disk failed; nothing was stored.
    #[error("the store failed: {0}")]
    Failed(String),
    /// The disk failed in a way that leaves open whether the events are stored.
    #[error("it can't be known whether the events were stored")]
    OutcomeUnknown,
    /// The servers that keep the queue can't be reached; nothing was stored.
    #[error("the queue can't be reached")]
    Unreachable,
    /// The process is stopping.
    #[error("the queue is closed")]
    Closed,
}

/// What accepting needs of the queue; the store's handle implements it.
pub trait Appender: Clone + Send + Sync + 'static {
    /// Resolves once the events are on disk (with durability `interval`: written).
    ///
    /// # Errors
    /// When nothing was appended, or, for [`AppendError::OutcomeUnknown`], perhaps.
    ///
    /// # Cancel safety
    /// Dropping this does not withdraw a submission that the writer already has.
    fn append(
        &self,
        submission: Submission,
    ) -> impl Future<Output = Result<Appended, AppendError>> + Send;

    /// Begins a request that has an `Idempotency-Key`, before its events are looked at.
    fn begin(&self, key: RequestKey) -> Begun;

    /// Whether an append would find room now; for readiness.
    fn ready(&self) -> Readiness;
}

/// Whether events can be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    QueueFull,
    DiskFull,
    /// The disk fails.
    Failed,
    /// The servers that keep the queue can't be reached.
    Unreachable,
    Closed,
}
