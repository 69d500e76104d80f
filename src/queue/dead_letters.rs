//! The dead letters' database: one record a letter, in as many values as it needs, by sequence.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::error;

use super::dead_letter::LetterHead;
use super::engine::{Database, EngineError, MAX_VALUE};
use super::generations::Damage;
use super::repair::{readable_entries, replace_entries};
use super::{DeadLetter, Sequence};

/// Bytes of a record in one value.
const PIECE: usize = MAX_VALUE - 256;

/// A letter as it is stored.
#[derive(Serialize, Deserialize)]
struct Record {
    head: LetterHead,
    event: Vec<u8>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct DeadLetters {
    path: PathBuf,
    /// None after a failed reopening.
    database: Option<Database>,
    max_bytes: u64,
    count: u64,
    bytes: u64,
}

/// Why letters were not stored.
#[derive(Debug)]
pub(super) enum BuryError {
    Full,
    Engine(EngineError),
}

impl From<EngineError> for BuryError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl DeadLetters {
    /// Takes this much from now on; what is there already stays.
    pub(super) const fn limit(&mut self, max_bytes: u64) {
        self.max_bytes = max_bytes;
    }

    /// Opens the database; reads through it to count.
    pub(super) fn open(path: &Path, max_bytes: u64) -> Result<Self, EngineError> {
        let database = Database::open(path)?;
        let (mut count, mut bytes) = (0, 0);
        database.scan(&[], |key, value| {
            count += u64::from(key.ends_with(&[0, 0]) && key.len() == 10);
            bytes += value.len() as u64;
            true
        })?;
        Ok(Self { path: path.to_owned(), database: Some(database), max_bytes, count, bytes })
    }

    /// The same; a damaged database is put aside into `dir`'s quarantine, and the letters that are
    /// readable are kept: then what was wrong is returned too.
    pub(super) fn recover(
        dir: &Path,
        path: &Path,
        max_bytes: u64,
    ) -> Result<(Self, Option<Damage>), EngineError> {
        let reason = match Self::open(path, max_bytes) {
            Ok(store) => return Ok((store, None)),
            Err(EngineError::NoSpace) => return Err(EngineError::NoSpace),
            Err(error) => error,
        };
        let aside = replace_entries(dir, path, &readable_entries(path, []))?;
        let store = Self::open(path, max_bytes)?;
        error!(
            reason = %reason,
            dead_letters.kept = store.count(),
            quarantine = %aside.display(),
            "the dead letters' database is damaged: the readable ones are kept"
        );
        Ok((store, Some(Damage::new(path, &reason, &[], &aside))))
    }

    /// Drops the handle, which is of no use after an error, and opens the database again, as
    /// [`Self::recover`] does.
    pub(super) fn reopen(&mut self, dir: &Path) -> Result<Option<Damage>, EngineError> {
        self.database = None;
        let (store, damage) = Self::recover(dir, &self.path, self.max_bytes)?;
        *self = store;
        Ok(damage)
    }

    fn database(&self) -> Result<&Database, EngineError> {
        self.database.as_ref().ok_or_else(|| EngineError::Io("it is not open".to_owned()))
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The highest sequence of a letter.
    pub(super) fn highest(&self) -> Result<Option<Sequence>, EngineError> {
        let last = self.database()?.last_at_most(&[0xff; 10])?;
        Ok(last.and_then(|(key, _)| Some(Sequence::new(u64::from_be_bytes(*key.first_chunk()?)))))
    }

    /// Stores letters, durably; one of the same sequence is replaced.
    pub(super) fn bury(&mut self, letters: &[DeadLetter]) -> Result<(), BuryError> {
        let encoded: Vec<_> =
            letters.iter().map(|letter| (letter.sequence, encode(letter))).collect();
        let added: u64 = encoded.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        if self.bytes + added > self.max_bytes {
            return Err(BuryError::Full);
        }
        for (sequence, bytes) in encoded {
            self.remove(sequence)?;
            for (number, piece) in (0_u16..).zip(bytes.chunks(PIECE)) {
                self.database()?.insert(&key(sequence, number), piece)?;
            }
            self.count += 1;
            self.bytes += bytes.len() as u64;
        }
        self.database()?.flush()?;
        self.database()?.sync()?;
        Ok(())
    }

    /// Removes a letter; false where there is none. Durable with the next `bury`.
    pub(super) fn remove(&mut self, sequence: Sequence) -> Result<bool, EngineError> {
        let mut found = 0;
        while let Some(piece) = self.database()?.get(&key(sequence, found))? {
            self.bytes = self.bytes.saturating_sub(piece.len() as u64);
            self.database()?.remove(&key(sequence, found))?;
            found += 1;
        }
        self.count -= u64::from(found > 0).min(self.count);
        Ok(found > 0)
    }

    /// Removes letters, durably; those that are not there are passed over.
    pub(super) fn remove_all(&mut self, letters: &[Sequence]) -> Result<(), EngineError> {
        let mut is_changed = false;
        for sequence in letters {
            is_changed |= self.remove(*sequence)?;
        }
        if is_changed {
            self.database()?.flush()?;
            self.database()?.sync()?;
        }
        Ok(())
    }

    /// Up to `limit` letters from `from` on, ascending; none more once their events have `bytes`.
    pub(super) fn list(
        &self,
        from: Sequence,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<DeadLetter>, EngineError> {
        let mut letters: Vec<DeadLetter> = Vec::new();
        let mut taken = 0;
        let mut open: Option<(Sequence, Vec<u8>)> = None;
        let close = |open: Option<(Sequence, Vec<u8>)>, letters: &mut Vec<DeadLetter>| {
            let letter = open.and_then(|(sequence, bytes)| decode(sequence, &bytes));
            letters.extend(letter);
        };
        self.database()?.scan(&key(from, 0), |key, value| {
            let Some(first) = key.first_chunk().copied() else { return true };
            let sequence = Sequence::new(u64::from_be_bytes(first));
            match &mut open {
                Some((of, bytes)) if *of == sequence => bytes.extend_from_slice(value),
                _ => {
                    let before = letters.len();
                    close(open.take(), &mut letters);
                    taken += letters.iter().skip(before).map(|l| l.event.len()).sum::<usize>();
                    if letters.len() >= limit || taken >= bytes {
                        return false;
                    }
                    open = Some((sequence, value.to_vec()));
                }
            }
            true
        })?;
        close(open.take(), &mut letters);
        letters.truncate(limit);
        Ok(letters)
    }
}

fn key(sequence: Sequence, piece: u16) -> [u8; 10] {
    let mut key = [0; 10];
    key[..8].copy_from_slice(&sequence.get().to_be_bytes());
    key[8..].copy_from_slice(&piece.to_be_bytes());
    key
}

fn encode(letter: &DeadLetter) -> Vec<u8> {
    let record = Record { head: LetterHead::of(letter), event: letter.event.to_vec() };
    // Fails only on types postcard can't express, of which a record has none.
    postcard::to_stdvec(&record).unwrap_or_default()
}

fn decode(sequence: Sequence, bytes: &[u8]) -> Option<DeadLetter> {
    let record: Record = postcard::from_bytes(bytes).ok()?;
    record.head.letter(sequence, record.event.into())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::clock::Timestamp;
    use crate::event::EventKind;
    use crate::queue::UserHash;
    use crate::telemetry::ledger::DeadLetterReason;

    const ALL: usize = usize::MAX;

    fn letter(sequence: u64, size: usize) -> DeadLetter {
        DeadLetter {
            sequence: Sequence::new(sequence),
            reason: DeadLetterReason::Rejected,
            status: Some(422),
            answer: "no".to_owned(),
            attempts: 3,
            accepted_at: Timestamp::from_millis(77),
            buried_at: Timestamp::from_millis(88),
            user: UserHash::of("ada"),
            kind: EventKind::Unique,
            event: Bytes::from(vec![b'x'; size]),
        }
    }

    #[test]
    fn letters_of_any_size_are_listed_as_they_were_buried_also_after_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dead-letters");
        let letters = [letter(3, 10), letter(5, 70_000), letter(9, 7_000)];
        let mut store = DeadLetters::open(&path, 1 << 20).unwrap();
        store.bury(&letters).unwrap();
        store.bury(&[letter(9, 7_000)]).unwrap();
        assert_eq!(store.list(Sequence::FIRST, 10, ALL).unwrap(), letters);
        let bytes = store.bytes;
        drop(store);
        let mut store = DeadLetters::open(&path, 1 << 20).unwrap();
        assert_eq!((store.count(), store.bytes), (3, bytes));
        assert_eq!(store.list(Sequence::new(4), 1, ALL).unwrap(), letters[1..2]);
        assert_eq!(store.list(Sequence::new(5), 2, ALL).unwrap(), letters[1..]);
        assert_eq!(store.list(Sequence::FIRST, 9, 1).unwrap(), letters[..1], "enough bytes");
        assert_eq!(store.list(Sequence::FIRST, 9, 70_000).unwrap(), letters[..2]);
        assert!(store.remove(Sequence::new(5)).unwrap());
        assert!(!store.remove(Sequence::new(5)).unwrap());
        assert_eq!(
            store.list(Sequence::FIRST, 10, ALL).unwrap(),
            [letter(3, 10), letter(9, 7_000)]
        );
        assert_eq!(store.count(), 2);
    }

    #[test]
    fn the_bytes_of_a_letter_are_what_former_versions_wrote() {
        let hex = "0872656a656374656401a603026e6f034d5884868808020478787878";
        let bytes: Vec<_> = hex.as_bytes().chunks(2).map(byte).collect();
        let mut letter = letter(3, 4);
        letter.user = UserHash::from_bits(0x0102_0304);
        assert_eq!(encode(&letter), bytes);
        assert_eq!(decode(Sequence::new(3), &bytes), Some(letter));
    }

    fn byte(digits: &[u8]) -> u8 {
        u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()
    }

    #[test]
    fn a_full_store_takes_none_of_the_letters() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = DeadLetters::open(&folder.path().join("d"), 5_000).unwrap();
        store.bury(&[letter(1, 3_000)]).unwrap();
        assert!(matches!(store.bury(&[letter(2, 10), letter(3, 3_000)]), Err(BuryError::Full)));
        assert_eq!(store.list(Sequence::FIRST, 10, ALL).unwrap().len(), 1);
        store.bury(&[letter(2, 10)]).unwrap();
    }
}
