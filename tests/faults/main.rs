//! Faults of every kind against the real parts: listeners, queue on disk, lanes, client of GMFY.
//!
//! Each test runs a whole sidecar in this process, a simulated GMFY behind it, and between the two
//! where needed a proxy that breaks connections. `GMFY_LONG=1` makes the loads ten times larger.

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
mod client;
mod fairness;
mod key;
mod mixed;
mod outage;
mod overflow;
mod poison;
mod proxy;
mod rig;
mod scrape;
mod stop;
