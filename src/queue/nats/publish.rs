//! Appending: one task publishes every request's events in the order in which the requests came,
//! many at a time, and answers a request when JetStream has acknowledged all of its events.
//!
//! A request that JetStream took in part is of unknown outcome: what it took is delivered. Sent
//! again with the same `Idempotency-Key`, its events have the same message ids, and JetStream takes
//! only those that it has not.

use std::collections::HashMap;
use std::future::IntoFuture as _;
use std::sync::Arc;
use std::time::Instant;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tracing::error;

use super::Shared;
use super::message;
use crate::queue::dedupe::Underway;
use crate::queue::frame::EventHead;
use crate::queue::submission::Entry;
use crate::queue::{AppendError, Appended, QueuedEvent, Readiness, Sequence, Submission};
use crate::telemetry::ledger::KINDS;
use crate::telemetry::stream::{EventOutcome, Happening};
use crate::telemetry::traces::{Accepting, Span};

/// Publications that wait for their acknowledgement, at most.
pub(super) const OUTSTANDING: usize = 8192;

/// A request on its way to JetStream.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) submission: Submission,
    pub(super) done: oneshot::Sender<Result<Published, AppendError>>,
    pub(super) permit: OwnedSemaphorePermit,
}

/// What a request's append did.
#[derive(Clone, Debug, Default)]
pub(super) struct Published {
    pub(super) appended: Appended,
    /// Each event's sequence, in their order; duplicates have none.
    pub(super) sequences: Vec<Option<Sequence>>,
}

/// A request of which acknowledgements are outstanding.
struct Waiting {
    done: oneshot::Sender<Result<Published, AppendError>>,
    key: Option<Underway>,
    traced: Option<(Span, Box<Accepting>)>,
    events: Vec<Event>,
    outstanding: usize,
    begun: Instant,
    _permit: OwnedSemaphorePermit,
}

struct Event {
    head: EventHead,
    payload: Bytes,
    /// Whether its message id is the request's own, so that a repetition is the first one's.
    is_keyed: bool,
    result: Option<Result<PublishAck, AppendError>>,
}

type Ack = BoxFuture<'static, (u64, usize, Result<PublishAck, PublishError>)>;

/// See the module.
pub(super) struct Publisher {
    pub(super) shared: Arc<Shared>,
    pub(super) requests: mpsc::Receiver<Request>,
}

impl Publisher {
    /// Publishes until the last sender is dropped, then answers what is outstanding.
    pub(super) async fn run(mut self) {
        let mut acks: FuturesUnordered<Ack> = FuturesUnordered::new();
        let mut waiting = HashMap::new();
        let mut number = 0;
        let mut is_open = true;
        while is_open || !acks.is_empty() {
            tokio::select! {
                biased;
                Some(ack) = acks.next() => self.acknowledged(&mut waiting, ack),
                request = self.requests.recv(), if is_open => match request {
                    None => is_open = false,
                    Some(request) => {
                        number += 1;
                        self.publish(number, request, &mut waiting, &mut acks).await;
                    }
                },
            }
        }
    }

    async fn publish(
        &self,
        number: u64,
        request: Request,
        waiting: &mut HashMap<u64, Waiting>,
        acks: &mut FuturesUnordered<Ack>,
    ) {
        let at = self.shared.clock.now();
        let Request { mut submission, done, permit } = request;
        let traced = submission.take_accepting().and_then(|request| {
            let traces = self.shared.metrics.traces.as_ref()?;
            Some((traces.commit(&request), request))
        });
        let (records, entries, key) = submission.into_parts();
        let key_id = key.as_ref().map(Underway::message_id);
        let dedupes = !self.shared.dedupe.limits().window.is_zero();
        let mut events = Vec::with_capacity(entries.len());
        let mut start = 0;
        for Entry { head, end } in entries {
            let json = records.get(start + head.length()..end).unwrap_or_default();
            start = end;
            let payload = message::encode(head.user, head.kind, at, json);
            events.push(Event { head, payload, is_keyed: false, result: None });
        }
        let count = events.len();
        let request = Waiting {
            done,
            key,
            traced,
            outstanding: count,
            events,
            begun: Instant::now(),
            _permit: permit,
        };
        if count == 0 {
            // Nothing but an answer to remember.
            return self.answer(request);
        }
        waiting.insert(number, request);
        for index in 0..count {
            while acks.len() >= OUTSTANDING {
                if let Some(ack) = acks.next().await {
                    self.acknowledged(waiting, ack);
                }
            }
            let Some(event) = waiting.get_mut(&number).and_then(|w| w.events.get_mut(index)) else {
                continue;
            };
            let head = event.head;
            let id = match (head.origin, head.mark, &key_id) {
                (Some(origin), ..) => Some(format!("requeued-{origin}")),
                (None, Some(mark), _) if dedupes => Some(format!("event-{:032x}", mark.0)),
                (None, None, Some(key)) if dedupes => {
                    event.is_keyed = true;
                    Some(format!("{key}-{index}"))
                }
                (None, ..) => None,
            };
            let mut message = PublishMessage::build().payload(event.payload.clone());
            if let Some(id) = id {
                message = message.message_id(id);
            }
            let subject = self.shared.subject(self.shared.lane_of(head.user));
            match self.shared.streams.context.send_publish(subject, message).await {
                Ok(ack) => {
                    let ack = ack.into_future();
                    acks.push(Box::pin(async move { (number, index, ack.await) }));
                }
                Err(error) => self.acknowledged(waiting, (number, index, Err(error))),
            }
        }
    }

    fn acknowledged(
        &self,
        waiting: &mut HashMap<u64, Waiting>,
        (number, index, ack): (u64, usize, Result<PublishAck, PublishError>),
    ) {
        let Some(request) = waiting.get_mut(&number) else { return };
        if let Some(event) = request.events.get_mut(index) {
            event.result = Some(ack.map_err(|error| refusal(&error)));
        }
        request.outstanding = request.outstanding.saturating_sub(1);
        if request.outstanding == 0
            && let Some(request) = waiting.remove(&number)
        {
            self.answer(request);
        }
    }

    /// Counts what was stored, and answers.
    fn answer(&self, mut request: Waiting) {
        let mut published = Published::default();
        let (mut refused, mut kinds, mut requeued) = (None, [0; KINDS.len()], 0);
        let is_followed = self.shared.metrics.stream.is_followed();
        let (mut stored, mut shown) = (Vec::new(), Vec::new());
        let mut unclear = false;
        for event in &request.events {
            let ack = match &event.result {
                Some(Ok(ack)) => ack,
                Some(Err(error)) => {
                    unclear |= *error == AppendError::OutcomeUnknown;
                    refused.get_or_insert_with(|| error.clone());
                    continue;
                }
                None => continue,
            };
            let sequence = Sequence::new(ack.sequence);
            if ack.duplicate && !event.is_keyed && event.head.origin.is_none() {
                published.appended.duplicates += 1;
                published.sequences.push(None);
                continue;
            }
            published.sequences.push(Some(sequence));
            let appended = &mut published.appended;
            appended.accepted += 1;
            let (first, last) = appended.sequences.unwrap_or((sequence, sequence));
            appended.sequences = Some((first.min(sequence), last.max(sequence)));
            if ack.duplicate {
                continue;
            }
            match event.head.origin {
                Some(_) => requeued += 1,
                None => {
                    let kind = KINDS.iter().position(|kind| *kind == event.head.kind);
                    kinds[kind.unwrap_or_default()] += 1;
                }
            }
            stored.push(sequence);
            if is_followed && let Ok(event) = message::decode(sequence, &event.payload) {
                shown.push(event);
            }
        }
        let metrics = &self.shared.metrics;
        metrics.ledger.update(|counts| {
            counts.appended += self.shared.tally().appended(&stored);
            counts.requeued += requeued;
            if refused.is_none() {
                counts.duplicates += published.appended.duplicates;
            }
            for (total, more) in counts.accepted.iter_mut().zip(kinds) {
                *total += more;
            }
        });
        let size = u32::try_from(stored.len()).unwrap_or(u32::MAX);
        metrics.commit_events.observe(f64::from(size));
        metrics.commit_duration.observe(request.begun.elapsed().as_secs_f64());
        let answer = match refused {
            Some(error) => {
                let nothing = stored.is_empty() && !unclear;
                let error = if nothing { error } else { AppendError::OutcomeUnknown };
                self.refused(&error);
                if let Some((span, _)) = &mut request.traced {
                    span.failed("store_failed");
                }
                Err(error)
            }
            None => {
                self.shared.readiness.set(Readiness::Ready);
                if let (Some((span, scope)), Some(traces)) = (&mut request.traced, &metrics.traces)
                {
                    let ends = published.appended.sequences;
                    let ends = ends.map(|(first, last)| (first.get(), last.get()));
                    span.committed((stored.len(), 1), ends);
                    if let Some((first, last)) = ends {
                        traces.accepted(scope, first, last);
                    }
                }
                let answer = request.key.as_mut().and_then(|key| key.answer(&published.appended));
                self.shared.dedupe.committed(answer.into_iter(), self.shared.clock.now());
                Ok(published)
            }
        };
        if is_followed {
            let (at, outcome) = (self.shared.clock.now(), EventOutcome::Accepted);
            let what = Happening { at, outcome, batch: None, status: None };
            metrics.stream.publish(what, shown.iter().map(QueuedEvent::subject));
        }
        drop(request.key);
        drop(request.done.send(answer));
    }

    fn refused(&self, error: &AppendError) {
        let readiness = &self.shared.readiness;
        let before = match error {
            AppendError::QueueFull => {
                let bytes = self.shared.metrics.ledger.snapshot().queue_bytes;
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
}

/// What a publication's failure means for its request.
fn refusal(error: &PublishError) -> AppendError {
    match error.kind() {
        // No server took it: there was none that could.
        PublishErrorKind::StreamNotFound => AppendError::Unreachable,
        PublishErrorKind::MaxAckPending => AppendError::Busy,
        PublishErrorKind::MaxPayloadExceeded
        | PublishErrorKind::WrongLastMessageId
        | PublishErrorKind::WrongLastSequence => AppendError::Failed(error.to_string()),
        // Sent, and not answered.
        PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => AppendError::OutcomeUnknown,
        PublishErrorKind::Other => match code(error) {
            Some(ErrorCode::STREAM_STORE_FAILED) => AppendError::QueueFull,
            Some(ErrorCode::INSUFFICIENT_RESOURCES | ErrorCode::STORAGE_RESOURCES_EXCEEDED) => {
                AppendError::DiskFull
            }
            Some(_) => AppendError::Failed(error.to_string()),
            None => AppendError::OutcomeUnknown,
        },
    }
}

/// The code of a JetStream error that refused a publication.
pub(super) fn code(error: &PublishError) -> Option<ErrorCode> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<async_nats::jetstream::Error>().map(|error| error.error_code())
}
