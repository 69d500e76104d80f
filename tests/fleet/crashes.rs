//! Whatever dies at whatever moment: nothing acknowledged is lost, and order holds.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::client::number;
use crate::replicas::{
    Answers, Applications, BATCH, Gmfy, LANES, LEASE, Replica, Wrong, order, sets,
};
use crate::server::{Cluster, is_there};

const REPLICAS: usize = 3;

fn rounds() -> usize {
    if std::env::var_os("GMFY_LONG").is_some_and(|long| long == "1") { 40 } else { 4 }
}

/// What is done to the fleet in a round.
#[derive(Clone, Copy, Debug)]
enum Fault {
    KillServer,
    KillLeader,
    KillReplica,
    StopReplica,
}

const FAULTS: [Fault; 4] =
    [Fault::KillReplica, Fault::KillLeader, Fault::StopReplica, Fault::KillServer];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_arrives_in_order_whatever_dies() {
    if !is_there() {
        return;
    }
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start().await;
    let gmfy = Gmfy::start().await;
    let sets = sets(&cluster.urls(), 3);
    let mut replicas = Vec::new();
    for _ in 0..REPLICAS {
        replicas.push(Replica::start(&gmfy, &sets).await);
    }
    let addresses = Arc::new(Mutex::new(replicas.iter().map(|r| r.api).collect::<Vec<_>>()));
    let applications = Applications::start(4, 10, &addresses);
    let begun = Instant::now();
    for round in 0..rounds() {
        let before = applications.acknowledged.load(Ordering::Relaxed);
        if !applications.get_on().await {
            replicas.iter().for_each(|replica| replica.process.print());
            panic!("nothing is acknowledged any more; the servers' folders: {:?}", cluster.keep());
        }
        sleep(Duration::from_millis(rng.random_range(300..1500))).await;
        let fault = FAULTS[round % FAULTS.len()];
        let at = rng.random_range(0..REPLICAS);
        match fault {
            Fault::KillServer | Fault::KillLeader => {
                let leader = cluster.leader().await;
                let is_leader = |name: &str| leader.as_deref() == Some(name);
                let at = match fault {
                    Fault::KillLeader => {
                        let names = cluster.servers.iter().map(|server| server.name());
                        names.into_iter().position(is_leader).unwrap_or(at)
                    }
                    Fault::KillServer | Fault::KillReplica | Fault::StopReplica => at,
                };
                cluster.servers[at].kill().await;
                sleep(Duration::from_millis(rng.random_range(0..1500))).await;
                cluster.restart(at).await;
                cluster.settled().await;
            }
            Fault::KillReplica => {
                replicas[at].process.signal(Signal::KILL);
                sleep(Duration::from_millis(rng.random_range(0..3000))).await;
                replicas[at] = Replica::start(&gmfy, &sets).await;
                addresses.lock().unwrap()[at] = replicas[at].api;
            }
            Fault::StopReplica => {
                replicas[at].process.signal(Signal::STOP);
                sleep(LEASE * 2).await;
                replicas[at].process.signal(Signal::CONT);
            }
        }
        let acknowledged = applications.acknowledged.load(Ordering::Relaxed) - before;
        println!("{round}: {fault:?} of {at}, {acknowledged} acknowledged meanwhile");
    }
    // Something was accepted, or the rest means nothing.
    sleep(Duration::from_secs(1)).await;
    let answers = Arc::clone(&applications.answers);
    let expected = applications.end().await;
    let again = match order(&gmfy.handle, expected, Duration::from_secs(60)).await {
        Ok(again) => again,
        Err(wrong) => {
            for replica in &replicas {
                replica.process.print();
            }
            explain(&cluster, &gmfy, &answers, &wrong).await;
            panic!("{wrong:?}");
        }
    };
    println!("{expected} events in {:?}, {again} came again", begun.elapsed());
    assert!(expected > 100 * rounds(), "only {expected} events");
    // Each fault repeats at most what was in flight in each lane.
    let most = rounds() * LANES * BATCH;
    assert!(again <= most, "{again} events came again, of at most {most}");
}

/// Tells what is known of the events around a hole: whether they came later, what their requests
/// were answered, and which of them the stream still holds.
async fn explain(cluster: &Cluster, gmfy: &Gmfy, answers: &Answers, wrong: &Wrong) {
    println!("the servers' folders: {:?}", cluster.keep());
    let Wrong::Order { user, number: came, next } = wrong else { return };
    sleep(Duration::from_secs(5)).await;
    let arrived: Vec<_> = gmfy.handle.events().into_iter().enumerate().collect();
    let theirs: Vec<_> = arrived.iter().filter(|(_, event)| event.user_id == *user).collect();
    let at = |n: usize| {
        let those = theirs.iter().filter(|(_, event)| number(&event.text) == n);
        those.map(|(at, event)| (*at, event.request)).collect::<Vec<_>>()
    };
    let application = user.split('-').next().unwrap().to_owned();
    let client = async_nats::connect(cluster.urls()).await.unwrap();
    let stream = async_nats::jetstream::new(client).get_stream("GMFY").await.unwrap();
    let info = stream.get_info().await.unwrap();
    println!("state {:?}, cluster {:?}", info.state, info.cluster);
    for n in next.saturating_sub(2)..=*came + 1 {
        let answer = answers.lock().unwrap().get(&format!("{application}-{n}")).cloned();
        println!("{user} {n}: arrived (place, request) {:?}, answered {answer:?}", at(n));
    }
    let needle = format!("{user:?}");
    for sequence in info.state.first_sequence..=info.state.last_sequence {
        let Ok(message) = stream.get_raw_message(sequence).await else { continue };
        let text = String::from_utf8_lossy(&message.payload).into_owned();
        if text.contains(&needle) {
            println!("{sequence} {} {}", message.subject, number(&message.payload));
        }
    }
}
