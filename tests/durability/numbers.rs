//! A set of numbers, a bit each: who was acknowledged, who arrived.

#[derive(Clone, Debug, Default)]
pub(crate) struct Numbers {
    words: Vec<u64>,
    count: u64,
}

impl Numbers {
    /// Adds a number; false when it is in already.
    pub(crate) fn insert(&mut self, number: u64) -> bool {
        let (word, bit) = (usize::try_from(number / 64).unwrap(), 1 << (number % 64));
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.count += u64::from(is_new);
        is_new
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Those that are not in `other`, at most the first ten.
    pub(crate) fn missing_in(&self, other: &Self) -> Vec<u64> {
        let missing = self.words.iter().enumerate().flat_map(|(index, word)| {
            let left = word & !other.words.get(index).copied().unwrap_or(0);
            (0..64)
                .filter(move |bit| left & (1 << bit) != 0)
                .map(move |bit| index as u64 * 64 + bit)
        });
        missing.take(10).collect()
    }
}

#[test]
fn a_set_knows_what_another_lacks() {
    let (mut ours, mut theirs) = (Numbers::default(), Numbers::default());
    for number in [0, 63, 64, 1000] {
        assert!(ours.insert(number));
    }
    assert!(!ours.insert(64));
    theirs.insert(63);
    theirs.insert(7);
    assert_eq!(ours.count(), 4);
    assert_eq!(ours.missing_in(&theirs), [0, 64, 1000]);
}
