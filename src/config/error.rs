//! What is wrong with the settings, in words for the person who wrote them.

use std::fmt;
use std::path::PathBuf;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Compiled in, or set by the command that runs.
    Default,
    /// The settings file; lines count from 1.
    File { path: PathBuf, line: usize },
    /// The environment variable of this name.
    Environment(String),
    /// `--set`.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "file {}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// One mistake. No part of it holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The setting's dotted name; for an unknown one, the name as it was written. Empty when the
    /// mistake is in no setting.
    pub key: String,
    /// The value as it was written; none for a secret's, and where none was written.
    pub value: Option<String>,
    pub origin: Origin,
    /// What is wrong, or what was expected.
    pub problem: String,
    /// The nearest known name, for an unknown one.
    pub nearest: Option<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            f.write_str(&self.key)?;
        }
        if let Some(value) = &self.value {
            write!(f, " = {}", shortened(value))?;
        }
        match (&self.origin, self.key.is_empty()) {
            (Origin::Default, _) => {}
            (origin, false) => write!(f, " ({origin})")?,
            (origin, true) => write!(f, "{origin}")?,
        }
        write!(f, ": {}", self.problem)?;
        if let Some(nearest) = &self.nearest {
            write!(f, "; the nearest known one is {nearest}")?;
        }
        Ok(())
    }
}

/// The value in quotes, escaped, and cut where it is too long to be read.
fn shortened(value: &str) -> String {
    const SHOWN: usize = 80;
    let start: String = value.chars().take(SHOWN).collect();
    if start.len() < value.len() { format!("{start:?}…") } else { format!("{start:?}") }
}

/// All mistakes, a line each; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}
