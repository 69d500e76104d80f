//! Traces, where the settings want them.

use super::SidecarError;
use crate::clock::Clock;
use crate::config::Tracing;
use crate::telemetry::traces::Exporter;
use crate::telemetry::{Metrics, Traces};
use crate::upstream::CollectorClient;

/// The metrics, with what begins spans and the task that sends them where there is a collector.
pub(super) async fn metrics(
    settings: &Tracing,
    clock: &Clock,
) -> Result<(Metrics, Option<Exporter<CollectorClient>>), SidecarError> {
    let mut metrics = Metrics::new();
    let Some(endpoint) = settings.otlp_endpoint.clone() else { return Ok((metrics, None)) };
    let clock = clock.clone();
    let building = move || CollectorClient::new(&endpoint, clock);
    let collector = tokio::task::spawn_blocking(building).await??;
    let (traces, exporter) = Traces::new(settings.sample_ratio, &metrics, collector);
    metrics.traces = Some(traces);
    Ok((metrics, Some(exporter)))
}
