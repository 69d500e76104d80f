//! Frames found in the raw bytes of a generation's file, without sled.
//!
//! A frame describes itself (magic, version, first sequence, count, length, CRC-32C), and sled
//! keeps each value in one piece, so all that is on disk undamaged is found: the live frames, and
//! perhaps some that were written and then counted for nothing (a commit that failed, a request
//! that was cut off). So is every generation read that isn't written any more: opening a database
//! with sled writes to it, and where the file is damaged, sled destroys what is behind the damage.
//!
//! Which frames count is decided here too:
//!
//! - Within a generation sequences have no gaps, so a gap is a loss.
//! - Where the generation's end is known, everything before it was committed.
//! - Where it isn't, what comes behind the last whole request may never have been acknowledged,
//!   and is dropped: half a request is never recovered.
//!
//! JSON holds no control characters, so an event can't forge a frame: the version is one. What is
//! compressed is looked at before it is written, and holds none behind the magic either, so that
//! this is true within a frame that is damaged, too.
//!
//! A frame is found whole or is lost as a whole, compressed or not, and holds at most some 7 KB of
//! records either way. But compressed there are several in the place of one: a damaged block of the
//! device costs the events of all that it touches.

mod walk;

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::io::Errno;

use super::engine::{Op, check, data_file};
use super::frame::{Content, Frame, MAGIC, MAX_FRAME, decode};
use super::group::Assembler;
use super::{QueuedEvent, Sequence};
use walk::Walk;

/// Bytes searched at a time.
const WINDOW: usize = 256 * 1024;
/// Bytes read at a time where frames are read in order: they mostly lie so.
const AHEAD: usize = 32 * 1024;
/// What a device can't read is left out in blocks of this size.
const BLOCK: usize = 4096;

/// A generation's file, and where its frames lie.
#[derive(Debug, Default)]
pub(super) struct RawFrames {
    file: Option<File>,
    /// By key; one of a key.
    found: Vec<Found>,
}

/// A frame in the file.
#[derive(Clone, Copy, Debug)]
struct Found {
    first: u64,
    part: u32,
    length: u32,
    at: u64,
}

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
    frames: Vec<Found>,
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
    /// Finds the frames of the generation in `folder`; a file that is missing holds none.
    ///
    /// # Errors
    /// When the file can't be read at all; [`is_gone`] tells whether it ever can be.
    pub(super) fn find(folder: &Path) -> io::Result<Self> {
        check(Op::Read, folder)?;
        match File::open(data_file(folder)) {
            Ok(file) => Ok(Self { found: index(&file)?, file: Some(file) }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Self { file: None, found: Vec::new() })
            }
            Err(error) => Err(error),
        }
    }

    /// What counts of a generation of this span.
    pub(super) fn contents(&self, span: Span) -> io::Result<Contents> {
        let mut walk = Walk::new(span.first);
        let bound = [span.end, span.limit].into_iter().flatten().min();
        let mut highest = span.first;
        let mut ahead = Ahead::default();
        for found in &self.found {
            let outside = bound.is_some_and(|bound| found.first >= bound.get());
            if found.first < span.first.get() || outside {
                continue;
            }
            // It was found, so it is a frame; what can't be read again is missing.
            let Ok(frame) = decode(self.load(found, &mut ahead)?) else { continue };
            highest = highest.max(frame.header.end());
            walk.push(&frame, found);
        }
        let mut contents = walk.finish(span.end);
        contents.highest = highest.max(contents.end);
        Ok(contents)
    }

    /// Calls `each` with the frames that count, as they were written, until it fails. One that can't
    /// be read again ends it too: whoever writes them anew would lose it.
    pub(super) fn each_frame<E: From<io::Error>>(
        &self,
        contents: &Contents,
        mut each: impl FnMut(&Frame<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut ahead = Ahead::default();
        for found in &contents.frames {
            let Ok(frame) = decode(self.load(found, &mut ahead)?) else {
                return Err(io::Error::other("what was read before can't be read again").into());
            };
            each(&frame)?;
        }
        Ok(())
    }

    /// Calls `each` with the events that count, ascending, until it returns false.
    pub(super) fn visit(
        &self,
        contents: &Contents,
        mut each: impl FnMut(QueuedEvent) -> bool,
    ) -> io::Result<()> {
        let mut assembler = Assembler::default();
        let mut events = Vec::new();
        let mut ahead = Ahead::default();
        for found in &contents.frames {
            let Ok(frame) = decode(self.load(found, &mut ahead)?) else { continue };
            assembler.push(&frame, &mut events);
            if !events.drain(..).all(&mut each) {
                break;
            }
        }
        Ok(())
    }

    /// Calls `visit` with all frames by key, from the last one that begins at or before `from`
    /// on, until it returns false.
    pub(super) fn scan(
        &self,
        from: Sequence,
        mut visit: impl FnMut(Sequence, &[u8]) -> bool,
    ) -> io::Result<()> {
        let behind = self.found.partition_point(|found| found.first <= from.get());
        let begin = behind.checked_sub(1).and_then(|last| self.found.get(last));
        let begin = begin.map_or(0, |last| self.found.partition_point(|f| f.first < last.first));
        let mut ahead = Ahead::default();
        for found in self.found.iter().skip(begin) {
            if !visit(Sequence::new(found.first), self.load(found, &mut ahead)?) {
                break;
            }
        }
        Ok(())
    }

    fn load<'a>(&self, found: &Found, ahead: &'a mut Ahead) -> io::Result<&'a [u8]> {
        let length = found.length as usize;
        let inside = found.at.checked_sub(ahead.at).and_then(|start| usize::try_from(start).ok());
        let inside = inside.filter(|start| start + length <= ahead.bytes.len());
        let start = match (inside, &self.file) {
            (Some(start), _) => start,
            (None, None) => return Ok(&[]),
            (None, Some(file)) => {
                ahead.bytes.resize(AHEAD, 0);
                ahead.at = found.at;
                let read = read_around_failures(file, &mut ahead.bytes, found.at)?;
                ahead.bytes.truncate(read);
                0
            }
        };
        Ok(ahead.bytes.get(start..start + length).unwrap_or_default())
    }
}

/// Whether a file that can't be read so is damaged. Else what keeps us from it (a right that is
/// missing, no free descriptor) may end, and nothing of it is lost.
pub(super) fn is_gone(error: &io::Error) -> bool {
    let gone = [Errno::IO, Errno::UCLEAN, Errno::BADMSG, Errno::NOTDIR, Errno::ISDIR, Errno::LOOP];
    gone.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// What is searched for frames.
trait Bytes {
    fn length(&self) -> io::Result<u64>;
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;
}

impl Bytes for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, buffer, at)
    }
}

/// A piece of the file.
#[derive(Debug, Default)]
struct Ahead {
    at: u64,
    bytes: Vec<u8>,
}

/// Searches a file for frames.
///
/// # Errors
/// When nothing of it can be read.
fn index(file: &impl Bytes) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut buffer = vec![0; WINDOW + MAX_FRAME];
    let mut at = 0;
    let mut search_from = 0;
    let mut failure = None;
    let mut has_read = false;
    loop {
        let read = match read_around_failures(file, &mut buffer, at) {
            Ok(read) => {
                has_read |= read > 0;
                read
            }
            Err(error) => {
                failure.get_or_insert(error);
                buffer.fill(0);
                let left = file.length()?.saturating_sub(at);
                buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX))
            }
        };
        let bytes = buffer.get(..read).unwrap_or_default();
        let is_last = read < buffer.len();
        let limit = if is_last { read } else { WINDOW };
        while let Some(next) =
            bytes.get(search_from..).and_then(|b| memchr::memmem::find(b, &MAGIC))
        {
            let start = search_from + next;
            if start >= limit {
                break;
            }
            let candidate = bytes.get(start..read.min(start + MAX_FRAME)).unwrap_or_default();
            let Ok(Frame { header, bytes: frame, .. }) = decode(candidate) else {
                search_from = start + MAGIC.len();
                continue;
            };
            let length = frame.len();
            found.push(Found {
                first: header.first.get(),
                part: if let Content::Part(part) = header.content { part } else { 0 },
                length: u32::try_from(length).unwrap_or(u32::MAX),
                at: at + start as u64,
            });
            search_from = start + length;
        }
        if is_last {
            break;
        }
        at += WINDOW as u64;
        search_from = search_from.saturating_sub(WINDOW);
    }
    if let Some(failure) = failure.filter(|_| !has_read) {
        return Err(failure);
    }
    // Copies of a frame are equal; the first lies among its neighbours.
    found.sort_unstable_by_key(|found| (found.first, found.part, found.at));
    found.dedup_by_key(|found| (found.first, found.part));
    found.shrink_to_fit();
    Ok(found)
}

/// Fills `buffer` from `at` on, as far as the file goes; returns how far. Blocks that the device
/// can't read count as zeros.
///
/// # Errors
/// When none of it can be read.
fn read_around_failures(file: &impl Bytes, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    match read_at(file, buffer, at) {
        Err(error) => {
            let left = file.length()?.saturating_sub(at);
            let length = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let mut has_read = false;
            let wanted = buffer.get_mut(..length).unwrap_or_default();
            for (number, block) in (0_u64..).zip(wanted.chunks_mut(BLOCK)) {
                match read_at(file, block, at + number * BLOCK as u64) {
                    Ok(_) => has_read = true,
                    Err(_) => block.fill(0),
                }
            }
            if has_read { Ok(length) } else { Err(error) }
        }
        read => read,
    }
}

fn read_at(file: &impl Bytes, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut read = 0;
    while let Some(rest) = buffer.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::queue::engine::Database;
    use crate::queue::group::{Group, GroupBuilder};
    use crate::queue::packer::Packer;
    use crate::queue::tests::submission;
    use proptest::prelude::*;

    /// Requests of so many events of about so many bytes, from sequence 10 on.
    fn group(requests: &[(usize, usize)]) -> Group {
        let mut packer = Packer::default();
        let mut builder =
            GroupBuilder::new(Sequence::new(10), Timestamp::from_millis(5), (0, 0), &mut packer);
        for (events, size) in requests {
            builder.push(submission(&vec!["u"; *events], *size), 0);
        }
        builder.finish()
    }

    fn of_bytes(bytes: &[u8]) -> RawFrames {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(data_file(folder.path()), bytes).unwrap();
        RawFrames::find(folder.path()).unwrap()
    }

    fn numbers(raw: &RawFrames, contents: &Contents) -> Vec<u64> {
        let mut numbers = Vec::new();
        let each = |event: QueuedEvent| {
            numbers.push(event.sequence.get());
            true
        };
        raw.visit(contents, each).unwrap();
        numbers
    }

    fn span(end: Option<u64>) -> Span {
        Span { first: Sequence::new(10), end: end.map(Sequence::new), limit: None }
    }

    /// Bytes of which a device can't read some.
    struct Failing {
        bytes: Vec<u8>,
        bad: std::ops::Range<usize>,
    }

    impl Bytes for Failing {
        fn length(&self) -> io::Result<u64> {
            Ok(self.bytes.len() as u64)
        }

        fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
            let at = usize::try_from(at).unwrap().min(self.bytes.len());
            let end = self.bytes.len().min(at + buffer.len());
            if at < self.bad.end && self.bad.start < end {
                return Err(Errno::IO.into());
            }
            buffer[..end - at].copy_from_slice(&self.bytes[at..end]);
            Ok(end - at)
        }
    }

    #[test]
    fn what_a_device_can_not_read_costs_no_more_than_that() {
        let frames = group(&[(1, 6_000); 200]).frames;
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.value.clone()).collect();
        let length = bytes.len();
        assert!(length > 4 * WINDOW);
        for bad in [0..1, 5_000..5_001, 100_000..900_000, 0..600_000, 600_000..length] {
            let (mut at, mut readable) = (0, Vec::new());
            for (frame, first) in frames.iter().zip(10..) {
                let end = at + frame.value.len();
                // A device fails by blocks.
                let is_bad =
                    at < bad.end.next_multiple_of(BLOCK) && bad.start / BLOCK * BLOCK < end;
                if !is_bad {
                    readable.push(first);
                }
                at = end;
            }
            let found = index(&Failing { bytes: bytes.clone(), bad: bad.clone() }).unwrap();
            let found: Vec<u64> = found.iter().map(|found| found.first).collect();
            assert_eq!(found, readable, "{bad:?}");
        }
        let nothing = index(&Failing { bytes, bad: 0..length }).unwrap_err();
        assert!(is_gone(&nothing));
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
        let raw = RawFrames::find(&path).unwrap();
        let contents = raw.contents(span(None)).unwrap();
        let mut found = Vec::new();
        let keep = |frame: &Frame<'_>| {
            found.push((frame.header.key(), frame.bytes.to_vec()));
            Ok::<_, io::Error>(())
        };
        raw.each_frame(&contents, keep).unwrap();
        let written: Vec<_> =
            group.frames.iter().map(|f| (f.key.clone(), f.value.clone())).collect();
        assert_eq!(found, written);
        assert_eq!(contents.events, group.events.len() as u64);
        assert_eq!((contents.end, contents.lost.len()), (group.end, 0));
        assert_eq!(RawFrames::find(&folder.path().join("none")).unwrap().found.len(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]
        /// Some frames are lost: exactly the events of the others are found, whole or with their
        /// request's loss known; at an unknown end no part of a request is.
        #[test]
        fn what_damage_leaves_is_found(
            requests in prop::collection::vec((1usize..6, prop_oneof![6 => 1usize..400, 1 => 3000usize..20_000]), 1..10),
            damaged in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
            noise in prop_oneof![
                9 => prop::collection::vec(any::<u8>(), 0..300),
                1 => Just(vec![7; 200_000]),
            ],
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
                let header = decode(&group.frames[*number].value).unwrap().header;
                lost.extend(header.first.get()..header.end().get());
            }
            let raw = of_bytes(&bytes);
            let contents = raw.contents(span(knows_end.then_some(group.end.get()))).unwrap();
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
        fn rubbish_holds_no_frame(bytes in prop::collection::vec(prop_oneof![3 => any::<u8>(), 1 => prop::sample::select(b"GMFY\x01\x02".as_slice())], 0..2000)) {
            let raw = of_bytes(&bytes);
            prop_assert!(raw.found.is_empty());
        }
    }
}
