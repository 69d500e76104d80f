//! Who gets past the listener's door.

use gmfy_sidecar::config::Secret;

use crate::support::{Reply, Request, Running, get, post};

/// Every route: method and path, and the status of a call that is let in.
const ROUTES: [(&str, &str, u16); 14] = [
    ("GET", "/", 200),
    ("GET", "/api/dead-letters", 200),
    ("GET", "/api/dead-letters/1", 404),
    ("DELETE", "/api/dead-letters/1", 404),
    ("POST", "/api/dead-letters/1/requeue", 404),
    ("POST", "/api/dead-letters/requeue", 200),
    ("POST", "/api/dead-letters/discard", 200),
    ("GET", "/api/events/1", 200),
    // These streams have no end: only their heads are asked for.
    ("HEAD", "/api/events/stream", 200),
    ("HEAD", "/api/status/stream", 200),
    ("GET", "/api/status", 200),
    ("POST", "/api/flush?wait=0", 200),
    ("POST", "/api/delivery/pause", 200),
    ("POST", "/api/delivery/resume", 200),
];

fn call(method: &str, path: &str) -> Request {
    match method {
        "POST" => post(path, ""),
        method => Request::new(method, path),
    }
}

fn problem(reply: &Reply) -> String {
    assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{reply:?}");
    let kind = reply.json()["type"].as_str().unwrap().to_owned();
    kind.strip_prefix("urn:gmfy-sidecar:problem:").unwrap().to_owned()
}

#[tokio::test]
async fn without_a_token_loopback_callers_are_let_in() {
    let running = Running::start(|_| {}).await;
    for (method, path, status) in ROUTES {
        let reply = call(method, path).send(running.admin()).await;
        assert_eq!(reply.status, status, "{method} {path}: {}", reply.text());
        assert_eq!(reply.header("cache-control"), Some("no-store"), "{path}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{path}");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_token_is_needed_on_every_path_as_bearer_or_basic() {
    let running =
        Running::start(|settings| settings.admin.token = Some(Secret::new("s3cret"))).await;
    let nowhere = ("GET", "/nowhere", 404);
    for (method, path, status) in ROUTES.into_iter().chain([nowhere]) {
        let reply = call(method, path).send(running.admin()).await;
        assert_eq!(reply.status, 401, "{path}");
        if method != "HEAD" {
            assert_eq!(problem(&reply), "token-needed", "{path}");
        }
        let challenges = reply.headers.iter().filter(|(name, _)| name == "www-authenticate");
        assert_eq!(challenges.count(), 2, "{reply:?}");
        // "operator:s3cret" and "operator:wrong"
        for (credentials, expected) in [
            ("Bearer s3cret", status),
            ("Basic b3BlcmF0b3I6czNjcmV0", status),
            ("Bearer wrong", 401),
            ("Basic b3BlcmF0b3I6d3Jvbmc=", 401),
        ] {
            let call = call(method, path).header("authorization", credentials);
            let reply = call.send(running.admin()).await;
            assert_eq!(reply.status, expected, "{method} {path} {credentials}");
        }
    }
    running.stop().await;
}

#[tokio::test]
async fn a_browser_without_the_token_gets_the_page_and_asks_for_none_of_its_own() {
    let running =
        Running::start(|settings| settings.admin.token = Some(Secret::new("s3cret"))).await;
    let challenges = |reply: &Reply| {
        let all = reply.headers.iter().filter(|(name, _)| name == "www-authenticate");
        all.map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    let html = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8";
    let reply = get("/").header("accept", html).send(running.admin()).await;
    assert_eq!((reply.status, challenges(&reply)), (401, vec!["Bearer".to_owned()]));
    assert_eq!(reply.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(reply.header("content-security-policy").unwrap().starts_with("default-src 'none';"));
    let with = get("/").header("accept", html).header("authorization", "Bearer s3cret");
    assert_eq!(with.send(running.admin()).await.text(), reply.text(), "the same, without data");
    // What its script asks for, and what people open by hand.
    let status = get("/api/status");
    let reply = status.clone().header("x-requested-with", "page").send(running.admin()).await;
    assert_eq!((reply.status, challenges(&reply)), (401, vec!["Bearer".to_owned()]));
    assert_eq!(problem(&reply), "token-needed");
    let reply = status.header("accept", html).send(running.admin()).await;
    assert_eq!((reply.status, challenges(&reply).len()), (401, 2));
    assert_eq!(problem(&reply), "token-needed");
    running.stop().await;
}

#[tokio::test]
async fn a_web_page_of_another_site_changes_nothing_even_with_the_token() {
    let running =
        Running::start(|settings| settings.admin.token = Some(Secret::new("s3cret"))).await;
    let own = format!("http://{}", running.admin());
    for (method, path, status) in ROUTES {
        let base = call(method, path)
            .header("authorization", "Bearer s3cret")
            .header("host", &running.admin().to_string());
        let changes = method == "POST" || method == "DELETE";
        let untyped = if method == "POST" { 415 } else { status };
        let refused = |by: u16| if changes { by } else { status };
        for (request, expected) in [
            (base.clone().header("origin", &own), status),
            (base.clone().header("sec-fetch-site", "same-origin"), status),
            (base.clone().header("origin", "http://evil.example"), refused(403)),
            (base.clone().header("origin", "null"), refused(403)),
            (base.clone().header("origin", "http://127.0.0.1:1"), refused(403)),
            (base.clone().header("sec-fetch-site", "cross-site"), refused(403)),
            (base.clone().header("sec-fetch-site", "same-site"), refused(403)),
            (base.clone().header("content-type", "text/plain"), untyped),
            (base.clone().without("content-type"), untyped),
            (base.clone().header("host", "evil.example"), 421),
            (base.clone().without("host"), 400),
        ] {
            let reply = request.send(running.admin()).await;
            assert_eq!(reply.status, expected, "{request:?}: {}", reply.text());
        }
    }
    running.stop().await;
}

#[tokio::test]
async fn a_wrong_path_method_or_query_is_told() {
    let running = Running::start(|_| {}).await;
    for (method, path, _) in ROUTES {
        let (other, allow) = match method {
            _ if path == "/api/dead-letters/1" => ("POST", "GET, HEAD, DELETE"),
            "POST" => ("GET", "POST"),
            _ => ("POST", "GET, HEAD"),
        };
        let reply = call(other, path).send(running.admin()).await;
        assert_eq!((reply.status, reply.header("allow")), (405, Some(allow)), "{other} {path}");
        let options = Request::new("OPTIONS", path).send(running.admin()).await;
        assert_eq!(options.status, 405, "no preflight succeeds");
    }
    let reply = get("/api").send(running.admin()).await;
    assert_eq!((reply.status, problem(&reply).as_str()), (404, "not-found"));
    for path in ["/api/status?x=1", "/api/flush?wait=5", "/api/flush?wait=1h", "/api/flush?w=5s"] {
        let method = if path.contains("flush") { "POST" } else { "GET" };
        let reply = call(method, path).send(running.admin()).await;
        assert_eq!((reply.status, problem(&reply).as_str()), (400, "bad-query"), "{path}");
    }
    for (body, status, kind) in [
        ("{", 400, "not-json"),
        ("[]", 422, "bad-options"),
        (r#"{"dead_letters":true}"#, 422, "bad-options"),
        (r#"{"dead_letter_rejected":"yes"}"#, 422, "bad-options"),
    ] {
        let reply = post("/api/delivery/resume", body).send(running.admin()).await;
        assert_eq!((reply.status, problem(&reply).as_str()), (status, kind), "{body}");
    }
    let head = Request::new("HEAD", "/api/status").send(running.admin()).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    running.stop().await;
}
