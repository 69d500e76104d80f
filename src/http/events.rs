//! Taking events: from a body to an append, and its answer.

use std::fmt::Write as _;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use super::body::Body;
use super::prefer::PREFERENCE_APPLIED;
use super::problem::{self, ListedError, Problem};
use crate::event::{EventError, Rules};
use crate::queue::{Appended, Appender, Submission};

/// How a batch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BatchForm {
    Array,
    /// NDJSON.
    Lines,
}

/// What became of a batch.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) appended: Appended,
    /// What is wrong with the elements that a lenient batch left out.
    pub(super) errors: Vec<EventError>,
    /// How many those are.
    pub(super) left_out: u64,
}

/// Takes a single event.
pub(super) async fn post_one<A: Appender>(
    rules: &Rules,
    appender: &A,
    body: Bytes,
) -> Result<Appended, Problem> {
    let submission = {
        let event = rules.parse_one(&body)?;
        let mut submission = Submission::with_capacity(1, event.wire.len());
        submission.push(&event);
        submission
    };
    drop(body);
    Ok(appender.append(submission).await?)
}

/// Takes a batch: whole, or when `lenient` as far as it is good.
pub(super) async fn post_batch<A: Appender>(
    rules: &Rules,
    appender: &A,
    body: Bytes,
    form: BatchForm,
    lenient: bool,
) -> Result<Taken, Problem> {
    let (submission, events, left_out, errors) = {
        let batch = match form {
            BatchForm::Array => rules.parse_array(&body)?,
            BatchForm::Lines => rules.parse_lines(&body)?,
        };
        if !batch.errors.is_empty() && !lenient {
            return Err(Problem::invalid(batch.errors).with_events(batch.len as u64));
        }
        let bytes = batch.events.iter().map(|event| event.wire.len()).sum();
        let mut submission = Submission::with_capacity(batch.events.len(), bytes);
        for event in &batch.events {
            submission.push(event);
        }
        let events = batch.events.len();
        (submission, events as u64, batch.len.saturating_sub(events) as u64, batch.errors)
    };
    drop(body);
    if events == 0 {
        return Ok(Taken { appended: Appended::default(), errors, left_out });
    }
    let appended = appender.append(submission).await;
    let appended = appended.map_err(|error| Problem::from(error).with_events(events))?;
    Ok(Taken { appended, errors, left_out })
}

/// 202 for what is durable.
pub(super) fn accepted(appended: &Appended) -> Response<Body> {
    let mut text = String::with_capacity(128);
    write_counts(&mut text, appended);
    text.push('}');
    answer(text.into_bytes())
}

/// 202 for a lenient batch: the counts, and what was left out and why.
pub(super) fn accepted_leniently(taken: &Taken) -> Response<Body> {
    #[derive(Serialize)]
    struct Rest<'a> {
        errors: Vec<ListedError<'a>>,
        errors_omitted: usize,
    }
    let mut text = String::with_capacity(128);
    write_counts(&mut text, &taken.appended);
    let (errors, errors_omitted) = problem::listed(&taken.errors);
    let rest = serde_json::to_string(&Rest { errors, errors_omitted }).unwrap_or_default();
    text.push(',');
    text.push_str(rest.strip_prefix('{').unwrap_or("}"));
    let mut response = answer(text.into_bytes());
    let applied = HeaderValue::from_static("handling=lenient");
    response.headers_mut().insert(PREFERENCE_APPLIED, applied);
    response
}

/// Writes the answer's object, but for its end.
fn write_counts(text: &mut String, appended: &Appended) {
    let Appended { accepted, duplicates, sequences } = appended;
    let written = match sequences {
        Some((first, last)) => write!(
            text,
            r#"{{"accepted":{accepted},"duplicates":{duplicates},"first_sequence":{first},"last_sequence":{last}"#
        ),
        None => write!(
            text,
            r#"{{"accepted":{accepted},"duplicates":{duplicates},"first_sequence":null,"last_sequence":null"#
        ),
    };
    debug_assert!(written.is_ok(), "a String takes all");
}

fn answer(body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::ACCEPTED;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
