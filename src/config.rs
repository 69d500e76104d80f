//! The settings: typed, every default written once, every value with its origin.

mod secret;
mod settings;

pub use secret::Secret;
pub use settings::*;
