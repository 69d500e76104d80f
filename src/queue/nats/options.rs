//! How a fleet's queue is opened, and why it can't be.

use std::path::PathBuf;
use std::time::Duration;

use crate::queue::{DedupeLimits, OpenError, Options as SpillOptions};

/// How a fleet's queue is opened. Sizes are in bytes.
#[derive(Clone, Debug)]
pub struct Options {
    pub servers: Vec<String>,
    pub credentials_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub stream: String,
    pub replicas: usize,
    pub lanes: usize,
    pub max_bytes: u64,
    pub lease: Duration,
    pub dead_letters_max_bytes: u64,
    pub max_event: usize,
    pub dedupe: DedupeLimits,
    /// Where events are kept that NATS does not take; they are refused where there is none.
    pub spill: Option<SpillOptions>,
}

impl Options {
    #[cfg(test)]
    pub(super) fn example() -> Self {
        Self {
            servers: vec!["nats://127.0.0.1:4222".to_owned()],
            credentials_file: None,
            ca_file: None,
            stream: "GMFY".to_owned(),
            replicas: 3,
            lanes: 64,
            max_bytes: 1 << 30,
            lease: Duration::from_secs(10),
            dead_letters_max_bytes: 1 << 20,
            max_event: 1 << 16,
            dedupe: DedupeLimits { window: Duration::from_secs(600), entries: 1000 },
            spill: None,
        }
    }
}

/// Why a fleet's queue can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// None of the servers answers; perhaps later.
    #[error(
        "queue.nats.servers: NATS can't be reached at {servers}: {why}. Start it, or correct the \
         addresses"
    )]
    Unreachable { servers: String, why: String },
    #[error("queue.nats.credentials_file: {path} can't be used: {why}")]
    Credentials { path: String, why: String },
    #[error(
        "the NATS servers take messages of {max_payload} bytes, and events of api.max_event need \
         {needed}: raise the servers' max_payload, or lower api.max_event"
    )]
    MaxPayload { max_payload: usize, needed: usize },
    #[error(
        "the NATS servers at {servers} refuse the user: {why}. Set queue.nats.credentials_file to the \
         credentials of a user that they know"
    )]
    Refused { servers: String, why: String },
    #[error(
        "no TLS with NATS at {servers}: {why}. Set queue.nats.ca_file to the authority that signed \
         the servers' certificates, and queue.nats.servers to names that stand in them"
    )]
    Tls { servers: String, why: String },
    #[error(
        "the NATS servers have no JetStream for this user: {0}. Start them with a `jetstream` block, \
         and enable it for the user's account"
    )]
    NoJetStream(String),
    /// JetStream does not answer, or refuses; perhaps not later.
    #[error("NATS, stream {stream}: {why}")]
    Request { stream: String, why: String },
    #[error(
        "the NATS stream {stream} is not as the settings say, and is never changed by this program: \
         {how}. Change the settings, or the stream (`nats stream edit {stream}`)"
    )]
    Differs { stream: String, how: String },
    #[error(
        "queue.nats.lanes is {wanted}, and the stream was made with {found} lanes, which can't be \
         changed: set it to {found}, or use another queue.nats.stream once this one is empty"
    )]
    Lanes { found: usize, wanted: usize },
    #[error(
        "the stream was written by a newer version of gmfy-sidecar (format {0}): run that version, \
         or use another queue.nats.stream"
    )]
    Newer(u32),
    #[error(
        "the NATS stream {stream} was deleted and created again, and the cursors in the bucket \
         {bucket} are the old one's: delete the bucket too (`nats kv del {bucket}`)"
    )]
    Recreated { stream: String, bucket: String },
    #[error("queue.nats.spill: {0}")]
    Spill(#[from] OpenError),
}

impl NatsError {
    pub(super) fn request(stream: &str, error: &dyn std::fmt::Display) -> Self {
        Self::Request { stream: stream.to_owned(), why: error.to_string() }
    }
}
