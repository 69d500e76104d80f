//! Writing to the terminal without a panic on a closed pipe.

use std::io::Write as _;

/// A line of a command's result.
pub(super) fn line(text: &str) {
    drop(writeln!(std::io::stdout().lock(), "{text}"));
}

/// Why a command failed; each line of it says so.
pub(super) fn error(text: &str) {
    let mut stderr = std::io::stderr().lock();
    for line in text.lines() {
        drop(writeln!(stderr, "error: {line}"));
    }
}
