//! What reading events costs: single ones and batches, in wire form and in input form.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use gmfy_sidecar::config::{EventKind, EventType, Events, UnknownEvents};
use gmfy_sidecar::event::Rules;

#[global_allocator]
static ALLOCATIONS: divan::AllocProfiler = divan::AllocProfiler::system();

/// An event of 110 bytes that goes on as it is, and one of 113 that is composed anew.
const FORMS: [Form; 2] = [
    Form {
        name: "wire",
        event: r#"{"userId":"user-000000042","type":"create_subscription","plan":"gold","amount":19.90,"on":"2026-01-01 10:00Z"}"#,
    },
    Form {
        name: "input",
        event: r#"{"event_type":"subscription","user_id":"user-00000042","event_action":"create","idempotence_key":null,"amount":1}"#,
    },
];

struct Form {
    name: &'static str,
    event: &'static str,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

fn main() {
    divan::main();
}

fn rules() -> Rules {
    let subscription =
        EventType { kind: EventKind::Action, actions: vec!["create".into(), "remove".into()] };
    let events = Events {
        types: BTreeMap::from([("subscription".to_owned(), subscription)]),
        unknown: UnknownEvents::Accept,
        dedupe_window: Duration::ZERO,
        dedupe_entries: 0,
    };
    Rules::new(&events, 64 << 10, 100_000)
}

#[divan::bench(args = FORMS)]
fn one(bencher: Bencher<'_, '_>, form: &Form) {
    let rules = rules();
    bencher
        .counter(BytesCount::of_str(form.event))
        .bench(|| rules.parse_one(divan::black_box(form.event.as_bytes())).is_ok());
}

#[divan::bench(args = FORMS)]
fn array_of_100(bencher: Bencher<'_, '_>, form: &Form) {
    let (rules, body) = (rules(), format!("[{}]", [form.event; 100].join(",")));
    bencher
        .counter(ItemsCount::new(100_usize))
        .bench(|| rules.parse_array(divan::black_box(body.as_bytes())).map(|batch| batch.len));
}

#[divan::bench(args = FORMS)]
fn lines_of_100(bencher: Bencher<'_, '_>, form: &Form) {
    let (rules, body) = (rules(), [form.event; 100].join("\n"));
    bencher
        .counter(ItemsCount::new(100_usize))
        .bench(|| rules.parse_lines(divan::black_box(body.as_bytes())).map(|batch| batch.len));
}
