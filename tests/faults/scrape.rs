//! The account of events, checked at each scrape over HTTP.

use std::net::SocketAddr;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::client::Client;

/// The sum over all series of a family.
fn sum(text: &str, family: &str) -> u64 {
    let series = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(family)?;
        let value = rest.starts_with([' ', '{']).then(|| rest.rsplit(' ').next())??;
        Some(value.parse::<u64>().unwrap())
    });
    series.sum()
}

/// Panics unless what came in is what went out or is in the queue.
pub(crate) fn adds_up(text: &str) {
    let of = |family: &str| sum(text, family);
    let came = of("gmfy_events_accepted_total")
        + of("gmfy_events_recovered_total")
        + of("gmfy_events_requeued_total");
    let went = of("gmfy_events_delivered_total")
        + of("gmfy_events_dead_lettered_total")
        + of("gmfy_events_dropped_total")
        + of("gmfy_queue_events");
    // What one replica accepts another may deliver: in a fleet no replica's account adds up.
    assert!(came == went || crate::backend::is_nats(), "{text}");
    assert_eq!(of("gmfy_upstream_state"), 1, "exactly one state is 1");
}

/// Scrapes until `stop`, checks each answer, and returns how many there were.
pub(crate) async fn watch(ops: SocketAddr, stop: CancellationToken) -> usize {
    let mut client = Client::connect(ops).await;
    let mut scrapes = 0;
    while !stop.is_cancelled() {
        let (status, text) = client.get("/metrics").await;
        assert!(status.is_success());
        adds_up(std::str::from_utf8(&text).unwrap());
        scrapes += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    scrapes
}

#[test]
fn a_sum_is_over_all_series_of_the_family_alone() {
    let text = "# HELP a x\na{k=\"1\"} 2\na{k=\"2\"} 3\na_b 100\n";
    assert_eq!(sum(text, "a"), 5);
    assert_eq!(sum(text, "a_b"), 100);
}
