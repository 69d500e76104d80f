//! What a read is answered with.

use std::fmt;
use std::sync::LazyLock;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use http::header::{
    AGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderName, RETRY_AFTER, VARY,
};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::asked::{self, Encoding};
use super::entry::Entry;
use super::lifetime;
use crate::upstream::{Passed, SendError};

/// RFC 9211.
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// An answer to a read.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Body,
}

/// An answer's body: whole, or streamed from GMFY with its length in bytes where it is known.
pub enum Body {
    Whole(Bytes),
    Streamed(BoxStream<'static, Result<Bytes, SendError>>, Option<u64>),
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(bytes) => f.debug_tuple("Whole").field(&bytes.len()).finish(),
            Self::Streamed(_, length) => f.debug_tuple("Streamed").field(length).finish(),
        }
    }
}

/// Why GMFY was asked (RFC 9211 §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forward {
    /// The route isn't cached.
    Bypass,
    Miss,
    /// What there is is too old, or superseded.
    Stale,
    /// The caller wanted it so.
    Request,
}

/// How the cache came to the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// From the cache, with so many seconds left; negative past the fresh time.
    Hit {
        ttl: i64,
    },
    /// From the cache since GMFY fails.
    StaleIfError {
        ttl: i64,
    },
    Forwarded {
        why: Forward,
        stored: bool,
        collapsed: bool,
    },
}

/// Header values of the numbers that occur all the time.
const READY: usize = 600;
static AGES: LazyLock<Vec<HeaderValue>> =
    LazyLock::new(|| (0..READY).map(HeaderValue::from).collect());
static HITS: LazyLock<Vec<HeaderValue>> = LazyLock::new(|| {
    let hit = |ttl: usize| value(&format!("gmfy-sidecar; hit; ttl={ttl}"));
    (0..READY).map(hit).collect()
});

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("gmfy-sidecar"))
}

impl Source {
    fn header(self) -> HeaderValue {
        match self {
            Self::Hit { ttl } => {
                let ready = usize::try_from(ttl).ok().and_then(|ttl| HITS.get(ttl));
                ready.cloned().unwrap_or_else(|| value(&format!("gmfy-sidecar; hit; ttl={ttl}")))
            }
            Self::StaleIfError { ttl } => {
                value(&format!("gmfy-sidecar; hit; detail=stale-if-error; ttl={}", ttl.min(0)))
            }
            Self::Forwarded { why, stored, collapsed } => {
                let why = match why {
                    Forward::Bypass => "bypass",
                    Forward::Miss => "miss",
                    Forward::Stale => "stale",
                    Forward::Request => "request",
                };
                let stored = if stored { "; stored" } else { "" };
                let collapsed = if collapsed { "; collapsed" } else { "" };
                value(&format!("gmfy-sidecar; fwd={why}{stored}{collapsed}"))
            }
        }
    }
}

/// Those of GMFY's headers that go to the caller: what the body is, when to come again, and the
/// word that it must not be kept.
pub(super) fn passed_headers(headers: &HeaderMap) -> Box<[(HeaderName, HeaderValue)]> {
    let passed = [CONTENT_TYPE, CONTENT_ENCODING, RETRY_AFTER].into_iter().filter_map(|name| {
        let value = headers.get(&name)?;
        // Of its own and not of the buffer that all of the head came in.
        let value = if value == "application/json" {
            HeaderValue::from_static("application/json")
        } else {
            HeaderValue::from_bytes(value.as_bytes()).ok()?
        };
        Some((name, value))
    });
    passed.collect()
}

/// The answer out of an entry whose forms are made, as the caller asked for it.
pub(super) fn of_entry(entry: &Entry, asked: &HeaderMap, source: Source, age: u64) -> Answer {
    let mut headers = HeaderMap::with_capacity(8);
    for (name, value) in &entry.headers {
        headers.insert(name, value.clone());
    }
    headers.insert(CACHE_STATUS, source.header());
    let mut answer = Answer { status: entry.status, headers, body: Body::Whole(Bytes::new()) };
    let headers = &mut answer.headers;
    if !matches!(entry.status, StatusCode::OK | StatusCode::NOT_FOUND) {
        answer.body = Body::Whole(entry.body.clone());
        return answer;
    }
    let ready = usize::try_from(age).ok().and_then(|age| AGES.get(age)).cloned();
    headers.insert(AGE, ready.unwrap_or_else(|| HeaderValue::from(age)));
    let variant = if entry.compressible {
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
        let encoding = asked::encoding(asked);
        encoding.and_then(|encoding| Some((encoding, entry.variant(encoding)??)))
    } else {
        None
    };
    let (etag, body) = match variant {
        Some((encoding, variant)) => {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding.as_str()));
            (&variant.etag, &variant.body)
        }
        None => (&entry.etag, &entry.body),
    };
    headers.insert(ETAG, etag.clone());
    let has = |etag: &HeaderValue| asked::has(asked, etag.to_str().unwrap_or_default());
    if entry.status == StatusCode::OK && has_validators(asked) {
        // Another form of the same body will do as well: the caller is told which one it has.
        let others = [Encoding::Gzip, Encoding::Zstd].into_iter();
        let others = others.filter_map(|encoding| Some(&entry.variant(encoding)??.etag));
        let known = std::iter::once(etag).chain([&entry.etag]).chain(others).find(|tag| has(tag));
        if let Some(known) = known {
            headers.insert(ETAG, known.clone());
            headers.remove(CONTENT_TYPE);
            headers.remove(CONTENT_ENCODING);
            answer.status = StatusCode::NOT_MODIFIED;
            return answer;
        }
    }
    answer.body = Body::Whole(body.clone());
    answer
}

fn has_validators(asked: &HeaderMap) -> bool {
    asked.contains_key(http::header::IF_NONE_MATCH)
}

/// The answer that is one caller's, as it comes from GMFY.
pub(super) fn streamed(passed: Passed, why: Forward) -> Answer {
    let mut headers = HeaderMap::with_capacity(8);
    for (name, value) in passed_headers(&passed.headers) {
        headers.insert(name, value);
    }
    if let Some(age) = passed.headers.get(AGE) {
        headers.insert(AGE, age.clone());
    }
    // Where GMFY forbids to keep it, the caller is to know. Otherwise the caller has no business
    // keeping what the sidecar drops when it changes.
    if lifetime::is_forbidden(&passed.headers)
        && let Some(forbidden) = passed.headers.get(CACHE_CONTROL)
    {
        headers.insert(CACHE_CONTROL, forbidden.clone());
    }
    let source = Source::Forwarded { why, stored: false, collapsed: false };
    headers.insert(CACHE_STATUS, source.header());
    Answer { status: passed.status, headers, body: Body::Streamed(passed.body, passed.length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_status_is_written_as_rfc_9211_has_it() {
        let forwarded = |why, stored, collapsed| Source::Forwarded { why, stored, collapsed };
        for (source, expected) in [
            (Source::Hit { ttl: 3 }, "gmfy-sidecar; hit; ttl=3"),
            (Source::Hit { ttl: 86_400 }, "gmfy-sidecar; hit; ttl=86400"),
            (Source::Hit { ttl: -2 }, "gmfy-sidecar; hit; ttl=-2"),
            (Source::StaleIfError { ttl: -7 }, "gmfy-sidecar; hit; detail=stale-if-error; ttl=-7"),
            (Source::StaleIfError { ttl: 4 }, "gmfy-sidecar; hit; detail=stale-if-error; ttl=0"),
            (forwarded(Forward::Miss, true, false), "gmfy-sidecar; fwd=miss; stored"),
            (forwarded(Forward::Stale, false, false), "gmfy-sidecar; fwd=stale"),
            (forwarded(Forward::Miss, true, true), "gmfy-sidecar; fwd=miss; stored; collapsed"),
            (forwarded(Forward::Request, false, false), "gmfy-sidecar; fwd=request"),
            (forwarded(Forward::Bypass, false, false), "gmfy-sidecar; fwd=bypass"),
        ] {
            assert_eq!(source.header(), expected);
        }
    }
}
