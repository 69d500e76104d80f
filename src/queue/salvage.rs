//! Frames found in the raw bytes of a generation's file, whatever sled makes of that file.
//!
//! A frame describes itself (magic, version, first sequence, count, length, CRC-32C), and sled
//! keeps each value in one piece, so all that is on disk undamaged is found: the live frames, and
//! perhaps some that were written and then counted for nothing (a commit that failed, a request
//! that was cut off). Which of them count is decided here too:
//!
//! - Within a generation sequences have no gaps, so a gap is a loss.
//! - Where the generation's end is known, everything before it was committed.
//! - Where it isn't, what comes behind the last whole request may never have been acknowledged,
//!   and is dropped: half a request is never recovered.
//!
//! JSON holds no control characters, so an event can't forge a frame: the version is one.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;

use super::engine::data_file;
use super::frame::{Content, FrameHeader, MAX_FRAME, decode, frame_length};
use super::group::Assembler;
use super::{QueuedEvent, Sequence};

const MAGIC: &[u8] = b"GMFY";

/// A file's bytes, and where its frames lie.
#[derive(Debug)]
pub(super) struct RawFrames {
    bytes: Vec<u8>,
    /// By key; one of a key.
    found: Vec<(Key, Range<usize>)>,
}

/// First sequence, and part: as keys sort.
type Key = (u64, u32);

/// The sequences that a generation spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) first: Sequence,
    /// The sequence behind its last, where that is recorded.
    pub(super) end: Option<Sequence>,
    /// Where the next generation begins, if there is one.
    pub(super) limit: Option<Sequence>,
}

/// What of a generation is readable.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Of the frames that count, in order of their keys.
    frames: Vec<Range<usize>>,
    /// Events that these hold.
    pub(super) events: u64,
    /// The sequence behind the last one that counts.
    pub(super) end: Sequence,
    /// First and last sequence of what is missing before `end`, ascending.
    pub(super) lost: Vec<(u64, u64)>,
    /// The sequence behind the last one that any frame names, counted or not.
    pub(super) highest: Sequence,
}

impl Contents {
    /// How many frames count.
    pub(super) fn frame_count(&self) -> u64 {
        self.frames.len() as u64
    }
}

impl RawFrames {
    /// Reads the file of the generation in `folder`; one that is missing holds nothing.
    pub(super) fn read(folder: &Path) -> io::Result<Self> {
        match fs::read(data_file(folder)) {
            Ok(bytes) => Ok(Self::find(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::find(Vec::new())),
            Err(error) => Err(error),
        }
    }

    pub(super) fn find(bytes: Vec<u8>) -> Self {
        let mut found = Vec::new();
        let mut at = 0;
        while let Some(next) = memchr::memmem::find(bytes.get(at..).unwrap_or_default(), MAGIC) {
            at += next;
            let candidate = bytes.get(at..bytes.len().min(at + MAX_FRAME)).unwrap_or_default();
            match decode(candidate) {
                Ok((header, records)) => {
                    let length = frame_length(records);
                    found.push((sort_key(&header), at..at + length));
                    at += length;
                }
                Err(_) => at += MAGIC.len(),
            }
        }
        // Copies of a frame are equal; of any that aren't, the one further on in the file counts.
        found.sort_by_key(|(key, range)| (*key, std::cmp::Reverse(range.start)));
        found.dedup_by_key(|(key, _)| *key);
        Self { bytes, found }
    }

    /// What counts of a generation of this span.
    pub(super) fn contents(&self, span: Span) -> Contents {
        let mut walk = Walk::new(span.first);
        let bound = [span.end, span.limit].into_iter().flatten().min();
        let mut highest = span.first;
        for (key, range) in &self.found {
            let outside = bound.is_some_and(|bound| key.0 >= bound.get());
            let Some((header, records)) = self.frame(range) else { continue };
            if key.0 < span.first.get() || outside {
                continue;
            }
            highest = highest.max(header.end());
            walk.push(&header, records, range);
        }
        let mut contents = walk.finish(span.end);
        contents.highest = highest.max(contents.end);
        contents
    }

    fn frame(&self, range: &Range<usize>) -> Option<(FrameHeader, &[u8])> {
        decode(self.bytes.get(range.clone())?).ok()
    }

    /// The frames that count, as they were written.
    pub(super) fn frames<'a>(
        &'a self,
        contents: &'a Contents,
    ) -> impl Iterator<Item = (FrameHeader, &'a [u8])> {
        contents.frames.iter().filter_map(|range| {
            let (header, _) = self.frame(range)?;
            Some((header, self.bytes.get(range.clone())?))
        })
    }

    /// Calls `each` with the events that count, ascending, until it returns false.
    pub(super) fn visit(&self, contents: &Contents, mut each: impl FnMut(QueuedEvent) -> bool) {
        let mut assembler = Assembler::default();
        let mut events = Vec::new();
        for range in &contents.frames {
            let Some((header, records)) = self.frame(range) else { continue };
            assembler.push(&header, records, &mut events);
            if !events.drain(..).all(&mut each) {
                return;
            }
        }
    }
}

fn sort_key(header: &FrameHeader) -> Key {
    let part = if let Content::Part(part) = header.content { part } else { 0 };
    (header.first.get(), part)
}

/// Walks frames in order of their keys.
struct Walk {
    taken: Contents,
    /// As of the last whole request's end.
    whole: Mark,
    expected: u64,
    /// Whether a request was begun, and nothing of it is missing so far.
    unbroken: bool,
    /// Parts of a large event that is not complete yet.
    parts: Vec<Range<usize>>,
    assembler: Assembler,
    events: Vec<QueuedEvent>,
}

#[derive(Clone, Copy, Default)]
struct Mark {
    frames: usize,
    lost: usize,
    events: u64,
    end: u64,
}

impl Walk {
    fn new(first: Sequence) -> Self {
        Self {
            taken: Contents::default(),
            whole: Mark { end: first.get(), ..Mark::default() },
            expected: first.get(),
            unbroken: false,
            parts: Vec::new(),
            assembler: Assembler::default(),
            events: Vec::new(),
        }
    }

    fn push(&mut self, header: &FrameHeader, records: &[u8], range: &Range<usize>) {
        let first = header.first.get();
        if first < self.expected {
            return;
        }
        if first > self.expected && !matches!(header.content, Content::Part(part) if part > 0) {
            self.miss(first);
        }
        if header.begins_request {
            self.unbroken = true;
        }
        self.events.clear();
        let fits = self.assembler.push(header, records, &mut self.events);
        if let Content::Part(part) = header.content {
            if part == 0 {
                self.parts.clear();
            }
            self.parts.push(range.clone());
            if self.events.is_empty() {
                // Not complete yet, or never: then the next frame finds a gap.
                self.unbroken &= fits;
                return;
            }
            self.taken.frames.append(&mut self.parts);
        } else {
            self.taken.frames.push(range.clone());
        }
        if first > self.expected {
            self.miss(first);
        }
        self.expected = header.end().get();
        self.taken.events += self.events.len() as u64;
        if header.ends_request && self.unbroken {
            self.whole = self.mark();
            self.unbroken = false;
        }
    }

    /// Everything from the expected sequence to before this one is missing.
    fn miss(&mut self, before: u64) {
        if self.expected < before {
            self.taken.lost.push((self.expected, before - 1));
            self.expected = before;
            self.unbroken = false;
        }
    }

    fn mark(&self) -> Mark {
        Mark {
            frames: self.taken.frames.len(),
            lost: self.taken.lost.len(),
            events: self.taken.events,
            end: self.expected,
        }
    }

    fn finish(mut self, end: Option<Sequence>) -> Contents {
        if let Some(end) = end {
            self.miss(end.get());
        } else {
            self.taken.frames.truncate(self.whole.frames);
            self.taken.lost.truncate(self.whole.lost);
            self.taken.events = self.whole.events;
            self.expected = self.whole.end;
        }
        self.taken.end = Sequence::new(self.expected);
        self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::queue::engine::Database;
    use crate::queue::group::{Group, GroupBuilder};
    use crate::queue::tests::submission;
    use proptest::prelude::*;

    /// Requests of so many events of about so many bytes, from sequence 10 on.
    fn group(requests: &[(usize, usize)]) -> Group {
        let mut builder = GroupBuilder::new(Sequence::new(10), Timestamp::from_millis(5), 0);
        for (events, size) in requests {
            builder.push(submission(&vec!["u"; *events], *size), 0);
        }
        builder.finish()
    }

    fn numbers(raw: &RawFrames, contents: &Contents) -> Vec<u64> {
        let mut numbers = Vec::new();
        raw.visit(contents, |event| {
            numbers.push(event.sequence.get());
            true
        });
        numbers
    }

    fn span(end: Option<u64>) -> Span {
        Span { first: Sequence::new(10), end: end.map(Sequence::new), limit: None }
    }

    #[test]
    fn a_healthy_database_holds_for_the_raw_scan_what_it_holds_for_sled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("g");
        let database = Database::open(&path).unwrap();
        let group = group(&[(1, 60), (300, 90), (1, 30_000), (7, 3_000), (1, 10), (2, 7_100)]);
        for (number, frame) in group.frames.iter().enumerate() {
            database.insert(&frame.key, &frame.value).unwrap();
            if number % 3 == 0 {
                database.flush().unwrap();
            }
        }
        database.flush().unwrap();
        drop(database);
        let raw = RawFrames::read(&path).unwrap();
        let contents = raw.contents(span(None));
        let found: Vec<_> = raw.frames(&contents).map(|(h, v)| (h.key(), v.to_vec())).collect();
        let written: Vec<_> =
            group.frames.iter().map(|f| (f.key.clone(), f.value.clone())).collect();
        assert_eq!(found, written);
        assert_eq!(contents.events, group.events.len() as u64);
        assert_eq!((contents.end, contents.lost.len()), (group.end, 0));
        assert_eq!(RawFrames::read(&folder.path().join("none")).unwrap().found.len(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]
        /// Some frames are lost: exactly the events of the others are found, whole or with their
        /// request's loss known; at an unknown end no part of a request is.
        #[test]
        fn what_damage_leaves_is_found(
            requests in prop::collection::vec((1usize..6, prop_oneof![6 => 1usize..400, 1 => 3000usize..20_000]), 1..10),
            damaged in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
            noise in prop::collection::vec(any::<u8>(), 0..300),
            knows_end in any::<bool>(),
        ) {
            let group = group(&requests);
            let damaged: Vec<_> = damaged.iter().map(|i| i.index(group.frames.len())).collect();
            let mut bytes = noise.clone();
            // As they might lie in a file: not in order, some twice.
            for (number, frame) in group.frames.iter().enumerate().rev() {
                let mut value = frame.value.clone();
                if damaged.contains(&number) {
                    let middle = value.len() / 2;
                    value[middle] ^= 0x10;
                }
                bytes.extend_from_slice(&value);
                bytes.extend_from_slice(&noise);
                if number % 4 == 0 {
                    bytes.extend_from_slice(&value);
                }
            }
            let mut lost = std::collections::BTreeSet::new();
            for number in &damaged {
                let (header, _) = decode(&group.frames[*number].value).unwrap();
                lost.extend(header.first.get()..header.end().get());
            }
            let raw = RawFrames::find(bytes);
            let contents = raw.contents(span(knows_end.then_some(group.end.get())));
            let found = numbers(&raw, &contents);
            prop_assert_eq!(found.len() as u64, contents.events);
            let readable: Vec<u64> =
                (10..group.end.get()).filter(|sequence| !lost.contains(sequence)).collect();
            if knows_end {
                prop_assert_eq!(&found, &readable);
                prop_assert_eq!(contents.lost.iter().map(|(a, b)| b - a + 1).sum::<u64>(), lost.len() as u64);
            } else {
                // It ends with a request that is whole.
                let mut at = 10;
                let ends: Vec<_> = requests.iter().map(|(events, _)| { let first = at; at += *events as u64; (first, at) }).collect();
                let last_whole = ends.iter().rev().find(|(first, end)| (*first..*end).all(|s| !lost.contains(&s)));
                let end = last_whole.map_or(10, |(_, end)| *end);
                prop_assert_eq!(contents.end.get(), end);
                prop_assert_eq!(found, readable.into_iter().filter(|s| *s < end).collect::<Vec<_>>());
            }
        }

        #[test]
        fn rubbish_holds_no_frame(bytes in prop::collection::vec(prop_oneof![3 => any::<u8>(), 1 => prop::sample::select(b"GMFY\x01".as_slice())], 0..2000)) {
            let raw = RawFrames::find(bytes);
            prop_assert!(raw.found.is_empty());
        }
    }
}
