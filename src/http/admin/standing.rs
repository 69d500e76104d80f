//! `GET /api/events/{seq}`: where one event stands.

use serde::{Deserialize, Serialize};

/// Where an event stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventState {
    Queued,
    InFlight,
    Delivered,
    DeadLettered,
    Dropped,
    /// It is done with, too long ago to know how.
    Settled,
    /// No event has this sequence.
    Unknown,
}

/// An event, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventStanding {
    pub seq: u64,
    pub state: EventState,
    /// How often it was sent, as far as this process remembers.
    pub attempts: u32,
    /// GMFY's last status for it, if it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}
