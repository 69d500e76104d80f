//! Fail points under the store, for tests: the disk that refuses, tears or loses what was written,
//! and the process that ends, at any of the engine's calls.

use std::collections::HashMap;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError, RwLock};

use super::engine::{EngineError, Op, data_file};

/// What the calls under a folder meet.
#[derive(Debug, Default)]
struct Plan {
    /// Of those that the failure can befall.
    calls: u64,
    /// The numbers of the calls that fail, and how.
    failing: Option<(std::ops::Range<u64>, Failure)>,
    /// So many of the next syncs fail.
    syncs: u64,
    /// There is no room for the reserve.
    refuses_reserve: bool,
    /// What is in the files for good: as of their last syncs.
    synced: HashMap<PathBuf, Vec<u8>>,
    is_killed: bool,
    /// Calls of this kind wait for the plan's end.
    held: Option<Op>,
    is_holding: bool,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    NoSpace,
    Io,
    /// Half of what a call writes arrives.
    Short,
    /// A sync fails, and what it was to cover is gone: the kernel drops the pages that it could
    /// not write.
    Dropped,
    /// The process ends there: see [`killed`].
    Kill,
    /// The same, but only where something is about to be renamed.
    KillAtRename,
}

impl Failure {
    /// Whether this can happen to such a call.
    fn befalls(self, op: Op) -> bool {
        match self {
            Self::NoSpace | Self::Io | Self::Kill => true,
            Self::Short => matches!(op, Op::Insert | Op::Flush | Op::Write),
            Self::Dropped => op == Op::Sync,
            Self::KillAtRename => op == Op::Rename,
        }
    }
}

/// Held by all calls under way; alone, while a folder is copied as it is at a moment.
static MOMENT: RwLock<()> = RwLock::new(());
static PLANS: Mutex<Option<HashMap<PathBuf, Plan>>> = Mutex::new(None);
/// A plan is over.
static ENDED: Condvar = Condvar::new();

fn with<T>(change: impl FnOnce(&mut HashMap<PathBuf, Plan>) -> T) -> T {
    let mut plans = PLANS.lock().unwrap_or_else(PoisonError::into_inner);
    change(plans.get_or_insert_default())
}

fn with_plan<T>(path: &Path, change: impl FnOnce(&Path, &mut Plan) -> T) -> Option<T> {
    with(|plans| {
        let (dir, plan) = plans.iter_mut().find(|(dir, _)| path.starts_with(dir))?;
        Some(change(dir, plan))
    })
}

/// Counts the calls under `dir` from now on that such a failure can befall; those of these numbers,
/// from 0, fail.
pub(super) fn plan(dir: &Path, failing: Option<(std::ops::Range<u64>, Failure)>) {
    let plan = Plan { failing, ..Plan::default() };
    with(|plans| plans.insert(dir.to_owned(), plan));
}

/// Lets so many of the next syncs under `dir` fail.
pub(super) fn fail_syncs(dir: &Path, syncs: u64) {
    with(|plans| plans.entry(dir.to_owned()).or_default().syncs = syncs);
}

/// Whether the room that the reserve needs is taken by somebody else.
pub(super) fn refuse_reserve(dir: &Path, refuses_reserve: bool) {
    with(|plans| plans.entry(dir.to_owned()).or_default().refuses_reserve = refuses_reserve);
}

/// Holds calls of this kind under `dir` up, until the plan ends.
pub(super) fn hold(dir: &Path, op: Op) {
    with(|plans| plans.entry(dir.to_owned()).or_default().held = Some(op));
}

/// Whether a call is held up.
pub(super) fn is_holding(dir: &Path) -> bool {
    with(|plans| plans.get(dir).is_some_and(|plan| plan.is_holding))
}

/// Ends the plan for `dir`; returns how many calls it counted.
pub(super) fn end(dir: &Path) -> u64 {
    let calls = with(|plans| plans.remove(dir)).map_or(0, |plan| plan.calls);
    ENDED.notify_all();
    calls
}

fn wait_while_held(op: Op, path: &Path) {
    let plans = PLANS.lock().unwrap_or_else(PoisonError::into_inner);
    let holds = |plans: &mut Option<HashMap<PathBuf, Plan>>| {
        let held = |(dir, plan): &(&PathBuf, &mut Plan)| {
            plan.held == Some(op) && path.starts_with(dir.as_path())
        };
        let plan = plans.iter_mut().flatten().find(held);
        plan.map(|(_, plan)| plan.is_holding = true).is_some()
    };
    drop(ENDED.wait_while(plans, holds).unwrap_or_else(PoisonError::into_inner));
}

/// The folder as the process left it, when a plan killed it.
pub(super) fn killed(dir: &Path) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(".killed");
    PathBuf::from(name)
}

/// What a call meets.
enum Verdict {
    Works,
    Fails(EngineError),
    /// Half of what it writes arrives.
    Tears(EngineError),
    /// Of this file only what was synced before is left.
    Drops(EngineError, Vec<u8>),
    /// The process that has this folder ends.
    Kills(PathBuf),
}

/// Makes a call of the engine's, as the plan for its folder says.
pub(super) fn attempt<T, E: From<EngineError>>(
    op: Op,
    path: &Path,
    call: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    wait_while_held(op, path);
    let file = if path.is_dir() { data_file(path) } else { path.to_owned() };
    let verdict = with_plan(path, |dir, plan| plan.verdict(dir, op, &file));
    if let Some(Verdict::Kills(dir)) = &verdict {
        let _nobody_else = MOMENT.write().unwrap_or_else(PoisonError::into_inner);
        // What the operating system has at this moment is what a start will find.
        super::tests::copy(dir, &killed(dir));
        return Err(EngineError::Io(format!("killed at {op:?}")).into());
    }
    let _not_meanwhile = MOMENT.read().unwrap_or_else(PoisonError::into_inner);
    match verdict.unwrap_or(Verdict::Works) {
        Verdict::Works => {
            let value = call()?;
            if op == Op::Sync {
                with_plan(path, |_, plan| plan.note_synced(&file));
            }
            Ok(value)
        }
        Verdict::Kills(_) => Err(EngineError::Io("killed".to_owned()).into()),
        Verdict::Fails(error) => Err(error.into()),
        Verdict::Tears(error) => {
            let before = std::fs::read(&file).unwrap_or_default();
            drop(call());
            tear(&file, &before);
            Err(error.into())
        }
        Verdict::Drops(error, synced) => {
            overwrite(&file, 0, &synced, synced.len());
            Err(error.into())
        }
    }
}

impl Plan {
    fn verdict(&mut self, dir: &Path, op: Op, file: &Path) -> Verdict {
        if op == Op::Reserve && self.refuses_reserve {
            return Verdict::Fails(EngineError::NoSpace);
        }
        let injected = || EngineError::Io(format!("injected at {op:?}"));
        if op == Op::Sync && self.syncs > 0 {
            self.syncs -= 1;
            return Verdict::Fails(injected());
        }
        let Some((range, failure)) = &self.failing else { return Verdict::Works };
        if self.is_killed {
            return Verdict::Fails(EngineError::Io("killed".to_owned()));
        }
        if !failure.befalls(op) {
            return Verdict::Works;
        }
        let number = self.calls;
        self.calls += 1;
        if !range.contains(&number) {
            return Verdict::Works;
        }
        match failure {
            Failure::Kill | Failure::KillAtRename => {
                self.is_killed = true;
                Verdict::Kills(dir.to_owned())
            }
            Failure::NoSpace => Verdict::Fails(EngineError::NoSpace),
            Failure::Io => Verdict::Fails(injected()),
            // A write is short because the device fails, or because it is full.
            Failure::Short if number.is_multiple_of(2) => Verdict::Tears(injected()),
            Failure::Short => Verdict::Tears(EngineError::NoSpace),
            Failure::Dropped => {
                Verdict::Drops(injected(), self.synced.get(file).cloned().unwrap_or_default())
            }
        }
    }

    fn note_synced(&mut self, file: &Path) {
        if matches!(self.failing, Some((_, Failure::Dropped))) {
            self.synced.insert(file.to_owned(), std::fs::read(file).unwrap_or_default());
        }
    }
}

/// Undoes the second half of what was written to a file since it had these bytes.
fn tear(file: &Path, before: &[u8]) {
    let Ok(after) = std::fs::read(file) else { return };
    let is_same = |at: &usize| before.get(*at) == after.get(*at);
    let Some(first) = (0..after.len()).find(|at| !is_same(at)) else { return };
    let end = (first..after.len()).rfind(|at| !is_same(at)).map_or(first, |last| last + 1);
    let middle = first + (end - first) / 2;
    let old = before.get(middle..).unwrap_or_default();
    overwrite(file, middle, old, before.len().max(middle));
}

/// Writes over the file that others hold open.
fn overwrite(file: &Path, at: usize, bytes: &[u8], length: usize) {
    let Ok(file) = std::fs::File::options().write(true).open(file) else { return };
    file.write_all_at(bytes, at as u64).unwrap();
    file.set_len(length as u64).unwrap();
}
