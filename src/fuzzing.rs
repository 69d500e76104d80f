//! What the fuzz targets call. Each function takes any bytes, and panics when something does not
//! hold that must for all input. Only the fuzzer's builds and the tests have this module; the
//! tests run each function over the seeds and what is near them.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a panic is how a finding is told, and no binary has this module"
)]

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::config::{Events, Settings, Sources, UnknownEvents};
use crate::event::{Event, Rules};
pub use crate::queue::fuzzing::{frame, salvage};
pub use crate::reads::fuzzing::{cache_control, query};
pub use crate::upstream::fuzzing::{id, retry_after};

#[cfg(test)]
mod tests;

/// The names of our fields, in every spelling.
const OURS: [&str; 9] = [
    "userId",
    "user_id",
    "type",
    "event_type",
    "eventType",
    "event_action",
    "eventAction",
    "idempotenceKey",
    "idempotence_key",
];

fn rules() -> Rules {
    let events = Events {
        types: BTreeMap::new(),
        unknown: UnknownEvents::Accept,
        dedupe_window: std::time::Duration::ZERO,
        dedupe_entries: 0,
    };
    Rules::new(&events, 64 * 1024, 1000)
}

/// The parser of events: what it accepts is JSON, comes out of its own wire form as it went in, and
/// keeps the fields that aren't ours.
pub fn events(data: &[u8]) {
    let rules = rules();
    if let Ok(event) = rules.parse_one(data) {
        assert_sound(&rules, &event, data);
    }
    if let Ok(batch) = rules.parse_array(data) {
        let elements: Vec<&RawValue> = serde_json::from_slice(data).expect("it is an array");
        assert_eq!(elements.len(), batch.len);
        let bad: std::collections::BTreeSet<_> =
            batch.errors.iter().map(|error| error.index).collect();
        assert_eq!(batch.events.len() + bad.len(), batch.len);
        let good = elements.iter().enumerate().filter(|(index, _)| !bad.contains(index));
        for ((_, element), event) in good.zip(&batch.events) {
            let alone = rules.parse_one(element.get().as_bytes()).expect("it is good");
            assert_eq!(alone, *event);
            assert_sound(&rules, event, element.get().as_bytes());
        }
    }
}

fn assert_sound(rules: &Rules, event: &Event<'_>, sent: &[u8]) {
    assert!(!event.user_id.is_empty() && !event.event_type.is_empty());
    let again = rules.parse_one(event.wire.as_bytes()).expect("wire form is an event");
    assert_eq!(again.wire, event.wire);
    assert_eq!(again.user_id, event.user_id);
    assert_eq!(again.event_type, event.event_type);
    assert_eq!(again.idempotence_key, event.idempotence_key);
    // Names with half a surrogate pair have no text to compare by.
    let fields = |text: &[u8]| {
        let fields: Option<BTreeMap<String, Box<RawValue>>> = serde_json::from_slice(text).ok();
        let mut fields = fields?;
        fields.retain(|name, _| !OURS.contains(&name.as_str()));
        Some(fields.into_iter().map(|(name, raw)| (name, raw.get().to_owned())).collect::<Vec<_>>())
    };
    assert_eq!(fields(event.wire.as_bytes()), fields(sent));
}

/// The splitter of NDJSON: a line is what it would be alone.
pub fn lines(data: &[u8]) {
    let rules = rules();
    let Ok(batch) = rules.parse_lines(data) else { return };
    let is_blank = |line: &&[u8]| line.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r'));
    let lines: Vec<_> = data.split(|byte| *byte == b'\n').filter(|line| !is_blank(line)).collect();
    assert_eq!(lines.len(), batch.len);
    let mut good = batch.events.iter();
    for (index, line) in lines.into_iter().enumerate() {
        if batch.errors.iter().any(|error| error.index == index) {
            assert!(rules.parse_one(line).is_err());
        } else {
            assert_eq!(rules.parse_one(line).as_ref().ok(), good.next());
        }
    }
    assert!(good.next().is_none());
}

/// The settings, as a file or, after a first line `#!`, as `--set` arguments: any text is settings
/// or errors in words, and no secret is in either.
pub fn settings(data: &[u8]) {
    let mut sources = Sources {
        environment: vec![
            ("GMFY_URL".to_owned(), "http://127.0.0.1/".to_owned()),
            ("GMFY_API_KEY".to_owned(), "canary-of-the-fuzzer".to_owned()),
        ],
        ..Sources::default()
    };
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    match data.strip_prefix(b"#!\n") {
        Some(sets) => {
            sources.sets = String::from_utf8_lossy(sets).lines().map(str::to_owned).collect();
        }
        None => {
            std::fs::write(file.path(), data).expect("a temporary file");
            sources.file = Some(file.path().to_owned());
        }
    }
    let told = match Settings::load(&sources) {
        Ok(loaded) => {
            let _reloads = crate::config::reload_differences(&loaded.settings, &loaded.settings);
            format!("{:?}{}", loaded.settings, crate::config::effective_table(&loaded.effective))
        }
        Err(errors) => {
            let text = errors.to_string();
            assert!(!text.is_empty());
            text
        }
    };
    assert!(!told.contains("canary-of-the-fuzzer"), "{told}");
}
