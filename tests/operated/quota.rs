//! `runtime.threads = "auto"` follows the processors that the process may use: a cgroup's quota, as a
//! container's limit sets it.

use std::fs;
use std::path::{Path, PathBuf};

use gmfy_sidecar::simulator::Faults;
use rustix::process::Signal;
use serde_json::Value;
use tokio::process::Command;

use crate::gmfy::Gmfy;
use crate::process::{Process, sidecar};

/// A cgroup of our own with a quota on the processor; removed when dropped.
#[derive(Debug)]
struct Quota(PathBuf);

impl Quota {
    /// None where this machine doesn't let us.
    fn of_one_processor() -> Option<Self> {
        let name = format!("gmfy-sidecar-test-{}", std::process::id());
        let v2 = Path::new("/sys/fs/cgroup").join(&name);
        let v1 = Path::new("/sys/fs/cgroup/cpu").join(&name);
        [v2, v1].into_iter().find_map(|folder| {
            fs::create_dir(&folder).ok()?;
            let quota = Self(folder);
            let set = |file: &str, text: &str| {
                let file = quota.0.join(file);
                file.exists() && fs::write(file, text).is_ok()
            };
            (set("cpu.max", "100000 100000") || set("cpu.cfs_quota_us", "100000")).then_some(quota)
        })
    }

    /// The same command, begun in this cgroup.
    fn confine(&self, command: &Command) -> Command {
        let mut confined = Command::new("sh");
        confined.args(["-c", r#"echo $$ > "$0" && exec "$@""#]).arg(self.0.join("cgroup.procs"));
        let command = command.as_std();
        confined.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => confined.env(name, value),
                None => confined.env_remove(name),
            };
        }
        confined
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // What could not be removed is an empty group, which harms nothing.
        drop(fs::remove_dir(&self.0));
    }
}

/// `runtime.processors` and `runtime.threads` of the line that says that it is ready.
async fn told(command: Command) -> (u64, u64) {
    let mut process = Process::spawn(command);
    let told = process
        .in_log("ready", |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let number = |name: &str| line[name].as_u64();
            Some((number("runtime.processors")?, number("runtime.threads")?))
        })
        .await;
    process.signal(Signal::TERM);
    assert_eq!(process.ended().await.remaining(), 0);
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn threads_follow_the_quota_of_a_cgroup() {
    let processors = std::thread::available_parallelism().unwrap().get() as u64;
    let gmfy = Gmfy::start(Faults::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let run = |sets: &[&str]| {
        let sets: Vec<_> = ["shutdown.quiet=0"].iter().chain(sets).copied().collect();
        sidecar(folder.path(), &gmfy.url, &sets)
    };
    assert_eq!(told(run(&[])).await, (processors, (processors - 1).max(1)));
    assert_eq!(told(run(&["runtime.threads=3"])).await, (processors, 3));
    let Some(quota) = Quota::of_one_processor().filter(|_| processors > 1) else {
        println!("SKIPPED: a quota on the processor, this machine has one, or lets us set none");
        return;
    };
    assert_eq!(told(quota.confine(&run(&[]))).await, (1, 1));
}
