//! The span of one sending of a batch.

use super::super::work::Work;
use crate::telemetry::Metrics;
use crate::telemetry::traces::{BatchFacts, Span};
use crate::upstream::{Answer, SendError};

/// Begins it, where spans are wanted.
pub(super) fn begin(metrics: &Metrics, lane: usize, work: &Work) -> Option<Span> {
    let traces = metrics.traces.as_ref()?;
    let (trial, events) = (work.trial()?, work.trial_events());
    let (first, last) = (events.first()?, events.last()?);
    let facts = BatchFacts {
        lane,
        events: events.len(),
        // This sending is counted already.
        resent: trial.sent.saturating_sub(1),
        sequences: (first.sequence.get(), last.sequence.get()),
        key: trial.key.0,
    };
    Some(traces.batch(&facts, events.iter().map(|event| event.sequence.get())))
}

/// Sends within the span, which tells what came of it.
pub(super) async fn send(
    span: &mut Span,
    sending: impl Future<Output = Result<Answer, SendError>>,
) -> Result<Answer, SendError> {
    let result = span.within(sending).await;
    match &result {
        Ok(answer) => span.got(answer.status),
        Err(error) => span.failed(error.kind()),
    }
    result
}
