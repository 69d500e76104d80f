//! Dead letters: a stream with a message each, by the event's sequence.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::{DeleteMessageErrorKind, LastRawMessageErrorKind};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tracing::error;

use super::flights::code;
use super::reader::failed;
use super::{CONCURRENT, FleetQueue};
use crate::queue::dead_letter::LetterHead;
use crate::queue::{
    DeadLetter, DeadLetterPage, RequeueError, Requeued, Sequence, StoreError, Submission,
};

/// Dead letters read, or requeued, at once.
const AT_ONCE: usize = 256;
/// The most bytes of events in a page.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// A message holds the letter's head, a line feed, and the event's wire form.
fn encode(letter: &DeadLetter) -> Bytes {
    // Fails only on maps with keys that aren't texts, of which it has none.
    let mut bytes = serde_json::to_vec(&LetterHead::of(letter)).unwrap_or_default();
    bytes.push(b'\n');
    bytes.extend_from_slice(&letter.event);
    bytes.into()
}

fn decode(sequence: Sequence, payload: &Bytes) -> Option<DeadLetter> {
    let end = memchr::memchr(b'\n', payload)?;
    let head: LetterHead = serde_json::from_slice(payload.get(..end)?).ok()?;
    head.letter(sequence, payload.slice(end + 1..))
}

/// A dead letter, and its place in its stream.
struct Found {
    letter: DeadLetter,
    message: u64,
}

impl FleetQueue {
    pub(super) async fn store_letters(&self, letters: Vec<DeadLetter>) -> Result<(), StoreError> {
        for letter in letters {
            let subject = self.letter_subject(letter.sequence);
            let message = PublishMessage::build().payload(encode(&letter));
            let context = &self.shared.streams.context;
            let sent = context.send_publish(subject, message).await;
            let stored = match sent {
                Ok(ack) => ack.await,
                Err(error) => Err(error),
            };
            stored.map_err(|error| match code(&error) {
                Some(ErrorCode::STREAM_STORE_FAILED) => StoreError::DeadLettersFull,
                _ => failed(&error),
            })?;
        }
        Ok(())
    }

    fn letter_subject(&self, sequence: Sequence) -> String {
        format!("{}.dead.{sequence}", self.shared.prefix)
    }

    /// Up to `limit` dead letters behind `after`, fewer when they are large.
    ///
    /// # Errors
    /// When NATS does not answer.
    pub async fn dead_letters(
        &self,
        after: Option<Sequence>,
        limit: usize,
    ) -> Result<DeadLetterPage, StoreError> {
        let from = after.map_or(Sequence::FIRST, Sequence::next);
        let all = self.letter_sequences().await?;
        let mut asked: Vec<_> = all.into_iter().filter(|sequence| *sequence >= from).collect();
        let mut has_more = asked.len() > limit;
        asked.truncate(limit);
        let mut letters = Vec::new();
        let mut bytes = 0;
        for part in asked.chunks(CONCURRENT) {
            for found in self.find_letters(part).await? {
                bytes += found.letter.event.len();
                letters.push(found.letter);
            }
            if bytes >= PAGE_BYTES {
                has_more = true;
                break;
            }
        }
        let next = letters.last().filter(|_| has_more).map(|letter| letter.sequence);
        Ok(DeadLetterPage { letters, next })
    }

    /// One dead letter; none where there is none of this sequence.
    ///
    /// # Errors
    /// When NATS does not answer.
    pub async fn dead_letter(&self, sequence: Sequence) -> Result<Option<DeadLetter>, StoreError> {
        Ok(self.find_letter(sequence).await?.map(|found| found.letter))
    }

    /// Puts one dead letter back into the queue; none where there is none of this sequence.
    ///
    /// # Errors
    /// When it can't be read, or the queue doesn't take it; then it is still a dead letter.
    ///
    /// # Cancel safety
    /// Dropped, it may be requeued or not. It may then be a dead letter as well, until it is
    /// requeued again: within the window of duplicates that enqueues nothing more.
    pub async fn requeue(&self, sequence: Sequence) -> Result<Option<Requeued>, RequeueError> {
        let Some(found) = self.find_letter(sequence).await? else { return Ok(None) };
        let requeued = self.append_letters(vec![found]).await?;
        Ok(requeued.into_iter().next())
    }

    /// Puts all dead letters that there are back into the queue, in order, some at a time; adds
    /// them to `requeued`, as far as it comes.
    ///
    /// # Errors
    /// When they can't be read, or the queue doesn't take them; then the rest is still as it was.
    ///
    /// # Cancel safety
    /// As [`FleetQueue::requeue`].
    pub async fn requeue_all(&self, requeued: &mut Vec<Requeued>) -> Result<(), RequeueError> {
        let all = self.letter_sequences().await?;
        for part in all.chunks(AT_ONCE) {
            let found = self.find_letters(part).await?;
            requeued.extend(self.append_letters(found).await?);
        }
        Ok(())
    }

    /// Throws one dead letter away; false where there is none of this sequence.
    ///
    /// # Errors
    /// When NATS does not answer.
    pub async fn discard(&self, sequence: Sequence) -> Result<bool, StoreError> {
        let Some(found) = self.find_letter(sequence).await? else { return Ok(false) };
        self.delete_letter(found.message).await?;
        Ok(true)
    }

    /// Throws all dead letters away that there are; returns how many those were.
    ///
    /// # Errors
    /// When NATS does not answer; some may be gone then.
    pub async fn discard_all(&self) -> Result<u64, StoreError> {
        let all = self.letter_sequences().await?;
        let mut count = 0;
        for part in all.chunks(AT_ONCE) {
            for found in self.find_letters(part).await? {
                self.delete_letter(found.message).await?;
                count += 1;
            }
        }
        Ok(count)
    }

    async fn append_letters(&self, found: Vec<Found>) -> Result<Vec<Requeued>, RequeueError> {
        let bytes = found.iter().map(|found| found.letter.event.len()).sum();
        let mut submission = Submission::with_capacity(found.len(), bytes);
        for Found { letter, .. } in &found {
            submission.push_requeued(letter.sequence, letter.user, letter.kind, &letter.event);
        }
        let published = self.publish(submission, false).await?;
        let mut requeued = Vec::with_capacity(found.len());
        for (Found { letter, message }, to) in found.into_iter().zip(published.sequences) {
            let from = letter.sequence;
            if let Err(error) = self.delete_letter(message).await {
                error!(
                    sequence = from.get(),
                    %error,
                    "a dead letter that is in the queue again can't be deleted"
                );
            }
            requeued.extend(to.map(|to| Requeued { from, to }));
        }
        Ok(requeued)
    }

    /// Where it is gone already, another replica did it.
    async fn delete_letter(&self, message: u64) -> Result<(), StoreError> {
        match self.shared.streams.dead.delete_message(message).await {
            Ok(_) => {
                let ledger = &self.shared.metrics.ledger;
                ledger.update(|c| c.dead_letters = c.dead_letters.saturating_sub(1));
                Ok(())
            }
            Err(error) => match error.kind() {
                DeleteMessageErrorKind::JetStream(cause) if is_gone(&cause) => Ok(()),
                DeleteMessageErrorKind::JetStream(_)
                | DeleteMessageErrorKind::Request
                | DeleteMessageErrorKind::TimedOut => Err(failed(&error)),
            },
        }
    }

    /// All dead letters' sequences, ascending.
    async fn letter_sequences(&self) -> Result<Vec<Sequence>, StoreError> {
        let all = format!("{}.dead.*", self.shared.prefix);
        let subjects = self.shared.streams.dead.info_with_subjects(all).await;
        let subjects = subjects.map_err(|error| failed(&error))?;
        let subjects: Vec<_> = subjects.try_collect().await.map_err(|error| failed(&error))?;
        let number = |(subject, _): (String, usize)| {
            let (_, number) = subject.rsplit_once('.')?;
            number.parse().ok().map(Sequence::new)
        };
        let mut sequences: Vec<_> = subjects.into_iter().filter_map(number).collect();
        sequences.sort_unstable();
        Ok(sequences)
    }

    /// These, ascending; those that are gone are left out.
    async fn find_letters(&self, sequences: &[Sequence]) -> Result<Vec<Found>, StoreError> {
        let mut finding = futures_util::stream::iter(sequences.iter().copied())
            .map(|sequence| async move { self.find_letter(sequence).await })
            .buffered(CONCURRENT);
        let mut all = BTreeMap::new();
        while let Some(found) = finding.next().await {
            if let Some(found) = found? {
                all.insert(found.letter.sequence, found);
            }
        }
        Ok(all.into_values().collect())
    }

    async fn find_letter(&self, sequence: Sequence) -> Result<Option<Found>, StoreError> {
        let subject = self.letter_subject(sequence);
        let found = last(&self.shared.streams.dead, &subject).await?;
        Ok(found.and_then(|found| {
            let letter = decode(sequence, &found.payload);
            if letter.is_none() {
                error!(sequence = sequence.get(), "a dead letter can't be read");
            }
            Some(Found { letter: letter?, message: found.sequence })
        }))
    }
}

/// Whether a message could not be deleted because it is not there.
fn is_gone(error: &async_nats::jetstream::Error) -> bool {
    let missing = [ErrorCode::NO_MESSAGE_FOUND, ErrorCode::STREAM_MESSAGE_DELETE_FAILED];
    missing.contains(&error.error_code()) || error.error_code() == ErrorCode::SEQUENCE_NOT_FOUND
}

/// The newest message of a subject, as the stream's leader has it.
pub(super) async fn last(
    stream: &async_nats::jetstream::stream::Stream,
    subject: &str,
) -> Result<Option<StreamMessage>, StoreError> {
    const WAIT: Duration = super::connect::TIMEOUT;
    let asking = stream.get_last_raw_message_by_subject(subject);
    let answer = tokio::time::timeout(WAIT, asking).await;
    match answer.map_err(|_| failed(&"no answer in time"))? {
        Ok(message) => Ok(Some(message)),
        Err(error) => match error.kind() {
            LastRawMessageErrorKind::NoMessageFound => Ok(None),
            LastRawMessageErrorKind::JetStream(cause)
                if cause.error_code() == ErrorCode::NO_MESSAGE_FOUND =>
            {
                Ok(None)
            }
            LastRawMessageErrorKind::JetStream(_)
            | LastRawMessageErrorKind::InvalidSubject
            | LastRawMessageErrorKind::Other => Err(failed(&error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::event::EventKind;
    use crate::queue::UserHash;
    use crate::telemetry::ledger::DeadLetterReason;

    #[test]
    fn a_letter_comes_back_as_it_was_stored() {
        let letter = DeadLetter {
            sequence: Sequence::new(7),
            reason: DeadLetterReason::TooLarge,
            status: Some(413),
            answer: "too\nlarge".to_owned(),
            attempts: 3,
            accepted_at: Timestamp::from_millis(1),
            buried_at: Timestamp::from_millis(2),
            user: UserHash::from_bits(0x0102_0304),
            kind: EventKind::Action,
            event: Bytes::from_static(b"{\"a\":\n1}"),
        };
        let bytes = encode(&letter);
        let former = r#"{"reason":"too_large","status":413,"answer":"too\nlarge","attempts":3,"accepted_at":1,"buried_at":2,"user":16909060,"kind":1}"#;
        assert_eq!(bytes, format!("{former}\n{{\"a\":\n1}}"), "as former versions wrote it");
        assert_eq!(decode(Sequence::new(7), &bytes), Some(letter));
        assert_eq!(decode(Sequence::new(7), &Bytes::from_static(b"{}\n{}")), None);
    }
}
