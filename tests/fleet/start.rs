//! How a replica begins, and what it says when NATS is away.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::client::event;
use crate::process::{Process, sidecar};
use crate::replicas::{Gmfy, LEASE, Replica, all_in_order, get, post, sets};
use crate::server::{Server, is_there};

const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn refusal(gmfy: &Gmfy, sets: &[String]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let sets: Vec<_> = sets.iter().map(String::as_str).collect();
    let mut process = Process::spawn(sidecar(folder.path(), &gmfy.url, &sets));
    let ended = process.ended().await;
    assert_eq!(ended.status.code(), Some(1));
    ended.stderr.join("\n")
}

#[tokio::test]
async fn a_stream_that_is_not_as_the_settings_say_is_refused_and_never_changed() {
    if !is_there() {
        return;
    }
    let (server, gmfy) = (Server::alone().await, Gmfy::start().await);
    let wanted = sets(&[server.url()], 1);
    let replica = Replica::start(&gmfy, &wanted).await;
    let other = |set: &str| [wanted.clone(), vec![set.to_owned()]].concat();
    let said = refusal(&gmfy, &other("queue.nats.lanes=16")).await;
    assert!(said.contains("queue.nats.lanes is 16"), "{said}");
    let said = refusal(&gmfy, &other("queue.nats.max_bytes=100MiB")).await;
    assert!(said.contains("max_bytes is 134217728, expected 104857600"), "{said}");
    let said = refusal(&gmfy, &other("queue.nats.servers=nats://127.0.0.1:1")).await;
    assert!(said.contains("NATS can't be reached at nats://127.0.0.1:1"), "{said}");
    // The first one is not disturbed.
    let (status, answer) = post(replica.api, "a", &[event("visit", "1", 0)]).await.unwrap();
    assert_eq!(status, 202, "{answer}");
    assert_eq!(all_in_order(&gmfy.handle, 1, PATIENCE).await, 0);
}

#[tokio::test]
async fn while_nats_is_away_events_are_refused_with_retry_after_and_it_is_not_ready() {
    if !is_there() {
        return;
    }
    let (mut server, gmfy) = (Server::alone().await, Gmfy::start().await);
    let replica = Replica::start(&gmfy, &sets(&[server.url()], 1)).await;
    let (status, _) = post(replica.api, "0", &[event("visit", "1", 0)]).await.unwrap();
    assert_eq!(status, 202);
    server.kill().await;
    let end = Instant::now() + PATIENCE;
    // What was under way when it went is of unknown outcome.
    let refused = loop {
        let (status, answer) = post(replica.api, "1", &[event("visit", "1", 1)]).await.unwrap();
        match status {
            503 => break answer,
            status => assert!(status == 500 && Instant::now() < end, "{answer}"),
        }
    };
    assert!(refused.contains("retry-after: 5"), "{refused}");
    assert!(refused.contains("queue-unreachable"), "{refused}");
    let (status, answer) = get(replica.ops, "/readyz").await.unwrap();
    assert_eq!(status, 503);
    assert!(answer.contains("the queue can't be reached"), "{answer}");

    server.start_again().await;
    while get(replica.ops, "/readyz").await.unwrap().0 != 200 {
        assert!(Instant::now() < end + PATIENCE, "it is not ready again");
        sleep(LEASE / 10).await;
    }
    // The same key: nothing is taken twice, whatever became of it before.
    let (status, answer) = post(replica.api, "1", &[event("visit", "1", 1)]).await.unwrap();
    assert_eq!(status, 202, "{answer}");
    assert_eq!(all_in_order(&gmfy.handle, 2, PATIENCE).await, 0);
}
