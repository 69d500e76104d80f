//! Integration tests: the parts together, through their real interfaces.

mod support;

mod http;
