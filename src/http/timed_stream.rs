//! A connection whose peer must keep up: speak in time, and read what it is answered.
//!
//! hyper times a request's head, over HTTP/1 from the end of the answer before. This wrapper ends
//! what hyper leaves open: a connection that stays silent or stalls within HTTP/2's preface, one of
//! HTTP/2 on which nothing comes any more (while requests are under way, the answers to our pings
//! do), and one whose peer does not read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A connection of HTTP/2 is closed after so many of the longest silences; within one, a ping.
const SILENCES: u32 = 2;
/// What a peer that is slow to read must take within the write timeout, in bytes; else a byte now
/// and then would keep a connection, and the one to GMFY whose answer it carries, for ever.
const PROGRESS: usize = 64 * 1024;

/// How long a peer may keep a connection waiting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For the first byte, and HTTP/2's preface.
    pub(super) first: Duration,
    /// For room to write.
    pub(super) write: Duration,
}

/// See the module.
#[derive(Debug)]
pub(super) struct TimedStream<S> {
    stream: S,
    patience: Patience,
    spoken: Spoken,
    /// Runs while the connection is silent; none in HTTP/1, which hyper times.
    silence: Option<Pin<Box<Sleep>>>,
    stall: Option<Stall>,
}

/// What the peer was heard to speak.
#[derive(Debug)]
enum Spoken {
    /// Nothing but so many bytes of the preface.
    Preface(usize),
    Http1,
    /// The last time that anything came.
    Http2(Instant),
}

/// A peer that does not read, or too little.
#[derive(Debug)]
struct Stall {
    timer: Pin<Box<Sleep>>,
    /// How many bytes it took since.
    taken: usize,
}

impl<S> TimedStream<S> {
    pub(super) fn new(stream: S, patience: Patience) -> Self {
        let silence = Some(Box::pin(sleep(patience.first)));
        Self { stream, patience, spoken: Spoken::Preface(0), silence, stall: None }
    }

    fn heard(&mut self, bytes: &[u8]) {
        match &mut self.spoken {
            Spoken::Http1 => {}
            Spoken::Http2(last) => *last = Instant::now(),
            Spoken::Preface(matched) => {
                let rest = PREFACE.get(*matched..).unwrap_or_default();
                let common = bytes.iter().zip(rest).take_while(|(one, other)| one == other).count();
                *matched += common;
                if *matched == PREFACE.len() {
                    self.spoken = Spoken::Http2(Instant::now());
                } else if common < bytes.len() {
                    self.spoken = Spoken::Http1;
                    self.silence = None;
                }
            }
        }
    }

    /// Ready, with an error, when the silence has lasted too long.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Some(timer) = &mut self.silence else { return Poll::Pending };
        loop {
            ready!(timer.as_mut().poll(cx));
            match self.spoken {
                Spoken::Http2(last) => {
                    let end = last + self.patience.first * SILENCES;
                    if end > Instant::now() {
                        timer.as_mut().reset(end);
                        continue;
                    }
                }
                Spoken::Preface(_) | Spoken::Http1 => {}
            }
            return Poll::Ready(io::ErrorKind::TimedOut.into());
        }
    }

    /// Passes on what a write came to, and times the peer while it takes nothing.
    fn poll_written(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(count)) => {
                if let Some(stall) = &mut self.stall {
                    stall.taken += count;
                    if stall.taken >= PROGRESS {
                        self.stall = None;
                    }
                }
                written
            }
            Poll::Ready(Err(_)) => written,
            Poll::Pending => {
                let write = self.patience.write;
                let stall = self.stall.get_or_insert_with(|| {
                    let timer = Box::pin(sleep_until(Instant::now() + write));
                    Stall { timer, taken: 0 }
                });
                ready!(stall.timer.as_mut().poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
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
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) => {
                if self.silence.is_some() {
                    let heard = buffer.filled().get(before..).unwrap_or_default();
                    self.heard(heard);
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.poll_silence(cx).map(Err),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.poll_written(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes once it has written all that it holds.
        self.stall = None;
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
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.poll_written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::time::timeout;

    const PATIENCE: Patience =
        Patience { first: Duration::from_secs(30), write: Duration::from_secs(20) };

    fn pair(buffer: usize) -> (DuplexStream, TimedStream<DuplexStream>) {
        let (caller, stream) = duplex(buffer);
        (caller, TimedStream::new(stream, PATIENCE))
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_half_a_preface_end_and_a_begun_request_does_not() {
        for (sent, ends) in
            [("", true), ("PRI * HTTP/2.0", true), ("POST", false), ("G", false), ("PRIx", false)]
        {
            let (mut caller, mut timed) = pair(64);
            caller.write_all(sent.as_bytes()).await.unwrap();
            let mut read = [0; 64];
            if !sent.is_empty() {
                assert_eq!(timed.read(&mut read).await.unwrap(), sent.len());
            }
            let next = timeout(Duration::from_secs(3600), timed.read(&mut read)).await;
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
    async fn http_2_may_pause_but_not_fall_silent() {
        let (mut caller, mut timed) = pair(64);
        let mut read = [0; 64];
        let (first, second) = PREFACE.split_at(5);
        for part in [first, second, b"frame", b"frame", b"frame"] {
            caller.write_all(part).await.unwrap();
            assert_eq!(timed.read(&mut read).await.unwrap(), part.len());
            let waits = Duration::from_secs(if part == first { 29 } else { 59 });
            assert!(timeout(waits, timed.read(&mut read)).await.is_err(), "still open");
        }
        let ended = timeout(Duration::from_secs(2), timed.read(&mut read)).await.unwrap();
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_read_or_takes_a_byte_now_and_then_is_cut_off() {
        for (bytes_a_second, cut) in [(0, true), (1000, true), (10_000, false)] {
            let (mut caller, mut timed) = pair(1024);
            let write = async {
                timed.write_all(&vec![b'x'; 1 << 20]).await?;
                timed.flush().await
            };
            let read = async {
                let mut bytes = vec![0; 10_000];
                loop {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    let mut rest = bytes_a_second;
                    while rest > 0 {
                        let wanted = rest.min(1024);
                        let read = caller.read(&mut bytes[..wanted]).await.unwrap();
                        rest -= read;
                    }
                }
            };
            let began = Instant::now();
            let written: io::Result<()> = tokio::select! {
                written = write => written,
                () = read => unreachable!(),
            };
            assert_eq!(written.is_err(), cut, "{bytes_a_second}: {written:?}");
            assert!(!cut || began.elapsed() < Duration::from_secs(21), "{:?}", began.elapsed());
        }
    }
}
