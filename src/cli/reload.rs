//! SIGHUP: the settings are read again.

use std::sync::Arc;

use tracing::{error, info, warn};

use super::service;
use crate::config::{Settings, Sources};
use crate::sidecar::Reloader;
use crate::telemetry::Metrics;
use crate::telemetry::logging::{self, LogHandle};

/// Reads the settings again, from where they came, and puts them in force.
#[derive(Debug)]
pub(super) struct Reload {
    pub(super) sources: Sources,
    pub(super) reloader: Reloader,
    pub(super) metrics: Arc<Metrics>,
    pub(super) log: Arc<LogHandle>,
}

impl Reload {
    /// Whatever is wrong is logged, and leaves the old settings in force.
    pub(super) async fn now(&self) {
        service::reloading();
        let result = match self.attempt().await {
            Ok(()) => "applied",
            Err(error) => {
                error!(error = %format!("{error:#}"), "the old settings stay in force");
                "refused"
            }
        };
        self.metrics.config_reloads.with_label_values(&[result]).inc();
        service::ready();
    }

    async fn attempt(&self) -> anyhow::Result<()> {
        let sources = self.sources.clone();
        let loaded = tokio::task::spawn_blocking(move || Settings::load(&sources)).await??;
        let settings = loaded.settings;
        logging::check(&settings.log)?;
        let log = settings.log.clone();
        let reloaded = self.reloader.apply(settings).await?;
        self.log.apply(&log)?;
        let applied = reloaded.applied.join(", ");
        info!(settings.changed = applied, "the settings were read again, and are in force");
        if !reloaded.restart.is_empty() {
            let restart = reloaded.restart.join(", ");
            warn!(settings.restart = restart, "some settings changed that need a restart");
        }
        Ok(())
    }
}
