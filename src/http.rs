//! The listeners: `api` for applications, `ops` for probes and scrapes, `admin` for operators.
//!
//! A request's way: `listener` accepts its connection and speaks HTTP, `api` checks what every
//! request must keep, sends it by its `route` to `events` or `passed`, and counts what came of it.
//! Whatever is refused on the way is a [`Problem`], and `problem` alone turns an error into one.

pub mod admin;
mod api;
mod body;
mod descriptors;
mod events;
mod host;
mod http_metrics;
mod idempotency;
mod in_force;
mod listener;
mod openapi;
mod ops;
mod passed;
mod prefer;
mod problem;
mod request_body;
mod request_id;
mod route;
mod socket;
#[cfg(test)]
mod tests;
mod timed_stream;

pub use admin::AdminListener;
pub use api::{Activity, ApiListener, ApiState};
pub use descriptors::raise_limit;
pub use in_force::ApiSettings;
pub use listener::Stop;
pub use openapi::openapi_json;
pub use ops::{Health, OpsListener, OpsState, readiness_text};
pub use passed::{Gmfy, GmfyClient};
pub use problem::Problem;
pub use socket::BindError;
