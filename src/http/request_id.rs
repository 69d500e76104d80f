//! The id that tells a request in logs: the caller's, if it is sane, else one of ours.

use std::sync::atomic::{AtomicU64, Ordering};

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id taken from a caller, in bytes.
const LONGEST: usize = 128;

/// Makes ids that no other process makes: a random half, and a count.
#[derive(Debug)]
pub(super) struct RequestIds {
    process: u32,
    next: AtomicU64,
}

impl Default for RequestIds {
    fn default() -> Self {
        Self { process: rand::random(), next: AtomicU64::new(0) }
    }
}

impl RequestIds {
    /// The id of a request with these headers.
    pub(super) fn of(&self, headers: &HeaderMap) -> HeaderValue {
        headers.get(X_REQUEST_ID).filter(|id| is_sane(id)).cloned().unwrap_or_else(|| {
            let count = self.next.fetch_add(1, Ordering::Relaxed);
            HeaderValue::try_from(format!("{:08x}{count:012x}", self.process))
                .unwrap_or_else(|_| HeaderValue::from_static("-"))
        })
    }
}

fn is_sane(id: &HeaderValue) -> bool {
    let id = id.as_bytes();
    !id.is_empty() && id.len() <= LONGEST && id.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_id_is_kept_and_any_other_replaced() {
        let ids = RequestIds::default();
        let long = "x".repeat(LONGEST + 1);
        for (sent, kept) in [("abc-1", true), ("", false), ("a b", false), (&long, false)] {
            let headers =
                HeaderMap::from_iter([(X_REQUEST_ID, HeaderValue::from_str(sent).unwrap())]);
            assert_eq!(ids.of(&headers) == sent, kept, "{sent:?}");
        }
        assert_ne!(ids.of(&HeaderMap::new()), ids.of(&HeaderMap::new()));
    }
}
