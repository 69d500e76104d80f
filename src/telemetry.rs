//! What the sidecar says about itself: logs, metrics, heartbeats, what becomes of events, traces.

pub mod heartbeat;
pub mod ledger;
pub mod logging;
pub mod metrics;
pub mod recent;
pub mod request;
pub mod stream;
pub mod traces;

pub use heartbeat::{Heartbeats, Pulse};
pub use ledger::{Counts, Ledger};
pub use metrics::Metrics;
pub use recent::Recent;
pub use stream::EventStream;
pub use traces::Traces;
