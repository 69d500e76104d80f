//! Taking events.

use crate::support::{Running, eventually, post};

#[tokio::test]
async fn an_event_is_taken_and_reaches_gmfy_byte_for_byte() {
    let running = Running::start(|_| ()).await;
    let event = r#"{"userId":"1", "type":"register","x":1.50}"#;
    let reply = post("/v1/events/", event).send(running.api()).await;
    assert_eq!(reply.status, 202);
    assert_eq!(
        reply.text(),
        r#"{"accepted":1,"duplicates":0,"first_sequence":1,"last_sequence":1}"#
    );
    eventually("it is delivered", || running.gmfy().counts().events == 1).await;
    assert_eq!(running.gmfy().events()[0].text, event);
    running.scrape().await.assert_balanced();
    assert_eq!(running.stop().await.remaining, 0);
}
