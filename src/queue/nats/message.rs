//! How an event lies in the stream: one message each, whose sequence there is the event's.
//!
//! ```text
//! offset size
//!      0    1  format version, 1
//!      1    1  kind: 0 classic, 1 action, 2 unique
//!      2    4  user's hash, little-endian
//!      6    8  when it was accepted, milliseconds since the Unix epoch, little-endian
//!     14       the wire form
//! ```

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::clock::Timestamp;
use crate::event::EventKind;
use crate::queue::{QueuedEvent, Sequence, UserHash};

const VERSION: u8 = 1;
pub(super) const HEADER: usize = 14;

/// Why a message is no event that this program can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum MessageError {
    /// It has to wait for a program that can.
    #[error("it was written by a newer version of gmfy-sidecar ({0})")]
    Newer(u8),
    /// No program can.
    #[error("it is no event of gmfy-sidecar")]
    Foreign,
}

pub(super) fn encode(
    user: UserHash,
    kind: EventKind,
    accepted_at: Timestamp,
    json: &[u8],
) -> Bytes {
    let mut bytes = BytesMut::with_capacity(HEADER + json.len());
    bytes.put_u8(VERSION);
    bytes.put_u8(kind.code());
    bytes.put_u32_le(user.bits());
    bytes.put_u64_le(accepted_at.as_millis());
    bytes.put_slice(json);
    bytes.freeze()
}

pub(super) fn decode(sequence: Sequence, payload: &Bytes) -> Result<QueuedEvent, MessageError> {
    let header: &[u8; HEADER] = payload.first_chunk().ok_or(MessageError::Foreign)?;
    let [version, kind, user @ .., _, _, _, _, _, _, _, _] = header;
    match version {
        0 => return Err(MessageError::Foreign),
        &VERSION => {}
        newer => return Err(MessageError::Newer(*newer)),
    }
    let kind = EventKind::from_code(*kind).ok_or(MessageError::Foreign)?;
    let user: [u8; 4] = *user;
    let accepted_at = header.last_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    Ok(QueuedEvent {
        sequence,
        user: UserHash::from_bits(u32::from_le_bytes(user)),
        kind,
        accepted_at: Timestamp::from_millis(accepted_at),
        json: payload.slice(HEADER..),
        mark: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_format_is_what_it_says() {
        let (user, at) = (UserHash::from_bits(0x0403_0201), Timestamp::from_millis(0x0102));
        let bytes = encode(user, EventKind::Unique, at, b"{}");
        assert_eq!(&bytes[..], b"\x01\x02\x01\x02\x03\x04\x02\x01\0\0\0\0\0\0{}");
        let sequence = Sequence::new(7);
        let event = decode(sequence, &bytes).unwrap();
        let json = Bytes::from_static(b"{}");
        let kind = EventKind::Unique;
        assert_eq!(event, QueuedEvent { sequence, user, kind, accepted_at: at, json, mark: None });
    }

    #[test]
    fn a_newer_one_is_told_from_what_is_no_event() {
        let of = |bytes: &'static [u8]| decode(Sequence::FIRST, &Bytes::from_static(bytes));
        assert_eq!(of(b"").unwrap_err(), MessageError::Foreign);
        assert_eq!(of(&[1; 13]).unwrap_err(), MessageError::Foreign);
        assert_eq!(
            of(&[1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap_err(),
            MessageError::Foreign
        );
        assert_eq!(of(&[2; 14]).unwrap_err(), MessageError::Newer(2));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(event) = decode(Sequence::FIRST, &Bytes::from(bytes.clone())) {
                let again = encode(event.user, event.kind, event.accepted_at, &event.json);
                prop_assert_eq!(&again[..], &bytes[..]);
            }
        }
    }
}
