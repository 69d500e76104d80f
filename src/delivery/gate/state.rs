//! What the lanes know of GMFY together, and who may send by it: without locks and waits.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::{Pace, Report};
use crate::delivery::backoff::{Backoff, RETRY_AFTER_CAP};
use crate::delivery::breaker::{Breaker, PROBE_EVERY};
use crate::delivery::concurrency::Concurrency;
use crate::delivery::outcome::{Outcome, asks_for_quiet};
use crate::delivery::refusals::Refusals;
use crate::delivery::size::SizeLimit;
use crate::delivery::spacing::Spacing;
use crate::queue::Sequence;

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

#[derive(Debug)]
pub(super) struct State {
    pub(super) paused: bool,
    pub(super) misconfigured: Option<Misconfigured>,
    breaker: Breaker,
    concurrency: Concurrency,
    /// None where `delivery.adaptive` is off.
    spacing: Option<Spacing>,
    pub(super) size: SizeLimit,
    probe_backoff: Backoff,
    pub(super) refusals: Refusals,
    /// By a `Retry-After`.
    pub(super) quiet_until: Option<Instant>,
    pub(super) in_flight: usize,
    pub(super) probing: bool,
    pub(super) waiting: BTreeMap<usize, Waiter>,
    turns: u64,
    /// For each lane that ever sent: its last turn.
    turn_of: BTreeMap<usize, u64>,
    /// When the breaker closed last.
    back_at: Option<Instant>,
    /// When an operator ended all waits last.
    resumed_at: Option<Instant>,
    pub(super) announced: UpstreamState,
    /// When the announced state began.
    pub(super) since: Instant,
    /// What went wrong last, in words, until something is delivered.
    pub(super) last_failure: Option<String>,
    rng: StdRng,
}

#[derive(Clone, Debug)]
pub(super) struct Misconfigured {
    reason: String,
    next_probe: Instant,
    /// GMFY refuses everything: the probe is a single event.
    pub(super) refuses_all: bool,
}

impl State {
    pub(super) fn new(pace: Pace, rng: StdRng) -> Self {
        Self {
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
            turns: 0,
            turn_of: BTreeMap::new(),
            back_at: None,
            resumed_at: None,
            announced: UpstreamState::Up,
            since: Instant::now(),
            last_failure: None,
            rng,
        }
    }

    pub(super) fn adjust(&mut self, pace: Pace) {
        self.concurrency = Concurrency::new(pace.lanes, pace.adaptive);
        self.spacing = pace.adaptive.then(|| Spacing::new(pace.backoff.ceiling(u32::MAX)));
        self.size = SizeLimit::new(pace.batch);
        self.probe_backoff = pace.backoff.capped(PROBE_EVERY);
    }

    pub(super) fn current(&self, now: Instant) -> UpstreamState {
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

    pub(super) fn next_attempt(&self, now: Instant) -> Option<Instant> {
        if self.paused {
            return None;
        }
        let probe = self.misconfigured.as_ref().map(|misconfigured| misconfigured.next_probe);
        probe.or(self.quiet(now)).or_else(|| self.breaker.next_probe())
    }

    pub(super) fn why(&self, state: UpstreamState) -> Option<String> {
        match state {
            UpstreamState::Up => None,
            UpstreamState::Paused => Some("an operator paused delivery".to_owned()),
            UpstreamState::Misconfigured => self.misconfigured.as_ref().map(|m| m.reason.clone()),
            UpstreamState::Retrying | UpstreamState::Open => self.last_failure.clone(),
        }
    }

    pub(super) fn clear_waits(&mut self, now: Instant) {
        self.misconfigured = None;
        self.quiet_until = None;
        if let Some(spacing) = &mut self.spacing {
            spacing.reset();
        }
        self.breaker.hurry(now);
        self.refusals.restart();
        self.resumed_at = Some(now);
    }

    /// Whether `lane` may send now. Where fewer requests than lanes may be in flight, the lanes take
    /// turns: one that is ready goes after those that are ready and went longer ago, so that a lane
    /// with a long backlog keeps no other one waiting.
    pub(super) fn decide(&mut self, lane: usize, waiter: Waiter, now: Instant) -> Decision {
        let decision = self.judge(lane, waiter, now);
        if let Decision::Send { probe, .. } = decision {
            self.in_flight += 1;
            let jitter = self.rng.random();
            if let Some(spacing) = &mut self.spacing {
                spacing.sent(now, jitter);
            }
            self.probing |= probe;
            self.waiting.remove(&lane);
            self.turns += 1;
            self.turn_of.insert(lane, self.turns);
        }
        decision
    }

    fn judge(&self, lane: usize, waiter: Waiter, now: Instant) -> Decision {
        let mut others = self.waiting.iter().filter(|(other, _)| **other != lane);
        if self.paused {
            return Decision::Wait(None);
        }
        if let Some(misconfigured) = &self.misconfigured {
            return if self.probing || others.any(|(_, other)| other.oldest < waiter.oldest) {
                Decision::Wait(None)
            } else if misconfigured.next_probe > now {
                Decision::Wait(Some(misconfigured.next_probe))
            } else {
                Decision::Send { probe: true, alone: misconfigured.refuses_all }
            };
        }
        if let Some(until) = self.quiet(now) {
            return Decision::Wait(Some(until));
        }
        if let Some(next_probe) = self.breaker.next_probe() {
            return if self.probing {
                Decision::Wait(None)
            } else if next_probe > now {
                Decision::Wait(Some(next_probe))
            } else {
                Decision::Send { probe: true, alone: false }
            };
        }
        if let Some(until) = self.held_until(waiter.delay, now) {
            return Decision::Wait(Some(until));
        }
        let turn = |lane| self.turn_of.get(lane).copied().unwrap_or_default();
        let ahead = others.filter(|(other, waiter)| {
            turn(other) < turn(&lane) && self.held_until(waiter.delay, now).is_none()
        });
        if self.concurrency.allows(self.in_flight + ahead.count()) {
            Decision::Send { probe: false, alone: false }
        } else {
            Decision::Wait(None)
        }
    }

    /// Until when a lane's own delay holds it back. An outage that is over voids the delays from
    /// it, lest a lane that probed for long sleeps on; not those that GMFY asked for.
    fn held_until(&self, delay: Option<Delay>, now: Instant) -> Option<Instant> {
        let delay = delay.filter(|delay| delay.until > now)?;
        let voided = if delay.asked { self.resumed_at } else { self.resumed_at.max(self.back_at) };
        voided.is_none_or(|voided| delay.from > voided).then_some(delay.until)
    }

    /// Everything waits from now on; said once for each reason.
    pub(super) fn misconfigure(&mut self, now: Instant, reason: String, refuses_all: bool) {
        if self.misconfigured.as_ref().is_none_or(|known| known.reason != reason) {
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
        self.misconfigured = Some(Misconfigured { reason, next_probe, refuses_all });
    }

    /// Takes note of what came of a request.
    pub(super) fn note(&mut self, now: Instant, report: &Report) {
        match report.outcome {
            Outcome::Delivered => {
                self.misconfigured = None;
                self.refusals = Refusals::default();
                self.answered(now);
                self.concurrency.succeed(report.took);
                if let Some(spacing) = &mut self.spacing {
                    spacing.succeed();
                }
            }
            Outcome::TooLarge | Outcome::Rejected => {
                if self.misconfigured.as_ref().is_some_and(|m| !m.refuses_all) {
                    self.misconfigured = None;
                }
                if let Some(misconfigured) = &mut self.misconfigured {
                    misconfigured.next_probe = now + MISCONFIGURED_PROBE;
                }
                self.answered(now);
            }
            Outcome::Misconfigured => {
                self.misconfigure(now, report.reason.clone(), false);
                self.answered(now);
            }
            Outcome::Transient | Outcome::Unknown => {
                let probes = self.breaker.probes();
                let wait = self.probe_backoff.half_jitter(probes, &mut self.rng);
                self.breaker.fail(now, wait);
                if asks_for_quiet(report.status) {
                    self.concurrency.overload();
                    if report.status == Some(429) || report.retry_after.is_some() {
                        let jitter = self.rng.random();
                        if let Some(spacing) = &mut self.spacing {
                            spacing.refused(now, jitter);
                        }
                    }
                    if let Some(retry_after) = report.retry_after {
                        // Spread, lest a fleet comes back in one wave.
                        let spread = self.probe_backoff.full_jitter(probes, &mut self.rng);
                        let until = now + retry_after.min(RETRY_AFTER_CAP) + spread;
                        self.quiet_until = self.quiet_until.max(Some(until));
                    }
                } else if report.outcome == Outcome::Unknown {
                    self.concurrency.overload();
                }
                if let Some(misconfigured) = &mut self.misconfigured {
                    misconfigured.next_probe = now + MISCONFIGURED_PROBE;
                }
            }
        }
    }

    /// GMFY is there; after an outage, its load is to grow step by step.
    fn answered(&mut self, now: Instant) {
        if self.breaker.succeed() {
            self.concurrency.restart();
            self.back_at = Some(now);
        }
    }
}

/// A lane that wants to send.
#[derive(Clone, Copy, Debug)]
pub(in crate::delivery) struct Waiter {
    /// The first event that would go.
    pub(in crate::delivery) oldest: Sequence,
    pub(in crate::delivery) delay: Option<Delay>,
}

/// A lane's own wait after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::delivery) struct Delay {
    pub(in crate::delivery) from: Instant,
    pub(in crate::delivery) until: Instant,
    /// By GMFY, with `Retry-After`.
    pub(in crate::delivery) asked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Send {
        probe: bool,
        alone: bool,
    },
    /// Until then, or until something changes.
    Wait(Option<Instant>),
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;
    use crate::delivery::size::BatchLimit;

    const SEND: Decision = Decision::Send { probe: false, alone: false };

    fn state(lanes: usize) -> State {
        let batch = BatchLimit { events: 10, bytes: 1000 };
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60)).unwrap();
        let pace = Pace { lanes, adaptive: true, batch, backoff };
        State::new(pace, StdRng::seed_from_u64(1))
    }

    fn waiter(delay: Option<Delay>) -> Waiter {
        Waiter { oldest: Sequence::FIRST, delay }
    }

    fn report(outcome: Outcome) -> Report {
        let (status, reason, took) = (None, String::new(), Duration::from_millis(1));
        Report { outcome, status, retry_after: None, reason, took }
    }

    impl State {
        /// Decides for a lane that goes on waiting where it may not send.
        fn ask(&mut self, lane: usize, delay: Option<Delay>, now: Instant) -> Decision {
            self.waiting.insert(lane, waiter(delay));
            self.decide(lane, waiter(delay), now)
        }
    }

    #[test]
    fn with_room_for_one_request_the_lanes_take_turns() {
        let (mut state, now) = (state(3), Instant::now());
        state.concurrency.restart();
        let mut sent = Vec::new();
        for _ in 0..6 {
            // Always in this order: without turns, lane 0 would always be the one.
            for lane in 0..3 {
                if state.ask(lane, None, now) == SEND {
                    sent.push(lane);
                }
            }
            state.in_flight -= 1;
        }
        assert_eq!(sent, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_lane_that_has_to_wait_anyhow_keeps_no_other_from_its_turn() {
        let (mut state, now) = (state(2), Instant::now());
        state.concurrency.restart();
        assert_eq!(state.ask(0, None, now), SEND);
        state.in_flight -= 1;
        let until = now + Duration::from_secs(9);
        let delay = Some(Delay { from: now, until, asked: false });
        assert_eq!(state.ask(1, delay, now), Decision::Wait(Some(until)));
        assert_eq!(state.ask(0, None, now), SEND);
        state.in_flight -= 1;
        assert_eq!(state.ask(0, None, until), Decision::Wait(None));
        assert_eq!(state.ask(1, delay, until), SEND);
    }

    #[test]
    fn the_end_of_an_outage_voids_the_delays_of_lanes_but_those_asked_for() {
        let (mut state, before) = (state(8), Instant::now());
        let until = before + Duration::from_secs(100);
        let own = Some(Delay { from: before, until, asked: false });
        let asked = Some(Delay { from: before, until, asked: true });
        let now = before + Duration::from_secs(50);
        // A failure among successes is no outage.
        state.note(now, &report(Outcome::Transient));
        state.note(now, &report(Outcome::Delivered));
        assert_eq!(state.ask(0, own, now), Decision::Wait(Some(until)));
        for _ in 0..9 {
            state.note(now, &report(Outcome::Transient));
        }
        state.note(now, &report(Outcome::Delivered));
        assert_eq!(state.ask(0, own, now), SEND);
        assert_eq!(state.ask(1, asked, now), Decision::Wait(Some(until)));
        let after = Some(Delay { from: now + Duration::from_secs(1), until, asked: false });
        assert_eq!(state.ask(1, after, now), Decision::Wait(Some(until)));
        // An operator's word ends all of them.
        state.clear_waits(now);
        assert_eq!(state.ask(1, asked, now), SEND);
    }
}
