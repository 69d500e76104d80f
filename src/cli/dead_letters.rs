//! `dead-letters`: what GMFY refused, and what becomes of it.

mod text;

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use http::Method;

use super::Failure;
use super::output;
use super::remote::{Remote, RemoteArgs, runtime};
use crate::http::admin::{
    DeadLetterDocument, DeadLettersDocument, DiscardedDocument, RequeuedDocument,
};

/// The largest page that the sidecar gives.
const PAGE: usize = 1000;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List dead letters, the oldest first
    List(ListArgs),
    /// Show one, with GMFY's answer and the event
    Show(ShowArgs),
    /// Put dead letters back into the queue, after what was wrong is mended
    ///
    /// Each becomes a new event, behind those that wait. When the queue is full, the rest stay dead
    /// letters: run it again.
    Requeue(ChosenArgs),
    /// Throw dead letters away, for good
    Discard(DiscardArgs),
    /// Print all as JSON, one a line, the oldest first
    Export(RemoteArgs),
}

#[derive(Args, Debug)]
struct ListArgs {
    /// Only those behind this sequence
    #[arg(long, value_name = "SEQ", value_parser = sequence, allow_negative_numbers = true)]
    after: Option<u64>,

    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100,
        value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,

    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Args, Debug)]
struct ShowArgs {
    /// The dead letter's sequence
    #[arg(value_parser = sequence, allow_negative_numbers = true)]
    seq: u64,

    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Args, Debug)]
struct ChosenArgs {
    /// The dead letters' sequences
    #[arg(value_name = "SEQ", required_unless_present = "all", conflicts_with = "all",
        value_parser = sequence, allow_negative_numbers = true)]
    seqs: Vec<u64>,

    /// All that there are
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Args, Debug)]
struct DiscardArgs {
    #[command(flatten)]
    chosen: ChosenArgs,

    /// Don't ask whether all are really meant
    #[arg(long)]
    yes: bool,
}

/// What stands for a dead letter: the sequence that its event had.
fn sequence(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| {
        "expected the sequence of a dead letter, a whole number like 17: `gmfy-sidecar dead-letters \
         list` shows them"
    })
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    match &arguments.command {
        Command::List(arguments) => list(arguments),
        Command::Show(arguments) => show(arguments),
        Command::Requeue(arguments) => requeue(arguments),
        Command::Discard(arguments) => discard(arguments),
        Command::Export(arguments) => export(arguments),
    }
}

fn list(arguments: &ListArgs) -> Result<ExitCode, Failure> {
    let remote = arguments.remote.remote()?;
    let (after, limit) = (arguments.after.unwrap_or_default(), arguments.limit);
    let page: DeadLettersDocument = runtime()?
        .block_on(remote.get(&format!("/api/dead-letters?after={after}&limit={limit}")))?;
    if arguments.remote.json {
        output::line(&serde_json::to_string_pretty(&page)?);
    } else {
        output::line(&text::list(&page));
    }
    Ok(ExitCode::SUCCESS)
}

fn show(arguments: &ShowArgs) -> Result<ExitCode, Failure> {
    let remote = arguments.remote.remote()?;
    let letter: DeadLetterDocument =
        runtime()?.block_on(remote.get(&format!("/api/dead-letters/{}", arguments.seq)))?;
    if arguments.remote.json {
        output::line(&serde_json::to_string_pretty(&letter)?);
    } else {
        output::line(&text::letter(&letter));
    }
    Ok(ExitCode::SUCCESS)
}

fn requeue(arguments: &ChosenArgs) -> Result<ExitCode, Failure> {
    let remote = arguments.remote.remote()?;
    let mut done = RequeuedDocument { requeued: Vec::new() };
    let outcome = runtime()?.block_on(async {
        for path in arguments.paths("/requeue") {
            let more: RequeuedDocument = remote.change(Method::POST, &path).await?;
            done.requeued.extend(more.requeued);
        }
        anyhow::Ok(())
    });
    // What was done before a fault was done.
    if arguments.remote.json {
        output::line(&serde_json::to_string(&done)?);
    } else {
        for one in &done.requeued {
            output::line(&format!("{} is in the queue again, as {}", one.seq, one.new_seq));
        }
        if outcome.is_ok() && done.requeued.is_empty() {
            output::line("there are no dead letters");
        }
    }
    outcome?;
    Ok(ExitCode::SUCCESS)
}

fn discard(arguments: &DiscardArgs) -> Result<ExitCode, Failure> {
    let chosen = &arguments.chosen;
    let remote = chosen.remote.remote()?;
    if chosen.all && !arguments.yes && !confirmed()? {
        output::note("nothing was thrown away");
        return Ok(ExitCode::FAILURE);
    }
    let method = if chosen.all { Method::POST } else { Method::DELETE };
    let mut done = DiscardedDocument { discarded: 0 };
    let outcome = runtime()?.block_on(async {
        for path in chosen.paths(if chosen.all { "/discard" } else { "" }) {
            let more: DiscardedDocument = remote.change(method.clone(), &path).await?;
            done.discarded += more.discarded;
        }
        anyhow::Ok(())
    });
    if chosen.remote.json {
        output::line(&serde_json::to_string(&done)?);
    } else if outcome.is_ok() || done.discarded > 0 {
        output::line(&format!("thrown away: {}", done.discarded));
    }
    outcome?;
    Ok(ExitCode::SUCCESS)
}

fn export(arguments: &RemoteArgs) -> Result<ExitCode, Failure> {
    let remote = arguments.remote()?;
    runtime()?.block_on(async {
        let mut after = 0;
        loop {
            let page = page(&remote, after).await?;
            for letter in &page.dead_letters {
                if !output::line_is_read(&serde_json::to_string(letter)?) {
                    return Ok(ExitCode::SUCCESS);
                }
            }
            match page.next {
                Some(next) => after = next,
                None => return Ok(ExitCode::SUCCESS),
            }
        }
    })
}

async fn page(remote: &Remote, after: u64) -> anyhow::Result<DeadLettersDocument> {
    remote.get(&format!("/api/dead-letters?after={after}&limit={PAGE}")).await
}

/// Asks whether all are really meant.
fn confirmed() -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        let text = "discard --all can't be undone, and there is no terminal to ask on: add --yes";
        return Err(Failure::Usage(text.to_owned()));
    }
    let mut stderr = std::io::stderr().lock();
    write!(stderr, "Throw all dead letters away? They can't be brought back. [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

impl ChosenArgs {
    /// What is to be asked for, one after the other; `what` is done to each.
    fn paths(&self, what: &str) -> Vec<String> {
        if self.all {
            return vec![format!("/api/dead-letters{what}")];
        }
        self.seqs.iter().map(|seq| format!("/api/dead-letters/{seq}{what}")).collect()
    }
}
