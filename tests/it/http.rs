//! The application and ops listeners, as callers see them.

mod events;
mod repetition;
