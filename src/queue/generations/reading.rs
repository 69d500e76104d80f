//! Reading generations: events from a place on, or just these; what shows damage is rebuilt, and read
//! again.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Generation, Generations, Inner, Place};
use crate::queue::engine::{Database, EngineError};
use crate::queue::frame::{Content, decode, key_of};
use crate::queue::group::Assembler;
use crate::queue::repair::{Ranges, is_lost};
use crate::queue::salvage::RawFrames;
use crate::queue::{Chunk, Partitions, QueuedEvent, ReadLimit, Sequence};

/// Sealed generations that stay open for reading. Lanes that keep pace share one.
const OPEN_FOR_READING: usize = 3;
/// Rebuilds of a generation in one read, before its error is given back.
const REBUILDS: u32 = 2;

impl Generations {
    /// Reads events of `partitions` from disk, of one generation at the most. `committed` is where
    /// the log ends for readers.
    pub(in crate::queue) fn read(
        &self,
        from: Sequence,
        committed: Sequence,
        partitions: &Partitions,
        limit: ReadLimit,
    ) -> Result<Chunk, EngineError> {
        let chunk = self.reading(from, |open| {
            let end = open.end.unwrap_or(committed).min(committed);
            let mut chunk = Chunk { events: Vec::new(), position: end.max(from) };
            let mut bytes = 0;
            let mut taken = 0;
            visit(open, from.max(open.first), end, |event| {
                if event.sequence < from || !partitions.contains(event.user.partition()) {
                    return true;
                }
                let full = taken >= limit.events || bytes + event.json.len() > limit.bytes;
                if full && taken > 0 {
                    chunk.position = event.sequence;
                    return false;
                }
                taken += 1;
                bytes += event.json.len();
                chunk.events.push(event);
                true
            })?;
            Ok(chunk)
        })?;
        let nothing = || Chunk { events: Vec::new(), position: committed.max(from) };
        Ok(chunk.unwrap_or_else(nothing))
    }

    /// Reads just these events, ascending; those that are not there are left out.
    pub(in crate::queue) fn read_exactly(
        &self,
        sequences: &[Sequence],
        committed: Sequence,
    ) -> Result<Vec<QueuedEvent>, EngineError> {
        let mut found = Vec::with_capacity(sequences.len());
        let mut wanted = sequences;
        while let Some(next) = wanted.first() {
            let read = self.reading(*next, |open| {
                let end = open.end.unwrap_or(committed).min(committed);
                let here = wanted.partition_point(|sequence| *sequence < end);
                let (these, _) = wanted.split_at(here);
                let mut events = Vec::with_capacity(here);
                let Some(last) = these.last() else { return Ok((0, events)) };
                visit(open, (*next).max(open.first), last.next(), |event| {
                    if these.binary_search(&event.sequence).is_ok() {
                        events.push(event);
                    }
                    true
                })?;
                Ok((here, events))
            })?;
            let Some((here @ 1.., events)) = read else { break };
            found.extend(events);
            wanted = wanted.get(here..).unwrap_or_default();
        }
        Ok(found)
    }

    /// Runs `read` on the generation in which the first event at or after `from` may lie; where
    /// that shows damage, the generation is rebuilt, and read again. None where there is none.
    fn reading<T>(
        &self,
        from: Sequence,
        mut read: impl FnMut(&Open) -> Result<T, EngineError>,
    ) -> Result<Option<T>, EngineError> {
        let mut rebuilds = 0;
        loop {
            let (place, error) = match self.open_for_reading(from) {
                Ok(None) => return Ok(None),
                Ok(Some(open)) => match read(&open) {
                    Ok(value) => return Ok(Some(value)),
                    Err(error) => (open.place, error),
                },
                Err(failed) => failed,
            };
            if rebuilds == REBUILDS {
                return Err(error);
            }
            rebuilds += 1;
            self.mend(place, error, false)?;
        }
    }

    /// The generation in which the first event at or after `from` may lie, open.
    fn open_for_reading(&self, from: Sequence) -> Result<Option<Open>, (Place, EngineError)> {
        let mut opened = None;
        loop {
            let (path, place) = match self.lock().find(from, opened.take()) {
                Found::None => return Ok(None),
                Found::Open(open) => return Ok(Some(open)),
                Found::Closed(path, place) => (path, place),
            };
            let _one_at_a_time = self.opening();
            // Another reader may have opened it while this one waited.
            match self.lock().find(from, None) {
                Found::Open(open) => return Ok(Some(open)),
                Found::Closed(again, _) if again == path => {}
                Found::Closed(..) | Found::None => continue,
            }
            let raw = RawFrames::find(&path).map_err(|error| (place, error.into()))?;
            opened = Some((path, Arc::new(raw)));
        }
    }
}

impl Inner {
    /// Looks for the generation that may hold `from`; `opened` is one that was just opened.
    fn find(&mut self, from: Sequence, opened: Option<(PathBuf, Arc<RawFrames>)>) -> Found {
        self.reads += 1;
        let holds = |generation: &Generation| generation.end.is_none_or(|end| end > from);
        let Some((&first, generation)) = self.row.iter_mut().find(|(_, g)| holds(g)) else {
            return Found::None;
        };
        generation.last_read = self.reads;
        if let Some((path, raw)) = opened
            && path == generation.path
            && generation.end.is_some()
        {
            generation.raw = Some(raw);
        }
        let place = Place { first, rebuilds: generation.rebuilds };
        let source = match (&generation.database, &generation.raw) {
            (Some(database), _) => Source::Database(Arc::clone(database)),
            (None, Some(raw)) => Source::Raw(Arc::clone(raw)),
            (None, None) => return Found::Closed(generation.path.clone(), place),
        };
        let open = Open {
            source,
            place,
            first: Sequence::new(first),
            end: generation.end,
            lost: Arc::clone(&generation.lost),
        };
        self.close_least_read();
        Found::Open(open)
    }

    fn close_least_read(&mut self) {
        let open = || |g: &&mut Generation| g.raw.is_some();
        while self.row.values_mut().filter(open()).count() > OPEN_FOR_READING {
            if let Some(least) = self.row.values_mut().filter(open()).min_by_key(|g| g.last_read) {
                least.raw = None;
            }
        }
    }
}

/// A generation that is open for reading.
#[derive(Debug)]
struct Open {
    source: Source,
    place: Place,
    first: Sequence,
    end: Option<Sequence>,
    lost: Arc<Ranges>,
}

/// Where a generation's frames are read from.
#[derive(Debug)]
enum Source {
    /// While it is written.
    Database(Arc<Database>),
    Raw(Arc<RawFrames>),
}

impl Source {
    /// Calls `visit` with all frames by key, from the last one that begins at or before `from`
    /// on, until it returns false.
    fn scan(
        &self,
        from: Sequence,
        mut visit: impl FnMut(Sequence, &[u8]) -> bool,
    ) -> Result<(), EngineError> {
        let database = match self {
            Self::Raw(raw) => return Ok(raw.scan(from, visit)?),
            Self::Database(database) => database,
        };
        let first_of = |key: &[u8]| key.first_chunk().copied().unwrap_or(key_of(from));
        // The frame that holds `from` may be a part of an event.
        let mut key = key_of(from).to_vec();
        key.extend_from_slice(&[0xff; 4]);
        let start = database.last_at_most(&key)?.map_or(key_of(from), |(key, _)| first_of(&key));
        database.scan(&start, |key, value| {
            visit(Sequence::new(u64::from_be_bytes(first_of(key))), value)
        })
    }
}

enum Found {
    None,
    Open(Open),
    Closed(PathBuf, Place),
}

/// Calls `each` with the whole events from `from` to before `end`, in order, until it returns
/// false. What is missing and not known to be lost is an error.
fn visit(
    open: &Open,
    from: Sequence,
    end: Sequence,
    mut each: impl FnMut(QueuedEvent) -> bool,
) -> Result<(), EngineError> {
    let mut assembler = Assembler::default();
    let mut events = Vec::new();
    let mut expected = from.get();
    let mut is_over = false;
    let mut damage = None;
    let mut missing = |first: u64, last: u64| {
        let known = first > last || is_lost(&open.lost, first, last);
        if !known {
            damage = Some(format!("the events {first} to {last} are missing"));
        }
        known
    };
    open.source.scan(from, |first, value| {
        if first >= end {
            return false;
        }
        let Ok(frame) = decode(value) else { return missing(expected, expected) };
        let header = &frame.header;
        let first = header.first.get();
        let part = if let Content::Part(part) = header.content { Some(part) } else { None };
        let continues = part.is_some_and(|part| part > 0);
        if !continues && first > expected && !missing(expected, first - 1) {
            return false;
        }
        if !assembler.push(&frame, &mut events) && !continues {
            return missing(first, first);
        }
        if part.is_some() && events.is_empty() {
            // The event is not complete yet; should it never be, then it is missing.
            return true;
        }
        expected = expected.max(header.end().get());
        is_over = !events.drain(..).all(&mut each);
        !is_over
    })?;
    if !is_over {
        missing(expected, end.get().saturating_sub(1));
    }
    damage.map_or(Ok(()), |damage| Err(EngineError::Damaged(damage)))
}
