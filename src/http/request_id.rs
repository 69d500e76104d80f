//! The id that tells a request in logs: the caller's, if it is sane, else one of ours.

use std::sync::atomic::{AtomicU64, Ordering};

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use crate::telemetry::request::RequestId;

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
    pub(super) fn of(&self, headers: &HeaderMap) -> RequestId {
        let sent = headers.get(X_REQUEST_ID).filter(|id| is_sane(id));
        sent.map_or_else(|| self.make(), |id| RequestId::Sent(id.clone()))
    }

    /// The process in 8 digits, then the count in 12, which no process exceeds.
    fn make(&self) -> RequestId {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        let mut value = u128::from(self.process) << 48 | u128::from(count) & ((1 << 48) - 1);
        let mut id = [0; 20];
        for digit in id.iter_mut().rev() {
            *digit = b"0123456789abcdef"[(value & 0xf) as usize];
            value >>= 4;
        }
        RequestId::Made(id)
    }
}

/// The id as the answer carries it.
pub(super) fn header(id: &RequestId) -> HeaderValue {
    match id {
        RequestId::Sent(id) => id.clone(),
        RequestId::Made(id) => {
            HeaderValue::from_bytes(id).unwrap_or_else(|_| HeaderValue::from_static("-"))
        }
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
            assert_eq!(ids.of(&headers).as_str() == sent, kept, "{sent:?}");
        }
        let ours = [ids.of(&HeaderMap::new()), ids.of(&HeaderMap::new())];
        assert_ne!(ours[0], ours[1]);
        let hexadecimal = |id: &RequestId| id.as_str().bytes().all(|b| b.is_ascii_hexdigit());
        assert!(ours.iter().all(hexadecimal), "{ours:?}");
        assert_eq!(header(&ours[0]), ours[0].as_str());
        let ids = RequestIds { process: 0x1f, next: AtomicU64::new(0xabc) };
        assert_eq!(ids.of(&HeaderMap::new()).as_str(), "0000001f000000000abc");
    }
}
