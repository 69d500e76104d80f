//! What is counted of every request, under labels that callers can't multiply.

use std::sync::Arc;
use std::time::Instant;

use http::{Method, StatusCode};
use prometheus::{Histogram, IntCounter};

use super::problem::Problem;
use super::route::Route;
use crate::telemetry::Metrics;

/// The statuses that each kind of route answers by itself; GMFY may add others.
const EVENT_STATUSES: [u16; 13] = [202, 400, 401, 405, 408, 409, 413, 414, 415, 421, 422, 500, 503];
const WRITE_STATUSES: [u16; 12] = [200, 400, 401, 408, 413, 414, 415, 421, 500, 502, 503, 504];
const READ_STATUSES: [u16; 10] = [200, 304, 400, 401, 414, 421, 500, 502, 503, 504];

/// The families of the application listener.
#[derive(Debug)]
pub(super) struct HttpMetrics {
    metrics: Arc<Metrics>,
    /// In the order of [`Route::ALL`].
    durations: Vec<Histogram>,
    /// The answers that events get, resolved: 202 to a POST, in the order of [`Route::ALL`].
    accepted: Vec<Option<IntCounter>>,
}

impl HttpMetrics {
    /// Creates every series that can be known beforehand.
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        for route in Route::ALL {
            let (methods, statuses): (&[&str], &[u16]) = match route {
                Route::Other => (&["GET", "POST"], &[400, 401, 404, 414, 421, 503]),
                route if route.takes_events() => (&["POST"], &EVENT_STATUSES),
                route if route.is_write() => (&["POST"], &WRITE_STATUSES),
                _ => (&["GET"], &READ_STATUSES),
            };
            for method in methods {
                for status in statuses {
                    let labels = [route.template(), method, &status.to_string()];
                    metrics.http_requests.with_label_values(&labels);
                }
            }
        }
        let duration =
            |route: Route| metrics.http_request_duration.with_label_values(&[route.template()]);
        let durations = Route::ALL.into_iter().map(duration).collect();
        let accepted = |route: Route| {
            let labels = [route.template(), "POST", StatusCode::ACCEPTED.as_str()];
            // Only the routes of events have such a series.
            route.takes_events().then(|| metrics.http_requests.with_label_values(&labels))
        };
        let accepted = Route::ALL.into_iter().map(accepted).collect();
        Self { metrics, durations, accepted }
    }

    /// Counts an answer.
    pub(super) fn answered(
        &self,
        route: Route,
        method: &Method,
        status: StatusCode,
        began: Instant,
    ) {
        let is_accepted = method == Method::POST && status == StatusCode::ACCEPTED;
        match self.accepted.get(route as usize) {
            Some(Some(accepted)) if is_accepted => accepted.inc(),
            _ => {
                let labels = [route.template(), method_label(method), status.as_str()];
                self.metrics.http_requests.with_label_values(&labels).inc();
            }
        }
        if let Some(duration) = self.durations.get(route as usize) {
            duration.observe(began.elapsed().as_secs_f64());
        }
    }

    /// Counts the events that a problem refuses.
    pub(super) fn refused(&self, problem: &Problem) {
        let (reason, events) = problem.refused();
        self.refused_for(reason, events);
    }

    /// Counts refused events.
    pub(super) fn refused_for(&self, reason: &str, events: u64) {
        self.metrics.events_rejected.with_label_values(&[reason]).inc_by(events);
    }
}

/// The method, of a few known ones, as metrics and traces name it.
pub(super) fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
