//! One lane: reads its partitions' events, sends them batch by batch, settles them.

mod burial;
mod overflow;
mod traced;

use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backoff::at_least;
use super::batch;
use super::encoding::encode;
use super::gate::{Delay, Leave, Permit, Report, Waiter};
use super::outcome::{Outcome, after_unknown, asks_for_quiet, classify};
use super::size::BatchLimit;
use super::status::LaneState;
use super::window::{Window, WindowLimit};
use super::work::Work;
use super::{Shared, Stop};
use crate::config::OnUnknown;
use crate::queue::{
    LaneCursor, LaneStart, Log, QueuedEvent, ReadLimit, Sequence, Settlement, StoreError,
};
use crate::telemetry::Pulse;
use crate::telemetry::heartbeat::{BEAT, STUCK};
use crate::telemetry::ledger::DeadLetterReason;
use crate::telemetry::recent::End;
use crate::telemetry::stream::{EventOutcome, Happening};
use crate::upstream::{Answer, BatchSink, SendError};

const ENDPOINT: &str = "create_batch_events";
/// What a lane reads ahead, and may have in memory, in batches.
const WINDOW_BATCHES: usize = 4;
/// The settled ranges of all lanes' cursors: 64 KiB of 16 bytes each.
const SETTLED_RANGES: usize = 4096;
/// A lane with nothing to send moves its cursor on when so much of others passed, so that what
/// is settled can be removed from disk; and not more often than this.
const PASSED: ReadLimit = ReadLimit { events: 8192, bytes: 2 << 20 };
const PASSED_EVERY: Duration = Duration::from_secs(1);

/// Why a lane ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It was told to stop, and did all it could.
    Stopped,
    /// It was only to finish its stored batch, and did.
    Finished,
    /// Lanes with other settings, or of another replica, are to take over.
    Renewed,
    /// Another replica has the lane by now.
    Lost,
    /// The queue is closed.
    QueueClosed,
}

/// See the module.
pub(super) struct Lane<L, S> {
    index: usize,
    shared: Arc<Shared>,
    log: L,
    sink: S,
    stop: Stop,
    /// Told when other lanes are to take over.
    renew: CancellationToken,
    /// Only the unfinished batch is to be sent.
    finish_only: bool,
    window: Window,
    work: Option<Work>,
    /// Settled and not yet saved.
    pending: Settlement,
    saved_position: Sequence,
    passed_at: Option<Instant>,
    /// Events before this are to be dropped.
    horizon: watch::Receiver<Sequence>,
    rng: StdRng,
    pulse: Pulse,
}

impl<L: Log, S: BatchSink> Lane<L, S> {
    pub(super) fn new(
        index: usize,
        lanes: usize,
        start: &LaneStart,
        shared: Arc<Shared>,
        (log, sink): (L, S),
        (stop, renew): (Stop, CancellationToken),
        finish_only: bool,
    ) -> Self {
        let delivery = &shared.settings.delivery;
        let limit = WindowLimit {
            read: ReadLimit {
                events: delivery.batch_events.saturating_mul(WINDOW_BATCHES).max(1),
                bytes: delivery.batch_bytes.saturating_mul(WINDOW_BATCHES).max(1),
            },
            per_user: delivery.batch_events.max(1),
            ahead: SETTLED_RANGES / lanes.max(1),
        };
        let window = Window::new(start, limit);
        let seed = shared.settings.seed.wrapping_add(index as u64);
        let beats = &shared.metrics.heartbeats;
        Self {
            pulse: beats.part(format!("delivery lane {index}"), &shared.clock),
            index,
            saved_position: window.position(),
            window,
            shared,
            horizon: log.horizon(),
            log,
            sink,
            stop,
            renew,
            finish_only,
            work: None,
            pending: Settlement::default(),
            passed_at: None,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// Delivers until told to stop.
    pub(super) async fn run(mut self, start: LaneStart) -> Ended {
        let abort = self.stop.abort.clone();
        let ended = tokio::select! {
            biased;
            () = abort.cancelled() => Ended::Stopped,
            ended = self.drive(start) => ended,
        };
        self.shared.board.update(self.index, |status| status.state = LaneState::Stopped);
        ended
    }

    async fn drive(&mut self, start: LaneStart) -> Ended {
        match self.deliver(start).await {
            Ok(never) => match never {},
            Err(Ended::Renewed) => self.hand_over().await,
            Err(ended) => ended,
        }
    }

    /// Leaves the cursor as the next lanes need it: only a batch whose outcome is unknown is still
    /// to be sent as it was.
    async fn hand_over(&mut self) -> Ended {
        if let Some(work) = &mut self.work {
            work.forget_known();
        }
        self.save().await.err().unwrap_or(Ended::Renewed)
    }

    async fn deliver(&mut self, start: LaneStart) -> Result<std::convert::Infallible, Ended> {
        self.take_up(start).await?;
        loop {
            self.drop_overflow().await?;
            if self.work.as_ref().is_none_or(|work| work.events().is_empty()) {
                self.work = None;
                self.begin().await?;
            }
            if self.renew.is_cancelled() {
                return Err(Ended::Renewed);
            }
            self.attempt().await?;
        }
    }

    /// Takes up the batch that was unfinished when the process began.
    async fn take_up(&mut self, start: LaneStart) -> Result<(), Ended> {
        let Some(stored) = start.cursor.unfinished else { return Ok(()) };
        let mut failures = 0;
        let events = loop {
            match self.log.read_exactly(&stored.sequences).await {
                Ok(events) => break events,
                Err(error) => self.store_failed(&error, &mut failures).await?,
            }
        };
        if events.is_empty() {
            // All of it is lost, and counted by the store: the cursor has to forget it.
            return self.save().await;
        }
        self.work = Some(Work::unfinished(events, stored.key, Instant::now()));
        if self.shared.settings.delivery.on_unknown == OnUnknown::Park {
            self.park(None, "the process ended while it was sent").await?;
        }
        Ok(())
    }

    /// Waits for events and cuts the next batch.
    async fn begin(&mut self) -> Result<(), Ended> {
        if self.finish_only {
            self.save_pending().await?;
            return Err(Ended::Finished);
        }
        let limit = self.wait_for_batch().await?;
        let events = self.window.cut(limit);
        if !events.is_empty() {
            self.work = Some(Work::new(events));
        }
        Ok(())
    }

    /// Returns the size of a batch once there is one to cut.
    async fn wait_for_batch(&mut self) -> Result<BatchLimit, Ended> {
        let mut failures = 0;
        loop {
            self.pulse.beat();
            if self.renew.is_cancelled() {
                return Err(Ended::Renewed);
            }
            // Asked before reading: nothing is accepted once it is cancelled, so what is not read
            // then does not exist.
            let draining = self.stop.drain.is_cancelled();
            let limit = self.shared.gate.batch_limit();
            if self.window.wants_refill(limit)
                && let Err(error) = self.window.refill(&self.log).await
            {
                self.store_failed(&error, &mut failures).await?;
                continue;
            }
            failures = 0;
            if self.window.is_empty() {
                if !self.window.is_drained() {
                    continue;
                }
                self.save_pending().await?;
                self.show(LaneState::Idle);
                if draining {
                    return Err(Ended::Stopped);
                }
                self.idle().await?;
                continue;
            }
            let Some(missing) = self.window.missing(limit) else { return Ok(limit) };
            if self.stop.drain.is_cancelled() || *self.shared.board.flushing.borrow() > 0 {
                return Ok(limit);
            }
            let age = self.window.oldest().map(|oldest| self.shared.clock.now().since(oldest));
            let linger = self.shared.settings.delivery.linger;
            let left = linger.saturating_sub(age.unwrap_or_default());
            if left.is_zero() {
                return Ok(limit);
            }
            self.save_pending().await?;
            self.show(LaneState::Waiting);
            if self.linger(left, missing).await {
                // What came meanwhile goes along.
                if let Err(error) = self.window.refill(&self.log).await {
                    self.store_failed(&error, &mut failures).await?;
                }
                return Ok(limit);
            }
        }
    }

    /// Waits until a batch may be full; returns whether its time is up instead.
    async fn linger(&self, left: Duration, missing: ReadLimit) -> bool {
        let mut flushing = self.shared.board.flushing.subscribe();
        tokio::select! {
            () = tokio::time::sleep(left.min(BEAT)) => left <= BEAT,
            () = self.stop.drain.cancelled() => true,
            () = self.renew.cancelled() => false,
            _ = flushing.wait_for(|count| *count > 0) => true,
            () = self.log.committed(self.window.position(), self.window.partitions(), missing)
                => false,
        }
    }

    /// Waits until there is something to read, moving the cursor on when much of others passed.
    async fn idle(&mut self) -> Result<(), Ended> {
        let position = self.window.position();
        if position > self.saved_position {
            let at = self.passed_at.map_or_else(Instant::now, |at| at + PASSED_EVERY);
            if at <= Instant::now() {
                self.passed_at = Some(Instant::now());
                return self.save().await;
            }
        }
        let all = crate::queue::Partitions::all();
        let next = ReadLimit { events: 1, bytes: 1 };
        let passed = async {
            self.log.committed(position, &all, PASSED).await;
            if let Some(at) = self.passed_at {
                tokio::time::sleep_until(at + PASSED_EVERY).await;
            }
        };
        tokio::select! {
            () = self.log.committed(position, self.window.partitions(), next) => {}
            () = passed => {}
            () = tokio::time::sleep(BEAT) => {}
            () = self.renew.cancelled() => {}
            () = self.stop.drain.cancelled() => {}
        }
        Ok(())
    }

    /// Sends the next request of the batch in work, and acts on what comes of it.
    async fn attempt(&mut self) -> Result<(), Ended> {
        let Some(permit) = self.permit().await? else { return Ok(()) };
        if self.has_expired() {
            drop(permit);
            return self.bury_expired().await;
        }
        let Some(work) = &mut self.work else { return Ok(()) };
        let trial = work.next_trial(permit.alone());
        if !trial.stored {
            trial.stored = true;
            self.save().await?;
        }
        if !self.log.holds(self.index) {
            return Err(Ended::Lost);
        }
        let (result, took) = self.send().await;
        self.shared.board.answered(self.index);
        self.pulse.beat();
        self.act(&result, took, permit).await
    }

    /// Waits until the batch in work may be sent.
    async fn permit(&mut self) -> Result<Option<Permit>, Ended> {
        let Some(work) = &self.work else { return Ok(None) };
        let Some(oldest) = work.events().first().map(|event| event.sequence) else {
            return Ok(None);
        };
        let waiter = Waiter { oldest, delay: work.delay };
        let gate = Arc::clone(&self.shared.gate);
        if let Some(permit) = gate.try_enter(self.index, waiter) {
            return Ok(Some(permit));
        }
        // What is settled is not to wait for what comes next.
        self.save_pending().await?;
        self.show(LaneState::Waiting);
        let ends = (&self.stop.drain, &self.renew);
        tokio::select! {
            entered = gate.enter(self.index, waiter, ends, &self.pulse) => {
                entered.map(Some).map_err(|leave| match leave {
                    Leave::Stopping => Ended::Stopped,
                    Leave::Renewed => Ended::Renewed,
                })
            }
            // Perhaps what waits here is to be dropped.
            Ok(()) = self.horizon.changed() => Ok(None),
        }
    }

    /// Sends the trial, and reads ahead meanwhile.
    async fn send(&mut self) -> (Result<Answer, SendError>, Duration) {
        self.show(LaneState::Sending);
        self.pulse.within(self.shared.settings.upstream_timeout + STUCK);
        let metrics = &self.shared.metrics;
        let begun = Instant::now();
        let nothing = (Err(SendError::Connect(String::new())), Duration::ZERO);
        let Some(work) = &mut self.work else { return nothing };
        if work.trial().is_some_and(|trial| trial.sent > 0) {
            metrics.upstream_retries.with_label_values(&[ENDPOINT]).inc();
        }
        work.sent();
        self.shared.board.sending(self.index, work);
        let key = work.trial().map(|trial| trial.key.to_string()).unwrap_or_default();
        let body = batch::body(work.trial_events());
        let compress = self.shared.settings.delivery.compress;
        let mut span = traced::begin(metrics, self.index, work);
        let sending = async {
            let body = encode(body, compress).await;
            let sending = self.sink.send_batch(body, key);
            let result = match &mut span {
                None => sending.await,
                Some(span) => traced::send(span, sending).await,
            };
            (result, begun.elapsed())
        };
        // Meanwhile the next batch is read; a failure shows when it is cut.
        let reading = self.window.refill(&self.log);
        let finish_only = self.finish_only;
        let reading = async move { if finish_only { Ok(()) } else { reading.await } };
        let (sent, _read) = tokio::join!(sending, reading);
        sent
    }

    async fn act(
        &mut self,
        result: &Result<Answer, SendError>,
        took: Duration,
        permit: Permit,
    ) -> Result<(), Ended> {
        let now = Instant::now();
        let Some(work) = &mut self.work else { return Ok(()) };
        let plain = classify(result);
        let status = result.as_ref().ok().map(|answer| answer.status);
        let asked = result.as_ref().ok().and_then(|answer| answer.retry_after);
        // What concerns all lanes is kept by the gate, where `resume` can end it.
        let retry_after = asked.filter(|_| !asks_for_quiet(status));
        let Some(trial) = work.trial_mut() else { return Ok(()) };
        let outcome = match trial.unknown_since {
            Some(since) => after_unknown(plain, status, now.duration_since(since)),
            None => plain,
        };
        if outcome == Outcome::Unknown {
            trial.unknown_since.get_or_insert(now);
        }
        let len = trial.len;
        if matches!(outcome, Outcome::Delivered | Outcome::Unknown) {
            // Before anything says so, lest a reader who sees it reads what was before.
            self.shared.changed.tell(work.trial_events().iter().map(|event| event.user));
        }
        let reason = describe(result);
        self.shared.metrics.upstream_requests.with_label_values(&[ENDPOINT, plain.as_str()]).inc();
        let reason_told = reason.clone();
        permit.report(&Report {
            outcome: plain,
            status,
            retry_after: asked,
            reason: reason_told,
            took,
        });
        let error = (outcome != Outcome::Delivered).then(|| reason.clone());
        self.shared.board.update(self.index, |lane| lane.last_error = error);
        self.tell_attempt(outcome, status, len);
        let Some(work) = &mut self.work else { return Ok(()) };
        match outcome {
            Outcome::Delivered => self.delivered(),
            Outcome::Transient => self.retry_later(retry_after),
            Outcome::Unknown if self.shared.settings.delivery.on_unknown == OnUnknown::Park => {
                self.retry_later(retry_after);
                self.park(status, &reason).await?;
            }
            Outcome::Unknown => self.retry_later(retry_after),
            Outcome::TooLarge if len == 1 => {
                self.bury_trial(DeadLetterReason::TooLarge, result).await?;
            }
            Outcome::TooLarge => {
                let bytes = work.trial_events().iter().map(|event| event.json.len() + 1).sum();
                self.shared.gate.too_large(BatchLimit { events: len, bytes });
                work.too_large();
            }
            Outcome::Rejected if len == 1 => {
                let user = work.trial_events().first().map(|event| event.user);
                let blamed = user.zip(status);
                if blamed.is_none_or(|(user, status)| self.shared.gate.is_culprit(status, user)) {
                    self.bury_trial(DeadLetterReason::Rejected, result).await?;
                } else {
                    self.publish(EventOutcome::Retried, status);
                }
            }
            Outcome::Rejected => work.rejected(),
            Outcome::Misconfigured => {}
        }
        Ok(())
    }

    /// Tells what became of the trial, unless its event may be to blame.
    fn tell_attempt(&self, outcome: Outcome, status: Option<u16>, len: usize) {
        match outcome {
            Outcome::Delivered => {
                let events = self.work.iter().flat_map(Work::trial_attempts);
                self.shared.metrics.recent.note(End::Delivered, status, events);
                self.publish(EventOutcome::Delivered, status);
            }
            Outcome::TooLarge | Outcome::Rejected if len == 1 => {}
            Outcome::Transient
            | Outcome::Unknown
            | Outcome::TooLarge
            | Outcome::Rejected
            | Outcome::Misconfigured => self.publish(EventOutcome::Retried, status),
        }
    }

    /// Tells those who follow what became of the trial's events.
    fn publish(&self, outcome: EventOutcome, status: Option<u16>) {
        let stream = &self.shared.metrics.stream;
        if !stream.is_followed() {
            return;
        }
        let Some(work) = &self.work else { return };
        let batch = work.trial().map(|trial| trial.key.0);
        let what = Happening { at: self.shared.clock.now(), outcome, batch, status };
        stream.publish(what, work.trial_events().iter().map(QueuedEvent::subject));
    }

    fn delivered(&mut self) {
        let Some(work) = &mut self.work else { return };
        let events = work.take_delivered();
        let now = self.shared.clock.now();
        // Gathered here, so that the shared histogram is touched once a batch.
        let lags = self.shared.metrics.delivery_lag.local();
        for event in &events {
            lags.observe(now.since(event.accepted_at).as_secs_f64());
            self.window.settle(event);
        }
        lags.flush();
        let bytes = events.iter().map(|event| event.json.len() + 1).sum();
        self.shared.gate.took(BatchLimit { events: events.len(), bytes });
        self.pending.delivered += events.len() as u64;
    }

    fn retry_later(&mut self, retry_after: Option<Duration>) {
        let Some(work) = &mut self.work else { return };
        work.failures = work.failures.saturating_add(1);
        let wait = self.shared.backoff.full_jitter(work.failures, &mut self.rng);
        let from = Instant::now();
        let until = from + at_least(wait, retry_after);
        work.delay = Some(Delay { from, until, asked: retry_after.is_some() });
    }

    /// Stores the cursor when something was settled since it was stored last.
    async fn save_pending(&mut self) -> Result<(), Ended> {
        if self.pending == Settlement::default() { Ok(()) } else { self.save().await }
    }

    /// Stores the cursor and what it settles; tries until it succeeds.
    async fn save(&mut self) -> Result<(), Ended> {
        let cursor = self.cursor();
        let mut failures = 0;
        loop {
            match self.log.save(self.index, cursor.clone(), self.pending.clone()).await {
                Ok(()) => break,
                Err(error) => self.store_failed(&error, &mut failures).await?,
            }
        }
        self.pending = Settlement::default();
        self.saved_position = self.window.position();
        self.shared.board.progress.notify_waiters();
        Ok(())
    }

    fn cursor(&mut self) -> LaneCursor {
        let in_work = self.work.as_ref().map_or(&[][..], Work::events);
        let unfinished = self.work.as_ref().and_then(Work::stored_batch);
        self.window.cursor(in_work, unfinished)
    }

    /// Says that the store fails, and waits before the next try.
    async fn store_failed(&mut self, error: &StoreError, failures: &mut u32) -> Result<(), Ended> {
        match error {
            StoreError::Closed => return Err(Ended::QueueClosed),
            StoreError::LaneLost => return Err(Ended::Lost),
            StoreError::Io(_) | StoreError::DeadLettersFull => {}
        }
        if *failures == 0 {
            tracing::error!(lane = self.index, %error, "the store failed: trying again");
        }
        *failures = failures.saturating_add(1);
        self.shared.board.update(self.index, |lane| lane.last_error = Some(error.to_string()));
        self.show(LaneState::StoreFailing);
        self.pulse.within(self.shared.backoff.ceiling(*failures) + STUCK);
        let wait = self.shared.backoff.full_jitter(*failures, &mut self.rng);
        tokio::select! {
            () = tokio::time::sleep(wait) => Ok(()),
            () = self.stop.drain.cancelled() => Err(Ended::Stopped),
        }
    }

    fn show(&self, state: LaneState) {
        let in_work = self.work.as_ref().map_or(&[][..], Work::events);
        let oldest = in_work.first().map(|event| event.accepted_at);
        // Events of a lane are in work before those that wait: the first tells the oldest.
        let oldest = oldest.or_else(|| self.window.oldest());
        self.shared.board.update(self.index, |status| {
            status.state = state;
            status.position = self.window.position();
            status.in_work = in_work.len();
            status.oldest = oldest;
        });
    }
}

/// What came of a request, for people.
fn describe(result: &Result<Answer, SendError>) -> String {
    match result {
        Ok(answer) => format!("GMFY answered {}", answer.status),
        Err(error) => error.to_string(),
    }
}
