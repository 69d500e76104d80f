//! How reads were answered, by route.

use std::sync::Arc;

use prometheus::IntCounter;

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

/// The cache as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct CacheStatus {
    pub entries: u64,
    /// Against `reads.max_bytes`.
    pub bytes: u64,
    pub routes: Vec<RouteStatus>,
}

/// What was read of one route since the start.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteStatus {
    pub route: &'static str,
    /// Reads by the label `result`.
    pub results: [(&'static str, u64); READ_RESULTS.len()],
    /// The share of those answered from the cache, stale answers included, in those that might
    /// have been; none before the first.
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
            let counters = self.requests.get(route as usize);
            let of = |result: usize| {
                counters.and_then(|counters| counters.get(result)).map_or(0, IntCounter::get)
            };
            let results: [_; READ_RESULTS.len()] = std::array::from_fn(|result| {
                (READ_RESULTS.get(result).copied().unwrap_or(""), of(result))
            });
            let hits = [ReadResult::Hit, ReadResult::Stale, ReadResult::StaleIfError];
            let hits: u64 = hits.map(|result| of(result as usize)).iter().sum();
            let all: u64 = results.iter().map(|(_, count)| count).sum();
            let asked = all - of(ReadResult::Bypass as usize);
            #[allow(clippy::cast_precision_loss, reason = "a ratio for people")]
            let hit_ratio = (asked > 0).then(|| hits as f64 / asked as f64);
            RouteStatus { route: route.as_str(), results, hit_ratio }
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
        assert_eq!(version.results, READ_RESULTS.map(|label| (label, 1)));
        assert_eq!(version.hit_ratio, Some(3.0 / 7.0));
        let users = routes.iter().find(|status| status.route == "users").unwrap();
        assert_eq!(users.hit_ratio, None);
    }
}
