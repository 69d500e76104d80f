//! The two HTTP clients, one for deliveries and one for all else, and what can go wrong in
//! building them.

use std::path::PathBuf;
use std::time::Duration;

use http::Extensions;
use http::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};
use reqwest::{Request, Response, StatusCode, Url};
use reqwest_middleware::{ClientWithMiddleware, Next};
use reqwest_retry::policies::ExponentialBackoff;
use reqwest_retry::{Jitter, RetryTransientMiddleware, Retryable, RetryableStrategy};

use super::failure::classify;
use super::{KeyError, SendError, tls};
use crate::config;

/// Connections idle for longer aren't used for a delivery: GMFY may be closing them just now, and
/// a batch sent into that is a batch of unknown outcome.
const DELIVERY_IDLE: Duration = Duration::from_secs(2);
const READ_IDLE: Duration = Duration::from_secs(30);
/// A head of an answer with more headers, or (by HTTP/2) a larger one, is refused; by HTTP/1.1
/// hyper itself refuses heads over some 400 KiB.
const MAX_HEADERS: usize = 100;
const MAX_HEADER_LIST: u32 = 64 * 1024;
/// A failed read is sent again at most so often,
const READ_RETRIES: u32 = 2;
/// after at most so long each time.
const RETRY_WAITS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Why there is no client of GMFY; names the setting.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("{setting}: {reason}")]
    Setting { setting: &'static str, reason: String },
    #[error("{setting}: can't use {}: {reason}", file.display())]
    File { setting: &'static str, file: PathBuf, reason: String },
    #[error("{set} is set without {missing}")]
    Unpaired { set: &'static str, missing: &'static str },
    #[error("upstream.api_key: {0}")]
    Key(#[source] KeyError),
    #[error("upstream.api_key_file: can't use {}: {error}", file.display())]
    KeyFile { file: PathBuf, error: KeyError },
    #[error("neither upstream.api_key nor upstream.api_key_file is set")]
    NoKey,
    /// Neither the system nor `upstream.ca_file` has any.
    #[error("no certificate authorities to verify GMFY with: {0}; see upstream.ca_file")]
    Roots(String),
    #[error("TLS can't be set up: {0}")]
    Tls(String),
    #[error("the HTTP client can't be set up: {0}")]
    Client(String),
}

/// The clients; clones share their connections.
#[derive(Clone, Debug)]
pub(super) struct Clients {
    /// For deliveries: HTTP/1.1, young connections.
    pub(super) deliveries: reqwest::Client,
    /// For what must be sent once: payments.
    pub(super) once: reqwest::Client,
    /// For reads: the same connections as `once`, with retries.
    pub(super) reads: ClientWithMiddleware,
}

impl Clients {
    /// Reads the certificates' files, so it blocks on the disk.
    pub(super) fn new(
        settings: &config::Upstream,
        base: &Url,
        connections: usize,
    ) -> Result<Self, BuildError> {
        let tls = tls::config(settings, base.scheme() == "https")?;
        let deliveries = builder(settings, base, tls.clone(), &[b"http/1.1"])
            .http1_only()
            .pool_idle_timeout(DELIVERY_IDLE);
        let once = builder(settings, base, tls, &[b"h2", b"http/1.1"])
            .http2_max_header_list_size(MAX_HEADER_LIST)
            .pool_idle_timeout(READ_IDLE)
            .pool_max_idle_per_host(connections);
        let once = build(once)?;
        let reads = reqwest_middleware::ClientBuilder::new(once.clone())
            .with(RetryTransientMiddleware::new_with_policy_and_strategy(policy(), OnTheWay))
            .with(count_attempt)
            .build();
        Ok(Self { deliveries: build(deliveries)?, once, reads })
    }
}

fn builder(
    settings: &config::Upstream,
    base: &Url,
    mut tls: rustls::ClientConfig,
    protocols: &[&[u8]],
) -> reqwest::ClientBuilder {
    tls.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let identity = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static("identity"))]);
    let builder = reqwest::Client::builder()
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
        .default_headers(identity)
        .tls_backend_preconfigured(tls)
        .connect_timeout(settings.connect_timeout)
        .http1_max_headers(MAX_HEADERS)
        // A redirect would take the key, and the events, elsewhere.
        .redirect(reqwest::redirect::Policy::none())
        // reqwest would send again on some protocol errors, out of sight of us.
        .retry(reqwest::retry::never())
        .referer(false);
    // A proxy can't reach this machine's loopback.
    if is_loopback(base) { builder.no_proxy() } else { builder }
}

pub(super) fn build(builder: reqwest::ClientBuilder) -> Result<reqwest::Client, BuildError> {
    builder.build().map_err(|error| BuildError::Client(error.without_url().to_string()))
}

pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

fn policy() -> ExponentialBackoff {
    ExponentialBackoff::builder()
        .retry_bounds(RETRY_WAITS.0, RETRY_WAITS.1)
        .jitter(Jitter::Full)
        .build_with_max_retries(READ_RETRIES)
}

/// How often a read was sent; kept in the request's extensions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attempts(pub(super) u64);

fn count_attempt<'a>(
    request: Request,
    extensions: &'a mut Extensions,
    next: Next<'a>,
) -> futures_util::future::BoxFuture<'a, reqwest_middleware::Result<Response>> {
    extensions.get_or_insert_default::<Attempts>().0 += 1;
    Box::pin(next.run(request, extensions))
}

/// What is worth another try: what failed on the way, or at a gateway; not what GMFY itself
/// answered, nor what took all the time or won't get better by itself.
struct OnTheWay;

impl RetryableStrategy for OnTheWay {
    fn handle(&self, result: &reqwest_middleware::Result<Response>) -> Option<Retryable> {
        let again = match result {
            Ok(answer) => {
                matches!(
                    answer.status(),
                    StatusCode::BAD_GATEWAY
                        | StatusCode::SERVICE_UNAVAILABLE
                        | StatusCode::GATEWAY_TIMEOUT
                ) && !answer.headers().contains_key(http::header::RETRY_AFTER)
            }
            Err(reqwest_middleware::Error::Reqwest(error)) => {
                matches!(classify(error), SendError::Connect(_) | SendError::Broken(_))
            }
            Err(reqwest_middleware::Error::Middleware(_)) => false,
        };
        Some(if again { Retryable::Transient } else { Retryable::Fatal })
    }
}

/// The failure of a client with retries, whatever they wrapped around it.
pub(super) fn classify_read(error: &reqwest_middleware::Error) -> SendError {
    let wrapped = match error {
        reqwest_middleware::Error::Reqwest(error) => return classify(error),
        reqwest_middleware::Error::Middleware(wrapped) => wrapped,
    };
    match wrapped.downcast_ref::<reqwest_retry::RetryError>() {
        Some(
            reqwest_retry::RetryError::WithRetries { err, .. }
            | reqwest_retry::RetryError::Error(err),
        ) => classify_read(err),
        None => SendError::Broken("the request could not be prepared".to_owned()),
    }
}
