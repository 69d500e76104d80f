//! What delivery needs of a fleet's queue.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::sync::watch;
use tokio::time::Instant;

use super::letters::last;
use super::reader::{READ, Reader, Readers, failed};
use super::record::LaneRecord;
use super::slots::Held;
use super::{CONCURRENT, FleetQueue, WrongRevision};
use crate::queue::{
    Chunk, DeadLetter, LaneCursor, Lanes, Log, Partitions, QueuedEvent, ReadLimit, Sequence,
    Settlement, StoreError,
};

/// How long a lane waits after it could not wait for more.
const AFTER_FAILURE: Duration = Duration::from_millis(200);
/// Questions to the stream's leader in one read, at most.
const QUESTIONS: usize = 512;

impl Log for FleetQueue {
    async fn lanes(&self, _wanted: usize) -> Result<Lanes, StoreError> {
        let owned: Vec<_> = {
            let mut slots = self.shared.slots();
            let mine = slots.iter_mut().enumerate().filter(|(_, slot)| !slot.leaving);
            let mine = mine.filter_map(|(lane, slot)| {
                let owned = slot.owned.clone()?;
                slot.running = true;
                Some((lane, owned))
            });
            mine.collect()
        };
        let mut mine = Vec::with_capacity(owned.len());
        for (lane, owned) in owned {
            let start = owned.held.lock().await.record.start(lane, self.shared.count);
            mine.push((lane, start));
        }
        Ok(Lanes { count: self.shared.count, mine, finish_only: false })
    }

    async fn moved(&self) {
        self.shared.moved.notified().await;
    }

    fn holds(&self, lane: usize) -> bool {
        self.shared.owned(lane).is_ok() && self.shared.is_sure(Instant::now())
    }

    fn left(&self, lane: usize) {
        if let Some(slot) = self.shared.slots().get_mut(lane) {
            slot.running = false;
        }
        self.shared.left.notify_one();
    }

    async fn read(
        &self,
        from: Sequence,
        partitions: &Partitions,
        limit: ReadLimit,
    ) -> Result<Chunk, StoreError> {
        let Some(lane) = self.lane_of(partitions) else {
            return Err(StoreError::Io("partitions of several lanes are read".to_owned()));
        };
        let owned = self.shared.owned(lane)?;
        let mut readers = owned.readers.lock().await;
        let reader = self.reader(lane, &mut readers, from).await?;
        let is_known = from.get() < owned.end.load(Ordering::Relaxed);
        if let Err(error) = fill(reader, limit, is_known).await {
            // The next read opens another one.
            readers.close_last();
            return Err(error);
        }
        let chunk = reader.hand_out(partitions, limit);
        owned.end.fetch_max(chunk.position.get(), Ordering::Relaxed);
        Ok(chunk)
    }

    async fn read_exactly(&self, sequences: &[Sequence]) -> Result<Vec<QueuedEvent>, StoreError> {
        // A leader that has the last of them has had the others: what it has not now is removed.
        let info = self.shared.streams.events.get_info().await.map_err(|e| failed(&e))?;
        if sequences.iter().any(|sequence| sequence.get() > info.state.last_sequence) {
            return Err(failed(&"the stream's leader is behind a batch that was sent"));
        }
        let reading = futures_util::stream::iter(sequences.iter().copied())
            .map(|sequence| async move { self.read_one(sequence).await })
            .buffered(CONCURRENT);
        let read: Vec<_> = reading.try_collect().await?;
        let read: Vec<_> = read.into_iter().flatten().collect();
        tracing::debug!(asked = ?sequences, found = read.len(), "an unfinished batch is read");
        Ok(read)
    }

    async fn committed(&self, position: Sequence, partitions: &Partitions, at_least: ReadLimit) {
        // A lane need not move its cursor past what isn't its own: that is in other subjects.
        let Some(lane) = self.lane_of(partitions) else { return std::future::pending().await };
        let Ok(owned) = self.shared.owned(lane) else { return std::future::pending().await };
        let mut readers = owned.readers.lock().await;
        if let Ok(reader) = self.reader(lane, &mut readers, position).await {
            loop {
                if reader.has(at_least) {
                    return;
                }
                if reader.wait().await.is_err() {
                    readers.close_last();
                    break;
                }
            }
        }
        drop(readers);
        // The read that follows tells it.
        tokio::time::sleep(AFTER_FAILURE).await;
    }

    async fn save(
        &self,
        lane: usize,
        cursor: LaneCursor,
        settlement: Settlement,
    ) -> Result<(), StoreError> {
        let owned = self.shared.owned(lane)?;
        let mut held = owned.held.lock().await;
        let record = held.record.with_cursor(&cursor);
        self.store(lane, &mut held, record).await?;
        self.shared.metrics.ledger.update(|counts| {
            counts.settled += settlement.total();
            settlement.count(counts);
        });
        Ok(())
    }

    fn horizon(&self) -> watch::Receiver<Sequence> {
        self.shared.horizon.subscribe()
    }

    async fn bury(&self, letters: Vec<DeadLetter>) -> Result<(), StoreError> {
        let count = letters.len() as u64;
        self.store_letters(letters).await?;
        self.shared.metrics.ledger.update(|counts| counts.dead_letters += count);
        Ok(())
    }
}

/// Has a reader take in as much as is asked for, or there is, and has it confirmed.
///
/// `is_known`: events from where it is were handed out before, so they are there, whatever a server
/// says that lags behind.
async fn fill(reader: &mut Reader, limit: ReadLimit, is_known: bool) -> Result<(), StoreError> {
    reader.take_ready().await?;
    let one = ReadLimit { events: 1, bytes: 1 };
    while !reader.has(limit) && (reader.expects_more() || is_known && !reader.has(one)) {
        let waiting = tokio::time::timeout(READ, reader.wait()).await;
        waiting.map_err(|_| failed(&"no messages in time, although there are some"))??;
        reader.take_ready().await?;
    }
    let confirming = tokio::time::timeout(READ, reader.confirm(QUESTIONS));
    confirming.await.map_err(|_| failed(&"no answer in time"))?
}

impl FleetQueue {
    /// The lane to which all of these belong.
    fn lane_of(&self, partitions: &Partitions) -> Option<usize> {
        let mut lanes = partitions.iter().map(|partition| partition.index() % self.shared.count);
        let first = lanes.next()?;
        lanes.all(|lane| lane == first).then_some(first)
    }

    /// The reader that is at `from`.
    async fn reader<'a>(
        &self,
        lane: usize,
        readers: &'a mut Readers,
        from: Sequence,
    ) -> Result<&'a mut Reader, StoreError> {
        readers.at(&self.shared.streams.events, self.shared.subject(lane), from).await
    }

    /// Replaces a lane's record, if nobody else did.
    async fn store(
        &self,
        lane: usize,
        held: &mut Held,
        record: LaneRecord,
    ) -> Result<(), StoreError> {
        let state = &self.shared.streams.state;
        let key = format!("lane.{lane}");
        let mut is_again = false;
        loop {
            match state.update(&key, record.bytes(), held.revision).await {
                Ok(revision) => {
                    *held = Held { record, revision };
                    return Ok(());
                }
                Err(error) if error.kind() == WrongRevision && !is_again => {}
                Err(error) if error.kind() == WrongRevision => return Err(StoreError::LaneLost),
                Err(error) => return Err(failed(&error)),
            }
            // It may be this replica's own writing, of which it did not learn.
            is_again = true;
            let found = last(&state.stream, &self.shared.key(&key)).await?;
            let Some(found) = found else { return Err(StoreError::LaneLost) };
            let theirs = LaneRecord::parse(&found.payload).map_err(|error| failed(&error))?;
            if theirs.session != record.session {
                return Err(StoreError::LaneLost);
            }
            held.revision = found.sequence;
        }
    }
}
