//! The log: lines on stderr, JSON for machines or text for people.
//!
//! What is logged and how it looks can change while the process runs. A stderr that can't be
//! written to loses lines and harms nothing else.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::format::{DefaultFields, Format, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

use super::request::Current;
use crate::config::{Log, LogFormat};

/// Why the log can't be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Settings that were loaded have no such level.
    #[error("log.level can't be used: {0}")]
    Level(#[from] ParseError),
    /// The process already has a log of its own.
    #[error("a log is already set up")]
    AlreadySet,
    /// The log is gone.
    #[error("the log can't be changed: {0}")]
    Gone(#[from] reload::Error),
}

/// Changes the log while the process runs.
#[derive(Clone, Debug)]
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
    text: Arc<AtomicBool>,
    /// As it was set last.
    level: Arc<Mutex<String>>,
    is_terminal: bool,
}

impl LogHandle {
    /// Takes over level and format.
    ///
    /// # Errors
    /// When the level is none; then nothing changes.
    pub fn apply(&self, log: &Log) -> Result<(), LogError> {
        self.set_level(&log.level)?;
        self.text.store(is_text(log, self.is_terminal), Ordering::Relaxed);
        Ok(())
    }

    /// Takes over a level, or levels for parts of the program, as `log.level` has them.
    ///
    /// # Errors
    /// When it is none; then nothing changes.
    pub fn set_level(&self, level: &str) -> Result<(), LogError> {
        let mut current = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        self.filter.reload(EnvFilter::builder().parse(level)?)?;
        level.clone_into(&mut current);
        Ok(())
    }

    /// The level as it was set last.
    #[must_use]
    pub fn level(&self) -> String {
        self.level.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Whether [`LogHandle::apply`] will take these.
///
/// # Errors
/// When the level is none.
pub fn check(log: &Log) -> Result<(), LogError> {
    filter(log)?;
    Ok(())
}

/// Sets the process's log up, on stderr. `is_terminal`: whether stderr is one; it is coloured then,
/// unless `NO_COLOR` is set.
///
/// # Errors
/// When the level is none, or a log is set up already.
pub fn init(log: &Log, is_terminal: bool) -> Result<LogHandle, LogError> {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let (subscriber, handle) = subscriber(log, is_terminal, !plain, std::io::stderr)?;
    subscriber.try_init().map_err(|_| LogError::AlreadySet)?;
    Ok(handle)
}

/// Logs panics as errors, from any thread. What a panic does otherwise, unwinding and the exit
/// status, stays as it is. Where errors aren't logged, the hook before this one speaks.
pub fn log_panics() {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !tracing::enabled!(Level::ERROR) {
            return previous(panic);
        }
        let message = panic.payload_as_str().unwrap_or("no message");
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        let backtrace = std::backtrace::Backtrace::capture();
        let captured = backtrace.status() == std::backtrace::BacktraceStatus::Captured;
        tracing::error!(
            panic.location = location,
            panic.thread = thread.name().unwrap_or("unnamed"),
            panic.backtrace = captured.then(|| backtrace.to_string()),
            "panicked: {message}"
        );
    }));
}

fn subscriber<W>(
    log: &Log,
    is_terminal: bool,
    colours: bool,
    writer: W,
) -> Result<(impl Subscriber + Send + Sync + use<W>, LogHandle), LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let text = Arc::new(AtomicBool::new(is_text(log, is_terminal)));
    let (filter, filter_handle) = reload::Layer::new(filter(log)?);
    let lines = Lines {
        text: Arc::clone(&text),
        json: Format::default().json().flatten_event(true).with_span_list(false),
    };
    let layer = tracing_subscriber::fmt::layer()
        .fmt_fields(JsonFields::new())
        .event_format(lines)
        .with_ansi(is_terminal && colours)
        // They would go to stderr too, and panic when that is what failed.
        .log_internal_errors(false)
        .with_writer(writer);
    let subscriber = tracing_subscriber::registry().with(filter).with(layer);
    let level = Arc::new(Mutex::new(log.level.clone()));
    Ok((subscriber, LogHandle { filter: filter_handle, text, level, is_terminal }))
}

fn filter(log: &Log) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(&log.level)
}

const fn is_text(log: &Log, is_terminal: bool) -> bool {
    match log.format {
        Some(LogFormat::Text) => true,
        Some(LogFormat::Json) => false,
        None => is_terminal,
    }
}

/// A line of the format that is set at the moment.
struct Lines {
    text: Arc<AtomicBool>,
    json: Format<Json>,
}

impl<S> FormatEvent<S, JsonFields> for Lines
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.text.load(Ordering::Relaxed) {
            text_line(writer, event)
        } else {
            self.json_line(context, writer, event)
        }
    }
}

impl Lines {
    /// An object, with the fields of the request at hand at its end.
    fn json_line<S>(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result
    where
        S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    {
        let mut more = String::new();
        Current::fields(|name, value| {
            // Neither can fail: both are texts.
            let value = serde_json::to_string(value).unwrap_or_default();
            more.extend([",\"", name, "\":", &value]);
        });
        if more.is_empty() {
            return self.json.format_event(context, writer, event);
        }
        let mut line = String::with_capacity(512);
        self.json.format_event(context, Writer::new(&mut line), event)?;
        let object = line.trim_end().strip_suffix('}').ok_or(fmt::Error)?;
        writeln!(writer, "{object}{more}}}")
    }
}

/// `12:34:56.789Z  INFO delivery: message field=value`
fn text_line(mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
    let metadata = event.metadata();
    let time = jiff::Timestamp::now().strftime("%H:%M:%S%.3fZ").to_string();
    let target = metadata.target();
    let target = target.strip_prefix("gmfy_sidecar::").unwrap_or(target);
    let level = metadata.level();
    if writer.has_ansi_escapes() {
        let colour = match *level {
            Level::ERROR => 31,
            Level::WARN => 33,
            Level::INFO => 32,
            Level::DEBUG => 34,
            Level::TRACE => 35,
        };
        write!(writer, "\x1b[2m{time}\x1b[0m \x1b[{colour}m{level:>5}\x1b[0m ")?;
        write!(writer, "\x1b[2m{target}:\x1b[0m ")?;
    } else {
        write!(writer, "{time} {level:>5} {target}: ")?;
    }
    DefaultFields::new().format_fields(writer.by_ref(), event)?;
    let mut more = String::new();
    Current::fields(|name, value| more.extend([" ", name, "=", value]));
    writeln!(writer, "{more}")
}

#[cfg(test)]
mod tests {
    use std::io;
    use tracing::subscriber::with_default;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Written {
        fn lines(&self) -> Vec<String> {
            let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            String::from_utf8(bytes.clone()).unwrap().lines().map(str::to_owned).collect()
        }

        fn writer(&self) -> impl Fn() -> Self + Send + Sync + use<> {
            let written = self.clone();
            move || written.clone()
        }
    }

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log(format: Option<LogFormat>, level: &str) -> Log {
        Log { format, level: level.to_owned() }
    }

    #[test]
    fn a_json_line_has_time_level_target_message_and_fields_side_by_side() {
        let written = Written::default();
        let log = log(None, "info");
        let (subscriber, _handle) = subscriber(&log, false, true, written.writer()).unwrap();
        with_default(subscriber, || {
            let span = tracing::info_span!("request", id = 7);
            span.in_scope(|| tracing::info!(queue.events = 3, "started \u{1b}[31m"));
        });
        let line: serde_json::Value = serde_json::from_str(&written.lines()[0]).unwrap();
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["target"], "gmfy_sidecar::telemetry::logging::tests");
        assert!(line["message"].as_str().unwrap().starts_with("started"));
        assert_eq!(line["queue.events"], 3);
        assert_eq!(line["span"]["id"], 7);
        let timestamp = line["timestamp"].as_str().unwrap();
        assert!(timestamp.ends_with('Z'));
        assert!(timestamp.parse::<jiff::Timestamp>().is_ok(), "{timestamp}");
    }

    #[test]
    fn a_text_line_is_short_and_coloured_only_on_a_terminal() {
        for (is_terminal, colours) in [(true, true), (true, false), (false, true)] {
            let written = Written::default();
            let log = log(Some(LogFormat::Text), "info");
            let (subscriber, _handle) =
                subscriber(&log, is_terminal, colours, written.writer()).unwrap();
            with_default(subscriber, || tracing::warn!(events = 3, "queue is full"));
            let line = &written.lines()[0];
            assert_eq!(line.contains('\u{1b}'), is_terminal && colours, "{line}");
            if !is_terminal {
                let (time, rest) = line.split_once("Z ").unwrap();
                assert_eq!(time.len(), "12:34:56.789".len());
                assert_eq!(rest, " WARN telemetry::logging::tests: queue is full events=3");
            }
        }
    }

    #[tokio::test]
    async fn a_line_within_a_request_names_it_and_its_span() {
        use crate::telemetry::request::RequestId;
        use crate::telemetry::traces::{Collector, ExportError};
        use crate::telemetry::{Metrics, Traces};

        struct Never;
        impl Collector for Never {
            async fn export(&self, _: bytes::Bytes) -> Result<bytes::Bytes, ExportError> {
                std::future::pending().await
            }
        }

        let (traces, _exporter) = Traces::new(0.0, &Metrics::new(), Never);
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        let headers = http::HeaderMap::from_iter([(
            http::HeaderName::from_static("traceparent"),
            http::HeaderValue::from_static(parent),
        )]);
        let span = traces.request("GET", "/v1/version/", &headers);
        let id = RequestId::Sent(http::HeaderValue::from_static("a\"b"));
        for (scope, format) in [
            (None, LogFormat::Json),
            (Some(span.scope()), LogFormat::Json),
            (Some(span.scope()), LogFormat::Text),
        ] {
            let is_traced = scope.is_some();
            let written = Written::default();
            let log = log(Some(format), "info");
            let (subscriber, _handle) = subscriber(&log, false, false, written.writer()).unwrap();
            let within = Current::new(id.clone(), scope);
            let guard = tracing::subscriber::set_default(subscriber);
            within.scope(async { tracing::info!(queue.events = 3, "told") }).await;
            tracing::info!("of no request");
            drop(guard);
            let lines = written.lines();
            assert!(!lines[1].contains("request.id"), "{lines:?}");
            if format == LogFormat::Text {
                let fields = "told queue.events=3 request.id=a\"b \
                              trace.id=0af7651916cd43dd8448eb211c80319c span.id=";
                assert!(lines[0].contains(fields), "{lines:?}");
                continue;
            }
            let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
            assert_eq!((&line["message"], &line["queue.events"]), (&"told".into(), &3.into()));
            assert_eq!(line["request.id"], "a\"b");
            assert_eq!(line["trace.id"].is_string(), is_traced, "{line}");
            if is_traced {
                assert_eq!(line["trace.id"], "0af7651916cd43dd8448eb211c80319c");
                assert_eq!(line["span.id"].as_str().unwrap().len(), 16);
            }
        }
    }

    #[test]
    fn a_terminal_gets_text_and_anything_else_json() {
        for (format, is_terminal, text) in [
            (None, true, true),
            (None, false, false),
            (Some(LogFormat::Json), true, false),
            (Some(LogFormat::Text), false, true),
        ] {
            assert_eq!(is_text(&log(format, "info"), is_terminal), text);
        }
    }

    #[test]
    fn level_and_format_change_at_run_time_and_a_bad_level_changes_nothing() {
        let written = Written::default();
        let before = log(Some(LogFormat::Json), "warn");
        let (subscriber, handle) = subscriber(&before, false, false, written.writer()).unwrap();
        with_default(subscriber, || {
            tracing::info!("not logged");
            let after = log(Some(LogFormat::Text), "warn,gmfy_sidecar::telemetry=debug");
            handle.apply(&after).unwrap();
            tracing::debug!("logged");
            assert!(handle.apply(&log(Some(LogFormat::Json), "a=b=c")).is_err());
            assert!(handle.set_level("a=b=c").is_err());
            assert_eq!(handle.level(), after.level);
            tracing::debug!("logged as well");
        });
        let lines = written.lines();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines.iter().all(|line| line.contains("DEBUG telemetry::logging")), "{lines:?}");
    }

    #[test]
    fn a_stderr_that_cannot_be_written_harms_nothing() {
        struct Closed;
        impl io::Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        let (subscriber, _handle) =
            subscriber(&log(None, "info"), false, false, || Closed).unwrap();
        with_default(subscriber, || tracing::error!("lost"));
    }

    #[test]
    fn a_panic_is_logged_with_its_place() {
        let written = Written::default();
        let (subscriber, _handle) =
            subscriber(&log(None, "info"), false, false, written.writer()).unwrap();
        log_panics();
        with_default(subscriber, || {
            let caught = std::panic::catch_unwind(|| panic!("told {}", "you"));
            assert!(caught.is_err());
        });
        let line: serde_json::Value = serde_json::from_str(&written.lines()[0]).unwrap();
        assert_eq!(line["level"], "ERROR");
        assert_eq!(line["message"], "panicked: told you");
        assert!(line["panic.location"].as_str().unwrap().contains("logging.rs"));
    }
}
