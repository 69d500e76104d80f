//! What becomes of events, as it happens, for whoever follows.
//!
//! It costs one relaxed load where nobody does. A follower has a bounded queue: what doesn't fit
//! is lost to that follower alone, and counted, so that it can be told. Nothing here ever waits.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Deserialize;
use tokio::sync::mpsc;

use crate::clock::Timestamp;

/// Notices that wait for one follower at most.
const WAITING: usize = 1024;
/// Followers at a time at most.
const FOLLOWERS: usize = 32;
/// A user's id or a type is cut to so many bytes.
const LONGEST_TEXT: usize = 256;

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventOutcome {
    /// It is stored, and waits for its delivery.
    Accepted,
    Delivered,
    /// A request with it failed; it will be sent again.
    Retried,
    DeadLettered,
    Dropped,
}

impl EventOutcome {
    pub const ALL: [Self; 5] =
        [Self::Accepted, Self::Delivered, Self::Retried, Self::DeadLettered, Self::Dropped];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Delivered => "delivered",
            Self::Retried => "retried",
            Self::DeadLettered => "dead_lettered",
            Self::Dropped => "dropped",
        }
    }
}

/// What became of one event, with what tells it from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub at: Timestamp,
    pub sequence: u64,
    pub outcome: EventOutcome,
    pub user: String,
    pub event_type: String,
    /// The key of the request that it was in; none when it was in none.
    pub batch: Option<u128>,
    /// GMFY's status, if it answered.
    pub status: Option<u16>,
}

/// What became of some events together.
#[derive(Clone, Copy, Debug)]
pub struct Happening {
    pub at: Timestamp,
    pub outcome: EventOutcome,
    pub batch: Option<u128>,
    pub status: Option<u16>,
}

/// One of the events that something happened to.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub sequence: u64,
    /// The stable hash of the user's id.
    pub user_hash: u32,
    /// The wire form.
    pub json: &'a [u8],
}

/// Which notices a follower wants.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// A user's id, and its hash.
    pub user: Option<(String, u32)>,
    pub event_type: Option<String>,
    pub outcome: Option<EventOutcome>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct EventStream {
    count: AtomicUsize,
    followers: Mutex<Vec<Seat>>,
}

/// A follower's end here.
#[derive(Debug)]
struct Seat {
    filter: Filter,
    notices: mpsc::Sender<Arc<Notice>>,
    lost: Arc<AtomicU64>,
}

/// As many follow as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{FOLLOWERS} follow already")]
pub struct TooManyFollowers;

impl EventStream {
    /// Whether anybody follows. Cheap: to be asked before anything is prepared for it.
    #[must_use]
    pub fn is_followed(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Tells those who follow.
    pub fn publish<'a>(&self, what: Happening, events: impl Iterator<Item = Subject<'a>>) {
        let followers = self.lock();
        let wants = |seat: &&Seat| seat.filter.outcome.is_none_or(|wanted| wanted == what.outcome);
        let seats: Vec<_> = followers.iter().filter(wants).collect();
        if seats.is_empty() {
            return;
        }
        for event in events {
            let mut wire = None;
            let mut notice = None;
            for seat in &seats {
                if seat.filter.user.as_ref().is_some_and(|(_, hash)| *hash != event.user_hash) {
                    continue;
                }
                // Only an event of a certain type has to be read to know whether it is lost.
                if seat.filter.event_type.is_none() && seat.notices.capacity() == 0 {
                    seat.lost.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let wire = wire.get_or_insert_with(|| Wire::of(event.json));
                if !seat.filter.passes(wire) {
                    continue;
                }
                let notice = notice.get_or_insert_with(|| Arc::new(wire.notice(what, event)));
                if seat.notices.try_send(Arc::clone(notice)).is_err() {
                    seat.lost.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// Follows from now on.
    ///
    /// # Errors
    /// When too many follow already.
    pub fn follow(self: &Arc<Self>, filter: Filter) -> Result<Follower, TooManyFollowers> {
        let mut followers = self.lock();
        if followers.len() >= FOLLOWERS {
            return Err(TooManyFollowers);
        }
        let (notices, waiting) = mpsc::channel(WAITING);
        let lost = Arc::<AtomicU64>::default();
        followers.push(Seat { filter, notices, lost: Arc::clone(&lost) });
        self.count.store(followers.len(), Ordering::Relaxed);
        drop(followers);
        Ok(Follower { waiting, lost, stream: Arc::clone(self) })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Seat>> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Filter {
    fn passes(&self, wire: &Wire<'_>) -> bool {
        self.user.as_ref().is_none_or(|(user, _)| *user == wire.user)
            && self.event_type.as_ref().is_none_or(|wanted| *wanted == wire.event_type)
    }
}

/// What a notice takes from the wire form.
#[derive(Debug, Default, Deserialize)]
struct Wire<'a> {
    #[serde(borrow, rename = "userId")]
    user: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    event_type: Cow<'a, str>,
}

impl<'a> Wire<'a> {
    fn of(json: &'a [u8]) -> Self {
        // What is accepted has both.
        serde_json::from_slice(json).unwrap_or_default()
    }

    fn notice(&self, what: Happening, event: Subject<'_>) -> Notice {
        Notice {
            at: what.at,
            sequence: event.sequence,
            outcome: what.outcome,
            user: shortened(&self.user),
            event_type: shortened(&self.event_type),
            batch: what.batch,
            status: what.status,
        }
    }
}

fn shortened(text: &str) -> String {
    match text.get(..text.floor_char_boundary(LONGEST_TEXT)) {
        Some(start) if start.len() < text.len() => format!("{start}…"),
        _ => text.to_owned(),
    }
}

/// What a follower is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Event(Arc<Notice>),
    /// So many notices found no room since the last time.
    Lost(u64),
}

/// One who follows; until it is dropped.
#[derive(Debug)]
pub struct Follower {
    waiting: mpsc::Receiver<Arc<Notice>>,
    lost: Arc<AtomicU64>,
    stream: Arc<EventStream>,
}

impl Follower {
    /// Waits for what comes next.
    ///
    /// # Cancel safety
    /// Safe: nothing is taken before it resolves.
    pub async fn next(&mut self) -> Told {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            return Told::Lost(lost);
        }
        match self.waiting.recv().await {
            Some(notice) => Told::Event(notice),
            // The sender is in the stream that this holds.
            None => std::future::pending().await,
        }
    }

    /// What comes next, if it is there.
    pub fn try_next(&mut self) -> Option<Told> {
        self.waiting.try_recv().ok().map(Told::Event)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut followers = self.stream.lock();
        followers.retain(|seat| !Arc::ptr_eq(&seat.lost, &self.lost));
        self.stream.count.store(followers.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    fn happening(outcome: EventOutcome) -> Happening {
        Happening { at: Timestamp::from_millis(5), outcome, batch: Some(7), status: Some(201) }
    }

    fn publish(stream: &EventStream, outcome: EventOutcome, sequence: u64, user: &str) {
        let json = format!(r#"{{"userId":"{user}","type":"t{}","x":[1]}}"#, sequence % 2);
        let user_hash = u32::try_from(user.len()).unwrap();
        let subject = Subject { sequence, user_hash, json: json.as_bytes() };
        stream.publish(happening(outcome), std::iter::once(subject));
    }

    /// The sequences that wait, up to the first loss.
    fn waiting(follower: &mut Follower) -> Vec<u64> {
        let next = || follower.try_next();
        let sequence = |told| match told {
            Told::Event(notice) => Some(notice.sequence),
            Told::Lost(_) => None,
        };
        std::iter::from_fn(next).map_while(sequence).collect()
    }

    #[tokio::test]
    async fn a_follower_is_told_what_became_of_an_event_from_when_it_follows() {
        let stream = Arc::<EventStream>::default();
        assert!(!stream.is_followed());
        publish(&stream, EventOutcome::Accepted, 1, "ada");
        let mut follower = stream.follow(Filter::default()).unwrap();
        assert!(stream.is_followed());
        publish(&stream, EventOutcome::Delivered, 2, "ada");
        let notice = Notice {
            at: Timestamp::from_millis(5),
            sequence: 2,
            outcome: EventOutcome::Delivered,
            user: "ada".to_owned(),
            event_type: "t0".to_owned(),
            batch: Some(7),
            status: Some(201),
        };
        assert_eq!(follower.next().await, Told::Event(Arc::new(notice)));
        assert!(timeout(Duration::from_millis(1), follower.next()).await.is_err());
        drop(follower);
        assert!(!stream.is_followed());
    }

    #[test]
    fn filters_choose_by_user_type_and_outcome() {
        let stream = Arc::<EventStream>::default();
        let follow = |user: Option<&str>, event_type: Option<&str>, outcome| {
            let hash = |user: &str| (user.to_owned(), u32::try_from(user.len()).unwrap());
            let filter =
                Filter { user: user.map(hash), event_type: event_type.map(str::to_owned), outcome };
            stream.follow(filter).unwrap()
        };
        let mut ada = follow(Some("ada"), None, None);
        let mut odd = follow(None, Some("t1"), None);
        let mut retried = follow(None, None, Some(EventOutcome::Retried));
        let mut both = follow(Some("ada"), Some("t1"), Some(EventOutcome::Retried));
        publish(&stream, EventOutcome::Accepted, 1, "ada");
        // Of the same hash.
        publish(&stream, EventOutcome::Accepted, 2, "bob");
        publish(&stream, EventOutcome::Retried, 3, "ada");
        publish(&stream, EventOutcome::Retried, 4, "ada");
        publish(&stream, EventOutcome::Retried, 5, "carol");
        assert_eq!(waiting(&mut ada), [1, 3, 4]);
        assert_eq!(waiting(&mut odd), [1, 3, 5]);
        assert_eq!(waiting(&mut retried), [3, 4, 5]);
        assert_eq!(waiting(&mut both), [3]);
    }

    #[tokio::test]
    async fn a_slow_follower_loses_and_is_told_how_many_and_others_lose_nothing() {
        let stream = Arc::<EventStream>::default();
        let mut slow = stream.follow(Filter::default()).unwrap();
        let mut picky =
            stream.follow(Filter { event_type: Some("t1".to_owned()), ..Filter::default() });
        let picky = picky.as_mut().unwrap();
        let count = WAITING as u64 + 10;
        for sequence in 0..count {
            publish(&stream, EventOutcome::Accepted, sequence, "ada");
        }
        assert_eq!(slow.next().await, Told::Lost(10));
        assert_eq!(waiting(&mut slow).len(), WAITING);
        assert_eq!(waiting(picky).len() as u64, count / 2);
        publish(&stream, EventOutcome::Accepted, count, "ada");
        assert!(matches!(slow.next().await, Told::Event(notice) if notice.sequence == count));
    }

    #[test]
    fn followers_are_bounded_and_long_texts_cut() {
        let stream = Arc::<EventStream>::default();
        let mut followers: Vec<_> =
            (0..FOLLOWERS).map(|_| stream.follow(Filter::default()).unwrap()).collect();
        assert_eq!(stream.follow(Filter::default()).unwrap_err(), TooManyFollowers);
        publish(&stream, EventOutcome::Accepted, 1, &"é".repeat(200));
        let Some(Told::Event(notice)) = followers[0].try_next() else { panic!("no notice") };
        assert_eq!(notice.user, format!("{}…", "é".repeat(128)));
        followers.pop();
        stream.follow(Filter::default()).unwrap();
    }
}
