//! Events that GMFY refuses take none of their neighbours down.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use gmfy_sidecar::simulator::Faults;

use crate::client::{event, number};
use crate::rig::{Gmfy, Running, settings};

const EVENTS: usize = 2_000;
const USERS: usize = 50;
const POISON: [usize; 3] = [100, 101, 1_500];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_refused_events_become_dead_letters_and_the_others_arrive_once_each() {
    let dir = tempfile::tempdir().unwrap();
    let gmfy = Gmfy::start().await;
    let reject_types = BTreeSet::from(["poison".to_owned()]);
    gmfy.handle.set_faults(Faults { reject_types, ..Faults::default() });
    let sidecar = Running::start(settings(gmfy.address, dir.path())).await;
    let mut client = sidecar.client().await;
    let numbers: Vec<_> = (0..EVENTS).collect();
    for chunk in numbers.chunks(100) {
        let kind = |number| if POISON.contains(&number) { "poison" } else { "visit" };
        let one = |n: &usize| event(kind(*n), &format!("user-{}", n % USERS), *n);
        client.accepted(&chunk.iter().map(one).collect::<Vec<_>>()).await;
    }
    sidecar.drained(Duration::from_secs(20)).await;

    let mut last: HashMap<String, usize> = HashMap::new();
    let mut arrived = BTreeSet::new();
    for event in gmfy.handle.events() {
        let number = number(&event.text);
        assert!(arrived.insert(number), "{number} came twice");
        let before = last.insert(event.user_id, number);
        assert!(before.is_none_or(|before| before < number), "{number} is out of order");
    }
    let good: BTreeSet<_> = (0..EVENTS).filter(|number| !POISON.contains(number)).collect();
    assert_eq!(arrived, good);
    let counts = sidecar.metrics.ledger.snapshot();
    assert_eq!((counts.delivered, counts.dead_letters), (1_997, 3));
    let requests = gmfy.handle.counts().requests;
    println!("{requests} requests");
    assert!(requests < 150, "{requests} requests");
    sidecar.stop().await;
}
