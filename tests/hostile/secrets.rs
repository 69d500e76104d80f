//! Secrets that would be recognised anywhere: none is in anything that the process emits, whatever
//! goes wrong, at the most talkative log level.

use std::net::SocketAddr;
use std::path::Path;

use gmfy_sidecar::simulator::{Options, Simulator};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::process::{KEY, PATIENCE, Process, binary, output, sidecar};
use crate::upstream::{Hostile, Script};

const CALLERS_KEY: &str = "canary-41f8-a-callers-key";
const TOKEN: &str = "canary-9e21-the-token";
const WRONG: &str = "canary-c3d7-sent-by-a-stranger";
const FROM_FILE: &str = "canary-5b60-from-a-file";
const OFFERED: &str = "canary-77aa-half-a-setting";
const SECRETS: [&str; 6] = [KEY, CALLERS_KEY, TOKEN, WRONG, FROM_FILE, OFFERED];

/// Everything that was emitted, by where.
#[derive(Debug, Default)]
struct Emitted(Vec<(String, Vec<u8>)>);

impl Emitted {
    fn add(&mut self, place: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.0.push((place.into(), bytes.into()));
    }

    /// All that a process said, and all files of a folder.
    async fn end(&mut self, place: &str, mut process: Process, folder: &Path) {
        process.signal(rustix::process::Signal::TERM);
        let ended = process.ended().await;
        assert_eq!(ended.status.code(), Some(0), "{ended:#?}");
        self.add(format!("{place}: stdout"), ended.stdout.join("\n"));
        self.add(format!("{place}: stderr"), ended.stderr.join("\n"));
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    self.add(path.display().to_string(), std::fs::read(&path).unwrap());
                }
            }
        }
    }

    /// Sends these bytes and keeps what comes back.
    async fn ask(&mut self, place: &str, address: SocketAddr, sent: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let mut came = Vec::new();
        drop(tokio::time::timeout(PATIENCE, stream.read_to_end(&mut came)).await.unwrap());
        self.add(place, came.clone());
        String::from_utf8_lossy(&came).into_owned()
    }

    fn assert_clean(&self) {
        assert!(self.0.len() > 50, "too little was looked at");
        for (place, bytes) in &self.0 {
            for secret in SECRETS {
                let found = memchr::memmem::find(bytes, secret.as_bytes());
                let around = found.map(|at| {
                    String::from_utf8_lossy(&bytes[at.saturating_sub(200)..at + secret.len()])
                });
                assert!(found.is_none(), "{place} shows {secret}: {around:?}");
            }
        }
    }
}

fn request(line: &str, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\
         {headers}\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A sidecar that says all it can, with every secret it can have.
fn talkative(folder: &Path, gmfy: &str, sets: &[&str]) -> Command {
    let keys = format!("api.keys={CALLERS_KEY}");
    let token = format!("admin.token={TOKEN}");
    let all = ["log.level=trace", &keys, &token, "delivery.linger=1ms", "upstream.timeout=5s"];
    sidecar(folder, gmfy, &[&all[..], sets].concat())
}

/// Asks everything that can be asked, with the right secrets and with wrong ones.
async fn ask_all(emitted: &mut Emitted, place: &str, process: &mut Process) {
    let addresses = process.ready().await;
    let json = "Content-Type: application/json\r\n";
    for (who, key) in [("the caller", CALLERS_KEY), ("a stranger", WRONG)] {
        let key =
            format!("X-Api-Key: {key}\r\nAuthorization: Bearer {WRONG}\r\nCookie: {WRONG}\r\n");
        for (line, body) in [
            ("POST /v1/events/", r#"{"userId":"u","type":"t"}"#),
            ("POST /v1/events/", "{"),
            ("POST /v1/events/batch/", r#"[{"userId":1}]"#),
            ("POST /v1/payments/", r#"{"userId":"u"}"#),
            ("GET /v1/users/u/", ""),
            ("GET /v1/users/%2e%2e/", ""),
            ("GET /v1/version/", ""),
            ("PUT /v1/events/", ""),
            ("GET /nothing/", ""),
        ] {
            let sent = request(line, &format!("{json}{key}"), body);
            emitted.ask(&format!("{place}: {line} by {who}"), addresses.api, &sent).await;
        }
    }
    for (who, token) in [("the operator", TOKEN), ("a stranger", WRONG)] {
        let headers = format!("Authorization: Bearer {token}\r\n{json}");
        for line in [
            "GET /",
            "GET /api/status",
            "GET /api/dead-letters",
            "GET /openapi.json",
            "POST /api/delivery/resume",
            "POST /api/nothing",
        ] {
            let sent = request(line, &headers, if line.starts_with('P') { "{}" } else { "" });
            emitted.ask(&format!("{place}: {line} by {who}"), addresses.admin, &sent).await;
        }
    }
    for path in ["/metrics", "/livez", "/readyz", "/startupz", "/"] {
        let sent = request(&format!("GET {path}"), "", "");
        emitted.ask(&format!("{place}: {path}"), addresses.ops, &sent).await;
    }
}

/// The pause, and its reason in the log.
async fn paused(process: &mut Process, reason: &str) {
    process
        .in_log(reason, |line| {
            (line.contains("misconfigured") || line.contains("paus")).then_some(())?;
            line.contains(reason).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_ever_emitted() {
    let mut emitted = Emitted::default();

    // GMFY refuses the key; then the key's file is replaced, by rubbish and by another.
    let options = Options { api_key: Some("another".to_owned()), ..Options::default() };
    let simulator = Simulator::bind(options).await.unwrap();
    let url = simulator.url();
    let mut tasks = JoinSet::new();
    tasks.spawn(simulator.run(CancellationToken::new()));
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("key");
    std::fs::write(&file, FROM_FILE).unwrap();
    let set = format!("upstream.api_key_file={}", file.display());
    let mut command = talkative(folder.path(), &url, &[&set]);
    command.env_remove("GMFY_API_KEY");
    let mut process = Process::spawn(command);
    ask_all(&mut emitted, "401", &mut process).await;
    paused(&mut process, "401").await;
    std::fs::write(&file, format!("{FROM_FILE}\nand a second line")).unwrap();
    process.in_log("a bad key", |line| line.contains("no usable key").then_some(())).await;
    std::fs::write(&file, format!("{FROM_FILE}-2")).unwrap();
    process.in_log("another key", |line| line.contains("was replaced").then_some(())).await;
    process.signal(rustix::process::Signal::HUP);
    process.in_log("read again", |line| line.contains("read again").then_some(())).await;
    emitted.end("401", process, folder.path()).await;

    // GMFY does not speak TLS: it pauses, and says so in plain words.
    let folder = tempfile::tempdir().unwrap();
    let url = url.replace("http:", "https:");
    let mut process = Process::spawn(talkative(folder.path(), &url, &["upstream.verify=false"]));
    ask_all(&mut emitted, "TLS", &mut process).await;
    paused(&mut process, "does not speak TLS").await;
    emitted.end("TLS", process, folder.path()).await;

    let gmfy = Hostile::start().await;
    // GMFY sends back what it was sent, the key among it, in errors of every kind.
    for status in ["422 No", "400 Bad", "401 Who", "429 Slow", "500 Oh", "413 Large"] {
        gmfy.answer(Script::echo(status));
        let folder = tempfile::tempdir().unwrap();
        let mut process = Process::spawn(talkative(folder.path(), &gmfy.url, &[]));
        ask_all(&mut emitted, status, &mut process).await;
        let sent = request("GET /v1/users/me/", &format!("X-Api-Key: {CALLERS_KEY}\r\n"), "");
        let answer = emitted.ask("an echo", process.ready().await.api, &sent).await;
        assert!(answer.contains("I do not like this"), "it goes back: {answer}");
        crate::eventually("a batch is answered", PATIENCE, || async {
            gmfy.requests().iter().any(|request| request.starts_with("POST /v1/events/batch/"))
        })
        .await;
        emitted.end(status, process, folder.path()).await;
    }

    // Commands, with settings that are right, wrong, and half a line.
    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join("settings.toml");
    let texts = [
        format!("[upstream]\nurl = \"{}\"\napi_key = \"{KEY}\"\n", gmfy.url),
        format!("[upstream]\nurl = \"{}\"\napi_key = \"{OFFERED}\n", gmfy.url),
        format!("[upstream]\napi_key = {OFFERED}\n"),
        format!("[upstream]\napi_kye = \"{OFFERED}\"\n"),
        format!("[upstream]\napi_key = [\"{OFFERED}\"]\n"),
        format!("[upstream]\napi_key = \"{OFFERED}\\n\\u0001\"\n"),
        format!("[upstream]\napi_key = \"{OFFERED}\"\napi_key = \"{OFFERED}\"\n"),
        format!("[admin]\ntoken = {{ is = \"{OFFERED}\" }}\n"),
        format!("[api]\nkeys = [\"{OFFERED}\", \"{OFFERED}\\u0007\"]\n"),
        format!("api_key = \"{OFFERED}\" oops\n"),
    ];
    for (n, text) in texts.iter().enumerate() {
        std::fs::write(&settings, text).unwrap();
        let path = settings.to_str().unwrap();
        for arguments in [
            &["check", "--config", path][..],
            &["check", "--config", path, "--json"],
            &["check", "--config", path, "--online"],
            &["status", "--config", path],
        ] {
            let ended = output(binary(arguments.iter().copied())).await;
            emitted.add(format!("{n} {arguments:?}: stdout"), ended.stdout.join("\n"));
            emitted.add(format!("{n} {arguments:?}: stderr"), ended.stderr.join("\n"));
        }
    }
    for set in [
        format!("upstream.api_key={OFFERED}\u{1}"),
        format!("upstream.api_kye={OFFERED}"),
        format!("admin.token={OFFERED}\n"),
        format!("api.keys=,{OFFERED}é"),
        format!("upstream.url=http://u:{OFFERED}@127.0.0.1/"),
        format!("upstream.url=http://127.0.0.1/?key={OFFERED}"),
    ] {
        let ended = output(binary(["check", "--set", &set])).await;
        assert_eq!(ended.status.code(), Some(2));
        emitted.add("check --set: stderr", ended.stderr.join("\n"));
        let (name, value) = set.split_once('=').unwrap();
        let variable = format!("GMFY_{}", name.to_ascii_uppercase().replace('.', "__"));
        let mut command = binary(["check"]);
        command.env(variable, value);
        emitted.add("check with a variable: stderr", output(command).await.stderr.join("\n"));
    }
    emitted.assert_clean();
}
