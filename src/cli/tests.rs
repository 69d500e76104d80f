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

#[test]
fn run_and_dev() {
    insta::assert_snapshot!(help(&["run"]), @r"
    Run the sidecar

    Usage: gmfy-sidecar run [OPTIONS]

    Options:
          --config <FILE>    The settings file (TOML)
          --set <KEY=VALUE>  Set one setting, e.g. --set delivery.lanes=8; may be repeated
      -h, --help             Print help
    ");
    insta::assert_snapshot!(help(&["dev"]), @r"
    Try it out: the sidecar and a simulated GMFY in one process, data in a temporary folder

    Usage: gmfy-sidecar dev [OPTIONS]

    Options:
          --config <FILE>    The settings file (TOML)
          --set <KEY=VALUE>  Set one setting, e.g. --set delivery.lanes=8; may be repeated
      -h, --help             Print help
    ");
}

#[test]
fn simulate() {
    insta::assert_snapshot!(help(&["simulate"]), @r"
    Run the simulated GMFY alone

    Usage: gmfy-sidecar simulate [OPTIONS]

    Options:
          --listen <ADDR>       Where to listen; port 0 takes a free one [default:
                                127.0.0.1:7470]
          --api-key <K>         The key that callers have to send as x-api-key; without this
                                flag any key does
          --latency <TIME>      Hold each answer back for this long, e.g. 20ms [default: 0]
          --error-rate <SHARE>  Answer this share of the requests with 500, from 0 to 1
                                [default: 0]
          --rate-limit <RATE>   Answer 429 above this many requests, e.g. 100/s
          --reject-type <T>     Refuse requests with an event of this type; may be repeated
          --max-batch <N>       Refuse batches of more events with 413
          --down                Close every connection unread, as if GMFY were down
          --seed <N>            Same seed and same requests, same ids and same faults
                                [default: 0]
          --log-level <LEVEL>   Which log lines to write: a level, or filter directives
                                [default: info]
      -h, --help                Print help
    ");
}

#[test]
fn check_health_and_openapi() {
    insta::assert_snapshot!(help(&["check"]), @r"
    Check the settings and print the effective ones, secrets masked

    Usage: gmfy-sidecar check [OPTIONS]

    Options:
          --config <FILE>    The settings file (TOML)
          --set <KEY=VALUE>  Set one setting, e.g. --set delivery.lanes=8; may be repeated
          --online           Ask GMFY for its version too, and NATS about its streams
          --json             Print JSON
          --defaults         Print a settings file with every setting, its meaning and its
                             default, and check nothing
      -h, --help             Print help
    ");
    insta::assert_snapshot!(help(&["health"]), @r"
    Ask the running sidecar's probe; for images without a shell

    Usage: gmfy-sidecar health [OPTIONS]

    Options:
          --config <FILE>    The settings file (TOML)
          --set <KEY=VALUE>  Set one setting, e.g. --set delivery.lanes=8; may be repeated
          --ready            Ask whether it can accept events, not only whether it lives
      -h, --help             Print help
    ");
    insta::assert_snapshot!(help(&["openapi"]), @r"
    Print the description of the listeners, as OpenAPI 3.1

    Usage: gmfy-sidecar openapi

    Options:
      -h, --help  Print help
    ");
}

#[test]
fn show_of_dead_letters() {
    insta::assert_snapshot!(help(&["dead-letters", "show"]), @r"
    Show one, with GMFY's answer and the event

    Usage: gmfy-sidecar dead-letters show [OPTIONS] <SEQ>

    Arguments:
      <SEQ>  The dead letter's sequence

    Options:
          --config <FILE>    The settings file (TOML)
          --set <KEY=VALUE>  Set one setting, e.g. --set delivery.lanes=8; may be repeated
          --json             Print JSON
      -h, --help             Print help
    ");
}

#[test]
fn queue() {
    insta::assert_snapshot!(help(&["queue"]), @r"
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
    insta::assert_snapshot!(help(&["queue", "verify"]), @r"
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
    insta::assert_snapshot!(help(&["queue", "ls"]), @r"
    List the log's generations, and how many events wait in them

    Usage: gmfy-sidecar queue ls [OPTIONS]

    Options:
          --data-dir <DIR>   The folder, as queue.dir names it [default: queue.dir of the
                             settings]
          --config <FILE>    The settings file (TOML)
          --set <KEY=VALUE>  Set one setting, e.g. --set delivery.lanes=8; may be repeated
          --json             Print JSON
      -h, --help             Print help
    ");
    insta::assert_snapshot!(help(&["queue", "export"]), @r"
    Print the events that wait, one a line, oldest first

    Usage: gmfy-sidecar queue export [OPTIONS]

    Options:
          --data-dir <DIR>   The folder, as queue.dir names it [default: queue.dir of the
                             settings]
          --config <FILE>    The settings file (TOML)
          --set <KEY=VALUE>  Set one setting, e.g. --set delivery.lanes=8; may be repeated
          --json             Print JSON
      -h, --help             Print help (see more with '--help')
    ");
    insta::assert_snapshot!(help(&["queue", "drain"]), @r"
    Deliver the events that wait to GMFY, and end when none is left

    Usage: gmfy-sidecar queue drain [OPTIONS]

    Options:
          --data-dir <DIR>   The folder, as queue.dir names it [default: queue.dir of the
                             settings]
          --config <FILE>    The settings file (TOML)
          --set <KEY=VALUE>  Set one setting, e.g. --set delivery.lanes=8; may be repeated
          --json             Print JSON
      -h, --help             Print help (see more with '--help')
    ");
}

/// The commands below one, by their paths.
fn paths(command: &clap::Command, above: &str, found: &mut Vec<String>) {
    for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
        let path = format!("{above} {}", command.get_name());
        paths(command, &path, found);
        found.push(path);
    }
}

#[test]
fn no_command_is_without_a_snapshot() {
    let tests = include_str!("tests.rs");
    let mut found = Vec::new();
    paths(&super::Arguments::command(), "", &mut found);
    assert!(found.len() > 20, "{found:?}");
    for path in found {
        let words: Vec<_> = path.split_whitespace().map(|word| format!("{word:?}")).collect();
        let here = format!("help(&[{}])", words.join(", "));
        assert!(tests.contains(&here), "{path} has no snapshot");
    }
}
