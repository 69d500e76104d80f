//! A commit group: whole requests cut into frames for the log, and indexed for the tail.

use bytes::Bytes;

use super::frame::{Content, FrameHeader, MAX_FRAME, MAX_RECORDS, RECORD_HEADER, encode};
use super::submission::Entry;
use super::{QueuedEvent, Sequence, Submission};
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
    /// By kind, as the ledger orders them.
    pub(super) kinds: [u64; 3],
}

/// Cuts requests into frames. A frame holds whole requests, or a run of one request's records, or
/// a part of one record; the marks of a request's first and last frame let recovery tell whether
/// it is whole.
#[derive(Debug)]
pub(super) struct GroupBuilder {
    group: Group,
    accepted_at: Timestamp,
    records: Vec<u8>,
    frame_first: Sequence,
    count: u32,
    begins_request: bool,
}

impl GroupBuilder {
    pub(super) fn new(first: Sequence, accepted_at: Timestamp, events: usize) -> Self {
        Self {
            group: Group {
                frames: Vec::new(),
                events: Vec::with_capacity(events),
                first,
                end: first,
                kinds: [0; 3],
            },
            accepted_at,
            records: Vec::new(),
            frame_first: first,
            count: 0,
            begins_request: true,
        }
    }

    /// Adds a whole request; returns its first and last sequence, none where it has no events.
    pub(super) fn push(&mut self, submission: Submission) -> Option<(Sequence, Sequence)> {
        let (records, entries) = submission.into_parts();
        if entries.is_empty() {
            return None;
        }
        let first = self.group.end;
        let fits_one_frame = records.len() <= MAX_RECORDS;
        if self.records.len() + records.len() > MAX_RECORDS {
            self.close_frame(true);
        }
        if fits_one_frame {
            self.records.extend_from_slice(&records);
            self.count += u32::try_from(entries.len()).unwrap_or(u32::MAX);
            self.group.end = first.plus(entries.len() as u64);
        } else {
            self.push_across_frames(&records, &entries);
        }
        self.index(first, records, &entries);
        Some((first, Sequence::new(self.group.end.get() - 1)))
    }

    fn push_across_frames(&mut self, records: &[u8], entries: &[Entry]) {
        let mut start = 0;
        for entry in entries {
            let record = records.get(start..entry.end).unwrap_or_default();
            start = entry.end;
            if self.records.len() + record.len() > MAX_RECORDS {
                self.close_frame(false);
            }
            if record.len() > MAX_RECORDS {
                self.push_parts(record, start == records.len());
            } else {
                self.records.extend_from_slice(record);
                self.count += 1;
                self.group.end = self.group.end.next();
            }
        }
        self.close_frame(true);
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
        let mut value = Vec::with_capacity(MAX_FRAME.min(records.len() + 64));
        encode(header, records, &mut value);
        self.group.frames.push(EncodedFrame { key: header.key(), value });
    }

    fn index(&mut self, first: Sequence, records: Vec<u8>, entries: &[Entry]) {
        let records = Bytes::from(records);
        let mut start = 0;
        for (number, entry) in (0..).zip(entries) {
            self.group.events.push(QueuedEvent {
                sequence: first.plus(number),
                user: entry.user,
                kind: entry.kind,
                accepted_at: self.accepted_at,
                json: records.slice(start + RECORD_HEADER..entry.end),
            });
            self.group.kinds[entry.kind as usize] += 1;
            start = entry.end;
        }
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
    pub(super) fn push(
        &mut self,
        header: &FrameHeader,
        records: &[u8],
        out: &mut Vec<QueuedEvent>,
    ) -> bool {
        match header.content {
            Content::Events => {
                let whole = self.open.take().is_none();
                let before = out.len();
                let decoded =
                    super::frame::decode_records(header, &Bytes::copy_from_slice(records), out);
                if decoded.is_err() {
                    out.truncate(before);
                }
                whole && decoded.is_ok()
            }
            Content::Part(part) => self.push_part(header, part, records, out),
        }
    }

    fn push_part(
        &mut self,
        header: &FrameHeader,
        part: u32,
        records: &[u8],
        out: &mut Vec<QueuedEvent>,
    ) -> bool {
        let (begun, next, mut bytes) = match self.open.take() {
            Some(open) if part > 0 && open.0.first == header.first && open.1 == part => open,
            _ if part == 0 => (*header, 0, Vec::new()),
            _ => return false,
        };
        bytes.extend_from_slice(records);
        let Some(length) = super::frame::record_length(&bytes) else { return false };
        if bytes.len() < length {
            self.open = Some((begun, next + 1, bytes));
            return true;
        }
        super::frame::decode_records(&begun, &Bytes::from(bytes), out).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, EventKind};
    use proptest::prelude::*;
    use std::borrow::Cow;

    fn submission(sizes: &[usize]) -> Submission {
        let mut submission = Submission::with_capacity(sizes.len(), 0);
        for size in sizes {
            let wire = format!("{{\"x\":\"{}\"}}", "a".repeat(*size));
            submission.push(&Event {
                user_id: Cow::Owned(size.to_string()),
                event_type: Cow::Borrowed("t"),
                idempotence_key: None,
                kind: EventKind::Classic,
                wire: Cow::Owned(wire),
            });
        }
        submission
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn frames_hold_exactly_what_was_submitted(
            requests in prop::collection::vec(
                prop::collection::vec(prop_oneof![9 => 0usize..300, 1 => 300usize..40_000], 1..12), 1..12),
        ) {
            let first = Sequence::new(100);
            let mut builder = GroupBuilder::new(first, Timestamp::from_millis(5), 0);
            let mut ends = Vec::new();
            for request in &requests {
                let (_, last) = builder.push(submission(request)).unwrap();
                ends.push(last);
            }
            let group = builder.finish();
            prop_assert!(group.frames.windows(2).all(|pair| pair[0].key < pair[1].key));
            let mut assembler = Assembler::default();
            let mut events = Vec::new();
            let mut marked_ends = Vec::new();
            let mut begins = true;
            for frame in &group.frames {
                prop_assert!(frame.value.len() <= MAX_FRAME);
                let (header, records) = super::super::frame::decode(&frame.value).unwrap();
                prop_assert_eq!(&header.key(), &frame.key);
                prop_assert_eq!(header.begins_request, begins, "a request begins where one ended");
                begins = header.ends_request;
                prop_assert!(assembler.push(&header, records, &mut events));
                if header.ends_request {
                    marked_ends.push(Sequence::new(header.end().get() - 1));
                }
            }
            prop_assert_eq!(&events, &group.events);
            prop_assert_eq!(group.end, first.plus(events.len() as u64));
            // Every end mark stands at the end of a request, the last request's included.
            prop_assert!(marked_ends.iter().all(|end| ends.contains(end)));
            prop_assert_eq!(marked_ends.last(), ends.last());
        }
    }
}
