//! See `crate::fuzzing`.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a panic is how a finding is told, and no binary has this module"
)]

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue};
use reqwest::Url;

use super::append;
use super::call::{Call, Id};
use crate::clock::Timestamp;

/// An id of a path: what is taken stays one segment of GMFY's URL, and is the same there.
pub fn id(data: &[u8]) {
    let Ok(segment) = std::str::from_utf8(data) else { return };
    let Ok(id) = Id::from_encoded_segment(segment) else { return };
    let base = Url::parse("https://gmfy.example/base/").unwrap();
    let call = Call::RatingTop(id.clone());
    let (endpoint, of) = call.endpoint();
    let path = endpoint.path(of, "v1/notifications/unread/");
    let url = append(&base, &path).expect("a path is a URL as it stands");
    let segments: Vec<_> = url.path_segments().unwrap().collect();
    assert_eq!(segments[..3], ["base", "v1", "ratings"]);
    assert_eq!(segments[4..], ["top", ""]);
    assert_eq!(Id::from_encoded_segment(segments[3]), Ok(id));
    assert!(url.query().is_none() && url.fragment().is_none() && url.host_str() == base.host_str());
}

/// `Retry-After`: never a panic, and never a wait for a date that has passed.
pub fn retry_after(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    let headers = HeaderMap::from_iter([(RETRY_AFTER, value)]);
    let at = |now: u64| super::retry_after::retry_after(&headers, Timestamp::from_millis(now));
    let (early, late) = (at(0), at(u64::MAX));
    assert_eq!(early.is_some(), late.is_some());
    let seconds = std::str::from_utf8(data).is_ok_and(|text| {
        // HTTP's white space, of which U+0085 is none (RFC 9110 §5.6.3).
        let text = text.trim_ascii();
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
    });
    if seconds {
        assert!(early.is_some() && early == late);
    } else {
        assert!(late.is_none_or(|wait| wait == Duration::ZERO));
    }
}
