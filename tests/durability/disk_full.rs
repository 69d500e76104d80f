//! The disk runs full: events are refused in plain words, nothing acknowledged is lost, and service
//! goes on by itself once there is room, whoever made it.

use std::path::Path;
use std::time::Duration;

use crate::client::{self, Answer, Connection};
use crate::filesystem::FileSystem;
use crate::load::{Poster, acknowledged};
use crate::process::{Addresses, Process, sidecar};
use crate::sink::Sink;

const DISK_MIB: u64 = 64;
const BATCH: u64 = 200;
/// How soon events must be accepted again.
const SOON: Duration = Duration::from_secs(15);
const SETS: [&str; 2] = ["queue.max_bytes=1GiB", "delivery.retry_max=500ms"];

fn small_disk() -> Option<FileSystem> {
    match FileSystem::ext4(DISK_MIB).or_else(|_| FileSystem::tmpfs(DISK_MIB)) {
        Ok(disk) => Some(disk),
        Err(why) => {
            crate::report(&format!("SKIPPED: a full disk: {why}"));
            None
        }
    }
}

/// Posts until an event is refused; returns the refusal.
async fn post_until_refused(addresses: Addresses, poster: &mut Poster) -> Answer {
    let mut connection = Connection::open(addresses.api).await.unwrap();
    for _ in 0..(DISK_MIB << 20) / (BATCH * 110) {
        let answer = poster.post(&mut connection, BATCH, || true).await.unwrap();
        if answer.status != 202 {
            return answer;
        }
    }
    panic!("more was accepted than the disk can hold");
}

async fn assert_refuses(addresses: Addresses, refusal: &Answer, poster: &mut Poster) {
    let mut answer = refusal;
    let mut connection = Connection::open(addresses.api).await.unwrap();
    let second = poster.post(&mut connection, BATCH, || true).await.unwrap();
    for _ in 0..2 {
        assert_eq!(answer.status, 503, "{}", answer.text());
        let problem = answer.json();
        assert_eq!(problem["status"], 503, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains("disk"), "{problem}");
        let seconds = answer.retry_after.as_ref().expect("Retry-After").parse::<u64>().unwrap();
        assert!((1..=60).contains(&seconds), "Retry-After: {seconds}");
        answer = &second;
    }
    assert_eq!(client::get(addresses.ops, "/readyz").await.status, 503);
    assert_eq!(client::get(addresses.ops, "/livez").await.status, 200);
    let scrape = client::get(addresses.ops, "/metrics").await.text();
    let refused = scrape
        .lines()
        .find(|line| line.starts_with("gmfy_events_rejected_total{") && line.contains("disk_full"));
    let refused = refused.expect("a series for the disk").rsplit(' ').next().unwrap();
    assert!(refused.parse::<f64>().unwrap() >= BATCH as f64, "{refused}");
}

async fn assert_accepts_soon(addresses: Addresses, poster: &mut Poster) {
    let mut connection = Connection::open(addresses.api).await.unwrap();
    let end = tokio::time::Instant::now() + SOON;
    loop {
        let answer = poster.post(&mut connection, 1, || true).await.unwrap();
        if answer.status == 202 {
            break;
        }
        assert!(tokio::time::Instant::now() < end, "still refused: {}", answer.text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(client::get(addresses.ops, "/readyz").await.status, 200);
}

async fn assert_drains(addresses: Addresses, sink: &Sink, posters: &[Poster]) {
    crate::eventually("the queue is empty", Duration::from_secs(120), || async {
        client::assert_account(addresses.ops).await == 0
    })
    .await;
    let again = sink.assert_has_all_of(posters);
    crate::report(&format!("{} acknowledged, all delivered, {again} again", acknowledged(posters)));
}

fn start(disk: &Path, sink: &Sink) -> Process {
    Process::spawn(sidecar(&disk.join("data"), &sink.url, &SETS))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_somebody_makes_room_on_a_full_disk_events_are_accepted_again() {
    let Some(disk) = small_disk() else { return };
    let sink = Sink::start(true).await;
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![1; 20 << 20]).unwrap();
    let mut process = start(&disk.path(), &sink);
    let addresses = process.ready().await;
    let mut posters = [Poster::new(0)];
    let refusal = post_until_refused(addresses, &mut posters[0]).await;
    assert_refuses(addresses, &refusal, &mut posters[0]).await;

    std::fs::remove_file(&ballast).unwrap();
    assert_accepts_soon(addresses, &mut posters[0]).await;
    post_until_refused(addresses, &mut posters[0]).await;
    sink.set_down(false);
    assert_drains(addresses, &sink, &posters).await;
    assert_accepts_soon(addresses, &mut posters[0]).await;
    assert_drains(addresses, &sink, &posters).await;
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_it_starts_and_its_deliveries_make_room() {
    let Some(disk) = small_disk() else { return };
    let sink = Sink::start(true).await;
    let mut process = start(&disk.path(), &sink);
    let addresses = process.ready().await;
    let mut posters = [Poster::new(0)];
    let refusal = post_until_refused(addresses, &mut posters[0]).await;
    assert_refuses(addresses, &refusal, &mut posters[0]).await;
    process.kill().await;

    let mut process = start(&disk.path(), &sink);
    let addresses = process.ready().await;
    let recovered = client::assert_account(addresses.ops).await;
    assert!(recovered >= acknowledged(&posters), "{recovered} recovered");
    post_until_refused(addresses, &mut posters[0]).await;
    sink.set_down(false);
    assert_drains(addresses, &sink, &posters).await;
    assert_accepts_soon(addresses, &mut posters[0]).await;
    assert_drains(addresses, &sink, &posters).await;
    process.kill().await;
}
