//! `run`: the sidecar, until a signal stops it.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::reload::Reload;
use super::settings::{SettingsArgs, load};
use super::signals::Signals;
use super::{Failure, service};
use crate::clock::Clock;
use crate::config::{self, Settings};
use crate::sidecar::{Sidecar, SidecarError, Stopped};
use crate::telemetry::logging::{self, LogHandle};

pub(super) fn run(arguments: &SettingsArgs) -> Result<ExitCode, Failure> {
    let sources = arguments.sources();
    let settings = load(&sources)?.settings;
    let log = start_log(&settings)?;
    crate::http::raise_limit();
    let runtime = runtime(&settings)?;
    let outcome = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let sidecar = Sidecar::build(settings.clone(), Clock::system()).await;
        let sidecar = sidecar.map_err(start_failure)?.with_log(log.as_ref().clone());
        let addresses = sidecar.addresses();
        info!(
            version = super::VERSION,
            api.address = addresses.api.map(tracing::field::display),
            ops.address = addresses.ops.map(tracing::field::display),
            admin.address = addresses.admin.map(tracing::field::display),
            runtime.processors = processors(),
            runtime.threads = workers(&settings.runtime, processors()),
            queue.dir = %settings.queue.dir.display(),
            queue.events = sidecar.metrics().ledger.snapshot().queued(),
            "ready"
        );
        let stop = CancellationToken::new();
        let (metrics, reloader) = (sidecar.metrics(), sidecar.reloader());
        let running = sidecar.run(stop.clone());
        let reload = Reload { sources, reloader, metrics, log };
        until_stopped(running, stop, &mut signals, reload).await
    });
    // Threads that a second signal left behind end with the process.
    runtime.shutdown_background();
    outcome
}

/// A setting or a file that GMFY's client can't be built from is a mistake in the settings.
pub(super) fn start_failure(error: SidecarError) -> Failure {
    match error {
        SidecarError::Upstream(error) => Failure::Usage(error.to_string()),
        other => Failure::Runtime(other.into()),
    }
}

/// Runs to the end: orderly after one signal, at once after a second.
pub(super) async fn until_stopped(
    running: impl Future<Output = Result<Stopped, SidecarError>>,
    stop: CancellationToken,
    signals: &mut Signals,
    reload: Reload,
) -> Result<ExitCode, Failure> {
    let metrics = Arc::clone(&reload.metrics);
    let running = async {
        tokio::select! {
            ended = running => ended,
            never = service::watchdog(&metrics) => match never {},
        }
    };
    tokio::pin!(running);
    service::ready();
    tokio::select! {
        ended = &mut running => return ended.map(|_| ExitCode::SUCCESS).map_err(Failure::from),
        () = signals.stop(async || reload.now().await) => {}
    }
    info!("stopping; a second signal ends it at once");
    service::stopping();
    stop.cancel();
    tokio::select! {
        ended = &mut running => ended.map(|_| ExitCode::SUCCESS).map_err(Failure::from),
        () = signals.stop(async || warn!("stopping: the settings are not read again")) => {
            warn!("ended at once; everything acknowledged is on disk");
            Ok(ExitCode::FAILURE)
        }
    }
}

pub(super) fn start_log(settings: &Settings) -> Result<Arc<LogHandle>, Failure> {
    let handle = logging::init(&settings.log, std::io::stderr().is_terminal())?;
    logging::log_panics();
    Ok(Arc::new(handle))
}

pub(super) fn runtime(settings: &Settings) -> Result<Runtime, Failure> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(workers(&settings.runtime, processors()));
    // What blocks is few: reads of the log by the lanes, name look-ups, files.
    Ok(builder.enable_all().thread_name("runtime").max_blocking_threads(16).build()?)
}

/// The processors that this process may use, as its affinity and its cgroup's quota have it.
fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// How many threads the runtime has. One processor is left to the queue's threads and to the
/// application: on two, one thread took half as many requests again as two.
fn workers(settings: &config::Runtime, processors: usize) -> usize {
    settings.threads.unwrap_or_else(|| processors.saturating_sub(1).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_processor_is_left_to_others_unless_the_settings_say_how_many_threads() {
        for (threads, processors, expected) in
            [(None, 1, 1), (None, 2, 1), (None, 8, 7), (Some(3), 1, 3), (Some(1), 8, 1)]
        {
            assert_eq!(workers(&config::Runtime { threads }, processors), expected);
        }
    }
}
