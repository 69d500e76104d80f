//! A request's events, encoded for the log, on their way to the writer.

use std::future::Future;

use super::UserHash;
use super::frame::{RECORD_HEADER, encode_record};
use crate::event::{Event, EventKind};

/// The events of one request: appended together, or not at all.
#[derive(Debug, Default)]
pub struct Submission {
    /// The events' records, one behind the other, as they will lie in frames.
    records: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) user: UserHash,
    pub(super) kind: EventKind,
    /// Where the event's record ends.
    pub(super) end: usize,
}

impl Submission {
    /// An empty one with room for `events` events of `bytes` bytes of wire form in all.
    #[must_use]
    pub fn with_capacity(events: usize, bytes: usize) -> Self {
        Self {
            records: Vec::with_capacity(bytes + events * RECORD_HEADER),
            entries: Vec::with_capacity(events),
        }
    }

    /// Adds an event behind those already in it.
    pub fn push(&mut self, event: &Event<'_>) {
        let user = UserHash::of(&event.user_id);
        encode_record(user, event.kind, event.wire.as_bytes(), &mut self.records);
        self.entries.push(Entry { user, kind: event.kind, end: self.records.len() });
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

    /// How many bytes it takes in the log, frames' headers apart.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.records.len()
    }

    pub(super) fn into_parts(self) -> (Vec<u8>, Vec<Entry>) {
        (self.records, self.entries)
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
    Closed,
}
