//! The request that a task is at work for: its log lines name it, and what it asks of others goes
//! by its trace.
//!
//! Kept beside the task, not handed from call to call; a task that is spawned for a request is
//! given it by [`Current::scope`].

use std::fmt::Write as _;

use http::HeaderValue;

use super::traces::Scope;

tokio::task_local! {
    static CURRENT: Current;
}

/// The id of a request, as logs and the answer name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestId {
    /// The caller's: visible ASCII.
    Sent(HeaderValue),
    /// One of ours: hexadecimal digits.
    Made([u8; 20]),
}

impl RequestId {
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Sent(id) => id.to_str().unwrap_or_default(),
            Self::Made(id) => std::str::from_utf8(id).unwrap_or_default(),
        }
    }
}

/// What is known of the request at hand.
#[derive(Clone, Debug, Default)]
pub struct Current {
    pub(super) id: Option<RequestId>,
    pub(super) scope: Option<Scope>,
}

impl Current {
    /// A request of a caller's; `scope` is its span.
    #[must_use]
    pub const fn new(id: RequestId, scope: Option<Scope>) -> Self {
        Self { id: Some(id), scope }
    }

    /// Work of our own, of which only the span is known.
    #[must_use]
    pub const fn of_span(scope: Scope) -> Self {
        Self { id: None, scope: Some(scope) }
    }

    /// That of the task at hand; nothing is known of it where there is none.
    #[must_use]
    pub fn get() -> Self {
        Self::with(Self::clone).unwrap_or_default()
    }

    /// Runs `future` as work for this request.
    pub fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        // Not `async`: that would hold the future twice, and each request moves it.
        CURRENT.scope(self, future)
    }

    /// None outside of requests, and while a thread's own data is torn down.
    fn with<T>(f: impl FnOnce(&Self) -> T) -> Option<T> {
        CURRENT.try_with(f).ok()
    }

    /// Hands the scope at hand to `f`; none where nothing is traced.
    pub(super) fn with_scope<T>(f: impl FnOnce(&Scope) -> T) -> Option<T> {
        Self::with(|current| current.scope.as_ref().map(f)).flatten()
    }

    /// Writes the fields that tell the request in a log line, each by `field(name, value)`.
    pub(super) fn fields(mut field: impl FnMut(&str, &str)) {
        Self::with(|current| {
            if let Some(id) = &current.id {
                field("request.id", id.as_str());
            }
            if let Some(scope) = &current.scope {
                let mut text = String::with_capacity(32);
                let written = write!(text, "{}", scope.trace_id());
                debug_assert!(written.is_ok(), "a String takes all");
                field("trace.id", &text);
                text.clear();
                let written = write!(text, "{}", scope.span_id());
                debug_assert!(written.is_ok(), "a String takes all");
                field("span.id", &text);
            }
        });
    }
}
