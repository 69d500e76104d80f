//! Reading one lane on from a place, by a consumer that lives as long as the reader.
//!
//! What was asked of the server stays with the reader, not with the future that waits for it: a
//! wait that is dropped loses nothing.
//!
//! The consumer lies on any of the stream's servers, which may have come back a moment ago and lack
//! what the others have, even in the middle. So no event is handed out before the stream's *leader*
//! confirmed that none of the lane is between it and the one before it. A leader that is behind
//! knows of no next one, and confirms nothing; see `confirm`.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::{Batch, Config};
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, ReplayPolicy};
use async_nats::jetstream::stream::Stream;
use futures_util::{FutureExt as _, StreamExt as _};
use tracing::{debug, error, trace, warn};

use super::message::{self, MessageError};
use crate::queue::{Chunk, Partitions, QueuedEvent, ReadLimit, Sequence, StoreError};

/// Readers of one lane.
const READERS: usize = 3;
/// How long a read waits for what the server said it has.
pub(super) const READ: Duration = Duration::from_secs(5);
/// Messages asked for at once.
const AT_ONCE: usize = 512;
/// How long a request for messages waits at the server.
const EXPIRES: Duration = Duration::from_secs(5);
/// How long the server keeps a consumer that nobody asks.
const INACTIVE: Duration = Duration::from_secs(30);
/// The most events, and bytes of wire form, that a reader holds.
const BUFFER: ReadLimit = ReadLimit { events: 2048, bytes: 4 << 20 };

/// See the module.
pub(super) struct Reader {
    stream: Stream,
    subject: String,
    consumer: Consumer<Config>,
    /// What was asked for and hasn't all come.
    batch: Option<Batch>,
    /// How many of these came.
    came: usize,
    /// Read, and not yet handed out.
    buffer: VecDeque<QueuedEvent>,
    buffered: usize,
    position: Sequence,
    /// The first that the stream's leader has not confirmed as the next of those before it.
    unconfirmed: Sequence,
    /// What the consumer delivered: a gap means that messages were lost on their way.
    delivered: u64,
    /// How many more messages the server knew of when it said so last.
    pending: u64,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("position", &self.position).finish_non_exhaustive()
    }
}

impl Reader {
    /// Reads `subject` from `from` on.
    pub(super) async fn open(
        stream: &Stream,
        subject: String,
        from: Sequence,
    ) -> Result<Self, StoreError> {
        let config = Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from.get().max(1) },
            ack_policy: AckPolicy::None,
            replay_policy: ReplayPolicy::Instant,
            filter_subject: subject.clone(),
            inactive_threshold: INACTIVE,
            num_replicas: 1,
            memory_storage: true,
            ..Config::default()
        };
        let consumer = stream.create_consumer(config).await.map_err(|error| failed(&error))?;
        let info = consumer.cached_info();
        let pending = info.num_pending;
        debug!(
            subject = info.config.filter_subject,
            from = from.get(),
            pending,
            delivered = info.delivered.stream_sequence,
            server = info.cluster.as_ref().and_then(|cluster| cluster.leader.as_deref()),
            "a reader is open"
        );
        Ok(Self {
            stream: stream.clone(),
            subject,
            consumer,
            batch: None,
            came: 0,
            buffer: VecDeque::new(),
            buffered: 0,
            position: from,
            unconfirmed: from,
            delivered: 0,
            pending,
        })
    }

    /// Where it reads on.
    pub(super) const fn position(&self) -> Sequence {
        self.position
    }

    /// Whether so much is at hand, or no more can be.
    pub(super) fn has(&self, at_least: ReadLimit) -> bool {
        let is_full = self.buffer.len() >= BUFFER.events || self.buffered >= BUFFER.bytes;
        is_full || self.buffer.len() >= at_least.events || self.buffered >= at_least.bytes
    }

    /// Whether the server is known to have more than is at hand.
    pub(super) const fn expects_more(&self) -> bool {
        self.pending > 0
    }

    /// Waits for the next message, or for nothing coming for a while.
    ///
    /// # Errors
    /// When the reader is of no use any more.
    ///
    /// # Cancel safety
    /// Safe: what comes later is there for the next call.
    pub(super) async fn wait(&mut self) -> Result<(), StoreError> {
        self.ask().await?;
        let Some(batch) = &mut self.batch else { return Ok(()) };
        match batch.next().await {
            Some(Ok(message)) => self.take(&message),
            Some(Err(error)) => Err(failed(&error)),
            None => {
                self.batch = None;
                if self.came > 0 { Ok(()) } else { self.check().await }
            }
        }
    }

    /// Whether the server, when nothing came for a while, has nothing for this reader either.
    async fn check(&mut self) -> Result<(), StoreError> {
        let info = self.consumer.get_info().await.map_err(|error| failed(&error))?;
        if info.delivered.consumer_sequence != self.delivered {
            return Err(failed(&"messages were lost on their way"));
        }
        self.pending = info.num_pending;
        Ok(())
    }

    /// Has the server send what it has, and what comes.
    async fn ask(&mut self) -> Result<(), StoreError> {
        if self.batch.is_none() {
            let asking = self.consumer.batch().max_messages(AT_ONCE).expires(EXPIRES);
            self.batch = Some(asking.messages().await.map_err(|error| failed(&error))?);
            self.came = 0;
        }
        Ok(())
    }

    /// Takes in what has come already. More is asked for: what the server had when it said so last
    /// may be little of what it has now.
    pub(super) async fn take_ready(&mut self) -> Result<(), StoreError> {
        while !self.has(BUFFER) {
            self.ask().await?;
            match self.wait().now_or_never() {
                Some(taken) => taken?,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    fn take(&mut self, message: &async_nats::jetstream::Message) -> Result<(), StoreError> {
        let info = message.info().map_err(|error| failed(&error))?;
        if info.consumer_sequence != self.delivered + 1 {
            return Err(failed(&"messages were lost on their way"));
        }
        self.delivered = info.consumer_sequence;
        self.came += 1;
        self.pending = info.pending;
        trace!(
            sequence = info.stream_sequence,
            pending = info.pending,
            consumer = info.consumer,
            "came"
        );
        let sequence = Sequence::new(info.stream_sequence);
        // A server that is behind begins where its own log ends.
        if sequence < self.position {
            return Err(failed(&"the server that was asked is behind"));
        }
        match message::decode(sequence, &message.payload) {
            Ok(event) => {
                self.buffered += event.json.len();
                self.buffer.push_back(event);
                Ok(())
            }
            Err(error @ MessageError::Newer(_)) => Err(failed(&error)),
            Err(error @ MessageError::Foreign) => {
                error!(sequence = sequence.get(), %error, "a message in the stream is left out");
                Ok(())
            }
        }
    }

    /// Has the stream's leader say of each event at hand that it is the lane's next one after the
    /// one before it, in `most` questions. Whatever the server with the consumer lacks is found so.
    ///
    /// # Errors
    /// When the leader says otherwise, or knows less: the reader is of no use any more.
    ///
    /// # Cancel safety
    /// Safe: what was confirmed stays so.
    pub(super) async fn confirm(&mut self, most: usize) -> Result<(), StoreError> {
        let mut before = self.unconfirmed;
        let mut steps = Vec::new();
        let at_hand = self.buffer.iter().map(|event| event.sequence);
        for sequence in at_hand.filter(|sequence| *sequence >= self.unconfirmed) {
            // Nothing is between two that follow on each other.
            if sequence != before {
                if steps.len() >= most {
                    break;
                }
                steps.push((before, sequence));
            }
            before = sequence.next();
        }
        let (stream, subject) = (&self.stream, self.subject.as_str());
        let mut asking = futures_util::stream::iter(steps)
            .map(|(from, sequence)| async move {
                (from, sequence, next_event(stream, subject, from).await)
            })
            .buffered(super::CONCURRENT);
        while let Some((from, sequence, next)) = asking.next().await {
            let next = next?;
            if next != sequence {
                warn!(
                    subject,
                    from = from.get(),
                    read = sequence.get(),
                    leader = next.get(),
                    "a NATS server left out events that the stream's leader has: reading again"
                );
                return Err(failed(&"a server left out events that the stream's leader has"));
            }
            self.unconfirmed = sequence.next();
        }
        drop(asking);
        self.unconfirmed = before;
        Ok(())
    }

    /// Hands out what is at hand and confirmed, of these partitions.
    pub(super) fn hand_out(&mut self, partitions: &Partitions, limit: ReadLimit) -> Chunk {
        let mut events = Vec::new();
        let mut bytes = 0;
        while let Some(event) = self.buffer.front().filter(|e| e.sequence < self.unconfirmed) {
            let is_asked = partitions.contains(event.user.partition());
            let is_full = events.len() >= limit.events || bytes >= limit.bytes;
            if is_asked && is_full && !events.is_empty() {
                break;
            }
            let Some(event) = self.buffer.pop_front() else { break };
            self.buffered = self.buffered.saturating_sub(event.json.len());
            self.position = event.sequence.next();
            if is_asked {
                bytes += event.json.len();
                events.push(event);
            }
        }
        Chunk { events, position: self.position }
    }
}

/// A lane's readers: where it reads on, and where it reads again what it passed over. They stay when
/// the future that reads is dropped, with all that came.
#[derive(Debug, Default)]
pub(super) struct Readers(Vec<Reader>);

impl Readers {
    /// The reader that is at `from`, opened if there is none; the one that was not used for longest
    /// is closed for it.
    pub(super) async fn at(
        &mut self,
        stream: &Stream,
        subject: String,
        from: Sequence,
    ) -> Result<&mut Reader, StoreError> {
        if let Some(at) = self.0.iter().position(|reader| reader.position() == from) {
            self.0[at..].rotate_left(1);
        } else {
            let opening = tokio::time::timeout(READ, Reader::open(stream, subject, from)).await;
            let reader = opening.map_err(|_| failed(&"no answer in time"))??;
            if self.0.len() >= READERS {
                self.0.remove(0);
            }
            self.0.push(reader);
        }
        self.0.last_mut().ok_or_else(|| failed(&"no reader"))
    }

    /// Closes the one that was used last: it is of no use any more.
    pub(super) fn close_last(&mut self) {
        self.0.pop();
    }
}

/// The first event of a lane at or after `from`, by the stream's leader.
async fn next_event(
    stream: &Stream,
    subject: &str,
    from: Sequence,
) -> Result<Sequence, StoreError> {
    let mut from = from.get();
    loop {
        let next = stream.get_first_raw_message_by_subject(subject, from).await;
        let next = next.map_err(|error| failed(&error))?;
        let sequence = Sequence::new(next.sequence);
        // What is no event was left out of the reader too.
        match message::decode(sequence, &next.payload) {
            Err(MessageError::Foreign) => from = next.sequence.saturating_add(1),
            Ok(_) | Err(MessageError::Newer(_)) => return Ok(sequence),
        }
    }
}

pub(super) fn failed(error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Io(format!("NATS: {error}"))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;
    use crate::clock::Timestamp;
    use crate::event::EventKind;
    use crate::queue::UserHash;

    const ALL: ReadLimit = ReadLimit { events: 10, bytes: usize::MAX };

    #[tokio::test]
    async fn nothing_is_handed_out_before_the_leader_confirmed_that_none_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let port =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let server = tokio::process::Command::new("nats-server")
            .args(["--addr", "127.0.0.1", "--port", &port.to_string(), "--jetstream"])
            .arg("--store_dir")
            .arg(folder.path())
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let Ok(_server) = server else {
            eprintln!("SKIPPED: a reader of a lane on NATS, there is no nats-server");
            return;
        };
        let connecting = async_nats::ConnectOptions::new().retry_on_initial_connect();
        let client = connecting.connect(format!("127.0.0.1:{port}")).await.unwrap();
        let context = async_nats::jetstream::new(client);
        let config = async_nats::jetstream::stream::Config {
            name: "T".to_owned(),
            subjects: vec!["T.events.*".to_owned()],
            ..Default::default()
        };
        let mut created = context.create_stream(config.clone()).await;
        while created.is_err() {
            tokio::task::yield_now().await;
            created = context.create_stream(config.clone()).await;
        }
        let stream = created.unwrap();
        let user = UserHash::of("1");
        for lane in [0, 1, 0, 0] {
            let at = Timestamp::from_millis(1);
            let event = message::encode(user, EventKind::Classic, at, b"{}");
            context.publish(format!("T.events.{lane}"), event).await.unwrap().await.unwrap();
        }
        let partitions = Partitions::of_lane(user.partition().index() % 4, 4);
        let open = || Reader::open(&stream, "T.events.0".to_owned(), Sequence::FIRST);
        let mut whole = open().await.unwrap();
        while whole.buffer.len() < 3 {
            whole.wait().await.unwrap();
        }
        assert_eq!(
            whole.hand_out(&partitions, ALL),
            Chunk { events: vec![], position: Sequence::FIRST }
        );
        whole.confirm(10).await.unwrap();
        let chunk = whole.hand_out(&partitions, ALL);
        let numbers: Vec<_> = chunk.events.iter().map(|event| event.sequence.get()).collect();
        assert_eq!((numbers, chunk.position.get()), (vec![1, 3, 4], 5));

        // As a server delivers it whose log lacks one.
        let mut holed = open().await.unwrap();
        while holed.buffer.len() < 3 {
            holed.wait().await.unwrap();
        }
        holed.buffer.remove(1);
        let refused = holed.confirm(10).await.unwrap_err().to_string();
        assert!(refused.contains("left out events"), "{refused}");
        assert_eq!(holed.hand_out(&partitions, ALL).events, []);
    }
}
