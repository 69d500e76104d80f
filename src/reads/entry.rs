//! One answer of GMFY, whole, as it is kept.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::time::Instant;

use super::asked::Encoding;
use super::epochs::Epoch;
use super::lifetime::Lifetime;

/// What an entry costs beside its key and bytes: its struct, the cache's own bookkeeping, and what
/// the allocator can't use between them. Measured in the process, over 100,000 of the smallest ones.
const OVERHEAD: usize = 1280;
/// What its bytes cost: the allocator leaves gaps where entries of other sizes were. Measured alike,
/// with sizes from 2 bytes to 40,000.
const GAPS: (usize, usize) = (3, 2);
/// What a compressed form costs beside its bytes.
const VARIANT: usize = 256;
/// A smaller body isn't worth compressing: it fits into one packet either way.
pub(super) const SMALLEST_COMPRESSED: usize = 1024;
/// Its compressed form must spare at least a tenth.
const WORTH_KEEPING: (usize, usize) = (9, 10);
/// Reads since the fetch that make an entry one that is refreshed before it expires.
const HOT: u32 = 5;
/// The last fifth of the fresh time is when that is done.
const LAST_PART: u32 = 5;
/// A background fetch for one entry begins at most so often.
const REFRESH_EVERY: Duration = Duration::from_secs(1);

/// What an entry is good for at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Fresh,
    /// To be given at once, and fetched again meanwhile.
    Revalidate,
    /// To be given when GMFY fails.
    IfError,
    Nothing,
}

/// A compressed form.
#[derive(Debug)]
pub(super) struct Variant {
    pub(super) body: Bytes,
    pub(super) etag: HeaderValue,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) status: StatusCode,
    /// Those of GMFY's headers that go to the caller.
    pub(super) headers: Box<[(HeaderName, HeaderValue)]>,
    pub(super) etag: HeaderValue,
    pub(super) body: Bytes,
    /// When its fetch began: what it says may be as old as that.
    pub(super) begun: Instant,
    pub(super) lifetime: Lifetime,
    pub(super) epoch: Epoch,
    pub(super) compressible: bool,
    hits: AtomicU32,
    /// Milliseconds after `begun` from which the next background fetch may begin.
    refresh_from: AtomicU64,
    gzip: OnceLock<Option<Variant>>,
    zstd: OnceLock<Option<Variant>>,
}

impl Entry {
    /// `headers` are GMFY's; the body must have no more capacity than it needs.
    pub(super) fn new(
        status: StatusCode,
        headers: &HeaderMap,
        body: Bytes,
        lifetime: Lifetime,
        (begun, epoch): (Instant, Epoch),
    ) -> Self {
        let hash = xxhash_rust::xxh3::xxh3_128(&body);
        let compressible = status == StatusCode::OK
            && body.len() >= SMALLEST_COMPRESSED
            && !headers.contains_key(CONTENT_ENCODING)
            && headers.get(CONTENT_TYPE).is_some_and(is_text);
        Self {
            status,
            headers: super::answer::passed_headers(headers),
            etag: tag(&format!("\"{hash:032x}\"")),
            body,
            begun,
            lifetime,
            epoch,
            compressible,
            hits: AtomicU32::new(0),
            refresh_from: AtomicU64::new(0),
            gzip: OnceLock::new(),
            zstd: OnceLock::new(),
        }
    }

    /// How old what it says may be.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.begun) + self.lifetime.aged
    }

    /// The fresh time left, in seconds, rounded down; negative when it is over.
    pub(super) fn ttl(&self, now: Instant) -> i64 {
        let passed = now.saturating_duration_since(self.begun);
        match self.lifetime.fresh.checked_sub(passed) {
            Some(left) => i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            None => {
                let over = passed.saturating_sub(self.lifetime.fresh);
                let seconds = over.as_secs() + u64::from(over.subsec_nanos() > 0);
                i64::try_from(seconds).map_or(i64::MIN, |seconds| -seconds)
            }
        }
    }

    /// What it is good for. `current` is the epoch of its subject now.
    pub(super) fn standing(&self, now: Instant, current: Epoch) -> Standing {
        let passed = now.saturating_duration_since(self.begun);
        let stale = passed.saturating_sub(self.lifetime.fresh);
        let superseded = current != self.epoch;
        if passed < self.lifetime.fresh && !superseded {
            Standing::Fresh
        } else if stale < self.lifetime.while_revalidate && !superseded {
            Standing::Revalidate
        } else if self.stands_in(now) {
            Standing::IfError
        } else {
            Standing::Nothing
        }
    }

    /// Whether it may be given in place of a failure.
    pub(super) fn stands_in(&self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.begun);
        passed.saturating_sub(self.lifetime.fresh) < self.lifetime.if_error
    }

    /// Counts a read; returns whether the entry is in such demand, and so near its end, that it is
    /// to be fetched again.
    pub(super) fn hit(&self, now: Instant) -> bool {
        let hits = self.hits.fetch_add(1, Ordering::Relaxed);
        let fresh = self.lifetime.fresh;
        let left = fresh.saturating_sub(now.saturating_duration_since(self.begun));
        hits >= HOT && left < fresh / LAST_PART
    }

    /// Whether a background fetch may begin; if so, the next one has to wait.
    pub(super) fn takes_refresh(&self, now: Instant) -> bool {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let passed = now.saturating_duration_since(self.begun);
        let from = self.refresh_from.load(Ordering::Relaxed);
        millis(passed) >= from
            && self
                .refresh_from
                .compare_exchange(
                    from,
                    millis(passed + REFRESH_EVERY),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_ok()
    }

    /// The compressed form, if it was made: none in it where it isn't worth having.
    pub(super) fn variant(&self, encoding: Encoding) -> Option<Option<&Variant>> {
        self.slot(encoding).get().map(Option::as_ref)
    }

    /// Makes the compressed form, or finds that it isn't worth having. Takes some 10 ms a MiB.
    pub(super) fn compress(&self, encoding: Encoding) {
        self.slot(encoding).get_or_init(|| {
            let body = compressed(&self.body, encoding)?;
            let (part, whole) = WORTH_KEEPING;
            if body.len() > self.body.len() / whole * part {
                return None;
            }
            let plain = self.etag.to_str().unwrap_or_default().trim_matches('"');
            let etag = tag(&format!("\"{plain}-{}\"", encoding.as_str()));
            Some(Variant { body: body.into_boxed_slice().into(), etag })
        });
    }

    const fn slot(&self, encoding: Encoding) -> &OnceLock<Option<Variant>> {
        match encoding {
            Encoding::Gzip => &self.gzip,
            Encoding::Zstd => &self.zstd,
        }
    }

    /// What it costs in memory, its key of `key` bytes included.
    pub(super) fn weight(&self, key: usize) -> u32 {
        let variants = [&self.gzip, &self.zstd].into_iter().filter_map(|slot| slot.get()?.as_ref());
        let variants = variants.map(|variant| variant.body.len() + VARIANT).sum::<usize>();
        let values: usize = self.headers.iter().map(|(_, value)| value.len()).sum();
        let weight = OVERHEAD + (key + values + self.body.len() + variants) * GAPS.0 / GAPS.1;
        u32::try_from(weight).unwrap_or(u32::MAX)
    }
}

fn is_text(content_type: &HeaderValue) -> bool {
    let media = content_type.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    let media = media.trim().to_ascii_lowercase();
    media == "application/json" || media.ends_with("+json") || media.starts_with("text/")
}

fn tag(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}

fn compressed(body: &[u8], encoding: Encoding) -> Option<Vec<u8>> {
    use std::io::Write as _;
    match encoding {
        Encoding::Gzip => {
            let level = flate2::Compression::new(5);
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(body).ok()?;
            encoder.finish().ok()
        }
        Encoding::Zstd => zstd::bulk::compress(body, 3).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reads::epochs::{Epochs, Subject};

    const SECOND: Duration = Duration::from_secs(1);

    fn entry(epochs: &Epochs, content_type: &'static str, body: Vec<u8>) -> Entry {
        let lifetime = Lifetime {
            aged: SECOND * 3,
            fresh: SECOND * 5,
            while_revalidate: SECOND * 10,
            if_error: SECOND * 60,
        };
        let headers =
            HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))]);
        let born = (Instant::now(), epochs.of(Subject::user("1")));
        Entry::new(StatusCode::OK, &headers, body.into(), lifetime, born)
    }

    #[tokio::test(start_paused = true)]
    async fn its_standing_follows_from_its_age_and_from_what_changed() {
        let epochs = Epochs::new();
        let entry = entry(&epochs, "application/json", b"[]".to_vec());
        let current = epochs.of(Subject::user("1"));
        epochs.supersede(Subject::user("1"));
        let changed = epochs.of(Subject::user("1"));
        let millis = |millis| entry.begun + Duration::from_millis(millis);
        for (at, standing, superseded, ttl) in [
            (0, Standing::Fresh, Standing::IfError, 5),
            (4_999, Standing::Fresh, Standing::IfError, 0),
            (5_000, Standing::Revalidate, Standing::IfError, 0),
            (5_001, Standing::Revalidate, Standing::IfError, -1),
            (14_999, Standing::Revalidate, Standing::IfError, -10),
            (15_000, Standing::IfError, Standing::IfError, -10),
            (64_999, Standing::IfError, Standing::IfError, -60),
            (65_000, Standing::Nothing, Standing::Nothing, -60),
        ] {
            assert_eq!(entry.standing(millis(at), current), standing, "{at}");
            assert_eq!(entry.standing(millis(at), changed), superseded, "{at}");
            assert_eq!(entry.ttl(millis(at)), ttl, "{at}");
        }
        assert_eq!(entry.age(millis(1_500)), Duration::from_millis(4_500));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_hot_near_its_end_and_refreshed_once_a_second() {
        let entry = entry(&Epochs::new(), "application/json", Vec::new());
        let late = entry.begun + SECOND * 4 + Duration::from_millis(1);
        for _ in 0..HOT {
            assert!(!entry.hit(late));
        }
        assert!(!entry.hit(entry.begun), "not near its end");
        assert!(entry.hit(late));
        assert!(entry.takes_refresh(late));
        assert!(!entry.takes_refresh(late));
        assert!(entry.takes_refresh(late + REFRESH_EVERY));
    }

    #[tokio::test]
    async fn compressed_forms_are_made_where_they_spare_something() {
        let epochs = Epochs::new();
        let text = "{\"a\":1}".repeat(200).into_bytes();
        let one = entry(&epochs, "application/json; charset=utf-8", text.clone());
        assert!(one.compressible);
        let light = one.weight(1);
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            assert!(one.variant(encoding).is_none());
            one.compress(encoding);
            let variant = one.variant(encoding).flatten().unwrap();
            assert!(variant.body.len() < text.len() / 5);
            assert_ne!(variant.etag, one.etag);
        }
        assert!(one.weight(1) > light, "what is kept is weighed");
        let noise: Vec<u8> = (0..2000_u32)
            .flat_map(|n| rand::random::<u32>().wrapping_add(n).to_le_bytes())
            .collect();
        let noise = entry(&epochs, "text/plain", noise);
        noise.compress(Encoding::Gzip);
        assert!(noise.variant(Encoding::Gzip).is_some_and(|variant| variant.is_none()));
        assert!(!entry(&epochs, "application/json", vec![b' '; 1023]).compressible);
        assert!(!entry(&epochs, "image/png", vec![b' '; 5000]).compressible);
    }
}
