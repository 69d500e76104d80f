//! The listeners through real sockets, mostly with raw bytes.

mod harness;
mod http1;
mod http2;
mod ops;
mod refusals;
mod reload;
mod routes;
mod stop;
