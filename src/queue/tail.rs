//! The newest committed events, kept in memory for the lanes that keep up.
//!
//! Events get here only after their commit. Bounded in bytes: what is older is read from disk, by
//! lanes that have something there. One that was idle while others' events passed goes on in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::{Chunk, PARTITIONS, Partitions, QueuedEvent, ReadLimit, Sequence};

/// What an event takes in the tail beside its JSON, in bytes, roughly.
const EVENT_OVERHEAD: usize = 96;

/// A read begins with room for no more events than this, of which it may find few.
const ROOM: usize = 256;

/// See the module.
#[derive(Debug)]
pub(super) struct Tail {
    inner: Mutex<Inner>,
    max_bytes: usize,
}

#[derive(Debug)]
struct Inner {
    groups: VecDeque<Arc<TailGroup>>,
    bytes: usize,
    /// Every committed event from here on is in `groups`.
    start: Sequence,
    /// By partition: none of its events lies between here and `start`.
    gone: [Sequence; PARTITIONS],
    /// The sequence behind the last committed one.
    end: Sequence,
    /// Bytes of JSON ever committed, for waiters that wait for bytes.
    total_bytes: u64,
    waiters: Vec<Waiter>,
}

#[derive(Debug)]
struct TailGroup {
    end: Sequence,
    events: Vec<QueuedEvent>,
    bytes: usize,
    partitions: Partitions,
}

#[derive(Debug)]
struct Waiter {
    position: Sequence,
    partitions: Partitions,
    at_end: Sequence,
    at_bytes: u64,
    /// Whether something for its partitions is committed at or after its position.
    matched: bool,
    wake: oneshot::Sender<()>,
}

impl Tail {
    /// An empty tail of a log that goes on at `end`.
    pub(super) fn new(end: Sequence, max_bytes: usize) -> Self {
        let inner = Inner {
            groups: VecDeque::new(),
            bytes: 0,
            start: end,
            gone: [end; PARTITIONS],
            end,
            total_bytes: 0,
            waiters: Vec::new(),
        };
        Self { inner: Mutex::new(inner), max_bytes }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a committed group that ends before `end`, and wakes whom it concerns.
    pub(super) fn push(&self, end: Sequence, events: Vec<QueuedEvent>) {
        let json: usize = events.iter().map(|event| event.json.len()).sum();
        let bytes = json + events.len() * EVENT_OVERHEAD;
        let mut partitions = Partitions::none();
        for event in &events {
            partitions.insert(event.user.partition());
        }
        let mut inner = self.lock();
        inner.groups.push_back(Arc::new(TailGroup { end, events, bytes, partitions }));
        inner.bytes += bytes;
        inner.end = end;
        inner.total_bytes += json as u64;
        let mut dropped = Vec::new();
        // The newest group stays, whatever its size: it is what the lanes are about to ask for.
        while inner.bytes > self.max_bytes && inner.groups.len() > 1 {
            if let Some(oldest) = inner.groups.pop_front() {
                inner.bytes -= oldest.bytes;
                inner.start = oldest.end;
                for partition in oldest.partitions.iter() {
                    inner.gone[partition.index()] = oldest.end;
                }
                dropped.push(oldest);
            }
        }
        inner.wake(&partitions);
        drop(inner);
        // Freed here, outside the lock.
        drop(dropped);
    }

    /// The sequence behind the last committed one.
    pub(super) fn end(&self) -> Sequence {
        self.lock().end
    }

    /// Reads from memory; none where some of it may lie on disk only.
    pub(super) fn read(
        &self,
        from: Sequence,
        partitions: &Partitions,
        limit: ReadLimit,
    ) -> Option<Chunk> {
        let (groups, events) = {
            let inner = self.lock();
            if inner.may_lack(from, partitions) {
                return None;
            }
            let behind = inner.groups.partition_point(|group| group.end <= from);
            let mut groups = Vec::new();
            let mut events = 0;
            for group in inner.groups.iter().skip(behind) {
                groups.push(Arc::clone(group));
                events += group.events.len();
                // Lanes want a share of each group: enough for a few batches is enough.
                if events > limit.events.saturating_mul(16) {
                    break;
                }
            }
            (groups, events)
        };
        let room = events.min(limit.events).min(ROOM);
        let mut chunk = Chunk { events: Vec::with_capacity(room), position: from };
        let mut bytes = 0;
        for group in groups {
            if group.partitions.intersects(partitions) {
                let start = group.events.partition_point(|event| event.sequence < from);
                for event in group.events.iter().skip(start) {
                    if !partitions.contains(event.user.partition()) {
                        continue;
                    }
                    if !chunk.events.is_empty()
                        && (chunk.events.len() >= limit.events
                            || bytes + event.json.len() > limit.bytes)
                    {
                        chunk.position = event.sequence;
                        return Some(chunk);
                    }
                    bytes += event.json.len();
                    chunk.events.push(event.clone());
                }
            }
            chunk.position = group.end.max(from);
        }
        Some(chunk)
    }

    /// See [`super::Log::committed`].
    pub(super) async fn committed(
        &self,
        position: Sequence,
        partitions: &Partitions,
        at_least: ReadLimit,
    ) {
        let woken = {
            let mut inner = self.lock();
            let at_end = position.plus(at_least.events as u64);
            let behind = inner.groups.partition_point(|group| group.end <= position);
            let matched = inner.may_lack(position, partitions)
                || inner.groups.iter().skip(behind).any(|g| g.partitions.intersects(partitions));
            if matched && inner.end >= at_end {
                return;
            }
            let (wake, woken) = oneshot::channel();
            let at_bytes = inner.total_bytes.saturating_add(at_least.bytes as u64);
            // Those whose caller gave up leave no trace for long: there are few lanes.
            inner.waiters.retain(|waiter| !waiter.wake.is_closed());
            let partitions = *partitions;
            inner.waiters.push(Waiter { position, partitions, at_end, at_bytes, matched, wake });
            woken
        };
        // An error means that the tail is gone, and the process with it: nothing to wait for.
        drop(woken.await);
    }
}

impl Inner {
    /// Whether events of these partitions, from there on, may lie on disk only.
    fn may_lack(&self, from: Sequence, partitions: &Partitions) -> bool {
        from < self.start && partitions.iter().any(|partition| self.gone[partition.index()] > from)
    }

    fn wake(&mut self, partitions: &Partitions) {
        let (end, total) = (self.end, self.total_bytes);
        for waiter in &mut self.waiters {
            waiter.matched |= end > waiter.position && waiter.partitions.intersects(partitions);
        }
        let due = |waiter: &mut Waiter| {
            waiter.matched && (end >= waiter.at_end || total >= waiter.at_bytes)
        };
        for waiter in self.waiters.extract_if(.., due) {
            // It may have given up meanwhile.
            let (Ok(()) | Err(())) = waiter.wake.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::event::EventKind;
    use crate::queue::UserHash;
    use bytes::Bytes;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::time::Duration;

    const ALL: ReadLimit = ReadLimit { events: 1000, bytes: 1 << 20 };

    /// An event of the partition that its sequence names.
    fn event(sequence: u64) -> QueuedEvent {
        QueuedEvent {
            sequence: Sequence::new(sequence),
            user: UserHash::from_bits(u32::try_from(sequence % 256).unwrap() << 24),
            kind: EventKind::Classic,
            accepted_at: Timestamp::default(),
            json: Bytes::from_static(b"0123456789"),
            #[cfg(feature = "nats")]
            mark: None,
        }
    }

    fn push(tail: &Tail, sequences: std::ops::Range<u64>) {
        tail.push(Sequence::new(sequences.end), sequences.map(event).collect());
    }

    fn numbers(chunk: &Chunk) -> Vec<u64> {
        chunk.events.iter().map(|event| event.sequence.get()).collect()
    }

    #[test]
    fn a_read_returns_the_partitions_events_up_to_its_limit() {
        let tail = Tail::new(Sequence::FIRST, 1 << 20);
        push(&tail, 1..11);
        push(&tail, 11..21);
        let even = Partitions::of_lane(0, 2);
        let chunk = tail.read(Sequence::new(3), &even, ALL).unwrap();
        assert_eq!(numbers(&chunk), [4, 6, 8, 10, 12, 14, 16, 18, 20]);
        assert_eq!(chunk.position, Sequence::new(21));
        let limit = ReadLimit { events: 2, bytes: 1000 };
        let chunk = tail.read(Sequence::new(3), &even, limit).unwrap();
        assert_eq!((numbers(&chunk), chunk.position.get()), (vec![4, 6], 8));
        let limit = ReadLimit { events: 100, bytes: 5 };
        let chunk = tail.read(Sequence::new(3), &even, limit).unwrap();
        assert_eq!(numbers(&chunk), [4], "at least one, whatever its size");
        let chunk = tail.read(Sequence::new(21), &even, ALL).unwrap();
        assert_eq!((numbers(&chunk), chunk.position.get()), (vec![], 21));
    }

    #[test]
    fn what_is_too_old_is_not_in_memory() {
        let tail = Tail::new(Sequence::FIRST, 500);
        for first in (1..40).step_by(3) {
            push(&tail, first..first + 3);
        }
        assert!(tail.read(Sequence::FIRST, &Partitions::all(), ALL).is_none());
        let chunk = tail.read(Sequence::new(39), &Partitions::all(), ALL).unwrap();
        assert_eq!(numbers(&chunk), [39]);
        assert!(tail.lock().bytes <= 500);
    }

    proptest! {
        #[test]
        fn lanes_that_lack_nothing_read_from_memory_what_they_would_from_disk(
            groups in prop::collection::vec(prop::collection::vec(0..8_u64, 1..4), 1..20),
            (from, lane) in (1..60_u64, 0..4_usize),
        ) {
            let tail = Tail::new(Sequence::new(3), 500);
            // In each stretch of 8 sequences an event of each partition; these are what is there.
            let mut all = vec![];
            for (number, partitions) in (1..).zip(groups) {
                let events: BTreeSet<u64> = partitions.iter().map(|p| number * 8 + p).collect();
                tail.push(Sequence::new(number * 8 + 8), events.iter().copied().map(event).collect());
                all.extend(events);
            }
            let lanes = Partitions::of_lane(lane, 4);
            all.retain(|at| at % 4 == lane as u64);
            let mine: Vec<u64> = all.iter().copied().filter(|at| *at >= from).collect();
            let start = tail.lock().start.get();
            match tail.read(Sequence::new(from), &lanes, ALL) {
                Some(chunk) => {
                    prop_assert_eq!(numbers(&chunk), mine);
                    prop_assert_eq!(chunk.position, tail.end().max(Sequence::new(from)));
                }
                // What was there before is not known; what is gone is known by group.
                None => {
                    prop_assert!(from < 3 || all.iter().any(|at| at / 8 >= from / 8 && *at < start));
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_wakes_when_enough_is_there_for_its_partitions() {
        let tail = Tail::new(Sequence::FIRST, 1 << 20);
        let even = Partitions::of_lane(0, 2);
        let one = ReadLimit { events: 1, bytes: 1 };
        let is_done = async |position: u64, at_least, then: std::ops::Range<u64>| {
            let wait = tail.committed(Sequence::new(position), &even, at_least);
            tokio::pin!(wait);
            assert!(tokio::time::timeout(Duration::from_secs(1), &mut wait).await.is_err());
            push(&tail, then);
            tokio::time::timeout(Duration::from_secs(1), &mut wait).await.is_ok()
        };
        assert!(!is_done(1, one, 1..2).await, "the odd partition's");
        assert!(is_done(2, one, 2..3).await);
        let many = ReadLimit { events: 5, bytes: 1 << 20 };
        assert!(!is_done(3, many, 3..6).await, "too few");
        assert!(is_done(3, many, 6..8).await);
        let heavy = ReadLimit { events: 500, bytes: 20 };
        assert!(is_done(8, heavy, 8..10).await, "enough bytes");
        // What is there already is not waited for.
        tail.committed(Sequence::new(2), &even, one).await;
        tail.committed(Sequence::FIRST, &even, ReadLimit { events: 9, bytes: 1 }).await;
    }
}
