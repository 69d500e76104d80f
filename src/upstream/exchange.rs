//! The record of one exchange for the metrics, and the answer's body on its way back.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use http::{HeaderMap, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use super::SendError;
use super::circuit::{Circuit, Sign};
use super::failure::classify;
use crate::telemetry::Metrics;
use crate::telemetry::traces::Span;

/// Counts and times a call that is passed through, when it is over. A call that its caller
/// abandons before there is anything to say of it isn't counted.
#[derive(Debug)]
pub(super) struct Record {
    metrics: Arc<Metrics>,
    endpoint: &'static str,
    started: Instant,
    outcome: Option<&'static str>,
    /// Ends with the record.
    span: Option<Span>,
}

impl Record {
    pub(super) fn start(metrics: Arc<Metrics>, endpoint: &'static str, span: Option<Span>) -> Self {
        Self { metrics, endpoint, started: Instant::now(), outcome: None, span }
    }

    /// Has the request carry the trace that it is a part of.
    pub(super) fn propagate(&self, headers: &mut HeaderMap) {
        if let Some(span) = &self.span {
            span.propagate(headers);
        }
    }

    /// What came of it so far; the last word counts.
    pub(super) fn note(&mut self, result: Result<StatusCode, &SendError>) {
        self.outcome = Some(outcome(result));
        if let Some(span) = &mut self.span {
            match result {
                Ok(status) => span.got(status.as_u16()),
                Err(error) => span.failed(error.kind()),
            }
        }
    }

    pub(super) fn retried(&mut self, times: u64) {
        if let Some(span) = &mut self.span {
            span.resent(times);
        }
        self.metrics.upstream_retries.with_label_values(&[self.endpoint]).inc_by(times);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let Some(outcome) = self.outcome else { return };
        let seconds = self.started.elapsed().as_secs_f64();
        let metrics = &self.metrics;
        metrics.upstream_requests.with_label_values(&[self.endpoint, outcome]).inc();
        metrics.upstream_request_duration.with_label_values(&[self.endpoint]).observe(seconds);
    }
}

/// The label `outcome` of a call that is passed through. As for deliveries, except that 404 says
/// that there is no such user or payment, not that the base URL is wrong.
fn outcome(result: Result<StatusCode, &SendError>) -> &'static str {
    match result {
        Ok(status) => match status.as_u16() {
            200..=299 | 304 => "delivered",
            502 | 504 => "unknown",
            300..=399 | 401 | 403 | 405 | 407 | 501 => "misconfigured",
            413 => "too_large",
            408 | 425 | 429 | 500.. => "transient",
            _ => "rejected",
        },
        Err(SendError::Connect(_) | SendError::Down { .. }) => "transient",
        Err(SendError::Tls(_)) => "misconfigured",
        Err(SendError::Timeout | SendError::Broken(_)) => "unknown",
    }
}

/// An answer whose head is read.
pub(super) struct Rest {
    pub(super) answer: reqwest::Response,
    pub(super) deadline: Instant,
    pub(super) record: Record,
    pub(super) circuit: Arc<Circuit>,
    /// Held until the body is read: it is the connection's.
    pub(super) _permit: OwnedSemaphorePermit,
}

/// The body, cut off with an error at the deadline.
pub(super) fn body(rest: Rest) -> BoxStream<'static, Result<Bytes, SendError>> {
    stream::unfold(Some(rest), |rest| async {
        let mut rest = rest?;
        let error = match timeout_at(rest.deadline, rest.answer.chunk()).await {
            Ok(Ok(Some(chunk))) => return Some((Ok(chunk), Some(rest))),
            Ok(Ok(None)) => return None,
            Ok(Err(error)) => classify(&error),
            Err(_) => SendError::Timeout,
        };
        rest.record.note(Err(&error));
        rest.circuit.note(Sign::of(Err(&error)), None);
        Some((Err(error), None))
    })
    .boxed()
}

/// How an answer's body ended, of which only the start is kept.
pub(super) enum Drained {
    /// Read to its end, or given up because it is too long; either way it is an answer.
    Enough(Bytes),
    /// It broke off.
    Broken(Bytes, SendError),
}

/// Reads a body to its end, so that the connection can be used again; but not more than `limit`
/// bytes of it, else the connection is dropped. Keeps the first `kept` bytes.
pub(super) async fn drain(mut answer: reqwest::Response, kept: usize, limit: usize) -> Drained {
    let mut start = Vec::new();
    let mut read = 0_usize;
    loop {
        match answer.chunk().await {
            Ok(Some(chunk)) => {
                let wanted = kept.saturating_sub(start.len()).min(chunk.len());
                start.extend_from_slice(chunk.get(..wanted).unwrap_or_default());
                read = read.saturating_add(chunk.len());
                if read > limit {
                    return Drained::Enough(start.into());
                }
            }
            Ok(None) => return Drained::Enough(start.into()),
            Err(error) => return Drained::Broken(start.into(), classify(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::OUTCOMES;

    #[test]
    fn every_end_of_a_call_has_an_outcome_with_a_series() {
        for status in 100..=999 {
            let outcome = outcome(Ok(StatusCode::from_u16(status).unwrap()));
            assert!(OUTCOMES.contains(&outcome), "{status}: {outcome}");
        }
        for (status, expected) in [
            (200, "delivered"),
            (302, "misconfigured"),
            (404, "rejected"),
            (429, "transient"),
            (500, "transient"),
            (501, "misconfigured"),
            (503, "transient"),
            (504, "unknown"),
        ] {
            assert_eq!(outcome(Ok(StatusCode::from_u16(status).unwrap())), expected, "{status}");
        }
        assert_eq!(outcome(Err(&SendError::Connect(String::new()))), "transient");
        assert_eq!(outcome(Err(&SendError::Tls(String::new()))), "misconfigured");
        assert_eq!(outcome(Err(&SendError::Timeout)), "unknown");
        assert_eq!(outcome(Err(&SendError::Broken(String::new()))), "unknown");
    }
}
