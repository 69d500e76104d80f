//! The binary as a process: its output line by line, signals, its end.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The key for GMFY in every test here. It may appear in no output of any process.
pub(crate) const KEY: &str = "canary-7d1c0b52-never-to-be-shown";

/// How long anything that should be quick may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A running process of the binary; killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    stdout: watch::Receiver<Vec<String>>,
    stderr: watch::Receiver<Vec<String>>,
    readers: JoinSet<()>,
}

/// Where a sidecar listens, as its log says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) api: SocketAddr,
    pub(crate) ops: SocketAddr,
    pub(crate) admin: SocketAddr,
}

/// A process that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<String>,
    pub(crate) stderr: Vec<String>,
}

/// The binary with these arguments, and nothing of the environment that could change what it does.
pub(crate) fn binary<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gmfy-sidecar"));
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy().to_ascii_uppercase();
        if name_text.starts_with("GMFY_") || name_text.ends_with("_PROXY") {
            command.env_remove(&name);
        }
    }
    command.args(arguments);
    command
}

/// What the image sets for the C library.
fn for_the_c_library() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = include_str!("../../Dockerfile").lines();
    let set = lines.filter_map(|line| line.strip_prefix("ENV ")?.split_once('='));
    let mut found = set.filter(|(name, _)| name.starts_with("MALLOC_")).peekable();
    assert!(found.peek().is_some(), "the image sets nothing for it any more");
    found
}

/// `run` as the image does, on this folder and GMFY, on free ports, with more settings.
pub(crate) fn sidecar(folder: &Path, gmfy: &str, sets: &[&str]) -> Command {
    let mut command = binary(["run", "--set", "api.listen=127.0.0.1:0"]);
    command
        .args(["--set", "ops.listen=127.0.0.1:0"])
        .args(["--set", "admin.listen=127.0.0.1:0"])
        .args(["--set", &format!("queue.dir={}", folder.display())])
        .args(sets.iter().flat_map(|set| ["--set", set]))
        .envs(for_the_c_library())
        .env("GMFY_URL", gmfy)
        .env("GMFY_API_KEY", KEY);
    command
}

impl Process {
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut readers = JoinSet::new();
        let stdout = lines_of(child.stdout.take().unwrap(), &mut readers);
        let stderr = lines_of(child.stderr.take().unwrap(), &mut readers);
        Self { child, stdout, stderr, readers }
    }

    /// Waits for a line of stderr that `finds` something.
    pub(crate) async fn in_log<T>(&mut self, what: &str, finds: impl Fn(&str) -> Option<T>) -> T {
        in_lines(&mut self.stderr, what, finds).await
    }

    /// Waits for a line of stdout that `finds` something.
    pub(crate) async fn in_output<T>(
        &mut self,
        what: &str,
        finds: impl Fn(&str) -> Option<T>,
    ) -> T {
        in_lines(&mut self.stdout, what, finds).await
    }

    /// Waits until the sidecar says that it is ready, and where.
    pub(crate) async fn ready(&mut self) -> Addresses {
        self.in_log("ready", addresses).await
    }

    /// As [`Process::ready`]; none where it says instead that it can't start.
    pub(crate) async fn ready_or_refused(&mut self) -> Option<Addresses> {
        let refused = |line: &str| line.starts_with("error: ").then_some(None);
        let finds = |line: &str| refused(line).or_else(|| addresses(line).map(Some));
        self.in_log("ready, or an error", finds).await
    }

    /// Prints what it logged.
    pub(crate) fn print(&self) {
        for line in self.stderr.borrow().iter() {
            println!("{}: {line}", self.id());
        }
    }

    /// Its number, until it has been waited for.
    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("it has not been waited for")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.id().try_into().ok().and_then(Pid::from_raw);
        kill_process(pid.unwrap(), signal).unwrap();
    }

    /// Waits for its end, then looks for the key in all that it said.
    pub(crate) async fn ended(&mut self) -> Ended {
        self.ended_within(PATIENCE).await
    }

    pub(crate) async fn ended_within(&mut self, bound: Duration) -> Ended {
        let waited = tokio::time::timeout(bound, self.child.wait()).await;
        let Ok(status) = waited else {
            panic!("it has not ended within {bound:?}; its log: {:#?}", *self.stderr.borrow())
        };
        while self.readers.join_next().await.is_some() {}
        let lines = |lines: &watch::Receiver<Vec<String>>| lines.borrow().clone();
        let ended = Ended {
            status: status.unwrap(),
            stdout: lines(&self.stdout),
            stderr: lines(&self.stderr),
        };
        for line in ended.stdout.iter().chain(&ended.stderr) {
            assert!(!line.contains(KEY), "the key is shown: {line}");
            // sled panics when a device fails it; the store catches that.
            let is_caught = line.contains("panic.location") && line.contains("/sled-");
            assert!(!line.contains("panicked") || is_caught, "a panic: {line}");
        }
        ended
    }

    /// Sends SIGKILL, and waits until it is gone.
    pub(crate) async fn kill(mut self) -> Ended {
        self.child.start_kill().unwrap();
        self.ended().await
    }
}

impl Ended {
    /// How many events remain on disk, as the last line of a JSON log says after status 0.
    pub(crate) fn remaining(&self) -> u64 {
        assert_eq!(self.status.code(), Some(0), "{self:#?}");
        let last: Value = serde_json::from_str(self.stderr.last().unwrap()).unwrap();
        last["remaining"].as_u64().unwrap_or_else(|| panic!("no `remaining` in {last}"))
    }

    /// The lines of a JSON log of at least the level WARN.
    pub(crate) fn warnings(&self) -> Vec<&String> {
        let warns = |line: &&String| {
            serde_json::from_str::<Value>(line)
                .is_ok_and(|line| line["level"] == "WARN" || line["level"] == "ERROR")
        };
        self.stderr.iter().filter(warns).collect()
    }
}

/// What the line says that tells that it is ready.
fn addresses(line: &str) -> Option<Addresses> {
    let line: Value = serde_json::from_str(line).ok()?;
    let address = |name: &str| line[name].as_str()?.parse().ok();
    (line["message"] == "ready").then_some(())?;
    Some(Addresses {
        api: address("api.address")?,
        ops: address("ops.address")?,
        admin: address("admin.address")?,
    })
}

/// Runs the binary to its end.
pub(crate) async fn output(command: Command) -> Ended {
    Process::spawn(command).ended().await
}

fn lines_of(
    stream: impl AsyncRead + Unpin + Send + 'static,
    readers: &mut JoinSet<()>,
) -> watch::Receiver<Vec<String>> {
    let (found, lines) = watch::channel(Vec::new());
    readers.spawn(async move {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            found.send_modify(|lines| lines.push(text));
            line.clear();
        }
    });
    lines
}

async fn in_lines<T>(
    lines: &mut watch::Receiver<Vec<String>>,
    what: &str,
    finds: impl Fn(&str) -> Option<T>,
) -> T {
    let find = |lines: &Vec<String>| lines.iter().find_map(|line| finds(line));
    let waiting = lines.wait_for(|lines| find(lines).is_some());
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    let found = waited.ok().and_then(Result::ok).and_then(|lines| find(&lines));
    found.unwrap_or_else(|| panic!("{what}: not in {:#?}", *lines.borrow()))
}
