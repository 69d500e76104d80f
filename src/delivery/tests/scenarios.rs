//! Single promises, each in the situation that it is about.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::memory::MemoryLog;
use super::upstream::{Arrived, FakeUpstream, Reaction};
use super::{Running, clock, settings};
use crate::config::{DeadLettersFull, EventKind, OnUnknown};
use crate::delivery::{Delivery, LaneState, Stop, UpstreamState};
use crate::queue::UserHash;
use crate::telemetry::heartbeat::BEAT;
use crate::telemetry::ledger::{DeadLetterReason, DropReason};

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn filled(events: u64, users: u32) -> MemoryLog {
    let log = MemoryLog::new();
    for number in 0..events {
        let user = u32::try_from(number % u64::from(users)).unwrap();
        log.append(user, EventKind::Classic, clock().now());
    }
    log
}

fn accepting() -> FakeUpstream {
    FakeUpstream::new(|_| Reaction::status(201))
}

#[tokio::test(start_paused = true)]
async fn a_backlog_is_delivered_in_full_batches() {
    let (log, upstream) = (filled(4_000, 100), accepting());
    let running = Running::begin(settings(4), &log, &upstream, &clock());
    running.empty().await;
    assert_eq!(upstream.check().len(), 4_000);
    assert!(upstream.requests().len() <= 12, "{}", upstream.requests().len());
}

#[tokio::test(start_paused = true)]
async fn three_poison_events_among_two_thousand_take_nobody_down() {
    let (log, upstream) = (filled(2_000, 50), accepting());
    let poison = BTreeSet::from([100, 101, 1_500]);
    let bad = poison.clone();
    upstream.react(move |events: &[Arrived]| {
        Reaction::status(if events.iter().any(|e| bad.contains(&e.n)) { 422 } else { 201 })
    });
    let running = Running::begin(settings(4), &log, &upstream, &clock());
    running.empty().await;
    let times = upstream.check();
    assert_eq!((times.len(), times.values().max()), (1_997, Some(&1)));
    let letters = log.letters();
    assert!(letters.iter().map(|letter| letter.sequence.get()).eq(poison));
    assert!(letters.iter().all(|l| l.status == Some(422) && l.answer == "said so"));
    assert!(letters.iter().all(|l| l.attempts >= 2));
    assert!(upstream.requests().len() < 150, "{}", upstream.requests().len());
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_is_halved_and_the_size_remembered() {
    let (log, upstream) = (filled(5_000, 50), accepting());
    upstream.react(|events| Reaction::status(if events.len() > 100 { 413 } else { 201 }));
    let running = Running::begin(settings(1), &log, &upstream, &clock());
    running.empty().await;
    let refused = upstream.requests().iter().filter(|(_, len)| *len > 100).count();
    assert_eq!(upstream.check().len(), 5_000);
    assert!(refused <= 4, "{refused} requests were too large");
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_refuses_everything_is_misconfigured_until_an_operator_says_otherwise() {
    let (log, upstream) = (filled(400, 40), accepting());
    upstream.react(|_| Reaction::status(400));
    let running = Running::begin(settings(2), &log, &upstream, &clock());
    tokio::time::sleep(secs(200)).await;
    assert_eq!(running.controls.status().upstream, UpstreamState::Misconfigured);
    let buried = log.letters().len();
    assert!(buried < 34, "{buried} dead letters");
    let requests = upstream.requests();
    let probes: Vec<_> = requests.iter().filter(|(at, _)| at.elapsed() < secs(100)).collect();
    assert!((2..=4).contains(&probes.len()) && probes.iter().all(|(_, len)| *len == 1));
    running.controls.resume(true);
    running.empty().await;
    assert_eq!(log.letters().len(), 400);
    assert_eq!(running.controls.status().letting_go, Some(400));
}

#[tokio::test(start_paused = true)]
async fn a_mended_upstream_that_refused_everything_is_found_by_the_probe() {
    let (log, upstream) = (filled(400, 40), accepting());
    upstream.react(|_| Reaction::status(400));
    let running = Running::begin(settings(2), &log, &upstream, &clock());
    tokio::time::sleep(secs(100)).await;
    upstream.react(|_| Reaction::status(201));
    tokio::time::sleep(secs(40)).await;
    running.empty().await;
    assert_eq!(upstream.check().len() + log.letters().len(), 400);
    assert_eq!(running.controls.status().upstream, UpstreamState::Up);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_key_pauses_everything_until_it_is_changed() {
    for status in [301, 401, 403, 404, 405, 407, 501] {
        let (log, upstream) = (filled(100, 10), accepting());
        upstream.react(move |_| Reaction::status(status));
        let running = Running::begin(settings(4), &log, &upstream, &clock());
        tokio::time::sleep(secs(65)).await;
        assert_eq!(running.controls.status().upstream, UpstreamState::Misconfigured);
        assert!(upstream.requests().len() <= 7, "{}", upstream.requests().len());
        let gauge = running.metrics.upstream_state.with_label_values(&["misconfigured"]);
        assert_eq!(gauge.get(), 1);
        upstream.react(|_| Reaction::status(201));
        running.controls.reconfigured();
        tokio::time::timeout(secs(1), running.empty()).await.unwrap();
        assert!(log.letters().is_empty());
        assert_eq!(running.controls.status().upstream, UpstreamState::Up);
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_sees_few_attempts_and_ends_soon_after() {
    let (log, upstream) = (filled(20_000, 1_000), accepting());
    upstream.react(|_| Reaction::status(503));
    let running = Running::begin(settings(4), &log, &upstream, &clock());
    tokio::time::sleep(secs(600)).await;
    assert_eq!(running.controls.status().upstream, UpstreamState::Open);
    let attempts = upstream.requests().len();
    assert!((110..=290).contains(&attempts), "{attempts} attempts in ten minutes");
    upstream.react(|_| Reaction::status(201));
    let back = Instant::now();
    running.empty().await;
    assert!(back.elapsed() < secs(7), "{:?}", back.elapsed());
    assert_eq!(upstream.check().len(), 20_000);
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_silences_all_lanes_unless_an_operator_resumes() {
    let (log, upstream) = (filled(400, 100), accepting());
    upstream.react(|_| Reaction::retry_after(429, secs(300)));
    let running = Running::begin(settings(4), &log, &upstream, &clock());
    tokio::time::sleep(secs(299)).await;
    assert!(upstream.requests().len() <= 4);
    upstream.react(|_| Reaction::status(201));
    running.controls.resume(false);
    tokio::time::timeout(secs(1), running.empty()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn of_parked_batches_only_the_unique_events_are_sent_again() {
    let (log, upstream) = (MemoryLog::new(), accepting());
    for number in 0..40 {
        let kind = if number % 4 == 0 { EventKind::Unique } else { EventKind::Action };
        log.append(number % 5, kind, clock().now());
    }
    let mut first = true;
    upstream.react(move |_| {
        if std::mem::take(&mut first) { Reaction::broken(false) } else { Reaction::status(201) }
    });
    let mut settings = settings(1);
    settings.delivery.on_unknown = OnUnknown::Park;
    let running = Running::begin(settings, &log, &upstream, &clock());
    running.empty().await;
    assert_eq!((upstream.check().len(), log.letters().len()), (10, 30));
    assert!(log.letters().iter().all(|letter| letter.reason == DeadLetterReason::Unknown));
}

#[tokio::test(start_paused = true)]
async fn what_is_too_old_becomes_a_dead_letter_before_it_is_sent() {
    let (log, upstream, clock) = (MemoryLog::new(), accepting(), clock());
    log.append(1, EventKind::Classic, clock.now());
    clock.advance(secs(100));
    log.append(1, EventKind::Classic, clock.now());
    let mut settings = settings(1);
    settings.max_age = Some(secs(60));
    let running = Running::begin(settings, &log, &upstream, &clock);
    running.empty().await;
    assert!(upstream.check().keys().eq(&[2]));
    assert_eq!(log.letters()[0].reason, DeadLetterReason::Expired);
}

#[tokio::test(start_paused = true)]
async fn full_dead_letters_hold_the_lane_or_are_dropped_by_setting() {
    for when_full in [DeadLettersFull::Pause, DeadLettersFull::Drop] {
        let (log, upstream) = (filled(10, 1), accepting());
        log.max_letters(Some(0));
        upstream.react(|events| {
            Reaction::status(if events.iter().any(|e| e.n == 5) { 400 } else { 201 })
        });
        let mut settings = settings(1);
        settings.dead_letters_full = when_full;
        let running = Running::begin(settings, &log, &upstream, &clock());
        if when_full == DeadLettersFull::Pause {
            tokio::time::sleep(secs(60)).await;
            let state = running.controls.status().lanes[0].state;
            assert_eq!(state, LaneState::DeadLettersFull);
            assert!(log.unsettled().contains(&5));
            log.max_letters(None);
            running.controls.dead_letters_freed();
        }
        running.empty().await;
        assert_eq!(upstream.check().len(), 9);
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_does_not_starve_those_behind_it() {
    let log = MemoryLog::new();
    for _ in 0..20_000 {
        log.append(1, EventKind::Classic, clock().now());
    }
    for user in 2..200 {
        log.append(user, EventKind::Classic, clock().now());
    }
    let upstream = accepting();
    let running = Running::begin(settings(1), &log, &upstream, &clock());
    running.empty().await;
    upstream.check();
    let last = upstream.taken().iter().rposition(|event| event.u > 1).unwrap();
    assert!(last < 2_500, "the last of the others came at {last}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_lane_only_looks_round_at_its_beat_and_a_lone_event_waits_no_longer_than_linger() {
    let (log, upstream) = (MemoryLog::new(), accepting());
    let running = Running::begin(settings(4), &log, &upstream, &clock());
    tokio::time::sleep(secs(1)).await;
    let (reads, saves) = (log.reads(), log.saves());
    tokio::time::sleep(secs(3_600)).await;
    assert_eq!((log.reads(), log.saves()), (reads + 4 * 3_600 / BEAT.as_secs(), saves));
    log.append(1, EventKind::Classic, clock().now());
    tokio::time::sleep(Duration::from_millis(230)).await;
    assert_eq!(upstream.taken().len(), 1);
    drop(running);
}

#[tokio::test(start_paused = true)]
async fn an_idle_lanes_cursor_follows_the_others() {
    let (log, upstream) = (filled(20_000, 1), accepting());
    let running = Running::begin(settings(4), &log, &upstream, &clock());
    running.empty().await;
    tokio::time::sleep(secs(5)).await;
    for cursor in log.cursors() {
        assert!(cursor.watermarks.iter().all(|(_, watermark)| watermark.get() > 10_000));
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_everything_until_resumed() {
    let (log, upstream) = (filled(100, 10), accepting());
    let running = Running::begin(settings(2), &log, &upstream, &clock());
    running.controls.pause();
    tokio::time::sleep(secs(600)).await;
    assert!(upstream.requests().is_empty());
    assert_eq!(running.controls.flush(secs(1)).await, 100);
    running.controls.resume(false);
    running.empty().await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_delivers_what_can_be_and_ends_at_once_where_nothing_can() {
    let (log, upstream) = (filled(3_000, 100), accepting());
    let running = Running::begin(settings(4), &log, &upstream, &clock());
    running.stop.drain.cancel();
    running.join().await.unwrap();
    assert!(log.unsettled().is_empty());

    for status in [503, 401] {
        let (log, upstream) = (filled(3_000, 100), accepting());
        upstream.react(move |_| Reaction::status(status));
        let running = Running::begin(settings(4), &log, &upstream, &clock());
        tokio::time::sleep(secs(100)).await;
        let asked = Instant::now();
        running.stop.drain.cancel();
        running.join().await.unwrap();
        assert!(asked.elapsed() <= Duration::from_millis(20), "{status}: {:?}", asked.elapsed());
        assert_eq!(log.unsettled().len(), 3_000);
    }
}

#[tokio::test(start_paused = true)]
async fn an_abort_ends_any_wait_now() {
    for millis in [0, 5, 15, 25, 300, 2_000, 100_000] {
        let (log, upstream) = (filled(3_000, 100), accepting());
        upstream.react(|_| Reaction::status(503));
        let running = Running::begin(settings(4), &log, &upstream, &clock());
        tokio::time::sleep(Duration::from_millis(millis)).await;
        let asked = Instant::now();
        running.stop.abort.cancel();
        running.join().await.unwrap();
        assert_eq!(asked.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn a_conflict_after_an_unknown_outcome_is_retried_before_it_is_blamed_on_the_events() {
    let (log, upstream) = (filled(10, 2), accepting());
    let mut requests = 0;
    upstream.react(move |_| {
        requests += 1;
        match requests {
            1 => Reaction::broken(true),
            2..=4 => Reaction::status(409),
            _ => Reaction::status(200),
        }
    });
    let running = Running::begin(settings(1), &log, &upstream, &clock());
    running.empty().await;
    assert!(log.letters().is_empty());
    assert!(upstream.requests().iter().all(|(_, len)| *len == 10));
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_the_batch_on_its_way_goes_out_the_same_even_with_other_settings() {
    for lanes in [1, 3] {
        let (log, upstream) = (filled(100, 10), accepting());
        let running = Running::begin(settings(1), &log, &upstream, &clock());
        tokio::time::sleep(Duration::from_millis(205)).await;
        assert_eq!((upstream.requests().len(), upstream.taken().len()), (1, 0));
        drop(running);
        for user in 0..50 {
            log.append(user, EventKind::Classic, clock().now());
        }
        let mut settings = settings(lanes);
        settings.delivery.batch_events = 7;
        let running = Running::begin(settings, &log, &upstream, &clock());
        tokio::time::sleep(Duration::from_millis(15)).await;
        assert_eq!((upstream.requests()[1].1, upstream.keys()), (100, 1));
        running.empty().await;
        assert_eq!(upstream.check().len(), 150);
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_wants_to_know_is_told_of_users_whose_events_were_or_may_have_been_taken() {
    type React = fn() -> Reaction;
    let table: [(React, bool); 6] = [
        (|| Reaction::status(201), true),
        (|| Reaction::broken(false), true),
        (|| Reaction::status(504), true),
        (|| Reaction::status(500), false),
        (|| Reaction::status(422), false),
        (|| Reaction::status(401), false),
    ];
    for (react, changes) in table {
        let (log, upstream) = (filled(4, 2), FakeUpstream::new(move |_| react()));
        let told = Arc::new(Mutex::new(BTreeSet::new()));
        let telling = Arc::clone(&told);
        let metrics = Arc::clone(log.metrics());
        let delivery = Delivery::new(settings(4), log, upstream, clock(), metrics).unwrap();
        let delivery = delivery.on_change(move |users| telling.lock().unwrap().extend(users));
        let stop = Stop::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(delivery.run(stop.clone()));
        tokio::time::sleep(secs(5)).await;
        stop.abort.cancel();
        tasks.join_next().await.unwrap().unwrap().unwrap();
        let expected = ["0", "1"].map(UserHash::of).into_iter().filter(|_| changes);
        assert_eq!(*told.lock().unwrap(), expected.collect(), "{:?}", react().result);
    }
}

#[tokio::test(start_paused = true)]
async fn what_lies_before_the_horizon_is_dropped_but_for_what_is_in_flight() {
    let (log, clock) = (filled(100, 7), clock());
    let upstream = FakeUpstream::new(|_| Reaction::broken(false)).with_latency(secs(10));
    let mut settings = settings(2);
    settings.delivery.batch_events = 10;
    let running = Running::begin(settings, &log, &upstream, &clock);
    let dropped = || {
        let counts = running.metrics.ledger.snapshot();
        counts.dropped.get(&DropReason::QueueFull).copied().unwrap_or_default()
    };
    tokio::time::sleep(secs(1)).await;
    assert_eq!(upstream.requests().len(), 2, "a request of each lane");
    log.drop_before(91);
    tokio::time::sleep(secs(5)).await;
    assert_eq!(dropped(), 0, "first these requests end");
    // Then all goes, also what is to be sent again.
    tokio::time::sleep(secs(5)).await;
    assert_eq!((dropped(), log.unsettled()), (90, (91..=100).collect()));
    // A lane that waits, for an operator or for GMFY, drops at once.
    running.controls.pause();
    tokio::time::sleep(secs(30)).await;
    for number in 0..50 {
        log.append(number % 7, EventKind::Classic, clock.now());
    }
    log.drop_before(121);
    tokio::time::sleep(secs(1)).await;
    assert_eq!(dropped(), 120);
    upstream.react(|_| Reaction::status(200));
    running.controls.resume(false);
    running.empty().await;
    assert_eq!(upstream.check().into_keys().collect::<Vec<_>>(), (121..=150).collect::<Vec<_>>());
    assert_eq!(dropped(), 120);
}
