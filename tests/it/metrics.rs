//! The metrics as a scrape shows them: documented, well formed, and there under every name that a
//! file of this repository uses.
//!
//! `GMFY_REWRITE=1 cargo test --test it metrics` writes `docs/metrics.md` anew.

mod document;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{Running, get, post};
use document::Family;

async fn text(running: &Running) -> String {
    get("/metrics").send(running.ops()).await.text()
}

/// The text of a fresh sidecar, and of one that has worked.
async fn scrapes() -> (String, String) {
    let running = Running::start(|_| {}).await;
    let fresh = text(&running).await;
    let reply = post("/v1/events/", r#"{"userId":"1","type":"t"}"#).send(running.api()).await;
    assert_eq!(reply.status, 202);
    crate::support::eventually("it is delivered", || running.gmfy().counts().events == 1).await;
    assert_eq!(get("/v1/users/1/").send(running.api()).await.status, 200);
    crate::support::eventually("it is settled", || {
        running.metrics().ledger.snapshot().queued() == 0
    })
    .await;
    let used = text(&running).await;
    running.stop().await;
    (fresh, used)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[tokio::test]
async fn every_family_is_documented_and_every_series_is_there_from_the_start() {
    let (fresh, used) = scrapes().await;
    let families = Family::parse(&fresh);
    let after = Family::parse(&used);
    assert_eq!(families, after, "a series appeared only when it was used");
    let document = document::document(&families);
    let path = root().join("docs/metrics.md");
    if std::env::var_os("GMFY_REWRITE").is_some() {
        std::fs::write(&path, &document).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == document, "docs/metrics.md is out of date: run this with GMFY_REWRITE=1");
}

#[tokio::test]
async fn promtool_has_no_complaint() {
    let (_, used) = scrapes().await;
    let promtool =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).spawn();
    let Ok(mut promtool) = promtool else {
        println!("SKIPPED: promtool check metrics, promtool is not on this machine");
        return;
    };
    promtool.stdin.take().unwrap().write_all(used.as_bytes()).unwrap();
    assert!(promtool.wait().unwrap().success(), "promtool complains above");
}

#[tokio::test]
async fn each_event_has_its_lag_and_an_age_while_it_waits() {
    let running =
        Running::start(|settings| settings.delivery.linger = crate::support::PATIENCE).await;
    let events = r#"[{"userId":"1","type":"t"},{"userId":"2","type":"t"}]"#;
    assert_eq!(post("/v1/events/batch/", events).send(running.api()).await.status, 202);
    let mut age = 0.0;
    while age < 0.02 {
        age = running.scrape().await.value("gmfy_queue_oldest_age_seconds");
    }
    running.begin_stop();
    crate::support::eventually("both are settled", || {
        running.metrics().ledger.snapshot().queued() == 0
    })
    .await;
    let lag = &running.metrics().delivery_lag;
    assert_eq!(lag.get_sample_count(), 2, "one for each event");
    assert!(lag.get_sample_sum() >= 2.0 * 0.02, "{}", lag.get_sample_sum());
    running.stop().await;
}

/// Files of these kinds may name metrics.
const NAMING: [&str; 4] = ["md", "yaml", "yml", "json"];

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|kind| NAMING.iter().any(|known| kind == *known)) {
            found.push(path);
        }
    }
}

/// The metrics that a text names: words that begin with our prefix, or with the process's.
fn named(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| {
        // `gmfy_sidecar` is the library, `gmfy_client` a module of GMFY's; a word that ends with `_`
        // is a family's prefix.
        let is_module = word.starts_with("gmfy_sidecar") || *word == "gmfy_client";
        word.starts_with("gmfy_") && !is_module && !word.ends_with('_')
    })
}

#[tokio::test]
async fn every_metric_that_a_file_names_exists() {
    let (fresh, _) = scrapes().await;
    let known: BTreeSet<String> =
        Family::parse(&fresh).into_iter().flat_map(|family| family.names()).collect();
    let mut naming = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    files(&root().join("docs"), &mut naming);
    files(&root().join("deploy"), &mut naming);
    let mut names = 0;
    for path in naming {
        let text = std::fs::read_to_string(&path).unwrap();
        for name in named(&text) {
            assert!(known.contains(name), "{}: there is no {name}", path.display());
            names += 1;
        }
    }
    assert!(names > 30, "only {names} names: were the files found?");
}

#[test]
fn each_alert_has_its_section_in_the_runbook_and_each_section_its_alert() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let rules = read("deploy/prometheus/gmfy-sidecar.rules.yaml");
    let runbook = read("docs/runbook.md");
    let after = |text: &str, prefix: &str| -> BTreeSet<String> {
        let lines = text.lines().map(str::trim);
        lines.filter_map(|line| line.strip_prefix(prefix)).map(str::to_owned).collect()
    };
    let alerts = after(&rules, "- alert: ");
    assert!(alerts.len() > 10);
    assert_eq!(alerts, after(&runbook, "## "));
    let links: BTreeSet<_> =
        alerts.iter().map(|alert| format!("docs/runbook.md#{}", alert.to_lowercase())).collect();
    assert_eq!(links, after(&rules, "runbook: "));
}
