//! End-to-end tests: the real binary as a process of its own, and a simulated GMFY in the test.
//!
//! Every wait is for something that can be seen, and bounded; every process is killed when its
//! handle is dropped. `GMFY_LONG=1` makes the crash and outage tests as long as a release needs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::large_futures,
    clippy::future_not_send,
    clippy::type_complexity,
    clippy::string_slice,
    clippy::let_underscore_must_use,
    clippy::needless_pass_by_value,
    clippy::cast_possible_truncation,
    unreachable_pub,
    dead_code,
    reason = "a test's failure is a panic, and its helpers serve several tests"
)]

mod admin;
mod client;
mod commands;
mod crashes;
mod examples;
mod gmfy;
mod memory;
mod process;
mod python_client;
mod refusals;
mod transcripts;

use std::future::Future;
use std::time::Duration;

/// Whether the long versions of the tests are asked for.
fn is_long() -> bool {
    std::env::var_os("GMFY_LONG").is_some_and(|value| value == "1")
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
