//! Traces of the real binary: sent to the collector under the name that the environment says, and
//! named in its log; without the key.

use std::time::Duration;

use gmfy_sidecar::simulator::Faults;
use rustix::process::Signal;
use serde_json::Value;

use crate::client::{self, Connection};
use crate::collector::Recording;
use crate::gmfy::Gmfy;
use crate::process::{KEY, Process, sidecar};

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_binary_traces_and_its_log_names_request_and_trace() {
    let gmfy = Gmfy::start(Faults::default()).await;
    let collector = Recording::start().await;
    let folder = tempfile::tempdir().unwrap();
    let endpoint = format!("tracing.otlp_endpoint={}", collector.endpoint().unwrap());
    let sets = [
        endpoint.as_str(),
        "tracing.sample_ratio=1",
        "log.level=info,gmfy_sidecar::http=debug",
        "shutdown.quiet=0",
    ];
    let mut command = sidecar(folder.path(), &gmfy.url, &sets);
    command
        .env("OTEL_SERVICE_NAME", "named-by-environment")
        .env("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=pod-7");
    let mut process = Process::spawn(command);
    let addresses = process.ready().await;
    let mut connection = Connection::open(addresses.api).await.unwrap();
    let posted = connection.post("/v1/events/", r#"{"userId":"canary-user","type":"t"}"#).await;
    let posted = posted.unwrap();
    assert_eq!(posted.status, 202);
    let answered = |line: &str| {
        let line: Value = serde_json::from_str(line).ok()?;
        (line["message"] == "answered").then_some(line)
    };
    let line = process.in_log("a line for the request", answered).await;
    assert_eq!(line["request.id"].as_str().unwrap().len(), 20, "{line}");
    crate::eventually("it is delivered", PATIENCE, || async {
        client::assert_account(addresses.ops).await == 0
    })
    .await;
    process.signal(Signal::TERM);
    assert_eq!(process.ended().await.remaining(), 0);

    let accepts = collector.named("POST /v1/events/");
    assert_eq!(accepts.len(), 1);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(line["trace.id"], hex(&accepts[0].trace_id));
    assert_eq!(line["span.id"], hex(&accepts[0].span_id));
    let sent = collector.named("create_batch_events");
    assert!(sent.iter().any(|span| span.links.iter().any(|l| l.span_id == accepts[0].span_id)));
    let sender = collector.sender();
    assert_eq!(sender["service.name"], "named-by-environment");
    assert_eq!(sender["k8s.pod.name"], "pod-7");
    for canary in [KEY, "canary-user"] {
        assert!(!collector.got(canary), "{canary} is in what the collector was sent");
    }
}
