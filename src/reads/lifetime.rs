//! How long an answer of GMFY may be used: our settings, which GMFY's headers can only shorten
//! (RFC 9111 §5.2.2, RFC 5861).

use std::time::Duration;

use http::header::{AGE, CACHE_CONTROL};
use http::{HeaderMap, StatusCode};

/// How long "there is no such thing" is believed.
const NOT_FOUND_TTL: Duration = Duration::from_secs(1);

/// Since when an answer may be used for what, counted from the beginning of its fetch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lifetime {
    /// How old it was when GMFY, or a cache before it, sent it.
    pub(super) aged: Duration,
    pub(super) fresh: Duration,
    /// After that: given at once, while a new one is fetched.
    pub(super) while_revalidate: Duration,
    /// After that: given when no new one can be had.
    pub(super) if_error: Duration,
}

/// What may be done with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Store(Lifetime),
    /// All that wait for it get it, and no one after.
    Share,
    /// It is one caller's.
    Pass,
}

/// Judges an answer by its head. `limits` is what our settings allow.
pub(super) fn judge(status: StatusCode, headers: &HeaderMap, limits: Lifetime) -> Use {
    let limits = match status {
        StatusCode::OK => limits,
        StatusCode::NOT_FOUND => {
            Lifetime { fresh: limits.fresh.min(NOT_FOUND_TTL), ..Lifetime::default() }
        }
        status if status.is_success() => return Use::Pass,
        _ => return Use::Share,
    };
    let asked = Asked::of(headers);
    if asked.forbids {
        return Use::Pass;
    }
    let aged = seconds(headers.get(AGE).and_then(|age| age.to_str().ok())).unwrap_or_default();
    let fresh = asked.shared_max_age.or(asked.max_age).unwrap_or(Duration::MAX);
    let stale = |ours: Duration, theirs: Option<Duration>| {
        if asked.never_stale { Duration::ZERO } else { ours.min(theirs.unwrap_or(Duration::MAX)) }
    };
    Use::Store(Lifetime {
        aged,
        fresh: limits.fresh.min(fresh.saturating_sub(aged)),
        while_revalidate: stale(limits.while_revalidate, asked.while_revalidate),
        if_error: stale(limits.if_error, asked.if_error),
    })
}

/// Whether GMFY forbids a cache that many share to keep this.
pub(super) fn is_forbidden(headers: &HeaderMap) -> bool {
    Asked::of(headers).forbids
}

/// What an answer's Cache-Control says to a cache that many share.
#[derive(Debug, Default)]
struct Asked {
    /// `no-store`, `private`, or `no-cache`: with a question to GMFY each time, nothing is saved.
    forbids: bool,
    never_stale: bool,
    max_age: Option<Duration>,
    shared_max_age: Option<Duration>,
    while_revalidate: Option<Duration>,
    if_error: Option<Duration>,
}

impl Asked {
    fn of(headers: &HeaderMap) -> Self {
        let mut asked = Self::default();
        let values = headers.get_all(CACHE_CONTROL).into_iter();
        for directive in values.filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(',')) {
            let (name, value) =
                directive.split_once('=').map_or((directive, None), |(n, v)| (n, Some(v)));
            // A time that can't be read counts as none left (RFC 9111 §4.2.1).
            let time = || Some(seconds(value).unwrap_or_default());
            match name.trim().to_ascii_lowercase().as_str() {
                "no-store" | "private" | "no-cache" => asked.forbids = true,
                "must-revalidate" | "proxy-revalidate" => asked.never_stale = true,
                "max-age" => asked.max_age = time(),
                "s-maxage" => asked.shared_max_age = time(),
                "stale-while-revalidate" => asked.while_revalidate = time(),
                "stale-if-error" => asked.if_error = time(),
                _ => {}
            }
        }
        asked
    }
}

fn seconds(text: Option<&str>) -> Option<Duration> {
    text?.trim().trim_matches('"').parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const LIMITS: Lifetime = Lifetime {
        aged: Duration::ZERO,
        fresh: Duration::from_secs(5),
        while_revalidate: Duration::from_secs(10),
        if_error: Duration::from_secs(300),
    };

    fn stored(fresh: u64, while_revalidate: u64, if_error: u64) -> Use {
        Use::Store(Lifetime {
            aged: Duration::ZERO,
            fresh: Duration::from_secs(fresh),
            while_revalidate: Duration::from_secs(while_revalidate),
            if_error: Duration::from_secs(if_error),
        })
    }

    fn judged(status: u16, cache_control: &'static str) -> Use {
        let headers =
            HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static(cache_control))]);
        judge(StatusCode::from_u16(status).unwrap(), &headers, LIMITS)
    }

    #[test]
    fn cache_control_can_only_shorten() {
        for (cache_control, expected) in [
            ("", stored(5, 10, 300)),
            ("public, max-age=3600", stored(5, 10, 300)),
            ("max-age=2", stored(2, 10, 300)),
            ("Max-Age=\"2\"", stored(2, 10, 300)),
            ("max-age=1, s-maxage=3", stored(3, 10, 300)),
            ("max-age=soon", stored(0, 10, 300)),
            ("must-revalidate", stored(5, 0, 0)),
            ("stale-while-revalidate=1, stale-if-error=900", stored(5, 1, 300)),
            ("no-store", Use::Pass),
            ("max-age=60, private", Use::Pass),
            ("No-Cache", Use::Pass),
        ] {
            assert_eq!(judged(200, cache_control), expected, "{cache_control}");
        }
    }

    #[test]
    fn only_answers_of_200_and_404_are_stored() {
        for status in 200..=599 {
            let expected = match status {
                200 => stored(5, 10, 300),
                404 => stored(1, 0, 0),
                201..300 => Use::Pass,
                _ => Use::Share,
            };
            assert_eq!(judged(status, ""), expected, "{status}");
        }
        assert_eq!(judged(404, "no-store"), Use::Pass);
        assert_eq!(judged(503, "no-store"), Use::Share, "so that an outage has one flight a key");
    }

    #[test]
    fn the_time_in_a_cache_before_ours_counts() {
        let headers = HeaderMap::from_iter([
            (AGE, HeaderValue::from_static("7")),
            (CACHE_CONTROL, HeaderValue::from_static("max-age=10")),
        ]);
        let Use::Store(lifetime) = judge(StatusCode::OK, &headers, LIMITS) else { panic!() };
        assert_eq!((lifetime.aged.as_secs(), lifetime.fresh.as_secs()), (7, 3));
    }
}
