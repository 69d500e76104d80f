//! The queue of a fleet, on NATS JetStream: an event is acknowledged when JetStream has it, any
//! replica can deliver it, and one at a time does.
//!
//! - The stream NAME has a message an event, `NAME.events.LANE`; a user's events are in one lane, in
//!   order. The message's sequence is the event's.
//! - The bucket NAME-STATE has a record a lane, with its owner and its cursor, and a key a replica.
//! - The stream NAME-DEAD has a message a dead letter.
//!
//! The parts: `connect` creates or checks these. `publish` appends. `reader` reads a lane. `steward`
//! shares the lanes out among the replicas. `record` and `message` are the formats. `letters` is
//! what operators do with dead letters.
//!
//! Invariants:
//! - Nothing is acknowledged before JetStream acknowledged it.
//! - Every writing of a lane's cursor names the revision that it replaces, so whoever has lost a
//!   lane stores nothing of it. A batch's extent and key are stored that way before it is first
//!   sent, so whoever has lost a lane begins nothing new; and the next owner sends the same bytes
//!   under the same key.
//! - Messages are removed only behind a cursor that is stored.

mod changes;
mod connect;
mod letters;
mod message;
mod publish;
mod reader;
mod record;
mod steward;
mod tally;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::kv::UpdateErrorKind;
use async_nats::jetstream::stream::RawMessageErrorKind;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::connect::Streams;
use self::publish::{Published, Publisher, Request};
use self::reader::{Reader, failed};
use self::record::LaneRecord;
use self::steward::Steward;
use self::tally::Tally;
use super::dedupe::Dedupe;
use super::readiness::AtomicReadiness;
use super::{
    AppendError, Appended, Appender, Begun, Chunk, DeadLetter, DedupeLimits, FleetAccount,
    LaneCursor, Lanes, Location, Log, Partitions, QueuedEvent, ReadLimit, Readiness, RequestKey,
    Sequence, Settlement, StoreError, Submission, UserHash,
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
/// Readers of one lane: where it reads on, and where it reads what it passed over.
const READERS: usize = 3;
/// How long a read waits for what the server said it has.
const READ: Duration = Duration::from_secs(5);
/// Events that the stream's leader confirms in one read, at most.
const CONFIRMED: usize = 512;
/// Events that are asked for one by one, at once.
const CONCURRENT: usize = 32;

/// How a fleet's queue is opened. Sizes are in bytes.
#[derive(Clone, Debug)]
pub struct Options {
    pub servers: Vec<String>,
    pub credentials_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub stream: String,
    pub replicas: usize,
    pub lanes: usize,
    pub max_bytes: u64,
    pub lease: Duration,
    pub dead_letters_max_bytes: u64,
    pub max_event: usize,
    pub dedupe: DedupeLimits,
}

impl Options {
    #[cfg(test)]
    fn example() -> Self {
        Self {
            servers: vec!["nats://127.0.0.1:4222".to_owned()],
            credentials_file: None,
            ca_file: None,
            stream: "GMFY".to_owned(),
            replicas: 3,
            lanes: 64,
            max_bytes: 1 << 30,
            lease: Duration::from_secs(10),
            dead_letters_max_bytes: 1 << 20,
            max_event: 1 << 16,
            dedupe: DedupeLimits { window: Duration::from_secs(600), entries: 1000 },
        }
    }
}

/// Why a fleet's queue can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// None of the servers answers; perhaps later.
    #[error(
        "queue.nats.servers: NATS can't be reached at {servers}: {why}. Start it, or correct the \
         addresses"
    )]
    Unreachable { servers: String, why: String },
    #[error("queue.nats.credentials_file: {path} can't be used: {why}")]
    Credentials { path: String, why: String },
    #[error(
        "the NATS servers take messages of {max_payload} bytes, and events of api.max_event need \
         {needed}: raise the servers' max_payload, or lower api.max_event"
    )]
    MaxPayload { max_payload: usize, needed: usize },
    #[error(
        "the NATS servers at {servers} refuse the user: {why}. Set queue.nats.credentials_file to the \
         credentials of a user that they know"
    )]
    Refused { servers: String, why: String },
    #[error(
        "no TLS with NATS at {servers}: {why}. Set queue.nats.ca_file to the authority that signed \
         the servers' certificates, and queue.nats.servers to names that stand in them"
    )]
    Tls { servers: String, why: String },
    #[error(
        "the NATS servers have no JetStream for this user: {0}. Start them with a `jetstream` block, \
         and enable it for the user's account"
    )]
    NoJetStream(String),
    /// JetStream does not answer, or refuses; perhaps not later.
    #[error("NATS, stream {stream}: {why}")]
    Request { stream: String, why: String },
    #[error(
        "the NATS stream {stream} is not as the settings say, and is never changed by this program: \
         {how}. Change the settings, or the stream (`nats stream edit {stream}`)"
    )]
    Differs { stream: String, how: String },
    #[error(
        "queue.nats.lanes is {wanted}, and the stream was made with {found} lanes, which can't be \
         changed: set it to {found}, or use another queue.nats.stream once this one is empty"
    )]
    Lanes { found: usize, wanted: usize },
    #[error(
        "the stream was written by a newer version of gmfy-sidecar (format {0}): run that version, \
         or use another queue.nats.stream"
    )]
    Newer(u32),
    #[error(
        "the NATS stream {stream} was deleted and created again, and the cursors in the bucket \
         {bucket} are the old one's: delete the bucket too (`nats kv del {bucket}`)"
    )]
    Recreated { stream: String, bucket: String },
}

impl NatsError {
    fn request(stream: &str, error: &dyn std::fmt::Display) -> Self {
        Self::Request { stream: stream.to_owned(), why: error.to_string() }
    }
}

/// How the servers and the streams are, as `check --online` tells.
#[derive(Debug)]
pub struct Survey {
    pub account: FleetAccount,
    /// The stream of events, of dead letters, and the bucket's.
    pub streams: Vec<StreamSurvey>,
}

/// A stream that the queue needs.
#[derive(Debug)]
pub struct StreamSurvey {
    pub name: String,
    /// Otherwise it would be created at the start.
    pub is_there: bool,
    /// How many servers keep it, or would.
    pub replicas: usize,
    /// Why the start would refuse it.
    pub problem: Option<NatsError>,
}

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
        if let Some(Err(error)) = self.tasks.join_next().await {
            self.failed.get_or_insert(TaskPanicked(error));
        }
    }

    /// Waits for all tasks to end.
    ///
    /// # Errors
    /// When one panicked.
    pub async fn join(mut self) -> Result<(), TaskPanicked> {
        while !self.tasks.is_empty() {
            self.ended().await;
        }
        self.failed.map_or(Ok(()), Err)
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

/// A lane, as this replica sees it.
#[derive(Debug, Default)]
struct Slot {
    /// Set where it is this replica's.
    owned: Option<Arc<Owned>>,
    /// Delivery has it, and must have ended before it can be this replica's anew.
    running: bool,
    /// It is another's once delivery has ended.
    leaving: bool,
}

/// A lane of this replica.
#[derive(Debug)]
struct Owned {
    held: tokio::sync::Mutex<Held>,
    readers: tokio::sync::Mutex<Vec<Reader>>,
    /// Behind the last event that was handed out.
    end: AtomicU64,
}

#[derive(Debug)]
struct Held {
    record: LaneRecord,
    revision: u64,
}

impl Owned {
    fn new(record: LaneRecord, revision: u64) -> Self {
        Self {
            held: tokio::sync::Mutex::new(Held { record, revision }),
            readers: tokio::sync::Mutex::default(),
            end: AtomicU64::new(0),
        }
    }
}

impl Shared {
    fn slots(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

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

    /// All lanes may be others' by now.
    fn lapse(&self) {
        let mut lost = 0;
        for slot in self.slots().iter_mut() {
            lost += usize::from(slot.owned.take().is_some());
            slot.leaving = false;
        }
        if lost > 0 {
            tracing::warn!(lanes = lost, "the lease ran out: the lanes may be other replicas'");
            self.moved.notify_one();
        }
    }

    fn owned(&self, lane: usize) -> Result<Arc<Owned>, StoreError> {
        let slots = self.slots();
        slots.get(lane).and_then(|slot| slot.owned.clone()).ok_or(StoreError::LaneLost)
    }

    fn all_owned(&self) -> Vec<(usize, Arc<Owned>)> {
        let slots = self.slots();
        let owned = slots.iter().enumerate();
        owned.filter_map(|(lane, slot)| Some((lane, slot.owned.clone()?))).collect()
    }

    /// Has lanes beyond so many go; returns how many stay.
    fn give_up_beyond(&self, share: usize) -> usize {
        let mut slots = self.slots();
        let (mut stay, mut changed) = (0, false);
        for slot in slots.iter_mut().filter(|slot| slot.owned.is_some() && !slot.leaving) {
            if stay < share {
                stay += 1;
            } else {
                slot.leaving = true;
                changed = true;
            }
        }
        drop(slots);
        if changed {
            self.moved.notify_one();
            // Those that delivery does not have can go at once.
            self.left.notify_one();
        }
        stay
    }

    /// The lanes that this replica neither has nor still delivers.
    fn free(&self) -> Vec<usize> {
        let slots = self.slots();
        let free = slots.iter().enumerate().filter(|(_, s)| s.owned.is_none() && !s.running);
        free.map(|(lane, _)| lane).collect()
    }

    fn ended_and_leaving(&self) -> Vec<(usize, Arc<Owned>)> {
        let slots = self.slots();
        let ended = slots.iter().enumerate().filter(|(_, s)| s.leaving && !s.running);
        ended.filter_map(|(lane, slot)| Some((lane, slot.owned.clone()?))).collect()
    }

    fn take(&self, lane: usize, owned: Owned) {
        if let Some(slot) = self.slots().get_mut(lane) {
            *slot = Slot { owned: Some(Arc::new(owned)), running: false, leaving: false };
        }
    }

    fn forget(&self, lane: usize) {
        if let Some(slot) = self.slots().get_mut(lane) {
            (slot.owned, slot.leaving) = (None, false);
        }
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_connected(&self) -> bool {
        self.streams.client.connection_state() == State::Connected
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
        connect::account(&streams.client, &self.shared.prefix, replicas)
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
        let publisher = Publisher { shared: Arc::clone(&shared), requests: waiting_requests };
        tasks.spawn(publisher.run());
        let mut steward = Steward::new(Arc::clone(&shared), stop, options.lease);
        let begun = steward.tick().await;
        begun.map_err(|error| NatsError::request(&options.stream, &error))?;
        shared.metrics.ledger.update(|counts| counts.recovered = counts.queued());
        tasks.spawn(steward.run());
        Ok((Self { shared }, FleetTasks { tasks, failed: None }))
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

    async fn publish(&self, submission: Submission) -> Result<Published, AppendError> {
        let share = submission.bytes().clamp(WAITING_LEAST, WAITING_BYTES);
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        let waiting = Arc::clone(&self.shared.waiting);
        let permit = waiting.acquire_many_owned(share).await.map_err(|_| AppendError::Closed)?;
        // Nothing is handed to a connection that is known to be gone: its outcome would be unknown.
        if self.ready() == Readiness::Unreachable {
            return Err(AppendError::Unreachable);
        }
        let requests = self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let requests = requests.ok_or(AppendError::Closed)?;
        let (done, published) = oneshot::channel();
        let request = Request { submission, done, permit };
        requests.send(request).await.map_err(|_| AppendError::Closed)?;
        published.await.unwrap_or(Err(AppendError::OutcomeUnknown))
    }
}

impl Appender for FleetQueue {
    async fn append(&self, submission: Submission) -> Result<Appended, AppendError> {
        if submission.is_void() {
            return Ok(Appended::default());
        }
        Ok(self.publish(submission).await?.appended)
    }

    fn begin(&self, key: RequestKey) -> Begun {
        self.shared.dedupe.begin(key)
    }

    fn ready(&self) -> Readiness {
        let shared = &self.shared;
        let bytes = shared.metrics.ledger.snapshot().queue_bytes;
        let state = shared.readiness.get(bytes, shared.max_bytes);
        let is_there = shared.is_connected() && shared.is_sure(Instant::now());
        if state != Readiness::Closed && !is_there { Readiness::Unreachable } else { state }
    }
}

impl Log for FleetQueue {
    async fn lanes(&self, _wanted: usize) -> Result<Lanes, StoreError> {
        let owned: Vec<_> = {
            let mut slots = self.shared.slots();
            let mine = slots.iter_mut().enumerate().filter(|(_, slot)| !slot.leaving);
            let mine = mine.filter_map(|(lane, slot)| {
                let owned = slot.owned.clone()?;
                slot.running = true;
                Some((lane, owned))
            });
            mine.collect()
        };
        let mut mine = Vec::with_capacity(owned.len());
        for (lane, owned) in owned {
            let start = owned.held.lock().await.record.start(lane, self.shared.count);
            mine.push((lane, start));
        }
        Ok(Lanes { count: self.shared.count, mine, finish_only: false })
    }

    async fn moved(&self) {
        self.shared.moved.notified().await;
    }

    fn holds(&self, lane: usize) -> bool {
        self.shared.owned(lane).is_ok() && self.shared.is_sure(Instant::now())
    }

    fn left(&self, lane: usize) {
        if let Some(slot) = self.shared.slots().get_mut(lane) {
            slot.running = false;
        }
        self.shared.left.notify_one();
    }

    async fn read(
        &self,
        from: Sequence,
        partitions: &Partitions,
        limit: ReadLimit,
    ) -> Result<Chunk, StoreError> {
        let Some(lane) = self.lane_of(partitions) else {
            return Err(StoreError::Io("partitions of several lanes are read".to_owned()));
        };
        let owned = self.shared.owned(lane)?;
        let mut readers = owned.readers.lock().await;
        let mut reader = self.reader(lane, &mut readers, from).await?;
        // One that fails is dropped, and the next read opens another one.
        reader.take_ready().await?;
        // Events that were handed out before are known to be there, whatever a server says that
        // lags behind.
        let is_known = from.get() < owned.end.load(Ordering::Relaxed);
        let one = ReadLimit { events: 1, bytes: 1 };
        while !reader.has(limit) && (reader.expects_more() || is_known && !reader.has(one)) {
            let waiting = tokio::time::timeout(READ, reader.wait()).await;
            waiting.map_err(|_| failed(&"no messages in time, although there are some"))??;
            reader.take_ready().await?;
        }
        let confirming = tokio::time::timeout(READ, reader.confirm(CONFIRMED));
        confirming.await.map_err(|_| failed(&"no answer in time"))??;
        let chunk = reader.hand_out(partitions, limit);
        owned.end.fetch_max(chunk.position.get(), Ordering::Relaxed);
        readers.push(reader);
        Ok(chunk)
    }

    async fn read_exactly(&self, sequences: &[Sequence]) -> Result<Vec<QueuedEvent>, StoreError> {
        // A leader that has the last of them has had the others: what it has not now is removed.
        let info = self.shared.streams.events.get_info().await.map_err(|e| failed(&e))?;
        if sequences.iter().any(|sequence| sequence.get() > info.state.last_sequence) {
            return Err(failed(&"the stream's leader is behind a batch that was sent"));
        }
        let reading = futures_util::stream::iter(sequences.iter().copied())
            .map(|sequence| async move { self.read_one(sequence).await })
            .buffered(CONCURRENT);
        let read: Vec<_> = reading.try_collect().await?;
        let read: Vec<_> = read.into_iter().flatten().collect();
        tracing::debug!(asked = ?sequences, found = read.len(), "an unfinished batch is read");
        Ok(read)
    }

    async fn committed(&self, position: Sequence, partitions: &Partitions, at_least: ReadLimit) {
        // A lane need not move its cursor past what isn't its own: that is in other subjects.
        let Some(lane) = self.lane_of(partitions) else { return std::future::pending().await };
        let Ok(owned) = self.shared.owned(lane) else { return std::future::pending().await };
        let mut readers = owned.readers.lock().await;
        let opened = self.reader(lane, &mut readers, position).await;
        let Ok(reader) = opened else {
            drop(readers);
            // The read that follows tells it.
            return tokio::time::sleep(Duration::from_millis(200)).await;
        };
        readers.push(reader);
        // From here on dropping this loses nothing.
        while let Some(reader) = readers.last_mut() {
            if reader.has(at_least) {
                return;
            }
            if reader.wait().await.is_err() {
                readers.pop();
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    async fn save(
        &self,
        lane: usize,
        cursor: LaneCursor,
        settlement: Settlement,
    ) -> Result<(), StoreError> {
        let owned = self.shared.owned(lane)?;
        let mut held = owned.held.lock().await;
        let record = held.record.with_cursor(&cursor);
        self.store(lane, &mut held, record).await?;
        self.shared.metrics.ledger.update(|counts| {
            counts.settled += settlement.total();
            settlement.count(counts);
        });
        Ok(())
    }

    fn horizon(&self) -> watch::Receiver<Sequence> {
        self.shared.horizon.subscribe()
    }

    async fn bury(&self, letters: Vec<DeadLetter>) -> Result<(), StoreError> {
        let count = letters.len() as u64;
        self.store_letters(letters).await?;
        self.shared.metrics.ledger.update(|counts| counts.dead_letters += count);
        Ok(())
    }
}

impl FleetQueue {
    /// The lane to which all of these belong.
    fn lane_of(&self, partitions: &Partitions) -> Option<usize> {
        let mut lanes = partitions.iter().map(|partition| partition.index() % self.shared.count);
        let first = lanes.next()?;
        lanes.all(|lane| lane == first).then_some(first)
    }

    /// Takes out the reader that is at `from`, or opens one.
    async fn reader(
        &self,
        lane: usize,
        readers: &mut Vec<Reader>,
        from: Sequence,
    ) -> Result<Reader, StoreError> {
        if let Some(at) = readers.iter().position(|reader| reader.position() == from) {
            return Ok(readers.remove(at));
        }
        if readers.len() >= READERS {
            readers.remove(0);
        }
        let opening = Reader::open(&self.shared.streams.events, self.shared.subject(lane), from);
        tokio::time::timeout(READ, opening).await.map_err(|_| failed(&"no answer in time"))?
    }

    /// Replaces a lane's record, if nobody else did.
    async fn store(
        &self,
        lane: usize,
        held: &mut Held,
        record: LaneRecord,
    ) -> Result<(), StoreError> {
        let state = &self.shared.streams.state;
        let key = format!("lane.{lane}");
        let mut is_again = false;
        loop {
            match state.update(&key, record.bytes(), held.revision).await {
                Ok(revision) => {
                    *held = Held { record, revision };
                    return Ok(());
                }
                Err(error) if error.kind() == WrongRevision && !is_again => {}
                Err(error) if error.kind() == WrongRevision => return Err(StoreError::LaneLost),
                Err(error) => return Err(failed(&error)),
            }
            // It may be this replica's own writing, of which it did not learn.
            is_again = true;
            let found = letters::last(&state.stream, &self.shared.key(&key)).await?;
            let Some(found) = found else { return Err(StoreError::LaneLost) };
            let theirs = LaneRecord::parse(&found.payload).map_err(|error| failed(&error))?;
            if theirs.session != record.session {
                return Err(StoreError::LaneLost);
            }
            held.revision = found.sequence;
        }
    }
}
