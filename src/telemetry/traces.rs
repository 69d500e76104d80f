//! Traces: spans from a request's acceptance by the commit of its events to their batch, sent to a
//! collector by OTLP.
//!
//! - A request's span is the caller's child, by W3C Trace Context; the commit of its events is its
//!   child. A batch has events of many requests, so its span is of a trace of its own, and *links*
//!   those requests' spans. Which span accepted which events is kept in memory only, bounded
//!   (`origins`): after a restart batches go without links.
//! - What a span holds is in `spans`: neither users, nor what events hold, nor keys.
//! - A span that ends is handed to a bounded queue, and dropped and counted where that is full:
//!   nothing that is traced ever waits for the collector (`export`).
//!
//! Where `tracing.otlp_endpoint` isn't set there is no [`Traces`], and nothing of this is done.

mod carrier;
mod export;
mod origins;
mod sampling;
mod spans;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderMap;
use opentelemetry::trace::{
    Link, SpanBuilder, SpanContext, SpanId, SpanKind, TraceContextExt as _, TraceId, Tracer as _,
    TracerProvider as _,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

pub use export::{Collector, ExportError, Exporter, Stop};
pub use spans::{BatchFacts, Span};

use super::Metrics;
use super::request::Current;
use export::Outbox;
use origins::Origins;
use sampling::Sampling;

/// The name that spans go by where `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say none.
const SERVICE: &str = env!("CARGO_PKG_NAME");
/// Links of one span; further ones are counted in it.
const LINKS: u32 = 128;

/// Begins spans. Clones do the same.
#[derive(Clone, Debug)]
pub struct Traces {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    tracer: SdkTracer,
    origins: Mutex<Origins>,
}

impl Traces {
    /// Traces of which a share of `ratio` is sampled, unless the caller decided that; and the task
    /// that brings them to the collector. Drops and exports are counted in `metrics`.
    #[must_use]
    pub fn new<C: Collector>(ratio: f64, metrics: &Metrics, collector: C) -> (Self, Exporter<C>) {
        let resource = resource();
        let (outbox, exporter) = export::new(&resource, metrics, collector);
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampling::new(ratio))
            .with_max_links_per_span(LINKS)
            .with_span_processor::<Outbox>(outbox)
            .with_resource(resource)
            .build();
        let scope =
            InstrumentationScope::builder(SERVICE).with_version(env!("CARGO_PKG_VERSION")).build();
        let shared =
            Shared { tracer: provider.tracer_with_scope(scope), origins: Mutex::default() };
        (Self { shared: Arc::new(shared) }, exporter)
    }

    /// Begins the span of a caller's request; `method` and `route` are of a few known ones.
    #[must_use]
    pub fn request(&self, method: &'static str, route: &'static str, headers: &HeaderMap) -> Span {
        let parent = match carrier::extract(headers) {
            Some(caller) => Context::new().with_remote_span_context(caller),
            None => Context::new(),
        };
        let mut span = self.start(route, SpanKind::Server, Vec::new(), &parent);
        span.is_request(method, route);
        span
    }

    /// Begins the span of the commit of a request's events.
    #[must_use]
    pub fn commit(&self, request: &Accepting) -> Span {
        let parent = Context::new().with_remote_span_context(request.0.clone());
        self.start("commit", SpanKind::Internal, Vec::new(), &parent)
    }

    /// Notes that the events from `first` to `last` were accepted by this request; to be called in
    /// their order, before they are delivered.
    pub fn accepted(&self, request: &Accepting, first: u64, last: u64) {
        let mut origins = self.shared.origins.lock().unwrap_or_else(PoisonError::into_inner);
        origins.note(first, last, &request.0);
    }

    /// Begins the span of one sending of a batch, linked to the requests that accepted its events,
    /// whose ascending `sequences` these are.
    #[must_use]
    pub fn batch(&self, facts: &BatchFacts, sequences: impl Iterator<Item = u64>) -> Span {
        let linked = {
            let origins = self.shared.origins.lock().unwrap_or_else(PoisonError::into_inner);
            origins.of(sequences)
        };
        let links = linked.into_iter().map(|context| Link::new(context, Vec::new(), 0)).collect();
        let mut span = self.start(spans::BATCH, SpanKind::Client, links, &Context::new());
        span.is_batch(facts);
        span
    }

    fn start(
        &self,
        name: &'static str,
        kind: SpanKind,
        links: Vec<Link>,
        parent: &Context,
    ) -> Span {
        let mut builder = SpanBuilder::from_name(name).with_kind(kind);
        if !links.is_empty() {
            builder = builder.with_links(links);
        }
        Span::new(self.clone(), self.shared.tracer.build_with_context(builder, parent))
    }
}

/// A span that others are to be children of.
#[derive(Clone, Debug)]
pub struct Scope {
    traces: Traces,
    context: SpanContext,
}

impl Scope {
    pub(super) fn trace_id(&self) -> TraceId {
        self.context.trace_id()
    }

    pub(super) fn span_id(&self) -> SpanId {
        self.context.span_id()
    }
}

/// The sampled request at hand, for the commit of its events; none where it isn't sampled.
#[must_use]
pub fn accepting() -> Option<Box<Accepting>> {
    let sampled = |scope: &Scope| {
        scope.context.is_sampled().then(|| Box::new(Accepting(scope.context.clone())))
    };
    Current::with_scope(sampled).flatten()
}

/// See [`accepting`].
#[derive(Clone, Debug)]
pub struct Accepting(SpanContext);

/// Begins the span of a call of GMFY's API that the request at hand makes.
#[must_use]
pub fn call(method: &'static str, endpoint: &'static str) -> Option<Span> {
    Current::with_scope(|scope| {
        let parent = Context::new().with_remote_span_context(scope.context.clone());
        let mut span = scope.traces.start(endpoint, SpanKind::Client, Vec::new(), &parent);
        span.is_call(method, endpoint);
        span
    })
}

/// Has a request that goes out carry the trace of the one at hand.
pub fn propagate(headers: &mut HeaderMap) {
    Current::with_scope(|scope| carrier::inject(&scope.context, headers));
}

/// Who sends the spans: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` have the last word.
fn resource() -> Resource {
    let unnamed = |name: &opentelemetry::Value| name.as_str().starts_with("unknown_service");
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let instance = format!("{:032x}", rand::random::<u128>());
    let instance = KeyValue::new("service.instance.id", instance);
    let detected = Resource::builder().build();
    let mut builder = Resource::builder_empty().with_attributes([version, instance]);
    for (key, value) in &detected {
        builder = builder.with_attribute(KeyValue::new(key.clone(), value.clone()));
    }
    if detected.get(&"service.name".into()).as_ref().is_none_or(unnamed) {
        builder = builder.with_service_name(SERVICE);
    }
    builder.build()
}
