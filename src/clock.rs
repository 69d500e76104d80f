//! Wall-clock time, injected, so that tests can drive it.
//!
//! Waits and time-outs use tokio's clock (which tests can pause); this one is for the times that
//! are stored or shown: when an event was accepted, how old it is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to this; zero where the clock went backwards between the two.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This much earlier; the epoch at the earliest.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// In RFC 3339, with milliseconds, in UTC.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        // Years that no calendar has are shown as the last that it has.
        let millis = i64::try_from(self.0).unwrap_or(i64::MAX);
        let time = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX);
        format!("{time:.3}")
    }

    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// The source of [`Timestamp`]s: the system's clock, or one that a test sets.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    manual: Option<Arc<AtomicU64>>,
}

impl Clock {
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that stands still until [`Clock::advance`] moves it; clones share the time.
    #[must_use]
    pub fn manual(start: Timestamp) -> Self {
        Self { manual: Some(Arc::new(AtomicU64::new(start.as_millis()))) }
    }

    /// Moves a manual clock; has no effect on the system's.
    pub fn advance(&self, by: Duration) {
        if let Some(millis) = &self.manual {
            let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
            millis.fetch_add(by, Ordering::Relaxed);
        }
    }

    /// Time that only ever goes forward, from some moment before; a manual clock's is its own.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        static BEGIN: OnceLock<Instant> = OnceLock::new();
        match &self.manual {
            Some(millis) => Duration::from_millis(millis.load(Ordering::Relaxed)),
            None => BEGIN.get_or_init(Instant::now).elapsed(),
        }
    }

    #[must_use]
    pub fn now(&self) -> Timestamp {
        match &self.manual {
            Some(millis) => Timestamp(millis.load(Ordering::Relaxed)),
            None => Timestamp(system_millis()),
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the clock")]
fn system_millis() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = Clock::manual(Timestamp::from_millis(5));
        let shared = clock.clone();
        assert_eq!(clock.now().as_millis(), 5);
        shared.advance(Duration::from_secs(2));
        assert_eq!(clock.now().as_millis(), 2005);
    }

    #[test]
    fn a_time_is_written_for_people_and_programs() {
        let time = Timestamp::from_millis(1_700_000_000_120);
        assert_eq!(time.to_rfc3339(), "2023-11-14T22:13:20.120Z");
        assert_eq!(Timestamp::from_millis(u64::MAX).to_rfc3339(), "9999-12-30T22:00:00.999Z");
    }

    #[test]
    fn time_that_went_backwards_is_no_age() {
        let earlier = Timestamp::from_millis(10);
        assert_eq!(Timestamp::from_millis(4).since(earlier), Duration::ZERO);
        assert_eq!(Timestamp::from_millis(14).since(earlier), Duration::from_millis(4));
    }
}
