//! GMFY's key: held in one place, replaced while running, printed nowhere.

use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::config::Secret;

/// How often the key's file is read again: a rotated key has to take effect within 10 s.
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(4);

/// No key is that long; a file that is isn't a key's.
const MAX_KEY: u64 = 16 * 1024;

/// GMFY's key. `Debug` shows `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(HeaderValue);

/// Why a text is no key, or there is none. Says nothing of the text.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the file can't be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error("it is empty")]
    Empty,
    #[error("it is longer than 16 KiB")]
    TooLong,
    #[error("it holds characters that no HTTP header can carry; a key is one line of ASCII")]
    NotAHeader,
}

impl ApiKey {
    /// Takes a key, without the white space around it.
    ///
    /// # Errors
    /// When a header can't carry it.
    pub fn new(key: &Secret) -> Result<Self, KeyError> {
        let key = key.expose().trim();
        if key.is_empty() {
            return Err(KeyError::Empty);
        }
        if !key.is_ascii() {
            return Err(KeyError::NotAHeader);
        }
        // The header's bytes are zeroised when the last clone of it is dropped.
        let owned = Bytes::from_owner(zeroize::Zeroizing::new(key.as_bytes().to_vec()));
        let mut value = HeaderValue::from_maybe_shared(owned).map_err(|_| KeyError::NotAHeader)?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    /// Reads a key's file, by its path each time, so that links and folders can be swapped.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// When there is no key in it.
    pub(super) fn read(path: &Path) -> Result<Self, KeyError> {
        let mut text = zeroize::Zeroizing::new(String::new());
        let length = std::fs::File::open(path)?.take(MAX_KEY + 1).read_to_string(&mut text)?;
        if u64::try_from(length).is_ok_and(|length| length > MAX_KEY) {
            return Err(KeyError::TooLong);
        }
        Self::new(&Secret::new(text.as_str()))
    }

    /// The value of `x-api-key`; marked as sensitive.
    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Reads the file every `interval` and replaces the key when it has changed, until `token` is
/// cancelled. While the file holds no usable key the last one stays; that is warned of once.
pub(super) async fn watch_file(
    path: PathBuf,
    interval: Duration,
    key: watch::Sender<ApiKey>,
    token: CancellationToken,
) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut usable = true;
    while token.run_until_cancelled(ticks.tick()).await.is_some() {
        let file = path.clone();
        let read = tokio::task::spawn_blocking(move || ApiKey::read(&file));
        let Some(Ok(read)) = token.run_until_cancelled(read).await else { continue };
        match read {
            Ok(new) => {
                usable = true;
                let changed = key.send_if_modified(|current| {
                    let changed = *current != new;
                    *current = new;
                    changed
                });
                if changed {
                    tracing::info!(file = %path.display(), "GMFY's key was replaced");
                }
            }
            Err(error) => {
                if usable {
                    tracing::warn!(
                        file = %path.display(), %error,
                        "upstream.api_key_file holds no usable key; going on with the last one"
                    );
                }
                usable = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn key(text: &str) -> ApiKey {
        ApiKey::new(&Secret::new(text)).unwrap()
    }

    #[test]
    fn a_key_is_trimmed_and_never_printed() {
        let canary = key(" \tcanary-key\r\n");
        assert_eq!(canary.header().as_bytes(), b"canary-key");
        assert!(canary.header().is_sensitive());
        assert_eq!(format!("{canary:?}"), "***");
        assert!(!format!("{:?}", canary.header()).contains("canary"));
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_repeated() {
        for (text, words) in
            [("", "empty"), (" \n", "empty"), ("zebra\nkey", "characters"), ("zebrä", "characters")]
        {
            let error = ApiKey::new(&Secret::new(text)).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(shown.contains(words), "{shown}");
            assert!(!shown.contains("zebr"), "{shown}");
        }
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("long");
        std::fs::write(&long, vec![b'k'; 20_000]).unwrap();
        assert!(matches!(ApiKey::read(&long), Err(KeyError::TooLong)));
        assert!(matches!(ApiKey::read(folder.path()), Err(KeyError::Unreadable(_))));
    }

    /// Waits until the watcher has read the file again, whatever it found; the clock is paused,
    /// so this takes no time.
    async fn rounds() {
        tokio::time::sleep(POLL_INTERVAL * 3).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_replaced_file_link_or_folder_replaces_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "one\n").unwrap();
        let sender = watch::Sender::new(key("one"));
        let mut changes = sender.subscribe();
        let token = CancellationToken::new();
        let drive = async {
            rounds().await;
            assert!(!changes.has_changed().unwrap(), "the same key is no change");

            std::fs::write(&path, "two").unwrap();
            changes.changed().await.unwrap();
            assert_eq!(*changes.borrow_and_update(), key("two"));

            for unusable in ["", "  \n", "two\nlines"] {
                std::fs::write(&path, unusable).unwrap();
                rounds().await;
            }
            std::fs::remove_file(&path).unwrap();
            rounds().await;
            assert!(!changes.has_changed().unwrap(), "an unusable file keeps the key");

            // As Kubernetes mounts a secret: a link into a folder behind a link that is swapped.
            for (name, content) in [("a", "three"), ("b", "four")] {
                std::fs::create_dir(folder.path().join(name)).unwrap();
                std::fs::write(folder.path().join(name).join("key"), content).unwrap();
                symlink(name, folder.path().join("next")).unwrap();
                std::fs::rename(folder.path().join("next"), folder.path().join("data")).unwrap();
                if name == "a" {
                    symlink("data/key", &path).unwrap();
                }
                changes.changed().await.unwrap();
                assert_eq!(*changes.borrow_and_update(), key(content));
            }
            token.cancel();
        };
        tokio::join!(watch_file(path.clone(), POLL_INTERVAL, sender, token.clone()), drive);
    }
}
