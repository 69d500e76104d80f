//! Dead letters: list, show, requeue, discard.

use std::collections::BTreeSet;

use gmfy_sidecar::simulator::Faults;
use serde_json::{Value, json};

use crate::support::{Reply, Request, Running, eventually, get, post};

/// A sidecar with dead letters: the events of these users are refused.
async fn with_letters(users: u64) -> Running {
    let running = Running::start(|_| {}).await;
    let reject_types = BTreeSet::from(["poison".to_owned()]);
    running.gmfy().set_faults(Faults { reject_types, ..Faults::default() });
    for user in 1..=users {
        let event = format!(r#"{{"userId":"{user}","type":"poison","n":{user}}}"#);
        let reply = post("/v1/events/", event).send(running.api()).await;
        assert_eq!(reply.status, 202);
        // One at a time: an upstream that refuses all would be a fault of its own.
        let good = format!(r#"{{"userId":"{user}","type":"good"}}"#);
        assert_eq!(post("/v1/events/", good).send(running.api()).await.status, 202);
    }
    let ledger = &running.metrics().ledger;
    eventually("all are settled", || ledger.snapshot().queued() == 0).await;
    assert_eq!(ledger.snapshot().dead_letters, users);
    running
}

async fn list(running: &Running, query: &str) -> Value {
    let reply = get(&format!("/api/dead-letters{query}")).send(running.admin()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

fn sequences(page: &Value) -> Vec<u64> {
    let letters = page["dead_letters"].as_array().unwrap().iter();
    letters.map(|letter| letter["seq"].as_u64().unwrap()).collect()
}

async fn delete(running: &Running, path: &str) -> Reply {
    Request::new("DELETE", path).send(running.admin()).await
}

#[tokio::test]
async fn a_letter_says_what_was_refused_why_and_when() {
    let running = with_letters(1).await;
    let page = list(&running, "").await;
    assert_eq!(page["next"], Value::Null);
    let letter = &page["dead_letters"][0];
    assert_eq!(letter["reason"], "rejected");
    assert_eq!(letter["status"], 422);
    assert_eq!(letter["event"], json!({"userId": "1", "type": "poison", "n": 1}));
    assert!(letter["attempts"].as_u64() >= Some(1));
    assert!(letter["answer"].as_str().is_some_and(|answer| !answer.is_empty()), "{letter}");
    for time in ["accepted_at", "dead_lettered_at"] {
        assert!(letter[time].as_str().unwrap().ends_with('Z'), "{letter}");
    }
    let sequence = &letter["seq"];
    let shown = get(&format!("/api/dead-letters/{sequence}")).send(running.admin()).await;
    assert_eq!((shown.status, &shown.json()), (200, letter));
    let bytes = r#""event":{"userId":"1","type":"poison","n":1}"#;
    assert!(shown.text().contains(bytes), "byte for byte: {}", shown.text());
    let missing = get("/api/dead-letters/999999").send(running.admin()).await;
    assert_eq!(missing.status, 404);
    assert_eq!(missing.json()["type"], "urn:gmfy-sidecar:problem:no-dead-letter");
    running.stop().await;
}

#[tokio::test]
async fn the_list_comes_in_pages() {
    let running = with_letters(7).await;
    let all = sequences(&list(&running, "").await);
    assert_eq!(all.len(), 7);
    assert!(all.is_sorted());
    let (mut found, mut query) = (Vec::new(), "?limit=3".to_owned());
    loop {
        let page = list(&running, &query).await;
        found.extend(sequences(&page));
        let Some(next) = page["next"].as_u64() else { break };
        query = format!("?after={next}&limit=3");
    }
    assert_eq!(found, all);
    for query in ["?limit=0", "?limit=1001", "?after=-1", "?after=x", "?from=1", "?limit=1&limit=2"]
    {
        let reply = get(&format!("/api/dead-letters{query}")).send(running.admin()).await;
        assert_eq!(reply.status, 400, "{query}");
    }
    running.stop().await;
}

#[tokio::test]
async fn requeued_after_a_fix_they_arrive_in_order_and_the_account_holds() {
    let running = with_letters(5).await;
    let all = sequences(&list(&running, "").await);
    running.gmfy().set_faults(Faults::default());
    let before = running.gmfy().counts().events;

    let one = post(&format!("/api/dead-letters/{}/requeue", all[1]), "");
    let reply = one.send(running.admin()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let requeued = reply.json()["requeued"].clone();
    assert_eq!(requeued[0]["seq"], all[1]);
    assert!(requeued[0]["new_seq"].as_u64().unwrap() > all[4]);
    assert_eq!(one.send(running.admin()).await.status, 404, "it is no dead letter any more");

    let reply = post("/api/dead-letters/requeue", "{}").send(running.admin()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let document = reply.json();
    let rest = document["requeued"].as_array().unwrap();
    let from: Vec<_> = rest.iter().map(|one| one["seq"].as_u64().unwrap()).collect();
    assert_eq!(from, [all[0], all[2], all[3], all[4]]);
    assert!(rest.is_sorted_by_key(|one| one["new_seq"].as_u64()));

    eventually("they arrive", || running.gmfy().counts().events == before + 5).await;
    eventually("all is settled", || running.metrics().ledger.snapshot().queued() == 0).await;
    assert_eq!(list(&running, "").await["dead_letters"], json!([]));
    let scrape = running.scrape().await;
    scrape.assert_balanced();
    assert_eq!(scrape.value("gmfy_events_requeued_total"), 5.0);
    assert_eq!(scrape.value("gmfy_dead_letters"), 0.0);
    running.stop().await;
}

#[tokio::test]
async fn a_letter_requeued_too_early_dies_again_under_its_new_sequence() {
    let running = with_letters(1).await;
    let before = sequences(&list(&running, "").await);
    let reply = post("/api/dead-letters/requeue", "").send(running.admin()).await;
    let new = reply.json()["requeued"][0]["new_seq"].clone();
    let dead = || running.metrics().ledger.snapshot().dead_lettered.values().sum::<u64>() == 2;
    eventually("it is refused again", dead).await;
    let after = sequences(&list(&running, "").await);
    assert_eq!((before.len(), json!(after)), (1, json!([new])));
    running.scrape().await.assert_balanced();
    running.stop().await;
}

#[tokio::test]
async fn what_is_discarded_is_gone_and_counted_no_second_time() {
    let running = with_letters(4).await;
    let all = sequences(&list(&running, "").await);
    let reply = delete(&running, &format!("/api/dead-letters/{}", all[0])).await;
    assert_eq!((reply.status, reply.json()), (200, json!({"discarded": 1})));
    assert_eq!(delete(&running, &format!("/api/dead-letters/{}", all[0])).await.status, 404);
    let reply = post("/api/dead-letters/discard", "").send(running.admin()).await;
    assert_eq!((reply.status, reply.json()), (200, json!({"discarded": 3})));
    let scrape = running.scrape().await;
    scrape.assert_balanced();
    assert_eq!(scrape.total("gmfy_events_dead_lettered_total"), 4.0);
    assert_eq!(scrape.value("gmfy_dead_letters"), 0.0);
    let running = running.restart(|_| {}).await;
    assert_eq!(list(&running, "").await["dead_letters"], json!([]));
    running.stop().await;
}

#[tokio::test]
async fn room_for_dead_letters_lets_a_lane_that_waits_for_it_go_on() {
    let running = Running::start(|settings| {
        settings.dead_letters.max_bytes = 400;
        settings.delivery.lanes = 1;
    })
    .await;
    let reject_types = BTreeSet::from(["poison".to_owned()]);
    running.gmfy().set_faults(Faults { reject_types, ..Faults::default() });
    for user in 1..=8 {
        let event = format!(r#"{{"userId":"{user}","type":"poison"}}"#);
        assert_eq!(post("/v1/events/", event).send(running.api()).await.status, 202);
    }
    let status = async || get("/api/status").send(running.admin()).await.json();
    let end = tokio::time::Instant::now() + crate::support::PATIENCE;
    while status().await["lanes"][0]["state"] != "dead_letters_full" {
        assert!(tokio::time::Instant::now() < end, "{}", status().await);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(running.metrics().ledger.snapshot().queued() > 0);
    // Each time there is room again for a few.
    while running.metrics().ledger.snapshot().queued() > 0 {
        assert!(tokio::time::Instant::now() < end, "{}", status().await);
        post("/api/dead-letters/discard", "").send(running.admin()).await;
    }
    running.scrape().await.assert_balanced();
    running.stop().await;
}
