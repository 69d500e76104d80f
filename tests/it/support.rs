//! A real sidecar in front of a real simulated GMFY, both in this process, on free ports and in a
//! folder of its own; and what it takes to talk to them.
//!
//!     let running = Running::start(|settings| settings.api.max_event = 100).await;
//!     let reply = post("/v1/events/", r#"{"userId":"1","type":"t"}"#).send(running.api()).await;
//!     assert_eq!(reply.status, 202);
//!     eventually("it is delivered", || running.gmfy().counts().events == 1).await;
//!     assert_eq!(running.stop().await.remaining, 0);

mod scrape;
mod wire;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use gmfy_sidecar::clock::Clock;
use gmfy_sidecar::config::Settings;
pub(crate) use gmfy_sidecar::sidecar::Stopped;
use gmfy_sidecar::sidecar::{Addresses, Reloaded, Reloader, Sidecar, SidecarError};
use gmfy_sidecar::simulator::{Handle, Options, Simulator};
use gmfy_sidecar::telemetry::Metrics;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

pub(crate) use scrape::Scrape;
#[allow(unused_imports, reason = "the support serves several tests")]
pub(crate) use wire::{Reply, Request, Wire, get, post};

/// The key that the simulator takes, and the sidecar has.
pub(crate) const GMFY_KEY: &str = "key-of-gmfy";
/// The longest wait for anything: far beyond what a busy machine needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(5);

/// Waits until `holds`, looking every 5 ms; fails the test when it never does.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "it never came true that {what}");
        sleep(STEP).await;
    }
}

/// A sidecar that runs, with its GMFY.
#[derive(Debug)]
pub(crate) struct Running {
    gmfy: Gmfy,
    folder: tempfile::TempDir,
    settings: Settings,
    addresses: Addresses,
    metrics: Arc<Metrics>,
    reloader: Reloader,
    stop: CancellationToken,
    task: JoinSet<Result<Stopped, SidecarError>>,
}

impl Running {
    /// Starts both. `change` adjusts the settings: by default loopback and free ports, GMFY's
    /// simulator as upstream, a fresh folder, and short waits.
    pub(crate) async fn start(change: impl FnOnce(&mut Settings)) -> Self {
        let gmfy = Gmfy::start().await;
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::with_upstream(&gmfy.url, GMFY_KEY);
        settings.api.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        settings.ops.listen = settings.api.listen;
        settings.admin.listen = settings.api.listen;
        settings.queue.dir = folder.path().join("data");
        settings.delivery.linger = Duration::from_millis(5);
        settings.delivery.retry_initial = Duration::from_millis(10);
        settings.delivery.retry_max = Duration::from_millis(50);
        settings.shutdown.quiet = Duration::ZERO;
        settings.shutdown.deadline = Duration::from_secs(10);
        change(&mut settings);
        crate::backend::choose(&mut settings, folder.path());
        Self::run(gmfy, folder, settings).await
    }

    async fn run(gmfy: Gmfy, folder: tempfile::TempDir, settings: Settings) -> Self {
        let sidecar = Sidecar::build(settings.clone(), Clock::system()).await.unwrap();
        let (addresses, metrics) = (sidecar.addresses(), sidecar.metrics());
        let reloader = sidecar.reloader();
        let stop = CancellationToken::new();
        let mut task = JoinSet::new();
        task.spawn(sidecar.run(stop.clone()));
        Self { gmfy, folder, settings, addresses, metrics, reloader, stop, task }
    }

    /// Puts changed settings in force, as SIGHUP does.
    pub(crate) async fn reload(
        &mut self,
        change: impl FnOnce(&mut Settings),
    ) -> Result<Reloaded, SidecarError> {
        let mut settings = self.settings.clone();
        change(&mut settings);
        let reloaded = self.reloader.apply(settings.clone()).await?;
        self.settings = settings;
        Ok(reloaded)
    }

    /// Where applications connect.
    pub(crate) fn api(&self) -> SocketAddr {
        self.addresses.api.unwrap()
    }

    /// Where probes and scrapes connect.
    pub(crate) fn ops(&self) -> SocketAddr {
        self.addresses.ops.unwrap()
    }

    /// Where operators connect.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.addresses.admin.unwrap()
    }

    /// Watches and steers the simulated GMFY, which records everything.
    pub(crate) fn gmfy(&self) -> &Handle {
        &self.gmfy.handle
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What `/metrics` says now.
    pub(crate) async fn scrape(&self) -> Scrape {
        let reply = get("/metrics").send(self.ops()).await;
        assert_eq!(reply.status, 200);
        Scrape::parse(&reply.text())
    }

    /// The folder that is removed at the test's end; the queue is in `data` in it.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Begins a stop, without waiting for its end.
    pub(crate) fn begin_stop(&self) {
        self.stop.cancel();
    }

    /// Stops the sidecar in order, then its GMFY.
    pub(crate) async fn stop(mut self) -> Stopped {
        let stopped = self.stop_sidecar().await;
        self.gmfy.stop().await;
        stopped
    }

    /// Stops the sidecar in order and starts another on the same data, with the same GMFY.
    pub(crate) async fn restart(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        self.stop_sidecar().await;
        change(&mut self.settings);
        Self::run(self.gmfy, self.folder, self.settings).await
    }

    async fn stop_sidecar(&mut self) -> Stopped {
        self.stop.cancel();
        let ended = timeout(PATIENCE, self.task.join_next()).await.expect("the sidecar stops");
        ended.expect("it was running").expect("it doesn't panic").expect("it ends by its stop")
    }
}

/// A simulated GMFY that runs.
#[derive(Debug)]
pub(crate) struct Gmfy {
    pub(crate) url: String,
    pub(crate) handle: Handle,
    stop: CancellationToken,
    task: JoinSet<()>,
}

impl Gmfy {
    pub(crate) async fn start() -> Self {
        let api_key = Some(GMFY_KEY.to_owned());
        let options = Options { api_key, record: 100_000, ..Options::default() };
        let simulator = Simulator::bind(options).await.unwrap();
        let (url, handle) = (simulator.url(), simulator.handle());
        let stop = CancellationToken::new();
        let mut task = JoinSet::new();
        task.spawn(simulator.run(stop.clone()));
        Self { url, handle, stop, task }
    }

    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        while self.task.join_next().await.is_some() {}
    }
}
