//! A lane's beat: kept while it waits, whatever for, and missed when it hangs.

use std::time::Duration;

use super::memory::MemoryLog;
use super::upstream::{FakeUpstream, Reaction};
use super::{Running, clock, settings};
use crate::clock::Clock;
use crate::config::EventKind;
use crate::telemetry::heartbeat::{BEAT, STUCK};

/// Lets both clocks go on together.
async fn pass(time: Duration, clock: &Clock) {
    tokio::time::sleep(time).await;
    clock.advance(time);
    // The beats that were due.
    tokio::time::sleep(BEAT + Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn waiting_lanes_are_alive() {
    let (log, clock) = (MemoryLog::new(), clock());
    let upstream = FakeUpstream::new(|_| Reaction::status(503));
    let running = Running::begin(settings(2), &log, &upstream, &clock);
    for wait in ["idle", "behind the breaker", "paused"] {
        match wait {
            "behind the breaker" => _ = log.append(1, EventKind::Classic, clock.now()),
            "paused" => running.controls.pause(),
            _ => {}
        }
        for _ in 0..30 {
            pass(STUCK, &clock).await;
            assert_eq!(running.metrics.heartbeats.alive(), Ok(()), "{wait}");
        }
    }
    running.stop.drain.cancel();
    running.join().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lane_whose_request_never_ends_is_noticed_after_its_timeout() {
    let (log, clock) = (MemoryLog::new(), clock());
    log.append(1, EventKind::Classic, clock.now());
    let hangs = Duration::from_secs(86_400);
    let upstream = FakeUpstream::new(|_| Reaction::status(201)).with_latency(hangs);
    let settings = settings(2);
    let timeout = settings.upstream_timeout;
    let running = Running::begin(settings, &log, &upstream, &clock);
    pass(timeout, &clock).await;
    assert_eq!(upstream.requests().len(), 1);
    assert_eq!(running.metrics.heartbeats.alive(), Ok(()), "it may take so long");
    pass(STUCK + Duration::from_secs(1), &clock).await;
    let why = running.metrics.heartbeats.alive().unwrap_err();
    assert!(why.starts_with("the delivery lane ") && !why.contains(';'), "one alone: {why}");
    running.stop.abort.cancel();
    running.join().await.unwrap();
    assert_eq!(log.metrics().heartbeats.alive(), Ok(()), "what ended is no longer looked at");
}
