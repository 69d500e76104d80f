//! What the queue promises of the disk, shown with the real binary on real file systems: that a 202
//! follows its fdatasync, that a power cut loses nothing acknowledged, that a full disk passes, that
//! no backlog is too large. `docs/durability.md` says what each of these shows, and what it saw.
//!
//! Every event is numbered, and the GMFY of these tests is a sink that ticks the numbers off, so
//! each event is accounted for at any scale. `GMFY_LONG=1` scales up; `GMFY_EVENTS=10000000` sets the
//! number of events of the backlog and the stream by hand. A test that this machine can't run (no
//! strace, no loop devices) says so in a line that begins with SKIPPED.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::large_futures,
    clippy::future_not_send,
    clippy::string_slice,
    clippy::let_underscore_must_use,
    clippy::needless_pass_by_value,
    clippy::cast_possible_truncation,
    unreachable_pub,
    dead_code,
    reason = "a test's failure is a panic, and its helpers serve several tests"
)]

mod backlog;
#[path = "../e2e/client.rs"]
mod client;
mod commands;
mod disk_full;
mod filesystem;
mod load;
mod numbers;
mod power_loss;
#[path = "../e2e/process.rs"]
mod process;
mod rights;
mod sink;
mod stream;
mod syncs;
mod trace;

mod usage;

use std::future::Future;
use std::io::Write as _;
use std::time::Duration;

/// Whether the long versions of the tests are asked for.
fn is_long() -> bool {
    std::env::var_os("GMFY_LONG").is_some_and(|value| value == "1")
}

/// How many events to use: as `GMFY_EVENTS` says, else one of these two.
fn events(short: u64, long: u64) -> u64 {
    let by_hand = std::env::var("GMFY_EVENTS").ok();
    let by_hand = by_hand.map(|count| count.parse().expect("GMFY_EVENTS is a number"));
    by_hand.unwrap_or(if is_long() { long } else { short })
}

/// Says what was found, or that a test is SKIPPED and why; past the capture of the test harness, so
/// that it is seen although the test passes.
fn report(text: &str) {
    writeln!(std::io::stderr().lock(), "{text}").unwrap();
}

/// Waits until `holds`, looking every few milliseconds; panics after `bound`.
async fn eventually<F: Future<Output = bool>>(
    what: &str,
    bound: Duration,
    mut holds: impl FnMut() -> F,
) {
    let end = tokio::time::Instant::now() + bound;
    while !holds().await {
        assert!(tokio::time::Instant::now() < end, "{what}: not within {bound:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
