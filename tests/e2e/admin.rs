//! The commands that talk to a running sidecar.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gmfy_sidecar::simulator::Faults;
use rustix::process::Signal;
use serde_json::Value;

use crate::client;
use crate::gmfy::Gmfy;
use crate::process::{Addresses, Ended, Process, binary, output, sidecar};

const TOKEN: &str = "a-token-of-operators";

/// Runs a command against the sidecar at these addresses.
async fn command(addresses: Addresses, arguments: &[&str]) -> Ended {
    let mut command = binary(arguments);
    command.args(["--set", &format!("admin.listen={}", addresses.admin)]);
    command.env("GMFY_ADMIN__TOKEN", TOKEN);
    output(command).await
}

async fn done(addresses: Addresses, arguments: &[&str]) -> String {
    let ended = command(addresses, arguments).await;
    assert_eq!(ended.status.code(), Some(0), "{arguments:?}: {ended:#?}");
    ended.stdout.join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_poison_events_among_two_thousand_are_requeued_after_a_fix_and_arrive() {
    let reject_types = BTreeSet::from(["poison".to_owned()]);
    let gmfy = Gmfy::start(Faults { reject_types, ..Faults::default() }).await;
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::spawn(sidecar(
        folder.path(),
        &gmfy.url,
        &["shutdown.quiet=10ms", &format!("admin.token={TOKEN}")],
    ));
    let addresses = process.ready().await;
    let poison = [77, 1_000, 1_960];
    for start in (0..2_000).step_by(100) {
        let events: Vec<String> = (start..start + 100)
            .map(|n| {
                let event_type = if poison.contains(&n) { "poison" } else { "visit" };
                format!(r#"{{"userId":"u{}","type":"{event_type}","n":{n}}}"#, n % 50)
            })
            .collect();
        let body = format!("[{}]", events.join(","));
        let answer = client::post(addresses.api, "/v1/events/batch/", &body).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
    }
    let empty = async || client::assert_account(addresses.ops).await == 0;
    crate::eventually("all are settled", Duration::from_secs(60), empty).await;
    assert_eq!(gmfy.handle.counts().events, 1_997);

    let status: Value =
        serde_json::from_str(&done(addresses, &["status", "--json"]).await).unwrap();
    assert_eq!((&status["dead_letters"], &status["upstream"]["state"]), (&3.into(), &"up".into()));
    assert_eq!(status["events"]["delivered"], 1_997);
    let table = done(addresses, &["status"]).await;
    assert!(table.contains("3 (gmfy-sidecar dead-letters list)"), "{table}");
    let listed = done(addresses, &["dead-letters", "list"]).await;
    assert_eq!(listed.lines().count(), 4, "{listed}");
    let exported = done(addresses, &["dead-letters", "export"]).await;
    let letters: Vec<Value> =
        exported.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let numbers: Vec<_> = letters.iter().map(|l| l["event"]["n"].as_u64().unwrap()).collect();
    assert_eq!(numbers, poison);
    let first = letters[0]["seq"].to_string();
    let shown = done(addresses, &["dead-letters", "show", &first]).await;
    assert!(shown.contains(r#"{"userId":"u27","type":"poison","n":77}"#), "{shown}");

    gmfy.handle.set_faults(Faults::default());
    let one = done(addresses, &["dead-letters", "requeue", &first]).await;
    assert!(one.starts_with(&format!("{first} is in the queue again, as ")), "{one}");
    let rest = done(addresses, &["dead-letters", "requeue", "--all", "--json"]).await;
    let rest: Value = serde_json::from_str(&rest).unwrap();
    assert_eq!(rest["requeued"].as_array().unwrap().len(), 2);
    crate::eventually("they arrive", Duration::from_secs(60), empty).await;
    let mut times: BTreeMap<u64, u32> = BTreeMap::new();
    for event in gmfy.handle.events() {
        let event: Value = serde_json::from_slice(event.text.as_ref()).unwrap();
        *times.entry(event["n"].as_u64().unwrap()).or_default() += 1;
    }
    assert_eq!(times.len(), 2_000, "all arrived");
    assert!(times.values().all(|times| *times == 1), "once each");
    let none = done(addresses, &["dead-letters", "list"]).await;
    assert_eq!(none, "no dead letters");

    // Not a terminal: nobody is asked, so it has to be said.
    let refused = command(addresses, &["dead-letters", "discard", "--all"]).await;
    assert_eq!(refused.status.code(), Some(2), "{refused:#?}");
    assert!(refused.stderr.join("\n").contains("--yes"), "{refused:#?}");
    let discarded = done(addresses, &["dead-letters", "discard", "--all", "--yes"]).await;
    assert_eq!(discarded, "thrown away: 0");
    let missing = command(addresses, &["dead-letters", "show", &first]).await;
    assert_eq!(missing.status.code(), Some(1));
    assert!(missing.stderr.join("\n").contains("was requeued or discarded"), "{missing:#?}");

    process.signal(Signal::TERM);
    assert_eq!(process.ended().await.remaining(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tail_follows_events_until_the_sidecar_stops() {
    let gmfy = Gmfy::start(Faults::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let sets = ["shutdown.quiet=10ms", "admin.token=a-token-of-operators"];
    let mut process = Process::spawn(sidecar(folder.path(), &gmfy.url, &sets));
    let addresses = process.ready().await;
    let mut follow = binary(["tail", "--json", "--user", "ada", "--outcome", "delivered"]);
    follow.args(["--set", &format!("admin.listen={}", addresses.admin)]);
    follow.env("GMFY_ADMIN__TOKEN", TOKEN);
    let mut tail = Process::spawn(follow);
    // It says nothing when it is connected: events are sent until the first shows.
    let (api, sent) = (addresses.api, std::sync::atomic::AtomicU64::new(0));
    let seen =
        async { tail.in_output("an event", |line| serde_json::from_str::<Value>(line).ok()).await };
    let sending = async {
        loop {
            for user in ["bob", "ada"] {
                let event = format!(r#"{{"userId":"{user}","type":"visit"}}"#);
                assert_eq!(client::post(api, "/v1/events/", &event).await.status, 202);
            }
            sent.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let notice = tokio::select! { notice = seen => notice, () = sending => unreachable!() };
    assert_eq!((&notice["user"], &notice["outcome"]), (&"ada".into(), &"delivered".into()));
    assert_eq!(notice["status"], 201);
    process.signal(Signal::TERM);
    assert_eq!(process.ended().await.status.code(), Some(0));
    let ended = tail.ended().await;
    assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
    assert!(ended.stderr.join("\n").contains("the sidecar stopped"), "{ended:#?}");
}

#[tokio::test]
async fn a_sidecar_that_is_not_there_or_asks_for_a_token_is_told_with_what_to_do() {
    let mut nobody = binary(["status", "--set", "admin.listen=127.0.0.1:1"]);
    nobody.env("GMFY_ADMIN__TOKEN", TOKEN);
    let ended = output(nobody).await;
    assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
    let text = ended.stderr.join("\n");
    assert!(text.contains("Is it running?") && text.contains("--set admin.listen"), "{text}");

    let gmfy = Gmfy::start(Faults::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let sets = ["shutdown.quiet=10ms", "admin.token=a-token-of-operators"];
    let mut process = Process::spawn(sidecar(folder.path(), &gmfy.url, &sets));
    let addresses = process.ready().await;
    let at = format!("admin.listen={}", addresses.admin);
    let ended = output(binary(["status", "--set", &at])).await;
    assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
    assert!(ended.stderr.join("\n").contains("admin.token"), "{ended:#?}");
    for wrong in [
        &["dead-letters", "requeue"][..],
        &["dead-letters", "discard", "x"],
        &["tail", "--outcome", "sent"],
    ] {
        let ended = output(binary(wrong)).await;
        assert_eq!(ended.status.code(), Some(2), "{wrong:?}: {ended:#?}");
    }
    process.signal(Signal::TERM);
    process.ended().await;
    for command in [&["completions", "bash"][..], &["man"]] {
        assert_eq!(output(binary(command)).await.status.code(), Some(0), "{command:?}");
    }
}
