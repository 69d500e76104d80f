//! What is read from GMFY through the sidecar.

use crate::upstream::{Call, Passed, SendError, Upstream};

/// What is read from GMFY; so far passed through, later cached.
#[derive(Clone, Debug)]
pub struct Reads {
    upstream: Upstream,
}

impl Reads {
    #[must_use]
    pub const fn new(upstream: Upstream) -> Self {
        Self { upstream }
    }

    /// Answers a read. `query` is as the caller sent it, without `?`.
    ///
    /// # Errors
    /// When GMFY doesn't answer.
    pub async fn get(&self, call: &Call, query: Option<&str>) -> Result<Passed, SendError> {
        self.upstream.get(call, query).await
    }
}
