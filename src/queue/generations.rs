//! The log's generations: a row of databases, each in a folder named by its first sequence.
//!
//! Nothing is deleted event by event: a generation that every lane has passed is removed as a
//! whole. A generation ends where it was sealed, at the latest where the next one begins; what
//! lies behind that in its files (a group whose commit failed) doesn't count.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::dedupe::Known;
use super::engine::{Database, EngineError, folder_bytes, sync_folder};
use super::frame::{decode, each_known, key_of};
use super::group::Assembler;
use super::{Chunk, Partitions, QueuedEvent, ReadLimit, Sequence};
use crate::clock::Timestamp;

/// Sealed generations that stay open for reading. Lanes that keep pace share one.
const OPEN_FOR_READING: usize = 3;

/// See the module. Its methods block: they are for threads, not for the runtime.
#[derive(Debug)]
pub(super) struct Generations {
    folder: PathBuf,
    inner: Mutex<Inner>,
    /// Held while a generation is opened, which takes milliseconds: never together with `inner`,
    /// for which the writer waits.
    opening: Mutex<()>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By first sequence.
    row: BTreeMap<u64, Generation>,
    /// Counts reads, to know which open one was read last.
    reads: u64,
}

#[derive(Debug)]
struct Generation {
    path: PathBuf,
    database: Option<Arc<Database>>,
    /// The same, for as long as anyone reads it: a folder can't be opened twice.
    in_use: Weak<Database>,
    /// The sequence behind its last; none while it is written.
    end: Option<Sequence>,
    /// On the device, when it was sealed.
    sealed_bytes: u64,
    last_read: u64,
}

impl Generations {
    /// The row in `folder`, which exists; generations are added by whoever opens the log.
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, inner: Mutex::default(), opening: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The folders found, by first sequence.
    pub(super) fn found(&self) -> std::io::Result<BTreeMap<u64, PathBuf>> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let first = name.to_str().and_then(|name| name.strip_prefix("gen-")?.parse().ok());
            if let Some(first) = first {
                found.insert(first, entry.path());
            }
        }
        Ok(found)
    }

    pub(super) fn path_of(&self, first: Sequence) -> PathBuf {
        self.folder.join(format!("gen-{:020}", first.get()))
    }

    /// Adds a sealed generation, closed.
    pub(super) fn add_sealed(&self, first: u64, path: PathBuf, end: Sequence) {
        let generation = Generation {
            sealed_bytes: folder_bytes(&path),
            path,
            database: None,
            in_use: Weak::new(),
            end: Some(end),
            last_read: 0,
        };
        self.lock().row.insert(first, generation);
    }

    /// Adds the one that is written.
    pub(super) fn add_written(&self, first: Sequence, database: Arc<Database>) {
        let generation = Generation {
            path: self.path_of(first),
            in_use: Arc::downgrade(&database),
            database: Some(database),
            end: None,
            sealed_bytes: 0,
            last_read: 0,
        };
        self.lock().row.insert(first.get(), generation);
    }

    /// Where the log begins: no event lies before this.
    pub(super) fn start(&self) -> Option<Sequence> {
        self.lock().row.keys().next().copied().map(Sequence::new)
    }

    /// Ends the written one before `end`. It stays readable.
    pub(super) fn seal(&self, first: Sequence, end: Sequence) {
        let mut inner = self.lock();
        if let Some(generation) = inner.row.get_mut(&first.get()) {
            generation.end = Some(end);
            generation.sealed_bytes = folder_bytes(&generation.path);
            // Closed, unless it is being read just now: most are removed without another read.
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
        let Some(generation) = self.lock().row.remove(&first.get()) else { return Ok(()) };
        drop(generation.database);
        match fs::remove_dir_all(&generation.path) {
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
        let Some(Open { database, first, end }) = self.open_for_reading(from)? else {
            return Ok(Chunk { events: Vec::new(), position: committed.max(from) });
        };
        let end = end.unwrap_or(committed).min(committed);
        let mut chunk = Chunk { events: Vec::new(), position: end.max(from) };
        let mut bytes = 0;
        let mut taken = 0;
        visit(&database, from.max(first), end, |event| {
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
    }

    /// The generation in which the first event at or after `from` may lie, open.
    fn open_for_reading(&self, from: Sequence) -> Result<Option<Open>, EngineError> {
        let mut opened = None;
        loop {
            let path = match self.lock().find(from, opened.take()) {
                Found::None => return Ok(None),
                Found::Open(open) => return Ok(Some(open)),
                Found::Closed(path) => path,
            };
            let _one_at_a_time = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
            // Another reader may have opened it while this one waited.
            if let Found::Open(open) = self.lock().find(from, None) {
                return Ok(Some(open));
            }
            opened = Some((path.clone(), Arc::new(Database::open(&path)?)));
        }
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
            let Some(open) = self.open_for_reading(*next)? else { break };
            let Open { database, first, end } = open;
            let end = end.unwrap_or(committed).min(committed);
            let here = wanted.partition_point(|sequence| *sequence < end);
            let (these, later) = wanted.split_at(here);
            let Some(last) = these.last() else { break };
            visit(&database, (*next).max(first), last.next(), |event| {
                if these.binary_search(&event.sequence).is_ok() {
                    found.push(event);
                }
                true
            })?;
            wanted = later;
        }
        Ok(found)
    }
}

/// A generation that is open for reading.
#[derive(Debug)]
struct Open {
    database: Arc<Database>,
    first: Sequence,
    end: Option<Sequence>,
}

enum Found {
    None,
    Open(Open),
    Closed(PathBuf),
}

impl Inner {
    /// Looks for the generation that may hold `from`; `opened` is one that was just opened.
    fn find(&mut self, from: Sequence, opened: Option<(PathBuf, Arc<Database>)>) -> Found {
        self.reads += 1;
        let holds = |generation: &Generation| generation.end.is_none_or(|end| end > from);
        let Some((&first, generation)) = self.row.iter_mut().find(|(_, g)| holds(g)) else {
            return Found::None;
        };
        generation.last_read = self.reads;
        if let Some((path, database)) = opened
            && path == generation.path
        {
            generation.in_use = Arc::downgrade(&database);
            generation.database = Some(database);
        }
        let database = generation.database.clone().or_else(|| generation.in_use.upgrade());
        let Some(database) = database else { return Found::Closed(generation.path.clone()) };
        let open = Open { database, first: Sequence::new(first), end: generation.end };
        self.close_least_read();
        Found::Open(open)
    }

    fn close_least_read(&mut self) {
        let open = || |g: &&mut Generation| g.end.is_some() && g.database.is_some();
        while self.row.values_mut().filter(open()).count() > OPEN_FOR_READING {
            if let Some(least) = self.row.values_mut().filter(open()).min_by_key(|g| g.last_read) {
                least.database = None;
            }
        }
    }
}

/// Calls `each` with the whole events from `from` to before `end`, in order, until it returns
/// false. Frames that can't be read are passed over.
fn visit(
    database: &Database,
    from: Sequence,
    end: Sequence,
    mut each: impl FnMut(QueuedEvent) -> bool,
) -> Result<(), EngineError> {
    // The frame that holds `from` begins at or before it.
    let mut key = key_of(from).to_vec();
    key.extend_from_slice(&[0xff; 4]);
    let start = match database.last_at_most(&key)? {
        Some((key, _)) => key.first_chunk().copied().unwrap_or_else(|| key_of(from)),
        None => key_of(from),
    };
    let mut assembler = Assembler::default();
    let mut events = Vec::new();
    database.scan(&start, |_, value| {
        let Ok((header, records)) = decode(value) else { return true };
        if header.first >= end {
            return false;
        }
        assembler.push(&header, records, &mut events);
        events.drain(..).all(&mut each)
    })
}

/// What a scan of a generation found.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Events of whole requests.
    pub(super) events: u64,
    /// The sequence behind the last event of a whole request; none where there is none.
    pub(super) end: Option<Sequence>,
    /// The sequence behind the last one that any frame names.
    pub(super) highest: Option<Sequence>,
    /// Keys of the frames of a request that was cut off.
    pub(super) cut_off: Vec<Vec<u8>>,
    /// Values that are no frames.
    pub(super) damaged: u64,
    /// What is to be known of the whole requests, and when it was accepted.
    pub(super) known: Vec<(Timestamp, Known)>,
}

/// Reads all frames before `limit`.
pub(super) fn survey(database: &Database, limit: Option<Sequence>) -> Result<Survey, EngineError> {
    let mut survey = Survey::default();
    let mut open_events = 0;
    let mut open_known = Vec::new();
    let mut is_open = false;
    database.scan(&[], |key, value| {
        let Ok((header, records)) = decode(value) else {
            survey.damaged += 1;
            return true;
        };
        if limit.is_some_and(|limit| header.first >= limit) {
            return false;
        }
        survey.highest = survey.highest.max(Some(header.end()));
        if header.begins_request {
            survey.cut_off.clear();
            open_events = 0;
            open_known.clear();
            is_open = true;
        }
        open_events += header.events();
        let at = header.accepted_at;
        if each_known(&header, records, |known| open_known.push((at, known))).is_err() {
            survey.damaged += 1;
        }
        survey.cut_off.push(key.to_vec());
        if header.ends_request && is_open {
            survey.events += open_events;
            survey.known.append(&mut open_known);
            survey.end = Some(header.end());
            survey.cut_off.clear();
            is_open = false;
        }
        true
    })?;
    Ok(survey)
}

/// Creates a folder, durably, where there is none.
pub(super) fn create_folder(path: &Path) -> std::io::Result<()> {
    fs::create_dir_all(path)?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_folder(parent),
        _ => Ok(()),
    }
}
