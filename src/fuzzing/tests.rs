//! The targets without a fuzzer: the seeds, and what is a few edits away from them.

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 9] = [
    ("events", super::events),
    ("lines", super::lines),
    ("query", super::query),
    ("id", super::id),
    ("retry_after", super::retry_after),
    ("cache_control", super::cache_control),
    ("settings", super::settings),
    ("frame", super::frame),
    ("salvage", super::salvage),
];

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect()
}

/// One change of a text: at a place, some bytes go and some come.
fn edit() -> impl Strategy<Value = (Index, usize, Vec<u8>)> {
    let tokens = ["\"", "\\", "\\ud800", "{", "}", "[", "]", ",", ":", "%", "=", "&", "\n", "-"];
    let names = ["userId", "\"type\"", "null", "1e9", "0", "\u{e9}", "\0", "\u{ff}", " ", "none"];
    let tokens: Vec<_> = [&tokens[..], &names[..]].concat();
    let bytes = prop_oneof![
        proptest::sample::select(tokens).prop_map(|token| token.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..4),
    ];
    (any::<Index>(), 0..4_usize, bytes)
}

#[test]
fn every_target_holds_for_its_seeds_and_what_is_near_them() {
    let is_long = std::env::var_os("GMFY_LONG").is_some_and(|value| value == "1");
    for (name, target) in TARGETS {
        let seeds = seeds(name);
        assert!(seeds.len() >= 2, "{name} has no seeds");
        seeds.iter().for_each(|seed| target(seed));
        // Settings and salvage cost a file each.
        let cases = match (is_long, name) {
            (true, _) => 200_000,
            (false, "settings" | "salvage") => 300,
            (false, _) => 3000,
        };
        let config = Config { cases, failure_persistence: None, ..Config::default() };
        let edits = prop::collection::vec(edit(), 0..6);
        TestRunner::new(config)
            .run(&(any::<Index>(), edits), |(seed, edits)| {
                let mut text = seed.get(&seeds).clone();
                for (at, gone, come) in edits {
                    let at = at.index(text.len() + 1);
                    let end = (at + gone).min(text.len());
                    text.splice(at..end, come);
                }
                target(&text);
                Ok(())
            })
            .unwrap_or_else(|found| panic!("{name}: {found}"));
    }
}

#[test]
fn each_target_is_built_by_cargo_fuzz() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        let target = folder.join("fuzz_targets").join(format!("{name}.rs"));
        let text = std::fs::read_to_string(target).unwrap();
        assert!(text.contains(&format!("fuzzing::{name}(data)")), "{name}");
    }
}
