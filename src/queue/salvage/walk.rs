//! Which frames of a generation count.

use super::{Contents, Found};
use crate::queue::frame::{Content, Frame};
use crate::queue::group::Assembler;
use crate::queue::{QueuedEvent, Sequence};

/// Walks frames in order of their keys.
pub(super) struct Walk {
    taken: Contents,
    /// As of the last whole request's end.
    whole: Mark,
    expected: u64,
    /// Whether a request was begun, and nothing of it is missing so far.
    unbroken: bool,
    /// Parts of a large event that is not complete yet.
    parts: Vec<Found>,
    assembler: Assembler,
    events: Vec<QueuedEvent>,
}

#[derive(Clone, Copy, Default)]
struct Mark {
    frames: usize,
    lost: usize,
    events: u64,
    end: u64,
}

impl Walk {
    pub(super) fn new(first: Sequence) -> Self {
        Self {
            taken: Contents::default(),
            whole: Mark { end: first.get(), ..Mark::default() },
            expected: first.get(),
            unbroken: false,
            parts: Vec::new(),
            assembler: Assembler::default(),
            events: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, frame: &Frame<'_>, found: &Found) {
        let header = &frame.header;
        let first = header.first.get();
        if first < self.expected {
            return;
        }
        if first > self.expected && !matches!(header.content, Content::Part(part) if part > 0) {
            self.miss(first);
        }
        if header.begins_request {
            self.unbroken = true;
        }
        self.events.clear();
        let fits = self.assembler.push(frame, &mut self.events);
        if let Content::Part(part) = header.content {
            if part == 0 {
                self.parts.clear();
            }
            self.parts.push(*found);
            if self.events.is_empty() {
                // Not complete yet, or never: then the next frame finds a gap.
                self.unbroken &= fits;
                return;
            }
            self.taken.frames.append(&mut self.parts);
        } else {
            self.taken.frames.push(*found);
        }
        if first > self.expected {
            self.miss(first);
        }
        self.expected = header.end().get();
        self.taken.events += self.events.len() as u64;
        if header.ends_request && self.unbroken {
            self.whole = self.mark();
            self.unbroken = false;
        }
    }

    /// Everything from the expected sequence to before this one is missing.
    fn miss(&mut self, before: u64) {
        if self.expected < before {
            self.taken.lost.push((self.expected, before - 1));
            self.expected = before;
            self.unbroken = false;
        }
    }

    fn mark(&self) -> Mark {
        Mark {
            frames: self.taken.frames.len(),
            lost: self.taken.lost.len(),
            events: self.taken.events,
            end: self.expected,
        }
    }

    pub(super) fn finish(mut self, end: Option<Sequence>) -> Contents {
        if let Some(end) = end {
            self.miss(end.get());
        } else {
            self.taken.frames.truncate(self.whole.frames);
            self.taken.lost.truncate(self.whole.lost);
            self.taken.events = self.whole.events;
            self.expected = self.whole.end;
        }
        self.taken.end = Sequence::new(self.expected);
        self.taken
    }
}
