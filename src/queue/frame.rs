//! Frames: how events lie in the log.
//!
//! A frame is one value of a generation's database, at most [`MAX_FRAME`] bytes, and describes
//! itself, so that it can be found again in raw bytes. Integers are little-endian.
//!
//! ```text
//! offset size
//!      0    4  magic "GMFY"
//!      4    1  format version, 1
//!      5    1  flags: 1 begins a request, 2 ends a request, 4 part of one large event
//!      6    2  zero
//!      8    8  sequence of the first event
//!     16    8  when its events were accepted, milliseconds since the Unix epoch
//!     24    4  events in it (a part: 1)
//!     28    4  which part of a large event, from 0
//!     32    4  bytes of records that follow
//!     36    4  CRC-32C of everything before and after this field
//!     40       records
//! ```
//!
//! A record is `length of the JSON: u32, user's hash: u32, kind: u8, JSON`. An event whose record
//! does not fit one frame lies in several: each holds a part of the record's bytes.
//!
//! The key is the first sequence, big-endian; behind it, for parts from the second on, the part's
//! number, big-endian, so that parts sort behind the frame that begins their event.

use bytes::Bytes;

use super::engine::MAX_VALUE;
use super::{QueuedEvent, Sequence, UserHash};
use crate::clock::Timestamp;
use crate::event::EventKind;

pub(super) const MAX_FRAME: usize = MAX_VALUE;
pub(super) const HEADER: usize = 40;
/// Bytes of records that fit one frame.
pub(super) const MAX_RECORDS: usize = MAX_FRAME - HEADER;
pub(super) const RECORD_HEADER: usize = 9;

const MAGIC: [u8; 4] = *b"GMFY";
const VERSION: u8 = 1;
const BEGINS: u8 = 1;
const ENDS: u8 = 2;
const PART: u8 = 4;

/// Why bytes are no frame. None of these mends itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("too short")]
    Short,
    #[error("no magic")]
    Magic,
    #[error("written by a newer version ({0})")]
    Version(u8),
    #[error("wrong checksum")]
    Checksum,
    #[error("its fields contradict each other")]
    Shape,
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Whole records.
    Events,
    /// Part number `.0` of one event's record.
    Part(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) first: Sequence,
    pub(super) count: u32,
    pub(super) accepted_at: Timestamp,
    pub(super) content: Content,
    pub(super) begins_request: bool,
    pub(super) ends_request: bool,
}

impl FrameHeader {
    pub(super) fn key(&self) -> Vec<u8> {
        match self.content {
            Content::Part(part) if part > 0 => {
                let mut key = Vec::with_capacity(12);
                key.extend_from_slice(&self.first.get().to_be_bytes());
                key.extend_from_slice(&part.to_be_bytes());
                key
            }
            Content::Part(_) | Content::Events => key_of(self.first).to_vec(),
        }
    }

    /// The sequence behind this frame's last.
    pub(super) fn end(&self) -> Sequence {
        self.first.plus(u64::from(self.count))
    }
}

/// The key of the frame that begins with `sequence`.
pub(super) fn key_of(sequence: Sequence) -> [u8; 8] {
    sequence.get().to_be_bytes()
}

/// Appends a frame's bytes to `out`.
pub(super) fn encode(header: &FrameHeader, records: &[u8], out: &mut Vec<u8>) {
    let (kind, part) = match header.content {
        Content::Events => (0, 0),
        Content::Part(part) => (PART, part),
    };
    let flags = kind
        | if header.begins_request { BEGINS } else { 0 }
        | if header.ends_request { ENDS } else { 0 };
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[VERSION, flags, 0, 0]);
    out.extend_from_slice(&header.first.get().to_le_bytes());
    out.extend_from_slice(&header.accepted_at.as_millis().to_le_bytes());
    out.extend_from_slice(&header.count.to_le_bytes());
    out.extend_from_slice(&part.to_le_bytes());
    let length = u32::try_from(records.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&out[start..]), records);
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(records);
}

/// Checks a frame; returns its header and the bytes of its records. Bytes behind it are ignored.
pub(super) fn decode(bytes: &[u8]) -> Result<(FrameHeader, &[u8]), FrameError> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>().ok_or(FrameError::Short)?;
    if header[..4] != MAGIC {
        return Err(FrameError::Magic);
    }
    if header[4] != VERSION {
        return Err(FrameError::Version(header[4]));
    }
    let count = read_u32(header, 24);
    let part = read_u32(header, 28);
    let length = read_u32(header, 32) as usize;
    let records = rest.get(..length).ok_or(FrameError::Short)?;
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&header[..36]), records);
    if checksum != read_u32(header, 36) {
        return Err(FrameError::Checksum);
    }
    let flags = header[5];
    let content = if flags & PART == 0 { Content::Events } else { Content::Part(part) };
    let header = FrameHeader {
        first: Sequence::new(read_u64(header, 8)),
        count,
        accepted_at: Timestamp::from_millis(read_u64(header, 16)),
        content,
        begins_request: flags & BEGINS != 0,
        ends_request: flags & ENDS != 0,
    };
    Ok((header, records))
}

/// The bytes of a whole frame that has these records.
pub(super) const fn frame_length(records: &[u8]) -> usize {
    HEADER + records.len()
}

fn read_u32(header: &[u8; HEADER], at: usize) -> u32 {
    header[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn read_u64(header: &[u8; HEADER], at: usize) -> u64 {
    header[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Appends a record's bytes to `out`.
pub(super) fn encode_record(user: UserHash, kind: EventKind, json: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(json.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&user.bits().to_le_bytes());
    out.push(match kind {
        EventKind::Classic => 0,
        EventKind::Action => 1,
        EventKind::Unique => 2,
    });
    out.extend_from_slice(json);
}

/// How long the record that begins these bytes is, with its header.
pub(super) fn record_length(bytes: &[u8]) -> Option<usize> {
    let length: [u8; 4] = *bytes.first_chunk()?;
    (u32::from_le_bytes(length) as usize).checked_add(RECORD_HEADER)
}

/// Takes a frame's records apart. Stops, with [`FrameError::Shape`], at one that is cut off.
pub(super) fn decode_records(
    header: &FrameHeader,
    records: &Bytes,
    out: &mut Vec<QueuedEvent>,
) -> Result<(), FrameError> {
    let mut at = 0;
    for number in 0..u64::from(header.count) {
        let rest = records.get(at..).unwrap_or_default();
        let length = record_length(rest).ok_or(FrameError::Shape)?;
        let record = rest.get(..length).ok_or(FrameError::Shape)?;
        let (&[_, _, _, _, a, b, c, d, kind], _) =
            record.split_first_chunk::<RECORD_HEADER>().ok_or(FrameError::Shape)?;
        out.push(QueuedEvent {
            sequence: header.first.plus(number),
            user: UserHash::from_bits(u32::from_le_bytes([a, b, c, d])),
            kind: match kind {
                0 => EventKind::Classic,
                1 => EventKind::Action,
                2 => EventKind::Unique,
                _ => return Err(FrameError::Shape),
            },
            accepted_at: header.accepted_at,
            json: records.slice(at + RECORD_HEADER..at + length),
        });
        at += length;
    }
    if at == records.len() { Ok(()) } else { Err(FrameError::Shape) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(first: u64, count: u32) -> FrameHeader {
        FrameHeader {
            first: Sequence::new(first),
            count,
            accepted_at: Timestamp::from_millis(1_700_000_000_000),
            content: Content::Events,
            begins_request: true,
            ends_request: false,
        }
    }

    fn kinds() -> impl Strategy<Value = EventKind> {
        prop_oneof![Just(EventKind::Classic), Just(EventKind::Action), Just(EventKind::Unique)]
    }

    #[test]
    fn parts_sort_behind_their_first_and_before_the_next_event() {
        let part = |number| FrameHeader { content: Content::Part(number), ..header(9, 1) };
        assert_eq!(part(0).key(), key_of(Sequence::new(9)));
        assert!(part(0).key() < part(1).key());
        assert!(part(1).key() < part(256).key());
        assert!(part(u32::MAX).key() < header(10, 1).key());
    }

    #[test]
    fn a_newer_version_is_told_apart_from_damage() {
        let mut bytes = Vec::new();
        encode(&header(1, 0), &[], &mut bytes);
        bytes[4] = 9;
        assert_eq!(decode(&bytes), Err(FrameError::Version(9)));
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(
            first in 1u64..u64::MAX / 2,
            events in prop::collection::vec((any::<u32>(), kinds(), prop::collection::vec(any::<u8>(), 0..60)), 0..20),
            behind in prop::collection::vec(any::<u8>(), 0..10),
        ) {
            let mut records = Vec::new();
            for (user, kind, json) in &events {
                encode_record(UserHash::from_bits(*user), *kind, json, &mut records);
            }
            let header = header(first, u32::try_from(events.len()).unwrap());
            let mut bytes = Vec::new();
            encode(&header, &records, &mut bytes);
            bytes.extend(behind);
            let (decoded, found) = decode(&bytes).unwrap();
            prop_assert_eq!(decoded, header);
            let mut out = Vec::new();
            decode_records(&decoded, &Bytes::copy_from_slice(found), &mut out).unwrap();
            prop_assert_eq!(out.len(), events.len());
            for (number, (event, (user, kind, json))) in out.iter().zip(&events).enumerate() {
                prop_assert_eq!(event.sequence, Sequence::new(first + number as u64));
                prop_assert_eq!(event.user.bits(), *user);
                prop_assert_eq!(event.kind, *kind);
                prop_assert_eq!(&event.json[..], &json[..]);
            }
        }

        #[test]
        fn one_flipped_bit_is_always_noticed(
            json in prop::collection::vec(any::<u8>(), 0..80), bit in any::<prop::sample::Index>(),
        ) {
            let mut records = Vec::new();
            encode_record(UserHash::from_bits(5), EventKind::Classic, &json, &mut records);
            let mut bytes = Vec::new();
            encode(&header(3, 1), &records, &mut bytes);
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn rubbish_is_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), count in any::<u32>()) {
            prop_assert!(decode(&bytes).is_err());
            let mut events = Vec::new();
            if decode_records(&header(1, count), &Bytes::from(bytes), &mut events).is_ok() {
                prop_assert_eq!(events.len(), count as usize);
            }
        }
    }
}
