//! Where GMFY is and how it is talked to: what the settings say of it, replaced as a whole.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::header::CONTENT_TYPE;
use reqwest::Url;
use tokio::sync::Semaphore;

use super::call::{Endpoint, Id};
use super::certificates::Watched;
use super::circuit::Circuit;
use super::clients::{BuildError, Clients};
use super::key::ApiKey;
use super::{API_KEY, SendError, append, base_url, unread_path};
use crate::config;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Ends with `/`; every path is appended to it.
    base: Url,
    /// Without `/` at its start, with one at its end.
    unread_path: String,
    pub(super) timeout: Duration,
    pub(super) clients: Clients,
    pub(super) certificates: Watched,
    pub(super) key_file: Option<PathBuf>,
    /// One permit for each call that is passed through, until its answer is read.
    pub(super) passing: Arc<Semaphore>,
    pub(super) circuit: Arc<Circuit>,
}

/// Another target and its key, checked and ready.
#[derive(Debug)]
pub struct Prepared {
    pub(super) target: Target,
    pub(super) key: ApiKey,
}

impl Prepared {
    /// Reads the files that the settings name, so it blocks on the disk.
    pub(super) fn new(
        settings: &config::Upstream,
        reads_connections: usize,
    ) -> Result<Self, BuildError> {
        let base = base_url(&settings.url)?;
        let unread_path = unread_path(&base, &settings.unread_notifications_path)?;
        let key = match (&settings.api_key, &settings.api_key_file) {
            (Some(key), _) => ApiKey::new(key).map_err(BuildError::Key)?,
            (None, Some(file)) => ApiKey::read(file)
                .map_err(|error| BuildError::KeyFile { file: file.clone(), error })?,
            (None, None) => return Err(BuildError::NoKey),
        };
        let connections = reads_connections.clamp(1, Semaphore::MAX_PERMITS);
        // Before the clients: what changes in between is seen as a change.
        let certificates = Watched::new(settings, &base, connections);
        let target = Target {
            clients: Clients::new(settings, &base, connections)?,
            certificates,
            base,
            unread_path,
            timeout: settings.timeout,
            key_file: settings.api_key_file.clone(),
            passing: Arc::new(Semaphore::new(connections)),
            circuit: Arc::default(),
        };
        Ok(Self { target, key })
    }
}

impl Target {
    /// The same with other clients.
    pub(super) fn with_clients(&self, clients: Clients) -> Self {
        Self { clients, ..self.clone() }
    }

    /// A request with all that every request of ours carries, and nothing of a caller's.
    pub(super) fn request(
        &self,
        endpoint: &Endpoint,
        id: Option<&Id>,
        content_type: Option<HeaderValue>,
        key: &ApiKey,
    ) -> Result<reqwest::Request, SendError> {
        let path = endpoint.path(id, &self.unread_path);
        // Neither step can fail or change the path: it is made of unreserved characters and
        // percent-encoded bytes, and no id is a dot segment.
        let url = append(&self.base, &path)
            .ok_or_else(|| SendError::Connect("the path is no URL".to_owned()))?;
        let mut request = reqwest::Request::new(endpoint.method.clone(), url);
        let headers = request.headers_mut();
        headers.insert(API_KEY, key.header());
        let json = HeaderValue::from_static("application/json");
        headers.insert(CONTENT_TYPE, content_type.unwrap_or(json));
        Ok(request)
    }
}
