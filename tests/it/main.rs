//! Integration tests: the parts together, through their real interfaces.

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

#[path = "../fleet/backend.rs"]
mod backend;
mod support;

mod admin;
mod http;
mod metrics;
mod reads;
mod reload;
mod traces;
