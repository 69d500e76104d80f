//! The admin listener, as operators, their tools and hostile pages see it.

mod access;
mod delivery;
