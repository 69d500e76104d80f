//! nats-server processes on loopback: one for the tests that need no more, or a cluster of three.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::link::Link;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// How long a server may take to be there.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether the machine has a nats-server; says so, where it has not.
pub(crate) fn is_there() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let found = std::process::Command::new("nats-server").arg("--version").output();
        match found {
            Ok(version) => {
                eprintln!("with {}", String::from_utf8_lossy(&version.stdout).trim());
                true
            }
            Err(error) => {
                eprintln!("SKIPPED: the queue on NATS, there is no nats-server: {error}");
                false
            }
        }
    })
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// One server; killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    name: String,
    port: u16,
    route: u16,
    folder: TempDir,
    /// Of JetStream alone, if there is none.
    config: Option<String>,
    child: Option<Child>,
}

impl Server {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            port: free_port(),
            route: free_port(),
            folder: tempfile::tempdir().unwrap(),
            config: None,
            child: None,
        }
    }

    /// One without others, of this configuration, in which `STORE` is where it may store.
    pub(crate) async fn configured(config: &str) -> Self {
        let mut server = Self::new("alone");
        let store = server.folder.path().display().to_string();
        server.config = Some(config.replace("STORE", &store));
        server.start_again().await;
        server
    }

    /// A file beside what it stores.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// One without others.
    pub(crate) async fn alone() -> Self {
        let mut server = Self::new("alone");
        server.start_again().await;
        server
    }

    /// Starts one that is alone on what it has stored.
    pub(crate) async fn start_again(&mut self) {
        self.start(&[], true);
        self.listens().await;
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// `advertises`: whether it tells clients and servers where the others are.
    fn start(&mut self, routes: &[u16], advertises: bool) {
        let mut command = Command::new("nats-server");
        command
            .args(["--addr", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--name", &self.name]);
        match &self.config {
            Some(config) => command.args(["--config", &self.file("config", config)]),
            None => command.arg("--jetstream").arg("--store_dir").arg(self.folder.path()),
        };
        if !routes.is_empty() {
            let routes: Vec<_> =
                routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
            command
                .args(["--cluster_name", "fleet"])
                .args(["--cluster", &format!("nats://127.0.0.1:{}", self.route)])
                .args(["--routes", &routes.join(",")]);
        }
        if !advertises {
            // Nobody listens there: so the others come by the routes that they were told only.
            command.arg("--no_advertise").args(["--cluster_advertise", "127.0.0.1:1"]);
        }
        let log = self.folder.path().join("log");
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(child.kill_on_drop(true).spawn().unwrap());
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().and_then(Child::id).expect("it runs");
        kill_process(Pid::from_raw(id.try_into().unwrap()).unwrap(), signal).unwrap();
    }

    /// Ends it as kill -9 does.
    pub(crate) async fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().await.unwrap();
    }

    async fn listens(&self) {
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.is_err() {
            let log = std::fs::read_to_string(self.folder.path().join("log"));
            assert!(Instant::now() < end, "{} does not listen: {log:?}", self.name);
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Three servers with one JetStream.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) servers: Vec<Server>,
    /// By server, and by the server that it leads to; none where the servers reach each other as
    /// they are.
    links: Vec<Vec<Link>>,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::of(false).await
    }

    /// One whose servers can be cut off from each other.
    pub(crate) async fn linked() -> Self {
        Self::of(true).await
    }

    async fn of(is_linked: bool) -> Self {
        let servers: Vec<_> = ["n0", "n1", "n2"].map(Server::new).into_iter().collect();
        let mut links = Vec::new();
        for _ in servers.iter().filter(|_| is_linked) {
            let mut row = Vec::new();
            for to in &servers {
                row.push(Link::to(to.route).await);
            }
            links.push(row);
        }
        let mut cluster = Self { servers, links };
        for index in 0..3 {
            cluster.restart(index).await;
        }
        cluster.settled().await;
        cluster
    }

    /// Cuts a server off from the two others, or ends that.
    pub(crate) fn cut_off(&self, index: usize, is_cut_off: bool) {
        for (from, row) in self.links.iter().enumerate() {
            for (to, link) in row.iter().enumerate() {
                if (from == index) != (to == index) {
                    link.open(!is_cut_off);
                }
            }
        }
    }

    /// The name of the stream's leader.
    pub(crate) async fn leader(&self) -> Option<String> {
        let client = async_nats::connect(self.urls()).await.ok()?;
        let context = async_nats::jetstream::new(client);
        let info = context.get_stream("GMFY").await.ok()?.get_info().await.ok()?;
        info.cluster?.leader
    }

    /// Starts a server that does not run, on what it has stored.
    pub(crate) async fn restart(&mut self, index: usize) {
        let routes: Vec<_> = match self.links.get(index) {
            Some(row) => row.iter().map(Link::port).collect(),
            None => self.servers.iter().map(|server| server.route).collect(),
        };
        self.servers[index].start(&routes, self.links.is_empty());
        self.servers[index].listens().await;
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.servers.iter().map(Server::url).collect()
    }

    /// Has the servers' folders, with their logs, outlive the test; for a look at a failure.
    pub(crate) fn keep(&self) -> Vec<std::path::PathBuf> {
        let copy = |server: &Server| {
            let kept = tempfile::tempdir().unwrap().keep().join(server.name());
            let mut copying = std::process::Command::new("cp");
            copying.arg("-r").arg(server.folder.path()).arg(&kept).status().unwrap();
            kept
        };
        self.servers.iter().map(copy).collect()
    }

    /// Waits until JetStream has a leader, and all servers.
    pub(crate) async fn settled(&self) {
        let end = Instant::now() + PATIENCE;
        let mut options = async_nats::jetstream::stream::Config {
            name: "settled".to_owned(),
            num_replicas: 3,
            ..Default::default()
        };
        options.storage = async_nats::jetstream::stream::StorageType::Memory;
        loop {
            assert!(Instant::now() < end, "JetStream does not come up");
            if let Ok(client) = async_nats::connect(self.urls()).await {
                let mut context = async_nats::jetstream::new(client);
                context.set_timeout(Duration::from_secs(2));
                if context.create_stream(options.clone()).await.is_ok()
                    && context.delete_stream("settled").await.is_ok()
                {
                    return;
                }
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}
