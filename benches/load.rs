//! The whole path under load, against a bare axum handler in the same run.
//!
//! `cargo bench --bench load` needs `wrk` on the PATH. It starts the real binary, with a null sink
//! as GMFY in a process of its own, and a bare axum POST handler on two threads; drives each with
//! `wrk -t1 -c64` in turn, five times; prints the medians and their ratios. Where `fluent-bit` is on the
//! PATH, its `http` input, buffered in files, before its `http` output has its turn too. With `viewers` it drives
//! one sidecar with and without five status pages open, in pairs. Arguments: the cases to run
//! (`single`, `batch`, `viewers`); all by default.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark prints its figures, and has no caller to tell of an error"
)]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::{get, post};

const RUNS: usize = 5;
const SECONDS: &str = "4s";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("serve-bare") => return serve(2),
        Some("serve-sink") => return serve(1),
        _ => {}
    }
    // `cargo test --benches` only wants to know that it builds and starts.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let wanted = |case: &str| {
        let mut named = arguments.iter().filter(|argument| !argument.starts_with('-')).peekable();
        named.peek().is_none() || named.any(|name| name == case)
    };
    if Command::new("wrk").arg("--version").output().is_err() {
        println!("wrk is not on the PATH: nothing measured");
        return;
    }
    let scripts = tempfile::tempdir().expect("a folder");
    let single = scripts.path().join("single.lua");
    std::fs::write(&single, SINGLE).expect("written");
    let batch = scripts.path().join("batch.lua");
    std::fs::write(&batch, BATCH).expect("written");
    if wanted("single") {
        compare("single events, durable, delivering", &single, 1.0, "/v1/events/");
    }
    if wanted("batch") {
        compare("batches of 100, durable, delivering", &batch, 100.0, "/v1/events/batch/");
    }
    if wanted("viewers") {
        viewers(&single);
    }
}

/// Events of 110 bytes for 10,000 users.
const SINGLE: &str = r#"
local n = 0
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
request = function()
  n = n + 1
  local user = string.format("%06d", n % 10000)
  return wrk.format(nil, nil, nil,
    '{"userId":"' .. user .. '","type":"create_subscription","source":"load test","plan":"monthly","amount":1000.50}')
end
"#;

const BATCH: &str = r#"
local bodies = {}
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
for b = 1, 100 do
  local events = {}
  for e = 1, 100 do
    local user = string.format("%06d", (b * 100 + e) % 10000)
    events[e] = '{"userId":"' .. user .. '","type":"create_subscription","source":"load test","plan":"monthly","amount":1000.50}'
  end
  bodies[b] = "[" .. table.concat(events, ",") .. "]"
end
local n = 0
request = function()
  n = n + 1
  return wrk.format(nil, nil, nil, bodies[n % 100 + 1])
end
"#;

fn compare(name: &str, script: &Path, events: f64, path: &str) {
    let (mut ours, mut bare, mut drained, mut memory) = (vec![], vec![], vec![], vec![]);
    let mut fluent_bit = vec![];
    let has_fluent_bit = Command::new("fluent-bit").arg("--version").output().is_ok();
    for _ in 0..RUNS {
        if has_fluent_bit {
            let sink = Served::start(Command::new(this()).arg("serve-sink"), Wait::Address);
            let folder = tempfile::tempdir().expect("a folder");
            let peer = fluent_bit_before(folder.path(), &sink);
            fluent_bit.push(wrk(&format!("http://{}{path}", peer.address), script));
        }
        {
            let peer = Served::start(Command::new(this()).arg("serve-bare"), Wait::Address);
            bare.push(wrk(&format!("http://{}{path}", peer.address), script));
        }
        let sink = Served::start(Command::new(this()).arg("serve-sink"), Wait::Address);
        let folder = tempfile::tempdir().expect("a folder");
        let sidecar = sidecar(folder.path(), &sink);
        ours.push(wrk(&format!("http://{}{path}", sidecar.address), script));
        let stopped = Instant::now();
        while sidecar.queued() > 0.0 && stopped.elapsed() < Duration::from_secs(60) {
            std::thread::yield_now();
        }
        drained.push(stopped.elapsed().as_secs_f64());
        memory.push(sidecar.resident_mib());
    }
    let (ours, bare) = (median(&mut ours), median(&mut bare));
    println!(
        "{name}: {:.0} events/s ({ours:.0} requests/s), bare axum {bare:.0} requests/s, \
         ratio of requests {:.2}, empty {:.1} s after the load, resident {:.0} MiB",
        ours * events,
        ours / bare,
        median(&mut drained),
        median(&mut memory),
    );
    if has_fluent_bit {
        let theirs = median(&mut fluent_bit);
        println!(
            "  Fluent Bit, buffered in files and not durable: {theirs:.0} requests/s, ours {:.2} of that",
            ours / theirs
        );
    } else {
        println!("  fluent-bit is not on the PATH: not compared with it");
    }
}

/// Pairs of runs, each on a sidecar of its own, with and without viewers in turns.
const PAIRS: usize = 9;
/// Status pages that are open. Each reads both streams.
const VIEWERS: usize = 5;

/// What viewers of the status page cost those who send events.
fn viewers(script: &Path) {
    let (mut with, mut without, mut ratios) = (vec![], vec![], vec![]);
    for pair in 0..PAIRS {
        let sink = Served::start(Command::new(this()).arg("serve-sink"), Wait::Address);
        let folder = tempfile::tempdir().expect("a folder");
        let sidecar = sidecar(folder.path(), &sink);
        let url = format!("http://{}/v1/events/", sidecar.address);
        // What a first run costs is neither's.
        wrk(&url, script);
        let watched = || {
            let viewers: Vec<_> = (0..VIEWERS).flat_map(|_| Viewer::both(&sidecar.admin)).collect();
            let rate = wrk(&url, script);
            assert!(viewers.iter().all(Viewer::has_read), "a viewer was sent nothing");
            rate
        };
        let (on, off) = if pair % 2 == 0 {
            let on = watched();
            (on, wrk(&url, script))
        } else {
            let off = wrk(&url, script);
            (watched(), off)
        };
        with.push(on);
        without.push(off);
        ratios.push(on / off);
    }
    println!(
        "single events with {VIEWERS} viewers: {:.0} requests/s, without {:.0}, ratio {:.3} (median \
         of {PAIRS} pairs, from {:.3} to {:.3})",
        median(&mut with),
        median(&mut without),
        median(&mut ratios),
        ratios.first().copied().unwrap_or_default(),
        ratios.last().copied().unwrap_or_default(),
    );
}

/// A reader of one stream, ended with this.
struct Viewer {
    child: Child,
    read: tempfile::NamedTempFile,
}

impl Viewer {
    /// What one page reads.
    fn both(admin: &str) -> [Self; 2] {
        ["status", "events"].map(|stream| {
            let read = tempfile::NamedTempFile::new().expect("a file");
            let output = read.reopen().expect("the same file");
            let url = format!("http://{admin}/api/{stream}/stream");
            let child = Command::new("curl").args(["-sN", &url]).stdout(output).spawn();
            Self { child: child.expect("curl"), read }
        })
    }

    fn has_read(&self) -> bool {
        self.read.as_file().metadata().is_ok_and(|file| file.len() > 0)
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The real binary, delivering to this sink.
fn sidecar(folder: &Path, sink: &Served) -> Served {
    Served::start(
        Command::new(env!("CARGO_BIN_EXE_gmfy-sidecar"))
            .args(["run", "--set", "api.listen=127.0.0.1:0", "--set", "ops.listen=127.0.0.1:0"])
            .args(["--set", "admin.listen=127.0.0.1:0", "--set", "upstream.api_key=k"])
            .args(["--set", "log.format=json"])
            .args(["--set", &format!("queue.dir={}", folder.display())])
            .args(["--set", &format!("upstream.url=http://{}/", sink.address)])
            .stderr(Stdio::piped()),
        Wait::Ready,
    )
}

/// Fluent Bit as people use it in front of an HTTP service, delivering to this sink.
fn fluent_bit_before(folder: &Path, sink: &Served) -> Served {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = free.local_addr().expect("an address");
    drop(free);
    let (host, port) = sink.address.split_once(':').expect("a host and a port");
    let settings = folder.join("fluent-bit.conf");
    let text = format!(
        "[SERVICE]\n    flush 1\n    log_level error\n    storage.path {}\n\
         [INPUT]\n    name http\n    listen 127.0.0.1\n    port {}\n    storage.type filesystem\n\
         [OUTPUT]\n    name http\n    match *\n    host {host}\n    port {port}\n    \
         uri /v1/events/batch/\n    format json\n",
        folder.join("chunks").display(),
        address.port(),
    );
    std::fs::write(&settings, text).expect("written");
    let mut command = Command::new("fluent-bit");
    Served::start(command.arg("-c").arg(&settings), Wait::Listens(address))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn this() -> std::path::PathBuf {
    std::env::current_exe().expect("this program")
}

/// Requests/s; panics when any answer was not 2xx.
fn wrk(url: &str, script: &Path) -> f64 {
    let output = Command::new("wrk")
        .args(["-t1", "-c64", "-d", SECONDS, "-s"])
        .arg(script)
        .arg(url)
        .output()
        .expect("wrk");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("Non-2xx"), "{text}");
    let line = text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:"));
    line.and_then(|rate| rate.trim().parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

#[derive(Clone, Copy)]
enum Wait {
    /// The first line of stdout is its address.
    Address,
    /// A log line on stderr says that it is ready, and where.
    Ready,
    /// It takes connections here.
    Listens(std::net::SocketAddr),
}

/// A process that serves, ended with this.
struct Served {
    child: Child,
    address: String,
    ops: String,
    admin: String,
}

impl Served {
    fn start(command: &mut Command, wait: Wait) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("started");
        let (mut address, mut ops, mut admin) = (String::new(), String::new(), String::new());
        match wait {
            Wait::Address => {
                let stdout = child.stdout.as_mut().expect("piped");
                BufReader::new(stdout).read_line(&mut address).expect("a line");
                address.truncate(address.trim_end().len());
            }
            Wait::Listens(_) => {}
            Wait::Ready => {
                let stderr = child.stderr.take().expect("piped");
                for line in BufReader::new(stderr).lines() {
                    let line = line.expect("a line");
                    let Ok(line) = serde_json::from_str::<serde_json::Value>(&line) else {
                        continue;
                    };
                    if line["message"] == "ready" {
                        let said = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
                        address = said("api.address");
                        ops = said("ops.address");
                        admin = said("admin.address");
                        break;
                    }
                }
            }
        }
        if let Wait::Listens(at) = wait {
            let begun = Instant::now();
            while std::net::TcpStream::connect(at).is_err() {
                assert!(begun.elapsed() < Duration::from_secs(10), "it did not start");
                std::thread::yield_now();
            }
            address = at.to_string();
        }
        assert!(!address.is_empty(), "it did not start");
        Self { child, address, ops, admin }
    }

    fn queued(&self) -> f64 {
        let url = format!("http://{}/metrics", self.ops);
        let output = Command::new("curl").args(["-s", &url]).output().expect("curl");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix("gmfy_queue_events "));
        line.and_then(|value| value.parse().ok()).unwrap_or(f64::MAX)
    }

    fn resident_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
        kib.unwrap_or_default() / 1024.0
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A bare axum server, which is also the null sink: reads the body, answers, and does no more.
fn serve(threads: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let answer = async |body: axum::body::Bytes| {
            (axum::http::StatusCode::ACCEPTED, format!("{{\"accepted\":{}}}", body.len()))
        };
        let router = Router::new()
            .route("/v1/events/", post(answer))
            .route("/v1/events/batch/", post(answer))
            .route("/v1/users/", get(async || "[]"))
            .layer(axum::extract::DefaultBodyLimit::disable());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        println!("{}", listener.local_addr().expect("an address"));
        axum::serve(listener, router).await.expect("served");
    });
}
