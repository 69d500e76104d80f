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

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    fn help(command: &str) -> String {
        let mut all = super::super::Arguments::command().term_width(90);
        all.build();
        let queue = all.find_subcommand_mut("queue").unwrap();
        let command =
            if command.is_empty() { queue } else { queue.find_subcommand_mut(command).unwrap() };
        command.clone().render_help().to_string()
    }

    #[test]
    fn the_commands_are_listed_with_what_they_do() {
        insta::assert_snapshot!(help(""), @r"
        Look into a data folder that no process holds, and get its events out

        Usage: gmfy-sidecar queue <COMMAND>

        Commands:
          ls      List the log's generations, and how many events wait in them
          verify  Read everything, and say what is damaged; status 1 when anything is
          export  Print the events that wait, one a line, oldest first
          drain   Deliver the events that wait to GMFY, and end when none is left
          help    Print this message or the help of the given subcommand(s)

        Options:
          -h, --help  Print help
        ");
    }

    #[test]
    fn each_takes_the_folder_or_the_settings() {
        insta::assert_snapshot!(help("verify"), @r"
        Read everything, and say what is damaged; status 1 when anything is

        Usage: gmfy-sidecar queue verify [OPTIONS]

        Options:
              --data-dir <DIR>   The folder, as queue.dir names it [default: queue.dir of the
                                 settings]
              --config <FILE>    The settings file (TOML)
              --set <KEY=VALUE>  Set one setting, e.g. --set delivery.lanes=8; may be repeated
              --json             Print JSON
          -h, --help             Print help
        ");
    }
}
