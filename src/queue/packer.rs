//! Compression of a frame's records, and the only file that names lz4_flex.
//!
//! LZ4, since it costs the writer and the readers less than a database and a device take for the
//! bytes that it saves; measured in docs/performance.md. Nothing here knows of frames but for the
//! magic, which must not stand in what is compressed as it stands in a frame.

use std::fmt;

use lz4_flex::block::{
    CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size,
};

use super::frame::MAGIC;

/// Fewer bytes are not tried: an event or two, of which a caller alone waits for the answer.
const WORTH_A_TRY: usize = 1024;

/// Compresses. Its memory is taken at the first use, and used again.
#[derive(Default)]
pub(super) struct Packer {
    table: Option<CompressTable>,
    packed: Vec<u8>,
}

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packer").finish_non_exhaustive()
    }
}

impl Packer {
    /// These bytes compressed; none where that saves less than an eighth of them.
    pub(super) fn pack(&mut self, bytes: &[u8]) -> Option<&[u8]> {
        if bytes.len() < WORTH_A_TRY {
            return None;
        }
        let most = get_maximum_output_size(bytes.len());
        if self.packed.len() < most {
            self.packed.resize(most, 0);
        }
        let table = self.table.get_or_insert_with(CompressTable::small);
        // There is room for all that can come of it, so it never fails.
        let length = compress_into_with_table(bytes, &mut self.packed, table).ok()?;
        let packed = self.packed.get(..length).filter(|_| length <= bytes.len() / 8 * 7)?;
        (!looks_like_a_frame(packed)).then_some(packed)
    }
}

/// Whether the magic stands in it, and behind that a byte that could be a version.
fn looks_like_a_frame(bytes: &[u8]) -> bool {
    memchr::memmem::find_iter(bytes, &MAGIC)
        .any(|at| bytes.get(at + MAGIC.len()).is_none_or(|behind| *behind < b' '))
}

/// What was compressed, if it is exactly `length` bytes.
pub(super) fn unpack(packed: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    let unpacked = decompress_into(packed, &mut bytes).ok()?;
    (unpacked == length).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::tests::noise;
    use proptest::prelude::*;

    fn packed(bytes: &[u8]) -> Option<Vec<u8>> {
        let mut packer = Packer::default();
        let packed = packer.pack(bytes).map(<[u8]>::to_vec);
        // What it compressed before leaves no trace.
        packer.pack(&noise(9, bytes.len() + 1).repeat(2).into_bytes());
        assert_eq!(packer.pack(bytes).map(<[u8]>::to_vec), packed);
        packed
    }

    #[test]
    fn a_lone_event_is_not_tried_and_what_saves_little_is_left_as_it_is() {
        assert_eq!(packed(&[7; WORTH_A_TRY - 1]), None);
        assert!(packed(&[7; WORTH_A_TRY]).is_some_and(|packed| packed.len() < 40));
        assert_eq!(packed(noise(1, 4000).as_bytes()), None);
    }

    #[test]
    fn what_would_look_like_a_frame_is_left_as_it_is() {
        for (bytes, expected) in [
            (&b"xGMFY\x01x"[..], true),
            (b"GMFY\x1f", true),
            (b"GMFY GMFY\x02", true),
            (b"xxGMFY", true),
            (b"GMFY GMFY", true),
            (b"GMFY ", false),
            (b"GMF\x01", false),
            (b"", false),
        ] {
            assert_eq!(looks_like_a_frame(bytes), expected, "{bytes:?}");
        }
        // Random bytes stay as they are in LZ4, and what repeats has it compressed.
        let mut bytes = vec![b'x'; 2000];
        assert!(packed(&bytes).is_some());
        bytes.splice(500..505, *b"GMFY\x02");
        assert_eq!(packed(&bytes), None);
        bytes[504] = b'"';
        assert!(packed(&bytes).is_some());
    }

    proptest! {
        #[test]
        fn rubbish_is_never_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..300), length in 0usize..8000,
        ) {
            prop_assert!(unpack(&bytes, length).is_none_or(|unpacked| unpacked.len() == length));
        }

        /// Changed bytes of a block, which a checksum would tell: never a panic, never longer.
        #[test]
        fn a_damaged_block_is_never_a_panic(
            word in any::<[u8; 5]>(), times in 300usize..1400,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let bytes = word.repeat(times);
            let mut block = packed(&bytes).unwrap_or_default();
            prop_assume!(!block.is_empty());
            let unpacked = unpack(&block, bytes.len());
            prop_assert_eq!(unpacked.as_deref(), Some(&bytes[..]));
            for (at, byte) in changes {
                let at = at.index(block.len());
                block[at] = byte;
            }
            block.truncate(cut.index(block.len() + 1));
            let unpacked = unpack(&block, bytes.len());
            prop_assert!(unpacked.is_none_or(|unpacked| unpacked.len() == bytes.len()));
        }
    }
}
