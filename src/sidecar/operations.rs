//! What an operator asks of the running parts, done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::InForce;
use crate::clock::{Clock, Timestamp};
use crate::config::Durability;
use crate::delivery::Controls;
use crate::http::admin::{
    CacheStatus, DamageStatus, EventCounts, EventStanding, EventState, FollowRequest, LaneStatus,
    NatsStatus, Operations, QueueStatus, Ready, SpillStatus, Status, UpstreamStatus,
};
use crate::http::readiness_text;
use crate::queue::{
    Appender as _, Backend, Damage, DeadLetter, DeadLetterPage, Location, RequeueError, Requeued,
    Sequence, StoreError, UserHash,
};
use crate::reads::{self, Reads};
use crate::telemetry::Metrics;
use crate::telemetry::logging::LogHandle;
use crate::telemetry::recent::End;
use crate::telemetry::stream::{Filter, Follower, TooManyFollowers};

/// See the module.
#[derive(Debug)]
pub(super) struct Operator {
    pub(super) queue: Backend,
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

    /// Logs what an operator did with dead letters, and tells lanes that wait for room.
    fn changed(&self, what: &'static str, dead_letters: usize) {
        if dead_letters > 0 {
            tracing::info!(dead_letters, "an operator {what} dead letters");
            self.controls.dead_letters_freed();
        }
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
                nats: self.queue.fleet_account().map(|account| NatsStatus {
                    server_version: account.server_version,
                    stream: account.stream,
                    replicas: account.replicas,
                    acknowledgement: account.acknowledgement,
                    spill: account.spill.map(|spill| SpillStatus {
                        events: spill.events,
                        bytes: spill.bytes,
                        capacity_bytes: spill.capacity_bytes,
                    }),
                }),
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

    async fn dead_letters(
        &self,
        after: Option<Sequence>,
        limit: usize,
    ) -> Result<DeadLetterPage, StoreError> {
        self.queue.dead_letters(after, limit).await
    }

    async fn dead_letter(&self, sequence: Sequence) -> Result<Option<DeadLetter>, StoreError> {
        self.queue.dead_letter(sequence).await
    }

    async fn requeue(&self, sequence: Sequence) -> Result<Option<Requeued>, RequeueError> {
        let requeued = self.queue.requeue(sequence).await?;
        self.changed("requeued", requeued.iter().len());
        Ok(requeued)
    }

    async fn requeue_all(&self, requeued: &mut Vec<Requeued>) -> Result<(), RequeueError> {
        let done = self.queue.requeue_all(requeued).await;
        self.changed("requeued", requeued.len());
        done
    }

    async fn discard(&self, sequence: Sequence) -> Result<bool, StoreError> {
        let is_gone = self.queue.discard(sequence).await?;
        self.changed("discarded", usize::from(is_gone));
        Ok(is_gone)
    }

    async fn discard_all(&self) -> Result<u64, StoreError> {
        let discarded = self.queue.discard_all().await?;
        self.changed("discarded", usize::try_from(discarded).unwrap_or(usize::MAX));
        Ok(discarded)
    }

    async fn event(&self, sequence: Sequence) -> Result<EventStanding, StoreError> {
        let seq = sequence.get();
        let standing = |state, attempts, status| EventStanding { seq, state, attempts, status };
        if let Some(ended) = self.metrics.recent.find(seq) {
            let state = match ended.end {
                End::Delivered => EventState::Delivered,
                End::Dropped => EventState::Dropped,
            };
            return Ok(standing(state, ended.attempts, ended.status));
        }
        if let Some(letter) = self.queue.dead_letter(sequence).await? {
            return Ok(standing(EventState::DeadLettered, letter.attempts, letter.status));
        }
        let with_lane = self.controls.with_lane(sequence);
        let attempts = with_lane.map_or(0, |lane| lane.attempts);
        Ok(match self.queue.locate(sequence).await? {
            Location::Nowhere => standing(EventState::Unknown, 0, None),
            Location::Settled => standing(EventState::Settled, 0, None),
            Location::Queued if with_lane.is_some_and(|lane| lane.in_flight) => {
                standing(EventState::InFlight, attempts, None)
            }
            Location::Queued => standing(EventState::Queued, attempts, None),
        })
    }

    fn follow(&self, request: FollowRequest) -> Result<Follower, TooManyFollowers> {
        let user = request.user.map(|user| {
            let hash = UserHash::of(&user).bits();
            (user, hash)
        });
        let FollowRequest { event_type, outcome, .. } = request;
        self.metrics.stream.follow(Filter { user, event_type, outcome })
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
