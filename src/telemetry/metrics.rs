//! Every metric family, registered in one place, every series at 0 from the start.

use std::sync::Arc;

use prometheus::{
    Encoder as _, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::heartbeat::Heartbeats;
use super::ledger::{Ledger, LedgerCollector};
use super::recent::Recent;
use super::stream::EventStream;
use super::traces::Traces;

/// From 50 µs to 2.5 s: what an acknowledgement, a commit or a local answer takes.
const LOCAL_SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0,
    2.5,
];
/// From 1 ms to 60 s: what GMFY takes.
const UPSTREAM_SECONDS: &[f64] =
    &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// From 10 ms to a day: from acceptance to delivery.
const LAG_SECONDS: &[f64] = &[
    0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0, 21600.0,
    86400.0,
];
const COMMIT_EVENTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// Values of the label `endpoint`: the calls of GMFY's API.
pub const ENDPOINTS: [&str; 13] = [
    "create_event",
    "create_batch_events",
    "create_payment",
    "create_resend_code",
    "get_users",
    "get_user",
    "get_user_badges",
    "get_rating_top_users",
    "get_challenge_top_users",
    "get_payment",
    "get_notifications",
    "get_unread_notifications",
    "get_api_version",
];
/// Values of the label `outcome`: what came of one request to GMFY.
pub const OUTCOMES: [&str; 6] =
    ["delivered", "transient", "unknown", "too_large", "rejected", "misconfigured"];
/// Values of the label `state`; exactly one is 1.
pub const UPSTREAM_STATES: [&str; 5] = ["up", "retrying", "open", "paused", "misconfigured"];
/// Values of the label `reason` of refused events and requests for events.
pub const REJECT_REASONS: [&str; 15] = [
    "invalid",
    "not_json",
    "too_large",
    "queue_full",
    "disk_full",
    "unauthorized",
    "media_type",
    "outcome_unknown",
    "stopping",
    "busy",
    "store_failed",
    "host",
    "timeout",
    "underway",
    "key_reused",
];
/// Values of the label `result` of a reload: taken, or refused whole because something is invalid.
pub const RELOAD_RESULTS: [&str; 2] = ["applied", "refused"];
/// Values of the label `reason` of spans that don't reach the collector.
pub const SPAN_DROP_REASONS: [&str; 3] = ["queue_full", "refused", "stopped"];
/// Values of the label `route` of what is read through the sidecar.
pub const READ_ROUTES: [&str; 9] = [
    "users",
    "user",
    "badges",
    "ratings",
    "challenges",
    "payments",
    "notifications",
    "unread_notifications",
    "version",
];
/// Values of the label `result`: how a read was answered. `miss`, `expired` and `forced` asked GMFY
/// (nothing was there, it was too old or superseded, the caller said `no-cache`), as did `bypass`
/// (the route isn't cached); `failed` had no answer.
pub const READ_RESULTS: [&str; 8] =
    ["hit", "stale", "stale_if_error", "miss", "expired", "forced", "bypass", "failed"];

/// Every metric of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// The account of every event; exported as `gmfy_events_*`, `gmfy_queue_*`.
    pub ledger: Arc<Ledger>,
    /// No metric, but kept by the same parts: the beats that `/livez` looks at.
    pub heartbeats: Heartbeats,
    /// No metrics either: what becomes of events, as it happens, and what became of the last ones.
    pub stream: Arc<EventStream>,
    pub recent: Recent,
    /// Nor this: what begins spans, where they are wanted.
    pub traces: Option<Traces>,
    pub events_rejected: IntCounterVec,
    /// Identities forgotten before `events.dedupe_window` was over.
    pub dedupe_forgotten: IntCounter,
    /// Worked out at each scrape.
    pub queue_oldest_age: Gauge,
    pub queue_disk_free: IntGauge,
    pub spill_events: IntGauge,
    pub spill_bytes: IntGauge,
    pub spill_forwarded: IntCounter,
    pub config_reloads: IntCounterVec,
    pub commit_duration: Histogram,
    pub commit_events: Histogram,
    pub upstream_requests: IntCounterVec,
    pub upstream_request_duration: HistogramVec,
    pub upstream_retries: IntCounterVec,
    pub upstream_state: IntGaugeVec,
    pub delivery_lag: Histogram,
    pub cache_requests: IntCounterVec,
    pub cache_entries: IntGauge,
    pub cache_bytes: IntGauge,
    pub http_requests: IntCounterVec,
    pub http_request_duration: HistogramVec,
    pub spans_exported: IntCounter,
    pub spans_dropped: IntCounterVec,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers every family.
    #[must_use]
    #[allow(clippy::expect_used, reason = "names and labels are literals, registered once, tested")]
    pub fn new() -> Self {
        Self::register().expect("the families have valid, distinct names")
    }

    fn register() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let ledger = Arc::<Ledger>::default();
        registry.register(Box::new(LedgerCollector::new(Arc::clone(&ledger))))?;
        let metrics = Self {
            events_rejected: counters(
                &registry,
                "gmfy_events_rejected_total",
                "Events refused, by reason; a body that can't be read counts as one.",
                &["reason"],
            )?,
            dedupe_forgotten: counter(
                &registry,
                "gmfy_dedupe_forgotten_total",
                "Identities forgotten before events.dedupe_window was over, for \
                 events.dedupe_entries was reached.",
            )?,
            queue_oldest_age: seconds(
                &registry,
                "gmfy_queue_oldest_age_seconds",
                "Age of the oldest event not yet settled; 0 when there is none.",
            )?,
            queue_disk_free: gauge(
                &registry,
                "gmfy_queue_disk_free_bytes",
                "Bytes free for this process on the disk that holds the queue.",
            )?,
            spill_events: gauge(
                &registry,
                "gmfy_spill_events",
                "Events on this replica's disk that wait for NATS (queue.nats.spill).",
            )?,
            spill_bytes: gauge(
                &registry,
                "gmfy_spill_bytes",
                "Bytes that the spill takes on this replica's disk.",
            )?,
            spill_forwarded: counter(
                &registry,
                "gmfy_spill_forwarded_total",
                "Events of the spill that NATS has since.",
            )?,
            config_reloads: counters(
                &registry,
                "gmfy_config_reloads_total",
                "Times the settings were read again, by what came of it.",
                &["result"],
            )?,
            commit_duration: histogram(
                &registry,
                "gmfy_commit_duration_seconds",
                "Time from a group commit's first write until it is on disk.",
                LOCAL_SECONDS,
            )?,
            commit_events: histogram(
                &registry,
                "gmfy_commit_events",
                "Events in a group commit.",
                COMMIT_EVENTS,
            )?,
            upstream_requests: counters(
                &registry,
                "gmfy_upstream_requests_total",
                "Requests to GMFY, by what came of them.",
                &["endpoint", "outcome"],
            )?,
            upstream_request_duration: histograms(
                &registry,
                "gmfy_upstream_request_duration_seconds",
                "Time from sending a request to GMFY until its answer is read.",
                &["endpoint"],
                UPSTREAM_SECONDS,
            )?,
            upstream_retries: counters(
                &registry,
                "gmfy_upstream_retries_total",
                "Requests to GMFY that were sent again.",
                &["endpoint"],
            )?,
            upstream_state: gauges(
                &registry,
                "gmfy_upstream_state",
                "1 for the state that GMFY is in as seen by delivery, 0 for the others.",
                &["state"],
            )?,
            delivery_lag: histogram(
                &registry,
                "gmfy_delivery_lag_seconds",
                "Time from an event's acceptance to its delivery.",
                LAG_SECONDS,
            )?,
            cache_requests: counters(
                &registry,
                "gmfy_cache_requests_total",
                "Reads through the sidecar, by how they were answered.",
                &["route", "result"],
            )?,
            cache_entries: gauge(
                &registry,
                "gmfy_cache_entries",
                "Answers in the read cache, also those that only serve while GMFY fails.",
            )?,
            cache_bytes: gauge(
                &registry,
                "gmfy_cache_bytes",
                "What the read cache holds against reads.max_bytes, keys and overhead included.",
            )?,
            http_requests: counters(
                &registry,
                "gmfy_http_requests_total",
                "Requests answered by the application listener.",
                &["route", "method", "status"],
            )?,
            http_request_duration: histograms(
                &registry,
                "gmfy_http_request_duration_seconds",
                "Time from a request's head until its answer's head.",
                &["route"],
                LOCAL_SECONDS,
            )?,
            spans_exported: counter(
                &registry,
                "gmfy_trace_spans_exported_total",
                "Spans that the collector took.",
            )?,
            spans_dropped: counters(
                &registry,
                "gmfy_trace_spans_dropped_total",
                "Spans that did not reach the collector, by reason.",
                &["reason"],
            )?,
            ledger,
            heartbeats: Heartbeats::default(),
            stream: Arc::default(),
            recent: Recent::default(),
            traces: None,
            registry: registry.clone(),
        };
        let build = gauges(
            &registry,
            "gmfy_build_info",
            "1, labelled with what was built.",
            &["version", "revision"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION"), env!("GMFY_BUILD_REVISION")]).set(1);
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        metrics.create_series();
        Ok(metrics)
    }

    /// Creates every series whose labels are known beforehand, so that rates start at 0.
    fn create_series(&self) {
        for result in RELOAD_RESULTS {
            self.config_reloads.with_label_values(&[result]);
        }
        for reason in REJECT_REASONS {
            self.events_rejected.with_label_values(&[reason]);
        }
        for endpoint in ENDPOINTS {
            for outcome in OUTCOMES {
                self.upstream_requests.with_label_values(&[endpoint, outcome]);
            }
            self.upstream_request_duration.with_label_values(&[endpoint]);
            self.upstream_retries.with_label_values(&[endpoint]);
        }
        for route in READ_ROUTES {
            for result in READ_RESULTS {
                self.cache_requests.with_label_values(&[route, result]);
            }
        }
        for state in UPSTREAM_STATES {
            self.upstream_state.with_label_values(&[state]).set(i64::from(state == "up"));
        }
        for reason in SPAN_DROP_REASONS {
            self.spans_dropped.with_label_values(&[reason]);
        }
    }

    /// Sets the one state that GMFY is in.
    pub fn set_upstream_state(&self, current: &str) {
        for state in UPSTREAM_STATES {
            self.upstream_state.with_label_values(&[state]).set(i64::from(state == current));
        }
    }

    /// All families in Prometheus' text format, version 0.0.4.
    ///
    /// # Errors
    /// When a family can't be written, which its registration rules out.
    pub fn encode(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::with_capacity(32 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    let family = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    let counter = IntCounter::new(name, help)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    let family = IntGauge::new(name, help)?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

fn seconds(registry: &Registry, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
    let family = Gauge::new(name, help)?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

fn gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    let family = IntGaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

fn histogram(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: &[f64],
) -> Result<Histogram, prometheus::Error> {
    let family = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: &[f64],
) -> Result<HistogramVec, prometheus::Error> {
    let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    let family = HistogramVec::new(opts, labels)?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::ledger::DeadLetterReason;

    #[test]
    fn every_series_is_there_from_the_start() {
        let text = String::from_utf8(Metrics::new().encode().unwrap()).unwrap();
        for line in [
            "gmfy_events_accepted_total{kind=\"unique\"} 0",
            "gmfy_events_dropped_total{reason=\"damaged\"} 0",
            "gmfy_upstream_state{state=\"up\"} 1",
            "gmfy_upstream_requests_total{endpoint=\"create_batch_events\",outcome=\"unknown\"} 0",
            "gmfy_queue_events 0",
            "gmfy_cache_requests_total{result=\"stale_if_error\",route=\"unread_notifications\"} 0",
            "gmfy_cache_bytes 0",
        ] {
            assert!(text.contains(line), "{line} is missing from\n{text}");
        }
    }

    #[test]
    fn the_ledger_is_exported_as_it_stands() {
        let metrics = Metrics::new();
        metrics.ledger.update(|counts| {
            counts.accepted[1] = 7;
            counts.appended = 7;
            counts.settled = 3;
            counts.delivered = 2;
            counts.dead_lettered.insert(DeadLetterReason::Rejected, 1);
        });
        let text = String::from_utf8(metrics.encode().unwrap()).unwrap();
        assert!(text.contains("gmfy_events_accepted_total{kind=\"action\"} 7"));
        assert!(text.contains("gmfy_queue_events 4"));
        assert!(text.contains("gmfy_events_dead_lettered_total{reason=\"rejected\"} 1"));
    }
}
