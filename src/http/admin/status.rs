//! The document of `GET /api/status`. Times are in RFC 3339, UTC; counts are since the start.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The sidecar at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    pub version: String,
    /// Of the source that it was built from.
    pub revision: String,
    pub started_at: String,
    pub uptime_seconds: u64,
    pub ready: Ready,
    pub upstream: UpstreamStatus,
    pub queue: QueueStatus,
    pub lanes: Vec<LaneStatus>,
    /// Dead letters stored.
    pub dead_letters: u64,
    pub events: EventCounts,
    pub cache: CacheStatus,
}

/// Whether events can be accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ready {
    pub ready: bool,
    /// Why not, in words.
    pub why: Option<String>,
}

/// GMFY as delivery sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UpstreamStatus {
    /// `up`, `retrying`, `open`, `paused` or `misconfigured`.
    pub state: String,
    pub since: String,
    /// Why it isn't `up`, in words.
    pub why: Option<String>,
    /// When the next request may go out, if something holds it back until then.
    pub next_attempt_at: Option<String>,
    /// Set while an operator lets everything that is refused with this status become dead letters.
    pub dead_lettering_status: Option<u16>,
}

/// The queue on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QueueStatus {
    /// Events accepted and not yet settled.
    pub events: u64,
    pub bytes: u64,
    pub capacity_bytes: u64,
    /// None when nothing waits.
    pub oldest_age_seconds: Option<f64>,
    /// `sync` or `interval`.
    pub durability: String,
    /// What was found damaged since the start, the newest of many.
    pub damages: Vec<DamageStatus>,
    /// Where the queue is on NATS: its servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nats: Option<NatsStatus>,
}

/// The NATS servers that hold the queue of a fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NatsStatus {
    /// Of the server that this replica is connected to.
    pub server_version: String,
    pub stream: String,
    /// How many servers keep each event.
    pub replicas: usize,
    /// What it means that an event was acknowledged, in words.
    pub acknowledgement: String,
    /// Where `queue.nats.spill` is on: what waits on this replica's disk until NATS takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spill: Option<SpillStatus>,
}

/// The events of this replica that NATS has not, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SpillStatus {
    pub events: u64,
    pub bytes: u64,
    pub capacity_bytes: u64,
}

/// Something of the queue's folder that was damaged. What was readable of it is kept; the events
/// that were not are counted in `gmfy_events_dropped_total{reason="damaged"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DamageStatus {
    /// The folder.
    pub what: String,
    pub reason: String,
    /// First and last sequences of what is lost, the first ranges of many.
    pub lost: Vec<(u64, u64)>,
    /// Where the damaged files are now.
    pub quarantine: String,
}

/// One of the lanes that deliver side by side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LaneStatus {
    pub lane: usize,
    /// `idle`, `waiting`, `sending`, `dead_letters_full`, `store_failing` or `stopped`.
    pub state: String,
    /// Events of the batch it is at.
    pub in_work: usize,
    /// Of the oldest event that it holds.
    pub oldest_age_seconds: Option<f64>,
    /// What went wrong last, until something is delivered.
    pub last_error: Option<String>,
}

/// What became of events: accepted + recovered + requeued = delivered + dead_lettered + dropped
/// + those that are queued.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventCounts {
    pub accepted: u64,
    pub duplicates: u64,
    /// Found in the queue at the start.
    pub recovered: u64,
    pub requeued: u64,
    pub delivered: u64,
    pub dead_lettered: u64,
    pub dropped: u64,
}

/// The read cache.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CacheStatus {
    pub entries: u64,
    pub bytes: u64,
    /// By route: requests by what came of them, as the label `result` of
    /// `gmfy_cache_requests_total`.
    pub routes: BTreeMap<String, BTreeMap<String, u64>>,
    /// By route, where any was read: the share answered from the cache, from 0 to 1.
    pub hit_ratio: BTreeMap<String, f64>,
}
