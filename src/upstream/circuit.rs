//! Whether GMFY is there, as every exchange with it tells, deliveries and reads alike.
//!
//! After enough failures in a row the circuit is open: a read then fails at once instead of
//! waiting for a time-out, and one read at a time is let through to find out. Any sensible answer,
//! to a batch too, closes it. Deliveries are never held up here: their lanes have a breaker, which
//! knows more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use rand::RngExt as _;
use tokio::time::Instant;

use super::SendError;

/// Failures in a row that open the circuit.
const OPEN_AT: u32 = 5;
/// A time-out has cost its caller so much that two of them are enough.
const TIMEOUT_WEIGHT: u32 = 3;
/// The wait for the first probe, before jitter; it doubles with each one that fails,
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// up to this.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// GMFY's own `Retry-After` is heeded up to this.
const LONGEST_ASKED: Duration = Duration::from_secs(60);

/// What an exchange tells of GMFY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// It answered, whatever it said.
    There,
    Failed {
        weight: u32,
    },
}

impl Sign {
    /// What the head of an answer, or the want of one, tells.
    pub(super) fn of(result: Result<StatusCode, &SendError>) -> Self {
        match result {
            Ok(
                StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT,
            ) => Self::Failed { weight: 1 },
            Ok(_) => Self::There,
            Err(SendError::Timeout) => Self::Failed { weight: TIMEOUT_WEIGHT },
            Err(
                SendError::Connect(_)
                | SendError::Tls(_)
                | SendError::Broken(_)
                | SendError::Down { .. },
            ) => Self::Failed { weight: 1 },
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Circuit {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The weights of failures in a row.
    failures: u32,
    /// While open.
    open: Option<Open>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    next_probe: Instant,
    probing: bool,
    /// Failures since it opened.
    probes: u32,
}

impl Open {
    /// How long a read is to wait before it tries again; none if it may go.
    fn holds(&self, now: Instant) -> Option<Duration> {
        let left = self.next_probe.saturating_duration_since(now);
        if self.probing { Some(left.max(FIRST_WAIT)) } else { Some(left).filter(|l| !l.is_zero()) }
    }
}

/// The leave to read. Dropped, the next probe may go.
#[derive(Debug)]
pub(super) struct Leave {
    circuit: Arc<Circuit>,
    probe: bool,
}

impl Leave {
    /// Whether this read is to find out if GMFY is there again: it isn't worth repeating.
    pub(super) const fn is_probe(&self) -> bool {
        self.probe
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        if self.probe
            && let Some(open) = &mut self.circuit.lock().open
        {
            open.probing = false;
        }
    }
}

impl Circuit {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails while a read would be refused.
    pub(super) fn check(&self) -> Result<(), SendError> {
        let held = self.lock().open.and_then(|open| open.holds(Instant::now()));
        held.map_or(Ok(()), |retry_in| Err(SendError::Down { retry_in }))
    }

    /// Leave to read; while open, for one read at a time.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Leave, SendError> {
        let mut state = self.lock();
        let probe = match &mut state.open {
            None => false,
            Some(open) => {
                if let Some(retry_in) = open.holds(Instant::now()) {
                    return Err(SendError::Down { retry_in });
                }
                open.probing = true;
                true
            }
        };
        Ok(Leave { circuit: Arc::clone(self), probe })
    }

    /// Takes in what an exchange told. `asked` is GMFY's `Retry-After`.
    pub(super) fn note(&self, sign: Sign, asked: Option<Duration>) {
        let mut state = self.lock();
        let Sign::Failed { weight } = sign else {
            let was_open = state.open.take().is_some();
            state.failures = 0;
            drop(state);
            if was_open {
                tracing::info!("GMFY answers again: reads go on");
            }
            return;
        };
        state.failures = state.failures.saturating_add(weight);
        if state.failures < OPEN_AT {
            return;
        }
        let before = state.open;
        let probes = before.map_or(0, |open| open.probes.saturating_add(1));
        let asked = asked.unwrap_or_default().min(LONGEST_ASKED);
        let next_probe = Instant::now() + wait(probes).max(asked);
        let probing = before.is_some_and(|open| open.probing);
        state.open = Some(Open { next_probe, probing, probes });
        drop(state);
        if before.is_none() {
            tracing::warn!("GMFY fails: reads answer from the cache, or fail at once");
        }
    }
}

/// Half of it certain, half by chance, lest a fleet probes in step.
fn wait(probes: u32) -> Duration {
    let whole = FIRST_WAIT.saturating_mul(1 << probes.min(8)).min(LONGEST_WAIT);
    whole / 2 + (whole / 2).mul_f64(rand::rng().random())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: Sign = Sign::Failed { weight: 1 };

    fn open() -> Arc<Circuit> {
        let circuit = Arc::<Circuit>::default();
        for _ in 0..OPEN_AT {
            assert!(circuit.check().is_ok());
            circuit.note(FAILED, None);
        }
        circuit
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_and_lets_one_probe_through_at_a_time() {
        let circuit = open();
        assert!(matches!(circuit.enter(), Err(SendError::Down { .. })));
        tokio::time::advance(FIRST_WAIT).await;
        assert!(circuit.check().is_ok());
        let probe = circuit.enter().unwrap();
        assert!(probe.is_probe());
        assert!(circuit.enter().is_err(), "one at a time");
        circuit.note(FAILED, None);
        drop(probe);
        assert!(circuit.enter().is_err(), "the next one waits longer");
        tokio::time::advance(FIRST_WAIT * 2).await;
        let probe = circuit.enter().unwrap();
        circuit.note(Sign::There, None);
        drop(probe);
        assert!(!circuit.enter().unwrap().is_probe());
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_given_up_makes_room_for_the_next() {
        let circuit = open();
        tokio::time::advance(LONGEST_WAIT).await;
        drop(circuit.enter().unwrap());
        assert!(circuit.enter().unwrap().is_probe());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_in_between_starts_the_count_anew_and_two_time_outs_are_enough() {
        let circuit = Arc::<Circuit>::default();
        for _ in 0..3 {
            for _ in 1..OPEN_AT {
                circuit.note(FAILED, None);
            }
            circuit.note(Sign::There, None);
        }
        assert!(circuit.check().is_ok());
        for _ in 0..2 {
            assert!(circuit.check().is_ok());
            circuit.note(Sign::of(Err(&SendError::Timeout)), None);
        }
        assert!(circuit.check().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_after_is_heeded_within_reason() {
        let circuit = open();
        circuit.note(FAILED, Some(Duration::from_secs(30)));
        tokio::time::advance(Duration::from_secs(29)).await;
        assert!(circuit.check().is_err());
        circuit.note(FAILED, Some(Duration::from_secs(3600)));
        tokio::time::advance(LONGEST_ASKED).await;
        assert!(circuit.check().is_ok());
    }

    #[test]
    fn only_gateways_failures_are_failures_among_answers() {
        for (status, there) in
            [(200, true), (404, true), (429, true), (500, true), (502, false), (503, false)]
        {
            let sign = Sign::of(Ok(StatusCode::from_u16(status).unwrap()));
            assert_eq!(sign == Sign::There, there, "{status}");
        }
    }
}
