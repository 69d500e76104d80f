//! The client of the traces' collector: OTLP over HTTP, in protobuf.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use reqwest::Url;

use super::clients::{BuildError, build, is_loopback};
use super::exchange::{Drained, drain};
use super::failure::classify;
use super::retry_after::retry_after;
use super::tls;
use crate::clock::Clock;
use crate::telemetry::traces::{Collector, ExportError};

/// For a whole exchange, as OTLP's exporters have it by default.
const TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The most that is read of an answer, in bytes.
const ANSWER: usize = 64 * 1024;
/// Where traces go below the endpoint.
const PATH: &str = "v1/traces";

/// See the module.
#[derive(Clone, Debug)]
pub struct CollectorClient {
    client: reqwest::Client,
    url: Url,
    clock: Clock,
}

impl CollectorClient {
    /// Builds the client of `tracing.otlp_endpoint`: `v1/traces` is appended, unless it ends so.
    /// Reads the system's certificates, so it blocks on the disk.
    ///
    /// # Errors
    /// When the endpoint can't be used, or there are no certificates to verify it with.
    pub fn new(endpoint: &str, clock: Clock) -> Result<Self, BuildError> {
        let url = url(endpoint)?;
        let builder = reqwest::Client::builder()
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .tls_backend_preconfigured(tls::public(url.scheme() == "https")?)
            .timeout(TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(1)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false);
        let builder = if is_loopback(&url) { builder.no_proxy() } else { builder };
        Ok(Self { client: build(builder)?, url, clock })
    }
}

fn url(endpoint: &str) -> Result<Url, BuildError> {
    let base = endpoint.trim_end_matches('/');
    let text = if base.ends_with(&format!("/{PATH}")) {
        base.to_owned()
    } else {
        format!("{base}/{PATH}")
    };
    Url::parse(&text).map_err(|_| BuildError::Setting {
        setting: "tracing.otlp_endpoint",
        reason: "it is not a URL".to_owned(),
    })
}

impl Collector for CollectorClient {
    async fn export(&self, request: Bytes) -> Result<Bytes, ExportError> {
        let protobuf = HeaderValue::from_static("application/x-protobuf");
        let sending = self.client.post(self.url.clone()).header(CONTENT_TYPE, protobuf);
        let for_now = |reason: String| ExportError::ForNow { reason, retry_after: None };
        let answer = sending.body(request).send().await.map_err(|error| {
            for_now(format!("it can't be reached ({})", classify(&error).kind()))
        })?;
        let status = answer.status();
        let retry_after = retry_after(answer.headers(), self.clock.now());
        if status.is_success() {
            // It took them, whatever becomes of the answer.
            return Ok(match drain(answer, ANSWER, ANSWER).await {
                Drained::Enough(body) => body,
                Drained::Broken(..) => Bytes::new(),
            });
        }
        let reason = format!("it answered {}", status.as_u16());
        // Those of OTLP's specification.
        Err(match status {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => ExportError::ForNow { reason, retry_after },
            _ => ExportError::Refused(reason),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_have_their_path_below_the_endpoint() {
        for (endpoint, expected) in [
            ("http://collector:4318/", "http://collector:4318/v1/traces"),
            ("https://example.com/otlp/", "https://example.com/otlp/v1/traces"),
            ("http://collector:4318/v1/traces/", "http://collector:4318/v1/traces"),
        ] {
            assert_eq!(url(endpoint).unwrap().as_str(), expected);
        }
    }
}
