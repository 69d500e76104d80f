//! Whether a lane may send now: what the lanes know of GMFY together.
//!
//! Five states, in order of precedence: paused by an operator, misconfigured, open (the breaker),
//! retrying, up. A short lock guards them; it is never held across an await.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backoff::{Backoff, RETRY_AFTER_CAP};
use super::breaker::{Breaker, PROBE_EVERY};
use super::concurrency::Concurrency;
use super::outcome::{Outcome, asks_for_quiet};
use super::refusals::Refusals;
use super::size::{BatchLimit, SizeLimit};
use super::spacing::Spacing;
use crate::queue::{Sequence, UserHash};
use crate::telemetry::heartbeat::BEAT;
use crate::telemetry::{Metrics, Pulse};

/// While misconfigured, a probe goes out this often.
const MISCONFIGURED_PROBE: Duration = Duration::from_secs(30);
/// The state that GMFY is in, as seen by delivery. The text is the metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamState {
    Up,
    Retrying,
    /// The breaker is open: one probe at a time.
    Open,
    /// By an operator.
    Paused,
    /// Until a probe succeeds, the key changes, or someone resumes.
    Misconfigured,
}

impl UpstreamState {
    /// The metric's label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Retrying => "retrying",
            Self::Open => "open",
            Self::Paused => "paused",
            Self::Misconfigured => "misconfigured",
        }
    }
}

/// Why a lane does not get to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// Delivery is stopping, and GMFY isn't there to go on with.
    Stopping,
    /// Lanes with other settings are to take over.
    Renewed,
}

#[derive(Debug)]
struct State {
    paused: bool,
    misconfigured: Option<Misconfigured>,
    breaker: Breaker,
    concurrency: Concurrency,
    /// None where `delivery.adaptive` is off.
    spacing: Option<Spacing>,
    size: SizeLimit,
    probe_backoff: Backoff,
    refusals: Refusals,
    /// By a `Retry-After`.
    quiet_until: Option<Instant>,
    in_flight: usize,
    probing: bool,
    /// The lanes that wait to send, with their oldest event.
    waiting: BTreeMap<usize, Sequence>,
    announced: UpstreamState,
    /// When the announced state began.
    since: Instant,
    /// What went wrong last, in words, until something is delivered.
    last_failure: Option<String>,
    rng: StdRng,
}

/// What the gate says of GMFY.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) state: UpstreamState,
    pub(super) since: Instant,
    /// Why it isn't up, in words.
    pub(super) why: Option<String>,
    /// When the next request may go out, if something holds it back until then.
    pub(super) next_attempt: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Misconfigured {
    reason: String,
    next_probe: Instant,
    /// GMFY refuses everything: the probe is a single event.
    refuses_all: bool,
}

impl State {
    fn current(&self, now: Instant) -> UpstreamState {
        if self.paused {
            UpstreamState::Paused
        } else if self.misconfigured.is_some() {
            UpstreamState::Misconfigured
        } else if self.breaker.next_probe().is_some() {
            UpstreamState::Open
        } else if self.breaker.failures() > 0 || self.quiet_until.is_some_and(|until| until > now) {
            UpstreamState::Retrying
        } else {
            UpstreamState::Up
        }
    }

    /// Until when GMFY is to be left alone, by what it asked for.
    fn quiet(&self, now: Instant) -> Option<Instant> {
        let spaced = self.spacing.as_ref().and_then(Spacing::next);
        self.quiet_until.max(spaced).filter(|until| *until > now)
    }

    /// A request goes out.
    fn sent(&mut self, now: Instant) {
        let jitter = self.rng.random();
        if let Some(spacing) = &mut self.spacing {
            spacing.sent(now, jitter);
        }
    }

    /// GMFY asked for fewer requests.
    fn refused(&mut self, now: Instant) {
        let jitter = self.rng.random();
        if let Some(spacing) = &mut self.spacing {
            spacing.refused(now, jitter);
        }
    }

    fn next_attempt(&self, now: Instant) -> Option<Instant> {
        if self.paused {
            return None;
        }
        let probe = self.misconfigured.as_ref().map(|misconfigured| misconfigured.next_probe);
        probe.or(self.quiet(now)).or_else(|| self.breaker.next_probe())
    }

    fn why(&self, state: UpstreamState) -> Option<String> {
        match state {
            UpstreamState::Up => None,
            UpstreamState::Paused => Some("an operator paused delivery".to_owned()),
            UpstreamState::Misconfigured => self.misconfigured.as_ref().map(|m| m.reason.clone()),
            UpstreamState::Retrying | UpstreamState::Open => self.last_failure.clone(),
        }
    }

    fn clear_waits(&mut self, now: Instant) {
        self.misconfigured = None;
        self.quiet_until = None;
        if let Some(spacing) = &mut self.spacing {
            spacing.reset();
        }
        self.breaker.hurry(now);
        self.refusals.restart();
    }
}

/// How much goes out at once, and how soon again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) lanes: usize,
    pub(super) adaptive: bool,
    pub(super) batch: BatchLimit,
    pub(super) backoff: Backoff,
}

enum Decision {
    Send {
        probe: bool,
        alone: bool,
    },
    /// Until then, or until something changes.
    Wait(Option<Instant>),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Notify,
    metrics: Arc<Metrics>,
}

impl Gate {
    pub(super) fn new(pace: Pace, metrics: Arc<Metrics>, rng: StdRng) -> Self {
        let state = State {
            paused: false,
            misconfigured: None,
            breaker: Breaker::default(),
            concurrency: Concurrency::new(pace.lanes, pace.adaptive),
            spacing: pace.adaptive.then(|| Spacing::new(pace.backoff.ceiling(u32::MAX))),
            size: SizeLimit::new(pace.batch),
            probe_backoff: pace.backoff.capped(PROBE_EVERY),
            refusals: Refusals::default(),
            quiet_until: None,
            in_flight: 0,
            probing: false,
            waiting: BTreeMap::new(),
            announced: UpstreamState::Up,
            since: Instant::now(),
            last_failure: None,
            rng,
        };
        Self { state: Mutex::new(state), changed: Notify::new(), metrics }
    }

    /// Goes on at another pace; what is known of GMFY stays.
    pub(super) fn adjust(&self, pace: Pace) {
        let mut state = self.lock();
        state.concurrency = Concurrency::new(pace.lanes, pace.adaptive);
        state.spacing = pace.adaptive.then(|| Spacing::new(pace.backoff.ceiling(u32::MAX)));
        state.size = SizeLimit::new(pace.batch);
        state.probe_backoff = pace.backoff.capped(PROBE_EVERY);
        drop(state);
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A permit to send, if there is one now. `oldest` is the first event that would go.
    pub(super) fn try_enter(
        self: &Arc<Self>,
        lane: usize,
        oldest: Sequence,
        not_before: Option<Instant>,
    ) -> Option<Permit> {
        match self.decide(lane, oldest, not_before) {
            Decision::Send { probe, alone } => {
                Some(Permit { gate: Arc::clone(self), probe, alone })
            }
            Decision::Wait(_) => None,
        }
    }

    /// Waits for a permit to send. Once `drain` is cancelled, it waits only while GMFY may be up.
    ///
    /// # Cancel safety
    /// Safe: nothing is held before it resolves.
    pub(super) async fn enter(
        self: &Arc<Self>,
        lane: usize,
        oldest: Sequence,
        not_before: Option<Instant>,
        (drain, renew): (&CancellationToken, &CancellationToken),
        pulse: &Pulse,
    ) -> Result<Permit, Leave> {
        let _waiting = Waiting { gate: self, lane };
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let until = match self.decide(lane, oldest, not_before) {
                Decision::Send { probe, alone } => {
                    return Ok(Permit { gate: Arc::clone(self), probe, alone });
                }
                Decision::Wait(until) => until,
            };
            pulse.beat();
            let draining = drain.is_cancelled();
            if draining && !self.may_be_up() {
                return Err(Leave::Stopping);
            }
            tokio::select! {
                () = changed => {}
                () = sleep_until(until) => {}
                () = tokio::time::sleep(BEAT) => {}
                () = renew.cancelled() => return Err(Leave::Renewed),
                () = drain.cancelled(), if !draining => {}
            }
        }
    }

    fn may_be_up(&self) -> bool {
        let now = Instant::now();
        let state = self.lock();
        let quiet = state.quiet_until.is_some_and(|until| until > now);
        matches!(state.current(now), UpstreamState::Up | UpstreamState::Retrying) && !quiet
    }

    fn decide(&self, lane: usize, oldest: Sequence, not_before: Option<Instant>) -> Decision {
        let now = Instant::now();
        let mut state = self.lock();
        state.waiting.insert(lane, oldest);
        let is_oldest = state.waiting.values().all(|other| *other >= oldest);
        let decision = if state.paused {
            Decision::Wait(None)
        } else if let Some(misconfigured) = &state.misconfigured {
            if state.probing || !is_oldest {
                Decision::Wait(None)
            } else if misconfigured.next_probe > now {
                Decision::Wait(Some(misconfigured.next_probe))
            } else {
                Decision::Send { probe: true, alone: misconfigured.refuses_all }
            }
        } else if let Some(until) = state.quiet(now) {
            Decision::Wait(Some(until))
        } else if let Some(next_probe) = state.breaker.next_probe() {
            if state.probing {
                Decision::Wait(None)
            } else if next_probe > now {
                Decision::Wait(Some(next_probe))
            } else {
                Decision::Send { probe: true, alone: false }
            }
        } else if let Some(until) = not_before.filter(|until| *until > now) {
            Decision::Wait(Some(until))
        } else if state.concurrency.allows(state.in_flight) {
            Decision::Send { probe: false, alone: false }
        } else {
            Decision::Wait(None)
        };
        if let Decision::Send { probe, .. } = decision {
            state.in_flight += 1;
            state.sent(now);
            state.probing |= probe;
            state.waiting.remove(&lane);
        }
        decision
    }

    /// How much goes into one batch now.
    pub(super) fn batch_limit(&self) -> BatchLimit {
        self.lock().size.current(Instant::now())
    }

    /// GMFY found this much too large for one request.
    pub(super) fn too_large(&self, size: BatchLimit) {
        let now = Instant::now();
        let mut state = self.lock();
        state.size.too_large(size, now);
        let limit = state.size.current(now);
        drop(state);
        tracing::info!(
            batch.events = limit.events,
            batch.bytes = limit.bytes,
            "GMFY found a batch too large: sending smaller ones, growing again slowly"
        );
    }

    /// GMFY took this much in one request.
    pub(super) fn took(&self, size: BatchLimit) {
        self.lock().size.worked(size);
    }

    /// GMFY refused a single event. Returns whether that event is to blame; if not, everything
    /// is being refused, and delivery is misconfigured.
    pub(super) fn is_culprit(&self, status: u16, user: UserHash) -> bool {
        let now = Instant::now();
        let mut state = self.lock();
        if !state.refusals.note(status, user) {
            return true;
        }
        self.misconfigure(&mut state, now, format!("GMFY refuses every event with {status}"), true);
        self.announce(&mut state, now);
        false
    }

    fn misconfigure(&self, state: &mut State, now: Instant, reason: String, refuses_all: bool) {
        if state.misconfigured.as_ref().is_none_or(|known| known.reason != reason) {
            let advice = if refuses_all {
                "look at what GMFY answers; POST /api/delivery/resume with \
                 {\"dead_letter_rejected\": true} makes dead letters of the refused events"
            } else {
                "check upstream.url and the API key; delivery goes on when a probe succeeds, \
                 the key changes, or after POST /api/delivery/resume"
            };
            tracing::error!(
                reason,
                advice,
                "delivery is misconfigured: nothing is lost, all waits"
            );
        }
        let next_probe = now + MISCONFIGURED_PROBE;
        state.misconfigured = Some(Misconfigured { reason, next_probe, refuses_all });
    }

    /// Says a change of state once: metric and log.
    fn announce(&self, state: &mut State, now: Instant) {
        let current = state.current(now);
        let before = std::mem::replace(&mut state.announced, current);
        if before == current {
            return;
        }
        state.since = now;
        self.metrics.set_upstream_state(current.as_str());
        let (from, to) = (before.as_str(), current.as_str());
        if matches!(
            (before, current),
            (
                UpstreamState::Up | UpstreamState::Retrying,
                UpstreamState::Up | UpstreamState::Retrying
            )
        ) {
            // A single failure is no news; were it, a GMFY that fails now and then would fill logs.
            tracing::debug!(upstream.before = from, upstream.state = to, "GMFY changed its state");
        } else {
            let why = state.why(current);
            tracing::info!(
                upstream.before = from,
                upstream.state = to,
                upstream.why = why,
                "GMFY changed its state"
            );
        }
    }

    /// How GMFY stands.
    pub(super) fn standing(&self) -> Standing {
        let now = Instant::now();
        let mut state = self.lock();
        // A wait may be over although no request told so yet.
        self.announce(&mut state, now);
        let current = state.announced;
        Standing {
            state: current,
            since: state.since,
            why: state.why(current),
            next_attempt: state.next_attempt(now),
        }
    }

    /// The status with which refused events become dead letters without further ado.
    pub(super) fn let_go_status(&self) -> Option<u16> {
        self.lock().refusals.let_go_status()
    }

    pub(super) fn pause(&self) {
        self.change(|state, _| state.paused = true);
    }

    /// Ends a pause and every wait. With `dead_letter_rejected`, refusals with the status that
    /// made delivery stop are the events' fault until something is delivered.
    pub(super) fn resume(&self, dead_letter_rejected: bool) {
        self.change(|state, now| {
            state.paused = false;
            let refuses_all = state.misconfigured.as_ref().is_some_and(|m| m.refuses_all);
            if dead_letter_rejected && refuses_all {
                let status = state.refusals.let_go();
                tracing::warn!(status, "refused events become dead letters, as asked for");
            }
            state.clear_waits(now);
        });
    }

    /// The key, or another setting of the upstream, is a new one: misconfiguration may be over.
    pub(super) fn reconfigured(&self) {
        self.change(|state, _| state.misconfigured = None);
    }

    fn change(&self, change: impl FnOnce(&mut State, Instant)) {
        let now = Instant::now();
        let mut state = self.lock();
        change(&mut state, now);
        self.announce(&mut state, now);
        drop(state);
        self.changed.notify_waiters();
    }

    fn report(&self, report: &Report) {
        self.change(|state, now| {
            state.last_failure =
                (report.outcome != Outcome::Delivered).then(|| report.reason.clone());
            self.note(state, now, report);
        });
    }

    fn note(&self, state: &mut State, now: Instant, report: &Report) {
        match report.outcome {
            Outcome::Delivered => {
                state.misconfigured = None;
                state.refusals = Refusals::default();
                Self::answered(state);
                state.concurrency.succeed(report.took);
                if let Some(spacing) = &mut state.spacing {
                    spacing.succeed();
                }
            }
            Outcome::TooLarge | Outcome::Rejected => {
                if state.misconfigured.as_ref().is_some_and(|m| !m.refuses_all) {
                    state.misconfigured = None;
                }
                if let Some(misconfigured) = &mut state.misconfigured {
                    misconfigured.next_probe = now + MISCONFIGURED_PROBE;
                }
                Self::answered(state);
            }
            Outcome::Misconfigured => {
                self.misconfigure(state, now, report.reason.clone(), false);
                Self::answered(state);
            }
            Outcome::Transient | Outcome::Unknown => {
                let probes = state.breaker.probes();
                let wait = state.probe_backoff.half_jitter(probes, &mut state.rng);
                state.breaker.fail(now, wait);
                if asks_for_quiet(report.status) {
                    state.concurrency.overload();
                    if report.status == Some(429) || report.retry_after.is_some() {
                        state.refused(now);
                    }
                    if let Some(retry_after) = report.retry_after {
                        // Spread, lest a fleet comes back in one wave.
                        let spread = state.probe_backoff.full_jitter(probes, &mut state.rng);
                        let until = now + retry_after.min(RETRY_AFTER_CAP) + spread;
                        state.quiet_until = state.quiet_until.max(Some(until));
                    }
                } else if report.outcome == Outcome::Unknown {
                    state.concurrency.overload();
                }
                if let Some(misconfigured) = &mut state.misconfigured {
                    misconfigured.next_probe = now + MISCONFIGURED_PROBE;
                }
            }
        }
    }

    /// GMFY is there; after an outage, its load is to grow step by step.
    fn answered(state: &mut State) {
        if state.breaker.succeed() {
            state.concurrency.restart();
        }
    }
}

async fn sleep_until(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

/// Takes a lane off the list of those that wait.
struct Waiting<'a> {
    gate: &'a Gate,
    lane: usize,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.gate.lock().waiting.remove(&self.lane);
        self.gate.changed.notify_waiters();
    }
}

/// What came of a request, for all lanes to know.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) outcome: Outcome,
    pub(super) status: Option<u16>,
    pub(super) retry_after: Option<Duration>,
    /// In words, for people.
    pub(super) reason: String,
    /// From sending until the answer.
    pub(super) took: Duration,
}

/// A request in flight. Dropped, it makes room for another one.
#[derive(Debug)]
pub(super) struct Permit {
    gate: Arc<Gate>,
    probe: bool,
    alone: bool,
}

impl Permit {
    /// Whether a single event is to be sent, to find out whether everything is refused.
    pub(super) const fn alone(&self) -> bool {
        self.alone
    }

    /// Tells the other lanes what came of the request.
    pub(super) fn report(self, report: &Report) {
        self.gate.report(report);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.in_flight = state.in_flight.saturating_sub(1);
        if self.probe {
            state.probing = false;
        }
        drop(state);
        self.gate.changed.notify_waiters();
    }
}
