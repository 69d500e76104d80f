//! What a lane gives up: events that become dead letters, durably, before the cursor passes them.

use std::time::Duration;

use super::{Ended, Lane};
use crate::config::{DeadLettersFull, EventKind};
use crate::delivery::status::LaneState;
use crate::queue::{DeadLetter, Log, QueuedEvent, StoreError};
use crate::telemetry::heartbeat::STUCK;
use crate::telemetry::ledger::{DeadLetterReason, DropReason};
use crate::telemetry::recent::End;
use crate::telemetry::stream::{EventOutcome, Happening};
use crate::upstream::{Answer, BatchSink, SendError};

/// How often a lane looks by itself whether there is room for dead letters again.
const RETRY: Duration = Duration::from_secs(5);

impl<L: Log, S: BatchSink> Lane<L, S> {
    /// Makes dead letters of those of the trial that GMFY couldn't tell apart if sent twice.
    pub(super) async fn park(&mut self, status: Option<u16>, answer: &str) -> Result<(), Ended> {
        self.save_pending().await?;
        let Some(work) = &mut self.work else { return Ok(()) };
        let trial = work.trial().copied();
        let len = trial.map_or(0, |trial| trial.len);
        let parked = work.take_if(len, |event| event.kind != EventKind::Unique);
        let buried = self.bury(parked, DeadLetterReason::Unknown, status, answer).await;
        if buried.is_err()
            && let Some(work) = &mut self.work
        {
            work.resume(trial);
        }
        buried
    }

    /// Whether something is older than `queue.max_age`, and surely wasn't taken.
    pub(super) fn has_expired(&self) -> bool {
        let Some(max_age) = self.shared.settings.max_age else { return false };
        let Some(work) = &self.work else { return false };
        let now = self.shared.clock.now();
        work.trial().is_none_or(|trial| trial.unknown_since.is_none())
            && work.events().iter().any(|event| now.since(event.accepted_at) > max_age)
    }

    /// Makes dead letters of what is older than `queue.max_age`.
    pub(super) async fn bury_expired(&mut self) -> Result<(), Ended> {
        let Some(max_age) = self.shared.settings.max_age else { return Ok(()) };
        self.save_pending().await?;
        let Some(work) = &mut self.work else { return Ok(()) };
        let now = self.shared.clock.now();
        let expired = work.take_if(usize::MAX, |event| now.since(event.accepted_at) > max_age);
        self.bury(expired, DeadLetterReason::Expired, None, "").await
    }

    /// Makes a dead letter of the trial's single event.
    pub(super) async fn bury_trial(
        &mut self,
        reason: DeadLetterReason,
        result: &Result<Answer, SendError>,
    ) -> Result<(), Ended> {
        self.save_pending().await?;
        let Some(work) = &mut self.work else { return Ok(()) };
        let attempts = work.attempts(0);
        let events = work.take_culprit().into_iter().map(|event| (event, attempts)).collect();
        let (status, answer) = match result {
            Ok(answer) => (Some(answer.status), String::from_utf8_lossy(&answer.body).into_owned()),
            Err(error) => (None, error.to_string()),
        };
        self.bury(events, reason, status, &answer).await
    }

    /// Stores dead letters, durably, then settles their events, which are out of work by now: no
    /// cursor may be stored before this is done.
    async fn bury(
        &mut self,
        events: Vec<(QueuedEvent, u32)>,
        reason: DeadLetterReason,
        status: Option<u16>,
        answer: &str,
    ) -> Result<(), Ended> {
        if events.is_empty() {
            return Ok(());
        }
        let buried_at = self.shared.clock.now();
        let letters: Vec<_> = events
            .iter()
            .map(|(event, attempts)| DeadLetter {
                sequence: event.sequence,
                reason,
                status,
                answer: answer.to_owned(),
                attempts: *attempts,
                accepted_at: event.accepted_at,
                buried_at,
                user: event.user,
                kind: event.kind,
                event: event.json.clone(),
            })
            .collect();
        let count = letters.len() as u64;
        let mut failures = 0;
        let stored = loop {
            match self.log.bury(letters.clone()).await {
                Ok(()) => break true,
                Err(StoreError::DeadLettersFull) => {
                    if self.shared.settings.dead_letters_full == DeadLettersFull::Drop {
                        break false;
                    }
                    if let Err(ended) = self.wait_for_room(&mut failures).await {
                        // They are in work again, for the next lanes to judge.
                        if let Some(work) = &mut self.work {
                            work.put_back(events);
                        }
                        return Err(ended);
                    }
                }
                Err(error) => self.store_failed(&error, &mut failures).await?,
            }
        };
        for (event, _) in &events {
            self.window.settle(event);
        }
        self.tell_given_up(&events, stored, status);
        if stored {
            self.pending.dead_lettered.push((reason, count));
        } else {
            self.pending.dropped.push((DropReason::DeadLettersFull, count));
        }
        if let Some(dead_letters) = self.shared.board.note_buried(count) {
            let sequence = events.first().map(|(event, _)| event.sequence.get());
            let reason = reason.as_str();
            tracing::warn!(dead_letters, stored, reason, status, sequence, "events were given up");
        }
        Ok(())
    }

    /// Tells that these events became dead letters, or, if not `stored`, were dropped.
    pub(super) fn tell_given_up(
        &self,
        events: &[(QueuedEvent, u32)],
        stored: bool,
        status: Option<u16>,
    ) {
        let metrics = &self.shared.metrics;
        let outcome = if stored { EventOutcome::DeadLettered } else { EventOutcome::Dropped };
        if !stored {
            let attempts = events.iter().map(|(event, attempts)| (event.sequence.get(), *attempts));
            metrics.recent.note(End::Dropped, status, attempts);
        }
        if metrics.stream.is_followed() {
            let what = Happening { at: self.shared.clock.now(), outcome, batch: None, status };
            metrics.stream.publish(what, events.iter().map(|(event, _)| event.subject()));
        }
    }

    /// Waits for room among the dead letters.
    async fn wait_for_room(&self, failures: &mut u32) -> Result<(), Ended> {
        if *failures == 0 {
            tracing::warn!(
                lane = self.index,
                "the dead letters are full: the lane waits; requeue or discard some, or set \
                 dead_letters.when_full to drop"
            );
        }
        *failures = failures.saturating_add(1);
        self.show(LaneState::DeadLettersFull);
        self.pulse.within(RETRY + STUCK);
        tokio::select! {
            () = self.shared.board.dead_letters_freed.notified() => Ok(()),
            () = tokio::time::sleep(RETRY) => Ok(()),
            () = self.renew.cancelled() => Err(Ended::Renewed),
            () = self.stop.drain.cancelled() => Err(Ended::Stopped),
        }
    }
}
