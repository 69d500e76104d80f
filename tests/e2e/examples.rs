//! Each of `examples/clients`: against the real binary its event arrives; a 503 is tried again after
//! Retry-After, with the same key; a 400 is not, and what it said is told.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gmfy_sidecar::simulator::Faults;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::gmfy::Gmfy;
use crate::process::{PATIENCE, Process, sidecar};

const EVENT: &str = r#"{"userId":"ada","type":"register"}"#;

/// As Python's `json` spells it; it goes on as it was sent.
const SPACED: &str = r#"{"userId": "ada", "type": "register"}"#;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/clients")
}

/// Runs a command to its end; none when its program isn't there.
async fn run(words: &[&str], url: &str) -> Option<Output> {
    let (program, arguments) = words.split_first().unwrap();
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().to_ascii_uppercase().ends_with("_PROXY") {
            command.env_remove(&name);
        }
    }
    let running = command
        .args(arguments)
        .current_dir(folder())
        .env("GMFY_SIDECAR_URL", url)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(4 * PATIENCE, running).await.expect("it ends in time") {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        ended => Some(ended.unwrap()),
    }
}

/// Makes what has to be made first; false when its program isn't there.
async fn make(words: &[&str]) -> bool {
    let made = run(words, "").await;
    let made = made.inspect(|made| assert!(made.status.success(), "{words:?}: {made:?}"));
    if made.is_none() {
        println!("SKIPPED: {} is not on this machine", words[0]);
    }
    made.is_some()
}

/// A server of the test's: it gives its answers in turn, the last one again and again.
struct Stub {
    url: String,
    /// When each request came, and its head and body.
    seen: Arc<Mutex<Vec<(Instant, String)>>>,
    _running: JoinSet<()>,
}

impl Stub {
    async fn start(answers: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut running, requests) = (JoinSet::new(), Arc::clone(&seen));
        running.spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = String::new();
                let mut part = [0; 4096];
                while ![EVENT, SPACED].iter().any(|event| request.ends_with(event)) {
                    let read = stream.read(&mut part).await.unwrap_or(0);
                    if read == 0 {
                        break;
                    }
                    request += &String::from_utf8_lossy(&part[..read]);
                }
                if request.is_empty() {
                    continue;
                }
                let count = {
                    let mut seen: std::sync::MutexGuard<'_, Vec<_>> = requests.lock().unwrap();
                    seen.push((Instant::now(), request));
                    seen.len()
                };
                let answer = answers[count.min(answers.len()) - 1];
                stream.write_all(answer.as_bytes()).await.unwrap();
                let _closed = stream.shutdown().await;
            }
        });
        Self { url, seen, _running: running }
    }

    fn seen(&self) -> Vec<(Instant, String)> {
        self.seen.lock().unwrap().clone()
    }
}

const TAKEN: &str = "HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\
                     Connection: close\r\n\r\n{\"accepted\":1}";
const FULL: &str = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\n\
                    Content-Type: application/problem+json\r\nContent-Length: 2\r\n\
                    Connection: close\r\n\r\n{}";
const WRONG: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\n\
                     Content-Length: 25\r\nConnection: close\r\n\r\n{\"detail\":\"so it's wrong\"}";

fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let lines = request.lines().filter_map(|line| line.split_once(": "));
    lines.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// What an example promises: to post these bytes; `is_keyed`: with an Idempotency-Key.
async fn keeps_its_word(words: &[&str], event: &str, is_keyed: bool) {
    let gmfy = Gmfy::start(Faults::default()).await;
    let data = tempfile::tempdir().unwrap();
    let sets = ["delivery.linger=20ms", "shutdown.quiet=10ms"];
    let mut process = Process::spawn(sidecar(data.path(), &gmfy.url, &sets));
    let api = process.ready().await.api;
    let Some(taken) = run(words, &format!("http://{api}/")).await else {
        println!("SKIPPED: {} is not on this machine", words[0]);
        return;
    };
    assert!(taken.status.success(), "{words:?}: {taken:?}");
    crate::eventually("the event arrives", PATIENCE, || async { !gmfy.handle.events().is_empty() })
        .await;
    let texts: Vec<_> = gmfy.handle.events().into_iter().map(|event| event.text).collect();
    assert_eq!(texts, [event]);
    process.signal(rustix::process::Signal::TERM);
    assert_eq!(process.ended().await.remaining(), 0);

    let full = Stub::start(&[FULL, TAKEN]).await;
    let ended = run(words, &full.url).await.unwrap();
    assert!(ended.status.success(), "{words:?}: {ended:?}");
    let seen = full.seen();
    let [(first, before), (second, after)] = seen.as_slice() else {
        panic!("{words:?}: {seen:#?}")
    };
    assert!(*second - *first >= Duration::from_millis(1900), "{words:?}: Retry-After is kept");
    assert!(before.starts_with("POST /v1/events/ HTTP/1.1\r\n"), "{before}");
    assert!(header(before, "content-type").unwrap().starts_with("application/json"), "{before}");
    let keys = [before, after].map(|request| header(request, "idempotency-key"));
    assert_eq!((keys[0].is_some(), keys[0]), (is_keyed, keys[1]), "{words:?}");

    let wrong = Stub::start(&[WRONG]).await;
    let ended = run(words, &wrong.url).await.unwrap();
    assert!(!ended.status.success(), "{words:?}: {ended:?}");
    let told = [ended.stdout, ended.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    assert!(told.contains("so it's wrong") && !told.contains("Traceback"), "{words:?}: {told}");
    assert_eq!(wrong.seen().len(), 1, "{words:?}: it is not sent again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl() {
    keeps_its_word(&["sh", "curl.sh"], EVENT, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python() {
    let Some(python) = crate::python_client::python() else {
        println!("SKIPPED: GMFY's client needs Python 3.12, which this machine has not");
        return;
    };
    let python = crate::python_client::environment(&python);
    let python = python.to_str().unwrap();
    keeps_its_word(&[python, "-B", "python_requests.py"], SPACED, true).await;
    keeps_its_word(&[python, "-B", "python_gmfy.py"], EVENT, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node() {
    keeps_its_word(&["node", "node.mjs"], EVENT, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn go() {
    let made = tempfile::tempdir().unwrap();
    let program = made.path().join("client");
    let program = program.to_str().unwrap();
    if make(&["go", "build", "-o", program, "go.go"]).await {
        keeps_its_word(&[program], EVENT, true).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn java() {
    let made = tempfile::tempdir().unwrap();
    let classes = made.path().to_str().unwrap();
    if make(&["javac", "-d", classes, "Client.java"]).await {
        keeps_its_word(&["java", "-cp", classes, "Client"], EVENT, true).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn csharp() {
    let made = tempfile::tempdir().unwrap();
    let program = made.path().join("client.exe");
    let out = format!("-out:{}", program.display());
    if make(&["mcs", &out, "-r:System.Net.Http.dll", "csharp.cs"]).await {
        keeps_its_word(&["mono", program.to_str().unwrap()], EVENT, true).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn php() {
    keeps_its_word(&["php", "php.php"], EVENT, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ruby() {
    keeps_its_word(&["ruby", "ruby.rb"], EVENT, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rust() {
    let mut built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    built.args(["build", "--quiet", "--locked", "--example", "client"]);
    let built = built.current_dir(env!("CARGO_MANIFEST_DIR")).output().await.unwrap();
    assert!(built.status.success(), "{built:?}");
    let beside = Path::new(env!("CARGO_BIN_EXE_gmfy-sidecar")).parent().unwrap();
    keeps_its_word(&[beside.join("examples/client").to_str().unwrap()], EVENT, true).await;
}
