//! The key is wrong, or the address: everything waits, nothing is lost, and it ends by itself.

use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gmfy_sidecar::simulator::{Faults, Options};
use http::StatusCode;

use crate::client::event;
use crate::rig::{Gmfy, Running, settings, until};

/// What is documented for a rotated key.
const WITHIN: Duration = Duration::from_secs(10);

/// A folder as Kubernetes mounts a secret: `key` is a link into `..data`, itself a link to the
/// folder of one version, replaced by an atomic rename.
struct Secret {
    folder: PathBuf,
    version: u32,
}

impl Secret {
    fn mount(folder: &Path, key: &str) -> Self {
        std::fs::create_dir(folder).unwrap();
        let mut secret = Self { folder: folder.to_owned(), version: 0 };
        secret.swap(key);
        symlink("..data/key", secret.file()).unwrap();
        secret
    }

    fn file(&self) -> PathBuf {
        self.folder.join("key")
    }

    fn swap(&mut self, key: &str) {
        let before = format!("..version-{}", self.version);
        self.version += 1;
        let version = format!("..version-{}", self.version);
        std::fs::create_dir(self.folder.join(&version)).unwrap();
        std::fs::write(self.folder.join(&version).join("key"), format!("{key}\n")).unwrap();
        symlink(version, self.folder.join("..data_tmp")).unwrap();
        std::fs::rename(self.folder.join("..data_tmp"), self.folder.join("..data")).unwrap();
        if self.version > 1 {
            std::fs::remove_dir_all(self.folder.join(before)).unwrap();
        }
    }
}

/// The lines logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn lines_with(&self, words: &str) -> usize {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains(words)).count()
    }
}

async fn behind_a_secret(gmfy: &Gmfy, dir: &Path, key: &str) -> (Running, Secret) {
    let secret = Secret::mount(&dir.join("secret"), key);
    let mut settings = settings(gmfy.address, dir);
    settings.upstream.api_key = None;
    settings.upstream.api_key_file = Some(secret.file());
    let sidecar = Running::start(settings).await;
    let mut client = sidecar.client().await;
    let events: Vec<_> = (0..100).map(|n| event("visit", &format!("user-{}", n % 10), n)).collect();
    client.accepted(&events).await;
    (sidecar, secret)
}

// On one thread, so that the log of the lanes is caught.
#[tokio::test]
async fn a_key_rotated_as_kubernetes_does_is_taken_up_within_ten_seconds_and_said_once() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .with_max_level(tracing::Level::INFO)
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    // While there is one subscriber alone, tracing asks only the thread that comes to a line first
    // whether anyone wants it: then that of another test decides.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let dir = tempfile::tempdir().unwrap();
    let api_key = Some("the-new-key".to_owned());
    let gmfy = Gmfy::with(Options { api_key, ..Options::default() }).await;
    let (sidecar, mut secret) = behind_a_secret(&gmfy, dir.path(), "the-old-key").await;

    until("misconfigured", WITHIN, || sidecar.is("misconfigured")).await;
    // Other lanes may be on their way; after those, nothing is sent with a wrong key.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let attempts = sidecar.attempts();
    assert!((1..=4).contains(&attempts), "{attempts} attempts: one a lane at most");
    assert_eq!(sidecar.queued(), 100);

    let swapped = Instant::now();
    secret.swap("the-new-key");
    sidecar.drained(WITHIN).await;
    println!("delivered {:?} after the key was replaced", swapped.elapsed());
    assert!(sidecar.is("up"));
    assert_eq!(gmfy.handle.counts().events, 100);
    assert_eq!(log.lines_with("delivery is misconfigured"), 1);
    assert_eq!(log.lines_with("GMFY's key was replaced"), 1);
    assert_eq!(log.lines_with("the-new-key") + log.lines_with("the-old-key"), 0);
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_request_would_mend_holds_everything_until_the_key_changes() {
    async fn held_by(status: StatusCode) {
        let dir = tempfile::tempdir().unwrap();
        let gmfy = Gmfy::start().await;
        let faults = Faults { status: Some(status), ..Faults::default() };
        gmfy.handle.set_faults(faults);
        let (sidecar, mut secret) = behind_a_secret(&gmfy, dir.path(), "one").await;
        until("misconfigured", WITHIN, || sidecar.is("misconfigured")).await;
        assert!(sidecar.attempts() <= 4, "{status}: {} attempts", sidecar.attempts());
        gmfy.handle.set_faults(Faults::default());
        secret.swap("two");
        sidecar.drained(WITHIN).await;
        assert_eq!(gmfy.handle.counts().events, 100, "{status}");
        assert_eq!(sidecar.metrics.ledger.snapshot().dead_letters, 0, "{status}");
        sidecar.stop().await;
    }
    // At once: each takes as long as the key's file isn't looked at.
    tokio::join!(
        held_by(StatusCode::UNAUTHORIZED),
        held_by(StatusCode::FORBIDDEN),
        held_by(StatusCode::NOT_FOUND),
        held_by(StatusCode::METHOD_NOT_ALLOWED),
        held_by(StatusCode::NOT_IMPLEMENTED),
    );
}
