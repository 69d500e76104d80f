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

/// One thing that is wrong with one event, in words for the person who sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventError {
    /// The event's place in the request, from 0; 0 for a single event.
    pub index: usize,
    /// A JSON Pointer (RFC 6901) inside the event, spelled as the caller spelled it; empty for
    /// the event as a whole.
    pub pointer: String,
    /// What was expected, and what to do.
    pub message: String,
    /// The nearest thing that would be right, where one is near.
    pub suggestion: Option<String>,
}

/// Why a body yields no events at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// It isn't JSON (or a line of it isn't); says where and why.
    NotJson(String),
    /// It is JSON of the wrong shape, or its events are wrong: for a single event, all that is.
    Invalid(Vec<EventError>),
    /// A single event over `api.max_event`; how large it is, in bytes.
    EventTooLarge(usize),
    /// More events than `api.max_batch_events`.
    TooManyEvents,
}

/// A batch as far as it is valid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch<'a> {
    /// The valid events, in order.
    pub events: Vec<Event<'a>>,
    /// What is wrong with the others, ascending by index; at least one for each of them.
    pub errors: Vec<EventError>,
    /// How many elements the batch had.
    pub len: usize,
}

/// The rules that events have to keep: the catalogue and the limits.
#[derive(Clone, Debug)]
pub struct Rules {}

impl Rules {
    /// `max_event` in bytes of an event as sent.
    #[must_use]
    pub fn new(_events: &crate::config::Events, _max_event: usize, _max_batch: usize) -> Self {
        unimplemented!()
    }

    /// Parses the body of a single event.
    ///
    /// # Errors
    /// See [`BodyError`].
    pub fn parse_one<'a>(&self, _body: &'a [u8]) -> Result<Event<'a>, BodyError> {
        unimplemented!()
    }

    /// Parses a JSON array of events. A bad event is in the batch's errors, not an error here.
    ///
    /// # Errors
    /// When the body isn't a JSON array at all, or has too many elements.
    pub fn parse_array<'a>(&self, _body: &'a [u8]) -> Result<Batch<'a>, BodyError> {
        unimplemented!()
    }

    /// Parses NDJSON: an event a line, empty lines skipped.
    ///
    /// # Errors
    /// When a line isn't JSON, or there are too many.
    pub fn parse_lines<'a>(&self, _body: &'a [u8]) -> Result<Batch<'a>, BodyError> {
        unimplemented!()
    }
}
