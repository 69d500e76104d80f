//! Other settings for a running sidecar: checked and made ready first, then put in force.

use std::sync::Arc;

use tokio::sync::watch;

use super::{SidecarError, queue_options};
use crate::config::{Settings, reload_differences, reloadable_differences};
use crate::delivery::{self, Controls};
use crate::http::ApiSettings;
use crate::queue::Backend;
use crate::reads::Reads;
use crate::upstream::Upstream;

/// The settings in force, as the parts follow them that look at them when they need them.
pub type InForce = watch::Receiver<Arc<Settings>>;

/// Puts other settings in force. Clones do it for the same sidecar.
#[derive(Clone, Debug)]
pub struct Reloader {
    pub(super) settings: watch::Sender<Arc<Settings>>,
    pub(super) api: ApiSettings,
    pub(super) upstream: Upstream,
    pub(super) reads: Reads,
    pub(super) queue: Backend,
    pub(super) controls: Controls,
}

/// What other settings did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// The settings that changed and are in force.
    pub applied: Vec<&'static str>,
    /// Those that changed and need a restart; their old values stay in force.
    pub restart: Vec<&'static str>,
}

impl Reloader {
    /// Puts all of these in force but those that only count at start.
    ///
    /// # Errors
    /// When one can't be used, a file that it names for example; then nothing changes.
    ///
    /// # Cancel safety
    /// Dropped, either nothing or all of it happens.
    pub async fn apply(&self, new: Settings) -> Result<Reloaded, SidecarError> {
        let old = Arc::clone(&self.settings.borrow());
        let restart = reload_differences(&old, &new);
        let new = new.with_fixed_of(&old);
        let applied = reloadable_differences(&old, &new);
        let (upstream, connections) = (new.upstream.clone(), new.reads.connections);
        let towards_gmfy =
            upstream != old.upstream || connections != old.reads.connections || is_by_files(&new);
        let prepared = if towards_gmfy {
            let prepare = move || Upstream::prepare(&upstream, connections);
            Some(tokio::task::spawn_blocking(prepare).await??)
        } else {
            None
        };
        // The last step that can fail; from here on everything happens.
        self.controls.reload(delivery::Settings::from_config(&new))?;
        if let Some(prepared) = prepared {
            self.upstream.replace(prepared);
        }
        self.reads.reload(&new.reads);
        self.controls.reconfigured();
        self.queue.replace(&queue_options(&new));
        self.controls.dead_letters_freed();
        self.api.replace(&new);
        self.settings.send_replace(Arc::new(new));
        Ok(Reloaded { applied, restart })
    }
}

/// Whether files say more of GMFY than the settings do: they are read again in any case.
fn is_by_files(settings: &Settings) -> bool {
    let upstream = &settings.upstream;
    let files = [
        &upstream.api_key_file,
        &upstream.ca_file,
        &upstream.client_cert_file,
        &upstream.client_key_file,
    ];
    files.into_iter().any(Option::is_some)
}
