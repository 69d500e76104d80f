//! Damage of generations: what was lost, and how a generation is rebuilt without it.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::{error, warn};

use super::{Generations, Inner, Place};
use crate::queue::Sequence;
use crate::queue::engine::{EngineError, folder_bytes};
use crate::queue::repair::{describe, is_lost, rebuild};
use crate::queue::salvage::{RawFrames, Span, is_gone};

/// Reads that fail in a row before a device's errors count as damage.
const FAILURES: u32 = 3;
/// Damages that are remembered, and ranges of each.
const REMEMBERED: usize = 64;

/// Something of the queue's folder that was damaged, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The folder: a generation's, `state` or `dead-letters`.
    pub what: String,
    pub reason: String,
    /// Sequences whose events are lost, the first ranges of many.
    pub lost: Vec<RangeInclusive<Sequence>>,
    /// Where the damaged files are now.
    pub aside: PathBuf,
}

impl Damage {
    pub(in crate::queue) fn new(
        path: &Path,
        reason: &EngineError,
        lost: &[(u64, u64)],
        aside: &Path,
    ) -> Self {
        let lost = lost.iter().take(REMEMBERED);
        Self {
            what: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            reason: reason.to_string(),
            lost: lost.map(|(first, last)| Sequence::new(*first)..=Sequence::new(*last)).collect(),
            aside: aside.to_owned(),
        }
    }
}

impl Generations {
    /// Writes a sealed generation anew, because what was written to it may not be on disk.
    pub(in crate::queue) fn distrust(&self, first: Sequence) -> Result<(), EngineError> {
        let rebuilds = self.lock().row.get(&first.get()).map_or(0, |g| g.rebuilds);
        let place = Place { first: first.get(), rebuilds };
        self.mend(place, EngineError::Damaged("a sync of it failed".to_owned()), true)
    }

    /// Rebuilds a generation that showed this error; gives the error back where that can't help,
    /// or not yet. Where nothing turns out to be missing it is only read anew, unless it `must`
    /// be rebuilt: a database that is being closed may still move its frames.
    pub(super) fn mend(
        &self,
        place: Place,
        error: EngineError,
        must: bool,
    ) -> Result<(), EngineError> {
        let _one_at_a_time = self.opening();
        let (path, known_lost, span) = {
            let mut inner = self.lock();
            let limit = inner.row.range(place.first + 1..).next().map(|(next, _)| *next);
            let Some(generation) = inner.row.get_mut(&place.first) else { return Ok(()) };
            if generation.rebuilds != place.rebuilds {
                return Ok(());
            }
            generation.failures += 1;
            generation.raw = None;
            let is_damage = match &error {
                EngineError::Damaged(_) => true,
                EngineError::Io(_) => generation.failures >= FAILURES,
                EngineError::NoSpace => false,
            };
            if generation.end.is_none() {
                generation.is_damaged |= is_damage;
                return Err(error);
            }
            if !is_damage {
                return Err(error);
            }
            let (first, limit) = (Sequence::new(place.first), limit.map(Sequence::new));
            let span = Span { first, end: generation.end, limit };
            (generation.path.clone(), Arc::clone(&generation.lost), span)
        };
        let raw = match RawFrames::find(&path) {
            // Nothing of it is readable, and what follows it is to be delivered.
            Err(error) if is_gone(&error) => RawFrames::default(),
            raw => raw?,
        };
        let contents = raw.contents(span)?;
        let is_new = |(first, last): &&(u64, u64)| !is_lost(&known_lost, *first, *last);
        let newly_lost: u64 =
            contents.lost.iter().filter(is_new).map(|(first, last)| last - first + 1).sum();
        if newly_lost == 0 && !must {
            if let Some(generation) = self.lock().row.get_mut(&place.first) {
                generation.rebuilds += 1;
            }
            return Ok(());
        }
        let aside = match rebuild(&self.dir, &path, &raw, &contents) {
            Ok(aside) => aside,
            Err(error) => {
                warn!(
                    generation = place.first,
                    error = %error,
                    "what is damaged stays in its place: what is readable could not be copied"
                );
                path.clone()
            }
        };
        error!(
            generation = place.first,
            reason = %error,
            sequences.lost = describe(&contents.lost),
            events.kept = contents.events,
            quarantine = %aside.display(),
            "a generation is damaged: what is readable of it stays in the queue"
        );
        let bytes = folder_bytes(&path);
        let mut inner = self.lock();
        let damage = Damage::new(&path, &error, &contents.lost, &aside);
        if let Some(generation) = inner.row.get_mut(&place.first) {
            generation.rebuilds += 1;
            generation.failures = 0;
            generation.sealed_bytes = bytes;
            generation.lost = Arc::new(contents.lost);
        }
        inner.is_count_due |= newly_lost > 0;
        inner.newly_lost += newly_lost;
        inner.remember(damage);
        Ok(())
    }

    /// Whether the written one was found damaged: only once it is sealed can it be rebuilt.
    pub(in crate::queue) fn is_written_damaged(&self) -> bool {
        self.lock().row.values().any(|generation| generation.end.is_none() && generation.is_damaged)
    }

    /// Where the last lost event lies that the counts may still hold; none when there is none.
    pub(in crate::queue) fn count_due_until(&self) -> Option<Sequence> {
        let inner = self.lock();
        if !inner.is_count_due {
            return None;
        }
        let lost = inner.row.values().filter_map(|generation| generation.lost.last());
        Some(Sequence::new(lost.map(|(_, last)| last + 1).max().unwrap_or(0)))
    }

    /// Notes that the counts hold no lost event any more.
    pub(in crate::queue) fn counted(&self) {
        self.lock().is_count_due = false;
    }

    /// Notes a damage by which so many sequences are lost.
    pub(in crate::queue) fn remember(&self, damage: Damage, lost: u64) {
        let mut inner = self.lock();
        inner.newly_lost += lost;
        inner.remember(damage);
    }

    /// Sequences found to be lost since the start.
    pub(in crate::queue) fn newly_lost(&self) -> u64 {
        self.lock().newly_lost
    }

    /// The damages found since the start, the newest of many.
    pub(in crate::queue) fn damages(&self) -> Vec<Damage> {
        self.lock().damages.clone()
    }

    /// Sequences known to be lost in the generations from `from` on, before `before`.
    pub(in crate::queue) fn lost_between(&self, from: Sequence, before: Sequence) -> u64 {
        let inner = self.lock();
        let lost = inner.row.range(from.get()..).flat_map(|(_, generation)| generation.lost.iter());
        lost.map(|(first, last)| (last + 1).min(before.get()).saturating_sub(*first)).sum()
    }
}

impl Inner {
    fn remember(&mut self, damage: Damage) {
        if self.damages.len() == REMEMBERED {
            self.damages.remove(0);
        }
        self.damages.push(damage);
    }
}
