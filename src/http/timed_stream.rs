//! A connection that must begin to speak in time.
//!
//! hyper times a request's head from its first byte, and tells HTTP/1 from HTTP/2 before that
//! without any timer. This wrapper closes a connection that stays silent, or stalls within
//! HTTP/2's preface.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// See the module.
#[derive(Debug)]
pub(super) struct TimedStream<S> {
    stream: S,
    /// None once it has spoken.
    timer: Option<Pin<Box<Sleep>>>,
    /// How many bytes of the preface came.
    matched: usize,
}

impl<S> TimedStream<S> {
    pub(super) fn new(stream: S, within: Duration) -> Self {
        let timer = Some(Box::pin(sleep_until(Instant::now() + within)));
        Self { stream, timer, matched: 0 }
    }

    fn heard(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if PREFACE.get(self.matched) != Some(byte) {
                self.timer = None;
                return;
            }
            self.matched += 1;
        }
        if self.matched == PREFACE.len() {
            self.timer = None;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if let Some(timer) = &mut self.timer
            && timer.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if self.timer.is_some() {
            let heard = buffer.filled().get(before..).unwrap_or_default();
            self.heard(heard);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test(start_paused = true)]
    async fn silence_and_half_a_preface_end_and_a_begun_request_does_not() {
        for (sent, ends) in [("", true), ("PRI * HTTP/2.0", true), ("POST", false), ("G", false)] {
            let (mut caller, stream) = tokio::io::duplex(64);
            let mut timed = TimedStream::new(stream, Duration::from_secs(30));
            caller.write_all(sent.as_bytes()).await.unwrap();
            let mut read = [0; 64];
            if !sent.is_empty() {
                assert_eq!(timed.read(&mut read).await.unwrap(), sent.len());
            }
            let next = tokio::time::timeout(Duration::from_secs(60), timed.read(&mut read)).await;
            match next {
                Ok(Err(error)) => {
                    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                    assert!(ends, "{sent}");
                }
                other => assert!(other.is_err() && !ends, "{sent}: {other:?}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_whole_preface_stops_the_timer() {
        let (mut caller, stream) = tokio::io::duplex(64);
        let mut timed = TimedStream::new(stream, Duration::from_secs(30));
        caller.write_all(PREFACE).await.unwrap();
        let mut read = [0; 64];
        assert_eq!(timed.read(&mut read).await.unwrap(), PREFACE.len());
        let next = tokio::time::timeout(Duration::from_secs(60), timed.read(&mut read)).await;
        assert!(next.is_err(), "still open");
    }
}
