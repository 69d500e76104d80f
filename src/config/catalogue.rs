//! `events.types`: the application's event types, in the file only.

use super::nearest::nearest;
use super::settings::{EventKind, EventType};
use super::syntax::{Raw, Syntax as _, Words, quoted};

const KINDS: Words<EventKind> = Words(&[
    ("classic", EventKind::Classic),
    ("action", EventKind::Action),
    ("unique", EventKind::Unique),
]);

pub(crate) const EXPECTED: &str =
    "expected `{ kind = \"classic\" or \"action\" or \"unique\", actions = [\"create\", …] }`";

/// Reads one entry.
///
/// # Errors
/// Says what is wrong, for an unknown field with the nearest known one.
pub(crate) fn event_type(
    name: &str,
    fields: &[(String, Raw)],
) -> Result<EventType, (String, Option<String>)> {
    let wrong = |problem: &str| Err((problem.to_owned(), None));
    if name.is_empty() {
        return wrong("the name of an event type is empty");
    }
    let mut kind = None;
    let mut actions = Vec::new();
    for (field, value) in fields {
        match (field.as_str(), value) {
            ("kind", value) => match KINDS.parse(value) {
                Ok(parsed) => kind = Some(parsed),
                Err(_) => return wrong("expected a kind of `classic`, `action` or `unique`"),
            },
            ("actions", Raw::List(names)) => actions.clone_from(names),
            ("actions", Raw::Text(_) | Raw::Other(_)) => {
                return wrong("expected a list of actions, such as `[\"create\", \"remove\"]`");
            }
            (unknown, _) => {
                let nearest = nearest(unknown, ["kind", "actions"]).map(str::to_owned);
                return Err((format!("unknown field {unknown:?}"), nearest));
            }
        }
    }
    let Some(kind) = kind else { return wrong(EXPECTED) };
    if actions.iter().any(String::is_empty) {
        return wrong("an action's name is empty");
    }
    match (kind, actions.is_empty()) {
        (EventKind::Action, true) => wrong("an action type needs its actions"),
        (EventKind::Classic | EventKind::Unique, false) => {
            wrong("only types of kind `action` have actions")
        }
        (EventKind::Action, false) | (EventKind::Classic | EventKind::Unique, true) => {
            Ok(EventType { kind, actions })
        }
    }
}

/// The entry's line in the table `events.types` of the file.
#[must_use]
pub fn event_type_line(name: &str, event_type: &EventType) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let is_bare = !name.is_empty() && name.chars().all(plain);
    let name = if is_bare { name.to_owned() } else { quoted(name) };
    format!("{name} = {}", show(event_type))
}

impl std::fmt::Display for EventKind {
    /// The kind as the file spells it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&KINDS.show(self))
    }
}

/// The entry as it stands in the file.
pub(crate) fn show(event_type: &EventType) -> String {
    let kind = quoted(&KINDS.show(&event_type.kind));
    if event_type.actions.is_empty() {
        return format!("{{ kind = {kind} }}");
    }
    let actions: Vec<_> = event_type.actions.iter().map(|action| quoted(action)).collect();
    format!("{{ kind = {kind}, actions = [{}] }}", actions.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_a_kind_and_actions_only_where_they_belong() {
        let kind = |kind: &str| ("kind".to_owned(), Raw::Text(kind.to_owned()));
        let actions = |names: &[&str]| {
            ("actions".to_owned(), Raw::List(names.iter().map(|name| (*name).to_owned()).collect()))
        };
        for (fields, fine) in [
            (vec![kind("classic")], true),
            (vec![kind("unique"), actions(&[])], true),
            (vec![kind("action"), actions(&["create", "remove"])], true),
            (vec![], false),
            (vec![actions(&["create"])], false),
            (vec![kind("clasic")], false),
            (vec![kind("action")], false),
            (vec![kind("action"), actions(&[""])], false),
            (vec![kind("classic"), actions(&["create"])], false),
            (vec![("kind".to_owned(), Raw::Other("a table"))], false),
            (vec![kind("action"), ("actions".to_owned(), Raw::Text("create".to_owned()))], false),
        ] {
            assert_eq!(event_type("t", &fields).is_ok(), fine);
            assert!(event_type("", &fields).is_err());
        }
        let misspelled = [kind("classic"), ("action".to_owned(), Raw::List(Vec::new()))];
        assert_eq!(event_type("t", &misspelled).unwrap_err().1.as_deref(), Some("actions"));
    }

    #[test]
    fn an_entry_is_shown_as_it_is_written() {
        let subscription =
            EventType { kind: EventKind::Action, actions: vec!["create".into(), "remove".into()] };
        assert_eq!(show(&subscription), r#"{ kind = "action", actions = ["create", "remove"] }"#);
        let visit = EventType { kind: EventKind::Unique, actions: Vec::new() };
        assert_eq!(show(&visit), r#"{ kind = "unique" }"#);
    }
}
