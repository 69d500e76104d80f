//! Opening the queue's folder: lock, format, recovery.
//!
//! ```text
//! queue.dir/
//!   LOCK            held while the process runs; names it
//!   FORMAT          the format's version, see `format`
//!   queue/gen-N/    the log's generations, see `generations`
//!   state/          cursors and counts, see `state`
//!   dead-letters/   see `dead_letters`
//!   quarantine/     what was damaged, see `repair`
//! ```
//!
//! Start-up reads the state and the newest generation; the others' counts are in the state. So it
//! takes as long for ten million events as for none. Only where something is damaged more is read.
//! Damage never keeps the queue from opening.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Access, FlockOperation, access, flock};
use rustix::io::Errno;
use tracing::{error, warn};

use super::Sequence;
use super::compact::remove_left_over;
use super::dead_letters::DeadLetters;
use super::dedupe::{Dedupe, DedupeLimits};
use super::engine::{self, Database, EngineError, Op, create_folder, pause};
use super::format::{self, FORMAT_VERSION};
use super::generations::Generations;
use super::recover::{Recall, complete, recover_row, settle_lost};
use super::repair::{finish_interrupted, highest_aside};
use super::reserve::Reserve;
use super::state::{GenerationRecord, LaneRecord, PackRecord, StateDb, put_generation, put_lane};
use super::writer::{RESERVE, Written};

/// The state's folder.
pub(super) const STATE: &str = "state";
/// What has to be allowed with what is ours.
const FOLDER_RIGHTS: Access = Access::READ_OK.union(Access::WRITE_OK).union(Access::EXEC_OK);
const FILE_RIGHTS: Access = Access::READ_OK.union(Access::WRITE_OK);
/// How often the lock is tried, some milliseconds apart.
const LOCK_ATTEMPTS: u32 = 60;

/// How the queue is kept.
#[derive(Clone, Debug)]
pub struct Options {
    pub dir: PathBuf,
    /// Bytes on the device that the log may take.
    pub max_bytes: u64,
    /// Whether a full queue drops its oldest events, instead of refusing new ones.
    pub drops_oldest: bool,
    /// None: durable before the answer. Some: on disk this often.
    pub interval: Option<Duration>,
    /// Bytes that the dead letters may take.
    pub dead_letters_max_bytes: u64,
    pub dedupe: DedupeLimits,
}

/// Why the folder can't be used. None of these mends itself.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("queue.dir {}: {source}", dir.display())]
    Folder { dir: PathBuf, source: std::io::Error },
    #[error("queue.dir {} is in use by {holder}: two sidecars can't share a queue", dir.display())]
    Locked { dir: PathBuf, holder: String },
    #[error(
        "queue.dir {} was written by a newer gmfy-sidecar (format {found}; this one knows {FORMAT_VERSION}): \
         run that version, or choose another folder", dir.display()
    )]
    NewerFormat { dir: PathBuf, found: String },
    #[error("queue.dir {}: {reason}", dir.display())]
    Store { dir: PathBuf, reason: String },
}

/// What recovery found, ready for the queue's threads.
#[derive(Debug)]
pub(super) struct Opened {
    /// Held, and so locked, as long as this file is open.
    pub(super) lock: File,
    /// None where the disk didn't let it be written.
    pub(super) state: Option<StateDb>,
    pub(super) reserve: Arc<Reserve>,
    pub(super) dead_letters: DeadLetters,
    pub(super) lanes: Vec<LaneRecord>,
    pub(super) pieces: HashMap<u8, u8>,
    pub(super) generations: Arc<Generations>,
    pub(super) current: Option<Written>,
    pub(super) next: Sequence,
    /// Events ever appended.
    pub(super) appended: u64,
    /// An operator paused delivery.
    pub(super) paused: bool,
    /// Dead letters that are in the queue again, still to be deleted.
    pub(super) requeued: Vec<Sequence>,
    /// What is stored of what sealed generations know.
    pub(super) packs: VecDeque<PackRecord>,
    /// Events that were in the queue and are lost.
    pub(super) lost: u64,
}

impl Opened {
    pub(super) fn settled(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.settled_total).sum()
    }
}

/// `dedupe` is told what was accepted lately.
pub(super) fn open(options: &Options, dedupe: &Dedupe) -> Result<Opened, OpenError> {
    let dir = options.dir.as_path();
    let folder = |source| OpenError::Folder { dir: dir.to_owned(), source };
    let store =
        |error: EngineError| OpenError::Store { dir: dir.to_owned(), reason: error.to_string() };
    create_folder(dir).map_err(folder)?;
    let lock = lock(dir)?;
    check_rights(dir).map_err(folder)?;
    format::check(dir)?;
    let log = dir.join("queue");
    create_folder(&log).map_err(folder)?;

    let reserve = Arc::new(Reserve::take(dir));
    let state_path = dir.join(STATE);
    let generations = Arc::new(Generations::new(dir));
    remove_left_over(&log);
    finish_interrupted(&log).map_err(folder)?;
    finish_interrupted(dir).map_err(folder)?;
    let found = generations.found().map_err(folder)?;
    let recovered = StateDb::recover(dir, &state_path, found.keys().copied());
    let (state, mut stored, damage) = recovered.map_err(store)?;
    let is_state_lost = !found.is_empty() && stored.generations.is_empty();
    if is_state_lost && damage.is_none() {
        warn!("the state's database is empty: events that GMFY took already are delivered again");
    }
    let is_state_damaged = damage.is_some() || is_state_lost;
    let dead_letters_path = dir.join("dead-letters");
    let recovered = DeadLetters::recover(dir, &dead_letters_path, options.dead_letters_max_bytes);
    let (mut dead_letters, letters_damage) = recovered.map_err(store)?;
    for damage in damage.into_iter().chain(letters_damage) {
        generations.remember(damage, 0);
    }
    let newest_dead = dead_letters.highest().map_err(store)?;

    let mut recall = Recall { dedupe, requeued: Vec::new() };
    let mut packs = state.load_packs(|at, known| recall.note(at, known)).map_err(store)?;
    let row = recover_row(dir, &generations, &stored, is_state_damaged, &mut recall);
    let mut row = row.map_err(folder)?;
    packs.append(&mut row.packs);
    let requeued = recall.requeued;
    let forgotten = dead_letters.remove_all(&requeued);
    if let Err(error) = &forgotten {
        warn!(error = %error, "dead letters that are in the queue again can't be deleted yet");
    }
    // Those are hidden until they are.
    let requeued = if forgotten.is_ok() { Vec::new() } else { requeued };
    let fresh = generations.start().unwrap_or(Sequence::FIRST);
    let mut lanes = complete(std::mem::take(&mut stored.lanes), fresh);
    let known = lanes.iter().map(LaneRecord::high).max().unwrap_or(0);
    let lost = settle_lost(&generations, &mut row, &mut lanes, is_state_damaged);
    let lost = lost.unwrap_or_else(|error| {
        error!(error = %error, "the log could not be counted");
        0
    });
    // Sequences may have been used that left no trace: by a request that was cut off, or in what
    // is damaged. A generation uses fewer than the reserve.
    let may_be_used = [row.ended_hard.map(Sequence::get), highest_aside(dir)];
    let may_be_used = may_be_used.into_iter().flatten().max().map_or(0, |first| first + RESERVE);
    let next = row
        .highest
        .max(Sequence::new(known))
        .max(Sequence::new(stored.reserved))
        .max(Sequence::new(may_be_used))
        .max(newest_dead.map_or(Sequence::FIRST, Sequence::next))
        .max(Sequence::FIRST);
    let current = begin(&generations, next, row.appended);
    let mut changes = vec![super::state::reserve(next.get() + RESERVE)];
    changes.append(&mut row.changes);
    if let Some(current) = &current {
        let record = GenerationRecord { appended_before: current.appended_before, sealed: None };
        changes.push(put_generation(current.first.get(), record));
    }
    let mut pieces = HashMap::new();
    for (number, lane) in (0..=u8::MAX).zip(&lanes) {
        let mut count = u8::MAX;
        // Written anew, so that how many pieces each takes is known.
        changes.extend(put_lane(number, lane, &mut count));
        pieces.insert(number, count);
    }
    let mut state = Some(state);
    if let Some(Err(error)) = state.as_ref().map(|s| s.write(&changes).and_then(|()| s.sync())) {
        // All of it is found again by the next start.
        error!(error = %error, "the state could not be written");
        state = None;
    }
    Ok(Opened {
        lock,
        state,
        reserve,
        dead_letters,
        lanes,
        pieces,
        generations,
        current,
        next,
        paused: stored.paused,
        requeued,
        appended: row.appended,
        lost,
        packs,
    })
}

/// Begins the generation that is written; none where the disk doesn't let it: the writer tries
/// again with the next commit.
fn begin(generations: &Generations, first: Sequence, appended_before: u64) -> Option<Written> {
    let database = match Database::open(&generations.path_of(first)) {
        Ok(database) => Arc::new(database),
        Err(error) => {
            error!(error = %error, "no generation could be begun");
            return None;
        }
    };
    generations.add_written(first, &database, appended_before);
    Some(Written { first, database, appended_before, events: 0, failed_at: None })
}

/// Refuses what is not ours to read and write, before it is taken for damaged: nothing of it is lost.
fn check_rights(dir: &Path) -> io::Result<()> {
    check_right(dir, FOLDER_RIGHTS)?;
    check_right(&dir.join("FORMAT"), FILE_RIGHTS)?;
    // Others' folders may lie beside these, such as a file system's `lost+found`.
    let mut folders = ["queue", STATE, "dead-letters"].map(|name| dir.join(name)).to_vec();
    while let Some(folder) = folders.pop() {
        if !folder.is_dir() {
            // A file in its place is damage.
            check_right(&folder, FILE_RIGHTS)?;
            continue;
        }
        check_right(&folder, FOLDER_RIGHTS)?;
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                check_right(&entry.path(), FILE_RIGHTS)?;
            }
        }
    }
    Ok(())
}

fn check_right(path: &Path, rights: Access) -> io::Result<()> {
    match access(path, rights) {
        Err(Errno::ACCESS | Errno::PERM) => {
            let text = format!(
                "{} may not be read and written by the user that runs this: change its owner",
                path.display()
            );
            Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
        }
        // Whatever else is wrong with it is not a matter of rights.
        Ok(()) | Err(_) => Ok(()),
    }
}

pub(super) fn lock(dir: &Path) -> Result<File, OpenError> {
    let folder = |source| OpenError::Folder { dir: dir.to_owned(), source };
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(dir.join("LOCK"))
        .map_err(folder)?;
    let mut attempt = 1;
    while let Err(errno) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if errno != Errno::WOULDBLOCK {
            return Err(folder(errno.into()));
        }
        // One that just ended may hold it for a moment: so does a process it began to start.
        if attempt < LOCK_ATTEMPTS {
            attempt += 1;
            pause();
            continue;
        }
        let mut holder = String::new();
        let named = file.read_to_string(&mut holder).is_ok() && !holder.trim().is_empty();
        let holder = if named { holder.trim().to_owned() } else { "another process".to_owned() };
        return Err(OpenError::Locked { dir: dir.to_owned(), holder });
    }
    let named = engine::attempt(Op::Write, &dir.join("LOCK"), || {
        file.set_len(0)?;
        writeln!(file, "process {}", std::process::id())
    });
    if let Err(error) = named {
        // The lock holds all the same, on a full disk too.
        warn!(error = %error, "a second process won't be told who holds the queue's folder");
    }
    Ok(file)
}
