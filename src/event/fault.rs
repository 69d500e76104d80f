//! What can be wrong with an event, in words: every text of it is here.

use std::fmt;

use super::{EventError, EventKind};

/// How many near names are looked for in one request; a request with more errors than that has
/// one cause, and the comparisons are the dearest part of refusing it.
const SUGGESTIONS: usize = 100;

/// One thing that is wrong with an event. Its text says what was expected and what to do.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault<'a> {
    #[error(
        "one event is expected here, a JSON object with userId and type; this is {found}{}",
        if *found == "an array" { ": send an array of events to POST /v1/events/batch/" } else { "" }
    )]
    NotOneEvent { found: &'static str },
    #[error(
        "a JSON array of events is expected here; this is {found}{}",
        if *found == "an object" {
            ": send a single event to POST /v1/events/, or put it in an array"
        } else {
            ""
        }
    )]
    NotABatch { found: &'static str },
    #[error("an event must be a JSON object with userId and type, not {found}")]
    NotAnObject { found: &'static str },
    #[error(
        "the event is {len} bytes as sent, over the limit of {max}: send less in it, or raise \
         api.max_event"
    )]
    TooLarge { len: usize, max: usize },
    #[error("the field stands more than once in the event: send it once")]
    Repeated,
    #[error("{name} and {other} are two spellings of one field: send one of them")]
    BothSpellings { name: &'static str, other: &'static str },
    #[error(
        "{name} stands beside type, which is the finished type already: send type alone, or the \
         input form without type"
    )]
    BesideType { name: &'static str },
    #[error("userId is missing: send the user's id as a string")]
    UserIdMissing,
    #[error(
        "the event's type is missing: send type, or event_type with event_action if it is an action"
    )]
    TypeMissing,
    #[error(
        "event_action stands without event_type: add event_type, or send the composed type as type"
    )]
    ActionAlone,
    #[error("{name} must be a string that isn't empty, not {found}{}", quotes_hint(found))]
    NotText { name: &'static str, found: &'static str },
    #[error("{name} must be a string, or absent, not {found}{}", quotes_hint(found))]
    NotOptionalText { name: &'static str, found: &'static str },
    #[error("{name} must not be empty: send a string of at least one character")]
    EmptyText { name: &'static str },
    #[error("event_action must not be empty: name the action, or leave event_action out")]
    EmptyAction,
    #[error(
        "{name} holds half of a surrogate pair (an escape from \\uD800 to \\uDFFF without its \
         other half), which is no character: send whole characters"
    )]
    LoneSurrogate { name: &'static str },
    #[error(
        "{} is not in the catalogue, and events.unknown is \"reject\": send a declared type, or \
         declare it in events.types",
        Excerpt(name)
    )]
    Undeclared { name: &'a str },
    #[error("{} is an action type and needs event_action, {}", Excerpt(name), OneOf(actions))]
    ActionMissing { name: &'a str, actions: &'a [String] },
    #[error("{} is not an action of {}: send {}", Excerpt(action), Excerpt(name), OneOf(actions))]
    ActionUnknown { name: &'a str, action: &'a str, actions: &'a [String] },
    #[error(
        "{} is a {} type and takes no event_action: leave event_action out",
        Excerpt(name),
        kind_name(*kind)
    )]
    ActionNotTaken { name: &'a str, kind: EventKind },
    #[error(
        "{} is a unique type and needs an idempotenceKey: send the key that names what happened",
        Excerpt(name)
    )]
    KeyMissing { name: &'a str },
}

/// Collects what is wrong with a request's events.
#[derive(Debug)]
pub(super) struct Faults {
    errors: Vec<EventError>,
    /// The element that is being read.
    index: usize,
    suggestions_left: usize,
}

impl Faults {
    pub(super) fn new() -> Self {
        Self { errors: Vec::new(), index: 0, suggestions_left: SUGGESTIONS }
    }

    /// Says which element the faults that follow belong to.
    pub(super) fn start(&mut self, index: usize) {
        self.index = index;
    }

    /// How many were found until now.
    pub(super) fn count(&self) -> usize {
        self.errors.len()
    }

    /// Adds a fault of the event as a whole.
    pub(super) fn add(&mut self, fault: &Fault<'_>, suggestion: Option<String>) {
        self.push(String::new(), fault, suggestion);
    }

    /// Adds a fault of one field; `key` is its decoded name.
    pub(super) fn add_at(&mut self, key: &str, fault: &Fault<'_>, suggestion: Option<String>) {
        self.push(format!("/{}", key.replace('~', "~0").replace('/', "~1")), fault, suggestion);
    }

    /// Runs a search for a near name, while the request's budget lasts.
    pub(super) fn suggest(&mut self, search: impl FnOnce() -> Option<String>) -> Option<String> {
        self.suggestions_left = self.suggestions_left.checked_sub(1)?;
        search()
    }

    pub(super) fn into_errors(self) -> Vec<EventError> {
        self.errors
    }

    fn push(&mut self, pointer: String, fault: &Fault<'_>, suggestion: Option<String>) {
        let message = fault.to_string();
        self.errors.push(EventError { index: self.index, pointer, message, suggestion });
    }
}

/// What kind of value a raw JSON text is, with its article.
pub(super) fn describe(raw: &str) -> &'static str {
    match raw.bytes().next() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

fn quotes_hint(found: &str) -> &'static str {
    if found == "a number" { ": put it in quotes" } else { "" }
}

fn kind_name(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Classic => "classic",
        EventKind::Action => "action",
        EventKind::Unique => "unique",
    }
}

/// What a caller sent, in quotes, without control characters, and no longer than helps.
struct Excerpt<'a>(&'a str);

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 60;
        let mut rest = self.0.chars();
        write!(f, "\"")?;
        for character in rest.by_ref().take(LONGEST) {
            write!(f, "{}", character.escape_debug())?;
        }
        f.write_str(if rest.next().is_some() { "…\"" } else { "\"" })
    }
}

/// The declared actions, of many only the first.
struct OneOf<'a>(&'a [String]);

impl fmt::Display for OneOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 12;
        if self.0.is_empty() {
            return f.write_str("but events.types declares no action for it");
        }
        if self.0.len() > 1 {
            f.write_str("one of ")?;
        }
        for (place, action) in self.0.iter().take(MOST).enumerate() {
            write!(f, "{}{}", if place > 0 { ", " } else { "" }, Excerpt(action))?;
        }
        f.write_str(if self.0.len() > MOST { ", …" } else { "" })
    }
}
