//! Which queue the suites run against: the one on disk, or, with `GMFY_TEST_BACKEND=nats`, the one
//! on a nats-server that the tests of a process share, each with a stream of its own; and with
//! `GMFY_TEST_SPILL=1` a spill.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use gmfy_sidecar::config::{Backend, Settings};

/// How long the server may take to be there.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether this run is against NATS.
pub(crate) fn is_nats() -> bool {
    std::env::var_os("GMFY_TEST_BACKEND").is_some_and(|backend| backend == "nats")
}

/// For a test of what only the queue on disk has: whether it is to end at once, which it says.
pub(crate) fn skips(what: &str) -> bool {
    if is_nats() {
        eprintln!("not for the queue on NATS: {what}");
    }
    is_nats()
}

/// Has the settings use the run's queue. `dir` is the test's own folder.
pub(crate) fn choose(settings: &mut Settings, dir: &Path) {
    if !is_nats() {
        return;
    }
    let nats = &mut settings.queue.nats;
    settings.queue.backend = Backend::Nats;
    nats.servers = vec![shared_server()];
    let name = dir.file_name().unwrap().to_string_lossy();
    nats.stream = format!("T-{}", name.replace('.', ""));
    (nats.replicas, nats.lanes, nats.lease) = (1, settings.delivery.lanes, Duration::from_secs(2));
    nats.max_bytes = settings.queue.max_bytes.min(256 << 20);
    nats.spill = std::env::var_os("GMFY_TEST_SPILL").is_some();
    settings.dead_letters.max_bytes = settings.dead_letters.max_bytes.min(1 << 20);
}

/// The address of a server that lives as long as this process.
fn shared_server() -> String {
    static SERVER: OnceLock<(String, tempfile::TempDir)> = OnceLock::new();
    let (url, _) = SERVER.get_or_init(|| {
        let port =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().to_owned();
        let (started, starts) = mpsc::channel();
        // The server is killed when the thread that started it is gone: at the process's end.
        std::thread::spawn(move || {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "nats-server", "--addr", "127.0.0.1"]);
            command.args(["--port", &port.to_string(), "--jetstream", "--store_dir"]).arg(store);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let server = command.spawn();
            started.send(server.as_ref().map(drop).map_err(ToString::to_string)).unwrap();
            server.unwrap().wait().unwrap();
        });
        starts.recv().unwrap().expect("nats-server, from the package of that name");
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(Instant::now() < end, "nats-server does not listen");
            std::thread::park_timeout(Duration::from_millis(20));
        }
        (format!("nats://127.0.0.1:{port}"), folder)
    });
    url.clone()
}
