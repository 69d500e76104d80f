//! What `/metrics` said at one moment.

use std::collections::BTreeMap;

/// Every sample by its series, as `name{label="value"}`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    pub(crate) fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = samples.map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        });
        Self(samples.collect())
    }

    /// The value of one series; 0 where there is none.
    pub(crate) fn value(&self, series: &str) -> f64 {
        self.0.get(series).copied().unwrap_or_default()
    }

    /// The sum over a family's series.
    pub(crate) fn total(&self, family: &str) -> f64 {
        let of_family = |series: &str| {
            series.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
        };
        self.0.iter().filter(|(series, _)| of_family(series)).map(|(_, value)| value).sum()
    }

    /// The series that changed from `earlier` to this, with how much, in order; only those whose
    /// names begin with `prefix`.
    pub(crate) fn changes(&self, earlier: &Self, prefix: &str) -> Vec<(String, f64)> {
        let ours = self.0.iter().filter(|(series, _)| series.starts_with(prefix));
        let changes = ours.map(|(series, value)| (series.clone(), value - earlier.value(series)));
        changes.filter(|(_, change)| *change != 0.0).collect()
    }

    /// Asserts that every event is accounted for.
    pub(crate) fn assert_balanced(&self) {
        let total = |name: &str| self.total(&format!("gmfy_events_{name}_total"));
        let came = total("accepted") + total("recovered") + total("requeued");
        let went = total("delivered") + total("dead_lettered") + total("dropped");
        let queued = self.value("gmfy_queue_events");
        // What one replica accepts another may deliver: in a fleet no replica's account adds up.
        let adds_up = came == went + queued || crate::backend::is_nats();
        assert!(adds_up, "{came} came, {went} went, {queued} are queued");
    }
}
