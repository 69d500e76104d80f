//! Every fault, set by a program and over the control route.

use std::time::{Duration, Instant};

use axum::http::{HeaderValue, StatusCode};
use reqwest::Method;
use serde_json::json;

use super::{Running, event, json, options};
use crate::simulator::{Faults, Options, Outcome, Scripted};

async fn with(faults: Faults) -> Running {
    Running::start(Options { faults, ..options() }).await
}

fn good() -> String {
    event("1", "t", None)
}

#[tokio::test]
async fn a_rejected_type_refuses_its_batch_whole() {
    let gmfy = with(Faults { reject_types: ["bad".to_owned()].into(), ..Faults::default() }).await;
    let body = format!("[{},{}]", good(), event("1", "bad", None));
    let response = gmfy.post("v1/events/batch/", body).await.unwrap();
    assert_eq!(response.status(), 422);
    let error = json(response).await;
    assert_eq!((&error["type"], &error["index"]), (&json!("bad"), &json!(1)));
    assert_eq!(gmfy.status("v1/events/", event("1", "bad", None)).await, 422);
    assert_eq!(gmfy.handle.counts().events, 0);
    assert_eq!(gmfy.status("v1/events/", good()).await, 201);
    gmfy.end().await;
}

#[tokio::test]
async fn a_batch_over_the_limit_is_too_large() {
    let gmfy = with(Faults { max_batch: Some(2), ..Faults::default() }).await;
    let good = good();
    assert_eq!(gmfy.status("v1/events/batch/", format!("[{good},{good}]")).await, 201);
    assert_eq!(gmfy.status("v1/events/batch/", format!("[{good},{good},{good}]")).await, 413);
    assert_eq!(gmfy.handle.counts().events, 2);
    gmfy.end().await;
}

#[tokio::test]
async fn errors_and_fixed_statuses_have_no_effect() {
    let gmfy = with(Faults { error_rate: 1.0, ..Faults::default() }).await;
    assert_eq!(gmfy.status("v1/events/", good()).await, 500);
    let status = Some(StatusCode::SERVICE_UNAVAILABLE);
    let retry_after = Some(HeaderValue::from_static("Wed, 21 Oct 2026 07:28:00 GMT"));
    let only = Some("/v1/events/batch/".to_owned());
    gmfy.handle.set_faults(Faults { status, retry_after, only, ..Faults::default() });
    let response = gmfy.post("v1/events/batch/", "[]").await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "Wed, 21 Oct 2026 07:28:00 GMT");
    assert_eq!(gmfy.handle.counts().events, 0);
    assert_eq!(gmfy.status("v1/events/", good()).await, 201);
    gmfy.end().await;
}

#[tokio::test]
async fn the_rate_limit_says_when_to_come_back() {
    let gmfy = with(Faults { rate_limit: Some(0.01), ..Faults::default() }).await;
    assert_eq!(gmfy.status("v1/events/", good()).await, 201);
    let response = gmfy.post("v1/events/", good()).await.unwrap();
    assert_eq!(response.status(), 429);
    let seconds: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=100).contains(&seconds), "{seconds}");
    assert_eq!(gmfy.handle.counts().answered(429), 1);
    gmfy.end().await;
}

#[tokio::test]
async fn the_answer_is_held_back_by_the_latency() {
    let gmfy = with(Faults { latency: Duration::from_millis(60), ..Faults::default() }).await;
    let start = Instant::now();
    let (one, other) =
        tokio::join!(gmfy.status("v1/events/", good()), gmfy.status("v1/events/", good()));
    assert_eq!((one, other), (201, 201));
    assert!(start.elapsed() >= Duration::from_millis(60));
    gmfy.end().await;
}

#[tokio::test]
async fn a_script_answers_in_turn() {
    let gmfy = with(Faults::default()).await;
    gmfy.handle.answer_next([
        Scripted::status(StatusCode::CONFLICT).body(r#"{"why":"so"}"#),
        Scripted::status(StatusCode::GATEWAY_TIMEOUT).applying(),
        Scripted::status(StatusCode::ACCEPTED),
    ]);
    let response = gmfy.post("v1/events/", good()).await.unwrap();
    assert_eq!(response.status(), 409);
    assert_eq!(json(response).await, json!({"why": "so"}));
    assert_eq!(gmfy.handle.counts().events, 0);
    assert_eq!(gmfy.status("v1/events/", good()).await, 504);
    assert_eq!(gmfy.handle.counts().events, 1);
    assert_eq!(gmfy.status("v1/events/", good()).await, 202);
    assert_eq!(gmfy.status("v1/events/", good()).await, 201);
    assert_eq!(gmfy.handle.counts().events, 3);
    gmfy.end().await;
}

#[tokio::test]
async fn a_connection_is_cut_before_or_after_the_event_is_applied() {
    let gmfy = with(Faults { drop_before_applying: 1.0, ..Faults::default() }).await;
    assert!(gmfy.post("v1/events/", good()).await.is_err());
    assert_eq!(gmfy.handle.counts().events, 0);
    gmfy.handle.set_faults(Faults { drop_after_applying: 1.0, ..Faults::default() });
    assert!(gmfy.post("v1/events/", good()).await.is_err());
    assert_eq!(gmfy.handle.counts().events, 1);
    assert_eq!(gmfy.handle.counts().unanswered(), 2);
    let requests = gmfy.handle.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests.iter().all(|request| request.outcome == Some(Outcome::Unanswered)));
    assert!(requests.iter().all(|request| request.body == good()));
    gmfy.end().await;
}

#[tokio::test]
async fn a_stalled_request_is_never_answered_and_overlaps_what_comes_after() {
    let gmfy = with(Faults { stall: 1.0, ..Faults::default() }).await;
    let stalled = gmfy.post("v1/events/", good());
    let meanwhile = async {
        while gmfy.handle.requests().is_empty() {
            tokio::task::yield_now().await;
        }
        gmfy.handle.set_faults(Faults::default());
        gmfy.status("v1/events/", good()).await
    };
    tokio::select! {
        answer = stalled => panic!("{answer:?}"),
        status = meanwhile => assert_eq!(status, 201),
    }
    let requests = gmfy.handle.requests();
    assert!(requests[0].overlaps(&requests[1]));
    assert_eq!(gmfy.handle.counts().events, 1);
    gmfy.end().await;
}

#[tokio::test]
async fn while_down_only_the_control_routes_answer() {
    let gmfy = with(Faults::default()).await;
    gmfy.event("1", "t", None).await;
    let set = |faults: &'static str| gmfy.request(Method::PATCH, "control/faults").body(faults);
    assert_eq!(set(r#"{"down":true}"#).send().await.unwrap().status(), 200);
    for _ in 0..3 {
        assert!(gmfy.post("v1/events/", good()).await.is_err());
    }
    assert_eq!(gmfy.get("control/faults").await["down"], true);
    assert_eq!(gmfy.handle.counts().events, 1);
    assert_eq!(set(r#"{"down":false}"#).send().await.unwrap().status(), 200);
    gmfy.event("1", "t", None).await;
    gmfy.end().await;
}

#[tokio::test]
async fn going_down_cuts_what_is_under_way() {
    let gmfy = with(Faults { stall: 1.0, ..Faults::default() }).await;
    let stalled = gmfy.post("v1/events/", good());
    let outage = async {
        while gmfy.handle.requests().is_empty() {
            tokio::task::yield_now().await;
        }
        gmfy.handle.set_faults(Faults { down: true, ..Faults::default() });
    };
    let (stalled, ()) = tokio::join!(stalled, outage);
    assert!(stalled.is_err());
    gmfy.end().await;
}

#[tokio::test]
async fn faults_are_replaced_changed_and_reset_over_the_control_route() {
    let gmfy = with(Faults { max_batch: Some(5), ..Faults::default() }).await;
    let send = async |method: Method, path: &str, body: &'static str| {
        let response = gmfy.client.request(method, format!("http://{}/{path}", gmfy.address));
        let response = response.body(body).send().await.unwrap();
        (response.status().as_u16(), json(response).await)
    };
    let (status, faults) = send(Method::PATCH, "control/faults", r#"{"latency":"1ms"}"#).await;
    assert_eq!((status, &faults["max_batch"]), (200, &json!(5)));
    let (status, faults) = send(Method::PUT, "control/faults", r#"{"error_rate":1}"#).await;
    assert_eq!(
        (status, &faults["max_batch"], &faults["latency"]),
        (200, &json!(null), &json!("0ms"))
    );
    let (status, error) = send(Method::PATCH, "control/faults", r#"{"latency":"soon"}"#).await;
    assert_eq!((status, &error["field"]), (400, &json!("latency")));
    assert_eq!(gmfy.status("v1/events/", good()).await, 500);
    assert_eq!(send(Method::POST, "control/reset", "").await.0, 200);
    assert_eq!(gmfy.handle.faults(), Faults { max_batch: Some(5), ..Faults::default() });
    assert_eq!(gmfy.handle.counts(), Default::default());
    gmfy.event("1", "t", None).await;
    gmfy.end().await;
}
