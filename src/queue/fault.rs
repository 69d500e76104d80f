//! Fail points under the store, for tests: the disk that refuses, and the process that ends, at
//! any of the engine's calls.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::engine::{EngineError, Op};

/// What the calls under a folder meet.
#[derive(Debug, Default)]
struct Plan {
    calls: u64,
    /// The numbers of the calls that fail, and how.
    failing: Option<(std::ops::Range<u64>, Failure)>,
    /// So many of the next syncs fail.
    syncs: u64,
    /// There is no room for the reserve.
    refuses_reserve: bool,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    NoSpace,
    Io,
    /// The process ends there: see [`kill_at`].
    Kill,
}

static PLANS: Mutex<Option<HashMap<PathBuf, Plan>>> = Mutex::new(None);

fn with<T>(change: impl FnOnce(&mut HashMap<PathBuf, Plan>) -> T) -> T {
    let mut plans = PLANS.lock().unwrap_or_else(PoisonError::into_inner);
    change(plans.get_or_insert_default())
}

/// Counts the calls under `dir` from now on; those of these numbers, from 0, fail.
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

/// Ends the plan for `dir`; returns how many calls there were.
pub(super) fn end(dir: &Path) -> u64 {
    with(|plans| plans.remove(dir)).map_or(0, |plan| plan.calls)
}

/// The folder as the process left it, when a plan killed it.
pub(super) fn killed(dir: &Path) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(".killed");
    PathBuf::from(name)
}

/// Called by the engine before each call that changes or reads files.
pub(super) fn check(op: Op, path: &Path) -> Result<(), EngineError> {
    with(|plans| {
        let Some((dir, plan)) = plans.iter_mut().find(|(dir, _)| path.starts_with(dir)) else {
            return Ok(());
        };
        let number = plan.calls;
        plan.calls += 1;
        if op == Op::Reserve && plan.refuses_reserve {
            return Err(EngineError::NoSpace);
        }
        if op == Op::Sync && plan.syncs > 0 {
            plan.syncs -= 1;
            return Err(EngineError::Io("injected at a sync".to_owned()));
        }
        let Some((range, failure)) = &plan.failing else { return Ok(()) };
        match failure {
            Failure::Kill if number == range.start => {
                // What the operating system has at this moment is what a start will find.
                super::tests::copy(dir, &killed(dir));
                Err(EngineError::Io(format!("killed at {op:?}")))
            }
            Failure::Kill if number > range.start => Err(EngineError::Io("killed".to_owned())),
            Failure::NoSpace if range.contains(&number) => Err(EngineError::NoSpace),
            Failure::Io if range.contains(&number) => {
                Err(EngineError::Io(format!("injected at {op:?}")))
            }
            Failure::NoSpace | Failure::Io | Failure::Kill => Ok(()),
        }
    })
}
