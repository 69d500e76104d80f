//! `simulate`: a GMFY with faults, alone.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::signals::Signals;
use super::{Failure, output};
use crate::config::{Log, LogFormat};
use crate::simulator::{Options, SimulateArgs, Simulator};
use crate::telemetry::logging;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    simulate: SimulateArgs,

    /// Which log lines to write: a level, or filter directives
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: String,
}

pub(super) fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let log = Log { format: Some(LogFormat::Text), level: arguments.log_level };
    let _handle = logging::init(&log, std::io::stderr().is_terminal())
        .map_err(|error| Failure::Usage(error.to_string()))?;
    logging::log_panics();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let simulator = Simulator::bind(Options::from(arguments.simulate)).await?;
        output::line(&format!("a simulated GMFY listens on {}", simulator.url()));
        let stop = CancellationToken::new();
        let running = simulator.run(stop.clone());
        tokio::pin!(running);
        tokio::select! {
            () = &mut running => {}
            () = signals.stop(async || {}) => {
                stop.cancel();
                running.await;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}
