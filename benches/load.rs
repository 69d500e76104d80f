//! The whole path under load, against a bare axum handler in the same run.
//!
//! `cargo bench --bench load` needs `wrk` on the PATH. It starts the real binary, with a null sink
//! as GMFY in a process of its own, and a bare axum POST handler on two threads; drives each with
//! `wrk -t1 -c64` in turn, five times; prints the medians and their ratios. A third has its turn too:
//! the bare handler that answers once a plain file with all bodies that wait is synced, which is what
//! the device leaves to any server that answers when durable. Where `fluent-bit` is on the
//! PATH, its `http` input, buffered in files, before its `http` output has its turn too. With `viewers` it drives
//! one sidecar with and without five status pages open, in pairs. Arguments: the cases to run
//! (`single`, `batch`, `viewers`); all by default.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark prints its figures, and has no caller to tell of an error"
)]

#[path = "shared/served.rs"]
mod served;

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use served::{Served, Wait, serve_if_asked};

const RUNS: usize = 5;
const SECONDS: &str = "4s";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    serve_if_asked();
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
    let (mut durable, mut fluent_bit) = (vec![], vec![]);
    let has_fluent_bit = Command::new("fluent-bit").arg("--version").output().is_ok();
    for _ in 0..RUNS {
        if has_fluent_bit {
            let sink = Served::sink();
            let folder = tempfile::tempdir().expect("a folder");
            let peer = fluent_bit_before(folder.path(), &sink);
            fluent_bit.push(wrk(&format!("http://{}{path}", peer.address), script));
        }
        {
            let peer = Served::bare();
            bare.push(wrk(&format!("http://{}{path}", peer.address), script));
        }
        {
            let folder = tempfile::tempdir().expect("a folder");
            let peer = Served::durable(folder.path());
            durable.push(wrk(&format!("http://{}{path}", peer.address), script));
        }
        let sink = Served::sink();
        let folder = tempfile::tempdir().expect("a folder");
        let sidecar = Served::sidecar(folder.path(), &sink.address);
        ours.push(wrk(&format!("http://{}{path}", sidecar.address), script));
        let stopped = Instant::now();
        while sidecar.queued() > 0.0 && stopped.elapsed() < Duration::from_secs(60) {
            std::thread::yield_now();
        }
        drained.push(stopped.elapsed().as_secs_f64());
        memory.push(sidecar.resident_mib());
    }
    let [ours, bare, durable] = [ours, bare, durable].map(|mut rates| median(&mut rates));
    println!(
        "{name}: {:.0} events/s ({ours:.0} requests/s), bare axum {bare:.0} requests/s, \
         ratio of requests {:.2}; bare axum with an fdatasync for all that wait {durable:.0} ({:.2} of \
         bare axum), ours {:.2} of that; empty {:.1} s after the load, resident {:.0} MiB",
        ours * events,
        ours / bare,
        durable / bare,
        ours / durable,
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
        let sink = Served::sink();
        let folder = tempfile::tempdir().expect("a folder");
        let sidecar = Served::sidecar(folder.path(), &sink.address);
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
