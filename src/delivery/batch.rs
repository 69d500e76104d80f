//! Where a batch is cut, and its body. Pure.

use std::collections::{HashMap, HashSet, VecDeque};

use bytes::Bytes;

use super::size::BatchLimit;
use crate::queue::{Partition, QueuedEvent, Sequence, UserHash};

/// One user's share of a batch, as long as others want the rest.
const SHARE: usize = 8;

/// What may be settled ahead of events that stay behind in the same partition.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// How many more events may be settled ahead.
    pub(super) room: usize,
    /// The partitions in which events from a sequence on were left unread.
    pub(super) behind: HashMap<Partition, Sequence>,
}

/// Takes the next batch out of `waiting`: at least one event unless that is empty, ascending.
///
/// A user's events are taken in the order in which they stand. While not all fits, nobody gets
/// more than an eighth of the batch until everybody had theirs; but once too much would be
/// settled ahead of others in its partition, only what is next in its partition is taken.
pub(super) fn cut(
    waiting: &mut VecDeque<QueuedEvent>,
    limit: BatchLimit,
    ahead: Ahead,
) -> Vec<QueuedEvent> {
    let bytes: usize = waiting.iter().map(|event| event.json.len() + 1).sum();
    let fits = waiting.len() <= limit.events && bytes <= limit.bytes;
    let mut batch = if fits && (ahead.behind.is_empty() || waiting.len() <= ahead.room) {
        Vec::from(std::mem::take(waiting))
    } else {
        let mut cut = Cut { batch: Vec::with_capacity(limit.events), bytes: 0, limit, ahead };
        cut.pass(waiting, (limit.events / SHARE).max(1));
        cut.pass(waiting, usize::MAX);
        cut.batch
    };
    if !batch.is_sorted_by_key(|event| event.sequence) {
        batch.sort_unstable_by_key(|event| event.sequence);
    }
    batch
}

struct Cut {
    batch: Vec<QueuedEvent>,
    bytes: usize,
    limit: BatchLimit,
    ahead: Ahead,
}

impl Cut {
    fn has_room(&self, event: &QueuedEvent) -> bool {
        self.batch.is_empty()
            || self.batch.len() < self.limit.events
                && self.bytes + event.json.len() < self.limit.bytes
    }

    /// Takes from `waiting` until the batch is full, at most `share` events of a user.
    fn pass(&mut self, waiting: &mut VecDeque<QueuedEvent>, share: usize) {
        let mut taken: HashMap<UserHash, usize> = HashMap::new();
        let mut skipped_users: HashSet<UserHash> = HashSet::new();
        // The lowest that is skipped: events don't stand in order, since a deferred user's are read
        // again behind what came later.
        let mut skipped_partitions: HashMap<Partition, Sequence> = HashMap::new();
        let mut skipped: Vec<QueuedEvent> = Vec::new();
        while let Some(event) = waiting.front() {
            if !self.has_room(event) {
                break;
            }
            let Some(event) = waiting.pop_front() else { break };
            let partition = event.user.partition();
            let count = taken.entry(event.user).or_default();
            let behind = self.ahead.behind.get(&partition);
            let is_behind_it = |from: &Sequence| *from < event.sequence;
            let is_ahead = skipped_partitions.get(&partition).is_some_and(is_behind_it)
                || behind.is_some_and(is_behind_it);
            if *count >= share
                || skipped_users.contains(&event.user)
                || is_ahead && self.ahead.room == 0
            {
                skipped_users.insert(event.user);
                let lowest = skipped_partitions.entry(partition).or_insert(event.sequence);
                *lowest = event.sequence.min(*lowest);
                skipped.push(event);
                continue;
            }
            *count += 1;
            if is_ahead {
                self.ahead.room -= 1;
            }
            self.bytes += event.json.len() + 1;
            self.batch.push(event);
        }
        for event in skipped.into_iter().rev() {
            waiting.push_front(event);
        }
    }
}

/// The request's body: a JSON array of the events' wire forms, byte for byte.
pub(super) fn body(events: &[QueuedEvent]) -> Bytes {
    let bytes: usize = events.iter().map(|event| event.json.len() + 1).sum();
    let mut body = Vec::with_capacity(bytes + 2);
    body.push(b'[');
    for (index, event) in events.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&event.json);
    }
    body.push(b']');
    Bytes::from(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::config::EventKind;
    use proptest::prelude::*;

    fn event(sequence: u64, user: u32, len: usize) -> QueuedEvent {
        QueuedEvent {
            sequence: Sequence::new(sequence),
            user: UserHash::from_bits(user),
            kind: EventKind::Classic,
            accepted_at: Timestamp::default(),
            json: Bytes::from(vec![b'x'; len]),
            #[cfg(feature = "nats")]
            mark: None,
        }
    }

    const fn limit(events: usize, bytes: usize) -> BatchLimit {
        BatchLimit { events, bytes }
    }

    fn open() -> Ahead {
        Ahead { room: usize::MAX, ..Ahead::default() }
    }

    #[test]
    fn a_body_is_a_json_array_of_the_same_bytes() {
        let mut events = [event(1, 1, 0), event(2, 1, 0)];
        events[0].json = Bytes::from_static(b"{\"a\":1.0}");
        events[1].json = Bytes::from_static(b"{}");
        assert_eq!(body(&events), "[{\"a\":1.0},{}]");
        assert_eq!(body(&events[..1]), "[{\"a\":1.0}]");
    }

    #[test]
    fn an_event_larger_than_the_limit_goes_alone() {
        let mut waiting = VecDeque::from([event(1, 1, 900), event(2, 2, 10)]);
        assert_eq!(cut(&mut waiting, limit(10, 100), open()).len(), 1);
        assert_eq!(waiting.len(), 1);
    }

    #[test]
    fn a_flood_leaves_room_for_the_others() {
        let mut waiting: VecDeque<_> = (0..100).map(|n| event(n, 1, 1)).collect();
        waiting.extend((100..110).map(|n| event(n, 2 + u32::try_from(n).unwrap(), 1)));
        let batch = cut(&mut waiting, limit(16, 1000), open());
        assert_eq!(batch.iter().filter(|e| e.user == UserHash::from_bits(1)).count(), 6);
        assert_eq!(batch.len(), 16);
        assert_eq!(waiting.front().unwrap().sequence, Sequence::new(6));
    }

    #[test]
    fn without_room_ahead_a_partition_goes_in_sequence_order() {
        let mut waiting: VecDeque<_> = (0..100).map(|n| event(n, 1, 1)).collect();
        waiting.push_back(event(100, 2, 1));
        let batch = cut(&mut waiting, limit(16, 1000), Ahead::default());
        assert!(batch.iter().map(|e| e.sequence.get()).eq(0..16));
    }

    #[test]
    fn without_room_ahead_what_is_next_in_its_partition_goes_wherever_it_stands() {
        // Both users are of one partition; the second one's were deferred, and read again.
        let mut waiting: VecDeque<_> = (500..520).map(|n| event(n, 1, 1)).collect();
        waiting.extend((300..310).map(|n| event(n, 2, 1)));
        let partition = UserHash::from_bits(1).partition();
        assert_eq!(partition, UserHash::from_bits(2).partition());
        let behind = HashMap::from([(partition, Sequence::new(310))]);
        let batch = cut(&mut waiting, limit(16, 1000), Ahead { room: 0, behind });
        assert!(batch.iter().map(|e| e.sequence.get()).eq(300..310));
    }

    proptest! {
        #[test]
        fn a_cut_takes_users_in_order_within_the_limits(
            users in prop::collection::vec((0u32..6, 1usize..40), 1..80),
            events in 1usize..30, bytes in 1usize..400, room in 0usize..40,
        ) {
            let mut waiting: VecDeque<_> = users.iter().enumerate()
                .map(|(n, (user, len))| event(n as u64, user << 23, *len)).collect();
            let before = waiting.clone();
            let batch = cut(&mut waiting, limit(events, bytes), Ahead { room, ..Ahead::default() });
            prop_assert!(!batch.is_empty() && batch.len() <= events);
            let size: usize = batch.iter().map(|e| e.json.len() + 1).sum();
            prop_assert!(batch.len() == 1 || size <= bytes);
            prop_assert!(batch.is_sorted_by_key(|e| e.sequence));
            prop_assert_eq!(batch.len() + waiting.len(), before.len());
            for user in 0..6 {
                let user = UserHash::from_bits(user << 23);
                let of = |events: Vec<&QueuedEvent>| -> Vec<u64> {
                    let mine = events.into_iter().filter(|e| e.user == user);
                    mine.map(|e| e.sequence.get()).collect()
                };
                let mut after = of(batch.iter().collect());
                after.extend(of(waiting.iter().collect()));
                prop_assert_eq!(after, of(before.iter().collect()));
            }
            let passed = batch.iter().filter(|e| waiting.iter().any(|w| {
                w.user.partition() == e.user.partition() && w.sequence < e.sequence
            })).count();
            prop_assert!(passed <= room);
        }
    }
}
