//! What came of one request, as pure functions: the whole policy of delivery's answers is here.

use std::time::Duration;

use crate::upstream::{Answer, SendError};

/// How long 409 is retried after an unknown outcome (GMFY may still be at work on the first
/// sending) before the batch counts as refused.
pub(super) const CONFLICT_PATIENCE: Duration = Duration::from_secs(600);

/// What came of one request. The text is the metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// GMFY took all events.
    Delivered,
    /// GMFY took none, for now: send it again later. Not permanent.
    Transient,
    /// GMFY may have taken them: send the same again. Not permanent.
    Unknown,
    /// GMFY took none: the request is larger than it likes. Permanent for this request.
    TooLarge,
    /// GMFY took none because of their content. Permanent for this request.
    Rejected,
    /// The fault is in the address, the key or the network between: no request would fare better.
    Misconfigured,
}

impl Outcome {
    /// The metric's label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Transient => "transient",
            Self::Unknown => "unknown",
            Self::TooLarge => "too_large",
            Self::Rejected => "rejected",
            Self::Misconfigured => "misconfigured",
        }
    }
}

/// Classifies a request's result.
#[must_use]
pub const fn classify(result: &Result<Answer, SendError>) -> Outcome {
    match result {
        Ok(answer) => classify_status(answer.status),
        Err(SendError::Connect(_) | SendError::Down { .. }) => Outcome::Transient,
        Err(SendError::Tls(_)) => Outcome::Misconfigured,
        Err(SendError::Timeout | SendError::Broken(_)) => Outcome::Unknown,
    }
}

/// Classifies an answer's status. What isn't a status of HTTP's five classes, or is an interim
/// one, counts as a fault of the peer that may pass.
#[must_use]
pub const fn classify_status(status: u16) -> Outcome {
    match status {
        200..=299 => Outcome::Delivered,
        300..=399 | 401 | 403 | 404 | 405 | 407 | 501 => Outcome::Misconfigured,
        408 | 425 | 429 => Outcome::Transient,
        413 => Outcome::TooLarge,
        502 | 504 => Outcome::Unknown,
        400..=499 => Outcome::Rejected,
        _ => Outcome::Transient,
    }
}

/// Reads an outcome in the light of an earlier sending of the same request that may have been
/// taken, `since_unknown` ago: a conflict then tells that GMFY knows the key, not that the
/// content is bad.
#[must_use]
pub(super) fn after_unknown(
    outcome: Outcome,
    status: Option<u16>,
    since_unknown: Duration,
) -> Outcome {
    match (outcome, status) {
        (Outcome::Rejected, Some(409)) if since_unknown < CONFLICT_PATIENCE => Outcome::Unknown,
        _ => outcome,
    }
}

/// Whether the answer asks the whole sidecar to slow down, not just this batch.
#[must_use]
pub(super) const fn asks_for_quiet(status: Option<u16>) -> bool {
    matches!(status, Some(429 | 503))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn every_status_has_its_outcome() {
        for status in 100..=599 {
            let expected = match status {
                200..=299 => Outcome::Delivered,
                300..=399 => Outcome::Misconfigured,
                s if [401, 403, 404, 405, 407, 501].contains(&s) => Outcome::Misconfigured,
                s if [408, 425, 429].contains(&s) => Outcome::Transient,
                413 => Outcome::TooLarge,
                s if [502, 504].contains(&s) => Outcome::Unknown,
                400..=499 => Outcome::Rejected,
                _ => Outcome::Transient,
            };
            let answer = Answer { status, retry_after: None, body: Bytes::new() };
            assert_eq!(classify(&Ok(answer)), expected, "{status}");
        }
    }

    #[test]
    fn every_way_to_have_no_answer_has_its_outcome() {
        let table = [
            (SendError::Connect(String::new()), Outcome::Transient),
            (SendError::Tls(String::new()), Outcome::Misconfigured),
            (SendError::Timeout, Outcome::Unknown),
            (SendError::Broken(String::new()), Outcome::Unknown),
        ];
        for (error, outcome) in table {
            assert_eq!(classify(&Err(error)), outcome);
        }
    }

    #[test]
    fn after_an_unknown_outcome_only_a_fresh_conflict_reads_differently() {
        let soon = Duration::from_secs(599);
        let late = CONFLICT_PATIENCE;
        for status in 100..=599 {
            let plain = classify_status(status);
            let expected = if status == 409 { Outcome::Unknown } else { plain };
            assert_eq!(after_unknown(plain, Some(status), soon), expected, "{status}");
            assert_eq!(after_unknown(plain, Some(status), late), plain, "{status}");
        }
    }

    #[test]
    fn outcomes_are_the_labels_of_the_metric() {
        use Outcome::{Delivered, Misconfigured, Rejected, TooLarge, Transient, Unknown};
        let all = [Delivered, Transient, Unknown, TooLarge, Rejected, Misconfigured];
        assert_eq!(all.map(Outcome::as_str), crate::telemetry::metrics::OUTCOMES);
    }
}
