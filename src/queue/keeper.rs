//! The thread that keeps the small state: cursors, dead letters, and the generations' records.
//!
//! It works in groups, as the writer does: all that waits is written together and handed to the
//! operating system with one flush, then answered. What must survive a power cut is synced at
//! once (dead letters, a generation's seal, the reserve of sequences); cursors within
//! [`SYNC_EVERY`]. A generation is removed only after the cursors that pass it are durable.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::{error, warn};

use super::compactor::Compactor;
use super::dead_letters::{BuryError, DeadLetters};
use super::engine::EngineError;
use super::generations::Generations;
use super::letters::LettersTask;
use super::live::Live;
use super::open::STATE;
use super::passed::Passed;
use super::recover::count_lost;
use super::reserve::Reserve;
use super::state::{Change, LaneRecord, StateDb, put_lane, remove_generation, remove_lane, reseat};
use super::{DeadLetter, LaneCursor, LaneStart, Partition, Sequence, Settlement, StoreError};
use crate::telemetry::heartbeat::BEAT;
use crate::telemetry::ledger::DropReason;
use crate::telemetry::{Ledger, Pulse};

/// How long a cursor may be in the operating system only.
const SYNC_EVERY: Duration = Duration::from_millis(100);
/// How many tasks one flush may cover.
const GROUP: usize = 256;

/// What the keeper is asked to do.
#[derive(Debug)]
pub(super) enum Task {
    Lanes {
        wanted: usize,
        done: oneshot::Sender<Result<Vec<LaneStart>, StoreError>>,
    },
    Save {
        lane: usize,
        cursor: LaneCursor,
        settlement: Settlement,
        done: Done,
    },
    Bury {
        letters: Vec<DeadLetter>,
        done: Done,
    },
    /// Writes these changes durably.
    Record {
        changes: Vec<Change>,
        done: Done,
    },
    Letters(LettersTask),
    /// Whether an event of this partition is settled.
    IsSettled {
        partition: Partition,
        sequence: Sequence,
        done: oneshot::Sender<Result<bool, StoreError>>,
    },
}

pub(super) type Done = oneshot::Sender<Result<(), StoreError>>;

/// See the module.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) tasks: Receiver<Task>,
    pub(super) state: Option<StateDb>,
    /// The queue's folder.
    pub(super) dir: PathBuf,
    pub(super) dead_letters: DeadLetters,
    /// Dead letters that are in the queue again, still to be deleted.
    pub(super) requeued: Vec<Sequence>,
    pub(super) lanes: Vec<LaneRecord>,
    pub(super) pieces: HashMap<u8, u8>,
    pub(super) generations: Arc<Generations>,
    pub(super) reserve: Arc<Reserve>,
    pub(super) ledger: Arc<Ledger>,
    /// When the oldest cursor that is not yet synced was written.
    pub(super) unsynced_since: Option<Instant>,
    pub(super) live: Arc<Live>,
    pub(super) pulse: Pulse,
    /// What was written may not be there any more.
    pub(super) must_rewrite: bool,
    pub(super) max_bytes: u64,
    pub(super) compactor: Compactor,
}

/// What is answered once the group's changes are written.
enum Answer {
    Plain(Done),
    Lanes(oneshot::Sender<Result<Vec<LaneStart>, StoreError>>, Vec<LaneStart>),
}

impl Keeper {
    /// Works until every sender of tasks is gone.
    pub(super) fn run(mut self) {
        while let Some(first) = self.next() {
            let mut group = vec![first];
            while group.len() < GROUP
                && let Ok(task) = self.tasks.try_recv()
            {
                group.push(task);
            }
            self.work(group);
        }
        self.compactor.wait();
        if let Err(error) = self.sync() {
            warn!(error = %error, "the cursors could not be synced at the end");
        }
    }

    /// Waits for a task, beating; syncs when it is due.
    fn next(&mut self) -> Option<Task> {
        loop {
            self.pulse.beat();
            let due =
                self.unsynced_since.map_or(BEAT, |at| SYNC_EVERY.saturating_sub(at.elapsed()));
            match self.tasks.recv_timeout(due) {
                Ok(task) => {
                    self.pulse.beat();
                    return Some(task);
                }
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) if self.unsynced_since.is_none() => {
                    self.compact_one();
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Err(error) = self.sync() {
                        error!(error = %error, "the cursors could not be synced; trying again");
                        self.unsynced_since = Some(Instant::now());
                    }
                    self.remove_passed();
                }
            }
        }
    }

    fn work(&mut self, group: Vec<Task>) {
        let mut changes = Vec::new();
        let mut answers = Vec::new();
        let mut settlements = Vec::new();
        let mut sync_now = false;
        let before = (self.lanes.clone(), self.pieces.clone());
        for task in group {
            match task {
                Task::Lanes { wanted, done } => {
                    let starts = self.seat(wanted, &mut changes);
                    answers.push(Answer::Lanes(done, starts));
                }
                Task::Save { lane, cursor, settlement, done } => {
                    self.save(lane, &cursor, &settlement, &mut changes);
                    settlements.push(settlement);
                    answers.push(Answer::Plain(done));
                }
                Task::Record { changes: recorded, done } => {
                    changes.extend(recorded);
                    sync_now = true;
                    answers.push(Answer::Plain(done));
                }
                Task::Bury { letters, done } => {
                    let result = self.bury(&letters);
                    drop(done.send(result));
                }
                Task::Letters(task) => self.work_on_letters(task),
                Task::IsSettled { partition, sequence, done } => {
                    let passed = Passed::of(&self.lanes);
                    drop(done.send(Ok(passed.contains(partition, sequence))));
                }
            }
        }
        let result = self.write(&changes, sync_now).map_err(|error| {
            // Nothing of it counts: the lanes try again.
            (self.lanes, self.pieces) = before;
            StoreError::Io(error.to_string())
        });
        if result.is_ok() {
            self.count(&settlements);
            if self.unsynced_since.is_some_and(|since| since.elapsed() >= SYNC_EVERY)
                && let Err(error) = self.sync()
            {
                error!(error = %error, "the cursors could not be synced; trying again");
            }
        }
        for answer in answers {
            match answer {
                Answer::Plain(done) => drop(done.send(result.clone())),
                Answer::Lanes(done, starts) => drop(done.send(result.clone().map(|()| starts))),
            }
        }
        self.remove_passed();
        self.compact_one();
    }

    /// The lanes to deliver with; see [`super::Log::lanes`].
    fn seat(&mut self, wanted: usize, changes: &mut Vec<Change>) -> Vec<LaneStart> {
        let must_finish = self.lanes.iter().any(LaneRecord::is_unfinished);
        if self.lanes.len() != wanted && !must_finish {
            let fresh = self.generations.start().unwrap_or(Sequence::FIRST);
            let seated = reseat(&self.lanes, wanted, fresh);
            for (lane, pieces) in self.pieces.drain() {
                changes.extend(remove_lane(lane, pieces));
            }
            self.lanes = seated;
            for lane in 0..self.lanes.len() {
                changes.extend(self.put(lane));
            }
        }
        self.lanes.iter().map(LaneRecord::start).collect()
    }

    fn put(&mut self, lane: usize) -> Vec<Change> {
        let number = u8::try_from(lane).unwrap_or(u8::MAX);
        let pieces = self.pieces.entry(number).or_default();
        self.lanes.get(lane).map(|record| put_lane(number, record, pieces)).unwrap_or_default()
    }

    fn save(
        &mut self,
        lane: usize,
        cursor: &LaneCursor,
        settlement: &Settlement,
        changes: &mut Vec<Change>,
    ) {
        if let Some(record) = self.lanes.get_mut(lane) {
            *record = LaneRecord::new(cursor, record.settled_total + settlement.total());
            changes.extend(self.put(lane));
        }
    }

    fn count(&self, settlements: &[Settlement]) {
        let settled = self.lanes.iter().map(|lane| lane.settled_total).sum();
        self.ledger.update(|counts| {
            counts.settled = settled;
            for settlement in settlements {
                settlement.count(counts);
            }
        });
    }

    fn bury(&mut self, letters: &[DeadLetter]) -> Result<(), StoreError> {
        self.dead_letters.limit(self.live.dead_letters_max_bytes());
        let mut result = self.dead_letters.bury(letters);
        if let Err(BuryError::Engine(error)) = &result
            && self.reopen_dead_letters(error)
        {
            result = self.dead_letters.bury(letters);
        }
        let result = result.map_err(|error| match error {
            BuryError::Full => StoreError::DeadLettersFull,
            BuryError::Engine(error) => StoreError::Io(error.to_string()),
        });
        let count = self.dead_letters.count();
        self.ledger.update(|counts| counts.dead_letters = count);
        result
    }

    fn write(&mut self, changes: &[Change], sync_now: bool) -> Result<(), EngineError> {
        if changes.is_empty() {
            return Ok(());
        }
        if let Err(first) = self.write_once(changes, sync_now) {
            self.give_way(&first);
            return self.write_once(changes, sync_now);
        }
        Ok(())
    }

    fn write_once(&mut self, changes: &[Change], sync_now: bool) -> Result<(), EngineError> {
        let written = self.state().and_then(|state| state.write(changes));
        if written.is_err() {
            // A handle is poisoned by a failed write: the next try opens the folder again.
            self.state = None;
            return written;
        }
        self.unsynced_since.get_or_insert_with(Instant::now);
        if sync_now { self.sync() } else { Ok(()) }
    }

    fn state(&mut self) -> Result<&StateDb, EngineError> {
        if self.state.is_none() {
            let path = self.dir.join(STATE);
            let firsts = self.generations.firsts();
            let (state, _, damage) = StateDb::recover(&self.dir, &path, firsts)?;
            self.must_rewrite |= damage.is_some();
            if let Some(damage) = damage {
                self.generations.remember(damage, 0);
            }
            if self.must_rewrite {
                let mut changes = Vec::new();
                for lane in 0..self.lanes.len() {
                    changes.extend(self.put(lane));
                }
                state.write(&changes)?;
                self.unsynced_since.get_or_insert_with(Instant::now);
                self.must_rewrite = false;
            }
            self.state = Some(state);
        }
        self.state.as_ref().ok_or_else(|| EngineError::Io("the state is closed".to_owned()))
    }

    /// After a failed call: a full disk gets the room that is kept for this.
    fn give_way(&self, error: &EngineError) {
        if *error == EngineError::NoSpace {
            self.reserve.release();
        }
    }

    /// A handle is of no use after an error; returns whether there is a new one.
    pub(super) fn reopen_dead_letters(&mut self, error: &EngineError) -> bool {
        self.give_way(error);
        match self.dead_letters.reopen(&self.dir) {
            Ok(damage) => {
                if let Some(damage) = damage {
                    self.generations.remember(damage, 0);
                }
                true
            }
            Err(error) => {
                error!(error = %error, "the dead letters can't be opened");
                false
            }
        }
    }

    fn sync(&mut self) -> Result<(), EngineError> {
        if self.unsynced_since.is_none() {
            return Ok(());
        }
        if self.live.interval().is_some() {
            // A cursor is made durable only after the events it passes.
            self.generations.sync_written()?;
        }
        let synced = self.state()?.sync();
        match &synced {
            Ok(()) => self.unsynced_since = None,
            Err(_) => {
                // What the kernel lost is written anew, to a handle that can still tell.
                self.state = None;
                self.must_rewrite = true;
            }
        }
        synced
    }

    /// Counts events that were lost to damage while running, once every lane is past them: only
    /// then it is known which of them were delivered before.
    fn count_lost(&mut self) -> Result<(), EngineError> {
        let Some(until) = self.generations.count_due_until() else { return Ok(()) };
        let passed = Passed::of(&self.lanes);
        if self.lanes.is_empty() || passed.low() < until {
            return Ok(());
        }
        // What is counted must not move meanwhile.
        self.compactor.wait();
        let settled = self.lanes.iter().map(|lane| lane.settled_total).sum();
        let appended = self.ledger.snapshot().appended;
        let lost = count_lost(&self.generations, &passed, appended, settled)?;
        if lost > 0 {
            let Some(lane) = self.lanes.first_mut() else { return Ok(()) };
            lane.settled_total += lost;
            let changes = self.put(0);
            if let Err(error) = self.write(&changes, false) {
                if let Some(lane) = self.lanes.first_mut() {
                    lane.settled_total -= lost;
                }
                return Err(error);
            }
            error!(events.lost = lost, "events are lost to damage");
            self.ledger.update(|counts| {
                counts.settled = settled + lost;
                *counts.dropped.entry(DropReason::Damaged).or_default() += lost;
            });
        }
        self.generations.counted();
        Ok(())
    }

    /// Removes the generations that every lane has passed.
    fn remove_passed(&mut self) {
        if let Err(error) = self.count_lost() {
            error!(error = %error, "what was lost to damage can't be counted yet");
        }
        let Some(low) = self.lanes.iter().map(LaneRecord::low).min() else { return };
        let passed = self.generations.passed(Sequence::new(low));
        if passed.is_empty() {
            return;
        }
        if let Err(error) = self.sync() {
            error!(error = %error, "delivered events stay on disk: the cursors could not be synced");
            return;
        }
        for first in passed {
            if let Err(error) = self.generations.remove(first) {
                warn!(error = %error, generation = first.get(), "a generation could not be removed");
            }
            if let Err(error) = self.write(&[remove_generation(first.get())], false) {
                warn!(error = %error, generation = first.get(), "its record could not be removed");
            }
        }
        self.count_bytes();
    }

    fn count_bytes(&self) {
        let bytes = self.generations.disk_bytes();
        self.ledger.update(|counts| counts.queue_bytes = bytes);
    }

    /// Where the log takes much room, has a generation made smaller that can't be removed.
    fn compact_one(&mut self) {
        let now = Instant::now();
        let is_short =
            || self.generations.disk_bytes() > self.max_bytes / 2 || self.reserve.is_released();
        if self.lanes.is_empty() || !self.compactor.is_due(now) || !is_short() {
            return;
        }
        let passed = Passed::of(&self.lanes);
        let Some(first) = self.compactor.choose(&passed, now) else { return };
        match self.sync() {
            Ok(()) => self.compactor.begin(first, passed),
            Err(error) => self.compactor.failed(first, &error),
        }
    }
}
