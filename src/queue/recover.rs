//! What a start finds in the log's folder, and the counts that follow from it.

use std::collections::VecDeque;
use std::path::Path;

use tracing::{error, warn};

use super::dedupe::{Dedupe, Known, Pack};
use super::engine::{Database, EngineError, remove_folder};
use super::frame::{Frame, each_known};
use super::generations::{Damage, Generations};
use super::passed::Passed;
use super::repair::{describe, put_aside, read_lost, rebuild};
use super::salvage::{RawFrames, Span, is_gone};
use super::state::{
    Change, GenerationRecord, LaneRecord, PIECE, PackRecord, Sealed, Stored, put_generation,
    put_pack, remove_generation, reseat,
};
use super::writer::RESERVE;
use super::{PARTITIONS, Partitions, ReadLimit, Sequence};
use crate::clock::Timestamp;

/// How often a generation is read that can't be read at all: a device that fails once or twice has
/// lost nothing yet.
const READ_ATTEMPTS: u32 = 3;

/// Where what is to be known of the log goes at start.
#[derive(Debug)]
pub(super) struct Recall<'a> {
    pub(super) dedupe: &'a Dedupe,
    /// Dead letters that are in the queue again.
    pub(super) requeued: Vec<Sequence>,
}

impl Recall<'_> {
    pub(super) fn note(&mut self, at: Timestamp, known: &Known) {
        self.dedupe.restore(at, known);
        if let Known::Requeued(origin) = known {
            self.requeued.push(Sequence::new(*origin));
        }
    }
}

/// The generations, as a start found them.
#[derive(Debug, Default)]
pub(super) struct Row {
    /// Events ever appended, lost ones included.
    pub(super) appended: u64,
    /// The sequence behind the last one that any frame or record names.
    pub(super) highest: Sequence,
    /// The first sequence of the newest, where the process before did not end in order: what was
    /// appended to it last may have left no trace.
    pub(super) ended_hard: Option<Sequence>,
    /// Changes of the generations' records.
    pub(super) changes: Vec<Change>,
    /// What was read just now of what generations know.
    pub(super) packs: VecDeque<PackRecord>,
    /// Whether events may be lost that `appended` counts.
    is_count_due: bool,
}

/// Adds the generations that are there to `generations`. One that was not sealed is read, and
/// sealed: none is written on, since opening it with sled could harm what is in it.
pub(super) fn recover_row(
    dir: &Path,
    generations: &Generations,
    stored: &Stored,
    is_state_damaged: bool,
    recall: &mut Recall<'_>,
) -> std::io::Result<Row> {
    let found = generations.found()?;
    let mut row =
        Row { highest: Sequence::FIRST, is_count_due: is_state_damaged, ..Row::default() };
    let mut firsts = found.iter().peekable();
    row.note_missing(stored, |first| found.contains_key(&first));
    while let Some((&first, path)) = firsts.next() {
        let limit = firsts.peek().map(|(next, _)| Sequence::new(**next));
        let record = stored.generations.get(&first).copied();
        let appended_before = match record {
            Some(record) if !is_state_damaged => record.appended_before,
            _ => row.appended,
        };
        if let Some(sealed) = record.and_then(|record| record.sealed) {
            let end = Sequence::new(sealed.end);
            let end = limit.map_or(end, |limit| limit.min(end));
            generations.add_sealed(first, path.clone(), end, appended_before);
            row.is_count_due |= !read_lost(path).is_empty();
            row.appended = appended_before + sealed.events;
            row.highest = row.highest.max(Sequence::new(sealed.end));
            row.put(first, appended_before, sealed);
            continue;
        }
        // An orderly stop leaves no reserve behind the last sequence, so tells where that is.
        let reserved = record.map_or(0, |_| stored.reserved);
        let ended_in_order =
            limit.is_none() && reserved >= first && reserved < first.saturating_add(RESERVE);
        let ended_at = ended_in_order.then_some(Sequence::new(reserved));
        let span = Span { first: Sequence::new(first), end: None, limit };
        let unsealed = Unsealed::read(dir, path, span, ended_at)?;
        row.appended = appended_before + unsealed.events;
        row.highest = row.highest.max(unsealed.highest);
        row.is_count_due |= unsealed.newly_lost > 0 || !read_lost(path).is_empty();
        if let Some(damage) = unsealed.damage {
            generations.remember(damage, unsealed.newly_lost);
        }
        if limit.is_none() && ended_at.is_none_or(|end| end < unsealed.highest) {
            row.ended_hard = Some(Sequence::new(first));
        }
        if unsealed.frames == 0 {
            row.changes.push(remove_generation(first));
            clear_away(dir, path);
            continue;
        }
        generations.add_sealed(first, path.clone(), unsealed.end, appended_before);
        let sealed = Sealed { events: unsealed.events, end: unsealed.end.get() };
        row.put(first, appended_before, sealed);
        let mut pack = Pack::default();
        for (at, known) in &unsealed.known {
            recall.note(*at, known);
            pack.push(*at, known, PIECE);
        }
        row.changes.extend(put_pack(first, &pack));
        row.packs.push_back(pack.record(Sequence::new(first)));
    }
    Ok(row)
}

impl Row {
    fn put(&mut self, first: u64, appended_before: u64, sealed: Sealed) {
        let record = GenerationRecord { appended_before, sealed: Some(sealed) };
        self.changes.push(put_generation(first, record));
    }

    /// Looks for generations of which there is a record but no folder. One that every lane has
    /// passed was removed by the process before.
    fn note_missing(&mut self, stored: &Stored, exists: impl Fn(u64) -> bool) {
        let low = stored.lanes.iter().map(LaneRecord::low).min().unwrap_or(0);
        for (&first, record) in &stored.generations {
            if exists(first) {
                continue;
            }
            self.changes.push(remove_generation(first));
            let (end, events) =
                record.sealed.map_or((first, 0), |sealed| (sealed.end, sealed.events));
            self.appended = self.appended.max(record.appended_before + events);
            self.highest = self.highest.max(Sequence::new(end));
            if end <= low && record.sealed.is_some() {
                continue;
            }
            self.is_count_due = true;
            match record.sealed {
                Some(sealed) => error!(
                    generation = first,
                    events = sealed.events,
                    sequences.lost = describe(&[(first, end.saturating_sub(1))]),
                    "a generation's folder is missing: what was not delivered of it is lost"
                ),
                None => error!(
                    generation = first,
                    "the folder of the newest generation is missing: what was not delivered of it is lost"
                ),
            }
        }
    }
}

/// Removes a generation that holds nothing; puts it aside where that may be due to damage.
fn clear_away(dir: &Path, path: &Path) {
    let cleared = match Database::open(path) {
        Ok(database) => {
            drop(database);
            remove_folder(path)
        }
        Err(_) => put_aside(dir, path).map(drop),
    };
    if let Err(error) = cleared {
        warn!(error = %error, path = %path.display(), "an empty generation stays for now");
    }
}

/// What is readable of a generation whose end is not recorded.
#[derive(Debug, Default)]
struct Unsealed {
    frames: u64,
    /// Lost ones included.
    events: u64,
    /// What its whole requests know.
    known: Vec<(Timestamp, Known)>,
    end: Sequence,
    highest: Sequence,
    newly_lost: u64,
    damage: Option<Damage>,
}

impl Unsealed {
    /// `ended_at` is the sequence behind the last one, if an orderly stop left that.
    ///
    /// # Errors
    /// When something keeps us from reading it that is no damage.
    fn read(
        dir: &Path,
        path: &Path,
        mut span: Span,
        ended_at: Option<Sequence>,
    ) -> std::io::Result<Self> {
        let mut find = || {
            let raw = RawFrames::find(path)?;
            let contents = raw.contents(span)?;
            if ended_at.is_none_or(|end| end <= contents.end) {
                return Ok((contents, raw));
            }
            // Its end is lost.
            span.end = ended_at;
            Ok((raw.contents(span)?, raw))
        };
        let mut attempt = 1;
        let (contents, raw) = loop {
            match find() {
                Ok(read) => break read,
                Err(_) if attempt < READ_ATTEMPTS => attempt += 1,
                Err(error) if is_gone(&error) => {
                    return Ok(Self::unreadable(dir, path, span, &error.into()));
                }
                Err(error) => {
                    let text = format!("{}: {error}", path.display());
                    return Err(std::io::Error::new(error.kind(), text));
                }
            }
        };
        let sum = |lost: &[(u64, u64)]| lost.iter().map(|(first, last)| last - first + 1).sum();
        let lost: u64 = sum(&contents.lost);
        let newly_lost = lost.saturating_sub(sum(&read_lost(path)));
        let mut known = Vec::new();
        let note = |frame: &Frame<'_>| {
            each_known(frame, |one| known.push((frame.header.accepted_at, one)))
                .map_err(std::io::Error::other)
        };
        if let Err(error) = raw.each_frame(&contents, note) {
            warn!(error = %error, "some events' identities are not known any more");
        }
        let mut unsealed = Self {
            frames: contents.frame_count(),
            known,
            events: contents.events + newly_lost,
            end: contents.end,
            highest: contents.highest,
            newly_lost,
            damage: None,
        };
        if newly_lost > 0 {
            let reason = EngineError::Damaged("events in it are missing".to_owned());
            let aside = rebuild(dir, path, &raw, &contents).unwrap_or_else(|error| {
                error!(error = %error, "what is damaged stays in its place");
                path.to_owned()
            });
            error!(
                generation = span.first.get(),
                sequences.lost = describe(&contents.lost),
                events.kept = contents.events,
                quarantine = %aside.display(),
                "the newest generation is damaged: what is readable of it stays in the queue"
            );
            unsealed.damage = Some(Damage::new(path, &reason, &contents.lost, &aside));
        }
        Ok(unsealed)
    }

    /// The device reads nothing of it.
    fn unreadable(dir: &Path, path: &Path, span: Span, reason: &EngineError) -> Self {
        let aside = put_aside(dir, path).unwrap_or_else(|_| path.to_owned());
        error!(
            generation = span.first.get(),
            reason = %reason,
            quarantine = %aside.display(),
            "the newest generation can't be read: what was not delivered of it is lost"
        );
        let end = span.end.unwrap_or(span.first);
        let lost = end.get() - span.first.get();
        let ranges: Vec<_> =
            end.get().checked_sub(1).map(|last| (span.first.get(), last)).into_iter().collect();
        Self {
            end,
            highest: end,
            newly_lost: lost,
            damage: Some(Damage::new(path, reason, &ranges, &aside)),
            ..Self::default()
        }
    }
}

/// The lanes, complete: partitions whose cursor is lost begin again at the log's start.
pub(super) fn complete(lanes: Vec<LaneRecord>, fresh: Sequence) -> Vec<LaneRecord> {
    let mut seen = Partitions::none();
    let mut count = 0;
    for partition in lanes.iter().flat_map(|lane| lane.start().cursor.watermarks) {
        seen.insert(partition.0);
        count += 1;
    }
    if lanes.is_empty() || (count == PARTITIONS && seen == Partitions::all()) {
        return lanes;
    }
    error!("some lanes' cursors are lost: events of theirs may be delivered twice");
    reseat(&lanes, lanes.len(), fresh)
}

/// Brings the totals of the cursors in line with what the log holds, where the two contradict each
/// other; returns how many events are lost. Otherwise nothing is read.
pub(super) fn settle_lost(
    generations: &Generations,
    row: &mut Row,
    lanes: &mut Vec<LaneRecord>,
    is_state_damaged: bool,
) -> Result<u64, EngineError> {
    let settled: u64 = lanes.iter().map(|lane| lane.settled_total).sum();
    let all_passed = !lanes.is_empty() && lanes.iter().all(|lane| lane.low() >= row.highest.get());
    // Where a cursor is past all that was found, the log's end is lost.
    let end_is_lost = lanes.iter().any(|lane| lane.high() > row.highest.get());
    let contradiction =
        settled > row.appended || (all_passed && settled != row.appended) || end_is_lost;
    if !contradiction && !row.is_count_due {
        return Ok(0);
    }
    let waiting = count_waiting(generations, &Passed::of(lanes), row.highest)?;
    row.appended = row.appended.max(waiting);
    let lost = if is_state_damaged {
        generations.newly_lost()
    } else {
        row.appended.saturating_sub(settled).saturating_sub(waiting)
    };
    generations.counted();
    let total = row.appended - waiting;
    if total == settled {
        return Ok(lost);
    }
    if lanes.is_empty() {
        *lanes = reseat(&[], 1, generations.start().unwrap_or(Sequence::FIRST));
    }
    for lane in lanes.iter_mut() {
        lane.settled_total = 0;
    }
    if let Some(lane) = lanes.first_mut() {
        lane.settled_total = total;
    }
    error!(
        events.lost = lost,
        events.waiting = waiting,
        "something of the queue was lost; the log was counted"
    );
    Ok(lost)
}

/// Counts the events before `end` that are not settled.
fn count_waiting(
    generations: &Generations,
    passed: &Passed,
    end: Sequence,
) -> Result<u64, EngineError> {
    let mut waiting = 0;
    each_event(generations, passed.low(), end, |sequence, partition| {
        waiting += u64::from(!passed.contains(partition, sequence));
    })?;
    Ok(waiting)
}

/// Reads through the log.
fn each_event(
    generations: &Generations,
    from: Sequence,
    end: Sequence,
    mut each: impl FnMut(Sequence, super::Partition),
) -> Result<(), EngineError> {
    let limit = ReadLimit { events: 4096, bytes: 4 << 20 };
    let mut position = from;
    while position < end {
        let chunk = generations.read(position, end, &Partitions::all(), limit)?;
        for event in &chunk.events {
            each(event.sequence, event.user.partition());
        }
        if chunk.position <= position {
            break;
        }
        position = chunk.position;
    }
    Ok(())
}

/// Events that were lost while running, once all lanes are past them: everything before `passed`'s
/// low end is settled or lost. `appended` and `settled` are the totals.
pub(super) fn count_lost(
    generations: &Generations,
    passed: &Passed,
    appended: u64,
    settled: u64,
) -> Result<u64, EngineError> {
    let (low, high) = (passed.low(), passed.high());
    let (first, mut appended_before) = generations.locate(low).unwrap_or((high, appended));
    let mut settled_behind = 0;
    each_event(generations, first, high, |sequence, partition| {
        if sequence < low {
            appended_before += 1;
        } else {
            settled_behind += u64::from(passed.contains(partition, sequence));
        }
    })?;
    let lost = generations.lost_between(first, low);
    // Compaction left out settled ones only.
    let left_out = generations.left_out(first)?;
    Ok((appended_before + lost + settled_behind + left_out).saturating_sub(settled))
}
