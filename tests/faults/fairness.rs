//! One user's flood beside the single events of others.
//!
//! What is promised: a lane passes over a user who has a batch waiting, in 16 reads of 3 batches
//! (its window holds 4, one of them the flood's), at least once for each batch that it sends; and
//! twice, before it cuts the batch and while it sends it, as long as its list of what is settled
//! has room, as a single lane's has. So here, where all share one lane, of a flood of F events, with
//! batches of B, at most F / 96 B batches go before a later event of another user has been found;
//! one is on its way, one may be cut already, and one goes with the others' events.

use std::time::Duration;

use gmfy_sidecar::simulator::{Faults, RecordedEvent};

use crate::client::{event, number};
use crate::rig::{Gmfy, Running, scale, settings, until};

const BATCH: usize = 500;
const PASSED_OVER: usize = 2 * 16 * 3 * BATCH;

const fn promised(flood: usize) -> usize {
    (flood.div_ceil(PASSED_OVER) + 3) * BATCH
}

/// For each event of another user: how many of the flood were applied before it.
fn flood_before(events: &[RecordedEvent]) -> Vec<(usize, usize)> {
    let mut flood = 0;
    let mut before = Vec::new();
    for event in events {
        if event.user_id == "flood" {
            flood += 1;
        } else {
            before.push((number(&event.text), flood));
        }
    }
    before
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_behind_a_flood_wait_for_a_few_of_its_batches_only() {
    let (flood, users) = (100_000 * scale(), 500);
    let dir = tempfile::tempdir().unwrap();
    let gmfy = Gmfy::start().await;
    gmfy.handle.set_faults(Faults { down: true, ..Faults::default() });
    let mut settings = settings(gmfy.address, dir.path());
    (settings.delivery.lanes, settings.queue.nats.lanes) = (1, 1);
    let sidecar = Running::start(settings).await;
    let mut client = sidecar.client().await;
    for first in (0..flood).step_by(10_000) {
        let events: Vec<_> =
            (first..first + 10_000).map(|number| event("visit", "flood", number)).collect();
        client.accepted(&events).await;
    }
    let single = |user: usize, number| event("visit", &format!("user-{user}"), number);
    client.accepted(&(0..users).map(|user| single(user, user)).collect::<Vec<_>>()).await;

    gmfy.handle.set_faults(Faults::default());
    let others = || flood_before(&gmfy.handle.events());
    until("the others' events", Duration::from_secs(30), || others().len() >= users).await;
    let worst = others().into_iter().map(|(_, before)| before).max().unwrap();

    // And those who come while the flood is being delivered.
    let mut at_acceptance = Vec::new();
    for round in 0..10 {
        let events: Vec<_> = (0..20).map(|user| single(user, users + round * 20 + user)).collect();
        client.accepted(&events).await;
        at_acceptance.extend(std::iter::repeat_n(gmfy.handle.counts().events, events.len()));
    }
    let all = users + at_acceptance.len();
    until("the later events", Duration::from_secs(30), || others().len() >= all).await;
    let rest = sidecar.queued();
    let later = others().into_iter().filter(|(number, _)| *number >= users);
    let added = later.map(|(number, before)| {
        before.saturating_sub(usize::try_from(at_acceptance[number - users]).unwrap())
    });
    let added = added.max().unwrap();
    let promised = promised(flood);
    println!(
        "a flood of {flood}: at most {worst} of it before those who came behind it, {added} before \
         those who came meanwhile; promised {promised}; {rest} still waited then"
    );
    assert!(worst <= promised, "{worst} events of the flood came first; promised {promised}");
    assert!(added <= promised, "{added} events of the flood came first; promised {promised}");
    sidecar.token.cancel();
    sidecar.stop().await;
}
