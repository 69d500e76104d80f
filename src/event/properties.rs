//! What holds for every event, whatever it carries.

use std::borrow::Cow;

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::value::RawValue;

use super::plain::Plain;
use super::syntax::{Fields, Source};
use super::test_rules::events;
use super::{BodyError, Event, EventError, Rules};
use crate::config::UnknownEvents;

fn rules() -> Rules {
    Rules::new(&events(UnknownEvents::Accept), usize::MAX, usize::MAX)
}

/// White space between tokens, of one line.
fn blank() -> impl Strategy<Value = &'static str> {
    select(vec!["", "", "", " ", "\t", "  ", " \r"])
}

/// The raw text of a string, escapes and all, not empty.
fn raw_string() -> impl Strategy<Value = String> {
    let pieces = ["a", "Z", "é", "🎈", " ", "{", "[", "\\\"", "\\\\", "\\/", "\\n", "\\u0000"];
    let escapes = ["\\u0041", "\\ud83c\\udf88", "userId", "\\u00e9", ",", ":", "1"];
    let piece = select([&pieces[..], &escapes[..]].concat());
    prop::collection::vec(piece, 1..8).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

fn raw_value() -> impl Strategy<Value = String> {
    let odd = ["1.0e+10", "-0", "1E400", "-0.0", "0.10", "1e-7", "12345678901234567890123", "null"];
    let others = ["3.14159265358979323846264338327950288", "true", "false", "\"\"", "\"\\ud800\""];
    let leaf =
        prop_oneof![select([&odd[..], &others[..]].concat()).prop_map(str::to_owned), raw_string()];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let item =
            (blank(), inner, blank()).prop_map(|(a, value, b)| format!("{a}{value}{b}")).boxed();
        let field = (raw_string(), blank(), item.clone())
            .prop_map(|(key, gap, value)| format!("{gap}{key}{gap}:{value}"));
        prop_oneof![
            prop::collection::vec(item, 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            // Repeated names too: what is nested is bytes.
            prop::collection::vec(field, 0..4).prop_map(|all| format!("{{{}}}", all.join(","))),
        ]
    })
}

/// Fields that aren't ours, raw, with names that differ by their number.
fn foreign() -> impl Strategy<Value = Vec<(String, String)>> {
    let name = select(vec!["k", "é", "\\ud800", "\\u0041", "user_id", "a/b~", "eventType", "\\\""]);
    prop::collection::vec((name, raw_value()), 0..24).prop_map(|fields| {
        let numbered = |(n, (name, value))| (format!("\"{name}{n}\""), value);
        fields.into_iter().enumerate().map(numbered).collect()
    })
}

/// Our fields in one of their spellings, and how the event begins on the wire.
#[derive(Clone, Debug)]
struct Ours {
    fields: Vec<(String, String)>,
    wire: String,
    is_wire_form: bool,
}

fn ours() -> impl Strategy<Value = Ours> {
    let spelled = |names: [&'static str; 3]| select(names.to_vec());
    let user = spelled(["userId", "user_id", "user\\u0049d"]);
    let types = spelled(["event_type", "eventType", "event\\u005ftype"]);
    let action = spelled(["event_action", "eventAction", "event\\u0041ction"]);
    let key = spelled(["idempotenceKey", "idempotence_key", "idempotence\\u005fkey"]);
    let no_key = select(vec!["null", "\"\""]).prop_map(str::to_owned);
    (
        (user, raw_string()),
        (any::<bool>(), types, raw_string()),
        proptest::option::of((action, prop_oneof![Just("null".to_owned()), raw_string()])),
        proptest::option::of((key, prop_oneof![no_key, raw_string()])),
    )
        .prop_map(|((user, user_id), (wire_type, types, event_type), action, key)| {
            let named = |name: &str, value: &String| (format!("\"{name}\""), value.clone());
            let mut fields = vec![named(user, &user_id)];
            let mut wire = format!("{{\"userId\":{user_id}");
            if let Some((name, value)) = &key {
                fields.push(named(name, value));
                if value != "null" && value != "\"\"" {
                    wire += &format!(",\"idempotenceKey\":{value}");
                }
            }
            if wire_type {
                fields.push(named("type", &event_type));
                wire += &format!(",\"type\":{event_type}");
            } else {
                fields.push(named(types, &event_type));
                let action = action.inspect(|(name, value)| fields.push(named(name, value)));
                match action.filter(|(_, value)| value != "null") {
                    Some((_, action)) => {
                        let inner = |raw: &str| raw.chars().skip(1).collect::<String>();
                        let action = action.strip_suffix('"').unwrap_or_default();
                        wire += &format!(",\"type\":{action}_{}", inner(&event_type));
                    }
                    None => wire += &format!(",\"type\":{event_type}"),
                }
            }
            let snake_user = user == "user_id";
            let snake_key = key.as_ref().is_some_and(|(name, _)| *name != "idempotenceKey");
            Ours { fields, wire, is_wire_form: wire_type && !snake_user && !snake_key }
        })
}

/// An event's text, and what must go on.
fn event_text() -> impl Strategy<Value = (String, String, bool)> {
    (ours(), foreign())
        .prop_flat_map(|(ours, foreign)| {
            let fields = [ours.fields.clone(), foreign.clone()].concat();
            // Ours anywhere between the others, whose order is kept.
            let places = prop::collection::vec(any::<prop::sample::Index>(), ours.fields.len());
            let gaps = prop::collection::vec(blank(), fields.len() * 4 + 1);
            (Just(ours), Just(foreign), places, gaps)
        })
        .prop_map(|(ours, foreign, places, gaps)| {
            let mut fields = foreign.clone();
            for (field, place) in ours.fields.into_iter().zip(places) {
                fields.insert(place.index(fields.len() + 1), field);
            }
            let mut gaps = gaps.into_iter();
            let mut gap = || gaps.next().unwrap_or_default();
            let spaced = fields
                .iter()
                .map(|(key, value)| format!("{}{key}{}:{}{value}{}", gap(), gap(), gap(), gap()))
                .collect::<Vec<_>>();
            let sent = format!("{{{}}}", spaced.join(","));
            let kept: String =
                foreign.iter().map(|(key, value)| format!(",{key}:{value}")).collect();
            let wire =
                if ours.is_wire_form { sent.clone() } else { format!("{}{kept}}}", ours.wire) };
            (sent, wire, ours.is_wire_form)
        })
}

/// Events, things that are no events, and valid JSON of other shapes; each on one line.
fn element() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => event_text().prop_map(|(sent, ..)| sent),
        1 => raw_value(),
        1 => (foreign(), ours()).prop_map(|(foreign, ours)| {
            let some = foreign.into_iter().chain(ours.fields.into_iter().skip(1));
            let some: Vec<_> = some.map(|(key, value)| format!("{key}:{value}")).collect();
            format!("{{{}}}", some.join(","))
        }),
    ]
}

/// Any JSON, and what a few changed bytes make of it.
fn edited(text: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<u8>> {
    let bytes = select(b"{}[]\",:\\u0-e.tn \n\x00\xff\xc3".to_vec());
    let edit = (any::<prop::sample::Index>(), 0..3_u8, prop_oneof![bytes, any::<u8>()]);
    (text, prop::collection::vec(edit, 0..4)).prop_map(|(text, edits)| {
        let mut body = text.into_bytes();
        for (place, edit, byte) in edits {
            let at = place.index(body.len() + 1);
            match edit {
                0 => body.insert(at, byte),
                1 if at < body.len() => body[at] = byte,
                _ if at < body.len() => {
                    body.remove(at);
                }
                _ => body.truncate(at / 2),
            }
        }
        body
    })
}

/// Flat objects, and a few that aren't.
fn flat() -> impl Strategy<Value = String> {
    let field = (raw_string(), blank(), raw_value()).prop_map(|(key, gap, value)| {
        let flat = if value.starts_with(['{', '[']) && value.len() > 4 { "0.5E-1" } else { &value };
        format!("{gap}{key}{gap}:{gap}{flat}{gap}")
    });
    prop::collection::vec(field, 0..5).prop_map(|fields| format!("{{{}}}", fields.join(",")))
}

fn texts(fields: &Fields<'_>) -> Vec<(Vec<u8>, String, String)> {
    let owned = |text: &str| text.to_owned();
    fields.iter().map(|f| (f.key.to_vec(), owned(f.raw_key), owned(f.value))).collect()
}

fn is_not_json<T>(parsed: &Result<T, BodyError>) -> bool {
    matches!(parsed, Err(BodyError::NotJson(_)))
}

fn with_index(errors: &[EventError], index: usize) -> Vec<EventError> {
    errors.iter().map(|error| EventError { index, ..error.clone() }).collect()
}

proptest! {
    #[test]
    fn normalising_changes_no_foreign_field_and_nothing_of_wire_form(
        (sent, wire, is_wire_form) in event_text()
    ) {
        // `visit_user` and the like can't come up: any event generated here is valid.
        let parsed = rules().parse_one(sent.as_bytes()).map_err(|error| format!("{sent}: {error:?}"));
        let event = parsed.map_err(TestCaseError::fail)?;
        prop_assert_eq!(&event.wire, &wire);
        prop_assert_eq!(matches!(event.wire, Cow::Borrowed(_)), is_wire_form);

        // What went on says the same when it comes in.
        let again = rules().parse_one(wire.as_bytes()).map_err(|e| TestCaseError::fail(format!("{e:?}")))?;
        prop_assert_eq!(&again.wire, &wire);
        prop_assert_eq!(again.user_id, event.user_id);
        prop_assert_eq!(again.event_type, event.event_type);
        prop_assert_eq!(again.idempotence_key, event.idempotence_key);
    }

    #[test]
    fn any_bytes_are_answered(body in prop::collection::vec(any::<u8>(), 0..64)) {
        let is_json = serde_json::from_slice::<&RawValue>(&body).is_ok();
        prop_assert_eq!(is_not_json(&rules().parse_one(&body)), !is_json);
        let _array = rules().parse_array(&body);
        let _lines = rules().parse_lines(&body);
    }

    /// What is read in one pass is read as by serde_json's.
    #[test]
    fn plain_objects_are_read_as_any_other(body in edited(flat())) {
        let Ok(text) = std::str::from_utf8(&body) else { return Ok(()) };
        let (mut plain, mut any) = (Fields::new(), Fields::new());
        if let Some(object) = Plain::new(text, usize::MAX).only_object(&mut plain) {
            let source = Source::of_body(text.as_bytes()).unwrap();
            prop_assert_eq!(Some(object), source.object());
            prop_assert!(source.fields_of_any(object, &mut any).is_ok());
            prop_assert_eq!(texts(&plain), texts(&any));
        }
    }

    #[test]
    fn plain_arrays_are_read_as_any_other(
        body in edited(prop::collection::vec(flat(), 1..4).prop_map(|all| format!(" [ {} ]\n", all.join(" ,")))),
    ) {
        let Ok(text) = std::str::from_utf8(&body) else { return Ok(()) };
        let (mut plain, mut any) = (Vec::new(), Vec::new());
        let taken = Plain::new(text, usize::MAX).array(&mut Fields::new(), |element, fields| {
            plain.push((element.to_owned(), texts(fields)));
            Some(())
        });
        if taken.is_some() {
            let source = Source::of_body(text.as_bytes()).unwrap();
            let read = source.elements(|element| {
                let mut fields = Fields::new();
                source.fields_of_any(element, &mut fields)?;
                any.push((element.to_owned(), texts(&fields)));
                Ok(())
            });
            prop_assert!(read.is_ok());
            prop_assert_eq!(plain, any);
        }
    }

    #[test]
    fn what_is_json_is_what_serde_json_takes_for_it(body in edited(element())) {
        let is_json = serde_json::from_slice::<&RawValue>(&body).is_ok();
        prop_assert_eq!(is_not_json(&rules().parse_one(&body)), !is_json);
        if serde_json::from_slice::<serde_json::Value>(&body).is_ok() {
            prop_assert!(is_json);
        }
        let in_array = [b"[", &body[..], b"]"].concat();
        if is_json {
            prop_assert!(!is_not_json(&rules().parse_array(&in_array)));
        }
    }

    #[test]
    fn array_lines_and_single_events_are_read_alike(
        elements in prop::collection::vec(element(), 0..6)
    ) {
        let rules = rules();
        let mut events: Vec<Event<'_>> = Vec::new();
        let mut errors: Vec<EventError> = Vec::new();
        for (index, element) in elements.iter().enumerate() {
            match rules.parse_one(element.as_bytes()) {
                Ok(event) => events.push(event),
                Err(BodyError::Invalid(found)) => errors.extend(with_index(&found, index)),
                Err(other) => prop_assert!(false, "{element}: {other:?}"),
            }
        }
        let array = format!("[{}]", elements.join(","));
        let lines = elements.join("\n");
        for parsed in [rules.parse_array(array.as_bytes()), rules.parse_lines(lines.as_bytes())] {
            let batch = parsed.map_err(|error| TestCaseError::fail(format!("{error:?}")))?;
            prop_assert_eq!(batch.len, elements.len());
            prop_assert_eq!(&batch.events, &events);
            // The words differ where the element isn't an object: alone, another route may take it.
            let places = |errors: &[EventError]| -> Vec<_> {
                errors.iter().map(|error| (error.index, error.pointer.clone())).collect()
            };
            prop_assert_eq!(places(&batch.errors), places(&errors));
        }
    }
}
