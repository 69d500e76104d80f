//! What is passed to GMFY and back.

use std::future::Future;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response};

use super::body::Body;
use crate::reads::Reads;
use crate::upstream::{Call, Passed, SendError, Upstream};

/// GMFY as the application listener sees it; tests have their own.
pub trait Gmfy: Send + Sync + 'static {
    /// Answers a read; `query` is as the caller sent it, without `?`.
    ///
    /// # Errors
    /// When there is no answer.
    fn get(
        &self,
        call: &Call,
        query: Option<&str>,
    ) -> impl Future<Output = Result<Passed, SendError>> + Send;

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
    async fn get(&self, call: &Call, query: Option<&str>) -> Result<Passed, SendError> {
        self.reads.get(call, query).await
    }

    async fn post(
        &self,
        call: &Call,
        content_type: Option<HeaderValue>,
        body: Bytes,
    ) -> Result<Passed, SendError> {
        self.upstream.post(call, content_type, body).await
    }
}

/// GMFY's answer as it goes back: status, two headers, body.
pub(super) fn back(mut passed: Passed) -> Response<Body> {
    let mut response = Response::new(Body::Streamed(passed.body));
    *response.status_mut() = passed.status;
    for name in [CONTENT_TYPE, RETRY_AFTER] {
        if let Some(value) = passed.headers.remove(&name) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
