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
//! - The keeper does it, between cursors: what it leaves out is settled by cursors on disk.
//! - The new file is on disk before it takes the old one's name, in one rename: a crash leaves
//!   either. A file that is left over is removed at the next start.
//! - Nothing of the generation's records changes: what was left out stays counted, see [`LeftOut`].
//! - A damaged generation is left to `repair`.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Sequence;
use super::engine::{self, EngineError, data_file, sync_folder, write_file};
use super::frame::{
    Content, FrameHeader, LEFT_OUT_LENGTH, LeftOut, MAX_FRAME, MAX_RECORDS, Record, each_record,
    encode, encode_left_out, record_head,
};
use super::passed::Passed;
use super::salvage::{Contents, RawFrames};
use crate::clock::Timestamp;

/// How long the oldest generation has to stay where it is.
const PINNED_FOR: Duration =
    if cfg!(test) { Duration::from_millis(50) } else { Duration::from_secs(5) };
/// How often a generation is looked at: that takes some 16 MiB of reading.
const LOOK_EVERY: Duration =
    if cfg!(test) { Duration::from_millis(10) } else { Duration::from_secs(1) };
/// How long none is after one that failed.
const PAUSE: Duration = if cfg!(test) { LOOK_EVERY } else { Duration::from_secs(30) };

/// Which generation is looked at, and when.
#[derive(Debug)]
pub(super) struct Looks {
    /// The oldest generation, and since when it is.
    oldest: Option<(Sequence, Instant)>,
    next: Instant,
    /// How many partitions waited in a generation when it was looked at.
    waited: HashMap<Sequence, usize>,
}

impl Looks {
    pub(super) fn new(now: Instant) -> Self {
        Self { oldest: None, next: now, waited: HashMap::new() }
    }

    /// Whether it is time to choose one.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    /// The generation to look at now, of these sealed ones (first sequence, and the one behind the
    /// last; ascending).
    pub(super) fn choose(
        &mut self,
        sealed: &[(Sequence, Sequence)],
        passed: &Passed,
        now: Instant,
    ) -> Option<Sequence> {
        self.next = now + LOOK_EVERY;
        let (oldest, _) = *sealed.first()?;
        let since = match self.oldest {
            Some((first, since)) if first == oldest => since,
            _ => {
                self.oldest = Some((oldest, now));
                self.waited.retain(|first, _| *first >= oldest);
                now
            }
        };
        if now.saturating_duration_since(since) < PINNED_FOR {
            return None;
        }
        sealed.iter().find_map(|&(first, end)| {
            let waiting = passed.waiting_before(end);
            let is_due = self.waited.get(&first).is_none_or(|waited| waiting <= waited / 2);
            is_due.then(|| {
                self.waited.insert(first, waiting);
                first
            })
        })
    }

    /// The one that was chosen could not be written: it is looked at again after a while.
    pub(super) fn failed(&mut self, first: Sequence, now: Instant) {
        self.waited.remove(&first);
        self.next = now + PAUSE;
    }
}

/// Puts in the place of the generation's file in `folder`, which has these `bytes`, one without
/// what is settled; false where that is not worth it.
pub(super) fn compact(
    folder: &Path,
    bytes: u64,
    (raw, contents): (&RawFrames, &Contents),
    (first, end): (Sequence, Sequence),
    passed: &Passed,
) -> Result<bool, EngineError> {
    let mut length = Length(0);
    write_rest(raw, contents, (first, end), passed, &mut length)?;
    if length.0 >= bytes / 3 * 2 {
        return Ok(false);
    }
    let fresh = fresh_file(folder);
    let written = write_file(&fresh, |file| write_rest(raw, contents, (first, end), passed, file))
        .and_then(|()| engine::rename(&fresh, &data_file(folder)))
        .and_then(|()| sync_folder(folder));
    if let Err(error) = written {
        remove_left_over(folder);
        return Err(error.into());
    }
    Ok(true)
}

/// Removes what a crash left of a compaction.
pub(super) fn remove_left_over(folder: &Path) {
    // Where it can't be removed it is in nobody's way.
    let _removed = fs::remove_file(fresh_file(folder));
}

fn fresh_file(folder: &Path) -> PathBuf {
    folder.join("compacted")
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
    raw.each_frame(contents, |header, value| {
        let records = value.get(super::frame::HEADER..).unwrap_or_default();
        rest.push(header, records, passed)
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
        let mut frame = Vec::with_capacity(MAX_FRAME);
        encode(header, records, &mut frame);
        self.out.write_all(&frame)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
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
                let mut builder = GroupBuilder::new(next, Timestamp::from_millis(*at), 0, 0);
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
                prop_assert!(compact(folder.path(), u64::MAX, span, (FIRST, next), &passed).unwrap());
                let (after, contents, raw) = read();
                let waits = |e: &&QueuedEvent| !passed.contains(e.user.partition(), e.sequence);
                let waiting: Vec<_> = before.iter().filter(waits).cloned().collect();
                prop_assert_eq!(&after, &waiting);
                prop_assert_eq!(&contents.lost, &whole.lost);
                let mut left_out = 0;
                raw.scan(Sequence::FIRST, |_, value| {
                    let (header, records) = super::super::frame::decode(value).unwrap();
                    left_out += super::super::frame::left_out(&header, records);
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
    fn a_generation_is_looked_at_once_it_is_in_the_way_and_again_when_half_has_gone_on() {
        let begun = Instant::now();
        let mut looks = Looks::new(begun);
        let sealed = [(1, 11), (11, 21)].map(|(a, b)| (Sequence::new(a), Sequence::new(b)));
        let waiting = |count: usize| {
            let watermark = |number| if usize::from(number) < count { 1 } else { 1000 };
            let watermarks = (0..=u8::MAX)
                .map(|number| (Partition::new(number), Sequence::new(watermark(number))));
            let cursor = LaneCursor { watermarks: watermarks.collect(), ..LaneCursor::default() };
            Passed::of(&[LaneRecord::new(&cursor, 0)])
        };
        let mut at = begun;
        let mut choose = |looks: &mut Looks, count| {
            at += LOOK_EVERY;
            assert!(looks.is_due(at));
            looks.choose(&sealed, &waiting(count), at)
        };
        assert_eq!(choose(&mut looks, 200), None, "it may go on by itself");
        for _ in 0..PINNED_FOR.as_millis() / LOOK_EVERY.as_millis() - 1 {
            assert_eq!(choose(&mut looks, 200), None);
        }
        assert_eq!(choose(&mut looks, 200), Some(Sequence::new(1)));
        assert_eq!(choose(&mut looks, 200), Some(Sequence::new(11)));
        assert_eq!(choose(&mut looks, 101), None);
        assert_eq!(choose(&mut looks, 100), Some(Sequence::new(1)));
        looks.failed(Sequence::new(1), begun);
        assert_eq!(choose(&mut looks, 100), Some(Sequence::new(1)), "again");
        assert_eq!(choose(&mut looks, 100), Some(Sequence::new(11)));
        assert_eq!(choose(&mut looks, 100), None);
    }
}
