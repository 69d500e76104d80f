//! The batch that a lane is at, from its first sending until its last event is settled.
//!
//! Its events go out strictly in order, all at once or, after a refusal, in prefixes that close in
//! on the culprit by halves. What a refusal teaches is kept as one number: how many of the first
//! events are known to hide a culprit. So a culprit among n events costs about log2(n) requests.

use tokio::time::Instant;

use super::gate::Delay;
use crate::queue::{BatchKey, QueuedEvent, StoredBatch};

/// One request that is to be sent until its outcome is known: same events, same key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trial {
    pub(super) key: BatchKey,
    /// How many of the first events it takes.
    pub(super) len: usize,
    /// Whether its extent is stored, so that it may be sent.
    pub(super) stored: bool,
    /// How often it was sent.
    pub(super) sent: u32,
    /// When its outcome first was unknown.
    pub(super) unknown_since: Option<Instant>,
}

impl Trial {
    const fn new(key: BatchKey, len: usize) -> Self {
        Self { key, len, stored: false, sent: 0, unknown_since: None }
    }
}

/// See the module. Its events are ascending.
#[derive(Debug)]
pub(super) struct Work {
    events: Vec<QueuedEvent>,
    /// How often each event was sent.
    attempts: Vec<u32>,
    trial: Option<Trial>,
    /// The first so many events are known to hide a culprit; 0 when nothing is known.
    suspect: usize,
    /// The most events in one request, after GMFY found more too large or culprits stood in a row.
    cap: usize,
    /// Culprits found in a row, nothing taken between them.
    culprits: u32,
    /// Failures in passing of the current trial, for its backoff.
    pub(super) failures: u32,
    /// Holds the next request back.
    pub(super) delay: Option<Delay>,
}

impl Work {
    pub(super) fn new(events: Vec<QueuedEvent>) -> Self {
        Self {
            attempts: vec![0; events.len()],
            events,
            trial: None,
            suspect: 0,
            cap: usize::MAX,
            culprits: 0,
            failures: 0,
            delay: None,
        }
    }

    /// A batch that was stored before the process began: it may have been sent.
    pub(super) fn unfinished(events: Vec<QueuedEvent>, key: BatchKey, now: Instant) -> Self {
        let mut work = Self::new(events);
        let len = work.events.len();
        let unknown_since = Some(now);
        work.trial = Some(Trial { stored: true, sent: 1, unknown_since, ..Trial::new(key, len) });
        work.attempts.fill(1);
        work
    }

    /// All events that aren't settled.
    pub(super) fn events(&self) -> &[QueuedEvent] {
        &self.events
    }

    /// The trial that is under way or to be repeated.
    pub(super) const fn trial(&self) -> Option<&Trial> {
        self.trial.as_ref()
    }

    pub(super) const fn trial_mut(&mut self) -> Option<&mut Trial> {
        self.trial.as_mut()
    }

    /// The events of the trial.
    pub(super) fn trial_events(&self) -> &[QueuedEvent] {
        let len = self.trial.as_ref().map_or(0, |trial| trial.len);
        self.events.get(..len).unwrap_or(&self.events)
    }

    /// The sequences of the trial's events, each with how often it was sent.
    pub(super) fn trial_attempts(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        let events = self.trial_events().iter().map(|event| event.sequence.get());
        events.zip(self.attempts.iter().copied())
    }

    /// The sequences of all its events, each with how often it was sent.
    pub(super) fn all_attempts(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        let events = self.events.iter().map(|event| event.sequence.get());
        events.zip(self.attempts.iter().copied())
    }

    /// What is to be stored while the trial may be on its way.
    pub(super) fn stored_batch(&self) -> Option<StoredBatch> {
        let trial = self.trial.as_ref().filter(|trial| trial.stored)?;
        let sequences = self.trial_events().iter().map(|event| event.sequence).collect();
        Some(StoredBatch { key: trial.key, sequences })
    }

    /// The trial to send next: the one under way, or a new one, of a single event if `alone`.
    /// `alone` does not change a trial whose outcome is unknown: that one keeps its bytes.
    pub(super) fn next_trial(&mut self, alone: bool) -> &mut Trial {
        let split = |trial: &Trial| alone && trial.len > 1 && trial.unknown_since.is_none();
        if self.trial.as_ref().is_some_and(split) {
            self.trial = None;
        }
        let len = if alone { 1 } else { self.next_len() };
        self.trial.get_or_insert_with(|| Trial::new(BatchKey::random(), len))
    }

    fn next_len(&self) -> usize {
        let wanted = match self.suspect {
            0 => self.events.len(),
            suspect => suspect.div_ceil(2),
        };
        wanted.min(self.cap).min(self.events.len()).max(1)
    }

    /// Notes a sending of the trial.
    pub(super) fn sent(&mut self) {
        let Some(trial) = &mut self.trial else { return };
        trial.sent = trial.sent.saturating_add(1);
        for attempts in self.attempts.iter_mut().take(trial.len) {
            *attempts = attempts.saturating_add(1);
        }
    }

    /// How often the event at `index` was sent.
    pub(super) fn attempts(&self, index: usize) -> u32 {
        self.attempts.get(index).copied().unwrap_or_default()
    }

    /// GMFY took the trial: gives its events out and goes on with the rest.
    pub(super) fn take_delivered(&mut self) -> Vec<QueuedEvent> {
        let taken = self.take_trial();
        self.suspect = self.suspect.saturating_sub(taken.len());
        if self.culprits > 0 {
            self.cap = self.cap.saturating_mul(2);
        }
        self.culprits = 0;
        taken
    }

    /// The trial is settled without a delivery: gives its events out and goes on with the rest.
    /// Where one culprit follows another, the next one is expected at once: single events, then
    /// doubling again, so that a batch of nothing but culprits costs a request each.
    pub(super) fn take_culprit(&mut self) -> Vec<QueuedEvent> {
        let taken = self.take_trial();
        self.suspect = 0;
        self.culprits = self.culprits.saturating_add(1);
        if self.culprits >= 2 {
            self.cap = 1;
        }
        taken
    }

    fn take_trial(&mut self) -> Vec<QueuedEvent> {
        let len = self.trial.take().map_or(0, |trial| trial.len).min(self.events.len());
        self.failures = 0;
        self.delay = None;
        self.attempts.drain(..len);
        if len == self.events.len() {
            return std::mem::take(&mut self.events);
        }
        self.events.drain(..len).collect()
    }

    /// GMFY refused the trial's content; there is more than one event in it.
    pub(super) fn rejected(&mut self) {
        if let Some(trial) = self.trial.take() {
            self.suspect = trial.len;
        }
        self.failures = 0;
        self.delay = None;
    }

    /// GMFY found the trial too large; there is more than one event in it.
    pub(super) fn too_large(&mut self) {
        if let Some(trial) = self.trial.take() {
            self.cap = (trial.len / 2).max(1);
        }
        self.failures = 0;
        self.delay = None;
    }

    /// Forgets the trial, unless it may have been taken: that one keeps its bytes and key.
    pub(super) fn forget_known(&mut self) {
        if self.trial.as_ref().is_some_and(|trial| trial.unknown_since.is_none()) {
            self.trial = None;
        }
    }

    /// Takes events back that were taken out, as yet unsettled, with their attempts.
    pub(super) fn put_back(&mut self, events: Vec<(QueuedEvent, u32)>) {
        let attempts = std::mem::take(&mut self.attempts);
        let mut all: Vec<_> = std::mem::take(&mut self.events).into_iter().zip(attempts).collect();
        all.extend(events);
        all.sort_by_key(|(event, _)| event.sequence);
        (self.events, self.attempts) = all.into_iter().unzip();
        self.trial = None;
        self.suspect = 0;
    }

    /// Goes on with a trial whose events are all back in work.
    pub(super) fn resume(&mut self, trial: Option<Trial>) {
        self.trial = trial;
    }

    /// Takes out those of the first `within` events that `goes` names, with their attempts. What
    /// is left is sent as a new request.
    pub(super) fn take_if(
        &mut self,
        within: usize,
        goes: impl Fn(&QueuedEvent) -> bool,
    ) -> Vec<(QueuedEvent, u32)> {
        if !self.events.iter().take(within).any(&goes) {
            return Vec::new();
        }
        let mut taken = Vec::new();
        let events = std::mem::take(&mut self.events);
        let attempts = std::mem::take(&mut self.attempts);
        for (index, (event, attempts)) in events.into_iter().zip(attempts).enumerate() {
            if index < within && goes(&event) {
                taken.push((event, attempts));
            } else {
                self.events.push(event);
                self.attempts.push(attempts);
            }
        }
        self.trial = None;
        self.suspect = 0;
        self.failures = 0;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::config::EventKind;
    use crate::queue::{Sequence, UserHash};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn work(len: u64) -> Work {
        let event = |number| QueuedEvent {
            sequence: Sequence::new(number),
            user: UserHash::from_bits(0),
            kind: EventKind::Classic,
            accepted_at: Timestamp::default(),
            json: bytes::Bytes::from_static(b"{}"),
            #[cfg(feature = "nats")]
            mark: None,
        };
        Work::new((0..len).map(event).collect())
    }

    /// Drives a batch against an upstream that refuses requests with a culprit in them.
    fn drive(len: u64, culprits: &BTreeSet<u64>, largest: usize) -> (Vec<u64>, Vec<u64>, usize) {
        let (mut delivered, mut dead, mut requests) = (Vec::new(), Vec::new(), 0);
        let mut work = work(len);
        let numbers = |events: Vec<QueuedEvent>| events.into_iter().map(|e| e.sequence.get());
        while !work.events().is_empty() {
            let trial = work.next_trial(false).len;
            work.sent();
            requests += 1;
            let bad = work.trial_events().iter().any(|e| culprits.contains(&e.sequence.get()));
            if trial > largest {
                work.too_large();
            } else if !bad {
                delivered.extend(numbers(work.take_delivered()));
            } else if trial == 1 {
                dead.extend(numbers(work.take_culprit()));
            } else {
                work.rejected();
            }
        }
        (delivered, dead, requests)
    }

    #[test]
    fn one_culprit_costs_about_log2_requests_wherever_it_stands() {
        for culprit in 0..512 {
            let (delivered, dead, requests) = drive(512, &BTreeSet::from([culprit]), usize::MAX);
            assert_eq!((delivered.len(), dead), (511, vec![culprit]));
            assert!(requests <= 13, "{requests} requests for a culprit at {culprit}");
        }
    }

    #[test]
    fn nothing_but_culprits_costs_little_more_than_a_request_each() {
        let (_, dead, requests) = drive(500, &(0..500).collect(), usize::MAX);
        assert_eq!(dead.len(), 500);
        assert!(requests <= 520, "{requests}");
    }

    #[test]
    fn a_trial_that_is_sent_again_keeps_its_key_and_extent() {
        let mut work = work(4);
        let first = *work.next_trial(false);
        work.sent();
        let again = *work.next_trial(false);
        assert_eq!((first.key, first.len), (again.key, again.len));
        work.rejected();
        assert_ne!(work.next_trial(false).key, first.key);
    }

    #[test]
    fn an_unknown_trial_is_not_split_by_a_probe() {
        let mut work = Work::unfinished(work(4).events, BatchKey(7), Instant::now());
        assert_eq!(work.next_trial(true).len, 4);
        work.rejected();
        assert_eq!(work.next_trial(true).len, 1);
    }

    proptest! {
        #[test]
        fn exactly_the_culprits_are_refused_and_all_in_order(
            len in 1u64..200,
            culprits in prop::collection::btree_set(0u64..200, 0..20),
            largest in 1usize..300,
        ) {
            let (delivered, dead, _) = drive(len, &culprits, largest);
            let good: Vec<_> = (0..len).filter(|n| !culprits.contains(n)).collect();
            let bad: Vec<_> = (0..len).filter(|n| culprits.contains(n)).collect();
            prop_assert_eq!(delivered, good);
            prop_assert_eq!(dead, bad);
        }
    }
}
