//! The running sidecar, as the commands that talk to it find and ask it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Failure;
use super::health::reachable;
use super::settings::{SettingsArgs, load};
use crate::config::Secret;

const CONNECT: Duration = Duration::from_secs(2);
/// For an answer's head; a requeue of all may take its time.
const ANSWER: Duration = Duration::from_secs(600);

/// The flags of a command that talks to the running sidecar, and the form of its result.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct RemoteArgs {
    #[command(flatten)]
    settings: SettingsArgs,

    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// The sidecar's admin listener.
#[derive(Debug)]
pub(super) struct Remote {
    address: SocketAddr,
    token: Option<Secret>,
}

/// An answer that is read piece by piece.
#[derive(Debug)]
pub(super) struct Streamed {
    body: Incoming,
    /// Drives the connection; ends with this.
    _connection: JoinSet<()>,
}

impl RemoteArgs {
    /// Finds the sidecar by the settings. Those of GMFY need not be there.
    pub(super) fn remote(&self) -> Result<Remote, Failure> {
        let mut sources = self.settings.sources();
        sources.defaults.extend([
            ("upstream.url", "http://127.0.0.1/".to_owned()),
            ("upstream.api_key", "unused".to_owned()),
        ]);
        let admin = load(&sources)?.settings.admin;
        Ok(Remote { address: reachable(admin.listen), token: admin.token })
    }
}

/// What a command of this kind runs on.
pub(super) fn runtime() -> Result<Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

impl Remote {
    /// Asks, and reads the answer as JSON.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        parsed(&self.bytes(Method::GET, path).await?)
    }

    /// Has something done, and reads the answer as JSON.
    pub(super) async fn change<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
    ) -> anyhow::Result<T> {
        parsed(&self.bytes(method, path).await?)
    }

    /// Asks for an answer without an end.
    pub(super) async fn stream(&self, path: &str) -> anyhow::Result<Streamed> {
        let (answer, connection) = self.send(Method::GET, path).await?;
        Ok(Streamed { body: answer.into_body(), _connection: connection })
    }

    async fn bytes(&self, method: Method, path: &str) -> anyhow::Result<Bytes> {
        let (answer, _connection) = self.send(method, path).await?;
        let broken = || format!("the sidecar at {} broke off its answer", self.address);
        Ok(answer.into_body().collect().await.with_context(broken)?.to_bytes())
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
    ) -> anyhow::Result<(Response<Incoming>, JoinSet<()>)> {
        let address = self.address;
        let connecting = timeout(CONNECT, TcpStream::connect(address)).await;
        let stream = connecting.map_err(|_| anyhow!("no answer within {CONNECT:?}"));
        let stream = stream.and_then(|stream| stream.map_err(anyhow::Error::from));
        let stream = stream.with_context(|| {
            format!(
                "no sidecar answers at {address} (admin.listen). Is it running? If it listens \
                 elsewhere, name its settings: --config FILE, or --set admin.listen=ADDRESS"
            )
        })?;
        let not_http = || format!("what listens at {address} is no sidecar's admin listener");
        let (mut sender, connection) =
            handshake(TokioIo::new(stream)).await.with_context(not_http)?;
        let mut driving = JoinSet::new();
        driving.spawn(async move {
            // Its error is the request's.
            drop(connection.await);
        });
        let sending = sender.send_request(self.request(method, path)?);
        let answer = timeout(ANSWER, sending).await.context("the sidecar does not answer")?;
        let answer = answer.with_context(not_http)?;
        if answer.status().is_success() {
            return Ok((answer, driving));
        }
        Err(refusal(answer).await)
    }

    fn request(&self, method: Method, path: &str) -> anyhow::Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.address.to_string())
            .header(CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
                .context("admin.token can't be sent")?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        Ok(request.body(Full::default())?)
    }
}

fn parsed<T: DeserializeOwned>(bytes: &[u8]) -> anyhow::Result<T> {
    serde_json::from_slice(bytes)
        .context("the sidecar's answer is not understood: is it of another version?")
}

/// Why the sidecar did not do it, in its own words, and what to do.
async fn refusal(answer: Response<Incoming>) -> anyhow::Error {
    #[derive(Deserialize)]
    struct Document {
        title: String,
        detail: String,
    }
    let status = answer.status();
    let body = answer.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let Ok(Document { title, detail }) = serde_json::from_slice(&body) else {
        return anyhow!("it answers {status}: is it a sidecar's admin listener?");
    };
    match status {
        StatusCode::UNAUTHORIZED => anyhow!(
            "{title}: name the sidecar's settings (--config FILE), or set GMFY_ADMIN__TOKEN or \
             --set admin.token=TOKEN"
        ),
        _ => anyhow!("{title}: {detail}"),
    }
}

impl Streamed {
    /// The next piece; none at the end.
    ///
    /// # Cancel safety
    /// A piece is returned or left for the next call.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    // Trailers say nothing to us.
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => bail!("the connection to the sidecar broke: {error}"),
            }
        }
    }
}
