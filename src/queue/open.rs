//! Opening the queue's folder: lock, format, recovery.
//!
//! ```text
//! queue.dir/
//!   LOCK            held while the process runs; names it
//!   FORMAT          the format's version, as text
//!   queue/gen-N/    the log's generations, see `generations`
//!   state/          cursors and counts, see `state`
//!   dead-letters/   see `dead_letters`
//! ```
//!
//! Start-up reads the state and the newest generation; the others' counts are in the state. So it
//! takes as long for ten million events as for none.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tracing::{info, warn};

use super::dead_letters::DeadLetters;
use super::dedupe::{Dedupe, DedupeLimits, Known, Pack};
use super::engine::{Database, EngineError, pause};
use super::generations::{Generations, create_folder, survey};
use super::passed::Passed;
use super::state::{
    GenerationRecord, LaneRecord, PIECE, PackRecord, Sealed, StateDb, Stored, put_generation,
    put_lane, put_pack, reserve,
};
use super::writer::{RESERVE, Written};
use super::{Partitions, ReadLimit, Sequence};
use crate::clock::Timestamp;

const FORMAT_VERSION: u32 = 1;
/// How often the lock is tried, some milliseconds apart.
const LOCK_ATTEMPTS: u32 = 60;

/// How the queue is kept.
#[derive(Clone, Debug)]
pub struct Options {
    pub dir: PathBuf,
    /// Bytes on the device that the log may take.
    pub max_bytes: u64,
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
    pub(super) state: StateDb,
    pub(super) state_path: PathBuf,
    pub(super) dead_letters: DeadLetters,
    pub(super) lanes: Vec<LaneRecord>,
    pub(super) pieces: HashMap<u8, u8>,
    pub(super) generations: Arc<Generations>,
    pub(super) current: Written,
    pub(super) next: Sequence,
    /// Events ever appended.
    pub(super) appended: u64,
    /// An operator paused delivery.
    pub(super) paused: bool,
    /// What is to be known of the newest generation, and what is stored of it of the others.
    pub(super) pack: Pack,
    pub(super) packs: VecDeque<PackRecord>,
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
    check_format(dir)?;
    let log = dir.join("queue");
    create_folder(&log).map_err(folder)?;

    let state_path = dir.join("state");
    let state = StateDb::open(&state_path).map_err(store)?;
    let stored = state.load().map_err(store)?;
    let mut recall = Recall { dedupe, requeued: Vec::new() };
    let mut packs = state.load_packs(|at, known| recall.note(at, known)).map_err(store)?;
    let mut dead_letters =
        DeadLetters::open(&dir.join("dead-letters"), options.dead_letters_max_bytes)
            .map_err(store)?;
    let newest_dead = dead_letters.highest().map_err(store)?;

    let generations = Arc::new(Generations::new(log));
    let found = generations.found().map_err(folder)?;
    let mut row = recover_row(&generations, &found, &stored, &state, &mut recall).map_err(store)?;
    packs.append(&mut row.packs);
    dead_letters.forget_requeued(&recall.requeued).map_err(store)?;
    let known = stored.lanes.iter().map(LaneRecord::high).max().unwrap_or(0);
    let next = row
        .highest
        .max(Sequence::new(known))
        .max(Sequence::new(stored.reserved))
        .max(newest_dead.map_or(Sequence::FIRST, Sequence::next))
        .max(Sequence::FIRST);
    let appended = count_appended(&generations, &stored.lanes, row.appended, row.highest);
    let appended = appended.map_err(store)?;
    let current = match row.current {
        Some(current) => current,
        None => begin_first(&generations, next, appended).map_err(store)?,
    };
    let mut changes = vec![reserve(next.get() + RESERVE)];
    let record = GenerationRecord { appended_before: current.appended_before, sealed: None };
    changes.push(put_generation(current.first.get(), record));
    let lanes = stored.lanes;
    let mut pieces = HashMap::new();
    for (number, lane) in (0..=u8::MAX).zip(&lanes) {
        let mut count = u8::MAX;
        // Written anew, so that how many pieces each takes is known.
        changes.extend(put_lane(number, lane, &mut count));
        pieces.insert(number, count);
    }
    state.write(changes).and_then(|()| state.sync()).map_err(store)?;
    Ok(Opened {
        lock,
        state,
        state_path,
        dead_letters,
        lanes,
        pieces,
        generations,
        current,
        next,
        appended,
        paused: stored.paused,
        pack: row.pack,
        packs,
    })
}

/// Where what is to be known of the log goes at start.
#[derive(Debug)]
struct Recall<'a> {
    dedupe: &'a Dedupe,
    /// Dead letters that are in the queue again.
    requeued: Vec<Sequence>,
}

impl Recall<'_> {
    fn note(&mut self, at: Timestamp, known: &Known) {
        self.dedupe.restore(at, known);
        if let Known::Requeued(origin) = known {
            self.requeued.push(Sequence::new(*origin));
        }
    }
}

#[derive(Debug)]
struct Row {
    current: Option<Written>,
    /// Events ever appended, as the generations' records say.
    appended: u64,
    /// The sequence behind the last one that any frame or record names.
    highest: Sequence,
    /// What the newest generation knows.
    pack: Pack,
    /// What was stored just now of what others know.
    packs: VecDeque<PackRecord>,
}

/// Adds the generations that were found; the newest is opened, and cleaned of a request that was
/// cut off by the end of the process.
fn recover_row(
    generations: &Generations,
    found: &std::collections::BTreeMap<u64, PathBuf>,
    stored: &Stored,
    state: &StateDb,
    recall: &mut Recall<'_>,
) -> Result<Row, EngineError> {
    let mut row = Row {
        current: None,
        appended: 0,
        highest: Sequence::FIRST,
        pack: Pack::default(),
        packs: VecDeque::new(),
    };
    let mut firsts = found.iter().peekable();
    while let Some((&first, path)) = firsts.next() {
        let record = stored.generations.get(&first);
        let appended_before = record.map_or(row.appended, |record| record.appended_before);
        let next_first = firsts.peek().map(|(next, _)| Sequence::new(**next));
        if let Some(sealed) = record.and_then(|record| record.sealed) {
            let end = Sequence::new(sealed.end);
            generations.add_sealed(first, path.clone(), next_first.map_or(end, |n| n.min(end)));
            row.appended = appended_before + sealed.events;
            row.highest = row.highest.max(end);
            continue;
        }
        let database = Arc::new(Database::open(path)?);
        let survey = survey(&database, next_first)?;
        if survey.damaged > 0 {
            warn!(generation = first, frames = survey.damaged, "damaged frames are passed over");
        }
        for key in &survey.cut_off {
            database.remove(key)?;
        }
        if !survey.cut_off.is_empty() {
            database.flush()?;
            database.sync()?;
            info!(generation = first, "a request that was cut off before its answer is dropped");
        }
        let mut pack = Pack::default();
        for (at, known) in &survey.known {
            recall.note(*at, known);
            pack.push(*at, known, PIECE);
        }
        row.appended = appended_before + survey.events;
        row.highest = row.highest.max(survey.highest.unwrap_or(Sequence::new(first)));
        match next_first {
            Some(next) => {
                // The process ended between beginning the next one and recording this one's end.
                drop(database);
                let end = survey.end.unwrap_or(Sequence::new(first)).min(next);
                generations.add_sealed(first, path.clone(), end);
                let sealed = Some(Sealed { events: survey.events, end: end.get() });
                let record = GenerationRecord { appended_before, sealed };
                let mut changes = vec![put_generation(first, record)];
                changes.extend(put_pack(first, &pack));
                state.write(changes)?;
                row.packs.push_back(pack.record(Sequence::new(first)));
            }
            None => {
                row.pack = pack;
                let first = Sequence::new(first);
                generations.add_written(first, Arc::clone(&database));
                row.current = Some(Written {
                    first,
                    database,
                    appended_before,
                    events: survey.events,
                    failed_at: None,
                });
            }
        }
    }
    Ok(row)
}

fn begin_first(
    generations: &Generations,
    first: Sequence,
    appended_before: u64,
) -> Result<Written, EngineError> {
    let database = Arc::new(Database::open(&generations.path_of(first))?);
    generations.add_written(first, Arc::clone(&database));
    Ok(Written { first, database, appended_before, events: 0, failed_at: None })
}

/// The events ever appended, so that what the cursors have not settled is what the log holds.
/// The records say it; only where the state or a part of the log is lost they contradict each
/// other, and the log is counted.
fn count_appended(
    generations: &Generations,
    lanes: &[LaneRecord],
    recorded: u64,
    end: Sequence,
) -> Result<u64, EngineError> {
    let settled: u64 = lanes.iter().map(|lane| lane.settled_total).sum();
    let all_passed = !lanes.is_empty() && lanes.iter().all(|lane| lane.low() >= end.get());
    let contradiction = settled > recorded || (all_passed && settled != recorded);
    if !contradiction {
        return Ok(recorded);
    }
    let passed = Passed::of(lanes);
    let limit = ReadLimit { events: 4096, bytes: 4 << 20 };
    let mut waiting = 0;
    let mut position = Sequence::FIRST;
    while position < end {
        let chunk = generations.read(position, end, &Partitions::all(), limit)?;
        let unsettled =
            chunk.events.iter().filter(|e| !passed.contains(e.user.partition(), e.sequence));
        waiting += unsettled.count() as u64;
        if chunk.position <= position {
            break;
        }
        position = chunk.position;
    }
    warn!(
        events.appended = recorded,
        events.settled = settled,
        events.waiting = waiting,
        "the queue's counts contradict each other, so something was lost; the log was counted"
    );
    Ok(settled + waiting)
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
        if errno != rustix::io::Errno::WOULDBLOCK {
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
    file.set_len(0).map_err(folder)?;
    writeln!(file, "process {}", std::process::id()).map_err(folder)?;
    Ok(file)
}

pub(super) fn check_format(dir: &Path) -> Result<(), OpenError> {
    let folder = |source| OpenError::Folder { dir: dir.to_owned(), source };
    let path = dir.join("FORMAT");
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse::<u32>() {
            Ok(version) if version <= FORMAT_VERSION => Ok(()),
            _ => Err(OpenError::NewerFormat { dir: dir.to_owned(), found: text.trim().to_owned() }),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut file = File::create(&path).map_err(folder)?;
            writeln!(file, "{FORMAT_VERSION}").map_err(folder)?;
            file.sync_all().map_err(folder)?;
            super::engine::sync_folder(dir).map_err(folder)
        }
        Err(error) => Err(folder(error)),
    }
}
