//! `queue ls`, `verify`, `export` and `drain` on the folder of a sidecar that is gone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::process::Command;

use crate::client::{self, Connection};
use crate::load::Poster;
use crate::process::{Ended, KEY, Process, binary, output, sidecar};
use crate::sink::Sink;

const EVENTS: u64 = 1000;

fn command(name: &str, data: &Path, more: &[&str]) -> Command {
    let mut command = binary(["queue", name, "--data-dir"]);
    command.arg(data).args(more);
    command
}

fn drain(data: &Path, sink: &Sink, more: &[&str]) -> Command {
    let mut command = command("drain", data, &["--set", "delivery.retry_max=200ms"]);
    command.args(more).env("GMFY_URL", &sink.url).env("GMFY_API_KEY", KEY);
    command
}

fn json(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout.join("\n")).unwrap_or_else(|e| panic!("{e}: {ended:#?}"))
}

/// A folder in which [`EVENTS`] wait, and who posted them.
async fn orphaned(folder: &Path, sink: &Sink) -> (PathBuf, Poster) {
    sink.set_down(true);
    let data = folder.join("data");
    let sets = ["delivery.retry_max=200ms", "shutdown.quiet=1ms", "shutdown.deadline=2s"];
    let mut process = Process::spawn(sidecar(&data, &sink.url, &sets));
    let api = process.ready().await.api;
    let mut connection = Connection::open(api).await.unwrap();
    let mut poster = Poster::new(0);
    while poster.next < EVENTS {
        poster.post(&mut connection, 100, || true).await.unwrap();
    }
    // Whoever holds the folder is named.
    for name in ["ls", "verify", "export"] {
        let refused = output(command(name, &data, &[])).await;
        assert_eq!(refused.status.code(), Some(1), "{refused:#?}");
        let holder = format!("process {}", process.id());
        assert!(refused.stderr.join("\n").contains(&holder), "{holder}: {refused:#?}");
    }
    let refused = output(drain(&data, sink, &[])).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:#?}");
    process.signal(Signal::TERM);
    assert_eq!(process.ended().await.remaining(), EVENTS);
    (data, poster)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orphaned_folder_is_listed_verified_exported_and_drained() {
    let sink = Sink::start(true).await;
    let folder = tempfile::tempdir().unwrap();
    let (data, poster) = orphaned(folder.path(), &sink).await;

    let listed = json(&output(command("ls", &data, &["--json"])).await);
    assert_eq!((&listed["waiting"], &listed["dead_letters"]), (&EVENTS.into(), &0.into()));
    let oldest: jiff::Timestamp = listed["oldest_accepted_at"].as_str().unwrap().parse().unwrap();
    assert!(oldest.duration_until(jiff::Timestamp::now()).as_secs() < 600, "{oldest}");
    let by_setting = format!("queue.dir={}", data.display());
    let listed = output(binary(["queue", "ls", "--set", &by_setting])).await;
    assert!(listed.stdout.join("\n").contains("1000 events waiting"), "{listed:#?}");
    let verified = output(command("verify", &data, &[])).await;
    assert_eq!(verified.status.code(), Some(0), "{verified:#?}");
    assert!(verified.stdout.last().unwrap().starts_with("whole: 1000 events"), "{verified:#?}");

    let exported = output(command("export", &data, &["--json"])).await;
    assert_eq!((exported.status.code(), exported.stdout.len()), (Some(0), EVENTS as usize));
    let mut sequence = 0;
    for (number, line) in exported.stdout.iter().enumerate() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["event"]["n"], number, "in order: {line}");
        assert_eq!(line["event"]["userId"], line["user"]);
        assert!(line["seq"].as_u64().unwrap() > sequence, "{line}");
        sequence = line["seq"].as_u64().unwrap();
    }
    let columns = output(command("export", &data, &[])).await;
    let first: Vec<_> = columns.stdout[0].split('\t').collect();
    assert_eq!((first.len(), first[0], first[2]), (4, "1", "c0u0"), "{first:?}");

    let mut interrupted = Process::spawn(drain(&data, &sink, &["--json"]));
    interrupted.in_log("a retry", |line| line.contains("GMFY").then_some(())).await;
    interrupted.signal(Signal::INT);
    let interrupted = interrupted.ended().await;
    assert_eq!(interrupted.status.code(), Some(1), "{interrupted:#?}");
    assert_eq!(json(&interrupted)["remaining"], EVENTS);

    // It goes on until GMFY is back, and then to the end.
    let mut drained = Process::spawn(drain(&data, &sink, &["--json"]));
    drained.in_log("a retry", |line| line.contains("GMFY").then_some(())).await;
    sink.set_down(false);
    let drained = drained.ended_within(Duration::from_secs(60)).await;
    assert_eq!(drained.status.code(), Some(0), "{drained:#?}");
    let outcome = json(&drained);
    assert_eq!((&outcome["delivered"], &outcome["remaining"]), (&EVENTS.into(), &0.into()));
    assert_eq!(sink.assert_has_all_of(std::slice::from_ref(&poster)), 0, "none again");

    let listed = json(&output(command("ls", &data, &["--json"])).await);
    assert_eq!((&listed["waiting"], &listed["oldest_accepted_at"]), (&0.into(), &Value::Null));
    let exported = output(command("export", &data, &[])).await;
    assert_eq!((exported.status.code(), exported.stdout.len()), (Some(0), 0));
    let again = output(drain(&data, &sink, &[])).await;
    assert_eq!(again.status.code(), Some(0), "{again:#?}");
}

/// Flips a byte in the records of one frame of the log; the frame is then lost.
fn damage_a_frame(data: &Path) {
    let generation = std::fs::read_dir(data.join("queue")).unwrap().next().unwrap().unwrap();
    let file = generation.path().join("db");
    let mut bytes = std::fs::read(&file).unwrap();
    let is_frame = |at: &usize| matches!(bytes[at + 4], 1 | 2);
    let frames: Vec<_> = memchr::memmem::find_iter(&bytes, b"GMFY").filter(is_frame).collect();
    let sequence = |at: usize| bytes[at + 8..at + 16].to_vec();
    let victim = sequence(frames[frames.len() / 2]);
    // sled may hold several copies.
    let copies: Vec<_> = frames.into_iter().filter(|at| sequence(*at) == victim).collect();
    for at in copies {
        bytes[at + 100] ^= 1;
    }
    std::fs::write(file, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_found_and_said() {
    let sink = Sink::start(true).await;
    let folder = tempfile::tempdir().unwrap();
    let (data, _) = orphaned(folder.path(), &sink).await;
    damage_a_frame(&data);

    let verified = output(command("verify", &data, &[])).await;
    assert_eq!(verified.status.code(), Some(1), "{verified:#?}");
    let text = verified.stdout.join("\n");
    assert!(text.contains("the events of these sequences are lost: "), "{text}");
    let verified = output(command("verify", &data, &["--json"])).await;
    assert_eq!(verified.status.code(), Some(1), "{verified:#?}");
    let findings = json(&verified);
    assert_eq!(findings["damaged"], true);
    let generation = &findings["generations"][0];
    let lost = &generation["lost"][0];
    let lost = 1 + lost[1].as_u64().unwrap() - lost[0].as_u64().unwrap();
    assert_eq!(generation["events"].as_u64().unwrap() + lost, EVENTS, "{findings:#}");

    let exported = output(command("export", &data, &[])).await;
    assert_eq!(exported.status.code(), Some(1), "it is not all: {:#?}", exported.stderr);
    assert_eq!(exported.stdout.len() as u64 + lost, EVENTS);
    let why = exported.stderr.join("\n");
    assert!(why.contains(&format!("{lost} damaged events")), "{why}");
}

#[tokio::test]
async fn what_is_no_queue_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let gmfy = Sink::start(true).await;
    for refused in [
        output(command("ls", folder.path(), &[])).await,
        output(command("verify", folder.path(), &["--json"])).await,
        output(command("export", folder.path(), &[])).await,
        output(drain(folder.path(), &gmfy, &[])).await,
    ] {
        assert_eq!(refused.status.code(), Some(2), "{refused:#?}");
        assert!(refused.stderr.join("\n").contains("holds no queue"), "{refused:#?}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was created");
    let refused = output(command("ls", Path::new("/nowhere/at-all"), &[])).await;
    assert_eq!(refused.status.code(), Some(2), "{refused:#?}");
    assert!(refused.stderr[0].contains("there is no folder /nowhere/at-all"), "{refused:#?}");
    // Only `drain` needs to know GMFY.
    let refused = output(command("drain", folder.path(), &[])).await;
    assert_eq!(refused.status.code(), Some(2), "{refused:#?}");
    assert!(refused.stderr.join("\n").contains("GMFY_URL"), "{refused:#?}");
    assert_eq!(output(binary(["queue"])).await.status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operators_pause_holds_no_drain_up_and_stays_for_the_next_sidecar() {
    let sink = Sink::start(false).await;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut process = Process::spawn(sidecar(&data, &sink.url, &[]));
    let addresses = process.ready().await;
    let paused = client::post(addresses.admin, "/api/delivery/pause", "").await;
    assert_eq!(paused.status, 200, "{}", paused.text());
    let mut poster = Poster::new(0);
    let mut connection = Connection::open(addresses.api).await.unwrap();
    assert_eq!(poster.post(&mut connection, 10, || true).await.unwrap().status, 202);
    process.kill().await;

    let drained = output(drain(&data, &sink, &[])).await;
    assert_eq!(drained.status.code(), Some(0), "{drained:#?}");
    sink.assert_has_all_of(std::slice::from_ref(&poster));
    let mut process = Process::spawn(sidecar(&data, &sink.url, &[]));
    let admin = process.ready().await.admin;
    let status = client::get(admin, "/api/status").await.json();
    assert_eq!(status["upstream"]["state"], "paused", "{status}");
    process.kill().await;
}
