//! A log in memory that checks what it is told: a cursor's move settles exactly what it says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::watch;

use super::upstream::Arrived;
use crate::clock::Timestamp;
use crate::config::EventKind;
use crate::queue::{
    Chunk, DeadLetter, LaneCursor, LaneStart, Lanes, Log, Partitions, QueuedEvent, ReadLimit,
    Sequence, SequenceRanges, Settlement, StoreError, UserHash,
};
use crate::telemetry::Metrics;

#[derive(Clone, Debug)]
pub(super) struct MemoryLog {
    inner: Arc<Mutex<Inner>>,
    committed: watch::Sender<u64>,
    horizon: watch::Sender<Sequence>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Inner {
    events: Vec<QueuedEvent>,
    lanes: Vec<LaneStart>,
    letters: BTreeMap<u64, DeadLetter>,
    max_letters: Option<usize>,
    saves: u64,
    reads: u64,
    /// Every so many'th call fails, if set.
    fail_every: Option<u64>,
    calls: u64,
}

impl Inner {
    fn fails(&mut self) -> Result<(), StoreError> {
        self.calls += 1;
        match self.fail_every {
            Some(every) if self.calls.is_multiple_of(every) => {
                Err(StoreError::Io("injected".to_owned()))
            }
            _ => Ok(()),
        }
    }
}

fn is_settled(event: &QueuedEvent, cursor: &LaneCursor) -> bool {
    let partition = event.user.partition();
    let watermark = cursor.watermarks.iter().find(|(p, _)| *p == partition);
    watermark.is_some_and(|(_, w)| event.sequence < *w) || cursor.settled.contains(event.sequence)
}

impl MemoryLog {
    pub(super) fn new() -> Self {
        let metrics = Arc::new(Metrics::new());
        let horizon = watch::Sender::new(Sequence::FIRST);
        Self { inner: Arc::default(), committed: watch::Sender::new(1), horizon, metrics }
    }

    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    pub(super) fn append(&self, user: u32, kind: EventKind, accepted_at: Timestamp) -> u64 {
        let mut inner = self.inner.lock().unwrap();
        let number = inner.events.len() as u64 + 1;
        inner.events.push(QueuedEvent {
            sequence: Sequence::new(number),
            user: UserHash::of(&user.to_string()),
            kind,
            accepted_at,
            json: Bytes::from(format!("{{\"n\":{number},\"u\":{user}}}")),
            #[cfg(feature = "nats")]
            mark: None,
        });
        drop(inner);
        self.metrics.ledger.update(|counts| counts.appended += 1);
        self.committed.send_replace(number + 1);
        number
    }

    /// Puts the dead letters back, in order, each as a new event of the same user.
    pub(super) fn requeue(&self, accepted_at: Timestamp) {
        let letters = std::mem::take(&mut self.inner.lock().unwrap().letters);
        let count = letters.len() as u64;
        for letter in letters.into_values() {
            let event: Arrived = serde_json::from_slice(&letter.event).unwrap();
            self.append(event.u, EventKind::Classic, accepted_at);
        }
        self.metrics.ledger.update(|counts| counts.requeued += count);
    }

    /// Has everything before event `number` dropped.
    pub(super) fn drop_before(&self, number: u64) {
        self.horizon.send_modify(|horizon| *horizon = Sequence::new(number).max(*horizon));
    }

    pub(super) fn fail_every(&self, every: Option<u64>) {
        self.inner.lock().unwrap().fail_every = every;
    }

    pub(super) fn max_letters(&self, max: Option<usize>) {
        self.inner.lock().unwrap().max_letters = max;
    }

    pub(super) fn letters(&self) -> Vec<DeadLetter> {
        self.inner.lock().unwrap().letters.values().cloned().collect()
    }

    pub(super) fn saves(&self) -> u64 {
        self.inner.lock().unwrap().saves
    }

    pub(super) fn reads(&self) -> u64 {
        self.inner.lock().unwrap().reads
    }

    pub(super) fn cursors(&self) -> Vec<LaneCursor> {
        self.inner.lock().unwrap().lanes.iter().map(|lane| lane.cursor.clone()).collect()
    }

    /// The numbers of the events that aren't settled.
    pub(super) fn unsettled(&self) -> Vec<u64> {
        let inner = self.inner.lock().unwrap();
        let open = |event: &&QueuedEvent| {
            let lane = inner.lanes.iter().find(|l| l.partitions.contains(event.user.partition()));
            lane.is_none_or(|lane| !is_settled(event, &lane.cursor))
        };
        inner.events.iter().filter(open).map(|event| event.sequence.get()).collect()
    }

    fn store(
        &self,
        lane: usize,
        cursor: LaneCursor,
        settlement: Settlement,
    ) -> Result<(), StoreError> {
        let mut inner = self.inner.lock().unwrap();
        inner.fails()?;
        inner.saves += 1;
        let before = inner.lanes[lane].clone();
        let mine = inner.events.iter().filter(|e| before.partitions.contains(e.user.partition()));
        let (mut settled, mut reopened) = (0, 0);
        for event in mine {
            match (is_settled(event, &before.cursor), is_settled(event, &cursor)) {
                (false, true) => settled += 1,
                (true, false) => reopened += 1,
                _ => {}
            }
        }
        assert_eq!((settled, reopened), (settlement.total(), 0), "a cursor's move is as counted");
        assert!(cursor.settled.range_count() <= 4096);
        inner.lanes[lane].cursor = cursor;
        self.metrics.ledger.update(|counts| {
            counts.settled += settlement.total();
            counts.delivered += settlement.delivered;
            for (reason, count) in settlement.dead_lettered {
                *counts.dead_lettered.entry(reason).or_default() += count;
            }
            for (reason, count) in settlement.dropped {
                *counts.dropped.entry(reason).or_default() += count;
            }
        });
        Ok(())
    }
}

impl Log for MemoryLog {
    async fn lanes(&self, wanted: usize) -> Result<Lanes, StoreError> {
        let mut inner = self.inner.lock().unwrap();
        inner.fails()?;
        let unfinished = inner.lanes.iter().any(|lane| lane.cursor.unfinished.is_some());
        if inner.lanes.len() != wanted && !unfinished {
            let old = std::mem::take(&mut inner.lanes);
            let mut settled = SequenceRanges::new();
            for (first, last) in old.iter().flat_map(|lane| lane.cursor.settled.iter()) {
                settled.insert_range(first..=last);
            }
            for index in 0..wanted {
                let partitions = Partitions::of_lane(index, wanted);
                let watermarks = old.iter().flat_map(|lane| &lane.cursor.watermarks);
                let mine = watermarks.filter(|(p, _)| partitions.contains(*p)).copied();
                let cursor = LaneCursor {
                    watermarks: mine.collect(),
                    settled: settled.clone(),
                    unfinished: None,
                };
                inner.lanes.push(LaneStart { partitions, cursor });
            }
        }
        Ok(Lanes::all(inner.lanes.clone(), wanted))
    }

    async fn read(
        &self,
        from: Sequence,
        partitions: &Partitions,
        limit: ReadLimit,
    ) -> Result<Chunk, StoreError> {
        tokio::task::yield_now().await;
        let mut inner = self.inner.lock().unwrap();
        inner.reads += 1;
        inner.fails()?;
        let mut chunk = Chunk { events: Vec::new(), position: from };
        let mut bytes = 0;
        let start = usize::try_from(from.get().saturating_sub(1)).unwrap();
        for event in inner.events.iter().skip(start) {
            if partitions.contains(event.user.partition()) {
                let full = chunk.events.len() >= limit.events || bytes >= limit.bytes;
                if full && !chunk.events.is_empty() {
                    break;
                }
                bytes += event.json.len();
                chunk.events.push(event.clone());
            }
            chunk.position = event.sequence.next();
        }
        Ok(chunk)
    }

    async fn read_exactly(&self, sequences: &[Sequence]) -> Result<Vec<QueuedEvent>, StoreError> {
        let mut inner = self.inner.lock().unwrap();
        inner.fails()?;
        let wanted = inner.events.iter().filter(|event| sequences.contains(&event.sequence));
        Ok(wanted.cloned().collect())
    }

    async fn committed(&self, position: Sequence, partitions: &Partitions, at_least: ReadLimit) {
        let mut committed = self.committed.subscribe();
        loop {
            let next = *committed.borrow_and_update();
            let enough = next.saturating_sub(position.get()) >= at_least.events as u64;
            let mine = {
                let inner = self.inner.lock().unwrap();
                let start = usize::try_from(position.get().saturating_sub(1)).unwrap();
                inner.events.iter().skip(start).any(|e| partitions.contains(e.user.partition()))
            };
            if enough && mine {
                return;
            }
            if committed.changed().await.is_err() {
                return;
            }
        }
    }

    async fn save(
        &self,
        lane: usize,
        cursor: LaneCursor,
        settlement: Settlement,
    ) -> Result<(), StoreError> {
        tokio::task::yield_now().await;
        self.store(lane, cursor, settlement)?;
        // Stored, yet the caller may be gone before it learns of it.
        tokio::task::yield_now().await;
        Ok(())
    }

    fn horizon(&self) -> watch::Receiver<Sequence> {
        self.horizon.subscribe()
    }

    async fn bury(&self, letters: Vec<DeadLetter>) -> Result<(), StoreError> {
        tokio::task::yield_now().await;
        let mut inner = self.inner.lock().unwrap();
        inner.fails()?;
        if inner.max_letters.is_some_and(|max| inner.letters.len() + letters.len() > max) {
            return Err(StoreError::DeadLettersFull);
        }
        inner.letters.extend(letters.into_iter().map(|l| (l.sequence.get(), l)));
        Ok(())
    }
}
