//! Connections that stall, pile up, or leave no descriptor for anything else.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use gmfy_sidecar::simulator::Faults;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::client::{self, Connection};
use crate::gmfy::Gmfy;
use crate::process::{PATIENCE, Process, sidecar};
use crate::table::resident;

const EVENT: &str = r#"{"userId":"u","type":"t"}"#;
/// How long an answer may take beside any number of stalled connections, on a busy machine.
const SOON: Duration = Duration::from_secs(2);

/// What a connection stalls with.
const STALLS: [&str; 4] = [
    "",
    "POST /v1/events/ HTTP/1.1\r\nHost: loc",
    "POST /v1/events/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
     Content-Length: 1000\r\n\r\n{",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
];

async fn stalled(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for n in 0..count {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(STALLS[n % STALLS.len()].as_bytes()).await.unwrap();
        streams.push(stream);
    }
    streams
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_stalled_connections_delay_nobody_and_end() {
    let gmfy = Gmfy::start(Faults::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let sets = ["api.head_timeout=3s", "api.body_timeout=3s"];
    let mut process = Process::spawn(sidecar(folder.path(), &gmfy.url, &sets));
    let addresses = process.ready().await;
    let mut streams = stalled(addresses.api, 300).await;
    let mut slowest = Duration::ZERO;
    for n in 0..50 {
        let began = Instant::now();
        // Half on connections of their own: to be accepted takes no longer either.
        let answer = client::post(addresses.api, "/v1/events/", EVENT).await;
        assert_eq!(answer.status, 202, "{n}");
        assert_eq!(client::get(addresses.api, "/v1/version/").await.status, 200);
        slowest = slowest.max(began.elapsed());
    }
    println!("the slowest of 50 took {slowest:?}");
    assert!(slowest < SOON, "{slowest:?}");
    // Each is ended by its timer.
    for stream in &mut streams {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest));
        drop(ended.await.expect("a stalled connection ends"));
    }
    crate::eventually("everything arrives", PATIENCE, || async {
        gmfy.handle.events().len() == 50
    })
    .await;
    process.signal(rustix::process::Signal::TERM);
    assert_eq!(process.ended().await.remaining(), 0);
}

fn descriptors(process: &Process) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_connections_opened_and_dropped_leave_nothing_behind() {
    let gmfy = Gmfy::start(Faults::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::spawn(sidecar(folder.path(), &gmfy.url, &[]));
    let addresses = process.ready().await;
    let whole = format!(
        "POST /v1/events/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{EVENT}",
        EVENT.len()
    );
    let drop_some = async |count: usize| {
        let mut callers = JoinSet::new();
        for caller in 0..20 {
            let whole = whole.clone();
            callers.spawn(async move {
                for n in 0..count / 20 {
                    let mut stream = TcpStream::connect(addresses.api).await.unwrap();
                    // Some say nothing, some half, some all; none waits for an answer.
                    let part = [0, 60, 60, whole.len()][(n + caller) % 4];
                    drop(stream.write_all(&whole.as_bytes()[..part]).await);
                }
            });
        }
        while let Some(called) = callers.join_next().await {
            called.unwrap();
        }
    };
    drop_some(500).await;
    let settled = async || {
        let mut last = usize::MAX;
        crate::eventually("the connections are closed", PATIENCE, || {
            let now = descriptors(&process);
            let settled = now == last;
            last = now;
            async move {
                tokio::time::sleep(Duration::from_millis(200)).await;
                settled
            }
        })
        .await;
        last
    };
    let (descriptors, memory) = (settled().await, resident(&process));
    drop_some(10_000).await;
    let (after, grown) = (settled().await, resident(&process).saturating_sub(memory));
    println!("{descriptors} descriptors before, {after} after; {} KiB more", grown >> 10);
    assert!(after <= descriptors + 10, "{descriptors} descriptors before, {after} after");
    assert!(grown < 40 << 20, "the process grew by {grown} bytes");
    let answer = client::post(addresses.api, "/v1/events/", EVENT).await;
    assert_eq!(answer.status, 202);
    crate::eventually("all is delivered", PATIENCE, || async {
        client::assert_account(addresses.ops).await == 0
    })
    .await;
    process.signal(rustix::process::Signal::TERM);
    assert_eq!(process.ended().await.remaining(), 0);
}

/// The same command under a limit of open files that it can't raise.
fn limited(command: Command, files: u32) -> Command {
    let command = command.as_std();
    let mut limited = Command::new("sh");
    let script = format!("ulimit -n {files} && exec \"$@\"");
    limited.args(["-c", &script, "sh"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited.stdin(Stdio::null());
    limited
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_descriptors_it_lives_on_and_loses_nothing() {
    let gmfy = Gmfy::start(Faults::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let sets = ["delivery.retry_max=100ms", "delivery.linger=5ms"];
    let command = limited(sidecar(folder.path(), &gmfy.url, &sets), 100);
    let mut process = Process::spawn(command);
    let addresses = process.ready().await;
    process
        .in_log("told that there is less room than asked for", |line| {
            line.contains("api.max_connections").then_some(())
        })
        .await;
    // Connected before, so it needs no descriptor.
    let mut before = Connection::open(addresses.api).await.unwrap();
    assert_eq!(before.post("/v1/events/", EVENT).await.unwrap().status, 202);
    // Ops and admin take the last descriptors; the system queues what isn't accepted.
    let mut streams = Vec::new();
    for address in [addresses.api, addresses.ops, addresses.admin] {
        streams.extend(stalled(address, 100).await);
    }
    process
        .in_log("told that none is left", |line| line.contains("can't be accepted").then_some(()))
        .await;
    for _ in 0..100 {
        assert_eq!(before.post("/v1/events/", EVENT).await.unwrap().status, 202);
    }
    drop(streams);
    crate::eventually("all is delivered", PATIENCE, || async {
        client::assert_account(addresses.ops).await == 0
    })
    .await;
    assert_eq!(client::post(addresses.api, "/v1/events/", EVENT).await.status, 202);
    crate::eventually("each once", PATIENCE, || async { gmfy.handle.events().len() == 102 }).await;
    process.signal(rustix::process::Signal::TERM);
    let ended = process.ended().await;
    assert_eq!(ended.remaining(), 0);
    let told = ended.stderr.iter().filter(|line| line.contains("can't be accepted")).count();
    assert!(told <= 10, "told {told} times");
}
