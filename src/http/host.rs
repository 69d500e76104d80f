//! The check of a request's host: what stands between a web page's DNS rebinding and the sidecar.

use std::net::IpAddr;

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderMap, Uri, Version};

use super::problem::Problem;

/// The host names that may be called by.
#[derive(Debug)]
pub(super) struct AllowedHosts {
    any: bool,
    /// Any address written as such: no DNS name can be rebound to look like one.
    any_address: bool,
    /// Lower case, IPv6 without brackets.
    names: Vec<String>,
}

impl AllowedHosts {
    /// From `api.allowed_hosts`.
    pub(super) fn new(hosts: &[String]) -> Self {
        let names = hosts.iter().map(|host| without_brackets(host).to_ascii_lowercase()).collect();
        Self { any: hosts.iter().any(|host| host == "*"), any_address: false, names }
    }

    /// The same, and the address that a listener has; any address where it has them all.
    pub(super) fn and_addresses_of(mut self, listen: IpAddr) -> Self {
        self.any_address = listen.is_unspecified();
        self.names.push(listen.to_string());
        self
    }

    /// Passes a request that names one allowed host. An absolute-form target's authority (and
    /// HTTP/2's `:authority`) counts instead of the header (RFC 9112 §3.2.2); the header has to
    /// be there all the same in HTTP/1.
    pub(super) fn check(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        version: Version,
    ) -> Result<(), Problem> {
        let mut hosts = headers.get_all(HOST).iter();
        let header = hosts.next();
        if hosts.next().is_some() {
            return Err(Problem::bad_host("The request has several Host headers."));
        }
        let header = match header {
            Some(value) => {
                let host = value.to_str().ok().and_then(host_of_header);
                Some(host.ok_or_else(|| Problem::bad_host("The Host header is not valid."))?)
            }
            None => None,
        };
        let authority = uri.authority().map(Authority::host);
        let host = match (authority, header) {
            (Some(_), None) if version < Version::HTTP_2 => None,
            (Some(authority), _) => Some(without_brackets(authority)),
            (None, header) => header,
        };
        let host = host.ok_or_else(|| Problem::bad_host("The request has no Host header."))?;
        let is_address = self.any_address && host.parse::<IpAddr>().is_ok();
        if self.any || is_address || self.names.iter().any(|name| name.eq_ignore_ascii_case(host)) {
            Ok(())
        } else {
            Err(Problem::misdirected())
        }
    }
}

/// The host of `host[:port]`, without brackets; none when it is empty or has another form.
fn host_of_header(value: &str) -> Option<&str> {
    let (host, port) = match value.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => value.find(':').map_or(Some((value, "")), |at| value.split_at_checked(at))?,
    };
    let port_is_valid = port.is_empty()
        || port.strip_prefix(':').is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()));
    let host_is_valid =
        !host.is_empty() && !host.contains(['/', '@', '[', ']', '?', '#', '\\', ' ', ',']);
    (port_is_valid && host_is_valid).then_some(host)
}

fn without_brackets(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn status(allowed: &[&str], target: &str, hosts: &[&str], version: Version) -> u16 {
        let allowed: Vec<String> = allowed.iter().map(|host| (*host).to_owned()).collect();
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, HeaderValue::from_str(host).unwrap());
        }
        AllowedHosts::new(&allowed)
            .check(&target.parse().unwrap(), &headers, version)
            .map_or_else(|problem| problem.into_response().status().as_u16(), |()| 200)
    }

    #[test]
    fn the_host_decides() {
        let loopback = ["localhost", "127.0.0.1", "[::1]"];
        for (target, hosts, expected) in [
            ("/", &["localhost"][..], 200),
            ("/", &["LOCALHOST:7460"], 200),
            ("/", &["127.0.0.1:1"], 200),
            ("/", &["[::1]:7460"], 200),
            ("/", &["[::1]"], 200),
            ("/", &["::1"], 400),
            ("/", &["evil.example"], 421),
            ("/", &["localhost.evil.example"], 421),
            ("/", &["evil.example@localhost"], 400),
            ("/", &["localhost:80x"], 400),
            ("/", &["localhost, evil.example"], 400),
            ("/", &[""], 400),
            ("/", &[], 400),
            ("/", &["localhost", "localhost"], 400),
            ("http://localhost/", &["evil.example"], 200),
            ("http://evil.example/", &["localhost"], 421),
            ("http://[::1]:7460/", &["localhost"], 200),
            ("http://localhost/", &[], 400),
        ] {
            let status = status(&loopback, target, hosts, Version::HTTP_11);
            assert_eq!(status, expected, "{target} {hosts:?}");
        }
    }

    #[test]
    fn http_2_needs_its_authority_only() {
        assert_eq!(status(&["localhost"], "http://localhost/", &[], Version::HTTP_2), 200);
        assert_eq!(status(&["localhost"], "/", &[], Version::HTTP_2), 400);
    }

    #[test]
    fn a_listener_may_be_called_by_its_address() {
        let status = |listen: &str, host: &'static str| {
            let hosts = AllowedHosts::new(&["localhost".to_owned()]);
            let hosts = hosts.and_addresses_of(listen.parse().unwrap());
            let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]);
            let passed = hosts.check(&Uri::from_static("/"), &headers, Version::HTTP_11);
            passed.map_or_else(|problem| problem.into_response().status().as_u16(), |()| 200)
        };
        assert_eq!(status("10.1.2.3", "10.1.2.3:7462"), 200);
        assert_eq!(status("10.1.2.3", "10.1.2.4:7462"), 421);
        assert_eq!(status("0.0.0.0", "10.1.2.4:7462"), 200);
        assert_eq!(status("::", "[fd00::1]"), 200);
        assert_eq!(status("::", "10.evil.example"), 421);
    }

    #[test]
    fn a_star_allows_any_host_but_not_none() {
        assert_eq!(status(&["*"], "/", &["evil.example"], Version::HTTP_11), 200);
        assert_eq!(status(&["*"], "/", &[], Version::HTTP_11), 400);
    }
}
