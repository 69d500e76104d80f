//! The numbers of events, and the partitions that order them by user.

use std::fmt;
use std::ops::RangeInclusive;

/// An event's place in the queue: 1 for the first, never used twice; there may be gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(u64);

impl Sequence {
    pub const FIRST: Self = Self(1);

    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }

    #[must_use]
    pub const fn next(self) -> Self {
        self.plus(1)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How many partitions users hash to. Part of the storage format: never changed.
pub const PARTITIONS: usize = 256;

/// A stable hash of a user's id (the upper half of its XXH3-64): tells users apart within a lane.
/// Two users may share one, which costs them fairness, never order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserHash(u32);

impl UserHash {
    #[must_use]
    pub fn of(user_id: &str) -> Self {
        let hash = xxhash_rust::xxh3::xxh3_64(user_id.as_bytes());
        #[allow(clippy::cast_possible_truncation, reason = "the upper half fits")]
        Self((hash >> 32) as u32)
    }

    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The partition that keeps this user's events in order.
    #[must_use]
    pub const fn partition(self) -> Partition {
        Partition((self.0 >> 24) as u8)
    }
}

/// One of the [`PARTITIONS`] that users hash to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(u8);

impl Partition {
    #[must_use]
    pub const fn new(index: u8) -> Self {
        Self(index)
    }

    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// A set of partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Partitions([u64; 4]);

impl Partitions {
    #[must_use]
    pub const fn none() -> Self {
        Self([0; 4])
    }

    #[must_use]
    pub const fn all() -> Self {
        Self([u64::MAX; 4])
    }

    /// The partitions of lane `lane` out of `lanes`.
    #[must_use]
    pub fn of_lane(lane: usize, lanes: usize) -> Self {
        let mut set = Self::none();
        for index in (0..=u8::MAX).filter(|index| usize::from(*index) % lanes.max(1) == lane) {
            set.insert(Partition(index));
        }
        set
    }

    pub fn insert(&mut self, partition: Partition) {
        self.0[partition.index() / 64] |= 1 << (partition.index() % 64);
    }

    #[must_use]
    pub const fn contains(&self, partition: Partition) -> bool {
        self.0[partition.index() / 64] & (1 << (partition.index() % 64)) != 0
    }

    #[must_use]
    pub fn intersects(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).any(|(a, b)| a & b != 0)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    pub fn iter(&self) -> impl Iterator<Item = Partition> + '_ {
        (0..=u8::MAX).step_by(64).zip(self.0).flat_map(|(first, mut left)| {
            std::iter::from_fn(move || {
                let next = u8::try_from(left.trailing_zeros()).ok().filter(|_| left != 0)?;
                left &= left - 1;
                Some(Partition(first + next))
            })
        })
    }
}

/// A set of sequences, kept as ranges that neither touch nor overlap, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SequenceRanges(Vec<(u64, u64)>);

impl SequenceRanges {
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds one sequence.
    pub fn insert(&mut self, sequence: Sequence) {
        self.insert_range(sequence..=sequence);
    }

    /// Adds a range; an empty one adds nothing.
    pub fn insert_range(&mut self, range: RangeInclusive<Sequence>) {
        let (mut start, mut end) = (range.start().get(), range.end().get());
        if start > end {
            return;
        }
        // All ranges that touch the new one melt into it.
        let from = self.0.partition_point(|&(_, last)| last.saturating_add(1) < start);
        let to = self.0.partition_point(|&(first, _)| first <= end.saturating_add(1));
        if from < to {
            start = start.min(self.0[from].0);
            end = end.max(self.0[to - 1].1);
        }
        self.0.splice(from..to, [(start, end)]);
    }

    #[must_use]
    pub fn contains(&self, sequence: Sequence) -> bool {
        let at = self.0.partition_point(|&(_, last)| last < sequence.get());
        self.0.get(at).is_some_and(|&(first, _)| first <= sequence.get())
    }

    /// Forgets everything before `sequence`.
    pub fn remove_before(&mut self, sequence: Sequence) {
        let gone = self.0.partition_point(|&(_, last)| last < sequence.get());
        self.0.drain(..gone);
        if let Some(first) = self.0.first_mut() {
            first.0 = first.0.max(sequence.get());
        }
    }

    /// How many ranges it takes.
    #[must_use]
    pub fn range_count(&self) -> usize {
        self.0.len()
    }

    /// How many sequences are in it.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges, first and last included, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (Sequence, Sequence)> + '_ {
        self.0.iter().map(|&(first, last)| (Sequence(first), Sequence(last)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_partition_has_exactly_one_lane() {
        for lanes in 1..=9 {
            for partition in Partitions::all().iter() {
                let owners =
                    (0..lanes).filter(|l| Partitions::of_lane(*l, lanes).contains(partition));
                assert_eq!(owners.count(), 1);
            }
        }
    }

    #[test]
    fn the_hash_of_a_user_is_part_of_the_format() {
        // XXH3-64 of "1" begins with these bits; a change would reorder users across an update.
        let hash = UserHash::of("1");
        assert_eq!(hash, UserHash::from_bits(hash.bits()));
        assert_eq!(u64::from(hash.bits()), xxhash_rust::xxh3::xxh3_64(b"1") >> 32);
        assert_eq!(hash.partition().index(), (hash.bits() >> 24) as usize);
    }

    proptest! {
        #[test]
        fn ranges_are_a_set(ops in prop::collection::vec((0u64..64, 0u64..8, prop::bool::weighted(0.1)), 0..60)) {
            let mut ranges = SequenceRanges::new();
            let mut model = BTreeSet::new();
            for (start, length, remove) in ops {
                if remove {
                    ranges.remove_before(Sequence(start));
                    model.retain(|s| *s >= start);
                } else {
                    ranges.insert_range(Sequence(start)..=Sequence(start + length));
                    model.extend(start..=start + length);
                }
                prop_assert_eq!(ranges.count(), model.len() as u64);
                for s in 0..80 {
                    prop_assert_eq!(ranges.contains(Sequence(s)), model.contains(&s));
                }
                let listed: Vec<_> = ranges.iter().collect();
                prop_assert!(listed.windows(2).all(|w| w[0].1.get() + 1 < w[1].0.get()));
            }
        }
    }
}
