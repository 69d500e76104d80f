//! Events as GMFY takes them, borrowed from the request's body.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The fields of an event that have a meaning here; others are skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WireEvent<'a> {
    pub(super) user_id: Cow<'a, str>,
    pub(super) event_type: Cow<'a, str>,
    pub(super) idempotence_key: Option<Cow<'a, str>>,
}

/// Why no event of a body is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadBody {
    /// The first event that is wrong, if it is an event.
    pub(super) index: Option<usize>,
    pub(super) message: String,
}

/// Parses the body of a single event.
pub(super) fn parse_one(body: &[u8]) -> Result<WireEvent<'_>, BadBody> {
    serde_json::from_slice(body)
        .map_err(|error| BadBody { index: None, message: error.to_string() })
}

/// Parses a JSON array of events: all of them or none.
pub(super) fn parse_batch(body: &[u8]) -> Result<Vec<WireEvent<'_>>, BadBody> {
    serde_json::from_slice(body).map_err(|error| first_bad(body, &error))
}

/// The JSON text of each event of a batch, which [`parse_batch`] has taken.
pub(super) fn texts(body: &str) -> Vec<&str> {
    let raw: Vec<&RawValue> = serde_json::from_str(body).unwrap_or_default();
    raw.into_iter().map(RawValue::get).collect()
}

/// Finds out which event was meant: a second look, for bad batches only.
fn first_bad(body: &[u8], error: &serde_json::Error) -> BadBody {
    texts(std::str::from_utf8(body).unwrap_or_default())
        .into_iter()
        .enumerate()
        .find_map(|(index, event)| {
            let message = serde_json::from_str::<WireEvent<'_>>(event).err()?.to_string();
            Some(BadBody { index: Some(index), message })
        })
        .unwrap_or_else(|| BadBody { index: None, message: error.to_string() })
}

/// Text that is borrowed unless it holds escapes; serde borrows a `Cow` only as a named field.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
#[serde(field_identifier)]
enum Field {
    #[serde(rename = "userId")]
    UserId,
    #[serde(rename = "type")]
    EventType,
    #[serde(rename = "idempotenceKey")]
    IdempotenceKey,
    #[serde(other)]
    Other,
}

// By hand, since a derived one would take an array in place of an object.
impl<'de> Deserialize<'de> for WireEvent<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EventVisitor)
    }
}

struct EventVisitor;

impl<'de> Visitor<'de> for EventVisitor {
    type Value = WireEvent<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event: an object with userId and type")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut user_id: Option<Text<'de>> = None;
        let mut event_type: Option<Text<'de>> = None;
        let mut idempotence_key: Option<Option<Text<'de>>> = None;
        while let Some(field) = map.next_key()? {
            let again = match field {
                Field::UserId => user_id.replace(map.next_value()?).is_some(),
                Field::EventType => event_type.replace(map.next_value()?).is_some(),
                Field::IdempotenceKey => idempotence_key.replace(map.next_value()?).is_some(),
                Field::Other => {
                    map.next_value::<IgnoredAny>()?;
                    false
                }
            };
            if again {
                return Err(A::Error::custom("userId, type and idempotenceKey stand once each"));
            }
        }
        let present = |text: Option<Text<'de>>, name| match text {
            Some(Text(text)) if !text.is_empty() => Ok(text),
            Some(_) => Err(A::Error::custom(format_args!("{name} is empty"))),
            None => Err(A::Error::missing_field(name)),
        };
        Ok(WireEvent {
            user_id: present(user_id, "userId")?,
            event_type: present(event_type, "type")?,
            idempotence_key: idempotence_key
                .flatten()
                .map(|Text(key)| key)
                .filter(|key| !key.is_empty()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_borrowed_and_its_other_fields_are_skipped() {
        let body = br#"{"userId":"1","x":{"y":[1e400]},"type":"visit_user","idempotenceKey":"k"}"#;
        let event = parse_one(body).unwrap();
        assert_eq!(event.event_type, "visit_user");
        assert!(matches!(event.user_id, Cow::Borrowed("1")));
        assert!(matches!(event.idempotence_key, Some(Cow::Borrowed("k"))));
        assert_eq!(parse_one(br#"{"userId":"\u0031","type":"t"}"#).unwrap().user_id, "1");
    }

    #[test]
    fn a_key_that_says_nothing_is_none() {
        for key in ["null", "\"\""] {
            let body = format!(r#"{{"userId":"1","type":"t","idempotenceKey":{key}}}"#);
            assert_eq!(parse_one(body.as_bytes()).unwrap().idempotence_key, None);
        }
    }

    #[test]
    fn bad_events_are_refused() {
        for body in [
            "",
            "nonsense",
            "[]",
            r#"["1","t"]"#,
            r#"{"type":"t"}"#,
            r#"{"userId":"1"}"#,
            r#"{"userId":"","type":"t"}"#,
            r#"{"userId":"1","type":""}"#,
            r#"{"userId":1,"type":"t"}"#,
            r#"{"userId":"1","type":"t","idempotenceKey":5}"#,
            r#"{"userId":"1","userId":"2","type":"t"}"#,
            r#"{"userId":"1","type":"t"} x"#,
        ] {
            assert!(parse_one(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn a_bad_batch_names_its_first_bad_event() {
        let good = r#"{"userId":"1","type":"t"}"#;
        let bad = parse_batch(format!(r#"[{good},{{"userId":"1"}},7]"#).as_bytes()).unwrap_err();
        assert_eq!(bad.index, Some(1));
        assert!(bad.message.contains("type"), "{}", bad.message);
        assert_eq!(parse_batch(br#"{"userId":"1","type":"t"}"#).unwrap_err().index, None);
        assert_eq!(parse_batch(b"[").unwrap_err().index, None);
        assert_eq!(parse_batch(b" [ ] ").unwrap(), []);
    }
}
