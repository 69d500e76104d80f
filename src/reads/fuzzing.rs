//! See `crate::fuzzing`.

use std::time::Duration;

use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderValue, StatusCode};
use percent_encoding::percent_decode_str;

use super::key::{Route, canonical_query};
use super::lifetime::{Lifetime, Use, judge};

/// A query: its canonical spelling is a fixed point, and means the same.
pub fn query(data: &[u8]) {
    let Ok(query) = std::str::from_utf8(data) else { return };
    for route in [Route::Users, Route::Ratings] {
        let canonical = canonical_query(route, Some(query));
        assert_eq!(canonical_query(route, Some(&canonical)), canonical, "{query}");
        assert!(canonical.is_ascii());
        if route == Route::Users {
            assert_eq!(meaning(&canonical), meaning(query), "{query}");
        }
    }
}

/// The parameters, decoded; those of one name in their order.
fn meaning(query: &str) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let decode = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
    let parameters = query.split('&').filter(|parameter| !parameter.is_empty());
    let mut parameters: Vec<_> = parameters
        .map(|parameter| match parameter.split_once('=') {
            Some((name, value)) => (decode(name), Some(decode(value))),
            None => (decode(parameter), None),
        })
        .collect();
    parameters.sort_by(|a, b| a.0.cmp(&b.0));
    parameters
}

/// `Cache-Control`: what GMFY says can only shorten what the settings allow.
pub fn cache_control(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    let headers = HeaderMap::from_iter([(CACHE_CONTROL, value)]);
    let limits = Lifetime {
        aged: Duration::ZERO,
        fresh: Duration::from_secs(5),
        while_revalidate: Duration::from_secs(10),
        if_error: Duration::from_secs(300),
    };
    let is_forbidden = super::lifetime::is_forbidden(&headers);
    match judge(StatusCode::OK, &headers, limits) {
        Use::Store(stored) => {
            assert!(!is_forbidden);
            assert!(stored.fresh <= limits.fresh);
            assert!(stored.while_revalidate <= limits.while_revalidate);
            assert!(stored.if_error <= limits.if_error);
        }
        Use::Share | Use::Pass => assert!(is_forbidden),
    }
}
