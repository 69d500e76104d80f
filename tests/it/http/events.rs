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

#[tokio::test]
async fn batches_are_compressed_where_the_settings_say_so() {
    let running = Running::start(|settings| {
        settings.delivery.compress = gmfy_sidecar::config::Compress::Gzip;
    })
    .await;
    let event = r#"{"userId":"1","type":"register","x":1.50}"#;
    let batch = format!("[{}]", [event; 300].join(","));
    assert_eq!(post("/v1/events/batch/", batch).send(running.api()).await.status, 202);
    eventually("they are delivered", || running.gmfy().counts().events == 300).await;
    assert!(running.gmfy().events().iter().all(|applied| applied.text == event));
    let requests = running.gmfy().requests();
    // The simulator unpacks a body before it records it, and its length is gone then.
    let posts = requests.iter().filter(|request| request.method == http::Method::POST);
    assert!(posts.clone().all(|request| !request.headers.contains_key("content-length")));
    assert!(posts.count() > 0);
    assert_eq!(running.stop().await.remaining, 0);
}
