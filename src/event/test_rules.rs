//! The catalogue of the tests.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{EventKind, Rules};
use crate::config::{EventType, Events, UnknownEvents};

/// Of each kind one, and names that make composed types ambiguous.
pub(super) fn events(unknown: UnknownEvents) -> Events {
    let types = [
        ("register", EventKind::Classic, &[][..]),
        ("visit_user", EventKind::Unique, &[]),
        ("subscription", EventKind::Action, &["create", "remove", "créer"]),
        ("remove_subscription", EventKind::Classic, &[]),
        ("trial", EventKind::Action, &["start"]),
        ("ticket", EventKind::Action, &["re_open"]),
        ("open_ticket", EventKind::Action, &["re"]),
    ];
    let types = types.map(|(name, kind, actions)| {
        let actions = actions.iter().map(|action| (*action).to_owned()).collect();
        (name.to_owned(), EventType { kind, actions })
    });
    let types = BTreeMap::from(types);
    Events { types, unknown, dedupe_window: Duration::from_mins(10), dedupe_entries: 1024 }
}

/// Events of at most 4 KiB, at most 5 in a batch.
pub(super) fn rules(unknown: UnknownEvents) -> Rules {
    Rules::new(&events(unknown), 4096, 5)
}
