//! What `strace -f -y -o FILE` wrote: the system calls of all threads, in the order seen.
//!
//! A call that other threads' calls interrupt takes two lines, `… <unfinished ...>` and
//! `<... NAME resumed>…`; any other begins and ends in its one line. So the lines' order gives, of
//! any two calls, whether one had ended before the other began.

use std::collections::HashMap;

/// A system call that has ended, or was cut off by the process's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// What it was called with and, for what the kernel fills in, what it returned there.
    pub(crate) arguments: String,
    /// None: it failed, or never returned.
    pub(crate) result: Option<i64>,
    /// Lines of the trace.
    pub(crate) begun: usize,
    pub(crate) ended: usize,
}

impl Call {
    /// What `-y` shows of the descriptor that is the first argument: its number and path.
    pub(crate) fn descriptor(&self) -> &str {
        match self.arguments.find('>') {
            Some(end) => &self.arguments[..=end],
            None => self.arguments.split([',', ')']).next().unwrap_or_default(),
        }
    }
}

/// The calls of a trace, by where they ended.
pub(crate) fn parse(trace: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut unfinished: HashMap<(&str, &str), (String, usize)> = HashMap::new();
    for (at, line) in trace.lines().enumerate() {
        let Some((thread, line)) = line.split_once(' ') else { continue };
        // The time, where there is one.
        let line = line.trim_start();
        let line = line.split_once(' ').filter(|(time, _)| is_time(time)).map_or(line, |(_, l)| l);
        if let Some(rest) = line.strip_prefix("<... ") {
            let (name, rest) = rest.split_once(" resumed>").expect("a call that is resumed");
            let (mut arguments, begun) =
                unfinished.remove(&(thread, name)).expect("a call that was begun");
            let (more, result) = split_result(rest);
            arguments.push_str(more.trim_start());
            calls.push(Call { name: name.to_owned(), arguments, result, begun, ended: at });
        } else if let Some((name, rest)) = line.split_once('(') {
            if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                continue;
            }
            if let Some(arguments) = rest.strip_suffix(" <unfinished ...>") {
                unfinished.insert((thread, name), (arguments.to_owned(), at));
            } else {
                let (arguments, result) = split_result(rest);
                let (name, arguments) = (name.to_owned(), arguments.to_owned());
                calls.push(Call { name, arguments, result, begun: at, ended: at });
            }
        }
    }
    calls
}

fn is_time(text: &str) -> bool {
    text.contains('.') && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

/// The arguments before `) = RESULT`, and the result.
fn split_result(text: &str) -> (&str, Option<i64>) {
    let Some((arguments, result)) = text.rsplit_once(" = ") else { return (text, None) };
    let arguments = arguments.trim_end().strip_suffix(')').unwrap_or(arguments);
    let result = result.split(' ').next().unwrap_or_default().parse().ok();
    (arguments, result.filter(|result| *result >= 0))
}

/// A request for which an answer was sent, as the two calls that show it.
#[derive(Clone, Debug)]
pub(crate) struct Answered<'a> {
    /// The read that returned the end of the request.
    pub(crate) read: &'a Call,
    /// The write of the answer.
    pub(crate) written: &'a Call,
}

const READS: [&str; 4] = ["read", "readv", "recvfrom", "recvmsg"];
const WRITES: [&str; 5] = ["write", "writev", "sendto", "sendmsg", "pwrite64"];

/// The answers that contain `answer`, each with the last read on its descriptor before it.
///
/// # Panics
/// When an answer has no read before it.
pub(crate) fn answered<'a>(calls: &'a [Call], answer: &str) -> Vec<Answered<'a>> {
    let answers = calls
        .iter()
        .filter(|call| WRITES.contains(&call.name.as_str()) && call.arguments.contains(answer));
    let pair = |written: &'a Call| {
        let reads = calls.iter().filter(|call| {
            READS.contains(&call.name.as_str())
                && call.descriptor() == written.descriptor()
                && call.ended < written.begun
                && call.result.is_some_and(|bytes| bytes > 0)
        });
        let read = reads.max_by_key(|call| call.ended).expect("a read before the answer");
        Answered { read, written }
    };
    answers.map(pair).collect()
}

/// Whether between the request and its answer something was written to a file of `log`, and after
/// that a sync of that file began and ended well.
pub(crate) fn is_synced(calls: &[Call], answered: &Answered<'_>, log: &str) -> bool {
    let inside =
        |call: &&Call| call.begun > answered.read.ended && call.ended < answered.written.begun;
    let in_log = |call: &&Call| call.descriptor().contains(log) && call.result.is_some();
    let syncs = calls.iter().filter(|call| {
        ["fsync", "fdatasync"].contains(&call.name.as_str()) && inside(call) && in_log(call)
    });
    let path = |call: &Call| call.descriptor().split_once('<').map(|(_, path)| path.to_owned());
    syncs.into_iter().any(|sync| {
        calls.iter().any(|write| {
            WRITES.contains(&write.name.as_str())
                && inside(&write)
                && in_log(&write)
                && path(write) == path(sync)
                && write.ended < sync.begun
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = r#"10  1700000000.000001 recvfrom(7<socket:[1]>, "POST /v1/events/ HTTP/1.1\r\n"..., 8192, 0, NULL, NULL) = 120
11  1700000000.000002 pwrite64(9</d/queue/gen-1/db>, "GMFY(x) = 3"..., 100, 0) = 100
11  1700000000.000003 fdatasync(12</d/queue/gen-1/db> <unfinished ...>
10  1700000000.000004 recvfrom(8<socket:[2]>, "POST /v1/events/ HTTP/1.1\r\n"..., 8192, 0, NULL, NULL) = 120
11  1700000000.000005 <... fdatasync resumed>) = 0
10  1700000000.000006 writev(7<socket:[1]>, [{iov_base="HTTP/1.1 202 Accepted"..., iov_len=90}], 1) = 90
10  1700000000.000007 writev(8<socket:[2]>, [{iov_base="HTTP/1.1 202 Accepted"..., iov_len=90}], 1) = 90
11  1700000000.000008 fdatasync(12</d/queue/gen-1/db>) = -1 EIO (Input/output error)
10  1700000000.000009 +++ exited with 0 +++
"#;

    #[test]
    fn a_trace_is_taken_apart() {
        let calls = parse(TRACE);
        assert_eq!(calls.len(), 7);
        let sync = &calls[3];
        assert_eq!((sync.name.as_str(), sync.result), ("fdatasync", Some(0)));
        assert_eq!((sync.begun, sync.ended), (2, 4));
        assert_eq!(sync.descriptor(), "12</d/queue/gen-1/db>");
        assert_eq!(calls[6].result, None, "it failed");
    }

    #[test]
    fn a_sync_that_began_before_the_request_was_read_does_not_count() {
        let calls = parse(TRACE);
        let answers = answered(&calls, "HTTP/1.1 202 ");
        let synced: Vec<_> =
            answers.iter().map(|answer| is_synced(&calls, answer, "/d/queue/")).collect();
        assert_eq!(synced, [true, false]);
        assert!(!is_synced(&calls, &answers[0], "/elsewhere/"));
    }
}
