//! Who may act: the token, and the guards against web pages of other origins.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use http::{HeaderMap, Method, Uri};

use super::super::problem::Problem;
use crate::config::Secret;

/// Passes a request that carries the token: `Authorization: Bearer TOKEN`, or Basic with the token
/// as password, whatever the user name.
pub(super) fn require_token(token: &Secret, headers: &HeaderMap) -> Result<(), Problem> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (value, more) = (values.next(), values.next());
    let sent = value.filter(|_| more.is_none()).and_then(|value| sent_token(value.as_bytes()));
    if sent.is_some_and(|sent| token.matches(&sent)) { Ok(()) } else { Err(Problem::no_token()) }
}

/// The token in an `Authorization` header's value (RFC 6750 §2.1, RFC 7617).
fn sent_token(value: &[u8]) -> Option<Vec<u8>> {
    let space = value.iter().position(|byte| *byte == b' ')?;
    let (scheme, rest) = value.split_at(space);
    let credentials = rest.trim_ascii();
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some(credentials.to_vec());
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let mut decoded = STANDARD.decode(credentials).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Some(decoded.split_off(colon + 1))
}

/// Passes a call that changes something only when no web page of another origin can have made it:
/// with a JSON body (a page needs a preflight for it, which this listener answers with 405), and
/// without a foreign `Origin` or `Sec-Fetch-Site`.
pub(super) fn require_own_page(
    method: &Method,
    headers: &HeaderMap,
    uri: &Uri,
) -> Result<(), Problem> {
    let is_foreign = |site: &http::HeaderValue| site != "same-origin" && site != "none";
    if headers.get_all("sec-fetch-site").iter().any(is_foreign) {
        return Err(Problem::foreign_site("Sec-Fetch-Site"));
    }
    let own = uri.authority().map(|authority| authority.as_str().as_bytes());
    let own = own.or_else(|| headers.get(HOST).map(http::HeaderValue::as_bytes));
    let is_own = |origin: &http::HeaderValue| {
        let origin = origin.as_bytes();
        let authority =
            origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
        authority.zip(own).is_some_and(|(authority, own)| authority.eq_ignore_ascii_case(own))
    };
    if !headers.get_all(ORIGIN).iter().all(is_own) {
        return Err(Problem::foreign_site("Origin"));
    }
    if *method != Method::DELETE && !is_json(headers) {
        return Err(Problem::media_type("application/json"));
    }
    Ok(())
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let media = values.next().and_then(|value| value.to_str().ok());
    let media = media.map(|value| value.split(';').next().unwrap_or_default().trim());
    values.next().is_none() && media.is_some_and(|m| m.eq_ignore_ascii_case("application/json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use http::header::HeaderName;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        let mut map = HeaderMap::new();
        for (name, value) in lines.iter().map(line) {
            map.append(name, value);
        }
        map
    }

    #[test]
    fn the_token_comes_as_bearer_or_as_the_password_of_basic() {
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        for (value, passes) in [
            ("Bearer s3cret:x".to_owned(), true),
            ("bearer  s3cret:x".to_owned(), true),
            (basic(":s3cret:x"), true),
            (basic("anyone:s3cret:x"), true),
            ("Bearer s3cret".to_owned(), false),
            ("Bearer s3cret:xy".to_owned(), false),
            ("Bearer".to_owned(), false),
            ("Bearer ".to_owned(), false),
            ("s3cret:x".to_owned(), false),
            ("Digest s3cret:x".to_owned(), false),
            (basic("s3cret"), false),
            (basic("s3cret:x"), false),
            ("Basic %%%".to_owned(), false),
            ("Basic s3cret:x".to_owned(), false),
        ] {
            let passed =
                require_token(&Secret::new("s3cret:x"), &headers(&[("authorization", &value)]));
            assert_eq!(passed.is_ok(), passes, "{value}");
        }
        let token = Secret::new("t");
        assert!(require_token(&token, &HeaderMap::new()).is_err());
        let twice = headers(&[("authorization", "Bearer t"), ("authorization", "Bearer t")]);
        assert!(require_token(&token, &twice).is_err());
    }

    #[test]
    fn only_the_own_page_and_programs_change_anything() {
        let status = |method: Method, lines: &[(&'static str, &str)]| {
            let mut all = headers(lines);
            all.insert(HOST, HeaderValue::from_static("localhost:7462"));
            let passed = require_own_page(&method, &all, &Uri::from_static("/api/flush"));
            passed.map_or_else(|p| p.into_response().status().as_u16(), |()| 200)
        };
        let json = ("content-type", "application/json; charset=utf-8");
        for (lines, expected) in [
            (&[json][..], 200),
            (&[json, ("origin", "http://localhost:7462")], 200),
            (&[json, ("origin", "https://LOCALHOST:7462")], 200),
            (&[json, ("sec-fetch-site", "same-origin")], 200),
            (&[json, ("sec-fetch-site", "none")], 200),
            (&[json, ("origin", "http://localhost:7463")], 403),
            (&[json, ("origin", "http://localhost")], 403),
            (&[json, ("origin", "http://evil.example")], 403),
            (&[json, ("origin", "null")], 403),
            (&[json, ("origin", "")], 403),
            (&[json, ("sec-fetch-site", "same-site")], 403),
            (&[json, ("sec-fetch-site", "cross-site")], 403),
            (&[json, ("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")], 403),
            (&[], 415),
            (&[("content-type", "text/plain")], 415),
            (&[("content-type", "application/x-www-form-urlencoded")], 415),
            (&[json, json], 415),
        ] {
            assert_eq!(status(Method::POST, lines), expected, "{lines:?}");
        }
        assert_eq!(status(Method::DELETE, &[]), 200);
        assert_eq!(status(Method::DELETE, &[("origin", "http://evil.example")]), 403);
    }
}
