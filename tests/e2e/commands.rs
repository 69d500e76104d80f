//! The commands as a new user meets them.

use std::time::Duration;

use gmfy_sidecar::simulator::Faults;
use rustix::process::Signal;

use crate::client;
use crate::gmfy::Gmfy;
use crate::process::{KEY, Process, binary, output, sidecar};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_prints_lines_that_work_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = binary(["dev", "--set", "api.listen=127.0.0.1:0"]);
    command
        .args(["--set", "ops.listen=127.0.0.1:0", "--set", "admin.listen=127.0.0.1:0"])
        .env("TMPDIR", temporary.path());
    let mut process = Process::spawn(command);
    for effect in ["\"accepted\":1", "\"accepted\":2", "userRatings"] {
        let line = process
            .in_output("a line to paste", |line| {
                let line = line.trim();
                let is_this = match effect {
                    "\"accepted\":1" => line.contains("/v1/events/") && !line.contains("/batch/"),
                    "\"accepted\":2" => line.contains("/v1/events/batch/"),
                    _ => line.contains("/v1/users/ada/"),
                };
                (line.starts_with("curl ") && is_this).then(|| line.to_owned())
            })
            .await;
        // The read shows the effect once the batch is delivered.
        crate::eventually(effect, Duration::from_secs(20), || async {
            let mut shell = tokio::process::Command::new("sh");
            let printed = shell.args(["-c", &line]).output().await.unwrap();
            String::from_utf8_lossy(&printed.stdout).contains(effect)
        })
        .await;
    }
    process.signal(Signal::INT);
    let ended = process.ended().await;
    assert_eq!(ended.status.code(), Some(0), "{ended:#?}");
    let left = std::fs::read_dir(temporary.path()).unwrap().count();
    assert_eq!(left, 0, "the data folder is left behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_from_the_start_loses_nothing_and_a_stop_says_what_remains() {
    let gmfy = Gmfy::start(Faults { down: true, ..Faults::default() }).await;
    let folder = tempfile::tempdir().unwrap();
    let sets = ["delivery.retry_max=200ms", "shutdown.quiet=10ms", "shutdown.deadline=3s"];
    let mut process = Process::spawn(sidecar(folder.path(), &gmfy.url, &sets));
    let addresses = process.ready().await;
    let requests: u64 = if crate::is_long() { 2000 } else { 50 };
    for request in 0..requests {
        let events: Vec<String> =
            (0..100).map(|n| format!(r#"{{"userId":"u{n}","type":"t","n":{request}}}"#)).collect();
        let body = format!("[{}]", events.join(","));
        let answer = client::post(addresses.api, "/v1/events/batch/", &body).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        assert_eq!(client::get(addresses.ops, "/readyz").await.status, 200);
    }
    assert_eq!(client::assert_account(addresses.ops).await, requests * 100);
    process.signal(Signal::TERM);
    let ended = process.ended_within(Duration::from_secs(10)).await;
    assert_eq!(ended.remaining(), requests * 100);

    gmfy.handle.set_faults(Faults::default());
    let mut process = Process::spawn(sidecar(folder.path(), &gmfy.url, &sets));
    let ops = process.ready().await.ops;
    crate::eventually("all is delivered", Duration::from_secs(60), || async {
        client::assert_account(ops).await == 0
    })
    .await;
    let mut next = std::collections::BTreeMap::new();
    let events = gmfy.handle.events();
    assert_eq!(events.len() as u64, requests * 100, "each once");
    for event in events {
        let text: serde_json::Value = serde_json::from_slice(event.text.as_ref()).unwrap();
        let expected = next.entry(event.user_id).or_insert(0);
        assert_eq!(text["n"].as_u64(), Some(*expected), "in order");
        *expected += 1;
    }
    process.signal(Signal::TERM);
    assert_eq!(process.ended().await.remaining(), 0);
}

#[tokio::test]
async fn check_masks_the_key_and_names_what_is_wrong() {
    let mut command = binary(["check", "--set", "delivery.lanes=8"]);
    command.env("GMFY_URL", "http://127.0.0.1:9/").env("GMFY_API_KEY", KEY);
    let checked = output(command).await;
    assert_eq!(checked.status.code(), Some(0), "{checked:#?}");
    let line = checked.stdout.iter().find(|line| line.contains("delivery.lanes")).unwrap();
    assert!(line.contains('8') && line.contains("flag"), "{line}");
    let line = checked.stdout.iter().find(|line| line.contains("upstream.api_key ")).unwrap();
    assert!(line.contains("***"), "{line}");

    let mut command = binary(["check", "--set", "delivery.lane=8"]);
    command.env("GMFY_URL", "http://127.0.0.1:9/").env("GMFY_API_KEY", KEY);
    let refused = output(command).await;
    assert_eq!(refused.status.code(), Some(2));
    let text = refused.stderr.join("\n");
    assert!(text.contains("delivery.lanes"), "the nearest is named: {text}");

    let refused = output(binary(["run"])).await;
    assert_eq!(refused.status.code(), Some(2));
    assert!(refused.stderr.join("\n").contains("GMFY_URL"), "{refused:#?}");
    let version = output(binary(["--version"])).await;
    assert!(version.stdout[0].contains(env!("CARGO_PKG_VERSION")));
}
