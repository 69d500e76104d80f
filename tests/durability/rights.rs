//! Folders that are another user's, as a volume that was restored by root.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::Signal;
use tokio::process::Command;

use crate::client::Connection;
use crate::load::Poster;
use crate::process::{Process, binary, output, sidecar};
use crate::sink::Sink;

/// Whose the folder is to be; without any other right.
const NOBODY: u32 = 65_534;

fn as_nobody(mut command: Command) -> Command {
    command.uid(NOBODY).gid(NOBODY);
    command
}

async fn can_be_nobody() -> bool {
    let mut command = as_nobody(binary(["--version"]));
    let run = command.current_dir("/").stdout(Stdio::null()).status().await;
    run.is_ok_and(|status| status.success())
}

fn all_in(path: &Path) -> Vec<PathBuf> {
    let mut all = vec![path.to_owned()];
    for entry in std::fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            all.extend(all_in(&entry.path()));
        } else {
            all.push(entry.path());
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_user_may_not_read_is_refused_by_name_and_not_taken_for_damaged() {
    if !rustix::process::getuid().is_root() || !can_be_nobody().await {
        return crate::report("SKIPPED: rights on the folder, the binary can't be run as another");
    }
    let sink = Sink::start(true).await;
    let folder = tempfile::tempdir().unwrap();
    // Where the folder lies is not another's to read, only to pass through.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let data = folder.path().join("data");
    let sets = ["delivery.retry_max=200ms", "shutdown.quiet=1ms", "shutdown.deadline=2s"];
    let mut process = Process::spawn(sidecar(&data, &sink.url, &sets));
    let mut connection = Connection::open(process.ready().await.api).await.unwrap();
    let mut poster = Poster::new(0);
    assert_eq!(poster.post(&mut connection, 100, || true).await.unwrap().status, 202);
    process.kill().await;
    for path in all_in(&data) {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }

    let generation = std::fs::read_dir(data.join("queue")).unwrap().next().unwrap().unwrap();
    for file in [generation.path().join("db"), data.join("state/db"), data.join("dead-letters/db")]
    {
        chown(&file, Some(0), Some(0)).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let refused = output(as_nobody(sidecar(&data, &sink.url, &sets))).await;
        assert_eq!(refused.status.code(), Some(1), "{refused:#?}");
        let name = file.display().to_string();
        assert!(refused.stderr.join("\n").contains(&name), "{name} is not named: {refused:#?}");
        assert!(!data.join("quarantine").exists(), "it is not damaged");
        chown(&file, Some(NOBODY), Some(NOBODY)).unwrap();
    }

    let mut process = Process::spawn(as_nobody(sidecar(&data, &sink.url, &sets)));
    process.ready().await;
    sink.set_down(false);
    crate::eventually("all is delivered", std::time::Duration::from_secs(60), || {
        std::future::ready(sink.delivered() == 100)
    })
    .await;
    assert_eq!(sink.assert_has_all_of(std::slice::from_ref(&poster)), 0);
    process.signal(Signal::TERM);
    assert_eq!(process.ended().await.remaining(), 0);
}
