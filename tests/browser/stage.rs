//! What the page is to show: a sidecar in front of a GMFY, and what happens to them.

use std::collections::BTreeSet;

use gmfy_sidecar::simulator::Faults;

use crate::chromium::Chromium;
use crate::client;
use crate::gmfy::Gmfy;
use crate::process::{Addresses, Process, sidecar};

/// See the module.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) gmfy: Gmfy,
    pub(crate) process: Process,
    pub(crate) addresses: Addresses,
    pub(crate) folder: tempfile::TempDir,
}

impl Stage {
    pub(crate) async fn start(sets: &[&str]) -> Self {
        let gmfy = Gmfy::start(Faults::default()).await;
        let folder = tempfile::tempdir().unwrap();
        let all = [&["shutdown.quiet=10ms", "delivery.linger=5ms"], sets].concat();
        let mut process = Process::spawn(sidecar(folder.path(), &gmfy.url, &all));
        let addresses = process.ready().await;
        Self { gmfy, process, addresses, folder }
    }

    /// The page of this sidecar, if there is a browser.
    pub(crate) async fn page(&self) -> Option<Chromium> {
        Chromium::open(self.addresses.admin).await
    }

    /// GMFY refuses events of the type `poison` from now on.
    pub(crate) fn refuse_poison(&self) {
        let reject_types = BTreeSet::from(["poison".to_owned()]);
        self.gmfy.handle.set_faults(Faults { reject_types, ..Faults::default() });
    }

    /// GMFY is gone from now on.
    pub(crate) fn gmfy_is_down(&self) {
        self.gmfy.handle.set_faults(Faults { down: true, ..Faults::default() });
    }

    /// Has an event accepted.
    pub(crate) async fn accept(&self, user: &str, event_type: &str) -> u64 {
        let event = serde_json::json!({ "userId": user, "type": event_type, "amount": 12.50 });
        let answer = client::post(self.addresses.api, "/v1/events/", &event.to_string()).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        answer.json()["first_sequence"].as_u64().unwrap()
    }

    /// Has a number of events accepted, of ten users in turn.
    pub(crate) async fn accept_many(&self, count: usize, event_type: &str) {
        let event = |n: usize| format!(r#"{{"userId":"user-{}","type":"{event_type}"}}"#, n % 10);
        let events: Vec<_> = (0..count).map(event).collect();
        let body = format!("[{}]", events.join(","));
        let answer = client::post(self.addresses.api, "/v1/events/batch/", &body).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
    }
}
