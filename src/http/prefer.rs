//! The `Prefer` header (RFC 7240), as far as it is understood here: `handling`.

use http::HeaderMap;
use http::header::HeaderName;

pub(super) const PREFER: HeaderName = HeaderName::from_static("prefer");
pub(super) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Whether the caller prefers `handling=lenient`. Of a preference that stands several times the
/// first counts; anything unknown is ignored.
pub(super) fn is_lenient(headers: &HeaderMap) -> bool {
    headers
        .get_all(PREFER)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|preference| {
            let (name, value) = preference.split(';').next()?.split_once('=')?;
            let value = value.trim().trim_matches('"');
            name.trim().eq_ignore_ascii_case("handling").then_some(value)
        })
        .is_some_and(|value| value.eq_ignore_ascii_case("lenient"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn the_first_handling_counts_and_the_unknown_is_ignored() {
        for (values, lenient) in [
            (&["handling=lenient"][..], true),
            (&["respond-async, Handling = \"lenient\"; x=1"], true),
            (&["return=minimal", "handling=lenient"], true),
            (&["handling=strict, handling=lenient"], false),
            (&["handling"], false),
            (&["lenient"], false),
            (&[], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(PREFER, HeaderValue::from_static(value));
            }
            assert_eq!(is_lenient(&headers), lenient, "{values:?}");
        }
    }
}
