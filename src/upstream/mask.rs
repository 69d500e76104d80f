//! Masks GMFY's key in what GMFY sends back: some servers and proxies repeat a request in their
//! errors, and those are kept with dead letters, logged, and passed on.

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use http::HeaderValue;
use memchr::memmem;

use super::SendError;

const MASK: &[u8] = b"***";
/// Shorter keys are words of their own, and would mask what is none.
const SHORTEST: usize = 8;
/// A key's beginning, cut off, is masked from this length on.
const SHORTEST_BEGINNING: usize = 4;

/// Masks the key in the beginning of a body, which may end within the key.
pub(super) fn beginning(body: Bytes, key: &HeaderValue) -> Bytes {
    let key = key.as_bytes();
    let mut masked = whole(body, key);
    let cut = beginning_at_end(&masked, key);
    if cut >= SHORTEST_BEGINNING {
        masked = [masked.get(..masked.len() - cut).unwrap_or_default(), MASK].concat().into();
    }
    masked
}

/// Masks the key in a body that comes in parts.
pub(super) fn parts(
    body: BoxStream<'static, Result<Bytes, SendError>>,
    key: HeaderValue,
) -> BoxStream<'static, Result<Bytes, SendError>> {
    if key.len() < SHORTEST {
        return body;
    }
    // What may be a key's beginning is held back until more has come.
    stream::unfold((Some(body), Bytes::new(), key), |(body, held, key)| async move {
        let mut body = body?;
        match body.next().await {
            Some(Ok(part)) => {
                let part = if held.is_empty() { part } else { [held, part].concat().into() };
                let mut masked = whole(part, key.as_bytes());
                let held =
                    masked.split_off(masked.len() - beginning_at_end(&masked, key.as_bytes()));
                Some((Ok(masked), (Some(body), held, key)))
            }
            Some(Err(error)) => Some((Err(error), (None, held, key))),
            None if held.is_empty() => None,
            None => Some((Ok(held), (None, Bytes::new(), key))),
        }
    })
    .boxed()
}

fn whole(text: Bytes, key: &[u8]) -> Bytes {
    if key.len() < SHORTEST {
        return text;
    }
    let mut masked = Vec::new();
    let mut rest = 0;
    for at in memmem::find_iter(&text, key) {
        masked.extend_from_slice(text.get(rest..at).unwrap_or_default());
        masked.extend_from_slice(MASK);
        rest = at + key.len();
    }
    if rest == 0 {
        return text;
    }
    masked.extend_from_slice(text.get(rest..).unwrap_or_default());
    masked.into()
}

/// How many bytes at the end of `text` are the key's beginning.
fn beginning_at_end(text: &[u8], key: &[u8]) -> usize {
    if key.len() < SHORTEST {
        return 0;
    }
    let longest = text.len().min(key.len() - 1);
    (1..=longest)
        .rev()
        .find(|length| key.get(..*length).is_some_and(|k| text.ends_with(k)))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::TryStreamExt as _;
    use proptest::prelude::*;

    const KEY: HeaderValue = HeaderValue::from_static("abcabcabd");

    fn masked_parts(parts_of: Vec<Bytes>) -> Bytes {
        let stream = stream::iter(parts_of.into_iter().map(Ok)).boxed();
        let masked = parts(stream, KEY).try_collect::<Vec<_>>();
        let masked = futures_util::FutureExt::now_or_never(masked).unwrap().unwrap();
        masked.concat().into()
    }

    #[test]
    fn a_key_is_masked_wherever_it_stands() {
        for (text, expected) in [
            ("", ""),
            ("no key: abcabcab", "no key: ***"),
            ("abcabcabd", "***"),
            ("abcabcabcabd, and abcabcabd!", "abc***, and ***!"),
            ("cut off: abcabc", "cut off: ***"),
            ("too little: abc", "too little: abc"),
        ] {
            assert_eq!(beginning(Bytes::from(text), &KEY), expected, "{text}");
        }
        let short = HeaderValue::from_static("key");
        assert_eq!(beginning(Bytes::from("no key at all"), &short), "no key at all");
    }

    proptest! {
        #[test]
        fn in_parts_it_is_masked_as_in_one(text in "[abcd]{0,30}(abcabcabd)?[abcd]{0,9}", cuts in prop::collection::vec(0..40_usize, 0..5)) {
            let expected = text.replace("abcabcabd", "***");
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let text = Bytes::from(text);
            let parts = cuts.windows(2).map(|cut| text.slice(cut[0]..cut[1])).collect();
            prop_assert_eq!(masked_parts(parts), expected);
        }
    }
}
