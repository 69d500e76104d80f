//! Random reads, deliveries, answers, failures and steps of the clock, against what must hold.
//!
//! The model is GMFY's own history: when each change was told to the cache, and what each request
//! saw. From the time and the version in an answer it follows whether that may be given.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use tokio::time::Instant;

use super::gmfy::{Asked, Behaviour, millis};
use super::*;

const CALLS: usize = 6;
/// The longest that this GMFY takes before, and after, it looks at its state.
const SLOWEST: u64 = 3_000;

#[derive(Clone, Debug)]
enum Step {
    Read {
        call: usize,
        force: bool,
        hang_up: Option<u64>,
    },
    /// GMFY applies an event of a user; the cache is told so much later, in milliseconds.
    Deliver {
        user: usize,
        told_after: u64,
    },
    Behave(How),
    Pass(u64),
}

#[derive(Clone, Debug)]
enum How {
    Answer { before: u64, after: u64 },
    Status(u16),
    Fail(SendError),
    Forbid,
    Shorten,
}

fn step() -> impl Strategy<Value = Step> {
    let how = prop_oneof![
        4 => (0..SLOWEST, 0..SLOWEST).prop_map(|(before, after)| How::Answer { before, after }),
        3 => Just(How::Answer { before: 0, after: 0 }),
        2 => prop::sample::select(vec![500, 503, 404, 429, 403]).prop_map(How::Status),
        1 => Just(How::Fail(SendError::Timeout)),
        1 => Just(How::Fail(SendError::Down { retry_in: SECOND })),
        1 => Just(How::Forbid),
        1 => Just(How::Shorten),
    ];
    let hang_up = prop::option::weighted(0.2, 0_u64..4_000);
    // The list of users has rules of its own.
    let call = prop_oneof![2 => 0..CALLS, 1 => Just(3)];
    let read = (call, prop::bool::weighted(0.05), hang_up);
    let deliver = (0_usize..2, prop_oneof![Just(0_u64), 0_u64..1_000]);
    prop_oneof![
        10 => read.prop_map(|(call, force, hang_up)| Step::Read { call, force, hang_up }),
        3 => deliver.prop_map(|(user, told_after)| Step::Deliver { user, told_after }),
        2 => how.prop_map(Step::Behave),
        3 => (0_u64..200).prop_map(Step::Pass),
        3 => (0_u64..1_500).prop_map(Step::Pass),
        1 => (0_u64..30_000).prop_map(Step::Pass),
    ]
}

fn call(index: usize) -> Call {
    let id = |id: &str| Id::new(id).unwrap();
    match index {
        0 => user("0"),
        1 => user("1"),
        2 => Call::Badges(id("0")),
        3 => Call::Users,
        4 => Call::RatingTop(id("r")),
        _ => Call::UserNotifications(id("1")),
    }
}

/// The users whose changes `call` shows at once.
fn concerns(call: &Call, user: &str) -> bool {
    match call {
        Call::User(id) | Call::Badges(id) | Call::UserNotifications(id) => id.as_str() == user,
        Call::Users | Call::Notifications => true,
        _ => false,
    }
}

/// The changes that the cache was told, in order: when, whose, and GMFY's version of each call then.
#[derive(Debug, Default)]
struct History {
    told: Vec<(Instant, String)>,
    /// For each call, the version at the last change that the cache was told.
    versions: HashMap<usize, u64>,
}

impl History {
    fn told(&mut self, user: &str, at: Instant, versions: impl Fn(&Call) -> u64) {
        self.told.push((at, user.to_owned()));
        for index in (0..CALLS).filter(|index| concerns(&call(*index), user)) {
            self.versions.insert(index, versions(&call(index)));
        }
    }
}

/// One read, ended.
#[derive(Debug)]
struct Read {
    index: usize,
    came: Instant,
    went: Instant,
    /// The version that GMFY had at the last change told before it came.
    knows: u64,
    force: bool,
    answer: Result<Told, SendError>,
}

async fn run(steps: Vec<Step>) {
    let cached = Cached::new();
    let history = Arc::new(Mutex::new(History::default()));
    let mut reads = JoinSet::new();
    let mut forced = Vec::new();
    let mut tellings = JoinSet::new();
    for step in steps {
        match step {
            Step::Read { call: index, force, hang_up } => {
                let knows = history.lock().unwrap().versions.get(&index).copied();
                let (cached, came) = (cached.clone(), Instant::now());
                if force {
                    forced.push((call(index), came));
                }
                reads.spawn(async move {
                    let headers: &[_] = if force { &[("cache-control", "no-cache")] } else { &[] };
                    let call = call(index);
                    let reading = cached.ask(&call, None, headers);
                    let patience = hang_up.map_or(SECOND * 3600, Duration::from_millis);
                    let answer = tokio::time::timeout(patience, reading).await.ok()?;
                    let knows = knows.unwrap_or_default();
                    Some(Read { index, came, went: Instant::now(), knows, force, answer })
                });
                settle().await;
            }
            Step::Deliver { user, told_after } => {
                let user = user.to_string();
                cached.gmfy.change(&user);
                let (cached, history) = (cached.clone(), Arc::clone(&history));
                tellings.spawn(async move {
                    tokio::time::sleep(Duration::from_millis(told_after)).await;
                    let state = cached.gmfy.lock();
                    let mut history = history.lock().unwrap();
                    history.told(&user, Instant::now(), |call| state.version(call));
                    cached.reads.users_changed([UserHash::of(&user)]);
                });
                settle().await;
            }
            Step::Behave(how) => cached.gmfy.behave(behaviour(how)),
            Step::Pass(time) => pass(Duration::from_millis(time)).await,
        }
    }
    tellings.join_all().await;
    let reads: Vec<_> = reads.join_all().await.into_iter().flatten().collect();
    let requests = cached.gmfy.lock().requests.clone();
    for read in &reads {
        check(read, &requests);
    }
    one_flight_a_key(&requests, &history.lock().unwrap(), &forced);
}

fn behaviour(how: How) -> Behaviour {
    let plain = Behaviour::default();
    match how {
        How::Answer { before, after } => {
            let latency = (Duration::from_millis(before), Duration::from_millis(after));
            Behaviour { latency, ..plain }
        }
        How::Status(status) => Behaviour { status: StatusCode::from_u16(status).unwrap(), ..plain },
        How::Fail(error) => Behaviour { fails: Some(error), ..plain },
        How::Forbid => Behaviour { headers: vec![("cache-control", "no-store")], ..plain },
        How::Shorten => Behaviour { headers: vec![("cache-control", "max-age=1")], ..plain },
    }
}

fn ttl(index: usize) -> Duration {
    match index {
        4 => SECOND * 2,
        5 => SECOND,
        _ => SECOND * 5,
    }
}

fn check(read: &Read, requests: &[Asked]) {
    let Ok(told) = &read.answer else { return };
    let cache = told.cache();
    if told.status != 200 && told.status != 404 {
        assert!(cache.starts_with("fwd="), "never stored: {read:?}");
        return;
    }
    let value: serde_json::Value = serde_json::from_slice(&told.body).unwrap();
    let looked_at = value["at"].as_u64().unwrap();
    let version = value["version"].as_u64().unwrap();
    // When it was given at the latest, and how old it was then.
    let age = millis(read.went).saturating_sub(looked_at);
    let limit = |window: u64| u64::try_from(ttl(read.index).as_millis()).unwrap() + window * 1000;
    if cache.starts_with("hit; detail=stale-if-error") {
        assert!(age <= limit(300) + 2 * SLOWEST, "{read:?}");
        assert!(!read.force, "{read:?}");
        // Something failed while this caller was there.
        let call = call(read.index);
        let asked = |asked: &&Asked| asked.call == call;
        assert!(requests.iter().filter(asked).any(|asked| {
            asked.at <= read.went && asked.ended.is_none_or(|ended| ended >= read.came)
        }));
        return;
    }
    assert!(version >= read.knows, "older than its own writes: {read:?}");
    if cache.starts_with("hit; ttl=-") {
        assert!(age <= limit(10), "{read:?}");
    } else if cache.starts_with("hit; ") {
        assert!(age <= limit(0), "{read:?}");
    } else {
        // From a flight: at the oldest as old as that.
        assert!(age <= 2 * SLOWEST, "{read:?}");
    }
    if read.force {
        assert!(looked_at >= millis(read.came), "{read:?}");
    }
}

/// Two requests of one key overlap only where a change came, or a caller forced it, between their
/// beginnings; or where an answer is one caller's.
fn one_flight_a_key(requests: &[Asked], history: &History, forced: &[(Call, Instant)]) {
    for (at, later) in requests.iter().enumerate() {
        for earlier in requests.iter().take(at).filter(|earlier| earlier.call == later.call) {
            if earlier.ended.is_some_and(|ended| ended <= later.at) {
                continue;
            }
            let between = |at: Instant| earlier.at <= at && at <= later.at;
            let changed =
                history.told.iter().any(|(at, user)| between(*at) && concerns(&later.call, user));
            let forced = forced.iter().any(|(call, at)| *call == later.call && between(*at));
            assert!(changed || forced, "two flights: {earlier:?}, {later:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_reads_keep_their_promises(
        steps in prop::collection::vec(step(), 1..100),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run(steps));
    }
}

fn cases() -> u32 {
    if std::env::var_os("GMFY_LONG").is_some() { 20_000 } else { 300 }
}
