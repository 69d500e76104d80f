//! kill -9 under load, many times, on one folder: nothing acknowledged is lost, first deliveries
//! are in order for each user, and duplicates stay within the bound.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gmfy_sidecar::simulator::Faults;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;

use crate::client::{self, Connection};
use crate::gmfy::Gmfy;
use crate::process::{Process, sidecar};

const CONNECTIONS: u64 = 64;
const LANES: u64 = 4;
const BATCH_EVENTS: u64 = 50;

/// Posts one user's events, numbered, until the connection breaks; returns the next number and
/// which ones were acknowledged. A number whose outcome is unknown is never used again.
async fn post_until_cut(
    api: std::net::SocketAddr,
    user: u64,
    mut next: u64,
) -> (u64, u64, Vec<u64>) {
    let mut acknowledged = Vec::new();
    let Ok(mut connection) = Connection::open(api).await else { return (user, next, acknowledged) };
    loop {
        let number = next;
        next += 1;
        let body = format!(r#"{{"userId":"u{user}","type":"t","n":{number}}}"#);
        match connection.post("/v1/events/", &body).await {
            Ok(answer) => {
                assert_eq!(answer.status, 202, "{}", answer.text());
                acknowledged.push(number);
            }
            Err(_) => return (user, next, acknowledged),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_or_reordered_by_kill_9() {
    let rounds = if crate::is_long() { 200 } else { 12 };
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let gmfy = Gmfy::start(Faults { latency: Duration::from_millis(5), ..Faults::default() }).await;
    let folder = tempfile::tempdir().unwrap();
    let batch = format!("delivery.batch_events={BATCH_EVENTS}");
    let lanes = format!("delivery.lanes={LANES}");
    let sets = [batch.as_str(), lanes.as_str(), "delivery.linger=5ms"];
    let mut next: BTreeMap<u64, u64> = (0..CONNECTIONS).map(|user| (user, 0)).collect();
    let mut acknowledged: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for _ in 0..rounds {
        let mut process = Process::spawn(sidecar(folder.path(), &gmfy.url, &sets));
        let api = process.ready().await.api;
        let mut posting = JoinSet::new();
        for (user, number) in &next {
            posting.spawn(post_until_cut(api, *user, *number));
        }
        // The load itself goes on for a random time: this is the moment of the crash, not a wait
        // for something.
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..500))).await;
        process.kill().await;
        while let Some(posted) = posting.join_next().await {
            let (user, number, numbers) = posted.unwrap();
            next.insert(user, number);
            acknowledged.entry(user).or_default().extend(numbers);
        }
    }
    let mut process = Process::spawn(sidecar(folder.path(), &gmfy.url, &sets));
    let ops = process.ready().await.ops;
    crate::eventually("the queue is empty", Duration::from_secs(120), || async {
        client::assert_account(ops).await == 0
    })
    .await;

    let mut first_deliveries: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut duplicates = 0;
    for event in gmfy.handle.events() {
        let text: serde_json::Value = serde_json::from_slice(event.text.as_ref()).unwrap();
        let number = text["n"].as_u64().unwrap();
        if seen.insert((event.user_id.clone(), number)) {
            first_deliveries.entry(event.user_id).or_default().push(number);
        } else {
            duplicates += 1;
        }
    }
    let total: usize = acknowledged.values().map(BTreeSet::len).sum();
    println!("{rounds} crashes, {total} acknowledged, {duplicates} duplicates");
    assert!(total > 1000, "too little load to say anything: {total}");
    for (user, numbers) in &acknowledged {
        let delivered = first_deliveries.get(&format!("u{user}")).cloned().unwrap_or_default();
        assert!(delivered.is_sorted(), "user {user} is out of order: {delivered:?}");
        let delivered: BTreeSet<u64> = delivered.into_iter().collect();
        let lost: Vec<_> = numbers.difference(&delivered).collect();
        assert!(lost.is_empty(), "user {user} lost {lost:?}");
    }
    assert!(duplicates <= rounds * LANES * BATCH_EVENTS, "{duplicates} duplicates");

    // A second sending of a batch has the bytes and the key of the first.
    let mut bodies = BTreeMap::new();
    for request in gmfy.handle.requests() {
        let Some(key) = request.header("idempotency-key") else { continue };
        let body = bodies.entry(key.to_owned()).or_insert_with(|| request.body.clone());
        assert_eq!(*body, request.body, "one key, two bodies");
    }
    process.signal(rustix::process::Signal::TERM);
    assert_eq!(process.ended().await.remaining(), 0);
}
