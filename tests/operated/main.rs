//! The real binary as those who run thousands of it meet it: scraped by a real Prometheus, rolled,
//! reloaded under load, watched by a service manager, and idle.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::large_futures,
    clippy::future_not_send,
    clippy::let_underscore_must_use,
    clippy::needless_pass_by_value,
    unreachable_pub,
    dead_code,
    reason = "a test's failure is a panic, and its helpers serve several tests"
)]

#[path = "../e2e/client.rs"]
mod client;
#[path = "../it/traces/collector.rs"]
mod collector;
#[path = "../e2e/gmfy.rs"]
mod gmfy;
mod idle;
mod load;
mod logs;
#[path = "../e2e/process.rs"]
mod process;
mod prometheus;
mod quota;
mod reload;
mod restarts;
mod service;
mod traces;

use std::future::Future;
use std::time::Duration;

/// Waits until `holds`, looking every few milliseconds; panics after `bound`.
async fn eventually<F: Future<Output = bool>>(
    what: &str,
    bound: Duration,
    mut holds: impl FnMut() -> F,
) {
    let end = tokio::time::Instant::now() + bound;
    while !holds().await {
        assert!(tokio::time::Instant::now() < end, "{what}: not within {bound:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
