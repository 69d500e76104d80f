//! Exponential backoff with full jitter.

use std::time::Duration;

use rand::RngExt as _;

/// The longest `Retry-After` that is honoured.
pub(super) const RETRY_AFTER_CAP: Duration = Duration::from_secs(600);

/// A range of waits that doubles with each failure. Valid by construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
}

/// The range of a backoff makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBackoff {
    #[error("the first wait is zero")]
    ZeroInitial,
    #[error("the longest wait is shorter than the first")]
    MaxBelowInitial,
}

impl Backoff {
    /// # Errors
    /// When `initial` is zero or `max` is below it.
    pub fn new(initial: Duration, max: Duration) -> Result<Self, InvalidBackoff> {
        if initial.is_zero() {
            return Err(InvalidBackoff::ZeroInitial);
        }
        if max < initial {
            return Err(InvalidBackoff::MaxBelowInitial);
        }
        Ok(Self { initial, max })
    }

    /// The same range, its longest wait at most `cap`.
    #[must_use]
    pub fn capped(self, cap: Duration) -> Self {
        Self { initial: self.initial.min(cap), max: self.max.min(cap) }
    }

    /// The longest wait after `failures` failures in a row (1 for the first).
    #[must_use]
    pub fn ceiling(&self, failures: u32) -> Duration {
        let factor = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.initial.saturating_mul(factor).min(self.max)
    }

    /// A wait drawn evenly from zero to the ceiling, so that a fleet spreads out.
    pub fn full_jitter(&self, failures: u32, rng: &mut impl rand::Rng) -> Duration {
        self.ceiling(failures).mul_f64(rng.random_range(0.0..=1.0))
    }

    /// A wait drawn from the upper half of the range: spread out, yet never soon.
    pub fn half_jitter(&self, failures: u32, rng: &mut impl rand::Rng) -> Duration {
        self.ceiling(failures).mul_f64(rng.random_range(0.5..=1.0))
    }
}

/// A wait that respects what GMFY asked for, up to [`RETRY_AFTER_CAP`].
#[must_use]
pub(super) fn at_least(wait: Duration, retry_after: Option<Duration>) -> Duration {
    wait.max(retry_after.unwrap_or_default().min(RETRY_AFTER_CAP))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    #[test]
    fn bad_ranges_are_refused() {
        let (short, long) = (Duration::from_millis(1), Duration::from_secs(1));
        assert_eq!(Backoff::new(Duration::ZERO, long), Err(InvalidBackoff::ZeroInitial));
        assert_eq!(Backoff::new(long, short), Err(InvalidBackoff::MaxBelowInitial));
        assert!(Backoff::new(long, long).is_ok());
    }

    #[test]
    fn a_retry_after_is_a_floor_with_a_cap() {
        let second = Duration::from_secs(1);
        assert_eq!(at_least(second, None), second);
        assert_eq!(at_least(second, Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(at_least(second, Some(Duration::from_secs(9999))), RETRY_AFTER_CAP);
    }

    proptest! {
        #[test]
        fn waits_stay_in_their_range_and_ceilings_never_fall(
            initial in 1u64..5_000, extra in 0u64..100_000, failures in 0u32..200, seed: u64,
        ) {
            let max = Duration::from_millis(initial + extra);
            let backoff = Backoff::new(Duration::from_millis(initial), max).unwrap();
            let mut rng = StdRng::seed_from_u64(seed);
            prop_assert!(backoff.full_jitter(failures, &mut rng) <= backoff.ceiling(failures));
            let half = backoff.half_jitter(failures, &mut rng);
            prop_assert!(half * 2 + Duration::from_nanos(2) >= backoff.ceiling(failures));
            prop_assert!(half <= backoff.ceiling(failures));
            prop_assert!(backoff.ceiling(failures) <= backoff.ceiling(failures + 1));
            prop_assert!(backoff.ceiling(failures) <= max);
        }
    }
}
