//! What an operator can ask of a running sidecar; the composition root does it.

use std::future::Future;
use std::time::Duration;

use super::{EventStanding, FollowRequest, Status};
use crate::queue::{DeadLetter, DeadLetterPage, RequeueError, Requeued, Sequence, StoreError};
use crate::telemetry::stream::{Follower, TooManyFollowers};

/// See the module.
pub trait Operations: Send + Sync + 'static {
    /// The sidecar as it stands.
    fn status(&self) -> Status;

    /// The level of the log, as it was set last; none where the log isn't this program's.
    fn log_level(&self) -> Option<String>;

    /// Takes over a level of the log, until the settings are read again.
    ///
    /// # Errors
    /// When it is none; says why.
    fn set_log_level(&self, level: &str) -> Result<(), String>;

    /// Sends what waits without lingering, until the queue is empty or `wait` is over. Returns how
    /// many events are left.
    ///
    /// # Cancel safety
    /// Safe: dropped, delivery lingers again.
    fn flush(&self, wait: Duration) -> impl Future<Output = u64> + Send;

    /// Sends nothing more until resumed, also after a restart. Requests in flight are finished.
    ///
    /// # Errors
    /// When the pause can't be kept; delivery is paused all the same.
    fn pause(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Ends a pause, a misconfiguration and the wait that GMFY asked for. When everything was
    /// being refused, `dead_letter_rejected` makes dead letters of what is refused that way.
    ///
    /// # Errors
    /// When the end of the pause can't be kept; delivery goes on all the same.
    fn resume(
        &self,
        dead_letter_rejected: bool,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Up to `limit` dead letters behind `after`, fewer when they are large.
    ///
    /// # Errors
    /// When the disk fails.
    fn dead_letters(
        &self,
        after: Option<Sequence>,
        limit: usize,
    ) -> impl Future<Output = Result<DeadLetterPage, StoreError>> + Send;

    /// One dead letter.
    ///
    /// # Errors
    /// When the disk fails.
    fn dead_letter(
        &self,
        sequence: Sequence,
    ) -> impl Future<Output = Result<Option<DeadLetter>, StoreError>> + Send;

    /// Puts a dead letter back into the queue; none where there is none.
    ///
    /// # Errors
    /// When it stays a dead letter.
    ///
    /// # Cancel safety
    /// Dropped, it may be requeued or not.
    fn requeue(
        &self,
        sequence: Sequence,
    ) -> impl Future<Output = Result<Option<Requeued>, RequeueError>> + Send;

    /// Puts all dead letters back into the queue, in order; adds them to `requeued`, as far as it
    /// comes.
    ///
    /// # Errors
    /// When the rest stays as it is.
    ///
    /// # Cancel safety
    /// Dropped, some may be requeued, and the others are not.
    fn requeue_all(
        &self,
        requeued: &mut Vec<Requeued>,
    ) -> impl Future<Output = Result<(), RequeueError>> + Send;

    /// Throws a dead letter away; false where there is none.
    ///
    /// # Errors
    /// When the disk fails.
    fn discard(&self, sequence: Sequence) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Throws all dead letters away; returns how many those were.
    ///
    /// # Errors
    /// When the disk fails; some may be gone then.
    fn discard_all(&self) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Where an event stands.
    ///
    /// # Errors
    /// When the disk fails.
    fn event(
        &self,
        sequence: Sequence,
    ) -> impl Future<Output = Result<EventStanding, StoreError>> + Send;

    /// Follows what becomes of events from now on.
    ///
    /// # Errors
    /// When too many follow already.
    fn follow(&self, request: FollowRequest) -> Result<Follower, TooManyFollowers>;
}
