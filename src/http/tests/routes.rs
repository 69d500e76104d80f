//! What is asked is done.

use std::io::Write as _;

use super::harness::{Answer, EVENT, Server};
use crate::queue::AppendError;

#[tokio::test]
async fn an_event_is_accepted_with_its_sequence() {
    let server = Server::start().await;
    for (path, sequence) in [("/v1/events/", 1), ("/v1/events", 2)] {
        let answer = server.post(path, EVENT).await;
        assert_eq!((answer.status, answer.header("content-type")), (202, Some("application/json")));
        let expected = format!(
            r#"{{"accepted":1,"duplicates":0,"first_sequence":{sequence},"last_sequence":{sequence}}}"#
        );
        assert_eq!(answer.body, expected);
    }
}

#[tokio::test]
async fn a_batch_is_an_array_or_lines() {
    let server = Server::start().await;
    let answer = server.post("/v1/events/batch/", &format!("[{EVENT},{EVENT}]")).await;
    assert_eq!(answer.status, 202);
    assert!(
        answer.body.contains(r#""accepted":2,"#) && answer.body.contains(r#""last_sequence":2"#)
    );
    let lines = ["Content-Type: application/x-ndjson; charset=utf-8"];
    let body = format!("{EVENT}\n\n{EVENT}\n{EVENT}");
    let answer = server.ask("POST /v1/events/batch", &lines, &body).await;
    assert!(answer.body.contains(r#""accepted":3,"#), "{answer:?}");
}

#[tokio::test]
async fn an_empty_batch_does_not_reach_the_queue() {
    let server = Server::start().await;
    server.queue.refuse(AppendError::Closed);
    let answer = server.post("/v1/events/batch/", "[]").await;
    assert_eq!(answer.status, 202);
    let expected = r#"{"accepted":0,"duplicates":0,"first_sequence":null,"last_sequence":null}"#;
    assert_eq!(answer.body, expected);
}

#[tokio::test]
async fn a_batch_is_taken_whole_or_leniently() {
    let server = Server::start().await;
    let body = format!(r#"[{EVENT},{{"userId":""}},{EVENT}]"#);
    let answer = server.post("/v1/events/batch/", &body).await;
    assert_eq!((answer.status, server.queue.appended(), server.rejected("invalid")), (422, 0, 3));
    assert_eq!(answer.header("preference-applied"), None);

    let lenient = ["Content-Type: application/json", "Prefer: handling=lenient"];
    let answer = server.ask("POST /v1/events/batch/", &lenient, &body).await;
    assert_eq!((answer.status, server.queue.appended(), server.rejected("invalid")), (202, 2, 4));
    assert_eq!(answer.header("preference-applied"), Some("handling=lenient"));
    let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((&body["accepted"], &body["errors"][0]["index"]), (&2.into(), &1.into()));
}

#[tokio::test]
async fn a_compressed_body_is_taken() {
    let server = Server::start().await;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(EVENT.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    for (coding, body) in [("gzip", gzip), ("zstd", zstd::encode_all(EVENT.as_bytes(), 1).unwrap())]
    {
        let mut request = format!(
            "POST /v1/events/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Encoding: {coding}\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend(body);
        assert_eq!(Answer::parse(&server.raw(request).await).status, 202, "{coding}");
    }
}

#[tokio::test]
async fn a_read_goes_to_gmfy_and_back_unchanged() {
    let server = Server::start().await;
    let answer = server.ask("GET /v1/ratings/a%2Fb/top/?offset=0&sort=%41SC", &[], "").await;
    assert_eq!((answer.status, answer.header("retry-after")), (418, Some("7")));
    assert_eq!(answer.header("etag"), None);
    assert!(
        answer.body.contains(r#"RatingTop(Id("a/b")) Some("offset=0&sort=%41SC")"#),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_head_request_gets_the_head_alone() {
    let server = Server::start().await;
    let answer = server.ask("HEAD /v1/users/", &[], "").await;
    assert_eq!((answer.status, answer.header("content-type")), (418, Some("application/json")));
    assert_eq!(answer.body, "");
    let answer = server.ask("HEAD /nothing", &[], "").await;
    assert_eq!((answer.status, &*answer.body), (404, ""));
    assert!(answer.header("content-length").is_some_and(|length| length != "0"));
}

#[tokio::test]
async fn a_payment_is_passed_on_with_its_content_type_and_body() {
    let server = Server::start().await;
    let answer = server.post("/v1/payments/", r#"{"amount":1}"#).await;
    assert_eq!(answer.status, 418);
    let expected = r#"CreatePayment Some("application/json") b"{\"amount\":1}""#;
    assert!(answer.body.contains(expected), "{answer:?}");
    let answer = server.post("/v1/payments/7/resend-code/", "").await;
    assert!(answer.body.contains(r#"ResendCode(Id("7"))"#), "{answer:?}");
}

#[tokio::test]
async fn a_request_id_comes_back() {
    let server = Server::start().await;
    let answer = server.ask("GET /v1/version/", &["X-Request-Id: mine-1"], "").await;
    assert_eq!(answer.header("x-request-id"), Some("mine-1"));
    let answer = server.ask("GET /nothing", &[], "").await;
    assert!(answer.header("x-request-id").is_some_and(|id| id.len() == 20));
}

#[tokio::test]
async fn requests_are_counted_under_bounded_labels() {
    let server = Server::start().await;
    server.post("/v1/events/", EVENT).await;
    server.ask("GET /v1/users/7/", &[], "").await;
    server.ask("BREW /pot/8", &[], "").await;
    let text = String::from_utf8(server.metrics.encode().unwrap()).unwrap();
    for line in [
        r#"gmfy_http_requests_total{method="POST",route="/v1/events/",status="202"} 1"#,
        r#"gmfy_http_requests_total{method="POST",route="/v1/events/",status="503"} 0"#,
        r#"gmfy_http_requests_total{method="GET",route="/v1/users/{id}/",status="418"} 1"#,
        r#"gmfy_http_requests_total{method="other",route="other",status="404"} 1"#,
        r#"gmfy_http_request_duration_seconds_count{route="/v1/events/"} 1"#,
    ] {
        assert!(text.contains(line), "{line} is missing from\n{text}");
    }
}
