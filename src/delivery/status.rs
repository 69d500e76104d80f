//! What delivery says about itself while it runs, and the controls over it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::gate::{Gate, UpstreamState};
use super::work::Work;
use super::{InvalidBackoff, Settings};
use crate::clock::{Clock, Timestamp};
use crate::queue::Sequence;
use crate::telemetry::Metrics;

/// What a lane is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LaneState {
    /// Nothing to send.
    #[default]
    Idle,
    /// Waits for its turn, for a retry, or for GMFY to come back.
    Waiting,
    Sending,
    /// Stopped by the dead letters' limit, until there is room again.
    DeadLettersFull,
    /// The store fails; tried again.
    StoreFailing,
    Stopped,
}

impl LaneState {
    /// As operators are told.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Waiting => "waiting",
            Self::Sending => "sending",
            Self::DeadLettersFull => "dead_letters_full",
            Self::StoreFailing => "store_failing",
            Self::Stopped => "stopped",
        }
    }
}

/// A lane at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneStatus {
    pub state: LaneState,
    /// Where it reads on.
    pub position: Sequence,
    /// Events of the batch it is at.
    pub in_work: usize,
    /// When the oldest event it holds was accepted.
    pub oldest: Option<Timestamp>,
    /// What went wrong last, until something is delivered.
    pub last_error: Option<String>,
}

/// Delivery at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub upstream: UpstreamState,
    /// When that state began.
    pub since: Timestamp,
    /// Why GMFY isn't `up`, in words.
    pub why: Option<String>,
    /// When the next request may go out, if something holds it back until then.
    pub next_attempt: Option<Timestamp>,
    /// Set while an operator lets everything that is refused with this status become dead letters.
    pub letting_go: Option<u16>,
    pub lanes: Vec<LaneStatus>,
}

/// What the lanes share beside the gate.
#[derive(Debug)]
pub(super) struct Board {
    lanes: Mutex<Vec<LaneStatus>>,
    in_work: Mutex<Vec<InWork>>,
    /// How many callers wait for the queue to empty: nothing lingers then.
    pub(super) flushing: watch::Sender<usize>,
    /// Something was settled.
    pub(super) progress: Notify,
    /// There may be room for dead letters again.
    pub(super) dead_letters_freed: Notify,
    buried: Mutex<Buried>,
}

/// The batch that a lane sent last.
#[derive(Debug, Default)]
struct InWork {
    /// Sequences, each with how often it was sent.
    events: Vec<(u64, u32)>,
    /// So many of the first ones are on their way.
    in_flight: usize,
}

/// Where an event stands with the lane that it is with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WithLane {
    pub in_flight: bool,
    /// How often it was sent.
    pub attempts: u32,
}

/// Dead letters since they were last logged.
#[derive(Debug, Default)]
struct Buried {
    count: u64,
    logged_at: Option<Instant>,
}

/// How often a flush looks at the queue although nothing was settled here.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Dead letters are logged at most this often.
const LOG_EVERY: Duration = Duration::from_secs(10);

impl Board {
    pub(super) fn new() -> Self {
        Self {
            lanes: Mutex::default(),
            in_work: Mutex::default(),
            flushing: watch::Sender::new(0),
            progress: Notify::new(),
            dead_letters_freed: Notify::new(),
            buried: Mutex::default(),
        }
    }

    pub(super) fn set_lanes(&self, lanes: usize) {
        *self.lanes.lock().unwrap_or_else(PoisonError::into_inner) =
            vec![LaneStatus::default(); lanes];
        self.in_work().resize_with(lanes, InWork::default);
    }

    fn in_work(&self) -> MutexGuard<'_, Vec<InWork>> {
        self.in_work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a lane sends its work's trial.
    pub(super) fn sending(&self, lane: usize, work: &Work) {
        if let Some(in_work) = self.in_work().get_mut(lane) {
            in_work.events.clear();
            in_work.events.extend(work.all_attempts());
            in_work.in_flight = work.trial_events().len();
        }
    }

    /// Notes that a lane's request is over.
    pub(super) fn answered(&self, lane: usize) {
        if let Some(in_work) = self.in_work().get_mut(lane) {
            in_work.in_flight = 0;
        }
    }

    fn with_lane(&self, sequence: Sequence) -> Option<WithLane> {
        let in_work = self.in_work();
        let mut found = in_work.iter().filter_map(|lane| {
            let at = lane.events.iter().position(|(number, _)| *number == sequence.get())?;
            let (_, attempts) = *lane.events.get(at)?;
            Some(WithLane { in_flight: at < lane.in_flight, attempts })
        });
        found.next()
    }

    pub(super) fn update(&self, lane: usize, change: impl FnOnce(&mut LaneStatus)) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(status) = lanes.get_mut(lane) {
            change(status);
        }
    }

    fn lanes(&self) -> Vec<LaneStatus> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many dead letters are to be logged now, if any.
    pub(super) fn note_buried(&self, count: u64) -> Option<u64> {
        let now = Instant::now();
        let mut buried = self.buried.lock().unwrap_or_else(PoisonError::into_inner);
        buried.count += count;
        if buried.logged_at.is_some_and(|at| now.duration_since(at) < LOG_EVERY) {
            return None;
        }
        buried.logged_at = Some(now);
        Some(std::mem::take(&mut buried.count))
    }
}

/// The controls over a running delivery. Clones control the same one.
#[derive(Clone, Debug)]
pub struct Controls {
    pub(super) settings: watch::Sender<Settings>,
    pub(super) gate: Arc<Gate>,
    pub(super) board: Arc<Board>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
}

impl Controls {
    /// Sends nothing more until resumed. A request in flight is finished.
    pub fn pause(&self) {
        self.gate.pause();
    }

    /// Ends a pause, a misconfiguration and the wait that GMFY asked for. When everything was
    /// being refused, `dead_letter_rejected` makes dead letters of what is refused that way,
    /// until something is delivered.
    pub fn resume(&self, dead_letter_rejected: bool) {
        self.gate.resume(dead_letter_rejected);
    }

    /// Has delivery go on with other settings, as soon as no request of the old ones is in flight.
    ///
    /// # Errors
    /// When `retry_initial` and `retry_max` make no range; then nothing changes.
    pub fn reload(&self, settings: Settings) -> Result<(), InvalidBackoff> {
        settings.backoff()?;
        self.settings.send_if_modified(|current| {
            let settings = Settings { seed: current.seed, ..settings };
            let differs = *current != settings;
            *current = settings;
            differs
        });
        Ok(())
    }

    /// Tells that the key, or another setting of the upstream, is a new one.
    pub fn reconfigured(&self) {
        self.gate.reconfigured();
    }

    /// Tells that dead letters were discarded or requeued, so that there is room.
    pub fn dead_letters_freed(&self) {
        self.board.dead_letters_freed.notify_waiters();
    }

    /// Sends what waits without lingering, until the queue is empty or `wait` is over. Returns
    /// how many events are left.
    ///
    /// # Cancel safety
    /// Safe: dropped, lanes linger again.
    pub async fn flush(&self, wait: Duration) -> u64 {
        let deadline = Instant::now() + wait;
        let _flushing = Flushing::begin(&self.board);
        loop {
            let progress = self.board.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            let remaining = self.metrics.ledger.snapshot().queued();
            if remaining == 0 {
                return 0;
            }
            // Of what others settle, in a fleet, nothing tells at once.
            let look_again = deadline.min(Instant::now() + LOOK_AGAIN);
            let waited = tokio::time::timeout_at(look_again, progress).await;
            if waited.is_err() && Instant::now() >= deadline {
                return self.metrics.ledger.snapshot().queued();
            }
        }
    }

    /// Delivery as it stands.
    #[must_use]
    pub fn status(&self) -> Status {
        let standing = self.gate.standing();
        let (at, now) = (Instant::now(), self.clock.now());
        let since = at.saturating_duration_since(standing.since);
        let until = |next: Instant| now.plus(next.saturating_duration_since(at));
        Status {
            upstream: standing.state,
            since: now.minus(since),
            why: standing.why,
            next_attempt: standing.next_attempt.map(until),
            letting_go: self.gate.let_go_status(),
            lanes: self.board.lanes(),
        }
    }

    /// Where an event stands, if it is in the batch that a lane is at or settled last.
    #[must_use]
    pub fn with_lane(&self, sequence: Sequence) -> Option<WithLane> {
        self.board.with_lane(sequence)
    }

    /// Brings `gmfy_queue_oldest_age_seconds` up to date; for the scrape. (It grows by itself, so
    /// that keeping it so would need a timer.)
    pub fn refresh_metrics(&self) {
        let oldest = self.board.lanes().iter().filter_map(|lane| lane.oldest).min();
        let age = oldest.map_or(Duration::ZERO, |oldest| self.clock.now().since(oldest));
        self.metrics.queue_oldest_age.set(age.as_secs_f64());
    }
}

struct Flushing<'a>(&'a Board);

impl<'a> Flushing<'a> {
    fn begin(board: &'a Board) -> Self {
        board.flushing.send_modify(|count| *count += 1);
        Self(board)
    }
}

impl Drop for Flushing<'_> {
    fn drop(&mut self) {
        self.0.flushing.send_modify(|count| *count = count.saturating_sub(1));
    }
}
