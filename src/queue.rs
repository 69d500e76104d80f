//! The durable queue: an append-only log of events, the lanes' cursors over it, the dead letters.
//!
//! The seams are [`Log`] (what delivery needs) and [`Appender`] (what accepting needs); [`Queue`]
//! implements both on sled, which only `engine` names. With the feature `nats` another engine does
//! the same on NATS JetStream, for the replicas of a fleet: `nats`. [`Backend`] is the one that the
//! settings choose. All that follows is the engine on sled.
//!
//! - `writer` appends: one thread, group commit, an fdatasync before each answer.
//! - `tail` keeps the newest events in memory for the lanes that keep up.
//! - `generations` is the log on disk: a row of databases that are removed as a whole.
//!   `compact` writes those that stay anew without what is settled, when `compactor` says so.
//! - `frame` and `group` are its format. `dedupe` knows what was accepted lately. `keeper` and
//!   `state` keep the cursors.
//! - `letters` is what operators do with dead letters.
//! - `open` and `recover` find what is there at a start. `salvage` reads frames from raw bytes,
//!   whole or damaged; `repair` puts damaged files aside. `reserve` keeps room on a full disk.
//! - `inspect` looks at a folder that no process holds: [`Folder`].
//! - `fault` is under the engine in tests: each call can fail, or end the process.
//!
//! Nothing is acknowledged before it is on disk, nothing is delivered before it is acknowledged,
//! and no event is deleted before the cursors that pass it are durable.

mod answers;
mod backend;
mod compact;
mod compactor;
mod dead_letter;
mod dead_letters;
mod dedupe;
mod engine;
#[cfg(test)]
mod fault;
mod format;
mod frame;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod generations;
mod group;
mod inbox;
mod inspect;
mod keeper;
mod letters;
mod live;
mod log;
#[cfg(feature = "nats")]
mod nats;
mod open;
mod packer;
mod passed;
mod readiness;
mod recover;
mod repair;
mod reserve;
mod salvage;
mod sequence;
mod state;
mod store;
mod submission;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

pub use backend::{Backend, FleetAccount, SpillAccount, WorkerPanicked, Workers};
pub use dead_letter::DeadLetter;
pub use dedupe::{Answer, Begun, Dedupe, DedupeLimits, RequestKey, Underway};
pub use generations::Damage;
pub use inspect::{DeadLettersReport, Folder, GenerationReport, GenerationSummary};
pub use letters::{DeadLetterPage, RequeueError, Requeued};
pub use log::{
    BatchKey, Chunk, LaneCursor, LaneStart, Lanes, Log, QueuedEvent, ReadLimit, Settlement,
    StoreError, StoredBatch,
};
#[cfg(feature = "nats")]
pub use nats::{
    FleetQueue, FleetTasks, NatsError, Options as FleetOptions, StreamSurvey,
    Survey as FleetSurvey, TaskPanicked,
};
pub use open::{OpenError, Options};
pub use sequence::{PARTITIONS, Partition, Partitions, Sequence, SequenceRanges, UserHash};
pub use store::{Changeable, Location, Queue, ThreadPanicked, Threads};
pub use submission::{AppendError, Appended, Appender, Readiness, Submission};
