//! The queue as the rest of the program holds it: the sled store behind the seams.

use std::fs::File;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use futures_util::future::Either;
use tokio::sync::{Semaphore, oneshot, watch};

use super::answers::Answer;
use super::compactor::{Compactor, Waits};
use super::dedupe::{Dedupe, Pack};
use super::engine::EngineError;
use super::generations::Generations;
use super::inbox::Inbox;
use super::keeper::{Keeper, Task};
use super::live::Live;
use super::open::{OpenError, Options, open};
use super::packer::Packer;
use super::readiness::AtomicReadiness;
use super::state::put_paused;
use super::tail::Tail;
use super::writer::{Recent, Request, Writer};
use super::{
    AppendError, Appended, Appender, Begun, Chunk, Damage, DeadLetter, LaneCursor, Lanes, Log,
    Partitions, QueuedEvent, ReadLimit, Readiness, RequestKey, Sequence, Settlement, StoreError,
    Submission,
};
use crate::clock::Clock;
use crate::telemetry::Metrics;
use crate::telemetry::ledger::DropReason;

/// Committed events kept in memory for the lanes that keep up, in bytes.
const TAIL_BYTES: usize = 4 * 1024 * 1024;
/// Memory that requests may take while they wait for the writer, in bytes.
const WAITING_BYTES: usize = 32 * 1024 * 1024;
/// The least that a request counts against it, so that their number is bounded too.
const WAITING_LEAST: usize = 4 * 1024;
const GENERATION_BYTES: u64 = 16 * 1024 * 1024;

/// The durable queue. Clones share it; see [`super`] for what it promises.
#[derive(Clone, Debug)]
pub struct Queue {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    requests: Inbox,
    /// None once closed.
    tasks: Mutex<Option<Sender<Task>>>,
    waiting: Arc<Semaphore>,
    tail: Arc<Tail>,
    generations: Arc<Generations>,
    metrics: Arc<Metrics>,
    readiness: Arc<AtomicReadiness>,
    live: Arc<Live>,
    max_bytes: u64,
    was_paused: bool,
    dedupe: Arc<Dedupe>,
    horizon: watch::Receiver<Sequence>,
    /// Held by the one operator who works on dead letters.
    letters_turn: Arc<tokio::sync::Mutex<()>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.requests.close();
    }
}

/// One operator's turn to work on dead letters.
pub(super) type Turn = tokio::sync::OwnedMutexGuard<()>;

/// Where an event stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    Queued,
    Settled,
    /// No event has this sequence, or it is lost.
    Nowhere,
}

/// The queue's threads; to be joined once the queue is closed.
#[derive(Debug)]
pub struct Threads {
    writer: JoinHandle<()>,
    keeper: JoinHandle<()>,
    /// Closed by the first thread that ends.
    ended: watch::Receiver<()>,
    lock: File,
}

/// Those of a queue's options that can change: `interval`, `dead_letters_max_bytes`, and what is
/// remembered for dedupe.
#[derive(Clone, Debug)]
pub struct Changeable {
    live: Arc<Live>,
    dedupe: Arc<Dedupe>,
}

impl Changeable {
    /// Has the queue go on by these.
    pub fn replace(&self, options: &Options) {
        self.live.set(options);
        self.dedupe.set_limits(options.dedupe);
    }
}

/// A thread of the queue ended by a panic.
#[derive(Debug, thiserror::Error)]
#[error("the queue's {0} thread panicked")]
pub struct ThreadPanicked(&'static str);

impl Threads {
    /// Waits for both threads to end; then the folder is free for another process.
    ///
    /// # Errors
    /// When one panicked.
    pub fn join(self) -> Result<(), ThreadPanicked> {
        let writer = self.writer.join().map_err(|_| ThreadPanicked("writer"));
        let keeper = self.keeper.join().map_err(|_| ThreadPanicked("keeper"));
        drop(self.lock);
        writer.and(keeper)
    }

    /// Resolves when a thread has ended; before the queue is closed that means that it panicked.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut ended = self.ended.clone();
        async move { while ended.changed().await.is_ok() {} }
    }
}

impl Queue {
    /// Opens the folder, recovers what is in it, and starts the threads. Blocks.
    ///
    /// # Errors
    /// When the folder can't be used; see [`OpenError`].
    pub fn open(
        options: &Options,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, Threads), OpenError> {
        Self::open_with(options, Waits::default(), clock, metrics)
    }

    pub(super) fn open_with(
        options: &Options,
        waits: Waits,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, Threads), OpenError> {
        let forgotten = metrics.dedupe_forgotten.clone();
        let dedupe = Arc::new(Dedupe::new(options.dedupe, clock.clone(), forgotten));
        let opened = open(options, &dedupe)?;
        let (settled, appended) = (opened.settled(), opened.appended);
        let queue_bytes = opened.generations.disk_bytes();
        metrics.ledger.update(|counts| {
            counts.appended = appended;
            counts.settled = settled;
            counts.recovered = counts.queued() + opened.lost;
            counts.dropped.insert(DropReason::Damaged, opened.lost);
            counts.queue_bytes = queue_bytes;
            counts.queue_capacity_bytes = options.max_bytes;
            counts.dead_letters = opened.dead_letters.count();
        });
        let tail = Arc::new(Tail::new(opened.next, TAIL_BYTES));
        let readiness = Arc::<AtomicReadiness>::default();
        let live = Arc::new(Live::new(options));
        if opened.reserve.is_released() {
            readiness.set(Readiness::DiskFull);
        }
        let (moves_horizon, horizon) = watch::channel(Sequence::FIRST);
        let requests = Inbox::default();
        let (tasks, waiting_tasks) = channel();
        let keeper = Keeper {
            tasks: waiting_tasks,
            state: opened.state,
            dir: options.dir.clone(),
            reserve: Arc::clone(&opened.reserve),
            must_rewrite: false,
            dead_letters: opened.dead_letters,
            requeued: opened.requeued,
            lanes: opened.lanes,
            pieces: opened.pieces,
            generations: Arc::clone(&opened.generations),
            ledger: Arc::clone(&metrics.ledger),
            unsynced_since: None,
            live: Arc::clone(&live),
            pulse: metrics.heartbeats.part("queue's keeper", &clock),
            max_bytes: options.max_bytes,
            compactor: Compactor::new(
                Arc::clone(&opened.generations),
                Arc::clone(&metrics.ledger),
                waits,
            ),
        };
        let writer = Writer {
            requests: requests.outlet(),
            keeper: tasks.clone(),
            current: opened.current,
            next: opened.next,
            appended: opened.appended,
            generations: Arc::clone(&opened.generations),
            tail: Arc::clone(&tail),
            metrics: Arc::clone(&metrics),
            pulse: metrics.heartbeats.part("queue's writer", &clock),
            clock,
            readiness: Arc::clone(&readiness),
            reserve: opened.reserve,
            max_bytes: options.max_bytes,
            seal_at: GENERATION_BYTES.min(options.max_bytes / 8),
            recent: Recent::default(),
            live: Arc::clone(&live),
            unsynced_since: None,
            dedupe: Arc::clone(&dedupe),
            pack: Pack::default(),
            packs: opened.packs,
            packer: Packer::default(),
            horizon: moves_horizon,
        };
        let (alive, ended) = watch::channel(());
        let alive = Arc::new(Mutex::new(Some(alive)));
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let ends = EndsWithThread(Arc::clone(&alive));
            let run = move || {
                let _ends = ends;
                run();
            };
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(run)
                .map_err(|source| OpenError::Folder { dir: options.dir.clone(), source })
        };
        let threads = Threads {
            keeper: spawn("queue-keeper", Box::new(move || keeper.run()))?,
            writer: spawn("queue-writer", Box::new(move || writer.run()))?,
            ended,
            lock: opened.lock,
        };
        let shared = Shared {
            requests,
            tasks: Mutex::new(Some(tasks)),
            waiting: Arc::new(Semaphore::new(WAITING_BYTES)),
            tail,
            generations: opened.generations,
            metrics,
            readiness,
            live,
            max_bytes: options.max_bytes,
            was_paused: opened.paused,
            letters_turn: Arc::default(),
            dedupe,
            horizon,
        };
        Ok((Self { shared: Arc::new(shared) }, threads))
    }

    /// Changes what can change of the options, without keeping the queue open.
    #[must_use]
    pub fn changeable(&self) -> Changeable {
        let (live, dedupe) = (Arc::clone(&self.shared.live), Arc::clone(&self.shared.dedupe));
        Changeable { live, dedupe }
    }

    /// Takes no more events and no more tasks; the threads write what they have, and end.
    pub fn close(&self) {
        self.shared.readiness.set(Readiness::Closed);
        self.shared.requests.close();
        take(&self.shared.tasks);
    }

    /// Whether an operator had paused delivery when the queue was opened.
    #[must_use]
    pub fn was_paused(&self) -> bool {
        self.shared.was_paused
    }

    /// Keeps, durably, whether an operator paused delivery.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn keep_paused(&self, paused: bool) -> Result<(), StoreError> {
        self.ask(|done| Task::Record { changes: vec![put_paused(paused)], done }).await
    }

    /// What was found damaged since the start, the newest of many; how many events that cost is in
    /// the ledger, as dropped for reason `damaged`.
    #[must_use]
    pub fn damages(&self) -> Vec<Damage> {
        self.shared.generations.damages()
    }

    /// Waits for the turn to work on dead letters.
    pub(super) async fn letters_turn(&self) -> Turn {
        Arc::clone(&self.shared.letters_turn).lock_owned().await
    }

    /// The sequence behind the last event that is committed.
    pub(super) fn end(&self) -> Sequence {
        self.shared.tail.end()
    }

    /// Where an event stands in the log.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn locate(&self, sequence: Sequence) -> Result<Location, StoreError> {
        if sequence < Sequence::FIRST || sequence >= self.shared.tail.end() {
            return Ok(Location::Nowhere);
        }
        let Some(event) = self.read_exactly(&[sequence]).await?.into_iter().next() else {
            let start = self.shared.generations.start();
            let is_behind = start.is_some_and(|start| sequence < start);
            return Ok(if is_behind { Location::Settled } else { Location::Nowhere });
        };
        let partition = event.user.partition();
        let is_settled = self.ask(|done| Task::IsSettled { partition, sequence, done }).await?;
        Ok(if is_settled { Location::Settled } else { Location::Queued })
    }

    pub(super) fn append_in_turn(
        &self,
        submission: Submission,
        turn: Option<Turn>,
    ) -> impl Future<Output = Result<Appended, AppendError>> + Send {
        // Not `async`: that would hold the submission twice, and each request moves its future.
        if submission.is_void() {
            Either::Left(std::future::ready(Ok(Appended::default())))
        } else {
            Either::Right(self.hand_over(submission, turn))
        }
    }

    pub(super) async fn ask<T>(
        &self,
        task: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Task,
    ) -> Result<T, StoreError> {
        let (done, answer) = oneshot::channel();
        let tasks = self.shared.tasks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let tasks = tasks.ok_or(StoreError::Closed)?;
        tasks.send(task(done)).map_err(|_| StoreError::Closed)?;
        drop(tasks);
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Reads from disk. A generation that is found damaged while it is written is sealed first, so
    /// that it can be rebuilt.
    async fn reading<T: Send + 'static>(
        &self,
        read: impl Fn(&Generations, Sequence) -> Result<T, EngineError> + Clone + Send + 'static,
    ) -> Result<T, StoreError> {
        let mut is_second = false;
        loop {
            let (generations, read) = (Arc::clone(&self.shared.generations), read.clone());
            let committed = self.shared.tail.end();
            let result = tokio::task::spawn_blocking(move || read(&generations, committed)).await;
            let Ok(result) = result else { return Err(StoreError::Closed) };
            let result = result.map_err(|error| StoreError::Io(error.to_string()));
            if is_second || result.is_ok() || !self.shared.generations.is_written_damaged() {
                return result;
            }
            is_second = true;
            // The writer looks after it before each commit; what it answers to none doesn't matter.
            drop(self.hand_over(Submission::default(), None).await);
        }
    }

    async fn hand_over(
        &self,
        submission: Submission,
        turn: Option<Turn>,
    ) -> Result<Appended, AppendError> {
        let share = submission.bytes().clamp(WAITING_LEAST, WAITING_BYTES);
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        let waiting = Arc::clone(&self.shared.waiting);
        let permit = waiting.acquire_many_owned(share).await.map_err(|_| AppendError::Closed)?;
        let (done, committed) = oneshot::channel();
        let request = Request { submission, done, permit, turn };
        self.shared.requests.push(request).map_err(|_| AppendError::Closed)?;
        // The writer answers each request that it took, unless it panicked on the way.
        committed.await.map_or(Err(AppendError::OutcomeUnknown), Answer::take)
    }
}

/// Lets [`Threads::ended`] resolve when the thread that holds it ends, by a panic too.
struct EndsWithThread(Arc<Mutex<Option<watch::Sender<()>>>>);

impl Drop for EndsWithThread {
    fn drop(&mut self) {
        take(&self.0);
    }
}

fn take<T>(slot: &Mutex<Option<T>>) {
    drop(slot.lock().unwrap_or_else(PoisonError::into_inner).take());
}

impl Appender for Queue {
    fn append(
        &self,
        submission: Submission,
    ) -> impl Future<Output = Result<Appended, AppendError>> + Send {
        self.append_in_turn(submission, None)
    }

    fn begin(&self, key: RequestKey) -> Begun {
        self.shared.dedupe.begin(key)
    }

    fn ready(&self) -> Readiness {
        let bytes = self.shared.metrics.ledger.read(|counts| counts.queue_bytes);
        self.shared.readiness.get(bytes, self.shared.max_bytes)
    }
}

impl Log for Queue {
    async fn lanes(&self, wanted: usize) -> Result<Lanes, StoreError> {
        let lanes = self.ask(|done| Task::Lanes { wanted, done }).await?;
        Ok(Lanes::all(lanes, wanted))
    }

    async fn read(
        &self,
        from: Sequence,
        partitions: &Partitions,
        limit: ReadLimit,
    ) -> Result<Chunk, StoreError> {
        if let Some(chunk) = self.shared.tail.read(from, partitions, limit) {
            return Ok(chunk);
        }
        let partitions = *partitions;
        self.reading(move |generations, committed| {
            generations.read(from, committed, &partitions, limit)
        })
        .await
    }

    async fn read_exactly(&self, sequences: &[Sequence]) -> Result<Vec<QueuedEvent>, StoreError> {
        let sequences = sequences.to_vec();
        self.reading(move |generations, committed| generations.read_exactly(&sequences, committed))
            .await
    }

    async fn committed(&self, position: Sequence, partitions: &Partitions, at_least: ReadLimit) {
        self.shared.tail.committed(position, partitions, at_least).await;
    }

    async fn save(
        &self,
        lane: usize,
        cursor: LaneCursor,
        settlement: Settlement,
    ) -> Result<(), StoreError> {
        self.ask(|done| Task::Save { lane, cursor, settlement, done }).await
    }

    fn horizon(&self) -> watch::Receiver<Sequence> {
        self.shared.horizon.clone()
    }

    async fn bury(&self, letters: Vec<DeadLetter>) -> Result<(), StoreError> {
        self.ask(|done| Task::Bury { letters, done }).await
    }
}
