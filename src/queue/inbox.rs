//! The requests that wait for the writer, and how long it waits for more of them.
//!
//! A commit costs much the same however much it holds, so it is worth a short wait to share it
//! among many that are about to ask: with 64 callers that made a tenth to a fifth more requests
//! a second. The [`Pace`] tells who they are from the commit before: a few callers are never waited
//! for, who would gain nothing and be answered later, and no wait is longer than a commit.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::writer::Request;

/// What one commit takes at most, but for a request that is larger by itself.
const GROUP_EVENTS: usize = 2048;
const GROUP_BYTES: usize = 1024 * 1024;

/// See the module. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Inbox {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Notified when as many wait as the writer wants, and when it is closed.
    enough: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    requests: VecDeque<Request>,
    events: usize,
    bytes: usize,
    /// How many requests the writer sleeps for; none while it is awake.
    wanted: Option<usize>,
    is_closed: bool,
}

/// The writer's end. Dropped, by a panic too, it closes the inbox and drops what waits in it.
#[derive(Debug)]
pub(super) struct Outlet {
    inbox: Inbox,
    pace: Pace,
}

/// What a wait for requests ended with.
#[derive(Debug)]
pub(super) enum Taken {
    /// At least one, in the order in which they came.
    Group { requests: Vec<Request>, events: usize, bytes: usize },
    /// None, for as long as was asked.
    Nothing,
    /// None, and none will come.
    Closed,
}

impl Inbox {
    pub(super) fn outlet(&self) -> Outlet {
        Outlet { inbox: self.clone(), pace: Pace::default() }
    }

    /// Hands a request to the writer; gives it back once the inbox is closed.
    #[allow(clippy::result_large_err, reason = "it comes back only when the process ends")]
    pub(super) fn push(&self, request: Request) -> Result<(), Request> {
        let mut waiting = self.lock();
        if waiting.is_closed {
            return Err(request);
        }
        waiting.events += request.submission.len();
        waiting.bytes += request.submission.bytes();
        waiting.requests.push_back(request);
        let wakes = waiting.wanted.is_some_and(|wanted| waiting.has(wanted));
        if wakes {
            waiting.wanted = None;
        }
        drop(waiting);
        if wakes {
            self.shared.enough.notify_one();
        }
        Ok(())
    }

    /// Takes no more; the writer still gets what waits.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.shared.enough.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Whether that many requests wait, or what fills a commit.
    fn has(&self, requests: usize) -> bool {
        self.requests.len() >= requests || self.events >= GROUP_EVENTS || self.bytes >= GROUP_BYTES
    }

    fn take_group(&mut self) -> Taken {
        let (mut events, mut bytes) = (0, 0);
        let mut count = 0;
        for request in &self.requests {
            if events >= GROUP_EVENTS || bytes >= GROUP_BYTES {
                break;
            }
            events += request.submission.len();
            bytes += request.submission.bytes();
            count += 1;
        }
        self.events -= events;
        self.bytes -= bytes;
        Taken::Group { requests: self.requests.drain(..count).collect(), events, bytes }
    }
}

impl Outlet {
    /// Waits for requests, at most so long for the first.
    pub(super) fn take(&self, patience: Duration) -> Taken {
        let mut waiting = self.inbox.lock();
        if waiting.requests.is_empty() {
            waiting = self.sleep(waiting, 1, patience);
        }
        if waiting.requests.is_empty() {
            return if waiting.is_closed { Taken::Closed } else { Taken::Nothing };
        }
        waiting = self.sleep(waiting, self.pace.wanted(), self.pace.patience());
        waiting.take_group()
    }

    /// Notes what a commit of so many requests took.
    pub(super) fn committed(&mut self, requests: usize, took: Duration) {
        let waiting = self.inbox.lock().requests.len();
        self.pace.committed(requests, waiting, took);
    }

    /// Sleeps until that many requests wait; not for longer than `patience`.
    fn sleep<'a>(
        &'a self,
        mut waiting: MutexGuard<'a, Waiting>,
        wanted: usize,
        patience: Duration,
    ) -> MutexGuard<'a, Waiting> {
        let begun = Instant::now();
        while !waiting.has(wanted) && !waiting.is_closed {
            let left = patience.saturating_sub(begun.elapsed());
            if left.is_zero() {
                break;
            }
            waiting.wanted = Some(wanted);
            let slept = self.inbox.shared.enough.wait_timeout(waiting, left);
            waiting = slept.unwrap_or_else(PoisonError::into_inner).0;
        }
        waiting.wanted = None;
        waiting
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        let left = {
            let mut waiting = self.inbox.lock();
            waiting.is_closed = true;
            std::mem::take(&mut waiting.requests)
        };
        // Their callers learn of it; outside the lock.
        drop(left);
    }
}

/// How many callers there are at once, and how long they are worth waiting for.
#[derive(Debug, Default)]
struct Pace {
    /// Those of the last commit, and those that asked while it was under way.
    callers: usize,
    /// What a commit takes, a moving average.
    commit: Duration,
}

impl Pace {
    /// The longest wait, however slow the disk.
    const LONGEST: Duration = Duration::from_millis(2);
    /// From so many callers on they are waited for.
    const MANY: usize = 16;

    fn committed(&mut self, requests: usize, waiting: usize, took: Duration) {
        self.callers = requests + waiting;
        self.commit = (self.commit * 7 + took) / 8;
    }

    /// How many requests a commit is put off for.
    fn wanted(&self) -> usize {
        if self.callers < Self::MANY { 1 } else { self.callers }
    }

    /// How long a commit may be put off: about as long as it takes, so that nobody waits for
    /// twice as long as without it.
    fn patience(&self) -> Duration {
        self.commit.min(Self::LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::super::answers::Caller;
    use super::super::{Submission, UserHash};
    use super::*;
    use crate::event::EventKind;
    use tokio::sync::{Semaphore, oneshot};

    const NOW: Duration = Duration::ZERO;

    /// A request of so many events, of so many bytes each; and whoever waits for its answer.
    fn request(events: usize, bytes: usize) -> (Request, impl Future + Unpin) {
        let (done, answer): (Caller, _) = oneshot::channel();
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let mut submission = Submission::default();
        for _ in 0..events {
            let origin = crate::queue::Sequence::FIRST;
            submission.push_requeued(
                origin,
                UserHash::from_bits(1),
                EventKind::Classic,
                &vec![b'x'; bytes],
            );
        }
        (Request { submission, done, permit, turn: None }, answer)
    }

    fn push(inbox: &Inbox, events: usize, bytes: usize) {
        assert!(inbox.push(request(events, bytes).0).is_ok());
    }

    /// How many requests a group has; none where there is no group.
    fn size(taken: &Taken) -> Option<usize> {
        match taken {
            Taken::Group { requests, .. } => Some(requests.len()),
            Taken::Nothing | Taken::Closed => None,
        }
    }

    #[test]
    fn a_group_ends_where_a_commit_is_full_and_loses_nothing() {
        let inbox = Inbox::default();
        let outlet = inbox.outlet();
        for events in [1, GROUP_EVENTS - 2, 1, 1, GROUP_EVENTS + 1, 1] {
            push(&inbox, events, 1);
        }
        push(&inbox, 1, GROUP_BYTES);
        push(&inbox, 1, 1);
        let sizes: Vec<_> = std::iter::from_fn(|| size(&outlet.take(NOW))).collect();
        // A group takes requests while it has room, and the last one whole.
        assert_eq!(sizes, [3, 2, 2, 1]);
        assert!(matches!(outlet.take(NOW), Taken::Nothing));
    }

    #[test]
    fn a_closed_inbox_takes_nothing_and_gives_what_it_has() {
        let inbox = Inbox::default();
        let outlet = inbox.outlet();
        push(&inbox, 1, 1);
        inbox.close();
        assert!(inbox.push(request(1, 1).0).is_err());
        assert_eq!(size(&outlet.take(Duration::MAX)), Some(1));
        assert!(matches!(outlet.take(Duration::MAX), Taken::Closed));
    }

    #[tokio::test]
    async fn callers_learn_that_the_writer_is_gone() {
        let inbox = Inbox::default();
        let outlet = inbox.outlet();
        let (waiting, answer) = request(1, 1);
        assert!(inbox.push(waiting).is_ok());
        drop(outlet);
        answer.await;
        assert!(inbox.push(request(1, 1).0).is_err());
    }

    #[test]
    fn as_many_as_before_are_waited_for_and_few_never() {
        let inbox = Inbox::default();
        let mut outlet = inbox.outlet();
        for callers in 1..Pace::MANY {
            // However long a commit took: one who asks is enough, so that nothing is slept for.
            outlet.committed(callers, Duration::from_secs(3600));
            push(&inbox, 1, 1);
            assert!(inbox.lock().has(outlet.pace.wanted()), "{callers}");
            assert_eq!(size(&outlet.take(Duration::MAX)), Some(1));
        }

        push(&inbox, 1, 1);
        outlet.committed(Pace::MANY - 1, Duration::from_secs(3600));
        assert_eq!(outlet.pace.wanted(), Pace::MANY, "one asked meanwhile");
        // Patient enough, it gets the last one too, however late.
        let others = inbox.clone();
        let late = std::thread::spawn(move || {
            for _ in 1..Pace::MANY {
                push(&others, 1, 1);
            }
        });
        let slept = outlet.sleep(inbox.lock(), outlet.pace.wanted(), Duration::MAX);
        assert_eq!(slept.requests.len(), Pace::MANY);
        drop(slept);
        late.join().unwrap();
        assert_eq!(size(&outlet.take(NOW)), Some(Pace::MANY));
    }

    #[test]
    fn no_wait_is_longer_than_a_commit_or_the_longest() {
        let mut pace = Pace::default();
        assert_eq!(pace.patience(), NOW);
        for _ in 0..100 {
            pace.committed(1, 0, Duration::from_micros(400));
            assert!(pace.patience() <= Duration::from_micros(400));
        }
        assert!(pace.patience() > Duration::from_micros(300));
        pace.committed(1, 0, Duration::from_secs(9));
        assert_eq!(pace.patience(), Pace::LONGEST);
    }
}
