//! A queue that fills while GMFY is away, and is to prefer new events.

use std::time::Duration;

use gmfy_sidecar::config::WhenFull;
use gmfy_sidecar::simulator::Faults;
use tokio_util::sync::CancellationToken;

use crate::client::{event, number};
use crate::rig::{Gmfy, Running, scale, settings};
use crate::scrape;

const BATCH: usize = 250;
const USERS: usize = 97;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_events_make_room_and_are_counted_and_the_newest_arrive_in_order() {
    if crate::backend::skips("it drops no events of the fleet") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let gmfy = Gmfy::start().await;
    gmfy.handle.set_faults(Faults { down: true, ..Faults::default() });
    let mut settings = settings(gmfy.address, dir.path());
    settings.queue.max_bytes = 24 << 20;
    settings.queue.when_full = WhenFull::DropOldest;
    let capacity = settings.queue.max_bytes;
    let sidecar = Running::start(settings).await;
    let done = CancellationToken::new();
    let watching = scrape::watch(sidecar.ops, done.clone());
    let load = async {
        let mut client = sidecar.client().await;
        // Random, since the queue compresses what repeats; others for each event of a frame.
        let random: String =
            (0..64_000).map(|_| char::from(rand::random_range(b'a'..=b'z'))).collect();
        for batch in 0..400 * scale() {
            let one = |n: usize| {
                let n = batch * BATCH + n;
                let padding = random.get(n % 160 * 400..).and_then(|rest| rest.get(..400)).unwrap();
                event("visit", &format!("user-{}", n % USERS), n)
                    .replace("{\"number\"", &format!("{{\"padding\":\"{padding}\",\"number\""))
            };
            client.taken(&(0..BATCH).map(one).collect::<Vec<_>>()).await;
            assert!(sidecar.metrics.ledger.snapshot().queue_bytes <= capacity);
        }
        gmfy.handle.set_faults(Faults::default());
        sidecar.drained(Duration::from_secs(30)).await;
        done.cancel();
    };
    let (scrapes, ()) = tokio::join!(watching, load);
    assert!(scrapes > 20);

    let counts = sidecar.metrics.ledger.snapshot();
    let dropped: u64 = counts.dropped.values().sum();
    let accepted: u64 = counts.accepted.iter().sum();
    assert!(dropped > 0 && dropped < accepted, "{dropped} of {accepted}");
    assert_eq!(gmfy.handle.counts().events, accepted - dropped, "each of the rest once");
    let mut last = vec![None; USERS];
    for event in gmfy.handle.events() {
        let number = number(&event.text);
        let before = last[number % USERS].replace(number);
        assert!(before.is_none_or(|before| before < number), "{number} came out of order");
    }
    let newest = usize::try_from(accepted).unwrap() - 1;
    assert_eq!(last[newest % USERS], Some(newest), "the newest arrived");
    sidecar.stop().await;
}
