//! The objects that nearly every event is, read in one pass: flat, of strings, numbers and literals.
//!
//! What it takes is what serde_json takes, read alike (the properties hold that); of anything else,
//! be it valid or not, it says nothing, and the general reader of `syntax` judges. So every text of
//! an error is that one's. Read so, an event takes about half the
//! instructions that it took in those passes: docs/performance.md.

use std::borrow::Cow;

use super::syntax::{Field, Fields, decode};

/// A text, and how far it is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plain<'a> {
    text: &'a str,
    at: usize,
    /// A longer object is left, before its fields take memory.
    longest: usize,
}

impl<'a> Plain<'a> {
    pub(super) const fn new(text: &'a str, longest: usize) -> Self {
        Self { text, at: 0, longest }
    }

    /// Reads the elements of the one array that the text is; `each` gets an object's text, its
    /// fields in `fields`. None where anything isn't plain, or `each` returns none.
    pub(super) fn array(
        mut self,
        fields: &mut Fields<'a>,
        mut each: impl FnMut(&'a str, &Fields<'a>) -> Option<()>,
    ) -> Option<()> {
        self.blank();
        self.pass(b'[')?;
        loop {
            self.blank();
            let object = self.object(fields)?;
            each(object, fields)?;
            self.blank();
            match self.next()? {
                b',' => {}
                b']' => break,
                _ => return None,
            }
        }
        self.end()
    }

    /// Reads the one object that the text is.
    pub(super) fn only_object(mut self, fields: &mut Fields<'a>) -> Option<&'a str> {
        self.blank();
        let object = self.object(fields)?;
        self.end()?;
        Some(object)
    }

    /// Replaces `fields` by those of the object that begins here, and passes it.
    fn object(&mut self, fields: &mut Fields<'a>) -> Option<&'a str> {
        fields.clear();
        let start = self.at;
        self.pass(b'{')?;
        loop {
            self.blank();
            let (raw_key, is_escaped) = self.string()?;
            let key = if is_escaped {
                decode(raw_key)
            } else {
                Cow::Borrowed(raw_key.get(1..raw_key.len() - 1)?.as_bytes())
            };
            self.blank();
            self.pass(b':')?;
            self.blank();
            let value = self.value()?;
            if self.at - start > self.longest {
                return None;
            }
            fields.push(Field { key, raw_key, value });
            self.blank();
            match self.next()? {
                b',' => {}
                b'}' => break,
                _ => return None,
            }
        }
        self.text.get(start..self.at)
    }

    fn value(&mut self) -> Option<&'a str> {
        let start = self.at;
        match self.peek()? {
            b'"' => return Some(self.string()?.0),
            b'-' | b'0'..=b'9' => self.number()?,
            b't' => self.literal("true")?,
            b'f' => self.literal("false")?,
            b'n' => self.literal("null")?,
            _ => return None,
        }
        self.text.get(start..self.at)
    }

    /// Passes a string; returns it with its quotes, and whether anything in it is escaped.
    fn string(&mut self) -> Option<(&'a str, bool)> {
        let start = self.at;
        let mut is_escaped = false;
        self.pass(b'"')?;
        loop {
            self.at += ordinary(self.text.as_bytes().get(self.at..)?);
            match self.next()? {
                b'"' => break,
                b'\\' => {
                    is_escaped = true;
                    self.escape()?;
                }
                // A control character.
                _ => return None,
            }
        }
        Some((self.text.get(start..self.at)?, is_escaped))
    }

    /// Passes what stands behind a backslash. Halves of surrogate pairs are whoever decodes it's.
    fn escape(&mut self) -> Option<()> {
        match self.next()? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(()),
            b'u' => {
                let digits: &[u8; 4] = self.rest().first_chunk()?;
                self.at += digits.len();
                digits.iter().all(u8::is_ascii_hexdigit).then_some(())
            }
            _ => None,
        }
    }

    /// RFC 8259 §6.
    fn number(&mut self) -> Option<()> {
        self.skip(b'-');
        if !self.skip(b'0') {
            self.digits()?;
        }
        if self.skip(b'.') {
            self.digits()?;
        }
        if self.skip(b'e') || self.skip(b'E') {
            let _has_sign = self.skip(b'+') || self.skip(b'-');
            self.digits()?;
        }
        Some(())
    }

    /// Passes at least one digit.
    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    fn literal(&mut self, literal: &str) -> Option<()> {
        self.rest().starts_with(literal.as_bytes()).then(|| self.at += literal.len())
    }

    fn blank(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Whether nothing but white space is left.
    fn end(&mut self) -> Option<()> {
        self.blank();
        self.peek().is_none().then_some(())
    }

    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn pass(&mut self, byte: u8) -> Option<()> {
        self.skip(byte).then_some(())
    }

    fn skip(&mut self, byte: u8) -> bool {
        let is_there = self.peek() == Some(byte);
        self.at += usize::from(is_there);
        is_there
    }
}

/// How many bytes stand before the first that ends a string, escapes in it, or isn't allowed.
fn ordinary(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(eight) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        let special = special(u64::from_le_bytes(*eight));
        if special != 0 {
            return at + (special.trailing_zeros() / 8) as usize;
        }
        at += eight.len();
    }
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().take_while(|byte| !matches!(byte, b'"' | b'\\' | 0..=0x1f)).count()
}

/// Bits of which the lowest is in the first of eight bytes that is a quote, a backslash or a control
/// character; none where there is no such byte. Higher bits may stand anywhere: a subtraction
/// borrows from the bytes above the one that it finds.
const fn special(eight: u64) -> u64 {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    const fn zero(eight: u64) -> u64 {
        eight.wrapping_sub(ONES) & !eight
    }
    let quote = zero(eight ^ (ONES * b'"' as u64));
    let backslash = zero(eight ^ (ONES * b'\\' as u64));
    let control = eight.wrapping_sub(ONES * 0x20) & !eight;
    (quote | backslash | control) & HIGHS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    fn only_object(text: &str) -> Option<(&str, Vec<(&str, &str)>)> {
        let mut fields = Fields::new();
        let object = Plain::new(text, usize::MAX).only_object(&mut fields)?;
        Some((object, fields.iter().map(|field| (field.raw_key, field.value)).collect()))
    }

    #[test]
    fn plain_objects_are_taken_and_others_left() {
        for text in [
            r#"{"a":"b"}"#,
            r#"{"a":"\"\\\/\b\f\n\r\t\u00e9\ud800", "é":"🎈"}"#,
            r#"{"":0,"b":-0.10e+7,"c":1E400,"d":true,"e":false,"f":null}"#,
        ] {
            let (object, fields) = only_object(text).unwrap();
            assert_eq!(object, text);
            assert!(!fields.is_empty());
            assert!(serde_json::from_str::<&RawValue>(text).is_ok());
        }
        let spaced = " \t{ \"a\" :\r 1 ,\n \"b\":2 }\n";
        assert_eq!(only_object(spaced).unwrap().0, spaced.trim());
        // Empty or nested, or no JSON.
        for text in [
            "{}",
            r#"{"a":{}}"#,
            r#"{"a":[1]}"#,
            "",
            "{",
            r#"{"a""#,
            r#"{"a":"#,
            r#"{"a":1"#,
            r#"{"a":1,}"#,
            r#"{"a":01}"#,
            r#"{"a":1.}"#,
            r#"{"a":.5}"#,
            r#"{"a":-}"#,
            r#"{"a":1e}"#,
            r#"{"a":+1}"#,
            r#"{"a":tru}"#,
            r#"{"a":nulll}"#,
            r#"{"a":"\x"}"#,
            r#"{"a":"\u00g0"}"#,
            r#"{"a":"\u00"#,
            "{\"a\":\"\u{1f}\"}",
            "{\"a\":\"\n\"}",
            r#"{"a":"b}"#,
            r#"{a:1}"#,
            r#"{"a":1} x"#,
            r#"{"a":1}{"#,
            "{\"a\":1}\u{a0}",
        ] {
            assert_eq!(only_object(text), None, "{text}");
        }
    }

    #[test]
    fn fields_beyond_the_limit_are_not_collected() {
        let text = format!("{{\"a\":0{}}}", ",\"\":0".repeat(1000));
        let mut fields = Fields::new();
        assert!(Plain::new(&text, text.len()).only_object(&mut fields).is_some());
        assert_eq!(fields.len(), 1001);
        assert!(Plain::new(&text, 60).only_object(&mut fields).is_none());
        assert!(fields.len() <= 60 / 5, "{}", fields.len());
    }

    proptest! {
        #[test]
        fn the_first_special_byte_is_found(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let first = bytes.iter().position(|b| matches!(b, b'"' | b'\\' | 0..=0x1f));
            prop_assert_eq!(ordinary(&bytes), first.unwrap_or(bytes.len()));
        }
    }
}
