//! The tasks that the sidecar owns, by name: each is awaited, and none ends unnoticed.

use std::collections::{HashMap, HashSet};
use std::future::Future;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};

/// A task that ended, and should not have.
#[derive(Debug, thiserror::Error)]
#[error("the {name} ended: {why}")]
pub struct TaskEnded {
    name: &'static str,
    why: String,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    running: JoinSet<Result<(), String>>,
    names: HashMap<Id, &'static str>,
    ended: HashSet<&'static str>,
}

impl Tasks {
    pub(super) fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), String>> + Send + 'static,
    ) {
        let id = self.running.spawn(task).id();
        self.names.insert(id, name);
    }

    /// Waits for the first task to end, however it does.
    pub(super) async fn any_ended(&mut self) -> TaskEnded {
        match self.running.join_next_with_id().await {
            Some(ended) => self.note(ended),
            None => std::future::pending().await,
        }
    }

    /// Waits until the named task has ended; false if it has not by `end`.
    pub(super) async fn wait_for(&mut self, name: &'static str, end: Instant) -> bool {
        while !self.ended.contains(name) {
            let Ok(next) = timeout_at(end, self.running.join_next_with_id()).await else {
                return false;
            };
            let Some(ended) = next else { return true };
            self.note(ended);
        }
        true
    }

    fn note(&mut self, ended: Result<(Id, Result<(), String>), JoinError>) -> TaskEnded {
        let (id, why) = match ended {
            Ok((id, Ok(()))) => (id, "it returned".to_owned()),
            Ok((id, Err(why))) => (id, why),
            Err(error) => (error.id(), error.to_string()),
        };
        let name = self.names.get(&id).copied().unwrap_or("task");
        self.ended.insert(name);
        TaskEnded { name, why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_task_is_waited_for_by_name_and_its_end_is_told() {
        let mut tasks = Tasks::default();
        tasks.spawn("quick", async { Ok(()) });
        tasks.spawn("slow", async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            Err("broken".to_owned())
        });
        let soon = Instant::now() + Duration::from_secs(1);
        assert!(!tasks.wait_for("slow", soon).await);
        assert!(tasks.wait_for("quick", soon).await, "noted on the way");
        let ended = tasks.any_ended().await;
        assert_eq!(ended.to_string(), "the slow ended: broken");
        assert!(tasks.wait_for("slow", soon).await);
    }
}
