//! A request's body, whole: within its limits, in time, decompressed.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http::{HeaderMap, HeaderValue};
use http_body::Body;
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::problem::Problem;

/// What a body may take.
#[derive(Clone, Debug)]
pub(super) struct BodyLimits {
    /// In bytes, both as sent and decompressed.
    pub(super) max_body: usize,
    /// The longest wait for more of it.
    pub(super) timeout: Duration,
    /// In bytes, what all bodies together may take beyond [`FREE`] each.
    pub(super) memory: Arc<Semaphore>,
}

impl BodyLimits {
    /// A body always fits, as sent and decompressed, where there is no other.
    pub(super) fn new(max_body: usize, timeout: Duration, memory: usize) -> Self {
        let permits = memory.max(max_body.saturating_mul(2)).min(Semaphore::MAX_PERMITS);
        let memory = Arc::new(Semaphore::new(permits));
        Self { max_body, timeout, memory }
    }
}

/// A body, and its share of the memory for bodies while it is kept.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) bytes: Bytes,
    _memory: Memory,
}

/// The whole body may take this many times [`BodyLimits::timeout`]: a trickle ends too.
const TOTAL_TIMEOUTS: u32 = 10;
/// What each body may take without asking whether there is memory, in bytes.
const FREE: usize = 64 * 1024;
/// What is reserved for a body at first, in bytes: memory is spent on what came, not on promises.
const FIRST_CAPACITY: usize = 64 * 1024;
/// How much is decompressed before other tasks get their turn, in bytes.
const DECOMPRESSED_AT_ONCE: u64 = 64 * 1024;
/// The largest zstd window taken, as a power of two: the 8 MiB that RFC 9659 allows.
const ZSTD_WINDOW_LOG: u32 = 23;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

/// Reads a body to its end.
pub(super) async fn read<B>(
    body: B,
    headers: &HeaderMap,
    limits: &BodyLimits,
) -> Result<Whole, Problem>
where
    B: Body<Data = Bytes> + Unpin + Send,
    B::Error: Send,
{
    let encoding = encoding(headers)?;
    let mut memory = Memory::of(limits);
    let sent = collect(body, headers, limits, &mut memory).await?;
    let bytes = match encoding {
        Encoding::Identity => sent,
        // GMFY's client sends no such thing, but an empty body has nothing to decompress.
        Encoding::Gzip | Encoding::Zstd if sent.is_empty() => sent,
        Encoding::Gzip => {
            let decoder = flate2::bufread::MultiGzDecoder::new(&*sent);
            decompress(decoder, limits.max_body, &mut memory).await?
        }
        Encoding::Zstd => {
            let decoder = zstd_decoder(&*sent).map_err(|error| Problem::bad_encoding(&error))?;
            decompress(decoder, limits.max_body, &mut memory).await?
        }
    };
    Ok(Whole { bytes, _memory: memory })
}

/// What one body holds of the memory for all.
#[derive(Debug)]
struct Memory {
    pool: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
    /// What the body takes so far, in bytes.
    taken: usize,
}

impl Memory {
    fn of(limits: &BodyLimits) -> Self {
        Self { pool: Arc::clone(&limits.memory), held: None, taken: 0 }
    }

    /// Takes more, or refuses the body: bodies that waited for one another's memory would all wait.
    fn take(&mut self, bytes: usize) -> Result<(), Problem> {
        self.taken = self.taken.saturating_add(bytes);
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let Some(more) = self.taken.saturating_sub(FREE + held).checked_sub(1) else {
            return Ok(());
        };
        let more = u32::try_from(more + 1).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.pool)
            .try_acquire_many_owned(more)
            .map_err(|_| Problem::busy("The bodies under way fill api.body_memory."))?;
        match &mut self.held {
            Some(held) => held.merge(permit),
            None => self.held = Some(permit),
        }
        Ok(())
    }
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Problem> {
    let mut values = headers.get_all(CONTENT_ENCODING).iter();
    let Some(value) = values.next() else { return Ok(Encoding::Identity) };
    if values.next().is_some() {
        return Err(Problem::content_encoding());
    }
    let is = |name: &str| value.as_bytes().trim_ascii().eq_ignore_ascii_case(name.as_bytes());
    match () {
        () if is("gzip") || is("x-gzip") => Ok(Encoding::Gzip),
        () if is("zstd") => Ok(Encoding::Zstd),
        () if is("identity") || is("") => Ok(Encoding::Identity),
        () => Err(Problem::content_encoding()),
    }
}

async fn collect<B>(
    mut body: B,
    headers: &HeaderMap,
    limits: &BodyLimits,
    memory: &mut Memory,
) -> Result<Bytes, Problem>
where
    B: Body<Data = Bytes> + Unpin + Send,
    B::Error: Send,
{
    let announced = headers.get(CONTENT_LENGTH).map_or(Some(0), parse_length);
    if announced.is_none_or(|length| length > limits.max_body) {
        return Err(Problem::body_too_large(limits.max_body));
    }
    let total = Instant::now() + limits.timeout * TOTAL_TIMEOUTS;
    let mut first = Bytes::new();
    let mut whole = Vec::new();
    loop {
        if body.is_end_stream() {
            break;
        }
        let deadline = total.min(Instant::now() + limits.timeout);
        let Ok(frame) = timeout_at(deadline, body.frame()).await else {
            return Err(Problem::body_timeout(limits.timeout));
        };
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(_)) => return Err(Problem::broken_body()),
            None => break,
        };
        // Trailers say nothing to us.
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + whole.len() + data.len() > limits.max_body {
            return Err(Problem::body_too_large(limits.max_body));
        }
        memory.take(data.len())?;
        // Most bodies come in one piece, and are not copied.
        if first.is_empty() && whole.is_empty() {
            first = data;
            continue;
        }
        if whole.is_empty() {
            let announced = announced.unwrap_or_default();
            whole.reserve(announced.min(FIRST_CAPACITY).max(first.len() + data.len()));
            whole.extend_from_slice(&std::mem::take(&mut first));
        }
        whole.extend_from_slice(&data);
    }
    Ok(if whole.is_empty() { first } else { whole.into() })
}

fn parse_length(value: &HeaderValue) -> Option<usize> {
    value.to_str().ok()?.trim().parse().ok()
}

fn zstd_decoder<R: BufRead>(sent: R) -> io::Result<zstd::stream::read::Decoder<'static, R>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(sent)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG)?;
    Ok(decoder)
}

/// Decompresses until the end or the limit, whichever comes first: a bomb ends at the limit.
async fn decompress(
    mut decoder: impl Read + Send,
    max_body: usize,
    memory: &mut Memory,
) -> Result<Bytes, Problem> {
    let mut whole = Vec::new();
    loop {
        let read = decoder
            .by_ref()
            .take(DECOMPRESSED_AT_ONCE)
            .read_to_end(&mut whole)
            .map_err(|error| Problem::bad_encoding(&error))?;
        if whole.len() > max_body {
            return Err(Problem::body_too_large(max_body));
        }
        if read == 0 {
            return Ok(whole.into());
        }
        memory.take(read)?;
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{Full, StreamBody};
    use std::io::Write as _;

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn limits() -> BodyLimits {
        BodyLimits::new(100_000, TIMEOUT, 1_000_000)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    async fn read_encoded(sent: Vec<u8>, encoding: &str) -> Result<Bytes, u16> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, encoding.parse().unwrap());
        let read = read(Full::new(Bytes::from(sent)), &headers, &limits()).await;
        read.map(|whole| whole.bytes).map_err(|problem| problem.into_response().status().as_u16())
    }

    #[tokio::test]
    async fn gzip_and_zstd_come_out_as_they_went_in() {
        let body = b"[1,2,3]".repeat(10_000);
        let zstd = zstd::encode_all(&*body, 1).unwrap();
        assert_eq!(read_encoded(gzip(&body), "gzip").await.unwrap(), body);
        assert_eq!(read_encoded(zstd, "ZSTD").await.unwrap(), body);
        assert_eq!(read_encoded(body.clone(), "identity").await.unwrap(), body);
        // A gzip body may have several members.
        let members = [gzip(b"[1,"), gzip(b"2]")].concat();
        assert_eq!(read_encoded(members, "x-gzip").await.unwrap(), "[1,2]");
    }

    #[tokio::test]
    async fn a_bomb_ends_at_the_limit() {
        let bomb = vec![b' '; 50_000_000];
        assert_eq!(read_encoded(gzip(&bomb), "gzip").await, Err(413));
        assert_eq!(read_encoded(zstd::encode_all(&*bomb, 1).unwrap(), "zstd").await, Err(413));
    }

    #[tokio::test]
    async fn what_is_not_what_its_encoding_says_is_refused() {
        assert_eq!(read_encoded(b"[]".to_vec(), "gzip").await, Err(400));
        assert_eq!(read_encoded(b"[]".to_vec(), "zstd").await, Err(400));
        let mut cut = gzip(&b"[1,2,3]".repeat(100));
        cut.truncate(cut.len() / 2);
        assert_eq!(read_encoded(cut, "gzip").await, Err(400));
        assert_eq!(read_encoded(b"[]".to_vec(), "br").await, Err(415));
        assert_eq!(read_encoded(b"[]".to_vec(), "gzip, gzip").await, Err(415));
    }

    /// A body of so many pieces of 1000 bytes.
    fn pieces(count: usize) -> impl Body<Data = Bytes, Error = std::convert::Infallible> + Unpin {
        let pieces =
            (0..count).map(|_| Ok(http_body::Frame::data(Bytes::from_static(&[b'x'; 1000]))));
        StreamBody::new(futures_util::stream::iter(pieces))
    }

    #[tokio::test]
    async fn a_body_in_pieces_is_put_together_up_to_the_limit() {
        let whole = read(pieces(100), &HeaderMap::new(), &limits()).await.unwrap();
        assert_eq!(whole.bytes.len(), 100_000);
        let problem = read(pieces(101), &HeaderMap::new(), &limits()).await.unwrap_err();
        assert_eq!(problem.into_response().status(), 413);
    }

    #[tokio::test]
    async fn bodies_share_a_memory_and_give_it_back() {
        let limits = BodyLimits { memory: Arc::new(Semaphore::new(50_000)), ..limits() };
        let headers = HeaderMap::new();
        // 90,000 bytes each, of which 65,536 are free.
        let first = read(pieces(90), &headers, &limits).await.unwrap();
        let second = read(pieces(90), &headers, &limits).await.unwrap();
        let problem = read(pieces(90), &headers, &limits).await.unwrap_err();
        assert_eq!(problem.into_response().status(), 503);
        assert!(read(pieces(65), &headers, &limits).await.is_ok(), "small ones always fit");
        drop(first);
        let third = read(pieces(90), &headers, &limits).await.unwrap();
        drop((second, third));
        assert_eq!(limits.memory.available_permits(), 50_000);
        // What it becomes counts too.
        let mut zipped = HeaderMap::new();
        zipped.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        let held = read(pieces(90), &headers, &limits).await.unwrap();
        let sent = Full::new(Bytes::from(gzip(&[b' '; 99_000])));
        let problem = read(sent.clone(), &zipped, &limits).await.unwrap_err();
        assert_eq!(problem.into_response().status(), 503);
        drop(held);
        assert_eq!(read(sent, &zipped, &limits).await.unwrap().bytes.len(), 99_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_and_a_trickle_both_end() {
        type Pieces = futures_util::stream::BoxStream<
            'static,
            Result<http_body::Frame<Bytes>, std::convert::Infallible>,
        >;
        let stalled: Pieces = Box::pin(futures_util::stream::pending());
        let trickle: Pieces = Box::pin(futures_util::stream::unfold((), |()| async {
            tokio::time::sleep(TIMEOUT / 2).await;
            Some((Ok(http_body::Frame::data(Bytes::from_static(b" "))), ()))
        }));
        for (body, seconds) in [(stalled, 30), (trickle, 300)] {
            let began = Instant::now();
            let read = read(StreamBody::new(body), &HeaderMap::new(), &limits()).await;
            assert_eq!(read.unwrap_err().into_response().status(), 408);
            assert_eq!(began.elapsed().as_secs(), seconds);
        }
    }
}
