//! What reading events costs: single ones and batches, in wire form and in input form.

use std::collections::BTreeMap;
use std::time::Duration;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use gmfy_sidecar::config::{EventKind, EventType, Events, UnknownEvents};
use gmfy_sidecar::event::Rules;

#[global_allocator]
static ALLOCATIONS: divan::AllocProfiler = divan::AllocProfiler::system();

/// 110 bytes.
const WIRE: &str = r#"{"userId":"user-00000042","type":"create_subscription","plan":"gold","amount":19.90,"at":"2026-01-01T00:00Z"}"#;

const INPUT: &str = r#"{"event_type":"subscription","user_id":"user-00000042","event_action":"create","idempotence_key":null,"amount":1}"#;

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

#[divan::bench(args = [WIRE, INPUT])]
fn one(bencher: Bencher<'_, '_>, event: &str) {
    let rules = rules();
    bencher
        .counter(BytesCount::of_str(event))
        .bench(|| rules.parse_one(divan::black_box(event.as_bytes())).is_ok());
}

#[divan::bench(args = [WIRE, INPUT])]
fn array_of_100(bencher: Bencher<'_, '_>, event: &str) {
    let (rules, body) = (rules(), format!("[{}]", [event; 100].join(",")));
    bencher
        .counter(ItemsCount::new(100_usize))
        .bench(|| rules.parse_array(divan::black_box(body.as_bytes())).map(|batch| batch.len));
}

#[divan::bench(args = [WIRE, INPUT])]
fn lines_of_100(bencher: Bencher<'_, '_>, event: &str) {
    let (rules, body) = (rules(), [event; 100].join("\n"));
    bencher
        .counter(ItemsCount::new(100_usize))
        .bench(|| rules.parse_lines(divan::black_box(body.as_bytes())).map(|batch| batch.len));
}
