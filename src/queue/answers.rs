//! How the writer tells a group's callers what became of their requests.
//!
//! To wake a task from outside its runtime costs a system call and a lock; from within, next to
//! nothing. So the writer wakes one caller, with the answers for all others, and that one passes
//! them on.

use tokio::sync::oneshot;

use super::{AppendError, Appended};

type Appending = Result<Appended, AppendError>;

/// Where one caller is answered.
pub(super) type Caller = oneshot::Sender<Answer>;

/// One caller's answer, and those that it is to pass on.
#[derive(Debug)]
pub(super) struct Answer {
    appending: Appending,
    others: Answers,
}

/// Answers on their way. They get there also where nobody passes them on: dropped, they are sent.
#[derive(Debug, Default)]
pub(super) struct Answers(Vec<(Caller, Appending)>);

impl Answers {
    pub(super) fn with_capacity(callers: usize) -> Self {
        Self(Vec::with_capacity(callers))
    }

    pub(super) fn push(&mut self, caller: Caller, appending: Appending) {
        self.0.push((caller, appending));
    }

    /// Sends all of them to the first caller that still listens.
    pub(super) fn send(mut self) {
        while let Some((caller, appending)) = self.0.pop() {
            let others = Self(std::mem::take(&mut self.0));
            match caller.send(Answer { appending, others }) {
                Ok(()) => return,
                Err(mut returned) => self.0 = std::mem::take(&mut returned.others.0),
            }
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        for (caller, appending) in self.0.drain(..) {
            // A caller that gave up has no use for it.
            drop(caller.send(Answer { appending, others: Self::default() }));
        }
    }
}

impl Answer {
    /// Passes on what it is to pass on, and is the caller's own.
    pub(super) fn take(self) -> Appending {
        drop(self.others);
        self.appending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(number: u64) -> Appending {
        Ok(Appended { accepted: number, ..Appended::default() })
    }

    #[test]
    fn all_are_answered_whoever_gave_up_and_whoever_passes_nothing_on() {
        // Each combination of callers that gave up before, and of one that does after.
        for gave_up in 0..8_u32 {
            for forgets in 0..3 {
                let mut answers = Answers::default();
                let mut callers = Vec::new();
                for number in 0..3 {
                    let (caller, waits) = oneshot::channel();
                    answers.push(caller, answer(number));
                    callers.push((gave_up & 1 << number == 0).then_some(waits));
                }
                answers.send();
                // Its answer is there, and never looked at.
                callers[forgets] = None;
                let mut left: Vec<_> = (0..).zip(callers).collect();
                // Whoever was woken passes on; the others have theirs only then.
                left.sort_by_key(|(_, waits)| waits.as_ref().is_none_or(|w| w.is_empty()));
                for (number, waits) in left {
                    let Some(mut waits) = waits else { continue };
                    assert_eq!(waits.try_recv().unwrap().take(), answer(number));
                }
            }
        }
    }
}
