//! The beats of the process's own loops, for `/livez` and the service manager's watchdog.
//!
//! A part says, each time round its loop, within which time it will be round again. One that is
//! late is stuck: on a disk that hangs, on a lock, on an answer that never comes. Waits for work
//! are bounded by [`BEAT`], so that an idle part is round again too. A beat is one atomic store.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::clock::Clock;

/// The longest wait for work before a part goes round its loop.
pub const BEAT: Duration = Duration::from_secs(10);
/// How late a part may be whose work is short: far beyond what a slow disk takes.
pub const STUCK: Duration = Duration::from_secs(60);

/// The beats of all parts. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Heartbeats {
    parts: Arc<Mutex<Vec<Weak<Part>>>>,
}

struct Part {
    name: String,
    clock: Clock,
    /// By when it has to beat again, in milliseconds of the clock's uptime.
    due: AtomicU64,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part").field("name", &self.name).finish_non_exhaustive()
    }
}

/// One part's beat. Dropped, the part is no longer looked at: its end is another's to notice.
#[derive(Debug)]
pub struct Pulse(Arc<Part>);

impl Heartbeats {
    /// A part that begins now; it has to beat within [`STUCK`].
    #[must_use]
    pub fn part(&self, name: impl Into<String>, clock: &Clock) -> Pulse {
        let part = Part { name: name.into(), clock: clock.clone(), due: AtomicU64::new(0) };
        let pulse = Pulse(Arc::new(part));
        pulse.within(STUCK);
        let mut parts = self.lock();
        parts.retain(|part| part.strong_count() > 0);
        parts.push(Arc::downgrade(&pulse.0));
        pulse
    }

    /// Whether every part is in time.
    ///
    /// # Errors
    /// Names those that are late, and by how much.
    pub fn alive(&self) -> Result<(), String> {
        let parts: Vec<_> = self.lock().iter().filter_map(Weak::upgrade).collect();
        let late: Vec<_> = parts.iter().filter_map(|part| part.late()).collect();
        if late.is_empty() { Ok(()) } else { Err(late.join("; ")) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Part>>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    fn late(&self) -> Option<String> {
        let due = Duration::from_millis(self.due.load(Ordering::Relaxed));
        let late = self.clock.uptime().checked_sub(due).filter(|late| !late.is_zero())?;
        Some(format!("the {} is stuck: its beat is {} s late", self.name, late.as_secs()))
    }
}

impl Pulse {
    /// The part is going round, and will again within `limit`.
    pub fn within(&self, limit: Duration) {
        let due = self.0.clock.uptime().saturating_add(limit);
        let due = u64::try_from(due.as_millis()).unwrap_or(u64::MAX);
        self.0.due.store(due, Ordering::Relaxed);
    }

    /// The part is about to work, or to wait for at most [`BEAT`].
    pub fn beat(&self) {
        self.within(STUCK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn the_late_ones_are_named_until_they_beat_or_end() {
        let clock = Clock::manual(Timestamp::from_millis(0));
        let beats = Heartbeats::default();
        let writer = beats.part("queue writer", &clock);
        let lane = beats.part("delivery lane 0", &clock);
        assert_eq!(beats.alive(), Ok(()));
        lane.within(Duration::from_secs(90));
        clock.advance(STUCK);
        assert_eq!(beats.alive(), Ok(()));
        clock.advance(Duration::from_secs(2));
        let late = "the queue writer is stuck: its beat is 2 s late";
        assert_eq!(beats.alive(), Err(late.to_owned()));
        clock.advance(Duration::from_secs(60));
        let both = beats.alive().unwrap_err();
        assert!(both.contains("queue writer") && both.contains("delivery lane 0"), "{both}");
        lane.beat();
        drop(writer);
        assert_eq!(beats.alive(), Ok(()));
    }
}
