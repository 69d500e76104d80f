//! The table of all settings: each one's name, default, documentation and syntax, once.
//!
//! `events.types` is not in it, since it is a table of its own: see `catalogue`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::settings::*;
use super::syntax::{
    Address, BaseUrl, Boolean, Count, Directives, Expected, FileMode, FilePath, GIB, Host, Invalid,
    KIB, Key, List, MIB, NatsServer, Or, Period, Ratio, Raw, Required, Size, StreamName, Syntax,
    TIB, UrlPath, Words,
};

/// When a changed value takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// When the settings are read again.
    Reload,
    /// When the process starts.
    Restart,
}

/// One setting. The functions read and write its field.
pub(crate) struct Setting {
    /// The dotted path in the file, which is also the path in [`Settings`].
    pub(crate) name: &'static str,
    pub(crate) default: &'static str,
    pub(crate) doc: &'static str,
    pub(crate) takes: Takes,
    pub(crate) secret: bool,
    pub(crate) expected: fn() -> String,
    pub(crate) apply: fn(&mut Settings, &Raw) -> Result<(), Invalid>,
    pub(crate) show: fn(&Settings) -> String,
    pub(crate) toml: fn(&Settings) -> String,
    pub(crate) differs: fn(&Settings, &Settings) -> bool,
    /// Takes the value of the second into the first.
    pub(crate) copy: fn(&mut Settings, &Settings),
}

impl Setting {
    /// The setting of this name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        SCHEMA.iter().find(|setting| setting.name == name)
    }

    /// The environment variable that sets it.
    pub(crate) fn variable(&self) -> String {
        variable(self.name)
    }
}

/// The environment variable of a dotted name.
pub(crate) fn variable(name: &str) -> String {
    format!("GMFY_{}", name.to_ascii_uppercase().replace('.', "__"))
}

/// The names of the file's tables, with what each is about.
pub(crate) const SECTIONS: [(&str, &str); 16] = [
    ("api", "The application listener."),
    ("ops", "The listener for probes and metrics."),
    ("admin", "The listener for the status page and the admin API."),
    ("upstream", "GMFY itself."),
    ("events", "What events are accepted."),
    ("events.types", ""),
    ("queue", "The durable queue."),
    (
        "queue.nats",
        "The queue of a fleet, on NATS JetStream; read where queue.backend is `nats`. docs/fleet.md \
         tells what it guarantees.",
    ),
    ("dead_letters", "Events that GMFY refused."),
    ("delivery", "From the queue to GMFY."),
    ("reads", "What is read from GMFY through the sidecar."),
    ("reads.ttl", "How long an answer of each route is fresh; `0` switches its caching off."),
    ("tracing", "Traces."),
    ("runtime", "The process."),
    ("shutdown", "The stop after SIGTERM or SIGINT."),
    ("log", "The log, on stderr."),
];

/// One row: `path = default, syntax, when it takes effect, secret or open; documentation`.
macro_rules! setting {
    ($first:ident $(. $rest:ident)+ = $default:literal, $syntax:expr, $takes:ident, $secret:ident;
     $($doc:literal)+) => {
        Setting {
            name: concat!(stringify!($first) $(, ".", stringify!($rest))+),
            default: $default,
            doc: concat!($($doc),+),
            takes: Takes::$takes,
            secret: setting!(@ $secret),
            expected: || Expected::expected(&$syntax),
            apply: |settings, raw| {
                settings.$first$(.$rest)+ = Syntax::parse(&$syntax, raw)?;
                Ok(())
            },
            show: |settings| Syntax::show(&$syntax, &settings.$first$(.$rest)+),
            toml: |settings| Syntax::toml(&$syntax, &settings.$first$(.$rest)+),
            differs: |one, other| one.$first$(.$rest)+ != other.$first$(.$rest)+,
            copy: |to, from| to.$first$(.$rest)+.clone_from(&from.$first$(.$rest)+),
        }
    };
    (@ secret) => { true };
    (@ open) => { false };
}

/// Every setting, in the order of the documented file.
pub(crate) static SCHEMA: &[Setting] = &[
    setting!(api.listen = "127.0.0.1:7460", Address, Restart, open;
        "Where applications connect: HTTP/1.1 and cleartext HTTP/2. An address that isn't loopback "
        "needs api.keys."),
    setting!(api.unix_socket = "none", Or("none", FilePath), Restart, open;
        "A Unix socket that answers as api.listen does."),
    setting!(api.unix_socket_mode = "0660", FileMode, Restart, open;
        "The permissions of the Unix socket, in octal."),
    setting!(api.keys = "none", List { of: Key, min: 0 }, Reload, secret;
        "When set, callers send one of these keys as `x-api-key`."),
    setting!(api.allowed_hosts = "localhost, 127.0.0.1, [::1]", List { of: Host, min: 1 }, Reload,
        open;
        "The host names that a request may be addressed to, against DNS rebinding. Ports are "
        "ignored; `*` allows any."),
    setting!(api.max_body = "8MiB", Size { min: 1, max: GIB }, Reload, open;
        "The largest body of a request, after decompression."),
    setting!(api.max_event = "64KiB", Size { min: 1, max: 16 * MIB }, Reload, open;
        "The largest event."),
    setting!(api.max_batch_events = "100000", Count { min: 1, max: 10_000_000 }, Reload, open;
        "The most events in a request."),
    setting!(api.max_connections = "1024", Count { min: 1, max: 1_000_000 }, Reload, open;
        "The most connections at a time; no more than the limit of open files leaves room for. "
        "Further ones wait."),
    setting!(api.max_requests = "1024", Count { min: 1, max: 1_000_000 }, Reload, open;
        "The most requests under way at a time, on all connections; further ones are answered 503."),
    setting!(api.body_memory = "64MiB", Size { min: 1, max: 64 * GIB }, Reload, open;
        "The memory that the bodies under way may take together, beyond the first 64 KiB of each; a "
        "request that finds none is answered 503. There is room for 2 bodies of api.max_body in any "
        "case: one as it was sent, and decompressed."),
    setting!(api.head_timeout = "30s", Period::POSITIVE, Reload, open;
        "How long the head of a request may take, and how long a connection may be idle; then it is "
        "closed."),
    setting!(api.body_timeout = "30s", Period::POSITIVE, Reload, open;
        "How long a body may stall (and ten times that, how long it may take); then the answer is "
        "408. And how long a caller may take no more of an answer; then the connection is closed."),
    setting!(ops.listen = "0.0.0.0:7461", Address, Restart, open;
        "Where /metrics, /livez, /readyz and /startupz answer, and nothing else."),
    setting!(admin.listen = "127.0.0.1:7462", Address, Restart, open;
        "Where the status page and the admin API answer. An address that isn't loopback needs "
        "admin.token."),
    setting!(admin.token = "none", Or("none", Key), Reload, secret;
        "When set, every request carries it: as a bearer token, or as the password of HTTP Basic."),
    setting!(upstream.url = "none", Required(BaseUrl), Reload, open;
        "GMFY's base URL. Required. Also set by GMFY_URL."),
    setting!(upstream.api_key = "none", Or("none", Key), Reload, secret;
        "The key for GMFY. Either this or upstream.api_key_file is required. Also set by "
        "GMFY_API_KEY."),
    setting!(upstream.api_key_file = "none", Or("none", FilePath), Reload, open;
        "A file that holds the key. It is watched: a new key takes effect within 10 s."),
    setting!(upstream.timeout = "60s", Period::POSITIVE, Reload, open;
        "How long a whole request to GMFY may take."),
    setting!(upstream.connect_timeout = "5s", Period::POSITIVE, Reload, open;
        "How long connecting to GMFY may take, TLS included."),
    setting!(upstream.verify = "true", Boolean, Reload, open;
        "Whether GMFY's certificate is verified. `false` is for tests: anyone on the way can then "
        "read the key."),
    setting!(upstream.ca_file = "none", Or("none", FilePath), Reload, open;
        "A PEM file of certificate authorities to trust as well."),
    setting!(upstream.client_cert_file = "none", Or("none", FilePath), Reload, open;
        "A PEM file with the client certificate and its chain. Needs upstream.client_key_file."),
    setting!(upstream.client_key_file = "none", Or("none", FilePath), Reload, open;
        "A PEM file with the client certificate's private key."),
    setting!(upstream.unread_notifications_path = "v1/notifications/unread/", UrlPath, Reload, open;
        "Where GMFY answers for unread notifications, below its base URL: GMFY's documentation "
        "leaves it open."),
    setting!(events.unknown = "accept",
        Words(&[("accept", UnknownEvents::Accept), ("reject", UnknownEvents::Reject)]),
        Reload, open;
        "Whether an event whose type is not in events.types is accepted or refused."),
    setting!(events.dedupe_window = "10m", Period::OR_ZERO, Reload, open;
        "How long an Idempotency-Key, and a unique event's key for its user and type, are "
        "remembered."),
    setting!(events.dedupe_entries = "262144", Count { min: 0, max: 1 << 26 }, Reload, open;
        "The most that is remembered; beyond it the oldest is forgotten, and counted."),
    setting!(queue.dir = "./data", FilePath, Restart, open;
        "The data folder. One process at a time."),
    setting!(queue.durability = "sync",
        Words(&[("sync", Durability::Sync), ("interval", Durability::Interval)]), Reload, open;
        "`sync`: an event is answered when it is on disk. `interval`: when it is written; it is on "
        "disk each queue.interval, and a power cut loses what came since."),
    setting!(queue.interval = "50ms", Period::POSITIVE, Reload, open;
        "How often written events are made durable where queue.durability is `interval`."),
    setting!(queue.max_bytes = "1GiB", Size { min: 8, max: 64 * TIB }, Restart, open;
        "The most disk space that queued events take; with queue.nats.spill, those that wait for "
        "NATS. It must hold at least 8 bodies of api.max_body."),
    setting!(queue.when_full = "reject",
        Words(&[("reject", WhenFull::Reject), ("drop_oldest", WhenFull::DropOldest)]),
        Reload, open;
        "`reject`: a full queue answers 503. `drop_oldest`: it drops the oldest events, and counts "
        "them."),
    setting!(queue.max_age = "none", Or("none", Period::POSITIVE), Reload, open;
        "Events that have waited longer are dead-lettered instead of sent."),
    setting!(queue.backend = "sled",
        Words(&[("sled", Backend::Sled), ("nats", Backend::Nats)]), Restart, open;
        "Where queued events lie. `sled`: on this machine's disk, in queue.dir. `nats`: on NATS "
        "JetStream, shared by the replicas of a fleet; a program that was built with the feature "
        "`nats` can do that."),
    setting!(queue.nats.servers = "nats://127.0.0.1:4222", List { of: NatsServer, min: 1 }, Restart,
        open;
        "The servers to connect to; one that answers is enough, it names the others. `tls://` asks "
        "for TLS."),
    setting!(queue.nats.credentials_file = "none", Or("none", FilePath), Restart, open;
        "A file with the user's JWT and seed, as the nsc tool writes it."),
    setting!(queue.nats.ca_file = "none", Or("none", FilePath), Restart, open;
        "A PEM file of certificate authorities to trust as well."),
    setting!(queue.nats.stream = "GMFY", StreamName, Restart, open;
        "The stream that holds the events. Beside it there are a stream of dead letters, NAME-DEAD, "
        "and a key-value bucket of lanes and replicas, NAME-STATE. Each is created where it isn't "
        "there, and checked where it is."),
    setting!(queue.nats.replicas = "3", Count { min: 1, max: 5 }, Restart, open;
        "How many NATS servers keep each event."),
    setting!(queue.nats.lanes = "64", Count { min: 1, max: 256 }, Restart, open;
        "How many lanes the replicas share out among themselves; each has one batch under way at "
        "most. It can't be changed once the stream is there."),
    setting!(queue.nats.max_bytes = "16GiB", Size { min: 8, max: 64 * TIB }, Restart, open;
        "The most space that queued events take on each NATS server that keeps them; beyond it "
        "events are answered 503. It must hold at least 8 bodies of api.max_body."),
    setting!(queue.nats.lease = "10s", Period::SECONDS, Restart, open;
        "How long a replica that is no longer heard of keeps its lanes."),
    setting!(queue.nats.spill = "false", Boolean, Restart, open;
        "Whether events go to this replica's disk while NATS can't be reached or does not take them, "
        "in place of 503: into queue.dir, up to queue.max_bytes; and from there to NATS later, in "
        "order. It needs events.dedupe_window."),
    setting!(dead_letters.max_bytes = "64MiB", Size { min: KIB, max: TIB }, Reload, open;
        "The most disk space that dead letters take."),
    setting!(dead_letters.when_full = "pause",
        Words(&[("pause", DeadLettersFull::Pause), ("drop", DeadLettersFull::Drop)]),
        Reload, open;
        "`pause`: delivery waits until there is room. `drop`: further dead letters are dropped, and "
        "counted."),
    setting!(delivery.batch_events = "500", Count { min: 1, max: 100_000 }, Reload, open;
        "The most events in a batch to GMFY."),
    setting!(delivery.batch_bytes = "512KiB", Size { min: 1, max: 64 * MIB }, Reload, open;
        "The largest batch to GMFY; a single event may be larger."),
    setting!(delivery.linger = "200ms", Period::OR_ZERO, Reload, open;
        "How long an event waits for others to share its batch."),
    setting!(delivery.lanes = "4", Count { min: 1, max: 64 }, Reload, open;
        "How many batches are under way at a time. A user's events stay in one lane, in order."),
    setting!(delivery.retry_initial = "500ms", Period::POSITIVE, Reload, open;
        "The longest wait before the first retry; it doubles with each, with full jitter."),
    setting!(delivery.retry_max = "60s", Period::POSITIVE, Reload, open;
        "The longest wait before any retry."),
    setting!(delivery.on_unknown = "resend",
        Words(&[("resend", OnUnknown::Resend), ("park", OnUnknown::Park)]), Reload, open;
        "What becomes of a batch whose outcome is unknown. `resend` may deliver events twice; "
        "`park` dead-letters classic and action events, and sends only the unique ones again."),
    setting!(delivery.adaptive = "true", Boolean, Reload, open;
        "Whether batches and lanes follow what GMFY takes."),
    setting!(delivery.compress = "none",
        Words(&[("none", Compress::None), ("gzip", Compress::Gzip)]), Reload, open;
        "Whether batches are compressed, where GMFY takes it."),
    setting!(reads.max_bytes = "16MiB", Size { min: 0, max: TIB }, Reload, open;
        "The most memory that cached answers take."),
    setting!(reads.stale_while_revalidate = "10s", Period::OR_ZERO, Reload, open;
        "How long past its TTL an answer is given while a fresh one is fetched (RFC 5861)."),
    setting!(reads.stale_if_error = "5m", Period::OR_ZERO, Reload, open;
        "How long past its TTL an answer is given while GMFY fails (RFC 5861)."),
    setting!(reads.prefetch = "true", Boolean, Reload, open;
        "Whether answers in demand are fetched again before they expire."),
    setting!(reads.connections = "16", Count { min: 1, max: 1024 }, Reload, open;
        "The most reads under way to GMFY at a time."),
    setting!(reads.ttl.users = "5s", Period::OR_ZERO, Reload, open; "Users, one or all."),
    setting!(reads.ttl.badges = "5s", Period::OR_ZERO, Reload, open; "A user's badges."),
    setting!(reads.ttl.ratings = "2s", Period::OR_ZERO, Reload, open; "The top of a rating."),
    setting!(reads.ttl.challenges = "2s", Period::OR_ZERO, Reload, open; "The top of a challenge."),
    setting!(reads.ttl.payments = "1s", Period::OR_ZERO, Reload, open; "A payment."),
    setting!(reads.ttl.notifications = "1s", Period::OR_ZERO, Reload, open;
        "Notifications. Unread ones are never cached."),
    setting!(reads.ttl.version = "5m", Period::OR_ZERO, Reload, open; "The version of GMFY's API."),
    setting!(tracing.otlp_endpoint = "none", Or("none", BaseUrl), Restart, open;
        "Where spans are sent, by OTLP over HTTP: `v1/traces` is appended. Without it there are no "
        "traces."),
    setting!(tracing.sample_ratio = "0.01", Ratio, Restart, open;
        "The share of requests that are traced, where the caller's `traceparent` doesn't decide it."),
    setting!(runtime.threads = "auto", Or("auto", Count { min: 1, max: 1024 }), Restart, open;
        "Worker threads; `auto` follows the CPU quota."),
    setting!(shutdown.quiet = "1s", Period::OR_ZERO, Reload, open;
        "Events are still accepted until none came for this long."),
    setting!(shutdown.deadline = "25s", Period::OR_ZERO, Reload, open;
        "All has ended by then; what isn't delivered stays on disk."),
    setting!(log.format = "auto",
        Or("auto", Words(&[("json", LogFormat::Json), ("text", LogFormat::Text)])), Reload, open;
        "`json` or `text`; `auto` is text where stderr is a terminal, else json."),
    setting!(log.level = "info", Directives, Reload, open;
        "The least severe level that is logged, or comma-separated directives for parts of the "
        "program."),
];

/// The defaults of all settings; those that are required are not set.
pub(crate) fn defaults() -> Settings {
    let mut settings = blank();
    for setting in SCHEMA {
        let applied = (setting.apply)(&mut settings, &Raw::Text(setting.default.to_owned()));
        debug_assert_eq!(applied, Ok(()), "the default of {}", setting.name);
    }
    settings
}

/// Settings without meaning, for the defaults to overwrite.
fn blank() -> Settings {
    let listen = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
    let zero = Duration::ZERO;
    Settings {
        api: Api {
            listen,
            unix_socket: None,
            unix_socket_mode: 0,
            keys: Vec::new(),
            allowed_hosts: Vec::new(),
            max_body: 0,
            max_event: 0,
            max_batch_events: 0,
            max_connections: 0,
            max_requests: 0,
            body_memory: 0,
            head_timeout: zero,
            body_timeout: zero,
        },
        ops: Ops { listen },
        admin: Admin { listen, token: None },
        upstream: Upstream {
            url: String::new(),
            api_key: None,
            api_key_file: None,
            timeout: zero,
            connect_timeout: zero,
            verify: true,
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
            unread_notifications_path: String::new(),
        },
        events: Events {
            types: BTreeMap::new(),
            unknown: UnknownEvents::Accept,
            dedupe_window: zero,
            dedupe_entries: 0,
        },
        queue: Queue {
            dir: PathBuf::new(),
            durability: Durability::Sync,
            interval: zero,
            max_bytes: 0,
            when_full: WhenFull::Reject,
            max_age: None,
            backend: Backend::Sled,
            nats: Nats {
                servers: Vec::new(),
                credentials_file: None,
                ca_file: None,
                stream: String::new(),
                replicas: 0,
                lanes: 0,
                max_bytes: 0,
                lease: zero,
                spill: false,
            },
        },
        delivery: Delivery {
            batch_events: 0,
            batch_bytes: 0,
            linger: zero,
            lanes: 0,
            retry_initial: zero,
            retry_max: zero,
            on_unknown: OnUnknown::Resend,
            adaptive: false,
            compress: Compress::None,
        },
        reads: Reads {
            max_bytes: 0,
            ttl: ReadTtl {
                users: zero,
                badges: zero,
                ratings: zero,
                challenges: zero,
                payments: zero,
                notifications: zero,
                version: zero,
            },
            stale_while_revalidate: zero,
            stale_if_error: zero,
            prefetch: false,
            connections: 0,
        },
        dead_letters: DeadLetters { max_bytes: 0, when_full: DeadLettersFull::Pause },
        tracing: Tracing { otlp_endpoint: None, sample_ratio: 0.0 },
        runtime: Runtime { threads: None },
        shutdown: Shutdown { quiet: zero, deadline: zero },
        log: Log { format: None, level: String::new() },
    }
}

#[cfg(test)]
mod tests;
