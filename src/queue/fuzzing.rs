//! See `crate::fuzzing`.

#![allow(clippy::unwrap_used, reason = "a panic is how a finding is told, and no binary has this")]

use std::borrow::Cow;

use super::engine::data_file;
use super::frame::{
    HEADER, MAGIC, MAX_RECORDS, decode, decode_records, each_known, sequences_left_out,
};
use super::group::{EncodedFrame, GroupBuilder};
use super::salvage::{RawFrames, Span};
use super::{QueuedEvent, Sequence, Submission};
use crate::clock::Timestamp;
use crate::event::{Event, EventKind};

const FIRST: Sequence = Sequence::new(7);

/// A frame whose checksum is right, whatever it holds, compressed or not: it is events, or an error.
pub fn frame(data: &[u8]) {
    let mut bytes = data.to_vec();
    bytes.resize(bytes.len().max(HEADER), 0);
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4] = 2 - bytes[4] % 2;
    let length = u32::try_from(bytes.len() - HEADER).unwrap();
    bytes[32..36].copy_from_slice(&length.to_le_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..36]), &bytes[HEADER..]);
    bytes[36..HEADER].copy_from_slice(&checksum.to_le_bytes());
    let Ok(frame) = decode(&bytes) else { return };
    let (header, mut events, mut known) = (frame.header, Vec::new(), 0);
    let understood = each_known(&frame, |_| known += 1).is_ok();
    let Ok(records) = frame.shared_records() else { return };
    assert!(records.len() <= MAX_RECORDS.max(data.len()));
    assert!(!understood || known <= 2 * records.len());
    if decode_records(&header, &records, &mut events).is_ok() {
        assert_eq!(events.len() as u64 + sequences_left_out(&records), header.accounted());
        assert!(events.iter().map(|event| event.json.len()).sum::<usize>() <= records.len());
    }
}

/// A generation's file of which the bytes behind the first two were written over some place, which
/// these two name: what is found is what was written, and the rest is known to be lost.
pub fn salvage(data: &[u8]) {
    let (mut file, events) = written();
    if let Some((place, bytes)) = data.split_first_chunk::<2>() {
        let place = usize::from(u16::from_le_bytes(*place)) % file.len();
        let end = (place + bytes.len()).min(file.len());
        file[place..end].copy_from_slice(&bytes[..end - place]);
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(data_file(folder.path()), file).unwrap();
    let raw = RawFrames::find(folder.path()).unwrap();
    let end = FIRST.plus(events.len() as u64);
    for known_end in [Some(end), None] {
        let contents = raw.contents(Span { first: FIRST, end: known_end, limit: None }).unwrap();
        let mut found = Vec::new();
        raw.visit(&contents, |event| {
            found.push(event);
            true
        })
        .unwrap();
        assert_eq!(found.len() as u64, contents.events);
        assert!(found.windows(2).all(|pair| pair[0].sequence < pair[1].sequence));
        for event in &found {
            let index = usize::try_from(event.sequence.get() - FIRST.get()).unwrap();
            assert_eq!(Some(event), events.get(index), "not what was written");
        }
        let lost: u64 = contents.lost.iter().map(|(first, last)| last - first + 1).sum();
        let span = contents.end.get() - FIRST.get();
        assert_eq!(contents.events + lost, span, "found, or known to be lost");
        assert!(known_end.is_none() || contents.end == end);
    }
}

/// A file with the frames of some requests, large events among them, and what they hold.
fn written() -> (Vec<u8>, Vec<QueuedEvent>) {
    let mut packer = super::packer::Packer::default();
    let mut builder = GroupBuilder::new(FIRST, Timestamp::from_millis(5), (0, 0), &mut packer);
    for sizes in [&[40, 90][..], &[300; 40], &[20_000], &[10], &[6_000, 9_000, 30]] {
        let mut submission = Submission::with_capacity(sizes.len(), 0);
        for size in sizes {
            submission.push(&Event {
                user_id: Cow::Owned(size.to_string()),
                event_type: Cow::Borrowed("t"),
                idempotence_key: (size % 20 == 0).then_some(Cow::Borrowed("k")),
                kind: EventKind::Unique,
                wire: Cow::Owned(format!("{{\"x\":\"{}\"}}", letters(*size))),
            });
        }
        builder.push(submission, 0);
    }
    let group = builder.finish();
    let is_packed = |frame: &&EncodedFrame| frame.value[4] == 2;
    let packed = group.frames.iter().filter(is_packed).count();
    assert!((1..group.frames.len()).contains(&packed), "frames of both versions");
    let mut file = vec![0; 100];
    for frame in &group.frames {
        file.extend_from_slice(&frame.value);
        file.extend_from_slice(&[0; 13]);
    }
    (file, group.events)
}

/// So many letters; of large numbers some that can't be compressed.
fn letters(count: usize) -> String {
    let noise = (0_u64..).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32);
    let is_noise = count > 5_000;
    let letter =
        |n: u64| char::from(b'a' + u8::try_from(if is_noise { n % 25 } else { 0 }).unwrap_or(0));
    noise.take(count).map(letter).collect()
}
