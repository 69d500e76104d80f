//! What has changed since an answer was fetched, in a table of fixed size.
//!
//! Each user's hash has a slot, which counts the deliveries of events of that user. An answer
//! carries the count that it was fetched under; another count now means that it is superseded.
//! So a drop is one addition, however many entries it concerns, and it concerns a fetch under way
//! too. Users who share a slot lose a few entries to each other, never see an older one.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::queue::UserHash;

/// 256 KiB in all. Two thousand users a second with events delivered cost one answer in seven of
/// other users its place, where it lives for 5 s.
const SLOTS: usize = 1 << 16;

/// What an answer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subject(Slot);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    /// Nothing that goes through us.
    None,
    /// All users: a list.
    All,
    One(usize),
}

impl Subject {
    pub(super) const NOTHING: Self = Self(Slot::None);
    pub(super) const EVERY_USER: Self = Self(Slot::All);

    pub(super) fn user(id: &str) -> Self {
        Self::hashed(UserHash::of(id))
    }

    pub(super) const fn hashed(user: UserHash) -> Self {
        Self(Slot::One(user.bits() as usize % SLOTS))
    }

    /// Payments have the users' slots, by another hash.
    pub(super) fn payment(id: &str) -> Self {
        let hash = xxhash_rust::xxh3::xxh3_64_with_seed(id.as_bytes(), 1);
        let slot = usize::try_from(hash % SLOTS as u64).unwrap_or_default();
        Self(Slot::One(slot))
    }

    pub(super) const fn is_every_user(self) -> bool {
        matches!(self.0, Slot::All)
    }
}

/// A count of changes. Equal ones mean that nothing changed between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Epoch(u64);

impl Epoch {
    /// Whether only single subjects changed between the two, not everything.
    pub(super) const fn is_of_generation(self, other: Self) -> bool {
        self.0 >> 32 == other.0 >> 32
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Epochs {
    slots: Box<[AtomicU32]>,
    all: AtomicU32,
    /// Counts the changes of everything at once.
    generation: AtomicU32,
}

impl Epochs {
    pub(super) fn new() -> Self {
        let slots = (0..SLOTS).map(|_| AtomicU32::new(0)).collect();
        Self { slots, all: AtomicU32::new(0), generation: AtomicU32::new(0) }
    }

    pub(super) fn of(&self, subject: Subject) -> Epoch {
        let count = match subject.0 {
            Slot::None => 0,
            Slot::All => self.all.load(Ordering::SeqCst),
            Slot::One(slot) => self.slots.get(slot).map_or(0, |slot| slot.load(Ordering::SeqCst)),
        };
        let generation = self.generation.load(Ordering::SeqCst);
        Epoch(u64::from(generation) << 32 | u64::from(count))
    }

    pub(super) fn supersede(&self, subject: Subject) {
        let counter = match subject.0 {
            Slot::None => return,
            Slot::All => &self.all,
            Slot::One(slot) => match self.slots.get(slot) {
                Some(counter) => counter,
                None => return,
            },
        };
        counter.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn supersede_everything(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_concerns_its_subject_alone() {
        let epochs = Epochs::new();
        let subjects = [
            Subject::NOTHING,
            Subject::EVERY_USER,
            Subject::user("1"),
            Subject::user("2"),
            Subject::payment("1"),
        ];
        for changed in subjects {
            let before = subjects.map(|subject| epochs.of(subject));
            epochs.supersede(changed);
            for (subject, before) in subjects.into_iter().zip(before) {
                let expected = subject == changed && subject != Subject::NOTHING;
                assert_eq!(epochs.of(subject) != before, expected, "{changed:?} of {subject:?}");
            }
        }
        let before = subjects.map(|subject| epochs.of(subject));
        epochs.supersede_everything();
        for (subject, before) in subjects.into_iter().zip(before) {
            assert_ne!(epochs.of(subject), before);
        }
    }
}
