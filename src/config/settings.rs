//! The settings as the program uses them. Their texts, defaults and checks are in `schema`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Secret;

/// All settings, valid together. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub api: Api,
    pub ops: Ops,
    pub admin: Admin,
    pub upstream: Upstream,
    pub events: Events,
    pub queue: Queue,
    pub delivery: Delivery,
    pub reads: Reads,
    pub dead_letters: DeadLetters,
    pub tracing: Tracing,
    pub runtime: Runtime,
    pub shutdown: Shutdown,
    pub log: Log,
}

/// The application listener.
#[derive(Clone, Debug, PartialEq)]
pub struct Api {
    pub listen: SocketAddr,
    pub unix_socket: Option<PathBuf>,
    pub unix_socket_mode: u32,
    pub keys: Vec<Secret>,
    /// Host names without ports, in lower case; `*` allows any.
    pub allowed_hosts: Vec<String>,
    pub max_body: usize,
    pub max_event: usize,
    pub max_batch_events: usize,
    pub max_connections: usize,
    pub max_requests: usize,
    pub body_memory: usize,
    pub head_timeout: Duration,
    pub body_timeout: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Ops {
    pub listen: SocketAddr,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    pub listen: SocketAddr,
    pub token: Option<Secret>,
}

/// GMFY itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// The base URL, http or https, ending with `/`.
    pub url: String,
    /// Exactly one of `api_key` and `api_key_file` is set.
    pub api_key: Option<Secret>,
    pub api_key_file: Option<PathBuf>,
    pub timeout: Duration,
    pub connect_timeout: Duration,
    pub verify: bool,
    pub ca_file: Option<PathBuf>,
    pub client_cert_file: Option<PathBuf>,
    pub client_key_file: Option<PathBuf>,
    /// Appended to `url`; ends with `/`.
    pub unread_notifications_path: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Events {
    pub types: BTreeMap<String, EventType>,
    pub unknown: UnknownEvents,
    pub dedupe_window: Duration,
    pub dedupe_entries: usize,
}

/// One entry of `events.types`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventType {
    pub kind: EventKind,
    /// The actions of an action type; empty for the others.
    pub actions: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    Classic,
    Action,
    Unique,
}

/// What happens to an event whose type is not in the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownEvents {
    Accept,
    Reject,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Queue {
    pub dir: PathBuf,
    pub durability: Durability,
    pub interval: Duration,
    pub max_bytes: u64,
    pub when_full: WhenFull,
    pub max_age: Option<Duration>,
    pub backend: Backend,
    pub nats: Nats,
}

/// Where queued events lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// On this machine's disk, in `queue.dir`.
    Sled,
    /// On NATS JetStream, for all replicas of a fleet.
    Nats,
}

/// The stream that a fleet's replicas share.
#[derive(Clone, Debug, PartialEq)]
pub struct Nats {
    pub servers: Vec<String>,
    pub credentials_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub stream: String,
    pub replicas: usize,
    pub lanes: usize,
    pub max_bytes: u64,
    pub lease: Duration,
    pub spill: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Answered when on disk.
    Sync,
    /// Answered when written; on disk each `queue.interval`.
    Interval,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    Reject,
    DropOldest,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    pub batch_events: usize,
    pub batch_bytes: usize,
    pub linger: Duration,
    pub lanes: usize,
    pub retry_initial: Duration,
    pub retry_max: Duration,
    pub on_unknown: OnUnknown,
    pub adaptive: bool,
    pub compress: Compress,
}

/// What becomes of classic and action events whose outcome is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnknown {
    Resend,
    Park,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compress {
    None,
    Gzip,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Reads {
    pub max_bytes: u64,
    pub ttl: ReadTtl,
    pub stale_while_revalidate: Duration,
    pub stale_if_error: Duration,
    pub prefetch: bool,
    pub connections: usize,
}

/// How long an answer of each route is fresh; zero switches its caching off.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadTtl {
    pub users: Duration,
    pub badges: Duration,
    pub ratings: Duration,
    pub challenges: Duration,
    pub payments: Duration,
    pub notifications: Duration,
    pub version: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetters {
    pub max_bytes: u64,
    pub when_full: DeadLettersFull,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadLettersFull {
    Pause,
    Drop,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Tracing {
    pub otlp_endpoint: Option<String>,
    pub sample_ratio: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Runtime {
    /// Worker threads; none follows the CPU quota.
    pub threads: Option<usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Shutdown {
    pub quiet: Duration,
    pub deadline: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// None: text where stderr is a terminal, else json.
    pub format: Option<LogFormat>,
    /// A level, or tracing-subscriber's filter directives.
    pub level: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Text,
}
