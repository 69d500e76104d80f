//! What NATS says to `check --online` of a program that was built without it: it refuses settings
//! that name NATS.

use serde_json::Value;

use crate::config::Settings;

/// There is none.
#[derive(Debug)]
pub(super) enum Answer {}

#[allow(clippy::unnecessary_wraps, reason = "as the other one")]
pub(super) fn ask(_: &Settings) -> Result<Option<Answer>, anyhow::Error> {
    Ok(None)
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        match *self {}
    }

    pub(super) fn lines(&self) -> Vec<String> {
        match *self {}
    }

    pub(super) fn judge(self) -> Result<(), anyhow::Error> {
        match self {}
    }
}
