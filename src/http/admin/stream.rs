//! `GET /api/events/stream`: what becomes of events as server-sent events.
//!
//! Each is the event `message` with a JSON object; `lost` tells how many found no room because
//! the reader is slow. A stream gives at most [`AT_ONCE`] in [`PAUSE`], all in one write, so that
//! readers cost ingest next to nothing whatever the load.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt as _};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::body::Body;
use super::super::problem::Problem;
use super::query::Query;
use crate::telemetry::stream::{EventOutcome, Follower, Notice, Told};

/// Notices given at once, and the pause after them.
const AT_ONCE: usize = 256;
const PAUSE: Duration = Duration::from_millis(100);
/// A comment keeps a silent connection alive, and finds out when it isn't.
const SILENCE: Duration = Duration::from_secs(15);

/// What a reader asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FollowRequest {
    pub user: Option<String>,
    pub event_type: Option<String>,
    pub outcome: Option<EventOutcome>,
}

impl FollowRequest {
    pub(super) fn from_query(query: &mut Query<'_>) -> Result<Self, Problem> {
        let user = query.text("user").map(String::from);
        let event_type = query.text("type").map(String::from);
        let outcome = query.text("outcome").map(|name| {
            let known = EventOutcome::ALL.into_iter().find(|outcome| outcome.as_str() == name);
            known.ok_or_else(|| {
                let all = EventOutcome::ALL.map(EventOutcome::as_str).join(", ");
                Problem::bad_query(format!("outcome: expected one of {all}"))
            })
        });
        Ok(Self { user, event_type, outcome: outcome.transpose()? })
    }
}

/// What became of one event, as it is sent; `tail --json` prints the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventNotice {
    /// RFC 3339, UTC.
    pub at: String,
    pub seq: u64,
    /// `accepted`, `delivered`, `retried`, `dead_lettered` or `dropped`.
    pub outcome: String,
    pub user: String,
    #[serde(rename = "type")]
    pub event_type: String,
    /// The `Idempotency-Key` of the request to GMFY; null when it was in none.
    pub batch: Option<String>,
    /// GMFY's status, if it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

impl From<&Notice> for EventNotice {
    fn from(notice: &Notice) -> Self {
        Self {
            at: notice.at.to_rfc3339(),
            seq: notice.sequence,
            outcome: notice.outcome.as_str().to_owned(),
            user: notice.user.clone(),
            event_type: notice.event_type.clone(),
            batch: notice.batch.map(|key| format!("{key:032x}")),
            status: notice.status,
        }
    }
}

/// So many notices were lost to this reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostNotices {
    pub lost: u64,
}

/// The answer that goes on until the reader hangs up or the listener is to stop.
pub(super) fn answer(follower: Follower, stopping: CancellationToken) -> Response<Body> {
    let begin = stream::once(async { Bytes::from_static(b"retry: 2000\n\n") });
    let parts = begin.chain(stream::unfold((follower, None), async |(mut follower, pause)| {
        if let Some(pause) = pause {
            tokio::time::sleep_until(pause).await;
        }
        let part = next_part(&mut follower).await;
        Some((part, (follower, Some(Instant::now() + PAUSE))))
    }));
    server_sent(parts, stopping)
}

/// An answer of server-sent events, in parts, that goes on until the listener is to stop.
pub(super) fn server_sent(
    parts: impl Stream<Item = Bytes> + Send + 'static,
    stopping: CancellationToken,
) -> Response<Body> {
    let parts = parts.take_until(stopping.cancelled_owned()).map(Ok);
    let mut response = Response::new(Body::Streamed(parts.boxed(), None));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

/// Waits for something to tell, and takes what else is there with it.
async fn next_part(follower: &mut Follower) -> Bytes {
    let Ok(first) = tokio::time::timeout(SILENCE, follower.next()).await else {
        return Bytes::from_static(b": still here\n\n");
    };
    let mut part = Vec::new();
    write_event(&first, &mut part);
    let mut count = 1;
    while count < AT_ONCE
        && let Some(told) = follower.try_next()
    {
        write_event(&told, &mut part);
        count += 1;
    }
    part.into()
}

fn write_event(told: &Told, out: &mut Vec<u8>) {
    let json = match told {
        Told::Event(notice) => serde_json::to_string(&EventNotice::from(&**notice)),
        Told::Lost(lost) => {
            out.extend_from_slice(b"event: lost\n");
            serde_json::to_string(&LostNotices { lost: *lost })
        }
    };
    // Fails only on maps with keys that aren't text, of which these have none.
    let json = json.unwrap_or_default();
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(json.as_bytes());
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::telemetry::stream::{EventStream, Filter, Happening, Subject};
    use http_body_util::BodyExt as _;
    use std::sync::Arc;

    #[test]
    fn a_notice_is_one_event_of_the_stream() {
        let notice = Notice {
            at: Timestamp::from_millis(1_700_000_000_000),
            sequence: 7,
            outcome: EventOutcome::Retried,
            user: "a\nb".to_owned(),
            event_type: "t".to_owned(),
            batch: Some(10),
            status: Some(503),
        };
        let mut out = Vec::new();
        write_event(&Told::Event(Arc::new(notice.clone())), &mut out);
        let accepted =
            Notice { outcome: EventOutcome::Accepted, batch: None, status: None, ..notice };
        write_event(&Told::Event(Arc::new(accepted)), &mut out);
        write_event(&Told::Lost(3), &mut out);
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r#"
        data: {"at":"2023-11-14T22:13:20.000Z","seq":7,"outcome":"retried","user":"a\nb","type":"t","batch":"0000000000000000000000000000000a","status":503}

        data: {"at":"2023-11-14T22:13:20.000Z","seq":7,"outcome":"accepted","user":"a\nb","type":"t","batch":null}

        event: lost
        data: {"lost":3}
        "#);
    }

    #[tokio::test(start_paused = true)]
    async fn what_happens_shortly_after_another_goes_in_one_write() {
        let stream = Arc::new(EventStream::default());
        let follower = stream.follow(Filter::default()).unwrap();
        let mut body = answer(follower, CancellationToken::new()).into_body();
        let at = Timestamp::from_millis(0);
        let what = Happening { at, outcome: EventOutcome::Accepted, batch: None, status: None };
        let publish = |sequence| {
            let json = br#"{"userId":"u","type":"t"}"#;
            stream.publish(what, [Subject { sequence, user_hash: 0, json }].into_iter());
        };
        let mut next = async || {
            let frame = body.frame().await.unwrap().unwrap();
            let text = String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap();
            (Instant::now(), text.matches("data: ").count())
        };
        let begun = Instant::now();
        assert_eq!(next().await, (begun, 0), "when to come again");
        publish(1);
        assert_eq!(next().await, (begun, 1), "the first at once");
        publish(2);
        publish(3);
        assert_eq!(next().await, (begun + PAUSE, 2));
    }

    #[test]
    fn an_unknown_outcome_is_refused_with_the_known_ones() {
        let mut query = Query::parse(Some("user=a&outcome=retried"));
        let request = FollowRequest::from_query(&mut query).unwrap();
        assert_eq!(request.outcome, Some(EventOutcome::Retried));
        assert_eq!(request.user.as_deref(), Some("a"));
        let refused = FollowRequest::from_query(&mut Query::parse(Some("outcome=sent")));
        let detail = refused.unwrap_err().detail().to_owned();
        assert!(detail.contains("dead_lettered"), "{detail}");
    }
}
