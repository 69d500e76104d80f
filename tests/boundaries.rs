//! Who may know whom: what cargo can't hold within one crate.

#![allow(clippy::unwrap_used, reason = "a test's failure is a panic")]

use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The files under src by their path there, without their comments and without tests' own files.
fn files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        (name, lines.collect::<Vec<_>>().join("\n"))
    };
    let is_test = |name: &str| name.contains("tests");
    found.into_iter().map(read).filter(|(name, _)| !is_test(name)).collect()
}

#[test]
fn each_library_is_named_in_its_place_only() {
    for (library, places) in [
        ("sled::", &["queue/engine"][..]),
        ("lz4_flex::", &["queue/packer.rs"]),
        ("async_nats::", &["queue/nats"]),
        ("axum::", &["http", "simulator"]),
        ("reqwest::", &["upstream"]),
        ("reqwest_middleware::", &["upstream"]),
        ("opentelemetry", &["telemetry/traces"]),
    ] {
        let mut used = 0;
        for (name, code) in files() {
            if code.contains(library) {
                used += 1;
                let allowed = places.iter().any(|place| name.starts_with(place));
                assert!(allowed, "{name} names {library}");
            }
        }
        assert!(used > 0, "{library} is looked for in vain");
    }
}

#[test]
fn lower_modules_do_not_know_upper_ones() {
    const LEVELS: [(&str, u8); 12] = [
        ("cli", 7),
        ("sidecar", 6),
        ("http", 5),
        ("delivery", 4),
        ("reads", 4),
        ("queue", 3),
        ("upstream", 3),
        ("event", 2),
        ("telemetry", 1),
        ("config", 0),
        ("clock", 0),
        ("simulator", 2),
    ];
    for (name, code) in files() {
        let module = name.split(['/', '.']).next().unwrap();
        let Some((_, level)) = LEVELS.iter().find(|(known, _)| *known == module) else { continue };
        for (other, other_level) in LEVELS {
            if other == module || !code.contains(&format!("crate::{other}")) {
                continue;
            }
            // Delivery takes batches from the queue to the upstream; both are below it.
            assert!(other_level < *level, "{name} knows {other}, which is not below it");
        }
    }
}
