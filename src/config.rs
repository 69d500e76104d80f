//! The settings: typed, every default written once, every value with its origin.
//!
//! [`Settings`] is what the program uses. The schema is the only place that knows a setting's
//! name, default, documentation and syntax; the settings file, the environment, `--set`, the
//! documented file and the output of `check` are all read off it.
//!
//! Later layers win: defaults, the file, the environment, `--set`. Every value of every layer is
//! checked, also one that a later layer replaces, and every mistake is reported at once. Nothing
//! here reads the process's own environment or arguments: [`Sources`] carries them.

mod catalogue;
mod checks;
mod documented;
mod environment;
mod error;
mod file;
mod load;
mod nearest;
mod schema;
mod secret;
mod settings;
mod show;
mod syntax;

pub use catalogue::event_type_line;
pub use documented::documented_file;
pub use environment::environment_of;
pub use error::{ConfigError, ConfigErrors, Origin};
pub use load::{Effective, Loaded, Sources, reload_differences, reloadable_differences};
pub use secret::Secret;
pub use settings::*;
pub use show::{effective_json, effective_table};
pub use syntax::{check_log_level, parse_duration};
