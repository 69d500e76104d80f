//! Rolled again and again under load: the old process drains, the new one goes on in its folder.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use gmfy_sidecar::simulator::Faults;
use rustix::process::Signal;

use crate::client;
use crate::gmfy::Gmfy;
use crate::load::{Load, Repeats, assert_arrived};
use crate::process::{Process, sidecar};

const ROLLS: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_rolling_restarts_lose_nothing_refuse_nobody_and_keep_the_order() {
    let gmfy = Gmfy::start(Faults { latency: Duration::from_millis(3), ..Faults::default() }).await;
    let folder = tempfile::tempdir().unwrap();
    // A port that the next process finds free again.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let api = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listen = format!("api.listen={api}");
    let sets =
        [listen.as_str(), "shutdown.deadline=800ms", "shutdown.quiet=50ms", "delivery.linger=5ms"];
    let spawn = || Process::spawn(sidecar(folder.path(), &gmfy.url, &sets));
    let mut process = spawn();
    process.ready().await;
    let load = Load::start(api, 16);
    for _ in 0..ROLLS {
        // The load goes on for a moment between two rolls.
        tokio::time::sleep(Duration::from_millis(100)).await;
        process.signal(Signal::TERM);
        let ended = process.ended().await;
        assert_eq!(ended.status.code(), Some(0), "{ended:#?}");
        process = spawn();
        process.ready().await;
    }
    let posted = load.stop().await;
    let ops = process.ready().await.ops;
    crate::eventually("all is delivered", Duration::from_secs(30), || async {
        client::assert_account(ops).await == 0
    })
    .await;
    process.signal(Signal::TERM);
    assert_eq!(process.ended().await.remaining(), 0);
    assert_arrived(&posted, &gmfy.handle, Repeats::Nothing);
}
