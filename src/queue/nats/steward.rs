//! Who delivers which lane: leases, and what else is done every now and then.
//!
//! A replica writes its key in the bucket anew at every tick. One whose key stays as it is for
//! longer than a lease is gone for the others, by their own clocks; no clock is compared with
//! another machine's. Until a lease after the *beginning* of its last successful writing a replica
//! is sure of its lanes, by its own monotonic clock; later it sends nothing of them. So it stops
//! before anyone takes over, unless it is stopped itself between looking at the clock and sending.
//! Its cursors can't be stored any more in any case: see `record`.
//!
//! Lanes are shared out evenly: each replica has its share by its place among all that are there,
//! gives back what it has beyond that, and takes what is free.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::Shared;
use super::letters::last;
use super::reader::failed;
use super::record::LaneRecord;
use super::slots::Owned;
use crate::queue::{Sequence, StoreError};

/// How long a server may fail before it is taken for cut off: longer than it takes to agree on
/// another leader.
const CUT_OFF: Duration = Duration::from_secs(15);
/// Ticks in a lease.
const TICKS: u32 = 5;
/// How long a replica is left alone beyond its lease, in ticks.
const GRACE: u32 = 2;

/// See the module.
pub(super) struct Steward {
    pub(super) shared: Arc<Shared>,
    pub(super) stop: CancellationToken,
    pub(super) lease: Duration,
    /// The other replicas: the revision of their keys, and since when it is that.
    seen: HashMap<String, (u64, Instant)>,
    /// Up to where each lane was purged.
    purged: HashMap<usize, Sequence>,
    /// Lanes whose records may name this replica.
    named: BTreeSet<usize>,
    /// Since when the server that is connected does not do what it is asked.
    failing_since: Option<Instant>,
    announced: Option<(usize, usize)>,
}

impl Steward {
    pub(super) fn new(shared: Arc<Shared>, stop: CancellationToken, lease: Duration) -> Self {
        Self {
            shared,
            stop,
            lease,
            seen: HashMap::new(),
            purged: HashMap::new(),
            named: BTreeSet::new(),
            failing_since: None,
            announced: None,
        }
    }

    /// Works until told to stop, then gives all lanes back.
    pub(super) async fn run(mut self) {
        let pulse = self.shared.metrics.heartbeats.part("queue's steward", &self.shared.clock);
        let mut ticks = tokio::time::interval((self.lease / TICKS).max(Duration::from_millis(50)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.stop.run_until_cancelled(self.next(&mut ticks)).await.is_some() {
            pulse.beat();
            let done = self.tick().await;
            match (&done, self.failing_since) {
                (Err(error), None) => {
                    warn!(%error, "the queue on NATS fails; trying again");
                    self.failing_since = Some(Instant::now());
                }
                (Err(_), Some(since)) if since.elapsed() >= CUT_OFF => {
                    self.move_on().await;
                    self.failing_since = Some(Instant::now());
                    // What is sent before the client has left the old connection is lost with it.
                    ticks.reset();
                }
                (Ok(()), Some(_)) => {
                    info!("the queue on NATS works again");
                    self.failing_since = None;
                }
                (Ok(()), None) | (Err(_), Some(_)) => {}
            }
        }
        let leaving = tokio::time::timeout(super::connect::TIMEOUT, self.leave());
        match leaving.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "lanes could not be given back: their leases run out"),
            Err(_) => warn!("lanes could not be given back in time: their leases run out"),
        }
    }

    /// Has the client connect anew, to another server where there is one: the one it has may be cut
    /// off from the others, and answer pings, but nothing else.
    async fn move_on(&self) {
        let client = &self.shared.streams.client;
        if client.connection_state() != State::Connected {
            return;
        }
        warn!("the NATS server does not do what it is asked: connecting anew");
        if let Err(error) = client.force_reconnect().await {
            warn!(%error, "the NATS client failed");
        }
    }

    async fn next(&self, ticks: &mut tokio::time::Interval) {
        tokio::select! {
            _ = ticks.tick() => {}
            () = self.shared.left.notified() => {}
        }
    }

    /// Does all that is due.
    pub(super) async fn tick(&mut self) -> Result<(), StoreError> {
        self.renew().await?;
        self.give_back().await?;
        let replicas = self.replicas().await?;
        self.share_out(&replicas).await?;
        self.purge().await?;
        self.look().await
    }

    /// Writes this replica's key.
    async fn renew(&self) -> Result<(), StoreError> {
        let begun = Instant::now();
        if !self.shared.is_sure(begun) {
            self.shared.lapse();
        }
        let key = format!("replica.{}", self.shared.replica);
        let written = self.shared.streams.state.put(key, self.shared.replica.clone().into()).await;
        written.map_err(|error| failed(&error))?;
        // Too late: in between, the others may have taken it for gone.
        if !self.shared.is_sure(Instant::now()) {
            self.shared.lapse();
        }
        self.shared.sure_until(begun + self.lease);
        Ok(())
    }

    /// The replicas that are there, in the same order for all of them.
    async fn replicas(&mut self) -> Result<Vec<String>, StoreError> {
        let shared = Arc::clone(&self.shared);
        let state = &shared.streams.state;
        let all = state.stream.info_with_subjects(shared.key("replica.*")).await;
        let all = all.map_err(|error| failed(&error))?;
        let subjects: Vec<_> = all.try_collect().await.map_err(|error| failed(&error))?;
        let mut replicas = vec![shared.replica.clone()];
        let now = Instant::now();
        let mut seen = HashMap::new();
        for (subject, _) in subjects {
            let Some((_, id)) = subject.rsplit_once('.') else { continue };
            if id == shared.replica {
                continue;
            }
            let Some(message) = last(&state.stream, &subject).await? else { continue };
            let revision = message.sequence;
            let since = match self.seen.get(id) {
                Some((known, since)) if *known == revision => *since,
                _ => now,
            };
            let patience = self.lease + self.lease / TICKS * GRACE;
            if now.duration_since(since) < patience {
                replicas.push(id.to_owned());
                seen.insert(id.to_owned(), (revision, since));
            } else {
                warn!(replica = id, "a replica is gone: its lanes are taken over");
                // Refused where it is there again, or another replica was quicker.
                drop(state.stream.delete_message(revision).await);
            }
        }
        self.seen = seen;
        replicas.sort_unstable();
        Ok(replicas)
    }

    /// Marks what is beyond this replica's share, and takes what is free up to it.
    async fn share_out(&mut self, replicas: &[String]) -> Result<(), StoreError> {
        let lanes = self.shared.count;
        let place = replicas.iter().position(|id| *id == self.shared.replica).unwrap_or_default();
        let share = lanes / replicas.len() + usize::from(place < lanes % replicas.len());
        let mut have = self.shared.give_up_beyond(share);
        let mut changed = false;
        if have < share {
            for lane in self.shared.free() {
                if have >= share || !self.shared.is_sure(Instant::now()) {
                    break;
                }
                if self.take(lane, replicas).await? {
                    have += 1;
                    changed = true;
                }
            }
        }
        if changed {
            self.shared.moved.notify_one();
        }
        self.disown().await?;
        if self.announced != Some((have, replicas.len())) {
            self.announced = Some((have, replicas.len()));
            info!(lanes = have, share, replicas = replicas.len(), "lanes are shared out");
        }
        Ok(())
    }

    /// Takes this replica's name out of the records of lanes that it has not: of those that it had
    /// when its lease ran out, or took without learning of it. Nobody else takes them before.
    async fn disown(&mut self) -> Result<(), StoreError> {
        let free = self.shared.free();
        for lane in free.into_iter().filter(|lane| self.named.contains(lane)).collect::<Vec<_>>() {
            if let Some((record, revision)) = self.record(lane).await?
                && record.owner.as_ref() == Some(&self.shared.replica)
            {
                self.free(lane, &Owned::new(record, revision)).await?;
            }
            self.named.remove(&lane);
        }
        Ok(())
    }

    /// A lane's record and its revision.
    async fn record(&self, lane: usize) -> Result<Option<(LaneRecord, u64)>, StoreError> {
        let key = self.shared.key(&format!("lane.{lane}"));
        let Some(found) = last(&self.shared.streams.state.stream, &key).await? else {
            return Ok(None);
        };
        let record = LaneRecord::parse(&found.payload).map_err(|error| failed(&error))?;
        Ok(Some((record, found.sequence)))
    }

    /// Takes a lane over, if nobody has it who is there.
    async fn take(&mut self, lane: usize, replicas: &[String]) -> Result<bool, StoreError> {
        let shared = Arc::clone(&self.shared);
        let (mut record, revision) = self.record(lane).await?.unwrap_or_default();
        let is_held = record.owner.as_ref().is_some_and(|owner| {
            *owner != shared.replica && replicas.iter().any(|replica| replica == owner)
        });
        if is_held {
            return Ok(false);
        }
        let info = shared.streams.events.get_info().await.map_err(|error| failed(&error))?;
        let mut end = Sequence::new(info.state.last_sequence).next();
        if record.clone().clamp(end) {
            end = self.end().await?;
        }
        if record.clamp(end) {
            warn!(
                lane,
                end = end.get(),
                "the stream ends before the lane's cursor: NATS lost acknowledged events"
            );
        }
        record.owner = Some(shared.replica.clone());
        record.session = rand::random();
        self.named.insert(lane);
        match shared.streams.state.update(format!("lane.{lane}"), record.bytes(), revision).await {
            Ok(revision) => {
                debug!(lane, low = record.low().get(), end = end.get(), "a lane is taken");
                shared.take(lane, Owned::new(record, revision));
                Ok(true)
            }
            // Another one was quicker, or it can't be known: then it is found at the next look.
            Err(error) if error.kind() == super::WrongRevision => Ok(false),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Where the stream surely ends: a leader that is new may say less than it has, until it
    /// acknowledges a message, which comes after all others.
    async fn end(&self) -> Result<Sequence, StoreError> {
        let streams = &self.shared.streams;
        let subject = format!("{}.events.end", self.shared.prefix);
        let sent = streams.context.publish(subject, Bytes::new()).await;
        let ack = sent.map_err(|error| failed(&error))?.await.map_err(|error| failed(&error))?;
        // One that stays is no event, and in no lane.
        drop(streams.events.delete_message(ack.sequence).await);
        Ok(Sequence::new(ack.sequence))
    }

    /// Gives back the lanes that ended because they are to go.
    async fn give_back(&self) -> Result<(), StoreError> {
        for (lane, owned) in self.shared.ended_and_leaving() {
            self.free(lane, &owned).await?;
            self.shared.forget(lane);
        }
        Ok(())
    }

    async fn free(&self, lane: usize, owned: &Owned) -> Result<(), StoreError> {
        let mut held = owned.held.lock().await;
        let mut record = held.record.clone();
        record.owner = None;
        let key = format!("lane.{lane}");
        match self.shared.streams.state.update(&key, record.bytes(), held.revision).await {
            Ok(revision) => held.revision = revision,
            // It is another's already.
            Err(error) if error.kind() == super::WrongRevision => {}
            Err(error) => return Err(failed(&error)),
        }
        Ok(())
    }

    /// What is left is counted, and the lanes are given back.
    async fn leave(&mut self) -> Result<(), StoreError> {
        self.purge().await?;
        self.look().await?;
        for (lane, owned) in self.shared.all_owned() {
            self.free(lane, &owned).await?;
        }
        let state = &self.shared.streams.state.stream;
        let key = self.shared.key(&format!("replica.{}", self.shared.replica));
        if let Some(message) = last(state, &key).await? {
            state.delete_message(message.sequence).await.map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// Looks how full the streams are, and whether an operator paused the fleet.
    async fn look(&self) -> Result<(), StoreError> {
        let shared = &self.shared;
        let events = shared.streams.events.get_info().await.map_err(|error| failed(&error))?;
        let dead = shared.streams.dead.get_info().await.map_err(|error| failed(&error))?;
        shared.metrics.ledger.update(|counts| {
            let since = shared.tally().looked(events.state.last_sequence);
            counts.appended = events.state.messages + since;
            // What is settled and not yet purged counts as queued until the next look.
            counts.settled = 0;
            counts.queue_bytes = events.state.bytes;
            counts.dead_letters = dead.state.messages;
        });
        let paused = last(&shared.streams.state.stream, &shared.key("paused")).await?;
        let paused = paused.is_some_and(|message| *message.payload == *b"true");
        shared.paused.send_if_modified(|known| std::mem::replace(known, paused) != paused);
        Ok(())
    }

    /// Removes what all of a lane's partitions have settled.
    async fn purge(&mut self) -> Result<(), StoreError> {
        for (lane, owned) in self.shared.all_owned() {
            let low = owned.held.lock().await.record.low();
            if self.purged.get(&lane).is_some_and(|purged| *purged >= low) || low <= Sequence::FIRST
            {
                continue;
            }
            let subject = self.shared.subject(lane);
            let purging = self.shared.streams.events.purge().filter(subject).sequence(low.get());
            purging.await.map_err(|error| failed(&error))?;
            debug!(lane, before = low.get(), "a lane is purged");
            self.purged.insert(lane, low);
        }
        Ok(())
    }
}
