//! What operators do with dead letters: look at them, put them back into the queue, throw them
//! away.
//!
//! A requeue is safe against a crash at any point: the event goes into the log with its dead
//! letter's sequence as *origin*; the writer has the dead letter deleted once the commit is
//! durable; and a start deletes the dead letters whose origins it finds in the log. One operator
//! works at a time, so that no letter is requeued twice or both requeued and discarded; the turn
//! of a requeue ends with its commit, although its caller may be gone by then.

use tokio::sync::oneshot;
use tracing::error;

use super::dead_letters::DeadLetters;
use super::engine::EngineError;
use super::keeper::{Keeper, Task};
use super::{AppendError, DeadLetter, Queue, Sequence, StoreError, Submission};

/// Dead letters read, and so requeued or discarded, at once: in number, and in bytes of events.
const AT_ONCE: usize = 256;
const BYTES_AT_ONCE: usize = 256 * 1024;
/// The most bytes of events in a page.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// A part of the dead letters, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterPage {
    pub letters: Vec<DeadLetter>,
    /// Behind which the next page begins; none on the last one.
    pub next: Option<Sequence>,
}

/// A dead letter that is in the queue again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requeued {
    /// As a dead letter.
    pub from: Sequence,
    /// As an event in the queue.
    pub to: Sequence,
}

/// Why dead letters were not put back into the queue. What was before stays so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequeueError {
    /// They could not be read. Permanence is that of the cause.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The queue did not take them. Permanence is that of the cause.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// What the keeper is asked to do with dead letters.
#[derive(Debug)]
pub(super) enum LettersTask {
    List {
        from: Sequence,
        limit: usize,
        bytes: usize,
        done: oneshot::Sender<Result<Vec<DeadLetter>, StoreError>>,
    },
    /// They are in the queue again, durably.
    Requeued(Vec<Sequence>),
    Discard {
        letters: Vec<Sequence>,
        done: oneshot::Sender<Result<(), StoreError>>,
    },
}

impl Queue {
    /// Up to `limit` dead letters behind `after`, fewer when they are large.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn dead_letters(
        &self,
        after: Option<Sequence>,
        limit: usize,
    ) -> Result<DeadLetterPage, StoreError> {
        let from = after.map_or(Sequence::FIRST, Sequence::next);
        // One more than asked for tells whether there are more.
        let mut letters = self.list_letters(from, limit.saturating_add(1), PAGE_BYTES).await?;
        let bytes: usize = letters.iter().map(|letter| letter.event.len()).sum();
        let has_more = letters.len() > limit || bytes >= PAGE_BYTES;
        letters.truncate(limit);
        let next = letters.last().filter(|_| has_more).map(|letter| letter.sequence);
        Ok(DeadLetterPage { letters, next })
    }

    /// One dead letter; none where there is none of this sequence.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn dead_letter(&self, sequence: Sequence) -> Result<Option<DeadLetter>, StoreError> {
        let letters = self.list_letters(sequence, 1, BYTES_AT_ONCE).await?;
        Ok(letters.into_iter().find(|letter| letter.sequence == sequence))
    }

    /// Puts one dead letter back into the queue; none where there is none of this sequence.
    ///
    /// # Errors
    /// When it can't be read, or the queue doesn't take it; then it is still a dead letter.
    ///
    /// # Cancel safety
    /// Dropped, it may be requeued or not; never both a dead letter and in the queue.
    pub async fn requeue(&self, sequence: Sequence) -> Result<Option<Requeued>, RequeueError> {
        let turn = self.letters_turn().await;
        let Some(letter) = self.dead_letter(sequence).await? else { return Ok(None) };
        let requeued = self.append_letters(&[letter], turn).await?;
        Ok(requeued.into_iter().next())
    }

    /// Puts all dead letters back into the queue, in order, some at a time; adds them to
    /// `requeued`, as far as it comes. Those that are born meanwhile of what is in the queue again
    /// are not chased.
    ///
    /// # Errors
    /// When they can't be read, or the queue doesn't take them; then the rest is still as it was.
    ///
    /// # Cancel safety
    /// As [`Queue::requeue`]: some may be requeued, the others are not.
    pub async fn requeue_all(&self, requeued: &mut Vec<Requeued>) -> Result<(), RequeueError> {
        let end = self.end();
        let mut from = Sequence::FIRST;
        loop {
            let turn = self.letters_turn().await;
            let mut letters = self.list_letters(from, AT_ONCE, BYTES_AT_ONCE).await?;
            letters.retain(|letter| letter.sequence < end);
            let Some(last) = letters.last() else { return Ok(()) };
            from = last.sequence.next();
            requeued.extend(self.append_letters(&letters, turn).await?);
        }
    }

    /// Throws one dead letter away, durably; false where there is none of this sequence.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn discard(&self, sequence: Sequence) -> Result<bool, StoreError> {
        let _turn = self.letters_turn().await;
        if self.dead_letter(sequence).await?.is_none() {
            return Ok(false);
        }
        self.discard_letters(vec![sequence]).await?;
        Ok(true)
    }

    /// Throws all dead letters away that there are, durably; returns how many those were.
    ///
    /// # Errors
    /// When the disk fails; some may be gone then.
    pub async fn discard_all(&self) -> Result<u64, StoreError> {
        let end = self.end();
        let mut count = 0;
        loop {
            let _turn = self.letters_turn().await;
            let letters = self.list_letters(Sequence::FIRST, AT_ONCE, BYTES_AT_ONCE).await?;
            let sequences = letters.iter().map(|letter| letter.sequence);
            let sequences: Vec<_> = sequences.filter(|sequence| *sequence < end).collect();
            if sequences.is_empty() {
                return Ok(count);
            }
            count += sequences.len() as u64;
            self.discard_letters(sequences).await?;
        }
    }

    async fn append_letters(
        &self,
        letters: &[DeadLetter],
        turn: super::store::Turn,
    ) -> Result<Vec<Requeued>, AppendError> {
        let bytes = letters.iter().map(|letter| letter.event.len()).sum();
        let mut submission = Submission::with_capacity(letters.len(), bytes);
        for letter in letters {
            submission.push_requeued(letter.sequence, letter.user, letter.kind, &letter.event);
        }
        let appended = self.append_in_turn(submission, Some(turn)).await?;
        let first = appended.sequences.map_or(Sequence::FIRST, |(first, _)| first);
        let requeued = (0..)
            .zip(letters)
            .map(|(number, letter)| Requeued { from: letter.sequence, to: first.plus(number) });
        Ok(requeued.collect())
    }

    async fn list_letters(
        &self,
        from: Sequence,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        self.ask(|done| Task::Letters(LettersTask::List { from, limit, bytes, done })).await
    }

    async fn discard_letters(&self, letters: Vec<Sequence>) -> Result<(), StoreError> {
        self.ask(|done| Task::Letters(LettersTask::Discard { letters, done })).await
    }
}

impl Keeper {
    pub(super) fn work_on_letters(&mut self, task: LettersTask) {
        // What is in the queue again is no dead letter any more: nothing else comes before that.
        let owed = match self.forget_requeued() {
            Ok(()) => Ok(()),
            Err(error) => Err(StoreError::Io(error.to_string())),
        };
        match task {
            LettersTask::Requeued(letters) => {
                self.requeued.extend(letters);
                if let Err(error) = self.forget_requeued() {
                    error!(
                        error = %error,
                        "dead letters that are in the queue again can't be deleted; tried again \
                         when they are asked for, and at the next start"
                    );
                }
            }
            LettersTask::List { from, limit, bytes, done } => {
                let listed = owed.and_then(|()| {
                    let listed = self.with_letters(|letters| letters.list(from, limit, bytes));
                    listed.map_err(|error| StoreError::Io(error.to_string()))
                });
                drop(done.send(listed));
            }
            LettersTask::Discard { letters, done } => {
                let discarded = owed.and_then(|()| {
                    let discarded = self.with_letters(|store| store.remove_all(&letters));
                    discarded.map_err(|error| StoreError::Io(error.to_string()))
                });
                drop(done.send(discarded));
            }
        }
        let count = self.dead_letters.count();
        self.ledger.update(|counts| counts.dead_letters = count);
    }

    /// Once more with a new handle where the first try fails.
    fn with_letters<T>(
        &mut self,
        work: impl Fn(&mut DeadLetters) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        match work(&mut self.dead_letters) {
            Err(error) if self.reopen_dead_letters(&error) => work(&mut self.dead_letters),
            done => done,
        }
    }

    fn forget_requeued(&mut self) -> Result<(), EngineError> {
        if !self.requeued.is_empty() {
            let requeued = std::mem::take(&mut self.requeued);
            if let Err(error) = self.with_letters(|store| store.remove_all(&requeued)) {
                self.requeued = requeued;
                return Err(error);
            }
        }
        Ok(())
    }
}
