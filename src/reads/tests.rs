//! The cache against a GMFY that does as it is told, under a paused clock. `docs/reads.md` names
//! these tests.

mod gmfy;
mod model;
mod rules;
mod sharing;

use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use tokio::task::JoinSet;

use self::gmfy::FakeGmfy;
use super::{Answer, Body, Reads};
use crate::config::{self, ReadTtl};
use crate::queue::UserHash;
use crate::telemetry::Metrics;
use crate::upstream::{Call, Id, SendError};

const SECOND: Duration = Duration::from_secs(1);

fn settings() -> config::Reads {
    config::Reads {
        max_bytes: 1 << 20,
        ttl: ReadTtl {
            users: SECOND * 5,
            badges: SECOND * 5,
            ratings: SECOND * 2,
            challenges: SECOND * 2,
            payments: SECOND,
            notifications: SECOND,
            version: SECOND * 300,
        },
        stale_while_revalidate: SECOND * 10,
        stale_if_error: SECOND * 300,
        prefetch: true,
        connections: 16,
    }
}

/// A cache before a GMFY.
#[derive(Clone, Debug)]
struct Cached {
    reads: Reads<FakeGmfy>,
    gmfy: FakeGmfy,
    metrics: Arc<Metrics>,
}

impl Cached {
    fn new() -> Self {
        Self::with(settings())
    }

    fn with(settings: config::Reads) -> Self {
        let (gmfy, metrics) = (FakeGmfy::default(), Arc::new(Metrics::new()));
        let reads = Reads::new(settings, gmfy.clone(), Arc::clone(&metrics));
        Self { reads, gmfy, metrics }
    }

    async fn get(&self, call: &Call) -> Told {
        self.ask(call, None, &[]).await.unwrap()
    }

    async fn ask(
        &self,
        call: &Call,
        query: Option<&str>,
        headers: &[(&'static str, &str)],
    ) -> Result<Told, SendError> {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
            })
            .collect();
        Told::read(self.reads.get(call, query, &headers).await?).await
    }

    /// Reads beside the test.
    fn begin(&self, call: &Call, into: &mut JoinSet<Result<Told, SendError>>) {
        let (cached, call) = (self.clone(), call.clone());
        into.spawn(async move { cached.ask(&call, None, &[]).await });
    }

    fn delivered(&self, user: &str) {
        self.gmfy.change(user);
        self.reads.users_changed([UserHash::of(user)]);
    }

    fn count(&self, route: &str, result: &str) -> u64 {
        self.metrics.cache_requests.with_label_values(&[route, result]).get()
    }
}

/// An answer, read whole.
#[derive(Clone, Debug)]
struct Told {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Told {
    async fn read(answer: Answer) -> Result<Self, SendError> {
        let body = match answer.body {
            Body::Whole(bytes) => bytes.to_vec(),
            Body::Streamed(stream, _) => stream.try_collect::<Vec<_>>().await?.concat(),
        };
        Ok(Self { status: answer.status, headers: answer.headers, body })
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// `Cache-Status` without our name.
    fn cache(&self) -> &str {
        self.header("cache-status").strip_prefix("gmfy-sidecar; ").unwrap()
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

fn user(id: &str) -> Call {
    Call::User(Id::new(id).unwrap())
}

/// Lets all tasks come as far as they can without time passing.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

async fn pass(time: Duration) {
    settle().await;
    tokio::time::sleep(time).await;
    settle().await;
}
