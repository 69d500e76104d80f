//! `tail`: follows what becomes of events.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};

use super::Failure;
use super::output::{self, Colour, Paint};
use super::remote::{Remote, RemoteArgs, runtime};
use super::table::cell;
use crate::http::admin::{EventNotice, LostNotices};
use crate::telemetry::stream::EventOutcome;

/// The longest part of a stream that is no event yet, in bytes: far beyond any of the sidecar's.
const LONGEST: usize = 1024 * 1024;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Only events of this user
    #[arg(long)]
    user: Option<String>,

    /// Only events of this type, in wire form
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,

    /// Only this outcome
    #[arg(long)]
    outcome: Option<Outcome>,

    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Clone, Copy, Debug)]
struct Outcome(EventOutcome);

impl ValueEnum for Outcome {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [Outcome; 5] = [
            Outcome(EventOutcome::Accepted),
            Outcome(EventOutcome::Delivered),
            Outcome(EventOutcome::Retried),
            Outcome(EventOutcome::DeadLettered),
            Outcome(EventOutcome::Dropped),
        ];
        &ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.0.as_str()))
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let remote = arguments.remote.remote()?;
    runtime()?.block_on(async {
        tokio::select! {
            ended = follow(&remote, arguments) => ended?,
            interrupted = tokio::signal::ctrl_c() => interrupted?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Prints until nobody reads it.
///
/// # Errors
/// When the sidecar ends the stream.
async fn follow(remote: &Remote, arguments: &Arguments) -> anyhow::Result<()> {
    let mut stream = remote.stream(&arguments.path()).await?;
    let paint = Paint::for_stdout();
    let mut parser = Parser::default();
    while let Some(bytes) = stream.next().await? {
        for event in parser.push(&bytes)? {
            let is_read = match event {
                Event::Notice(json) if arguments.remote.json => output::line_is_read(&json),
                Event::Notice(json) => {
                    let notice =
                        serde_json::from_str(&json).context("an event is not understood")?;
                    output::line_is_read(&line(&notice, paint))
                }
                Event::Lost(lost) => {
                    output::note(&format!("{lost} more are not shown: they come too fast"));
                    true
                }
            };
            if !is_read {
                return Ok(());
            }
        }
    }
    bail!("the sidecar stopped")
}

impl Arguments {
    fn path(&self) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        if let Some(user) = &self.user {
            query.append_pair("user", user);
        }
        if let Some(event_type) = &self.event_type {
            query.append_pair("type", event_type);
        }
        if let Some(Outcome(outcome)) = self.outcome {
            query.append_pair("outcome", outcome.as_str());
        }
        format!("/api/events/stream?{}", query.finish())
    }
}

/// One event in a line.
fn line(notice: &EventNotice, paint: Paint) -> String {
    let colour = match notice.outcome.as_str() {
        "delivered" => Colour::Good,
        "retried" => Colour::Warning,
        "dead_lettered" | "dropped" => Colour::Bad,
        _ => Colour::Dim,
    };
    let outcome = paint.text(colour, &format!("{:<13}", notice.outcome));
    let mut line = format!(
        "{}  {outcome}  {:>8}  {:<20}  {:<24}",
        notice.at,
        notice.seq,
        cell(&notice.user, 40),
        cell(&notice.event_type, 40),
    );
    if let Some(status) = notice.status {
        line.push_str(&format!("  {status}"));
    }
    line.truncate(line.trim_end().len());
    line
}

/// What came of the stream.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    /// As JSON.
    Notice(String),
    Lost(u64),
}

/// Takes server-sent events apart, as far as the sidecar sends them: one line of data each.
#[derive(Debug, Default)]
struct Parser {
    unread: Vec<u8>,
}

impl Parser {
    fn push(&mut self, bytes: &[u8]) -> anyhow::Result<Vec<Event>> {
        self.unread.extend_from_slice(bytes);
        let mut events = Vec::new();
        let mut at = 0;
        while let Some(length) = self.unread.get(at..).and_then(block_length) {
            let block = self.unread.get(at..at + length).unwrap_or_default();
            events.extend(event(std::str::from_utf8(block).context("the stream is not text")?)?);
            at += length;
        }
        self.unread.drain(..at);
        anyhow::ensure!(self.unread.len() <= LONGEST, "the stream has no end of an event");
        Ok(events)
    }
}

fn block_length(bytes: &[u8]) -> Option<usize> {
    bytes.windows(2).position(|pair| pair == b"\n\n").map(|at| at + 2)
}

fn event(block: &str) -> anyhow::Result<Option<Event>> {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
    let Some(data) = field("data: ") else { return Ok(None) };
    Ok(Some(match field("event: ") {
        Some("lost") => Event::Lost(serde_json::from_str::<LostNotices>(data)?.lost),
        _ => Event::Notice(data.to_owned()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_taken_apart_wherever_it_is_cut() {
        let stream = "retry: 2000\n\ndata: {\"a\":\"é\"}\n\n: still here\n\nevent: lost\n\
                      data: {\"lost\":3}\n\ndata: {}\n\nda";
        let expected = [
            Event::Notice("{\"a\":\"é\"}".to_owned()),
            Event::Lost(3),
            Event::Notice("{}".to_owned()),
        ];
        for size in 1..stream.len() {
            let mut parser = Parser::default();
            let mut found = Vec::new();
            for part in stream.as_bytes().chunks(size) {
                found.extend(parser.push(part).unwrap());
            }
            assert_eq!(found, expected, "in parts of {size}");
        }
    }

    #[test]
    fn an_event_is_a_line() {
        let notice = |outcome: &str, status| EventNotice {
            at: "2026-11-24T12:00:00.000Z".to_owned(),
            seq: 7,
            outcome: outcome.to_owned(),
            user: "ada".to_owned(),
            event_type: "visit".to_owned(),
            batch: None,
            status,
        };
        let lines = [
            line(&notice("accepted", None), Paint::NONE),
            line(&notice("dead_lettered", Some(422)), Paint::NONE),
        ];
        insta::assert_snapshot!(lines.join("\n"), @r"
        2026-11-24T12:00:00.000Z  accepted              7  ada                   visit
        2026-11-24T12:00:00.000Z  dead_lettered         7  ada                   visit                     422
        ");
        assert!(line(&notice("dropped", None), Paint::ALWAYS).contains("\u{1b}[31mdropped"));
    }
}
