//! `completions` and `man`: what shells and people know of the command line.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Failure, output};

const NAME: &str = "gmfy-sidecar";

#[derive(Args, Debug)]
pub(super) struct CompletionsArgs {
    /// Whose; `source <(gmfy-sidecar completions bash)` puts bash's in force
    shell: Shell,
}

#[derive(Args, Debug)]
pub(super) struct ManArgs {
    /// Write a page for each command into this folder, instead of printing the first one
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn completions(arguments: &CompletionsArgs) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::Arguments::command(), NAME, &mut script);
    output::line(String::from_utf8_lossy(&script).trim_end());
    ExitCode::SUCCESS
}

pub(super) fn man(arguments: &ManArgs) -> Result<ExitCode, Failure> {
    let mut command = super::Arguments::command();
    command.build();
    match &arguments.dir {
        None => {
            let mut page = Vec::new();
            Man::new(command).render(&mut page)?;
            output::line(String::from_utf8_lossy(&page).trim_end());
        }
        Some(dir) => {
            let named = || format!("the pages can't be written to {}", dir.display());
            std::fs::create_dir_all(dir).with_context(named)?;
            clap_mangen::generate_to(command, dir).with_context(named)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_is_completed() {
        let folder = tempfile::tempdir().unwrap();
        man(&ManArgs { dir: Some(folder.path().to_owned()) }).map_err(|_| "it fails").unwrap();
        let page = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert!(page("gmfy-sidecar.1").contains("dead\\-letters"));
        assert!(page("gmfy-sidecar-dead-letters-requeue.1").contains("SEQ"));
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(
                shell,
                &mut super::super::Arguments::command(),
                NAME,
                &mut script,
            );
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("dead-letters") && script.contains("requeue"), "{shell}");
        }
    }
}
