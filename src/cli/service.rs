//! What the service manager is told (`sd_notify`), where there is one: ready, reloading, stopping,
//! and that the process's own loops turn.

use std::convert::Infallible;

use sd_notify::NotifyState;
use tracing::warn;

use crate::telemetry::Metrics;

/// Tells the manager; without one, nothing happens.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "the service manager can't be told how the process is");
    }
}

pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Followed by [`ready`], whatever came of it.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "the service manager can't be told of the reload"),
    }
}

pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Feeds the manager's watchdog while every part is in time; a part that is stuck starves it.
pub(super) async fn watchdog(metrics: &Metrics) -> Infallible {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else {
        return std::future::pending().await;
    };
    let mut ticks = tokio::time::interval(limit / 3);
    loop {
        ticks.tick().await;
        if metrics.heartbeats.alive().is_ok() {
            tell(&[NotifyState::Watchdog]);
        }
    }
}
