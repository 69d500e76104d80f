//! `docs/metrics.md`, made from a scrape.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// A metric family as its text describes it; of its samples, the labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Family {
    name: String,
    help: String,
    kind: String,
    /// Every value that each label has.
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// Labels whose values depend on the build, not on this program's text.
const FREE: [&str; 2] = ["version", "revision"];

impl Family {
    /// The families of a text, in its order.
    pub(crate) fn parse(text: &str) -> Vec<Self> {
        let mut families: Vec<Self> = Vec::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a help");
                families.push(Self {
                    name: name.to_owned(),
                    help: help.to_owned(),
                    kind: String::new(),
                    labels: BTreeMap::new(),
                });
                continue;
            }
            let family = families.last_mut().expect("a help stands first");
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                family.kind = rest.split_once(' ').expect("a type").1.to_owned();
                continue;
            }
            let Some((_, labels)) = line.rsplit_once(' ').and_then(|(s, _)| s.split_once('{'))
            else {
                continue;
            };
            for label in labels.trim_end_matches('}').split("\",") {
                let Some((name, value)) = label.split_once("=\"") else { continue };
                let value = value.trim_end_matches('"');
                let values = family.labels.entry(name.to_owned()).or_default();
                if !FREE.contains(&name) {
                    values.insert(value.to_owned());
                }
            }
        }
        families
    }

    /// The names that its samples have, and its own.
    pub(crate) fn names(self) -> Vec<String> {
        match self.kind.as_str() {
            "histogram" => ["", "_bucket", "_sum", "_count"]
                .map(|suffix| format!("{}{suffix}", self.name))
                .to_vec(),
            _ => vec![self.name],
        }
    }
}

const INTRODUCTION: &str = "# Metrics

Made from the registry by a test (`GMFY_REWRITE=1 cargo test --test it metrics`): not to be edited.

`/metrics` of the ops listener answers in Prometheus' text format, gzipped where that is asked for.
Times are in seconds, sizes in bytes. Labels never hold a user, a key or an id. Every series is
there, at 0, from the start; only GMFY's own statuses on routes that pass through may add some to
`gmfy_http_requests_total`.

At every scrape the account of all events adds up, from one consistent snapshot:

```text
  sum(gmfy_events_accepted_total) + gmfy_events_recovered_total + gmfy_events_requeued_total
= gmfy_events_delivered_total + sum(gmfy_events_dead_lettered_total)
  + sum(gmfy_events_dropped_total) + gmfy_queue_events
```

What to be woken for is in `deploy/prometheus/`, and what to do then in [runbook.md](runbook.md).
";

/// The whole of `docs/metrics.md`.
pub(crate) fn document(families: &[Family]) -> String {
    let mut text = INTRODUCTION.to_owned();
    let (process, ours): (Vec<_>, Vec<_>) =
        families.iter().partition(|family| family.name.starts_with("process_"));
    for family in ours {
        let Family { name, kind, help, labels } = family;
        write!(text, "\n## `{name}`\n\n{kind}. {help}\n").unwrap();
        for (label, values) in labels {
            let values: Vec<_> = ordered(values).iter().map(|value| format!("`{value}`")).collect();
            let what = if label == "le" { "buckets up to" } else { label };
            let values =
                if values.is_empty() { "of the build".to_owned() } else { values.join(", ") };
            write!(text, "\n- {what}: {values}").unwrap();
        }
        if !labels.is_empty() {
            text.push('\n');
        }
    }
    text.push_str("\n## The process\n\n");
    for family in process {
        writeln!(text, "- `{}` ({}): {}", family.name, family.kind, family.help).unwrap();
    }
    text
}

/// Numbers by size, words by the alphabet.
fn ordered(values: &BTreeSet<String>) -> Vec<&String> {
    let mut ordered: Vec<_> = values.iter().collect();
    ordered.sort_by(|a, b| match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(a), Ok(b)) => a.total_cmp(&b),
        _ => a.cmp(b),
    });
    ordered
}
