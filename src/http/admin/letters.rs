//! Dead letters as they are shown, and what came of requeueing and discarding them.

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::super::body::Body;
use crate::queue::{DeadLetter, DeadLetterPage, Requeued};

/// How many a page has when it isn't told, and at most; fewer where they are large.
pub(super) const PAGE: usize = 100;
pub(super) const LONGEST_PAGE: u64 = 1000;
/// Requeued ones are written out so many at a time.
const AT_ONCE: usize = 1024;

/// An event that GMFY refused for good.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeadLetterDocument {
    pub seq: u64,
    /// `rejected`, `too_large`, `unknown` or `expired`.
    pub reason: String,
    /// GMFY's last status for it; null where there was no answer.
    pub status: Option<u16>,
    /// The start of GMFY's answer.
    pub answer: String,
    /// How often it was sent, in batches or alone.
    pub attempts: u32,
    /// RFC 3339, UTC.
    pub accepted_at: String,
    pub dead_lettered_at: String,
    /// In wire form, byte for byte.
    pub event: Box<RawValue>,
}

/// A part of the dead letters, ascending.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeadLettersDocument {
    pub dead_letters: Vec<DeadLetterDocument>,
    /// What to send as `after` for the next page; null on the last one.
    pub next: Option<u64>,
}

/// What came of a requeue.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RequeuedDocument {
    pub requeued: Vec<RequeuedLetter>,
}

/// A dead letter that is in the queue again, as an event with a new sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequeuedLetter {
    pub seq: u64,
    pub new_seq: u64,
}

/// How many dead letters were thrown away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscardedDocument {
    pub discarded: u64,
}

impl From<&DeadLetter> for DeadLetterDocument {
    fn from(letter: &DeadLetter) -> Self {
        let text = String::from_utf8_lossy(&letter.event).into_owned();
        let event = RawValue::from_string(text).or_else(|_| {
            // What was accepted is JSON; what isn't is shown as text all the same.
            serde_json::value::to_raw_value(&String::from_utf8_lossy(&letter.event))
        });
        Self {
            seq: letter.sequence.get(),
            reason: letter.reason.as_str().to_owned(),
            status: letter.status,
            answer: letter.answer.clone(),
            attempts: letter.attempts,
            accepted_at: letter.accepted_at.to_rfc3339(),
            dead_lettered_at: letter.buried_at.to_rfc3339(),
            event: event.unwrap_or_else(|_| RawValue::NULL.to_owned()),
        }
    }
}

impl From<&DeadLetterPage> for DeadLettersDocument {
    fn from(page: &DeadLetterPage) -> Self {
        Self {
            dead_letters: page.letters.iter().map(DeadLetterDocument::from).collect(),
            next: page.next.map(crate::queue::Sequence::get),
        }
    }
}

impl From<&Requeued> for RequeuedLetter {
    fn from(requeued: &Requeued) -> Self {
        Self { seq: requeued.from.get(), new_seq: requeued.to.get() }
    }
}

/// The answer `{"requeued": [...]}`, written out piece by piece: there may be very many.
pub(super) fn requeued(requeued: Vec<Requeued>) -> Response<Body> {
    let pieces = requeued.len().div_ceil(AT_ONCE).max(1);
    let parts = stream::iter((0..pieces).map(move |number| {
        let mut part = Vec::new();
        if number == 0 {
            part.extend_from_slice(br#"{"requeued":["#);
        }
        let start = number * AT_ONCE;
        for (index, one) in requeued.iter().enumerate().skip(start).take(AT_ONCE) {
            if index > 0 {
                part.push(b',');
            }
            // Two numbers: nothing that could fail.
            drop(serde_json::to_writer(&mut part, &RequeuedLetter::from(one)));
        }
        if number + 1 == pieces {
            part.extend_from_slice(b"]}\n");
        }
        Ok(Bytes::from(part))
    }));
    let mut response = Response::new(Body::Streamed(parts.boxed(), None));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Sequence;
    use http_body_util::BodyExt as _;

    #[tokio::test]
    async fn any_number_of_requeued_ones_makes_one_json_document() {
        for count in [0, 1, 2, AT_ONCE, AT_ONCE + 1, 3 * AT_ONCE] {
            let all = (0..count as u64)
                .map(|n| Requeued { from: Sequence::new(n), to: Sequence::new(n + 10_000) });
            let body = requeued(all.collect()).into_body().collect().await.unwrap().to_bytes();
            let document: RequeuedDocument = serde_json::from_slice(&body).unwrap();
            assert_eq!(document.requeued.len(), count);
            assert!(
                (0..).zip(&document.requeued).all(|(n, r)| (r.seq, r.new_seq) == (n, n + 10_000))
            );
        }
    }
}
