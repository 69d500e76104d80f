//! Bad input of each kind: its status, a document that says what to do, and no effect on anything
//! else.

use gmfy_sidecar::simulator::Faults;

use crate::client::{self, Connection};
use crate::gmfy::Gmfy;
use crate::process::{Process, sidecar};

const JSON: &str = "Content-Type: application/json\r\n";
const HOST: &str = "Host: localhost\r\n";

fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("{method} {path} HTTP/1.1\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bad_request_gets_its_answer_and_changes_nothing() {
    let gmfy = Gmfy::start(Faults::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let sets = ["api.max_body=64KiB", "api.max_event=1KiB", "api.max_batch_events=3"];
    let mut process = Process::spawn(sidecar(folder.path(), &gmfy.url, &sets));
    let addresses = process.ready().await;
    let good = r#"{"userId":"u","type":"t"}"#;
    let json = format!("{HOST}{JSON}");
    let large = format!(r#"{{"userId":"u","type":"t","x":"{}"}}"#, "x".repeat(2000));
    let huge = " ".repeat(70_000);
    let event = |body: &str| request("POST", "/v1/events/", &json, body);
    let batch = |body: &str| request("POST", "/v1/events/batch/", &json, body);
    let table = [
        ("not JSON", event("{"), 400, "not-json"),
        ("empty", event(""), 400, "not-json"),
        ("a number", event("7"), 422, "invalid"),
        ("an array alone", event("[]"), 422, "/v1/events/batch/"),
        ("no user", event(r#"{"type":"t"}"#), 422, "userId"),
        ("a numeric user", event(r#"{"userId":7,"type":"t"}"#), 422, "/userId"),
        ("an empty user", event(r#"{"userId":"","type":"t"}"#), 422, "/userId"),
        ("no type", event(r#"{"userId":"u"}"#), 422, "type"),
        ("an empty type", event(r#"{"userId":"u","type":""}"#), 422, "/type"),
        ("a key twice", event(r#"{"userId":"u","type":"t","a":1,"a":2}"#), 422, "/a"),
        ("both spellings", event(r#"{"userId":"u","user_id":"u","type":"t"}"#), 422, "user_id"),
        ("both forms", event(r#"{"userId":"u","type":"t","event_type":"t"}"#), 422, "event_type"),
        ("an event too large", event(&large), 413, "max_event"),
        ("a body too large", event(&huge), 413, "max_body"),
        ("an object as batch", batch(good), 422, "array"),
        ("one bad of two", batch(&format!(r#"[{good},{{"type":"t"}}]"#)), 422, "\"index\":1"),
        ("too many", batch(&format!("[{good},{good},{good},{good}]")), 413, "max_batch_events"),
        ("a batch cut off", batch(&format!("[{good},")), 400, "not-json"),
        ("no media type", request("POST", "/v1/events/", HOST, good), 415, "application/json"),
        (
            "a form",
            request("POST", "/v1/events/", &format!("{HOST}Content-Type: text/plain\r\n"), good),
            415,
            "application/json",
        ),
        (
            "NDJSON alone",
            request(
                "POST",
                "/v1/events/",
                &format!("{HOST}Content-Type: application/x-ndjson\r\n"),
                good,
            ),
            415,
            "application/json",
        ),
        (
            "an unknown encoding",
            request("POST", "/v1/events/", &format!("{json}Content-Encoding: br\r\n"), good),
            415,
            "gzip",
        ),
        (
            "no gzip at all",
            request("POST", "/v1/events/", &format!("{json}Content-Encoding: gzip\r\n"), good),
            400,
            "bad-encoding",
        ),
        ("a wrong method", request("PUT", "/v1/events/", &json, good), 405, "POST"),
        ("a wrong path", request("POST", "/v1/event/", &json, good), 404, "/v1/events/"),
        ("no path of ours", request("GET", "/", HOST, ""), 404, "not-found"),
        (
            "a foreign host",
            request("POST", "/v1/events/", &format!("Host: evil.example\r\n{JSON}"), good),
            421,
            "allowed_hosts",
        ),
        ("no host", request("POST", "/v1/events/", JSON, good), 400, "bad-host"),
        (
            "two hosts",
            request("POST", "/v1/events/", &format!("{HOST}{json}"), good),
            400,
            "bad-host",
        ),
        ("dots", request("GET", "/v1/users/%2e%2e/", HOST, ""), 400, "bad-id"),
        ("a NUL", request("GET", "/v1/users/a%00b/", HOST, ""), 400, "bad-id"),
        ("no UTF-8", request("GET", "/v1/users/%ff/", HOST, ""), 400, "bad-id"),
        ("a payment as text", request("POST", "/v1/payments/", HOST, "{}"), 415, "media-type"),
    ];
    for (name, bytes, status, says) in table {
        let mut connection = Connection::open(addresses.api).await.unwrap();
        let answer = connection.exchange(bytes).await.unwrap();
        let text = answer.text();
        assert_eq!(answer.status, status, "{name}: {text}");
        assert!(text.contains(says), "{name}: {text}");
        let document = answer.json();
        assert!(document["type"].as_str().unwrap().starts_with("urn:gmfy-sidecar:problem:"));
        assert_eq!(document["status"], status, "{name}");
        assert!(!document["detail"].as_str().unwrap().is_empty(), "{name}");
    }
    assert_eq!(client::assert_account(addresses.ops).await, 0, "nothing was taken");
    let lenient = format!("{json}Prefer: handling=lenient\r\n");
    let half =
        request("POST", "/v1/events/batch/", &lenient, &format!(r#"[{{"type":"t"}},{good}]"#));
    let answer = Connection::open(addresses.api).await.unwrap().exchange(half).await.unwrap();
    assert_eq!((answer.status, answer.json()["accepted"].as_u64()), (202, Some(1)));
    assert_eq!(answer.json()["errors"][0]["index"], 0);
    let answer = client::post(addresses.api, "/v1/events/batch/", "[]").await;
    let none = r#"{"accepted":0,"duplicates":0,"first_sequence":null,"last_sequence":null}"#;
    assert_eq!((answer.status, answer.text().as_str()), (202, none));
    crate::eventually("the one good event is there", crate::process::PATIENCE, || async {
        gmfy.handle.events().len() == 1
    })
    .await;
    process.signal(rustix::process::Signal::TERM);
    let ended = process.ended().await;
    assert_eq!(ended.remaining(), 0);
    assert!(ended.warnings().is_empty(), "bad input is no matter for the log: {ended:#?}");
}
