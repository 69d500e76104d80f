//! What an event is, in GMFY's wire form and in the input form, and what is wrong with a bad one.

use std::borrow::Cow;

pub use crate::config::EventKind;

/// A valid event, borrowed from the request's body wherever nothing had to be rebuilt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Decoded, not empty.
    pub user_id: Cow<'a, str>,
    /// Decoded, as GMFY sees it: an action's name stands before the declared type.
    pub event_type: Cow<'a, str>,
    /// Decoded; none where absent, null or empty.
    pub idempotence_key: Option<Cow<'a, str>>,
    pub kind: EventKind,
    /// The JSON object that goes to GMFY: what came, byte for byte, if that was wire form.
    pub wire: Cow<'a, str>,
}
