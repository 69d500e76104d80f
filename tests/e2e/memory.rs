//! What the read cache costs in the process's memory, under many keys of many sizes.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::client::Connection;
use crate::process::{Process, sidecar};

const MIB: u64 = 1 << 20;
/// What the process may take beyond the bound: connections, buffers, answers on their way, and what
/// the allocator doesn't give back at once.
const BESIDE: u64 = 4 * MIB;
const CLIENTS: usize = 4;

/// A GMFY whose answers are as long as the last number of their path.
async fn sized_answers(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(async move {
            // It ends when the sidecar closes.
            let _ended: std::io::Result<()> = answer(stream).await;
        });
    }
}

async fn answer(stream: TcpStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    let mut size = 0;
    while stream.read_line(&mut line).await? > 0 {
        if line.starts_with("GET ") {
            let path = line.split(' ').nth(1).unwrap_or_default();
            let number = path.trim_end_matches('/').rsplit('-').next().unwrap_or_default();
            size = number.parse().unwrap_or(0);
        } else if line == "\r\n" {
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
            );
            let mut bytes = head.into_bytes();
            bytes.resize(bytes.len() + size, b'7');
            stream.get_mut().write_all(&bytes).await?;
        }
        line.clear();
    }
    Ok(())
}

/// Reads keys of these sizes in turn, over a few connections.
async fn read_keys(api: SocketAddr, round: &str, keys: usize, sizes: &'static [usize]) {
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let round = round.to_owned();
        clients.spawn(async move {
            let mut connection = Connection::open(api).await.unwrap();
            for key in (client..keys).step_by(CLIENTS) {
                let size = sizes[key / CLIENTS % sizes.len()];
                let path = format!("/v1/users/{round}-{key}-{size}/");
                let answer = connection.get(&path).await.unwrap();
                assert_eq!((answer.status, answer.body.len()), (200, size));
            }
        });
    }
    clients.join_all().await;
}

async fn value(ops: SocketAddr, series: &str) -> u64 {
    let text = crate::client::get(ops, "/metrics").await.text();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.and_then(|value| value.parse::<f64>().ok()).unwrap() as u64
}

/// Longer than most tests: the bound shows only once ten times of it went through.
/// `GMFY_LONG=1` reads 100,000 keys twice, with the default `reads.max_bytes`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_stays_within_the_bound_under_many_keys() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let gmfy = format!("http://{}/", listener.local_addr().unwrap());
    let mut serving = JoinSet::new();
    serving.spawn(sized_answers(listener));
    let folder = tempfile::tempdir().unwrap();
    let (bound, keys) = if crate::is_long() { (16 * MIB, 100_000) } else { (4 * MIB, 5_000) };
    let sets = [&format!("reads.max_bytes={bound}")[..], "reads.ttl.users=1h"];
    let mut process = Process::spawn(sidecar(&folder.path().join("data"), &gmfy, &sets));
    let addresses = process.ready().await;
    // What is there once and for all: code, connections, thread stacks.
    read_keys(addresses.api, "warm", 200, &[100]).await;
    let before = value(addresses.ops, "process_resident_memory_bytes").await;

    let mut highest = 0;
    // All of the smallest first, so that overhead counts most; then all sizes.
    for (round, sizes) in [("small", &[2][..]), ("mixed", &[2, 500, 2_000, 9_000, 40_000][..])] {
        read_keys(addresses.api, round, keys, sizes).await;
        let resident = value(addresses.ops, "process_resident_memory_bytes").await;
        let entries = value(addresses.ops, "gmfy_cache_entries").await;
        let bytes = value(addresses.ops, "gmfy_cache_bytes").await;
        println!(
            "{round}: {keys} keys, {entries} entries of {bytes} bytes, resident {} KiB, before {} KiB",
            resident / 1024,
            before / 1024
        );
        assert!(bytes <= bound, "{bytes}");
        assert!(bytes > bound / 2, "it is in use: {bytes}");
        highest = highest.max(resident);
    }
    let grown = highest.saturating_sub(before);
    assert!(grown <= bound + BESIDE, "grown by {} KiB", grown / 1024);
    drop(process.kill().await);
}
