//! A look at a queue's folder that no process holds, for the offline commands. It changes nothing
//! in it: generations are read as raw files, the small databases through a copy of them.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use gmfy_sidecar::queue::Folder;
//!
//! let folder = Folder::open("data".as_ref())?;      // locked until dropped
//! for generation in folder.generations() {          // at once: from the stored counts
//!     println!("{} {:?} {}", generation.first, generation.events, generation.bytes);
//!     let found = folder.verify(generation.first)?; // reads all of it
//!     println!("{} {:?}", found.events, found.lost);
//!     folder.each_event(generation.first, |event, is_settled| {
//!         println!("{} {is_settled} {}", event.sequence, event.json.len());
//!         true
//!     })?;
//! }
//! # Ok(())
//! # }
//! ```

use std::fs::{self, File};
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::dead_letters::DeadLetters;
use super::engine::{EngineError, data_file, folder_bytes};
use super::format;
use super::generations::Generations;
use super::open::{OpenError, STATE, lock};
use super::passed::Passed;
use super::salvage::{Contents, RawFrames, Span};
use super::state::{StateDb, Stored};
use super::{DeadLetter, QueuedEvent, Sequence};

/// A queue's folder, locked, and looked at only. Its methods block.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
    _lock: File,
    generations: Vec<GenerationSummary>,
    passed: Passed,
    state_damage: Option<String>,
}

/// A generation of the log, as far as it is known without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerationSummary {
    pub first: Sequence,
    /// The sequence behind its last event, and how many it holds, settled ones included; none
    /// for the newest, to which events may have been appended up to the end of the process, and
    /// where the stored counts are damaged.
    pub end: Option<Sequence>,
    pub events: Option<u64>,
    /// On the device.
    pub bytes: u64,
    pub path: PathBuf,
    /// Where the next one begins, if there is one.
    limit: Option<Sequence>,
}

/// What reading all of a generation found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerationReport {
    pub first: Sequence,
    /// The sequence behind its last event.
    pub end: Sequence,
    /// Readable events, settled ones included.
    pub events: u64,
    /// Of these, the ones not settled.
    pub waiting: u64,
    pub frames: u64,
    /// Sequences whose events are lost. A start leaves them out, and counts them as dropped.
    pub lost: Vec<RangeInclusive<Sequence>>,
}

impl GenerationReport {
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        !self.lost.is_empty()
    }
}

/// What reading the dead letters found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLettersReport {
    pub letters: Vec<DeadLetter>,
    /// Why there may have been more.
    pub damage: Option<String>,
}

impl Folder {
    /// Locks the folder and reads the stored counts and cursors.
    ///
    /// # Errors
    /// When there is no queue, another process holds it, or a newer version wrote it.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let folder = |source| OpenError::Folder { dir: dir.to_owned(), source };
        // A missing folder is not created.
        let log = dir.join("queue");
        fs::metadata(&log).map_err(folder)?;
        let lock = lock(dir)?;
        format::check_only(dir)?;
        let state_path = dir.join(STATE);
        let (stored, state_damage) =
            match read_copy(&state_path, |copy| StateDb::open(copy)?.load()) {
                Ok(Some(stored)) => (stored, None),
                Ok(None) => (Stored::default(), None),
                Err(error) => (Stored::default(), Some(error.to_string())),
            };
        let found = Generations::new(dir).found().map_err(folder)?;
        let mut generations = Vec::with_capacity(found.len());
        let mut firsts = found.into_iter().peekable();
        while let Some((first, path)) = firsts.next() {
            let sealed = stored.generations.get(&first).and_then(|record| record.sealed);
            generations.push(GenerationSummary {
                first: Sequence::new(first),
                end: sealed.map(|sealed| Sequence::new(sealed.end)),
                events: sealed.map(|sealed| sealed.events),
                bytes: folder_bytes(&path),
                path,
                limit: firsts.peek().map(|(next, _)| Sequence::new(*next)),
            });
        }
        let passed = Passed::of(&stored.lanes);
        Ok(Self { dir: dir.to_owned(), _lock: lock, generations, passed, state_damage })
    }

    /// The log's generations, oldest first.
    #[must_use]
    pub fn generations(&self) -> &[GenerationSummary] {
        &self.generations
    }

    /// Why the cursors can't be read. A start without them delivers everything again that is in
    /// the log.
    #[must_use]
    pub fn state_damage(&self) -> Option<&str> {
        self.state_damage.as_deref()
    }

    /// Whether a generation of this first sequence is settled as a whole: a start removes it.
    #[must_use]
    pub fn is_passed(&self, generation: &GenerationSummary) -> bool {
        generation.end.is_some_and(|end| end <= self.passed.low())
    }

    /// What earlier starts put aside because it was damaged, with its bytes on the device.
    ///
    /// # Errors
    /// When the folder can't be listed.
    pub fn quarantined(&self) -> io::Result<Vec<(PathBuf, u64)>> {
        let entries = match fs::read_dir(self.dir.join("quarantine")) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = entries
            .map(|entry| entry.map(|entry| (entry.path(), folder_bytes(&entry.path()))))
            .collect::<io::Result<Vec<_>>>()?;
        found.sort();
        Ok(found)
    }

    /// Reads the generation that begins with `first`, as a start and the lanes would.
    ///
    /// # Errors
    /// When it can't be read at all; damage is no error.
    pub fn verify(&self, first: Sequence) -> io::Result<GenerationReport> {
        let (raw, contents) = self.contents(first)?;
        let mut waiting = 0;
        raw.visit(&contents, |event| {
            waiting += u64::from(!self.passed.contains(event.user.partition(), event.sequence));
            true
        })?;
        let lost = contents.lost.iter();
        let lost = lost.map(|(first, last)| Sequence::new(*first)..=Sequence::new(*last));
        Ok(GenerationReport {
            first,
            end: contents.end,
            events: contents.events,
            waiting,
            frames: contents.frame_count(),
            lost: lost.collect(),
        })
    }

    /// Calls `each` with the readable events of the generation that begins with `first`,
    /// ascending, and whether each is settled, until it returns false.
    ///
    /// # Errors
    /// When it can't be read at all; damaged events are left out.
    pub fn each_event(
        &self,
        first: Sequence,
        mut each: impl FnMut(QueuedEvent, bool) -> bool,
    ) -> io::Result<()> {
        let (raw, contents) = self.contents(first)?;
        raw.visit(&contents, |event| {
            let is_settled = self.passed.contains(event.user.partition(), event.sequence);
            each(event, is_settled)
        })
    }

    /// All dead letters, ascending.
    #[must_use]
    pub fn dead_letters(&self) -> DeadLettersReport {
        let read = read_copy(&self.dir.join("dead-letters"), |copy| {
            DeadLetters::open(copy, u64::MAX)?.list(Sequence::FIRST, usize::MAX, usize::MAX)
        });
        match read {
            Ok(letters) => DeadLettersReport { letters: letters.unwrap_or_default(), damage: None },
            Err(error) => {
                DeadLettersReport { letters: Vec::new(), damage: Some(error.to_string()) }
            }
        }
    }

    fn contents(&self, first: Sequence) -> io::Result<(RawFrames, Contents)> {
        let at = self.generations.binary_search_by_key(&first, |generation| generation.first);
        let generation = at.ok().and_then(|at| self.generations.get(at)).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("no generation begins with {first}"))
        })?;
        let raw = RawFrames::find(&generation.path)?;
        let contents =
            raw.contents(Span { first, end: generation.end, limit: generation.limit })?;
        Ok((raw, contents))
    }
}

/// Copies a database's folder, and reads the copy; none where it has no file.
fn read_copy<T>(
    path: &Path,
    read: impl FnOnce(&Path) -> Result<T, EngineError>,
) -> Result<Option<T>, EngineError> {
    if !data_file(path).exists() {
        return Ok(None);
    }
    let folder = tempfile::tempdir()?;
    let copy = folder.path().join("copy");
    copy_files(path, &copy)?;
    read(&copy).map(Some)
}

fn copy_files(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_files(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
