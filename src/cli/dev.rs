//! `dev`: the sidecar and a simulated GMFY in one process, to try it out.

use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use super::reload::Reload;
use super::run::{runtime, start_failure, start_log, until_stopped};
use super::settings::{SettingsArgs, load};
use super::signals::Signals;
use super::{Failure, output};
use crate::clock::Clock;
use crate::sidecar::{Addresses, Sidecar};
use crate::simulator::{Options, Simulator};

/// What the simulator and the sidecar agree on.
const KEY: &str = "dev";

pub(super) fn run(arguments: &SettingsArgs) -> Result<ExitCode, Failure> {
    // Removed when this function ends, whatever ends it.
    let folder = tempfile::Builder::new().prefix("gmfy-sidecar-dev-").tempdir()?;
    let mut sources = arguments.sources();
    sources.defaults.push(("log.format", "text".to_owned()));
    // The simulator is told its port by the system, so the settings follow it.
    sources.sets.extend([
        format!("queue.dir={}", folder.path().join("data").display()),
        format!("upstream.api_key={KEY}"),
        "upstream.api_key_file=none".to_owned(),
        "upstream.url=http://127.0.0.1:1/".to_owned(),
    ]);
    let first = load(&sources)?.settings;
    let log = start_log(&first)?;
    let runtime = runtime(&first)?;
    let outcome = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let options = Options { api_key: Some(KEY.to_owned()), ..Options::default() };
        let simulator = Simulator::bind(options).await?;
        sources.sets.push(format!("upstream.url={}", simulator.url()));
        let settings = load(&sources)?.settings;
        let simulated = simulator.url();
        let end_simulator = CancellationToken::new();
        let mut simulating = tokio::task::JoinSet::new();
        simulating.spawn(simulator.run(end_simulator.clone()));
        let sidecar = Sidecar::build(settings, Clock::system()).await;
        let sidecar = sidecar.map_err(start_failure)?.with_log(log.as_ref().clone());
        greet(sidecar.addresses(), &simulated);
        let stop = CancellationToken::new();
        let (metrics, reloader) = (sidecar.metrics(), sidecar.reloader());
        let running = sidecar.run(stop.clone());
        let reload = Reload { sources, reloader, metrics, log };
        let ended = until_stopped(running, stop, &mut signals, reload).await;
        end_simulator.cancel();
        while simulating.join_next().await.is_some() {}
        ended
    });
    runtime.shutdown_background();
    outcome
}

fn greet(addresses: Addresses, simulated: &str) {
    let shown = |address: Option<std::net::SocketAddr>| {
        address.map_or_else(|| "none".to_owned(), |address| format!("http://{address}/"))
    };
    let api = shown(addresses.api);
    output::line(&format!(
        "gmfy-sidecar {version}

  api        {api}
  ops        {ops}   (metrics, livez, readyz)
  admin      {admin}   (status, admin API)
  simulator  {simulated}   (a GMFY in this process)

Paste these into another terminal: an event, a batch, and what they did.

  curl -H 'content-type: application/json' -d '{{\"userId\":\"ada\",\"type\":\"register\"}}' {api}v1/events/
  curl -H 'content-type: application/json' -d '[{{\"user_id\":\"ada\",\"event_type\":\"subscription\",\"event_action\":\"create\"}},{{\"userId\":\"ada\",\"type\":\"visit_user\",\"idempotenceKey\":\"bob\"}}]' {api}v1/events/batch/
  curl {api}v1/users/ada/

Ctrl-C drains and stops; the data folder is removed.
",
        version = super::VERSION,
        ops = shown(addresses.ops),
        admin = shown(addresses.admin),
    ));
}
