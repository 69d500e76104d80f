//! What a lane drops when the queue is full and `queue.when_full` prefers new events.

use super::{Ended, Lane};
use crate::queue::{Log, Sequence};
use crate::telemetry::ledger::DropReason;
use crate::upstream::BatchSink;

impl<L: Log, S: BatchSink> Lane<L, S> {
    /// Drops, and counts, what lies before the horizon: what waits, and what is to be sent again.
    /// That may have been taken, if its outcome is unknown; kept, it would keep its generation, and
    /// so the queue full. What is in flight stays: this runs between requests.
    pub(super) async fn drop_overflow(&mut self) -> Result<(), Ended> {
        let horizon = *self.horizon.borrow_and_update();
        if self.finish_only {
            return Ok(());
        }
        let mut failures = 0;
        while self.window.begins_before(horizon) || self.work_begins_before(horizon) {
            let mut dropped = self.window.take_before(horizon);
            if self.work_begins_before(horizon)
                && let Some(work) = &mut self.work
            {
                let taken = work.take_if(usize::MAX, |event| event.sequence < horizon);
                dropped.extend(taken.into_iter().map(|(event, _)| event));
            }
            // No wait between taking them out and settling them: no cursor is stored in between.
            for event in &dropped {
                self.window.settle(event);
            }
            if !dropped.is_empty() {
                self.pending.dropped.push((DropReason::QueueFull, dropped.len() as u64));
            }
            self.save_pending().await?;
            if let Err(error) = self.window.refill(&self.log).await {
                self.store_failed(&error, &mut failures).await?;
            }
        }
        Ok(())
    }

    fn work_begins_before(&self, horizon: Sequence) -> bool {
        let work = self.work.as_ref();
        work.is_some_and(|work| work.events().iter().any(|event| event.sequence < horizon))
    }
}
