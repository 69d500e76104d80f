//! `Retry-After`, in both forms of RFC 9110 §10.2.3.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use http::header::RETRY_AFTER;

use crate::clock::Timestamp;

/// How long GMFY asks to be left alone from `now` on. A date that has passed is zero; what is
/// neither a number of seconds nor a date counts as absent. Repeated headers: the first one.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    parse(headers.get(RETRY_AFTER)?.to_str().ok()?, now)
}

fn parse(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // Only too large a number can fail now, and that means a long time.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    let now: SystemTime = UNIX_EPOCH + Duration::from_millis(now.as_millis());
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT.
    const NOW: Timestamp = Timestamp::from_millis(784_111_777_000);

    #[test]
    fn both_forms_are_read_and_rubbish_is_not() {
        let seconds = |n| Some(Duration::from_secs(n));
        let table = [
            ("0", seconds(0)),
            ("120", seconds(120)),
            (" 7 ", seconds(7)),
            ("007", seconds(7)),
            ("18446744073709551615", seconds(u64::MAX)),
            ("99999999999999999999999999", seconds(u64::MAX)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", seconds(60)),
            ("Sunday, 06-Nov-94 08:50:37 GMT", seconds(60)),
            ("Sun Nov  6 08:50:37 1994", seconds(60)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", seconds(0)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", seconds(0)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", seconds(0)),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("1s", None),
            ("soon", None),
            ("Sun, 99 Nov 1994 08:50:37 GMT", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text, NOW), expected, "for {text:?}");
        }
    }

    #[test]
    fn a_header_that_is_not_text_counts_as_absent() {
        let mut headers = HeaderMap::new();
        assert_eq!(retry_after(&headers, NOW), None);
        headers.insert(RETRY_AFTER, HeaderValue::from_bytes(b"\xff").unwrap());
        assert_eq!(retry_after(&headers, NOW), None);
        headers.insert(RETRY_AFTER, HeaderValue::from_static("3"));
        assert_eq!(retry_after(&headers, NOW), Some(Duration::from_secs(3)));
    }

    #[test]
    fn a_date_beyond_all_years_does_not_overflow() {
        let last = "Fri, 31 Dec 9999 23:59:59 GMT";
        assert!(parse(last, Timestamp::from_millis(0)).unwrap() > Duration::from_secs(1 << 37));
        assert_eq!(parse(last, Timestamp::from_millis(u64::MAX)), Some(Duration::ZERO));
    }
}
