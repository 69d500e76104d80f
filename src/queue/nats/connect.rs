//! The connection, and the streams: created where they aren't there, checked where they are, never
//! changed.

use std::time::Duration;

use async_nats::jetstream::context::{
    ContextBuilder, GetStreamError, GetStreamErrorKind, RequestError, RequestErrorKind,
};
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Info, RetentionPolicy, StorageType, Stream,
};
use async_nats::jetstream::{Context, ErrorCode, kv};
use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::{NatsError, Options, StreamSurvey, Survey};
use crate::queue::FleetAccount;

/// How long connecting, and an answer of a NATS server, may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
const PING: Duration = Duration::from_secs(5);
/// What each message takes beside the event: its head, and the headers of the publication.
const OVERHEAD: usize = 1024;
/// Where the bucket tells how the events lie.
const FORMAT: &str = "format";
const VERSION: u32 = 1;

/// What cannot change while the stream is there.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Format {
    version: u32,
    lanes: usize,
    /// When the stream of events was created, in nanoseconds: its sequences are another's if that
    /// changes.
    created: String,
    /// For errors.
    #[serde(skip)]
    stream: String,
}

#[derive(Debug, Deserialize)]
struct Version {
    version: u32,
}

/// What the queue works with.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    pub(super) client: Client,
    pub(super) context: Context,
    pub(super) events: Stream,
    pub(super) dead: Stream,
    pub(super) state: kv::Store,
}

pub(super) async fn connect(options: &Options) -> Result<Streams, NatsError> {
    let (client, context) = client(options).await?;
    let events = stream(&context, events_config(options)).await?;
    let dead = stream(&context, dead_config(options)).await?;
    let state = stream(&context, state_config(options)).await?;
    let state = context
        .get_key_value(bucket(options))
        .await
        .map_err(|error| NatsError::request(&state.config.name, &error))?;
    format(&state, &events, options).await?;
    let events = handle(&context, &events).await?;
    let dead = handle(&context, &dead).await?;
    Ok(Streams { client, context, events, dead, state })
}

/// Connects to a server that takes events of the size that the settings allow.
async fn client(options: &Options) -> Result<(Client, Context), NatsError> {
    let servers = options.servers.join(", ");
    let unreachable = |error: &dyn std::fmt::Display| NatsError::Unreachable {
        servers: servers.clone(),
        why: error.to_string(),
    };
    let mut connecting = ConnectOptions::new()
        .name("gmfy-sidecar")
        .connection_timeout(TIMEOUT)
        .request_timeout(Some(TIMEOUT))
        .ping_interval(PING)
        .event_callback(|event| async move { tell(&event) });
    if let Some(path) = &options.ca_file {
        connecting = connecting.add_root_certificates(path.clone());
    }
    if let Some(path) = &options.credentials_file {
        connecting = connecting.credentials_file(path).await.map_err(|error| {
            NatsError::Credentials { path: path.display().to_string(), why: error.to_string() }
        })?;
    }
    let client = connecting.connect(&options.servers[..]).await;
    let client = client.map_err(|error| match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            NatsError::Refused { servers: servers.clone(), why: error.to_string() }
        }
        ConnectErrorKind::Io if is_of_tls(&error) => {
            NatsError::Tls { servers: servers.clone(), why: error.to_string() }
        }
        ConnectErrorKind::Tls => {
            NatsError::Tls { servers: servers.clone(), why: error.to_string() }
        }
        ConnectErrorKind::ServerParse
        | ConnectErrorKind::Dns
        | ConnectErrorKind::TimedOut
        | ConnectErrorKind::Io
        | ConnectErrorKind::MaxReconnects => unreachable(&error),
    })?;
    if client.max_payload() < options.max_event + OVERHEAD {
        return Err(NatsError::MaxPayload {
            max_payload: client.max_payload(),
            needed: options.max_event + OVERHEAD,
        });
    }
    // Flights bound by themselves how many acknowledgements are outstanding, so that a lease need not
    // wait behind events to be renewed.
    let context = ContextBuilder::new()
        .timeout(TIMEOUT)
        .ack_timeout(TIMEOUT)
        .max_ack_inflight(2 * super::flights::OUTSTANDING)
        .backpressure_on_inflight(true)
        .build(client.clone());
    Ok((client, context))
}

/// Whether the certificate or the handshake was refused: rustls' errors come as invalid data.
fn is_of_tls(error: &ConnectError) -> bool {
    let source = std::error::Error::source(error);
    let io = source.and_then(|source| source.downcast_ref::<std::io::Error>());
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::InvalidData)
}

/// Asks the servers how things are; creates nothing.
pub(super) async fn survey(options: &Options) -> Result<Survey, NatsError> {
    let (client, context) = client(options).await?;
    let mut streams = Vec::new();
    let mut events = None;
    for wanted in [events_config(options), dead_config(options), state_config(options)] {
        let found = find(&context, &wanted.name).await?;
        streams.push(StreamSurvey {
            name: wanted.name.clone(),
            is_there: found.is_some(),
            replicas: found.as_ref().map_or(wanted.num_replicas, |info| info.config.num_replicas),
            problem: found.as_ref().and_then(|info| check(&info.config, &wanted).err()),
        });
        events = events.or(found.filter(|info| info.config.name == options.stream));
    }
    if let (Some(events), [_, _, state]) = (&events, &mut streams[..])
        && state.is_there
        && state.problem.is_none()
    {
        let bucket = context.get_key_value(bucket(options)).await;
        let bucket = bucket.map_err(|error| NatsError::request(&state.name, &error))?;
        if let Some(found) = stored_format(&bucket).await? {
            let wanted = wanted_format(events, options);
            state.problem = compare(&found, &wanted, &bucket.name).err();
        }
    }
    let replicas = streams.first().map_or(options.replicas, |stream| stream.replicas);
    Ok(Survey { account: account(&client, &options.stream, replicas), streams })
}

/// What operators are to know of the servers, and of what they acknowledge.
pub(super) fn account(client: &Client, stream: &str, replicas: usize) -> FleetAccount {
    let server_version = client.server_info().version;
    let acknowledgement = acknowledgement(&server_version, replicas);
    let stream = stream.to_owned();
    FleetAccount { server_version, stream, replicas, acknowledgement, spill: None }
}

/// In words. A server's INFO and JetStream's API tell a client nothing of `sync_interval`.
fn acknowledgement(server_version: &str, replicas: usize) -> String {
    let majority = replicas / 2 + 1;
    let has = format!("{majority} of {replicas} servers have the event");
    let mut numbers = server_version.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= (2, 10) => format!(
            "{has}; on their disks within `sync_interval` of their `jetstream` block, 2m unless it \
             is set. Servers don't tell clients what it is; `sync_interval: always` has each \
             acknowledgement on the disks"
        ),
        (Some(_), Some(_)) => format!(
            "{has}; on their disks within 2m, which nats-server {server_version} can't change: 2.10 \
             and newer take `sync_interval: always`, which has each acknowledgement on the disks"
        ),
        _ => format!("{has}; when it is on their disks is not known of version {server_version}"),
    }
}

async fn handle(context: &Context, info: &Info) -> Result<Stream, NatsError> {
    let name = &info.config.name;
    context.get_stream(name).await.map_err(|error| NatsError::request(name, &error))
}

fn tell(event: &Event) {
    match event {
        Event::Connected => info!("connected to NATS"),
        Event::Disconnected => warn!("the connection to NATS is lost; connecting again"),
        Event::SlowConsumer(_) => warn!("NATS sent more than could be taken; it is read again"),
        Event::ServerError(error) => warn!(%error, "a NATS server refused something"),
        Event::ClientError(error) => warn!(%error, "the NATS client failed"),
        Event::LameDuckMode | Event::Draining | Event::Closed => {}
    }
}

fn bucket(options: &Options) -> String {
    format!("{}-STATE", options.stream)
}

fn events_config(options: &Options) -> Config {
    Config {
        name: options.stream.clone(),
        description: Some("Events that wait for GMFY, by gmfy-sidecar".to_owned()),
        subjects: vec![format!("{}.events.*", options.stream)],
        max_bytes: i64::try_from(options.max_bytes).unwrap_or(i64::MAX),
        duplicate_window: options.dedupe.window,
        ..common(options)
    }
}

fn dead_config(options: &Options) -> Config {
    Config {
        name: format!("{}-DEAD", options.stream),
        description: Some("Events that GMFY refused, by gmfy-sidecar".to_owned()),
        subjects: vec![format!("{}.dead.*", options.stream)],
        max_messages_per_subject: 1,
        max_bytes: i64::try_from(options.dead_letters_max_bytes).unwrap_or(i64::MAX),
        ..common(options)
    }
}

/// A key-value bucket without history.
fn state_config(options: &Options) -> Config {
    Config {
        name: format!("KV_{}", bucket(options)),
        description: Some("Lanes and replicas of gmfy-sidecar".to_owned()),
        subjects: vec![format!("$KV.{}.>", bucket(options))],
        max_messages_per_subject: 1,
        max_bytes: -1,
        allow_rollup: true,
        ..common(options)
    }
}

fn common(options: &Options) -> Config {
    Config {
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: options.replicas,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_consumers: -1,
        max_message_size: -1,
        ..Config::default()
    }
}

/// Creates the stream, or checks that it is as it has to be.
async fn stream(context: &Context, wanted: Config) -> Result<Info, NatsError> {
    let name = wanted.name.clone();
    if let Some(info) = find(context, &name).await? {
        check(&info.config, &wanted)?;
        return Ok(info);
    }
    info!(stream = name, replicas = wanted.num_replicas, "creating a stream on NATS");
    let created = context.create_stream(wanted).await;
    let created = created.map_err(|error| NatsError::request(&name, &error))?;
    Ok(created.cached_info().clone())
}

/// The stream, if it is there.
async fn find(context: &Context, name: &str) -> Result<Option<Info>, NatsError> {
    let error = match context.get_stream(name).await {
        Ok(stream) => return Ok(Some(stream.cached_info().clone())),
        Err(error) => error,
    };
    match error.kind() {
        GetStreamErrorKind::JetStream(cause) => match cause.error_code() {
            ErrorCode::STREAM_NOT_FOUND => Ok(None),
            ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => {
                Err(NatsError::NoJetStream(error.to_string()))
            }
            _ => Err(NatsError::request(name, &error)),
        },
        GetStreamErrorKind::Request if nobody_answers(&error) => {
            Err(NatsError::NoJetStream(error.to_string()))
        }
        GetStreamErrorKind::Request
        | GetStreamErrorKind::EmptyName
        | GetStreamErrorKind::InvalidStreamName => Err(NatsError::request(name, &error)),
    }
}

fn nobody_answers(error: &GetStreamError) -> bool {
    let source = std::error::Error::source(error);
    let request = source.and_then(|source| source.downcast_ref::<RequestError>());
    request.is_some_and(|error| error.kind() == RequestErrorKind::NoResponders)
}

/// What of a stream's configuration the queue depends on.
fn check(found: &Config, wanted: &Config) -> Result<(), NatsError> {
    let mut differences = Vec::new();
    let mut compare = |what: &str, found: String, wanted: String| {
        if found != wanted {
            differences.push(format!("{what} is {found}, expected {wanted}"));
        }
    };
    let window = |config: &Config| config.duplicate_window.as_secs_f64();
    let all = |config: &Config| {
        [
            ("subjects", format!("{:?}", config.subjects)),
            ("num_replicas (queue.nats.replicas)", config.num_replicas.to_string()),
            ("max_bytes", config.max_bytes.to_string()),
            ("retention", format!("{:?}", config.retention)),
            ("discard", format!("{:?}", config.discard)),
            ("storage", format!("{:?}", config.storage)),
            ("max_msgs", config.max_messages.to_string()),
            ("max_msgs_per_subject", config.max_messages_per_subject.to_string()),
            ("max_age in seconds", config.max_age.as_secs().to_string()),
            ("sealed", config.sealed.to_string()),
            ("deny_purge", config.deny_purge.to_string()),
            ("deny_delete", config.deny_delete.to_string()),
        ]
    };
    for ((what, found), (_, wanted)) in all(found).into_iter().zip(all(wanted)) {
        compare(what, found, wanted);
    }
    if !wanted.duplicate_window.is_zero() {
        let what = "duplicate_window (events.dedupe_window) in seconds";
        compare(what, window(found).to_string(), window(wanted).to_string());
    }
    if differences.is_empty() {
        return Ok(());
    }
    Err(NatsError::Differs { stream: wanted.name.clone(), how: differences.join("; ") })
}

/// Stores how the events lie, or checks it.
async fn format(state: &kv::Store, events: &Info, options: &Options) -> Result<(), NatsError> {
    let wanted = wanted_format(events, options);
    let bytes = serde_json::to_vec(&wanted).unwrap_or_default();
    // Refused where it is there: then it is read.
    let creating = state.update(FORMAT, bytes.into(), 0).await;
    if creating.is_ok() {
        return Ok(());
    }
    let found = stored_format(state).await?;
    let found = found.ok_or_else(|| NatsError::request(&state.name, &"it can't be written"))?;
    compare(&found, &wanted, &state.name)
}

fn wanted_format(events: &Info, options: &Options) -> Format {
    let created = events.created.unix_timestamp_nanos().to_string();
    let stream = options.stream.clone();
    Format { version: VERSION, lanes: options.lanes, created, stream }
}

async fn stored_format(state: &kv::Store) -> Result<Option<Format>, NatsError> {
    let failed = |error: &dyn std::fmt::Display| NatsError::request(&state.name, error);
    let Some(found) = state.get(FORMAT).await.map_err(|error| failed(&error))? else {
        return Ok(None);
    };
    // All that a newer one is sure to tell.
    let version: Version = serde_json::from_slice(&found).map_err(|error| failed(&error))?;
    if version.version != VERSION {
        return Err(NatsError::Newer(version.version));
    }
    serde_json::from_slice(&found).map(Some).map_err(|error| failed(&error))
}

fn compare(found: &Format, wanted: &Format, bucket: &str) -> Result<(), NatsError> {
    if found.lanes != wanted.lanes {
        return Err(NatsError::Lanes { found: found.lanes, wanted: wanted.lanes });
    }
    if found.created != wanted.created {
        return Err(NatsError::Recreated {
            stream: wanted.stream.clone(),
            bucket: bucket.to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_acknowledgement_means_depends_on_the_version() {
        let old = acknowledgement("2.9.10", 3);
        assert!(old.starts_with("2 of 3 servers have the event"), "{old}");
        assert!(old.contains("within 2m, which nats-server 2.9.10 can't change"), "{old}");
        for version in ["2.10.0", "2.14.2-RC.1", "3.0.0"] {
            let new = acknowledgement(version, 5);
            assert!(new.starts_with("3 of 5 servers"), "{new}");
            assert!(new.contains("Servers don't tell clients what it is"), "{new}");
        }
        assert!(acknowledgement("local", 1).contains("not known of version local"));
    }

    #[test]
    fn every_difference_is_named() {
        let options = Options::example();
        let wanted = events_config(&options);
        assert!(check(&wanted, &wanted).is_ok());
        let found = Config { num_replicas: 1, discard: DiscardPolicy::Old, ..wanted.clone() };
        let error = check(&found, &wanted).unwrap_err().to_string();
        assert!(error.contains("num_replicas (queue.nats.replicas) is 1, expected 3"), "{error}");
        assert!(error.contains("discard is Old, expected New"), "{error}");
    }
}
