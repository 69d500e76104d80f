//! What is sampled: what the caller sampled; a batch that has events of sampled requests, lest
//! their traces end at the commit; of all else a share.

use opentelemetry::trace::{Link, SpanKind, TraceId, TraceState};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, SamplingResult, ShouldSample};

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Sampling {
    unlinked: Sampler,
}

impl Sampling {
    pub(super) fn new(ratio: f64) -> Self {
        let root = Box::new(Sampler::TraceIdRatioBased(ratio));
        Self { unlinked: Sampler::ParentBased(root) }
    }
}

impl ShouldSample for Sampling {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        if links.iter().any(|link| link.span_context.is_sampled()) {
            return SamplingResult {
                decision: SamplingDecision::RecordAndSample,
                attributes: Vec::new(),
                trace_state: TraceState::NONE,
            };
        }
        self.unlinked.should_sample(parent, trace, name, kind, attributes, links)
    }
}
