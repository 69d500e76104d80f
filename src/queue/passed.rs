//! What all lanes' cursors together have settled.

use super::state::LaneRecord;
use super::{PARTITIONS, Partition, Sequence, SequenceRanges};

/// Settled events by partition and sequence.
#[derive(Clone, Debug)]
pub(super) struct Passed {
    /// Everything of a partition before its watermark is settled.
    watermarks: [Sequence; PARTITIONS],
    /// Settled at or above the watermarks.
    ahead: SequenceRanges,
}

impl Passed {
    pub(super) fn of(lanes: &[LaneRecord]) -> Self {
        let mut passed =
            Self { watermarks: [Sequence::FIRST; PARTITIONS], ahead: SequenceRanges::new() };
        for lane in lanes {
            let cursor = lane.start().cursor;
            for (partition, sequence) in cursor.watermarks {
                passed.watermarks[partition.index()] = sequence;
            }
            cursor.settled.iter().for_each(|(first, last)| passed.ahead.insert_range(first..=last));
        }
        passed
    }

    pub(super) fn contains(&self, partition: Partition, sequence: Sequence) -> bool {
        sequence < self.watermarks[partition.index()] || self.ahead.contains(sequence)
    }

    /// How many partitions are not past this: their events before it may wait.
    pub(super) fn waiting_before(&self, end: Sequence) -> usize {
        self.watermarks.iter().filter(|watermark| **watermark < end).count()
    }

    /// Everything before this is settled.
    pub(super) fn low(&self) -> Sequence {
        self.watermarks.iter().min().copied().unwrap_or(Sequence::FIRST)
    }

    /// Nothing from here on is settled.
    pub(super) fn high(&self) -> Sequence {
        let watermark = self.watermarks.iter().max().copied().unwrap_or(Sequence::FIRST);
        self.ahead.iter().last().map_or(watermark, |(_, last)| watermark.max(last.next()))
    }
}
