//! Applications that post one numbered event after the other, each for a user of its own, and try
//! again when a connection is refused or closed before an answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use gmfy_sidecar::simulator::{Handle, RecordedRequest};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::client::Connection;

/// Between two tries, and between two events: a load, not a flood.
const PAUSE: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(crate) struct Load {
    stop: CancellationToken,
    users: JoinSet<(u64, u64)>,
}

impl Load {
    pub(crate) fn start(api: SocketAddr, users: u64) -> Self {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for user in 0..users {
            let stop = stop.clone();
            tasks.spawn(async move { (user, post_on(api, user, stop).await) });
        }
        Self { stop, users: tasks }
    }

    /// Ends it; how many events of each user were acknowledged.
    pub(crate) async fn stop(mut self) -> BTreeMap<u64, u64> {
        self.stop.cancel();
        let mut posted = BTreeMap::new();
        while let Some(user) = self.users.join_next().await {
            posted.extend([user.unwrap()]);
        }
        posted
    }
}

async fn post_on(api: SocketAddr, user: u64, stop: CancellationToken) -> u64 {
    let mut connection = None;
    let mut number = 0;
    while !stop.is_cancelled() {
        let body = format!(r#"{{"userId":"u{user}","type":"visit","n":{number}}}"#);
        let request = format!(
            "POST /v1/events/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Idempotency-Key: {user}-{number}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = match &mut connection {
            None => match Connection::open(api).await {
                Ok(opened) => connection.insert(opened).exchange(request).await,
                Err(error) => Err(error),
            },
            Some(open) => open.exchange(request).await,
        };
        match answer {
            Ok(answer) => {
                assert_eq!(answer.status, 202, "{}", answer.text());
                number += 1;
            }
            Err(_) => connection = None,
        }
        tokio::time::sleep(PAUSE).await;
    }
    number
}

/// What may reach GMFY more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeats {
    Nothing,
    /// Batches that were cut before their answer: their outcome is unknown, so they go again, the
    /// same bytes under the same key.
    CutBatches,
}

/// Asserts that GMFY has each acknowledged event, a user's in order, once but for the `repeats`.
pub(crate) fn assert_arrived(posted: &BTreeMap<u64, u64>, gmfy: &Handle, repeats: Repeats) {
    let requests: BTreeMap<u64, RecordedRequest> =
        gmfy.requests().into_iter().map(|request| (request.order, request)).collect();
    let mut sent: BTreeMap<&str, &RecordedRequest> = BTreeMap::new();
    let mut again = BTreeSet::new();
    for request in requests.values() {
        let Some(key) = request.header("idempotency-key") else { continue };
        let first = sent.entry(key).or_insert(request);
        assert_eq!(first.body, request.body, "other bytes under the same key");
        if first.order != request.order {
            again.insert(request.order);
        }
    }
    let mut arrived: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for event in gmfy.events() {
        let text: serde_json::Value = serde_json::from_slice(event.text.as_ref()).unwrap();
        let number = text["n"].as_u64().unwrap();
        let numbers = arrived.entry(event.user_id).or_default();
        let is_repeat = again.contains(&event.request) && numbers.contains(&number);
        if repeats == Repeats::Nothing || !is_repeat {
            numbers.push(number);
        }
    }
    let total: u64 = posted.values().sum();
    println!("{total} events of {} users", posted.len());
    assert!(total > 100, "too little load to say anything: {total}");
    for (user, count) in posted {
        let numbers = arrived.remove(&format!("u{user}")).unwrap_or_default();
        let expected: Vec<u64> = (0..*count).collect();
        // What was under way when the load ended may have arrived unacknowledged.
        let within = numbers.get(..expected.len()).unwrap_or(&numbers);
        assert_eq!(within, expected, "user {user}");
        assert!(numbers.len() <= expected.len() + 1, "user {user}: {}", numbers.len());
    }
}
