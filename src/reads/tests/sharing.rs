//! Flights: who shares a fetch with whom, and what ends one.

use super::gmfy::Behaviour;
use super::*;

#[tokio::test(start_paused = true)]
async fn two_hundred_callers_of_a_cold_key_are_one_request() {
    let cached = Cached::new();
    cached.gmfy.is_slow(SECOND);
    let mut callers = JoinSet::new();
    for _ in 0..200 {
        cached.begin(&user("1"), &mut callers);
    }
    let told = callers.join_all().await;
    assert_eq!(cached.gmfy.requests(), 1);
    let (first, others): (Vec<_>, Vec<_>) = told
        .into_iter()
        .map(|told| told.unwrap().cache().to_owned())
        .partition(|cache| cache == "fwd=miss; stored");
    assert_eq!((first.len(), others.len()), (1, 199));
    assert!(others.iter().all(|cache| cache == "fwd=miss; stored; collapsed"));
    assert_eq!(cached.get(&user("1")).await.cache(), "hit; ttl=4");
}

#[tokio::test(start_paused = true)]
async fn two_keys_never_wait_for_each_other() {
    let cached = Cached::new();
    cached.gmfy.is_slow(SECOND * 30);
    let mut slow = JoinSet::new();
    cached.begin(&user("1"), &mut slow);
    settle().await;
    cached.gmfy.behave(Behaviour::default());
    let begun = tokio::time::Instant::now();
    assert_eq!(cached.get(&user("2")).await.cache(), "fwd=miss; stored");
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_failed_flight_is_not_shared_with_later_callers() {
    let cached = Cached::new();
    cached.gmfy.fail(SendError::Timeout);
    let mut callers = JoinSet::new();
    cached.begin(&user("1"), &mut callers);
    cached.begin(&user("1"), &mut callers);
    for told in callers.join_all().await {
        assert_eq!(told.unwrap_err(), SendError::Timeout);
    }
    assert_eq!(cached.gmfy.requests(), 1);
    cached.gmfy.behave(Behaviour::default());
    assert_eq!(cached.get(&user("1")).await.cache(), "fwd=miss; stored");
    assert_eq!(cached.count("user", "failed"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_flight_goes_on_when_its_first_caller_hangs_up() {
    let cached = Cached::new();
    cached.gmfy.is_slow(SECOND * 2);
    let mut first = JoinSet::new();
    cached.begin(&user("1"), &mut first);
    settle().await;
    let mut second = JoinSet::new();
    cached.begin(&user("1"), &mut second);
    settle().await;
    first.shutdown().await;
    let told = second.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(told.cache(), "fwd=miss; stored; collapsed");
    assert_eq!(cached.gmfy.requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_flight_that_nobody_waits_for_ends_once_its_answer_would_be_stale() {
    let cached = Cached::new();
    cached.gmfy.is_slow(SECOND * 60);
    let mut caller = JoinSet::new();
    cached.begin(&user("1"), &mut caller);
    settle().await;
    caller.shutdown().await;
    pass(Duration::from_millis(4_900)).await;
    assert_eq!(cached.gmfy.under_way(), 1, "its answer would still be fresh");
    pass(Duration::from_millis(200)).await;
    assert_eq!(cached.gmfy.under_way(), 0);

    cached.begin(&user("1"), &mut caller);
    pass(SECOND * 6).await;
    assert_eq!(cached.gmfy.under_way(), 1, "somebody waits");
    caller.shutdown().await;
    settle().await;
    assert_eq!(cached.gmfy.under_way(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_fetch_begun_before_a_delivery_is_neither_joined_nor_stored_after_it() {
    let cached = Cached::new();
    // It looks at its state at once, and answers late.
    let latency = (Duration::ZERO, SECOND);
    cached.gmfy.behave(Behaviour { latency, ..Behaviour::default() });
    let mut callers = JoinSet::new();
    cached.begin(&user("1"), &mut callers);
    settle().await;
    cached.delivered("1");
    cached.begin(&user("1"), &mut callers);
    settle().await;
    assert_eq!(cached.gmfy.requests(), 2);
    let told = callers.join_all().await;
    let versions: Vec<_> = told.iter().map(|told| told.as_ref().unwrap().text()).collect();
    assert!(versions[0].starts_with(r#"{"version":0"#), "{versions:?}");
    assert!(versions[1].starts_with(r#"{"version":1"#), "{versions:?}");
    assert_eq!(told[0].as_ref().unwrap().cache(), "fwd=miss");
    assert!(cached.get(&user("1")).await.text().starts_with(r#"{"version":1"#));
}

#[tokio::test(start_paused = true)]
async fn a_list_is_fetched_at_most_each_250_ms_after_deliveries() {
    let cached = Cached::new();
    cached.get(&Call::Users).await;
    let begun = tokio::time::Instant::now();
    let mut callers = JoinSet::new();
    // 1 s of deliveries, each 10 ms, and a reader after each of them.
    for _ in 0..100 {
        cached.delivered("1");
        let now = cached.gmfy.lock().changes;
        let reading = cached.clone();
        callers.spawn(async move {
            let told = reading.get(&Call::Users).await;
            let value: serde_json::Value = serde_json::from_slice(&told.body).unwrap();
            assert!(value["version"].as_u64().unwrap() >= now, "{value} after {now}");
        });
        pass(Duration::from_millis(10)).await;
    }
    callers.join_all().await;
    assert!(begun.elapsed() < Duration::from_millis(1_300));
    let requests = cached.gmfy.requests();
    assert!((4..=6).contains(&requests), "{requests} requests");
}

#[tokio::test(start_paused = true)]
async fn a_large_answer_streams_through_and_is_not_kept() {
    let cached = Cached::new();
    for tells_length in [true, false] {
        let body = vec![b'7'; 200_000];
        let behaviour =
            Behaviour { body: Some(body.clone()), tells_length, ..Behaviour::default() };
        cached.gmfy.behave(behaviour);
        let before = cached.gmfy.requests();
        let answer = cached.reads.get(&user("1"), None, &HeaderMap::new()).await.unwrap();
        assert!(matches!(answer.body, Body::Streamed(..)));
        let told = Told::read(answer).await.unwrap();
        assert!(told.body == body);
        assert_eq!(told.cache(), "fwd=miss");
        // Those who wait for one another each get one of their own.
        let mut callers = JoinSet::new();
        cached.begin(&user("1"), &mut callers);
        cached.begin(&user("1"), &mut callers);
        for told in callers.join_all().await {
            assert!(told.unwrap().body == body);
        }
        assert_eq!(cached.gmfy.requests(), before + 3);
    }
    assert_eq!(cached.reads.status().entries, 0);
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_flights_and_awaits_them() {
    let cached = Cached::new();
    cached.gmfy.is_slow(SECOND * 60);
    let mut callers = JoinSet::new();
    cached.begin(&user("1"), &mut callers);
    settle().await;
    let stop = tokio_util::sync::CancellationToken::new();
    stop.cancel();
    cached.reads.run(stop).await;
    assert_eq!(cached.gmfy.under_way(), 0);
    let told = callers.join_next().await.unwrap().unwrap();
    assert!(matches!(told, Err(SendError::Broken(_))), "{told:?}");
}
