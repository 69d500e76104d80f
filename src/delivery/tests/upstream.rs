//! An upstream that does as it is told, and notices what must never happen.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::upstream::{Answer, BatchBody, BatchSink, SendError};

/// An event as it arrived: its number and user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
pub(super) struct Arrived {
    pub(super) n: u64,
    pub(super) u: u32,
}

/// What the upstream does with a request: the result it gives, and whether it takes the events.
pub(super) struct Reaction {
    pub(super) result: Result<Answer, SendError>,
    pub(super) takes: bool,
}

impl Reaction {
    pub(super) fn status(status: u16) -> Self {
        let answer = Answer { status, retry_after: None, body: Bytes::from_static(b"said so") };
        Self { result: Ok(answer), takes: (200..300).contains(&status) }
    }

    pub(super) fn retry_after(status: u16, after: Duration) -> Self {
        let answer = Answer { status, retry_after: Some(after), body: Bytes::new() };
        Self { result: Ok(answer), takes: false }
    }

    pub(super) fn broken(takes: bool) -> Self {
        Self { result: Err(SendError::Broken("cut".to_owned())), takes }
    }
}

type React = Box<dyn FnMut(&[Arrived]) -> Reaction + Send>;

#[derive(Clone)]
pub(super) struct FakeUpstream {
    inner: Arc<Mutex<Inner>>,
    latency: Duration,
}

struct Inner {
    react: React,
    requests: Vec<(Instant, usize)>,
    taken: Vec<Arrived>,
    bodies: HashMap<String, Bytes>,
    in_flight: HashSet<u32>,
    may_repeat: HashSet<u64>,
}

/// Takes a request's users off the list of those in flight, also when the request is given up.
struct Flight {
    inner: Arc<Mutex<Inner>>,
    users: HashSet<u32>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Ok(mut inner) = self.inner.lock() {
            inner.in_flight.retain(|user| !self.users.contains(user));
        }
    }
}

impl FakeUpstream {
    pub(super) fn new(react: impl FnMut(&[Arrived]) -> Reaction + Send + 'static) -> Self {
        let inner = Inner {
            react: Box::new(react),
            requests: Vec::new(),
            taken: Vec::new(),
            bodies: HashMap::new(),
            in_flight: HashSet::new(),
            may_repeat: HashSet::new(),
        };
        Self { inner: Arc::new(Mutex::new(inner)), latency: Duration::from_millis(20) }
    }

    /// The same, slower: each answer takes this long.
    pub(super) fn with_latency(self, latency: Duration) -> Self {
        Self { latency, ..self }
    }

    pub(super) fn react(&self, react: impl FnMut(&[Arrived]) -> Reaction + Send + 'static) {
        self.inner.lock().unwrap().react = Box::new(react);
    }

    pub(super) fn requests(&self) -> Vec<(Instant, usize)> {
        self.inner.lock().unwrap().requests.clone()
    }

    /// How many different keys came.
    pub(super) fn keys(&self) -> usize {
        self.inner.lock().unwrap().bodies.len()
    }

    pub(super) fn taken(&self) -> Vec<Arrived> {
        self.inner.lock().unwrap().taken.clone()
    }

    /// The process crashed: what was taken and isn't settled may come again.
    pub(super) fn allow_again(&self, unsettled: &[u64]) {
        self.inner.lock().unwrap().may_repeat.extend(unsettled);
    }

    /// Checks order and duplicates of all that was taken; returns how often each was.
    pub(super) fn check(&self) -> BTreeMap<u64, u32> {
        let inner = self.inner.lock().unwrap();
        let mut times: BTreeMap<u64, u32> = BTreeMap::new();
        let mut last: HashMap<u32, u64> = HashMap::new();
        for event in &inner.taken {
            let count = times.entry(event.n).or_default();
            *count += 1;
            if *count > 1 {
                assert!(inner.may_repeat.contains(&event.n), "{event:?} came twice, unpromised");
                continue;
            }
            let before = last.insert(event.u, event.n);
            assert!(before.is_none_or(|before| before < event.n), "{event:?} came out of order");
        }
        times
    }
}

impl BatchSink for FakeUpstream {
    async fn send_batch(&self, body: BatchBody, key: String) -> Result<Answer, SendError> {
        let BatchBody::Plain(body) = body else { panic!("not asked for") };
        let events: Vec<Arrived> = serde_json::from_slice(&body).unwrap();
        let flight = {
            let mut inner = self.inner.lock().unwrap();
            inner.requests.push((Instant::now(), events.len()));
            let known = inner.bodies.entry(key).or_insert_with(|| body.clone());
            assert_eq!(*known, body, "a key stands for one body");
            let users: HashSet<u32> = events.iter().map(|event| event.u).collect();
            for user in &users {
                assert!(inner.in_flight.insert(*user), "user {user} is in two requests");
            }
            Flight { inner: Arc::clone(&self.inner), users }
        };
        tokio::time::sleep(self.latency / 2).await;
        let reaction = {
            let mut inner = self.inner.lock().unwrap();
            let reaction = (inner.react)(&events);
            if reaction.takes {
                inner.taken.extend(&events);
                if reaction.result.is_err()
                    || reaction.result.as_ref().is_ok_and(|a| a.status > 299)
                {
                    inner.may_repeat.extend(events.iter().map(|event| event.n));
                }
            }
            reaction
        };
        tokio::time::sleep(self.latency / 2).await;
        drop(flight);
        reaction.result
    }
}
