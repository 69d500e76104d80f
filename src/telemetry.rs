//! What the sidecar says about itself: logs, metrics, heartbeats.

pub mod heartbeat;
pub mod ledger;
pub mod logging;
pub mod metrics;

pub use heartbeat::{Heartbeats, Pulse};
pub use ledger::{Counts, Ledger};
pub use metrics::Metrics;
