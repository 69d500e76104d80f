//! Every route in its shape, and what events do.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use super::{Running, client, event, json, options};
use crate::simulator::{Options, Outcome};

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn assert_keys(value: &Value, expected: &[&str]) {
    assert_eq!(keys(value), expected.iter().copied().collect(), "{value}");
}

const RATING: [&str; 7] =
    ["userId", "clientId", "ratingId", "name", "value", "metaInfo", "position"];
const CHALLENGE: [&str; 7] =
    ["userId", "challengeId", "clientId", "progress", "passedSteps", "metaInfo", "name"];
const BADGE: [&str; 9] = [
    "userId",
    "badgeId",
    "clientId",
    "acquisitionDate",
    "metaInfo",
    "name",
    "description",
    "permanent",
    "count",
];
const PAYMENT: &str = r#"{"amount":{"value":100.0,"currency":"USD"},"confirmation":{"returnUrl":"https://example.com/"},"userId":"1","description":"Order","locale":"EN"}"#;

#[tokio::test]
async fn a_user_has_the_documented_shape() {
    let gmfy = Running::start(options()).await;
    for number in 0..12 {
        gmfy.event("u", "visit", Some(&number.to_string())).await;
    }
    let users = gmfy.get("v1/users/u/").await;
    let user = &users[0];
    assert_eq!(users.as_array().unwrap().len(), 1);
    assert_keys(
        user,
        &[
            "userId",
            "clientId",
            "userRatings",
            "userChallenges",
            "userBadges",
            "userFeatures",
            "userAccountBalances",
        ],
    );
    assert_keys(&user["userRatings"][0], &RATING);
    assert_keys(&user["userChallenges"][0], &CHALLENGE);
    assert_keys(
        &user["userChallenges"][0]["passedSteps"][0],
        &["challengeStepId", "order", "weight", "dateComplete"],
    );
    assert_keys(&user["userBadges"][0], &BADGE);
    assert_keys(
        &user["userFeatures"][0],
        &["userId", "featureId", "clientId", "accessDate", "metaInfo", "name", "description"],
    );
    assert_keys(&user["userAccountBalances"][0], &["userId", "clientId", "resourceKey", "amount"]);
    assert_eq!(user["userAccountBalances"][0]["amount"], 12);
    assert_eq!(user["userBadges"][0]["acquisitionDate"], "2026-01-01T00:00:00Z");
    assert!(uuid::Uuid::parse_str(user["clientId"].as_str().unwrap()).is_ok());
    assert_eq!(gmfy.get("v1/users/").await, users);
    assert_eq!(gmfy.get("v1/badges/u/").await, user["userBadges"]);
    assert_eq!(gmfy.get("v1/users/nobody/").await, json!([]));
    assert_eq!(gmfy.get("v1/badges/nobody/").await, json!([]));
    assert_eq!(gmfy.get("v1/notifications/nobody/").await, json!([]));
    assert_keys(&gmfy.get("v1/version/").await, &["version", "deploymentDate"]);
    gmfy.end().await;
}

#[tokio::test]
async fn tops_honour_offset_limit_and_sort() {
    let gmfy = Running::start(options()).await;
    for (user, times) in [("a", 1), ("b", 3), ("c", 2), ("d", 2)] {
        for _ in 0..times {
            gmfy.event(user, "t", None).await;
        }
    }
    let user = gmfy.get("v1/users/b/").await;
    let rating = user[0]["userRatings"][0]["ratingId"].as_str().unwrap().to_owned();
    let challenge = user[0]["userChallenges"][0]["challengeId"].as_str().unwrap().to_owned();
    assert_eq!(user[0]["userRatings"][0]["position"], 1);
    for (query, expected) in [
        ("?offset=0&limit=10&sort=ASC", vec![("b", 1), ("c", 2), ("d", 3), ("a", 4)]),
        ("", vec![("b", 1), ("c", 2), ("d", 3), ("a", 4)]),
        ("?offset=1&limit=2&sort=ASC", vec![("c", 2), ("d", 3)]),
        ("?offset=0&limit=2&sort=DESC", vec![("a", 4), ("d", 3)]),
        ("?offset=9&limit=2&sort=ASC", vec![]),
    ] {
        let top = gmfy.get(&format!("v1/ratings/{rating}/top/{query}")).await;
        let shown: Vec<(&str, u64)> = top
            .as_array()
            .unwrap()
            .iter()
            .inspect(|entry| assert_keys(entry, &RATING))
            .map(|entry| (entry["userId"].as_str().unwrap(), entry["position"].as_u64().unwrap()))
            .collect();
        assert_eq!(shown, expected, "{query}");
    }
    let top = gmfy.get(&format!("v1/challenges/{challenge}/top/?limit=1")).await;
    assert_eq!(top.as_array().unwrap().len(), 1);
    assert_keys(&top[0], &CHALLENGE);
    assert_eq!((&top[0]["userId"], &top[0]["progress"]), (&json!("b"), &json!(2)));
    for (path, status) in [
        (format!("v1/ratings/{rating}/top/?sort=UP"), 400),
        (format!("v1/ratings/{rating}/top/?limit=-1"), 400),
        (format!("v1/ratings/{challenge}/top/"), 404),
        (format!("v1/challenges/{rating}/top/"), 404),
        ("v1/ratings/nonsense/top/".to_owned(), 404),
    ] {
        let response = gmfy.request(Method::GET, &path).send().await.unwrap();
        assert_eq!(response.status(), status, "{path}");
    }
    gmfy.end().await;
}

#[tokio::test]
async fn notifications_are_unread_until_the_unread_route_shows_them() {
    let gmfy = Running::start(options()).await;
    gmfy.event("a", "t", None).await;
    gmfy.event("b", "t", None).await;
    let all = gmfy.get("v1/notifications/").await;
    assert_eq!(all.as_array().unwrap().len(), 2);
    assert_keys(&all[0], &["userId", "clientId", "message"]);
    assert_eq!(gmfy.get("v1/notifications/a/").await, json!([all[0]]));
    assert_eq!(gmfy.get("v1/notifications/unread/a/").await, json!([all[0]]));
    assert_eq!(gmfy.get("v1/notifications/unread/a/").await, json!([]));
    assert_eq!(gmfy.get("v1/notifications/unread/").await, json!([all[1]]));
    assert_eq!(gmfy.get("v1/notifications/unread/").await, json!([]));
    assert_eq!(gmfy.get("v1/notifications/").await, all);
    gmfy.end().await;
}

#[tokio::test]
async fn a_payment_has_its_shapes_and_moves_on() {
    let gmfy = Running::start(options()).await;
    let response = gmfy.post("v1/payments/", PAYMENT).await.unwrap();
    assert_eq!(response.status(), 200);
    let created = json(response).await;
    assert_keys(&created, &["id", "clientId", "status", "confirmationUrl"]);
    let path = format!("v1/payments/{}/", created["id"].as_str().unwrap());
    let shown = gmfy.get(&path).await;
    let (id, client) = (&created["id"], &created["clientId"]);
    assert_eq!(
        shown,
        json!({"id": id, "clientId": client, "value": 100.0, "returnUrl": "https://example.com/",
            "description": "Order", "currency": "USD", "status": "CREATED", "locale": "EN",
            "expiresIn": 900})
    );
    let resent = json(gmfy.post(&format!("{path}resend-code/"), "").await.unwrap()).await;
    assert_eq!((keys(&resent), &resent["status"]), (keys(&shown), &json!("PENDING")));
    assert_eq!(gmfy.get(&path).await["status"], "PENDING");
    assert_eq!(gmfy.get(&path).await["status"], "SUCCEEDED");
    assert_eq!(gmfy.status("v1/payments/", "{}").await, 400);
    assert_eq!(gmfy.status("v1/payments/none/resend-code/", "").await, 404);
    gmfy.end().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_request_decides_its_status() {
    let gmfy = Running::start(options()).await;
    let good = event("1", "t", None);
    for (path, body, status) in [
        ("v1/events/", good.clone(), 201),
        ("v1/events/", "nonsense".to_owned(), 400),
        ("v1/events/", r#"{"type":"t"}"#.to_owned(), 400),
        ("v1/events/batch/", good.clone(), 400),
        ("v1/events/batch/", format!(r#"[{good},{{"userId":"1"}}]"#), 400),
        ("v1/events/batch/", format!("[{good},{good}]"), 201),
        ("v1/events/batch/", "[]".to_owned(), 201),
        ("v1/events", good.clone(), 404),
        ("v2/events/", good.clone(), 404),
        ("v1/users/", good.clone(), 405),
    ] {
        assert_eq!(gmfy.status(path, body.clone()).await, status, "{path} {body}");
    }
    assert_eq!(gmfy.handle.counts().events, 3);
    let url = format!("http://{}/v1/events/", gmfy.address);
    let keyless = gmfy.client.post(&url).header("content-type", "application/json");
    assert_eq!(keyless.send().await.unwrap().status(), 401);
    let wrong = gmfy.request(Method::GET, "v1/users/");
    let wrong = wrong.build().map(|mut request| {
        request.headers_mut().insert("x-api-key", "wrong".parse().unwrap());
        request
    });
    assert_eq!(gmfy.client.execute(wrong.unwrap()).await.unwrap().status(), 401);
    let form = gmfy.client.post(&url).header("x-api-key", super::KEY).body(good);
    assert_eq!(form.send().await.unwrap().status(), 415);
    gmfy.end().await;
}

#[tokio::test]
async fn events_and_requests_are_recorded_in_order_and_byte_for_byte() {
    let gmfy = Running::start(options()).await;
    let (first, second) = (event("1", "a", None), event("2", "b", Some("k")));
    let body = format!("[{first}, {second},{second}]");
    let sent = gmfy
        .request(Method::POST, "v1/events/batch/?x=1")
        .header("idempotency-key", "batch-1")
        .body(body.clone());
    assert_eq!(sent.send().await.unwrap().status(), 201);
    gmfy.event("1", "c", None).await;

    let requests = gmfy.handle.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].path_and_query, "/v1/events/batch/?x=1");
    assert_eq!(requests[0].header("idempotency-key"), Some("batch-1"));
    assert_eq!(requests[0].body, body);
    assert_eq!(requests[0].outcome, Some(Outcome::Answered(http::StatusCode::CREATED)));
    assert!(!requests[0].overlaps(&requests[1]));
    assert!(!format!("{:?}", requests[0].headers).contains(super::KEY));

    let events = gmfy.handle.events();
    let seen: Vec<_> = events
        .iter()
        .map(|event| (event.order, event.request, event.event_type.as_str(), event.duplicate))
        .collect();
    assert_eq!(
        seen,
        [(1, 0, "a", false), (2, 0, "b", false), (3, 0, "b", true), (4, 1, "c", false)]
    );
    assert_eq!((&events[0].text[..], &events[2].text[..]), (first.as_bytes(), second.as_bytes()));

    let page = gmfy.get("control/events?after=1&limit=2").await;
    assert_eq!(page["events"][0]["event"], serde_json::from_str::<Value>(&second).unwrap());
    assert_eq!((&page["events"][1]["order"], &page["next"]), (&json!(3), &json!(3)));
    let stats = gmfy.get("control/stats").await;
    assert_eq!((&stats["events"], &stats["duplicates"]), (&json!(4), &json!(1)));
    assert_eq!(stats["events_by_type"], json!({"a": 1, "b": 2, "c": 1}));
    assert_eq!(stats["requests_by_route"]["POST /v1/events/batch/"], json!({"201": 1}));
    gmfy.handle.clear();
    assert!(gmfy.handle.requests().is_empty() && gmfy.handle.events().is_empty());
    assert_eq!(gmfy.get("v1/users/1/").await[0]["userId"], "1");
    gmfy.end().await;
}

#[tokio::test]
async fn nothing_is_recorded_unless_asked() {
    let gmfy = Running::start(Options { record: 0, ..options() }).await;
    gmfy.event("1", "t", None).await;
    assert!(gmfy.handle.requests().is_empty() && gmfy.handle.events().is_empty());
    assert_eq!(gmfy.handle.counts().events, 1);
    gmfy.handle.record(1);
    gmfy.event("1", "t", None).await;
    assert_eq!(gmfy.handle.events().len(), 1);
    gmfy.end().await;
}

#[tokio::test]
async fn the_same_seed_answers_the_same() {
    let mut answers = Vec::new();
    for seed in [7, 7, 8] {
        let gmfy = Running::start(Options { seed, ..options() }).await;
        gmfy.handle.set_faults(crate::simulator::Faults { error_rate: 0.5, ..Default::default() });
        let mut statuses = Vec::new();
        for number in 0..30 {
            let body = event(&format!("u{}", number % 3), &format!("t{number}"), None);
            statuses.push(gmfy.status("v1/events/", body).await);
        }
        gmfy.handle.set_faults(Default::default());
        let payment = json(gmfy.post("v1/payments/", PAYMENT).await.unwrap()).await;
        answers.push((statuses, gmfy.get("v1/users/").await, payment));
        gmfy.end().await;
    }
    assert_eq!(answers[0], answers[1]);
    assert_ne!(answers[0].0, answers[2].0);
    assert_ne!(answers[0].2, answers[2].2);
}

#[tokio::test]
async fn cleartext_http_2_is_served() {
    let gmfy = Running::start(options()).await;
    let client = client().http2_prior_knowledge().build().unwrap();
    let version = client
        .get(format!("http://{}/v1/version/", gmfy.address))
        .header("x-api-key", super::KEY)
        .send()
        .await
        .unwrap();
    assert_eq!(
        (version.status(), version.version()),
        (http::StatusCode::OK, http::Version::HTTP_2)
    );
    gmfy.end().await;
}
