//! Which sampled request accepted which events: the newest of them, in memory only.

use std::collections::VecDeque;

use opentelemetry::trace::{SpanContext, TraceState};

/// Requests that are remembered; a batch whose events are of older ones goes without their links.
const KEPT: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Origins {
    /// Ascending.
    accepted: VecDeque<Accepted>,
}

#[derive(Debug)]
struct Accepted {
    first: u64,
    last: u64,
    by: SpanContext,
}

impl Origins {
    /// Notes who accepted the events from `first` to `last`, which are newer than all before.
    pub(super) fn note(&mut self, first: u64, last: u64, by: &SpanContext) {
        if self.accepted.len() >= KEPT {
            self.accepted.pop_front();
        }
        // Vendors' states say nothing to who follows a link, and would take memory as callers like.
        let by = SpanContext::new(
            by.trace_id(),
            by.span_id(),
            by.trace_flags(),
            false,
            TraceState::NONE,
        );
        self.accepted.push_back(Accepted { first, last, by });
    }

    /// Who accepted these ascending events, each once.
    pub(super) fn of(&self, sequences: impl Iterator<Item = u64>) -> Vec<SpanContext> {
        let mut found = Vec::new();
        let mut sequences = sequences.peekable();
        let Some(first) = sequences.peek().copied() else { return found };
        let from = self.accepted.partition_point(|accepted| accepted.last < first);
        let mut accepted = self.accepted.range(from..).peekable();
        let mut is_found = false;
        while let (Some(sequence), Some(candidate)) = (sequences.peek(), accepted.peek()) {
            if *sequence > candidate.last {
                accepted.next();
                is_found = false;
                continue;
            }
            if *sequence >= candidate.first && !is_found {
                found.push(candidate.by.clone());
                is_found = true;
            }
            sequences.next();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::trace::{SpanId, TraceFlags, TraceId};
    use proptest::prelude::*;

    fn span(number: u64) -> SpanContext {
        let (trace, span) = (TraceId::from(u128::from(number) + 1), SpanId::from(number + 1));
        SpanContext::new(trace, span, TraceFlags::SAMPLED, true, TraceState::NONE)
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut origins = Origins::default();
        let all = KEPT as u64 + 10;
        for number in 0..all {
            origins.note(number, number, &span(number));
        }
        assert_eq!(origins.of(0..all).len(), KEPT);
        assert_eq!(origins.of(0..10), Vec::new());
    }

    proptest! {
        #[test]
        fn exactly_the_requests_of_these_events_are_found_once_each(
            ranges in prop::collection::vec((0_u64..5, 1_u64..6), 0..40),
            asked in prop::collection::btree_set(0_u64..300, 0..60),
        ) {
            let mut origins = Origins::default();
            let mut next = 0;
            let mut expected = Vec::new();
            for (number, (gap, length)) in ranges.into_iter().enumerate() {
                let (first, last) = (next + gap, next + gap + length - 1);
                let number = number as u64;
                origins.note(first, last, &span(number));
                if asked.range(first..=last).next().is_some() {
                    expected.push(span(number).span_id());
                }
                next = last + 1;
            }
            let found: Vec<_> =
                origins.of(asked.into_iter()).iter().map(SpanContext::span_id).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
