//! The commands' help, as people read it.

use clap::CommandFactory as _;

fn help(path: &[&str]) -> String {
    let mut command = super::Arguments::command().term_width(90);
    command.build();
    let mut command = &mut command;
    for name in path {
        command = command.find_subcommand_mut(name).unwrap();
    }
    command.clone().render_help().to_string()
}

#[test]
fn the_whole() {
    insta::assert_snapshot!(help(&[]), @r"
    A durable, ordered, local outbox and read cache in front of the GMFY gamification API

    Usage: gmfy-sidecar <COMMAND>

    Commands:
      run           Run the sidecar
      dev           Try it out: the sidecar and a simulated GMFY in one process, data in a
                    temporary folder
      simulate      Run the simulated GMFY alone
      check         Check the settings and print the effective ones, secrets masked
      health        Ask the running sidecar's probe; for images without a shell
      openapi       Print the description of the listeners, as OpenAPI 3.1
      status        Show how the running sidecar stands: GMFY, queue, lanes, dead letters,
                    cache
      dead-letters  See to the events that GMFY refused, with the running sidecar
      tail          Follow events as they are accepted, delivered, refused
      queue         Look into a data folder that no process holds, and get its events out
      catalogue     Print `events.types` for the event classes of a Python project, which is
                    not run
      completions   Print a script that completes commands and flags in a shell
      man           Print the manual page
      help          Print this message or the help of the given subcommand(s)

    Options:
      -h, --help     Print help
      -V, --version  Print version
    ");
}

#[test]
fn status() {
    insta::assert_snapshot!(help(&["status"]), @r"
    Show how the running sidecar stands: GMFY, queue, lanes, dead letters, cache

    Usage: gmfy-sidecar status [OPTIONS]

    Options:
          --config <FILE>    The settings file (TOML)
          --set <KEY=VALUE>  Set one setting, e.g. --set delivery.lanes=8; may be repeated
          --json             Print JSON
          --watch            Show it anew each second, with rates, until interrupted; with
                             --json a line each second
      -h, --help             Print help
    ");
}

#[test]
fn dead_letters() {
    insta::assert_snapshot!(help(&["dead-letters"]), @r"
    See to the events that GMFY refused, with the running sidecar

    Usage: gmfy-sidecar dead-letters <COMMAND>

    Commands:
      list     List dead letters, the oldest first
      show     Show one, with GMFY's answer and the event
      requeue  Put dead letters back into the queue, after what was wrong is mended
      discard  Throw dead letters away, for good
      export   Print all as JSON, one a line, the oldest first
      help     Print this message or the help of the given subcommand(s)

    Options:
      -h, --help  Print help
    ");
    insta::assert_snapshot!(help(&["dead-letters", "list"]), @r"
    List dead letters, the oldest first

    Usage: gmfy-sidecar dead-letters list [OPTIONS]

    Options:
          --after <SEQ>      Only those behind this sequence
          --limit <N>        At most so many [default: 100]
          --config <FILE>    The settings file (TOML)
          --set <KEY=VALUE>  Set one setting, e.g. --set delivery.lanes=8; may be repeated
          --json             Print JSON
      -h, --help             Print help
    ");
    insta::assert_snapshot!(help(&["dead-letters", "requeue"]), @r"
    Put dead letters back into the queue, after what was wrong is mended

    Usage: gmfy-sidecar dead-letters requeue [OPTIONS] [SEQ]...

    Arguments:
      [SEQ]...  The dead letters' sequences

    Options:
          --all              All that there are
          --config <FILE>    The settings file (TOML)
          --set <KEY=VALUE>  Set one setting, e.g. --set delivery.lanes=8; may be repeated
          --json             Print JSON
      -h, --help             Print help (see more with '--help')
    ");
    insta::assert_snapshot!(help(&["dead-letters", "discard"]), @r"
    Throw dead letters away, for good

    Usage: gmfy-sidecar dead-letters discard [OPTIONS] [SEQ]...

    Arguments:
      [SEQ]...  The dead letters' sequences

    Options:
          --all              All that there are
          --config <FILE>    The settings file (TOML)
          --set <KEY=VALUE>  Set one setting, e.g. --set delivery.lanes=8; may be repeated
          --json             Print JSON
          --yes              Don't ask whether all are really meant
      -h, --help             Print help
    ");
    insta::assert_snapshot!(help(&["dead-letters", "export"]), @r"
    Print all as JSON, one a line, the oldest first

    Usage: gmfy-sidecar dead-letters export [OPTIONS]

    Options:
          --config <FILE>    The settings file (TOML)
          --set <KEY=VALUE>  Set one setting, e.g. --set delivery.lanes=8; may be repeated
          --json             Print JSON
      -h, --help             Print help
    ");
}

#[test]
fn tail() {
    insta::assert_snapshot!(help(&["tail"]), @r"
    Follow events as they are accepted, delivered, refused

    Usage: gmfy-sidecar tail [OPTIONS]

    Options:
          --user <USER>        Only events of this user
          --type <TYPE>        Only events of this type, in wire form
          --outcome <OUTCOME>  Only this outcome [possible values: accepted, delivered,
                               retried, dead_lettered, dropped]
          --config <FILE>      The settings file (TOML)
          --set <KEY=VALUE>    Set one setting, e.g. --set delivery.lanes=8; may be repeated
          --json               Print JSON
      -h, --help               Print help
    ");
}

#[test]
fn completions_and_man() {
    insta::assert_snapshot!(help(&["completions"]), @r"
    Print a script that completes commands and flags in a shell

    Usage: gmfy-sidecar completions <SHELL>

    Arguments:
      <SHELL>  Whose; `source <(gmfy-sidecar completions bash)` puts bash's in force [possible
               values: bash, elvish, fish, powershell, zsh]

    Options:
      -h, --help  Print help
    ");
    insta::assert_snapshot!(help(&["man"]), @r"
    Print the manual page

    Usage: gmfy-sidecar man [OPTIONS]

    Options:
          --dir <DIR>  Write a page for each command into this folder, instead of printing the
                       first one
      -h, --help       Print help
    ");
}

#[test]
fn catalogue() {
    insta::assert_snapshot!(help(&["catalogue"]), @r"
    Print `events.types` for the event classes of a Python project, which is not run

    Usage: gmfy-sidecar catalogue [OPTIONS] --from-python <DIR>

    Options:
          --from-python <DIR>  The project's folder; its Python files are read, and none is
                               run
          --json               Print JSON
      -h, --help               Print help
    ");
}
