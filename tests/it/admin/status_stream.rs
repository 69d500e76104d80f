//! The status, each second.

use serde_json::Value;

use crate::support::{Running, Wire, eventually, get, post};

/// A reader of the stream.
struct Reader {
    wire: Wire,
    unread: String,
}

impl Reader {
    async fn open(running: &Running) -> Self {
        let mut wire = Wire::connect(running.admin()).await;
        wire.send(get("/api/status/stream").bytes()).await;
        let head = wire.head().await;
        assert_eq!(head.status, 200);
        assert_eq!(head.header("content-type"), Some("text/event-stream"));
        Self { wire, unread: String::new() }
    }

    async fn status(&mut self) -> Value {
        loop {
            if let Some((block, rest)) = self.unread.split_once("\n\n") {
                let status = serde_json::from_str(block.strip_prefix("data: ").unwrap()).unwrap();
                self.unread = rest.to_owned();
                return status;
            }
            let chunk = self.wire.chunk().await;
            assert!(!chunk.is_empty(), "the stream ended");
            self.unread.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

#[tokio::test]
async fn a_reader_gets_the_status_at_once_and_then_each_second() {
    let running = Running::start(|_| {}).await;
    let mut reader = Reader::open(&running).await;
    let first = reader.status().await;
    let event = r#"{"userId":"ada","type":"visit"}"#;
    assert_eq!(post("/v1/events/", event).send(running.api()).await.status, 202);
    eventually("it is delivered", || running.metrics().ledger.snapshot().delivered == 1).await;
    let began = tokio::time::Instant::now();
    let second = reader.status().await;
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(
        (&first["events"]["accepted"], &second["events"]["accepted"]),
        (&0.into(), &1.into())
    );
    assert_eq!(second["events"]["delivered"], 1);
    let asked = get("/api/status").send(running.admin()).await.json();
    assert_eq!(keys(&second), keys(&asked), "the same document");
    running.stop().await;
}

fn keys(status: &Value) -> Vec<&String> {
    status.as_object().unwrap().keys().collect()
}

#[tokio::test]
async fn readers_are_bounded_and_the_listener_stays_open_to_others() {
    let running = Running::start(|_| {}).await;
    let mut readers = Vec::new();
    for _ in 0..16 {
        readers.push(Reader::open(&running).await);
    }
    let refused = get("/api/status/stream").send(running.admin()).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")));
    assert_eq!(get("/api/status").send(running.admin()).await.status, 200);
    drop(readers);
    let end = tokio::time::Instant::now() + crate::support::PATIENCE;
    loop {
        let mut wire = Wire::connect(running.admin()).await;
        wire.send(get("/api/status/stream").bytes()).await;
        if wire.head().await.status == 200 {
            break;
        }
        assert!(tokio::time::Instant::now() < end, "their places are never free");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn an_open_stream_does_not_hold_up_a_stop() {
    let running = Running::start(|_| {}).await;
    let mut reader = Reader::open(&running).await;
    reader.status().await;
    running.stop().await;
    assert!(reader.wire.chunk().await.is_empty(), "an orderly end");
}
