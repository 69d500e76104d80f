//! Every rule of `docs/reads.md` names tests that exist.

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

#[test]
fn each_rule_of_reads_has_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in ["src", "tests"] {
        sources(&root.join(folder), &mut found);
    }
    let code: String = found.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let rules = fs::read_to_string(root.join("docs/reads.md")).unwrap();
    let mut named = 0;
    for row in rules.lines().filter(|line| line.starts_with("| ") && *line != "| rule | test |") {
        let tests = row.rsplit('|').nth(1).unwrap();
        let tests: Vec<_> = tests.split(',').map(|test| test.trim().trim_matches('`')).collect();
        for test in tests {
            assert!(!test.is_empty(), "no test in {row}");
            let defined =
                code.contains(&format!("fn {test}()")) || code.contains(&format!("fn {test}(\n"));
            assert!(defined, "{test} is no test; named in {row}");
            named += 1;
        }
    }
    assert!(named > 30, "only {named} tests are named");
}
