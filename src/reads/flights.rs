//! Fetches under way: one a key, whoever waits for it.
//!
//! A flight belongs to no caller. It is a task; those who want its result subscribe, and are woken
//! together. A caller joins a flight only if that began under the epoch that is now, so after the
//! last change that the caller may know of; else it starts the next one. A flight that is no
//! longer the key's is never stored over a younger answer.
//!
//! A flight that nobody waits for goes on while its answer would still be fresh when it came,
//! since the next reader will want it; after that, or once another took its place, it is ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::entry::Entry;
use super::epochs::Epoch;
use crate::upstream::{Passed, SendError};

/// What came of a flight.
#[derive(Clone, Debug)]
pub(super) enum Landed {
    /// An answer for all that waited.
    Whole {
        entry: Arc<Entry>,
        stored: bool,
    },
    /// An answer for the first that takes it.
    Single(Arc<Mutex<Option<Passed>>>),
    Failed(SendError),
}

/// When a flight began, and under which epoch.
pub(super) type Begun = (Instant, Epoch);

/// See the module.
#[derive(Debug)]
pub(super) struct Flight {
    /// Its receivers are those who wait.
    landed: watch::Sender<Option<Landed>>,
    /// Empty while it waits for its time.
    begun: OnceLock<Begun>,
    /// Another took its place.
    replaced: CancellationToken,
}

/// How a caller comes to a result.
pub(super) enum Joined {
    /// A flight is under way.
    Waiting(watch::Receiver<Option<Landed>>),
    /// This one has to be flown, not before the time said.
    Starting(Arc<Flight>, watch::Receiver<Option<Landed>>, Option<Instant>),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Flights {
    by_key: Mutex<HashMap<Arc<str>, Arc<Flight>>>,
}

/// The flights, while nobody else begins or ends one.
pub(super) type Locked<'a> = MutexGuard<'a, HashMap<Arc<str>, Arc<Flight>>>;

impl Flights {
    pub(super) fn lock(&self) -> Locked<'_> {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the flight of `key`, or makes the next one. `epoch` tells the epoch now, `earlier`
    /// when the entry that there is began; with `spacing`, the next one begins so long after what
    /// it supersedes. `anew` joins no flight that has begun.
    pub(super) fn join(
        &self,
        key: &Arc<str>,
        epoch: impl FnOnce() -> Epoch,
        earlier: impl FnOnce(Epoch) -> Option<Instant>,
        spacing: Option<Duration>,
        anew: bool,
    ) -> Joined {
        let mut flights = self.lock();
        let epoch = epoch();
        let mut superseded = None;
        if let Some(flight) = flights.get(key) {
            match flight.begun.get() {
                None => return Joined::Waiting(flight.landed.subscribe()),
                Some((_, begun)) if *begun == epoch && !anew => {
                    return Joined::Waiting(flight.landed.subscribe());
                }
                Some((at, begun)) => superseded = Some(*at).filter(|_| *begun != epoch),
            }
        }
        let now = Instant::now();
        let not_before = spacing
            .and_then(|spacing| Some(superseded.max(earlier(epoch))? + spacing))
            .filter(|not_before| *not_before > now && !anew);
        let flight = Arc::new(Flight {
            landed: watch::Sender::new(None),
            begun: OnceLock::new(),
            replaced: CancellationToken::new(),
        });
        if not_before.is_none() {
            flight.begun.get_or_init(|| (now, epoch));
        }
        if let Some(old) = flights.insert(Arc::clone(key), Arc::clone(&flight)) {
            old.replaced.cancel();
        }
        let waiting = flight.landed.subscribe();
        Joined::Starting(flight, waiting, not_before)
    }

    /// Begins a flight that had to wait for its time.
    pub(super) fn begin(&self, flight: &Flight, epoch: impl FnOnce() -> Epoch) -> Begun {
        // Under the lock: who joined before has no later epoch, who comes after sees this one.
        let _locked = self.lock();
        *flight.begun.get_or_init(|| (Instant::now(), epoch()))
    }

    /// Takes the flight off the list. True if nobody waits for it.
    fn end_if_idle(&self, key: &str, flight: &Arc<Flight>) -> bool {
        let mut flights = self.lock();
        let idle = flight.landed.receiver_count() == 0;
        if idle {
            remove(&mut flights, key, flight);
        }
        idle
    }

    /// Resolves when nobody waits for the flight any more although it has become worthless, which
    /// it does at `worthless_at` or when another takes its place. It is off the list then.
    pub(super) async fn abandoned(&self, key: &str, flight: &Arc<Flight>, worthless_at: Instant) {
        tokio::select! {
            () = tokio::time::sleep_until(worthless_at) => {}
            () = flight.replaced.cancelled() => {}
        }
        loop {
            flight.landed.closed().await;
            if self.end_if_idle(key, flight) {
                return;
            }
        }
    }
}

/// Takes a flight off the list, unless another took its place.
pub(super) fn remove(flights: &mut Locked<'_>, key: &str, flight: &Arc<Flight>) {
    if flights.get(key).is_some_and(|listed| Arc::ptr_eq(listed, flight)) {
        flights.remove(key);
    }
}

impl Flight {
    /// Tells those who wait.
    pub(super) fn land(&self, landed: Landed) {
        self.landed.send_replace(Some(landed));
    }
}

/// Waits for the result.
pub(super) async fn result(mut waiting: watch::Receiver<Option<Landed>>) -> Landed {
    let landed = match waiting.wait_for(Option::is_some).await {
        Ok(landed) => landed.clone(),
        // Its task is gone without a word: it panicked, or the sidecar stops.
        Err(_) => None,
    };
    let given_up = || Landed::Failed(SendError::Broken("the read was given up".to_owned()));
    landed.unwrap_or_else(given_up)
}
