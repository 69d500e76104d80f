//! `health`: asks the running sidecar's probe, for images without a shell.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::settings::{SettingsArgs, load};
use super::{Failure, output};
use crate::config::Settings;

const TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: SettingsArgs,

    /// Ask whether it can accept events, not only whether it lives
    #[arg(long)]
    ready: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let settings = settings(&arguments.settings)?;
    let probe = if arguments.ready { "/readyz" } else { "/livez" };
    let address = reachable(settings.ops.listen);
    let answer = ask(address, probe)
        .with_context(|| format!("the sidecar at {address} does not answer {probe}"))?;
    let status = answer.split(' ').nth(1).unwrap_or_default();
    let text = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).trim();
    output::line(text);
    Ok(if status == "200" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The settings; where they say nothing of GMFY, all the same: a container's health check has its
/// environment, but not the `--config` of its process, and only `ops.listen` counts here.
fn settings(arguments: &SettingsArgs) -> Result<Settings, Failure> {
    let mut sources = arguments.sources();
    load(&sources)
        .or_else(|failure| {
            let unused = [("upstream.url", "http://localhost/"), ("upstream.api_key", "unused")];
            sources.defaults.extend(unused.map(|(name, value)| (name, value.to_owned())));
            load(&sources).map_err(|_| failure)
        })
        .map(|loaded| loaded.settings)
}

/// A listener on every address is reached by loopback.
pub(super) fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn ask(address: SocketAddr, probe: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {probe} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(64 * 1024).read_to_string(&mut answer)?;
    Ok(answer)
}
