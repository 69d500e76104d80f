//! A commit group: whole requests cut into frames for the log, and indexed for the tail.

use bytes::{Buf as _, Bytes};

use super::dedupe::{Answer, Known, Underway};
use super::frame::{
    Content, Frame, FrameHeader, MAX_RECORDS, decode_records, encode, encode_answer, record_length,
};
use super::packer::Packer;
use super::submission::Entry;
use super::{Appended, QueuedEvent, Sequence, Submission};
use crate::clock::Timestamp;

/// A frame as it goes into the database.
#[derive(Debug)]
pub(super) struct EncodedFrame {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// Requests that are committed together.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) frames: Vec<EncodedFrame>,
    pub(super) events: Vec<QueuedEvent>,
    pub(super) first: Sequence,
    /// The sequence behind the last.
    pub(super) end: Sequence,
    /// Accepted ones by kind, as the ledger orders them.
    pub(super) kinds: [u64; 3],
    /// Dead letters that are in the queue again.
    pub(super) requeued: u64,
    /// What a later start has to know of it.
    pub(super) known: Vec<Known>,
}

/// Cuts requests into frames. A frame holds whole requests, or a run of one request's records, or
/// a part of one record; the marks of a request's first and last frame let recovery tell whether
/// it is whole.
#[derive(Debug)]
pub(super) struct GroupBuilder<'a> {
    group: Group,
    accepted_at: Timestamp,
    records: Vec<u8>,
    frame_first: Sequence,
    count: u32,
    begins_request: bool,
    packer: &'a mut Packer,
}

impl<'a> GroupBuilder<'a> {
    /// With room for so many events, of so many bytes of records in all.
    pub(super) fn new(
        first: Sequence,
        accepted_at: Timestamp,
        (events, bytes): (usize, usize),
        packer: &'a mut Packer,
    ) -> Self {
        Self {
            group: Group {
                frames: Vec::new(),
                events: Vec::with_capacity(events),
                first,
                end: first,
                kinds: [0; 3],
                requeued: 0,
                known: Vec::new(),
            },
            accepted_at,
            records: Vec::with_capacity(bytes.min(MAX_RECORDS)),
            frame_first: first,
            count: 0,
            begins_request: true,
            packer,
        }
    }

    /// Adds a whole request, of which `duplicates` events are left out already. Its key, if it has
    /// one, has to be held until the commit is done.
    pub(super) fn push(
        &mut self,
        submission: Submission,
        duplicates: u64,
    ) -> (Appended, Option<Underway>) {
        let (records, entries, mut key) = submission.into_parts();
        let first = self.group.end;
        let accepted = entries.len() as u64;
        let last = Sequence::new(first.get() + accepted.saturating_sub(1));
        let sequences = (accepted > 0).then_some((first, last));
        let appended = Appended { accepted, duplicates, sequences };
        let answer = key.as_mut().and_then(|key| key.answer(&appended));
        let note = answer.as_ref().map(encode_answer).unwrap_or_default();
        let length = records.len() + note.len();
        if self.records.len() + length > MAX_RECORDS {
            self.close_frame(true);
        }
        if entries.is_empty() {
            self.close_frame(true);
            self.push_note(&note);
        } else if length <= MAX_RECORDS {
            self.records.extend_from_slice(&records);
            self.records.extend_from_slice(&note);
            self.count += u32::try_from(entries.len()).unwrap_or(u32::MAX);
            self.group.end = last.next();
        } else {
            self.push_across_frames(&records, &entries, &note);
        }
        self.index(first, records, &entries, answer);
        (appended, key)
    }

    fn push_across_frames(&mut self, records: &[u8], entries: &[Entry], note: &[u8]) {
        let mut start = 0;
        for entry in entries {
            let record = records.get(start..entry.end).unwrap_or_default();
            start = entry.end;
            if self.records.len() + record.len() > MAX_RECORDS {
                self.close_frame(false);
            }
            if record.len() > MAX_RECORDS {
                self.push_parts(record, start == records.len() && note.is_empty());
            } else {
                self.records.extend_from_slice(record);
                self.count += 1;
                self.group.end = self.group.end.next();
            }
        }
        if self.count > 0 && self.records.len() + note.len() <= MAX_RECORDS {
            self.records.extend_from_slice(note);
            self.close_frame(true);
        } else {
            self.close_frame(note.is_empty());
            self.push_note(note);
        }
    }

    /// A frame without events, that ends its request.
    fn push_note(&mut self, note: &[u8]) {
        if note.is_empty() {
            return;
        }
        let header = FrameHeader {
            first: self.group.end,
            count: 1,
            accepted_at: self.accepted_at,
            content: Content::Note,
            begins_request: self.begins_request,
            ends_request: true,
        };
        self.begins_request = true;
        self.push_frame(&header, note);
        self.group.end = self.group.end.next();
        self.frame_first = self.group.end;
    }

    fn push_parts(&mut self, record: &[u8], last_of_request: bool) {
        let parts = record.len().div_ceil(MAX_RECORDS);
        for (number, part) in record.chunks(MAX_RECORDS).enumerate() {
            let header = FrameHeader {
                first: self.group.end,
                count: 1,
                accepted_at: self.accepted_at,
                content: Content::Part(u32::try_from(number).unwrap_or(u32::MAX)),
                begins_request: self.begins_request,
                ends_request: last_of_request && number + 1 == parts,
            };
            self.begins_request = header.ends_request;
            self.push_frame(&header, part);
        }
        self.group.end = self.group.end.next();
        self.frame_first = self.group.end;
    }

    fn close_frame(&mut self, ends_request: bool) {
        if self.count > 0 {
            let header = FrameHeader {
                first: self.frame_first,
                count: self.count,
                accepted_at: self.accepted_at,
                content: Content::Events,
                begins_request: self.begins_request,
                ends_request,
            };
            self.begins_request = ends_request;
            let records = std::mem::take(&mut self.records);
            self.push_frame(&header, &records);
            self.records = records;
            self.records.clear();
            self.count = 0;
        }
        self.frame_first = self.group.end;
    }

    fn push_frame(&mut self, header: &FrameHeader, records: &[u8]) {
        let value = encode(header, records, self.packer);
        self.group.frames.push(EncodedFrame { key: header.key(), value });
    }

    fn index(
        &mut self,
        first: Sequence,
        records: Vec<u8>,
        entries: &[Entry],
        answer: Option<Answer>,
    ) {
        let mut records = Bytes::from(records);
        let mut start = 0;
        for (number, entry) in (0..).zip(entries) {
            let begin = (start + entry.head.length()).min(entry.end);
            let json = if entry.end == records.len() {
                // The last takes the memory over: a single event shares it with nobody.
                let mut last = std::mem::take(&mut records);
                last.advance(begin);
                last
            } else {
                records.slice(begin..entry.end)
            };
            self.group.events.push(QueuedEvent {
                sequence: first.plus(number),
                user: entry.head.user,
                kind: entry.head.kind,
                accepted_at: self.accepted_at,
                json,
                #[cfg(feature = "nats")]
                mark: entry.head.mark.map(|mark| mark.0.to_le_bytes()),
            });
            match entry.head.origin {
                None => self.group.kinds[entry.head.kind as usize] += 1,
                Some(_) => self.group.requeued += 1,
            }
            self.group.known.extend(entry.head.known());
            start = entry.end;
        }
        self.group.known.extend(answer.map(|answer| Known::Request(Box::new(answer))));
    }

    pub(super) fn finish(mut self) -> Group {
        self.close_frame(true);
        self.group
    }
}

/// Puts frames, read in the order of their keys, together again into whole events.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    /// The event whose parts are being collected, and the number of the next part.
    open: Option<(FrameHeader, u32, Vec<u8>)>,
}

impl Assembler {
    /// Takes the next frame; adds the events that it completes to `out`. False where the frame
    /// does not fit what came before: its events are lost.
    pub(super) fn push(&mut self, frame: &Frame<'_>, out: &mut Vec<QueuedEvent>) -> bool {
        match frame.header.content {
            Content::Events => {
                let whole = self.open.take().is_none();
                let before = out.len();
                let decoded = frame
                    .shared_records()
                    .and_then(|records| decode_records(&frame.header, &records, out));
                if decoded.is_err() {
                    out.truncate(before);
                }
                whole && decoded.is_ok()
            }
            Content::Part(part) => self.push_part(frame, part, out),
            Content::Note => self.open.take().is_none(),
        }
    }

    fn push_part(&mut self, frame: &Frame<'_>, part: u32, out: &mut Vec<QueuedEvent>) -> bool {
        let first = frame.header.first;
        let (begun, next, mut bytes) = match self.open.take() {
            Some(open) if part > 0 && open.0.first == first && open.1 == part => open,
            _ if part == 0 => (frame.header, 0, Vec::new()),
            _ => return false,
        };
        let Ok(records) = frame.records() else { return false };
        bytes.extend_from_slice(&records);
        let Some(length) = record_length(&bytes) else { return false };
        if bytes.len() < length {
            self.open = Some((begun, next + 1, bytes));
            return true;
        }
        decode_records(&begun, &Bytes::from(bytes), out).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::dedupe::{Begun, Dedupe, DedupeLimits, RequestKey};
    use super::super::frame::{MAX_FRAME, decode, each_known};
    use super::*;
    use crate::clock::Clock;
    use crate::event::{Event, EventKind};
    use proptest::prelude::*;
    use std::borrow::Cow;
    use std::sync::Arc;
    use std::time::Duration;

    /// Unique events of these sizes, with a key of the request's own.
    fn submission(sizes: &[usize], key: Option<Underway>) -> Submission {
        let mut submission = Submission::with_capacity(sizes.len(), 0).keyed(key);
        for size in sizes {
            let wire = format!("{{\"x\":\"{}\"}}", "a".repeat(*size));
            submission.push(&Event {
                user_id: Cow::Owned(size.to_string()),
                event_type: Cow::Borrowed("t"),
                idempotence_key: (size % 2 == 0).then_some(Cow::Borrowed("k")),
                kind: EventKind::Unique,
                wire: Cow::Owned(wire),
            });
        }
        submission
    }

    fn key(dedupe: &Arc<Dedupe>, number: usize, rest: usize) -> Underway {
        let key = RequestKey::new("/", &number.to_le_bytes(), b"");
        match dedupe.begin(key) {
            Begun::First(key) => key.with_rest(&"r".repeat(rest)),
            begun => panic!("{begun:?}"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn frames_hold_exactly_what_was_submitted(
            requests in prop::collection::vec((
                prop::collection::vec(prop_oneof![9 => 0usize..300, 1 => 300usize..40_000], 0..12),
                prop::option::of(0usize..5000),
            ), 1..12),
        ) {
            let limits = DedupeLimits { window: Duration::from_secs(1), entries: 100 };
            let forgotten = prometheus::IntCounter::new("f", "f").unwrap();
            let dedupe = Arc::new(Dedupe::new(limits, Clock::default(), forgotten));
            let first = Sequence::new(100);
            let mut packer = Packer::default();
            let mut builder = GroupBuilder::new(first, Timestamp::from_millis(5), (0, 0), &mut packer);
            let mut keys = Vec::new();
            let mut last_end = first;
            let mut begins_at = Vec::new();
            for (number, (sizes, rest)) in requests.iter().enumerate() {
                let underway = rest.map(|rest| key(&dedupe, number, rest));
                let (appended, underway) = builder.push(submission(sizes, underway), 0);
                keys.push(underway);
                prop_assert_eq!(appended.accepted, sizes.len() as u64);
                if let Some((begin, end)) = appended.sequences {
                    prop_assert_eq!(end, begin.plus(sizes.len() as u64 - 1), "consecutive");
                    prop_assert!(begin >= last_end);
                    last_end = end.next();
                    begins_at.push(begin);
                }
            }
            let group = builder.finish();
            prop_assert!(group.frames.windows(2).all(|pair| pair[0].key < pair[1].key));
            let mut assembler = Assembler::default();
            let (mut events, mut known) = (Vec::new(), Vec::new());
            let mut begins = true;
            let mut end = first;
            for frame in &group.frames {
                prop_assert!(frame.value.len() <= MAX_FRAME);
                let decoded = decode(&frame.value).unwrap();
                let header = decoded.header;
                prop_assert_eq!(&header.key(), &frame.key);
                prop_assert_eq!(header.begins_request, begins, "a request begins where one ended");
                begins = header.ends_request;
                end = header.end();
                prop_assert!(assembler.push(&decoded, &mut events));
                each_known(&decoded, |one| known.push(one)).unwrap();
                // Where a request ends, the next begins.
                let next = begins_at.iter().find(|begin| **begin >= end);
                let inside = events.len() < group.events.len()
                    && next.is_none_or(|next| *next != group.events[events.len()].sequence);
                prop_assert!(!header.ends_request || !inside, "an end mark within a request");
            }
            prop_assert!(begins, "the last request ends");
            prop_assert_eq!(&events, &group.events);
            prop_assert_eq!(&known, &group.known);
            prop_assert_eq!(end, group.end);
            let remembered = requests.iter().filter(|(_, rest)| rest.is_some_and(|r| r < 4096));
            let answers = known.iter().filter(|one| matches!(one, Known::Request(_)));
            prop_assert_eq!(answers.count(), remembered.count());
        }
    }
}
