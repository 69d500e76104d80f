//! What a service manager is told, as systemd listens for it.

use std::time::Duration;

use gmfy_sidecar::simulator::Faults;
use rustix::process::Signal;
use tokio::net::UnixDatagram;

use crate::gmfy::Gmfy;
use crate::process::{PATIENCE, Process, sidecar};

/// The next message that isn't the watchdog's.
async fn told(manager: &UnixDatagram) -> String {
    loop {
        let message = any(manager).await;
        if message != "WATCHDOG=1" {
            return message;
        }
    }
}

async fn any(manager: &UnixDatagram) -> String {
    let mut message = [0; 512];
    let read = tokio::time::timeout(PATIENCE, manager.recv(&mut message)).await;
    let length = read.expect("it is told something").unwrap();
    String::from_utf8_lossy(&message[..length]).trim_end().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_manager_hears_of_ready_reload_stop_and_the_watchdog() {
    let gmfy = Gmfy::start(Faults::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    let mut command = sidecar(&folder.path().join("data"), &gmfy.url, &["shutdown.quiet=0"]);
    let watchdog = Duration::from_millis(300);
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", watchdog.as_micros().to_string());
    let mut process = Process::spawn(command);
    assert_eq!(told(&manager).await, "READY=1");
    process.ready().await;
    for _ in 0..3 {
        assert_eq!(any(&manager).await, "WATCHDOG=1");
    }
    process.signal(Signal::HUP);
    let reloading = told(&manager).await;
    let since = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
    assert!(since.parse::<u64>().unwrap() > 0);
    assert_eq!(told(&manager).await, "READY=1");
    process.signal(Signal::TERM);
    assert_eq!(told(&manager).await, "STOPPING=1");
    assert_eq!(process.ended().await.remaining(), 0);
}
