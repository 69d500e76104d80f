//! The settings that requests and connections of the application listener go by, replaced as a
//! whole while it serves: a request goes to its end by those it began with.

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

use super::descriptors::connections_within;
use super::host::AllowedHosts;
use super::listener::Limits;
use super::request_body::BodyLimits;
use crate::config::{Api, Secret, Settings};
use crate::event::Rules;

/// The settings in force. Clones share them.
#[derive(Clone, Debug)]
pub struct ApiSettings {
    requests: watch::Sender<Arc<InForce>>,
    connections: watch::Sender<Limits>,
}

/// What a request goes by.
#[derive(Debug)]
pub(super) struct InForce {
    pub(super) hosts: AllowedHosts,
    pub(super) keys: Vec<Secret>,
    pub(super) body: BodyLimits,
    /// For each request that is under way.
    pub(super) places: Semaphore,
    pub(super) rules: Rules,
}

impl ApiSettings {
    /// Those of `api` and `events`.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let requests = watch::Sender::new(Arc::new(in_force(settings)));
        let connections = watch::Sender::new(limits(&settings.api));
        Self { requests, connections }
    }

    /// Has requests go by these from now on.
    pub fn replace(&self, settings: &Settings) {
        self.requests.send_replace(Arc::new(in_force(settings)));
        let limits = limits(&settings.api);
        self.connections.send_if_modified(|current| {
            let differs = *current != limits;
            *current = limits;
            differs
        });
    }

    pub(super) fn now(&self) -> Arc<InForce> {
        Arc::clone(&self.requests.borrow())
    }

    pub(super) fn limits(&self) -> watch::Receiver<Limits> {
        self.connections.subscribe()
    }
}

fn in_force(settings: &Settings) -> InForce {
    let Settings { api, events, .. } = settings;
    InForce {
        hosts: AllowedHosts::new(&api.allowed_hosts),
        keys: api.keys.clone(),
        body: BodyLimits::new(api.max_body, api.body_timeout, api.body_memory),
        places: Semaphore::new(api.max_requests),
        rules: Rules::new(events, api.max_event, api.max_batch_events),
    }
}

fn limits(api: &Api) -> Limits {
    Limits {
        connections: connections_within("api.max_connections", api.max_connections),
        head_timeout: api.head_timeout,
        write_timeout: api.body_timeout,
    }
}
