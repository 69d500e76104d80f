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
            let waiting = self.window.take_before(horizon).into_iter();
            let mut dropped: Vec<_> = waiting.map(|event| (event, 0)).collect();
            if self.work_begins_before(horizon)
                && let Some(work) = &mut self.work
            {
                dropped.extend(work.take_if(usize::MAX, |event| event.sequence < horizon));
            }
            // No wait between taking them out and settling them: no cursor is stored in between.
            for (event, _) in &dropped {
                self.window.settle(event);
            }
            if !dropped.is_empty() {
                self.tell_given_up(&dropped, false, None);
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
