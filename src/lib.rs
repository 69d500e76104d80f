//! A durable, ordered, local outbox and read cache in front of the GMFY gamification API.
//!
//! An application POSTs an event to the sidecar and goes on: the event is on disk before it is
//! acknowledged, and reaches GMFY in order for each user, for as long as that takes.
//!
//! The modules, in reading order; each knows only those below it in README's architecture picture:
//!
//! - [`event`]: what an event is, in its two spellings, and what is wrong with a bad one
//! - [`queue`]: the durable log, the lanes' cursors, the dead letters
//! - [`upstream`]: the client of GMFY
//! - [`delivery`]: from the queue to GMFY, in order for each user
//! - [`reads`]: what is read from GMFY through the sidecar
//! - [`http`]: the listeners
//! - [`sidecar`]: builds every part from the settings, owns the tasks, starts and stops them
//! - [`cli`]: the command line
//! - [`simulator`]: a GMFY with faults, for `dev`, `simulate` and the tests
//! - [`config`], [`telemetry`], [`clock`]: settings, logs and metrics, time

pub mod cli;
pub mod clock;
pub mod config;
pub mod delivery;
pub mod event;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
pub mod http;
pub mod queue;
pub mod reads;
pub mod sidecar;
pub mod simulator;
pub mod telemetry;
pub mod upstream;
