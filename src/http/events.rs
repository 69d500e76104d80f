//! Taking events: from a body to an append, and its answer.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde::Serialize;
use smallvec::SmallVec;

use super::body::Body;
use super::idempotency;
use super::prefer::PREFERENCE_APPLIED;
use super::problem::{self, ListedError, Problem};
use crate::event::{EventError, Rules};
use crate::queue::{Answer, Appended, Appender, Sequence, Submission, Underway};
use crate::telemetry::traces::accepting;

/// The connection keeps an answer's headers for its next request: those of an unusual one are not to
/// stay there.
const USUAL_HEADERS: usize = 32;

/// How a batch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BatchForm {
    Array,
    /// NDJSON.
    Lines,
}

/// What became of a batch.
pub(super) struct Taken {
    pub(super) response: Response<Body>,
    /// How many elements a lenient batch left out.
    pub(super) left_out: u64,
}

/// Takes a single event. The answer's headers take the memory of `headers`, the request's, which are
/// of no more use: that is two allocations fewer.
pub(super) async fn post_one<A: Appender>(
    rules: &Rules,
    appender: &A,
    body: Bytes,
    key: Option<Underway>,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let submission = {
        let event = rules.parse_one(&body)?;
        let mut submission =
            Submission::with_capacity(1, event.wire.len()).keyed(key).traced(accepting());
        submission.push(&event);
        submission
    };
    drop(body);
    Ok(accepted(&appender.append(submission).await?, None, headers))
}

/// Takes a batch: whole, or when `lenient` as far as it is good.
pub(super) async fn post_batch<A: Appender>(
    rules: &Rules,
    appender: &A,
    body: Bytes,
    form: BatchForm,
    lenient: bool,
    key: Option<Underway>,
) -> Result<Taken, Problem> {
    let (submission, left_out, rest) = {
        let batch = match form {
            BatchForm::Array => rules.parse_array(&body)?,
            BatchForm::Lines => rules.parse_lines(&body)?,
        };
        if !batch.errors.is_empty() && !lenient {
            return Err(Problem::invalid(batch.errors).with_events(batch.len as u64));
        }
        let rest = lenient.then(|| rest_of_lenient(&batch.errors));
        let key = key.map(|key| match &rest {
            Some(rest) => key.with_rest(rest),
            None => key,
        });
        let bytes = batch.events.iter().map(|event| event.wire.len()).sum();
        let mut submission =
            Submission::with_capacity(batch.events.len(), bytes).keyed(key).traced(accepting());
        for event in &batch.events {
            submission.push(event);
        }
        let left_out = batch.len.saturating_sub(batch.events.len());
        (submission, left_out as u64, rest)
    };
    drop(body);
    if submission.is_void() {
        let response = accepted(&Appended::default(), rest.as_deref(), HeaderMap::new());
        return Ok(Taken { response, left_out });
    }
    let events = submission.len() as u64;
    let appended = appender.append(submission).await;
    let appended = appended.map_err(|error| Problem::from(error).with_events(events))?;
    let response = accepted(&appended, rest.as_deref(), HeaderMap::new());
    Ok(Taken { response, left_out })
}

/// What a request is answered that was answered before.
pub(super) fn replay(answer: &Answer) -> Response<Body> {
    let answered = accepted(&answer.appended(), answer.rest.as_deref(), HeaderMap::new());
    idempotency::replayed(answered)
}

/// 202 for what is durable. `rest` is what a lenient batch's answer says beside the counts; of
/// `headers` only the memory counts.
fn accepted(appended: &Appended, rest: Option<&str>, mut headers: HeaderMap) -> Response<Body> {
    let rest = rest.map(|rest| (rest, HeaderValue::from_static("handling=lenient")));
    let mut text = SmallVec::new();
    write_counts(&mut text, appended);
    text.extend_from_slice(rest.as_ref().map_or("}", |(rest, _)| rest).as_bytes());
    let mut response = Response::new(Body::Whole(Bytes::copy_from_slice(&text)));
    *response.status_mut() = StatusCode::ACCEPTED;
    headers.clear();
    if headers.capacity() > USUAL_HEADERS {
        headers = HeaderMap::new();
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some((_, applied)) = rest {
        headers.insert(PREFERENCE_APPLIED, applied);
    }
    *response.headers_mut() = headers;
    response
}

/// What was left out of a lenient batch and why, as the end of the answer's object.
fn rest_of_lenient(errors: &[EventError]) -> String {
    #[derive(Serialize)]
    struct Rest<'a> {
        errors: Vec<ListedError<'a>>,
        errors_omitted: usize,
    }
    let (errors, errors_omitted) = problem::listed(errors);
    let rest = serde_json::to_string(&Rest { errors, errors_omitted }).unwrap_or_default();
    format!(",{}", rest.strip_prefix('{').unwrap_or("}"))
}

/// Writes the answer's object, but for its end.
fn write_counts(text: &mut SmallVec<[u8; 128]>, appended: &Appended) {
    let (first, last) = appended.sequences.unzip();
    let mut digits = itoa::Buffer::new();
    let fields = [
        ("{\"accepted\":", Some(appended.accepted)),
        (",\"duplicates\":", Some(appended.duplicates)),
        (",\"first_sequence\":", first.map(Sequence::get)),
        (",\"last_sequence\":", last.map(Sequence::get)),
    ];
    for (name, value) in fields {
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(value.map_or("null", |value| digits.format(value)).as_bytes());
    }
}
