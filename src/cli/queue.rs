//! `queue`: a data folder that no process holds: what is in it, whether it is whole, and how to get
//! the events out of it.

mod drain;
mod export;
mod folder;
mod listing;
mod ls;
mod progress;
mod verify;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::Failure;
use folder::FolderArgs;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the log's generations, and how many events wait in them
    Ls(FolderArgs),
    /// Read everything, and say what is damaged; status 1 when anything is
    Verify(FolderArgs),
    /// Print the events that wait, one a line, oldest first
    ///
    /// A line is sequence, time of acceptance, user and event, with tabs between; with --json an
    /// object with `seq`, `accepted_at`, `user` and `event`. Nothing is changed: to have the
    /// events delivered, use `drain`.
    Export(FolderArgs),
    /// Deliver the events that wait to GMFY, and end when none is left
    ///
    /// By the settings' rules of delivery (upstream, delivery, dead_letters, queue.max_age), in
    /// order for each user, retrying for as long as it takes. Nothing listens meanwhile. When
    /// interrupted it finishes the requests under way and says what remains, with status 1;
    /// nothing is lost, and it can be run again.
    Drain(FolderArgs),
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    match &arguments.command {
        Command::Ls(arguments) => ls::run(arguments),
        Command::Verify(arguments) => verify::run(arguments),
        Command::Export(arguments) => export::run(arguments),
        Command::Drain(arguments) => drain::run(arguments),
    }
}
