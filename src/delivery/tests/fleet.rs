//! A fleet of sidecars and one GMFY with a rate limit, that comes back after an outage.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::memory::MemoryLog;
use super::upstream::{FakeUpstream, Reaction};
use super::{Running, clock, settings};
use crate::config::EventKind;
use crate::upstream::SendError;

const SENDERS: u32 = 300;
const BATCH: usize = 10;
/// What each has waiting when GMFY comes back.
const BATCHES: usize = 16;
/// Requests a second that GMFY takes; over that it answers 429, `Retry-After: 1`.
const LIMIT: usize = 50;
const OUTAGE: Duration = Duration::from_secs(300);

/// What GMFY saw in one second.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    seen: usize,
    taken: usize,
}

/// One GMFY for all.
#[derive(Debug)]
struct Shared {
    begun: Instant,
    /// A token bucket that holds half a second's.
    tokens: f64,
    filled: Instant,
    seconds: Vec<Second>,
}

impl Shared {
    fn react(&mut self) -> Reaction {
        let now = Instant::now();
        let second = usize::try_from(now.duration_since(self.begun).as_secs()).unwrap();
        if self.seconds.len() <= second {
            self.seconds.resize(second + 1, Second::default());
        }
        self.seconds[second].seen += 1;
        if now.duration_since(self.begun) < OUTAGE {
            return Reaction {
                result: Err(SendError::Connect("refused".to_owned())),
                takes: false,
            };
        }
        let limit = f64::from(u32::try_from(LIMIT).unwrap());
        let more = now.duration_since(self.filled).as_secs_f64() * limit;
        (self.tokens, self.filled) = ((self.tokens + more).min(limit / 2.0), now);
        if self.tokens < 1.0 {
            return Reaction::retry_after(429, Duration::from_secs(1));
        }
        self.tokens -= 1.0;
        self.seconds[second].taken += 1;
        Reaction::status(201)
    }
}

/// Runs the fleet until all is delivered; returns what GMFY saw, second by second.
async fn seconds_of_a_fleet() -> Vec<Second> {
    let begun = Instant::now();
    let shared = Shared { begun, tokens: 0.0, filled: begun, seconds: Vec::new() };
    let shared = Arc::new(Mutex::new(shared));
    let clock = clock();
    let mut fleet = Vec::new();
    for number in 0..SENDERS {
        let (log, of_this) = (MemoryLog::new(), Arc::clone(&shared));
        for event in 0..BATCH * BATCHES {
            log.append(u32::try_from(event % 40).unwrap(), EventKind::Classic, clock.now());
        }
        let upstream = FakeUpstream::new(move |_| of_this.lock().unwrap().react());
        let mut settings = settings(4);
        settings.delivery.batch_events = BATCH;
        settings.seed = u64::from(number);
        fleet.push((Running::begin(settings, &log, &upstream, &clock), upstream));
    }
    for (running, upstream) in &fleet {
        running.empty().await;
        upstream.check();
    }
    drop(fleet);
    std::mem::take(&mut shared.lock().unwrap().seconds)
}

#[tokio::test(start_paused = true)]
async fn a_fleet_uses_what_a_returning_gmfy_takes_and_does_not_stampede_it() {
    let seconds = seconds_of_a_fleet().await;
    let outage = usize::try_from(OUTAGE.as_secs()).unwrap();
    let (down, back) = seconds.split_at(outage);
    // The first minute of the outage is every sender's own discovery. Then each asks every 2.5 to
    // 5 seconds whether GMFY is there.
    let probes: usize = down[60..].iter().map(|s| s.seen).sum();
    let probes = probes / (outage - 60);
    let senders = usize::try_from(SENDERS).unwrap();
    assert!((senders / 5..=senders / 2).contains(&probes), "{probes} probes a second");
    let tens: Vec<Ten> = back.chunks(10).map(Ten::of).collect();
    println!("| after | seen | most in a second | taken |\n|---|---|---|---|");
    for (number, ten) in tens.iter().enumerate() {
        println!("| {} s | {} | {} | {} |", number * 10, ten.seen, ten.most, ten.taken);
    }
    // It meets 300 senders who have just found it again: no more than a probe from each and what
    // the ramp adds to it.
    assert!(tens[0].most <= LIMIT * 4 && tens[0].seen <= LIMIT * 10 * 3, "{:?}", tens[0]);
    for ten in &tens[2..5] {
        assert!(ten.taken >= LIMIT * 9, "what it takes is used: {ten:?}");
        assert!(ten.seen <= LIMIT * 10 * 3 / 2, "near its limit: {ten:?}");
        assert!(ten.most <= LIMIT * 2, "no wave: {ten:?}");
    }
    let (seen, taken) = tens.iter().fold((0, 0), |(s, t), ten| (s + ten.seen, t + ten.taken));
    // A little more than the least: each lane's last batch is not full.
    assert!(taken >= senders * BATCHES);
    assert!(seen <= taken * 3 / 2, "{seen} requests for {taken}");
}

/// What GMFY saw in ten seconds.
#[derive(Debug)]
struct Ten {
    seen: usize,
    most: usize,
    taken: usize,
}

impl Ten {
    fn of(seconds: &[Second]) -> Self {
        Self {
            seen: seconds.iter().map(|s| s.seen).sum(),
            most: seconds.iter().map(|s| s.seen).max().unwrap_or_default(),
            taken: seconds.iter().map(|s| s.taken).sum(),
        }
    }
}
