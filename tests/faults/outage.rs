//! GMFY is away while events keep coming.

use std::time::{Duration, Instant};

use gmfy_sidecar::simulator::Faults;

use crate::client::event;
use crate::rig::{Gmfy, Running, scale, settings};

const BATCH: usize = 500;
/// The breaker opens at the fifth failure; the other three lanes may be on their way then.
const BEFORE_OPEN: u64 = 5 + 3;
const RETRY_MAX: Duration = Duration::from_millis(400);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_sees_few_attempts_stops_no_caller_and_its_backlog_drains() {
    let dir = tempfile::tempdir().unwrap();
    let gmfy = Gmfy::start().await;
    gmfy.handle.set_faults(Faults { down: true, ..Faults::default() });
    let mut settings = settings(gmfy.address, dir.path());
    settings.delivery.retry_initial = Duration::from_millis(100);
    settings.delivery.retry_max = RETRY_MAX;
    let sidecar = Running::start(settings).await;
    let mut client = sidecar.client().await;

    let down = Instant::now();
    let batches = 60 * scale();
    let mut slowest = Duration::ZERO;
    for batch in 0..batches {
        let one = |n: usize| event("visit", &format!("user-{}", n % 997), batch * BATCH + n);
        let events: Vec<_> = (0..BATCH).map(one).collect();
        let sent = Instant::now();
        client.accepted(&events).await;
        slowest = slowest.max(sent.elapsed());
    }
    assert!(sidecar.is("open") || sidecar.is("retrying"));
    tokio::time::sleep(Duration::from_secs(3).saturating_sub(down.elapsed())).await;
    assert!(sidecar.is("open"));
    let (attempts, lasted) = (sidecar.attempts(), down.elapsed());
    // A probe waits for at least half of what the backoff has grown to: 50, 100, 200, 200, … ms.
    let half = u64::try_from(RETRY_MAX.as_millis() / 2).unwrap();
    let most = BEFORE_OPEN + 2 + u64::try_from(lasted.as_millis()).unwrap() / half;
    assert!((3..=most).contains(&attempts), "{attempts} attempts in {lasted:?}; at most {most}");
    assert_eq!(gmfy.handle.counts().events, 0);

    gmfy.handle.set_faults(Faults::default());
    let back = Instant::now();
    sidecar.drained(Duration::from_secs(20 * scale() as u64)).await;
    let (events, drained) = (batches * BATCH, back.elapsed());
    println!(
        "{events} events in an outage of {lasted:?}: {attempts} attempts (at most {most}), \
         slowest acceptance of {BATCH} {slowest:?}; drained in {drained:?}"
    );
    assert_eq!(gmfy.handle.counts().events, events as u64, "each once");
    let full = events / BATCH;
    let requests = usize::try_from(sidecar.attempts() - attempts).unwrap();
    assert!(requests <= full + full / 2 + 8, "{requests} requests for {full} full batches");
    sidecar.stop().await;
}
