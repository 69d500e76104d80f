//! What names a NATS deployment, and streams in it.

use http::Uri;

use super::{Expected, Invalid, Raw, Syntax};

/// A NATS server: `nats://HOST:PORT`, or `tls://HOST:PORT`.
pub(crate) struct NatsServer;

impl Expected for NatsServer {
    fn expected(&self) -> String {
        "a NATS server such as `nats://nats-0.example.com:4222` or `tls://nats.example.com`"
            .to_owned()
    }
}

impl Syntax<String> for NatsServer {
    fn parse(&self, raw: &Raw) -> Result<String, Invalid> {
        let text = raw.text()?;
        // What may hold a credential is kept out of the error.
        if text.contains('@') {
            let why = "it has credentials: they belong in queue.nats.credentials_file";
            return Err(Invalid::because(why).hidden());
        }
        let uri: Uri = text.parse().map_err(|_| Invalid::default())?;
        let scheme = uri.scheme_str().unwrap_or_default();
        if !matches!(scheme, "nats" | "tls") {
            return Err(Invalid::because("it starts with neither `nats://` nor `tls://`"));
        }
        let authority = uri.authority().ok_or_else(Invalid::default)?;
        if authority.host().is_empty() {
            return Err(Invalid::because("the host is missing"));
        }
        if authority.as_str() != authority.host() && authority.port_u16().is_none() {
            return Err(Invalid::because("the port is no port"));
        }
        if uri.query().is_some() || !matches!(uri.path(), "" | "/") {
            return Err(Invalid::because("it has a path or a query"));
        }
        Ok(format!("{scheme}://{authority}"))
    }

    fn show(&self, value: &String) -> String {
        value.clone()
    }
}

/// The name of a stream, from which others and subjects are derived.
pub(crate) struct StreamName;

const LONGEST: usize = 32;

impl Expected for StreamName {
    fn expected(&self) -> String {
        format!("a name of 1 to {LONGEST} letters, digits, `-` or `_`")
    }
}

impl Syntax<String> for StreamName {
    fn parse(&self, raw: &Raw) -> Result<String, Invalid> {
        let name = raw.text()?;
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
        let is_name = (1..=LONGEST).contains(&name.len()) && name.bytes().all(allowed);
        if is_name { Ok(name.to_owned()) } else { Err(Invalid::default()) }
    }

    fn show(&self, value: &String) -> String {
        value.clone()
    }
}
