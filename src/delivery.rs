//! From the queue to GMFY: every event once, in order for each user, for as long as it takes.
//!
//! Users hash to partitions, partitions to *lanes*. A lane is a task: it reads its partitions'
//! events ahead into a window, cuts a batch, stores the batch's extent and key, sends
//! it, acts on the outcome, settles, and goes on. What the lanes know of GMFY together (is it
//! there, how much does it bear) is in the gate.
//!
//! Invariants:
//! - A lane has one request in flight; so a user's events are never in two.
//! - Nothing is sent before its extent and key are stored. What may have been sent is sent again
//!   with the same bytes and key until its outcome is known, across restarts.
//! - An event leaves the queue only as delivered, dead-lettered (durably, before the cursor passes
//!   it) or dropped by explicit setting; each is counted in the step that moves the cursor.
//! - Every wait ends at once when delivery is told to stop.
//!
//! Other settings take effect by other lanes: the old ones end between two requests, and leave
//! nothing stored but a batch whose outcome is unknown, which the new ones finish first.
//!
//! A flood of one user delays the others of its lane by a bounded time: a user with a full batch
//! waiting is passed over (up to 16 windows of 4 batches at a time), and the events behind are
//! found, until 4096 / lanes events are settled ahead in the flood's own partition.

mod backoff;
mod batch;
mod breaker;
mod change;
mod concurrency;
mod encoding;
mod gate;
mod lane;
mod outcome;
mod refusals;
mod size;
mod spacing;
mod status;
mod window;
mod work;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use backoff::{Backoff, InvalidBackoff};
pub use gate::UpstreamState;
pub use outcome::{Outcome, classify, classify_status};
pub use status::{Controls, LaneState, LaneStatus, Status, WithLane};

use crate::clock::Clock;
use crate::config::{self, DeadLettersFull};
use crate::queue::{LaneStart, Lanes, Log, StoreError, UserHash};
use crate::telemetry::Metrics;
use crate::upstream::BatchSink;
use change::OnChange;
use gate::{Gate, Pace};
use lane::{Ended, Lane};
use size::BatchLimit;
use status::Board;

/// What of the settings concerns delivery.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub delivery: config::Delivery,
    /// `queue.max_age`.
    pub max_age: Option<Duration>,
    /// `upstream.timeout`: a request is stuck only after that.
    pub upstream_timeout: Duration,
    /// `dead_letters.when_full`.
    pub dead_letters_full: DeadLettersFull,
    /// Of the jitter; a random one outside tests.
    pub seed: u64,
}

impl Settings {
    /// Those of delivery among all settings, with a random seed.
    #[must_use]
    pub fn from_config(settings: &config::Settings) -> Self {
        let mut delivery = settings.delivery.clone();
        // The longest wait bounds the first one too.
        delivery.retry_initial = delivery.retry_initial.min(delivery.retry_max);
        Self {
            delivery,
            max_age: settings.queue.max_age,
            upstream_timeout: settings.upstream.timeout,
            dead_letters_full: settings.dead_letters.when_full,
            seed: rand::random(),
        }
    }

    fn backoff(&self) -> Result<Backoff, InvalidBackoff> {
        Backoff::new(self.delivery.retry_initial, self.delivery.retry_max)
    }

    fn pace(&self, backoff: Backoff) -> Pace {
        let delivery = &self.delivery;
        let (events, bytes) = (delivery.batch_events.max(1), delivery.batch_bytes.max(1));
        Pace {
            lanes: delivery.lanes,
            adaptive: delivery.adaptive,
            batch: BatchLimit { events, bytes },
            backoff,
        }
    }
}

/// How delivery is told to stop, in two steps.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Deliver what can be delivered: lanes go on while GMFY may be up, and end when they have
    /// nothing left, or when GMFY turns out not to be there.
    pub drain: CancellationToken,
    /// End now: requests in flight are given up, their outcome unknown.
    pub abort: CancellationToken,
}

/// Why delivery ended although nobody told it to.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    #[error("a delivery lane ended although it was not told to")]
    LaneEnded,
    #[error("a delivery lane panicked: {0}")]
    LanePanicked(tokio::task::JoinError),
    #[error("the queue is closed")]
    QueueClosed,
}

/// What all lanes share.
#[derive(Clone, Debug)]
struct Shared {
    settings: Settings,
    backoff: Backoff,
    /// Told when these settings are no longer the newest: the lanes end.
    renew: CancellationToken,
    gate: Arc<Gate>,
    board: Arc<Board>,
    metrics: Arc<Metrics>,
    clock: Clock,
    changed: OnChange,
}

/// The flusher. See the module.
#[derive(Debug)]
pub struct Delivery<L, S> {
    log: L,
    sink: S,
    settings: watch::Sender<Settings>,
    shared: Shared,
}

impl<L: Log, S: BatchSink> Delivery<L, S> {
    /// # Errors
    /// When `retry_initial` and `retry_max` make no range.
    pub fn new(
        settings: Settings,
        log: L,
        sink: S,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Self, InvalidBackoff> {
        let backoff = settings.backoff()?;
        let rng = StdRng::seed_from_u64(!settings.seed);
        let gate = Gate::new(settings.pace(backoff), Arc::clone(&metrics), rng);
        Ok(Self {
            log,
            sink,
            settings: watch::Sender::new(settings.clone()),
            shared: Shared {
                settings,
                backoff,
                renew: CancellationToken::new(),
                gate: Arc::new(gate),
                board: Arc::new(Board::new()),
                metrics,
                clock,
                changed: OnChange::default(),
            },
        })
    }

    /// The same, and `changed` is called with the users of each request that GMFY took, or may
    /// have taken, as soon as that is known. It must be quick.
    #[must_use]
    pub fn on_change(
        mut self,
        changed: impl Fn(&mut dyn Iterator<Item = UserHash>) + Send + Sync + 'static,
    ) -> Self {
        self.shared.changed = OnChange::new(changed);
        self
    }

    /// The controls over this delivery.
    #[must_use]
    pub fn controls(&self) -> Controls {
        Controls {
            settings: self.settings.clone(),
            gate: Arc::clone(&self.shared.gate),
            board: Arc::clone(&self.shared.board),
            metrics: Arc::clone(&self.shared.metrics),
            clock: self.shared.clock.clone(),
        }
    }

    /// Delivers until told to stop. What is left then stays in the queue.
    ///
    /// # Errors
    /// When a lane ends by itself or panics, or the queue is closed: delivery can't go on in this
    /// process.
    ///
    /// # Cancel safety
    /// Dropping it is as a crash: a batch in flight is sent again by the next run.
    pub async fn run(mut self, stop: Stop) -> Result<(), DeliveryError> {
        let mut newest = self.settings.subscribe();
        loop {
            let wanted = self.shared.settings.delivery.lanes.max(1);
            let Some(lanes) = self.lanes(wanted, &stop).await? else { return Ok(()) };
            {
                let running = self.run_lanes(lanes, wanted, &stop);
                tokio::pin!(running);
                tokio::select! {
                    ended = &mut running => ended?,
                    Ok(()) = newest.changed() => {
                        self.shared.renew.cancel();
                        running.await?;
                    }
                }
            }
            if stop.drain.is_cancelled() || stop.abort.is_cancelled() {
                return Ok(());
            }
            if self.shared.renew.is_cancelled() {
                let settings = newest.borrow_and_update().clone();
                self.renew(settings);
            }
        }
    }

    /// Goes on with these settings, which [`Controls::reload`] has checked.
    fn renew(&mut self, settings: Settings) {
        let backoff = settings.backoff().unwrap_or(self.shared.backoff);
        self.shared.gate.adjust(settings.pace(backoff));
        self.shared.renew = CancellationToken::new();
        self.shared.settings = settings;
        self.shared.backoff = backoff;
    }

    /// The lanes to begin with; none when told to stop before the store answered.
    async fn lanes(&self, wanted: usize, stop: &Stop) -> Result<Option<Lanes>, DeliveryError> {
        loop {
            match self.log.lanes(wanted).await {
                Ok(lanes) => return Ok(Some(lanes)),
                Err(StoreError::Closed) => return Err(DeliveryError::QueueClosed),
                Err(error) => {
                    tracing::error!(%error, "the store failed: delivery can't begin, trying again");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(self.shared.backoff.ceiling(1)) => {}
                () = stop.drain.cancelled() => return Ok(None),
                () = stop.abort.cancelled() => return Ok(None),
            }
        }
    }

    /// Runs these lanes, and those that come, until all are told to end.
    async fn run_lanes(
        &self,
        lanes: Lanes,
        wanted: usize,
        stop: &Stop,
    ) -> Result<(), DeliveryError> {
        self.shared.board.set_lanes(lanes.count);
        let finish_only = lanes.finish_only;
        let mut running = Running {
            count: lanes.count,
            finish_only,
            shared: Arc::new(self.shared.clone()),
            tasks: JoinSet::new(),
            tokens: HashMap::new(),
        };
        running.begin(self, lanes.mine, stop);
        loop {
            let is_told = stop.drain.is_cancelled()
                || stop.abort.is_cancelled()
                || self.shared.renew.is_cancelled();
            if running.tasks.is_empty() && (finish_only || is_told) {
                return Ok(());
            }
            tokio::select! {
                Some(joined) = running.tasks.join_next() => {
                    let (lane, ended) = joined.map_err(DeliveryError::LanePanicked)?;
                    if running.ended(lane, ended, stop)? {
                        self.log.left(lane);
                    }
                }
                () = self.log.moved(), if !is_told => {
                    let Some(lanes) = self.lanes(wanted, stop).await? else { continue };
                    running.begin(self, lanes.mine, stop);
                }
                () = stop.drain.cancelled(), if !is_told => {}
                () = stop.abort.cancelled(), if !is_told => {}
                () = self.shared.renew.cancelled(), if !is_told => {}
            }
        }
    }
}

/// The lanes that run now.
struct Running {
    count: usize,
    finish_only: bool,
    shared: Arc<Shared>,
    tasks: JoinSet<(usize, Ended)>,
    /// By lane: told when it is to end, because others are to take over.
    tokens: HashMap<usize, CancellationToken>,
}

impl Running {
    /// Begins those of `mine` that don't run yet, and tells those to end that aren't among them.
    fn begin<L: Log, S: BatchSink>(
        &mut self,
        delivery: &Delivery<L, S>,
        mine: Vec<(usize, LaneStart)>,
        stop: &Stop,
    ) {
        for (lane, token) in &self.tokens {
            if !mine.iter().any(|(index, _)| index == lane) {
                token.cancel();
            }
        }
        for (index, start) in mine {
            if self.tokens.contains_key(&index) {
                continue;
            }
            let renew = self.shared.renew.child_token();
            self.tokens.insert(index, renew.clone());
            let ends = (delivery.log.clone(), delivery.sink.clone());
            let shared = Arc::clone(&self.shared);
            let tokens = (stop.clone(), renew);
            let lane = Lane::new(index, self.count, &start, shared, ends, tokens, self.finish_only);
            self.tasks.spawn(async move { (index, lane.run(start).await) });
        }
    }

    /// Notes a lane's end; true where it ended for another replica.
    fn ended(&mut self, lane: usize, ended: Ended, stop: &Stop) -> Result<bool, DeliveryError> {
        let was_told = self.tokens.remove(&lane).is_some_and(|token| token.is_cancelled());
        let is_stopping = stop.drain.is_cancelled() || stop.abort.is_cancelled();
        match ended {
            Ended::Stopped if is_stopping => Ok(false),
            Ended::Finished if self.finish_only => Ok(false),
            Ended::Renewed if was_told => Ok(!self.shared.renew.is_cancelled()),
            Ended::Lost => Ok(true),
            Ended::QueueClosed => Err(DeliveryError::QueueClosed),
            Ended::Stopped | Ended::Finished | Ended::Renewed => Err(DeliveryError::LaneEnded),
        }
    }
}
