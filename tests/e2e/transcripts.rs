//! What the commands print, for people and for programs, and how they end: as a terminal shows it.

use std::collections::BTreeSet;

use gmfy_sidecar::simulator::Faults;
use rustix::process::Signal;
use serde_json::Value;

use crate::client;
use crate::gmfy::Gmfy;
use crate::process::{Addresses, KEY, PATIENCE, Process, binary, output, sidecar};

/// Where commands run, and what of their output differs from run to run.
struct Terminal {
    folder: tempfile::TempDir,
    environment: Vec<(&'static str, String)>,
    /// Texts and what is shown in their place.
    hidden: Vec<(String, &'static str)>,
}

impl Terminal {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let hidden = vec![(folder.path().display().to_string(), "DIR")];
        Self { folder, environment: Vec::new(), hidden }
    }

    /// Commands with what they print on stdout, on stderr (marked `!`), and their status.
    async fn shows(&self, commands: &[&str]) -> String {
        let mut shown = String::new();
        for line in commands {
            let mut command = binary(line.split_whitespace());
            command.current_dir(self.folder.path()).envs(self.environment.clone());
            let ended = output(command).await;
            shown += &format!("{}\n", format!("$ gmfy-sidecar {line}").trim_end());
            for line in &ended.stdout {
                shown += &format!("{}\n", self.plain(line));
            }
            for line in &ended.stderr {
                shown += &format!("{}\n", format!("! {}", self.plain(line)).trim_end());
            }
            shown += &format!("[{}]\n\n", ended.status.code().unwrap());
        }
        shown
    }

    fn plain(&self, line: &str) -> String {
        let line = self
            .hidden
            .iter()
            .fold(line.to_owned(), |line, (text, instead)| line.replace(text, instead));
        let mut plain = String::new();
        let mut rest = line.as_str();
        while let Some(c) = rest.chars().next() {
            let taken = if rest.get(..SOME_TIME.len()).is_some_and(is_time) {
                plain += SOME_TIME;
                SOME_TIME.len()
            } else {
                plain.push(c);
                c.len_utf8()
            };
            rest = &rest[taken..];
        }
        plain
    }
}

/// What is shown for every time.
const SOME_TIME: &str = "2000-01-01T00:00:00.000Z";

fn is_time(text: &str) -> bool {
    let like = |(c, some): (char, char)| c == some || (c.is_ascii_digit() && some.is_ascii_digit());
    text.len() == SOME_TIME.len() && text.chars().zip(SOME_TIME.chars()).all(like)
}

/// A value's form: its texts, numbers and truths by their kind, of a list the first.
fn shape(value: &Value) -> Value {
    match value {
        Value::Null => "none".into(),
        Value::Bool(_) => "true or false".into(),
        Value::Number(_) => "number".into(),
        Value::String(_) => "text".into(),
        Value::Array(list) => list.iter().take(1).map(shape).collect(),
        Value::Object(object) => {
            object.iter().map(|(name, value)| (name.clone(), shape(value))).collect()
        }
    }
}

#[tokio::test]
async fn wrong_usage_is_told_with_what_is_right() {
    let terminal = Terminal::new();
    let commands = [
        "",
        "statsu",
        "run --lanes 8",
        "check --defaults --json",
        "simulate --error-rate 2",
        "simulate --latency soon",
        "dead-letters show seven",
        "dead-letters requeue 7 -8",
        "dead-letters requeue",
        "dead-letters discard --all",
        "tail --outcome sent",
        "completions tcsh",
        "queue ls --data-dir gone",
        "queue verify --data-dir .",
        "catalogue",
        "catalogue --from-python gone",
        "catalogue --from-python .",
        "man --dir /dev/null/x",
    ];
    insta::assert_snapshot!(terminal.shows(&commands).await, @r#"
    $ gmfy-sidecar
    ! A durable, ordered, local outbox and read cache in front of the GMFY gamification API
    !
    ! Usage: gmfy-sidecar <COMMAND>
    !
    ! Commands:
    !   run           Run the sidecar
    !   dev           Try it out: the sidecar and a simulated GMFY in one process, data in a temporary
    !                 folder
    !   simulate      Run the simulated GMFY alone
    !   check         Check the settings and print the effective ones, secrets masked
    !   health        Ask the running sidecar's probe; for images without a shell
    !   openapi       Print the description of the listeners, as OpenAPI 3.1
    !   status        Show how the running sidecar stands: GMFY, queue, lanes, dead letters, cache
    !   dead-letters  See to the events that GMFY refused, with the running sidecar
    !   tail          Follow events as they are accepted, delivered, refused
    !   queue         Look into a data folder that no process holds, and get its events out
    !   catalogue     Print `events.types` for the event classes of a Python project, which is not run
    !   completions   Print a script that completes commands and flags in a shell
    !   man           Print the manual page
    !   help          Print this message or the help of the given subcommand(s)
    !
    ! Options:
    !   -h, --help     Print help
    !   -V, --version  Print version
    [2]

    $ gmfy-sidecar statsu
    ! error: unrecognized subcommand 'statsu'
    !
    !   tip: a similar subcommand exists: 'status'
    !
    ! Usage: gmfy-sidecar <COMMAND>
    !
    ! For more information, try '--help'.
    [2]

    $ gmfy-sidecar run --lanes 8
    ! error: unexpected argument '--lanes' found
    !
    ! Usage: gmfy-sidecar run [OPTIONS]
    !
    ! For more information, try '--help'.
    [2]

    $ gmfy-sidecar check --defaults --json
    ! error: the argument '--defaults' cannot be used with one or more of the other specified arguments
    !
    ! Usage: gmfy-sidecar check [OPTIONS]
    !
    ! For more information, try '--help'.
    [2]

    $ gmfy-sidecar simulate --error-rate 2
    ! error: invalid value '2' for '--error-rate <SHARE>': "2" is not a share of requests: write a number from 0 to 1
    !
    ! For more information, try '--help'.
    [2]

    $ gmfy-sidecar simulate --latency soon
    ! error: invalid value 'soon' for '--latency <TIME>': "soon" is not a time: write it like 20ms, 1.5s or 2m (at most 1h)
    !
    ! For more information, try '--help'.
    [2]

    $ gmfy-sidecar dead-letters show seven
    ! error: invalid value 'seven' for '<SEQ>': expected the sequence of a dead letter, a whole number like 17: `gmfy-sidecar dead-letters list` shows them
    !
    ! For more information, try '--help'.
    [2]

    $ gmfy-sidecar dead-letters requeue 7 -8
    ! error: invalid value '-8' for '[SEQ]...': expected the sequence of a dead letter, a whole number like 17: `gmfy-sidecar dead-letters list` shows them
    !
    ! For more information, try '--help'.
    [2]

    $ gmfy-sidecar dead-letters requeue
    ! error: the following required arguments were not provided:
    !   <SEQ>...
    !
    ! Usage: gmfy-sidecar dead-letters requeue <SEQ>...
    !
    ! For more information, try '--help'.
    [2]

    $ gmfy-sidecar dead-letters discard --all
    ! error: discard --all can't be undone, and there is no terminal to ask on: add --yes
    [2]

    $ gmfy-sidecar tail --outcome sent
    ! error: invalid value 'sent' for '--outcome <OUTCOME>'
    !   [possible values: accepted, delivered, retried, dead_lettered, dropped]
    !
    ! For more information, try '--help'.
    [2]

    $ gmfy-sidecar completions tcsh
    ! error: invalid value 'tcsh' for '<SHELL>'
    !   [possible values: bash, elvish, fish, powershell, zsh]
    !
    !   tip: a similar value exists: 'zsh'
    !
    ! For more information, try '--help'.
    [2]

    $ gmfy-sidecar queue ls --data-dir gone
    ! error: there is no folder gone: name the folder that queue.dir named (--data-dir DIR)
    [2]

    $ gmfy-sidecar queue verify --data-dir .
    ! error: . holds no queue: name the folder that queue.dir named (--data-dir DIR), in which the files FORMAT and LOCK and the folder queue lie
    [2]

    $ gmfy-sidecar catalogue
    ! error: the following required arguments were not provided:
    !   --from-python <DIR>
    !
    ! Usage: gmfy-sidecar catalogue --from-python <DIR>
    !
    ! For more information, try '--help'.
    [2]

    $ gmfy-sidecar catalogue --from-python gone
    ! error: --from-python gone: No such file or directory (os error 2)
    [2]

    $ gmfy-sidecar catalogue --from-python .
    ! error: .: in 0 Python files no class inherits from gmfy's BaseEvent, BaseActionEvent or BaseUniqueEvent
    [1]

    $ gmfy-sidecar man --dir /dev/null/x
    ! error: the pages can't be written to /dev/null/x: Not a directory (os error 20)
    [1]
    "#);
}

#[tokio::test]
async fn wrong_settings_are_all_told_with_what_is_right() {
    let mut terminal = Terminal::new();
    std::fs::write(
        terminal.folder.path().join("bad.toml"),
        "[delivery]\nlane = 8\nlinger = 200\n[events.types]\nx = { kind = \"clasic\" }\n",
    )
    .unwrap();
    let without = terminal
        .shows(&[
            "run",
            "check --config gone.toml",
            "check --config bad.toml --set queue.durability=sink",
        ])
        .await;
    terminal.environment =
        vec![("GMFY_URL", "http://127.0.0.1:1/".to_owned()), ("GMFY_API_KEY", KEY.to_owned())];
    let with = terminal
        .shows(&[
            "check --set api.listen=0.0.0.0:7460",
            "check --set queue.max_bytes=8MiB",
            "run --set upstream.ca_file=gone.pem",
            "health --set ops.listen=127.0.0.1:1",
            "status --set admin.listen=127.0.0.1:1",
        ])
        .await;
    insta::assert_snapshot!(without + &with, @r#"
    $ gmfy-sidecar run
    ! error: upstream.url: required: set `url` under [upstream] in the settings file, the environment variable GMFY_URL, or --set upstream.url=URL
    ! error: upstream.api_key: required: set `api_key` or `api_key_file` under [upstream] in the settings file, the environment variable GMFY_API_KEY, or --set upstream.api_key=KEY (or upstream.api_key_file=FILE)
    [2]

    $ gmfy-sidecar check --config gone.toml
    ! error: --config gone.toml: the file can't be read: No such file or directory (os error 2)
    ! error: upstream.url: required: set `url` under [upstream] in the settings file, the environment variable GMFY_URL, or --set upstream.url=URL
    ! error: upstream.api_key: required: set `api_key` or `api_key_file` under [upstream] in the settings file, the environment variable GMFY_API_KEY, or --set upstream.api_key=KEY (or upstream.api_key_file=FILE)
    [2]

    $ gmfy-sidecar check --config bad.toml --set queue.durability=sink
    ! error: delivery.lane (file bad.toml:2): unknown setting; the nearest known one is delivery.lanes
    ! error: delivery.linger = "200" (file bad.toml:3): expected a duration such as `200ms`, `5s`, `10m` or `1h`, or `0`; a number needs its unit, as in `200s`
    ! error: events.types.x (file bad.toml:5): expected a kind of `classic`, `action` or `unique`
    ! error: queue.durability = "sink" (flag): expected `sync` or `interval`
    ! error: upstream.url: required: set `url` under [upstream] in the settings file, the environment variable GMFY_URL, or --set upstream.url=URL
    ! error: upstream.api_key: required: set `api_key` or `api_key_file` under [upstream] in the settings file, the environment variable GMFY_API_KEY, or --set upstream.api_key=KEY (or upstream.api_key_file=FILE)
    [2]

    $ gmfy-sidecar check --set api.listen=0.0.0.0:7460
    ! error: api.keys: required, since api.listen = 0.0.0.0:7460 is not loopback
    [2]

    $ gmfy-sidecar check --set queue.max_bytes=8MiB
    ! error: queue.max_bytes = "8MiB" (flag): expected room for at least 8 bodies of api.max_body, which is 67108864 bytes; raise this or lower api.max_body
    [2]

    $ gmfy-sidecar run --set upstream.ca_file=gone.pem
    ! error: upstream.ca_file = "gone.pem" (flag): the file can't be used: No such file or directory (os error 2)
    [2]

    $ gmfy-sidecar health --set ops.listen=127.0.0.1:1
    ! error: the sidecar at 127.0.0.1:1 does not answer /livez: Connection refused (os error 111)
    [1]

    $ gmfy-sidecar status --set admin.listen=127.0.0.1:1
    ! error: no sidecar answers at 127.0.0.1:1 (admin.listen). Is it running? If it listens elsewhere, name its settings: --config FILE, or --set admin.listen=ADDRESS: Connection refused (os error 111)
    [1]
    "#);
}

#[tokio::test]
async fn check_shows_the_settings_in_force() {
    let gmfy = Gmfy::start(Faults::default()).await;
    let mut terminal = Terminal::new();
    terminal.hidden.push((gmfy.url.clone(), "GMFY"));
    terminal.environment = vec![("GMFY_URL", gmfy.url.clone()), ("GMFY_API_KEY", KEY.to_owned())];
    let text = terminal.shows(&["check --online --set delivery.lanes=8"]).await;
    let of_note = |line: &&str| {
        !line.contains("  default")
            || line.starts_with("api.listen")
            || line.starts_with("queue.dir")
    };
    insta::assert_snapshot!(text.lines().filter(of_note).collect::<Vec<_>>().join("\n"), @r#"
    $ gmfy-sidecar check --online --set delivery.lanes=8
    api.listen                          127.0.0.1:7460               default
    upstream.url                        GMFY      environment GMFY_URL
    upstream.api_key                    ***                          environment GMFY_API_KEY
    queue.dir                           ./data                       default
    delivery.lanes                      8                            flag

    GMFY answers: {"deploymentDate":"2026-01-15T09:30:00Z","version":"1.0"}
    [0]
    "#);
    let json = terminal.shows(&["check --online --json"]).await;
    let json = json.lines().filter(|line| !line.starts_with(['$', '[']));
    let json: Value = serde_json::from_str(&json.collect::<String>()).unwrap();
    insta::assert_snapshot!(format!("{:#}", json["settings"]["upstream.api_key"]), @r#"
    {
      "origin": "environment GMFY_API_KEY",
      "value": "***"
    }
    "#);
    insta::assert_snapshot!(json["upstream"], @r#"{"version":"{\"deploymentDate\":\"2026-01-15T09:30:00Z\",\"version\":\"1.0\"}"}"#);
    terminal.environment[1].1 = "wrong".to_owned();
    let refused = terminal.shows(&["check --online"]).await;
    let refused = refused.lines().filter(|line| line.starts_with(['!', '[']));
    insta::assert_snapshot!(refused.collect::<Vec<_>>().join("\n"), @r#"
    ! error: GMFY can't be used: it answers 401 Unauthorized to v1/version/: {"error":"x-api-key is missing or wrong"}
    [1]
    "#);
}

/// A sidecar with two dead letters, and its GMFY.
async fn with_dead_letters(terminal: &mut Terminal) -> (Gmfy, Process, Addresses) {
    let reject_types = BTreeSet::from(["poison".to_owned()]);
    let gmfy = Gmfy::start(Faults { reject_types, ..Faults::default() }).await;
    let data = terminal.folder.path().join("data");
    let sets = ["shutdown.quiet=10ms", "delivery.linger=5ms"];
    let mut process = Process::spawn(sidecar(&data, &gmfy.url, &sets));
    let addresses = process.ready().await;
    let events = r#"[{"userId":"ada","type":"poison"},{"userId":"bob","type":"poison","n":2},
                     {"userId":"ada","type":"visit"}]"#;
    assert_eq!(client::post(addresses.api, "/v1/events/batch/", events).await.status, 202);
    let settled = async || client::assert_account(addresses.ops).await == 0;
    crate::eventually("all are settled", PATIENCE, settled).await;
    for (address, name) in
        [(addresses.api, "API"), (addresses.ops, "OPS"), (addresses.admin, "ADMIN")]
    {
        terminal.hidden.push((address.to_string(), name));
    }
    terminal.environment = vec![
        ("GMFY_ADMIN__LISTEN", addresses.admin.to_string()),
        ("GMFY_OPS__LISTEN", addresses.ops.to_string()),
    ];
    (gmfy, process, addresses)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_seen_to_from_a_terminal() {
    let mut terminal = Terminal::new();
    let (_gmfy, mut process, _) = with_dead_letters(&mut terminal).await;
    let commands = [
        "dead-letters list",
        "dead-letters list --limit 1",
        "dead-letters list --after 1 --json",
        "dead-letters show 1",
        "dead-letters show 2 --json",
        "dead-letters show 3",
        "dead-letters export",
        "dead-letters requeue 3",
        "dead-letters discard 1",
        "dead-letters discard 1",
        "dead-letters discard --all --yes --json",
        "dead-letters list",
        "dead-letters list --json",
        "dead-letters requeue --all",
        "dead-letters requeue --all --json",
    ];
    insta::assert_snapshot!(terminal.shows(&commands).await, @r#"
    $ gmfy-sidecar dead-letters list
    SEQ  DEAD SINCE                REASON    STATUS  TRIES  USER  TYPE    ANSWER
      1  2000-01-01T00:00:00.000Z  rejected     422      2  ada   poison  {"error":"events of type \"poison\" are…
      2  2000-01-01T00:00:00.000Z  rejected     422      1  bob   poison  {"error":"events of type \"poison\" are…
    [0]

    $ gmfy-sidecar dead-letters list --limit 1
    SEQ  DEAD SINCE                REASON    STATUS  TRIES  USER  TYPE    ANSWER
      1  2000-01-01T00:00:00.000Z  rejected     422      2  ada   poison  {"error":"events of type \"poison\" are…

    There are more: dead-letters list --after 1
    [0]

    $ gmfy-sidecar dead-letters list --after 1 --json
    {
      "dead_letters": [
        {
          "seq": 2,
          "reason": "rejected",
          "status": 422,
          "answer": "{\"error\":\"events of type \\\"poison\\\" are refused\",\"index\":0,\"type\":\"poison\"}",
          "attempts": 1,
          "accepted_at": "2000-01-01T00:00:00.000Z",
          "dead_lettered_at": "2000-01-01T00:00:00.000Z",
          "event": {"userId":"bob","type":"poison","n":2}
        }
      ],
      "next": null
    }
    [0]

    $ gmfy-sidecar dead-letters show 1
    sequence      1
    reason        rejected: GMFY refused it
    status        422
    tries         2
    accepted      2000-01-01T00:00:00.000Z
    dead since    2000-01-01T00:00:00.000Z
    GMFY's words  {"error":"events of type \"poison\" are refused","index":0,"type":"poison"}
    event         {"userId":"ada","type":"poison"}
    [0]

    $ gmfy-sidecar dead-letters show 2 --json
    {
      "seq": 2,
      "reason": "rejected",
      "status": 422,
      "answer": "{\"error\":\"events of type \\\"poison\\\" are refused\",\"index\":0,\"type\":\"poison\"}",
      "attempts": 1,
      "accepted_at": "2000-01-01T00:00:00.000Z",
      "dead_lettered_at": "2000-01-01T00:00:00.000Z",
      "event": {"userId":"bob","type":"poison","n":2}
    }
    [0]

    $ gmfy-sidecar dead-letters show 3
    ! error: There is no such dead letter: Dead letter 3 was requeued or discarded, or never was. GET /api/events/3 tells where the event stands.
    [1]

    $ gmfy-sidecar dead-letters export
    {"seq":1,"reason":"rejected","status":422,"answer":"{\"error\":\"events of type \\\"poison\\\" are refused\",\"index\":0,\"type\":\"poison\"}","attempts":2,"accepted_at":"2000-01-01T00:00:00.000Z","dead_lettered_at":"2000-01-01T00:00:00.000Z","event":{"userId":"ada","type":"poison"}}
    {"seq":2,"reason":"rejected","status":422,"answer":"{\"error\":\"events of type \\\"poison\\\" are refused\",\"index\":0,\"type\":\"poison\"}","attempts":1,"accepted_at":"2000-01-01T00:00:00.000Z","dead_lettered_at":"2000-01-01T00:00:00.000Z","event":{"userId":"bob","type":"poison","n":2}}
    [0]

    $ gmfy-sidecar dead-letters requeue 3
    ! error: There is no such dead letter: Dead letter 3 was requeued or discarded, or never was. GET /api/events/3 tells where the event stands.
    [1]

    $ gmfy-sidecar dead-letters discard 1
    thrown away: 1
    [0]

    $ gmfy-sidecar dead-letters discard 1
    ! error: There is no such dead letter: Dead letter 1 was requeued or discarded, or never was. GET /api/events/1 tells where the event stands.
    [1]

    $ gmfy-sidecar dead-letters discard --all --yes --json
    {"discarded":1}
    [0]

    $ gmfy-sidecar dead-letters list
    no dead letters
    [0]

    $ gmfy-sidecar dead-letters list --json
    {
      "dead_letters": [],
      "next": null
    }
    [0]

    $ gmfy-sidecar dead-letters requeue --all
    there are no dead letters
    [0]

    $ gmfy-sidecar dead-letters requeue --all --json
    {"requeued":[]}
    [0]
    "#);
    process.signal(Signal::TERM);
    assert_eq!(process.ended().await.remaining(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_sidecar_and_its_folder_are_looked_into() {
    let mut terminal = Terminal::new();
    let (gmfy, mut process, addresses) = with_dead_letters(&mut terminal).await;
    terminal.hidden.push((format!("process {}", process.id()), "process PID"));
    let running = terminal.shows(&["health", "health --ready", "queue ls --data-dir data"]).await;
    let json = terminal.shows(&["status --json"]).await;
    let json = json.lines().filter(|line| !line.starts_with(['$', '[']));
    let mut json: Value = serde_json::from_str(&json.collect::<String>()).unwrap();
    // All routes look alike.
    json["cache"]["routes"].as_object_mut().unwrap().retain(|name, _| name == "user");
    insta::assert_snapshot!(format!("{:#}", shape(&json)), @r#"
    {
      "cache": {
        "bytes": "number",
        "entries": "number",
        "hit_ratio": {},
        "routes": {
          "user": {
            "bypass": "number",
            "expired": "number",
            "failed": "number",
            "forced": "number",
            "hit": "number",
            "miss": "number",
            "stale": "number",
            "stale_if_error": "number"
          }
        }
      },
      "dead_letters": "number",
      "events": {
        "accepted": "number",
        "dead_lettered": "number",
        "delivered": "number",
        "dropped": "number",
        "duplicates": "number",
        "recovered": "number",
        "requeued": "number"
      },
      "lanes": [
        {
          "in_work": "number",
          "lane": "number",
          "last_error": "text",
          "oldest_age_seconds": "none",
          "state": "text"
        }
      ],
      "queue": {
        "bytes": "number",
        "capacity_bytes": "number",
        "damages": [],
        "durability": "text",
        "events": "number",
        "oldest_age_seconds": "none"
      },
      "ready": {
        "ready": "true or false",
        "why": "none"
      },
      "revision": "text",
      "started_at": "text",
      "upstream": {
        "dead_lettering_status": "none",
        "next_attempt_at": "none",
        "since": "text",
        "state": "text",
        "why": "none"
      },
      "uptime_seconds": "number",
      "version": "text"
    }
    "#);
    let paused = client::post(addresses.admin, "/api/delivery/pause", "{}").await;
    assert_eq!(paused.status, 200, "{}", paused.text());
    let event = r#"{"userId":"ada","type":"visit","n":4}"#;
    assert_eq!(client::post(addresses.api, "/v1/events/", event).await.status, 202);
    process.signal(Signal::TERM);
    assert_eq!(process.ended().await.remaining(), 1);
    terminal.environment = vec![("GMFY_URL", gmfy.url.clone()), ("GMFY_API_KEY", KEY.to_owned())];
    let stopped = terminal
        .shows(&[
            "queue export --data-dir data",
            "queue export --data-dir data --json",
            "queue verify --data-dir data",
            "queue drain --data-dir data --set log.level=off",
            "queue drain --data-dir data --json --set log.level=off",
        ])
        .await;
    insta::assert_snapshot!(running + &stopped, @r#"
    $ gmfy-sidecar health
    ok
    [0]

    $ gmfy-sidecar health --ready
    ok
    [0]

    $ gmfy-sidecar queue ls --data-dir data
    ! error: queue.dir data is in use by process PID: two sidecars can't share a queue
    [1]

    $ gmfy-sidecar queue export --data-dir data
    4	2000-01-01T00:00:00.000Z	ada	{"userId":"ada","type":"visit","n":4}
    [0]

    $ gmfy-sidecar queue export --data-dir data --json
    {"seq":4,"accepted_at":"2000-01-01T00:00:00.000Z","user":"ada","event":{"userId":"ada","type":"visit","n":4}}
    [0]

    $ gmfy-sidecar queue verify --data-dir data
    GENERATION                FIRST  LAST  EVENTS  WAITING  FRAMES  STATE
    gen-00000000000000000001      1     4       4        1       2  whole

    whole: 4 events readable in 1 generation, 2 dead letters, in data
    [0]

    $ gmfy-sidecar queue drain --data-dir data --set log.level=off
    1 delivered, 0 dead-lettered, 0 dropped
    no event is left in data
    2 dead letters kept there: a sidecar on that folder shows them
    [0]

    $ gmfy-sidecar queue drain --data-dir data --json --set log.level=off
    {
      "data_dir": "data",
      "delivered": 0,
      "dead_lettered": 0,
      "dropped": 0,
      "remaining": 0,
      "dead_letters": 2
    }
    [0]
    "#);
}
