//! Every fault at once: all arrives, in order, the same bytes under the same key.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use gmfy_sidecar::simulator::{Handle, Outcome, RecordedRequest, Scripted};
use http::{HeaderValue, StatusCode};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio_util::sync::CancellationToken;

use crate::client::{event, number};
use crate::proxy::{Breaks, Proxy};
use crate::rig::{Gmfy, Running, scale, settings};
use crate::scrape;

const USERS: usize = 40;
const EACH: usize = 30;

/// A fifth each of 500, 429 and 503; the rest is taken.
fn answers(seed: u64, count: usize) -> Vec<Scripted> {
    let mut rng = StdRng::seed_from_u64(seed);
    let now = HeaderValue::from_static("0");
    let answer = |drawn: usize| match drawn {
        0 | 1 => Scripted::status(StatusCode::INTERNAL_SERVER_ERROR),
        2 | 3 => Scripted::status(StatusCode::TOO_MANY_REQUESTS).retry_after(now.clone()),
        4 | 5 => Scripted::status(StatusCode::SERVICE_UNAVAILABLE),
        _ => Scripted::status(StatusCode::CREATED),
    };
    let mut answers: Vec<_> = (0..count).map(|_| answer(rng.random_range(0..10))).collect();
    // A Retry-After that takes time, once.
    answers[3] = Scripted::status(StatusCode::TOO_MANY_REQUESTS).retry_after(HeaderValue::from(1));
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_every_fault_at_once_all_arrives_in_order_and_resent_batches_are_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let gmfy = Gmfy::start().await;
    gmfy.handle.answer_next(answers(1, 9_000));
    // A batch is about 1,700 bytes with its head, an answer 130.
    let breaks = Breaks { cut: 0.2, stall: 0.2, delay: 0.1, up: 1_500, down: 120 };
    let proxy = Proxy::start(gmfy.address, breaks, 2).await;
    let mut settings = settings(proxy.address, dir.path());
    settings.upstream.timeout = Duration::from_millis(300);
    settings.delivery.batch_events = 20;
    let sidecar = Running::start(settings).await;

    let begun = Instant::now();
    let watched = CancellationToken::new();
    let each = EACH * scale();
    let drive = async {
        let mut client = sidecar.client().await;
        for first in (0..each).step_by(5) {
            let of_user = |user: usize| (first..first + 5).map(move |number| (user, number));
            let events: Vec<_> = (0..USERS)
                .flat_map(of_user)
                .map(|(user, number)| event("visit", &format!("user-{user}"), number))
                .collect();
            client.accepted(&events).await;
        }
        sidecar.drained(Duration::from_secs(40 * scale() as u64)).await;
        watched.cancel();
    };
    let (scrapes, ()) = tokio::join!(scrape::watch(sidecar.ops, watched.clone()), drive);

    let requests = gmfy.handle.requests();
    let (met, took) = (proxy.met(), begun.elapsed());
    println!("{} requests recorded, {met:?}, {scrapes} scrapes, {took:?}", requests.len());
    assert!(scrapes >= 200, "{scrapes}");
    for share in [met.cut, met.stalled] {
        assert!(share * 100 >= met.exchanges * 10, "too few faults to mean anything: {met:?}");
    }
    every_event_in_order(&gmfy.handle, each);
    one_key_one_body(&requests);
    never_two_at_once(&requests);
    assert_eq!(sidecar.stop().await.remaining, 0);
}

/// First deliveries of each user are 0, 1, 2, … without a gap.
fn every_event_in_order(gmfy: &Handle, each: usize) {
    let mut next: HashMap<String, usize> = HashMap::new();
    let mut seen = HashSet::new();
    for event in gmfy.events() {
        let number = number(&event.text);
        if seen.insert((event.user_id.clone(), number)) {
            let expected = next.entry(event.user_id.clone()).or_default();
            assert_eq!(number, *expected, "out of order for {}", event.user_id);
            *expected += 1;
        }
    }
    assert_eq!(next.len(), USERS);
    assert!(next.values().all(|count| *count == each), "{next:?}");
}

/// The events of a request: user and number.
fn events(request: &RecordedRequest) -> Vec<(String, usize)> {
    let events: Vec<Box<serde_json::value::RawValue>> =
        serde_json::from_slice(&request.body).unwrap();
    let pair = |event: &serde_json::value::RawValue| {
        let value: serde_json::Value = serde_json::from_str(event.get()).unwrap();
        (value["userId"].as_str().unwrap().to_owned(), number(event.get().as_bytes()))
    };
    events.iter().map(|event| pair(event)).collect()
}

fn key(request: &RecordedRequest) -> &str {
    request.header("idempotency-key").unwrap()
}

/// A key stands for one body; and nothing here being refused, an event goes under one key for ever.
fn one_key_one_body(requests: &[RecordedRequest]) {
    let mut bodies: HashMap<&str, &RecordedRequest> = HashMap::new();
    let mut keys: HashMap<(String, usize), &str> = HashMap::new();
    let mut resent = 0;
    for request in requests {
        let first = bodies.entry(key(request)).or_insert(request);
        assert_eq!(first.body, request.body, "other bytes under the same key");
        resent += usize::from(first.order != request.order);
        for event in events(request) {
            let before = keys.insert(event.clone(), key(request));
            assert!(
                before.is_none_or(|before| before == key(request)),
                "{event:?} changed its key"
            );
        }
    }
    assert!(resent > requests.len() / 4, "only {resent} of {} were resent", requests.len());
}

/// Requests of one user don't overlap. One that we gave up on may still be seen as under way when
/// the same batch comes again: GMFY learns of our hanging up a moment later.
fn never_two_at_once(requests: &[RecordedRequest]) {
    let mut of_user: HashMap<String, Vec<&RecordedRequest>> = HashMap::new();
    for request in requests {
        let users: HashSet<_> = events(request).into_iter().map(|(user, _)| user).collect();
        for user in users {
            of_user.entry(user).or_default().push(request);
        }
    }
    for (user, requests) in of_user {
        for (index, one) in requests.iter().enumerate() {
            for other in requests.iter().skip(index + 1).filter(|other| one.overlaps(other)) {
                let given_up = one.outcome == Some(Outcome::Unanswered) && key(one) == key(other);
                assert!(given_up, "{user} was in two requests at once: {one:?} {other:?}");
            }
        }
    }
}
