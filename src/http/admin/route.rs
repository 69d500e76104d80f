//! The paths of the admin listener.

use http::Method;

use super::super::problem::Problem;
use crate::queue::Sequence;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Page,
    Status,
    /// The stream of statuses.
    WatchStatus,
    Flush,
    Pause,
    Resume,
    LogLevel,
    SetLogLevel,
    OpenApi,
    DeadLetters,
    Letters(LettersAction),
    /// The stream of what becomes of events.
    Follow,
    Event(Sequence),
}

/// What is to be done with dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LettersAction {
    Show(Sequence),
    Requeue(Sequence),
    RequeueAll,
    Discard(Sequence),
    DiscardAll,
}

pub(in super::super) const PATHS: &str = "This listener has the status page at /, and /api/status, /api/status/stream, /api/flush, \
                     /api/delivery/pause, /api/delivery/resume, /api/log-level, \
                     /api/dead-letters, /api/dead-letters/{seq}, /api/dead-letters/{seq}/requeue, \
                     /api/dead-letters/requeue, /api/dead-letters/discard, /api/events/stream, \
                     /api/events/{seq} and /openapi.json.";
const READ: &str = "GET, HEAD";
const CHANGE: &str = "POST";
const READ_OR_CHANGE: &str = "GET, HEAD, POST";
const LETTER: &str = "GET, HEAD, DELETE";

/// Finds what a method asks for at a raw path, with or without the last slash.
pub(super) fn action(method: &Method, path: &str) -> Result<Action, Problem> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let segments: Vec<_> = path.split('/').skip(1).take(5).collect();
    let (allow, action) = match segments.as_slice() {
        [] => (READ, Action::Page),
        ["openapi.json"] => (READ, Action::OpenApi),
        ["api", "log-level"] if method == Method::POST => (READ_OR_CHANGE, Action::SetLogLevel),
        ["api", "log-level"] => (READ_OR_CHANGE, Action::LogLevel),
        ["api", "status"] => (READ, Action::Status),
        ["api", "status", "stream"] => (READ, Action::WatchStatus),
        ["api", "flush"] => (CHANGE, Action::Flush),
        ["api", "delivery", "pause"] => (CHANGE, Action::Pause),
        ["api", "delivery", "resume"] => (CHANGE, Action::Resume),
        ["api", "dead-letters"] => (READ, Action::DeadLetters),
        ["api", "dead-letters", "requeue"] => (CHANGE, Action::Letters(LettersAction::RequeueAll)),
        ["api", "dead-letters", "discard"] => (CHANGE, Action::Letters(LettersAction::DiscardAll)),
        ["api", "dead-letters", seq] if *method == Method::DELETE => {
            (LETTER, Action::Letters(LettersAction::Discard(sequence(seq)?)))
        }
        ["api", "dead-letters", seq] => {
            (LETTER, Action::Letters(LettersAction::Show(sequence(seq)?)))
        }
        ["api", "dead-letters", seq, "requeue"] => {
            (CHANGE, Action::Letters(LettersAction::Requeue(sequence(seq)?)))
        }
        ["api", "events", "stream"] => (READ, Action::Follow),
        ["api", "events", seq] => (READ, Action::Event(sequence(seq)?)),
        _ => return Err(Problem::not_among(PATHS)),
    };
    if allow.split(", ").any(|allowed| allowed == method.as_str()) {
        Ok(action)
    } else {
        Err(Problem::method_not_allowed(allow))
    }
}

fn sequence(text: &str) -> Result<Sequence, Problem> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| is_number);
    number.map(Sequence::new).ok_or_else(|| Problem::not_among("A sequence is a whole number."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(method: &Method, path: &str) -> u16 {
        action(method, path).map_or_else(|p| p.into_response().status().as_u16(), |_| 200)
    }

    #[test]
    fn a_path_takes_its_methods_and_no_others() {
        for (path, read, change) in [
            ("/", 200, 405),
            ("/api/status", 200, 405),
            ("/api/status/", 200, 405),
            ("/api/status/stream", 200, 405),
            ("/api/flush", 405, 200),
            ("/api/log-level", 200, 200),
            ("/api/delivery/pause", 405, 200),
            ("/api/delivery/resume", 405, 200),
            ("/api/dead-letters", 200, 405),
            ("/api/dead-letters/7", 200, 405),
            ("/api/dead-letters/7/requeue", 405, 200),
            ("/api/dead-letters/requeue", 405, 200),
            ("/api/dead-letters/discard", 405, 200),
            ("/api/events/stream", 200, 405),
            ("/api/events/18446744073709551615", 200, 405),
            ("/api/events/18446744073709551616", 404, 404),
            ("/api/events/+7", 404, 404),
            ("/api/dead-letters/x", 404, 404),
            ("/api/dead-letters//requeue", 404, 404),
            ("/api", 404, 404),
            ("/api//status", 404, 404),
            ("/api/status/x", 404, 404),
            ("/api/a/b/c/d/e/f", 404, 404),
        ] {
            assert_eq!(status(&Method::GET, path), read, "GET {path}");
            assert_eq!(status(&Method::HEAD, path), read, "HEAD {path}");
            assert_eq!(status(&Method::POST, path), change, "POST {path}");
            assert_ne!(status(&Method::OPTIONS, path), 200, "OPTIONS {path}");
            let deletes = if path == "/api/dead-letters/7" { 200 } else { 405 };
            let delete = status(&Method::DELETE, path);
            assert!(delete == deletes || delete == 404 && read == 404, "DELETE {path}");
        }
    }
}
