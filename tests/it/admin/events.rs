//! Following events, and looking one up.

use std::collections::BTreeSet;

use gmfy_sidecar::simulator::Faults;
use serde_json::{Value, json};

use crate::support::{Running, Wire, eventually, get, post};

/// A reader of the stream.
struct Reader {
    wire: Wire,
    unread: String,
}

impl Reader {
    async fn open(running: &Running, query: &str) -> Self {
        let mut wire = Wire::connect(running.admin()).await;
        wire.send(get(&format!("/api/events/stream{query}")).bytes()).await;
        let head = wire.head().await;
        assert_eq!(head.status, 200);
        assert_eq!(head.header("content-type"), Some("text/event-stream"));
        let mut reader = Self { wire, unread: String::new() };
        // It follows from here on.
        assert_eq!(reader.block().await, "retry: 2000");
        reader
    }

    /// The next event, with its name's line.
    async fn block(&mut self) -> String {
        loop {
            if let Some((block, rest)) = self.unread.split_once("\n\n") {
                let block = block.to_owned();
                self.unread = rest.to_owned();
                return block;
            }
            let chunk = self.wire.chunk().await;
            assert!(!chunk.is_empty(), "the stream ended");
            self.unread.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    async fn notice(&mut self) -> Value {
        let block = self.block().await;
        serde_json::from_str(block.strip_prefix("data: ").unwrap()).unwrap()
    }
}

async fn accept(running: &Running, user: &str, event_type: &str) -> u64 {
    let event = format!(r#"{{"userId":"{user}","type":"{event_type}"}}"#);
    let reply = post("/v1/events/", event).send(running.api()).await;
    assert_eq!(reply.status, 202, "{}", reply.text());
    reply.json()["first_sequence"].as_u64().unwrap()
}

async fn standing(running: &Running, sequence: u64) -> Value {
    let reply = get(&format!("/api/events/{sequence}")).send(running.admin()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

#[tokio::test]
async fn a_reader_sees_an_event_accepted_retried_and_delivered() {
    let running = Running::start(|_| {}).await;
    let mut reader = Reader::open(&running, "").await;
    let status = Some(http::StatusCode::INTERNAL_SERVER_ERROR);
    running.gmfy().set_faults(Faults { status, ..Faults::default() });
    let sequence = accept(&running, "ada", "visit").await;
    let accepted = reader.notice().await;
    assert_eq!(accepted["outcome"], "accepted");
    assert_eq!(accepted["seq"], sequence);
    assert_eq!((&accepted["user"], &accepted["type"]), (&json!("ada"), &json!("visit")));
    assert_eq!(accepted["batch"], Value::Null);
    assert!(accepted.get("status").is_none());
    let retried = reader.notice().await;
    assert_eq!((&retried["outcome"], &retried["status"]), (&json!("retried"), &json!(500)));
    running.gmfy().set_faults(Faults::default());
    let delivered = loop {
        let notice = reader.notice().await;
        if notice["outcome"] != "retried" {
            break notice;
        }
    };
    assert_eq!((&delivered["outcome"], &delivered["status"]), (&json!("delivered"), &json!(201)));
    assert_eq!(delivered["batch"], retried["batch"], "the same request");
    assert_eq!(delivered["batch"].as_str().unwrap().len(), 32);
    running.stop().await;
}

#[tokio::test]
async fn a_reader_may_ask_for_a_user_a_type_or_an_outcome() {
    let running = Running::start(|_| {}).await;
    let reject_types = BTreeSet::from(["poison".to_owned()]);
    running.gmfy().set_faults(Faults { reject_types, ..Faults::default() });
    let mut ada = Reader::open(&running, "?user=ada%20l&outcome=delivered").await;
    let mut poison = Reader::open(&running, "?type=poison&outcome=dead_lettered").await;
    accept(&running, "bob", "visit").await;
    let bad = accept(&running, "bob", "poison").await;
    let good = accept(&running, "ada l", "visit").await;
    assert_eq!(ada.notice().await["seq"], good);
    let notice = poison.notice().await;
    assert_eq!((&notice["seq"], &notice["status"]), (&json!(bad), &json!(422)));
    let reply = get("/api/events/stream?outcome=sent").send(running.admin()).await;
    assert_eq!(reply.status, 400);
    running.stop().await;
}

#[tokio::test]
async fn a_reader_that_does_not_read_loses_is_told_and_slows_nobody_down() {
    let running = Running::start(|_| {}).await;
    let mut slow = Reader::open(&running, "").await;
    let event = |n: u64| format!(r#"{{"userId":"{n}","type":"{}"}}"#, "t".repeat(250));
    let mut sent = 0_u64;
    // Far more than the queue for one reader and the system's buffers hold.
    for _ in 0..30 {
        let batch: Vec<_> = (0..1000).map(event).collect();
        let reply =
            post("/v1/events/batch/", format!("[{}]", batch.join(","))).send(running.api()).await;
        assert_eq!(reply.status, 202);
        sent += 1000;
    }
    eventually("all are delivered", || running.gmfy().counts().events as u64 == sent).await;
    let (mut seen, mut lost) = (0, 0);
    while seen + lost < 2 * sent {
        let block = slow.block().await;
        match block.strip_prefix("event: lost\ndata: ") {
            Some(told) => {
                let told: Value = serde_json::from_str(told).unwrap();
                lost += told["lost"].as_u64().unwrap();
            }
            None => seen += 1,
        }
    }
    assert_eq!(seen + lost, 2 * sent, "accepted and delivered, each seen or told as lost");
    assert!(lost > 0 && seen > 0, "{seen} seen, {lost} lost");
    running.stop().await;
}

#[tokio::test]
async fn an_open_stream_does_not_hold_up_a_stop() {
    let running = Running::start(|_| {}).await;
    let mut reader = Reader::open(&running, "").await;
    running.stop().await;
    assert!(reader.wire.chunk().await.is_empty(), "an orderly end");
}

#[tokio::test]
async fn readers_are_bounded() {
    let running = Running::start(|_| {}).await;
    let mut readers = Vec::new();
    for _ in 0..32 {
        readers.push(Reader::open(&running, "").await);
    }
    let refused = get("/api/events/stream").send(running.admin()).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")));
    drop(readers);
    eventually("they are gone", || !running.metrics().stream.is_followed()).await;
    Reader::open(&running, "").await;
    running.stop().await;
}

#[tokio::test]
async fn an_event_is_looked_up_by_its_sequence() {
    let deadline = std::time::Duration::from_millis(500);
    let running = Running::start(|settings| settings.shutdown.deadline = deadline).await;
    post("/api/delivery/pause", "").send(running.admin()).await;
    let sequence = accept(&running, "ada", "visit").await;
    let queued = json!({"seq": sequence, "state": "queued", "attempts": 0});
    assert_eq!(standing(&running, sequence).await, queued);
    for nowhere in [0, sequence + 1, u64::MAX] {
        let unknown = json!({"seq": nowhere, "state": "unknown", "attempts": 0});
        assert_eq!(standing(&running, nowhere).await, unknown);
    }
    running.gmfy().set_faults(Faults { stall: 1.0, ..Faults::default() });
    post("/api/delivery/resume", "").send(running.admin()).await;
    let end = tokio::time::Instant::now() + crate::support::PATIENCE;
    let in_flight = json!({"seq": sequence, "state": "in_flight", "attempts": 1});
    while standing(&running, sequence).await != in_flight {
        assert!(tokio::time::Instant::now() < end, "{}", standing(&running, sequence).await);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(running.stop().await.remaining, 1);
}

#[tokio::test]
async fn an_event_that_is_done_with_is_looked_up_too() {
    let running = Running::start(|_| {}).await;
    let sequence = accept(&running, "ada", "visit").await;
    eventually("it is delivered", || running.metrics().ledger.snapshot().queued() == 0).await;
    let delivered = json!({"seq": sequence, "state": "delivered", "attempts": 1, "status": 201});
    assert_eq!(standing(&running, sequence).await, delivered);
    let reject_types = BTreeSet::from(["poison".to_owned()]);
    running.gmfy().set_faults(Faults { reject_types, ..Faults::default() });
    let poison = accept(&running, "ada", "poison").await;
    eventually("it is refused", || running.metrics().ledger.snapshot().dead_letters == 1).await;
    let dead = standing(&running, poison).await;
    assert_eq!((&dead["state"], &dead["status"]), (&json!("dead_lettered"), &json!(422)));
    let running = running.restart(|_| {}).await;
    assert_eq!(standing(&running, poison).await["state"], "dead_lettered");
    assert_eq!(standing(&running, sequence).await["state"], "settled");
    running.stop().await;
}
