//! What NATS says to `check --online`.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::config::{Backend, Settings};
use crate::queue::{FleetSurvey, NatsError};

/// How the servers and the streams of a fleet's queue are; or why that can't be told.
#[derive(Debug)]
pub(super) struct Answer {
    survey: Result<FleetSurvey, NatsError>,
    /// The folder of what NATS does not take.
    spill: Option<PathBuf>,
}

/// Asks; none where the queue is not on NATS.
pub(super) fn ask(settings: &Settings) -> Result<Option<Answer>, anyhow::Error> {
    if settings.queue.backend != Backend::Nats {
        return Ok(None);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let survey = runtime.block_on(crate::sidecar::survey_fleet(settings));
    let spill = settings.queue.nats.spill.then(|| settings.queue.dir.clone());
    Ok(Some(Answer { survey, spill }))
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        match &self.survey {
            Err(error) => json!({ "error": error.to_string() }),
            Ok(survey) => {
                let streams = survey.streams.iter().map(|stream| {
                    json!({
                        "name": stream.name, "there": stream.is_there, "replicas": stream.replicas,
                        "problem": stream.problem.as_ref().map(ToString::to_string),
                    })
                });
                json!({
                    "server_version": survey.account.server_version,
                    "acknowledgement": survey.account.acknowledgement,
                    "streams": streams.collect::<Vec<_>>(),
                    "spill": self.spill,
                })
            }
        }
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let Ok(survey) = &self.survey else { return Vec::new() };
        let mut lines =
            vec![format!("\nNATS answers: nats-server {}", survey.account.server_version)];
        for stream in &survey.streams {
            let is = match (stream.is_there, &stream.problem) {
                (false, _) => "would be created",
                (true, None) => "is there",
                (true, Some(_)) => "is there, and would be refused",
            };
            lines.push(format!("  stream {} {is}, replicas: {}", stream.name, stream.replicas));
        }
        lines.push(format!("  an acknowledgement means: {}", survey.account.acknowledgement));
        if let Some(folder) = &self.spill {
            lines.push(format!(
                "  while NATS does not take events, it means: this replica's disk has the event, in {}",
                folder.display()
            ));
        }
        lines
    }

    /// # Errors
    /// When a start would be refused.
    pub(super) fn judge(self) -> Result<(), anyhow::Error> {
        match self.survey?.streams.into_iter().find_map(|stream| stream.problem) {
            Some(problem) => Err(problem.into()),
            None => Ok(()),
        }
    }
}
