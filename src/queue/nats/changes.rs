//! What GMFY took of users, told to the other replicas, so that they drop what they have cached of
//! them. By core NATS: what is lost on the way is stale for as long as the cache's own times allow.

use futures_util::StreamExt as _;
use tracing::warn;

use super::FleetQueue;
use super::connect::TIMEOUT;
use crate::queue::UserHash;

/// What waits to be told, at most; what is beyond is not told.
pub(super) const WAITING: usize = 1024;

impl FleetQueue {
    /// Tells the other replicas that GMFY took something of these users, or may have.
    pub fn tell_changed(&self, users: &mut dyn Iterator<Item = UserHash>) {
        let mut told = self.shared.replica.clone().into_bytes();
        users.for_each(|user| told.extend_from_slice(&user.bits().to_le_bytes()));
        // Where it is full NATS is far behind, and the others read what they have for a while.
        drop(self.shared.changes.try_send(told.into()));
    }

    /// Tells what waits to be told, and calls `changed` with what other replicas tell, for ever.
    pub async fn changes_elsewhere(
        &self,
        changed: impl Fn(&mut dyn Iterator<Item = UserHash>) + Send,
    ) {
        let shared = &self.shared;
        let (client, subject) = (&shared.streams.client, format!("{}.changed", shared.prefix));
        let mut waiting = shared.changes_waiting.lock().await;
        loop {
            // It lasts across reconnections.
            let mut told = match client.subscribe(subject.clone()).await {
                Ok(told) => told,
                Err(error) => {
                    warn!(%error, "what other replicas deliver can't be followed");
                    tokio::time::sleep(TIMEOUT).await;
                    continue;
                }
            };
            loop {
                tokio::select! {
                    Some(users) = waiting.recv() => {
                        drop(client.publish(subject.clone(), users).await);
                    }
                    message = told.next() => {
                        let Some(message) = message else { break };
                        let Some((from, users)) = message.payload.split_at_checked(NAME) else {
                            continue;
                        };
                        if from != shared.replica.as_bytes() {
                            let (users, _) = users.as_chunks();
                            let users = users.iter().map(|bits| u32::from_le_bytes(*bits));
                            changed(&mut users.map(UserHash::from_bits));
                        }
                    }
                }
            }
        }
    }
}

/// The length of a replica's name.
const NAME: usize = 16;
