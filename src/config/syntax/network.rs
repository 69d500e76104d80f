//! Addresses, host names and URLs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::Uri;

use super::{Expected, Invalid, Raw, Syntax};

/// Where a listener binds. Only literal addresses and `localhost`: a name server's answer should
/// not decide who can connect.
pub(crate) struct Address;

impl Expected for Address {
    fn expected(&self) -> String {
        "an address and a port, such as `127.0.0.1:7460`, `[::1]:7460` or `localhost:7460`"
            .to_owned()
    }
}

impl Syntax<SocketAddr> for Address {
    fn parse(&self, raw: &Raw) -> Result<SocketAddr, Invalid> {
        let text = raw.text()?;
        if let Some((name, port)) = text.rsplit_once(':')
            && name.eq_ignore_ascii_case("localhost")
        {
            let port = port.parse().map_err(|_| Invalid::default())?;
            return Ok(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
        }
        text.parse().map_err(|_| {
            if text.starts_with(':') {
                Invalid::because(format!("`0.0.0.0{text}` listens on all addresses"))
            } else if text.parse::<IpAddr>().is_ok() {
                Invalid::because("the port is missing")
            } else {
                Invalid::default()
            }
        })
    }

    fn show(&self, value: &SocketAddr) -> String {
        value.to_string()
    }
}

/// A host name as a Host header spells it, without port, in lower case; or `*`.
pub(crate) struct Host;

impl Expected for Host {
    fn expected(&self) -> String {
        "a host name or address without a scheme, or `*` for any".to_owned()
    }
}

impl Syntax<String> for Host {
    fn parse(&self, raw: &Raw) -> Result<String, Invalid> {
        let text = raw.text()?.to_ascii_lowercase();
        if text == "*" {
            return Ok(text);
        }
        if let Ok(address) = text.parse::<Ipv6Addr>() {
            return Ok(format!("[{address}]"));
        }
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, rest)) => {
                let address: Ipv6Addr = address.parse().map_err(|_| Invalid::default())?;
                (format!("[{address}]"), rest.strip_prefix(':').or(none_if_empty(rest)))
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host.to_owned(), Some(port)),
                None => (text, Some("0")),
            },
        };
        let named = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        let well_formed = host.starts_with('[') || (!host.is_empty() && host.bytes().all(named));
        let port_fine = port.is_some_and(|port| port.parse::<u16>().is_ok());
        if well_formed && port_fine { Ok(host) } else { Err(Invalid::default()) }
    }

    fn show(&self, value: &String) -> String {
        value.clone()
    }
}

/// A port that isn't written is fine; anything else after `]` is not a port.
const fn none_if_empty(rest: &str) -> Option<&str> {
    if rest.is_empty() { Some("0") } else { None }
}

/// An http or https URL to which paths are appended: it ends with `/`.
pub(crate) struct BaseUrl;

impl Expected for BaseUrl {
    fn expected(&self) -> String {
        "an http or https URL such as `https://gmfy.example.com/`".to_owned()
    }
}

impl Syntax<String> for BaseUrl {
    fn parse(&self, raw: &Raw) -> Result<String, Invalid> {
        let text = raw.text()?;
        // What may hold a credential is kept out of the error, well-formed or not.
        parse_url(text)
            .map_err(|error| if text.contains(['@', '?', '#']) { error.hidden() } else { error })
    }

    fn show(&self, value: &String) -> String {
        value.clone()
    }
}

fn parse_url(text: &str) -> Result<String, Invalid> {
    // The parser drops fragments without a word.
    if text.contains('#') {
        return Err(Invalid::because("it has a fragment (`#`)"));
    }
    let uri: Uri = text.parse().map_err(|_| Invalid::default())?;
    let scheme = uri.scheme_str().unwrap_or_default();
    if !matches!(scheme, "http" | "https") {
        return Err(Invalid::because("it starts with neither `http://` nor `https://`"));
    }
    let authority = uri.authority().ok_or_else(Invalid::default)?;
    if authority.as_str().contains('@') {
        return Err(Invalid::because("it has credentials, which don't belong in a URL"));
    }
    if authority.host().is_empty() {
        return Err(Invalid::because("the host is missing"));
    }
    if authority.as_str() != authority.host() && authority.port_u16().is_none() {
        return Err(Invalid::because("the port is no port"));
    }
    if uri.query().is_some() {
        return Err(Invalid::because("it has a query (`?`), and paths are appended to it"));
    }
    let slash = if uri.path().ends_with('/') { "" } else { "/" };
    Ok(format!("{scheme}://{authority}{}{slash}", uri.path()))
}

/// A text that has to be set in the end: `none`, or empty while it isn't.
pub(crate) struct Required<S>(pub(crate) S);

impl<S: Expected> Expected for Required<S> {
    fn expected(&self) -> String {
        self.0.expected()
    }
}

impl<S: Syntax<String>> Syntax<String> for Required<S> {
    fn parse(&self, raw: &Raw) -> Result<String, Invalid> {
        match raw {
            Raw::Text(text) if text.trim() == "none" => Ok(String::new()),
            Raw::Text(_) | Raw::List(_) | Raw::Other(_) => self.0.parse(raw),
        }
    }

    fn show(&self, value: &String) -> String {
        if value.is_empty() { "none".to_owned() } else { self.0.show(value) }
    }
}

/// A path that is appended to the base URL: no slash in front, one at the end.
pub(crate) struct UrlPath;

impl Expected for UrlPath {
    fn expected(&self) -> String {
        "a path such as `v1/notifications/unread/`".to_owned()
    }
}

impl Syntax<String> for UrlPath {
    fn parse(&self, raw: &Raw) -> Result<String, Invalid> {
        let path = raw.text()?.trim_matches('/');
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&b);
        let segment = |s: &str| !matches!(s, "" | "." | "..") && s.bytes().all(allowed);
        if path.split('/').all(segment) { Ok(format!("{path}/")) } else { Err(Invalid::default()) }
    }

    fn show(&self, value: &String) -> String {
        value.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<T>(syntax: &impl Syntax<T>, text: &str) -> Result<T, Invalid> {
        syntax.parse(&Raw::Text(text.to_owned()))
    }

    #[test]
    fn an_address_is_literal_or_localhost() {
        for (text, address) in [
            ("127.0.0.1:7460", "127.0.0.1:7460"),
            ("localhost:0", "127.0.0.1:0"),
            ("LOCALHOST:7460", "127.0.0.1:7460"),
            ("[::1]:7460", "[::1]:7460"),
            (" 0.0.0.0:1 ", "0.0.0.0:1"),
        ] {
            assert_eq!(parse(&Address, text), Ok(address.parse().unwrap()), "{text}");
        }
        for text in ["", ":7460", "7460", "127.0.0.1", "::1", "example.com:80", "localhost:99999"] {
            assert!(parse(&Address, text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_host_loses_its_port_and_its_capitals() {
        for (text, host) in [
            ("*", "*"),
            ("localhost", "localhost"),
            ("LocalHost:7460", "localhost"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("::1", "[::1]"),
            ("[::1]", "[::1]"),
            ("[0:0::1]:443", "[::1]"),
            ("gmfy_sidecar.default.svc", "gmfy_sidecar.default.svc"),
        ] {
            assert_eq!(parse(&Host, text), Ok(host.to_owned()), "{text}");
        }
        for text in
            ["", "http://a", "a/b", "a b", "a:", "a:b", "[::1]x", "[::1", "[x]", "*.a", ":80", "é"]
        {
            assert!(parse(&Host, text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_base_url_ends_with_a_slash() {
        for (text, url) in [
            ("http://a", "http://a/"),
            ("https://a.b:8443", "https://a.b:8443/"),
            ("HTTPS://a/x", "https://a/x/"),
            ("http://[::1]:80/x/", "http://[::1]:80/x/"),
        ] {
            assert_eq!(parse(&BaseUrl, text), Ok(url.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_base_url_has_a_host_and_nothing_secret() {
        for text in
            ["", "a", "a:80", "/x", "ftp://a/", "http://", "http:///x", "http://a:x/", "http://a b"]
        {
            assert_eq!(parse(&BaseUrl, text).map_err(|e| e.hide_value), Err(false), "{text}");
        }
        for text in ["http://u:p@a/", "http://a/?key=p", "http://a/#p", "u:p@a", "http:// u:p@a"] {
            assert_eq!(parse(&BaseUrl, text).map_err(|e| e.hide_value), Err(true), "{text}");
        }
    }

    #[test]
    fn a_url_path_stays_below_the_base_url() {
        for text in ["v1/unread", "/v1/unread/", "v1/unread/"] {
            assert_eq!(parse(&UrlPath, text), Ok("v1/unread/".to_owned()), "{text}");
        }
        for text in ["", "/", "a//b", "../a", "a/./b", "a?b", "a#b", "a b", "é"] {
            assert!(parse(&UrlPath, text).is_err(), "{text}");
        }
    }
}
