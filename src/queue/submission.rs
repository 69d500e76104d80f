//! A request's events, encoded for the log, on their way to the writer.

use std::future::Future;

use crate::event::Event;

/// The events of one request: appended together, or not at all.
#[derive(Debug, Default)]
pub struct Submission {}

impl Submission {
    /// An empty one with room for `events` events of `bytes` bytes of wire form in all.
    #[must_use]
    pub fn with_capacity(_events: usize, _bytes: usize) -> Self {
        unimplemented!()
    }

    /// Adds an event behind those already in it.
    pub fn push(&mut self, _event: &Event<'_>) {
        unimplemented!()
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
    /// Counts of the queue are not complete yet.
    Opening,
    QueueFull,
    DiskFull,
    Closed,
}
