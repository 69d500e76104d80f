//! W3C Trace Context: `traceparent` and `tracestate` of requests.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry::trace::{SpanContext, TraceContextExt as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// `00-` 32 digits `-` 16 digits `-` 2 digits, in bytes.
const PARENT_LENGTH: usize = 55;
/// A longer list of vendors' states is left out, in bytes: so much has to be passed on by everyone
/// (§3.3.1.5).
const LONGEST_STATE: usize = 512;

/// The caller's span, where the headers name one as the standard has it.
pub(super) fn extract(headers: &HeaderMap) -> Option<SpanContext> {
    let carrier = Sent::of(headers)?;
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier);
    let caller = context.span().span_context().clone();
    caller.is_valid().then_some(caller)
}

/// Names this span as the parent of what a request causes.
pub(super) fn inject(context: &SpanContext, headers: &mut HeaderMap) {
    let context = Context::new().with_remote_span_context(context.clone());
    TraceContextPropagator::new().inject_context(&context, &mut Sending(headers));
}

struct Sent<'a> {
    parent: &'a str,
    state: Option<Cow<'a, str>>,
}

impl<'a> Sent<'a> {
    /// None where there is no one well-formed `traceparent`.
    fn of(headers: &'a HeaderMap) -> Option<Self> {
        let mut parents = headers.get_all(TRACEPARENT).iter();
        let parent = parents.next()?.to_str().ok()?.trim();
        if parents.next().is_some() || !is_well_formed(parent) {
            return None;
        }
        // Lists in several headers are one list (RFC 9110 §5.3).
        let mut states = headers.get_all(TRACESTATE).iter().map(|state| state.to_str().ok());
        let mut state = states.next().map(|first| first.map(Cow::Borrowed));
        for more in states {
            state = state.map(|so_far| Some(Cow::Owned(format!("{},{}", so_far?, more?))));
        }
        let state = state.flatten().filter(|state| state.len() <= LONGEST_STATE);
        Some(Self { parent, state })
    }
}

/// Whether it has the form of a `traceparent`; a version to come may append more.
fn is_well_formed(parent: &str) -> bool {
    let bytes = parent.as_bytes();
    let head = bytes.get(..PARENT_LENGTH).unwrap_or_default();
    let is_form = head.len() == PARENT_LENGTH
        && head.iter().enumerate().all(|(at, byte)| match at {
            2 | 35 | 52 => *byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        });
    let is_first_version = bytes.starts_with(b"00");
    match bytes.get(PARENT_LENGTH) {
        None => is_form,
        Some(next) => is_form && !is_first_version && *next == b'-',
    }
}

impl Extractor for Sent<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => Some(self.parent),
            "tracestate" => self.state.as_deref(),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

struct Sending<'a>(&'a mut HeaderMap);

impl Injector for Sending<'_> {
    fn set(&mut self, key: &str, value: String) {
        let name = if key == "traceparent" { TRACEPARENT } else { TRACESTATE };
        if let Some(value) = HeaderValue::try_from(value).ok().filter(|value| !value.is_empty()) {
            self.0.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(sent: &[(HeaderName, &str)]) -> HeaderMap {
        let sent = sent.iter();
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn what_is_taken_goes_out_as_it_came() {
        let came = headers(&[(TRACEPARENT, PARENT), (TRACESTATE, "a=1"), (TRACESTATE, "b=2")]);
        let caller = extract(&came).unwrap();
        assert!(caller.is_remote() && caller.is_sampled());
        let mut goes = HeaderMap::new();
        inject(&caller, &mut goes);
        assert_eq!(goes, headers(&[(TRACEPARENT, PARENT), (TRACESTATE, "a=1,b=2")]));
        let caller = extract(&headers(&[(TRACEPARENT, PARENT)])).unwrap();
        let mut goes = HeaderMap::new();
        inject(&caller, &mut goes);
        assert_eq!(goes, headers(&[(TRACEPARENT, PARENT)]), "without an empty tracestate");
    }

    #[test]
    fn a_parent_that_is_none_is_none() {
        let zeros = "0".repeat(32);
        for (parent, taken) in [
            (PARENT.to_owned(), true),
            (PARENT.replace("-01", "-00"), true),
            (PARENT.replacen("00", "cc", 1) + "-more", true),
            (PARENT.to_owned() + "-more", false),
            (PARENT.replacen("00", "ff", 1), false),
            (PARENT.to_uppercase(), false),
            (PARENT.replace("0af", "+af"), false),
            (PARENT.replace("0af7651916cd43dd8448eb211c80319c", &zeros), false),
            (PARENT.replace("b7ad6b7169203331", "0000000000000000"), false),
            ("00-1-1-01".to_owned(), false),
            (String::new(), false),
        ] {
            let taken_it = extract(&headers(&[(TRACEPARENT, &parent)])).is_some();
            assert_eq!(taken_it, taken, "{parent}");
        }
        assert!(extract(&headers(&[(TRACEPARENT, PARENT), (TRACEPARENT, PARENT)])).is_none());
    }

    #[test]
    fn a_state_that_is_none_or_too_long_is_left_out() {
        let long = format!("a={}", "x".repeat(LONGEST_STATE));
        for state in ["no state", &long] {
            let caller = extract(&headers(&[(TRACEPARENT, PARENT), (TRACESTATE, state)])).unwrap();
            assert_eq!(caller.trace_state().header(), "");
        }
    }
}
