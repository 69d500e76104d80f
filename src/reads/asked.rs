//! What a caller's headers ask of an answer.

use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, IF_NONE_MATCH, PRAGMA};
use http::{HeaderMap, HeaderName};

/// A form that an answer can have beside the plain one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    Zstd,
}

impl Encoding {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// The members of a list header, over all its lines.
fn members(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|member| !member.is_empty())
}

/// Whether GMFY itself is to be asked: `Cache-Control: no-cache`, or what means the same.
pub(super) fn forces(headers: &HeaderMap) -> bool {
    if headers.contains_key(CACHE_CONTROL) {
        return members(headers, CACHE_CONTROL).any(|directive| {
            ["no-cache", "max-age=0"].iter().any(|known| directive.eq_ignore_ascii_case(known))
        });
    }
    // HTTP/1.0's word for it (RFC 9111 §5.4).
    headers.contains_key(PRAGMA)
        && members(headers, PRAGMA).any(|pragma| pragma.eq_ignore_ascii_case("no-cache"))
}

/// The encoding that the caller likes best, if any (RFC 9110 §12.5.3).
pub(super) fn encoding(headers: &HeaderMap) -> Option<Encoding> {
    let (mut gzip, mut zstd, mut identity, mut any) = (None, None, None, None);
    for member in members(headers, ACCEPT_ENCODING) {
        let mut parts = member.split(';').map(str::trim);
        let coding = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        let weight = weight.map_or(Some(1.0), |weight| weight.parse::<f32>().ok());
        let weight = weight.unwrap_or_default();
        match coding.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => gzip = Some(weight),
            "zstd" => zstd = Some(weight),
            "identity" => identity = Some(weight),
            "*" => any = Some(weight),
            _ => {}
        }
    }
    let gzip = gzip.or(any).unwrap_or_default();
    let zstd = zstd.unwrap_or_default();
    let identity = identity.unwrap_or_default();
    let (best, weight) = if zstd >= gzip { (Encoding::Zstd, zstd) } else { (Encoding::Gzip, gzip) };
    (weight > 0.0 && weight >= identity).then_some(best)
}

/// Whether the caller has what `etag` names (RFC 9110 §13.1.2, compared weakly).
pub(super) fn has(headers: &HeaderMap, etag: &str) -> bool {
    let tags = members(headers, IF_NONE_MATCH);
    tags.map(|tag| tag.strip_prefix("W/").unwrap_or(tag)).any(|tag| tag == "*" || tag == etag)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn the_encoding_is_the_one_liked_best() {
        use Encoding::{Gzip, Zstd};
        for (value, expected) in [
            ("", None),
            ("gzip", Some(Gzip)),
            ("GZIP, deflate, br", Some(Gzip)),
            ("gzip, zstd", Some(Zstd)),
            ("gzip;q=1, zstd; q=0.5", Some(Gzip)),
            ("gzip;q=0", None),
            ("gzip;q=0, *", None),
            ("*", Some(Gzip)),
            ("identity, gzip;q=0.5", None),
            ("identity;q=0.5, gzip", Some(Gzip)),
            ("br", None),
            ("gzip;q=x", None),
        ] {
            assert_eq!(encoding(&headers(ACCEPT_ENCODING, value)), expected, "{value}");
        }
    }

    #[test]
    fn a_forced_read_is_told_by_cache_control_before_pragma() {
        for (value, expected) in
            [("no-cache", true), ("max-age=0", true), ("foo, No-Cache", true), ("max-age=5", false)]
        {
            assert_eq!(forces(&headers(CACHE_CONTROL, value)), expected, "{value}");
        }
        let mut both = headers(PRAGMA, "no-cache");
        assert!(forces(&both));
        both.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=5"));
        assert!(!forces(&both));
        assert!(!forces(&HeaderMap::new()));
    }

    #[test]
    fn a_tag_is_compared_weakly_with_each_of_the_list() {
        for (value, expected) in [
            ("\"a\"", true),
            ("W/\"a\"", true),
            ("\"b\", \"a\"", true),
            ("*", true),
            ("\"b\"", false),
            ("a", false),
        ] {
            assert_eq!(has(&headers(IF_NONE_MATCH, value), "\"a\""), expected, "{value}");
        }
    }
}
