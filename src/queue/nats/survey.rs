//! What a look at the servers tells, before a start.

use super::NatsError;
use crate::queue::FleetAccount;

/// How the servers and the streams are, as `check --online` tells.
#[derive(Debug)]
pub struct Survey {
    pub account: FleetAccount,
    /// The stream of events, of dead letters, and the bucket's.
    pub streams: Vec<StreamSurvey>,
}

/// A stream that the queue needs.
#[derive(Debug)]
pub struct StreamSurvey {
    pub name: String,
    /// Otherwise it would be created at the start.
    pub is_there: bool,
    /// How many servers keep it, or would.
    pub replicas: usize,
    /// Why the start would refuse it.
    pub problem: Option<NatsError>,
}
