//! A lane's record in the key-value bucket: who has the lane, and its cursor.
//!
//! Both lie in one record, and each writing of it names the revision that it replaces. So whoever
//! takes a lane over makes every later writing of its former owner fail.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::queue::{
    BatchKey, LaneCursor, LaneStart, Partition, Partitions, Sequence, SequenceRanges, StoredBatch,
};

/// See the module. JSON, for people with `nats kv get`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LaneRecord {
    /// The replica that has the lane; none where it is free.
    pub(super) owner: Option<String>,
    /// Told apart from other times when the same replica had it.
    pub(super) session: u64,
    /// By partition: all its events before this are settled.
    watermarks: Vec<(u8, u64)>,
    /// Settled at or above the watermarks: first and last of each range.
    settled: Vec<(u64, u64)>,
    unfinished: Option<Unfinished>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Unfinished {
    /// In hexadecimal, as GMFY is sent it.
    key: String,
    /// First and last of each range.
    sequences: Vec<(u64, u64)>,
}

impl LaneRecord {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    pub(super) fn bytes(&self) -> Bytes {
        // Fails only on maps with keys that aren't texts, of which it has none.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// The same, with this cursor.
    pub(super) fn with_cursor(&self, cursor: &LaneCursor) -> Self {
        let ranges = |ranges: &SequenceRanges| {
            ranges.iter().map(|(first, last)| (first.get(), last.get())).collect()
        };
        let watermarks = cursor.watermarks.iter();
        Self {
            owner: self.owner.clone(),
            session: self.session,
            watermarks: watermarks.map(|(p, sequence)| (p.number(), sequence.get())).collect(),
            settled: ranges(&cursor.settled),
            unfinished: cursor.unfinished.as_ref().map(|batch| {
                let mut sequences = SequenceRanges::new();
                batch.sequences.iter().for_each(|sequence| sequences.insert(*sequence));
                Unfinished { key: batch.key.to_string(), sequences: ranges(&sequences) }
            }),
        }
    }

    /// The cursor of lane `lane` of `lanes`.
    pub(super) fn start(&self, lane: usize, lanes: usize) -> LaneStart {
        let partitions = Partitions::of_lane(lane, lanes);
        let of = |partition: Partition| {
            let found = self.watermarks.iter().find(|(number, _)| *number == partition.number());
            (partition, found.map_or(Sequence::FIRST, |(_, sequence)| Sequence::new(*sequence)))
        };
        let mut settled = SequenceRanges::new();
        for (first, last) in &self.settled {
            settled.insert_range(Sequence::new(*first)..=Sequence::new(*last));
        }
        let unfinished = self.unfinished.as_ref().and_then(|batch| {
            let key = BatchKey(u128::from_str_radix(&batch.key, 16).ok()?);
            let ranges = batch.sequences.iter();
            let sequences = ranges.flat_map(|(first, last)| *first..=*last).map(Sequence::new);
            Some(StoredBatch { key, sequences: sequences.collect() })
        });
        let watermarks = partitions.iter().map(of).collect();
        LaneStart { partitions, cursor: LaneCursor { watermarks, settled, unfinished } }
    }

    /// Everything of the lane before this is settled.
    pub(super) fn low(&self) -> Sequence {
        let lowest = self.watermarks.iter().map(|(_, sequence)| *sequence).min();
        lowest.map_or(Sequence::FIRST, Sequence::new)
    }

    /// Whether the event of this partition is settled.
    pub(super) fn has_settled(&self, partition: Partition, sequence: Sequence) -> bool {
        let watermark = self.watermarks.iter().find(|(number, _)| *number == partition.number());
        let number = sequence.get();
        watermark.is_some_and(|(_, watermark)| number < *watermark)
            || self.settled.iter().any(|(first, last)| (*first..=*last).contains(&number))
    }

    /// Takes back what a log that ends before `end` can't have had; whether there was any.
    pub(super) fn clamp(&mut self, end: Sequence) -> bool {
        let is_beyond = self.watermarks.iter().any(|(_, sequence)| *sequence > end.get());
        if is_beyond {
            for (_, sequence) in &mut self.watermarks {
                *sequence = end.get().min(*sequence);
            }
            self.settled.clear();
            self.unfinished = None;
        }
        is_beyond
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor() -> LaneCursor {
        let partitions = Partitions::of_lane(3, 128);
        let mut settled = SequenceRanges::new();
        settled.insert_range(Sequence::new(70)..=Sequence::new(75));
        let watermarks = partitions.iter().zip([50, 60]).map(|(p, n)| (p, Sequence::new(n)));
        LaneCursor {
            watermarks: watermarks.collect(),
            settled,
            unfinished: Some(StoredBatch {
                key: BatchKey(0xab),
                sequences: [51, 52, 80].map(Sequence::new).to_vec(),
            }),
        }
    }

    #[test]
    fn a_cursor_comes_back_as_it_was_stored() {
        let owned = LaneRecord { owner: Some("r".to_owned()), session: 9, ..LaneRecord::default() };
        let record = owned.with_cursor(&cursor());
        let read = LaneRecord::parse(&record.bytes()).unwrap();
        assert_eq!(read, record);
        assert_eq!(read.start(3, 128).cursor, cursor());
        assert_eq!((read.owner.as_deref(), read.session), (Some("r"), 9));
        assert_eq!(read.low(), Sequence::new(50));
        let partition = Partitions::of_lane(3, 128).iter().next().unwrap();
        assert!(read.has_settled(partition, Sequence::new(49)));
        assert!(!read.has_settled(partition, Sequence::new(50)));
        assert!(read.has_settled(partition, Sequence::new(75)));
    }

    #[test]
    fn a_lane_without_a_record_begins_at_the_first_event() {
        let start = LaneRecord::default().start(0, 64);
        assert!(start.cursor.watermarks.iter().all(|(_, at)| *at == Sequence::FIRST));
        assert_eq!(start.cursor.watermarks.len(), 4);
        assert_eq!(start.cursor.unfinished, None);
    }

    #[test]
    fn a_log_that_lost_its_end_takes_the_cursor_back() {
        let mut record = LaneRecord::default().with_cursor(&cursor());
        assert!(!record.clone().clamp(Sequence::new(60)));
        assert!(record.clamp(Sequence::new(55)));
        let start = record.start(3, 128).cursor;
        let watermarks: Vec<_> = start.watermarks.iter().map(|(_, at)| at.get()).collect();
        assert_eq!(watermarks, [50, 55]);
        assert!(start.unfinished.is_none() && start.settled.is_empty());
    }
}
