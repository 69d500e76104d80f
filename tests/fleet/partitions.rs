//! Partitions between replicas and NATS: what is sent into them is held up, or lost.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::{Instant, sleep};

use crate::client::event;
use crate::link::Link;
use crate::replicas::{
    Applications, BATCH, Gmfy, LANES, LEASE, Replica, all_in_order, get, order, post, sets,
};
use crate::server::{Cluster, Server, is_there};

const REPLICAS: usize = 3;

fn rounds() -> usize {
    if std::env::var_os("GMFY_LONG").is_some_and(|long| long == "1") { 30 } else { 3 }
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
        replicas.push(Replica::start(&gmfy, &sets(&[link.url()], 1)).await);
        links.push(link);
    }
    let addresses = Arc::new(Mutex::new(replicas.iter().map(|r| r.api).collect::<Vec<_>>()));
    let applications = Applications::start(2, 10, &addresses);
    for round in 0..rounds() {
        assert!(applications.get_on().await, "nothing is acknowledged any more");
        sleep(Duration::from_millis(rand::rng().random_range(300..1000))).await;
        let link = &links[round % REPLICAS];
        link.open(false);
        // Long enough for the others to take its lanes, or too short for it.
        sleep(if round % 2 == 0 { LEASE * 2 } else { LEASE / 2 }).await;
        link.open(true);
    }
    let expected = applications.end().await;
    let again = all_in_order(&gmfy.handle, expected, Duration::from_secs(60)).await;
    println!("{expected} events, {again} came again");
    assert!(expected > 50 * rounds(), "only {expected} events");
    let most = rounds() * LANES * BATCH;
    assert!(again <= most, "{again} events came again, of at most {most}");
}

/// What is cut off in a round.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// The stream's leader from the other servers; clients still reach it.
    Leader,
    /// A server from the other servers and from the replicas.
    Server,
    /// A replica from a server.
    Replica,
    /// The stream's leader from the replicas; the other servers still reach it.
    LeaderFromReplicas,
}

const CUTS: [Cut; 4] = [Cut::Leader, Cut::Server, Cut::Replica, Cut::LeaderFromReplicas];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_cut_off_from_the_others_costs_no_event_and_no_order() {
    if !is_there() {
        return;
    }
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let cluster = Cluster::linked().await;
    let gmfy = Gmfy::start().await;
    let (mut links, mut replicas) = (Vec::new(), Vec::new());
    for _ in 0..REPLICAS {
        let mut row = Vec::new();
        for server in &cluster.servers {
            row.push(Link::to(server.port()).await);
        }
        let urls: Vec<_> = row.iter().map(Link::url).collect();
        replicas.push(Replica::start(&gmfy, &sets(&urls, 3)).await);
        links.push(row);
    }
    let addresses = Arc::new(Mutex::new(replicas.iter().map(|r| r.api).collect::<Vec<_>>()));
    let applications = Applications::start(2, 10, &addresses);
    for round in 0..rounds() {
        let before = applications.acknowledged.load(Ordering::Relaxed);
        assert!(applications.get_on().await, "nothing is acknowledged any more");
        sleep(Duration::from_millis(rng.random_range(300..1500))).await;
        let cut = CUTS[round % CUTS.len()];
        let at = rng.random_range(0..REPLICAS);
        let leader = cluster.leader().await;
        let leader = cluster.servers.iter().position(|s| Some(s.name()) == leader.as_deref());
        let leader = leader.unwrap_or(at);
        let cut_off = |is_cut_off: bool| match cut {
            Cut::Leader => cluster.cut_off(leader, is_cut_off),
            Cut::Server => {
                cluster.cut_off(at, is_cut_off);
                links.iter().for_each(|row| row[at].open(!is_cut_off));
            }
            Cut::Replica => links[at][leader].open(!is_cut_off),
            Cut::LeaderFromReplicas => links.iter().for_each(|row| row[leader].open(!is_cut_off)),
        };
        cut_off(true);
        // A cluster takes some ten seconds to do without a leader that says nothing.
        sleep(Duration::from_millis(rng.random_range(500..20_000))).await;
        let meanwhile = applications.acknowledged.load(Ordering::Relaxed) - before;
        cut_off(false);
        println!("{round}: {cut:?}, leader {leader}, {at}: {meanwhile} acknowledged meanwhile");
    }
    sleep(Duration::from_secs(1)).await;
    let expected = applications.end().await;
    let again = match order(&gmfy.handle, expected, Duration::from_secs(60)).await {
        Ok(again) => again,
        Err(wrong) => {
            replicas.iter().for_each(|replica| replica.process.print());
            panic!("{wrong:?}, the servers' folders: {:?}", cluster.keep());
        }
    };
    println!("{expected} events, {again} came again");
    assert!(expected > 50 * rounds(), "only {expected} events");
    let most = rounds() * LANES * BATCH;
    assert!(again <= most, "{again} events came again, of at most {most}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_server_is_cut_off_goes_to_another_one() {
    if !is_there() {
        return;
    }
    let cluster = Cluster::linked().await;
    let gmfy = Gmfy::start().await;
    let mut links = Vec::new();
    for server in &cluster.servers {
        links.push(Link::to(server.port()).await);
    }
    // At its start it reaches one of them only.
    links[1..].iter().for_each(|link| link.open(false));
    let urls: Vec<_> = links.iter().map(Link::url).collect();
    let replica = Replica::start(&gmfy, &sets(&urls, 3)).await;
    links.iter().for_each(|link| link.open(true));
    cluster.cut_off(0, true);
    // The client picks a server at random each 15 s: this one again, one time in three.
    for status in [503, 200] {
        let end = Instant::now() + Duration::from_secs(300);
        while get(replica.ops, "/readyz").await.unwrap().0 != status {
            assert!(Instant::now() < end, "/readyz is not {status}");
            sleep(Duration::from_millis(50)).await;
        }
    }
    let (status, answer) = post(replica.api, "a", &[event("visit", "1", 0)]).await.unwrap();
    assert_eq!(status, 202, "{answer}");
    assert_eq!(all_in_order(&gmfy.handle, 1, Duration::from_secs(60)).await, 0);
}
