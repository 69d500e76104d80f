//! What an event is, in GMFY's wire form and in the input form, and what is wrong with a bad one.
//!
//! Events that are flat, as nearly all are, are read in one pass (`plain`). A batch with another in
//! it is read in two: one over its grammar, which splits it into elements, and one over each
//! element's fields, which is all that a single event needs. All yield slices of the body. An
//! event in wire form goes on as the bytes that came; another is composed anew from the raw texts of
//! its fields. So nothing that isn't ours is ever changed, be it a number's spelling, an escape or a
//! name.
//!
//! What is a JSON string by its grammar counts as one: an escaped NUL is passed on. Half a
//! surrogate pair, which the grammar allows too, is refused in our fields only, since no program
//! could tell what it means there.

mod catalogue;
mod fault;
mod nearest;
mod normalise;
mod plain;
#[cfg(test)]
mod properties;
mod syntax;
#[cfg(test)]
mod table;
#[cfg(test)]
mod test_rules;

use std::borrow::Cow;

use self::catalogue::Catalogue;
use self::fault::{Fault, Faults, describe};
use self::syntax::{Field, Fields, MAX_DEPTH, Source};
pub use crate::config::EventKind;

/// What an event of a batch takes at least, as a rule, in bytes.
const USUAL_EVENT: usize = 96;

/// A valid event, borrowed from the request's body wherever nothing had to be rebuilt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Decoded, not empty.
    pub user_id: Cow<'a, str>,
    /// Decoded, as GMFY sees it: an action's name stands before the declared type.
    pub event_type: Cow<'a, str>,
    /// Decoded; none where absent, null or empty.
    pub idempotence_key: Option<Cow<'a, str>>,
    /// Only a unique event is told from its repetition by its key: a key on an event of another
    /// kind is passed on, and means nothing here.
    pub kind: EventKind,
    /// The JSON object that goes to GMFY: what came, byte for byte, if that was wire form.
    pub wire: Cow<'a, str>,
}

impl EventKind {
    /// The number that stands for it wherever one is stored: on disk, in a fleet's stream.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Classic => 0,
            Self::Action => 1,
            Self::Unique => 2,
        }
    }

    /// The kind that has this number; none where it is a newer program's.
    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Classic),
            1 => Some(Self::Action),
            2 => Some(Self::Unique),
            _ => None,
        }
    }
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
    /// It isn't JSON (or a line of it isn't), or nests too deep to be read; says where and why.
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
pub struct Rules {
    catalogue: Catalogue,
    max_event: usize,
    max_batch: usize,
}

impl Rules {
    /// `max_event` in bytes of an event as sent, `max_batch` in events.
    #[must_use]
    pub fn new(events: &crate::config::Events, max_event: usize, max_batch: usize) -> Self {
        Self { catalogue: Catalogue::new(events), max_event, max_batch }
    }

    /// Parses the body of a single event.
    ///
    /// # Errors
    /// See [`BodyError`].
    pub fn parse_one<'a>(&self, body: &'a [u8]) -> Result<Event<'a>, BodyError> {
        let source = Source::of_body(body)?;
        let (mut reader, mut fields) = (Reader::new(self), Fields::new());
        // An object is read once, by its fields; what else it is, or what is wrong, is found below.
        if let Some(object) = source.object().filter(|object| object.len() <= self.max_event)
            && let Ok(event) = reader.event(source, object, &mut fields)
        {
            return event.ok_or_else(|| BodyError::Invalid(reader.faults.into_errors()));
        }
        let element = source.value()?;
        if !element.starts_with('{') {
            return Err(wrong_shape(source, element, |found| Fault::NotOneEvent { found }));
        }
        if element.len() > self.max_event {
            return Err(BodyError::EventTooLarge(element.len()));
        }
        let event = reader.event(source, element, &mut fields)?;
        event.ok_or_else(|| BodyError::Invalid(reader.faults.into_errors()))
    }

    /// Parses a JSON array of events. A bad event is in the batch's errors, not an error here.
    ///
    /// # Errors
    /// When the body isn't a JSON array at all, or has too many elements.
    pub fn parse_array<'a>(&self, body: &'a [u8]) -> Result<Batch<'a>, BodyError> {
        let source = Source::of_body(body)?;
        if source.first_byte() != Some(b'[') {
            let found = source.value().map_err(hint_at_ndjson)?;
            return Err(wrong_shape(source, found, |found| Fault::NotABatch { found }));
        }
        let (mut reader, mut fields) = (Reader::of(self, body), Fields::new());
        let plain = source.plain(self.max_event);
        if plain.array(&mut fields, |element, fields| reader.add_plain(element, fields)).is_none() {
            reader = Reader::of(self, body);
            source.elements(|element| reader.add(source, element, &mut fields))?;
        }
        Ok(reader.into_batch())
    }

    /// Parses NDJSON: an event a line, empty lines skipped and not counted.
    ///
    /// # Errors
    /// When a line isn't JSON, or there are too many.
    pub fn parse_lines<'a>(&self, body: &'a [u8]) -> Result<Batch<'a>, BodyError> {
        let (mut reader, mut fields) = (Reader::of(self, body), Fields::new());
        for line in Source::of_body(body)?.lines() {
            let element = line.plain(self.max_event).only_object(&mut fields);
            if element.and_then(|element| reader.add_plain(element, &fields)).is_none() {
                reader.add(line, line.value()?, &mut fields)?;
            }
        }
        Ok(reader.into_batch())
    }
}

/// NDJSON under the content type of JSON breaks off after its first line.
fn hint_at_ndjson(error: BodyError) -> BodyError {
    match error {
        BodyError::NotJson(text) if text.contains("trailing characters") => {
            BodyError::NotJson(format!(
                "{text}: one array is expected; NDJSON needs Content-Type: application/x-ndjson"
            ))
        }
        other => other,
    }
}

fn wrong_shape(
    source: Source<'_>,
    found: &str,
    fault: impl FnOnce(&'static str) -> Fault<'static>,
) -> BodyError {
    if let Err(error) = source.check_depth(found, MAX_DEPTH) {
        return error;
    }
    let mut faults = Faults::new();
    faults.add(&fault(describe(found)), None);
    BodyError::Invalid(faults.into_errors())
}

/// Reads the elements of one request.
struct Reader<'r, 'a> {
    rules: &'r Rules,
    faults: Faults,
    events: Vec<Event<'a>>,
    len: usize,
}

impl<'r, 'a> Reader<'r, 'a> {
    fn new(rules: &'r Rules) -> Self {
        Self { rules, faults: Faults::new(), events: Vec::new(), len: 0 }
    }

    /// One for a batch, with room for what is probably in it.
    fn of(rules: &'r Rules, body: &[u8]) -> Self {
        let events = Vec::with_capacity((body.len() / USUAL_EVENT).min(rules.max_batch));
        Self { events, ..Self::new(rules) }
    }

    /// Adds the next element of a batch, whose fields these are; none where it is over a limit.
    fn add_plain(&mut self, element: &'a str, fields: &[Field<'a>]) -> Option<()> {
        if self.len >= self.rules.max_batch || element.len() > self.rules.max_event {
            return None;
        }
        self.faults.start(self.len);
        self.len += 1;
        let catalogue = &self.rules.catalogue;
        let event = normalise::normalise(element, fields, catalogue, &mut self.faults);
        self.events.extend(event);
        Some(())
    }

    /// Adds the next element of a batch, by way of `fields`.
    fn add(
        &mut self,
        source: Source<'a>,
        element: &'a str,
        fields: &mut Fields<'a>,
    ) -> Result<(), BodyError> {
        if self.len >= self.rules.max_batch {
            return Err(BodyError::TooManyEvents);
        }
        self.faults.start(self.len);
        self.len += 1;
        if let Some(event) = self.event(source, element, fields)? {
            self.events.push(event);
        }
        Ok(())
    }

    /// The event that an element, valid JSON of `source`, is; none if it is bad, and the faults
    /// say why.
    fn event(
        &mut self,
        source: Source<'a>,
        element: &'a str,
        fields: &mut Fields<'a>,
    ) -> Result<Option<Event<'a>>, BodyError> {
        let (len, max) = (element.len(), self.rules.max_event);
        if len > max {
            self.faults.add(&Fault::TooLarge { len, max }, None);
            return Ok(None);
        }
        if !element.starts_with('{') {
            source.check_depth(element, MAX_DEPTH)?;
            self.faults.add(&Fault::NotAnObject { found: describe(element) }, None);
            return Ok(None);
        }
        source.fields(element, fields)?;
        let catalogue = &self.rules.catalogue;
        Ok(normalise::normalise(element, fields, catalogue, &mut self.faults))
    }

    fn into_batch(self) -> Batch<'a> {
        Batch { events: self.events, errors: self.faults.into_errors(), len: self.len }
    }
}
