//! A GMFY whose users have versions, and which answers as it is told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::time::Instant;

use crate::upstream::{Call, Passed, ReadSource, SendError};

/// How it answers.
#[derive(Clone, Debug)]
pub(super) struct Behaviour {
    pub(super) status: StatusCode,
    pub(super) headers: Vec<(&'static str, &'static str)>,
    /// In place of the version.
    pub(super) body: Option<Vec<u8>>,
    /// Before and after it looks at its state.
    pub(super) latency: (Duration, Duration),
    pub(super) fails: Option<SendError>,
    /// Breaks off within the body.
    pub(super) breaks: bool,
    /// Says how long the body is.
    pub(super) tells_length: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            status: StatusCode::OK,
            headers: Vec::new(),
            body: None,
            latency: (Duration::ZERO, Duration::ZERO),
            fails: None,
            breaks: false,
            tells_length: false,
        }
    }
}

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) call: Call,
    pub(super) query: Option<String>,
    pub(super) at: Instant,
    /// When it was answered, or given up.
    pub(super) ended: Option<Instant>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) behaviour: Behaviour,
    pub(super) versions: HashMap<String, u64>,
    /// Counts the changes of all users.
    pub(super) changes: u64,
    pub(super) requests: Vec<Asked>,
}

impl State {
    /// What a read of this says now: who, which version, and when.
    pub(super) fn version(&self, call: &Call) -> u64 {
        match call {
            Call::User(id) | Call::Badges(id) | Call::UserNotifications(id) => {
                self.versions.get(id.as_str()).copied().unwrap_or_default()
            }
            _ => self.changes,
        }
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct FakeGmfy(Arc<Mutex<State>>);

impl FakeGmfy {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(super) fn behave(&self, behaviour: Behaviour) {
        self.lock().behaviour = behaviour;
    }

    /// Fails from now on.
    pub(super) fn fail(&self, error: SendError) {
        self.behave(Behaviour { fails: Some(error), ..Behaviour::default() });
    }

    pub(super) fn answer(&self, status: u16) {
        let status = StatusCode::from_u16(status).unwrap();
        self.behave(Behaviour { status, ..Behaviour::default() });
    }

    pub(super) fn is_slow(&self, latency: Duration) {
        let latency = (latency, Duration::ZERO);
        self.behave(Behaviour { latency, ..Behaviour::default() });
    }

    /// An event of this user takes effect.
    pub(super) fn change(&self, user: &str) {
        let mut state = self.lock();
        *state.versions.entry(user.to_owned()).or_default() += 1;
        state.changes += 1;
    }

    pub(super) fn requests(&self) -> usize {
        self.lock().requests.len()
    }

    pub(super) fn under_way(&self) -> usize {
        self.lock().requests.iter().filter(|asked| asked.ended.is_none()).count()
    }
}

struct UnderWay {
    gmfy: FakeGmfy,
    index: usize,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.gmfy.lock().requests[self.index].ended = Some(Instant::now());
    }
}

impl ReadSource for FakeGmfy {
    async fn read(&self, call: &Call, query: Option<&str>) -> Result<Passed, SendError> {
        let (behaviour, under_way) = {
            let mut state = self.lock();
            let query = query.map(str::to_owned);
            state.requests.push(Asked {
                call: call.clone(),
                query,
                at: Instant::now(),
                ended: None,
            });
            let index = state.requests.len() - 1;
            (state.behaviour.clone(), UnderWay { gmfy: self.clone(), index })
        };
        tokio::time::sleep(behaviour.latency.0).await;
        let version = self.lock().version(call);
        let at = Instant::now();
        tokio::time::sleep(behaviour.latency.1).await;
        if let Some(error) = behaviour.fails {
            return Err(error);
        }
        let headers = behaviour
            .headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let mut headers: HeaderMap = headers.collect();
        headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
        let body = behaviour.body.unwrap_or_else(|| {
            format!(r#"{{"version":{version},"at":{}}}"#, millis(at)).into_bytes()
        });
        let length = behaviour.tells_length.then_some(body.len() as u64);
        let mut parts: Vec<_> =
            body.chunks(1000).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
        if behaviour.breaks {
            parts.push(Err(SendError::Broken("told to".to_owned())));
        }
        let body = futures_util::stream::iter(parts);
        let body = body
            .map(move |part| {
                let _until_read = &under_way;
                part
            })
            .boxed();
        Ok(Passed { status: behaviour.status, headers, length, body })
    }
}

/// A moment of the paused clock, as a number.
pub(super) fn millis(at: Instant) -> u64 {
    thread_local! {
        static START: std::cell::OnceCell<Instant> = const { std::cell::OnceCell::new() };
    }
    let start = START.with(|start| *start.get_or_init(|| at - Duration::from_secs(3600)));
    u64::try_from(at.duration_since(start).as_millis()).unwrap()
}
