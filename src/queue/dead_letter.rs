//! An event that GMFY refused for good, kept for a person to look at.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

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

/// What is stored of a dead letter beside its sequence and its event.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LetterHead {
    reason: String,
    status: Option<u16>,
    answer: String,
    attempts: u32,
    accepted_at: u64,
    buried_at: u64,
    user: u32,
    kind: u8,
}

impl LetterHead {
    pub(super) fn of(letter: &DeadLetter) -> Self {
        Self {
            reason: letter.reason.as_str().to_owned(),
            status: letter.status,
            answer: letter.answer.clone(),
            attempts: letter.attempts,
            accepted_at: letter.accepted_at.as_millis(),
            buried_at: letter.buried_at.as_millis(),
            user: letter.user.bits(),
            kind: letter.kind.code(),
        }
    }

    /// The letter; none where its reason or its kind is none that this program knows.
    pub(super) fn letter(self, sequence: Sequence, event: Bytes) -> Option<DeadLetter> {
        let reason = DeadLetterReason::ALL.into_iter().find(|r| r.as_str() == self.reason)?;
        Some(DeadLetter {
            sequence,
            reason,
            status: self.status,
            answer: self.answer,
            attempts: self.attempts,
            accepted_at: Timestamp::from_millis(self.accepted_at),
            buried_at: Timestamp::from_millis(self.buried_at),
            user: UserHash::from_bits(self.user),
            kind: EventKind::from_code(self.kind)?,
            event,
        })
    }
}
