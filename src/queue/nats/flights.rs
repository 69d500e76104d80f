//! Publications under way. A flight is events that belong together: it has landed when JetStream
//! acknowledged or refused each of them.
//!
//! What was sent may get lost on the way while what was sent behind it arrives: on a connection that
//! is made anew, or when the stream's leader changes. Sent again, by the application or from the spill,
//! it would come behind. So a flight has one publication of a user under way at a time, and those
//! of all its users at once.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

use super::Shared;
use crate::event::EventKind;
use crate::queue::dedupe::Mark;
use crate::queue::{AppendError, Sequence, UserHash};

/// Publications that wait for their acknowledgement, at most.
pub(super) const OUTSTANDING: usize = 8192;

/// What JetStream knows a repetition of an event by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    None,
    /// A unique event's own: another request may have brought it.
    Unique(Mark),
    /// Its request's: only the same request can have brought it.
    Request(Mark),
    /// The dead letter's that it was.
    Requeued(Sequence),
}

impl Identity {
    fn message_id(self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Unique(mark) | Self::Request(mark) => Some(format!("event-{:032x}", mark.0)),
            Self::Requeued(origin) => Some(format!("requeued-{origin}")),
        }
    }
}

/// An event on its way to JetStream.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) user: UserHash,
    pub(super) kind: EventKind,
    pub(super) identity: Identity,
    /// See `message`.
    pub(super) payload: Bytes,
    /// None while it is under way.
    pub(super) result: Option<Result<PublishAck, AppendError>>,
}

/// Events, and what they are published for.
#[derive(Debug)]
pub(super) struct Flight<T> {
    pub(super) of: T,
    pub(super) events: Vec<Event>,
}

struct Waiting<T> {
    flight: Flight<T>,
    outstanding: usize,
    /// For each event the one that is sent when it is acknowledged.
    followers: Vec<Option<usize>>,
}

type Published = (u64, usize, Result<PublishAck, PublishError>);

/// See the module.
pub(super) struct Flights<T> {
    shared: Arc<Shared>,
    number: u64,
    waiting: HashMap<u64, Waiting<T>>,
    acks: FuturesUnordered<BoxFuture<'static, Published>>,
    /// Those that are to be sent when fewer are outstanding.
    held: VecDeque<(u64, usize)>,
    landed: VecDeque<Flight<T>>,
}

impl<T> Flights<T> {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            number: 0,
            waiting: HashMap::new(),
            acks: FuturesUnordered::new(),
            held: VecDeque::new(),
            landed: VecDeque::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.acks.is_empty() && self.landed.is_empty()
    }

    /// Sends an event of a user when the one before is acknowledged: whatever gets lost, what the
    /// stream has of a user's events is their beginning.
    pub(super) fn send(&mut self, flight: Flight<T>) {
        let (firsts, followers) = chains(flight.events.iter().map(|event| event.user));
        let number = self.add(flight, followers);
        for index in firsts {
            self.push(number, index);
        }
    }

    /// The next flight that has landed; none where none is under way.
    ///
    /// # Cancel safety
    /// Dropping this loses nothing.
    pub(super) async fn next(&mut self) -> Option<Flight<T>> {
        loop {
            if let Some(flight) = self.landed.pop_front() {
                return Some(flight);
            }
            let ack = self.acks.next().await?;
            self.acknowledged(ack);
        }
    }

    fn add(&mut self, flight: Flight<T>, followers: Vec<Option<usize>>) -> u64 {
        self.number += 1;
        let outstanding = flight.events.len();
        self.waiting.insert(self.number, Waiting { flight, outstanding, followers });
        self.number
    }

    fn event(&self, number: u64, index: usize) -> Option<&Event> {
        self.waiting.get(&number)?.flight.events.get(index)
    }

    fn push(&mut self, number: u64, index: usize) {
        if self.acks.len() >= OUTSTANDING {
            return self.held.push_back((number, index));
        }
        let Some(event) = self.event(number, index) else { return };
        let (subject, message) = message(&self.shared, event);
        let shared = Arc::clone(&self.shared);
        self.acks.push(Box::pin(async move {
            let published = match shared.streams.context.send_publish(subject, message).await {
                Ok(ack) => ack.await,
                Err(error) => Err(error),
            };
            (number, index, published)
        }));
    }

    fn acknowledged(&mut self, (number, index, published): Published) {
        self.land(number, index, published);
        if let Some((number, index)) = self.held.pop_front() {
            self.push(number, index);
        }
    }

    fn land(&mut self, number: u64, index: usize, published: Result<PublishAck, PublishError>) {
        let Some(waiting) = self.waiting.get_mut(&number) else { return };
        let result = published.map_err(|error| refusal(&error));
        let unsent = result.as_ref().err().map(unsent);
        waiting.land(index, result);
        let mut follower = waiting.follower(index);
        match unsent {
            None => {
                if let Some(follower) = follower {
                    return self.push(number, follower);
                }
            }
            Some(error) => {
                while let Some(index) = follower {
                    waiting.land(index, Err(error.clone()));
                    follower = waiting.follower(index);
                }
            }
        }
        if waiting.outstanding == 0
            && let Some(waiting) = self.waiting.remove(&number)
        {
            self.landed.push_back(waiting.flight);
        }
    }
}

impl<T> Waiting<T> {
    fn land(&mut self, index: usize, result: Result<PublishAck, AppendError>) {
        if let Some(event) = self.flight.events.get_mut(index) {
            event.result = Some(result);
        }
        self.outstanding = self.outstanding.saturating_sub(1);
    }

    fn follower(&self, index: usize) -> Option<usize> {
        self.followers.get(index).copied().flatten()
    }
}

/// The first event of each user, and behind each event its user's next one.
fn chains(users: impl Iterator<Item = UserHash>) -> (Vec<usize>, Vec<Option<usize>>) {
    let (mut firsts, mut followers) = (Vec::new(), Vec::<Option<usize>>::new());
    let mut last = HashMap::new();
    for (index, user) in users.enumerate() {
        followers.push(None);
        match last.insert(user, index) {
            Some(before) => followers[before] = Some(index),
            None => firsts.push(index),
        }
    }
    (firsts, followers)
}

fn message(shared: &Shared, event: &Event) -> (String, PublishMessage) {
    let mut message = PublishMessage::build().payload(event.payload.clone());
    if let Some(id) = event.identity.message_id() {
        message = message.message_id(id);
    }
    (shared.subject(shared.lane_of(event.user)), message)
}

/// What becomes of events that are not sent, because one before them was refused.
fn unsent(error: &AppendError) -> AppendError {
    match error {
        AppendError::OutcomeUnknown => AppendError::Unreachable,
        AppendError::QueueFull
        | AppendError::DiskFull
        | AppendError::Busy
        | AppendError::Failed(_)
        | AppendError::Unreachable
        | AppendError::Closed => error.clone(),
    }
}

/// What a publication's failure means for its request.
fn refusal(error: &PublishError) -> AppendError {
    match error.kind() {
        // No server took it: there was none that could.
        PublishErrorKind::StreamNotFound => AppendError::Unreachable,
        PublishErrorKind::MaxAckPending => AppendError::Busy,
        PublishErrorKind::MaxPayloadExceeded
        | PublishErrorKind::WrongLastMessageId
        | PublishErrorKind::WrongLastSequence => AppendError::Failed(error.to_string()),
        // Sent, and not answered.
        PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => AppendError::OutcomeUnknown,
        PublishErrorKind::Other => match code(error) {
            Some(ErrorCode::STREAM_STORE_FAILED) => AppendError::QueueFull,
            Some(
                ErrorCode::CLUSTER_NOT_AVAILABLE
                | ErrorCode::CLUSTER_NOT_ACTIVE
                | ErrorCode::CLUSTER_NOT_LEADER,
            ) => AppendError::Unreachable,
            Some(ErrorCode::INSUFFICIENT_RESOURCES | ErrorCode::STORAGE_RESOURCES_EXCEEDED) => {
                AppendError::DiskFull
            }
            Some(_) => AppendError::Failed(error.to_string()),
            None => AppendError::OutcomeUnknown,
        },
    }
}

/// The code of a JetStream error that refused a publication.
pub(super) fn code(error: &PublishError) -> Option<ErrorCode> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<async_nats::jetstream::Error>().map(|error| error.error_code())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_waits_for_the_one_before_of_its_user_and_for_no_other() {
        let users = [1, 2, 1, 3, 1, 2].map(UserHash::from_bits);
        let (firsts, followers) = chains(users.into_iter());
        assert_eq!(firsts, [0, 1, 3]);
        assert_eq!(followers, [Some(2), Some(5), Some(4), None, None, None]);
        assert_eq!(chains(std::iter::empty()), (Vec::new(), Vec::new()));
    }
}
