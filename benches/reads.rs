//! A hit in the read cache, beside nginx's `proxy_cache` and a bare axum handler in the same run.
//!
//! `cargo bench --bench reads` needs `wrk` on the PATH, and compares with nginx where that is
//! there too. All three answer 1 KiB of JSON out of memory: the real binary with its default
//! settings, nginx with two workers, a bare axum GET on two threads. GMFY is a process of its own
//! that answers the same. Each is driven with `wrk -t1 -c64` in turn, five times; the medians of
//! rate and p99 are printed, and our ratios.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark prints its figures, and has no caller to tell of an error"
)]

use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;

const RUNS: usize = 5;
const SECONDS: &str = "4s";
const PATH: &str = "/v1/users/1/";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("serve-bare") => return serve(2),
        Some("serve-gmfy") => return serve(1),
        _ => {}
    }
    // `cargo test --benches` only wants to know that it builds and starts.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    if Command::new("wrk").arg("--version").output().is_err() {
        println!("wrk is not on the PATH: nothing measured");
        return;
    }
    let has_nginx = Command::new("nginx").arg("-v").output().is_ok();
    let mut servers = vec![Peer::new("gmfy-sidecar", ours), Peer::new("bare axum", bare)];
    if has_nginx {
        servers.push(Peer::new("nginx proxy_cache", nginx));
    } else {
        println!("nginx is not on the PATH: compared with bare axum only");
    }
    for _ in 0..RUNS {
        servers.iter_mut().for_each(Peer::measure);
    }
    println!(
        "| hits of 1 KiB, 64 connections | requests/s | p99 | ours / its rate | ours / its p99 |"
    );
    println!("|---|---|---|---|---|");
    let figures: Vec<_> = servers.iter_mut().map(Peer::medians).collect();
    let (our_rate, our_p99) = figures.first().copied().expect("ours");
    for (server, (rate, p99)) in servers.iter().zip(figures) {
        println!(
            "| {} | {rate:.0} | {:.2} ms | {:.2} | {:.2} |",
            server.name,
            p99 * 1000.0,
            our_rate / rate,
            our_p99 / p99
        );
    }
}

/// What is measured, and what was.
struct Peer {
    name: &'static str,
    start: fn() -> Served,
    rates: Vec<f64>,
    p99s: Vec<f64>,
}

impl Peer {
    const fn new(name: &'static str, start: fn() -> Served) -> Self {
        Self { name, start, rates: Vec::new(), p99s: Vec::new() }
    }

    fn measure(&mut self) {
        let served = (self.start)();
        let (rate, p99) = wrk(&format!("http://{}{PATH}", served.address));
        self.rates.push(rate);
        self.p99s.push(p99);
    }

    /// Requests/s, and seconds.
    fn medians(&mut self) -> (f64, f64) {
        (median(&mut self.rates), median(&mut self.p99s))
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Requests/s and the 99th percentile in seconds; panics when any answer was not 2xx.
fn wrk(url: &str) -> (f64, f64) {
    let output = Command::new("wrk")
        .args(["-t1", "-c64", "-d", SECONDS, "--latency", url])
        .output()
        .expect("wrk");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{text}");
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
        line.map(|value| value.trim().to_owned()).unwrap_or_else(|| panic!("{text}"))
    };
    let p99 = value("99%");
    let unit = p99.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number: f64 = p99.trim_end_matches(unit).parse().expect("a time");
    let seconds = match unit {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        other => panic!("{other} in {text}"),
    };
    (value("Requests/sec:").parse().expect("a rate"), seconds)
}

/// A process that serves, ended with this, with what it reads from.
struct Served {
    child: Child,
    address: String,
    behind: Option<(Box<Self>, tempfile::TempDir)>,
}

impl Served {
    fn start(mut command: Command) -> Self {
        let child = command.spawn().expect("started");
        Self { child, address: String::new(), behind: None }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // nginx's master ends its workers at SIGTERM only.
        let id = self.child.id().to_string();
        drop(Command::new("kill").args(["-TERM", &id]).status());
        drop(self.child.wait());
        drop(self.behind.take());
    }
}

fn this(argument: &str) -> Served {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.arg(argument).stdout(Stdio::piped());
    let mut served = Served::start(command);
    let stdout = served.child.stdout.as_mut().expect("piped");
    BufReader::new(stdout).read_line(&mut served.address).expect("a line");
    served.address.truncate(served.address.trim_end().len());
    served
}

fn bare() -> Served {
    this("serve-bare")
}

fn ours() -> Served {
    let gmfy = this("serve-gmfy");
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_gmfy-sidecar"));
    command
        .args(["run", "--set", "api.listen=127.0.0.1:0", "--set", "ops.listen=127.0.0.1:0"])
        .args(["--set", "admin.listen=127.0.0.1:0", "--set", "upstream.api_key=k"])
        .args(["--set", "log.format=json"])
        .args(["--set", &format!("queue.dir={}", folder.path().display())])
        .args(["--set", &format!("upstream.url=http://{}/", gmfy.address)])
        .stderr(Stdio::piped());
    let mut served = Served::start(command);
    let stderr = served.child.stderr.take().expect("piped");
    for line in BufReader::new(stderr).lines() {
        let line = line.expect("a line");
        let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if line["message"] == "ready" {
            line["api.address"].as_str().unwrap_or_default().clone_into(&mut served.address);
            break;
        }
    }
    assert!(!served.address.is_empty(), "it did not start");
    served.behind = Some((Box::new(gmfy), folder));
    served
}

fn nginx() -> Served {
    let gmfy = this("serve-gmfy");
    let folder = tempfile::tempdir().expect("a folder");
    let address = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        free.local_addr().expect("an address").to_string()
    };
    let settings = folder.path().join("nginx.conf");
    std::fs::write(&settings, nginx_settings(folder.path(), &address, &gmfy.address))
        .expect("written");
    let mut command = Command::new("nginx");
    command.arg("-c").arg(&settings).arg("-p").arg(folder.path()).stderr(Stdio::null());
    let mut served = Served::start(command);
    let begun = Instant::now();
    while TcpStream::connect(&address).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10), "nginx did not start");
        std::thread::yield_now();
    }
    served.address = address;
    served.behind = Some((Box::new(gmfy), folder));
    served
}

fn nginx_settings(folder: &Path, address: &str, gmfy: &str) -> String {
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let folder = folder.display();
    format!(
        "{user}
daemon off;
worker_processes 2;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    proxy_cache_path {folder}/cache keys_zone=reads:10m;
    server {{
        listen {address};
        location / {{
            proxy_pass http://{gmfy};
            proxy_cache reads;
            proxy_cache_lock on;
            proxy_cache_valid 200 10m;
            add_header Cache-Status $upstream_cache_status;
        }}
    }}
}}
"
    )
}

/// A bare axum server, which is also GMFY: 1 KiB of JSON, from memory.
fn serve(threads: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let body = format!("[{{\"userId\":\"1\",\"filler\":\"{}\"}}]", "x".repeat(996));
        assert_eq!(body.len(), 1024);
        let body = bytes::Bytes::from(body);
        let answer =
            async move || ([(http::header::CONTENT_TYPE, "application/json")], body.clone());
        let router = Router::new().route(PATH, get(answer));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        println!("{}", listener.local_addr().expect("an address"));
        axum::serve(listener, router).await.expect("served");
    });
}
