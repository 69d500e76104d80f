//! The status page: one document that needs nothing from anywhere else.
//!
//! It holds no data: its script asks the API for all that it shows, so the document may go to
//! those who have yet to send the token. To them it says 401, as everything here does, and asks
//! for the token itself; the browser's own question, which HTTP Basic would bring, is not asked
//! for ([`refusal`]).

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_SECURITY_POLICY, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use ring::digest::{SHA256, digest};

use super::super::body::Body;
use super::super::problem::Problem;

const HTML: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
/// One module, in parts that are read from top to bottom.
const SCRIPT: &str = concat!(
    include_str!("page/connection.js"),
    include_str!("page/words.js"),
    include_str!("page/charts.js"),
    include_str!("page/status.js"),
    include_str!("page/letters.js"),
    include_str!("page/events.js"),
    include_str!("page/main.js"),
);

static PAGE: LazyLock<Page> = LazyLock::new(Page::new);

struct Page {
    html: Bytes,
    policy: Option<HeaderValue>,
}

impl Page {
    fn new() -> Self {
        let html = HTML.replace("/*style*/", STYLE).replace("/*script*/", SCRIPT);
        let hash = |text: &str| STANDARD.encode(digest(&SHA256, text.as_bytes()));
        let policy = format!(
            "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src \
             'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
             require-trusted-types-for 'script'; trusted-types 'none'",
            hash(SCRIPT),
            hash(STYLE),
        );
        Self { html: html.into(), policy: HeaderValue::from_str(&policy).ok() }
    }
}

/// The answer to `GET /`.
pub(super) fn page() -> Response<Body> {
    let mut response = Response::new(Body::Whole(PAGE.html.clone()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    if let Some(policy) = &PAGE.policy {
        headers.insert(CONTENT_SECURITY_POLICY, policy.clone());
    }
    response
}

/// What a browser that lacks the token gets, where others get the problem.
pub(super) fn refusal(head: &Parts, refused: Problem) -> Response<Body> {
    let mut response = match head.uri.path() {
        "/" | "" if accepts_html(head) => page(),
        _ if head.headers.contains_key("x-requested-with") => refused.into_response(),
        _ => return refused.into_response(),
    };
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn accepts_html(head: &Parts) -> bool {
    let values = head.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|media| {
        let media = media.split(';').next().unwrap_or_default().trim();
        media.eq_ignore_ascii_case("text/html")
    })
}
