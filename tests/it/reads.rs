//! Reads through the whole sidecar.

use std::time::Duration;

use gmfy_sidecar::simulator::{Faults, Handle};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::{Reply, Request, Running, eventually, get, post};

const EVENT: &str = r#"{"userId":"1","type":"register"}"#;
/// The reply to something that isn't in the cache, and goes to GMFY.
const USER: &str = "/v1/users/1/";

fn cache(reply: &Reply) -> &str {
    reply.header("cache-status").unwrap().strip_prefix("gmfy-sidecar; ").unwrap()
}

/// Requests that GMFY saw for this path.
fn asked(gmfy: &Handle, path: &str) -> usize {
    let requests = gmfy.requests();
    requests.iter().filter(|request| request.path_and_query.starts_with(path)).count()
}

#[tokio::test]
async fn reads_through_http_are_cached_marked_and_conditional() {
    let running = Running::start(|_| ()).await;
    let first = get(USER).send(running.api()).await;
    assert_eq!((first.status, cache(&first)), (200, "fwd=miss; stored"));
    assert_eq!(first.header("content-type"), Some("application/json"));
    // Without the last slash it is the same.
    let second = get("/v1/users/1").send(running.api()).await;
    assert!(cache(&second).starts_with("hit; ttl="), "{second:?}");
    assert_eq!((&second.body, second.header("age")), (&first.body, Some("0")));
    let etag = first.header("etag").unwrap().to_owned();
    assert_eq!(second.header("etag"), Some(etag.as_str()));

    let known = get(USER).header("if-none-match", &etag).send(running.api()).await;
    assert_eq!((known.status, known.header("etag")), (304, Some(etag.as_str())));
    assert!(cache(&known).starts_with("hit; ttl="));
    let head = Request::new("HEAD", USER).send(running.api()).await;
    let length = first.body.len().to_string();
    assert_eq!((head.status, head.header("content-length")), (200, Some(length.as_str())));
    assert_eq!(head.header("etag"), Some(etag.as_str()));
    let forced = get(USER).header("cache-control", "no-cache").send(running.api()).await;
    assert_eq!(cache(&forced), "fwd=request; stored");
    assert_eq!(asked(running.gmfy(), USER), 2);

    let scrape = running.scrape().await;
    let count = |result| {
        scrape.value(&format!("gmfy_cache_requests_total{{result=\"{result}\",route=\"user\"}}"))
    };
    assert_eq!((count("miss"), count("hit"), count("forced")), (1.0, 3.0, 1.0));
    assert_eq!(scrape.value("gmfy_cache_entries"), 1.0);
    assert!(scrape.value("gmfy_cache_bytes") > 100.0);
    let status = get("/api/status").send(running.admin()).await.json();
    assert_eq!(status["cache"]["entries"], 1, "{status}");
    assert_eq!(status["cache"]["routes"]["user"]["hit"], 3);
    assert_eq!(status["cache"]["hit_ratio"], serde_json::json!({ "user": 0.6 }));
    running.stop().await;
}

#[tokio::test]
async fn two_hundred_connections_for_a_cold_key_are_one_request() {
    let running = Running::start(|_| ()).await;
    let latency = Duration::from_millis(300);
    running.gmfy().set_faults(Faults { latency, ..Faults::default() });
    let mut callers = JoinSet::new();
    for _ in 0..200 {
        let address = running.api();
        callers.spawn(async move { get("/v1/version/").send(address).await });
    }
    for reply in callers.join_all().await {
        assert_eq!(reply.status, 200);
    }
    assert_eq!(asked(running.gmfy(), "/v1/version/"), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_user_sees_what_its_own_delivered_event_did() {
    let running = Running::start(|_| ()).await;
    for path in [USER, "/v1/users/", "/v1/badges/1/"] {
        get(path).send(running.api()).await;
    }
    for round in 1..=20_u64 {
        let before = get(USER).send(running.api()).await.body;
        let event = format!(r#"{{"userId":"1","type":"visit_{round}"}}"#);
        assert_eq!(post("/v1/events/", event).send(running.api()).await.status, 202);
        eventually("it is delivered", || running.metrics().ledger.snapshot().delivered == round)
            .await;
        let after = get(USER).send(running.api()).await;
        assert_eq!(cache(&after), "fwd=stale; stored");
        assert_ne!(after.body, before, "round {round}");
        let list = get("/v1/users/").send(running.api()).await;
        assert_eq!(cache(&list), "fwd=stale; stored");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_post_to_a_payment_is_seen_by_the_next_read() {
    let running = Running::start(|_| ()).await;
    let payment = r#"{"amount":{"value":100.0,"currency":"USD"},"confirmation":{"returnUrl":"https://example.com/"},"userId":"1","description":null,"locale":"EN"}"#;
    let created = post("/v1/payments/", payment).send(running.api()).await;
    let id = created.json()["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/payments/{id}/");
    assert_eq!(cache(&get(&path).send(running.api()).await), "fwd=miss; stored");
    assert!(cache(&get(&path).send(running.api()).await).starts_with("hit; "));
    let resent = post(&format!("{path}resend-code/"), "").send(running.api()).await;
    assert_eq!((resent.status, resent.header("cache-status")), (200, None));
    assert_eq!(cache(&get(&path).send(running.api()).await), "fwd=stale; stored");
    running.stop().await;
}

#[tokio::test]
async fn a_hung_gmfy_leaves_cached_reads_events_and_deliveries_alone() {
    let running = Running::start(|settings| {
        settings.upstream.timeout = Duration::from_secs(2);
        settings.reads.connections = 2;
    })
    .await;
    get(USER).send(running.api()).await;
    // All reads hang, more of them than there are connections.
    let only = Some("/v1/users/".to_owned());
    running.gmfy().set_faults(Faults { stall: 1.0, only, ..Faults::default() });
    let begun = Instant::now();
    let mut uncached = JoinSet::new();
    for n in 0..6 {
        let address = running.api();
        let path = format!("/v1/users/other-{n}/");
        uncached.spawn(async move { get(&path).send(address).await });
    }
    eventually("they hang", || asked(running.gmfy(), "/v1/users/other") == 2).await;

    let hit = get(USER).send(running.api()).await;
    assert!(cache(&hit).starts_with("hit; "), "{hit:?}");
    let posted = post("/v1/events/", EVENT).send(running.api()).await;
    assert_eq!(posted.status, 202);
    eventually("it is delivered", || running.gmfy().counts().events == 1).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "none of it waited for the hung reads");
    // What the delivery superseded stands in, once the read has waited as long as it may.
    let superseded = get(USER).send(running.api()).await;
    assert!(cache(&superseded).starts_with("hit; detail=stale-if-error"), "{superseded:?}");

    for reply in uncached.join_all().await {
        assert!(matches!(reply.status, 502 | 504), "{reply:?}");
        assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    }
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    running.stop().await;
}

#[tokio::test]
async fn while_gmfy_is_known_to_be_down_reads_answer_at_once() {
    let running =
        Running::start(|settings| settings.reads.ttl.users = Duration::from_millis(1)).await;
    get(USER).send(running.api()).await;
    // Deliveries find it out: nobody reads meanwhile.
    running.gmfy().set_faults(Faults { down: true, ..Faults::default() });
    post("/v1/events/", EVENT).send(running.api()).await;
    let state = || running.metrics().upstream_state.with_label_values(&["open"]).get();
    eventually("delivery knows", || state() == 1).await;

    let begun = Instant::now();
    let mut at_once = 0;
    for n in 0..50 {
        let cold = get(&format!("/v1/badges/{n}/")).send(running.api()).await;
        assert_eq!(cold.status, 502, "{cold:?}");
        at_once += u32::from(cold.header("retry-after").is_some());
        let kept = get(USER).send(running.api()).await;
        assert_eq!(kept.status, 200, "{kept:?}");
    }
    assert!(at_once >= 45, "{at_once} of 50 failed without a try, in {:?}", begun.elapsed());

    running.gmfy().set_faults(Faults::default());
    let end = Instant::now() + Duration::from_secs(15);
    while get("/v1/badges/back/").send(running.api()).await.status != 200 {
        assert!(Instant::now() < end, "no probe found out");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.stop().await;
}
