//! What spans are named and what they hold, all of it here: names and attributes by OpenTelemetry's
//! semantic conventions for HTTP, ours under `gmfy.`.
//!
//! Held are counts, statuses, sequences and names that this program chose. Never: users and ids in
//! paths and queries, what events hold, keys, headers, addresses.

use std::borrow::Cow;

use http::HeaderMap;
use opentelemetry::trace::{Span as _, SpanContext, Status};
use opentelemetry::{KeyValue, Value};
use opentelemetry_sdk::trace::Span as SdkSpan;

use super::super::request::Current;
use super::{Scope, Traces, carrier};

pub(super) const BATCH: &str = "create_batch_events";

/// A span under way; it ends when it is dropped.
#[derive(Debug)]
pub struct Span {
    traces: Traces,
    span: SdkSpan,
}

/// What is told of one sending of a batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchFacts {
    pub lane: usize,
    pub events: usize,
    /// How often it was sent before.
    pub resent: u32,
    /// Of its first and its last event.
    pub sequences: (u64, u64),
    /// Its `Idempotency-Key`.
    pub key: u128,
}

impl Span {
    pub(super) const fn new(traces: Traces, span: SdkSpan) -> Self {
        Self { traces, span }
    }

    pub(super) fn context(&self) -> &SpanContext {
        self.span.span_context()
    }

    /// Has a request that goes out be its child.
    pub fn propagate(&self, headers: &mut HeaderMap) {
        carrier::inject(self.context(), headers);
    }

    /// What children of it begin by.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope { traces: self.traces.clone(), context: self.context().clone() }
    }

    /// Runs `future` as the work of this span, and of no request.
    pub async fn within<F: Future>(&self, future: F) -> F::Output {
        Current::of_span(self.scope()).scope(future).await
    }

    pub(super) fn is_request(&mut self, method: &'static str, route: &'static str) {
        if !self.span.is_recording() {
            return;
        }
        self.span.update_name(request_name(method, route));
        self.set("http.request.method", if method == "other" { "_OTHER" } else { method });
        self.set("http.route", route);
    }

    pub(super) fn is_call(&mut self, method: &'static str, endpoint: &'static str) {
        self.set("http.request.method", method);
        self.set("gmfy.endpoint", endpoint);
    }

    pub(super) fn is_batch(&mut self, facts: &BatchFacts) {
        self.is_call("POST", BATCH);
        if !self.span.is_recording() {
            return;
        }
        self.set("gmfy.batch.events", count(facts.events as u64));
        self.set("gmfy.batch.key", format!("{:032x}", facts.key));
        self.set("gmfy.lane", count(facts.lane as u64));
        self.sequences(facts.sequences);
        if facts.resent > 0 {
            self.set("http.request.resend_count", i64::from(facts.resent));
        }
    }

    /// The request is answered with this status: an error where it is the server's.
    pub fn answered(&mut self, status: u16) {
        self.set("http.response.status_code", i64::from(status));
        if status >= 500 {
            self.fail(status.to_string());
        }
    }

    /// GMFY answered with this status.
    pub fn got(&mut self, status: u16) {
        self.set("http.response.status_code", i64::from(status));
        if status >= 400 {
            self.fail(status.to_string());
        }
    }

    /// A call was sent again so often.
    pub fn resent(&mut self, times: u64) {
        if times > 0 {
            self.set("http.request.resend_count", count(times));
        }
    }

    /// The commit had so many events of so many requests, of them these of this request.
    pub fn committed(&mut self, group: (usize, usize), sequences: Option<(u64, u64)>) {
        self.set("gmfy.commit.events", count(group.0 as u64));
        self.set("gmfy.commit.requests", count(group.1 as u64));
        if let Some(sequences) = sequences {
            self.sequences(sequences);
        }
    }

    /// It came to nothing; `kind` is one of a few words, never a text that may hold a secret.
    pub fn failed(&mut self, kind: &'static str) {
        self.fail(kind);
    }

    fn sequences(&mut self, (first, last): (u64, u64)) {
        self.set("gmfy.sequence.first", count(first));
        self.set("gmfy.sequence.last", count(last));
    }

    fn fail(&mut self, kind: impl Into<Value>) {
        self.set("error.type", kind);
        self.span.set_status(Status::error(""));
    }

    fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if self.span.is_recording() {
            self.span.set_attribute(KeyValue::new(key, value));
        }
    }
}

/// The name of a request's span: its method and route, where the route is one of ours.
fn request_name(method: &'static str, route: &'static str) -> Cow<'static, str> {
    if route.starts_with('/') { format!("{method} {route}").into() } else { method.into() }
}

fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
