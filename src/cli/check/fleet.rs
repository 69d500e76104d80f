//! What NATS says to `check --online`.

use serde_json::{Value, json};

use crate::config::Settings;

/// How the servers and the streams of a fleet's queue are; or why that can't be told.
#[derive(Debug)]
pub(super) struct Answer(Result<Found, String>);

#[derive(Debug)]
struct Found {
    server_version: String,
    acknowledgement: String,
    streams: Vec<Stream>,
}

#[derive(Debug)]
struct Stream {
    name: String,
    is_there: bool,
    replicas: usize,
    problem: Option<String>,
}

/// Asks; none where the queue is not on NATS.
#[cfg(feature = "nats")]
pub(super) fn ask(settings: &Settings) -> Result<Option<Answer>, anyhow::Error> {
    use crate::config::Backend;
    use crate::queue::StreamSurvey;

    if settings.queue.backend != Backend::Nats {
        return Ok(None);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let survey = runtime.block_on(crate::sidecar::survey_fleet(settings));
    let stream = |stream: StreamSurvey| Stream {
        name: stream.name,
        is_there: stream.is_there,
        replicas: stream.replicas,
        problem: stream.problem.map(|problem| problem.to_string()),
    };
    Ok(Some(Answer(survey.map_err(|error| error.to_string()).map(|survey| Found {
        server_version: survey.account.server_version,
        acknowledgement: survey.account.acknowledgement,
        streams: survey.streams.into_iter().map(stream).collect(),
    }))))
}

/// Asks nobody: settings that name NATS are refused by a program that was built without it.
#[cfg(not(feature = "nats"))]
#[allow(clippy::unnecessary_wraps, reason = "as the other one")]
pub(super) fn ask(_: &Settings) -> Result<Option<Answer>, anyhow::Error> {
    Ok(None)
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        match &self.0 {
            Err(error) => json!({ "error": error }),
            Ok(found) => {
                let streams = found.streams.iter().map(|stream| {
                    json!({
                        "name": stream.name, "there": stream.is_there, "replicas": stream.replicas,
                        "problem": stream.problem,
                    })
                });
                json!({
                    "server_version": found.server_version,
                    "acknowledgement": found.acknowledgement,
                    "streams": streams.collect::<Vec<_>>(),
                })
            }
        }
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let Ok(found) = &self.0 else { return Vec::new() };
        let mut lines = vec![format!("\nNATS answers: nats-server {}", found.server_version)];
        for Stream { name, is_there, replicas, problem } in &found.streams {
            let is = match (is_there, problem) {
                (false, _) => "would be created",
                (true, None) => "is there",
                (true, Some(_)) => "is there, and would be refused",
            };
            lines.push(format!("  stream {name} {is}, replicas: {replicas}"));
        }
        lines.push(format!("  an acknowledgement means: {}", found.acknowledgement));
        lines
    }

    /// # Errors
    /// When a start would be refused.
    pub(super) fn judge(self) -> Result<(), anyhow::Error> {
        let found = self.0.map_err(anyhow::Error::msg)?;
        match found.streams.into_iter().find_map(|stream| stream.problem) {
            Some(problem) => Err(anyhow::Error::msg(problem)),
            None => Ok(()),
        }
    }
}
