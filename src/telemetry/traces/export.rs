//! From spans that ended to the collector: a bounded queue, and the one task that empties it.
//!
//! What the collector does not take for now is kept and tried again; meanwhile the queue fills, and
//! further spans are dropped and counted.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use opentelemetry::Context;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use prometheus::IntCounter;
use prost::Message as _;
use tokio::sync::Notify;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::super::Metrics;

/// Spans that wait for the exporter.
pub(super) const WAITING: usize = 2048;
/// Spans in one request to the collector.
pub(super) const BATCH: usize = 512;
/// How long a span waits for others to share its request.
const GATHER: Duration = Duration::from_secs(1);
/// The first wait before what failed is tried again, doubled each time, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Where spans are sent.
pub trait Collector: Send + Sync + 'static {
    /// Sends an OTLP request, in protobuf, once, and returns the answer's body.
    fn export(&self, request: Bytes) -> impl Future<Output = Result<Bytes, ExportError>> + Send;
}

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// For now; the collector may ask for a wait.
    #[error("{reason}")]
    ForNow { reason: String, retry_after: Option<Duration> },
    /// For good.
    #[error("{0}")]
    Refused(String),
}

/// How the exporter is told to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Send what waits, each once more, and end.
    pub flush: CancellationToken,
    /// End now.
    pub abort: CancellationToken,
}

/// What takes the spans that end.
#[derive(Debug)]
pub(super) struct Outbox {
    spans: Sender<SpanData>,
    /// Told when there is a full request of them.
    many: Arc<Notify>,
    dropped: IntCounter,
}

impl SpanProcessor for Outbox {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            self.dropped.inc();
        } else if self.spans.capacity() <= WAITING - BATCH {
            self.many.notify_one();
        }
    }

    // The exporter's task does both, without blocking anyone.
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Brings spans to the collector; see the module.
pub struct Exporter<C> {
    spans: Receiver<SpanData>,
    many: Arc<Notify>,
    collector: C,
    resource: ResourceAttributesWithSchema,
    counts: Counts,
    /// Taken out of the queue, not yet encoded.
    gathered: Vec<SpanData>,
    /// On its way, with the number of its spans.
    request: Option<(Bytes, u64)>,
    /// How often in a row the collector failed.
    failures: u32,
}

#[derive(Debug)]
struct Counts {
    exported: IntCounter,
    refused: IntCounter,
    stopped: IntCounter,
}

impl<C> fmt::Debug for Exporter<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter").field("failures", &self.failures).finish_non_exhaustive()
    }
}

pub(super) fn new<C: Collector>(
    resource: &Resource,
    metrics: &Metrics,
    collector: C,
) -> (Outbox, Exporter<C>) {
    let (sender, spans) = channel(WAITING);
    let many = Arc::<Notify>::default();
    let dropped = |reason| metrics.spans_dropped.with_label_values(&[reason]);
    let outbox = Outbox { spans: sender, many: Arc::clone(&many), dropped: dropped("queue_full") };
    let counts = Counts {
        exported: metrics.spans_exported.clone(),
        refused: dropped("refused"),
        stopped: dropped("stopped"),
    };
    let exporter = Exporter {
        spans,
        many,
        collector,
        resource: resource.into(),
        counts,
        gathered: Vec::new(),
        request: None,
        failures: 0,
    };
    (outbox, exporter)
}

impl<C: Collector> Exporter<C> {
    /// Sends spans until told to stop; what is not sent then is dropped and counted.
    pub async fn run(mut self, stop: Stop) {
        tokio::select! {
            biased;
            () = stop.abort.cancelled() => {}
            () = self.export(&stop.flush) => {}
        }
        self.spans.close();
        let waiting = self.gathered.len() + self.spans.len();
        let left = waiting as u64 + self.request.map_or(0, |(_, spans)| spans);
        if left > 0 {
            self.counts.stopped.inc_by(left);
            warn!(trace.spans = left, "spans are dropped: the collector did not take them in time");
        }
    }

    /// Sends until told to flush and nothing is left, or the collector fails then.
    async fn export(&mut self, flush: &CancellationToken) {
        loop {
            if self.request.is_none() {
                let flushing = flush.run_until_cancelled(self.gather()).await.is_none();
                self.encode();
                if self.request.is_none() && flushing {
                    return;
                }
            }
            let Some((request, _)) = &self.request else { continue };
            let flushing = flush.is_cancelled();
            let answer = self.collector.export(request.clone()).await;
            let Some(wait) = self.judge(answer) else { continue };
            if flushing {
                return;
            }
            // A flush ends the wait, and has its own try.
            flush.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
    }

    /// Waits for a span, and some time for more.
    async fn gather(&mut self) {
        if self.gathered.is_empty() {
            match self.spans.recv().await {
                Some(span) => self.gathered.push(span),
                // Nobody is left who could begin one.
                None => std::future::pending().await,
            }
        }
        if self.spans.len() < BATCH {
            tokio::select! {
                () = self.many.notified() => {}
                () = tokio::time::sleep(GATHER) => {}
            }
        }
    }

    /// Makes the next request of what waits, where anything does.
    fn encode(&mut self) {
        while self.gathered.len() < BATCH
            && let Ok(span) = self.spans.try_recv()
        {
            self.gathered.push(span);
        }
        let spans = self.gathered.len() as u64;
        if spans > 0 {
            let spans_of = std::mem::take(&mut self.gathered);
            let resource_spans = group_spans_by_resource_and_scope(spans_of, &self.resource);
            let request = ExportTraceServiceRequest { resource_spans };
            self.request = Some((request.encode_to_vec().into(), spans));
        }
    }

    /// Counts what came of the request; returns how long to wait before it is sent again.
    fn judge(&mut self, answer: Result<Bytes, ExportError>) -> Option<Duration> {
        let spans = self.request.as_ref().map_or(0, |(_, spans)| *spans);
        match answer {
            Ok(body) => {
                let (refused, why) = refused(&body);
                let refused = refused.min(spans);
                self.counts.exported.inc_by(spans - refused);
                self.counts.refused.inc_by(refused);
                if refused > 0 {
                    self.failing(&why);
                } else if std::mem::take(&mut self.failures) > 0 {
                    info!("the collector takes spans again");
                }
            }
            Err(ExportError::Refused(why)) => {
                self.counts.refused.inc_by(spans);
                self.failing(&why);
            }
            Err(ExportError::ForNow { reason, retry_after }) => {
                self.failing(&reason);
                return Some(self.wait(retry_after));
            }
        }
        self.request = None;
        None
    }

    /// Tells the first failure in a row.
    fn failing(&mut self, why: &str) {
        if self.failures == 0 {
            warn!(
                trace.collector.error = why,
                "the collector does not take spans: what it misses is counted in \
                 gmfy_trace_spans_dropped_total"
            );
        }
        self.failures = self.failures.saturating_add(1);
    }

    /// Half of it at least, so that a fleet does not come back at one time.
    fn wait(&self, retry_after: Option<Duration>) -> Duration {
        let doubled = RETRY.0.saturating_mul(1 << self.failures.saturating_sub(1).min(8));
        let jittered = doubled.min(RETRY.1).mul_f64(rand::random_range(0.5..=1.0));
        jittered.max(retry_after.unwrap_or_default().min(RETRY.1))
    }
}

/// How many spans an answer says were refused, and why. What can't be read says nothing.
fn refused(body: &Bytes) -> (u64, String) {
    let answer = ExportTraceServiceResponse::decode(&**body).unwrap_or_default();
    let partial = answer.partial_success.unwrap_or_default();
    let why: String = partial.error_message.chars().take(200).collect();
    (u64::try_from(partial.rejected_spans).unwrap_or_default(), why)
}
