//! From an element's fields to the event: finds our fields in their spellings, checks them, and
//! composes the wire form where it isn't what came.
//!
//! Our fields' names are compared decoded; what goes on is always the raw text, so that no value
//! and no foreign name is ever spelled anew.

use std::borrow::Cow;

use super::catalogue::{Catalogue, takes_action};
use super::fault::{Fault, Faults, describe};
use super::nearest::nearest;
use super::syntax::{Field, decode, inner_text};
use super::{Event, EventKind};

/// How many foreign names are searched for a misspelled one of ours.
const NAMES_SEARCHED: usize = 32;

/// Up to here repeated names are found by comparing all pairs, which needs no memory.
const FEW_FIELDS: usize = 16;

/// The longest number that is offered back in quotes.
const LONGEST_QUOTED: usize = 64;

/// A field that has a meaning here.
#[derive(Clone, Copy)]
enum Own {
    UserId,
    Type,
    EventType,
    EventAction,
    IdempotenceKey,
}

/// One of our fields as it came.
#[derive(Clone, Copy)]
struct Slot<'a> {
    /// As the caller spells it.
    name: &'static str,
    /// Raw.
    value: &'a str,
}

/// Our fields of one event.
#[derive(Clone, Copy, Default)]
struct Slots<'a> {
    user_id: Option<Slot<'a>>,
    wire_type: Option<Slot<'a>>,
    event_type: Option<Slot<'a>>,
    event_action: Option<Slot<'a>>,
    idempotence_key: Option<Slot<'a>>,
}

/// A string of ours, found good.
struct Text<'a> {
    slot: Slot<'a>,
    decoded: Cow<'a, str>,
}

/// What the event says that it is.
enum Named<'a> {
    Wire(Text<'a>),
    Input { event_type: Text<'a>, action: Option<Text<'a>> },
}

/// A value was bad, and is in the faults already.
struct Reported;

/// Turns the fields of `element` into an event, or adds to `faults` all that is wrong with it.
pub(super) fn normalise<'a>(
    element: &'a str,
    fields: &[Field<'a>],
    catalogue: &Catalogue,
    faults: &mut Faults,
) -> Option<Event<'a>> {
    let before = faults.count();
    report_repeated(fields, faults);
    let slots = find_slots(fields, faults);

    let user_id = read_user_id(&slots, fields, faults);
    let named = read_named(&slots, fields, faults);
    let key = slots.idempotence_key.map_or(Ok(None), |slot| read_optional(slot, faults));
    // The catalogue has something to say only about a type that is clear.
    let kind = match (&named, &key) {
        (Ok(named), Ok(key)) => read_kind(named, key.as_ref(), &slots, catalogue, faults),
        _ => Err(Reported),
    };

    let (Ok(user_id), Ok(named), Ok(key), Ok(kind)) = (user_id, named, key, kind) else {
        return None;
    };
    if faults.count() > before {
        return None;
    }
    let wire = if is_wire_form(&slots) {
        Cow::Borrowed(element)
    } else {
        Cow::Owned(compose(element.len(), fields, &user_id, &named, key.as_ref()))
    };
    Some(Event {
        user_id: user_id.decoded,
        event_type: named.into_wire_type(),
        idempotence_key: key.map(|key| key.decoded),
        kind,
        wire,
    })
}

fn own(key: &[u8]) -> Option<(Own, &'static str)> {
    Some(match key {
        b"userId" => (Own::UserId, "userId"),
        b"user_id" => (Own::UserId, "user_id"),
        b"type" => (Own::Type, "type"),
        b"eventType" => (Own::EventType, "eventType"),
        b"event_type" => (Own::EventType, "event_type"),
        b"eventAction" => (Own::EventAction, "eventAction"),
        b"event_action" => (Own::EventAction, "event_action"),
        b"idempotenceKey" => (Own::IdempotenceKey, "idempotenceKey"),
        b"idempotence_key" => (Own::IdempotenceKey, "idempotence_key"),
        _ => return None,
    })
}

/// Whether the element is what GMFY takes: then its bytes go on untouched, with a null key too.
fn is_wire_form(slots: &Slots<'_>) -> bool {
    slots.wire_type.is_some()
        && slots.user_id.is_some_and(|slot| slot.name == "userId")
        && slots.idempotence_key.is_none_or(|slot| slot.name == "idempotenceKey")
}

/// Reports each name that stands more than once, once.
fn report_repeated(fields: &[Field<'_>], faults: &mut Faults) {
    let mut report = |key: &[u8]| {
        faults.add_at(&String::from_utf8_lossy(key), &Fault::Repeated, None);
    };
    if fields.len() <= FEW_FIELDS {
        for (place, field) in fields.iter().enumerate() {
            let earlier = fields.iter().take(place).filter(|other| other.key == field.key);
            if earlier.count() == 1 {
                report(&field.key);
            }
        }
        return;
    }
    // Sorted, not hashed: nobody can choose names that make it slow.
    let mut keys: Vec<&[u8]> = fields.iter().map(|field| field.key.as_ref()).collect();
    keys.sort_unstable();
    for same in keys.chunk_by(|one, other| one == other) {
        if let [key, _, ..] = same {
            report(key);
        }
    }
}

fn find_slots<'a>(fields: &[Field<'a>], faults: &mut Faults) -> Slots<'a> {
    let mut slots = Slots::default();
    for field in fields {
        let Some((own, name)) = own(&field.key) else { continue };
        let slot = match own {
            Own::UserId => &mut slots.user_id,
            Own::Type => &mut slots.wire_type,
            Own::EventType => &mut slots.event_type,
            Own::EventAction => &mut slots.event_action,
            Own::IdempotenceKey => &mut slots.idempotence_key,
        };
        match slot {
            None => *slot = Some(Slot { name, value: field.value }),
            // The same spelling twice is reported as such already.
            Some(first) if first.name == name => {}
            Some(first) => {
                faults.add_at(name, &Fault::BothSpellings { name, other: first.name }, None);
            }
        }
    }
    slots
}

fn read_user_id<'a>(
    slots: &Slots<'a>,
    fields: &[Field<'a>],
    faults: &mut Faults,
) -> Result<Text<'a>, Reported> {
    let Some(slot) = slots.user_id else {
        let near = faults.suggest(|| misspelled(fields, &["userId", "user_id"]));
        faults.add(&Fault::UserIdMissing, near);
        return Err(Reported);
    };
    read_text(slot, faults)
}

fn read_named<'a>(
    slots: &Slots<'a>,
    fields: &[Field<'a>],
    faults: &mut Faults,
) -> Result<Named<'a>, Reported> {
    if let Some(slot) = slots.wire_type {
        let wire_type = read_text(slot, faults);
        let beside = [slots.event_type, slots.event_action];
        for Slot { name, .. } in beside.into_iter().flatten() {
            faults.add_at(name, &Fault::BesideType { name }, None);
        }
        return wire_type.map(Named::Wire);
    }
    let action = slots.event_action.map_or(Ok(None), |slot| read_action(slot, faults));
    if let Some(slot) = slots.event_type {
        let event_type = read_text(slot, faults)?;
        return Ok(Named::Input { event_type, action: action? });
    }
    match (slots.event_action, action) {
        (Some(slot), Ok(Some(_)) | Err(Reported)) => {
            let near = faults.suggest(|| misspelled(fields, &["event_type", "eventType"]));
            faults.add_at(slot.name, &Fault::ActionAlone, near);
        }
        (_, Ok(_)) | (None, Err(Reported)) => {
            let near = faults.suggest(|| misspelled(fields, &["type", "event_type", "eventType"]));
            faults.add(&Fault::TypeMissing, near);
        }
    }
    Err(Reported)
}

/// An action is absent when null, but not when empty: an empty one would compose `_type`.
fn read_action<'a>(slot: Slot<'a>, faults: &mut Faults) -> Result<Option<Text<'a>>, Reported> {
    if slot.value == r#""""# {
        faults.add_at(slot.name, &Fault::EmptyAction, None);
        return Err(Reported);
    }
    read_optional(slot, faults)
}

/// A string that may be null or empty, which both count as absent.
fn read_optional<'a>(slot: Slot<'a>, faults: &mut Faults) -> Result<Option<Text<'a>>, Reported> {
    match describe(slot.value) {
        "null" => Ok(None),
        "a string" if slot.value == r#""""# => Ok(None),
        "a string" => read_text(slot, faults).map(Some),
        found => {
            let fault = Fault::NotOptionalText { name: slot.name, found };
            faults.add_at(slot.name, &fault, in_quotes(slot.value, found));
            Err(Reported)
        }
    }
}

/// A string that isn't empty. NUL and other control characters (escaped, as JSON has it) are the
/// caller's business: GMFY is sent what came.
fn read_text<'a>(slot: Slot<'a>, faults: &mut Faults) -> Result<Text<'a>, Reported> {
    let Slot { name, value } = slot;
    let found = describe(value);
    if found != "a string" {
        faults.add_at(name, &Fault::NotText { name, found }, in_quotes(value, found));
        return Err(Reported);
    }
    let decoded = match decode(value) {
        Cow::Borrowed(_) => Some(Cow::Borrowed(inner_text(value))),
        Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
    };
    let fault = match decoded {
        Some(decoded) if !decoded.is_empty() => return Ok(Text { slot, decoded }),
        Some(_) => Fault::EmptyText { name },
        None => Fault::LoneSurrogate { name },
    };
    faults.add_at(name, &fault, None);
    Err(Reported)
}

fn read_kind(
    named: &Named<'_>,
    key: Option<&Text<'_>>,
    slots: &Slots<'_>,
    catalogue: &Catalogue,
    faults: &mut Faults,
) -> Result<EventKind, Reported> {
    let (text, action) = match named {
        Named::Wire(wire_type) => (wire_type, None),
        Named::Input { event_type, action } => (event_type, action.as_ref()),
    };
    let name = text.decoded.as_ref();
    let kind = match (named, catalogue.declared(name)) {
        // The input form names the declared type itself, so its rules hold.
        (Named::Input { .. }, Some(declared)) => {
            match (declared.kind, action) {
                (EventKind::Action, Some(action)) if !takes_action(declared, &action.decoded) => {
                    let (action, actions) = (action, declared.actions.as_slice());
                    let near = faults.suggest(|| nearest(&action.decoded, actions).cloned());
                    let fault = Fault::ActionUnknown { name, action: &action.decoded, actions };
                    faults.add_at(action.slot.name, &fault, near);
                    return Err(Reported);
                }
                (EventKind::Action, None) => {
                    let actions = declared.actions.as_slice();
                    let only = if let [only] = actions { Some(only.clone()) } else { None };
                    faults.add(&Fault::ActionMissing { name, actions }, only);
                    return Err(Reported);
                }
                (kind @ (EventKind::Classic | EventKind::Unique), Some(action)) => {
                    faults.add_at(action.slot.name, &Fault::ActionNotTaken { name, kind }, None);
                    return Err(Reported);
                }
                (EventKind::Action, Some(_)) | (EventKind::Classic | EventKind::Unique, None) => {}
            }
            Some(declared.kind)
        }
        // Otherwise it is what its composed type is.
        _ => catalogue.kind_of(&named.wire_type()),
    };
    match kind {
        Some(EventKind::Unique) if key.is_none() => {
            let fault = Fault::KeyMissing { name };
            match slots.idempotence_key {
                Some(slot) => faults.add_at(slot.name, &fault, None),
                None => faults.add(&fault, None),
            }
            Err(Reported)
        }
        Some(kind) => Ok(kind),
        None if catalogue.rejects_unknown() => {
            let near = faults.suggest(|| catalogue.nearest(name));
            faults.add_at(text.slot.name, &Fault::Undeclared { name }, near);
            Err(Reported)
        }
        None if key.is_some() => Ok(EventKind::Unique),
        None if action.is_some() => Ok(EventKind::Action),
        None => Ok(EventKind::Classic),
    }
}

impl<'a> Named<'a> {
    /// The type as GMFY sees it, decoded.
    fn wire_type(&self) -> Cow<'_, str> {
        match self {
            Self::Wire(text) | Self::Input { event_type: text, action: None } => {
                Cow::Borrowed(text.decoded.as_ref())
            }
            Self::Input { event_type, action: Some(action) } => {
                Cow::Owned([&action.decoded, "_", &event_type.decoded].concat())
            }
        }
    }

    fn into_wire_type(self) -> Cow<'a, str> {
        match self {
            Self::Wire(text) | Self::Input { event_type: text, action: None } => text.decoded,
            Self::Input { event_type, action: Some(action) } => {
                Cow::Owned([&action.decoded, "_", &event_type.decoded].concat())
            }
        }
    }

    /// Writes the type as GMFY sees it, raw. The inner texts can stand one after the other: each
    /// is whole, and what an escape means ends with it.
    fn write_raw(&self, wire: &mut String) {
        match self {
            Self::Wire(text) | Self::Input { event_type: text, action: None } => {
                wire.push_str(text.slot.value);
            }
            Self::Input { event_type, action: Some(action) } => {
                wire.push('"');
                wire.push_str(inner_text(action.slot.value));
                wire.push('_');
                wire.push_str(inner_text(event_type.slot.value));
                wire.push('"');
            }
        }
    }
}

/// The wire form: our fields, then the others in the order they came.
fn compose(
    sent: usize,
    fields: &[Field<'_>],
    user_id: &Text<'_>,
    named: &Named<'_>,
    key: Option<&Text<'_>>,
) -> String {
    // Longer than what was sent by no more than the names that grow by a letter or two.
    let mut wire = String::with_capacity(sent + 16);
    wire.push_str(r#"{"userId":"#);
    wire.push_str(user_id.slot.value);
    if let Some(key) = key {
        wire.push_str(r#","idempotenceKey":"#);
        wire.push_str(key.slot.value);
    }
    wire.push_str(r#","type":"#);
    named.write_raw(&mut wire);
    for field in fields.iter().filter(|field| own(&field.key).is_none()) {
        wire.push(',');
        wire.push_str(field.raw_key);
        wire.push(':');
        wire.push_str(field.value);
    }
    wire.push('}');
    wire
}

/// The right name for the foreign field that looks most like one of `names`.
fn misspelled(fields: &[Field<'_>], names: &[&'static str]) -> Option<String> {
    fields
        .iter()
        .filter(|field| own(&field.key).is_none())
        .take(NAMES_SEARCHED)
        .filter_map(|field| nearest(std::str::from_utf8(&field.key).ok()?, names.iter().copied()))
        .next()
        .map(str::to_owned)
}

/// The string that a number was probably meant to be.
fn in_quotes(raw: &str, found: &str) -> Option<String> {
    (found == "a number" && raw.len() <= LONGEST_QUOTED).then(|| format!("\"{raw}\""))
}
