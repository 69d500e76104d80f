//! Told to stop, whatever it waits for: it ends within its deadline, and what is left is on disk.

use std::time::{Duration, Instant};

use gmfy_sidecar::config::Settings;
use gmfy_sidecar::simulator::Faults;
use http::{HeaderValue, StatusCode};

use crate::client::event;
use crate::rig::{Gmfy, Running, settings, until};

const DEADLINE: Duration = Duration::from_secs(2);
/// For the scheduler of a busy machine, and closing the files.
const SLACK: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(60);
const EVENTS: u64 = 10;

struct Wait {
    faults: Faults,
    settings: fn(&mut Settings),
    /// Whether the wait has begun.
    begun: fn(&Running, &Gmfy) -> bool,
    /// How many events are left.
    left: u64,
    /// Nothing could be delivered any more, so that it ends long before its deadline.
    at_once: bool,
}

async fn stopped_in(wait: Wait) {
    let dir = tempfile::tempdir().unwrap();
    let gmfy = Gmfy::start().await;
    gmfy.handle.set_faults(wait.faults);
    let mut settings = settings(gmfy.address, dir.path());
    settings.shutdown.deadline = DEADLINE;
    (wait.settings)(&mut settings);
    let sidecar = Running::start(settings.clone()).await;
    let mut client = sidecar.client().await;
    let events: Vec<_> = (0..EVENTS).map(|n| event("visit", "one-user", n as usize)).collect();
    client.accepted(&events).await;
    drop(client);
    until("the wait", Duration::from_secs(10), || (wait.begun)(&sidecar, &gmfy)).await;

    let told = Instant::now();
    let stopped = sidecar.stop().await;
    let took = told.elapsed();
    println!("stopped in {took:?}, {} left", stopped.remaining);
    assert!(took < DEADLINE + SLACK, "{took:?}");
    assert!(!wait.at_once || took < DEADLINE, "nothing was to be waited for: {took:?}");
    assert_eq!(stopped.remaining, wait.left);

    // What is left is there again, and arrives.
    gmfy.handle.set_faults(Faults::default());
    let again = Running::start(settings).await;
    assert_eq!(again.metrics.ledger.snapshot().recovered, wait.left);
    again.drained(Duration::from_secs(10)).await;
    assert!(gmfy.handle.counts().events >= EVENTS);
    assert_eq!(again.stop().await.remaining, 0);
}

fn answering(status: u16) -> Faults {
    Faults { status: Some(StatusCode::from_u16(status).unwrap()), ..Faults::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_nothing_to_do() {
    let begun = |sidecar: &Running, _: &Gmfy| sidecar.queued() == 0;
    let faults = Faults::default();
    stopped_in(Wait { faults, settings: |_| {}, begun, left: 0, at_once: true }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_batch_waits_for_more_events_it_is_sent_at_once() {
    let begun = |sidecar: &Running, _: &Gmfy| sidecar.queued() == EVENTS;
    let settings = |settings: &mut Settings| settings.delivery.linger = LONG;
    let faults = Faults::default();
    stopped_in(Wait { faults, settings, begun, left: 0, at_once: true }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_a_retry() {
    // A retry within the deadline would be refused as the first was.
    let settings = |settings: &mut Settings| {
        settings.delivery.retry_initial = LONG;
        settings.delivery.retry_max = LONG;
    };
    let begun = |sidecar: &Running, _: &Gmfy| sidecar.is("retrying");
    let faults = answering(500);
    stopped_in(Wait { faults, settings, begun, left: EVENTS, at_once: false }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_request_hangs() {
    let settings = |settings: &mut Settings| settings.upstream.timeout = LONG;
    let begun = |_: &Running, gmfy: &Gmfy| gmfy.handle.requests().len() == 1;
    let faults = Faults { stall: 1.0, ..Faults::default() };
    stopped_in(Wait { faults, settings, begun, left: EVENTS, at_once: false }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_breaker_is_open() {
    let begun = |sidecar: &Running, _: &Gmfy| sidecar.is("open");
    let faults = answering(503);
    stopped_in(Wait { faults, settings: |_| {}, begun, left: EVENTS, at_once: true }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_misconfigured() {
    let begun = |sidecar: &Running, _: &Gmfy| sidecar.is("misconfigured");
    let faults = answering(401);
    stopped_in(Wait { faults, settings: |_| {}, begun, left: EVENTS, at_once: true }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_gmfy_wants_to_be_left_alone() {
    let begun = |sidecar: &Running, _: &Gmfy| sidecar.is("retrying");
    let retry_after = Some(HeaderValue::from(300));
    let faults = Faults { retry_after, ..answering(429) };
    stopped_in(Wait { faults, settings: |_| {}, begun, left: EVENTS, at_once: true }).await;
}
