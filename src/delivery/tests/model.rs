//! Random faults and crashes against a plain model of what is promised.

use std::time::Duration;

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::memory::MemoryLog;
use super::upstream::{FakeUpstream, Reaction};
use super::{Running, clock, settings};
use crate::config::EventKind;

/// One life of the process.
#[derive(Clone, Debug)]
struct Life {
    lanes: usize,
    /// Events appended, one after the other.
    events: usize,
    millis: u64,
    /// Per cent of requests that fail in some way.
    faults: u32,
    fail_store_every: Option<u64>,
    /// When its dead letters are put back, if they are.
    requeues_at: Option<u64>,
    /// Whether everything before its events is to be dropped meanwhile.
    overflows: bool,
    drains: bool,
}

fn life() -> impl Strategy<Value = Life> {
    let store = prop::option::weighted(0.3, 3u64..20);
    let requeues_at = prop::option::weighted(0.4, 0u64..4_000);
    let overflows = prop::bool::weighted(0.2);
    ((1usize..5, 0usize..60, 0u64..4_000, 0u32..90), (store, requeues_at, overflows, any::<bool>()))
        .prop_map(|((lanes, events, millis, faults), (store, requeues_at, overflows, drains))| {
            Life {
                lanes,
                events,
                millis,
                faults,
                fail_store_every: store,
                requeues_at,
                overflows,
                drains,
            }
        })
}

const fn is_poison(number: u64) -> bool {
    number % 23 == 7
}

async fn live(lives: Vec<Life>, seed: u64) {
    let (log, clock) = (MemoryLog::new(), clock());
    let mut rng = StdRng::seed_from_u64(seed);
    let upstream = FakeUpstream::new(|_| Reaction::status(200));
    let mut horizon = 0;
    for life in lives {
        let mut faults = StdRng::seed_from_u64(rng.random());
        upstream.react(move |events| {
            if faults.random_ratio(life.faults, 100) {
                return match faults.random_range(0..8) {
                    0 => Reaction::status(500),
                    1 => Reaction::retry_after(429, Duration::from_secs(1)),
                    2 => Reaction::broken(false),
                    3 => Reaction::broken(!events.iter().any(|event| is_poison(event.n))),
                    4 => Reaction::status(401),
                    5 if events.len() > 3 => Reaction::status(413),
                    6 => Reaction::status(504),
                    _ => Reaction::status(503),
                };
            }
            let poison = events.iter().any(|event| is_poison(event.n));
            Reaction::status(if poison { 422 } else { 201 })
        });
        log.fail_every(life.fail_store_every);
        let mut settings = settings(life.lanes);
        settings.delivery.batch_events = rng.random_range(1..20);
        let running = Running::begin(settings, &log, &upstream, &clock);
        for _ in 0..life.events {
            log.append(rng.random_range(0..9), EventKind::Classic, clock.now());
        }
        let requeues_at = life.requeues_at.filter(|at| *at < life.millis);
        if let Some(at) = requeues_at {
            tokio::time::sleep(Duration::from_millis(at)).await;
            log.requeue(clock.now());
        }
        if life.overflows {
            horizon = log.metrics().ledger.snapshot().appended / 2;
            log.drop_before(horizon);
        }
        let left = life.millis - requeues_at.unwrap_or_default();
        tokio::time::sleep(Duration::from_millis(left)).await;
        if life.drains {
            running.stop.drain.cancel();
            let ended = tokio::time::timeout(Duration::from_secs(20), running.join()).await;
            if let Ok(ended) = ended {
                ended.unwrap();
            }
        } else {
            drop(running);
        }
        upstream.allow_again(&log.unsettled());
    }
    upstream.react(|events| {
        let poison = events.iter().any(|event| is_poison(event.n));
        Reaction::status(if poison { 422 } else { 201 })
    });
    log.fail_every(None);
    let running = Running::begin(settings(3), &log, &upstream, &clock);
    running.empty().await;
    let times = upstream.check();
    let counts = log.metrics().ledger.snapshot();
    assert_eq!(log.unsettled(), Vec::<u64>::new());
    let letters: Vec<u64> = log.letters().iter().map(|letter| letter.sequence.get()).collect();
    for number in horizon.max(1)..=counts.appended {
        assert_eq!(times.contains_key(&number), !is_poison(number), "event {number}");
    }
    // A poisoned one is a dead letter, or was and is in the queue again under a new number.
    assert!(letters.iter().all(|number| is_poison(*number)), "{letters:?}");
    let dead: u64 = counts.dead_lettered.values().sum();
    let dropped: u64 = counts.dropped.values().sum();
    // More, where a crash came between a burial and the cursor: then the event, still in the queue,
    // is given up once more, or dropped.
    assert!(letters.len() as u64 + counts.requeued >= dead, "a dead letter is gone unseen");
    // More, where GMFY took a batch, lost its answer, and then refused the same batch as too large.
    assert!(dead + dropped >= counts.appended - times.len() as u64, "one is gone unseen");
    // `appended` counts what was accepted and what was requeued.
    assert_eq!(counts.delivered + dead + dropped, counts.appended);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_nothing_is_lost_reordered_or_repeated_beyond_the_promise(
        lives in prop::collection::vec(life(), 0..5), seed: u64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(live(lives, seed));
    }
}
