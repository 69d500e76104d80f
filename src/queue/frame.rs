//! Frames: how events lie in the log.
//!
//! A frame is one value of a generation's database, at most [`MAX_FRAME`] bytes, and describes
//! itself, so that it can be found again in raw bytes. Integers are little-endian.
//!
//! ```text
//! offset size
//!      0    4  magic "GMFY"
//!      4    1  format version: 1, or 2 where the records are compressed
//!      5    1  flags: 1 begins a request, 2 ends a request, 4 part of one large event, 8 a note
//!      6    2  version 1: zero; version 2: bytes of the records before they were compressed
//!      8    8  sequence of the first event
//!     16    8  when its events were accepted, milliseconds since the Unix epoch
//!     24    4  sequences it accounts for: its events, and those left out (a part, a note: 1)
//!     28    4  which part of a large event, from 0
//!     32    4  bytes that follow
//!     36    4  CRC-32C of everything before and after this field
//!     40       records, or these as a block of LZ4
//! ```
//!
//! Both versions are written, and read for ever: version 2 where compression is worth it (see
//! `packer`). Either way the records are at most [`MAX_RECORDS`] bytes before they are compressed,
//! so whoever reads a frame knows what it can become. No byte below a space stands behind the magic
//! in what was compressed, as none does in JSON: so, the version being such a byte, nothing within a
//! frame looks like one.
//!
//! A record is `length of what follows the kind: u32, user's hash: u32, kind: u8, ...`. The kind is
//! the event's kind ([`EventKind::code`]), with 16 added where the event's mark (16 bytes, see `dedupe`)
//! and 32 where the sequence of the dead letter that it was (8 bytes) stand before the JSON. A
//! record of kind 15 is no event: it remembers how its request, whose last record it is, was
//! answered. Where it doesn't fit its request's last frame, it lies in a frame of its own, a note,
//! which takes a sequence, so that no two frames share a key. A record of kind 14 stands for settled
//! events that compaction left out (see `compact`): how many sequences, and how many events these
//! were (4 bytes each). An event whose record does not fit
//! one frame lies in several: each holds a part of the record's bytes.
//!
//! The key is the first sequence, big-endian; behind it, for parts from the second on, the part's
//! number, big-endian, so that parts sort behind the frame that begins their event.

use std::borrow::Cow;

use bytes::Bytes;

use super::dedupe::{Answer, Known, Mark};
use super::engine::MAX_VALUE;
use super::packer::{Packer, unpack};
use super::{QueuedEvent, Sequence, UserHash};
use crate::clock::Timestamp;
use crate::event::EventKind;

pub(super) const MAX_FRAME: usize = MAX_VALUE;
pub(super) const HEADER: usize = 40;
/// Bytes of records that fit one frame.
pub(super) const MAX_RECORDS: usize = MAX_FRAME - HEADER;
pub(super) const RECORD_HEADER: usize = 9;

pub(super) const MAGIC: [u8; 4] = *b"GMFY";
const PLAIN: u8 = 1;
const PACKED: u8 = 2;
const BEGINS: u8 = 1;
const ENDS: u8 = 2;
const PART: u8 = 4;
const NOTE: u8 = 8;

const MARKED: u8 = 16;
const REQUEUED: u8 = 32;
const ANSWER: u8 = 15;
const LEFT_OUT: u8 = 14;
/// Bytes of a record that stands for what was left out.
pub(super) const LEFT_OUT_LENGTH: usize = RECORD_HEADER + 8;

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
    /// No event.
    Note,
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
            Content::Part(_) | Content::Events | Content::Note => key_of(self.first).to_vec(),
        }
    }

    /// How many sequences its records account for.
    pub(super) fn accounted(&self) -> u64 {
        match self.content {
            Content::Events => u64::from(self.count),
            Content::Part(0) => 1,
            Content::Part(_) | Content::Note => 0,
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

/// A frame whose checksum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) header: FrameHeader,
    /// All of it, as it is stored.
    pub(super) bytes: &'a [u8],
    /// How many bytes its records are where they are compressed.
    packed_from: Option<u16>,
}

impl<'a> Frame<'a> {
    /// Its records, decompressed where need be.
    ///
    /// # Errors
    /// [`FrameError::Shape`] where what is compressed is not what the header says.
    pub(super) fn records(&self) -> Result<Cow<'a, [u8]>, FrameError> {
        let stored = self.bytes.get(HEADER..).unwrap_or_default();
        match self.packed_from {
            None => Ok(Cow::Borrowed(stored)),
            Some(length) => unpack(stored, length.into()).map(Cow::Owned).ok_or(FrameError::Shape),
        }
    }

    /// The same, to be shared by its events.
    pub(super) fn shared_records(&self) -> Result<Bytes, FrameError> {
        Ok(match self.records()? {
            Cow::Borrowed(records) => Bytes::copy_from_slice(records),
            Cow::Owned(records) => Bytes::from(records),
        })
    }
}

/// A frame's bytes, compressed where that is worth it.
pub(super) fn encode(header: &FrameHeader, records: &[u8], packer: &mut Packer) -> Vec<u8> {
    let length = u16::try_from(records.len()).ok().filter(|_| records.len() <= MAX_RECORDS);
    let packed = length.and_then(|length| Some((packer.pack(records)?, length)));
    let (version, stored, length) = match packed {
        Some((packed, length)) => (PACKED, packed, length),
        None => (PLAIN, records, 0),
    };
    let (kind, part) = match header.content {
        Content::Events => (0, 0),
        Content::Part(part) => (PART, part),
        Content::Note => (NOTE, 0),
    };
    let flags = kind
        | if header.begins_request { BEGINS } else { 0 }
        | if header.ends_request { ENDS } else { 0 };
    let mut out = Vec::with_capacity(HEADER + stored.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[version, flags]);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&header.first.get().to_le_bytes());
    out.extend_from_slice(&header.accepted_at.as_millis().to_le_bytes());
    out.extend_from_slice(&header.count.to_le_bytes());
    out.extend_from_slice(&part.to_le_bytes());
    out.extend_from_slice(&u32::try_from(stored.len()).unwrap_or(u32::MAX).to_le_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&out), stored);
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(stored);
    out
}

/// Checks the frame that begins these bytes; what is behind it is ignored.
pub(super) fn decode(bytes: &[u8]) -> Result<Frame<'_>, FrameError> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>().ok_or(FrameError::Short)?;
    if header[..4] != MAGIC {
        return Err(FrameError::Magic);
    }
    let packed_from = match header[4] {
        PLAIN => None,
        PACKED => Some(u16::from_le_bytes([header[6], header[7]])),
        version => return Err(FrameError::Version(version)),
    };
    let count = read_u32(header, 24);
    let part = read_u32(header, 28);
    let length = read_u32(header, 32) as usize;
    let stored = rest.get(..length).ok_or(FrameError::Short)?;
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&header[..36]), stored);
    if checksum != read_u32(header, 36) {
        return Err(FrameError::Checksum);
    }
    if packed_from.is_some_and(|length| usize::from(length) > MAX_RECORDS) {
        return Err(FrameError::Shape);
    }
    let flags = header[5];
    let content = match flags & (PART | NOTE) {
        0 => Content::Events,
        PART => Content::Part(part),
        NOTE => Content::Note,
        _ => return Err(FrameError::Shape),
    };
    let header = FrameHeader {
        first: Sequence::new(read_u64(header, 8)),
        count,
        accepted_at: Timestamp::from_millis(read_u64(header, 16)),
        content,
        begins_request: flags & BEGINS != 0,
        ends_request: flags & ENDS != 0,
    };
    let bytes = bytes.get(..HEADER + length).unwrap_or_default();
    Ok(Frame { header, bytes, packed_from })
}

fn read_u32(header: &[u8; HEADER], at: usize) -> u32 {
    header[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn read_u64(header: &[u8; HEADER], at: usize) -> u64 {
    header[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// What a record says of its event beside the JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EventHead {
    pub(super) user: UserHash,
    pub(super) kind: EventKind,
    /// Its identity for dedupe, if it has one.
    pub(super) mark: Option<Mark>,
    /// The dead letter that it was, if it was one.
    pub(super) origin: Option<Sequence>,
}

impl EventHead {
    /// Bytes of the record before the JSON.
    pub(super) fn length(&self) -> usize {
        let mark = if self.mark.is_some() { 16 } else { 0 };
        RECORD_HEADER + mark + if self.origin.is_some() { 8 } else { 0 }
    }

    /// What a later start has to know of the event.
    pub(super) fn known(&self) -> impl Iterator<Item = Known> + use<> {
        let origin = self.origin.map(|origin| Known::Requeued(origin.get()));
        self.mark.map(Known::Event).into_iter().chain(origin)
    }
}

/// Appends an event's record to `out`.
pub(super) fn encode_record(head: &EventHead, json: &[u8], out: &mut Vec<u8>) {
    let flags = if head.mark.is_some() { MARKED } else { 0 }
        | if head.origin.is_some() { REQUEUED } else { 0 };
    let length = head.length() - RECORD_HEADER + json.len();
    encode_record_header(length, head.user, head.kind.code() | flags, out);
    if let Some(mark) = head.mark {
        out.extend_from_slice(&mark.0.to_le_bytes());
    }
    if let Some(origin) = head.origin {
        out.extend_from_slice(&origin.get().to_le_bytes());
    }
    out.extend_from_slice(json);
}

/// A request's answer as a record.
pub(super) fn encode_answer(answer: &Answer) -> Vec<u8> {
    // Fails only on types postcard can't express, of which it has none.
    let body = postcard::to_stdvec(answer).unwrap_or_default();
    let mut out = Vec::with_capacity(RECORD_HEADER + body.len());
    encode_record_header(body.len(), UserHash::from_bits(0), ANSWER, &mut out);
    out.extend_from_slice(&body);
    out
}

/// A record that stands for settled events.
pub(super) fn encode_left_out(left_out: LeftOut, out: &mut Vec<u8>) {
    let length = LEFT_OUT_LENGTH - RECORD_HEADER;
    encode_record_header(length, UserHash::from_bits(0), LEFT_OUT, out);
    out.extend_from_slice(&left_out.sequences.to_le_bytes());
    out.extend_from_slice(&left_out.events.to_le_bytes());
}

fn encode_record_header(length: usize, user: UserHash, kind: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&user.bits().to_le_bytes());
    out.push(kind);
}

/// How long the record that begins these bytes is, with its header.
pub(super) fn record_length(bytes: &[u8]) -> Option<usize> {
    let length: [u8; 4] = *bytes.first_chunk()?;
    (u32::from_le_bytes(length) as usize).checked_add(RECORD_HEADER)
}

/// Settled events that are not there any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LeftOut {
    pub(super) sequences: u32,
    /// Fewer than sequences where some of these were notes.
    pub(super) events: u32,
}

/// A record, taken apart.
#[derive(Debug)]
pub(super) enum Record {
    Event(EventHead),
    Answer(Box<Answer>),
    LeftOut(LeftOut),
}

/// Reads the head of the record that begins these bytes; it may be cut off behind that.
pub(super) fn record_head(record: &[u8]) -> Result<Record, FrameError> {
    let (&[_, _, _, _, a, b, c, d, kind], mut rest) =
        record.split_first_chunk::<RECORD_HEADER>().ok_or(FrameError::Shape)?;
    if kind == ANSWER {
        let answer = postcard::from_bytes(rest).map_err(|_| FrameError::Shape)?;
        return Ok(Record::Answer(answer));
    }
    if kind == LEFT_OUT {
        let &[a, b, c, d, e, f, g, h] = rest else { return Err(FrameError::Shape) };
        let [sequences, events] = [[a, b, c, d], [e, f, g, h]].map(u32::from_le_bytes);
        return Ok(Record::LeftOut(LeftOut { sequences, events }));
    }
    let mut mark = None;
    if kind & MARKED != 0 {
        let (bytes, behind) = rest.split_first_chunk().ok_or(FrameError::Shape)?;
        (mark, rest) = (Some(Mark(u128::from_le_bytes(*bytes))), behind);
    }
    let mut origin = None;
    if kind & REQUEUED != 0 {
        let (bytes, _) = rest.split_first_chunk().ok_or(FrameError::Shape)?;
        origin = Some(Sequence::new(u64::from_le_bytes(*bytes)));
    }
    let kind = EventKind::from_code(kind & !(MARKED | REQUEUED)).ok_or(FrameError::Shape)?;
    let user = UserHash::from_bits(u32::from_le_bytes([a, b, c, d]));
    Ok(Record::Event(EventHead { user, kind, mark, origin }))
}

/// Calls `each` with the records, one after the other. Stops, with [`FrameError::Shape`], at one
/// that is cut off.
pub(super) fn each_record(
    records: &[u8],
    mut each: impl FnMut(Record, std::ops::Range<usize>),
) -> Result<(), FrameError> {
    let mut at = 0;
    while at < records.len() {
        let rest = records.get(at..).unwrap_or_default();
        let length = record_length(rest).ok_or(FrameError::Shape)?;
        let record = rest.get(..length).ok_or(FrameError::Shape)?;
        each(record_head(record)?, at..at + length);
        at += length;
    }
    Ok(())
}

/// Takes a frame's records apart into events.
///
/// # Errors
/// [`FrameError::Shape`] where one is cut off, or they don't account for as many sequences as the
/// header says.
/// What was added to `out` then doesn't count.
pub(super) fn decode_records(
    header: &FrameHeader,
    records: &Bytes,
    out: &mut Vec<QueuedEvent>,
) -> Result<(), FrameError> {
    let mut number = 0;
    each_record(records, |record, range| {
        let head = match record {
            Record::Event(head) => head,
            Record::Answer(_) => return,
            Record::LeftOut(left_out) => {
                number += u64::from(left_out.sequences);
                return;
            }
        };
        out.push(QueuedEvent {
            sequence: header.first.plus(number),
            user: head.user,
            kind: head.kind,
            accepted_at: header.accepted_at,
            json: records.slice((range.start + head.length()).min(range.end)..range.end),
            #[cfg(feature = "nats")]
            mark: head.mark.map(|mark| mark.0.to_le_bytes()),
        });
        number += 1;
    })?;
    if number == header.accounted() { Ok(()) } else { Err(FrameError::Shape) }
}

/// How many settled events this frame stands for.
pub(super) fn left_out(frame: &Frame<'_>) -> u64 {
    let mut events = 0;
    if frame.header.content == Content::Events {
        let records = frame.records().unwrap_or_default();
        let counted = each_record(&records, |record, _| {
            if let Record::LeftOut(left_out) = record {
                events += u64::from(left_out.events);
            }
        });
        debug_assert!(counted.is_ok(), "its checksum is right");
    }
    events
}

/// How many sequences these records leave out.
#[cfg(any(fuzzing, test))]
pub(super) fn sequences_left_out(records: &[u8]) -> u64 {
    let mut sequences = 0;
    let counted = each_record(records, |record, _| {
        if let Record::LeftOut(left_out) = record {
            sequences += u64::from(left_out.sequences);
        }
    });
    assert_eq!(counted, Ok(()));
    sequences
}

/// Calls `each` with what a later start has to know of a frame.
///
/// # Errors
/// [`FrameError::Shape`] where a record is cut off.
pub(super) fn each_known(frame: &Frame<'_>, mut each: impl FnMut(Known)) -> Result<(), FrameError> {
    let note = |record, each: &mut dyn FnMut(Known)| match record {
        Record::Event(head) => head.known().for_each(each),
        Record::Answer(answer) => each(Known::Request(answer)),
        Record::LeftOut(_) => {}
    };
    match frame.header.content {
        Content::Events | Content::Note => {
            each_record(&frame.records()?, |record, _| note(record, &mut each))
        }
        // The first part holds the head.
        Content::Part(0) => record_head(&frame.records()?).map(|record| note(record, &mut each)),
        Content::Part(_) => Ok(()),
    }
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

    /// Every second user's events have a mark, every third's an origin.
    fn head(user: u32, kind: EventKind) -> EventHead {
        EventHead {
            user: UserHash::from_bits(user),
            kind,
            mark: user.is_multiple_of(2).then(|| Mark(u128::from(user) << 90)),
            origin: user.is_multiple_of(3).then(|| Sequence::new(u64::from(user))),
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

    fn encoded(header: &FrameHeader, records: &[u8]) -> Vec<u8> {
        encode(header, records, &mut Packer::default())
    }

    /// Records of events with these JSONs.
    fn records(jsons: &[Vec<u8>]) -> Vec<u8> {
        let mut records = Vec::new();
        for json in jsons {
            encode_record(&head(5, EventKind::Classic), json, &mut records);
        }
        records
    }

    /// JSONs that are compressed in a frame, together, or too few or too random for that.
    fn jsons() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let repeated = (any::<[u8; 7]>(), 0usize..60, 30usize..60)
            .prop_map(|(bytes, times, events)| vec![bytes.repeat(times); events]);
        let random = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..30);
        let fits = |jsons: &Vec<Vec<u8>>| records(jsons).len() <= MAX_RECORDS;
        prop_oneof![repeated, random].prop_filter("more than a frame", fits)
    }

    #[test]
    fn the_format_is_what_it_says() {
        let header = FrameHeader { ends_request: true, ..header(0x0102, 3) };
        let plain = encoded(&header, b"records");
        assert_eq!(
            plain[..36],
            *b"GMFY\x01\x03\0\0\x02\x01\0\0\0\0\0\0\x00\x68\xe5\xcf\x8b\x01\0\0\
               \x03\0\0\0\0\0\0\0\x07\0\0\0"
        );
        assert_eq!(plain[HEADER..], *b"records");
        let packed = encoded(&header, &[b'r'; 2000]);
        assert_eq!(
            packed[..32],
            *b"GMFY\x02\x03\xd0\x07\x02\x01\0\0\0\0\0\0\x00\x68\xe5\xcf\x8b\x01\0\0\
               \x03\0\0\0\0\0\0\0"
        );
        // Any program that knows LZ4 makes 2000 letters of this block: one, 1994 times the last, five.
        let block = b"\x1fr\x01\0\xff\xff\xff\xff\xff\xff\xff\xbe\x50rrrrr";
        let mut by_hand = packed[..32].to_vec();
        by_hand.extend_from_slice(&u32::try_from(block.len()).unwrap().to_le_bytes());
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&by_hand), block);
        by_hand.extend_from_slice(&checksum.to_le_bytes());
        by_hand.extend_from_slice(block);
        for packed in [packed, by_hand] {
            assert_eq!(decode(&packed).unwrap().records().unwrap(), &[b'r'; 2000][..]);
        }
    }

    #[test]
    fn a_newer_version_is_told_apart_from_damage() {
        let mut bytes = encoded(&header(1, 0), &[]);
        bytes[4] = 9;
        assert_eq!(decode(&bytes), Err(FrameError::Version(9)));
    }

    /// A right checksum over a wrong length, or over what is no block: an error, and never more
    /// memory than a frame's records take.
    #[test]
    fn what_is_compressed_wrong_is_refused() {
        let right = encoded(&header(1, 20), &records(&vec![vec![b'j'; 90]; 20]));
        let sealed = |mut bytes: Vec<u8>| {
            let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..36]), &bytes[HEADER..]);
            bytes[36..HEADER].copy_from_slice(&checksum.to_le_bytes());
            bytes
        };
        let of_length = |length: u16| {
            let mut bytes = right.clone();
            bytes[6..8].copy_from_slice(&length.to_le_bytes());
            sealed(bytes)
        };
        let length = u16::try_from(20 * (90 + RECORD_HEADER)).unwrap();
        assert!(decode(&of_length(length)).unwrap().records().is_ok());
        for wrong in [0, 1, length - 1, length + 1, u16::try_from(MAX_RECORDS).unwrap()] {
            let bytes = of_length(wrong);
            assert_eq!(decode(&bytes).unwrap().records(), Err(FrameError::Shape), "{wrong}");
        }
        for wrong in [u16::try_from(MAX_RECORDS).unwrap() + 1, u16::MAX] {
            assert_eq!(decode(&of_length(wrong)), Err(FrameError::Shape));
        }
        for at in HEADER..right.len() {
            for byte in 0..=u8::MAX {
                let mut bytes = right.clone();
                bytes[at] = byte;
                let bytes = sealed(bytes);
                let records = decode(&bytes).unwrap().records();
                assert!(records.is_ok_and(|r| r.len() == usize::from(length)) || byte != right[at]);
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(
            first in 1u64..u64::MAX / 2,
            jsons in jsons(),
            heads in prop::collection::vec((any::<u32>(), kinds()), 60),
            behind in prop::collection::vec(any::<u8>(), 0..10),
        ) {
            let events: Vec<_> = heads.iter().zip(&jsons).collect();
            let mut records = Vec::new();
            for ((user, kind), json) in &events {
                encode_record(&head(*user, *kind), json, &mut records);
            }
            let header = header(first, u32::try_from(events.len()).unwrap());
            let mut bytes = encoded(&header, &records);
            prop_assert!(bytes.len() <= HEADER + records.len());
            let length = bytes.len();
            bytes.extend(behind);
            let frame = decode(&bytes).unwrap();
            prop_assert_eq!(frame.header, header);
            prop_assert_eq!(frame.bytes, &bytes[..length]);
            prop_assert_eq!(&frame.records().unwrap()[..], &records[..]);
            let mut out = Vec::new();
            decode_records(&header, &frame.shared_records().unwrap(), &mut out).unwrap();
            let mut known = Vec::new();
            each_known(&frame, |one| known.push(one)).unwrap();
            let expected = events.iter().flat_map(|((user, kind), _)| head(*user, *kind).known());
            prop_assert_eq!(known, expected.collect::<Vec<_>>());
            prop_assert_eq!(out.len(), events.len());
            for (number, (event, ((user, kind), json))) in out.iter().zip(&events).enumerate() {
                prop_assert_eq!(event.sequence, Sequence::new(first + number as u64));
                prop_assert_eq!(event.user.bits(), *user);
                prop_assert_eq!(event.kind, *kind);
                prop_assert_eq!(&event.json[..], &json[..]);
            }
        }

        #[test]
        fn one_flipped_bit_is_always_noticed(jsons in jsons(), bit in any::<prop::sample::Index>()) {
            let mut bytes = encoded(&header(3, 1), &records(&jsons));
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn whatever_is_cut_off_is_noticed(jsons in jsons()) {
            let bytes = encoded(&header(3, 1), &records(&jsons));
            for length in 0..bytes.len() {
                prop_assert_eq!(decode(&bytes[..length]), Err(FrameError::Short));
            }
        }

        /// An event's bytes, whatever they are as long as they are JSON, look like no frame in what
        /// they are compressed to.
        #[test]
        fn nothing_within_a_frame_looks_like_one(
            pieces in prop::collection::vec(
                prop_oneof!["GMFY", "GMF", "[A-Za-z ]{0,3}", "MFYGMFY", "\u{e000}"], 8..40
            ),
            events in 20usize..40,
        ) {
            let text: String = pieces.concat().chars().take(90).collect();
            let json = format!("{{\"x\":\"{text}\"}}").into_bytes();
            let bytes = encoded(&header(3, 1), &records(&vec![json; events]));
            let forged = memchr::memmem::find_iter(&bytes[HEADER..], &MAGIC)
                .any(|at| bytes[HEADER..].get(at + MAGIC.len()).is_some_and(|byte| *byte < b' '));
            prop_assert!(!forged);
        }

        #[test]
        fn rubbish_is_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), count in any::<u32>()) {
            prop_assert!(decode(&bytes).is_err());
            let mut events = Vec::new();
            let bytes = Bytes::from(bytes);
            if decode_records(&header(1, count), &bytes, &mut events).is_ok() {
                let accounted = events.len() as u64 + sequences_left_out(&bytes);
                prop_assert_eq!(accounted, u64::from(count));
            }
        }
    }
}
