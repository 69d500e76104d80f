//! Power cuts under load, many times on one disk: nothing acknowledged is lost.
//!
//! A cut is the file system's own shutdown: from then on nothing of it reaches the (loop) device,
//! data, metadata and journal alike. So what the sidecar left to the page cache is gone; what the
//! device itself would keep in a volatile cache is not simulated.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;

use crate::client::{self, Connection};
use crate::filesystem::{FileSystem, PowerCut};
use crate::load::{Poster, acknowledged};
use crate::process::{Process, sidecar};
use crate::sink::Sink;

const POSTERS: usize = 16;

/// Posts small batches, or large ones, until the connection breaks or the disk refuses. What is
/// answered once the cut has begun does not count: an fdatasync that is under way then may succeed
/// with nothing on disk.
async fn post_until_cut(
    api: SocketAddr,
    mut poster: Poster,
    large: bool,
    cut: Arc<AtomicBool>,
) -> Poster {
    let Ok(mut connection) = Connection::open(api).await else { return poster };
    loop {
        let count = if large { 300 } else { 1 + poster.next % 7 };
        let before_the_cut = || !cut.load(Ordering::SeqCst);
        match poster.post(&mut connection, count, before_the_cut).await {
            Ok(answer) if answer.status == 202 => {}
            Ok(answer) => {
                assert!(cut.load(Ordering::SeqCst), "{}: {}", answer.status, answer.text());
                return poster;
            }
            Err(_) => return poster,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_by_a_power_cut() {
    // Room for what an optimised binary takes in while GMFY is away.
    let disk = match FileSystem::ext4(2048) {
        Ok(disk) => disk,
        Err(why) => return crate::report(&format!("SKIPPED: power cuts: {why}")),
    };
    let rounds = if crate::is_long() { 20 } else { 4 };
    let seed: u64 = rand::random();
    crate::report(&format!("power loss: seed {seed}"));
    let mut rng = StdRng::seed_from_u64(seed);
    let sink = Sink::start(false).await;
    let folder = disk.path().join("data");
    let sets = [
        "queue.max_bytes=1536MiB",
        "delivery.batch_events=50",
        "delivery.linger=5ms",
        "delivery.retry_max=200ms",
    ];
    let mut posters: Vec<_> = (0..POSTERS).map(Poster::new).collect();
    let mut over_zeros = 0;
    for round in 0..rounds {
        // With GMFY away the log grows; with GMFY there cursors move, and generations go.
        sink.set_down(round % 2 == 0);
        let mut process = Process::spawn(sidecar(&folder, &sink.url, &sets));
        let api = process.ready().await.api;
        let power = PowerCut::prepare(&disk.path());
        let cut = Arc::new(AtomicBool::new(false));
        let mut posting = JoinSet::new();
        // Before large ones no zeros are laid, so that the file's metadata need to be synced too.
        let grows = round % 4 < 2;
        for poster in posters {
            let large = grows && poster.id.is_multiple_of(4);
            posting.spawn(post_until_cut(api, poster, large, Arc::clone(&cut)));
        }
        // The moment of the cut, not a wait for something. Zeros are there after some commits.
        let earliest = if grows { 50 } else { 300 };
        tokio::time::sleep(Duration::from_millis(rng.random_range(earliest..800))).await;
        cut.store(true, Ordering::SeqCst);
        power.now();
        process.kill().await;
        posters = posting.join_all().await;
        disk.remount();
        over_zeros += u32::from(newest_log(&folder).ends_with(&[0; 64 * 1024]));
    }
    sink.set_down(false);
    let mut process = Process::spawn(sidecar(&folder, &sink.url, &sets));
    let ops = process.ready().await.ops;
    crate::eventually("the queue is empty", Duration::from_secs(120), || async {
        client::assert_account(ops).await == 0
    })
    .await;
    let again = sink.assert_has_all_of(&posters);
    let total = acknowledged(&posters);
    crate::report(&format!(
        "power loss: {rounds} cuts, {over_zeros} with zeros ahead of the log, {total} acknowledged, \
         none lost, {again} delivered again"
    ));
    assert!(over_zeros > 0, "no log had zeros ahead");
    assert!(total > 100, "too little load to say anything: {total}");
    process.kill().await;
}

/// The bytes of the newest generation's file.
fn newest_log(folder: &Path) -> Vec<u8> {
    let generations = std::fs::read_dir(folder.join("queue")).unwrap();
    let first = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?.strip_prefix("gen-")?;
        name.parse::<u64>().ok()
    };
    let newest = generations.map(|entry| entry.unwrap().path()).max_by_key(first).unwrap();
    std::fs::read(newest.join("db")).unwrap()
}

/// That a cut takes what was not synced: else the test above would show nothing. The end may happen
/// to survive, when the file system syncs its metadata for something else: so there are some tries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_durability_interval_has_not_synced_is_gone_after_a_power_cut() {
    for _ in 0..5 {
        let (left, total) = match left_without_syncs().await {
            Ok(counts) => counts,
            Err(why) => return crate::report(&format!("SKIPPED: power cuts: {why}")),
        };
        crate::report(&format!("power loss, durability interval: {left} of {total} are left"));
        if left < total {
            return;
        }
    }
    panic!("a power cut takes nothing, although nothing is synced");
}

/// How many events are left after a cut, and how many were acknowledged before it.
async fn left_without_syncs() -> Result<(u64, u64), String> {
    let disk = FileSystem::ext4(64)?;
    let sink = Sink::start(true).await;
    let folder = disk.path().join("data");
    let lax = ["queue.durability=interval", "queue.interval=10s"];
    let mut process = Process::spawn(sidecar(&folder, &sink.url, &lax));
    let api = process.ready().await.api;
    let mut poster = Poster::new(0);
    let mut connection = Connection::open(api).await.unwrap();
    // More than the file had room for when it was created, and that was synced.
    for _ in 0..40 {
        assert_eq!(poster.post(&mut connection, 1000, || true).await.unwrap().status, 202);
    }
    PowerCut::prepare(&disk.path()).now();
    process.kill().await;
    disk.remount();
    let mut process = Process::spawn(sidecar(&folder, &sink.url, &[]));
    let ops = process.ready().await.ops;
    let left = client::assert_account(ops).await;
    process.kill().await;
    Ok((left, poster.acknowledged.count()))
}
