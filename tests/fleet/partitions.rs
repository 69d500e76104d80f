//! Partitions between replicas and NATS: what is sent into them is held up, or lost.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::RngExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::replicas::{Applications, BATCH, Gmfy, LANES, LEASE, Replica, all_in_order, sets};
use crate::server::{Server, is_there};

const REPLICAS: usize = 3;

fn rounds() -> usize {
    if std::env::var_os("GMFY_LONG").is_some_and(|long| long == "1") { 30 } else { 3 }
}

/// A way to a server that can be closed: then nothing passes, and no one is told.
struct Link {
    address: SocketAddr,
    is_open: watch::Sender<bool>,
    _task: JoinSet<()>,
}

impl Link {
    async fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let is_open = watch::Sender::new(true);
        let watching = is_open.subscribe();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((caller, _)) = listener.accept().await {
                connections.spawn(relay(caller, port, watching.clone()));
            }
        });
        Self { address, is_open, _task: task }
    }
}

async fn relay(caller: TcpStream, port: u16, mut is_open: watch::Receiver<bool>) {
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
    let pairs = [(&caller, &server), (&server, &caller)];
    let mut bytes = vec![0; 16 * 1024];
    loop {
        if is_open.wait_for(|is_open| *is_open).await.is_err() {
            return;
        }
        let from = tokio::select! {
            _ = is_open.changed() => continue,
            ready = caller.readable() => ready.map(|()| 0),
            ready = server.readable() => ready.map(|()| 1),
        };
        let Ok(from) = from else { return };
        let (from, to) = pairs[from];
        let count = match from.try_read(&mut bytes) {
            Ok(0) => return,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => return,
        };
        let mut sent = 0;
        while sent < count {
            if to.writable().await.is_err() {
                return;
            }
            match to.try_write(&bytes[sent..count]) {
                Ok(more) => sent += more,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_cut_off_from_nats_loses_its_lanes_and_no_event() {
    if !is_there() {
        return;
    }
    let server = Server::alone().await;
    let gmfy = Gmfy::start().await;
    let (mut links, mut replicas) = (Vec::new(), Vec::new());
    for _ in 0..REPLICAS {
        let link = Link::to(server.port()).await;
        let url = format!("nats://{}", link.address);
        replicas.push(Replica::start(&gmfy, &sets(&[url], 1)).await);
        links.push(link);
    }
    let addresses = Arc::new(Mutex::new(replicas.iter().map(|r| r.api).collect::<Vec<_>>()));
    let applications = Applications::start(2, 10, &addresses);
    for round in 0..rounds() {
        sleep(Duration::from_millis(rand::rng().random_range(300..1000))).await;
        let link = &links[round % REPLICAS];
        link.is_open.send_replace(false);
        // Long enough for the others to take its lanes, or too short for it.
        sleep(if round % 2 == 0 { LEASE * 2 } else { LEASE / 2 }).await;
        link.is_open.send_replace(true);
    }
    let expected = applications.end().await;
    let again = all_in_order(&gmfy.handle, expected, Duration::from_secs(60)).await;
    println!("{expected} events, {again} came again");
    assert!(expected > 50 * rounds(), "only {expected} events");
    let most = rounds() * LANES * BATCH;
    assert!(again <= most, "{again} events came again, of at most {most}");
}
