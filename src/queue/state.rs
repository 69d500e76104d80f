//! The small state beside the log: the lanes' cursors, the generations' counts, the reserve of
//! sequences. One database of its own; a record over one value lies in several.

use std::collections::VecDeque;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::error;

use super::dedupe::{Known, Pack, unpack};
use super::engine::{Database, EngineError, MAX_VALUE};
use super::generations::Damage;
use super::repair::{readable_entries, replace_entries};
use super::{
    BatchKey, LaneCursor, LaneStart, Partition, Partitions, Sequence, SequenceRanges, StoredBatch,
};
use crate::clock::Timestamp;

/// A change of a key: its new value, or none to remove it.
pub(super) type Change = (Vec<u8>, Option<Vec<u8>>);

const RESERVED: &[u8] = b"reserved";
const PAUSED: &[u8] = b"paused";
const GENERATION: u8 = b'g';
const LANE: u8 = b'l';
const PACK: u8 = b'k';
/// Bytes of a record in one value; the key and sled's own overhead leave room.
pub(super) const PIECE: usize = MAX_VALUE - 256;

/// What is known of a generation without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GenerationRecord {
    /// Events ever appended before its first.
    pub(super) appended_before: u64,
    /// Set when it is sealed; what lies at or behind the end doesn't count.
    pub(super) sealed: Option<Sealed>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sealed {
    pub(super) events: u64,
    /// The sequence behind its last.
    pub(super) end: u64,
}

/// A lane as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LaneRecord {
    watermarks: Vec<(u8, u64)>,
    /// First sequence less the end of the range before, and length less one.
    settled: Vec<(u64, u64)>,
    unfinished: Option<(u128, Vec<u64>)>,
    /// Events ever settled by this lane.
    pub(super) settled_total: u64,
}

impl LaneRecord {
    pub(super) fn new(cursor: &LaneCursor, settled_total: u64) -> Self {
        let mut before = 0;
        let settled = cursor.settled.iter().map(|(first, last)| {
            let pair = (first.get() - before, last.get() - first.get());
            before = last.get();
            pair
        });
        let settled = settled.collect();
        let unfinished = cursor.unfinished.as_ref().map(|batch| {
            let mut before = 0;
            let deltas = batch.sequences.iter().map(|sequence| {
                let delta = sequence.get().saturating_sub(before);
                before = sequence.get();
                delta
            });
            (batch.key.0, deltas.collect())
        });
        let watermarks = cursor.watermarks.iter();
        let watermarks =
            watermarks.map(|(partition, sequence)| (partition.number(), sequence.get())).collect();
        Self { watermarks, settled, unfinished, settled_total }
    }

    pub(super) fn start(&self) -> LaneStart {
        let mut partitions = Partitions::none();
        let mut cursor = LaneCursor::default();
        for &(partition, sequence) in &self.watermarks {
            partitions.insert(Partition::new(partition));
            cursor.watermarks.push((Partition::new(partition), Sequence::new(sequence)));
        }
        let mut before = 0_u64;
        for &(gap, length) in &self.settled {
            let first = before.saturating_add(gap);
            before = first.saturating_add(length);
            cursor.settled.insert_range(Sequence::new(first)..=Sequence::new(before));
        }
        cursor.unfinished = self.unfinished.as_ref().map(|(key, deltas)| {
            let mut before = 0_u64;
            let sequences = deltas.iter().map(|delta| {
                before = before.saturating_add(*delta);
                Sequence::new(before)
            });
            StoredBatch { key: BatchKey(*key), sequences: sequences.collect() }
        });
        LaneStart { partitions, cursor }
    }

    /// The lowest of its watermarks.
    pub(super) fn low(&self) -> u64 {
        self.watermarks.iter().map(|(_, sequence)| *sequence).min().unwrap_or(u64::MAX)
    }

    /// The highest sequence it knows of.
    pub(super) fn high(&self) -> u64 {
        let start = self.start();
        let watermark = self.watermarks.iter().map(|(_, sequence)| *sequence).max();
        let settled = start.cursor.settled.iter().last().map(|(_, last)| last.get() + 1);
        let unfinished = start.cursor.unfinished.and_then(|b| b.sequences.last().copied());
        [watermark, settled, unfinished.map(|sequence| sequence.get() + 1)]
            .into_iter()
            .flatten()
            .max()
            .unwrap_or(0)
    }

    pub(super) fn is_unfinished(&self) -> bool {
        self.unfinished.is_some()
    }
}

/// The lanes' records for `lanes` lanes, with what `old` ones had settled. None of these may have
/// an unfinished batch.
pub(super) fn reseat(old: &[LaneRecord], lanes: usize, fresh: Sequence) -> Vec<LaneRecord> {
    let mut watermarks = [None; super::PARTITIONS];
    let mut settled = SequenceRanges::new();
    for record in old {
        for (partition, sequence) in record.start().cursor.watermarks {
            watermarks[partition.index()] = Some(sequence);
        }
        for (first, last) in record.start().cursor.settled.iter() {
            settled.insert_range(first..=last);
        }
    }
    let total = old.iter().map(|record| record.settled_total).sum();
    let seat = |lane| {
        let partitions = Partitions::of_lane(lane, lanes);
        let watermarks = partitions
            .iter()
            .map(|partition| (partition, watermarks[partition.index()].unwrap_or(fresh)));
        // A settled sequence belongs to one user, so to one lane; the others never meet it.
        let cursor = LaneCursor {
            watermarks: watermarks.collect(),
            settled: settled.clone(),
            unfinished: None,
        };
        LaneRecord::new(&cursor, if lane == 0 { total } else { 0 })
    };
    (0..lanes).map(seat).collect()
}

/// What is stored of what a sealed generation knows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PackRecord {
    pub(super) first: u64,
    pub(super) pieces: u16,
    pub(super) entries: usize,
    /// When the newest of it was accepted.
    pub(super) newest: Timestamp,
}

/// What the state's database held at start.
#[derive(Debug, Default)]
pub(super) struct Stored {
    pub(super) lanes: Vec<LaneRecord>,
    /// By first sequence.
    pub(super) generations: std::collections::BTreeMap<u64, GenerationRecord>,
    /// Below this, sequences may have been used.
    pub(super) reserved: u64,
    /// An operator paused delivery.
    pub(super) paused: bool,
    /// Keys of records that are there and can't be understood.
    unreadable: Vec<Vec<u8>>,
}

/// The state's database.
#[derive(Debug)]
pub(super) struct StateDb(Database);

impl StateDb {
    pub(super) fn open(path: &Path) -> Result<Self, EngineError> {
        Database::open(path).map(Self)
    }

    /// Opens and reads the state in `path`. One that is damaged is put aside into `dir`'s
    /// quarantine, and what is readable of it kept: then what was wrong is returned too.
    /// `generations` are the log's, of which there may be records.
    pub(super) fn recover(
        dir: &Path,
        path: &Path,
        generations: impl IntoIterator<Item = u64>,
    ) -> Result<(Self, Stored, Option<Damage>), EngineError> {
        let read = Self::open(path).and_then(|state| Ok((state.load()?, state)));
        let (reason, unreadable) = match read {
            Ok((stored, state)) if stored.unreadable.is_empty() => {
                return Ok((state, stored, None));
            }
            Ok((stored, _)) => {
                (EngineError::Damaged("a record can't be read".to_owned()), stored.unreadable)
            }
            Err(EngineError::NoSpace) => return Err(EngineError::NoSpace),
            Err(error) => (error, Vec::new()),
        };
        let lanes = (0..=u8::MAX).flat_map(|lane| [0, 1, 2].map(|piece| vec![LANE, lane, piece]));
        let keys = generations.into_iter().map(generation_key).chain(lanes);
        let mut entries = readable_entries(path, keys.chain([RESERVED.to_vec(), PAUSED.to_vec()]));
        for key in unreadable {
            entries.remove(&key);
        }
        let aside = replace_entries(dir, path, &entries)?;
        let state = Self::open(path)?;
        let mut stored = state.load()?;
        stored.unreadable.clear();
        error!(
            reason = %reason,
            records.kept = entries.len(),
            quarantine = %aside.display(),
            "the state's database is damaged: where a cursor is lost, events that GMFY took \
             already are delivered again"
        );
        let damage = Damage::new(path, &reason, &[], &aside);
        Ok((state, stored, Some(damage)))
    }

    /// Reads everything; what can't be understood is left out, and named.
    pub(super) fn load(&self) -> Result<Stored, EngineError> {
        let mut stored = Stored::default();
        let mut pieces: Vec<(u8, u8, Vec<u8>)> = Vec::new();
        self.0.scan(&[], |key, value| {
            match key {
                RESERVED => match decode(value) {
                    Some(reserved) => stored.reserved = reserved,
                    None => stored.unreadable.push(key.to_vec()),
                },
                PAUSED => stored.paused = true,
                [GENERATION, first @ ..] => match (first.try_into(), decode(value)) {
                    (Ok(first), Some(record)) => {
                        stored.generations.insert(u64::from_be_bytes(first), record);
                    }
                    _ => stored.unreadable.push(key.to_vec()),
                },
                [LANE, lane, piece] => match pieces.last_mut() {
                    Some((last, count, bytes)) if last == lane => {
                        *count = *piece;
                        bytes.extend_from_slice(value);
                    }
                    _ => pieces.push((*lane, *piece, value.to_vec())),
                },
                _ => {}
            }
            true
        })?;
        for (lane, last, bytes) in pieces {
            match decode(&bytes) {
                Some(record) => stored.lanes.push(record),
                None => stored.unreadable.extend((0..=last).map(|piece| vec![LANE, lane, piece])),
            }
        }
        Ok(stored)
    }

    /// Calls `each` with what is to be known of sealed generations, the oldest first; returns what
    /// is stored of it.
    pub(super) fn load_packs(
        &self,
        mut each: impl FnMut(Timestamp, &Known),
    ) -> Result<VecDeque<PackRecord>, EngineError> {
        let mut packs = VecDeque::<PackRecord>::new();
        self.0.scan(&[PACK], |key, value| {
            let [PACK, rest @ ..] = key else { return false };
            let Some(first) = rest.first_chunk().copied().map(u64::from_be_bytes) else {
                return true;
            };
            if packs.back().is_none_or(|pack| pack.first != first) {
                packs.push_back(PackRecord { first, ..PackRecord::default() });
            }
            if let Some(pack) = packs.back_mut() {
                pack.pieces += 1;
                for (at, known) in unpack(value) {
                    pack.entries += 1;
                    pack.newest = pack.newest.max(at);
                    each(at, &known);
                }
            }
            true
        })?;
        Ok(packs)
    }

    /// Applies changes, all or none, and hands them to the operating system.
    pub(super) fn write(&self, changes: &[Change]) -> Result<(), EngineError> {
        self.0.apply(changes)?;
        self.0.flush()
    }

    pub(super) fn sync(&self) -> Result<(), EngineError> {
        self.0.sync()
    }
}

pub(super) fn reserve(until: u64) -> Change {
    (RESERVED.to_vec(), Some(encode(&until)))
}

/// Keeps for the next start whether an operator paused delivery.
pub(super) fn put_paused(paused: bool) -> Change {
    (PAUSED.to_vec(), paused.then(Vec::new))
}

pub(super) fn put_generation(first: u64, record: GenerationRecord) -> Change {
    (generation_key(first), Some(encode(&record)))
}

pub(super) fn remove_generation(first: u64) -> Change {
    (generation_key(first), None)
}

/// The changes that store what is to be known of a sealed generation.
pub(super) fn put_pack(first: u64, pack: &Pack) -> impl Iterator<Item = Change> {
    let pieces = (0_u16..).zip(pack.pieces());
    pieces.map(move |(number, piece)| (pack_key(first, number), Some(piece.clone())))
}

/// The changes that remove a pack.
pub(super) fn remove_pack(pack: PackRecord) -> impl Iterator<Item = Change> {
    (0..pack.pieces).map(move |number| (pack_key(pack.first, number), None))
}

fn pack_key(first: u64, number: u16) -> Vec<u8> {
    let mut key = vec![PACK];
    key.extend_from_slice(&first.to_be_bytes());
    key.extend_from_slice(&number.to_be_bytes());
    key
}

fn generation_key(first: u64) -> Vec<u8> {
    let mut key = vec![GENERATION];
    key.extend_from_slice(&first.to_be_bytes());
    key
}

/// The changes that store a lane; `pieces` is how many values it takes at present, and is set to
/// how many it takes then.
pub(super) fn put_lane(lane: u8, record: &LaneRecord, pieces: &mut u8) -> Vec<Change> {
    let bytes = encode(record);
    let mut changes = Vec::new();
    let mut count = 0_u8;
    for piece in bytes.chunks(PIECE) {
        changes.push((vec![LANE, lane, count], Some(piece.to_vec())));
        count = count.saturating_add(1);
    }
    for stale in count..*pieces {
        changes.push((vec![LANE, lane, stale], None));
    }
    *pieces = count;
    changes
}

/// The changes that remove a lane of so many pieces.
pub(super) fn remove_lane(lane: u8, pieces: u8) -> Vec<Change> {
    (0..pieces).map(|piece| (vec![LANE, lane, piece], None)).collect()
}

fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    // Fails only on types postcard can't express, of which these records have none.
    postcard::to_stdvec(record).unwrap_or_default()
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    postcard::from_bytes(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cursors() -> impl Strategy<Value = LaneCursor> {
        let ranges = prop::collection::vec((1u64..1 << 40, 0u64..50), 0..40);
        let batch = prop::option::of(prop::collection::btree_set(1u64..1 << 40, 1..5000));
        (
            prop::collection::btree_map(any::<u8>(), 1u64..1 << 40, 1..256),
            ranges,
            batch,
            any::<u128>(),
        )
            .prop_map(|(watermarks, ranges, batch, key)| {
                let mut settled = SequenceRanges::new();
                for (first, length) in ranges {
                    settled.insert_range(Sequence::new(first)..=Sequence::new(first + length));
                }
                LaneCursor {
                    watermarks: watermarks
                        .into_iter()
                        .map(|(p, s)| (Partition::new(p), Sequence::new(s)))
                        .collect(),
                    settled,
                    unfinished: batch.map(|sequences| StoredBatch {
                        key: BatchKey(key),
                        sequences: sequences.into_iter().map(Sequence::new).collect(),
                    }),
                }
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_lane_is_read_back_as_it_was_stored(cursors in prop::collection::vec(cursors(), 1..5)) {
            let folder = tempfile::tempdir().unwrap();
            let state = StateDb::open(&folder.path().join("state")).unwrap();
            let mut pieces = 0;
            // Each overwrites the one before, longer or shorter.
            for cursor in &cursors {
                let record = LaneRecord::new(cursor, 7);
                state.write(&put_lane(3, &record, &mut pieces)).unwrap();
                let stored = state.load().unwrap();
                prop_assert_eq!(&stored.lanes, &vec![record]);
                prop_assert_eq!(&stored.lanes[0].start().cursor, cursor);
            }
            state.write(&remove_lane(3, pieces)).unwrap();
            prop_assert!(state.load().unwrap().lanes.is_empty());
        }
    }

    #[test]
    fn reseating_keeps_each_partitions_watermark_and_the_total() {
        let seated = reseat(&[], 3, Sequence::new(5));
        assert!(seated.iter().all(|lane| lane.low() == 5));
        let mut moved = seated[1].start().cursor;
        for (_, watermark) in &mut moved.watermarks {
            *watermark = Sequence::new(9);
        }
        moved.settled.insert(Sequence::new(11));
        let old = [seated[0].clone(), LaneRecord::new(&moved, 4), seated[2].clone()];
        let new = reseat(&old, 2, Sequence::new(99));
        assert_eq!(new.iter().map(|lane| lane.settled_total).sum::<u64>(), 4);
        for lane in &new {
            assert!(lane.start().cursor.settled.contains(Sequence::new(11)));
            for (partition, watermark) in lane.start().cursor.watermarks {
                let expected = if partition.index() % 3 == 1 { 9 } else { 5 };
                assert_eq!(watermark.get(), expected);
            }
        }
    }
}
