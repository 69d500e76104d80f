//! What an idle sidecar takes. It has to look at the processor for some seconds to tell.

use std::time::Duration;

use gmfy_sidecar::simulator::Faults;

use crate::gmfy::Gmfy;
use crate::process::{Process, sidecar};

/// How long it is looked at.
const WATCHED: Duration = Duration::from_secs(8);
/// Memory beside what is mapped of the binary. Unoptimised, it writes the three databases' empty
/// tables, of 6 MiB each, which otherwise take no memory until they are used.
const MEMORY_KIB: u64 = if cfg!(debug_assertions) { 32 * 1024 } else { 6 * 1024 };

/// Time on a processor and wake-ups, over all threads of a process.
fn spent(process: u32) -> (Duration, u64) {
    let mut total = (Duration::ZERO, 0);
    for thread in std::fs::read_dir(format!("/proc/{process}/task")).unwrap() {
        let thread = thread.unwrap().path();
        // Nanoseconds on a processor, nanoseconds in a queue, turns.
        let text = std::fs::read_to_string(thread.join("schedstat")).unwrap();
        let mut numbers = text.split_whitespace().map(|number| number.parse::<u64>().unwrap());
        total.0 += Duration::from_nanos(numbers.next().unwrap());
        total.1 += numbers.nth(1).unwrap();
    }
    total
}

fn anonymous_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_sidecar_takes_next_to_nothing() {
    let gmfy = Gmfy::start(Faults::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::spawn(sidecar(folder.path(), &gmfy.url, &[]));
    process.ready().await;
    // What the start leaves to be done.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = spent(process.id());
    tokio::time::sleep(WATCHED).await;
    let after = spent(process.id());
    let share = (after.0 - before.0).as_secs_f64() / WATCHED.as_secs_f64();
    let wakes = after.1 - before.1;
    let memory = anonymous_kib(process.id());
    println!("idle: {:.3} % of a core, {wakes} wake-ups, {memory} KiB", share * 100.0);
    assert!(share < 0.003, "{:.3} % of a core", share * 100.0);
    assert!(wakes < 20 * WATCHED.as_secs(), "{wakes} wake-ups");
    assert!(memory < MEMORY_KIB, "{memory} KiB");
}
