//! The status page in a real Chromium, served by the real binary, with a simulated GMFY behind it.
//!
//! Needs `chromium` and `chromedriver`; without them every test says SKIPPED. What axe-core finds
//! is looked for where `npm install --prefix target/browser axe-core` has put it. With
//! `GMFY_SCREENSHOTS=FOLDER` the test of `screenshots.rs` leaves its pictures there.

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

mod accessible;
mod chromium;
#[path = "../e2e/client.rs"]
mod client;
#[path = "../e2e/gmfy.rs"]
mod gmfy;
mod letters;
mod live;
#[path = "../e2e/process.rs"]
mod process;
mod screenshots;
mod sign_in;
mod stage;

/// Says that a test is SKIPPED and why; past the capture of the test harness, so that it is seen.
fn report(line: &str) {
    use std::io::Write as _;
    writeln!(std::io::stderr().lock(), "{line}").unwrap();
}

/// reqwest asks for a provider of TLS even where none is spoken.
fn provide_tls() {
    // Another test may have done it already.
    drop(rustls::crypto::ring::default_provider().install_default());
}
