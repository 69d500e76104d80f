//! The log of an outage: a line for each change, none for a retry or an event, and nothing of what
//! events hold.

use std::time::Duration;

use gmfy_sidecar::simulator::Faults;
use http::StatusCode;
use rustix::process::Signal;
use serde_json::Value;

use crate::client::{self, Connection};
use crate::gmfy::Gmfy;
use crate::process::{Process, binary, output, sidecar};

const PATIENCE: Duration = Duration::from_secs(30);
const RETRIES: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_told_in_a_few_lines_and_the_process_is_healthy() {
    let status = Some(StatusCode::SERVICE_UNAVAILABLE);
    let gmfy = Gmfy::start(Faults { status, ..Faults::default() }).await;
    let folder = tempfile::tempdir().unwrap();
    let sets = [
        "delivery.retry_initial=5ms",
        "delivery.retry_max=10ms",
        "shutdown.quiet=0",
        "delivery.linger=5ms",
    ];
    let mut process = Process::spawn(sidecar(folder.path(), &gmfy.url, &sets));
    let addresses = process.ready().await;
    // As a container's health check asks: without the process's settings.
    let listen = format!("ops.listen={}", addresses.ops);
    let asked = output(binary(["health", "--set", listen.as_str()])).await;
    assert_eq!((asked.status.code(), asked.stdout), (Some(0), vec!["ok".to_owned()]));
    let mut connection = Connection::open(addresses.api).await.unwrap();
    for number in 0..200 {
        let body = format!(r#"{{"userId":"canary-{number}","type":"visit"}}"#);
        assert_eq!(connection.post("/v1/events/", &body).await.unwrap().status, 202);
    }
    crate::eventually("it was tried again and again", PATIENCE, || async {
        gmfy.handle.requests().len() > RETRIES
    })
    .await;
    gmfy.handle.set_faults(Faults::default());
    crate::eventually("all is delivered", PATIENCE, || async {
        client::assert_account(addresses.ops).await == 0
    })
    .await;
    process.signal(Signal::TERM);
    let ended = process.ended().await;
    assert_eq!(ended.remaining(), 0);
    assert!(ended.stderr.len() < 12, "{:#?}", ended.stderr);
    let opened = |line: &Value| line["upstream.state"] == "open";
    let lines: Vec<Value> =
        ended.stderr.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let open: Vec<_> = lines.iter().filter(|line| opened(line)).collect();
    assert_eq!(open.len(), 1, "{:#?}", ended.stderr);
    assert!(open[0]["upstream.why"].as_str().unwrap().contains("503"), "with its reason");
    for (line, text) in lines.iter().zip(&ended.stderr) {
        for field in ["timestamp", "level", "target", "message"] {
            assert!(line[field].is_string(), "{field} of {text}");
        }
        assert!(!text.contains("canary-"), "a user in the log: {text}");
    }
}
