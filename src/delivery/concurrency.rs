//! How many lanes send at once: a ramp after an outage, and additive increase, multiplicative
//! decrease by what GMFY bears.

use std::time::Duration;

/// An answer this slow, and this many times slower than usual, counts as a sign of overload.
const SLOW: Duration = Duration::from_secs(1);
const SLOW_FACTOR: u32 = 4;

/// The limit on requests in flight, from 1 to the number of lanes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Concurrency {
    max: f64,
    limit: f64,
    /// In a ramp the limit grows by one with each success, else by one with each round.
    ramp: bool,
    adaptive: bool,
    usual: Option<Duration>,
}

impl Concurrency {
    pub(super) fn new(lanes: usize, adaptive: bool) -> Self {
        let max = f64::from(u32::try_from(lanes.max(1)).unwrap_or(u32::MAX));
        Self { max, limit: max, ramp: false, adaptive, usual: None }
    }

    /// Whether one more request may be in flight beside `in_flight` others.
    pub(super) fn allows(&self, in_flight: usize) -> bool {
        f64::from(u32::try_from(in_flight).unwrap_or(u32::MAX)) + 1.0 <= self.limit
    }

    pub(super) fn succeed(&mut self, took: Duration) {
        let usual = *self.usual.get_or_insert(took);
        self.usual = Some((usual * 15 + took) / 16);
        if took > SLOW && took > usual * SLOW_FACTOR {
            self.overload();
            return;
        }
        self.limit += if self.ramp { 1.0 } else { 1.0 / self.limit };
        if self.limit >= self.max {
            self.limit = self.max;
            self.ramp = false;
        }
    }

    /// GMFY said, or showed, that it has too much to do.
    pub(super) fn overload(&mut self) {
        if self.adaptive {
            self.limit = (self.limit / 2.0).max(1.0);
            self.ramp = false;
        }
    }

    /// Begins again at one request, to ramp up: GMFY is back from an outage.
    pub(super) fn restart(&mut self) {
        self.limit = 1.0;
        self.ramp = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FAST: Duration = Duration::from_millis(10);

    #[test]
    fn after_an_outage_it_ramps_up() {
        let mut concurrency = Concurrency::new(4, false);
        concurrency.restart();
        for in_flight in 1..4 {
            assert!(!concurrency.allows(in_flight));
            concurrency.succeed(FAST);
            assert!(concurrency.allows(in_flight));
        }
    }

    #[test]
    fn overload_halves_and_success_grows_back_slowly() {
        let mut concurrency = Concurrency::new(8, true);
        concurrency.overload();
        assert!(concurrency.allows(3) && !concurrency.allows(4));
        concurrency.succeed(FAST);
        assert!(!concurrency.allows(4));
        (0..4).for_each(|_| concurrency.succeed(FAST));
        assert!(concurrency.allows(4) && !concurrency.allows(5));
    }

    #[test]
    fn an_answer_much_slower_than_usual_is_overload() {
        let mut concurrency = Concurrency::new(4, true);
        (0..20).for_each(|_| concurrency.succeed(FAST));
        concurrency.succeed(Duration::from_secs(3));
        assert!(!concurrency.allows(2));
    }

    proptest! {
        #[test]
        fn at_least_one_and_at_most_all_may_send(
            lanes in 1usize..16, ops in prop::collection::vec(0u8..4, 0..100),
        ) {
            let mut concurrency = Concurrency::new(lanes, true);
            for op in ops {
                match op {
                    0 => concurrency.overload(),
                    1 => concurrency.restart(),
                    2 => concurrency.succeed(SLOW * 9),
                    _ => concurrency.succeed(FAST),
                }
                prop_assert!(concurrency.allows(0));
                prop_assert!(!concurrency.allows(lanes));
            }
        }
    }
}
