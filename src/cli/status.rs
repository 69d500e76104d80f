//! `status`: how the running sidecar stands, once or over and over.

mod rates;
mod text;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::time::{MissedTickBehavior, interval};

use super::Failure;
use super::output::{self, Paint};
use super::remote::{Remote, RemoteArgs, runtime};
use crate::http::admin::Status;
use rates::Rates;

const EVERY: Duration = Duration::from_secs(1);
/// Moves to the top left and clears what is below.
const REDRAW: &str = "\u{1b}[H\u{1b}[J";

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    remote: RemoteArgs,

    /// Show it anew each second, with rates, until interrupted; with --json a line each second
    #[arg(long)]
    watch: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let remote = arguments.remote.remote()?;
    let json = arguments.remote.json;
    runtime()?.block_on(async {
        if arguments.watch {
            tokio::select! {
                () = watch(&remote, json) => {}
                interrupted = tokio::signal::ctrl_c() => interrupted?,
            }
            return Ok(ExitCode::SUCCESS);
        }
        let status = ask(&remote).await?;
        if json {
            output::line(&serde_json::to_string_pretty(&status)?);
        } else {
            output::line(&text::status(&status, Paint::for_stdout()));
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn ask(remote: &Remote) -> anyhow::Result<Status> {
    remote.get("/api/status").await
}

/// Shows it each second, until nobody reads it. A sidecar that is away may come back.
async fn watch(remote: &Remote, json: bool) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rates = Rates::default();
    let begin = if output::is_terminal() && !json { REDRAW } else { "" };
    let paint = Paint::for_stdout();
    loop {
        ticks.tick().await;
        let shown = match ask(remote).await {
            Ok(status) if json => serde_json::to_string(&status).unwrap_or_default(),
            Ok(status) => {
                rates.note(&status);
                format!("{}\n\n{}\n", text::status(&status, paint), rates.text())
            }
            Err(error) if json => {
                output::note(&format!("{error:#}"));
                continue;
            }
            Err(error) => format!("{error:#}\n"),
        };
        if !output::line_is_read(&format!("{begin}{shown}")) {
            return;
        }
    }
}
