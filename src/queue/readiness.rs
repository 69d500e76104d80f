//! Whether events can be accepted, as the last append left it; shared by the writer and whoever asks.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::Readiness;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct AtomicReadiness {
    state: AtomicU8,
    /// Bytes on the device when the queue last was full.
    full_at: AtomicU64,
}

const STATES: [Readiness; 6] = [
    Readiness::Ready,
    Readiness::QueueFull,
    Readiness::DiskFull,
    Readiness::Failed,
    Readiness::Unreachable,
    Readiness::Closed,
];

impl AtomicReadiness {
    /// Sets the state; returns the former one.
    pub(super) fn set(&self, state: Readiness) -> Readiness {
        let index = STATES.iter().position(|known| *known == state).unwrap_or_default();
        let before = self.state.swap(u8::try_from(index).unwrap_or_default(), Ordering::Relaxed);
        STATES[usize::from(before)]
    }

    /// Says that the queue is full at this many bytes; returns the former state.
    pub(super) fn set_full(&self, bytes: u64) -> Readiness {
        self.full_at.store(bytes, Ordering::Relaxed);
        self.set(Readiness::QueueFull)
    }

    /// The state, when the queue has these bytes now: a full one is ready again when a tenth of
    /// its capacity was given back.
    pub(super) fn get(&self, bytes: u64, capacity: u64) -> Readiness {
        let state = STATES[usize::from(self.state.load(Ordering::Relaxed))];
        let has_room = bytes + capacity / 10 <= self.full_at.load(Ordering::Relaxed);
        if state == Readiness::QueueFull && has_room { Readiness::Ready } else { state }
    }
}
