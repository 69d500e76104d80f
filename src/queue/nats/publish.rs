//! Appending: one task publishes the events of all requests, many at a time, each user's of a request
//! one after the other, and answers a request when JetStream has acknowledged all of its events.
//!
//! A request that JetStream took in part is of unknown outcome: what it took is delivered. Sent
//! again with the same `Idempotency-Key`, its events have the same message ids, and JetStream takes
//! only those that it has not.
//!
//! With a spill, a request that can't be published, or is of unknown outcome, goes there as a whole,
//! and comes back from there with the same message ids. See `spill`.

use std::sync::Arc;

use async_nats::jetstream::publish::PublishAck;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;
use tracing::{error, warn};

use super::Shared;
use super::flights::{Event, Flight, Flights, Identity};
use super::message;
use super::spill::{Forward, Gate, Spill, submission};
use crate::queue::dedupe::{Mark, Underway};
use crate::queue::frame::EventHead;
use crate::queue::submission::Entry;
use crate::queue::{AppendError, Appended, QueuedEvent, Readiness, Sequence, Submission};
use crate::telemetry::ledger::KINDS;
use crate::telemetry::stream::{EventOutcome, Happening};
use crate::telemetry::traces::{Accepting, Span};

/// A request on its way to JetStream.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) submission: Submission,
    pub(super) done: oneshot::Sender<Result<Published, AppendError>>,
    pub(super) permit: OwnedSemaphorePermit,
    /// Whether the spill may take it.
    pub(super) may_spill: bool,
}

/// What a request's append did.
#[derive(Clone, Debug, Default)]
pub(super) struct Published {
    pub(super) appended: Appended,
    /// Each event's sequence, in their order; duplicates have none. Empty where the spill has them.
    pub(super) sequences: Vec<Option<Sequence>>,
}

/// Who waits for an answer.
struct Caller {
    done: oneshot::Sender<Result<Published, AppendError>>,
    key: Option<Underway>,
    traced: Option<(Span, Box<Accepting>)>,
    begun: Instant,
    may_spill: bool,
    _permit: OwnedSemaphorePermit,
}

/// For whom a flight is.
enum Of {
    Caller(Box<Caller>),
    Forwarder(oneshot::Sender<Result<(), AppendError>>),
}

/// The publisher's side of the spill.
struct Inlet {
    spill: Arc<Spill>,
    gate: Gate,
    appending: Appending,
}

type Appending = FuturesUnordered<BoxFuture<'static, Spilled>>;

/// A request that the spill took, or not.
struct Spilled {
    caller: Box<Caller>,
    result: Result<Appended, AppendError>,
    kinds: [u64; KINDS.len()],
    /// What JetStream took of it before.
    sent: Sent,
}

/// What JetStream took of a request that is not answered yet.
#[derive(Clone, Copy, Default)]
struct Sent {
    /// Whether it has some of it, or may have.
    may_be: bool,
    /// Those that it had not before, by kind.
    kinds: [u64; KINDS.len()],
}

/// See the module.
pub(super) struct Publisher {
    shared: Arc<Shared>,
    requests: mpsc::Receiver<Request>,
    flights: Flights<Of>,
    inlet: Option<Inlet>,
    forwards: mpsc::Receiver<Forward>,
}

impl Publisher {
    pub(super) fn new(
        shared: Arc<Shared>,
        requests: mpsc::Receiver<Request>,
        forwards: mpsc::Receiver<Forward>,
    ) -> Self {
        let inlet = shared.spill.as_ref().map(|spill| Inlet {
            gate: spill.gate(),
            spill: Arc::clone(spill),
            appending: FuturesUnordered::new(),
        });
        Self { flights: Flights::new(Arc::clone(&shared)), shared, requests, inlet, forwards }
    }

    /// Publishes until the last sender is dropped, then answers what is outstanding.
    pub(super) async fn run(mut self) {
        let mut is_open = true;
        loop {
            let Self { requests, flights, inlet, forwards, .. } = &mut self;
            let is_appending = inlet.as_ref().is_some_and(|inlet| !inlet.appending.is_empty());
            if !is_open && flights.is_empty() && !is_appending {
                return;
            }
            let holds = inlet.as_ref().and_then(Inlet::holds);
            let inlet = inlet.as_mut().map(|Inlet { gate, appending, .. }| (gate, appending));
            let (gate, appending) = inlet.unzip();
            tokio::select! {
                biased;
                Some(flight) = flights.next() => self.landed(flight),
                Some(spilled) = next(appending) => self.spilled(spilled),
                Some(Forward { events, done }) = forwards.recv() => {
                    self.flights.send(Flight { of: Of::Forwarder(done), events });
                }
                request = requests.recv(), if is_open && holds.is_none() => match request {
                    None => is_open = false,
                    Some(request) => self.publish(request),
                },
                () = released(gate, holds), if holds.is_some() => {}
            }
        }
    }

    fn publish(&mut self, request: Request) {
        let at = self.shared.clock.now();
        let Request { mut submission, done, permit, may_spill } = request;
        let traced = submission.take_accepting().and_then(|request| {
            let traces = self.shared.metrics.traces.as_ref()?;
            Some((traces.commit(&request), request))
        });
        let (records, entries, key) = submission.into_parts();
        let mut events = Vec::with_capacity(entries.len());
        let mut start = 0;
        for (index, Entry { head, end }) in entries.into_iter().enumerate() {
            let json = records.get(start + head.length()..end).unwrap_or_default();
            start = end;
            let payload = message::encode(head.user, head.kind, at, json);
            let identity = self.identity(head, key.as_ref(), index);
            events.push(Event {
                user: head.user,
                kind: head.kind,
                identity,
                payload,
                result: None,
            });
        }
        let begun = Instant::now();
        let caller = Box::new(Caller { done, key, traced, begun, may_spill, _permit: permit });
        // Without events there is nothing but an answer to remember.
        let is_void = events.is_empty();
        match &self.inlet {
            _ if is_void => self.landed(Flight { of: Of::Caller(caller), events }),
            Some(inlet) if may_spill && !(inlet.gate.is_open() && self.shared.is_there()) => {
                self.spill(caller, &events, Sent::default());
            }
            _ => self.flights.send(Flight { of: Of::Caller(caller), events }),
        }
    }

    fn identity(&self, head: EventHead, key: Option<&Underway>, index: usize) -> Identity {
        let dedupes = !self.shared.dedupe.limits().window.is_zero();
        match (head.origin, head.mark, key) {
            (Some(origin), ..) => Identity::Requeued(origin),
            (None, Some(mark), _) if dedupes => Identity::Unique(mark),
            (None, None, Some(key)) if dedupes => Identity::Request(key.mark(index)),
            // To be known where it is sent again.
            (None, ..) if self.inlet.is_some() => Identity::Request(Mark::random()),
            (None, ..) => Identity::None,
        }
    }

    /// All of a flight's events are acknowledged or refused.
    fn landed(&mut self, Flight { of, events }: Flight<Of>) {
        let outcome = Outcome::of(&events);
        self.show(&events);
        let caller = match of {
            Of::Caller(caller) => caller,
            Of::Forwarder(done) => {
                self.count(&outcome, false);
                return drop(done.send(outcome.refused.map_or(Ok(()), Err)));
            }
        };
        let spills = self.inlet.is_some() && caller.may_spill && outcome.may_spill;
        // What goes to the spill is counted there.
        self.count(&outcome, !spills);
        if spills {
            return self.spill(caller, &events, outcome.sent);
        }
        let stored = outcome.stored.len();
        let answer = match outcome.refused {
            Some(_) if outcome.sent.may_be => Err(AppendError::OutcomeUnknown),
            Some(error) => Err(error),
            None => {
                self.shared.readiness.set(Readiness::Ready);
                Ok(outcome.published)
            }
        };
        if let Err(error) = &answer {
            self.refused(error);
        }
        self.answer(caller, stored, answer);
    }

    /// Counts what JetStream has now, and, where that `is_new` to this process, what it accepted.
    fn count(&self, outcome: &Outcome, is_new: bool) {
        self.shared.metrics.ledger.update(|counts| {
            counts.appended += self.shared.tally().appended(&outcome.stored);
            if !is_new {
                return;
            }
            counts.requeued += outcome.requeued;
            if outcome.refused.is_none() {
                counts.duplicates += outcome.published.appended.duplicates;
            }
            add(&mut counts.accepted, outcome.sent.kinds);
        });
    }

    /// Tells those who follow events of what was stored.
    fn show(&self, events: &[Event]) {
        let stream = &self.shared.metrics.stream;
        if !stream.is_followed() {
            return;
        }
        let stored = events.iter().filter_map(|event| {
            let ack = event.result.as_ref()?.as_ref().ok().filter(|ack| !ack.duplicate)?;
            message::decode(Sequence::new(ack.sequence), &event.payload).ok()
        });
        let stored: Vec<_> = stored.collect();
        let (at, outcome) = (self.shared.clock.now(), EventOutcome::Accepted);
        let what = Happening { at, outcome, batch: None, status: None };
        stream.publish(what, stored.iter().map(QueuedEvent::subject));
    }

    fn answer(
        &self,
        mut caller: Box<Caller>,
        stored: usize,
        answer: Result<Published, AppendError>,
    ) {
        let metrics = &self.shared.metrics;
        metrics.commit_events.observe(f64::from(u32::try_from(stored).unwrap_or(u32::MAX)));
        metrics.commit_duration.observe(caller.begun.elapsed().as_secs_f64());
        match &answer {
            Err(_) => {
                if let Some((span, _)) = &mut caller.traced {
                    span.failed("store_failed");
                }
            }
            Ok(Published { appended, .. }) => {
                if let (Some((span, scope)), Some(traces)) = (&mut caller.traced, &metrics.traces) {
                    let ends = appended.sequences.map(|(first, last)| (first.get(), last.get()));
                    span.committed((stored, 1), ends);
                    if let Some((first, last)) = ends {
                        traces.accepted(scope, first, last);
                    }
                }
                let answer = caller.key.as_mut().and_then(|key| key.answer(appended));
                self.shared.dedupe.committed(answer.into_iter(), self.shared.clock.now());
            }
        }
        drop(caller.key);
        drop(caller.done.send(answer));
    }

    fn refused(&self, error: &AppendError) {
        let readiness = &self.shared.readiness;
        let before = match error {
            AppendError::QueueFull => {
                let bytes = self.shared.metrics.ledger.read(|counts| counts.queue_bytes);
                (readiness.set_full(bytes), Readiness::QueueFull)
            }
            AppendError::DiskFull => (readiness.set(Readiness::DiskFull), Readiness::DiskFull),
            AppendError::Busy
            | AppendError::Failed(_)
            | AppendError::Unreachable
            | AppendError::OutcomeUnknown
            | AppendError::Closed => return,
        };
        if before.0 != before.1 {
            error!(%error, "events are refused: NATS does not take them");
        }
    }

    /// Has the spill take a request.
    fn spill(&mut self, caller: Box<Caller>, events: &[Event], sent: Sent) {
        let Some(inlet) = &mut self.inlet else {
            return self.answer(caller, 0, Err(AppendError::Unreachable));
        };
        if inlet.gate.begins() {
            warn!("NATS does not take events: they go to the spill, in queue.dir");
        }
        let mut kinds = [0; KINDS.len()];
        for event in events {
            kinds[event.kind as usize] += 1;
        }
        let (spill, submission) = (Arc::clone(&inlet.spill), submission(events));
        inlet.appending.push(Box::pin(async move {
            let result = spill.append(submission).await;
            Spilled { caller, result, kinds, sent }
        }));
    }

    /// The spill took a request, or not.
    fn spilled(&mut self, Spilled { caller, result, kinds, sent }: Spilled) {
        let Some(inlet) = &mut self.inlet else { return };
        inlet.gate.ended(result.as_ref().ok().and_then(|appended| appended.sequences));
        inlet.spill.measure(&self.shared.metrics);
        let accepted = result.as_ref().map_or(0, |appended| appended.accepted);
        let kinds = if result.is_ok() { kinds } else { sent.kinds };
        self.shared.metrics.ledger.update(|counts| add(&mut counts.accepted, kinds));
        let answer = match result {
            Ok(_) => {
                // Its sequences there are no sequences of the stream.
                let appended = Appended { accepted, duplicates: 0, sequences: None };
                Ok(Published { appended, sequences: Vec::new() })
            }
            Err(_) if sent.may_be => Err(AppendError::OutcomeUnknown),
            Err(error) => Err(error),
        };
        self.answer(caller, usize::try_from(accepted).unwrap_or(usize::MAX), answer);
    }
}

impl Inlet {
    /// Until when requests are to wait.
    fn holds(&self) -> Option<Instant> {
        self.gate.holds(self.spill.events()).filter(|until| *until > Instant::now())
    }
}

async fn next(appending: Option<&mut Appending>) -> Option<Spilled> {
    appending?.next().await
}

/// Resolves when requests need not wait any more, as far as is known.
async fn released(gate: Option<&mut Gate>, until: Option<Instant>) {
    if let (Some(gate), Some(until)) = (gate, until) {
        // Either is as good a reason to look again.
        drop(tokio::time::timeout_at(until, gate.moved()).await);
    }
}

/// What became of a flight's events.
#[derive(Default)]
struct Outcome {
    published: Published,
    /// Those that JetStream had not before.
    stored: Vec<Sequence>,
    sent: Sent,
    /// How many of these were dead letters.
    requeued: u64,
    /// Why the first that was refused was.
    refused: Option<AppendError>,
    /// Whether JetStream might take them later.
    may_spill: bool,
}

impl Outcome {
    fn of(events: &[Event]) -> Self {
        let mut outcome = Self { may_spill: true, ..Self::default() };
        for event in events {
            match &event.result {
                Some(Ok(ack)) => outcome.took(event, ack),
                Some(Err(error)) => {
                    outcome.sent.may_be |= *error == AppendError::OutcomeUnknown;
                    outcome.may_spill &= matches!(
                        error,
                        AppendError::Unreachable | AppendError::OutcomeUnknown | AppendError::Busy
                    );
                    outcome.refused.get_or_insert_with(|| error.clone());
                }
                None => {}
            }
        }
        outcome.may_spill &= outcome.refused.is_some();
        outcome
    }

    fn took(&mut self, event: &Event, ack: &PublishAck) {
        let sequence = Sequence::new(ack.sequence);
        let appended = &mut self.published.appended;
        if ack.duplicate && matches!(event.identity, Identity::Unique(_) | Identity::None) {
            appended.duplicates += 1;
            return self.published.sequences.push(None);
        }
        self.published.sequences.push(Some(sequence));
        appended.accepted += 1;
        let (first, last) = appended.sequences.unwrap_or((sequence, sequence));
        appended.sequences = Some((first.min(sequence), last.max(sequence)));
        if ack.duplicate {
            return;
        }
        self.sent.may_be = true;
        self.stored.push(sequence);
        match event.identity {
            Identity::Requeued(_) => self.requeued += 1,
            Identity::None | Identity::Unique(_) | Identity::Request(_) => {
                self.sent.kinds[event.kind as usize] += 1;
            }
        }
    }
}

fn add(totals: &mut [u64; KINDS.len()], more: [u64; KINDS.len()]) {
    for (total, more) in totals.iter_mut().zip(more) {
        *total += more;
    }
}
