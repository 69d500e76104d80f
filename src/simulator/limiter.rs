//! The rate limit: a token bucket that holds a second's worth.

use std::time::Duration;

use tokio::time::Instant;

/// What is left of the rate limit.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    filled: Option<(f64, Instant)>,
}

impl Bucket {
    /// Takes one request at `rate` a second.
    ///
    /// # Errors
    /// How long to wait until there is room for one.
    pub(super) fn take(&mut self, rate: f64, now: Instant) -> Result<(), Duration> {
        let capacity = rate.max(1.0);
        let tokens = self.filled.map_or(capacity, |(tokens, at)| {
            let since = now.saturating_duration_since(at).as_secs_f64();
            since.mul_add(rate, tokens).min(capacity)
        });
        let (left, taken) = if tokens >= 1.0 {
            (tokens - 1.0, Ok(()))
        } else {
            let wait = Duration::try_from_secs_f64((1.0 - tokens) / rate);
            (tokens, Err(wait.unwrap_or(Duration::MAX)))
        };
        self.filled = Some((left, now));
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_second_gives_back_a_seconds_worth_and_no_more() {
        let mut bucket = Bucket::default();
        let start = Instant::now();
        for _ in 0..4 {
            assert_eq!(bucket.take(4.0, start), Ok(()));
        }
        assert_eq!(bucket.take(4.0, start), Err(Duration::from_millis(250)));
        let later = start + Duration::from_secs(10);
        let taken = (0..10).filter(|_| bucket.take(4.0, later).is_ok()).count();
        assert_eq!(taken, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_below_one_lets_one_through_at_a_time() {
        let mut bucket = Bucket::default();
        let start = Instant::now();
        assert_eq!(bucket.take(0.5, start), Ok(()));
        assert_eq!(bucket.take(0.5, start), Err(Duration::from_secs(2)));
        assert_eq!(bucket.take(0.5, start + Duration::from_secs(2)), Ok(()));
    }
}
