//! The queue as the settings choose it: one of the engines, behind the same seams.

use tokio::sync::watch;

use super::{
    AppendError, Appended, Appender, Begun, Chunk, Damage, DeadLetter, DeadLetterPage, LaneCursor,
    Lanes, Location, Log, Options, Partitions, Queue, QueuedEvent, ReadLimit, Readiness,
    RequestKey, RequeueError, Requeued, Sequence, Settlement, StoreError, Submission,
    ThreadPanicked, Threads, UserHash,
};
#[cfg(feature = "nats")]
use super::{FleetQueue, FleetTasks, TaskPanicked};

/// See the module. Clones share the queue.
#[derive(Clone, Debug)]
pub enum Backend {
    /// On this machine's disk.
    Sled(Queue),
    /// On NATS, for all replicas of a fleet.
    #[cfg(feature = "nats")]
    Nats(FleetQueue),
}

/// What operators are to know of the servers that hold a fleet's queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetAccount {
    /// Of the server that this process is connected to.
    pub server_version: String,
    pub stream: String,
    /// How many servers keep each event.
    pub replicas: usize,
    /// What an acknowledgement means, in words.
    pub acknowledgement: String,
    /// None where `queue.nats.spill` is off.
    pub spill: Option<SpillAccount>,
}

/// What waits on this replica's disk until NATS takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpillAccount {
    pub events: u64,
    pub bytes: u64,
    pub capacity_bytes: u64,
}

/// What runs for a queue; to be joined once the queue is closed.
#[derive(Debug)]
pub enum Workers {
    Sled(Threads),
    #[cfg(feature = "nats")]
    Nats(FleetTasks),
}

/// A thread or task of the queue ended by a panic.
#[derive(Debug, thiserror::Error)]
pub enum WorkerPanicked {
    #[error(transparent)]
    Thread(#[from] ThreadPanicked),
    #[cfg(feature = "nats")]
    #[error(transparent)]
    Task(#[from] TaskPanicked),
    #[error("a blocking task was lost: {0}")]
    Blocking(#[from] tokio::task::JoinError),
}

impl Workers {
    /// Resolves when one of them has ended; before the queue is closed that means that it panicked.
    ///
    /// # Cancel safety
    /// Safe: joining tells why.
    pub async fn ended(&mut self) {
        match self {
            Self::Sled(threads) => threads.ended().await,
            #[cfg(feature = "nats")]
            Self::Nats(tasks) => Box::pin(tasks.ended()).await,
        }
    }

    /// Waits for all of them to end.
    ///
    /// # Errors
    /// When one panicked.
    pub async fn join(self) -> Result<(), WorkerPanicked> {
        match self {
            Self::Sled(threads) => Ok(tokio::task::spawn_blocking(|| threads.join()).await??),
            #[cfg(feature = "nats")]
            Self::Nats(tasks) => Box::pin(tasks.join()).await,
        }
    }
}

/// The same call of whichever engine it is.
macro_rules! each {
    ($backend:expr, $queue:ident => $call:expr) => {
        match $backend {
            Backend::Sled($queue) => $call,
            #[cfg(feature = "nats")]
            Backend::Nats($queue) => $call,
        }
    };
}

impl Backend {
    /// Puts those of the options in force that can change while the queue is open.
    pub fn replace(&self, options: &Options) {
        match self {
            Self::Sled(queue) => queue.changeable().replace(options),
            #[cfg(feature = "nats")]
            Self::Nats(queue) => queue.set_limits(options.dedupe),
        }
    }

    /// Takes no more events; its workers do what they have to, and end.
    pub fn close(&self) {
        each!(self, queue => queue.close());
    }

    /// Whether an operator had paused delivery when the queue was opened.
    #[must_use]
    pub fn was_paused(&self) -> bool {
        match self {
            Self::Sled(queue) => queue.was_paused(),
            #[cfg(feature = "nats")]
            Self::Nats(queue) => *queue.paused().borrow(),
        }
    }

    /// Whether the fleet is paused, where operators pause more than this process.
    #[must_use]
    pub fn fleet_paused(&self) -> Option<watch::Receiver<bool>> {
        match self {
            Self::Sled(_) => None,
            #[cfg(feature = "nats")]
            Self::Nats(queue) => Some(queue.paused()),
        }
    }

    /// Keeps, durably, whether an operator paused delivery.
    ///
    /// # Errors
    /// When it can't be stored.
    pub async fn keep_paused(&self, paused: bool) -> Result<(), StoreError> {
        each!(self, queue => queue.keep_paused(paused).await)
    }

    /// Calls `changed` with what other replicas tell, until it is dropped.
    pub async fn changes_elsewhere(
        &self,
        changed: impl Fn(&mut dyn Iterator<Item = UserHash>) + Send,
    ) {
        match self {
            Self::Sled(_) => {
                drop(changed);
                std::future::pending().await
            }
            #[cfg(feature = "nats")]
            Self::Nats(queue) => queue.changes_elsewhere(changed).await,
        }
    }

    /// What operators are to know of the servers, where the queue is on some.
    #[must_use]
    pub fn fleet_account(&self) -> Option<FleetAccount> {
        match self {
            Self::Sled(_) => None,
            #[cfg(feature = "nats")]
            Self::Nats(queue) => Some(queue.account()),
        }
    }

    /// What was found damaged since the start.
    #[must_use]
    pub fn damages(&self) -> Vec<Damage> {
        match self {
            Self::Sled(queue) => queue.damages(),
            #[cfg(feature = "nats")]
            Self::Nats(queue) => queue.damages(),
        }
    }

    /// Where an event stands in the log.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn locate(&self, sequence: Sequence) -> Result<Location, StoreError> {
        each!(self, queue => queue.locate(sequence).await)
    }

    /// Up to `limit` dead letters behind `after`, fewer when they are large.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn dead_letters(
        &self,
        after: Option<Sequence>,
        limit: usize,
    ) -> Result<DeadLetterPage, StoreError> {
        each!(self, queue => queue.dead_letters(after, limit).await)
    }

    /// One dead letter; none where there is none of this sequence.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn dead_letter(&self, sequence: Sequence) -> Result<Option<DeadLetter>, StoreError> {
        each!(self, queue => queue.dead_letter(sequence).await)
    }

    /// Puts one dead letter back into the queue; none where there is none of this sequence.
    ///
    /// # Errors
    /// When it can't be read, or the queue doesn't take it; then it is still a dead letter.
    ///
    /// # Cancel safety
    /// Dropped, it may be requeued or not.
    pub async fn requeue(&self, sequence: Sequence) -> Result<Option<Requeued>, RequeueError> {
        each!(self, queue => queue.requeue(sequence).await)
    }

    /// Puts all dead letters back into the queue, in order; adds them to `requeued`, as far as it
    /// comes.
    ///
    /// # Errors
    /// When they can't be read, or the queue doesn't take them; then the rest is still as it was.
    ///
    /// # Cancel safety
    /// Some may be requeued, the others are not.
    pub async fn requeue_all(&self, requeued: &mut Vec<Requeued>) -> Result<(), RequeueError> {
        each!(self, queue => queue.requeue_all(requeued).await)
    }

    /// Throws one dead letter away; false where there is none of this sequence.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn discard(&self, sequence: Sequence) -> Result<bool, StoreError> {
        each!(self, queue => queue.discard(sequence).await)
    }

    /// Throws all dead letters away that there are; returns how many those were.
    ///
    /// # Errors
    /// When the store fails; some may be gone then.
    pub async fn discard_all(&self) -> Result<u64, StoreError> {
        each!(self, queue => queue.discard_all().await)
    }
}

impl Appender for Backend {
    async fn append(&self, submission: Submission) -> Result<Appended, AppendError> {
        each!(self, queue => queue.append(submission).await)
    }

    fn begin(&self, key: RequestKey) -> Begun {
        each!(self, queue => queue.begin(key))
    }

    fn ready(&self) -> Readiness {
        each!(self, queue => queue.ready())
    }
}

impl Log for Backend {
    async fn lanes(&self, wanted: usize) -> Result<Lanes, StoreError> {
        each!(self, queue => queue.lanes(wanted).await)
    }

    async fn moved(&self) {
        each!(self, queue => queue.moved().await);
    }

    fn holds(&self, lane: usize) -> bool {
        each!(self, queue => queue.holds(lane))
    }

    fn left(&self, lane: usize) {
        each!(self, queue => queue.left(lane));
    }

    async fn read(
        &self,
        from: Sequence,
        partitions: &Partitions,
        limit: ReadLimit,
    ) -> Result<Chunk, StoreError> {
        each!(self, queue => queue.read(from, partitions, limit).await)
    }

    async fn read_exactly(&self, sequences: &[Sequence]) -> Result<Vec<QueuedEvent>, StoreError> {
        each!(self, queue => queue.read_exactly(sequences).await)
    }

    async fn committed(&self, position: Sequence, partitions: &Partitions, at_least: ReadLimit) {
        each!(self, queue => queue.committed(position, partitions, at_least).await);
    }

    async fn save(
        &self,
        lane: usize,
        cursor: LaneCursor,
        settlement: Settlement,
    ) -> Result<(), StoreError> {
        each!(self, queue => queue.save(lane, cursor, settlement).await)
    }

    fn horizon(&self) -> watch::Receiver<Sequence> {
        each!(self, queue => queue.horizon())
    }

    async fn bury(&self, letters: Vec<DeadLetter>) -> Result<(), StoreError> {
        each!(self, queue => queue.bury(letters).await)
    }
}
