//! The events settled last, so that one who asks for one is told what became of it. (Dead letters
//! are stored: they tell by themselves.)

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// How many are remembered: 16 bytes each.
const REMEMBERED: usize = 65_536;

/// How an event ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Delivered,
    Dropped,
}

/// An event that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub end: End,
    /// How often it was sent.
    pub attempts: u32,
    /// GMFY's last status for it, if it answered.
    pub status: Option<u16>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    sequence: u64,
    attempts: u16,
    status: u16,
    end: End,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Recent(Mutex<VecDeque<Entry>>);

impl Recent {
    /// Notes that these sequences, each with its attempts, are settled.
    pub fn note(&self, end: End, status: Option<u16>, events: impl Iterator<Item = (u64, u32)>) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (sequence, attempts) in events {
            if entries.len() == REMEMBERED {
                entries.pop_front();
            }
            let attempts = u16::try_from(attempts).unwrap_or(u16::MAX);
            let status = status.unwrap_or_default();
            entries.push_back(Entry { sequence, attempts, status, end });
        }
    }

    /// How an event ended, if that was lately.
    #[must_use]
    pub fn find(&self, sequence: u64) -> Option<Ended> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.iter().rev().find(|entry| entry.sequence == sequence)?;
        Some(Ended {
            end: entry.end,
            attempts: entry.attempts.into(),
            status: Some(entry.status).filter(|status| *status > 0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_remembered() {
        let recent = Recent::default();
        let all = REMEMBERED as u64 + 3;
        recent.note(End::Delivered, Some(201), (0..all).map(|n| (n, 2)));
        recent.note(End::Dropped, None, [(all, 70_000)].into_iter());
        assert_eq!(recent.find(3), None);
        let delivered = Ended { end: End::Delivered, attempts: 2, status: Some(201) };
        assert_eq!(recent.find(4), Some(delivered));
        let dropped = Ended { end: End::Dropped, attempts: 65_535, status: None };
        assert_eq!(recent.find(all), Some(dropped));
        assert_eq!(size_of::<Entry>(), 16);
    }
}
