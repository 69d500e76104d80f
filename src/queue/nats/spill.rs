//! The spill: events that NATS did not take, in a queue on this replica's disk until it does.
//!
//! - A request goes there when NATS can't be reached, or did not say that it has all of it; so do
//!   all requests behind it, until the spill is empty: no event overtakes another of its user that
//!   was acknowledged before it. `Gate` decides that.
//! - Every event has an identity there, the same that it had where it was sent to NATS before. By it
//!   the stream knows a repetition, for as long as its window of duplicates.
//! - [`Forwarder`] passes them on in order. Its cursor is stored before the gate opens.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Shared;
use super::flights::{Event, Identity};
use super::message;
use crate::clock::Clock;
use crate::queue::dedupe::Mark;
use crate::queue::{
    AppendError, Appended, Appender as _, Chunk, Damage, DedupeLimits, LaneCursor, Log as _,
    OpenError, Options, Partitions, Queue, QueuedEvent, ReadLimit, Readiness, Sequence, Settlement,
    SpillAccount, StoreError, Submission, Threads,
};
use crate::telemetry::heartbeat::BEAT;
use crate::telemetry::{Metrics, Pulse};

/// What is passed on at once; events of one user take a round trip each.
const WINDOW: ReadLimit = ReadLimit { events: 256, bytes: 1 << 20 };
/// Where no more than this is left, requests wait for the gate instead of adding to it: under a load
/// that never ends the spill would never be empty.
const NEARLY_EMPTY: u64 = 4096;
/// How long requests wait for the next window.
const HOLD: Duration = Duration::from_secs(1);
/// How long it waits after a failure: twice as long after each further one.
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// See the module. The queue has an account of its own, apart from the fleet's.
#[derive(Debug)]
pub(super) struct Spill {
    queue: Queue,
    account: Arc<Metrics>,
    progress: watch::Sender<Progress>,
}

/// How far the spill is passed on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// Behind the last event that NATS has, by the stored cursor.
    forwarded: Sequence,
    /// When that came to be; none where the last attempt failed.
    at: Option<Instant>,
}

impl Spill {
    /// Opens the folder, with what a former process left in it.
    pub(super) async fn open(
        options: Options,
        clock: &Clock,
        metrics: &Metrics,
    ) -> Result<(Arc<Self>, Threads), OpenError> {
        // Repetitions are known by the stream alone: over the whole fleet, whoever has the event.
        let dedupe = DedupeLimits { window: Duration::ZERO, entries: 0 };
        let options = Options { drops_oldest: false, interval: None, dedupe, ..options };
        let mut account = Metrics::new();
        account.heartbeats = metrics.heartbeats.clone();
        let account = Arc::new(account);
        let opening = {
            let (dir, clock, account) = (options.dir.clone(), clock.clone(), Arc::clone(&account));
            let opening = move || Queue::open(&options, clock, account);
            tokio::task::spawn_blocking(opening)
                .await
                .map_err(|error| OpenError::Store { dir, reason: error.to_string() })
        };
        let (queue, threads) = opening??;
        let left = account.ledger.read(|counts| counts.queued());
        // Where the log is empty, there is nothing before its end.
        let forwarded = if left == 0 { queue.end() } else { Sequence::FIRST };
        if left > 0 {
            info!(events = left, "events of the spill are passed on to NATS, before all others");
        }
        let progress = watch::Sender::new(Progress { forwarded, at: None });
        Ok((Arc::new(Self { queue, account, progress }), threads))
    }

    pub(super) fn gate(&self) -> Gate {
        Gate { appending: 0, end: self.queue.end(), progress: self.progress.subscribe() }
    }

    pub(super) async fn append(&self, submission: Submission) -> Result<Appended, AppendError> {
        self.queue.append(submission).await
    }

    pub(super) fn close(&self) {
        self.queue.close();
    }

    pub(super) fn ready(&self) -> Readiness {
        self.queue.ready()
    }

    pub(super) fn damages(&self) -> Vec<Damage> {
        self.queue.damages()
    }

    /// Events that NATS has not, as far as is known.
    pub(super) fn events(&self) -> u64 {
        self.account.ledger.read(|counts| counts.queued())
    }

    pub(super) fn account(&self) -> SpillAccount {
        self.account.ledger.read(|counts| SpillAccount {
            events: counts.queued(),
            bytes: counts.queue_bytes,
            capacity_bytes: counts.queue_capacity_bytes,
        })
    }

    /// Has the metrics say how full it is.
    pub(super) fn measure(&self, metrics: &Metrics) {
        let SpillAccount { events, bytes, .. } = self.account();
        metrics.spill_events.set(i64::try_from(events).unwrap_or(i64::MAX));
        metrics.spill_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

/// Whether requests may go to NATS past the spill. The publisher's: it alone sends them anywhere.
#[derive(Debug)]
pub(super) struct Gate {
    /// Appends to the spill that have not ended.
    appending: usize,
    /// Behind the last event of the spill.
    end: Sequence,
    progress: watch::Receiver<Progress>,
}

impl Gate {
    /// Whether NATS has all that the spill ever had.
    pub(super) fn is_open(&self) -> bool {
        self.appending == 0 && self.progress.borrow().forwarded >= self.end
    }

    /// Until when requests are to wait, when `left` events are to be passed on: the gate is about to
    /// open.
    pub(super) fn holds(&self, left: u64) -> Option<Instant> {
        if self.is_open() || left > NEARLY_EMPTY {
            return None;
        }
        self.progress.borrow().at.map(|at| at + HOLD)
    }

    /// Resolves when it may be open, or hold, otherwise than before.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn moved(&mut self) {
        // Fails when the spill is gone, whose publisher this is: it is not.
        drop(self.progress.changed().await);
    }

    /// An append begins; whether the gate was open.
    pub(super) fn begins(&mut self) -> bool {
        let was_open = self.is_open();
        self.appending += 1;
        was_open
    }

    /// An append has ended: it stored these, or none.
    pub(super) fn ended(&mut self, stored: Option<(Sequence, Sequence)>) {
        self.appending = self.appending.saturating_sub(1);
        if let Some((_, last)) = stored {
            self.end = self.end.max(last.next());
        }
    }
}

/// These events as a request to the spill, with their identities: what may go there has one.
pub(super) fn submission(events: &[Event]) -> Submission {
    let bytes = events.iter().map(|event| event.payload.len()).sum();
    let mut submission = Submission::with_capacity(events.len(), bytes);
    for event in events {
        if let Identity::Unique(mark) | Identity::Request(mark) = event.identity {
            let json = event.payload.get(message::HEADER..).unwrap_or_default();
            submission.push_spilled(event.user, event.kind, mark, json);
        }
    }
    submission
}

/// Events on their way from the spill to NATS.
#[derive(Debug)]
pub(super) struct Forward {
    pub(super) events: Vec<Event>,
    /// Told when NATS has all of them; otherwise it may have some.
    pub(super) done: oneshot::Sender<Result<(), AppendError>>,
}

/// Passes on what the spill has, in order, a window at a time.
pub(super) struct Forwarder {
    pub(super) shared: Arc<Shared>,
    pub(super) spill: Arc<Spill>,
    pub(super) forwards: mpsc::Sender<Forward>,
    pub(super) stop: CancellationToken,
}

/// Why a window was not passed on.
#[derive(Debug, thiserror::Error)]
enum ForwardError {
    #[error(transparent)]
    Nats(#[from] AppendError),
    #[error("the spill: {0}")]
    Store(#[from] StoreError),
}

impl Forwarder {
    /// Works until told to stop.
    pub(super) async fn run(self) {
        let pulse = self.shared.metrics.heartbeats.part("queue's forwarder", &self.shared.clock);
        let stop = self.stop.clone();
        stop.run_until_cancelled(self.forward_all(&pulse)).await;
    }

    async fn forward_all(&self, pulse: &Pulse) {
        let mut place = None;
        let (mut failures, mut passed) = (0, 0);
        loop {
            pulse.beat();
            let forwarding = async {
                let place = match &mut place {
                    Some(place) => place,
                    none => none.insert(self.place().await?),
                };
                self.forward(place).await
            };
            match forwarding.await {
                Ok(count) => (failures, passed) = (0, passed + count),
                Err(error) => {
                    self.spill.progress.send_modify(|progress| progress.at = None);
                    if failures == 0 {
                        warn!(%error, "events of the spill can't be passed on; trying again");
                    }
                    tokio::time::sleep(pause(failures)).await;
                    failures += 1;
                }
            }
            if passed > 0 && self.spill.events() == 0 {
                info!(events = passed, "the spill is empty: NATS has all that it had");
                passed = 0;
            }
            self.spill.measure(&self.shared.metrics);
        }
    }

    /// Where a former process ended.
    async fn place(&self) -> Result<LaneCursor, StoreError> {
        let queue = &self.spill.queue;
        loop {
            let lanes = queue.lanes(1).await?;
            if let ([(_, lane)], false) = (&lanes.mine[..], lanes.finish_only) {
                return Ok(lane.cursor.clone());
            }
            // They are of a time when this queue was delivered to GMFY, not forwarded.
            for (lane, start) in lanes.mine {
                let cursor = LaneCursor { unfinished: None, ..start.cursor };
                queue.save(lane, cursor, Settlement::default()).await?;
            }
        }
    }

    /// Passes on the next window, or waits for one; returns how many events that were.
    async fn forward(&self, place: &mut LaneCursor) -> Result<u64, ForwardError> {
        let queue = &self.spill.queue;
        let from = place.watermarks.iter().map(|(_, sequence)| *sequence).min();
        let from = from.unwrap_or(Sequence::FIRST);
        let all = Partitions::all();
        let chunk = queue.read(from, &all, WINDOW).await?;
        if chunk.position == from {
            let at_least = ReadLimit { events: 1, bytes: 1 };
            let waiting = queue.committed(from, &all, at_least);
            // Early or late, it is looked at again.
            drop(tokio::time::timeout(BEAT, waiting).await);
            return Ok(0);
        }
        let Chunk { mut events, position } = chunk;
        events.retain(|event| !is_settled(place, event));
        let count = events.len() as u64;
        if count > 0 {
            self.publish(events).await?;
        }
        let mut next = place.clone();
        for (_, sequence) in &mut next.watermarks {
            *sequence = position.max(*sequence);
        }
        next.settled.remove_before(position);
        let settlement = Settlement { delivered: count, ..Settlement::default() };
        queue.save(0, next.clone(), settlement).await?;
        *place = next;
        self.shared.metrics.spill_forwarded.inc_by(count);
        self.spill.progress.send_modify(|progress| {
            // It is behind where it began as long as there was nothing to pass on.
            progress.forwarded = progress.forwarded.max(position);
            progress.at = Some(Instant::now());
        });
        Ok(count)
    }

    async fn publish(&self, events: Vec<QueuedEvent>) -> Result<(), AppendError> {
        // What is handed to a connection that is gone is sent when it is there again, and nobody
        // waits for it then.
        if !self.shared.is_there() {
            return Err(AppendError::Unreachable);
        }
        let (done, published) = oneshot::channel();
        let events = events.into_iter().map(event).collect();
        let forward = Forward { events, done };
        self.forwards.send(forward).await.map_err(|_| AppendError::Closed)?;
        published.await.unwrap_or(Err(AppendError::Closed))
    }
}

/// As it is published.
fn event(event: QueuedEvent) -> Event {
    let QueuedEvent { sequence, user, kind, accepted_at, json, mark } = event;
    let mark = match mark {
        Some(mark) => Mark(u128::from_le_bytes(mark)),
        // Of a time when this queue was delivered to GMFY.
        None => Mark::of_stored(sequence, accepted_at, &json),
    };
    let payload = message::encode(user, kind, accepted_at, &json);
    Event { user, kind, identity: Identity::Request(mark), payload, result: None }
}

fn is_settled(cursor: &LaneCursor, event: &QueuedEvent) -> bool {
    let partition = event.user.partition();
    let watermark = cursor.watermarks.iter().find(|(of, _)| *of == partition);
    watermark.is_some_and(|(_, watermark)| event.sequence < *watermark)
        || cursor.settled.contains(event.sequence)
}

fn pause(failures: u32) -> Duration {
    PAUSE.saturating_mul(1 << failures.min(10)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(sequence: u64) -> Sequence {
        Sequence::new(sequence)
    }

    fn gate(end: u64) -> (Gate, watch::Sender<Progress>) {
        let progress = watch::Sender::new(Progress { forwarded: at(1), at: None });
        (Gate { appending: 0, end: at(end), progress: progress.subscribe() }, progress)
    }

    fn forwarded(progress: &watch::Sender<Progress>, to: u64) {
        progress.send_replace(Progress { forwarded: at(to), at: Some(Instant::now()) });
    }

    #[test]
    fn the_gate_is_closed_from_the_first_append_until_all_is_forwarded() {
        let (mut gate, progress) = gate(7);
        assert!(!gate.is_open(), "a former process left something");
        forwarded(&progress, 7);
        assert!(gate.is_open());
        assert!(gate.begins(), "it was open");
        assert!(!gate.is_open(), "something may be stored");
        assert!(!gate.begins());
        gate.ended(Some((at(9), at(10))));
        forwarded(&progress, 11);
        assert!(!gate.is_open(), "another append has not ended");
        // Answered in another order than stored.
        gate.ended(Some((at(7), at(8))));
        assert!(gate.is_open());
        forwarded(&progress, 10);
        assert!(!gate.is_open(), "the last event is not forwarded");
    }

    #[test]
    fn an_append_that_stored_nothing_leaves_the_gate_as_it_was() {
        let (mut gate, progress) = gate(7);
        forwarded(&progress, 7);
        gate.begins();
        gate.ended(None);
        assert!(gate.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn requests_wait_for_the_gate_only_while_it_is_about_to_open() {
        let (mut gate, progress) = gate(1);
        assert_eq!(gate.holds(0), None, "it is open");
        gate.begins();
        gate.ended(Some((at(1), at(9))));
        assert_eq!(gate.holds(9), None, "nothing is passed on");
        forwarded(&progress, 5);
        assert_eq!(gate.holds(4), Some(Instant::now() + HOLD));
        assert_eq!(gate.holds(NEARLY_EMPTY + 1), None, "it would take long");
        progress.send_modify(|progress| progress.at = None);
        assert_eq!(gate.holds(4), None, "NATS took no more");
    }

    #[test]
    fn pauses_grow_up_to_the_longest() {
        let pauses: Vec<_> = [0, 1, 2, 4, 5, 100].into_iter().map(pause).collect();
        let wanted = [200, 400, 800, 3200, 5000, 5000].map(Duration::from_millis);
        assert_eq!(pauses, wanted);
    }
}
