//! How many events the stream holds, between two looks at it.

use crate::queue::Sequence;

/// What this process appended and no look at the stream has counted.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// The stream's last sequence at the last look: what is at or before it is counted.
    looked: u64,
    since: u64,
    newest: u64,
}

impl Tally {
    /// How many of these are to be added to what the last look counted.
    pub(super) fn appended(&mut self, stored: &[Sequence]) -> u64 {
        let fresh = stored.iter().filter(|sequence| sequence.get() > self.looked);
        let (mut count, mut newest) = (0, self.newest);
        for sequence in fresh {
            (count, newest) = (count + 1, newest.max(sequence.get()));
        }
        (self.since, self.newest) = (self.since + count, newest);
        count
    }

    /// How many are to be added to a look at the stream that ended at `last`: none where that has
    /// all. Otherwise perhaps more than there are, until the next look, where others append too.
    pub(super) fn looked(&mut self, last: u64) -> u64 {
        self.looked = last;
        self.since = self.since.min(self.newest.saturating_sub(last));
        self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequences(of: &[u64]) -> Vec<Sequence> {
        of.iter().copied().map(Sequence::new).collect()
    }

    #[test]
    fn an_event_counts_once_whichever_is_told_of_first() {
        let mut tally = Tally::default();
        assert_eq!(tally.appended(&sequences(&[1, 2])), 2);
        assert_eq!(tally.looked(3), 0, "the look has both");
        assert_eq!(tally.appended(&sequences(&[3, 4])), 1, "the look had the third");
        assert_eq!(tally.looked(3), 1, "it has not the fourth");
        assert_eq!(tally.looked(4), 0);
    }
}
