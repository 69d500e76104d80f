//! What the simulator does wrong on purpose, and its JSON for the control route.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode};
use serde_json::{Map, Value, json};

use super::units::{format_duration, parse_duration, parse_rate, share};

/// How many scripted answers can wait.
const SCRIPT_MAX: usize = 10_000;

/// Faults of a simulated GMFY. The default is none.
///
/// For each request they are looked at in this order: `down`, `latency`, `stall`, `script`,
/// `status`, then the key is checked, then `rate_limit`, `error_rate`, `drop_before_applying`;
/// then the request takes effect (`max_batch` and `reject_types` may refuse it); then
/// `drop_after_applying`. Shares are from 0 to 1 and drawn from the seeded generator.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// How long each answer is held back.
    pub latency: Duration,
    /// The share of requests that are answered 500 and have no effect.
    pub error_rate: f64,
    /// Requests a second, with a burst of one second's worth; more are answered 429 with
    /// `Retry-After`.
    pub rate_limit: Option<f64>,
    /// A request with an event of one of these types is refused whole, with 422.
    pub reject_types: BTreeSet<String>,
    /// A batch of more events is refused with 413.
    pub max_batch: Option<usize>,
    /// Connections are closed without being read, and those that are open are cut.
    pub down: bool,
    /// The share of requests that are read and never answered.
    pub stall: f64,
    /// The answer to everything, without effect.
    pub status: Option<StatusCode>,
    /// `Retry-After` of `status`, and of 429 instead of the seconds that are left.
    pub retry_after: Option<HeaderValue>,
    /// The share of requests whose connection is cut after they were read, without effect.
    pub drop_before_applying: f64,
    /// The share of requests whose connection is cut after they have taken effect.
    pub drop_after_applying: f64,
    /// The faults (but `down`, `max_batch` and `reject_types`) concern only paths that begin so.
    pub only: Option<String>,
    /// The next answers, one a request.
    pub script: VecDeque<Scripted>,
}

/// An answer given once, instead of the usual one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scripted {
    /// A 2xx means that the request is handled as usual.
    pub status: StatusCode,
    pub retry_after: Option<HeaderValue>,
    /// Sent as JSON; by default one that names the status.
    pub body: Option<String>,
    /// Whether the request takes effect although the status says otherwise.
    pub applies: bool,
}

impl Scripted {
    /// The status alone, without effect.
    #[must_use]
    pub const fn status(status: StatusCode) -> Self {
        Self { status, retry_after: None, body: None, applies: false }
    }

    /// The same with a `Retry-After`.
    #[must_use]
    pub fn retry_after(mut self, value: HeaderValue) -> Self {
        self.retry_after = Some(value);
        self
    }

    /// The same with a body.
    #[must_use]
    pub fn body(mut self, body: impl Into<String>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// The same after the request has taken effect.
    #[must_use]
    pub const fn applying(mut self) -> Self {
        self.applies = true;
        self
    }
}

/// A field of the faults' JSON that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct FaultsError {
    /// The field; empty where the document as a whole is wrong.
    pub field: String,
    /// What was expected.
    pub message: String,
}

const FIELDS: [&str; 13] = [
    "latency",
    "error_rate",
    "rate_limit",
    "reject_types",
    "max_batch",
    "down",
    "stall",
    "status",
    "retry_after",
    "drop_before_applying",
    "drop_after_applying",
    "only",
    "script",
];

impl Faults {
    /// Whether the faults concern a request of this path.
    pub(super) fn concern(&self, path: &str) -> bool {
        self.only.as_deref().is_none_or(|start| path.starts_with(start))
    }

    /// All fields, as the control route shows them.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "latency": format_duration(self.latency),
            "error_rate": self.error_rate,
            "rate_limit": self.rate_limit.map(|rate| format!("{rate}/s")),
            "reject_types": self.reject_types,
            "max_batch": self.max_batch,
            "down": self.down,
            "stall": self.stall,
            "status": self.status.map(|status| status.as_u16()),
            "retry_after": self.retry_after.as_ref().and_then(|value| value.to_str().ok()),
            "drop_before_applying": self.drop_before_applying,
            "drop_after_applying": self.drop_after_applying,
            "only": self.only,
            "script": self.script.iter().map(scripted_json).collect::<Vec<_>>(),
        })
    }

    /// These faults with the fields that `json` names; null sets a field back to its default.
    /// `error-rate` is `error_rate`, `reject_type` is `reject_types`: the flags' names do too.
    ///
    /// # Errors
    /// The first field that is wrong, or unknown.
    pub fn patched(mut self, json: &[u8]) -> Result<Self, FaultsError> {
        let fields: Map<String, Value> = serde_json::from_slice(json).map_err(|error| {
            let message = format!("expected a JSON object of faults ({error})");
            FaultsError { field: String::new(), message }
        })?;
        for (field, value) in fields {
            self.set(&field, &value).map_err(|message| FaultsError { field, message })?;
        }
        Ok(self)
    }

    fn set(&mut self, field: &str, value: &Value) -> Result<(), String> {
        let absent = value.is_null();
        match field.replace('-', "_").as_str() {
            "latency" if absent => self.latency = Duration::ZERO,
            "latency" => self.latency = parse_duration(text(value, "a time like \"20ms\"")?)?,
            "error_rate" => self.error_rate = share_of(value)?,
            "rate_limit" if absent => self.rate_limit = None,
            "rate_limit" => self.rate_limit = Some(rate_of(value)?),
            "reject_types" | "reject_type" => self.reject_types = types_of(value)?,
            "max_batch" if absent => self.max_batch = None,
            "max_batch" => self.max_batch = Some(count_of(value)?),
            "down" => {
                self.down = !absent && value.as_bool().ok_or("expected true or false")?;
            }
            "stall" => self.stall = share_of(value)?,
            "status" if absent => self.status = None,
            "status" => self.status = Some(status_of(value)?),
            "retry_after" if absent => self.retry_after = None,
            "retry_after" => self.retry_after = Some(header_of(value)?),
            "drop_before_applying" => self.drop_before_applying = share_of(value)?,
            "drop_after_applying" => self.drop_after_applying = share_of(value)?,
            "only" if absent => self.only = None,
            "only" => self.only = Some(text(value, "the start of a path")?.to_owned()),
            "script" if absent => self.script.clear(),
            "script" => self.script = script_of(value)?,
            unknown => return Err(unknown_field(unknown)),
        }
        Ok(())
    }
}

fn unknown_field(field: &str) -> String {
    let near = FIELDS
        .iter()
        .map(|known| (strsim::jaro_winkler(known, field), known))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    match near {
        Some((_, known)) => format!("there is no such fault; did you mean {known}?"),
        None => format!("there is no such fault; there are {}", FIELDS.join(", ")),
    }
}

fn text<'a>(value: &'a Value, what: &str) -> Result<&'a str, String> {
    value.as_str().ok_or_else(|| format!("expected {what}, as a string"))
}

/// A share; `true` is all, `false` and null are none.
fn share_of(value: &Value) -> Result<f64, String> {
    let number = match value {
        Value::Null | Value::Bool(false) => Some(0.0),
        Value::Bool(true) => Some(1.0),
        Value::Number(number) => number.as_f64(),
        Value::String(_) | Value::Array(_) | Value::Object(_) => None,
    };
    number.and_then(share).ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

fn rate_of(value: &Value) -> Result<f64, String> {
    match value.as_f64() {
        Some(rate) if rate > 0.0 => Ok(rate),
        Some(_) => Err("expected a rate above 0".to_owned()),
        None => parse_rate(text(value, "a rate like \"100/s\"")?),
    }
}

fn count_of(value: &Value) -> Result<usize, String> {
    value
        .as_u64()
        .and_then(|count| usize::try_from(count).ok())
        .filter(|count| *count > 0)
        .ok_or_else(|| "expected a whole number above 0".to_owned())
}

fn types_of(value: &Value) -> Result<BTreeSet<String>, String> {
    let expected = || "expected a list of event types, as strings".to_owned();
    match value {
        Value::Null => Ok(BTreeSet::new()),
        Value::String(one) => Ok(BTreeSet::from([one.clone()])),
        Value::Array(types) => {
            types.iter().map(|name| name.as_str().map(str::to_owned).ok_or_else(expected)).collect()
        }
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => Err(expected()),
    }
}

fn status_of(value: &Value) -> Result<StatusCode, String> {
    value
        .as_u64()
        .and_then(|status| u16::try_from(status).ok())
        .filter(|status| (200..600).contains(status))
        .and_then(|status| StatusCode::from_u16(status).ok())
        .ok_or_else(|| "expected an HTTP status from 200 to 599".to_owned())
}

/// A header's value; a number of seconds may be written as a number.
fn header_of(value: &Value) -> Result<HeaderValue, String> {
    let expected = || "expected seconds or an HTTP date".to_owned();
    match (value.as_u64(), value.as_str()) {
        (Some(seconds), _) => Ok(HeaderValue::from(seconds)),
        (None, Some(text)) => HeaderValue::from_str(text).map_err(|_| expected()),
        (None, None) => Err(expected()),
    }
}

fn script_of(value: &Value) -> Result<VecDeque<Scripted>, String> {
    let answers = value.as_array().ok_or("expected a list of statuses or answers")?;
    if answers.len() > SCRIPT_MAX {
        return Err(format!("expected at most {SCRIPT_MAX} answers"));
    }
    answers.iter().map(scripted_of).collect()
}

fn scripted_of(value: &Value) -> Result<Scripted, String> {
    let Some(answer) = value.as_object() else {
        return status_of(value).map(Scripted::status);
    };
    let mut scripted = Scripted::status(status_of(answer.get("status").unwrap_or(&Value::Null))?);
    for (field, value) in answer {
        match field.as_str() {
            "status" => {}
            "retry_after" if value.is_null() => {}
            "retry_after" => scripted.retry_after = Some(header_of(value)?),
            "body" if value.is_null() => {}
            "body" => {
                scripted.body =
                    Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned));
            }
            "applies" => {
                scripted.applies = value.as_bool().ok_or("applies: expected true or false")?;
            }
            unknown => {
                return Err(format!(
                    "an answer has status, retry_after, body and applies, not {unknown:?}"
                ));
            }
        }
    }
    Ok(scripted)
}

fn scripted_json(scripted: &Scripted) -> Value {
    json!({
        "status": scripted.status.as_u16(),
        "retry_after": scripted.retry_after.as_ref().and_then(|value| value.to_str().ok()),
        "body": scripted.body,
        "applies": scripted.applies,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_read_back_from_their_own_json() {
        let faults = Faults {
            latency: Duration::from_millis(20),
            error_rate: 0.25,
            rate_limit: Some(100.0),
            reject_types: BTreeSet::from(["bad".to_owned()]),
            max_batch: Some(10),
            down: true,
            stall: 1.0,
            status: Some(StatusCode::BAD_GATEWAY),
            retry_after: Some(HeaderValue::from_static("7")),
            drop_before_applying: 0.5,
            drop_after_applying: 0.75,
            only: Some("/v1/events/".to_owned()),
            script: VecDeque::from([
                Scripted::status(StatusCode::CONFLICT).body("{}").applying(),
                Scripted::status(StatusCode::CREATED).retry_after(HeaderValue::from_static("1")),
            ]),
        };
        let json = faults.to_json().to_string();
        assert_eq!(Faults::default().patched(json.as_bytes()), Ok(faults.clone()));
        let nothing = Faults::default().to_json().to_string();
        assert_eq!(faults.patched(nothing.as_bytes()), Ok(Faults::default()));
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (json, field, words) in [
            (r#"[]"#, "", "object"),
            (r#"{"latency":20}"#, "latency", "20ms"),
            (r#"{"latency":"soon"}"#, "latency", "20ms"),
            (r#"{"error_rate":2}"#, "error_rate", "from 0 to 1"),
            (r#"{"error-rate":"x"}"#, "error-rate", "from 0 to 1"),
            (r#"{"rate_limit":"fast"}"#, "rate_limit", "100/s"),
            (r#"{"rate_limit":0}"#, "rate_limit", "above 0"),
            (r#"{"reject_types":[1]}"#, "reject_types", "strings"),
            (r#"{"max_batch":0}"#, "max_batch", "above 0"),
            (r#"{"down":1}"#, "down", "true or false"),
            (r#"{"status":99}"#, "status", "200 to 599"),
            (r#"{"retry_after":[]}"#, "retry_after", "seconds"),
            (r#"{"script":[{"status":500,"x":1}]}"#, "script", "applies"),
            (r#"{"latancy":"1s"}"#, "latancy", "did you mean latency?"),
            (r#"{"zzz":1}"#, "zzz", "there are latency"),
        ] {
            let error = Faults::default().patched(json.as_bytes()).unwrap_err();
            assert_eq!(error.field, field, "{json}");
            assert!(error.message.contains(words), "{json}: {}", error.message);
        }
    }

    #[test]
    fn a_script_may_be_bare_statuses() {
        let faults = Faults::default().patched(br#"{"script":[503,201]}"#).unwrap();
        let statuses: Vec<u16> = faults.script.iter().map(|next| next.status.as_u16()).collect();
        assert_eq!(statuses, [503, 201]);
    }
}
