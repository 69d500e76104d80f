//! `queue export`: the events that wait, one a line, oldest first.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::folder::FolderArgs;
use super::listing::counted;
use super::progress;
use crate::cli::{Failure, output};
use crate::queue::{Folder, GenerationSummary, QueuedEvent};

pub(super) fn run(arguments: &FolderArgs) -> Result<ExitCode, Failure> {
    let (_, folder) = arguments.open()?;
    let mut lines = Lines { out: BufWriter::new(io::stdout().lock()), json: arguments.json };
    match export(&folder, &mut lines) {
        Ok(0) => Ok(ExitCode::SUCCESS),
        Ok(lost) => {
            output::error(&format!(
                "{} could not be read and may have been waiting: `queue verify` says which",
                counted(lost, "damaged event")
            ));
            Ok(ExitCode::FAILURE)
        }
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error.into()),
    }
}

/// Returns how many events could not be read.
fn export(folder: &Folder, lines: &mut Lines<impl Write>) -> io::Result<u64> {
    let waiting = || folder.generations().iter().filter(|g| !folder.is_passed(g));
    let bar = progress::beside_results(waiting().map(|generation| generation.bytes).sum());
    let mut lost = 0;
    for generation in waiting() {
        lost += export_generation(folder, generation, lines)?;
        bar.inc(generation.bytes);
    }
    bar.finish_and_clear();
    lines.out.flush()?;
    Ok(lost)
}

fn export_generation(
    folder: &Folder,
    generation: &GenerationSummary,
    lines: &mut Lines<impl Write>,
) -> io::Result<u64> {
    // Its sequences have no gaps: what is missing up to its end is lost.
    let mut next = generation.first.get();
    let mut lost = 0;
    let mut written = Ok(());
    folder.each_event(generation.first, |event, is_settled| {
        lost += event.sequence.get().saturating_sub(next);
        next = event.sequence.get() + 1;
        if !is_settled {
            written = lines.write(&event);
        }
        written.is_ok()
    })?;
    written?;
    Ok(lost + generation.end.map_or(0, |end| end.get().saturating_sub(next)))
}

/// Where the lines go, and their form.
struct Lines<W> {
    out: W,
    json: bool,
}

/// What an event in wire form says of its user: a JSON string, as it was spelled.
#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(rename = "userId", borrow)]
    user: &'a RawValue,
}

impl<W: Write> Lines<W> {
    fn write(&mut self, event: &QueuedEvent) -> io::Result<()> {
        let text = on_one_line(&event.json);
        let user = serde_json::from_slice::<Wire<'_>>(&text).map_or("null", |wire| wire.user.get());
        let (sequence, at) = (event.sequence, event.accepted_at.to_rfc3339());
        if self.json {
            write!(self.out, r#"{{"seq":{sequence},"accepted_at":"{at}","user":{user},"event":"#)?;
            self.out.write_all(&text)?;
            self.out.write_all(b"}\n")
        } else {
            let quoted = user.strip_prefix('"').and_then(|user| user.strip_suffix('"'));
            write!(self.out, "{sequence}\t{at}\t{}\t", quoted.unwrap_or(user))?;
            self.out.write_all(&text)?;
            self.out.write_all(b"\n")
        }
    }
}

/// The same JSON on one line and without tabs: as control characters stand between JSON's tokens
/// only, each may as well be a space.
fn on_one_line(json: &[u8]) -> Vec<u8> {
    json.iter().map(|byte| if *byte < b' ' { b' ' } else { *byte }).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::clock::Timestamp;
    use crate::event::EventKind;
    use crate::queue::{Sequence, UserHash};

    fn lines(json: bool, wire: &str) -> String {
        let mut lines = Lines { out: Vec::new(), json };
        let event = QueuedEvent {
            sequence: Sequence::new(7),
            user: UserHash::of("ada"),
            kind: EventKind::Classic,
            accepted_at: Timestamp::from_millis(1_800_000_000_120),
            json: Bytes::copy_from_slice(wire.as_bytes()),
            #[cfg(feature = "nats")]
            mark: None,
        };
        lines.write(&event).unwrap();
        String::from_utf8(lines.out).unwrap()
    }

    #[test]
    fn an_event_is_a_line_whatever_its_spelling() {
        let plain = r#"{"userId":"ada","type":"register","n":1.50}"#;
        assert_eq!(lines(false, plain), format!("7\t2027-01-15T08:00:00.120Z\tada\t{plain}\n"));
        let spread = "{\n\t\"type\": \"a\",\r\n\t\"userId\": \"a\\t\\\"b\"\n}";
        let line = lines(true, spread);
        insta::assert_snapshot!(line, @r#"{"seq":7,"accepted_at":"2027-01-15T08:00:00.120Z","user":"a\t\"b","event":{  "type": "a",   "userId": "a\t\"b" }}"#);
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let event: serde_json::Value = serde_json::from_str(spread).unwrap();
        assert_eq!((&line["event"], &line["user"]), (&event, &event["userId"]));
        assert_eq!(lines(false, spread).matches('\t').count(), 3);
    }
}
