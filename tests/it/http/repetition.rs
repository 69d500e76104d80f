//! Requests and events that come again.

use std::time::Duration;

use crate::support::{Request, Running, eventually, post};

const UNIQUE: &str = r#"{"userId":"1","type":"visit_user","idempotenceKey":"k"}"#;
const REPLAYED: &str = "idempotency-replayed";

fn keyed(path: &str, key: &str, body: &str) -> Request {
    post(path, body).header("idempotency-key", key)
}

#[tokio::test]
async fn a_unique_event_is_counted_when_it_comes_again_and_delivered_once() {
    let running = Running::start(|_| ()).await;
    let first = post("/v1/events/", UNIQUE).send(running.api()).await;
    assert_eq!(first.json()["accepted"], 1);
    let again = post("/v1/events/batch/", format!("[{UNIQUE},{UNIQUE}]"));
    let again = again.send(running.api()).await;
    assert_eq!(again.status, 202);
    insta::assert_snapshot!(again.text(), @r#"{"accepted":0,"duplicates":2,"first_sequence":null,"last_sequence":null}"#);
    // In the input form it is the same event; of another user, or without a key, it isn't.
    let mixed = r#"[{"user_id":"1","event_type":"visit_user","idempotence_key":"k"},
        {"userId":"2","type":"visit_user","idempotenceKey":"k"},
        {"userId":"1","type":"visit_user"},{"userId":"1","type":"visit_user"}]"#;
    let reply = post("/v1/events/batch/", mixed).send(running.api()).await;
    assert_eq!(
        (reply.json()["accepted"].as_u64(), reply.json()["duplicates"].as_u64()),
        (Some(3), Some(1))
    );
    eventually("they are delivered", || running.gmfy().counts().events == 4).await;
    let scrape = running.scrape().await;
    scrape.assert_balanced();
    assert_eq!(scrape.value("gmfy_events_duplicate_total"), 3.0);

    let running = running.restart(|_| ()).await;
    let reply = post("/v1/events/", UNIQUE).send(running.api()).await;
    assert_eq!(reply.json()["duplicates"], 1);
    assert_eq!(running.stop().await.remaining, 0);
}

#[tokio::test]
async fn a_keyed_request_is_answered_as_it_was_and_takes_nothing_twice() {
    let running = Running::start(|settings| settings.api.max_event = 200).await;
    let event = r#"{"userId":"1","type":"t"}"#;
    let lenient = format!(r#"[{event},{{}},{event}]"#);
    let requests = [
        keyed("/v1/events/", "a", event),
        keyed("/v1/events/batch/", "a", "[]"),
        keyed("/v1/events/batch/", "\"quoted, and long\"", &lenient)
            .header("prefer", "handling=lenient"),
    ];
    let mut replies = Vec::new();
    for request in &requests {
        let reply = request.send(running.api()).await;
        assert_eq!((reply.status, reply.header(REPLAYED)), (202, None));
        replies.push(reply);
    }
    assert_eq!(replies[2].json()["errors"][0]["index"], 1);
    // A fleet's other replicas, and a restart, know the events again, and not the answer.
    let running = if crate::backend::is_nats() { running } else { running.restart(|_| ()).await };
    for (request, before) in requests.iter().zip(&replies) {
        let reply = request.send(running.api()).await;
        assert_eq!((reply.status, reply.header(REPLAYED)), (202, Some("true")));
        assert_eq!(reply.text(), before.text());
        assert_eq!(reply.header("preference-applied"), before.header("preference-applied"));
    }
    // With or without the last slash it is the same path.
    let reply = keyed("/v1/events", "a", event).send(running.api()).await;
    assert_eq!(reply.header(REPLAYED), Some("true"));
    eventually("they are delivered", || running.gmfy().counts().events == 3).await;
    let scrape = running.scrape().await;
    scrape.assert_balanced();
    assert_eq!(scrape.value("gmfy_events_duplicate_total"), 0.0);
    assert_eq!(running.stop().await.remaining, 0);
}

#[tokio::test]
async fn a_key_that_cannot_be_used_says_why_and_a_failed_request_leaves_it_free() {
    let running = Running::start(|_| ()).await;
    let event = r#"{"userId":"1","type":"t"}"#;
    for key in ["", &*"k".repeat(256)] {
        let reply = keyed("/v1/events/", key, event).send(running.api()).await;
        assert_eq!(reply.status, 400);
        assert_eq!(reply.json()["type"], "urn:gmfy-sidecar:problem:bad-idempotency-key");
    }
    // Refused, so not remembered: the mended request may use the same key.
    let refused = keyed("/v1/events/", "a", r#"{"userId":"1"}"#).send(running.api()).await;
    assert_eq!(refused.status, 422);
    assert_eq!(keyed("/v1/events/", "a", event).send(running.api()).await.status, 202);
    let other = keyed("/v1/events/", "a", r#"{"userId":"2","type":"t"}"#).send(running.api()).await;
    insta::assert_snapshot!(other.text(), @r#"{"type":"urn:gmfy-sidecar:problem:idempotency-key-reused","title":"The Idempotency-Key came before with another body","status":422,"detail":"Nothing was taken. Send a new key with each new body, and the same key only with the same bytes."}"#);
    assert_eq!(other.status, 422);
    assert_eq!(running.stop().await.remaining, 0);
}

#[tokio::test]
async fn beyond_the_entries_the_oldest_is_forgotten_and_counted() {
    if crate::backend::skips("its memory of events has no number of entries") {
        return;
    }
    let running = Running::start(|settings| {
        settings.events.dedupe_entries = 2;
        settings.events.dedupe_window = Duration::from_secs(3600);
    })
    .await;
    for key in ["a", "b", "c", "c", "a"] {
        let event = format!(r#"{{"userId":"1","type":"t","idempotenceKey":"{key}"}}"#);
        post("/v1/events/", event).send(running.api()).await;
    }
    let scrape = running.scrape().await;
    assert_eq!(scrape.value("gmfy_events_duplicate_total"), 1.0);
    assert_eq!(scrape.value("gmfy_dedupe_forgotten_total"), 2.0);
    assert_eq!(running.stop().await.remaining, 0);
}
