//! The process that ends at each step of putting damaged files aside, and of finishing that at the
//! next start: what is readable is delivered all the same, in order, each event once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::damage::{Original, deliver, intact, original, small, survives};
use super::running::damage_frame;
use super::*;
use crate::queue::engine::Database;
use crate::queue::fault::{self, Failure};

/// A folder that needs repair at its start (the state, the newest generation) and when it is read
/// (a sealed one).
fn harmed(original: &Original) -> tempfile::TempDir {
    let harmed = copy_of(original.dir.path());
    // A record that can't be understood.
    let state = Database::open(&harmed.path().join("state")).unwrap();
    state.insert(b"reserved", &[]).unwrap();
    state.flush().unwrap();
    drop(state);
    let mut generations: Vec<_> = std::fs::read_dir(harmed.path().join("queue"))
        .unwrap()
        .map(|g| g.unwrap().path())
        .collect();
    generations.sort();
    for generation in generations.iter().skip(1) {
        let bytes = std::fs::read(generation.join("db")).unwrap();
        let frames: BTreeSet<u64> =
            frames_in(&bytes).map(|(_, frame)| frame.header.first.get()).collect();
        damage_frame(generation, *frames.iter().nth(frames.len() * 2 / 3).unwrap());
    }
    harmed
}

/// A start that repairs and delivers. Returns the events that lanes tried to settle.
async fn life(dir: &Path) -> BTreeSet<u64> {
    let mut delivered = BTreeMap::new();
    if let Ok(fixture) = Fixture::open_with(&small(dir)) {
        let _ended = deliver(&fixture, &mut delivered).await;
        fixture.close();
    }
    delivered.into_keys().collect()
}

/// The same in a process that ends at its call of this number: what it left, if it came so far.
async fn kill(dir: &Path, failure: Failure, call: u64) -> (Option<PathBuf>, BTreeSet<u64>) {
    fault::plan(dir, Some((call..u64::MAX, failure)));
    let settled = life(dir).await;
    (fault::end(dir).gt(&call).then(|| fault::killed(dir)), settled)
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// Whether a repair was interrupted when the damaged folder was away and the new one not there yet.
fn is_between(dir: &Path) -> bool {
    [dir.to_owned(), dir.join("queue")].iter().any(|folder| {
        names(folder)
            .iter()
            .filter_map(|name| name.strip_prefix("salvage-"))
            .any(|name| !folder.join(name).exists())
    })
}

#[tokio::test]
async fn a_kill_at_any_step_of_a_repair_costs_no_more_than_the_damage() {
    let original = original(false).await;
    let harmed = harmed(&original);
    let intact = intact(&original, harmed.path());
    let untouched = copy_of(harmed.path());
    let damaged = copy_of(harmed.path());
    // At each step, or just before each that others see.
    let is_long = std::env::var_os("GMFY_LONG").is_some();
    let (failure, again) =
        if is_long { (Failure::Kill, 0..20) } else { (Failure::KillAtRename, 0..2) };
    fault::plan(damaged.path(), Some((u64::MAX..u64::MAX, failure)));
    life(damaged.path()).await;
    let calls = fault::end(damaged.path());
    let aside = names(&damaged.path().join("quarantine"));
    assert_eq!(aside.len(), 3, "{aside:?}");
    survives(&original, &intact, &BTreeSet::new(), harmed.path()).await;

    let mut between = 0;
    for call in 0..calls {
        // Shown with a failing test.
        eprintln!("killed at call {call} of {calls}");
        let copy = copy_of(untouched.path());
        let (killed, settled) = kill(copy.path(), failure, call).await;
        let Some(killed) = killed else { continue };
        if is_between(&killed) {
            between += 1;
            for again in again.clone() {
                eprintln!("and at call {again} of the next start");
                let copy = copy_of(&killed);
                let (killed, more) = kill(copy.path(), failure, again).await;
                let settled = &settled | &more;
                if let Some(killed) = killed {
                    survives(&original, &intact, &settled, &killed).await;
                    std::fs::remove_dir_all(killed).unwrap();
                }
            }
        }
        survives(&original, &intact, &settled, &killed).await;
        std::fs::remove_dir_all(killed).unwrap();
    }
    assert!(between > 0, "no kill was between the two renames");
}
