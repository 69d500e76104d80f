//! Writing to the terminal without a panic on a closed pipe, and with colour only where it is
//! wanted.

use std::io::{IsTerminal as _, Write as _};

/// A line of a command's result.
pub(super) fn line(text: &str) {
    drop(writeln!(std::io::stdout().lock(), "{text}"));
}

/// A line of a result that goes on; false when nobody reads it any more.
#[must_use]
pub(super) fn line_is_read(text: &str) -> bool {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush()).is_ok()
}

/// Something worth a word that is no result.
pub(super) fn note(text: &str) {
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}

/// Why a command failed; each line of it says so.
pub(super) fn error(text: &str) {
    let mut stderr = std::io::stderr().lock();
    for line in text.lines() {
        drop(writeln!(stderr, "error: {line}"));
    }
}

/// Whether results go to a person's terminal.
pub(super) fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Colours for results: none in a pipe, nor where `NO_COLOR` is set (no-color.org).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Paint(bool);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Good,
    Warning,
    Bad,
    Dim,
}

impl Paint {
    #[cfg(test)]
    pub(super) const NONE: Self = Self(false);
    #[cfg(test)]
    pub(super) const ALWAYS: Self = Self(true);

    pub(super) fn for_stdout() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let is_dumb = set("TERM").is_some_and(|term| term == "dumb");
        Self(is_terminal() && set("NO_COLOR").is_none() && !is_dumb)
    }

    /// The text in this colour.
    pub(super) fn text(self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Good => "32",
            Colour::Warning => "33",
            Colour::Bad => "31",
            Colour::Dim => "2",
        };
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}
