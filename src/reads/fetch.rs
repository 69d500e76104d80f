//! The work of a flight: to fetch, to judge, to keep.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::HeaderMap;
use tokio::time::Instant;

use super::entry::Entry;
use super::epochs::Subject;
use super::flights::{self, Begun, Flight, Landed};
use super::key::{self, Route};
use super::lifetime::{Lifetime, Use, judge};
use super::{Inner, asked};
use crate::telemetry::request::Current;
use crate::upstream::{Call, Passed, ReadSource, SendError};

/// Up to this size an answer is compressed where it is wanted; a larger one on a thread that may
/// block. In bytes.
const COMPRESSED_AT_ONCE: usize = 32 * 1024;

/// What is to be fetched.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) route: Route,
    pub(super) call: Call,
    /// Canonical.
    pub(super) query: String,
    pub(super) key: Arc<str>,
}

impl Target {
    pub(super) fn subject(&self) -> Subject {
        key::subject(&self.call)
    }

    pub(super) fn sent_query(&self) -> Option<&str> {
        Some(self.query.as_str()).filter(|query| !query.is_empty())
    }
}

/// A flight for nobody in particular. They have half of the connections at most, so that readers
/// who wait needn't wait for them.
#[derive(Debug)]
pub(super) struct Background<S> {
    inner: Arc<Inner<S>>,
}

impl<S> Background<S> {
    pub(super) fn begin(inner: Arc<Inner<S>>) -> Option<Self> {
        let most = (inner.live().settings.connections / 2).max(1);
        let begin = |count| (count < most).then_some(count + 1);
        inner.background.fetch_update(Ordering::Relaxed, Ordering::Relaxed, begin).ok()?;
        Some(Self { inner })
    }
}

impl<S> Drop for Background<S> {
    fn drop(&mut self) {
        self.inner.background.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Takes a flight off the list however its task ends.
struct Listed<'a, S> {
    inner: &'a Inner<S>,
    key: &'a str,
    flight: &'a Arc<Flight>,
}

impl<S> Drop for Listed<'_, S> {
    fn drop(&mut self) {
        flights::remove(&mut self.inner.flights.lock(), self.key, self.flight);
    }
}

impl<S: ReadSource> Inner<S> {
    /// Begins the task of a flight.
    pub(super) fn fly(
        self: &Arc<Self>,
        target: &Target,
        flight: Arc<Flight>,
        not_before: Option<Instant>,
        background: Option<Background<S>>,
    ) {
        let (inner, target) = (Arc::clone(self), target.clone());
        // What nobody waits for is no part of a request.
        let current = if background.is_some() { Current::default() } else { Current::get() };
        self.tasks.spawn(current.scope(async move {
            let _background = background;
            let _listed = Listed { inner: &inner, key: &target.key, flight: &flight };
            let starts = not_before.unwrap_or_else(Instant::now);
            let worthless_at = starts + target.route.ttl(&inner.live().settings.ttl);
            tokio::select! {
                () = inner.stop.cancelled() => {}
                () = inner.flights.abandoned(&target.key, &flight, worthless_at) => {}
                landed = inner.fetch(&target, &flight, not_before) => flight.land(landed),
            }
        }));
    }

    /// Fetches. What comes of it is kept, and the flight off the list, when this resolves: who
    /// comes later finds the entry, or starts anew.
    async fn fetch(
        &self,
        target: &Target,
        flight: &Arc<Flight>,
        not_before: Option<Instant>,
    ) -> Landed {
        if let Some(not_before) = not_before {
            tokio::time::sleep_until(not_before).await;
        }
        let begun = self.flights.begin(flight, || self.epochs.of(target.subject()));
        let fetched = match self.source.read(&target.call, target.sent_query()).await {
            Ok(passed) => self.take(target.route, passed, begun).await,
            Err(error) => Fetched::Landed(Landed::Failed(error)),
        };
        let mut flights = self.flights.lock();
        flights::remove(&mut flights, &target.key, flight);
        match fetched {
            Fetched::Landed(landed) => landed,
            Fetched::Keep(entry) => {
                let stored = self.keep(target, &entry, begun);
                drop(flights);
                self.show_size();
                Landed::Whole { entry, stored }
            }
        }
    }

    /// Keeps an entry, unless something changed since its fetch began or a younger one is there.
    /// The flights' lock is held meanwhile.
    fn keep(&self, target: &Target, entry: &Arc<Entry>, (at, epoch): Begun) -> bool {
        if self.epochs.of(target.subject()) != epoch
            || self.live().cache.get(&*target.key).is_some_and(|kept| kept.begun > at)
        {
            return false;
        }
        self.live().cache.insert(Arc::clone(&target.key), Arc::clone(entry));
        true
    }

    /// Lets the cache put its bookkeeping, and so its bound, in order, and says how large it is.
    pub(super) fn show_size(&self) {
        let live = self.live();
        live.cache.run_pending_tasks();
        self.counters.holds(live.cache.entry_count(), live.cache.weighted_size());
    }

    /// Reads an answer and judges it.
    async fn take(&self, route: Route, mut passed: Passed, begun: Begun) -> Fetched {
        let judged = judge(passed.status, &passed.headers, self.limits(route));
        let largest = self.live().largest;
        let too_large = |length: u64| usize::try_from(length).map_or(true, |l| l > largest);
        if judged == Use::Pass || passed.length.is_some_and(too_large) {
            return Fetched::single(passed);
        }
        let mut parts: Vec<Bytes> = Vec::new();
        let mut length = 0;
        while let Some(part) = passed.body.next().await {
            match part {
                Ok(part) => {
                    length += part.len();
                    parts.push(part);
                }
                Err(error) => return Fetched::Landed(Landed::Failed(error)),
            }
            if length > largest {
                let begun = stream::iter(parts.into_iter().map(Ok::<_, SendError>));
                let body = begun.chain(passed.body).boxed();
                return Fetched::single(Passed { body, ..passed });
            }
        }
        // One piece of its own, lest it keeps the buffers that it came in.
        let mut body = Vec::with_capacity(length);
        parts.iter().for_each(|part| body.extend_from_slice(part));
        let body = body.into_boxed_slice().into();
        let new =
            |lifetime| Arc::new(Entry::new(passed.status, &passed.headers, body, lifetime, begun));
        match judged {
            Use::Store(lifetime) => Fetched::Keep(new(lifetime)),
            Use::Share | Use::Pass => {
                let entry = new(Lifetime::default());
                Fetched::Landed(Landed::Whole { entry, stored: false })
            }
        }
    }

    /// Makes the compressed form of an entry that the caller asks for, if it isn't there yet.
    pub(super) async fn make_forms(&self, key: &str, entry: &Arc<Entry>, asked: &HeaderMap) {
        if !entry.compressible {
            return;
        }
        let Some(encoding) = asked::encoding(asked) else { return };
        if entry.variant(encoding).is_some() {
            return;
        }
        if entry.body.len() <= COMPRESSED_AT_ONCE {
            entry.compress(encoding);
        } else {
            let entry = Arc::clone(entry);
            let compressing = tokio::task::spawn_blocking(move || entry.compress(encoding));
            if compressing.await.is_err() {
                return;
            }
        }
        // Weighed again, now that there is more of it.
        let flights = self.flights.lock();
        if self.live().cache.get(key).is_some_and(|kept| Arc::ptr_eq(&kept, entry)) {
            self.live().cache.insert(Arc::from(key), Arc::clone(entry));
        }
        drop(flights);
        self.show_size();
    }
}

/// What a fetch brought.
enum Fetched {
    Keep(Arc<Entry>),
    Landed(Landed),
}

impl Fetched {
    fn single(passed: Passed) -> Self {
        Self::Landed(Landed::Single(Arc::new(Mutex::new(Some(passed)))))
    }
}
