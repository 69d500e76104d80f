//! The flags that every command with settings takes.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::config::{Loaded, Settings, Sources, environment_of};

/// Where the settings come from, beside the environment.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct SettingsArgs {
    /// The settings file (TOML)
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,

    /// Set one setting, e.g. --set delivery.lanes=8; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(super) sets: Vec<String>,
}

impl SettingsArgs {
    pub(super) fn sources(&self) -> Sources {
        Sources {
            defaults: Vec::new(),
            file: self.config.clone(),
            environment: environment_of(std::env::vars_os()),
            sets: self.sets.clone(),
        }
    }

    pub(super) fn load(&self) -> Result<Loaded, Failure> {
        load(&self.sources())
    }
}

pub(super) fn load(sources: &Sources) -> Result<Loaded, Failure> {
    Settings::load(sources).map_err(|errors| Failure::Usage(errors.to_string()))
}
