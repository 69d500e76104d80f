//! The command line: arguments in, an exit status out.
//!
//! Status 0: done; 1: failed at run time; 2: wrong usage or invalid settings. Results go to
//! stdout, logs to stderr.

mod catalogue;
mod check;
mod dead_letters;
mod dev;
mod health;
mod output;
mod queue;
mod reload;
mod remote;
mod run;
mod service;
mod settings;
mod shell;
mod signals;
mod simulate;
mod status;
mod table;
mod tail;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use settings::SettingsArgs;

/// The version with the revision it was built from.
pub const VERSION: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("GMFY_BUILD_REVISION"), ")");

/// A durable, ordered, local outbox and read cache in front of the GMFY gamification API
#[derive(Debug, Parser)]
#[command(name = "gmfy-sidecar", version = VERSION, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the sidecar
    Run(SettingsArgs),
    /// Try it out: the sidecar and a simulated GMFY in one process, data in a temporary folder
    Dev(SettingsArgs),
    /// Run the simulated GMFY alone
    Simulate(simulate::Arguments),
    /// Check the settings and print the effective ones, secrets masked
    Check(check::Arguments),
    /// Ask the running sidecar's probe; for images without a shell
    Health(health::Arguments),
    /// Print the description of the listeners, as OpenAPI 3.1
    Openapi,
    /// Show how the running sidecar stands: GMFY, queue, lanes, dead letters, cache
    Status(status::Arguments),
    /// See to the events that GMFY refused, with the running sidecar
    DeadLetters(dead_letters::Arguments),
    /// Follow events as they are accepted, delivered, refused
    Tail(tail::Arguments),
    /// Look into a data folder that no process holds, and get its events out
    Queue(queue::Arguments),
    /// Print `events.types` for the event classes of a Python project, which is not run
    Catalogue(catalogue::Arguments),
    /// Print a script that completes commands and flags in a shell
    Completions(shell::CompletionsArgs),
    /// Print the manual page
    Man(shell::ManArgs),
}

/// Why a command ended without success.
#[derive(Debug)]
enum Failure {
    /// Wrong usage or invalid settings: status 2.
    Usage(String),
    /// Anything else: status 1.
    Runtime(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Runtime(error.into())
    }
}

/// Runs the command that the process's arguments name.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and the version are results; a closed pipe is not worth a word.
            drop(error.print());
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let done = match arguments.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Dev(arguments) => dev::run(&arguments),
        Command::Simulate(arguments) => simulate::run(arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Health(arguments) => health::run(&arguments),
        Command::Openapi => {
            output::line(&crate::http::openapi_json());
            Ok(ExitCode::SUCCESS)
        }
        Command::Status(arguments) => status::run(&arguments),
        Command::DeadLetters(arguments) => dead_letters::run(&arguments),
        Command::Tail(arguments) => tail::run(&arguments),
        Command::Queue(arguments) => queue::run(&arguments),
        Command::Catalogue(arguments) => catalogue::run(&arguments),
        Command::Completions(arguments) => Ok(shell::completions(&arguments)),
        Command::Man(arguments) => shell::man(&arguments),
    };
    match done {
        Ok(status) => status,
        Err(Failure::Usage(text)) => {
            output::error(&text);
            ExitCode::from(2)
        }
        Err(Failure::Runtime(error)) => {
            output::error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
