//! Status, flush, pause and resume.

use std::time::Duration;

use gmfy_sidecar::simulator::Faults;
use serde_json::Value;

use crate::support::{Running, eventually, get, post};

async fn status(running: &Running) -> Value {
    let reply = get("/api/status").send(running.admin()).await;
    assert_eq!(reply.status, 200);
    reply.json()
}

async fn accept(running: &Running, user: &str) {
    let event = format!(r#"{{"userId":"{user}","type":"t"}}"#);
    let reply = post("/v1/events/", event).send(running.api()).await;
    assert_eq!(reply.status, 202, "{}", reply.text());
}

#[tokio::test]
async fn status_tells_how_everything_stands() {
    let running = Running::start(|_| {}).await;
    let before = status(&running).await;
    assert_eq!(before["upstream"]["state"], "up");
    assert_eq!(before["upstream"]["why"], Value::Null);
    assert_eq!(before["ready"]["ready"], true);
    assert_eq!(before["queue"]["events"], 0);
    assert_eq!(before["queue"]["oldest_age_seconds"], Value::Null);
    assert_eq!(before["queue"]["durability"], "sync");
    assert!(before["queue"]["capacity_bytes"].as_u64() > Some(0));
    assert_eq!(before["dead_letters"], 0);
    assert_eq!(before["version"], env!("CARGO_PKG_VERSION"));
    assert!(before["cache"].is_object());

    running.gmfy().set_faults(Faults { down: true, ..Faults::default() });
    accept(&running, "1").await;
    let metrics = running.metrics();
    let retrying = || metrics.upstream_state.with_label_values(&["up"]).get() == 0;
    eventually("a failure is noticed", retrying).await;
    let outage = status(&running).await;
    assert_ne!(outage["upstream"]["state"], "up");
    assert!(outage["upstream"]["why"].is_string(), "{outage}");
    assert_eq!(outage["queue"]["events"], 1);
    assert!(outage["queue"]["oldest_age_seconds"].is_number());
    assert_eq!(outage["ready"]["ready"], true, "readiness never depends on GMFY");
    let lanes = outage["lanes"].as_array().unwrap();
    assert_eq!(lanes.len(), 4);
    assert!(lanes.iter().any(|lane| lane["last_error"].is_string()), "{outage}");

    running.gmfy().set_faults(Faults::default());
    eventually("it is delivered", || running.gmfy().counts().events == 1).await;
    running.stop().await;
}

#[tokio::test]
async fn a_flush_does_not_linger_and_says_what_is_left() {
    let running =
        Running::start(|settings| settings.delivery.linger = Duration::from_secs(3600)).await;
    accept(&running, "1").await;
    let reply = post("/api/flush?wait=0", "").send(running.admin()).await;
    assert_eq!((reply.status, reply.json()["remaining"].as_u64()), (202, Some(1)));
    let reply = post("/api/flush?wait=20s", "{}").send(running.admin()).await;
    assert_eq!((reply.status, reply.json()["remaining"].as_u64()), (200, Some(0)));
    assert_eq!(running.gmfy().counts().events, 1);
    running.stop().await;
}

#[tokio::test]
async fn a_flush_that_waits_does_not_hold_up_a_stop() {
    let running =
        Running::start(|settings| settings.delivery.linger = Duration::from_secs(3600)).await;
    let status_500 = http::StatusCode::INTERNAL_SERVER_ERROR;
    running.gmfy().set_faults(Faults { status: Some(status_500), ..Faults::default() });
    accept(&running, "1").await;
    let admin = running.admin();
    let (reply, stopped) =
        tokio::join!(async { post("/api/flush?wait=300s", "").send(admin).await }, async {
            // The first request of the flush is seen by its effect: nothing lingers.
            eventually("an attempt", || running.gmfy().counts().requests > 0).await;
            running.stop().await
        });
    assert_eq!((reply.status, stopped.remaining), (202, 1));
}

#[tokio::test]
async fn a_pause_holds_everything_across_a_restart_until_resumed() {
    let running = Running::start(|_| {}).await;
    let reply = post("/api/delivery/pause", "").send(running.admin()).await;
    assert_eq!((reply.status, reply.json()["state"].as_str()), (200, Some("paused")));
    accept(&running, "1").await;
    let reply = post("/api/flush?wait=50ms", "").send(running.admin()).await;
    assert_eq!(reply.status, 202, "nothing is delivered while paused");

    let running = running.restart(|_| {}).await;
    let after = status(&running).await;
    assert_eq!(after["upstream"]["state"], "paused");
    assert!(after["upstream"]["why"].as_str().unwrap().contains("paused"), "{after}");
    assert_eq!(running.scrape().await.value(r#"gmfy_upstream_state{state="paused"}"#), 1.0);
    assert_eq!(running.gmfy().counts().events, 0);

    let reply = post("/api/delivery/resume", "{}").send(running.admin()).await;
    assert_eq!((reply.status, reply.json()["state"].as_str()), (200, Some("up")));
    eventually("it is delivered", || running.gmfy().counts().events == 1).await;
    let running = running.restart(|_| {}).await;
    assert_eq!(status(&running).await["upstream"]["state"], "up", "the resume is kept too");
    running.stop().await;
}

#[tokio::test]
async fn when_gmfy_refuses_everything_resume_can_let_it_go() {
    let running = Running::start(|_| {}).await;
    let status_422 = http::StatusCode::UNPROCESSABLE_ENTITY;
    running.gmfy().set_faults(Faults { status: Some(status_422), ..Faults::default() });
    for user in 0..60 {
        accept(&running, &user.to_string()).await;
    }
    let misconfigured = || {
        let state = &running.metrics().upstream_state;
        state.with_label_values(&["misconfigured"]).get() == 1
    };
    eventually("delivery stops", misconfigured).await;
    let held = status(&running).await;
    assert!(held["upstream"]["why"].as_str().unwrap().contains("422"), "{held}");
    assert!(held["upstream"]["next_attempt_at"].is_string());
    let resume = post("/api/delivery/resume", r#"{"dead_letter_rejected":true}"#);
    let reply = resume.send(running.admin()).await;
    assert_eq!(reply.json()["dead_lettering_status"], 422);
    let ledger = &running.metrics().ledger;
    eventually("all are let go", || ledger.snapshot().queued() == 0).await;
    assert_eq!(status(&running).await["dead_letters"], 60);
    running.scrape().await.assert_balanced();
    running.stop().await;
}
