//! The composition root: builds every part from the settings, owns the tasks, stops them in order.
//!
//! Sockets are bound and the queue is opened before anything is served, so whatever is wrong is
//! told at start. A task that ends by itself stops the process with an error: there is no half of
//! a sidecar.
//!
//! The order of a stop: readiness off; events are still accepted until the application is quiet;
//! the application listener drains; delivery drains, while GMFY is there; the admin listener
//! ends, with its streams; the queue closes; spans are sent; the ops listener goes last. All within
//! `shutdown.deadline`; what is not delivered stays on disk.

mod drain;
mod fleet;
mod operations;
mod reload;
mod tasks;
mod traced;
mod upkeep;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::clock::Clock;
use crate::config::{Durability, Settings, WhenFull};
use crate::delivery::{self, Controls, Delivery, InvalidBackoff};
use crate::http::{
    self, Activity, AdminListener, ApiListener, ApiSettings, ApiState, BindError, GmfyClient,
    Health, OpsListener, OpsState, readiness_text,
};
use crate::queue::{
    Appender as _, Backend, DedupeLimits, OpenError, Options, Queue, Threads, WorkerPanicked,
    Workers,
};
use crate::reads::Reads;
use crate::telemetry::logging::LogHandle;
use crate::telemetry::traces::Exporter;
use crate::telemetry::{Metrics, traces};
use crate::upstream::{BuildError, CollectorClient, Upstream};
pub use drain::Drain;
#[cfg(feature = "nats")]
pub use fleet::survey as survey_fleet;
use operations::Operator;
pub use reload::{InForce, Reloaded, Reloader};
use tasks::{TaskEnded, Tasks};

/// Why the sidecar could not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum SidecarError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Queue(#[from] OpenError),
    #[cfg(feature = "nats")]
    #[error(transparent)]
    Nats(#[from] crate::queue::NatsError),
    #[error(transparent)]
    Upstream(#[from] BuildError),
    #[error("delivery.retry_initial, delivery.retry_max: {0}")]
    Backoff(#[from] InvalidBackoff),
    #[error(transparent)]
    Task(#[from] TaskEnded),
    #[error(transparent)]
    QueueWorker(#[from] WorkerPanicked),
    #[error("a blocking task was lost: {0}")]
    Blocking(#[from] tokio::task::JoinError),
}

/// Everything, built and bound, not yet serving.
#[derive(Debug)]
pub struct Sidecar {
    settings: watch::Sender<Arc<Settings>>,
    api_settings: ApiSettings,
    log: Option<LogHandle>,
    clock: Clock,
    metrics: Arc<Metrics>,
    queue: Backend,
    workers: Workers,
    upstream: Upstream,
    delivery: Delivery<Backend, Upstream>,
    reads: Reads,
    api: ApiListener,
    ops: OpsListener,
    admin: AdminListener,
    /// Where spans are wanted.
    exporter: Option<Exporter<CollectorClient>>,
}

/// Where a sidecar listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub api: Option<SocketAddr>,
    pub ops: Option<SocketAddr>,
    pub admin: Option<SocketAddr>,
}

/// What a stop left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Events that wait on disk for the next start.
    pub remaining: u64,
}

impl Sidecar {
    /// Binds the listeners and opens the queue.
    ///
    /// # Errors
    /// When an address, the folder or a file that the settings name can't be used.
    pub async fn build(settings: Settings, clock: Clock) -> Result<Self, SidecarError> {
        let (metrics, exporter) = traced::metrics(&settings.tracing, &clock).await?;
        let metrics = Arc::new(metrics);
        let api = ApiListener::bind(&settings.api).await?;
        let ops = OpsListener::bind(&settings.ops).await?;
        let admin = AdminListener::bind(&settings.admin).await?;
        let (upstream, queue, workers) = open(&settings, &clock, &metrics).await?;
        let delivery = Delivery::new(
            delivery::Settings::from_config(&settings),
            queue.clone(),
            upstream.clone(),
            clock.clone(),
            Arc::clone(&metrics),
        )?;
        let reads = Reads::new(settings.reads.clone(), upstream.clone(), Arc::clone(&metrics));
        let delivery = delivery.on_change({
            let (reads, queue) = (reads.clone(), queue.clone());
            move |users| fleet::changed(&reads, &queue, users)
        });
        if queue.was_paused() {
            delivery.controls().pause();
            warn!("delivery is paused, as an operator left it; POST /api/delivery/resume goes on");
        }
        let api_settings = ApiSettings::new(&settings);
        let settings = watch::Sender::new(Arc::new(settings));
        Ok(Self {
            settings,
            api_settings,
            log: None,
            metrics,
            queue,
            workers,
            upstream,
            delivery,
            reads,
            api,
            ops,
            admin,
            exporter,
            clock,
        })
    }

    /// The same, with a log whose level operators may change.
    #[must_use]
    pub fn with_log(self, log: LogHandle) -> Self {
        Self { log: Some(log), ..self }
    }

    #[must_use]
    pub fn addresses(&self) -> Addresses {
        Addresses { api: self.api.address(), ops: self.ops.address(), admin: self.admin.address() }
    }

    /// Puts other settings in force while it runs.
    #[must_use]
    pub fn reloader(&self) -> Reloader {
        Reloader {
            settings: self.settings.clone(),
            api: self.api_settings.clone(),
            upstream: self.upstream.clone(),
            reads: self.reads.clone(),
            queue: self.queue.clone(),
            controls: self.delivery.controls(),
        }
    }

    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// Serves until `stop` is cancelled, then stops in order.
    ///
    /// # Errors
    /// When a part ended by itself. Everything acknowledged is on disk all the same.
    pub async fn run(self, stop: CancellationToken) -> Result<Stopped, SidecarError> {
        let Self { metrics, queue, mut workers, upstream, delivery, reads, clock, .. } = self;
        let (in_force, api_settings) = (self.settings.subscribe(), self.api_settings);
        let (api, ops, admin) = (self.api, self.ops, self.admin);
        let settings = Arc::clone(&in_force.borrow());
        let controls = delivery.controls();
        let stopping = Arc::new(AtomicBool::new(false));
        let activity = Activity::default();
        let stops = Stops::default();
        let mut tasks = Tasks::default();

        let state = ApiState {
            appender: queue.clone(),
            gmfy: GmfyClient { reads: reads.clone(), upstream: upstream.clone() },
            metrics: Arc::clone(&metrics),
        };
        tasks.spawn("application listener", {
            let (activity, stop) = (activity.clone(), stops.api.clone());
            async move {
                api.serve(api_settings, state, activity, stop).await;
                Ok(())
            }
        });
        tasks.spawn("ops listener", {
            let health = QueueHealth {
                queue: queue.clone(),
                controls: controls.clone(),
                metrics: Arc::clone(&metrics),
                stopping: Arc::clone(&stopping),
            };
            let state = OpsState { metrics: Arc::clone(&metrics), health: Arc::new(health) };
            let stop = stops.ops.clone();
            async move {
                ops.serve(state, stop).await;
                Ok(())
            }
        });
        tasks.spawn("admin listener", {
            let operator = Operator {
                queue: queue.clone(),
                controls: controls.clone(),
                reads: reads.clone(),
                metrics: Arc::clone(&metrics),
                started_at: clock.now(),
                clock: clock.clone(),
                settings: in_force.clone(),
                stopping: Arc::clone(&stopping),
                log: self.log,
            };
            let (in_force, stop) = (in_force.clone(), stops.admin.clone());
            async move {
                admin.serve(in_force, operator, stop).await;
                Ok(())
            }
        });
        if let Some(paused) = queue.fleet_paused() {
            let stop = stops.watches.clone();
            tasks.spawn("pause of the fleet", fleet::pause(paused, controls.clone(), stop));
            let (reads, queue, stop) = (reads.clone(), queue.clone(), stops.watches.clone());
            tasks.spawn("changes by other replicas", fleet::changes(reads, queue, stop));
        }
        tasks.spawn("delivery", {
            let stop = stops.delivery.clone();
            async move { delivery.run(stop).await.map_err(|error| error.to_string()) }
        });
        tasks.spawn("upkeep", {
            let (metrics, dir, stop) =
                (Arc::clone(&metrics), settings.queue.dir.clone(), stops.watches.clone());
            async move {
                upkeep::upkeep(metrics, clock, dir, upkeep::EVERY, stop).await;
                Ok(())
            }
        });
        tasks.spawn("watch of the key and certificates", {
            let stop = stops.watches.clone();
            let upstream = upstream.clone();
            async move {
                upstream.watch_files(stop).await;
                Ok(())
            }
        });
        tasks.spawn("reads", {
            let (reads, stop) = (reads.clone(), stops.watches.clone());
            async move {
                reads.run(stop).await;
                Ok(())
            }
        });
        let is_traced = self.exporter.is_some();
        if let Some(exporter) = self.exporter {
            let stop = stops.traces.clone();
            tasks.spawn(TRACES, async move {
                exporter.run(stop).await;
                Ok(())
            });
        }
        // Delivery tries again at once; and another key may be another client's.
        let key_changed = move || {
            controls.reconfigured();
            reads.forget_all();
        };
        tasks.spawn("key changes", key_changes(upstream, key_changed, stops.watches.clone()));

        let failure = tokio::select! {
            () = stop.cancelled() => None,
            ended = tasks.any_ended() => Some(SidecarError::from(ended)),
            () = workers.ended() => None,
        };
        if let Some(failure) = &failure {
            error!(error = %failure, "a part ended by itself; stopping");
        }
        stopping.store(true, Ordering::Relaxed);
        let settings = Arc::clone(&in_force.borrow());
        let end = stops.in_order(&settings, &activity, &mut tasks, failure.is_some()).await;
        queue.close();
        drop(queue);
        workers.join().await?;
        if is_traced {
            stops.traces(&mut tasks, end).await;
        }
        stops.ops.drain.cancel();
        stops.ops.abort.cancel();
        tasks.wait_for("ops listener", Instant::now() + LAST_WAIT).await;
        let remaining = metrics.ledger.snapshot().queued();
        info!(remaining, "stopped");
        match failure {
            Some(failure) => Err(failure),
            None => Ok(Stopped { remaining }),
        }
    }
}

/// What ends when the rest has ended: bounded, as everything is.
const LAST_WAIT: Duration = Duration::from_secs(1);
/// What spans get at the end, as far as the deadline is not nearer.
const FLUSH_WAIT: Duration = Duration::from_secs(3);
const TRACES: &str = "export of traces";

/// How each part is told to stop.
#[derive(Debug, Default)]
struct Stops {
    api: http::Stop,
    delivery: delivery::Stop,
    admin: http::Stop,
    ops: http::Stop,
    traces: traces::Stop,
    watches: CancellationToken,
}

impl Stops {
    /// Stops accepting, then delivering; returns when all is to have ended. `at_once` after a
    /// failure: nothing is waited for.
    async fn in_order(
        &self,
        settings: &Settings,
        activity: &Activity,
        tasks: &mut Tasks,
        at_once: bool,
    ) -> Instant {
        let deadline = settings.shutdown.deadline;
        let end = Instant::now() + if at_once { LAST_WAIT } else { deadline };
        let reserve = Duration::from_secs(5).min(deadline / 2);
        if !at_once {
            until_quiet(activity, settings.shutdown.quiet, end - reserve).await;
        }
        self.api.drain.cancel();
        if !tasks.wait_for("application listener", end - reserve / 2).await {
            warn!("connections are closed although a request is under way");
        }
        self.api.abort.cancel();
        tasks.wait_for("application listener", end).await;
        self.delivery.drain.cancel();
        // Requests in flight are awaited until just before the deadline.
        tasks.wait_for("delivery", end - reserve / 10).await;
        self.delivery.abort.cancel();
        self.watches.cancel();
        tasks.wait_for("delivery", end).await;
        tasks.wait_for("reads", end).await;
        self.admin.drain.cancel();
        tasks.wait_for("admin listener", Instant::now() + LAST_WAIT).await;
        self.admin.abort.cancel();
        end
    }

    /// Sends the spans that are left, when none begins any more.
    async fn traces(&self, tasks: &mut Tasks, end: Instant) {
        self.traces.flush.cancel();
        tasks.wait_for(TRACES, end.min(Instant::now() + FLUSH_WAIT)).await;
        self.traces.abort.cancel();
        tasks.wait_for(TRACES, Instant::now() + LAST_WAIT).await;
    }
}

/// Waits until no event came for `quiet`, at the latest until `end`.
async fn until_quiet(activity: &Activity, quiet: Duration, end: Instant) {
    loop {
        let before = activity.count();
        if timeout_at(end, sleep(quiet)).await.is_err() || activity.count() == before {
            return;
        }
    }
}

/// Opens the queue that the settings choose, and what it is delivered to.
async fn open(
    settings: &Settings,
    clock: &Clock,
    metrics: &Arc<Metrics>,
) -> Result<(Upstream, Backend, Workers), SidecarError> {
    #[cfg(feature = "nats")]
    if settings.queue.backend == crate::config::Backend::Nats {
        return fleet::open(settings, clock, metrics).await;
    }
    let (upstream, queue, threads) = open_folder(settings, clock, metrics).await?;
    Ok((upstream, Backend::Sled(queue), Workers::Sled(threads)))
}

/// Opens the queue on this machine's disk, and what it is delivered to.
async fn open_folder(
    settings: &Settings,
    clock: &Clock,
    metrics: &Arc<Metrics>,
) -> Result<(Upstream, Queue, Threads), SidecarError> {
    let (settings, clock, metrics) = (settings.clone(), clock.clone(), Arc::clone(metrics));
    let opening = move || -> Result<_, SidecarError> {
        let upstream = open_upstream(&settings, &clock, &metrics)?;
        let (queue, threads) = Queue::open(&queue_options(&settings), clock, metrics)?;
        Ok((upstream, queue, threads))
    };
    tokio::task::spawn_blocking(opening).await?
}

/// Reads the files that the settings name. Blocks.
fn open_upstream(
    settings: &Settings,
    clock: &Clock,
    metrics: &Arc<Metrics>,
) -> Result<Upstream, SidecarError> {
    let connections = settings.reads.connections;
    let upstream = Upstream::new(&settings.upstream, connections, Arc::clone(metrics))?;
    Ok(upstream.with_clock(clock.clone()))
}

/// Calls `changed` each time when the key is another one.
async fn key_changes(
    upstream: Upstream,
    changed: impl Fn() + Send,
    stop: CancellationToken,
) -> Result<(), String> {
    let mut changes = upstream.key_changes();
    drop(upstream);
    loop {
        tokio::select! {
            change = changes.changed() => match change {
                Ok(()) => changed(),
                // No one is left who could change it.
                Err(_) => {
                    stop.cancelled().await;
                    return Ok(());
                }
            },
            () = stop.cancelled() => return Ok(()),
        }
    }
}

fn queue_options(settings: &Settings) -> Options {
    Options {
        dir: settings.queue.dir.clone(),
        max_bytes: settings.queue.max_bytes,
        drops_oldest: settings.queue.when_full == WhenFull::DropOldest,
        interval: match settings.queue.durability {
            Durability::Sync => None,
            Durability::Interval => Some(settings.queue.interval),
        },
        dead_letters_max_bytes: settings.dead_letters.max_bytes,
        dedupe: DedupeLimits {
            window: settings.events.dedupe_window,
            entries: settings.events.dedupe_entries,
        },
    }
}

/// The process's health as the queue and the stop decide it; never GMFY's.
#[derive(Debug)]
struct QueueHealth {
    queue: Backend,
    controls: Controls,
    metrics: Arc<Metrics>,
    stopping: Arc<AtomicBool>,
}

impl Health for QueueHealth {
    fn alive(&self) -> Result<(), String> {
        self.metrics.heartbeats.alive()
    }

    fn ready(&self) -> Result<(), String> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err("stopping".to_owned());
        }
        readiness_text(self.queue.ready()).map_or(Ok(()), |why| Err(why.to_owned()))
    }

    fn before_scrape(&self) {
        self.controls.refresh_metrics();
    }
}
