//! The queue's settings that change while it is open, as its threads look at them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::Options;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// Microseconds; 0: each commit is synced.
    interval: AtomicU64,
    dead_letters_max_bytes: AtomicU64,
    drops_oldest: AtomicBool,
}

impl Live {
    pub(super) fn new(options: &Options) -> Self {
        let live = Self::default();
        live.set(options);
        live
    }

    /// Takes over those of the options that can change.
    pub(super) fn set(&self, options: &Options) {
        let interval = options.interval.map_or(0, |interval| interval.as_micros().max(1));
        self.interval.store(u64::try_from(interval).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.dead_letters_max_bytes.store(options.dead_letters_max_bytes, Ordering::Relaxed);
        self.drops_oldest.store(options.drops_oldest, Ordering::Relaxed);
    }

    /// How often written data is synced; none: with each commit.
    pub(super) fn interval(&self) -> Option<Duration> {
        let micros = self.interval.load(Ordering::Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    pub(super) fn dead_letters_max_bytes(&self) -> u64 {
        self.dead_letters_max_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn drops_oldest(&self) -> bool {
        self.drops_oldest.load(Ordering::Relaxed)
    }
}
