//! The breaker that all lanes share: a state machine over time values, without waits of its own.

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row, over all lanes, that open the breaker.
pub(super) const OPEN_AFTER: u32 = 5;
/// While open, a probe goes out at least this often.
pub(super) const PROBE_EVERY: Duration = Duration::from_secs(5);

/// Counts failures; while open, says when the next probe may go out.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Breaker {
    failures: u32,
    next_probe: Option<Instant>,
}

impl Breaker {
    /// GMFY answered sensibly. Returns whether the breaker was open.
    pub(super) fn succeed(&mut self) -> bool {
        self.failures = 0;
        self.next_probe.take().is_some()
    }

    /// A request failed in passing. `probe_wait` is when to probe next, should it be open now.
    pub(super) fn fail(&mut self, now: Instant, probe_wait: Duration) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= OPEN_AFTER {
            self.next_probe = Some(now + probe_wait);
        }
    }

    /// Failures in a row.
    pub(super) const fn failures(&self) -> u32 {
        self.failures
    }

    /// How long the breaker has been failing beyond its opening, as a count for the backoff.
    pub(super) const fn probes(&self) -> u32 {
        self.failures.saturating_sub(OPEN_AFTER) + 1
    }

    /// When the next probe may go out, if open.
    pub(super) const fn next_probe(&self) -> Option<Instant> {
        self.next_probe
    }

    /// Lets a probe out at once, if open.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.next_probe = self.next_probe.map(|_| now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_on_success() {
        let now = Instant::now();
        let wait = Duration::from_secs(3);
        let mut breaker = Breaker::default();
        for _ in 1..OPEN_AFTER {
            breaker.fail(now, wait);
            assert_eq!(breaker.next_probe(), None);
        }
        assert!(!breaker.succeed());
        for _ in 0..OPEN_AFTER {
            breaker.fail(now, wait);
        }
        assert_eq!(breaker.next_probe(), Some(now + wait));
        assert_eq!(breaker.probes(), 1);
        breaker.fail(now, wait * 2);
        assert_eq!(breaker.next_probe(), Some(now + wait * 2));
        breaker.hurry(now);
        assert_eq!(breaker.next_probe(), Some(now));
        assert!(breaker.succeed());
        assert_eq!((breaker.failures(), breaker.next_probe()), (0, None));
    }
}
