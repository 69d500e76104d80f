//! The system calls of the real binary: no 202 without a sync of the log that covers it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use tokio::task::JoinSet;

use crate::client::Connection;
use crate::load::Poster;
use crate::process::{Process, sidecar};
use crate::sink::Sink;
use crate::trace::{answered, is_synced, parse};

const POSTERS: usize = 8;
const REQUESTS: u64 = 20;

/// Why this machine can't trace, if it can't.
fn untraceable() -> Option<String> {
    let traced = Command::new("strace")
        .args(["-f", "-y", "-o", "/dev/null", "true"])
        .stdin(Stdio::null())
        .output();
    match traced {
        Ok(traced) if traced.status.success() => None,
        Ok(traced) => Some(String::from_utf8_lossy(&traced.stderr).trim().to_owned()),
        Err(error) => Some(format!("strace: {error}")),
    }
}

async fn post(api: SocketAddr, mut poster: Poster) -> u64 {
    let mut connection = Connection::open(api).await.unwrap();
    for request in 0..REQUESTS {
        // Single events mostly; now and then a batch that needs several frames.
        let count = if request % 5 == 4 { 200 } else { 1 };
        let answer = poster.post(&mut connection, count, || true).await.unwrap();
        assert_eq!(answer.status, 202, "{}", answer.text());
    }
    REQUESTS
}

/// Runs the sidecar under strace and a load; returns how many 202s there were, and which of them
/// no sync covers.
async fn trace(folder: &Path, sets: &[&str]) -> (usize, Vec<String>) {
    let sink = Sink::start(false).await;
    let data = folder.join("data");
    let plain = sidecar(&data, &sink.url, sets);
    let file = folder.join("trace");
    let mut command = tokio::process::Command::new("strace");
    command
        // -D: the sidecar stays this process's child, and the tracer ends after it.
        .args(["-D", "-f", "-y", "-ttt", "-s", "40", "-o"])
        .arg(&file)
        .arg("-e")
        .arg("trace=read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg,pwrite64,fsync,fdatasync")
        .arg(plain.as_std().get_program())
        .args(plain.as_std().get_args());
    for (name, value) in plain.as_std().get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let mut process = Process::spawn(command);
    let api = process.ready().await.api;
    let posting: JoinSet<_> = (0..POSTERS).map(|id| post(api, Poster::new(id))).collect();
    let sent: u64 = posting.join_all().await.iter().sum();
    process.signal(Signal::TERM);
    process.ended().await.remaining();

    let calls = parse(&std::fs::read_to_string(&file).unwrap());
    let answers = answered(&calls, "HTTP/1.1 202 ");
    assert_eq!(answers.len() as u64, sent, "every answer is in the trace");
    let log = format!("{}/queue/gen-", data.display());
    let uncovered = answers.iter().filter(|answer| !is_synced(&calls, answer, &log));
    (answers.len(), uncovered.map(|answer| format!("{answer:?}")).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_202_follows_a_sync_that_began_after_its_request_was_read() {
    if let Some(why) = untraceable() {
        return crate::report(&format!("SKIPPED: system calls: {why}"));
    }
    let folder = tempfile::tempdir().unwrap();
    let (answers, uncovered) = trace(folder.path(), &[]).await;
    crate::report(&format!(
        "system calls: {answers} times 202, {} without a sync",
        uncovered.len()
    ));
    assert!(uncovered.is_empty(), "{uncovered:#?}");

    // The same look at a sidecar that is told to answer earlier finds that it does.
    let folder = tempfile::tempdir().unwrap();
    let lax = ["queue.durability=interval", "queue.interval=10s"];
    let (answers, uncovered) = trace(folder.path(), &lax).await;
    crate::report(&format!(
        "system calls, durability interval: {answers} times 202, {} without a sync",
        uncovered.len()
    ));
    assert!(!uncovered.is_empty(), "the look sees nothing");
}
