//! What GMFY takes in one request, learned from its 413s, growing back slowly.

use std::time::Duration;

use tokio::time::Instant;

/// The limit grows by an eighth after each such time without a 413.
const GROW_EVERY: Duration = Duration::from_secs(60);

/// How much goes into one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchLimit {
    pub(super) events: usize,
    /// Bytes of wire form.
    pub(super) bytes: usize,
}

/// See the module. GMFY doesn't say whether it counts events or bytes, so both are held down.
#[derive(Clone, Copy, Debug)]
pub(super) struct SizeLimit {
    set: BatchLimit,
    learned: Option<Learned>,
}

#[derive(Clone, Copy, Debug)]
struct Learned {
    limit: BatchLimit,
    /// The most events taken in one request since the last 413, and their bytes.
    worked: BatchLimit,
    grown_at: Instant,
}

impl SizeLimit {
    pub(super) const fn new(set: BatchLimit) -> Self {
        Self { set, learned: None }
    }

    /// The limit as of now.
    pub(super) fn current(&mut self, now: Instant) -> BatchLimit {
        let Some(learned) = &mut self.learned else { return self.set };
        while now.duration_since(learned.grown_at) >= GROW_EVERY {
            learned.grown_at += GROW_EVERY;
            learned.limit.events += learned.limit.events.div_ceil(8);
            learned.limit.bytes += learned.limit.bytes.div_ceil(8);
            if learned.limit.events >= self.set.events && learned.limit.bytes >= self.set.bytes {
                self.learned = None;
                return self.set;
            }
        }
        BatchLimit {
            events: learned.limit.events.clamp(1, self.set.events),
            bytes: learned.limit.bytes.clamp(1, self.set.bytes),
        }
    }

    /// GMFY took this much at once.
    pub(super) fn worked(&mut self, size: BatchLimit) {
        if let Some(learned) = &mut self.learned
            && size.events > learned.worked.events
        {
            learned.worked = size;
        }
    }

    /// GMFY found this much too large. Falls back to what worked last, else to half.
    pub(super) fn too_large(&mut self, size: BatchLimit, now: Instant) {
        let half = BatchLimit { events: (size.events / 2).max(1), bytes: (size.bytes / 2).max(1) };
        let worked = self.learned.map(|learned| learned.worked);
        let limit = match worked {
            Some(worked) if worked.events < size.events && worked.bytes < size.bytes => {
                BatchLimit {
                    events: worked.events.max(half.events),
                    bytes: worked.bytes.max(half.bytes),
                }
            }
            _ => half,
        };
        self.learned =
            Some(Learned { limit, worked: BatchLimit { events: 0, bytes: 0 }, grown_at: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn size(events: usize) -> BatchLimit {
        BatchLimit { events, bytes: events * 100 }
    }

    #[test]
    fn it_halves_then_grows_back_to_the_setting() {
        let start = Instant::now();
        let mut limit = SizeLimit::new(size(500));
        limit.too_large(size(500), start);
        limit.too_large(size(250), start);
        assert_eq!(limit.current(start).events, 125);
        assert_eq!(limit.current(start + GROW_EVERY).events, 141);
        assert_eq!(limit.current(start + GROW_EVERY * 30), size(500));
    }

    #[test]
    fn it_falls_back_to_what_worked() {
        let start = Instant::now();
        let mut limit = SizeLimit::new(size(500));
        limit.too_large(size(500), start);
        limit.worked(size(240));
        limit.too_large(size(281), start);
        assert_eq!(limit.current(start).events, 240);
    }

    #[test]
    fn it_never_falls_below_one_event() {
        let mut limit = SizeLimit::new(size(500));
        limit.too_large(size(1), Instant::now());
        assert_eq!(limit.current(Instant::now()).events, 1);
    }
}
