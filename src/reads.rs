//! What is read from GMFY through the sidecar: a small cache that knows the domain.
//!
//! A read finds its entry and answers, or waits for a *flight*: the one fetch of its key that is
//! under way. What may be kept, and for how long, is in `lifetime`; what makes an entry out of
//! date, in `epochs`; the rules for callers are the table of `docs/reads.md`.
//!
//! Invariants:
//! - Once the delivery of a user's event is told by [`Reads::users_changed`], no read of that user
//!   that comes after is answered with what was fetched before, but for answers that say
//!   `stale-if-error`. The same for a payment after a POST to it.
//! - One flight a key and epoch. Two keys never wait for each other here (they share GMFY's
//!   connections, `reads.connections`).
//! - What is kept weighs no more than `reads.max_bytes`; what is too large to be kept isn't held
//!   in memory whole.
//! - Time is tokio's monotonic clock: a step of the machine's clock makes nothing fresh or stale.

mod answer;
mod asked;
mod counters;
mod entry;
mod epochs;
mod fetch;
mod flights;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod key;
mod lifetime;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use moka::sync::Cache;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::answer::{Answer, Body};
pub use self::counters::{CacheStatus, RouteStatus};

use self::answer::{Forward, Source};
use self::counters::{Counters, ReadResult};
use self::entry::{Entry, Standing};
use self::epochs::{Epochs, Subject};
use self::fetch::Target;
use self::flights::{Flights, Joined, Landed};
use self::key::Route;
use self::lifetime::Lifetime;
use crate::config;
use crate::queue::UserHash;
use crate::telemetry::Metrics;
use crate::upstream::{Call, ReadSource, SendError, Upstream};

/// A list is fetched again for its users' changes at most so often.
const LIST_SPACING: Duration = Duration::from_millis(250);
/// An answer larger than this part of the cache isn't kept.
const LARGEST_PART: u64 = 16;

/// Reads through the cache. Clones share it.
#[derive(Clone, Debug)]
pub struct Reads<S = Upstream> {
    inner: Arc<Inner<S>>,
}

/// What callers and flights share.
#[derive(Debug)]
struct Inner<S> {
    source: S,
    live: watch::Sender<Arc<Live>>,
    epochs: Epochs,
    flights: Flights,
    /// Flights that began for nobody.
    background: AtomicUsize,
    counters: Counters,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What other settings replace.
#[derive(Clone, Debug)]
struct Live {
    settings: config::Reads,
    /// The largest answer that is kept, in bytes.
    largest: usize,
    cache: Cache<Arc<str>, Arc<Entry>>,
}

impl<S> Inner<S> {
    fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live.borrow())
    }
}

impl Live {
    fn new(settings: config::Reads) -> Self {
        let cache = Cache::builder()
            .max_capacity(settings.max_bytes)
            .weigher(|key: &Arc<str>, entry: &Arc<Entry>| entry.weight(key.len()))
            .build();
        let largest = usize::try_from(settings.max_bytes / LARGEST_PART).unwrap_or(usize::MAX);
        Self { settings, largest, cache }
    }
}

impl<S: ReadSource> Reads<S> {
    #[must_use]
    pub fn new(settings: config::Reads, source: S, metrics: Arc<Metrics>) -> Self {
        let inner = Inner {
            source,
            live: watch::Sender::new(Arc::new(Live::new(settings))),
            epochs: Epochs::new(),
            flights: Flights::default(),
            background: AtomicUsize::new(0),
            counters: Counters::new(metrics),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Goes by these settings from the next read on. Another `max_bytes` forgets what is kept;
    /// how long an answer is fresh is decided when it comes.
    pub fn reload(&self, settings: &config::Reads) {
        self.inner.live.send_modify(|live| {
            let settings = settings.clone();
            *live = Arc::new(if settings.max_bytes == live.settings.max_bytes {
                Live { settings, ..Live::clone(live) }
            } else {
                Live::new(settings)
            });
        });
        self.inner.show_size();
    }

    /// Answers a read. `query` is as the caller sent it, without `?`; `asked` are the caller's
    /// headers, of which the cache heeds those of RFC 9110 and RFC 9111 that concern it.
    ///
    /// # Errors
    /// When GMFY doesn't answer, and nothing is kept that may stand in.
    ///
    /// # Cancel safety
    /// Dropping this takes nothing from others who wait for the same answer.
    pub async fn get(
        &self,
        call: &Call,
        query: Option<&str>,
        asked: &HeaderMap,
    ) -> Result<Answer, SendError> {
        let inner = &self.inner;
        let Some(route) = Route::of(call) else {
            let passed = inner.source.read(call, query).await?;
            return Ok(answer::streamed(passed, Forward::Bypass));
        };
        let live = inner.live();
        if route.ttl(&live.settings.ttl).is_zero() || live.largest == 0 {
            return Box::pin(inner.bypass(route, call, query)).await;
        }
        let query = key::canonical_query(route, query);
        let key = key::key(call, &query);
        let target = || Target {
            route,
            call: call.clone(),
            query: query.into_owned(),
            key: Arc::from(key.as_str()),
        };
        if asked::forces(asked) {
            return Box::pin(self.forward(target(), asked, Forward::Request, None)).await;
        }
        let Some(entry) = live.cache.get(key.as_str()) else {
            return Box::pin(self.forward(target(), asked, Forward::Miss, None)).await;
        };
        let now = Instant::now();
        let subject = key::subject(call);
        let result = match entry.standing(now, inner.epochs.of(subject)) {
            Standing::Fresh => {
                if entry.hit(now) && live.settings.prefetch {
                    self.refresh(&entry, now, target);
                }
                ReadResult::Hit
            }
            Standing::Revalidate => {
                self.refresh(&entry, now, target);
                ReadResult::Stale
            }
            Standing::IfError | Standing::Nothing => {
                let forward = self.forward(target(), asked, Forward::Stale, Some(entry));
                return Box::pin(forward).await;
            }
        };
        inner.counters.count(route, result);
        let source = Source::Hit { ttl: entry.ttl(now) };
        if entry.compressible {
            Box::pin(inner.make_forms(&key, &entry, asked)).await;
        }
        Ok(answer::of_entry(&entry, asked, source, entry.age(now).as_secs()))
    }

    /// Tells that the state of these users at GMFY has changed, or may have: what was fetched of
    /// them before is an answer only where GMFY fails from now on.
    pub fn users_changed(&self, users: impl IntoIterator<Item = UserHash>) {
        let mut any = false;
        let mut last = None;
        for user in users {
            any = true;
            // Events of one user often come together.
            if last.replace(user) != Some(user) {
                self.inner.epochs.supersede(Subject::hashed(user));
            }
        }
        if any {
            self.inner.epochs.supersede(Subject::EVERY_USER);
        }
    }

    /// Tells, when the guard is dropped, that what `call` wrote has changed, however it ended.
    #[must_use]
    pub fn writing(&self, call: &Call) -> Writing<'_, S> {
        Writing { reads: self, subject: key::subject(call) }
    }

    /// Forgets everything: GMFY knows us by another key from now on, perhaps as someone else.
    pub fn forget_all(&self) {
        let inner = &self.inner;
        inner.epochs.supersede_everything();
        inner.live().cache.invalidate_all();
        inner.show_size();
    }

    /// The cache as it stands.
    #[must_use]
    pub fn status(&self) -> CacheStatus {
        let inner = &self.inner;
        let cache = inner.live().cache.clone();
        CacheStatus {
            entries: cache.entry_count(),
            bytes: cache.weighted_size(),
            routes: inner.counters.routes(),
        }
    }

    /// Owns the flights until `stop` is cancelled; then ends them and awaits their end.
    pub async fn run(&self, stop: CancellationToken) {
        stop.cancelled().await;
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// Waits for GMFY's answer. `kept` is what may stand in for it.
    async fn forward(
        &self,
        target: Target,
        asked: &HeaderMap,
        why: Forward,
        kept: Option<Arc<Entry>>,
    ) -> Result<Answer, SendError> {
        let inner = &self.inner;
        let (route, key) = (target.route, Arc::clone(&target.key));
        let (waiting, collapsed) = match self.join(&target, why == Forward::Request) {
            Joined::Waiting(waiting) => (waiting, true),
            Joined::Starting(flight, waiting, not_before) => {
                inner.fly(&target, flight, not_before, None);
                (waiting, false)
            }
        };
        let landed = flights::result(waiting).await;
        let failed = match &landed {
            Landed::Whole { entry, .. } => hides(entry.status),
            Landed::Single(passed) => {
                let passed = passed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                passed.as_ref().is_some_and(|passed| hides(passed.status))
            }
            Landed::Failed(_) => true,
        };
        let now = Instant::now();
        let stands_in = |kept: &Arc<Entry>| {
            kept.stands_in(now) && kept.epoch.is_of_generation(inner.epochs.of(target.subject()))
        };
        if failed && let Some(kept) = kept.filter(stands_in) {
            inner.counters.count(route, ReadResult::StaleIfError);
            let source = Source::StaleIfError { ttl: kept.ttl(now) };
            inner.make_forms(&key, &kept, asked).await;
            return Ok(answer::of_entry(&kept, asked, source, kept.age(now).as_secs()));
        }
        let answer = match landed {
            Landed::Whole { entry, stored } => {
                let source = Source::Forwarded { why, stored, collapsed };
                inner.make_forms(&key, &entry, asked).await;
                Ok(answer::of_entry(&entry, asked, source, entry.age(now).as_secs()))
            }
            Landed::Single(passed) => {
                let taken = passed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
                let passed = match taken {
                    Some(passed) => Ok(passed),
                    // Someone else has it: this caller needs one of its own.
                    None => inner.source.read(&target.call, target.sent_query()).await,
                };
                passed.map(|passed| answer::streamed(passed, why))
            }
            Landed::Failed(error) => Err(error),
        };
        let result = match (&answer, why) {
            (Err(_), _) => ReadResult::Failed,
            (Ok(_), Forward::Stale) => ReadResult::Expired,
            (Ok(_), Forward::Request) => ReadResult::Forced,
            (Ok(_), Forward::Miss) => ReadResult::Miss,
            (Ok(_), Forward::Bypass) => ReadResult::Bypass,
        };
        inner.counters.count(route, result);
        answer
    }

    /// Fetches an entry anew for nobody in particular, unless that is under way.
    fn refresh(&self, entry: &Entry, now: Instant, target: impl FnOnce() -> Target) {
        if !entry.takes_refresh(now) {
            return;
        }
        let inner = &self.inner;
        let Some(background) = fetch::Background::begin(Arc::clone(inner)) else { return };
        let target = target();
        if let Joined::Starting(flight, _, not_before) = self.join(&target, false) {
            inner.fly(&target, flight, not_before, Some(background));
        }
    }

    fn join(&self, target: &Target, anew: bool) -> Joined {
        let inner = &self.inner;
        let subject = target.subject();
        let spacing = Some(LIST_SPACING).filter(|_| subject.is_every_user());
        let superseded = |epoch| {
            let entry = inner.live().cache.get(&*target.key)?;
            (entry.epoch != epoch).then_some(entry.begun)
        };
        inner.flights.join(&target.key, || inner.epochs.of(subject), superseded, spacing, anew)
    }
}

/// Whether an answer is one that stale-if-error hides: GMFY's failures, not what it has to say.
const fn hides(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

/// See [`Reads::writing`].
#[derive(Debug)]
pub struct Writing<'a, S: ReadSource = Upstream> {
    reads: &'a Reads<S>,
    subject: Subject,
}

impl<S: ReadSource> Drop for Writing<'_, S> {
    fn drop(&mut self) {
        self.reads.inner.epochs.supersede(self.subject);
    }
}

impl<S: ReadSource> Inner<S> {
    /// Asks GMFY for this caller alone.
    async fn bypass(
        &self,
        route: Route,
        call: &Call,
        query: Option<&str>,
    ) -> Result<Answer, SendError> {
        let passed = self.source.read(call, query).await;
        let result = if passed.is_ok() { ReadResult::Bypass } else { ReadResult::Failed };
        self.counters.count(route, result);
        Ok(answer::streamed(passed?, Forward::Bypass))
    }

    /// What our settings allow for a route.
    fn limits(&self, route: Route) -> Lifetime {
        let live = self.live();
        Lifetime {
            aged: Duration::ZERO,
            fresh: route.ttl(&live.settings.ttl),
            while_revalidate: live.settings.stale_while_revalidate,
            if_error: live.settings.stale_if_error,
        }
    }
}
