//! A simulated GMFY: its API with state worth looking at, and faults. For `dev`, `simulate` and
//! the tests.
//!
//! Where GMFY's documentation says nothing, this is what it does:
//!
//! - Every path ends with `/`; without it the answer is 404. Errors are `{"error": "…"}`, with
//!   `index` and `type` where one event is to blame.
//! - A missing or wrong `x-api-key` is 401, a POST that isn't `application/json` 415, a bad body
//!   or query 400. A batch is applied whole or not at all.
//! - An unknown user is an empty array, an unknown rating, challenge or payment 404.
//! - A rating's `ASC` order is by ascending position: the best first.
//! - Unread notifications are `v1/notifications/unread/` and `v1/notifications/unread/{user_id}/`;
//!   what these answer is read from then on.
//! - The users' list takes `offset` and `limit`, and shows at most 1000 users at once.
//! - `Idempotency-Key` is recorded and not honoured; but an event with an `idempotenceKey` counts
//!   once for its user and type (it is still applied and counted as an event).
//! - How payments move on is described in `world::payments`, what events lead to in `world`.
//!
//! Beside the API stand the control routes `GET|PUT|PATCH /control/faults`, `POST /control/reset`,
//! `GET /control/stats` and `GET /control/events?after=N&limit=N`; they need no key and know no
//! faults. With `down` they can be reached over HTTP/1.1 only.
//!
//! While it is up, connections idle for any time stay open: there are no time-outs here.
//!
//! Ids and the random choices of faults follow from the seed, so that the same requests, one
//! after another, have the same answers; only dates come from the clock.

mod args;
mod control;
mod core;
mod faults;
mod gate;
mod journal;
mod limiter;
mod log;
mod routes;
mod server;
#[cfg(test)]
mod tests;
mod units;
mod wire;
mod world;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use self::args::SimulateArgs;
use self::core::Shared;
pub use self::faults::{Faults, FaultsError, Scripted};
pub use self::journal::{Counts, Outcome, RecordedEvent, RecordedRequest};
use crate::clock::Clock;

/// How a simulator starts.
#[derive(Clone)]
pub struct Options {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// The only key that is let in; without it any key is, but not none.
    pub api_key: Option<String>,
    pub faults: Faults,
    /// Decides ids, points and which requests the faults hit.
    pub seed: u64,
    /// How many users have a state; events of others are applied and counted only.
    pub max_users: usize,
    /// How many requests and how many events are recorded, the newest ones; 0 records nothing.
    pub record: usize,
    /// The source of the dates in answers.
    pub clock: Clock,
}

impl Default for Options {
    /// A free port on loopback, any key, no faults, no recording.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            api_key: None,
            faults: Faults::default(),
            seed: 0,
            max_users: 100_000,
            record: 0,
            clock: Clock::system(),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("listen", &self.listen)
            .field("api_key", &self.api_key.as_ref().map(|_| "***"))
            .field("faults", &self.faults)
            .field("seed", &self.seed)
            .field("max_users", &self.max_users)
            .field("record", &self.record)
            .finish_non_exhaustive()
    }
}

/// A simulator that has its address and waits to be run.
#[derive(Debug)]
pub struct Simulator {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Simulator {
    /// Binds the listener; from now on connections are queued by the system.
    ///
    /// # Errors
    /// When the address can't be bound.
    pub async fn bind(options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, shared: Arc::new(Shared::new(options)) })
    }

    /// The address, with the port that was taken.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL for clients, with the last slash.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// What watches and steers the simulator while it runs, and after.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle { shared: Arc::clone(&self.shared) }
    }

    /// Serves until `stop` is cancelled; then the listener is closed and every connection cut,
    /// whatever is under way on it.
    pub async fn run(self, stop: CancellationToken) {
        server::run(self.listener, self.shared, stop).await;
    }
}

/// Watches and steers a simulator. Clones mean the same one.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    /// The faults as they are; of the script what is left.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.shared.lock().faults().clone()
    }

    /// Replaces the faults. Requests under way keep those they came under, but `down` cuts them.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.lock().set_faults(faults);
    }

    /// Appends to the script of the next answers.
    pub fn answer_next(&self, answers: impl IntoIterator<Item = Scripted>) {
        self.shared.lock().extend_script(answers);
    }

    /// Records from now on up to `capacity` requests and as many events, the newest ones; 0 stops
    /// it. What was recorded stays as far as it fits.
    pub fn record(&self, capacity: usize) {
        self.shared.lock().journal.set_capacity(capacity);
    }

    /// The recorded requests, in the order in which they were received (body and all).
    #[must_use]
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.shared.lock().journal.requests()
    }

    /// The recorded events, in the order in which they were applied.
    #[must_use]
    pub fn events(&self) -> Vec<RecordedEvent> {
        self.shared.lock().journal.events()
    }

    /// What was counted, recorded or not.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.lock().counts()
    }

    /// Forgets what was recorded and counted; users, payments and faults stay.
    pub fn clear(&self) {
        self.shared.lock().journal.clear();
    }

    /// Begins anew: no users, no payments, nothing recorded or counted; faults, seed and the
    /// recording's capacity are those of the options.
    pub fn reset(&self) {
        self.shared.reset();
    }
}
