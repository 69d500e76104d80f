//! The `Idempotency-Key` header: a request that comes again is answered as it was, and takes
//! nothing twice.

use bytes::Bytes;
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Response};

use super::body::Body;
use super::problem::Problem;
use crate::queue::{Answer, Appender, Begun, RequestKey, Underway};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const MAX_KEY: usize = 255;

/// How a request is to go on.
#[derive(Debug)]
pub(super) enum Request {
    /// As any other; with its key, if it has one.
    New(Option<Underway>),
    /// It was answered before.
    Replay(Answer),
}

/// Looks whether this request, to this route, with this body (decompressed), came before.
pub(super) fn begin<A: Appender>(
    appender: &A,
    route: &str,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Request, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = values.next() else { return Ok(Request::New(None)) };
    if values.next().is_some() || key.is_empty() || key.len() > MAX_KEY {
        return Err(Problem::bad_idempotency_key());
    }
    match appender.begin(RequestKey::new(route, key.as_bytes(), body)) {
        Begun::First(underway) => Ok(Request::New(Some(underway))),
        Begun::Replay(answer) => Ok(Request::Replay(answer)),
        Begun::OtherBody => Err(Problem::key_reused()),
        Begun::Underway => Err(Problem::key_underway()),
    }
}

/// Marks an answer that was given before.
pub(super) fn replayed(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    response
}
