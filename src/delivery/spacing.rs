//! How far apart requests go out, once GMFY asked for fewer: a rate that fits what it takes, found
//! without knowing the limit nor how many others share it. Pure, over time values.
//!
//! `Retry-After` says when to come again, not how often from then on. A fleet that only waits for
//! it comes back as dense as before; so each refusal doubles the distance between requests, and
//! each success shrinks it: by a tenth, at least so much that the rate grows by a fixed step (so
//! those that were refused most catch up), and by half when there were many in a row. In balance
//! about one in seven requests is refused; a sidecar that nothing refuses is not held back at all.

use std::time::Duration;

use tokio::time::Instant;

/// What counts at the most of the time between two requests: a quiet spell is no rate.
const LONGEST_USUAL: Duration = Duration::from_secs(1);
/// A distance below this is none.
const SHORTEST: Duration = Duration::from_millis(1);
/// Requests a second by which a success raises the rate at least.
const MORE_PER_SECOND: f64 = 0.02;
/// Successes in a row from which on the distance shrinks faster.
const STREAK: u32 = 8;

#[derive(Clone, Copy, Debug)]
pub(super) struct Spacing {
    longest: Duration,
    /// Between two requests; zero where GMFY asked for nothing.
    distance: Duration,
    /// The time between requests lately.
    usual: Duration,
    last: Option<Instant>,
    next: Option<Instant>,
    successes: u32,
}

impl Spacing {
    /// `longest` bounds the distance.
    pub(super) const fn new(longest: Duration) -> Self {
        Self {
            longest,
            distance: Duration::ZERO,
            usual: Duration::ZERO,
            last: None,
            next: None,
            successes: 0,
        }
    }

    /// Before this, no request is to go out.
    pub(super) const fn next(&self) -> Option<Instant> {
        self.next
    }

    /// A request goes out. `jitter` is from 0 to 1.
    pub(super) fn sent(&mut self, now: Instant, jitter: f64) {
        if let Some(last) = self.last.replace(now) {
            let since = now.duration_since(last).min(LONGEST_USUAL);
            self.usual = (self.usual * 7 + since) / 8;
        }
        self.space(now, jitter);
    }

    /// GMFY took it.
    pub(super) fn succeed(&mut self) {
        self.successes = self.successes.saturating_add(1);
        let faster = self.distance.as_secs_f64();
        let faster = Duration::from_secs_f64(faster / (1.0 + faster * MORE_PER_SECOND));
        self.distance = if self.successes > STREAK {
            self.distance / 2
        } else {
            faster.min(self.distance * 9 / 10)
        };
        if self.distance < SHORTEST {
            (self.distance, self.next) = (Duration::ZERO, None);
        }
    }

    /// GMFY asked for fewer. `jitter` is from 0 to 1.
    pub(super) fn refused(&mut self, now: Instant, jitter: f64) {
        self.successes = 0;
        let distance = self.distance.max(self.usual).max(SHORTEST) * 2;
        self.distance = distance.min(self.longest);
        self.space(now, jitter);
    }

    /// Forgets what GMFY asked for.
    pub(super) fn reset(&mut self) {
        (self.distance, self.next) = (Duration::ZERO, None);
    }

    /// From half to one and a half of the distance, so that no two keep step.
    fn space(&mut self, now: Instant, jitter: f64) {
        if !self.distance.is_zero() {
            self.next = Some(now + self.distance.mul_f64(0.5 + jitter.clamp(0.0, 1.0)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LONGEST: Duration = Duration::from_secs(60);

    #[test]
    fn nothing_is_held_back_until_something_is_refused() {
        let now = Instant::now();
        let mut spacing = Spacing::new(LONGEST);
        for _ in 0..5 {
            spacing.sent(now, 0.5);
            spacing.succeed();
            assert_eq!(spacing.next(), None);
        }
        spacing.refused(now, 0.5);
        assert!(spacing.next().is_some_and(|next| next > now));
        spacing.reset();
        spacing.sent(now, 0.5);
        assert_eq!(spacing.next(), None);
    }

    #[test]
    fn refusals_double_from_the_usual_distance_and_successes_shrink_it_to_none() {
        let mut now = Instant::now();
        let mut spacing = Spacing::new(LONGEST);
        for _ in 0..100 {
            spacing.sent(now, 0.5);
            now += Duration::from_millis(50);
        }
        spacing.refused(now, 0.5);
        let first = spacing.next().unwrap() - now;
        assert!(first > Duration::from_millis(90) && first < Duration::from_millis(101));
        spacing.refused(now, 0.5);
        assert_eq!(spacing.next().unwrap() - now, first * 2);
        (0..30).for_each(|_| spacing.succeed());
        assert_eq!(spacing.next(), None);
    }

    proptest! {
        #[test]
        fn a_wait_is_bounded_whatever_happens(
            ops in prop::collection::vec((0u8..3, 0u64..5_000, 0.0f64..1.0), 0..200),
        ) {
            let mut now = Instant::now();
            let mut spacing = Spacing::new(LONGEST);
            for (op, millis, jitter) in ops {
                now += Duration::from_millis(millis);
                match op {
                    0 => spacing.sent(now, jitter),
                    1 => spacing.succeed(),
                    _ => spacing.refused(now, jitter),
                }
                prop_assert!(spacing.next().is_none_or(|next| next <= now + LONGEST * 3 / 2));
            }
        }
    }
}
