//! The documents: what they show works, where they point to exists, and what is generated is up to
//! date.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::let_underscore_must_use,
    reason = "a test's failure is a panic"
)]

mod code;
mod links;
mod pages;
mod reference;
