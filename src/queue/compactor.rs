//! Which generation is compacted, when, and by whom: one at a time, by a thread of its own, so that
//! no cursor waits for it. What compacting does is in `compact`.
//!
//! The keeper chooses, between cursors: what is left out is settled by cursors on disk. It has to
//! wait for a compaction under way where it counts what lies in the log ([`Compactor::wait`]), and
//! before it ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::Sequence;
use super::engine::EngineError;
use super::generations::Generations;
use super::passed::Passed;
use crate::telemetry::Ledger;

/// How patient compaction is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waits {
    /// How long the oldest generation has to stay where it is.
    pub(super) pinned_for: Duration,
    /// How often a generation is looked at: that takes some 16 MiB of reading.
    pub(super) look_every: Duration,
    /// How long none is after one that failed.
    pub(super) pause: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            pinned_for: Duration::from_secs(5),
            look_every: Duration::from_secs(1),
            pause: Duration::from_secs(30),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Compactor {
    generations: Arc<Generations>,
    ledger: Arc<Ledger>,
    looks: Looks,
    /// The generation that is being compacted; its thread returns whether that went well.
    under_way: Option<(Sequence, JoinHandle<bool>)>,
}

impl Compactor {
    pub(super) fn new(generations: Arc<Generations>, ledger: Arc<Ledger>, waits: Waits) -> Self {
        Self { generations, ledger, looks: Looks::new(waits, Instant::now()), under_way: None }
    }

    /// Whether it is time to choose a generation.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        if self.under_way.as_ref().is_some_and(|(_, thread)| thread.is_finished()) {
            self.wait();
        }
        self.under_way.is_none() && self.looks.is_due(now)
    }

    /// The generation to compact now, if there is one.
    pub(super) fn choose(&mut self, passed: &Passed, now: Instant) -> Option<Sequence> {
        self.looks.choose(&self.generations.sealed(), passed, now)
    }

    /// Begins to compact the one that was chosen. What was `passed` has to be so on disk.
    pub(super) fn begin(&mut self, first: Sequence, passed: Passed) {
        let (generations, ledger) = (Arc::clone(&self.generations), Arc::clone(&self.ledger));
        let run = move || {
            let compacted = generations.compact(first, &passed);
            tell(first, &compacted);
            if let Ok(Some(_)) = compacted {
                ledger.update(|counts| counts.queue_bytes = generations.disk_bytes());
            }
            compacted.is_ok()
        };
        match std::thread::Builder::new().name("queue-compactor".to_owned()).spawn(run) {
            Ok(thread) => self.under_way = Some((first, thread)),
            Err(error) => self.failed(first, &error.into()),
        }
    }

    /// The one that was chosen can't be compacted now: it is looked at again after a while.
    pub(super) fn failed(&mut self, first: Sequence, error: &EngineError) {
        tell(first, &Err(error.clone()));
        self.looks.failed(first, Instant::now());
    }

    /// Waits until none is under way.
    pub(super) fn wait(&mut self) {
        if let Some((first, thread)) = self.under_way.take()
            && !thread.join().unwrap_or(false)
        {
            self.looks.failed(first, Instant::now());
        }
    }
}

fn tell(first: Sequence, compacted: &Result<Option<(u64, u64)>, EngineError>) {
    match compacted {
        Ok(None) => {}
        Ok(Some((before, after))) => info!(
            generation = first.get(),
            bytes.before = before,
            bytes.after = after,
            "a generation that a lane still needs was compacted"
        ),
        Err(error) => {
            warn!(error = %error, generation = first.get(), "a generation could not be compacted");
        }
    }
}

/// Which generation is looked at, and when.
#[derive(Debug)]
struct Looks {
    waits: Waits,
    /// The oldest generation, and since when it is.
    oldest: Option<(Sequence, Instant)>,
    next: Instant,
    /// How many partitions waited in a generation when it was looked at.
    waited: HashMap<Sequence, usize>,
}

impl Looks {
    fn new(waits: Waits, now: Instant) -> Self {
        Self { waits, oldest: None, next: now, waited: HashMap::new() }
    }

    /// Whether it is time to choose one.
    fn is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    /// The generation to look at now, of these sealed ones (first sequence, and the one behind the
    /// last; ascending).
    fn choose(
        &mut self,
        sealed: &[(Sequence, Sequence)],
        passed: &Passed,
        now: Instant,
    ) -> Option<Sequence> {
        self.next = now + self.waits.look_every;
        let (oldest, _) = *sealed.first()?;
        let since = match self.oldest {
            Some((first, since)) if first == oldest => since,
            _ => {
                self.oldest = Some((oldest, now));
                self.waited.retain(|first, _| *first >= oldest);
                now
            }
        };
        if now.saturating_duration_since(since) < self.waits.pinned_for {
            return None;
        }
        sealed.iter().find_map(|&(first, end)| {
            let waiting = passed.waiting_before(end);
            let is_due = self.waited.get(&first).is_none_or(|waited| waiting <= waited / 2);
            is_due.then(|| {
                self.waited.insert(first, waiting);
                first
            })
        })
    }

    /// The one that was chosen could not be written: it is looked at again after a while.
    fn failed(&mut self, first: Sequence, now: Instant) {
        self.waited.remove(&first);
        self.next = now + self.waits.pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::state::LaneRecord;
    use crate::queue::{LaneCursor, Partition};

    #[test]
    fn a_generation_is_looked_at_once_it_is_in_the_way_and_again_when_half_has_gone_on() {
        let begun = Instant::now();
        let mut looks = Looks::new(Waits::default(), begun);
        let sealed = [(1, 11), (11, 21)].map(|(a, b)| (Sequence::new(a), Sequence::new(b)));
        let waiting = |count: usize| {
            let watermark = |number| if usize::from(number) < count { 1 } else { 1000 };
            let watermarks = (0..=u8::MAX)
                .map(|number| (Partition::new(number), Sequence::new(watermark(number))));
            let cursor = LaneCursor { watermarks: watermarks.collect(), ..LaneCursor::default() };
            Passed::of(&[LaneRecord::new(&cursor, 0)])
        };
        let mut at = begun;
        let mut choose = |looks: &mut Looks, count| {
            at += Duration::from_secs(1);
            assert!(looks.is_due(at));
            looks.choose(&sealed, &waiting(count), at)
        };
        assert_eq!(choose(&mut looks, 200), None, "it may go on by itself");
        for _ in 1..5 {
            assert_eq!(choose(&mut looks, 200), None);
        }
        assert_eq!(choose(&mut looks, 200), Some(Sequence::new(1)));
        assert_eq!(choose(&mut looks, 200), Some(Sequence::new(11)));
        assert_eq!(choose(&mut looks, 101), None);
        assert_eq!(choose(&mut looks, 100), Some(Sequence::new(1)));
        looks.failed(Sequence::new(1), at);
        assert!(!looks.is_due(at + Duration::from_secs(29)));
        at += Duration::from_secs(30);
        assert!(looks.is_due(at));
        let mut choose = |count| looks.choose(&sealed, &waiting(count), at);
        assert_eq!(choose(100), Some(Sequence::new(1)), "again");
        assert_eq!(choose(100), Some(Sequence::new(11)));
        assert_eq!(choose(100), None);
    }
}
