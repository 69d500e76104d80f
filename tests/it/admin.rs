//! The admin listener, as operators, their tools and hostile pages see it.

mod access;
mod dead_letters;
mod delivery;
mod events;
mod status_stream;
