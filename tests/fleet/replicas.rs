//! Replicas of the binary in front of one simulated GMFY, and applications that post to any of them.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gmfy_sidecar::simulator::{Handle, Options, Simulator};
use rand::RngExt as _;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::client::{event, number};
use crate::process::{KEY, Process, sidecar};

/// How long a replica that is not heard of keeps its lanes.
pub(crate) const LEASE: Duration = Duration::from_secs(2);
pub(crate) const LANES: usize = 8;
/// The largest batch to GMFY.
pub(crate) const BATCH: usize = 50;
/// How often a replica is started at most, until it is there.
const STARTS: usize = 5;
/// How long a caller waits for an answer.
const ANSWER: Duration = Duration::from_secs(15);
/// How long an application does, before it asks another replica.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long nothing may be acknowledged after a fault.
const STANDSTILL: Duration = Duration::from_secs(60);

/// A simulated GMFY that records everything.
pub(crate) struct Gmfy {
    pub(crate) handle: Handle,
    pub(crate) url: String,
    _task: JoinSet<()>,
}

impl Gmfy {
    pub(crate) async fn start() -> Self {
        let options = Options { record: 1_000_000, seed: 7, ..Options::default() };
        let simulator = Simulator::bind(options).await.unwrap();
        let (handle, address) = (simulator.handle(), simulator.address());
        let mut tasks = JoinSet::new();
        tasks.spawn(simulator.run(CancellationToken::new()));
        Self { handle, url: format!("http://{address}/"), _task: tasks }
    }
}

/// The settings of a replica on these servers.
pub(crate) fn sets(servers: &[String], replicas: usize) -> Vec<String> {
    vec![
        "queue.backend=nats".to_owned(),
        format!("queue.nats.servers={}", servers.join(",")),
        format!("queue.nats.replicas={replicas}"),
        format!("queue.nats.lanes={LANES}"),
        format!("queue.nats.lease={}s", LEASE.as_secs()),
        "queue.nats.max_bytes=128MiB".to_owned(),
        "dead_letters.max_bytes=1MiB".to_owned(),
        format!("delivery.batch_events={BATCH}"),
        "delivery.linger=20ms".to_owned(),
        "log.level=info,gmfy_sidecar::queue::nats=debug".to_owned(),
        "delivery.retry_max=500ms".to_owned(),
        "shutdown.quiet=0".to_owned(),
    ]
}

/// One replica.
pub(crate) struct Replica {
    pub(crate) process: Process,
    pub(crate) api: SocketAddr,
    pub(crate) ops: SocketAddr,
    pub(crate) admin: SocketAddr,
    _folder: TempDir,
}

impl Replica {
    /// Starts it, again where NATS is not ready for it, as whoever runs it does.
    pub(crate) async fn start(gmfy: &Gmfy, sets: &[String]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sets: Vec<_> = sets.iter().map(String::as_str).collect();
        let mut starts = 1;
        let (process, addresses) = loop {
            let mut process = Process::spawn(sidecar(folder.path(), &gmfy.url, &sets));
            if let Some(addresses) = process.ready_or_refused().await {
                break (process, addresses);
            }
            let refused = process.ended().await;
            assert!(starts < STARTS, "it does not start: {refused:#?}");
            starts += 1;
        };
        let (api, ops, admin) = (addresses.api, addresses.ops, addresses.admin);
        Self { process, api, ops, admin, _folder: folder }
    }
}

/// Sends a request; returns its status and the head of the answer.
pub(crate) async fn ask(address: SocketAddr, request: String) -> io::Result<(u16, String)> {
    let asking = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.ok_or_else(|| io::Error::other("no answer"))?, answer))
    };
    timeout(ANSWER, asking).await.map_err(io::Error::other)?
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    ask(address, head).await
}

/// Posts events as one batch.
pub(crate) async fn post(
    address: SocketAddr,
    key: &str,
    events: &[String],
) -> io::Result<(u16, String)> {
    let body = format!("[{}]", events.join(","));
    let head = format!(
        "POST /v1/events/batch/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nidempotency-key: \
         {key}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    ask(address, head).await
}

/// Applications that post until told to stop, each for users of its own, one request after another.
pub(crate) struct Applications {
    stop: CancellationToken,
    tasks: JoinSet<usize>,
    users: usize,
    pub(crate) acknowledged: Arc<AtomicUsize>,
    /// Of each request: its key, and what it was answered.
    pub(crate) answers: Answers,
}

/// By a request's key, what it was answered.
pub(crate) type Answers = Arc<Mutex<HashMap<String, String>>>;

/// Where the replicas are that run now.
pub(crate) type Addresses = Arc<Mutex<Vec<SocketAddr>>>;

impl Applications {
    /// Each request has an event of each user of its application, with the same number.
    pub(crate) fn start(count: usize, users: usize, addresses: &Addresses) -> Self {
        let stop = CancellationToken::new();
        let acknowledged = Arc::<AtomicUsize>::default();
        let answers = Answers::default();
        let mut tasks = JoinSet::new();
        for application in 0..count {
            let answers = Arc::clone(&answers);
            let (addresses, stop) = (Arc::clone(addresses), stop.clone());
            let acknowledged = Arc::clone(&acknowledged);
            tasks.spawn(async move {
                let mut round = 0;
                while !stop.is_cancelled() {
                    let one = |user| event("visit", &format!("{application}-{user}"), round);
                    let events: Vec<_> = (0..users).map(one).collect();
                    let key = format!("{application}-{round}");
                    // The same request, to whichever replica, until one says that it is stored.
                    loop {
                        let address = {
                            let all = addresses.lock().unwrap();
                            all[rand::rng().random_range(0..all.len())]
                        };
                        let posted = timeout(PATIENCE, post(address, &key, &events)).await;
                        match posted.unwrap_or_else(|late| Err(io::Error::other(late))) {
                            Ok((202, answer)) => {
                                let body = answer.rsplit("\r\n").next().unwrap_or_default();
                                answers.lock().unwrap().insert(key, body.to_owned());
                                break;
                            }
                            // 409: the first one is still under way there.
                            Ok((409 | 500 | 503, _)) | Err(_) => {
                                sleep(Duration::from_millis(50)).await
                            }
                            Ok((status, answer)) => panic!("{status}: {answer}"),
                        }
                    }
                    acknowledged.fetch_add(users, Ordering::Relaxed);
                    round += 1;
                }
                round
            });
        }
        Self { stop, tasks, users, acknowledged, answers }
    }

    /// Waits until something more is acknowledged; false where that takes too long.
    pub(crate) async fn get_on(&self) -> bool {
        let before = self.acknowledged.load(Ordering::Relaxed);
        let end = Instant::now() + STANDSTILL;
        while self.acknowledged.load(Ordering::Relaxed) == before {
            if Instant::now() > end {
                return false;
            }
            sleep(Duration::from_millis(10)).await;
        }
        true
    }

    /// Ends them; returns how many events each user has.
    pub(crate) async fn end(mut self) -> usize {
        self.stop.cancel();
        let mut all = 0;
        while let Some(rounds) = self.tasks.join_next().await {
            all += rounds.unwrap() * self.users;
        }
        all
    }
}

/// What is wrong with what arrived.
#[derive(Debug)]
pub(crate) enum Wrong {
    /// An event whose user's next one was another.
    Order {
        user: String,
        number: usize,
        next: usize,
    },
    Missing {
        arrived: usize,
        expected: usize,
    },
}

/// How many of the user's events came for the first time, and how many came again.
fn arrivals(gmfy: &Handle) -> Result<(usize, usize), Wrong> {
    let mut next: HashMap<String, usize> = HashMap::new();
    let mut again = 0;
    for event in gmfy.events() {
        let user = event.user_id;
        let next = next.entry(user.clone()).or_default();
        let number = number(&event.text);
        if number > *next {
            return Err(Wrong::Order { user, number, next: *next });
        }
        again += usize::from(number < *next);
        *next += usize::from(number == *next);
    }
    Ok((next.values().sum(), again))
}

/// Waits until GMFY has `expected` events, each user's first deliveries being 0, 1, 2, …; returns
/// how many came again. Nothing new may come for as long as `patience`.
pub(crate) async fn all_in_order(gmfy: &Handle, expected: usize, patience: Duration) -> usize {
    order(gmfy, expected, patience).await.unwrap()
}

/// The same, for who wants to look into what is wrong.
///
/// # Errors
/// What was wrong first.
pub(crate) async fn order(
    gmfy: &Handle,
    expected: usize,
    patience: Duration,
) -> Result<usize, Wrong> {
    let (mut most, mut end) = (0, Instant::now() + patience);
    loop {
        let (arrived, again) = arrivals(gmfy)?;
        if arrived > most {
            (most, end) = (arrived, Instant::now() + patience);
        }
        if arrived >= expected {
            assert_eq!(arrived, expected, "more than was acknowledged");
            return Ok(again);
        }
        if Instant::now() >= end {
            return Err(Wrong::Missing { arrived, expected });
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Whether this is the key that no output may show.
pub(crate) fn is_shown(text: &str) -> bool {
    text.contains(KEY)
}
