//! How reads were answered, by route.

use std::sync::Arc;

use prometheus::IntCounter;
use serde::Serialize;

use super::key::Route;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::READ_RESULTS;

/// How a read was answered, in the order of [`READ_RESULTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadResult {
    Hit,
    Stale,
    StaleIfError,
    Miss,
    Expired,
    Forced,
    Bypass,
    Failed,
}

/// The cache as it stands, for people.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CacheStatus {
    pub entries: u64,
    /// Against `max_bytes`.
    pub bytes: u64,
    pub max_bytes: u64,
    pub routes: Vec<RouteStatus>,
}

/// What was read of one route since the start.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RouteStatus {
    pub route: &'static str,
    /// Reads that might have been answered from the cache.
    pub requests: u64,
    /// Those that were, stale answers included.
    pub hits: u64,
    /// The share of the one in the other; none before the first read.
    pub hit_ratio: Option<f64>,
}

/// The series of `gmfy_cache_requests_total`, found once.
#[derive(Debug)]
pub(super) struct Counters {
    metrics: Arc<Metrics>,
    requests: [[IntCounter; READ_RESULTS.len()]; Route::ALL.len()],
}

impl Counters {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        let requests = Route::ALL.map(|route| {
            READ_RESULTS
                .map(|result| metrics.cache_requests.with_label_values(&[route.as_str(), result]))
        });
        Self { metrics, requests }
    }

    pub(super) fn count(&self, route: Route, result: ReadResult) {
        if let Some(counter) =
            self.requests.get(route as usize).and_then(|r| r.get(result as usize))
        {
            counter.inc();
        }
    }

    pub(super) fn holds(&self, entries: u64, bytes: u64) {
        self.metrics.cache_entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.metrics.cache_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    pub(super) fn routes(&self) -> Vec<RouteStatus> {
        let status = |route: Route| {
            let of = |result: ReadResult| {
                let counters = self.requests.get(route as usize);
                counters.and_then(|c| c.get(result as usize)).map_or(0, IntCounter::get)
            };
            let hits = [ReadResult::Hit, ReadResult::Stale, ReadResult::StaleIfError];
            let asked =
                [ReadResult::Miss, ReadResult::Expired, ReadResult::Forced, ReadResult::Failed];
            let hits: u64 = hits.map(of).iter().sum();
            let requests = hits + asked.map(of).iter().sum::<u64>();
            #[allow(clippy::cast_precision_loss, reason = "a ratio for people")]
            let hit_ratio = (requests > 0).then(|| hits as f64 / requests as f64);
            RouteStatus { route: route.as_str(), requests, hits, hit_ratio }
        };
        Route::ALL.map(status).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_result_has_its_series_and_its_part_in_the_ratio() {
        use ReadResult::{Bypass, Expired, Failed, Forced, Hit, Miss, Stale, StaleIfError};
        let metrics = Arc::new(Metrics::new());
        let counters = Counters::new(Arc::clone(&metrics));
        let all = [Hit, Stale, StaleIfError, Miss, Expired, Forced, Bypass, Failed];
        for (result, label) in all.into_iter().zip(READ_RESULTS) {
            counters.count(Route::Version, result);
            let series = metrics.cache_requests.with_label_values(&["version", label]);
            assert_eq!(series.get(), 1, "{label}");
        }
        let routes = counters.routes();
        let version = routes.iter().find(|status| status.route == "version").unwrap();
        assert_eq!((version.hits, version.requests), (3, 7));
        let users = routes.iter().find(|status| status.route == "users").unwrap();
        assert_eq!(users.hit_ratio, None);
    }
}
