//! Other settings while delivery runs: nothing is lost, repeated or out of order.

use std::time::Duration;

use super::memory::MemoryLog;
use super::upstream::{FakeUpstream, Reaction};
use super::{Running, clock, settings};
use crate::config::{DeadLettersFull, EventKind, OnUnknown};
use crate::delivery::Settings;
use crate::telemetry::ledger::DeadLetterReason;

fn append(log: &MemoryLog, events: u64, users: u64) {
    for number in 0..events {
        log.append(u32::try_from(number % users).unwrap(), EventKind::Classic, clock().now());
    }
}

fn with(change: impl FnOnce(&mut Settings)) -> Settings {
    let mut changed = settings(4);
    change(&mut changed);
    changed
}

#[tokio::test(start_paused = true)]
async fn lanes_change_again_and_again_under_load_and_faults() {
    let log = MemoryLog::new();
    let mut request = 0;
    let upstream = FakeUpstream::new(move |_| {
        request += 1;
        match request % 7 {
            0 => Reaction::status(503),
            3 => Reaction::broken(false),
            _ => Reaction::status(201),
        }
    });
    let running = Running::begin(settings(4), &log, &upstream, &clock());
    for round in 0..60 {
        append(&log, 300, 40);
        let lanes = [1, 8, 3, 4, 16][round % 5];
        running
            .controls
            .reload(with(|s| {
                s.delivery.lanes = lanes;
                s.delivery.batch_events = 20 + round;
                s.delivery.linger = Duration::from_millis(5);
            }))
            .unwrap();
        tokio::time::sleep(Duration::from_millis(35)).await;
    }
    running.empty().await;
    let times = upstream.check();
    assert_eq!((times.len(), times.values().max()), (60 * 300, Some(&1)));
    assert_eq!(running.controls.status().lanes.len(), 16, "the last number");
    running.stop.drain.cancel();
    running.join().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_unknown_outcome_is_finished_first_with_the_same_key() {
    let log = MemoryLog::new();
    append(&log, 10, 10);
    let upstream = FakeUpstream::new(|_| Reaction::broken(false));
    let running = Running::begin(settings(1), &log, &upstream, &clock());
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(upstream.requests().len() > 1);
    running.controls.reload(with(|s| s.delivery.batch_events = 2)).unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(upstream.keys(), 1, "it keeps its key and bytes");
    upstream.react(|_| Reaction::status(201));
    running.empty().await;
    assert_eq!((upstream.keys(), upstream.check().len()), (1, 10));
}

#[tokio::test(start_paused = true)]
async fn what_is_known_not_to_be_taken_follows_the_new_settings_at_once() {
    let log = MemoryLog::new();
    append(&log, 10, 1);
    let upstream = FakeUpstream::new(|_| Reaction::status(503));
    let park = |s: &mut Settings| s.delivery.on_unknown = OnUnknown::Park;
    let running = Running::begin(with(park), &log, &upstream, &clock());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let changed = with(|s| {
        park(s);
        s.delivery.batch_events = 2;
    });
    running.controls.reload(changed).unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    upstream.react(|_| Reaction::status(201));
    running.empty().await;
    assert!(log.letters().is_empty(), "nothing was unknown, so nothing is parked");
    assert_eq!(upstream.check().len(), 10);
    let (_, last) = *upstream.requests().last().unwrap();
    assert_eq!(last, 2);
}

#[tokio::test(start_paused = true)]
async fn linger_that_was_long_ends_when_it_is_shortened() {
    let log = MemoryLog::new();
    append(&log, 1, 1);
    let upstream = FakeUpstream::new(|_| Reaction::status(201));
    let long = with(|s| s.delivery.linger = Duration::from_secs(3_600));
    let running = Running::begin(long, &log, &upstream, &clock());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(upstream.requests().is_empty());
    running.controls.reload(settings(4)).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(upstream.taken().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn lanes_that_wait_for_room_among_the_dead_letters_may_drop_them_instead() {
    for (status, parks) in [(422, false), (504, true)] {
        let log = MemoryLog::new();
        log.max_letters(Some(0));
        append(&log, 1, 1);
        let upstream = FakeUpstream::new(move |_| Reaction::status(status));
        let on_unknown = if parks { OnUnknown::Park } else { OnUnknown::Resend };
        let before = with(|s| s.delivery.on_unknown = on_unknown);
        let running = Running::begin(before.clone(), &log, &upstream, &clock());
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(running.controls.flush(Duration::ZERO).await, 1);
        // Another change first: it is taken while the lane waits, and waits on.
        let other = Settings { max_age: Some(Duration::from_secs(86_400)), ..before.clone() };
        running.controls.reload(other).unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(running.controls.flush(Duration::ZERO).await, 1);
        let drops = Settings { dead_letters_full: DeadLettersFull::Drop, ..before };
        running.controls.reload(drops).unwrap();
        running.empty().await;
        assert_eq!(upstream.keys(), if parks { 1 } else { upstream.requests().len() });
        assert!(log.letters().is_empty());
    }
    // Of what was parked and finds room, the reason is the true one.
    let log = MemoryLog::new();
    log.max_letters(Some(0));
    append(&log, 1, 1);
    let upstream = FakeUpstream::new(|_| Reaction::status(504));
    let park = |s: &mut Settings| s.delivery.on_unknown = OnUnknown::Park;
    let running = Running::begin(with(park), &log, &upstream, &clock());
    tokio::time::sleep(Duration::from_secs(60)).await;
    running
        .controls
        .reload(with(|s| {
            park(s);
            s.delivery.lanes = 2;
        }))
        .unwrap();
    log.max_letters(None);
    running.controls.dead_letters_freed();
    running.empty().await;
    assert_eq!(log.letters()[0].reason, DeadLetterReason::Unknown);
    assert_eq!(upstream.requests().len(), 1, "it was never sent again");
}
