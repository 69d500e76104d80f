//! An outage of minutes, at a steady rate of single events.
//!
//! `cargo bench --bench outage` starts the real binary and, in this process, a simulated GMFY and a
//! caller that posts single events at a fixed rate; takes GMFY away for 150 s, and gives it back. It
//! prints how long acceptance took before, in and after the outage (from when each event was due, so
//! that no wait is left out; medians over slices of 10 s), how many requests GMFY saw, and how soon
//! the backlog was gone. Arguments: `seconds=150`, `rate=500`.
//!
//! With `latency` GMFY is a null sink in a process of its own, and stays: it prints how long
//! acceptance takes at `rate` (2000 by default), beside what an append of one event with its
//! fdatasync takes in the same folder, and beside a bare axum handler that answers once a plain file
//! with all bodies that wait is synced: five slices of each in turns.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark prints its figures, and has no caller to tell of an error"
)]

#[path = "shared/served.rs"]
#[allow(dead_code, reason = "other benchmarks need the rest")]
mod served;

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gmfy_sidecar::simulator::{Faults, Options, Simulator};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use served::{Served, serve_if_asked};

const SLICE: Duration = Duration::from_secs(10);
/// Before and after the outage.
const HEALTHY: Duration = Duration::from_secs(40);

fn main() {
    serve_if_asked();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` only wants to know that it builds and starts.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let number = |name: &str| {
        let value = arguments.iter().find_map(|argument| argument.strip_prefix(name));
        value.map(|value| value.parse::<u32>().expect("a number"))
    };
    // reqwest's client wants one, although all goes over plain HTTP here; nothing has set one yet.
    drop(rustls::crypto::ring::default_provider().install_default());
    let outage = Duration::from_secs(number("seconds=").unwrap_or(150).into());
    let rate = number("rate=");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    if arguments.iter().any(|argument| argument == "latency") {
        runtime.block_on(latency(rate.unwrap_or(2000)));
    } else {
        runtime.block_on(measure(outage, rate.unwrap_or(500)));
    }
}

/// What acceptance adds to what the disk takes.
async fn latency(rate: u32) {
    const SLICES: usize = 5;
    let sink = Served::sink();
    let folder = tempfile::tempdir().expect("a folder");
    let sidecar = Served::sidecar(folder.path(), &sink.address);
    let beside = tempfile::tempdir().expect("a folder");
    let durable = Served::durable(beside.path());
    let callers = [&sidecar, &durable].map(|served| Arc::new(Caller::new(served, rate)));
    let mut phases = [const { Vec::new() }; 3];
    let [accepting, peer, syncing] = &mut phases;
    for _ in 0..SLICES {
        accepting.push(callers[0].run(SLICE).await);
        peer.push(callers[1].run(SLICE).await);
        syncing.push(syncs(folder.path()));
    }
    println!("acceptance at {rate} events/s: p50, p99, the medians of {SLICES} slices");
    let median = |of: fn(&Phase) -> Duration, phases: &[Phase]| {
        let mut values: Vec<_> = phases.iter().map(of).collect();
        values.sort_unstable();
        values[values.len() / 2]
    };
    let names = ["the sidecar", "bare axum with fdatasync", "an append with fdatasync"];
    for (name, phases) in names.into_iter().zip(&phases) {
        let (p50, p99) = (median(|phase| phase.p50, phases), median(|phase| phase.p99, phases));
        println!("  {name}: {p50:?}, {p99:?}");
    }
    let [sidecar, _, fdatasync] = phases.map(|phases| median(|phase| phase.p99, &phases));
    let budget = fdatasync * 3 + Duration::from_millis(3);
    println!(
        "  the sidecar's p99 is {:.2} of three times fdatasync's + 3 ms",
        ratio(sidecar, budget)
    );
}

/// What an append of 110 bytes with its fdatasync takes.
fn syncs(folder: &std::path::Path) -> Phase {
    let mut file = tempfile::tempfile_in(folder).expect("a file");
    let mut took: Vec<_> = (0..3000)
        .map(|_| {
            let begun = Instant::now();
            file.write_all(&[b'x'; 110]).expect("written");
            file.sync_data().expect("synced");
            begun.elapsed()
        })
        .collect();
    took.sort_unstable();
    Phase { p50: took[took.len() / 2], p99: took[took.len() * 99 / 100] }
}

async fn measure(outage: Duration, rate: u32) {
    let simulator = Simulator::bind(Options::default()).await.expect("a port");
    let (gmfy, upstream) = (simulator.handle(), simulator.address());
    let mut tasks = JoinSet::new();
    tasks.spawn(simulator.run(CancellationToken::new()));
    let folder = tempfile::tempdir().expect("a folder");
    let sidecar = Served::sidecar(folder.path(), &upstream.to_string());
    let caller = Arc::new(Caller::new(&sidecar, rate));

    let before = caller.run(HEALTHY).await;
    gmfy.set_faults(Faults { down: true, ..Faults::default() });
    let attempts =
        caller.metric("gmfy_upstream_requests_total{endpoint=\"create_batch_events\"").await;
    let during = caller.run(outage).await;
    let attempts =
        caller.metric("gmfy_upstream_requests_total{endpoint=\"create_batch_events\"").await
            - attempts;
    let waiting = caller.metric("gmfy_queue_events ").await;
    gmfy.set_faults(Faults::default());
    let back = Instant::now();
    let drained = async {
        // Events keep coming: gone is what is not older than a moment.
        while caller.metric("gmfy_queue_events ").await > f64::from(rate) / 5.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        back.elapsed()
    };
    let (after, drained) = tokio::join!(caller.run(HEALTHY), drained);
    println!("an outage of {outage:?} at {rate} events/s; {attempts} requests while it lasted");
    println!("{waiting} events waited; gone {drained:?} after GMFY came back");
    println!("acceptance: p50, p99 (and p99 beside that before)");
    let healthy = before.p99;
    for (name, phase) in [("before", before), ("during", during), ("after", after)] {
        println!("  {name}: {:?}, {:?} ({:.2})", phase.p50, phase.p99, ratio(phase.p99, healthy));
    }
    drop(sidecar);
}

fn ratio(this: Duration, that: Duration) -> f64 {
    this.as_secs_f64() / that.as_secs_f64()
}

/// How long acceptance took: medians of slices.
#[derive(Clone, Copy)]
struct Phase {
    p50: Duration,
    p99: Duration,
}

struct Caller {
    client: reqwest::Client,
    events: String,
    metrics: String,
    rate: u32,
}

impl Caller {
    fn new(served: &Served, rate: u32) -> Self {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let (events, metrics) = (
            format!("http://{}/v1/events/", served.address),
            format!("http://{}/metrics", served.ops),
        );
        Self { client, events, metrics, rate }
    }

    /// Posts for so long; no event is refused.
    async fn run(self: &Arc<Self>, lasting: Duration) -> Phase {
        let slices = lasting.as_secs().div_ceil(SLICE.as_secs());
        let (mut p50, mut p99) = (Vec::new(), Vec::new());
        for _ in 0..slices {
            let mut posts = JoinSet::new();
            let begun = Instant::now();
            let count = self.rate * u32::try_from(SLICE.as_secs()).unwrap_or(u32::MAX);
            let (ticks, mut ticking) = tokio::sync::mpsc::unbounded_channel();
            // By a thread, since tokio's timers are late by up to a millisecond.
            let pacing = tokio::task::spawn_blocking(move || {
                for number in 0..count {
                    let due = begun + SLICE * number / count;
                    while let Some(left) = due.checked_duration_since(Instant::now()) {
                        std::thread::park_timeout(left);
                    }
                    ticks.send((number, due)).expect("whoever posts");
                }
            });
            while let Some((number, due)) = ticking.recv().await {
                posts.spawn(Arc::clone(self).post(number, due));
            }
            pacing.await.expect("no panic");
            let mut took = posts.join_all().await;
            took.sort_unstable();
            p50.push(took[took.len() / 2]);
            p99.push(took[took.len() * 99 / 100]);
        }
        p50.sort_unstable();
        p99.sort_unstable();
        Phase { p50: p50[p50.len() / 2], p99: p99[p99.len() / 2] }
    }

    async fn post(self: Arc<Self>, number: u32, due: Instant) -> Duration {
        let user = number % 997;
        let body = format!(
            r#"{{"userId":"{user:06}","type":"visit","source":"outage","number":{number}}}"#
        );
        let post = self.client.post(&self.events).header("content-type", "application/json");
        let answer = post.body(body).send().await.expect("answered");
        assert_eq!(answer.status(), 202);
        due.elapsed()
    }

    /// The sum of the series whose line begins so.
    async fn metric(&self, name: &str) -> f64 {
        let answer = self.client.get(&self.metrics).send().await.expect("answered");
        let text = answer.text().await.expect("text");
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}
