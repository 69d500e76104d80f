//! The queue of a fleet, on NATS JetStream: an event is acknowledged when JetStream has it, any
//! replica can deliver it, and one at a time does.
//!
//! - The stream NAME has a message an event, `NAME.events.LANE`; a user's events are in one lane, in
//!   order. The message's sequence is the event's.
//! - The bucket NAME-STATE has a record a lane, with its owner and its cursor, and a key a replica.
//! - The stream NAME-DEAD has a message a dead letter.
//!
//! The parts: `options` says how it is opened and why it can't be. `connect` creates or checks the
//! streams, `survey` is what it finds. `publish` appends, by `flights`; `spill` keeps what NATS does
//! not take. `log` is what delivery sees; `reader`
//! reads a lane. `steward` shares the lanes out among the replicas, `slots` are this one's. `record`
//! and `message` are the formats. `letters` is what operators do with dead letters.
//!
//! Invariants:
//! - Nothing is acknowledged before JetStream acknowledged it, or, where there is a spill, this
//!   replica's disk has it.
//! - Every writing of a lane's cursor names the revision that it replaces, so whoever has lost a
//!   lane stores nothing of it. A batch's extent and key are stored that way before it is first
//!   sent, so whoever has lost a lane begins nothing new; and the next owner sends the same bytes
//!   under the same key.
//! - Messages are removed only behind a cursor that is stored.

mod changes;
mod connect;
mod flights;
mod letters;
mod log;
mod message;
mod options;
mod publish;
mod reader;
mod record;
mod slots;
mod spill;
mod steward;
mod survey;
mod tally;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::connection::State;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::kv::UpdateErrorKind;
use async_nats::jetstream::stream::RawMessageErrorKind;
use bytes::Bytes;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::connect::Streams;
pub use self::options::{NatsError, Options};
use self::publish::{Published, Publisher, Request};
use self::reader::failed;
use self::record::LaneRecord;
use self::slots::Slot;
use self::spill::{Forwarder, Spill};
use self::steward::Steward;
pub use self::survey::{StreamSurvey, Survey};
use self::tally::Tally;
use super::dedupe::Dedupe;
use super::readiness::AtomicReadiness;
use super::{
    AppendError, Appended, Appender, Begun, Damage, DedupeLimits, FleetAccount, Location,
    QueuedEvent, Readiness, RequestKey, Sequence, StoreError, Submission, Threads, UserHash,
    WorkerPanicked,
};
use crate::clock::Clock;
use crate::telemetry::Metrics;

/// The kind of a refusal because another revision is the newest.
#[allow(non_upper_case_globals, reason = "a pattern's name, shorter than where it comes from")]
const WrongRevision: UpdateErrorKind = UpdateErrorKind::WrongLastRevision;
/// Memory that requests may take while they wait for their acknowledgements, in bytes.
const WAITING_BYTES: usize = 64 * 1024 * 1024;
/// The least that a request counts against it, so that their number is bounded too.
const WAITING_LEAST: usize = 4 * 1024;
/// Requests that wait for the publisher.
const REQUESTS: usize = 1024;
/// Events that are asked for one by one, at once.
const CONCURRENT: usize = 32;

/// The durable queue of a fleet. Clones share it; see the module for what it promises.
#[derive(Clone, Debug)]
pub struct FleetQueue {
    shared: Arc<Shared>,
}

/// The queue's tasks; to be waited for once it is closed.
#[derive(Debug)]
pub struct FleetTasks {
    tasks: JoinSet<()>,
    /// The first that panicked.
    failed: Option<TaskPanicked>,
    spill: Option<(Arc<Spill>, Threads)>,
}

/// A task of the queue panicked.
#[derive(Debug, thiserror::Error)]
#[error("a task of the queue on NATS ended: {0}")]
pub struct TaskPanicked(tokio::task::JoinError);

impl FleetTasks {
    /// Resolves when a task has ended; before the queue is closed that means that it panicked.
    ///
    /// # Cancel safety
    /// Safe: [`FleetTasks::join`] tells why.
    pub async fn ended(&mut self) {
        let Some((_, threads)) = &self.spill else { return self.task_ended().await };
        let ended = threads.ended();
        tokio::select! {
            () = self.task_ended() => {}
            () = ended => {}
        }
    }

    async fn task_ended(&mut self) {
        if let Some(Err(error)) = self.tasks.join_next().await {
            self.failed.get_or_insert(TaskPanicked(error));
        }
    }

    /// Waits for all tasks, and the spill's threads, to end.
    ///
    /// # Errors
    /// When one panicked.
    pub async fn join(mut self) -> Result<(), WorkerPanicked> {
        while !self.tasks.is_empty() {
            self.task_ended().await;
        }
        if let Some((spill, threads)) = self.spill {
            // Whoever could have appended to it has ended.
            spill.close();
            let left = spill.events();
            if left > 0 {
                tracing::warn!(
                    events = left,
                    "events stay in the spill: the next start passes them on to NATS"
                );
            }
            tokio::task::spawn_blocking(|| threads.join()).await??;
        }
        Ok(self.failed.map_or(Ok(()), Err)?)
    }
}

#[derive(Debug)]
struct Shared {
    streams: Streams,
    /// What the subjects begin with.
    prefix: String,
    /// How many lanes there are.
    count: usize,
    /// This replica's name; another one at each start.
    replica: String,
    slots: Mutex<Vec<Slot>>,
    /// The lanes of this replica came, or are to go.
    moved: Notify,
    /// A lane has ended here.
    left: Notify,
    started: Instant,
    /// Until when this replica is sure of its lanes, in milliseconds since `started`.
    sure_until: AtomicU64,
    /// None once closed.
    requests: Mutex<Option<mpsc::Sender<Request>>>,
    waiting: Arc<Semaphore>,
    spill: Option<Arc<Spill>>,
    readiness: AtomicReadiness,
    max_bytes: u64,
    tally: Mutex<Tally>,
    dedupe: Arc<Dedupe>,
    horizon: watch::Sender<Sequence>,
    paused: watch::Sender<bool>,
    /// Users of whom other replicas are to be told.
    changes: mpsc::Sender<Bytes>,
    changes_waiting: tokio::sync::Mutex<mpsc::Receiver<Bytes>>,
    stop: CancellationToken,
    metrics: Arc<Metrics>,
    clock: Clock,
}

impl Shared {
    fn lane_of(&self, user: UserHash) -> usize {
        user.partition().index() % self.count
    }

    fn subject(&self, lane: usize) -> String {
        format!("{}.events.{lane}", self.prefix)
    }

    /// The subject of a key in the bucket.
    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.streams.state.prefix)
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether this replica's lanes are surely its own.
    fn is_sure(&self, at: Instant) -> bool {
        self.millis(at) < self.sure_until.load(Ordering::Acquire)
    }

    fn sure_until(&self, until: Instant) {
        self.sure_until.store(self.millis(until), Ordering::Release);
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether NATS can be reached, as far as is known.
    fn is_there(&self) -> bool {
        let is_connected = self.streams.client.connection_state() == State::Connected;
        is_connected && self.is_sure(Instant::now())
    }
}

impl FleetQueue {
    /// Asks the servers how they and the streams are; creates nothing.
    ///
    /// # Errors
    /// When NATS can't be reached or used, or the streams were written by a newer version.
    pub async fn survey(options: &Options) -> Result<Survey, NatsError> {
        connect::survey(options).await
    }

    /// What operators are to know of the servers.
    #[must_use]
    pub fn account(&self) -> FleetAccount {
        let streams = &self.shared.streams;
        let replicas = streams.events.cached_info().config.num_replicas;
        let account = connect::account(&streams.client, &self.shared.prefix, replicas);
        FleetAccount { spill: self.shared.spill.as_ref().map(|spill| spill.account()), ..account }
    }

    /// What was found damaged of the spill since the start.
    #[must_use]
    pub fn damages(&self) -> Vec<Damage> {
        self.shared.spill.as_ref().map(|spill| spill.damages()).unwrap_or_default()
    }

    /// Connects, creates or checks the streams, and starts the tasks.
    ///
    /// # Errors
    /// When NATS can't be reached, or its streams can't be used; see [`NatsError`].
    pub async fn open(
        options: &Options,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, FleetTasks), NatsError> {
        let streams = connect::connect(options).await?;
        let forgotten = metrics.dedupe_forgotten.clone();
        let dedupe = Arc::new(Dedupe::new(options.dedupe, clock.clone(), forgotten));
        metrics.ledger.update(|counts| counts.queue_capacity_bytes = options.max_bytes);
        let (requests, waiting_requests) = mpsc::channel(REQUESTS);
        let mut slots = Vec::new();
        slots.resize_with(options.lanes, Slot::default);
        let key = format!("{}paused", streams.state.prefix);
        let paused = letters::last(&streams.state.stream, &key).await;
        let paused = paused.map_err(|error| NatsError::request(&options.stream, &error))?;
        let paused = paused.is_some_and(|message| *message.payload == *b"true");
        let (spill, threads) = match &options.spill {
            Some(options) => Some(Spill::open(options.clone(), &clock, &metrics).await?).unzip(),
            None => (None, None),
        };
        let stop = CancellationToken::new();
        let (changes, changes_waiting) = mpsc::channel(changes::WAITING);
        let shared = Arc::new(Shared {
            streams,
            prefix: options.stream.clone(),
            count: options.lanes,
            replica: format!("{:016x}", rand::random::<u64>()),
            slots: Mutex::new(slots),
            moved: Notify::new(),
            left: Notify::new(),
            started: Instant::now(),
            sure_until: AtomicU64::new(0),
            requests: Mutex::new(Some(requests)),
            waiting: Arc::new(Semaphore::new(WAITING_BYTES)),
            spill,
            readiness: AtomicReadiness::default(),
            max_bytes: options.max_bytes,
            tally: Mutex::default(),
            dedupe,
            horizon: watch::Sender::new(Sequence::FIRST),
            paused: watch::Sender::new(paused),
            changes,
            changes_waiting: tokio::sync::Mutex::new(changes_waiting),
            stop: stop.clone(),
            metrics,
            clock,
        });
        let mut tasks = JoinSet::new();
        let (forwards, waiting_forwards) = mpsc::channel(1);
        let publisher = Publisher::new(Arc::clone(&shared), waiting_requests, waiting_forwards);
        tasks.spawn(publisher.run());
        let mut steward = Steward::new(Arc::clone(&shared), stop.clone(), options.lease);
        let begun = steward.tick().await;
        begun.map_err(|error| NatsError::request(&options.stream, &error))?;
        shared.metrics.ledger.update(|counts| counts.recovered = counts.queued());
        tasks.spawn(steward.run());
        if let Some(spill) = &shared.spill {
            spill.measure(&shared.metrics);
            let (shared, spill) = (Arc::clone(&shared), Arc::clone(spill));
            tasks.spawn(Forwarder { shared, spill, forwards, stop }.run());
        }
        let spill = shared.spill.clone().zip(threads);
        Ok((Self { shared }, FleetTasks { tasks, failed: None, spill }))
    }

    /// Takes no more events; gives the lanes back. Delivery is to have ended.
    pub fn close(&self) {
        self.shared.readiness.set(Readiness::Closed);
        drop(self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.shared.stop.cancel();
    }

    /// Whether an operator paused the fleet's delivery.
    #[must_use]
    pub fn paused(&self) -> watch::Receiver<bool> {
        self.shared.paused.subscribe()
    }

    /// Keeps, for all replicas, whether an operator paused delivery.
    ///
    /// # Errors
    /// When NATS does not answer.
    pub async fn keep_paused(&self, paused: bool) -> Result<(), StoreError> {
        let kept = self.shared.streams.state.put("paused", paused.to_string().into()).await;
        kept.map_err(|error| failed(&error))?;
        self.shared.paused.send_replace(paused);
        Ok(())
    }

    /// What is remembered of requests from now on.
    pub fn set_limits(&self, limits: DedupeLimits) {
        self.shared.dedupe.set_limits(limits);
    }

    /// Where an event stands in the log.
    ///
    /// # Errors
    /// When NATS does not answer.
    pub async fn locate(&self, sequence: Sequence) -> Result<Location, StoreError> {
        if sequence < Sequence::FIRST {
            return Ok(Location::Nowhere);
        }
        let Some(event) = self.read_one(sequence).await? else {
            let info = self.shared.streams.events.get_info().await.map_err(|e| failed(&e))?;
            let is_behind = (1..=info.state.last_sequence).contains(&sequence.get());
            return Ok(if is_behind { Location::Settled } else { Location::Nowhere });
        };
        let key = self.shared.key(&format!("lane.{}", self.shared.lane_of(event.user)));
        let record = letters::last(&self.shared.streams.state.stream, &key).await?;
        let record = record.and_then(|message| LaneRecord::parse(&message.payload).ok());
        let is_settled =
            record.is_some_and(|record| record.has_settled(event.user.partition(), sequence));
        Ok(if is_settled { Location::Settled } else { Location::Queued })
    }

    async fn read_one(&self, sequence: Sequence) -> Result<Option<QueuedEvent>, StoreError> {
        let asking = self.shared.streams.events.get_raw_message(sequence.get());
        match asking.await {
            Ok(message) => match message::decode(sequence, &message.payload) {
                Ok(event) => Ok(Some(event)),
                Err(message::MessageError::Foreign) => Ok(None),
                Err(error @ message::MessageError::Newer(_)) => Err(failed(&error)),
            },
            Err(error) => match error.kind() {
                RawMessageErrorKind::NoMessageFound => Ok(None),
                RawMessageErrorKind::JetStream(cause)
                    if cause.error_code() == ErrorCode::NO_MESSAGE_FOUND =>
                {
                    Ok(None)
                }
                RawMessageErrorKind::JetStream(_)
                | RawMessageErrorKind::InvalidSubject
                | RawMessageErrorKind::Other => Err(failed(&error)),
            },
        }
    }

    /// Publishes a request; where it `may_spill`, the spill may take it in NATS' place.
    async fn publish(
        &self,
        submission: Submission,
        may_spill: bool,
    ) -> Result<Published, AppendError> {
        let share = submission.bytes().clamp(WAITING_LEAST, WAITING_BYTES);
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        let waiting = Arc::clone(&self.shared.waiting);
        let permit = waiting.acquire_many_owned(share).await.map_err(|_| AppendError::Closed)?;
        // Nothing is handed to a connection that is known to be gone: its outcome would be unknown.
        let has_spill = may_spill && self.shared.spill.is_some();
        if !has_spill && !self.shared.is_there() {
            return Err(AppendError::Unreachable);
        }
        let requests = self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let requests = requests.ok_or(AppendError::Closed)?;
        let (done, published) = oneshot::channel();
        let request = Request { submission, done, permit, may_spill };
        requests.send(request).await.map_err(|_| AppendError::Closed)?;
        published.await.unwrap_or(Err(AppendError::OutcomeUnknown))
    }
}

impl Appender for FleetQueue {
    async fn append(&self, submission: Submission) -> Result<Appended, AppendError> {
        if submission.is_void() {
            return Ok(Appended::default());
        }
        Ok(self.publish(submission, true).await?.appended)
    }

    fn begin(&self, key: RequestKey) -> Begun {
        self.shared.dedupe.begin(key)
    }

    fn ready(&self) -> Readiness {
        let shared = &self.shared;
        let bytes = shared.metrics.ledger.read(|counts| counts.queue_bytes);
        let state = shared.readiness.get(bytes, shared.max_bytes);
        let is_there = shared.is_there();
        match &shared.spill {
            _ if state == Readiness::Closed => state,
            Some(spill) if !is_there || spill.events() > 0 => spill.ready(),
            _ if !is_there => Readiness::Unreachable,
            _ => state,
        }
    }
}
