//! What replicas of a fleet do for each other: a pause counts for all, and what one delivers is no
//! longer in the others' caches.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::delivery::Controls;
use crate::queue::{Backend, UserHash};
use crate::reads::Reads;

#[cfg(feature = "nats")]
pub(super) use opening::open;
#[cfg(feature = "nats")]
pub use opening::survey;

/// GMFY took something of these users, or may have: tells this replica's cache, and the others.
pub(super) fn changed(reads: &Reads, queue: &Backend, users: &mut dyn Iterator<Item = UserHash>) {
    match queue {
        Backend::Sled(_) => reads.users_changed(users),
        #[cfg(feature = "nats")]
        Backend::Nats(fleet) => {
            let users: Vec<_> = users.collect();
            reads.users_changed(users.iter().copied());
            fleet.tell_changed(&mut users.into_iter());
        }
    }
}

/// Drops from the cache what other replicas deliver.
pub(super) async fn changes(
    reads: Reads,
    queue: Backend,
    stop: CancellationToken,
) -> Result<(), String> {
    let following = queue.changes_elsewhere(|users| reads.users_changed(users));
    stop.run_until_cancelled(following).await;
    Ok(())
}

/// Pauses and resumes as any replica's operator says.
pub(super) async fn pause(
    mut paused: watch::Receiver<bool>,
    controls: Controls,
    stop: CancellationToken,
) -> Result<(), String> {
    if *paused.borrow_and_update() {
        controls.pause();
    }
    while let Some(Ok(())) = stop.run_until_cancelled(paused.changed()).await {
        if *paused.borrow_and_update() {
            controls.pause();
            tracing::info!("delivery of the fleet is paused");
        } else {
            controls.resume(false);
            tracing::info!("delivery of the fleet goes on");
        }
    }
    stop.cancelled().await;
    Ok(())
}

#[cfg(feature = "nats")]
mod opening {
    use std::sync::Arc;

    use crate::clock::Clock;
    use crate::config::Settings;
    use crate::queue::{
        Backend, DedupeLimits, FleetOptions, FleetQueue, FleetSurvey, NatsError, Workers,
    };
    use crate::sidecar::{SidecarError, open_upstream, queue_options};
    use crate::telemetry::Metrics;
    use crate::upstream::Upstream;

    /// Opens the queue of the fleet, and what it is delivered to.
    pub(in crate::sidecar) async fn open(
        settings: &Settings,
        clock: &Clock,
        metrics: &Arc<Metrics>,
    ) -> Result<(Upstream, Backend, Workers), SidecarError> {
        let upstream = {
            let (settings, clock) = (settings.clone(), clock.clone());
            let metrics = Arc::clone(metrics);
            let opening = move || open_upstream(&settings, &clock, &metrics);
            tokio::task::spawn_blocking(opening).await??
        };
        let options = options(settings);
        let opening = FleetQueue::open(&options, clock.clone(), Arc::clone(metrics));
        let (queue, tasks) = Box::pin(opening).await?;
        Ok((upstream, Backend::Nats(queue), Workers::Nats(tasks)))
    }

    /// Asks the NATS servers of the settings how they and the streams are; creates nothing.
    ///
    /// # Errors
    /// When NATS can't be reached or used.
    pub async fn survey(settings: &Settings) -> Result<FleetSurvey, NatsError> {
        Box::pin(FleetQueue::survey(&options(settings))).await
    }

    fn options(settings: &Settings) -> FleetOptions {
        let nats = settings.queue.nats.clone();
        FleetOptions {
            servers: nats.servers,
            credentials_file: nats.credentials_file,
            ca_file: nats.ca_file,
            stream: nats.stream,
            replicas: nats.replicas,
            lanes: nats.lanes,
            max_bytes: nats.max_bytes,
            lease: nats.lease,
            dead_letters_max_bytes: settings.dead_letters.max_bytes,
            max_event: settings.api.max_event,
            dedupe: DedupeLimits {
                window: settings.events.dedupe_window,
                entries: settings.events.dedupe_entries,
            },
            spill: settings.queue.nats.spill.then(|| queue_options(settings)),
        }
    }
}
