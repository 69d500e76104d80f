//! Delivery as a whole, against a log in memory and an upstream that does as it is told.

mod fleet;
mod heartbeats;
mod memory;
mod model;
mod reload;
mod scenarios;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use memory::MemoryLog;
use tokio::task::JoinSet;
use upstream::FakeUpstream;

use super::{Controls, Delivery, DeliveryError, Settings, Stop};
use crate::clock::{Clock, Timestamp};
use crate::config::{self, Compress, DeadLettersFull, OnUnknown};
use crate::telemetry::Metrics;

fn settings(lanes: usize) -> Settings {
    Settings {
        delivery: config::Delivery {
            batch_events: 500,
            batch_bytes: 512 * 1024,
            linger: Duration::from_millis(200),
            lanes,
            retry_initial: Duration::from_millis(500),
            retry_max: Duration::from_secs(60),
            on_unknown: OnUnknown::Resend,
            adaptive: true,
            compress: Compress::None,
        },
        max_age: None,
        upstream_timeout: Duration::from_secs(60),
        dead_letters_full: DeadLettersFull::Pause,
        seed: 1,
    }
}

/// One process's delivery, running.
struct Running {
    tasks: JoinSet<Result<(), DeliveryError>>,
    controls: Controls,
    metrics: Arc<Metrics>,
    stop: Stop,
}

impl Running {
    fn begin(settings: Settings, log: &MemoryLog, upstream: &FakeUpstream, clock: &Clock) -> Self {
        let metrics = Arc::clone(log.metrics());
        let metrics_kept = Arc::clone(&metrics);
        let delivery =
            Delivery::new(settings, log.clone(), upstream.clone(), clock.clone(), metrics).unwrap();
        let (controls, stop) = (delivery.controls(), Stop::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(delivery.run(stop.clone()));
        Self { tasks, controls, metrics: metrics_kept, stop }
    }

    /// Waits until the queue is empty; panics when that takes more than a simulated day.
    async fn empty(&self) {
        assert_eq!(self.controls.flush(Duration::from_secs(86_400)).await, 0, "not all settled");
    }

    async fn join(mut self) -> Result<(), DeliveryError> {
        self.tasks.join_next().await.unwrap().unwrap()
    }
}

fn clock() -> Clock {
    Clock::manual(Timestamp::from_millis(1_000_000))
}
