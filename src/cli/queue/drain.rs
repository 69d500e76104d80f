//! `queue drain`: delivers what a folder still holds.

use std::process::ExitCode;

use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::folder::FolderArgs;
use super::listing::counted;
use super::progress;
use crate::cli::run::{runtime, start_log};
use crate::cli::signals::Signals;
use crate::cli::{Failure, output};
use crate::clock::Clock;
use crate::config::Settings;
use crate::sidecar::Drain;
use crate::telemetry::ledger::Counts;

/// What came of it. The names are those of the JSON.
#[derive(Debug, Serialize)]
struct Drained {
    data_dir: String,
    delivered: u64,
    dead_lettered: u64,
    dropped: u64,
    /// Events that still wait.
    remaining: u64,
    /// All that are in the folder, earlier ones too.
    dead_letters: u64,
}

impl Drained {
    fn new(settings: &Settings, counts: &Counts) -> Self {
        Self {
            data_dir: settings.queue.dir.display().to_string(),
            delivered: counts.delivered,
            dead_lettered: counts.dead_lettered.values().sum(),
            dropped: counts.dropped.values().sum(),
            remaining: counts.queued(),
            dead_letters: counts.dead_letters,
        }
    }
}

pub(super) fn run(arguments: &FolderArgs) -> Result<ExitCode, Failure> {
    let settings = arguments.settings()?;
    let _log = start_log(&settings)?;
    let runtime = runtime(&settings)?;
    let outcome = runtime.block_on(drain(&settings));
    // What a second signal left behind ends with the process.
    runtime.shutdown_background();
    let Some(counts) = outcome? else { return Ok(ExitCode::FAILURE) };
    let drained = Drained::new(&settings, &counts);
    if arguments.json {
        output::line(&serde_json::to_string_pretty(&drained)?);
    } else {
        output::line(&text(&drained));
    }
    Ok(if drained.remaining == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The last counts; none when a second signal ended it at once.
async fn drain(settings: &Settings) -> Result<Option<Counts>, Failure> {
    let mut signals = Signals::new()?;
    let drain = Drain::build(settings.clone(), Clock::system()).await?;
    let bar = progress::of_events(drain.counts().queued());
    let stop = CancellationToken::new();
    let running = drain.run(stop.clone(), |counts| {
        bar.set_position(counts.recovered.saturating_sub(counts.queued()));
    });
    tokio::pin!(running);
    let settings_are_read_once = async || warn!("the settings are not read again");
    tokio::select! {
        ended = &mut running => return Ok(ended.map(Some)?),
        () = signals.stop(settings_are_read_once) => stop.cancel(),
    }
    tokio::select! {
        ended = &mut running => Ok(ended.map(Some)?),
        () = signals.stop(settings_are_read_once) => {
            warn!("ended at once; what was not delivered is on disk");
            Ok(None)
        }
    }
}

fn text(drained: &Drained) -> String {
    let Drained { data_dir, delivered, dead_lettered, dropped, remaining, dead_letters } = drained;
    let mut lines =
        vec![format!("{delivered} delivered, {dead_lettered} dead-lettered, {dropped} dropped")];
    if *remaining > 0 {
        let remaining = counted(*remaining, "event");
        lines.push(format!("interrupted: {remaining} still waiting in {data_dir}"));
    } else {
        lines.push(format!("no event is left in {data_dir}"));
    }
    if *dead_letters > 0 {
        let kept = counted(*dead_letters, "dead letter");
        lines.push(format!("{kept} kept there: a sidecar on that folder shows them"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outcome_says_what_is_left() {
        let empty = Drained {
            data_dir: "/var/lib/gmfy".to_owned(),
            delivered: 120,
            dead_lettered: 1,
            dropped: 0,
            remaining: 0,
            dead_letters: 3,
        };
        insta::assert_snapshot!(text(&empty), @r"
        120 delivered, 1 dead-lettered, 0 dropped
        no event is left in /var/lib/gmfy
        3 dead letters kept there: a sidecar on that folder shows them
        ");
        insta::assert_snapshot!(serde_json::to_string_pretty(&empty).unwrap(), @r#"
        {
          "data_dir": "/var/lib/gmfy",
          "delivered": 120,
          "dead_lettered": 1,
          "dropped": 0,
          "remaining": 0,
          "dead_letters": 3
        }
        "#);
        let interrupted = Drained { remaining: 1, dead_lettered: 0, dead_letters: 0, ..empty };
        insta::assert_snapshot!(text(&interrupted), @r"
        120 delivered, 0 dead-lettered, 0 dropped
        interrupted: 1 event still waiting in /var/lib/gmfy
        ");
    }
}
