//! GMFY's own Python client, unmodified: what reaches GMFY through the sidecar is what reaches it
//! without.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use gmfy_sidecar::simulator::Faults;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use crate::client;
use crate::gmfy::Gmfy;
use crate::process::{KEY, Process, sidecar};

/// Events that the driver posts: 5 single ones and a batch of 15, sync and async.
const EVENTS: usize = 40;

/// A Python that the client runs on, if this machine has one.
pub(crate) fn python() -> Option<PathBuf> {
    let mut candidates: Vec<PathBuf> = ["python3.12", "python3.13"].map(PathBuf::from).to_vec();
    if let Some(home) = std::env::var_os("HOME") {
        let versions = std::fs::read_dir(Path::new(&home).join(".pyenv/versions"));
        let versions = versions.into_iter().flatten().filter_map(Result::ok);
        candidates.extend(versions.flat_map(|version| {
            ["python3.12", "python3.13"].map(|name| version.path().join("bin").join(name))
        }));
    }
    candidates.into_iter().find(|python| {
        let probe = Command::new(python).args(["-c", "import venv, ensurepip"]).output();
        probe.is_ok_and(|output| output.status.success())
    })
}

/// A virtual environment with the client, made once a target folder.
pub(crate) fn environment(python: &Path) -> PathBuf {
    // Of two tests that come at the same time one makes it.
    static MAKING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _alone = MAKING.lock();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gmfy-python");
    let (ready, interpreter) = (folder.join("ready"), folder.join("bin/python"));
    if !ready.exists() {
        let run = |command: &mut Command| {
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        run(Command::new(python).args(["-m", "venv", "--clear"]).arg(&folder));
        let client = ["-m", "pip", "install", "-q", "gmfy[sync,async]==0.0.4", "pydantic==2.8.2"];
        run(Command::new(&interpreter).args(client));
        std::fs::write(ready, "").unwrap();
    }
    interpreter
}

/// What came of a run: what the client returned, and what reached GMFY.
#[derive(Debug)]
struct Seen {
    results: Vec<Value>,
    /// Each user's events, byte for byte, in order.
    events: BTreeMap<String, Vec<String>>,
    /// All other requests, whole, in order.
    others: Vec<(String, String, Option<String>, Option<String>, Vec<u8>)>,
}

async fn drive(python: &Path, url: &str, gmfy: &Gmfy) -> Seen {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/python");
    let mut driver = tokio::process::Command::new(python)
        .args(["-B", "driver.py", url, KEY])
        .current_dir(folder)
        .env("PYTHONPATH", ".")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("written"));
    crate::eventually("the events are there", Duration::from_secs(30), || async {
        gmfy.handle.events().len() >= EVENTS
    })
    .await;
    driver.stdin.take().unwrap().write_all(b"\n").await.unwrap();
    let printed = lines.next_line().await.unwrap().expect("its results");
    assert!(driver.wait().await.unwrap().success());

    // A payment's id is GMFY's choice.
    let first: Value = serde_json::from_str(&printed).unwrap();
    let payment = first["payment"].as_str().unwrap().to_owned();
    let results: Value = serde_json::from_str(&printed.replace(&payment, "PAYMENT")).unwrap();
    let mut events: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in gmfy.handle.events() {
        let text = String::from_utf8(event.text.to_vec()).unwrap();
        events.entry(event.user_id).or_default().push(text);
    }
    let header = |request: &gmfy_sidecar::simulator::RecordedRequest, name| {
        request.header(name).map(str::to_owned)
    };
    let requests = gmfy.handle.requests();
    let others = requests
        .iter()
        .filter(|request| !request.path_and_query.starts_with("/v1/events/"))
        .map(|request| {
            (
                request.method.to_string(),
                request.path_and_query.replace(&payment, "PAYMENT"),
                header(request, "x-api-key"),
                header(request, "content-type"),
                request.body.to_vec(),
            )
        });
    Seen {
        results: results["results"].as_array().unwrap().clone(),
        events,
        others: others.collect(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_client_works_by_changing_its_url() {
    let Some(python) = python() else {
        println!("SKIPPED: GMFY's client needs Python 3.12, which this machine has not");
        return;
    };
    let python = environment(&python);
    let direct = {
        let gmfy = Gmfy::start(Faults::default()).await;
        drive(&python, &gmfy.url, &gmfy).await
    };
    let gmfy = Gmfy::start(Faults::default()).await;
    let folder = tempfile::tempdir().unwrap();
    // The driver repeats its unique events and its reads, and all are to arrive, as they do without
    // the sidecar.
    let changes = ["delivery.linger=20ms", "events.dedupe_window=0", "reads.max_bytes=0"];
    let mut process = Process::spawn(sidecar(folder.path(), &gmfy.url, &changes));
    let api = process.ready().await.api;
    let through = drive(&python, &format!("http://{api}/"), &gmfy).await;

    assert_eq!(direct.events.values().map(Vec::len).sum::<usize>(), EVENTS);
    assert_eq!(through.events, direct.events);
    assert_eq!(through.others, direct.others);
    assert_eq!(through.results.len(), direct.results.len());
    for (through, direct) in through.results.iter().zip(&direct.results) {
        assert_eq!(through[0], direct[0]);
        let is_event = matches!(through[0].as_str(), Some("create_event" | "create_batch_events"));
        if is_event {
            // The one difference: taken, and not yet created.
            assert_eq!((&through[1], &direct[1]), (&Value::from(202), &Value::from(201)));
        } else {
            assert_eq!(through[1], direct[1]);
        }
    }
    // Values differ between the runs only where the order among users matters (equal ranks), so
    // the bodies are compared with those of the same GMFY.
    for path in
        ["users/", "users/ada/", "badges/ada/", "notifications/ada/", "version/", "payments/x/"]
    {
        let path = format!("/v1/{path}");
        let (here, there) = (client::get(api, &path).await, client::get(gmfy.address, &path).await);
        assert_eq!((here.status, here.body), (there.status, there.body), "{path}");
    }
    process.signal(rustix::process::Signal::TERM);
    assert_eq!(process.ended().await.remaining(), 0);
}
