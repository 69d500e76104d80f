//! What an operator can ask of a running sidecar; the composition root does it.

use std::future::Future;
use std::time::Duration;

use super::Status;
use crate::queue::StoreError;

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
}
