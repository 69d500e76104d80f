//! The lanes as this replica sees them: which are its own, delivered, to go.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, MutexGuard, PoisonError};

use tracing::warn;

use super::Shared;
use super::reader::Readers;
use super::record::LaneRecord;
use crate::queue::StoreError;

/// A lane, as this replica sees it.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// Set where it is this replica's.
    pub(super) owned: Option<Arc<Owned>>,
    /// Delivery has it, and must have ended before it can be this replica's anew.
    pub(super) running: bool,
    /// It is another's once delivery has ended.
    pub(super) leaving: bool,
}

/// A lane of this replica.
#[derive(Debug)]
pub(super) struct Owned {
    pub(super) held: tokio::sync::Mutex<Held>,
    pub(super) readers: tokio::sync::Mutex<Readers>,
    /// Behind the last event that was handed out.
    pub(super) end: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Held {
    pub(super) record: LaneRecord,
    pub(super) revision: u64,
}

impl Owned {
    pub(super) fn new(record: LaneRecord, revision: u64) -> Self {
        Self {
            held: tokio::sync::Mutex::new(Held { record, revision }),
            readers: tokio::sync::Mutex::default(),
            end: AtomicU64::new(0),
        }
    }
}

impl Shared {
    pub(super) fn slots(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All lanes may be others' by now.
    pub(super) fn lapse(&self) {
        let mut lost = 0;
        for slot in self.slots().iter_mut() {
            lost += usize::from(slot.owned.take().is_some());
            slot.leaving = false;
        }
        if lost > 0 {
            warn!(lanes = lost, "the lease ran out: the lanes may be other replicas'");
            self.moved.notify_one();
        }
    }

    pub(super) fn owned(&self, lane: usize) -> Result<Arc<Owned>, StoreError> {
        let slots = self.slots();
        slots.get(lane).and_then(|slot| slot.owned.clone()).ok_or(StoreError::LaneLost)
    }

    pub(super) fn all_owned(&self) -> Vec<(usize, Arc<Owned>)> {
        let slots = self.slots();
        let owned = slots.iter().enumerate();
        owned.filter_map(|(lane, slot)| Some((lane, slot.owned.clone()?))).collect()
    }

    /// Has lanes beyond so many go; returns how many stay.
    pub(super) fn give_up_beyond(&self, share: usize) -> usize {
        let mut slots = self.slots();
        let (mut stay, mut changed) = (0, false);
        for slot in slots.iter_mut().filter(|slot| slot.owned.is_some() && !slot.leaving) {
            if stay < share {
                stay += 1;
            } else {
                slot.leaving = true;
                changed = true;
            }
        }
        drop(slots);
        if changed {
            self.moved.notify_one();
            // Those that delivery does not have can go at once.
            self.left.notify_one();
        }
        stay
    }

    /// The lanes that this replica neither has nor still delivers.
    pub(super) fn free(&self) -> Vec<usize> {
        let slots = self.slots();
        let free = slots.iter().enumerate().filter(|(_, s)| s.owned.is_none() && !s.running);
        free.map(|(lane, _)| lane).collect()
    }

    pub(super) fn ended_and_leaving(&self) -> Vec<(usize, Arc<Owned>)> {
        let slots = self.slots();
        let ended = slots.iter().enumerate().filter(|(_, s)| s.leaving && !s.running);
        ended.filter_map(|(lane, slot)| Some((lane, slot.owned.clone()?))).collect()
    }

    pub(super) fn take(&self, lane: usize, owned: Owned) {
        if let Some(slot) = self.slots().get_mut(lane) {
            *slot = Slot { owned: Some(Arc::new(owned)), running: false, leaving: false };
        }
    }

    pub(super) fn forget(&self, lane: usize) {
        if let Some(slot) = self.slots().get_mut(lane) {
            (slot.owned, slot.leaving) = (None, false);
        }
    }
}
