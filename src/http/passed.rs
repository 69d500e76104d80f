//! What is passed to GMFY and back.

use std::future::Future;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response};

use super::body::Body;
use crate::reads::{self, Answer, Reads};
use crate::upstream::{Call, Passed, SendError, Upstream};

/// GMFY as the application listener sees it; tests have their own.
pub trait Gmfy: Send + Sync + 'static {
    /// Answers a read; `query` is as the caller sent it, without `?`, `asked` the caller's headers.
    ///
    /// # Errors
    /// When there is no answer.
    fn get(
        &self,
        call: &Call,
        query: Option<&str>,
        asked: &HeaderMap,
    ) -> impl Future<Output = Result<Answer, SendError>> + Send;

    /// Passes a write on, once.
    ///
    /// # Errors
    /// When there is no answer; GMFY may have acted all the same.
    fn post(
        &self,
        call: &Call,
        content_type: Option<HeaderValue>,
        body: Bytes,
    ) -> impl Future<Output = Result<Passed, SendError>> + Send;
}

/// Reads through the cache, writes straight to GMFY.
#[derive(Clone, Debug)]
pub struct GmfyClient {
    pub reads: Reads,
    pub upstream: Upstream,
}

impl Gmfy for GmfyClient {
    async fn get(
        &self,
        call: &Call,
        query: Option<&str>,
        asked: &HeaderMap,
    ) -> Result<Answer, SendError> {
        self.reads.get(call, query, asked).await
    }

    async fn post(
        &self,
        call: &Call,
        content_type: Option<HeaderValue>,
        body: Bytes,
    ) -> Result<Passed, SendError> {
        let _changed = self.reads.writing(call);
        self.upstream.post(call, content_type, body).await
    }
}

/// GMFY's answer to a write as it goes back: status, the headers that say what the body is and
/// when to come again, body.
pub(super) fn back(mut passed: Passed) -> Response<Body> {
    let mut response = Response::new(Body::Streamed(passed.body, passed.length));
    *response.status_mut() = passed.status;
    for name in [CONTENT_TYPE, CONTENT_ENCODING, RETRY_AFTER] {
        if let Some(value) = passed.headers.remove(&name) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// The answer to a read as it goes back.
pub(super) fn read(answer: Answer) -> Response<Body> {
    let mut response = Response::new(match answer.body {
        reads::Body::Whole(bytes) => Body::Whole(bytes),
        reads::Body::Streamed(stream, length) => Body::Streamed(stream, length),
    });
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}
