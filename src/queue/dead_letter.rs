//! An event that GMFY refused for good, kept for a person to look at.

use bytes::Bytes;

use super::{Sequence, UserHash};
use crate::clock::Timestamp;
use crate::event::EventKind;
use crate::telemetry::ledger::DeadLetterReason;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    pub sequence: Sequence,
    pub reason: DeadLetterReason,
    /// GMFY's last status for it; none where there was no answer.
    pub status: Option<u16>,
    /// The start of GMFY's answer, as text.
    pub answer: String,
    /// How often it was sent, in batches or alone.
    pub attempts: u32,
    pub accepted_at: Timestamp,
    /// When it was given up.
    pub buried_at: Timestamp,
    pub user: UserHash,
    pub kind: EventKind,
    /// The wire form.
    pub event: Bytes,
}
