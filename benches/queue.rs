//! The queue alone against an append-only file with an fdatasync for each group.
//!
//! `cargo bench --bench queue` prints events/s of both, medians of five runs in turn, and their
//! ratio. Both have a writer thread that commits whatever waits; producers wait for their answers.
//! In the same turns sled alone: the same thread, which puts the same bytes into a database with
//! nothing of ours around it but that most of its threads sleep as in the queue, uncompressed and
//! compressed. That is what the engine leaves to reach.
//! With `-- varied` the events have random identifiers and differ in their fields, so that they are
//! compressed to half in place of a seventh.
//! `cargo bench --bench queue -- backlog` prints at which rate a backlog of 2 million events takes
//! its last tenth, against its first; and how long the saving of a cursor takes while generations
//! are compacted, against while none is.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark prints its figures, and has no caller to tell of an error"
)]

use std::borrow::Cow;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use gmfy_sidecar::clock::Clock;
use gmfy_sidecar::event::{Event, EventKind};
use gmfy_sidecar::queue::{
    Appender as _, DedupeLimits, Log as _, Options, Partitions, Queue, ReadLimit, Sequence,
    Settlement, Submission, Threads,
};
use gmfy_sidecar::telemetry::Metrics;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

const RUNS: usize = 5;
const RUN: Duration = Duration::from_secs(2);

fn main() {
    // `cargo test --benches` only wants to know that it builds and starts.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    if std::env::args().any(|argument| argument == "backlog") {
        runtime.block_on(backlog());
        runtime.block_on(saves());
        return;
    }
    for (name, producers, group) in [
        ("64 producers of single events", 64, 1),
        ("1 producer of 1024 events", 1, 1024),
        ("4 producers of 100 events", 4, 100),
    ] {
        let (mut queue, mut file, mut sled) = (Vec::new(), Vec::new(), Vec::new());
        let mut packed = Vec::new();
        for _ in 0..RUNS {
            queue.push(runtime.block_on(queue_rate(producers, group)));
            file.push(runtime.block_on(peer_rate(producers, group, AppendOnly::create)));
            sled.push(runtime.block_on(peer_rate(producers, group, |dir| Sled::open(dir, false))));
            packed.push(runtime.block_on(peer_rate(producers, group, |dir| Sled::open(dir, true))));
        }
        let [queue, file, sled, packed] = [queue, file, sled, packed].map(median);
        println!(
            "{name}: queue {queue:.0}/s, file {file:.0}/s, ratio {:.2}; sled alone {sled:.0}/s, {:.2} \
             of the file, with LZ4 {packed:.0}/s, {:.2}",
            queue / file,
            sled / file,
            packed / file
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Whether the events' bytes repeat little.
fn is_varied() -> bool {
    static IS_VARIED: LazyLock<bool> =
        LazyLock::new(|| std::env::args().any(|argument| argument == "varied"));
    *IS_VARIED
}

/// An event of 95 to 125 bytes, most of them another's too: names of fields, of types.
fn varied(user: &str, number: u64) -> String {
    let a = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let b = (a ^ (a >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let (day, hour, minute) = (1 + b % 28, (b >> 8) % 24, (b >> 16) % 60);
    match a >> 62 {
        0 => format!(
            r#"{{"userId":"{user}","type":"create_subscription","createdAt":"2026-11-{day:02}T{hour:02}:{minute:02}:12Z","item":{}}}"#,
            b >> 40
        ),
        1 => format!(
            r#"{{"userId":"{user}","type":"purchase","idempotenceKey":"{a:016x}-{b:016x}","amount":{}}}"#,
            a % 10_000
        ),
        2 => format!(
            r#"{{"userId":"{user}","type":"visit","source":"android","campaign":"c-{}","session":"{b:016x}"}}"#,
            b % 5_000
        ),
        _ => format!(
            r#"{{"userId":"{user}","type":"registered","mail":"{a:x}@example.org","points":{},"level":{}}}"#,
            b % 10_000,
            b % 77
        ),
    }
}

/// A user, and an event of theirs.
fn event(number: u64, event: u64) -> (String, String) {
    let user = format!("{}", (number * 31 + event) % 10_000);
    let wire = if is_varied() {
        varied(&user, number + event)
    } else {
        format!(
            "{{\"userId\":\"{user}\",\"type\":\"create_subscription\",\"note\":\"{:0>57}\"}}",
            number
        )
    };
    (user, wire)
}

/// The same work, and as many bytes, for those that know no events.
fn submitted(number: u64, events: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(events * 119);
    for each in 0..events as u64 {
        bytes.extend([0; 9]);
        bytes.extend(event(number, each).1.into_bytes());
    }
    bytes
}

fn submission(number: u64, events: usize) -> Submission {
    let mut submission = Submission::with_capacity(events, events * 110);
    for each in 0..events as u64 {
        let (user, wire) = event(number, each);
        submission.push(&Event {
            user_id: Cow::Owned(user),
            event_type: Cow::Borrowed("create_subscription"),
            idempotence_key: None,
            kind: EventKind::Action,
            wire: Cow::Owned(wire),
        });
    }
    submission
}

fn open(dir: &Path, max_bytes: u64) -> (Queue, Threads, Arc<Metrics>) {
    let options = Options {
        dir: dir.to_owned(),
        max_bytes,
        drops_oldest: false,
        interval: None,
        dead_letters_max_bytes: 1 << 20,
        dedupe: DedupeLimits { window: Duration::from_secs(600), entries: 262_144 },
    };
    let metrics = Arc::new(Metrics::new());
    let (queue, threads) =
        Queue::open(&options, Clock::system(), Arc::clone(&metrics)).expect("a queue");
    (queue, threads, metrics)
}

/// Appends groups of 500 by four producers; returns events/s.
async fn append_rate(queue: &Queue, events: u64) -> f64 {
    const PRODUCERS: u64 = 4;
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for producer in 0..PRODUCERS {
        let queue = queue.clone();
        tasks.spawn(async move {
            for done in (0..events / PRODUCERS).step_by(500) {
                queue.append(submission(producer + done, 500)).await.expect("appended");
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("a producer");
    }
    events as f64 / started.elapsed().as_secs_f64()
}

/// The rate at the end of a backlog of 2 million events against the one at its start.
async fn backlog() {
    const EVENTS: u64 = 2_000_000;
    let (mut first, mut last, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut bytes = 0;
    for _ in 0..RUNS {
        let dir = tempfile::tempdir().expect("a folder");
        let (queue, threads, metrics) = open(dir.path(), 4 << 30);
        first.push(append_rate(&queue, EVENTS / 10).await);
        append_rate(&queue, EVENTS / 10 * 8).await;
        last.push(append_rate(&queue, EVENTS / 10).await);
        ratios.push(last[last.len() - 1] / first[first.len() - 1]);
        bytes = metrics.ledger.snapshot().queue_bytes / EVENTS;
        queue.close();
        drop(queue);
        threads.join().expect("the queue's threads");
    }
    println!(
        "a backlog of {EVENTS}: its first tenth {:.0}/s, its last {:.0}/s, ratio {:.2}; {bytes} bytes an event",
        median(first),
        median(last),
        median(ratios)
    );
}

/// How long cursors take to be saved while a backlog that three lanes of four have passed is
/// compacted, a generation a second, and while there is room enough.
async fn saves() {
    for (what, max_bytes) in [("compacting", 256 << 20), ("not compacting", 4 << 30)] {
        let dir = tempfile::tempdir().expect("a folder");
        let (queue, threads, metrics) = open(dir.path(), max_bytes);
        let bytes = || metrics.ledger.snapshot().queue_bytes;
        let mut end = 1;
        while bytes() < 200 << 20 {
            append_rate(&queue, 20_000).await;
            end += 20_000;
        }
        let before = bytes();
        let starts = queue.lanes(4).await.expect("lanes");
        let mut took = Vec::new();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(12) {
            for (lane, start) in starts.mine.iter().skip(1) {
                let mut cursor = start.cursor.clone();
                for (_, watermark) in &mut cursor.watermarks {
                    *watermark = Sequence::new(end);
                }
                let saving = Instant::now();
                queue.save(*lane, cursor, Settlement::default()).await.expect("saved");
                took.push(saving.elapsed().as_secs_f64() * 1e3);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        took.sort_by(f64::total_cmp);
        let at = |per_mille: usize| took[(took.len() - 1) * per_mille / 1000];
        println!(
            "{what}: from {before} to {} bytes; {} saves: median {:.2} ms, 99 % {:.2} ms, longest {:.2} ms",
            bytes(),
            took.len(),
            at(500),
            at(990),
            at(1000)
        );
        queue.close();
        drop(queue);
        threads.join().expect("the queue's threads");
    }
}

async fn queue_rate(producers: usize, group: usize) -> f64 {
    let dir = tempfile::tempdir().expect("a folder");
    let (queue, threads, _metrics) = open(dir.path(), 4 << 30);
    // A lane that settles as in service, so that generations are removed: a batch of
    // `delivery.batch_events` at a time.
    let starts = queue.lanes(1).await.expect("lanes");
    let mut tasks = JoinSet::new();
    let settler = queue.clone();
    let stop = Instant::now() + RUN;
    tasks.spawn(async move {
        const BATCH: usize = 500;
        let mut cursor = starts.mine[0].1.cursor.clone();
        let mut position = Sequence::FIRST;
        let mut read = 0;
        while Instant::now() < stop {
            let limit = ReadLimit { events: BATCH, bytes: 512 * 1024 };
            let chunk = settler.read(position, &Partitions::all(), limit).await.expect("read");
            if chunk.position == position {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
            position = chunk.position;
            read += chunk.events.len();
            if read < BATCH {
                continue;
            }
            for (_, watermark) in &mut cursor.watermarks {
                *watermark = position;
            }
            let settlement = Settlement { delivered: read as u64, ..Settlement::default() };
            settler.save(0, cursor.clone(), settlement).await.expect("saved");
            read = 0;
        }
        0
    });
    let started = Instant::now();
    for producer in 0..producers as u64 {
        let queue = queue.clone();
        tasks.spawn(async move {
            let mut done = 0;
            while Instant::now() < stop {
                queue.append(submission(producer + done, group)).await.expect("appended");
                done += group as u64;
            }
            done
        });
    }
    let mut total = 0;
    while let Some(done) = tasks.join_next().await {
        total += done.expect("a producer");
    }
    let rate = total as f64 / started.elapsed().as_secs_f64();
    queue.close();
    drop(queue);
    threads.join().expect("the queue's threads");
    rate
}

/// What a group's bytes are made durable with.
trait Store: Send + 'static {
    fn commit(&mut self, bytes: &[u8]);
}

struct AppendOnly(File);

impl AppendOnly {
    fn create(dir: &Path) -> Self {
        Self(File::create(dir.join("log")).expect("a file"))
    }
}

impl Store for AppendOnly {
    fn commit(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("written");
        self.0.sync_data().expect("synced");
    }
}

/// A row of databases as the queue has it, and nothing else of it.
struct Sled {
    dir: PathBuf,
    database: sled::Db,
    file: File,
    next: u64,
    packs: bool,
}

impl Sled {
    const VALUE: usize = 7 * 1024;
    const SEALED_AT: u64 = 16 << 20;

    fn open(dir: &Path, packs: bool) -> Self {
        let (database, file) = Self::database(dir, 0);
        Self { dir: dir.to_owned(), database, file, next: 0, packs }
    }

    fn database(dir: &Path, first: u64) -> (sled::Db, File) {
        let path = dir.join(first.to_string());
        let config = sled::Config::new().path(&path).segment_size(512 * 1024);
        let config = config.cache_capacity(4 << 20).flush_every_ms(None);
        let database = config.open().expect("a database");
        (database, File::open(path.join("db")).expect("its file"))
    }
}

impl Store for Sled {
    fn commit(&mut self, bytes: &[u8]) {
        if self.file.metadata().expect("its size").len() > Self::SEALED_AT {
            (self.database, self.file) = Self::database(&self.dir, self.next);
        }
        for value in bytes.chunks(Self::VALUE) {
            let key = self.next.to_be_bytes();
            if self.packs {
                let value = lz4_flex::block::compress(value);
                self.database.insert(key, value).expect("inserted");
            } else {
                self.database.insert(key, value).expect("inserted");
            }
            self.next += 1;
        }
        self.database.flush().expect("flushed");
        self.file.sync_data().expect("synced");
    }
}

async fn peer_rate<S: Store>(producers: usize, group: usize, open: impl FnOnce(&Path) -> S) -> f64 {
    let dir = tempfile::tempdir().expect("a folder");
    let mut store = open(dir.path());
    type Pending = (Vec<u8>, oneshot::Sender<()>);
    let (requests, waiting) = mpsc::channel::<Pending>();
    let writer = std::thread::spawn(move || {
        while let Ok((mut bytes, done)) = waiting.recv() {
            let mut answers = vec![done];
            while bytes.len() < 1024 * 1024
                && let Ok((more, done)) = waiting.try_recv()
            {
                bytes.extend(more);
                answers.push(done);
            }
            store.commit(&bytes);
            for done in answers {
                done.send(()).expect("a waiting producer");
            }
        }
    });
    let stop = Instant::now() + RUN;
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for producer in 0..producers as u64 {
        let requests = requests.clone();
        tasks.spawn(async move {
            let mut done = 0;
            while Instant::now() < stop {
                let bytes = submitted(producer + done, group);
                let (answer, answered) = oneshot::channel();
                requests.send((bytes, answer)).expect("the writer");
                answered.await.expect("answered");
                done += group as u64;
            }
            done
        });
    }
    let mut total = 0;
    while let Some(done) = tasks.join_next().await {
        total += done.expect("a producer");
    }
    let rate = total as f64 / started.elapsed().as_secs_f64();
    drop(requests);
    writer.join().expect("the writer");
    rate
}
