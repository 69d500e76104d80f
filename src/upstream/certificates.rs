//! The files of certificates, read again when they change: issuers rotate them under a running
//! process.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::xxh3_128;
use zeroize::Zeroizing;

use super::BuildError;
use super::clients::Clients;
use crate::config;

/// What clients are built from, and the files among it.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    settings: config::Upstream,
    base: Url,
    connections: usize,
    /// As they were when the clients were built.
    seen: Fingerprint,
}

/// Of each file's content; none of one that can't be read.
type Fingerprint = Vec<Option<u128>>;

/// What became of a look at the files.
#[derive(Debug)]
enum Look {
    Same,
    /// They changed, and this is what they make.
    Changed(Fingerprint, Result<Box<Clients>, BuildError>),
}

impl Watched {
    /// Reads the files, so it blocks on the disk.
    pub(super) fn new(settings: &config::Upstream, base: &Url, connections: usize) -> Self {
        let (settings, base) = (settings.clone(), base.clone());
        let mut watched = Self { settings, base, connections, seen: Fingerprint::new() };
        watched.seen = watched.fingerprint();
        watched
    }

    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let settings = &self.settings;
        [&settings.ca_file, &settings.client_cert_file, &settings.client_key_file]
            .into_iter()
            .flatten()
    }

    fn fingerprint(&self) -> Fingerprint {
        let read = |file| std::fs::read(file).ok().map(Zeroizing::new);
        self.files().map(|file| read(file).map(|content| xxh3_128(&content))).collect()
    }

    /// Compares the files with what was seen of them last. Blocks on the disk.
    fn look(&self) -> Look {
        let now = self.fingerprint();
        if now == self.seen {
            return Look::Same;
        }
        let clients = Clients::new(&self.settings, &self.base, self.connections).map(Box::new);
        Look::Changed(now, clients)
    }

    /// Looks every `interval`, by the files' paths each time, so that links and folders can be
    /// swapped, and hands on clients with the new certificates. Where these can't be used, half of
    /// a pair being replaced among them, the old ones stay; that is warned of once.
    pub(super) async fn follow(
        &self,
        interval: Duration,
        token: &CancellationToken,
        replace: impl Fn(Clients),
    ) {
        if self.files().next().is_none() {
            return token.cancelled().await;
        }
        let mut watched = self.clone();
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while token.run_until_cancelled(ticks.tick()).await.is_some() {
            let looking = watched.clone();
            let look = tokio::task::spawn_blocking(move || looking.look());
            let Some(Ok(look)) = token.run_until_cancelled(look).await else { continue };
            let Look::Changed(seen, clients) = look else { continue };
            watched.seen = seen;
            match clients {
                Ok(clients) => {
                    replace(*clients);
                    tracing::info!("the certificates for GMFY were replaced");
                }
                Err(error) => tracing::warn!(
                    %error,
                    "a file of certificates changed and can't be used; going on with the old ones"
                ),
            }
        }
    }
}
