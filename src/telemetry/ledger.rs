//! The account of every event, kept so that a scrape at any moment adds up:
//!
//! accepted + recovered + requeued = delivered + dead-lettered + dropped + queued
//!
//! One lock guards all of it; it is taken once a commit and once a batch, never once an event.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts};

use crate::config::EventKind;

/// Why an event became a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeadLetterReason {
    /// GMFY refused it, alone, as bad.
    Rejected,
    /// GMFY answered 413 to it alone.
    TooLarge,
    /// Its outcome is unknown, and `delivery.on_unknown` is `park`.
    Unknown,
    /// It was older than `queue.max_age`.
    Expired,
}

impl DeadLetterReason {
    pub const ALL: [Self; 4] = [Self::Rejected, Self::TooLarge, Self::Unknown, Self::Expired];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::TooLarge => "too_large",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
        }
    }
}

/// Why an event was given up without a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// `queue.when_full` is `drop_oldest`.
    QueueFull,
    /// `dead_letters.when_full` is `drop`.
    DeadLettersFull,
    /// Its bytes on disk were damaged beyond salvage.
    Damaged,
}

impl DropReason {
    pub const ALL: [Self; 3] = [Self::QueueFull, Self::DeadLettersFull, Self::Damaged];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::DeadLettersFull => "dead_letters_full",
            Self::Damaged => "damaged",
        }
    }
}

/// The name of a kind of event, as a label value and in the settings.
#[must_use]
pub const fn kind_name(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Classic => "classic",
        EventKind::Action => "action",
        EventKind::Unique => "unique",
    }
}

pub const KINDS: [EventKind; 3] = [EventKind::Classic, EventKind::Action, EventKind::Unique];

/// The counts of one moment. All but `appended` and `settled` count since the process began.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// By kind, in the order of [`KINDS`].
    pub accepted: [u64; 3],
    pub duplicates: u64,
    pub recovered: u64,
    pub requeued: u64,
    pub delivered: u64,
    pub dead_lettered: HashMap<DeadLetterReason, u64>,
    pub dropped: HashMap<DropReason, u64>,
    /// Events ever appended, as the store counts them.
    pub appended: u64,
    /// Events ever settled, as the store's cursors count them.
    pub settled: u64,
    pub queue_bytes: u64,
    pub queue_capacity_bytes: u64,
    pub dead_letters: u64,
}

impl Counts {
    /// The events in the queue, by the store's own totals.
    #[must_use]
    pub fn queued(&self) -> u64 {
        self.appended.saturating_sub(self.settled)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Ledger {
    counts: Mutex<Counts>,
}

impl Ledger {
    /// Changes the counts in one step, as seen by [`Ledger::snapshot`].
    pub fn update<R>(&self, change: impl FnOnce(&mut Counts) -> R) -> R {
        change(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Some of the counts, without a copy of all.
    pub fn read<R>(&self, some: impl FnOnce(&Counts) -> R) -> R {
        some(&self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    #[must_use]
    pub fn snapshot(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Exports a [`Ledger`] as metric families, all from one snapshot.
#[derive(Debug)]
pub(super) struct LedgerCollector {
    ledger: std::sync::Arc<Ledger>,
    descriptions: Vec<Desc>,
}

impl LedgerCollector {
    pub(super) fn new(ledger: std::sync::Arc<Ledger>) -> Self {
        let descriptions =
            families(&Counts::default()).iter().flat_map(|c| c.desc()).cloned().collect();
        Self { ledger, descriptions }
    }
}

impl Collector for LedgerCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        families(&self.ledger.snapshot()).iter().flat_map(|c| c.collect()).collect()
    }
}

fn families(counts: &Counts) -> Vec<Box<dyn Collector>> {
    let by_kind = |name: &str| {
        KINDS.iter().zip(counts.accepted).find(|(k, _)| kind_name(**k) == name).map_or(0, |x| x.1)
    };
    let dead = |name: &str| {
        let found = counts.dead_lettered.iter().find(|(reason, _)| reason.as_str() == name);
        found.map_or(0, |(_, count)| *count)
    };
    let dropped = |name: &str| {
        let found = counts.dropped.iter().find(|(reason, _)| reason.as_str() == name);
        found.map_or(0, |(_, count)| *count)
    };
    vec![
        labelled(
            "gmfy_events_accepted_total",
            "Events acknowledged, by kind.",
            "kind",
            KINDS.map(kind_name),
            by_kind,
        ),
        counter(
            "gmfy_events_duplicate_total",
            "Events not enqueued because the same user, type and idempotenceKey came before.",
            counts.duplicates,
        ),
        counter(
            "gmfy_events_recovered_total",
            "Events found in the queue when the process began.",
            counts.recovered,
        ),
        counter(
            "gmfy_events_requeued_total",
            "Dead letters put back into the queue.",
            counts.requeued,
        ),
        counter("gmfy_events_delivered_total", "Events that GMFY took.", counts.delivered),
        labelled(
            "gmfy_events_dead_lettered_total",
            "Events that became dead letters, by reason.",
            "reason",
            DeadLetterReason::ALL.map(DeadLetterReason::as_str),
            dead,
        ),
        labelled(
            "gmfy_events_dropped_total",
            "Events given up, by reason.",
            "reason",
            DropReason::ALL.map(DropReason::as_str),
            dropped,
        ),
        gauge("gmfy_queue_events", "Events accepted and not yet settled.", counts.queued()),
        gauge("gmfy_queue_bytes", "Bytes that the queue takes on disk.", counts.queue_bytes),
        gauge(
            "gmfy_queue_capacity_bytes",
            "Bytes that the queue may take on disk.",
            counts.queue_capacity_bytes,
        ),
        gauge("gmfy_dead_letters", "Dead letters stored.", counts.dead_letters),
    ]
}

#[allow(clippy::expect_used, reason = "names and labels are literals of this file, tested below")]
fn counter(name: &str, help: &str, value: u64) -> Box<dyn Collector> {
    let counter = IntCounter::new(name, help).expect("a valid name");
    counter.inc_by(value);
    Box::new(counter)
}

#[allow(clippy::expect_used, reason = "names and labels are literals of this file, tested below")]
fn gauge(name: &str, help: &str, value: u64) -> Box<dyn Collector> {
    let gauge = IntGauge::new(name, help).expect("a valid name");
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    Box::new(gauge)
}

#[allow(clippy::expect_used, reason = "names and labels are literals of this file, tested below")]
fn labelled<const N: usize>(
    name: &str,
    help: &str,
    label: &str,
    values: [&'static str; N],
    count: impl Fn(&str) -> u64,
) -> Box<dyn Collector> {
    let family = IntCounterVec::new(Opts::new(name, help), &[label]).expect("a valid name");
    for value in values {
        family.with_label_values(&[value]).inc_by(count(value));
    }
    Box::new(family)
}
