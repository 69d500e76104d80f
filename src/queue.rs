//! The durable queue: an append-only log of events, the lanes' cursors over it, the dead letters.
//!
//! The seam is [`Log`] (what delivery needs) and [`Queue::append`] (what accepting needs); only
//! `store` knows the engine.

mod dead_letter;
mod engine;
mod frame;
mod group;
mod log;
mod sequence;
mod submission;

pub use dead_letter::DeadLetter;
pub use log::{
    BatchKey, Chunk, LaneCursor, LaneStart, Log, QueuedEvent, ReadLimit, Settlement, StoreError,
    StoredBatch,
};
pub use sequence::{PARTITIONS, Partition, Partitions, Sequence, SequenceRanges, UserHash};
pub use submission::{AppendError, Appended, Appender, Readiness, Submission};
