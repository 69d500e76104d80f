//! Spans from their begin to a collector that does as it is told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::export::WAITING;
use super::*;
use crate::telemetry::request::RequestId;

/// Answers by its script, then takes everything; keeps what it took, and when it was asked.
#[derive(Clone, Debug, Default)]
struct Recorder {
    script: Arc<Mutex<VecDeque<Result<Bytes, ExportError>>>>,
    taken: Arc<Mutex<Vec<Span>>>,
    asked: Arc<Mutex<Vec<Instant>>>,
    /// Never answers.
    hangs: bool,
}

impl Recorder {
    fn answering(script: impl IntoIterator<Item = Result<Bytes, ExportError>>) -> Self {
        Self { script: Arc::new(Mutex::new(script.into_iter().collect())), ..Self::default() }
    }

    fn taken(&self) -> Vec<Span> {
        self.taken.lock().unwrap().clone()
    }

    fn times_asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

impl Collector for Recorder {
    async fn export(&self, request: Bytes) -> Result<Bytes, ExportError> {
        self.asked.lock().unwrap().push(Instant::now());
        if self.hangs {
            std::future::pending::<()>().await;
        }
        let answer = self.script.lock().unwrap().pop_front().unwrap_or(Ok(Bytes::new()));
        if answer.is_ok() {
            let request = ExportTraceServiceRequest::decode(request).unwrap();
            let scopes = request.resource_spans.into_iter().flat_map(|spans| spans.scope_spans);
            self.taken.lock().unwrap().extend(scopes.flat_map(|scope| scope.spans));
        }
        answer
    }
}

struct Rig {
    traces: Traces,
    metrics: Metrics,
    collector: Recorder,
    stop: Stop,
    exporting: JoinSet<()>,
}

impl Rig {
    fn start(ratio: f64, collector: Recorder) -> Self {
        let metrics = Metrics::new();
        let (traces, exporter) = Traces::new(ratio, &metrics, collector.clone());
        let (stop, mut exporting) = (Stop::default(), JoinSet::new());
        exporting.spawn(exporter.run(stop.clone()));
        Self { traces, metrics, collector, stop, exporting }
    }

    fn request(&self) {
        self.traces.request("POST", "/v1/events/", &HeaderMap::new()).answered(202);
    }

    fn dropped(&self, reason: &str) -> u64 {
        self.metrics.spans_dropped.with_label_values(&[reason]).get()
    }

    async fn flush(&mut self) -> Vec<Span> {
        self.stop.flush.cancel();
        while self.exporting.join_next().await.is_some() {}
        self.collector.taken()
    }
}

fn from_caller(flags: &str) -> HeaderMap {
    let parent = format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
    HeaderMap::from_iter([(
        http::HeaderName::from_static("traceparent"),
        HeaderValue::from_str(&parent).unwrap(),
    )])
}

fn for_now() -> Result<Bytes, ExportError> {
    Err(ExportError::ForNow { reason: "told to fail".to_owned(), retry_after: None })
}

const FACTS: BatchFacts = BatchFacts { lane: 0, events: 2, resent: 0, sequences: (1, 2), key: 7 };

#[tokio::test(start_paused = true)]
async fn a_request_its_commit_and_its_batch_are_one_story() {
    let mut rig = Rig::start(0.0, Recorder::default());
    let headers = from_caller("01");
    let mut request = rig.traces.request("POST", "/v1/events/", &headers);
    let id = RequestId::Made([b'1'; 20]);
    let current = Current::new(id, Some(request.scope()));
    let accepting = current.scope(async { accepting() }).await.unwrap();
    let mut commit = rig.traces.commit(&accepting);
    rig.traces.accepted(&accepting, 1, 2);
    commit.committed((2, 1), Some((1, 2)));
    drop(commit);
    request.answered(202);
    drop(request);
    rig.traces.batch(&FACTS, [1, 2].into_iter()).got(201);
    // Its events are nobody's: there is no reason to sample it.
    rig.traces.batch(&FACTS, [3, 4].into_iter()).got(201);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let spans = rig.flush().await;
    let [commit, request, batch] = &spans[..] else { panic!("{spans:#?}") };
    assert_eq!(request.name, "POST /v1/events/");
    assert_eq!(request.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
    assert_eq!(commit.parent_span_id, request.span_id);
    assert_eq!((commit.trace_id.clone(), batch.links.len()), (request.trace_id.clone(), 1));
    assert_eq!(batch.links[0].span_id, request.span_id);
    assert_eq!(batch.links[0].trace_id, request.trace_id);
    assert_ne!(batch.trace_id, request.trace_id);
    assert_eq!(batch.parent_span_id, Vec::<u8>::new());
    assert_eq!(rig.metrics.spans_exported.get(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_caller_decides_what_is_sampled_and_else_the_ratio() {
    for (ratio, flags, sampled) in
        [(0.0, Some("01"), true), (1.0, Some("00"), false), (0.0, None, false), (1.0, None, true)]
    {
        let mut rig = Rig::start(ratio, Recorder::default());
        let headers = flags.map(from_caller).unwrap_or_default();
        let request = rig.traces.request("GET", "/v1/users/{id}/", &headers);
        let scope = request.scope();
        assert_eq!(scope.context.is_sampled(), sampled);
        let current = Current::of_span(scope);
        let called = current.scope(async {
            let mut goes = HeaderMap::new();
            let call = call("GET", "get_user").unwrap();
            call.propagate(&mut goes);
            goes["traceparent"].to_str().unwrap().to_owned()
        });
        let goes = called.await;
        assert!(goes.ends_with(if sampled { "-01" } else { "-00" }), "{goes}");
        if flags.is_some() {
            assert!(goes.starts_with("00-0af7651916cd43dd8448eb211c80319c-"), "{goes}");
        }
        drop(request);
        assert_eq!(rig.flush().await.len(), if sampled { 2 } else { 0 });
        assert_eq!(rig.collector.times_asked(), usize::from(sampled));
    }
}

#[tokio::test]
async fn outside_of_a_traced_request_nothing_is_traced() {
    assert!(accepting().is_none() && call("GET", "get_user").is_none());
    let mut headers = HeaderMap::new();
    propagate(&mut headers);
    assert!(headers.is_empty());
}

#[tokio::test(start_paused = true)]
async fn spans_go_together_after_a_second_or_when_they_fill_a_request() {
    let rig = Rig::start(1.0, Recorder::default());
    let begun = Instant::now();
    rig.request();
    tokio::time::sleep(Duration::from_millis(500)).await;
    rig.request();
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(rig.collector.taken().len(), 2);
    assert_eq!(*rig.collector.asked.lock().unwrap(), [begun + Duration::from_secs(1)]);
    for _ in 0..1100 {
        rig.request();
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(rig.collector.taken().len() >= 514, "a full request waits for nothing");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(rig.collector.taken().len(), 1102);
    assert!(rig.collector.times_asked() <= 5, "{}", rig.collector.times_asked());
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_fails_for_now_gets_the_same_again_and_what_has_no_room_is_counted() {
    let asked_to_wait = Err(ExportError::ForNow {
        reason: "busy".to_owned(),
        retry_after: Some(Duration::from_secs(7)),
    });
    let rig = Rig::start(1.0, Recorder::answering([for_now(), for_now(), asked_to_wait]));
    rig.request();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(rig.collector.times_asked(), 1);
    let more = WAITING as u64 + 10;
    for _ in 0..more {
        rig.request();
    }
    assert_eq!(rig.dropped("queue_full"), 10);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(rig.metrics.spans_exported.get(), more + 1 - 10);
    let asked = rig.collector.asked.lock().unwrap().clone();
    assert!(asked[1] - asked[0] >= Duration::from_millis(500), "{asked:?}");
    assert!(asked[2] - asked[1] >= Duration::from_secs(1), "{asked:?}");
    assert!(asked[3] - asked[2] >= Duration::from_secs(7), "{asked:?}");
    assert_eq!(rig.dropped("refused") + rig.dropped("stopped"), 0);
}

#[tokio::test(start_paused = true)]
async fn what_the_collector_refuses_is_counted_and_not_sent_again() {
    let partial = ExportTraceServiceResponse {
        partial_success: Some(ExportTracePartialSuccess {
            rejected_spans: 2,
            error_message: "too old".to_owned(),
        }),
    };
    let refused = Err(ExportError::Refused("it answered 400".to_owned()));
    let mut rig =
        Rig::start(1.0, Recorder::answering([refused, Ok(partial.encode_to_vec().into())]));
    rig.request();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(rig.dropped("refused"), 1);
    for _ in 0..3 {
        rig.request();
    }
    rig.flush().await;
    assert_eq!((rig.dropped("refused"), rig.metrics.spans_exported.get()), (3, 1));
    assert_eq!(rig.collector.times_asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_stop_sends_what_waits_and_counts_what_is_not_taken() {
    let mut rig = Rig::start(1.0, Recorder::default());
    for _ in 0..700 {
        rig.request();
    }
    assert_eq!(rig.flush().await.len(), 700, "at once, without gathering");

    let mut rig = Rig::start(1.0, Recorder::answering([for_now(), for_now()]));
    rig.request();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    rig.request();
    let begun = Instant::now();
    rig.flush().await;
    assert_eq!(begun.elapsed(), Duration::ZERO, "one more try, and no wait");
    assert_eq!((rig.collector.times_asked(), rig.dropped("stopped")), (2, 2));

    let mut rig = Rig::start(1.0, Recorder { hangs: true, ..Recorder::default() });
    rig.request();
    rig.stop.flush.cancel();
    tokio::time::sleep(Duration::from_secs(1)).await;
    rig.stop.abort.cancel();
    assert!(rig.exporting.join_next().await.unwrap().is_ok());
    assert_eq!(rig.dropped("stopped"), 1);
}

#[test]
fn the_sender_is_named() {
    let resource = resource();
    let of = |key: &'static str| resource.get(&key.into()).unwrap().to_string();
    assert_eq!(of("service.version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(of("service.instance.id").len(), 32);
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        assert_eq!(of("service.name"), SERVICE);
    }
}
