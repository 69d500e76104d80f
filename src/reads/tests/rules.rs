//! What is kept, for how long, and what is said of it.

use super::gmfy::Behaviour;
use super::*;

fn id(id: &str) -> Id {
    Id::new(id).unwrap()
}

#[tokio::test(start_paused = true)]
async fn every_route_is_fresh_for_its_ttl() {
    let cached = Cached::new();
    for (call, route, millis) in [
        (Call::Users, "users", 5_000),
        (user("1"), "user", 5_000),
        (Call::Badges(id("1")), "badges", 5_000),
        (Call::RatingTop(id("1")), "ratings", 2_000),
        (Call::ChallengeTop(id("1")), "challenges", 2_000),
        (Call::Payment(id("1")), "payments", 1_000),
        (Call::Notifications, "notifications", 1_000),
        (Call::UserNotifications(id("1")), "notifications", 1_000),
        (Call::Version, "version", 300_000),
    ] {
        assert_eq!(cached.get(&call).await.cache(), "fwd=miss; stored", "{route}");
        tokio::time::advance(Duration::from_millis(millis - 1)).await;
        let told = cached.get(&call).await;
        assert_eq!(told.cache(), "hit; ttl=0", "{route}");
        assert_eq!(told.header("age"), ((millis - 1) / 1000).to_string(), "{route}");
        tokio::time::advance(Duration::from_millis(2)).await;
        let told = cached.get(&call).await;
        assert_eq!(told.cache(), "hit; ttl=-1", "{route}");
        assert!(cached.count(route, "hit") > 0 && cached.count(route, "stale") > 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_ttl_of_zero_and_unread_notifications_pass_through_each_time() {
    let mut settings = settings();
    settings.ttl.badges = Duration::ZERO;
    let cached = Cached::with(settings);
    let unread = [Call::UnreadNotifications, Call::UserUnreadNotifications(id("1"))];
    for call in unread.into_iter().chain([Call::Badges(id("1"))]) {
        let before = cached.gmfy.requests();
        for _ in 0..2 {
            assert_eq!(cached.get(&call).await.cache(), "fwd=bypass");
        }
        assert_eq!(cached.gmfy.requests(), before + 2);
    }
    assert_eq!(cached.count("unread_notifications", "bypass"), 4);
    let mut settings = super::settings();
    settings.max_bytes = 0;
    let cached = Cached::with(settings);
    assert_eq!(cached.get(&user("1")).await.cache(), "fwd=bypass");
}

#[tokio::test(start_paused = true)]
async fn one_question_in_several_spellings_is_one_entry() {
    let cached = Cached::new();
    let top = Call::RatingTop(id("a/b"));
    for query in [None, Some("sort=ASC"), Some("limit=10&offset=0&sort=ASC")] {
        cached.ask(&top, query, &[]).await.unwrap();
    }
    let asked = cached.gmfy.lock().requests.clone();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].call, top);
    assert_eq!(asked[0].query.as_deref(), Some("limit=10&offset=0&sort=ASC"));
    for query in ["limit=11", "x=1"] {
        let told = cached.ask(&top, Some(query), &[]).await.unwrap();
        assert_eq!(told.cache(), "fwd=miss; stored", "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_answer_is_given_at_once_and_refreshed_once() {
    let cached = Cached::new();
    cached.get(&user("1")).await;
    tokio::time::advance(SECOND * 7).await;
    cached.gmfy.is_slow(SECOND);
    for _ in 0..50 {
        let told = cached.get(&user("1")).await;
        assert_eq!((told.cache(), told.header("age")), ("hit; ttl=-2", "7"));
    }
    settle().await;
    assert_eq!(cached.gmfy.requests(), 2, "one refresh");
    pass(SECOND).await;
    assert_eq!(cached.get(&user("1")).await.cache(), "hit; ttl=4");

    tokio::time::advance(SECOND * 15).await;
    assert_eq!(cached.get(&user("1")).await.cache(), "fwd=stale; stored");
    assert_eq!(cached.count("user", "expired"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_fails_is_tried_again_once_a_second() {
    let cached = Cached::new();
    cached.get(&user("1")).await;
    cached.gmfy.fail(SendError::Timeout);
    tokio::time::advance(Duration::from_millis(5_001)).await;
    for _ in 0..40 {
        assert!(cached.get(&user("1")).await.cache().starts_with("hit; ttl=-"));
        pass(Duration::from_millis(100)).await;
    }
    let refreshes = cached.gmfy.requests() - 1;
    assert!((4..=5).contains(&refreshes), "{refreshes} in 4 s");
}

#[tokio::test(start_paused = true)]
async fn failures_are_hidden_while_the_window_lasts() {
    let cached = Cached::new();
    let fresh = cached.get(&user("1")).await.text().to_owned();
    tokio::time::advance(SECOND * 20).await;
    for error in [
        SendError::Timeout,
        SendError::Connect(String::new()),
        SendError::Broken(String::new()),
        SendError::Tls(String::new()),
        SendError::Down { retry_in: SECOND },
    ] {
        cached.gmfy.fail(error);
        let told = cached.get(&user("1")).await;
        assert_eq!(told.cache(), "hit; detail=stale-if-error; ttl=-15");
        assert_eq!((told.text(), told.header("age")), (fresh.as_str(), "20"));
    }
    for status in [500, 502, 503, 504] {
        cached.gmfy.answer(status);
        let told = cached.get(&user("1")).await;
        assert_eq!(told.status, 200);
        assert_eq!(told.cache(), "hit; detail=stale-if-error; ttl=-15");
    }
    cached.gmfy.behave(Behaviour { breaks: true, ..Behaviour::default() });
    assert_eq!(cached.get(&user("1")).await.text(), fresh);
    assert_eq!(cached.count("user", "stale_if_error"), 10);

    tokio::time::advance(SECOND * 285).await;
    cached.gmfy.answer(503);
    let told = cached.get(&user("1")).await;
    assert_eq!((told.status.as_u16(), told.cache()), (503, "fwd=stale"), "past the window");
}

#[tokio::test(start_paused = true)]
async fn what_gmfy_has_to_say_is_not_hidden_and_errors_are_never_stored() {
    let cached = Cached::new();
    cached.get(&user("1")).await;
    tokio::time::advance(SECOND * 20).await;
    for status in [400, 401, 403, 429, 501] {
        for _ in 0..2 {
            let headers = vec![("retry-after", "7")];
            let status = StatusCode::from_u16(status).unwrap();
            cached.gmfy.behave(Behaviour { status, headers, ..Behaviour::default() });
            let told = cached.get(&user("1")).await;
            assert_eq!((told.status, told.cache()), (status, "fwd=stale"));
            assert_eq!(told.header("retry-after"), "7");
            assert_eq!(told.header("etag"), "");
        }
    }
    assert_eq!(cached.gmfy.requests(), 11);
}

#[tokio::test(start_paused = true)]
async fn a_404_is_believed_for_a_second() {
    let cached = Cached::new();
    cached.gmfy.answer(404);
    assert_eq!(cached.get(&user("1")).await.cache(), "fwd=miss; stored");
    let told = cached.get(&user("1")).await;
    assert_eq!((told.status.as_u16(), told.cache()), (404, "hit; ttl=1"));
    tokio::time::advance(SECOND).await;
    cached.gmfy.fail(SendError::Timeout);
    let told = cached.ask(&user("1"), None, &[]).await;
    assert_eq!(told.unwrap_err(), SendError::Timeout, "no stale window");
}

#[tokio::test(start_paused = true)]
async fn gmfys_cache_control_forbids_and_shortens() {
    let cached = Cached::new();
    for (index, forbids) in ["no-store", "private", "no-cache"].into_iter().enumerate() {
        let headers = vec![("cache-control", forbids)];
        cached.gmfy.behave(Behaviour { headers, ..Behaviour::default() });
        let before = cached.gmfy.requests();
        for _ in 0..2 {
            let told = cached.get(&user(&format!("{index}"))).await;
            assert_eq!((told.cache(), told.header("cache-control")), ("fwd=miss", forbids));
        }
        assert_eq!(cached.gmfy.requests(), before + 2);
    }
    let headers = vec![("cache-control", "max-age=3"), ("age", "1")];
    cached.gmfy.behave(Behaviour { headers, ..Behaviour::default() });
    cached.get(&user("short")).await;
    let told = cached.get(&user("short")).await;
    assert_eq!((told.cache(), told.header("age")), ("hit; ttl=2", "1"));
    assert_eq!(told.header("cache-control"), "");
}

#[tokio::test(start_paused = true)]
async fn a_delivery_supersedes_what_shows_its_user_and_nothing_else() {
    let cached = Cached::new();
    let touched = [
        user("1"),
        Call::Badges(id("1")),
        Call::UserNotifications(id("1")),
        Call::Users,
        Call::Notifications,
    ];
    let untouched =
        [user("2"), Call::RatingTop(id("1")), Call::ChallengeTop(id("1")), Call::Payment(id("1"))];
    for call in touched.iter().chain(&untouched) {
        cached.get(call).await;
    }
    tokio::time::advance(Duration::from_millis(300)).await;
    cached.delivered("1");
    for call in &touched {
        let told = cached.get(call).await;
        assert_eq!(told.cache(), "fwd=stale; stored", "{call:?}");
        assert!(told.text().starts_with(r#"{"version":1"#), "{call:?}");
    }
    for call in &untouched {
        assert!(cached.get(call).await.cache().starts_with("hit; "), "{call:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_superseded_answer_stands_in_while_gmfy_fails_and_at_no_other_time() {
    let cached = Cached::new();
    cached.get(&user("1")).await;
    cached.delivered("1");
    cached.gmfy.answer(503);
    let told = cached.get(&user("1")).await;
    assert_eq!(told.cache(), "hit; detail=stale-if-error; ttl=0");
    assert!(told.text().starts_with(r#"{"version":0"#));
    // Within stale-while-revalidate, too, it is no hit.
    tokio::time::advance(SECOND * 6).await;
    cached.gmfy.behave(Behaviour::default());
    assert_eq!(cached.get(&user("1")).await.cache(), "fwd=stale; stored");
}

#[tokio::test(start_paused = true)]
async fn a_post_to_a_payment_supersedes_its_entry_however_it_ends() {
    let cached = Cached::new();
    let (one, two) = (Call::Payment(id("1")), Call::Payment(id("2")));
    cached.get(&one).await;
    cached.get(&two).await;
    let writing = cached.reads.writing(&Call::ResendCode(id("1")));
    drop(writing);
    assert_eq!(cached.get(&one).await.cache(), "fwd=stale; stored");
    assert_eq!(cached.get(&two).await.cache(), "hit; ttl=1");
}

#[tokio::test(start_paused = true)]
async fn no_cache_asks_gmfy_and_keeps_the_answer() {
    let cached = Cached::new();
    cached.get(&user("1")).await;
    for (name, value) in [("cache-control", "no-cache"), ("pragma", "no-cache")] {
        tokio::time::advance(SECOND).await;
        let told = cached.ask(&user("1"), None, &[(name, value)]).await.unwrap();
        assert_eq!(told.cache(), "fwd=request; stored");
        assert_eq!(cached.get(&user("1")).await.cache(), "hit; ttl=5");
    }
    cached.gmfy.fail(SendError::Timeout);
    let told = cached.ask(&user("1"), None, &[("cache-control", "no-cache")]).await;
    assert_eq!(told.unwrap_err(), SendError::Timeout, "nothing stands in");
    assert_eq!(cached.count("user", "forced"), 2);
}

#[tokio::test(start_paused = true)]
async fn an_etag_that_the_caller_has_is_answered_with_304() {
    let cached = Cached::new();
    let body = r#"{"a":1}"#.repeat(400).into_bytes();
    cached.gmfy.behave(Behaviour { body: Some(body.clone()), ..Behaviour::default() });
    let plain = cached.get(&user("1")).await;
    let etag = plain.header("etag").to_owned();
    assert!(etag.starts_with('"') && etag.ends_with('"') && etag.len() == 34, "{etag}");
    let ask = [("if-none-match", etag.as_str())];
    let told = cached.ask(&user("1"), None, &ask).await.unwrap();
    assert_eq!((told.status.as_u16(), told.body.len()), (304, 0));
    assert_eq!(told.header("etag"), etag);
    assert_eq!(told.header("cache-status"), "gmfy-sidecar; hit; ttl=5");
    assert_eq!(told.header("age"), "0");
    let told = cached.ask(&user("1"), None, &[("if-none-match", "\"x\"")]).await.unwrap();
    assert_eq!((told.status.as_u16(), told.body), (200, body));
    // The same body later has the same tag.
    tokio::time::advance(SECOND * 60).await;
    let told = cached.ask(&user("1"), None, &ask).await.unwrap();
    assert_eq!((told.status.as_u16(), told.cache()), (304, "fwd=stale; stored"));
}

#[tokio::test(start_paused = true)]
async fn compressed_forms_are_made_once_and_told_apart() {
    let body = r#"{"a":1}"#.repeat(20_000).into_bytes();
    let cached = Cached::with(config::Reads { max_bytes: 16 << 20, ..settings() });
    for body in [body, r#"{"a":1}"#.repeat(400).into_bytes()] {
        cached.reads.forget_all();
        cached.gmfy.behave(Behaviour { body: Some(body.clone()), ..Behaviour::default() });
        let plain = cached.get(&user("1")).await;
        assert_eq!(plain.header("vary"), "accept-encoding");
        let mut tags = vec![plain.header("etag").to_owned()];
        let bytes = cached.reads.status().bytes;
        for encoding in ["gzip", "zstd"] {
            let told =
                cached.ask(&user("1"), None, &[("accept-encoding", encoding)]).await.unwrap();
            assert_eq!(told.header("content-encoding"), encoding);
            let unpacked = match encoding {
                "gzip" => std::io::read_to_string(flate2::read::GzDecoder::new(&told.body[..]))
                    .unwrap()
                    .into_bytes(),
                _ => zstd::bulk::decompress(&told.body, 1 << 20).unwrap(),
            };
            assert!(unpacked == body);
            let again =
                cached.ask(&user("1"), None, &[("accept-encoding", encoding)]).await.unwrap();
            assert_eq!(again.header("etag"), told.header("etag"));
            tags.push(told.header("etag").to_owned());
        }
        tags.dedup();
        assert_eq!(tags.len(), 3, "{tags:?}");
        assert!(cached.reads.status().bytes > bytes, "what is kept is weighed");
        // Whichever form the caller has, it has the body.
        for tag in &tags {
            let headers = [("if-none-match", tag.as_str()), ("accept-encoding", "gzip")];
            let told = cached.ask(&user("1"), None, &headers).await.unwrap();
            assert_eq!((told.status.as_u16(), told.header("etag")), (304, tag.as_str()));
        }
    }
    cached.reads.forget_all();
    let small = Behaviour { body: Some(vec![b' '; 1000]), ..Behaviour::default() };
    cached.gmfy.behave(small);
    let told = cached.ask(&user("1"), None, &[("accept-encoding", "gzip")]).await.unwrap();
    assert_eq!((told.header("content-encoding"), told.header("vary")), ("", ""));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_gmfy_encoded_goes_on_as_it_is() {
    let cached = Cached::new();
    let headers = vec![("content-encoding", "br")];
    let body = Some(vec![b'x'; 4000]);
    cached.gmfy.behave(Behaviour { headers, body, ..Behaviour::default() });
    for _ in 0..2 {
        let told = cached.ask(&user("1"), None, &[("accept-encoding", "gzip")]).await.unwrap();
        assert_eq!((told.header("content-encoding"), told.body.len()), ("br", 4000));
    }
}

#[tokio::test(start_paused = true)]
async fn a_hot_entry_is_fetched_again_before_it_expires() {
    for prefetch in [true, false] {
        let cached = Cached::with(config::Reads {
            prefetch,
            stale_while_revalidate: Duration::ZERO,
            ..settings()
        });
        cached.gmfy.is_slow(Duration::from_millis(500));
        cached.get(&user("1")).await;
        // A read each 100 ms for 20 s: with prefetch none of them waits.
        let mut waited = 0;
        for _ in 0..200 {
            pass(Duration::from_millis(100)).await;
            let begun = tokio::time::Instant::now();
            cached.get(&user("1")).await;
            waited += usize::from(begun.elapsed() > Duration::ZERO);
        }
        let requests = cached.gmfy.requests();
        assert!((4..=6).contains(&requests), "{requests} requests, prefetch {prefetch}");
        assert_eq!(waited == 0, prefetch, "{waited} reads waited");
    }
}

#[tokio::test(start_paused = true)]
async fn another_key_of_gmfys_begins_with_an_empty_cache() {
    let cached = Cached::new();
    cached.get(&user("1")).await;
    cached.get(&Call::Version).await;
    cached.gmfy.is_slow(SECOND);
    let mut callers = JoinSet::new();
    cached.begin(&user("2"), &mut callers);
    settle().await;
    cached.reads.forget_all();
    assert_eq!(cached.reads.status().entries, 0);
    callers.join_all().await;
    cached.gmfy.fail(SendError::Timeout);
    for call in [user("1"), user("2"), Call::Version] {
        assert!(cached.ask(&call, None, &[]).await.is_err(), "{call:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_bound_holds_and_the_gauges_tell() {
    let cached = Cached::new();
    cached.gmfy.behave(Behaviour { body: Some(vec![b'1'; 10_000]), ..Behaviour::default() });
    for n in 0..500 {
        cached.get(&user(&n.to_string())).await;
        assert!(cached.reads.status().bytes <= 1 << 20);
    }
    let status = cached.reads.status();
    assert!(status.bytes > (1 << 20) * 9 / 10, "it is in use: {status:?}");
    assert_eq!(cached.metrics.cache_entries.get().unsigned_abs(), status.entries);
    assert_eq!(cached.metrics.cache_bytes.get().unsigned_abs(), status.bytes);
}

#[tokio::test(start_paused = true)]
async fn other_settings_count_from_the_next_read_on() {
    let cached = Cached::new();
    let call = user("1");
    assert_eq!(cached.get(&call).await.cache(), "fwd=miss; stored");
    let mut settings = super::settings();
    settings.stale_if_error = Duration::ZERO;
    cached.reads.reload(&settings);
    assert_eq!(cached.get(&call).await.cache(), "hit; ttl=5", "what is kept stays");
    settings.ttl.users = Duration::ZERO;
    cached.reads.reload(&settings);
    assert_eq!(cached.get(&call).await.cache(), "fwd=bypass");
    settings.ttl.users = SECOND;
    settings.max_bytes /= 2;
    cached.reads.reload(&settings);
    assert_eq!(cached.get(&call).await.cache(), "fwd=miss; stored", "another bound forgets");
    assert_eq!(cached.get(&call).await.cache(), "hit; ttl=1");
}
