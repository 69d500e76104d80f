//! What is refused, and what its caller is told.

use super::harness::{Answer, EVENT, Server, Setup};
use crate::queue::AppendError;
use crate::upstream::SendError;

fn told(answer: &Answer) -> String {
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    assert!(answer.header("x-request-id").is_some());
    format!("{} {}", answer.status, answer.body)
}

#[tokio::test]
async fn paths_and_methods_that_are_not_ours() {
    let server = Server::start().await;
    let answer = server.ask("GET /v1/user/", &[], "").await;
    insta::assert_snapshot!(told(&answer), @r#"404 {"type":"urn:gmfy-sidecar:problem:not-found","title":"There is nothing at this path","status":404,"detail":"Did you mean /v1/users/?"}"#);
    let answer = server.ask("GET /favicon.ico", &[], "").await;
    insta::assert_snapshot!(told(&answer), @r#"404 {"type":"urn:gmfy-sidecar:problem:not-found","title":"There is nothing at this path","status":404,"detail":"The paths are those of GMFY's API."}"#);
    let answer = server.ask("GET /v1/events/", &[], "").await;
    assert_eq!(answer.header("allow"), Some("POST"));
    insta::assert_snapshot!(told(&answer), @r#"405 {"type":"urn:gmfy-sidecar:problem:method-not-allowed","title":"The path does not take this method","status":405,"detail":"This path takes POST."}"#);
    for line in ["OPTIONS /v1/users/", "POST /v1/payments/7/", "DELETE /v1/users/7/"] {
        let answer = server.ask(line, &[], "").await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{line}");
    }
    let answer = server.ask("OPTIONS *", &[], "").await;
    assert_eq!(answer.status, 404);
    let answer = server.ask("GET /v1/users/%2e%2e/", &[], "").await;
    insta::assert_snapshot!(told(&answer), @r#"400 {"type":"urn:gmfy-sidecar:problem:bad-id","title":"The path holds an id that can't be one","status":400,"detail":"an id must not be `.` or `..`"}"#);
}

#[tokio::test]
async fn content_types_and_encodings_that_are_not_taken() {
    let server = Server::start().await;
    let answer = server.ask("POST /v1/events/", &[], EVENT).await;
    insta::assert_snapshot!(told(&answer), @r#"415 {"type":"urn:gmfy-sidecar:problem:media-type","title":"The Content-Type is not taken here","status":415,"detail":"Send Content-Type: application/json."}"#);
    let text = ["Content-Type: text/plain"];
    let answer = server.ask("POST /v1/events/batch/", &text, EVENT).await;
    insta::assert_snapshot!(told(&answer), @r#"415 {"type":"urn:gmfy-sidecar:problem:media-type","title":"The Content-Type is not taken here","status":415,"detail":"Send Content-Type: application/json (an array) or application/x-ndjson."}"#);
    assert_eq!(server.rejected("media_type"), 2);
    assert_eq!(server.ask("POST /v1/payments/7/resend-code/", &[], "").await.status, 415);
    let lines = ["Content-Type: application/x-ndjson"];
    assert_eq!(server.ask("POST /v1/events/", &lines, EVENT).await.status, 415);
    let brotli = ["Content-Type: application/json", "Content-Encoding: br"];
    let answer = server.ask("POST /v1/events/", &brotli, EVENT).await;
    assert_eq!(answer.header("accept-encoding"), Some("gzip, zstd"));
    insta::assert_snapshot!(told(&answer), @r#"415 {"type":"urn:gmfy-sidecar:problem:content-encoding","title":"The Content-Encoding is not taken here","status":415,"detail":"Send the body plain, or with gzip or zstd alone."}"#);
    let gzip = ["Content-Type: application/json", "Content-Encoding: gzip"];
    assert_eq!(server.ask("POST /v1/events/", &gzip, EVENT).await.status, 400);
}

#[tokio::test]
async fn bodies_that_hold_no_event() {
    let server = Server::start().await;
    for (path, body, status) in [
        ("/v1/events/", "", 400),
        ("/v1/events/", "{", 400),
        ("/v1/events/", "[]", 422),
        ("/v1/events/", "7", 422),
        ("/v1/events/batch/", "{}", 422),
        ("/v1/events/batch/", "[1", 400),
    ] {
        let answer = server.post(path, body).await;
        assert_eq!(answer.status, status, "{path} {body}: {answer:?}");
        told(&answer);
    }
    assert_eq!((server.rejected("not_json"), server.rejected("invalid")), (3, 3));
}

#[tokio::test]
async fn too_much_at_once() {
    let server = Server::start().await;
    let answer = server.post("/v1/events/", &" ".repeat(10_001)).await;
    assert_eq!(answer.header("connection"), Some("close"));
    insta::assert_snapshot!(told(&answer), @r#"413 {"type":"urn:gmfy-sidecar:problem:too-large","title":"The request is too large","status":413,"detail":"A body may have 10000 bytes once decompressed (api.max_body)."}"#);
    let large = format!(r#"{{"userId":"1","type":"t","x":"{}"}}"#, "x".repeat(1000));
    assert_eq!(server.post("/v1/events/", &large).await.status, 413);
    assert_eq!(server.post("/v1/events/batch/", &format!("[{large}]")).await.status, 422);
    let many = format!("[{}]", [EVENT; 11].join(","));
    assert_eq!(server.post("/v1/events/batch/", &many).await.status, 413);
    assert_eq!(server.queue.appended(), 0);
}

#[tokio::test]
async fn a_queue_that_takes_nothing() {
    let server = Server::start().await;
    let batch = format!("[{EVENT},{EVENT}]");
    for (error, reason, status, retry_after) in [
        (AppendError::QueueFull, "queue_full", 503, Some("5")),
        (AppendError::DiskFull, "disk_full", 503, Some("5")),
        (AppendError::Busy, "busy", 503, Some("1")),
        (AppendError::Failed("x".to_owned()), "store_failed", 503, Some("5")),
        (AppendError::Closed, "stopping", 503, Some("5")),
        (AppendError::OutcomeUnknown, "outcome_unknown", 500, None),
    ] {
        server.queue.refuse(error);
        let answer = server.post("/v1/events/batch/", &batch).await;
        assert_eq!((answer.status, answer.header("retry-after")), (status, retry_after));
        assert_eq!(server.rejected(reason), 2, "{reason}");
    }
}

#[tokio::test]
async fn an_upstream_that_does_not_answer() {
    for (failure, status) in [
        (SendError::Connect("x".to_owned()), 502),
        (SendError::Broken("x".to_owned()), 502),
        (SendError::Timeout, 504),
    ] {
        let setup = Setup { failure: Some(failure), ..Setup::default() };
        let server = Server::with(setup).await;
        assert_eq!(server.ask("GET /v1/users/", &[], "").await.status, status);
        assert_eq!(server.post("/v1/payments/", "{}").await.status, status);
    }
}

#[tokio::test]
async fn a_caller_without_a_key() {
    let server = Server::with(Setup { keys: vec!["one", "two"], ..Setup::default() }).await;
    let with_key = |key: &'static str| ["Content-Type: application/json", key];
    for (key, status) in [
        ("X-Api-Key: one", 202),
        ("X-Api-Key: two", 202),
        ("X-Api-Key: thr", 401),
        ("X-Api-Key: ", 401),
        ("X-Other: one", 401),
    ] {
        let answer = server.ask("POST /v1/events/", &with_key(key), EVENT).await;
        assert_eq!(answer.status, status, "{key}");
    }
    assert_eq!(server.rejected("unauthorized"), 3);
    let answer = server.ask("GET /nothing", &[], "").await;
    insta::assert_snapshot!(told(&answer), @r#"401 {"type":"urn:gmfy-sidecar:problem:unauthorized","title":"An API key is needed","status":401,"detail":"Send one of api.keys as x-api-key."}"#);
    // Without keys set, one that a caller sends means nothing.
    let server = Server::start().await;
    let answer = server.ask("POST /v1/events/", &with_key("X-Api-Key: any"), EVENT).await;
    assert_eq!(answer.status, 202);
}

#[tokio::test]
async fn a_panic_is_a_500_and_the_server_goes_on() {
    let server = Server::with(Setup { panics: true, ..Setup::default() }).await;
    let answer = server.post("/v1/events/", EVENT).await;
    insta::assert_snapshot!(told(&answer), @r#"500 {"type":"urn:gmfy-sidecar:problem:internal","title":"The sidecar failed","status":500,"detail":"This is a defect of the sidecar; its log says more."}"#);
    let labels = ["/v1/events/", "POST", "500"];
    assert_eq!(server.metrics.http_requests.with_label_values(&labels).get(), 1);
    assert_eq!(server.ask("GET /v1/version/", &[], "").await.status, 418);
}

#[tokio::test]
async fn more_requests_than_may_be_under_way() {
    let setup = Setup { max_requests: Some(1), gated: true, ..Setup::default() };
    let server = Server::with(setup).await;
    let post = server.post("/v1/events/", EVENT);
    let refused = async {
        loop {
            let answer = server.ask("GET /v1/version/", &[], "").await;
            if answer.status == 503 {
                break answer;
            }
        }
    };
    let answer = tokio::select! {
        early = post => panic!("the gate is shut: {early:?}"),
        answer = refused => answer,
    };
    assert_eq!(answer.header("retry-after"), Some("1"));
    insta::assert_snapshot!(told(&answer), @r#"503 {"type":"urn:gmfy-sidecar:problem:busy","title":"Too many requests wait","status":503,"detail":"As many requests are under way as api.max_requests allows."}"#);
}
