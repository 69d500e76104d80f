//! Whether a lane may send now: what the lanes know of GMFY together.
//!
//! Five states, in order of precedence: paused by an operator, misconfigured, open (the breaker),
//! retrying, up. A short lock guards them; it is never held across an await.

mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::state::UpstreamState;
use self::state::{Decision, State};
pub(super) use self::state::{Delay, Waiter};
use super::backoff::Backoff;
use super::outcome::Outcome;
use super::size::BatchLimit;
use crate::queue::UserHash;
use crate::telemetry::heartbeat::BEAT;
use crate::telemetry::{Metrics, Pulse};

/// Why a lane does not get to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// Delivery is stopping, and GMFY isn't there to go on with.
    Stopping,
    /// Lanes with other settings are to take over.
    Renewed,
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

/// How much goes out at once, and how soon again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) lanes: usize,
    pub(super) adaptive: bool,
    pub(super) batch: BatchLimit,
    pub(super) backoff: Backoff,
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
        Self { state: Mutex::new(State::new(pace, rng)), changed: Notify::new(), metrics }
    }

    /// Goes on at another pace; what is known of GMFY stays.
    pub(super) fn adjust(&self, pace: Pace) {
        self.lock().adjust(pace);
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A permit to send, if there is one now.
    pub(super) fn try_enter(self: &Arc<Self>, lane: usize, waiter: Waiter) -> Option<Permit> {
        match self.lock().decide(lane, waiter, Instant::now()) {
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
        waiter: Waiter,
        (drain, renew): (&CancellationToken, &CancellationToken),
        pulse: &Pulse,
    ) -> Result<Permit, Leave> {
        let _waiting = Waiting { gate: self, lane };
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let decision = {
                let mut state = self.lock();
                state.waiting.insert(lane, waiter);
                state.decide(lane, waiter, Instant::now())
            };
            let until = match decision {
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
        state.misconfigure(now, format!("GMFY refuses every event with {status}"), true);
        self.announce(&mut state, now);
        false
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
            state.note(now, report);
        });
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
