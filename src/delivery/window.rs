//! What a lane has read ahead, and what of its partitions is settled.
//!
//! A user who has much waiting is *deferred*: their later events are passed over and read again
//! when their turn comes, so that the events behind a flood are found without holding the flood
//! in memory. What is then settled ahead of it in the same partition is kept as a bounded list.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::batch::{self, Ahead};
use super::size::BatchLimit;
use crate::clock::Timestamp;
use crate::queue::{
    LaneCursor, LaneStart, Log, PARTITIONS, Partitions, QueuedEvent, ReadLimit, Sequence,
    SequenceRanges, StoreError, StoredBatch, UserHash,
};

/// How many users may be deferred at once; when there are more, the lane reads no further ahead.
const DEFERRED_USERS: usize = 16;
/// Reads in one refill at most: how far one passes over a flood, in windows.
const READS: usize = 16;

/// How much a lane holds in memory and in its cursor.
#[derive(Clone, Copy, Debug)]
pub(super) struct WindowLimit {
    /// The events, and bytes of wire form, that are read ahead.
    pub(super) read: ReadLimit,
    /// Waiting events of one user, from which on they are deferred.
    pub(super) per_user: usize,
    /// Events settled ahead of others in their partition.
    pub(super) ahead: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Window {
    limit: WindowLimit,
    partitions: Partitions,
    /// Read and not settled, without those in work; a user's are in order.
    waiting: VecDeque<QueuedEvent>,
    waiting_bytes: usize,
    waiting_of: HashMap<UserHash, usize>,
    /// Everything before this was read, or is a deferred user's.
    position: Sequence,
    deferred: BTreeMap<UserHash, Sequence>,
    watermarks: Vec<Sequence>,
    /// Settled events that may be at or above their partition's watermark, as they were settled.
    settled: Vec<(Sequence, usize)>,
    /// Settled before the process began, not yet read again.
    restored: SequenceRanges,
    /// In the batch that was unfinished when the process began.
    unfinished: BTreeSet<Sequence>,
}

impl Window {
    pub(super) fn new(start: &LaneStart, limit: WindowLimit) -> Self {
        let mut watermarks = vec![Sequence::FIRST; PARTITIONS];
        for (partition, sequence) in &start.cursor.watermarks {
            if let Some(watermark) = watermarks.get_mut(partition.index()) {
                *watermark = *sequence;
            }
        }
        let of = |index: usize| watermarks.get(index).copied().unwrap_or(Sequence::FIRST);
        let position = start.partitions.iter().map(|partition| of(partition.index())).min();
        let unfinished = start.cursor.unfinished.iter().flat_map(|batch| &batch.sequences);
        Self {
            limit,
            partitions: start.partitions,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            waiting_of: HashMap::new(),
            position: position.unwrap_or(Sequence::FIRST),
            deferred: BTreeMap::new(),
            settled: Vec::new(),
            restored: start.cursor.settled.clone(),
            unfinished: unfinished.copied().collect(),
            watermarks,
        }
    }

    pub(super) const fn partitions(&self) -> &Partitions {
        &self.partitions
    }

    pub(super) const fn position(&self) -> Sequence {
        self.position
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether there is nothing to send before something new is committed.
    pub(super) fn is_drained(&self) -> bool {
        self.waiting.is_empty() && self.deferred.is_empty()
    }

    /// When the oldest waiting event was accepted.
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        self.waiting.iter().map(|event| event.accepted_at).min()
    }

    /// Whether reading on may bring something for a batch of this size.
    pub(super) fn wants_refill(&self, limit: BatchLimit) -> bool {
        !self.deferred.is_empty()
            || self.waiting.len() < limit.events && self.waiting_bytes < limit.bytes
    }

    /// What is missing to fill a batch; none when it is full.
    pub(super) fn missing(&self, limit: BatchLimit) -> Option<ReadLimit> {
        let events = limit.events.checked_sub(self.waiting.len()).filter(|n| *n > 0)?;
        let bytes = limit.bytes.checked_sub(self.waiting_bytes).filter(|n| *n > 0)?;
        // More that can't be read now wouldn't help.
        let has_room = self.waiting.len() < self.limit.read.events
            && self.waiting_bytes < self.limit.read.bytes
            && self.deferred.is_empty();
        has_room.then_some(ReadLimit { events, bytes })
    }

    /// Reads on, as far as there is room.
    ///
    /// # Cancel safety
    /// Safe: a read that is dropped has changed nothing.
    pub(super) async fn refill<L: Log>(&mut self, log: &L) -> Result<(), StoreError> {
        self.catch_up(log).await?;
        for _ in 0..READS {
            let Some(limit) = self.room() else { break };
            let chunk = log.read(self.position, &self.partitions, limit).await?;
            if chunk.position <= self.position {
                break;
            }
            // Set first: whether a user is caught up is asked against it.
            self.position = chunk.position;
            for event in chunk.events {
                self.offer(event);
            }
            self.restored.remove_before(self.position);
        }
        self.catch_up(log).await
    }

    /// What may be read ahead now; none when the window, or the list of settled, is full.
    fn room(&self) -> Option<ReadLimit> {
        let events = self.limit.read.events.checked_sub(self.waiting.len())?;
        let bytes = self.limit.read.bytes.checked_sub(self.waiting_bytes)?;
        let crowded = !self.deferred.is_empty()
            && (self.settled.len() >= self.limit.ahead || self.deferred.len() >= DEFERRED_USERS);
        (events > 0 && bytes > 0 && !crowded).then_some(ReadLimit { events, bytes })
    }

    /// Reads what deferred users have, for those of whom little is waiting.
    async fn catch_up<L: Log>(&mut self, log: &L) -> Result<(), StoreError> {
        let short: Vec<_> = self
            .deferred
            .iter()
            .filter(|(user, _)| self.waiting_count(**user) * 2 <= self.limit.per_user)
            .map(|(user, from)| (*user, *from))
            .collect();
        for (user, from) in short {
            let mut from = from;
            let mut partition = Partitions::none();
            partition.insert(user.partition());
            // At least one of theirs has to come in, else their partition could stand still.
            while self.waiting_count(user) * 2 <= self.limit.per_user {
                let bytes = (self.limit.read.bytes / 4).max(1);
                let limit = ReadLimit { events: self.limit.per_user.max(1), bytes };
                let chunk = log.read(from, &partition, limit).await?;
                let end = chunk.position <= from || chunk.position >= self.position;
                from = chunk.position;
                let before = self.position;
                let theirs = |e: &QueuedEvent| e.user == user && e.sequence < before;
                for event in chunk.events.into_iter().filter(theirs) {
                    self.keep(event);
                }
                if end {
                    self.deferred.remove(&user);
                    break;
                }
                self.deferred.insert(user, from);
                if self.waiting_bytes >= self.limit.read.bytes && self.waiting_count(user) > 0 {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Takes out what waits before `horizon`.
    pub(super) fn take_before(&mut self, horizon: Sequence) -> Vec<QueuedEvent> {
        let mut taken = Vec::new();
        if self.waiting.iter().any(|event| event.sequence < horizon) {
            let waiting = std::mem::take(&mut self.waiting);
            (self.waiting_bytes, self.waiting_of) = (0, HashMap::new());
            for event in waiting {
                if event.sequence < horizon {
                    taken.push(event);
                } else {
                    self.keep(event);
                }
            }
        }
        taken
    }

    /// Whether events before `horizon` may be left, waiting or not yet read.
    pub(super) fn begins_before(&self, horizon: Sequence) -> bool {
        self.position < horizon
            || self.deferred.values().any(|from| *from < horizon)
            || self.waiting.iter().any(|event| event.sequence < horizon)
    }

    fn waiting_count(&self, user: UserHash) -> usize {
        self.waiting_of.get(&user).copied().unwrap_or_default()
    }

    /// Takes in an event that the lane's own reading found.
    fn offer(&mut self, event: QueuedEvent) {
        if self.restored.contains(event.sequence) {
            self.settled.push((event.sequence, event.user.partition().index()));
            return;
        }
        if self.deferred.contains_key(&event.user) || self.is_known(&event) {
            return;
        }
        if self.waiting_count(event.user) >= self.limit.per_user {
            self.deferred.insert(event.user, event.sequence);
            return;
        }
        self.keep(event);
    }

    /// Whether an event is settled, or is the unfinished batch's.
    fn is_known(&self, event: &QueuedEvent) -> bool {
        let watermark = self.watermarks.get(event.user.partition().index());
        watermark.is_some_and(|watermark| event.sequence < *watermark)
            || self.unfinished.contains(&event.sequence)
    }

    fn keep(&mut self, event: QueuedEvent) {
        if self.is_known(&event) {
            return;
        }
        self.waiting_bytes += event.json.len() + 1;
        *self.waiting_of.entry(event.user).or_default() += 1;
        self.waiting.push_back(event);
    }

    /// Takes the next batch out; empty only when nothing is waiting.
    pub(super) fn cut(&mut self, limit: BatchLimit) -> Vec<QueuedEvent> {
        let mut ahead = Ahead {
            room: self.limit.ahead.saturating_sub(self.settled.len()),
            behind: HashMap::new(),
        };
        for (user, from) in &self.deferred {
            let behind = ahead.behind.entry(user.partition()).or_insert(*from);
            *behind = (*behind).min(*from);
        }
        let batch = batch::cut(&mut self.waiting, limit, ahead);
        if self.waiting.is_empty() {
            self.waiting_of.clear();
            self.waiting_bytes = 0;
            return batch;
        }
        for event in &batch {
            self.waiting_bytes = self.waiting_bytes.saturating_sub(event.json.len() + 1);
            if let Some(count) = self.waiting_of.get_mut(&event.user) {
                *count -= 1;
                if *count == 0 {
                    self.waiting_of.remove(&event.user);
                }
            }
        }
        batch
    }

    /// Notes that an event is delivered, dead-lettered or dropped.
    pub(super) fn settle(&mut self, event: &QueuedEvent) {
        let partition = event.user.partition().index();
        self.settled.push((event.sequence, partition));
    }

    /// The cursor as of now. `in_work` are the events taken out and not yet settled.
    pub(super) fn cursor(
        &mut self,
        in_work: &[QueuedEvent],
        unfinished: Option<StoredBatch>,
    ) -> LaneCursor {
        let mut low = vec![self.position; PARTITIONS];
        let unsettled = self.waiting.iter().chain(in_work);
        let unsettled = unsettled.map(|event| (event.user.partition(), event.sequence));
        let deferred = self.deferred.iter().map(|(user, from)| (user.partition(), *from));
        for (partition, sequence) in unsettled.chain(deferred) {
            if let Some(low) = low.get_mut(partition.index()) {
                *low = sequence.min(*low);
            }
        }
        for (watermark, low) in self.watermarks.iter_mut().zip(low) {
            *watermark = low.max(*watermark);
        }
        let watermarks = &self.watermarks;
        let of = |index: usize| watermarks.get(index).copied().unwrap_or(Sequence::FIRST);
        // One is here twice where it was read again. Nearly sorted, which costs little.
        self.settled.sort_unstable();
        self.settled.dedup();
        self.settled.retain(|(sequence, partition)| *sequence >= of(*partition));
        let mut settled = self.restored.clone();
        for (sequence, _) in &self.settled {
            settled.insert(*sequence);
        }
        let partitions = self.partitions.iter();
        LaneCursor {
            watermarks: partitions.map(|p| (p, of(p.index()))).collect(),
            settled,
            unfinished,
        }
    }
}
