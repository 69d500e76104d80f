//! The log's generations: a row of databases, each in a folder named by its first sequence.
//!
//! Nothing is deleted event by event: a generation that every lane has passed is removed as a
//! whole. A generation ends where it was sealed, at the latest where the next one begins; what
//! lies behind that in its files (a group whose commit failed) doesn't count.
//!
//! The one that is written is read through its database, the others from their raw bytes, see
//! `salvage`. Within a generation every sequence follows the one before: a gap is damage, and is noticed by
//! whoever reads. Then the generation is rebuilt from what is readable, see `repair`.

use std::collections::BTreeMap;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::{error, warn};

use super::compact::{compact, remove_left_over};
use super::engine::{self, Database, EngineError, folder_bytes, sync_folder};
use super::frame::{Content, decode, key_of, left_out};
use super::group::Assembler;
use super::passed::Passed;
use super::repair::{
    Ranges, describe, generation_first, generation_path, is_lost, read_lost, rebuild,
};
use super::salvage::{RawFrames, Span};
use super::{Chunk, Partitions, QueuedEvent, ReadLimit, Sequence};

/// Sealed generations that stay open for reading. Lanes that keep pace share one.
const OPEN_FOR_READING: usize = 3;
/// Reads that fail in a row before a device's errors count as damage.
const FAILURES: u32 = 3;
/// Rebuilds of a generation in one read, before its error is given back.
const REBUILDS: u32 = 2;
/// Damages that are remembered, and ranges of each.
const REMEMBERED: usize = 64;

/// See the module. Its methods block: they are for threads, not for the runtime.
#[derive(Debug)]
pub(super) struct Generations {
    dir: PathBuf,
    folder: PathBuf,
    inner: Mutex<Inner>,
    /// Held while a generation is opened, rebuilt or removed: never together with `inner`, for
    /// which the writer waits.
    opening: Mutex<()>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By first sequence.
    row: BTreeMap<u64, Generation>,
    /// Counts reads, to know which open one was read last.
    reads: u64,
    damages: Vec<Damage>,
    /// Sequences found to be lost since the start.
    newly_lost: u64,
    /// Events were lost that the counts still hold.
    is_count_due: bool,
}

#[derive(Debug)]
struct Generation {
    path: PathBuf,
    /// Set while it is written.
    database: Option<Arc<Database>>,
    /// Set while it is read, once it is sealed.
    raw: Option<Arc<RawFrames>>,
    /// The sequence behind its last; none while it is written.
    end: Option<Sequence>,
    /// Events ever appended before its first.
    appended_before: u64,
    /// Sequences that could not be read when it was rebuilt.
    lost: Arc<Ranges>,
    rebuilds: u32,
    failures: u32,
    /// On the device, when it was sealed.
    sealed_bytes: u64,
    last_read: u64,
    /// Found damaged while it is written: to be sealed, so that it can be rebuilt.
    is_damaged: bool,
}

/// Something of the queue's folder that was damaged, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The folder: a generation's, `state` or `dead-letters`.
    pub what: String,
    pub reason: String,
    /// Sequences whose events are lost, the first ranges of many.
    pub lost: Vec<RangeInclusive<Sequence>>,
    /// Where the damaged files are now.
    pub aside: PathBuf,
}

impl Damage {
    pub(super) fn new(
        path: &Path,
        reason: &EngineError,
        lost: &[(u64, u64)],
        aside: &Path,
    ) -> Self {
        let lost = lost.iter().take(REMEMBERED);
        Self {
            what: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            reason: reason.to_string(),
            lost: lost.map(|(first, last)| Sequence::new(*first)..=Sequence::new(*last)).collect(),
            aside: aside.to_owned(),
        }
    }
}

/// A generation at a moment: which, and how often it was rebuilt.
#[derive(Clone, Copy, Debug)]
struct Place {
    first: u64,
    rebuilds: u32,
}

impl Generations {
    /// The row in `dir`'s folder `queue`, which exists; generations are added by whoever opens the
    /// log.
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            folder: dir.join("queue"),
            inner: Mutex::default(),
            opening: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opening(&self) -> MutexGuard<'_, ()> {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The folders found, by first sequence.
    pub(super) fn found(&self) -> std::io::Result<BTreeMap<u64, PathBuf>> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if let Some(first) = generation_first(&entry.file_name()) {
                found.insert(first, entry.path());
            }
        }
        Ok(found)
    }

    pub(super) fn path_of(&self, first: Sequence) -> PathBuf {
        generation_path(&self.folder, first)
    }

    /// Adds a sealed generation, closed.
    pub(super) fn add_sealed(
        &self,
        first: u64,
        path: PathBuf,
        end: Sequence,
        appended_before: u64,
    ) {
        remove_left_over(&path);
        let lost = read_lost(&path);
        let mut inner = self.lock();
        inner.is_count_due |= !lost.is_empty();
        let generation = Generation {
            sealed_bytes: folder_bytes(&path),
            path,
            database: None,
            raw: None,
            end: Some(end),
            appended_before,
            lost: Arc::new(lost),
            rebuilds: 0,
            failures: 0,
            last_read: 0,
            is_damaged: false,
        };
        inner.row.insert(first, generation);
    }

    /// Adds the one that is written.
    pub(super) fn add_written(
        &self,
        first: Sequence,
        database: &Arc<Database>,
        appended_before: u64,
    ) {
        let path = self.path_of(first);
        let generation = Generation {
            lost: Arc::new(read_lost(&path)),
            path,
            database: Some(Arc::clone(database)),
            raw: None,
            end: None,
            appended_before,
            rebuilds: 0,
            failures: 0,
            sealed_bytes: 0,
            last_read: 0,
            is_damaged: false,
        };
        self.lock().row.insert(first.get(), generation);
    }

    /// Where the log begins: no event lies before this.
    pub(super) fn start(&self) -> Option<Sequence> {
        self.lock().row.keys().next().copied().map(Sequence::new)
    }

    /// The first sequences of all.
    pub(super) fn firsts(&self) -> Vec<u64> {
        self.lock().row.keys().copied().collect()
    }

    /// Makes durable what was written to the one that is written.
    pub(super) fn sync_written(&self) -> Result<(), EngineError> {
        let written = self
            .lock()
            .row
            .values()
            .find_map(|g| if g.end.is_none() { g.database.clone() } else { None });
        written.map_or(Ok(()), |database| database.sync())
    }

    /// Writes a sealed generation anew, because what was written to it may not be on disk.
    pub(super) fn distrust(&self, first: Sequence) -> Result<(), EngineError> {
        let rebuilds = self.lock().row.get(&first.get()).map_or(0, |g| g.rebuilds);
        let place = Place { first: first.get(), rebuilds };
        self.mend(place, EngineError::Damaged("a sync of it failed".to_owned()), true)
    }

    /// The generation in which `sequence` lies or that follows it: its first sequence, and the
    /// events ever appended before that.
    pub(super) fn locate(&self, sequence: Sequence) -> Option<(Sequence, u64)> {
        let inner = self.lock();
        let mut row = inner.row.iter();
        let (first, generation) = row.find(|(_, g)| g.end.is_none_or(|end| end > sequence))?;
        Some((Sequence::new(*first), generation.appended_before))
    }

    /// The oldest generation, if it is sealed: its first sequence, and the one behind its last.
    pub(super) fn oldest_sealed(&self) -> Option<(Sequence, Sequence)> {
        let inner = self.lock();
        let (first, generation) = inner.row.first_key_value()?;
        Some((Sequence::new(*first), generation.end?))
    }

    /// The sealed ones: first sequence, and the one behind the last; ascending.
    pub(super) fn sealed(&self) -> Vec<(Sequence, Sequence)> {
        let inner = self.lock();
        let sealed =
            inner.row.iter().filter_map(|(first, g)| Some((Sequence::new(*first), g.end?)));
        sealed.collect()
    }

    /// Writes a sealed generation anew without what is settled, see `compact`: its bytes before and
    /// after, or none where it stays as it is. What was `passed` has to be so on disk.
    pub(super) fn compact(
        &self,
        first: Sequence,
        passed: &Passed,
    ) -> Result<Option<(u64, u64)>, EngineError> {
        let _not_meanwhile = self.opening();
        let (path, end, lost, before) = {
            let inner = self.lock();
            let Some(generation) = inner.row.get(&first.get()) else { return Ok(None) };
            let Some(end) = generation.end else { return Ok(None) };
            let before = generation.sealed_bytes;
            (generation.path.clone(), end, Arc::clone(&generation.lost), before)
        };
        let raw = RawFrames::find(&path)?;
        let contents = raw.contents(Span { first, end: Some(end), limit: None })?;
        if contents.lost.iter().any(|(from, to)| !is_lost(&lost, *from, *to)) {
            // Whoever reads it meets the damage.
            return Ok(None);
        }
        if !compact(&path, before, (&raw, &contents), (first, end), passed)? {
            return Ok(None);
        }
        let after = folder_bytes(&path);
        if let Some(generation) = self.lock().row.get_mut(&first.get()) {
            generation.raw = None;
            generation.sealed_bytes = after;
        }
        Ok(Some((before, after)))
    }

    /// Sequences known to be lost in the generations from `from` on, before `before`.
    pub(super) fn lost_between(&self, from: Sequence, before: Sequence) -> u64 {
        let inner = self.lock();
        let lost = inner.row.range(from.get()..).flat_map(|(_, generation)| generation.lost.iter());
        lost.map(|(first, last)| (last + 1).min(before.get()).saturating_sub(*first)).sum()
    }

    /// Events that compaction left out of the generations from this one on.
    pub(super) fn left_out(&self, from: Sequence) -> Result<u64, EngineError> {
        let _not_meanwhile = self.opening();
        let paths: Vec<_> = {
            let inner = self.lock();
            let sealed = inner.row.range(from.get()..).filter(|(_, g)| g.end.is_some());
            sealed.map(|(_, generation)| generation.path.clone()).collect()
        };
        let mut events = 0;
        for path in paths {
            RawFrames::find(&path)?.scan(Sequence::FIRST, |_, value| {
                events += decode(value).map_or(0, |(header, records)| left_out(&header, records));
                true
            })?;
        }
        Ok(events)
    }

    /// Ends the written one before `end`. It stays readable.
    pub(super) fn seal(&self, first: Sequence, end: Sequence) {
        let mut inner = self.lock();
        if let Some(generation) = inner.row.get_mut(&first.get()) {
            generation.end = Some(end);
            generation.sealed_bytes = folder_bytes(&generation.path);
            // Most are removed without another read.
            generation.database = None;
        }
    }

    /// The bytes that all generations take on the device.
    pub(super) fn disk_bytes(&self) -> u64 {
        let inner = self.lock();
        inner
            .row
            .values()
            .map(|generation| match (&generation.end, &generation.database) {
                (None, Some(database)) => database.disk_bytes(),
                _ => generation.sealed_bytes,
            })
            .sum()
    }

    /// The first sequences of the sealed generations that end at or before `low`.
    pub(super) fn passed(&self, low: Sequence) -> Vec<Sequence> {
        let inner = self.lock();
        let passed = inner.row.iter().filter(|(_, g)| g.end.is_some_and(|end| end <= low));
        passed.map(|(first, _)| Sequence::new(*first)).collect()
    }

    /// Removes a generation, files and all.
    pub(super) fn remove(&self, first: Sequence) -> std::io::Result<()> {
        let _not_meanwhile = self.opening();
        let Some(generation) = self.lock().row.remove(&first.get()) else { return Ok(()) };
        drop(generation.database);
        drop(generation.raw);
        match engine::remove_folder(&generation.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => sync_folder(&self.folder),
        }
    }

    /// Reads events of `partitions` from disk, of one generation at the most. `committed` is where
    /// the log ends for readers.
    pub(super) fn read(
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
    pub(super) fn read_exactly(
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

    /// Rebuilds a generation that showed this error; gives the error back where that can't help,
    /// or not yet. Where nothing turns out to be missing it is only read anew, unless it `must`
    /// be rebuilt: a database that is being closed may still move its frames.
    fn mend(&self, place: Place, error: EngineError, must: bool) -> Result<(), EngineError> {
        let _one_at_a_time = self.opening();
        let (path, known_lost, span) = {
            let mut inner = self.lock();
            let limit = inner.row.range(place.first + 1..).next().map(|(next, _)| *next);
            let Some(generation) = inner.row.get_mut(&place.first) else { return Ok(()) };
            if generation.rebuilds != place.rebuilds {
                return Ok(());
            }
            generation.failures += 1;
            generation.raw = None;
            let is_damage = match &error {
                EngineError::Damaged(_) => true,
                EngineError::Io(_) => generation.failures >= FAILURES,
                EngineError::NoSpace => false,
            };
            if generation.end.is_none() {
                generation.is_damaged |= is_damage;
                return Err(error);
            }
            if !is_damage {
                return Err(error);
            }
            let (first, limit) = (Sequence::new(place.first), limit.map(Sequence::new));
            let span = Span { first, end: generation.end, limit };
            (generation.path.clone(), Arc::clone(&generation.lost), span)
        };
        let raw = RawFrames::find(&path)?;
        let contents = raw.contents(span)?;
        let is_new = |(first, last): &&(u64, u64)| !is_lost(&known_lost, *first, *last);
        let newly_lost: u64 =
            contents.lost.iter().filter(is_new).map(|(first, last)| last - first + 1).sum();
        if newly_lost == 0 && !must {
            if let Some(generation) = self.lock().row.get_mut(&place.first) {
                generation.rebuilds += 1;
            }
            return Ok(());
        }
        let aside = match rebuild(&self.dir, &path, &raw, &contents) {
            Ok(aside) => aside,
            Err(error) => {
                warn!(
                    generation = place.first,
                    error = %error,
                    "what is damaged stays in its place: what is readable could not be copied"
                );
                path.clone()
            }
        };
        error!(
            generation = place.first,
            reason = %error,
            sequences.lost = describe(&contents.lost),
            events.kept = contents.events,
            quarantine = %aside.display(),
            "a generation is damaged: what is readable of it stays in the queue"
        );
        let bytes = folder_bytes(&path);
        let mut inner = self.lock();
        let damage = Damage::new(&path, &error, &contents.lost, &aside);
        if let Some(generation) = inner.row.get_mut(&place.first) {
            generation.rebuilds += 1;
            generation.failures = 0;
            generation.sealed_bytes = bytes;
            generation.lost = Arc::new(contents.lost);
        }
        inner.is_count_due |= newly_lost > 0;
        inner.newly_lost += newly_lost;
        inner.remember(damage);
        Ok(())
    }

    /// Whether the written one was found damaged: only once it is sealed can it be rebuilt.
    pub(super) fn is_written_damaged(&self) -> bool {
        self.lock().row.values().any(|generation| generation.end.is_none() && generation.is_damaged)
    }

    /// Where the last lost event lies that the counts may still hold; none when there is none.
    pub(super) fn count_due_until(&self) -> Option<Sequence> {
        let inner = self.lock();
        if !inner.is_count_due {
            return None;
        }
        let lost = inner.row.values().filter_map(|generation| generation.lost.last());
        Some(Sequence::new(lost.map(|(_, last)| last + 1).max().unwrap_or(0)))
    }

    /// Notes that the counts hold no lost event any more.
    pub(super) fn counted(&self) {
        self.lock().is_count_due = false;
    }

    /// Notes a damage by which so many sequences are lost.
    pub(super) fn remember(&self, damage: Damage, lost: u64) {
        let mut inner = self.lock();
        inner.newly_lost += lost;
        inner.remember(damage);
    }

    /// Sequences found to be lost since the start.
    pub(super) fn newly_lost(&self) -> u64 {
        self.lock().newly_lost
    }

    /// The damages found since the start, the newest of many.
    pub(super) fn damages(&self) -> Vec<Damage> {
        self.lock().damages.clone()
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

impl Inner {
    fn remember(&mut self, damage: Damage) {
        if self.damages.len() == REMEMBERED {
            self.damages.remove(0);
        }
        self.damages.push(damage);
    }

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
        let Ok((header, records)) = decode(value) else { return missing(expected, expected) };
        let first = header.first.get();
        let part = if let Content::Part(part) = header.content { Some(part) } else { None };
        let continues = part.is_some_and(|part| part > 0);
        if !continues && first > expected && !missing(expected, first - 1) {
            return false;
        }
        if !assembler.push(&header, records, &mut events) && !continues {
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
