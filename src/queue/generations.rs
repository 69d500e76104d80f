//! The log's generations: a row of databases, each in a folder named by its first sequence.
//!
//! Nothing is deleted event by event: a generation that every lane has passed is removed as a
//! whole. A generation ends where it was sealed, at the latest where the next one begins; what
//! lies behind that in its files (a group whose commit failed) doesn't count.
//!
//! The one that is written is read through its database, the others from their raw bytes, see
//! `salvage`. Within a generation every sequence follows the one before: a gap is damage, and is noticed by
//! whoever reads. Then the generation is rebuilt from what is readable, see `repair`.

mod damage;
mod reading;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Sequence;
use super::compact::{fresh_file, remove_left_over, write_compacted};
use super::engine::{self, Database, EngineError, data_file, folder_bytes, sync_folder};
use super::frame::{decode, left_out};
use super::passed::Passed;
use super::repair::{Ranges, generation_first, generation_path, is_lost, read_lost};
use super::salvage::{RawFrames, Span};

pub use damage::Damage;

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
    /// after, or none where it stays as it is. What was `passed` has to be so on disk. Others go on
    /// meanwhile; no two of these may.
    pub(super) fn compact(
        &self,
        first: Sequence,
        passed: &Passed,
    ) -> Result<Option<(u64, u64)>, EngineError> {
        let (path, end, lost, before, rebuilds) = {
            let inner = self.lock();
            let Some(generation) = inner.row.get(&first.get()) else { return Ok(None) };
            let Some(end) = generation.end else { return Ok(None) };
            let lost = Arc::clone(&generation.lost);
            (generation.path.clone(), end, lost, generation.sealed_bytes, generation.rebuilds)
        };
        let raw = RawFrames::find(&path)?;
        let contents = raw.contents(Span { first, end: Some(end), limit: None })?;
        if contents.lost.iter().any(|(from, to)| !is_lost(&lost, *from, *to)) {
            // Whoever reads it meets the damage.
            return Ok(None);
        }
        let fresh = fresh_file(&self.folder);
        let written = write_compacted(&fresh, before, (&raw, &contents), (first, end), passed);
        let replaced = match written {
            Ok(false) => return Ok(None),
            Ok(true) => self.replace(Place { first: first.get(), rebuilds }, &fresh),
            Err(error) => Err(error.into()),
        };
        if !matches!(replaced, Ok(Some(_))) {
            remove_left_over(&self.folder);
        }
        Ok(replaced?.map(|after| (before, after)))
    }

    /// Puts a generation's new file in the place of the old one; returns its bytes, or none where
    /// the generation was removed or rebuilt meanwhile.
    fn replace(&self, place: Place, fresh: &Path) -> Result<Option<u64>, EngineError> {
        let _not_meanwhile = self.opening();
        let path = match self.lock().row.get(&place.first) {
            Some(generation) if generation.rebuilds == place.rebuilds => generation.path.clone(),
            _ => return Ok(None),
        };
        engine::rename(fresh, &data_file(&path))?;
        sync_folder(&path)?;
        let bytes = folder_bytes(&path);
        if let Some(generation) = self.lock().row.get_mut(&place.first) {
            generation.raw = None;
            generation.sealed_bytes = bytes;
        }
        Ok(Some(bytes))
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
                events += decode(value).map_or(0, |frame| left_out(&frame));
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
}
