//! What was accepted lately, so that it is not accepted twice.
//!
//! Two kinds of repetition are known: a unique event (same user, type and idempotenceKey), told by
//! its [`Mark`]; and a request (same `Idempotency-Key` on the same path), told by its
//! [`RequestKey`], which gets the same answer again.
//!
//! Both lie in the frames of their events, so they are exactly as durable as these. When a
//! generation is sealed, what it holds of them is written, packed, beside its record: a start reads
//! the packs and the newest generation, never the whole log.
//!
//! Bounded by `events.dedupe_window` in time and by `events.dedupe_entries` in memory; beyond the
//! entries the oldest are forgotten, and counted.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntCounter;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::state::PackRecord;
use super::{Appended, Sequence};
use crate::clock::{Clock, Timestamp};

/// The longest rest of a lenient answer that is remembered, in bytes.
const MAX_REST: usize = 4096;
/// So many bytes of a remembered answer weigh as much as an entry.
const ENTRY_BYTES: usize = 64;

/// A unique event's identity: a cryptographic hash, since users may choose its parts, and a
/// collision would lose an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Mark(pub(super) u128);

impl Mark {
    pub(super) fn of_event(user_id: &str, event_type: &str, idempotence_key: &str) -> Self {
        Self(hash(b'e', &[user_id.as_bytes(), event_type.as_bytes(), idempotence_key.as_bytes()]))
    }

    /// Of an event that has none, and is to be told from all others.
    #[cfg(feature = "nats")]
    pub(super) fn random() -> Self {
        Self(rand::random())
    }

    /// Of an event that was stored without one, the same each time it is read.
    #[cfg(feature = "nats")]
    pub(super) fn of_stored(sequence: Sequence, accepted_at: Timestamp, json: &[u8]) -> Self {
        let [sequence, at] = [sequence.get(), accepted_at.as_millis()].map(u64::to_le_bytes);
        Self(hash(b's', &[&sequence, &at, json]))
    }
}

/// A request's identity, and what it said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestKey {
    key: u128,
    body: u128,
}

impl RequestKey {
    /// `key` is the header's value, `path` the route, `body` the bytes after decompression.
    #[must_use]
    pub fn new(path: &str, key: &[u8], body: &[u8]) -> Self {
        Self { key: hash(b'k', &[path.as_bytes(), key]), body: hash(b'b', &[body]) }
    }
}

fn hash(domain: u8, parts: &[&[u8]]) -> u128 {
    let mut context = Context::new(&SHA256);
    context.update(&[domain]);
    for part in parts {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part);
    }
    let digest = context.finish();
    digest.as_ref().first_chunk().map_or(0, |bytes| u128::from_le_bytes(*bytes))
}

/// What a keyed request was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    key: u128,
    body: u128,
    accepted: u64,
    duplicates: u64,
    /// The first of its events' consecutive sequences; 0 where they have none.
    first: u64,
    /// The rest of a lenient answer, as it was sent.
    pub rest: Option<String>,
}

impl Answer {
    /// What the first request's append did.
    #[must_use]
    pub fn appended(&self) -> Appended {
        let last = self.first.saturating_add(self.accepted).saturating_sub(1);
        let sequences = (self.accepted > 0 && self.first > 0)
            .then(|| (Sequence::new(self.first), Sequence::new(last)));
        Appended { accepted: self.accepted, duplicates: self.duplicates, sequences }
    }

    fn weight(&self) -> usize {
        2 + self.rest.as_ref().map_or(0, |rest| rest.len().div_ceil(ENTRY_BYTES))
    }
}

/// What a start has to know of the frames it no longer reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Known {
    Event(Mark),
    Request(Box<Answer>),
    /// A dead letter that is in the queue again under another sequence.
    Requeued(u64),
}

impl Known {
    /// The dead letter that is in the queue again.
    pub(super) fn requeued(&self) -> Option<Sequence> {
        match self {
            Self::Requeued(origin) => Some(Sequence::new(*origin)),
            Self::Event(_) | Self::Request(_) => None,
        }
    }
}

/// How a keyed request begins.
#[derive(Debug)]
pub enum Begun {
    /// It is the first of its key: to be handed on with its submission.
    First(Underway),
    /// It was answered before.
    Replay(Answer),
    /// Its key was used with another body.
    OtherBody,
    /// One of its key is under way.
    Underway,
}

/// Holds a key while its request is under way. Dropped, the key is free again.
#[derive(Debug)]
pub struct Underway {
    dedupe: Arc<Dedupe>,
    key: RequestKey,
    rest: Option<String>,
    /// Whether its answer is short enough to be remembered.
    remembered: bool,
}

impl Underway {
    /// Has the rest of the request's answer remembered with its counts.
    #[must_use]
    pub fn with_rest(mut self, rest: &str) -> Self {
        self.remembered = rest.len() < MAX_REST;
        self.rest = self.remembered.then(|| rest.to_owned());
        self
    }

    /// The identity of the request's event at `index` for whoever else keeps events apart: the same
    /// for the same key and body.
    #[cfg(feature = "nats")]
    pub(super) fn mark(&self, index: usize) -> Mark {
        let [key, body] = [self.key.key, self.key.body].map(u128::to_le_bytes);
        Mark(hash(b'r', &[&key, &body, &(index as u64).to_le_bytes()]))
    }

    /// The answer to remember; none where it is too long.
    pub(super) fn answer(&mut self, appended: &Appended) -> Option<Answer> {
        self.remembered.then(|| Answer {
            key: self.key.key,
            body: self.key.body,
            accepted: appended.accepted,
            duplicates: appended.duplicates,
            first: appended.sequences.map_or(0, |(first, _)| first.get()),
            rest: self.rest.take(),
        })
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.dedupe.lock().underway.remove(&self.key.key);
    }
}

/// Bounds of what is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DedupeLimits {
    pub window: Duration,
    pub entries: usize,
}

/// See the module. Shared by the writer, which alone adds to it, and the callers, who ask.
#[derive(Debug)]
pub struct Dedupe {
    table: Mutex<Table>,
    clock: Clock,
    forgotten: IntCounter,
}

/// Keys are hashes already.
#[derive(Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    }
}

type ByHash = BuildHasherDefault<Hashed>;

#[derive(Debug)]
struct Table {
    limits: DedupeLimits,
    events: HashSet<u128, ByHash>,
    answers: HashMap<u128, Answer, ByHash>,
    underway: HashSet<u128, ByHash>,
    /// What is in `events` and `answers`, the oldest first.
    order: VecDeque<u128>,
    /// When these came: of how many, in the same order.
    times: VecDeque<(Timestamp, usize)>,
    weight: usize,
}

impl Dedupe {
    pub(super) fn new(limits: DedupeLimits, clock: Clock, forgotten: IntCounter) -> Self {
        let table = Table {
            limits,
            events: HashSet::default(),
            answers: HashMap::default(),
            underway: HashSet::default(),
            order: VecDeque::new(),
            times: VecDeque::new(),
            weight: 0,
        };
        Self { table: Mutex::new(table), clock, forgotten }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets other bounds; what is beyond them is forgotten with the next addition.
    pub(super) fn set_limits(&self, limits: DedupeLimits) {
        self.lock().limits = limits;
    }

    pub(super) fn limits(&self) -> DedupeLimits {
        self.lock().limits
    }

    /// Begins a keyed request.
    pub(super) fn begin(self: &Arc<Self>, key: RequestKey) -> Begun {
        let mut table = self.lock();
        table.expire(self.clock.now());
        if let Some(answer) = table.answers.get(&key.key) {
            let is_same = answer.body == key.body;
            return if is_same { Begun::Replay(answer.clone()) } else { Begun::OtherBody };
        }
        if !table.underway.insert(key.key) {
            return Begun::Underway;
        }
        drop(table);
        Begun::First(Underway { dedupe: Arc::clone(self), key, rest: None, remembered: true })
    }

    /// Adds what recovery found, the oldest first. Requeued ones are not for here.
    pub(super) fn restore(&self, at: Timestamp, known: &Known) {
        let mut table = self.lock();
        match known {
            Known::Event(mark) => {
                if !table.events.contains(&mark.0) {
                    table.add_event(mark.0, at);
                }
            }
            Known::Request(answer) => table.add_answer(Answer::clone(answer), at),
            Known::Requeued(_) => return,
        }
        // In the order of the log, times may step back by what the clock did.
        self.shed(&mut table, at);
    }

    /// Adds these marks; true for each that was new. They count at once, so that a repetition in
    /// the same commit is found; [`Dedupe::take_back`] forgets them when the commit fails.
    pub(super) fn add_events(
        &self,
        marks: impl Iterator<Item = Option<Mark>>,
        at: Timestamp,
    ) -> (Vec<bool>, usize) {
        let mut table = self.lock();
        table.expire(at);
        let mut added = 0;
        let is_off = table.limits.window.is_zero() || table.limits.entries == 0;
        let is_new = marks.map(|mark| {
            let Some(mark) = mark.filter(|_| !is_off) else { return true };
            let is_new = !table.events.contains(&mark.0);
            if is_new {
                table.add_event(mark.0, at);
                added += 1;
            }
            is_new
        });
        (is_new.collect(), added)
    }

    /// Forgets the newest `count` events: their commit failed.
    pub(super) fn take_back(&self, count: usize) {
        let mut table = self.lock();
        for _ in 0..count {
            table.take_newest();
        }
    }

    /// Notes a commit: its answers count from now on, and what is too much is forgotten.
    pub(super) fn committed(&self, answers: impl Iterator<Item = Answer>, at: Timestamp) {
        let mut table = self.lock();
        for answer in answers {
            table.add_answer(answer, at);
        }
        self.shed(&mut table, at);
    }

    /// Forgets what is over the entries.
    fn shed(&self, table: &mut Table, now: Timestamp) {
        table.expire(now);
        while table.weight > table.limits.entries && table.take_oldest() {
            self.forgotten.inc();
        }
    }
}

impl Table {
    fn add_event(&mut self, hash: u128, at: Timestamp) {
        self.events.insert(hash);
        self.note(hash, at, 1);
    }

    fn add_answer(&mut self, answer: Answer, at: Timestamp) {
        let (hash, weight) = (answer.key, answer.weight());
        match self.answers.insert(hash, answer) {
            // Its place in the order is the older one's.
            Some(older) => self.weight = self.weight + weight - older.weight(),
            None => self.note(hash, at, weight),
        }
    }

    fn note(&mut self, hash: u128, at: Timestamp, weight: usize) {
        self.order.push_back(hash);
        self.weight += weight;
        match self.times.back_mut() {
            Some((time, count)) if *time >= at => *count += 1,
            _ => self.times.push_back((at, 1)),
        }
    }

    fn expire(&mut self, now: Timestamp) {
        while self.times.front().is_some_and(|(at, _)| now.since(*at) >= self.limits.window) {
            self.take_oldest();
        }
    }

    fn take_oldest(&mut self) -> bool {
        let Some(hash) = self.order.pop_front() else { return false };
        if let Some((_, count)) = self.times.front_mut() {
            *count -= 1;
            if *count == 0 {
                self.times.pop_front();
            }
        }
        self.remove(hash);
        true
    }

    fn take_newest(&mut self) {
        let Some(hash) = self.order.pop_back() else { return };
        if let Some((_, count)) = self.times.back_mut() {
            *count -= 1;
            if *count == 0 {
                self.times.pop_back();
            }
        }
        self.remove(hash);
    }

    fn remove(&mut self, hash: u128) {
        if self.events.remove(&hash) {
            self.weight -= 1;
        } else if let Some(answer) = self.answers.remove(&hash) {
            self.weight -= answer.weight();
        }
        // What a flood made room for is given back once most of it is unused.
        if self.order.len() * 4 < self.order.capacity() && self.order.capacity() > 4096 {
            self.order.shrink_to(self.order.len() * 2);
            self.events.shrink_to(self.events.len() * 2);
            self.answers.shrink_to(self.answers.len() * 2);
        }
    }
}

/// Packs what a generation knows into values of bounded size.
#[derive(Debug, Default)]
pub(super) struct Pack {
    pieces: Vec<Vec<u8>>,
    entries: usize,
    /// When the newest of it was accepted.
    newest: Timestamp,
}

impl Pack {
    /// Adds an entry. `piece` is the largest value in bytes.
    pub(super) fn push(&mut self, at: Timestamp, known: &Known, piece: usize) {
        self.newest = self.newest.max(at);
        self.entries += 1;
        // Fails only on types postcard can't express, of which these have none.
        let bytes = postcard::to_stdvec(&(at.as_millis(), known)).unwrap_or_default();
        match self.pieces.last_mut() {
            Some(last) if last.len() + bytes.len() <= piece => last.extend_from_slice(&bytes),
            _ => self.pieces.push(bytes),
        }
    }

    pub(super) fn pieces(&self) -> &[Vec<u8>] {
        &self.pieces
    }

    pub(super) fn record(&self, first: Sequence) -> PackRecord {
        PackRecord {
            first: first.get(),
            pieces: u16::try_from(self.pieces.len()).unwrap_or(u16::MAX),
            entries: self.entries,
            newest: self.newest,
        }
    }
}

/// The entries of a packed value, in order; ends at what can't be read.
pub(super) fn unpack(mut piece: &[u8]) -> impl Iterator<Item = (Timestamp, Known)> {
    std::iter::from_fn(move || {
        let ((millis, known), rest) = postcard::take_from_bytes(piece).ok()?;
        piece = rest;
        Some((Timestamp::from_millis(millis), known))
    })
}
