use super::*;
use http_body_util::BodyExt as _;
use std::collections::HashSet;

async fn document(problem: impl Into<Problem>) -> String {
    let response = problem.into().into_response();
    assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
    let retry_after = response.headers().get(RETRY_AFTER).cloned();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let mut text = String::from_utf8(body.to_vec()).unwrap();
    if let Some(seconds) = retry_after {
        text.push_str(" after ");
        text.push_str(seconds.to_str().unwrap());
    }
    text
}

fn error(index: usize) -> EventError {
    EventError {
        index,
        pointer: "/userId".to_owned(),
        message: "must not be empty".to_owned(),
        suggestion: (index == 0).then(|| "a user's id".to_owned()),
    }
}

#[test]
fn every_kind_has_its_own_name_and_a_known_reason() {
    let names: HashSet<_> = KINDS.iter().map(|kind| kind.name).collect();
    assert_eq!(names.len(), KINDS.len());
    for kind in KINDS {
        let known = &crate::telemetry::metrics::REJECT_REASONS;
        assert!(known.contains(&kind.reason), "{}: {} is no known reason", kind.name, kind.reason);
    }
}

#[tokio::test]
async fn bodies_that_yield_no_events_say_why() {
    let not_json = BodyError::NotJson("expected `,` at line 1 column 7".to_owned());
    insta::assert_snapshot!(document(not_json).await, @r#"{"type":"urn:gmfy-sidecar:problem:not-json","title":"The body is not JSON","status":400,"detail":"expected `,` at line 1 column 7"}"#);
    insta::assert_snapshot!(document(BodyError::Invalid(vec![error(0), error(3)])).await, @r#"{"type":"urn:gmfy-sidecar:problem:invalid","title":"Events are invalid","status":422,"detail":"2 things are wrong; nothing was taken.","errors":[{"index":0,"pointer":"/userId","message":"must not be empty","suggestion":"a user's id"},{"index":3,"pointer":"/userId","message":"must not be empty"}]}"#);
    insta::assert_snapshot!(document(BodyError::EventTooLarge(70_000)).await, @r#"{"type":"urn:gmfy-sidecar:problem:too-large","title":"The request is too large","status":413,"detail":"The event has 70000 bytes, more than api.max_event allows."}"#);
    insta::assert_snapshot!(document(BodyError::TooManyEvents).await, @r#"{"type":"urn:gmfy-sidecar:problem:too-large","title":"The request is too large","status":413,"detail":"There are more events than api.max_batch_events allows: send several batches."}"#);
}

#[tokio::test]
async fn a_queue_that_takes_nothing_says_when_to_come_again() {
    insta::assert_snapshot!(document(AppendError::QueueFull).await, @r#"{"type":"urn:gmfy-sidecar:problem:queue-full","title":"The queue is full","status":503,"detail":"The events that wait for GMFY fill queue.max_bytes. Nothing was stored."} after 5"#);
    insta::assert_snapshot!(document(AppendError::DiskFull).await, @r#"{"type":"urn:gmfy-sidecar:problem:disk-full","title":"The disk is full","status":503,"detail":"The disk has no room for events. Nothing was stored."} after 5"#);
    insta::assert_snapshot!(document(AppendError::Busy).await, @r#"{"type":"urn:gmfy-sidecar:problem:busy","title":"Too many requests wait","status":503,"detail":"Too many requests wait to be written. Nothing was stored."} after 1"#);
    insta::assert_snapshot!(document(AppendError::Failed("/data/x".to_owned())).await, @r#"{"type":"urn:gmfy-sidecar:problem:store-failed","title":"The disk failed","status":503,"detail":"The disk failed. Nothing was stored."} after 5"#);
    insta::assert_snapshot!(document(AppendError::Unreachable).await, @r#"{"type":"urn:gmfy-sidecar:problem:queue-unreachable","title":"The queue can't be reached","status":503,"detail":"The servers that keep the queue can't be reached. Nothing was stored."} after 5"#);
    insta::assert_snapshot!(document(AppendError::OutcomeUnknown).await, @r#"{"type":"urn:gmfy-sidecar:problem:outcome-unknown","title":"It can't be known whether the events were stored","status":500,"detail":"Send the request again with the same Idempotency-Key, so that events that were stored are not taken twice."}"#);
    insta::assert_snapshot!(document(AppendError::Closed).await, @r#"{"type":"urn:gmfy-sidecar:problem:stopping","title":"The sidecar is stopping","status":503,"detail":"It takes no more events. Nothing was stored."} after 5"#);
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_is_told_without_its_address() {
    let why = || "10.0.0.1:443".to_owned();
    insta::assert_snapshot!(document(SendError::Connect(why())).await, @r#"{"type":"urn:gmfy-sidecar:problem:upstream-unreachable","title":"GMFY can't be reached","status":502,"detail":"No connection could be made. Nothing was sent."}"#);
    insta::assert_snapshot!(document(SendError::Tls(why())).await, @r#"{"type":"urn:gmfy-sidecar:problem:upstream-unreachable","title":"GMFY can't be reached","status":502,"detail":"The TLS handshake failed. Nothing was sent."}"#);
    insta::assert_snapshot!(document(SendError::Timeout).await, @r#"{"type":"urn:gmfy-sidecar:problem:upstream-timeout","title":"GMFY did not answer","status":504,"detail":"GMFY may have acted on the request."}"#);
    insta::assert_snapshot!(document(SendError::Broken(why())).await, @r#"{"type":"urn:gmfy-sidecar:problem:upstream-broken","title":"GMFY broke off its answer","status":502,"detail":"GMFY may have acted on the request."}"#);
}

#[tokio::test]
async fn a_long_list_of_errors_is_cut_and_says_so() {
    let errors = (0..LISTED_ERRORS + 7).map(error).collect();
    let text = document(Problem::invalid(errors)).await;
    assert_eq!(text.matches("/userId").count(), LISTED_ERRORS);
    assert!(text.ends_with(r#""errors_omitted":7}"#), "{text}");
}
