//! What happened: counts always, requests and events when recording is on.

use std::collections::{BTreeMap, VecDeque};

use axum::http::{HeaderMap, Method, StatusCode};
use bytes::Bytes;
use serde::Serialize;

use super::wire::WireEvent;

/// How many event types are counted by name; the rest goes under [`OTHER_TYPES`].
const TYPES_MAX: usize = 1024;
const OTHER_TYPES: &str = "(other)";

/// A request to the API, whole.
#[derive(Clone, Debug)]
pub struct RecordedRequest {
    /// Its place among all requests received, from 0.
    pub order: u64,
    pub method: Method,
    /// As sent.
    pub path_and_query: String,
    /// The key is marked sensitive, so that `Debug` doesn't show it.
    pub headers: HeaderMap,
    /// After decompression.
    pub body: Bytes,
    /// None while it is under way.
    pub outcome: Option<Outcome>,
    /// When it was received and when it ended, in ticks of one counter.
    began: u64,
    ended: Option<u64>,
}

impl RecordedRequest {
    /// Whether the two were under way at the same time.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let ends_after = |one: &Self, began| one.ended.is_none_or(|ended| ended > began);
        ends_after(self, other.began) && ends_after(other, self.began)
    }

    /// A header as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Answered(StatusCode),
    /// Cut by a fault, or left by the caller.
    Unanswered,
}

/// An event that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedEvent {
    /// Its place among all events applied, from 1.
    pub order: u64,
    /// The [`RecordedRequest::order`] of the request it came with.
    pub request: u64,
    pub user_id: String,
    pub event_type: String,
    pub idempotence_key: Option<String>,
    /// A unique event that had counted before.
    pub duplicate: bool,
    /// The JSON object, byte for byte.
    pub text: Bytes,
}

/// Totals since the start, or since they were cleared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Events applied, duplicates too.
    pub events: u64,
    /// Unique events that had counted before.
    pub duplicates: u64,
    /// Events applied by type; beyond 1024 types under `(other)`.
    pub events_by_type: BTreeMap<String, u64>,
    /// Requests received.
    pub requests: u64,
    /// Requests by method and route, then by status or `unanswered`.
    pub requests_by_route: BTreeMap<String, BTreeMap<String, u64>>,
    /// Users that have a state.
    pub users: usize,
}

impl Counts {
    /// How many requests were answered with this status.
    #[must_use]
    pub fn answered(&self, status: u16) -> u64 {
        let status = status.to_string();
        self.requests_by_route.values().filter_map(|by_status| by_status.get(&status)).sum()
    }

    /// How many requests got no answer.
    #[must_use]
    pub fn unanswered(&self) -> u64 {
        self.requests_by_route.values().filter_map(|by_status| by_status.get(UNANSWERED)).sum()
    }
}

const UNANSWERED: &str = "unanswered";

#[derive(Debug, Default)]
pub(super) struct Journal {
    capacity: usize,
    /// Counts beginnings and ends of requests, so that overlaps can be told.
    ticks: u64,
    received: u64,
    applied: u64,
    counts: Counts,
    requests: VecDeque<RecordedRequest>,
    events: VecDeque<RecordedEvent>,
}

impl Journal {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, ..Self::default() }
    }

    pub(super) const fn recording(&self) -> bool {
        self.capacity > 0
    }

    pub(super) fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
        if capacity > 0 {
            let surplus = self.requests.len().saturating_sub(capacity);
            self.requests.drain(..surplus);
            let surplus = self.events.len().saturating_sub(capacity);
            self.events.drain(..surplus);
        }
    }

    /// Notes a request that has been received whole, and tells its order.
    pub(super) fn began(
        &mut self,
        method: &Method,
        path_and_query: &str,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> u64 {
        let order = self.received;
        self.received += 1;
        self.ticks += 1;
        self.counts.requests += 1;
        if self.recording() {
            let mut headers = headers.clone();
            if let Some(key) = headers.get_mut("x-api-key") {
                key.set_sensitive(true);
            }
            let request = RecordedRequest {
                order,
                method: method.clone(),
                path_and_query: path_and_query.to_owned(),
                headers,
                body: body.clone(),
                outcome: None,
                began: self.ticks,
                ended: None,
            };
            push_bounded(&mut self.requests, request, self.capacity);
        }
        order
    }

    /// Notes how a request ended. `route` is bounded: the pattern, not the path.
    pub(super) fn ended(&mut self, order: u64, route: &str, outcome: Outcome) {
        self.ticks += 1;
        let status = match outcome {
            Outcome::Answered(status) => status.as_str().to_owned(),
            Outcome::Unanswered => UNANSWERED.to_owned(),
        };
        let by_status = self.counts.requests_by_route.entry(route.to_owned()).or_default();
        *by_status.entry(status).or_default() += 1;
        // In ascending order, without gaps where recording was on; found from the end.
        let recorded = self.requests.iter_mut().rev().find(|request| request.order <= order);
        if let Some(request) = recorded.filter(|request| request.order == order) {
            request.outcome = Some(outcome);
            request.ended = Some(self.ticks);
        }
    }

    /// Notes an event that has been applied; `text` is its JSON, needed when recording.
    pub(super) fn applied(
        &mut self,
        request: u64,
        event: &WireEvent<'_>,
        duplicate: bool,
        text: Option<Bytes>,
    ) {
        self.applied += 1;
        self.counts.events += 1;
        self.counts.duplicates += u64::from(duplicate);
        self.count_type(&event.event_type);
        if let Some(text) = text
            && self.recording()
        {
            let recorded = RecordedEvent {
                order: self.applied,
                request,
                user_id: event.user_id.clone().into_owned(),
                event_type: event.event_type.clone().into_owned(),
                idempotence_key: event.idempotence_key.clone().map(std::borrow::Cow::into_owned),
                duplicate,
                text,
            };
            push_bounded(&mut self.events, recorded, self.capacity);
        }
    }

    fn count_type(&mut self, event_type: &str) {
        let types = &mut self.counts.events_by_type;
        if let Some(count) = types.get_mut(event_type) {
            *count += 1;
        } else {
            let name = if types.len() < TYPES_MAX { event_type } else { OTHER_TYPES };
            *types.entry(name.to_owned()).or_default() += 1;
        }
    }

    pub(super) fn requests(&self) -> Vec<RecordedRequest> {
        self.requests.iter().cloned().collect()
    }

    pub(super) fn events(&self) -> Vec<RecordedEvent> {
        self.events.iter().cloned().collect()
    }

    /// Recorded events of a higher order than `after`.
    pub(super) fn events_after(&self, after: u64, limit: usize) -> Vec<RecordedEvent> {
        let from = self.events.partition_point(|event| event.order <= after);
        self.events.iter().skip(from).take(limit).cloned().collect()
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts.clone()
    }

    /// Forgets what was recorded and counted; orders go on.
    pub(super) fn clear(&mut self) {
        self.counts = Counts::default();
        self.requests.clear();
        self.events.clear();
    }
}

fn push_bounded<T>(queue: &mut VecDeque<T>, item: T, capacity: usize) {
    if queue.len() >= capacity {
        queue.pop_front();
    }
    queue.push_back(item);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(journal: &mut Journal) -> u64 {
        journal.began(&Method::GET, "/", &HeaderMap::new(), &Bytes::new())
    }

    #[test]
    fn overlaps_are_told_from_beginnings_and_ends() {
        let mut journal = Journal::new(10);
        let ok = Outcome::Answered(StatusCode::OK);
        let first = begin(&mut journal);
        let second = begin(&mut journal);
        journal.ended(first, "GET /", ok);
        let third = begin(&mut journal);
        journal.ended(second, "GET /", ok);
        journal.ended(third, "GET /", Outcome::Unanswered);
        let requests = journal.requests();
        let overlaps = |one: usize, other: usize| requests[one].overlaps(&requests[other]);
        assert!(overlaps(0, 1) && overlaps(1, 0) && overlaps(1, 2) && overlaps(2, 1));
        assert!(!overlaps(0, 2) && !overlaps(2, 0));
        assert_eq!(requests[2].outcome, Some(Outcome::Unanswered));
    }

    #[test]
    fn only_the_newest_are_kept_and_ends_of_forgotten_ones_do_no_harm() {
        let mut journal = Journal::new(2);
        let orders = [begin(&mut journal), begin(&mut journal), begin(&mut journal)];
        for order in orders {
            journal.ended(order, "GET /", Outcome::Answered(StatusCode::OK));
        }
        let kept: Vec<u64> = journal.requests().iter().map(|request| request.order).collect();
        assert_eq!(kept, [1, 2]);
        assert_eq!(journal.counts().answered(200), 3);
    }

    #[test]
    fn types_beyond_the_bound_are_counted_together() {
        let mut journal = Journal::new(0);
        for number in 0..TYPES_MAX + 3 {
            journal.count_type(&number.to_string());
        }
        assert_eq!(journal.counts.events_by_type.len(), TYPES_MAX + 1);
        assert_eq!(journal.counts.events_by_type.get(OTHER_TYPES), Some(&3));
    }
}
