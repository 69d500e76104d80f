//! Hostile and mistaken input against the real binary: what it answers, that it lives on, and what
//! it does not let slip.

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

#[path = "../e2e/client.rs"]
mod client;
#[path = "../e2e/gmfy.rs"]
mod gmfy;
#[path = "../e2e/process.rs"]
mod process;

mod connections;
mod http2;
mod notation;
mod secrets;
mod startup;
mod table;
mod upstream;

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
