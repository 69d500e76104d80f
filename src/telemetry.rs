//! What the sidecar says about itself: logs and metrics.

pub mod ledger;
pub mod logging;
pub mod metrics;

pub use ledger::{Counts, Ledger};
pub use metrics::Metrics;
