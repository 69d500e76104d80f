//! Traces through real HTTP on all sides: from the caller's `traceparent` to what GMFY and the
//! collector are sent.

mod collector;

use std::time::Duration;

use gmfy_sidecar::simulator::Scripted;
use http::StatusCode;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tokio::time::Instant;

use crate::support::{GMFY_KEY, Reply, Request, Running, eventually, get, post};
use collector::{Recording, Span, attributes};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";
/// What no span may hold: an event's user, type, field and key, an id in a path, what a header says.
const CANARIES: [&str; 6] =
    ["canary-user", "canary-type", "canary-field", "canary-unique", "canary-path", "canary-header"];

async fn traced(collector: &Recording, ratio: f64) -> Running {
    let endpoint = collector.endpoint();
    Running::start(move |settings| {
        settings.tracing.otlp_endpoint = endpoint;
        settings.tracing.sample_ratio = ratio;
    })
    .await
}

fn of_caller(request: Request, flags: &str) -> Request {
    let parent = format!("00-{TRACE}-{CALLER}-{flags}");
    request.header("traceparent", &parent).header("tracestate", "vendor=state")
}

fn event(user: &str) -> String {
    format!(
        r#"{{"userId":"{user}","type":"canary-type","idempotenceKey":"canary-unique-{user}","x":"canary-field"}}"#
    )
}

async fn accepted(running: &Running, request: Request) -> Reply {
    let reply = request.send(running.api()).await;
    assert_eq!(reply.status, 202, "{reply:?}");
    reply
}

async fn settled(running: &Running) {
    eventually("all is settled", || running.metrics().ledger.snapshot().queued() == 0).await;
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The `traceparent` of this span, where it is sampled.
fn parent_of(span: &Span) -> String {
    format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id))
}

/// The `traceparent` and `tracestate` of the requests that GMFY got for this path.
fn sent_to_gmfy(running: &Running, path: &str) -> Vec<(String, Option<String>)> {
    let requests = running.gmfy().requests().into_iter();
    let of_path = requests.filter(|request| request.path_and_query.starts_with(path));
    let text = |value: Option<&str>| value.map(str::to_owned);
    of_path
        .map(|request| {
            let parent = text(request.header("traceparent")).unwrap_or_default();
            (parent, text(request.header("tracestate")))
        })
        .collect()
}

#[tokio::test]
async fn an_event_is_traced_from_its_caller_to_gmfy() {
    let collector = Recording::start().await;
    // Of itself nothing is sampled; the caller's trace is.
    let running = traced(&collector, 0.0).await;
    let batch = format!("[{},{}]", event("canary-user-1"), event("canary-user-2"));
    let request = of_caller(post("/v1/events/batch/", batch), "01")
        .header("idempotency-key", "canary-header")
        .header("x-request-id", "canary-header");
    accepted(&running, request).await;
    settled(&running).await;
    let read = of_caller(get("/v1/users/canary-path/?a=canary-path"), "01");
    assert_eq!(read.send(running.api()).await.status, 200);
    let to_batch = sent_to_gmfy(&running, "/v1/events/batch/");
    let to_read = sent_to_gmfy(&running, "/v1/users/");
    running.stop().await;

    let only = |name: &str| {
        let spans = collector.named(name);
        assert_eq!(spans.len(), 1, "{name}: {:#?}", collector.spans());
        spans.into_iter().next().unwrap()
    };
    let accept = only("POST /v1/events/batch/");
    assert_eq!((hex(&accept.trace_id), hex(&accept.parent_span_id)), (TRACE.into(), CALLER.into()));
    assert_eq!(accept.kind, SpanKind::Server as i32);
    assert_eq!(accept.trace_state, "vendor=state");
    let told = attributes(&accept.attributes);
    assert_eq!(told["http.route"], "/v1/events/batch/");
    assert_eq!(told["http.response.status_code"], "202");

    let commit = only("commit");
    assert_eq!((&commit.trace_id, &commit.parent_span_id), (&accept.trace_id, &accept.span_id));
    let told = attributes(&commit.attributes);
    assert_eq!((&*told["gmfy.sequence.first"], &*told["gmfy.sequence.last"]), ("1", "2"));
    assert_eq!((&*told["gmfy.commit.events"], &*told["gmfy.commit.requests"]), ("2", "1"));
    assert!(accept.start_time_unix_nano <= commit.start_time_unix_nano);
    assert!(commit.start_time_unix_nano <= commit.end_time_unix_nano);
    assert!(commit.end_time_unix_nano <= accept.end_time_unix_nano);

    let sent = collector.named("create_batch_events");
    assert_eq!(sent.len(), to_batch.len());
    for span in &sent {
        assert_ne!(span.trace_id, accept.trace_id, "a trace of its own");
        assert_eq!((span.parent_span_id.len(), span.kind), (0, SpanKind::Client as i32));
        let links: Vec<_> = span.links.iter().map(|link| (&link.trace_id, &link.span_id)).collect();
        assert_eq!(links, [(&accept.trace_id, &accept.span_id)]);
        let told = attributes(&span.attributes);
        assert_eq!(told["http.response.status_code"], "201");
        assert!(to_batch.contains(&(parent_of(span), None)), "GMFY is told: {to_batch:?}");
    }

    let asked = only("GET /v1/users/{id}/");
    let call = only("get_user");
    assert_eq!((hex(&asked.trace_id), hex(&asked.parent_span_id)), (TRACE.into(), CALLER.into()));
    assert_eq!((&call.trace_id, &call.parent_span_id), (&asked.trace_id, &asked.span_id));
    assert_eq!(to_read, [(parent_of(&call), Some("vendor=state".to_owned()))]);

    let sender = collector.sender();
    assert_eq!(sender["service.version"], env!("CARGO_PKG_VERSION"));
    assert!(sender.contains_key("service.name") && sender.contains_key("service.instance.id"));
    for canary in CANARIES.into_iter().chain([GMFY_KEY]) {
        assert!(!collector.got(canary), "{canary} is in a span");
    }
}

#[tokio::test]
async fn a_batch_links_each_request_once_and_a_resend_is_a_span_of_its_own() {
    let collector = Recording::start().await;
    let running = traced(&collector, 1.0).await;
    get("/v1/version/").send(running.api()).await;
    assert_eq!(post("/api/delivery/pause", "{}").send(running.admin()).await.status, 200);
    for user in 0..3 {
        accepted(&running, post("/v1/events/", event(&format!("{user}")))).await;
    }
    let again = Scripted {
        status: StatusCode::GATEWAY_TIMEOUT,
        retry_after: None,
        body: None,
        applies: false,
    };
    running.gmfy().answer_next([again.clone(), again]);
    assert_eq!(post("/api/delivery/resume", "{}").send(running.admin()).await.status, 200);
    settled(&running).await;
    let requests = running.gmfy().requests();
    let batches: Vec<_> =
        requests.iter().filter(|sent| sent.path_and_query.contains("batch")).collect();
    running.stop().await;

    let accepts = collector.named("POST /v1/events/");
    assert_eq!((accepts.len(), collector.named("commit").len()), (3, 3));
    let sent = collector.named("create_batch_events");
    assert_eq!(sent.len(), batches.len());
    let linked =
        |span: &Span| span.links.iter().map(|link| link.span_id.clone()).collect::<Vec<_>>();
    let mut resent = 0;
    for span in &sent {
        let told = attributes(&span.attributes);
        assert_eq!(linked(span).len().to_string(), told["gmfy.batch.events"], "one event each");
        let all = sent.iter().filter(|other| {
            attributes(&other.attributes)["gmfy.batch.key"] == told["gmfy.batch.key"]
        });
        assert!(all.clone().all(|other| linked(other) == linked(span)));
        if let Some(count) = told.get("http.request.resend_count") {
            resent += count.parse::<u32>().unwrap();
        } else if told["http.response.status_code"] == "504" {
            assert_eq!(told["error.type"], "504");
        }
    }
    assert!(resent > 0, "{sent:#?}");
    for batch in &batches {
        let key = batch.header("idempotency-key");
        let same = batches.iter().filter(|other| other.header("idempotency-key") == key);
        for other in same {
            assert_eq!(other.body, batch.body, "a trace changes no byte");
            let told = batch.header("traceparent") == other.header("traceparent");
            assert_eq!(told, other.order == batch.order, "each sending has its span");
        }
    }
}

#[tokio::test]
async fn what_is_not_sampled_is_not_sent_and_passed_on_as_such() {
    let collector = Recording::start().await;
    let running = traced(&collector, 0.0).await;
    accepted(&running, post("/v1/events/", event("1"))).await;
    let request = of_caller(post("/v1/events/", event("2")), "00");
    accepted(&running, request).await;
    settled(&running).await;
    assert_eq!(of_caller(get("/v1/users/1/"), "00").send(running.api()).await.status, 200);
    for (parent, _) in sent_to_gmfy(&running, "/v1/") {
        assert!(parent.ends_with("-00"), "{parent:?}");
    }
    let (read, state) = sent_to_gmfy(&running, "/v1/users/").pop().unwrap();
    assert!(read.starts_with(&format!("00-{TRACE}-")), "{read}");
    assert_eq!(state.as_deref(), Some("vendor=state"));
    let metrics = running.scrape().await;
    assert_eq!(metrics.total("gmfy_trace_spans_exported_total"), 0.0);
    assert_eq!(metrics.total("gmfy_trace_spans_dropped_total"), 0.0);
    running.stop().await;
    assert_eq!(collector.requests(), 0);
}

#[tokio::test]
async fn without_an_endpoint_nothing_is_traced_nor_passed_on() {
    let running = Running::start(|settings| settings.tracing.sample_ratio = 1.0).await;
    accepted(&running, of_caller(post("/v1/events/", event("1")), "01")).await;
    settled(&running).await;
    assert_eq!(of_caller(get("/v1/users/1/"), "01").send(running.api()).await.status, 200);
    let sent = sent_to_gmfy(&running, "/v1/");
    assert!(sent.len() >= 2 && sent.iter().all(|sent| *sent == (String::new(), None)), "{sent:?}");
    running.stop().await;
}

#[tokio::test]
async fn a_collector_that_is_down_harms_nothing_and_its_spans_are_counted() {
    // A port at which nobody listens any more.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let running = Running::start(|settings| {
        settings.tracing.otlp_endpoint = Some(format!("http://{gone}/"));
        settings.tracing.sample_ratio = 1.0;
    })
    .await;
    let mut wire = crate::support::Wire::connect(running.api()).await;
    for user in 0..50_u64 {
        let reply = wire.ask(&post("/v1/events/", event(&user.to_string()))).await;
        assert_eq!(reply.status, 202);
    }
    // A span each: more than wait at a time, and are on their way.
    for _ in 0..2048 + 512 {
        assert_eq!(wire.ask(&get("/nothing")).await.status, 404);
    }
    settled(&running).await;
    assert_eq!(running.gmfy().counts().events, 50);
    assert_eq!(get("/readyz").send(running.ops()).await.status, 200);
    assert_eq!(get("/livez").send(running.ops()).await.status, 200);
    let scrape = running.scrape().await;
    scrape.assert_balanced();
    assert!(scrape.value("gmfy_trace_spans_dropped_total{reason=\"queue_full\"}") > 0.0);
    assert_eq!(scrape.total("gmfy_trace_spans_exported_total"), 0.0);
    let begun = Instant::now();
    let dropped = running.metrics().spans_dropped.clone();
    assert_eq!(running.stop().await.remaining, 0);
    assert!(begun.elapsed() < Duration::from_secs(3), "a stop waits for no dead collector");
    assert!(dropped.with_label_values(&["stopped"]).get() > 0);
}

#[tokio::test]
async fn a_stop_sends_the_spans_that_wait() {
    let collector = Recording::start().await;
    let running = traced(&collector, 1.0).await;
    accepted(&running, post("/v1/events/", event("1"))).await;
    let metrics = running.metrics().spans_exported.clone();
    assert_eq!(running.stop().await.remaining, 0);
    let names: Vec<_> = collector.spans().into_iter().map(|span| span.name).collect();
    for name in ["commit", "POST /v1/events/", "create_batch_events"] {
        assert!(names.iter().any(|sent| sent == name), "{name} is not in {names:?}");
    }
    assert_eq!(metrics.get(), names.len() as u64);
}
