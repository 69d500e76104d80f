//! JSON's grammar: from a body to its elements, from an element to its fields. All that comes out
//! is a slice of the body, white space around it trimmed.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use smallvec::SmallVec;

use super::BodyError;
use super::plain::Plain;

/// How deep an event may nest, itself counted. The batch around it adds a level, and then it is
/// what serde_json, among others, still takes at its defaults.
pub(super) const MAX_DEPTH: usize = 126;

/// A text that should be JSON, and where in the body it begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    text: &'a str,
    /// Its first line's number in the body, from 1.
    line: usize,
}

/// A field of an object.
#[derive(Debug)]
pub(super) struct Field<'a> {
    /// Decoded. In bytes, since JSON's grammar lets a name hold half a surrogate pair, which has
    /// no UTF-8 (it is written as WTF-8 here).
    pub(super) key: Cow<'a, [u8]>,
    /// As sent, with its quotes.
    pub(super) raw_key: &'a str,
    /// As sent.
    pub(super) value: &'a str,
}

/// An object's fields; those of nearly every event need no memory of their own.
pub(super) type Fields<'a> = SmallVec<[Field<'a>; 8]>;

impl<'a> Source<'a> {
    pub(super) fn of_body(body: &'a [u8]) -> Result<Self, BodyError> {
        match std::str::from_utf8(body) {
            Ok(text) => Ok(Self { text, line: 1 }),
            Err(error) => Err(BodyError::NotJson(format!(
                "the body must be UTF-8, and isn't at byte {}",
                error.valid_up_to()
            ))),
        }
    }

    /// The lines that aren't blank.
    pub(super) fn lines(self) -> impl Iterator<Item = Self> {
        self.text
            .split('\n')
            .enumerate()
            .map(move |(place, text)| Self { text, line: self.line + place })
            .filter(|line| line.text.bytes().any(|byte| !matches!(byte, b' ' | b'\t' | b'\r')))
    }

    /// The first character of the value, if there is one.
    pub(super) fn first_byte(self) -> Option<u8> {
        self.text.bytes().find(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
    }

    /// The one value that this is.
    pub(super) fn value(self) -> Result<&'a str, BodyError> {
        if self.first_byte().is_none() {
            return Err(BodyError::NotJson("the body is empty".to_owned()));
        }
        match serde_json::from_str::<&RawValue>(self.text) {
            Ok(raw) => Ok(raw.get()),
            Err(error) => Err(self.not_json(&error)),
        }
    }

    /// Hands on each element of the array that this is, until `each` refuses one.
    pub(super) fn elements(
        self,
        each: impl FnMut(&'a str) -> Result<(), BodyError>,
    ) -> Result<(), BodyError> {
        let mut refused = None;
        let mut json = serde_json::Deserializer::from_str(self.text);
        json.deserialize_seq(Elements { each, refused: &mut refused })
            .and_then(|()| json.end())
            .map_err(|error| refused.unwrap_or_else(|| self.not_json(&error)))
    }

    /// Itself, to be read in one pass where its objects are plain and no longer than this.
    pub(super) const fn plain(self, longest: usize) -> Plain<'a> {
        Plain::new(self.text, longest)
    }

    /// The one object that this is, if it is one at all: valid if its fields are.
    pub(super) fn object(self) -> Option<&'a str> {
        let text = self.text.trim_matches([' ', '\t', '\r', '\n']);
        text.starts_with('{').then_some(text)
    }

    /// Replaces `fields` by those of `object`, an object of this source.
    pub(super) fn fields(self, object: &'a str, fields: &mut Fields<'a>) -> Result<(), BodyError> {
        match Plain::new(object, usize::MAX).only_object(fields) {
            Some(_) => Ok(()),
            None => self.fields_of_any(object, fields),
        }
    }

    /// The same, of any object: it may nest.
    pub(super) fn fields_of_any(
        self,
        object: &'a str,
        fields: &mut Fields<'a>,
    ) -> Result<(), BodyError> {
        fields.clear();
        let mut json = serde_json::Deserializer::from_str(object);
        json.deserialize_map(Collect(fields))
            .and_then(|()| json.end())
            .map_err(|error| Self { text: object, line: self.line }.not_json(&error))?;
        // What is flat, as nearly every event is, isn't looked at again.
        fields.iter().try_for_each(|field| self.check_depth(field.value, MAX_DEPTH - 1))
    }

    /// Refuses a part of this source, valid JSON, that nests deeper than `levels`.
    pub(super) fn check_depth(self, part: &'a str, levels: usize) -> Result<(), BodyError> {
        let Some(within) = first_too_deep(part, levels) else { return Ok(()) };
        let start = (part.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        let before = self.text.as_bytes().get(..start + within).unwrap_or_default();
        let line = self.line + before.iter().filter(|byte| **byte == b'\n').count();
        let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
        Err(BodyError::NotJson(format!(
            "an event may nest {MAX_DEPTH} levels deep, and this nests deeper at line {line} \
             column {column}"
        )))
    }

    fn not_json(self, error: &serde_json::Error) -> BodyError {
        let (line, column) = (error.line(), error.column());
        let text = error.to_string();
        let reason =
            text.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&text);
        let line = self.line + line.saturating_sub(1);
        BodyError::NotJson(format!("not JSON: {reason} at line {line} column {column}"))
    }
}

/// Decodes a JSON string, quotes included; what isn't one comes back as it is. Halves of surrogate
/// pairs come out as WTF-8.
pub(super) fn decode(raw: &str) -> Cow<'_, [u8]> {
    let inner = inner_text(raw);
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Cow::Borrowed(inner.as_bytes());
    }
    match serde_json::Deserializer::from_str(raw).deserialize_bytes(Bytes) {
        Ok(decoded) => Cow::Owned(decoded),
        Err(_) => Cow::Borrowed(inner.as_bytes()),
    }
}

/// A raw string without its quotes.
pub(super) fn inner_text(raw: &str) -> &str {
    raw.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(raw)
}

/// Where valid JSON opens the first level beyond `levels`. Not by recursion, whose stack a hostile
/// body could exhaust.
fn first_too_deep(json: &str, levels: usize) -> Option<usize> {
    let bytes = json.as_bytes();
    if !matches!(bytes.first(), Some(b'{' | b'[')) {
        return None;
    }
    let (mut depth, mut at, mut in_string) = (0_usize, 0, false);
    while let Some(byte) = bytes.get(at) {
        match (in_string, byte) {
            // The escaped character is never looked at.
            (true, b'\\') => at += 1,
            (_, b'"') => in_string = !in_string,
            (false, b'{' | b'[') if depth == levels => return Some(at),
            (false, b'{' | b'[') => depth += 1,
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    None
}

/// Visits an array; the deserialiser has no way to be stopped but by an error.
struct Elements<'r, F> {
    each: F,
    refused: &'r mut Option<BodyError>,
}

impl<'a, F: FnMut(&'a str) -> Result<(), BodyError>> Visitor<'a> for Elements<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'a>>(mut self, mut array: A) -> Result<(), A::Error> {
        while let Some(raw) = array.next_element::<&RawValue>()? {
            if let Err(error) = (self.each)(raw.get()) {
                *self.refused = Some(error);
                return Err(A::Error::custom("refused"));
            }
        }
        Ok(())
    }
}

struct Collect<'f, 'a>(&'f mut Fields<'a>);

impl<'a> Visitor<'a> for Collect<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut object: A) -> Result<(), A::Error> {
        while let Some((raw_key, value)) = object.next_entry::<&RawValue, &RawValue>()? {
            let (raw_key, value) = (raw_key.get(), value.get());
            self.0.push(Field { key: decode(raw_key), raw_key, value });
        }
        Ok(())
    }
}

struct Bytes;

impl Visitor<'_> for Bytes {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }
}
