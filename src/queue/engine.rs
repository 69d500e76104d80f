//! The only place that names sled: a small ordered key-value database in a folder of its own.
//!
//! What sled 0.34 needs to be trusted with data (each of these was measured):
//! - `flush` hands its log to the operating system, which survives kill -9; only an `fdatasync` of
//!   the `db` file, on a handle of our own, survives a power cut ([`Database::sync`]).
//! - A value over `segment_size / 4`, or a node whose up to 17 entries are over that together, goes
//!   to a file under `blobs/` that is never synced. So values stay within [`MAX_VALUE`].
//! - On a damaged file it panics, so every call into it is caught and becomes an error.
//! - After a failed write a handle stays poisoned: drop it, and open the folder again.
//! - The lock on the folder can outlive the handle by some milliseconds.

mod pool;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The largest value that never leads to a blob: 17 of them, with their keys, stay below a quarter
/// of [`SEGMENT_SIZE`].
pub(super) const MAX_VALUE: usize = 7 * 1024;
const SEGMENT_SIZE: usize = 512 * 1024;
const SEGMENT_BYTES: u64 = SEGMENT_SIZE as u64;
/// Bytes at the beginning of a segment that sled writes first.
const SEGMENT_HEADER: usize = 20;
/// How much is laid when sled begins the last segment of what was.
const AHEAD: u64 = 2 * SEGMENT_BYTES;
const CACHE_BYTES: u64 = 4 * 1024 * 1024;

/// How often, and how long apart, an open is tried while the folder's lock lingers.
const OPEN_ATTEMPTS: u32 = 50;
const OPEN_PAUSE: Duration = Duration::from_millis(5);

/// Why the database did not do what was asked. None of these is worth repeating on the same
/// handle: open the folder again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EngineError {
    /// The device has no room.
    #[error("no space left on the device")]
    NoSpace,
    /// The device or file system refused.
    #[error("{0}")]
    Io(String),
    /// The files don't hold what was written.
    #[error("damaged: {0}")]
    Damaged(String),
}

impl From<io::Error> for EngineError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            _ => Self::Io(error.to_string()),
        }
    }
}

impl From<EngineError> for io::Error {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::NoSpace => Self::from(io::ErrorKind::StorageFull),
            EngineError::Io(_) | EngineError::Damaged(_) => Self::other(error.to_string()),
        }
    }
}

impl From<sled::Error> for EngineError {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(error) => error.into(),
            sled::Error::Corruption { .. } => Self::Damaged("sled found a bad checksum".to_owned()),
            sled::Error::CollectionNotFound(_)
            | sled::Error::Unsupported(_)
            | sled::Error::ReportableBug(_) => Self::Damaged(error.to_string()),
        }
    }
}

/// A call that reaches the file system; tests make each of them fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Open,
    Insert,
    Read,
    Flush,
    Write,
    Sync,
    SyncFolder,
    Create,
    Rename,
    Remove,
    Reserve,
}

/// Makes a call. Tests have it fail, before it did anything or half-way.
#[cfg(not(test))]
#[inline]
pub(super) fn attempt<T, E: From<EngineError>>(
    _: Op,
    _: &Path,
    call: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    call()
}

#[cfg(test)]
pub(super) use super::fault::attempt;

/// Where a test injects a failure; otherwise nothing.
pub(super) fn check(op: Op, path: &Path) -> Result<(), EngineError> {
    attempt(op, path, || Ok(()))
}

/// An open database: keys in byte order, values of at most [`MAX_VALUE`] bytes.
#[derive(Debug)]
pub(super) struct Database {
    tree: sled::Db,
    /// sled's file, for what sled does not sync.
    file: File,
    path: PathBuf,
    /// The file's length in bytes, and its blocks of 512 bytes on the device.
    length: AtomicU64,
    blocks: AtomicU64,
    /// Where the zeros end that lie ahead of sled, or where that is looked at again; at first 0.
    ahead: AtomicU64,
    /// Set by a failed sync. The next one would succeed with nothing on disk: the kernel tells of
    /// a lost write once.
    is_lost: AtomicBool,
}

impl Database {
    /// Opens the database in folder `path`; creates it, durably, where there is none.
    pub(super) fn open(path: &Path) -> Result<Self, EngineError> {
        let is_new = !data_file(path).exists();
        if is_new {
            attempt(Op::Create, path, || fs::create_dir_all(path))?;
        }
        let tree = attempt(Op::Open, path, || open_unlocked(path))?;
        let file = File::options().read(true).append(true).open(data_file(path))?;
        let database = Self {
            tree,
            file,
            path: path.to_owned(),
            length: AtomicU64::new(0),
            blocks: AtomicU64::new(0),
            ahead: AtomicU64::new(0),
            is_lost: AtomicBool::new(false),
        };
        database.measure();
        if is_new {
            database.flush()?;
            database.sync_folder()?;
        }
        Ok(database)
    }

    /// Makes the folder's own entries durable, and its parent's entry for it.
    fn sync_folder(&self) -> Result<(), EngineError> {
        attempt(Op::Sync, &self.path, || {
            self.file.sync_all()?;
            for entry in fs::read_dir(&self.path)? {
                let entry = entry?;
                if entry.file_type()?.is_file() {
                    File::open(entry.path())?.sync_all()?;
                }
            }
            Ok::<_, EngineError>(())
        })?;
        sync_folder(&self.path)?;
        self.path.parent().map_or(Ok(()), |parent| Ok(sync_folder(parent)?))
    }

    pub(super) fn insert(&self, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        debug_assert!(value.len() <= MAX_VALUE, "a value of {} bytes", value.len());
        attempt(Op::Insert, &self.path, || guarded(|| self.tree.insert(key, value).map(drop)))
    }

    /// Puts (some) or removes (none) these keys, all or none.
    pub(super) fn apply(&self, changes: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<(), EngineError> {
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(key.as_slice(), value.as_slice()),
                None => batch.remove(key.as_slice()),
            }
        }
        attempt(Op::Insert, &self.path, || guarded(|| self.tree.apply_batch(batch)))
    }

    pub(super) fn remove(&self, key: &[u8]) -> Result<(), EngineError> {
        attempt(Op::Insert, &self.path, || guarded(|| self.tree.remove(key).map(drop)))
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Value>, EngineError> {
        guarded(|| self.tree.get(key)).map(|value| value.map(Value))
    }

    /// Calls `visit` with entries from `from` on, ascending, until it returns false.
    pub(super) fn scan(
        &self,
        from: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError> {
        check(Op::Read, &self.path)?;
        guarded(|| {
            for entry in self.tree.range(from..) {
                let (key, value) = entry?;
                if !visit(&key, &value) {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Calls `visit` with all entries, descending, until it returns false.
    pub(super) fn scan_back(
        &self,
        mut visit: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError> {
        guarded(|| {
            for entry in self.tree.iter().rev() {
                let (key, value) = entry?;
                if !visit(&key, &value) {
                    break;
                }
            }
            Ok(())
        })
    }

    /// The last entry whose key is at most `key`.
    pub(super) fn last_at_most(&self, key: &[u8]) -> Result<Option<(Value, Value)>, EngineError> {
        guarded(|| self.tree.range(..=key).next_back().transpose())
            .map(|entry| entry.map(|(key, value)| (Value(key), Value(value))))
    }

    /// Hands all that was written to the operating system: it survives the end of the process.
    pub(super) fn flush(&self) -> Result<(), EngineError> {
        attempt(Op::Flush, &self.path, || guarded(|| self.tree.flush().map(drop)))?;
        self.measure();
        Ok(())
    }

    /// Waits until all that was flushed is on the device: it survives a power cut.
    ///
    /// After a failure it fails for ever: what was written since the last success may be lost.
    pub(super) fn sync(&self) -> Result<(), EngineError> {
        if self.is_lost.load(Ordering::Acquire) {
            return Err(EngineError::Io("an earlier sync of it failed".to_owned()));
        }
        let synced = attempt(Op::Sync, &self.path, || Ok(self.file.sync_data()?));
        if synced.is_err() {
            self.is_lost.store(true, Ordering::Release);
        }
        synced
    }

    /// Whether sled is about to reach the end of the zeros that lie ahead of it.
    pub(super) fn nears_its_end(&self) -> bool {
        let ahead = self.ahead.load(Ordering::Relaxed);
        ahead == 0 || self.has_begun(ahead - 1)
    }

    /// Writes zeros behind the end of the file, up to `limit` bytes of it; returns whether it did.
    /// Where there is no room for them, or none within the limit, that is looked at again a segment
    /// later.
    ///
    /// A sync of what lies within a file costs the device a write; of what makes the file longer, a
    /// commit of the file system's journal too, which waits for whatever else it holds.
    ///
    /// sled may write meanwhile, for readers too. So the zeros are appended with one call, which
    /// the file system does as a whole: what sled wrote before lies in front of them, what it writes
    /// later over them.
    pub(super) fn lay_zeros(&self, limit: u64) -> bool {
        let length = self.length();
        let segment = length.next_multiple_of(SEGMENT_BYTES);
        self.ahead.store(segment + SEGMENT_BYTES, Ordering::Relaxed);
        let end = (segment + AHEAD).min(limit);
        let zeros = vec![0; usize::try_from(end.saturating_sub(length)).unwrap_or(0)];
        if zeros.is_empty() {
            return false;
        }
        let written =
            attempt(Op::Write, &self.path, || Ok::<_, EngineError>((&self.file).write(&zeros)?));
        self.measure();
        // Commits do without, and tell what is wrong with the disk.
        let is_whole = written.is_ok_and(|written| written == zeros.len());
        if is_whole {
            self.ahead.store(end, Ordering::Relaxed);
        }
        is_whole
    }

    /// Whether sled has written to the segment in which this byte lies.
    fn has_begun(&self, byte: u64) -> bool {
        let mut header = [0; SEGMENT_HEADER];
        let read = self.file.read_at(&mut header, byte / SEGMENT_BYTES * SEGMENT_BYTES);
        header.iter().take(read.unwrap_or(0)).any(|byte| *byte != 0)
    }

    fn measure(&self) {
        if let Ok(metadata) = self.file.metadata() {
            self.length.store(metadata.len(), Ordering::Relaxed);
            self.blocks.store(metadata.blocks(), Ordering::Relaxed);
        }
    }

    /// The length of the database's file, as of the last flush or zeros.
    pub(super) fn length(&self) -> u64 {
        self.length.load(Ordering::Relaxed)
    }

    /// The bytes of the database's file on the device, as of the last flush or zeros.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed) * 512
    }
}

/// Bytes read from a database, shared with its cache.
#[derive(Clone, Debug)]
pub(super) struct Value(sled::IVec);

impl std::ops::Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

fn open_unlocked(path: &Path) -> Result<sled::Db, EngineError> {
    let config = sled::Config::new()
        .path(path)
        .segment_size(SEGMENT_SIZE)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None);
    let mut attempt = 1;
    loop {
        match guarded(|| config.open()) {
            Err(EngineError::Io(reason)) if is_lock(&reason) && attempt < OPEN_ATTEMPTS => {
                pause();
                attempt += 1;
            }
            opened => {
                if let Ok(tree) = &opened {
                    pool::thin(tree);
                }
                return opened;
            }
        }
    }
}

/// sled words a held lock so; it keeps no kind apart for it.
fn is_lock(reason: &str) -> bool {
    reason.contains("could not acquire lock")
}

/// A few milliseconds, for a lock that is about to be given back.
#[allow(clippy::disallowed_methods, reason = "callers bound how often")]
pub(super) fn pause() {
    std::thread::sleep(OPEN_PAUSE);
}

/// Runs `call` with sled's panics caught.
fn guarded<T>(call: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, EngineError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => Ok(result?),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied());
            Err(EngineError::Damaged(text.unwrap_or("sled panicked").to_owned()))
        }
    }
}

/// The one file that holds a database's entries.
pub(super) fn data_file(path: &Path) -> PathBuf {
    path.join("db")
}

/// The bytes that a folder and all below it take on the device.
pub(super) fn folder_bytes(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries
        .filter_map(Result::ok)
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// Makes a folder's entries durable.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    attempt(Op::SyncFolder, path, || File::open(path)?.sync_all())
}

/// Writes a file as a whole, durably, its folder's entry included.
pub(super) fn write_file(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    let mut file = BufWriter::new(attempt(Op::Create, path, || File::create(path))?);
    attempt(Op::Write, path, || {
        fill(&mut file)?;
        file.flush()
    })?;
    attempt(Op::Sync, path, || file.get_ref().sync_all())?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Creates a folder, durably, where there is none.
pub(super) fn create_folder(path: &Path) -> io::Result<()> {
    let was_there = path.is_dir();
    attempt(Op::Create, path, || fs::create_dir_all(path))?;
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), sync_folder)
    {
        // Where it lies need not be ours to read.
        Err(error) if was_there && error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}

/// Moves a folder; durable once both parents are synced.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    attempt(Op::Rename, to, || fs::rename(from, to))
}

/// Removes a folder and all in it.
pub(super) fn remove_folder(path: &Path) -> io::Result<()> {
    attempt(Op::Remove, path, || fs::remove_dir_all(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_there_after_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let database = Database::open(&path).unwrap();
        database.insert(b"2", b"two").unwrap();
        database.apply(&[(b"1".to_vec(), Some(b"one".to_vec())), (b"2".to_vec(), None)]).unwrap();
        database.flush().unwrap();
        database.sync().unwrap();
        drop(database);
        let database = Database::open(&path).unwrap();
        assert_eq!(&*database.get(b"1").unwrap().unwrap(), b"one");
        assert!(database.get(b"2").unwrap().is_none());
        assert!(database.disk_bytes() > 0);
    }

    #[test]
    fn values_of_the_largest_size_make_no_blob() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let database = Database::open(&path).unwrap();
        for number in 0..1000_u64 {
            let value = vec![u8::try_from(number % 251).unwrap(); MAX_VALUE];
            database.insert(&number.to_be_bytes(), &value).unwrap();
            if number % 7 == 0 {
                database.flush().unwrap();
            }
        }
        database.flush().unwrap();
        let blobs = fs::read_dir(path.join("blobs")).unwrap().count();
        assert_eq!(blobs, 0, "files in blobs/ are never synced");
    }

    #[test]
    fn zeros_lie_ahead_until_the_limit_as_sled_goes_on() {
        const LIMIT: u64 = 5 * SEGMENT_BYTES;
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("a")).unwrap();
        let length = || fs::metadata(data_file(&database.path)).unwrap().len();
        let (mut lengths, mut laid) = (vec![], 0);
        for number in 0..500_u64 {
            database.insert(&number.to_be_bytes(), &[7; 6000]).unwrap();
            database.flush().unwrap();
            if database.nears_its_end() {
                laid += u32::from(database.lay_zeros(LIMIT));
                assert!(!database.nears_its_end(), "not before sled is a segment further");
            }
            assert_eq!(database.length(), length());
            if lengths.last() != Some(&length()) {
                lengths.push(length());
            }
        }
        assert_eq!((laid, &lengths[..2]), (2, &[3 * SEGMENT_BYTES, LIMIT][..]));
        assert!(lengths.len() > 2, "beyond the limit the file grows as sled writes");
        assert!(database.disk_bytes() >= LIMIT, "zeros that take room, and no hole");
    }

    #[test]
    fn zeros_never_lie_over_what_sled_writes_meanwhile() {
        const VALUES: u64 = 100;
        for round in 1..=20 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a");
            let database = Database::open(&path).unwrap();
            let mut laid = 0;
            std::thread::scope(|scope| {
                let writer = scope.spawn(|| {
                    for number in 0..VALUES {
                        database.insert(&number.to_be_bytes(), &[round; 6000]).unwrap();
                        database.flush().unwrap();
                    }
                });
                while !writer.is_finished() {
                    // Few, and each time that sled is at the end of the file.
                    let length = database.length();
                    let mut last = [0; 64];
                    database.file.read_exact_at(&mut last, length - 64).unwrap();
                    if last != [0; 64] {
                        laid += u64::from(database.lay_zeros(length + 64));
                    }
                }
            });
            assert!(laid > 0);
            drop(database);
            let database = Database::open(&path).unwrap();
            for number in 0..VALUES {
                let value = database.get(&number.to_be_bytes()).unwrap();
                assert_eq!(value.as_deref(), Some(&[round; 6000][..]), "{number} of {round}");
            }
        }
    }

    #[test]
    fn a_damaged_file_is_an_error_and_no_panic() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let database = Database::open(&path).unwrap();
        for number in 0..2000_u64 {
            database.insert(&number.to_be_bytes(), &[7; 600]).unwrap();
        }
        database.flush().unwrap();
        drop(database);
        let mut bytes = fs::read(path.join("db")).unwrap();
        for byte in bytes.iter_mut().skip(5000).step_by(4096) {
            *byte ^= 0xff;
        }
        fs::write(path.join("db"), bytes).unwrap();
        // Opening or reading may succeed in part; what counts is that it returns.
        if let Ok(database) = Database::open(&path) {
            drop(database.scan(&[], |_, _| true));
        }
    }
}
