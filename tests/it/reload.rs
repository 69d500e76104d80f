//! Other settings for a running sidecar, all parts together.

use std::time::Duration;

use gmfy_sidecar::config::{Durability, EventKind, EventType, Secret, UnknownEvents};
use gmfy_sidecar::simulator::Faults;
use http::StatusCode;

use crate::support::{Gmfy, Reply, Running, eventually, get, post};

const EVENT: &str = r#"{"userId":"1","type":"visit"}"#;

async fn post_event(running: &Running) -> Reply {
    post("/v1/events/", EVENT).send(running.api()).await
}

#[tokio::test]
async fn what_can_change_does_and_what_cannot_is_named() {
    let mut running = Running::start(|_| {}).await;
    let reloaded = running
        .reload(|settings| {
            settings.queue.max_bytes /= 2;
            settings.runtime.threads = Some(7);
            settings.events.unknown = UnknownEvents::Reject;
            let register = EventType { kind: EventKind::Classic, actions: Vec::new() };
            settings.events.types.insert("register".to_owned(), register);
            settings.delivery.lanes = 2;
            settings.queue.durability = Durability::Interval;
        })
        .await
        .unwrap();
    assert_eq!(reloaded.restart, ["queue.max_bytes", "runtime.threads"]);
    let applied = ["events.unknown", "queue.durability", "delivery.lanes", "events.types"];
    assert_eq!(reloaded.applied, applied);
    assert_eq!(post_event(&running).await.status, 422);
    let register = post("/v1/events/", r#"{"userId":"1","type":"register"}"#);
    assert_eq!(register.send(running.api()).await.status, 202);
    let status = get("/api/status").send(running.admin()).await.text();
    assert!(status.contains(r#""durability":"interval""#), "{status}");
    eventually("it is delivered", || running.gmfy().counts().events == 1).await;
    running.stop().await;
}

#[tokio::test]
async fn gmfy_moves_and_its_key_changes_without_a_restart() {
    let mut running = Running::start(|_| {}).await;
    let other = Gmfy::start().await;
    assert_eq!(post_event(&running).await.status, 202);
    eventually("the old one has it", || running.gmfy().counts().events == 1).await;

    running.gmfy().set_faults(Faults { down: true, ..Faults::default() });
    assert_eq!(post_event(&running).await.status, 202);
    eventually("delivery fails", || {
        running.metrics().upstream_state.with_label_values(&["up"]).get() == 0
    })
    .await;
    let url = other.url.clone();
    let wrong = |settings: &mut gmfy_sidecar::config::Settings| {
        settings.upstream.api_key = Some(Secret::new("a wrong key"));
    };
    let reloaded = running
        .reload(|settings| {
            settings.upstream.url = url;
            wrong(settings);
        })
        .await
        .unwrap();
    assert_eq!(reloaded.applied, ["upstream.url", "upstream.api_key"]);
    eventually("the key is refused", || {
        running.metrics().upstream_state.with_label_values(&["misconfigured"]).get() == 1
    })
    .await;
    let key = Some(Secret::new(crate::support::GMFY_KEY));
    running.reload(|settings| settings.upstream.api_key = key).await.unwrap();
    eventually("the new one has it", || other.handle.counts().events == 1).await;
    // Reads go there too.
    assert_eq!(get("/v1/version/").send(running.api()).await.status, 200);
    running.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn what_cannot_be_used_changes_nothing() {
    let mut running = Running::start(|_| {}).await;
    let missing = running.folder().join("missing.pem");
    let refused = running
        .reload(|settings| {
            settings.upstream.ca_file = Some(missing.clone());
            settings.events.unknown = UnknownEvents::Reject;
            settings.upstream.url = "https://localhost:1/".to_owned();
        })
        .await
        .unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("upstream.ca_file") && text.contains("missing.pem"), "{text}");
    assert_eq!(post_event(&running).await.status, 202);
    eventually("it is delivered", || running.gmfy().counts().events == 1).await;
    running.stop().await;
}

#[tokio::test]
async fn the_limit_of_dead_letters_follows() {
    let mut running = Running::start(|settings| settings.dead_letters.max_bytes = 0).await;
    let status = Some(StatusCode::UNPROCESSABLE_ENTITY);
    running.gmfy().set_faults(Faults { status, ..Faults::default() });
    assert_eq!(post_event(&running).await.status, 202);
    eventually("it is refused", || !running.gmfy().requests().is_empty()).await;
    running.reload(|settings| settings.dead_letters.max_bytes = 1 << 20).await.unwrap();
    eventually("it is a dead letter", || running.metrics().ledger.snapshot().dead_letters == 1)
        .await;
    running.stop().await;
}

#[tokio::test]
async fn a_stop_goes_by_the_newest_settings() {
    let hour = Duration::from_secs(3_600);
    let mut running = Running::start(|settings| {
        settings.shutdown.quiet = hour;
        settings.shutdown.deadline = hour;
    })
    .await;
    let soon = Duration::from_millis(10);
    running.reload(|settings| settings.shutdown.quiet = soon).await.unwrap();
    running.stop().await;
}
