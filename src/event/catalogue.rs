//! The event types that the settings declare.

use std::collections::BTreeMap;

use super::EventKind;
use super::nearest::nearest;
use crate::config::{EventType, Events, UnknownEvents};

/// `events.types` and `events.unknown`.
#[derive(Clone, Debug)]
pub(super) struct Catalogue {
    types: BTreeMap<String, EventType>,
    unknown: UnknownEvents,
}

impl Catalogue {
    pub(super) fn new(events: &Events) -> Self {
        Self { types: events.types.clone(), unknown: events.unknown }
    }

    /// Whether a type that isn't declared is refused.
    pub(super) fn rejects_unknown(&self) -> bool {
        self.unknown == UnknownEvents::Reject
    }

    /// The declaration under exactly this name.
    pub(super) fn declared(&self, name: &str) -> Option<&EventType> {
        self.types.get(name)
    }

    /// The kind of a type as GMFY sees it: that of the type declared under exactly this name, else
    /// an action if it is `{action}_{name}` of a declared action type. Where several are, the
    /// longest name counts, though they differ in no more than that.
    pub(super) fn kind_of(&self, wire_type: &str) -> Option<EventKind> {
        if self.types.is_empty() {
            return None;
        }
        if let Some(declared) = self.types.get(wire_type) {
            return Some(declared.kind);
        }
        wire_type
            .match_indices('_')
            .filter_map(|(at, _)| {
                let (action, name) = (wire_type.get(..at)?, wire_type.get(at + 1..)?);
                self.types.get(name).filter(|declared| takes_action(declared, action))
            })
            .map(|declared| declared.kind)
            .next()
    }

    /// The type, or the action's composed type, that is spelled most like `wanted`.
    pub(super) fn nearest(&self, wanted: &str) -> Option<String> {
        let spellings = self.types.iter().flat_map(|(name, declared)| {
            let composed = declared.actions.iter().map(move |action| format!("{action}_{name}"));
            std::iter::once(name.clone()).chain(composed)
        });
        nearest(wanted, spellings)
    }
}

/// Whether `declared` is an action type with this action.
pub(super) fn takes_action(declared: &EventType, action: &str) -> bool {
    declared.kind == EventKind::Action && declared.actions.iter().any(|known| known == action)
}

#[cfg(test)]
mod tests {
    use super::super::test_rules::events;
    use super::*;

    #[test]
    fn an_exact_type_wins_then_the_composed_one() {
        let catalogue = Catalogue::new(&events(UnknownEvents::Accept));
        for (wire_type, kind) in [
            ("register", Some(EventKind::Classic)),
            ("visit_user", Some(EventKind::Unique)),
            ("subscription", Some(EventKind::Action)),
            ("create_subscription", Some(EventKind::Action)),
            // Declared as a type of its own, though it is an action of `subscription` too.
            ("remove_subscription", Some(EventKind::Classic)),
            // `re_open` of `ticket`, and `re` of `open_ticket`.
            ("re_open_ticket", Some(EventKind::Action)),
            ("re_ticket", None),
            ("cancel_subscription", None),
            ("visit_register", None),
            ("_subscription", None),
            ("create_", None),
            ("_", None),
            ("", None),
        ] {
            assert_eq!(catalogue.kind_of(wire_type), kind, "{wire_type}");
        }
    }

    #[test]
    fn the_nearest_spelling_is_a_type_or_a_composed_one() {
        let catalogue = Catalogue::new(&events(UnknownEvents::Reject));
        for (wanted, expected) in [
            ("regster", Some("register")),
            ("subscripton", Some("subscription")),
            ("create_subscriptoin", Some("create_subscription")),
            ("purchase", None),
        ] {
            assert_eq!(catalogue.nearest(wanted).as_deref(), expected, "{wanted}");
        }
    }
}
