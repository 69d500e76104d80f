//! The body of an answer: whole, or streamed from GMFY.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use http_body::{Frame, SizeHint};

use crate::upstream::SendError;

/// See the module.
pub(super) enum Body {
    Whole(Bytes),
    /// With what is left of its length, where it is known.
    Streamed(BoxStream<'static, Result<Bytes, SendError>>, Option<u64>),
}

impl Body {
    pub(super) const fn empty() -> Self {
        Self::Whole(Bytes::new())
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Whole(bytes.into())
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = SendError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, SendError>>> {
        match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Streamed(stream, left) => {
                let next = std::task::ready!(stream.as_mut().poll_next(cx));
                if let (Some(Ok(part)), Some(left)) = (&next, left.as_mut()) {
                    *left = left.saturating_sub(part.len() as u64);
                }
                Poll::Ready(next.map(|part| part.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Streamed(_, left) => *left == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Streamed(_, left) => left.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}
