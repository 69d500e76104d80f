//! What an operator asks of the running parts, done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::InForce;
use crate::clock::{Clock, Timestamp};
use crate::config::Durability;
use crate::delivery::Controls;
use crate::http::admin::{
    CacheStatus, DamageStatus, EventCounts, LaneStatus, Operations, QueueStatus, Ready, Status,
    UpstreamStatus,
};
use crate::http::readiness_text;
use crate::queue::{Appender as _, Damage, Queue, StoreError};
use crate::reads::{self, Reads};
use crate::telemetry::Metrics;
use crate::telemetry::logging::LogHandle;

/// See the module.
#[derive(Debug)]
pub(super) struct Operator {
    pub(super) queue: Queue,
    pub(super) controls: Controls,
    pub(super) reads: Reads,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
    pub(super) started_at: Timestamp,
    pub(super) settings: InForce,
    pub(super) stopping: Arc<AtomicBool>,
    pub(super) log: Option<LogHandle>,
}

impl Operator {
    fn ready(&self) -> Ready {
        let why = match self.stopping.load(Ordering::Relaxed) {
            true => Some("stopping"),
            false => readiness_text(self.queue.ready()),
        };
        Ready { ready: why.is_none(), why: why.map(str::to_owned) }
    }
}

impl Operations for Operator {
    fn status(&self) -> Status {
        let now = self.clock.now();
        let age = |at: Timestamp| now.since(at).as_secs_f64();
        let delivery = self.controls.status();
        let counts = self.metrics.ledger.snapshot();
        let oldest = delivery.lanes.iter().filter_map(|lane| lane.oldest).min();
        let lanes = delivery.lanes.iter().enumerate().map(|(lane, status)| LaneStatus {
            lane,
            state: status.state.as_str().to_owned(),
            in_work: status.in_work,
            oldest_age_seconds: status.oldest.map(age),
            last_error: status.last_error.clone(),
        });
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: env!("GMFY_BUILD_REVISION").to_owned(),
            started_at: self.started_at.to_rfc3339(),
            uptime_seconds: now.since(self.started_at).as_secs(),
            ready: self.ready(),
            upstream: UpstreamStatus {
                state: delivery.upstream.as_str().to_owned(),
                since: delivery.since.to_rfc3339(),
                why: delivery.why,
                next_attempt_at: delivery.next_attempt.map(Timestamp::to_rfc3339),
                dead_lettering_status: delivery.letting_go,
            },
            queue: QueueStatus {
                events: counts.queued(),
                bytes: counts.queue_bytes,
                capacity_bytes: counts.queue_capacity_bytes,
                oldest_age_seconds: oldest.filter(|_| counts.queued() > 0).map(age),
                durability: match self.settings.borrow().queue.durability {
                    Durability::Sync => "sync",
                    Durability::Interval => "interval",
                }
                .to_owned(),
                damages: self.queue.damages().iter().map(damage_status).collect(),
            },
            lanes: lanes.collect(),
            dead_letters: counts.dead_letters,
            events: EventCounts {
                accepted: counts.accepted.iter().sum(),
                duplicates: counts.duplicates,
                recovered: counts.recovered,
                requeued: counts.requeued,
                delivered: counts.delivered,
                dead_lettered: counts.dead_lettered.values().sum(),
                dropped: counts.dropped.values().sum(),
            },
            cache: cache(&self.reads.status()),
        }
    }

    fn log_level(&self) -> Option<String> {
        self.log.as_ref().map(LogHandle::level)
    }

    fn set_log_level(&self, level: &str) -> Result<(), String> {
        if level.is_empty() {
            return Err(
                "expected `level`, such as \"info,gmfy_sidecar::delivery=debug\"".to_owned()
            );
        }
        crate::config::check_log_level(level)?;
        let log = self.log.as_ref().ok_or("the log is not this program's to change")?;
        log.set_level(level).map_err(|error| error.to_string())?;
        tracing::warn!(log.level = level, "an operator changed the level of the log");
        Ok(())
    }

    async fn flush(&self, wait: Duration) -> u64 {
        self.controls.flush(wait).await
    }

    async fn pause(&self) -> Result<(), StoreError> {
        self.controls.pause();
        tracing::info!("an operator paused delivery");
        self.queue.keep_paused(true).await
    }

    async fn resume(&self, dead_letter_rejected: bool) -> Result<(), StoreError> {
        self.controls.resume(dead_letter_rejected);
        tracing::info!(dead_letter_rejected, "an operator resumed delivery");
        self.queue.keep_paused(false).await
    }
}

fn cache(status: &reads::CacheStatus) -> CacheStatus {
    let hit_ratio = |route: &reads::RouteStatus| Some((route.route.to_owned(), route.hit_ratio?));
    let results = |route: &reads::RouteStatus| {
        let results = route.results.iter();
        let results = results.map(|(result, count)| ((*result).to_owned(), *count)).collect();
        (route.route.to_owned(), results)
    };
    CacheStatus {
        entries: status.entries,
        bytes: status.bytes,
        routes: status.routes.iter().map(results).collect(),
        hit_ratio: status.routes.iter().filter_map(hit_ratio).collect(),
    }
}

fn damage_status(damage: &Damage) -> DamageStatus {
    let lost = damage.lost.iter().map(|range| (range.start().get(), range.end().get()));
    DamageStatus {
        what: damage.what.clone(),
        reason: damage.reason.clone(),
        lost: lost.collect(),
        quarantine: damage.aside.display().to_string(),
    }
}
