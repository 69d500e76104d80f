//! Rates from one look at the counts to the next, as lines of small bars.

use std::collections::VecDeque;
use std::fmt::Write as _;

use tokio::time::Instant;

use crate::http::admin::{EventCounts, Status};

/// How many looks are drawn.
const SHOWN: usize = 60;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

type Count = fn(&EventCounts) -> u64;
const ROWS: [(&str, Count); 3] = [
    ("accepted", |counts| counts.accepted),
    ("delivered", |counts| counts.delivered),
    ("dead-lettered", |counts| counts.dead_lettered),
];

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Rates {
    last: Option<(Instant, Status)>,
    /// Events a second, for each row.
    rates: [VecDeque<u64>; ROWS.len()],
}

impl Rates {
    /// Notes the counts as they are now.
    pub(super) fn note(&mut self, status: &Status) {
        let now = Instant::now();
        let before = self.last.replace((now, status.clone()));
        // After a restart counts begin anew.
        let Some((then, before)) = before.filter(|(_, b)| b.started_at == status.started_at) else {
            return;
        };
        let millis = u64::try_from(now.duration_since(then).as_millis()).unwrap_or(u64::MAX).max(1);
        for (rates, (_, count)) in self.rates.iter_mut().zip(ROWS) {
            let events = count(&status.events).saturating_sub(count(&before.events));
            if rates.len() == SHOWN {
                rates.pop_front();
            }
            rates.push_back(events.saturating_mul(1000) / millis);
        }
    }

    /// A line for each rate: its name, events a second now, and how it was.
    pub(super) fn text(&self) -> String {
        let mut text = String::from("EVENTS A SECOND");
        for (rates, (name, _)) in self.rates.iter().zip(ROWS) {
            let now = rates.back().copied().unwrap_or_default();
            let line = write!(text, "\n{name:<13}  {now:>8}  {}", sparkline(rates));
            debug_assert!(line.is_ok(), "a String takes all");
        }
        text
    }
}

/// A bar for each value, the highest as high as the highest value; none is the lowest.
fn sparkline(values: &VecDeque<u64>) -> String {
    let highest = values.iter().copied().max().unwrap_or_default().max(1);
    let bar = |value: &u64| {
        let step = u128::from(*value) * (BARS.len() as u128 - 1);
        let step = usize::try_from(step.div_ceil(u128::from(highest))).unwrap_or_default();
        BARS.get(step).copied().unwrap_or(' ')
    };
    values.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::super::text::tests::status;
    use super::*;
    use std::time::Duration;

    #[test]
    fn bars_are_as_high_as_their_values() {
        let line = |values: &[u64]| sparkline(&values.iter().copied().collect());
        assert_eq!(line(&[]), "");
        assert_eq!(line(&[0, 0]), "▁▁");
        assert_eq!(line(&[0, 1, 4, 7]), "▁▂▅█");
        assert_eq!(line(&[u64::MAX, 1]), "█▂", "whatever is more than nothing shows");
    }

    #[tokio::test(start_paused = true)]
    async fn rates_are_those_between_two_looks_at_one_process() {
        let mut rates = Rates::default();
        let mut status = status();
        status.events.accepted = 100;
        rates.note(&status);
        for more in [0, 50, 200] {
            tokio::time::advance(Duration::from_secs(2)).await;
            status.events.accepted += more;
            status.events.delivered += more / 2;
            rates.note(&status);
        }
        insta::assert_snapshot!(rates.text(), @r"
        EVENTS A SECOND
        accepted            100  ▁▃█
        delivered            50  ▁▃█
        dead-lettered         0  ▁▁▁
        ");
        status.started_at = "later".to_owned();
        status.events = EventCounts::default();
        rates.note(&status);
        assert!(rates.text().contains("accepted            100  ▁▃█"), "a restart is no rate");
    }
}
