//! Processes that benchmarks drive: the real binary, and servers beside which it is measured, which
//! are the benchmark's own program, started with an argument; see [`serve_if_asked`].

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::{get, post};
use tokio::sync::oneshot;

#[derive(Clone, Copy)]
pub(crate) enum Wait {
    /// The first line of stdout is its address.
    Address,
    /// A log line on stderr says that it is ready, and where.
    Ready,
    /// It takes connections here.
    Listens(std::net::SocketAddr),
}

/// A process that serves, ended with this.
pub(crate) struct Served {
    child: Child,
    pub(crate) address: String,
    pub(crate) ops: String,
    pub(crate) admin: String,
}

impl Served {
    /// A bare axum server on two threads.
    pub(crate) fn bare() -> Self {
        Self::start(this().arg("serve-bare"), Wait::Address)
    }

    /// What takes the place of GMFY: takes everything, and does no more.
    pub(crate) fn sink() -> Self {
        Self::start(this().arg("serve-sink"), Wait::Address)
    }

    /// A bare axum server that answers once a file in `folder` with all bodies that wait is synced.
    pub(crate) fn durable(folder: &Path) -> Self {
        Self::start(this().arg("serve-durable").arg(folder), Wait::Address)
    }

    /// The real binary, delivering to what serves at this address.
    pub(crate) fn sidecar(folder: &Path, upstream: &str) -> Self {
        Self::start(
            Command::new(env!("CARGO_BIN_EXE_gmfy-sidecar"))
                .args(["run", "--set", "api.listen=127.0.0.1:0"])
                .args(["--set", "ops.listen=127.0.0.1:0", "--set", "admin.listen=127.0.0.1:0"])
                .args(["--set", "upstream.api_key=k", "--set", "log.format=json"])
                .args(["--set", &format!("queue.dir={}", folder.display())])
                .args(["--set", &format!("upstream.url=http://{upstream}/")])
                // As in the image.
                .env("MALLOC_MMAP_THRESHOLD_", "524288")
                .stderr(Stdio::piped()),
            Wait::Ready,
        )
    }

    pub(crate) fn start(command: &mut Command, wait: Wait) -> Self {
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
                let mut lines = BufReader::new(stderr).lines();
                let ready = lines.by_ref().find_map(|line| {
                    let line: serde_json::Value = serde_json::from_str(&line.ok()?).ok()?;
                    (line["message"] == "ready").then_some(line)
                });
                let ready = ready.expect("ready");
                let said = |name: &str| ready[name].as_str().unwrap_or_default().to_owned();
                address = said("api.address");
                ops = said("ops.address");
                admin = said("admin.address");
                // Read on, lest it blocks; ends with the process.
                std::thread::spawn(move || lines.for_each(drop));
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

    pub(crate) fn queued(&self) -> f64 {
        let url = format!("http://{}/metrics", self.ops);
        let output = Command::new("curl").args(["-s", &url]).output().expect("curl");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix("gmfy_queue_events "));
        line.and_then(|value| value.parse().ok()).unwrap_or(f64::MAX)
    }

    pub(crate) fn resident_mib(&self) -> f64 {
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

fn this() -> Command {
    Command::new(std::env::current_exe().expect("this program"))
}

/// Serves, where this program was started to do that; then it never returns.
pub(crate) fn serve_if_asked() {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("serve-bare") => serve(2),
        Some("serve-sink") => serve(1),
        Some("serve-durable") => serve_durable(Path::new(&arguments.next().expect("a folder"))),
        _ => {}
    }
}

fn accepted(body: &Bytes) -> (StatusCode, String) {
    (StatusCode::ACCEPTED, format!("{{\"accepted\":{}}}", body.len()))
}

/// A bare axum server, which is also the null sink: reads the body, answers, and does no more.
fn serve(threads: usize) {
    let answer = async |body: Bytes| accepted(&body);
    let router = Router::new()
        .route("/v1/events/", post(answer))
        .route("/v1/events/batch/", post(answer))
        .route("/v1/users/", get(async || "[]"));
    serve_router(threads, router);
}

/// The same, but that a thread writes the bodies of all who wait to a file and syncs it before they
/// are answered.
fn serve_durable(folder: &Path) {
    let mut file = File::create(folder.join("log")).expect("a file");
    type Waiting = (Bytes, oneshot::Sender<()>);
    let (requests, waiting) = mpsc::channel::<Waiting>();
    std::thread::spawn(move || {
        while let Ok(first) = waiting.recv() {
            let group: Vec<Waiting> = std::iter::once(first).chain(waiting.try_iter()).collect();
            let bodies: Vec<&[u8]> = group.iter().map(|(body, _)| &body[..]).collect();
            file.write_all(&bodies.concat()).expect("written");
            file.sync_data().expect("synced");
            for (_, done) in group {
                // Whoever hung up wants no answer.
                let (Ok(()) | Err(())) = done.send(());
            }
        }
    });
    let answer = async move |body: Bytes| {
        let (done, synced) = oneshot::channel();
        requests.send((body.clone(), done)).expect("the writer");
        synced.await.expect("synced");
        accepted(&body)
    };
    let router = Router::new()
        .route("/v1/events/", post(answer.clone()))
        .route("/v1/events/batch/", post(answer));
    serve_router(2, router);
}

fn serve_router(threads: usize, router: Router) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let router = router.layer(axum::extract::DefaultBodyLimit::disable());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        println!("{}", listener.local_addr().expect("an address"));
        axum::serve(listener, router).await.expect("served");
    });
}
