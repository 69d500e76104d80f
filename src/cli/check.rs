//! `check`: are the settings valid, and which ones apply?

#[cfg(feature = "nats")]
mod fleet;
#[cfg(not(feature = "nats"))]
#[path = "check/no_fleet.rs"]
mod fleet;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use futures_util::StreamExt as _;

use super::settings::SettingsArgs;
use super::{Failure, output};
use crate::config::{Settings, documented_file, effective_json, effective_table};
use crate::telemetry::Metrics;
use crate::upstream::{BuildError, Call, Upstream};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: SettingsArgs,

    /// Ask GMFY for its version too, and NATS about its streams
    #[arg(long)]
    online: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Print a settings file with every setting, its meaning and its default, and check nothing
    #[arg(long, exclusive = true)]
    defaults: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    if arguments.defaults {
        output::line(documented_file().trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    let loaded = arguments.settings.load()?;
    // Files of certificates are looked into only when the client is built.
    let upstream = upstream(&loaded.settings).map_err(|error| Failure::Usage(error.to_string()))?;
    let version = if arguments.online { Some(ask_version(&upstream)) } else { None };
    let fleet = if arguments.online { fleet::ask(&loaded.settings)? } else { None };
    if arguments.json {
        let mut document = serde_json::json!({ "settings": effective_json(&loaded.effective) });
        match &version {
            Some(Ok(version)) => document["upstream"] = serde_json::json!({ "version": version }),
            Some(Err(error)) => {
                document["upstream"] = serde_json::json!({ "error": error.to_string() });
            }
            None => {}
        }
        if let Some(answer) = &fleet {
            document["nats"] = answer.json();
        }
        output::line(&format!("{document:#}"));
    } else {
        output::line(effective_table(&loaded.effective).trim_end());
        if let Some(Ok(version)) = &version {
            output::line(&format!("\nGMFY answers: {version}"));
        }
        for line in fleet.iter().flat_map(fleet::Answer::lines) {
            output::line(&line);
        }
    }
    if let Some(Err(error)) = version {
        return Err(Failure::Runtime(error.context("GMFY can't be used")));
    }
    fleet.map_or(Ok(()), fleet::Answer::judge).map_err(Failure::Runtime)?;
    Ok(ExitCode::SUCCESS)
}

/// The longest answer read, in bytes.
const LONGEST: usize = 4096;

fn upstream(settings: &Settings) -> Result<Upstream, BuildError> {
    let metrics = Arc::new(Metrics::new());
    Upstream::new(&settings.upstream, settings.reads.connections, metrics)
}

fn ask_version(upstream: &Upstream) -> Result<String, anyhow::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut answer = upstream.get(&Call::Version, None).await?;
        let mut body = Vec::new();
        while let Some(part) = answer.body.next().await {
            body.extend_from_slice(&part?);
            anyhow::ensure!(body.len() <= LONGEST, "the answer is too long to be a version");
        }
        let text = String::from_utf8_lossy(&body).trim().to_owned();
        let status = answer.status;
        anyhow::ensure!(status.is_success(), "it answers {status} to v1/version/: {text}");
        Ok(text)
    })
}
