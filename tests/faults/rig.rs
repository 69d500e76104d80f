//! A sidecar and a simulated GMFY in this process.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gmfy_sidecar::clock::Clock;
use gmfy_sidecar::config::Settings;
use gmfy_sidecar::sidecar::{Sidecar, SidecarError, Stopped};
use gmfy_sidecar::simulator::{Handle, Options, Simulator};
use gmfy_sidecar::telemetry::Metrics;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::client::Client;

/// How much larger than usual the loads are.
pub(crate) fn scale() -> usize {
    if std::env::var_os("GMFY_LONG").is_some_and(|long| long == "1") { 10 } else { 1 }
}

/// A simulated GMFY that records everything.
pub(crate) struct Gmfy {
    pub(crate) handle: Handle,
    pub(crate) address: SocketAddr,
    _task: JoinSet<()>,
}

impl Gmfy {
    pub(crate) async fn start() -> Self {
        Self::with(Options::default()).await
    }

    pub(crate) async fn with(options: Options) -> Self {
        let options = Options { record: 1_000_000, seed: 7, ..options };
        let simulator = Simulator::bind(options).await.unwrap();
        let (handle, address) = (simulator.handle(), simulator.address());
        let mut tasks = JoinSet::new();
        tasks.spawn(simulator.run(CancellationToken::new()));
        Self { handle, address, _task: tasks }
    }
}

/// Settings for tests: free ports, short waits.
pub(crate) fn settings(upstream: SocketAddr, dir: &Path) -> Settings {
    let mut settings = Settings::with_upstream(&format!("http://{upstream}/"), "a-key");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    (settings.api.listen, settings.ops.listen, settings.admin.listen) = (any, any, any);
    settings.queue.dir = dir.join("data");
    settings.delivery.linger = Duration::from_millis(20);
    settings.delivery.retry_initial = Duration::from_millis(10);
    settings.delivery.retry_max = Duration::from_millis(100);
    settings.shutdown.quiet = Duration::from_millis(50);
    settings.shutdown.deadline = Duration::from_secs(3);
    crate::backend::choose(&mut settings, dir);
    settings
}

/// A running sidecar.
pub(crate) struct Running {
    pub(crate) api: SocketAddr,
    pub(crate) ops: SocketAddr,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) token: CancellationToken,
    task: JoinSet<Result<Stopped, SidecarError>>,
}

impl Running {
    pub(crate) async fn start(settings: Settings) -> Self {
        let sidecar = Sidecar::build(settings, Clock::system()).await.unwrap();
        let addresses = sidecar.addresses();
        let metrics = sidecar.metrics();
        let token = CancellationToken::new();
        let mut task = JoinSet::new();
        task.spawn(sidecar.run(token.clone()));
        Self { api: addresses.api.unwrap(), ops: addresses.ops.unwrap(), metrics, token, task }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.api).await
    }

    pub(crate) fn queued(&self) -> u64 {
        self.metrics.ledger.snapshot().queued()
    }

    /// The upstream state whose gauge is 1.
    pub(crate) fn is(&self, state: &str) -> bool {
        self.metrics.upstream_state.with_label_values(&[state]).get() == 1
    }

    /// Batch requests so far, whatever came of them.
    pub(crate) fn attempts(&self) -> u64 {
        let outcomes = gmfy_sidecar::telemetry::metrics::OUTCOMES;
        let count = |outcome| {
            let labels = ["create_batch_events", outcome];
            self.metrics.upstream_requests.with_label_values(&labels).get()
        };
        outcomes.into_iter().map(count).sum()
    }

    /// Waits until the queue is empty.
    pub(crate) async fn drained(&self, within: Duration) {
        until("the queue is empty", within, || self.queued() == 0).await;
    }

    /// Stops it, and says what is left.
    pub(crate) async fn stop(mut self) -> Stopped {
        self.token.cancel();
        self.task.join_next().await.unwrap().unwrap().unwrap()
    }
}

/// Waits until `holds`; panics after `within`. What it waits for has no signal to wait on.
pub(crate) async fn until(what: &str, within: Duration, mut holds: impl FnMut() -> bool) {
    let all = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(within, all).await.is_ok(), "not within {within:?}: {what}");
}
