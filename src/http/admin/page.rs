//! The status page: one document that needs nothing from anywhere else.

use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use http::{HeaderValue, Response};

use super::super::body::Body;

const PAGE: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>gmfy-sidecar</title>
<h1>gmfy-sidecar</h1>
<p>This listener has the admin API:
<a href="/api/status">status</a>, <a href="/api/dead-letters">dead letters</a>.
</html>
"#;

/// The answer to `GET /`.
pub(super) fn page() -> Response<Body> {
    let mut response = Response::new(Body::from(PAGE.as_bytes().to_vec()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    let policy = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}
