//! The connection, and the streams: created where they aren't there, checked where they are, never
//! changed.

use std::time::Duration;

use async_nats::jetstream::context::{ContextBuilder, GetStreamErrorKind};
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Info, RetentionPolicy, StorageType, Stream,
};
use async_nats::jetstream::{Context, ErrorCode, kv};
use async_nats::{Client, ConnectOptions, Event};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::{NatsError, Options};

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
    let client = connecting.connect(&options.servers[..]).await.map_err(|e| unreachable(&e))?;
    if client.max_payload() < options.max_event + OVERHEAD {
        return Err(NatsError::MaxPayload {
            max_payload: client.max_payload(),
            needed: options.max_event + OVERHEAD,
        });
    }
    // The publisher bounds by itself how many acknowledgements are outstanding.
    let context = ContextBuilder::new()
        .timeout(TIMEOUT)
        .ack_timeout(TIMEOUT)
        .max_ack_inflight(2 * super::publish::OUTSTANDING)
        .backpressure_on_inflight(true)
        .build(client.clone());
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
    match context.get_stream(&name).await {
        Ok(stream) => {
            let info = stream.cached_info();
            check(&info.config, &wanted)?;
            return Ok(info.clone());
        }
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(cause)
                if cause.error_code() == ErrorCode::STREAM_NOT_FOUND => {}
            GetStreamErrorKind::JetStream(_)
            | GetStreamErrorKind::Request
            | GetStreamErrorKind::EmptyName
            | GetStreamErrorKind::InvalidStreamName => {
                return Err(NatsError::request(&name, &error));
            }
        },
    }
    info!(stream = name, replicas = wanted.num_replicas, "creating a stream on NATS");
    let created = context.create_stream(wanted).await;
    let created = created.map_err(|error| NatsError::request(&name, &error))?;
    Ok(created.cached_info().clone())
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
    let failed = |error: &dyn std::fmt::Display| NatsError::request(&state.name, error);
    let created = events.created.unix_timestamp_nanos().to_string();
    let wanted = Format { version: VERSION, lanes: options.lanes, created };
    let bytes = serde_json::to_vec(&wanted).unwrap_or_default();
    // Refused where it is there: then it is read.
    let creating = state.update(FORMAT, bytes.into(), 0).await;
    if creating.is_ok() {
        return Ok(());
    }
    let found = state.get(FORMAT).await.map_err(|error| failed(&error))?;
    let found = found.ok_or_else(|| failed(&"it can't be written"))?;
    let found: Format = serde_json::from_slice(&found).map_err(|error| failed(&error))?;
    if found.version != VERSION {
        return Err(NatsError::Newer(found.version));
    }
    if found.lanes != wanted.lanes {
        return Err(NatsError::Lanes { found: found.lanes, wanted: wanted.lanes });
    }
    if found.created != wanted.created {
        return Err(NatsError::Recreated {
            stream: options.stream.clone(),
            bucket: state.name.clone(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
