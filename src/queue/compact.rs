//! Compaction: what a lane that lags keeps of the log is written anew without what is settled.
//!
//! A generation is removed when every lane has passed it. So one lane whose batch GMFY answers with
//! 500 for hours, or one user's flood that waits for its turn, would keep the delivered events of
//! all others on disk, up to `queue.max_bytes`. While more than half of that is taken, or the disk
//! is full, and the log's oldest generation does not move, the sealed ones are looked at, the oldest
//! first: each is written as a plain row of frames (which also leaves sled's overhead out), with
//! their sequences and without settled events, and takes the place of its file if that is smaller by
//! a third at least. It is looked at again when half as many partitions wait in it.
//!
//! - What is left out is settled by cursors on disk; `compactor` sees to that, and to the when.
//! - What can't be read again, though it was found, ends it: the old file stays.
//! - The new file is written beside the generations, without holding anybody up, and is on disk before
//!   it takes the old one's name, in one rename: a crash leaves either. Where the generation was
//!   removed or rebuilt meanwhile it is thrown away; so is one that is left over, at the next start.
//! - Nothing of the generation's records changes: what was left out stays counted, see [`LeftOut`].
//! - A damaged generation is left to `repair`.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::Sequence;
use super::engine::write_file;
use super::frame::{
    Content, FrameHeader, LEFT_OUT_LENGTH, LeftOut, MAX_FRAME, MAX_RECORDS, Record, each_record,
    encode, encode_left_out, record_head,
};
use super::packer::Packer;
use super::passed::Passed;
use super::salvage::{Contents, RawFrames};
use crate::clock::Timestamp;

/// Writes to `fresh`, durably, what a generation's file holds, without what is settled; false where
/// that saves too little of its `bytes`.
pub(super) fn write_compacted(
    fresh: &Path,
    bytes: u64,
    (raw, contents): (&RawFrames, &Contents),
    (first, end): (Sequence, Sequence),
    passed: &Passed,
) -> io::Result<bool> {
    let mut length = Length(0);
    write_rest(raw, contents, (first, end), passed, &mut length)?;
    if length.0 >= bytes / 3 * 2 {
        return Ok(false);
    }
    write_file(fresh, |file| write_rest(raw, contents, (first, end), passed, file))?;
    Ok(true)
}

/// Where a generation is written anew, in the log's folder.
pub(super) fn fresh_file(log: &Path) -> PathBuf {
    log.join("compacted")
}

/// Removes what a compaction left that was not finished.
pub(super) fn remove_left_over(log: &Path) {
    // Where it can't be removed it is in nobody's way.
    let _removed = fs::remove_file(fresh_file(log));
}

/// How many bytes are written.
struct Length(u64);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes the frames of a generation anew, without what is settled.
fn write_rest(
    raw: &RawFrames,
    contents: &Contents,
    (first, end): (Sequence, Sequence),
    passed: &Passed,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut rest = Rest::new(first, out);
    raw.each_frame(contents, |frame| {
        let records = frame.records().map_err(io::Error::other)?;
        rest.push(&frame.header, &records, passed)
    })?;
    debug_assert!(rest.position() <= end, "behind its end");
    rest.close_gap()?;
    rest.flush()
}

/// Frames that are written anew.
struct Rest<'a, W> {
    out: &'a mut W,
    /// Where the open frame begins.
    first: Sequence,
    /// Of its events, which have one.
    accepted_at: Option<Timestamp>,
    /// Sequences that its records account for.
    count: u32,
    records: Vec<u8>,
    /// Behind these.
    left_out: LeftOut,
    /// The parts that come are of an event that is left out.
    skips_parts: bool,
    packer: Packer,
}

impl<'a, W: Write> Rest<'a, W> {
    fn new(first: Sequence, out: &'a mut W) -> Self {
        Self {
            out,
            first,
            accepted_at: None,
            count: 0,
            records: Vec::with_capacity(MAX_FRAME),
            left_out: LeftOut::default(),
            skips_parts: false,
            packer: Packer::default(),
        }
    }

    /// The sequence that comes next.
    fn position(&self) -> Sequence {
        self.first.plus(u64::from(self.count)).plus(u64::from(self.left_out.sequences))
    }

    fn push(&mut self, header: &FrameHeader, records: &[u8], passed: &Passed) -> io::Result<()> {
        if let Content::Part(1..) = header.content {
            return if self.skips_parts { Ok(()) } else { self.push_part(header, records) };
        }
        if header.first > self.position() {
            // What is lost between is not settled.
            self.close_gap()?;
            self.flush()?;
            self.first = header.first;
        }
        match header.content {
            Content::Events => self.push_events(header, records, passed),
            Content::Note => {
                self.leave_out(LeftOut { sequences: 1, events: 0 });
                Ok(())
            }
            Content::Part(_) => {
                let head = record_head(records).map_err(io::Error::other)?;
                let is_settled =
                    |user: super::UserHash| passed.contains(user.partition(), header.first);
                self.skips_parts = matches!(head, Record::Event(head) if is_settled(head.user));
                if self.skips_parts {
                    self.leave_out(LeftOut { sequences: 1, events: 1 });
                    return Ok(());
                }
                self.close_gap()?;
                self.flush()?;
                self.push_part(header, records)
            }
        }
    }

    fn push_events(
        &mut self,
        header: &FrameHeader,
        records: &[u8],
        passed: &Passed,
    ) -> io::Result<()> {
        let mut result = Ok(());
        let read = each_record(records, |record, range| {
            if result.is_err() {
                return;
            }
            match record {
                Record::Event(head) if passed.contains(head.user.partition(), self.position()) => {
                    self.leave_out(LeftOut { sequences: 1, events: 1 });
                }
                Record::Event(_) => {
                    let record = records.get(range).unwrap_or_default();
                    result = self.keep(header.accepted_at, record);
                }
                Record::LeftOut(left_out) => self.leave_out(left_out),
                // It is kept with what is known of the generation.
                Record::Answer(_) => {}
            }
        });
        result.and(read.map_err(io::Error::other))
    }

    fn leave_out(&mut self, more: LeftOut) {
        self.left_out.sequences = self.left_out.sequences.saturating_add(more.sequences);
        self.left_out.events = self.left_out.events.saturating_add(more.events);
    }

    fn keep(&mut self, accepted_at: Timestamp, record: &[u8]) -> io::Result<()> {
        if self.accepted_at.is_some_and(|at| at != accepted_at) {
            self.flush()?;
        }
        self.close_gap()?;
        self.make_room(record.len())?;
        self.accepted_at = Some(accepted_at);
        self.records.extend_from_slice(record);
        self.count += 1;
        Ok(())
    }

    /// Parts are copied, but for the marks of requests: that each is whole is known.
    fn push_part(&mut self, header: &FrameHeader, records: &[u8]) -> io::Result<()> {
        let begins_request = header.content == Content::Part(0);
        self.write(&FrameHeader { begins_request, ends_request: true, ..*header }, records)?;
        self.first = header.end();
        Ok(())
    }

    /// Puts what was left out into the open frame.
    fn close_gap(&mut self) -> io::Result<()> {
        let left_out = std::mem::take(&mut self.left_out);
        if left_out.sequences == 0 {
            return Ok(());
        }
        self.make_room(LEFT_OUT_LENGTH)?;
        encode_left_out(left_out, &mut self.records);
        self.count = self.count.saturating_add(left_out.sequences);
        Ok(())
    }

    fn make_room(&mut self, length: usize) -> io::Result<()> {
        if self.records.len() + length > MAX_RECORDS { self.flush() } else { Ok(()) }
    }

    /// Ends the open frame; what was left out behind it goes into the next.
    fn flush(&mut self) -> io::Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        let header = FrameHeader {
            first: self.first,
            count: self.count,
            accepted_at: self.accepted_at.take().unwrap_or(Timestamp::from_millis(0)),
            content: Content::Events,
            begins_request: true,
            ends_request: true,
        };
        let records = std::mem::take(&mut self.records);
        self.write(&header, &records)?;
        self.records = records;
        self.records.clear();
        self.first = header.end();
        self.count = 0;
        Ok(())
    }

    fn write(&mut self, header: &FrameHeader, records: &[u8]) -> io::Result<()> {
        self.out.write_all(&encode(header, records, &mut self.packer))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::queue::engine::data_file;
    use crate::queue::frame::{decode, left_out as left_out_of};
    use crate::queue::group::GroupBuilder;
    use crate::queue::salvage::Span;
    use crate::queue::state::LaneRecord;
    use crate::queue::tests::submission;
    use crate::queue::{LaneCursor, Partition, QueuedEvent, SequenceRanges};

    const FIRST: Sequence = Sequence::new(10);

    /// One lane that has settled these, and everything of every third partition.
    fn passed(settled: &BTreeSet<u64>) -> Passed {
        let mut ranges = SequenceRanges::new();
        settled.iter().for_each(|sequence| ranges.insert(Sequence::new(*sequence)));
        let watermarks = (0..=u8::MAX).map(|number| {
            let is_past = number.is_multiple_of(3);
            (Partition::new(number), Sequence::new(if is_past { 1 << 40 } else { 1 }))
        });
        let cursor =
            LaneCursor { watermarks: watermarks.collect(), settled: ranges, unfinished: None };
        Passed::of(&[LaneRecord::new(&cursor, 0)])
    }

    fn events(raw: &RawFrames, contents: &Contents) -> Vec<QueuedEvent> {
        let mut events = Vec::new();
        raw.visit(contents, |event| {
            events.push(event);
            true
        })
        .unwrap();
        events
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// What waits is there as it was, what is settled is counted, what is lost stays lost; with
        /// more settled, the same again.
        #[test]
        fn all_that_waits_is_kept_and_all_else_is_counted(
            requests in prop::collection::vec(
                (1u64..4, prop::collection::vec(prop_oneof![9 => 1usize..300, 1 => 3_000usize..20_000], 1..40)),
                1..8
            ),
            settled in prop::collection::vec(prop::collection::btree_set(10u64..300, 0..200), 1..3),
            damaged in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut frames = Vec::new();
            let mut next = FIRST;
            for (number, (at, sizes)) in (0..).zip(&requests) {
                let mut packer = Packer::default();
                let mut builder = GroupBuilder::new(next, Timestamp::from_millis(*at), (0, 0), &mut packer);
                for (index, size) in sizes.iter().enumerate() {
                    builder.push(submission(&[&format!("{number}-{index}")], *size), 0);
                }
                let group = builder.finish();
                next = group.end;
                frames.extend(group.frames.into_iter().map(|frame| frame.value));
            }
            if let Some(index) = damaged {
                frames.remove(index.index(frames.len()));
            }
            let folder = tempfile::tempdir().unwrap();
            fs::write(data_file(folder.path()), frames.concat()).unwrap();
            let read = || {
                let raw = RawFrames::find(folder.path()).unwrap();
                let span = Span { first: FIRST, end: Some(next), limit: None };
                let contents = raw.contents(span).unwrap();
                (events(&raw, &contents), contents, raw)
            };
            let (before, whole, _) = read();
            let mut all_settled = BTreeSet::new();
            for settled in &settled {
                all_settled.extend(settled);
                let passed = passed(&all_settled);
                let (_, contents, raw) = read();
                let span = (&raw, &contents);
                let fresh = fresh_file(folder.path());
                prop_assert!(write_compacted(&fresh, u64::MAX, span, (FIRST, next), &passed).unwrap());
                fs::rename(fresh, data_file(folder.path())).unwrap();
                let (after, contents, raw) = read();
                let waits = |e: &&QueuedEvent| !passed.contains(e.user.partition(), e.sequence);
                let waiting: Vec<_> = before.iter().filter(waits).cloned().collect();
                prop_assert_eq!(&after, &waiting);
                prop_assert_eq!(&contents.lost, &whole.lost);
                let mut left_out = 0;
                raw.scan(Sequence::FIRST, |_, value| {
                    left_out += left_out_of(&decode(value).unwrap());
                    true
                })
                .unwrap();
                prop_assert_eq!(left_out, (before.len() - waiting.len()) as u64);
                // Without its recorded end nothing that waits is taken for half a request.
                let unrecorded = raw.contents(Span { first: FIRST, end: None, limit: None }).unwrap();
                prop_assert_eq!(events(&raw, &unrecorded), waiting);
            }
        }
    }

    #[test]
    fn what_can_be_read_no_more_is_not_left_out() {
        let mut packer = Packer::default();
        let mut builder = GroupBuilder::new(FIRST, Timestamp::from_millis(1), (0, 0), &mut packer);
        builder.push(submission(&["a"; 200], 300), 0);
        let group = builder.finish();
        let folder = tempfile::tempdir().unwrap();
        let mut bytes: Vec<u8> = group.frames.into_iter().flat_map(|frame| frame.value).collect();
        fs::write(data_file(folder.path()), &bytes).unwrap();
        let raw = RawFrames::find(folder.path()).unwrap();
        let contents =
            raw.contents(Span { first: FIRST, end: Some(group.end), limit: None }).unwrap();
        // A device that fails for a moment shows other bytes, too.
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(data_file(folder.path()), &bytes).unwrap();
        let fresh = fresh_file(folder.path());
        let span = (&raw, &contents);
        let passed = passed(&BTreeSet::new());
        write_compacted(&fresh, u64::MAX, span, (FIRST, group.end), &passed).unwrap_err();
        assert!(!fresh.exists());
    }
}
