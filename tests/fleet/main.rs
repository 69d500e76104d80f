//! A fleet: replicas of the binary, a cluster of nats-servers, and a simulated GMFY.
//!
//! `GMFY_LONG=1` makes it ten times as many rounds. The suites of faults and of HTTP run against
//! NATS by `GMFY_TEST_BACKEND=nats`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::large_futures,
    clippy::future_not_send,
    clippy::let_underscore_must_use,
    clippy::cast_possible_truncation,
    unreachable_pub,
    dead_code,
    reason = "a test's failure is a panic, and its helpers serve several tests"
)]

#[path = "../faults/client.rs"]
mod client;
mod crashes;
mod link;
mod partitions;
#[path = "../e2e/process.rs"]
mod process;
mod refusals;
mod replicas;
mod secured;
mod server;
mod spill;
mod start;
