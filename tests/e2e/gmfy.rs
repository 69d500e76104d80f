//! The simulated GMFY of a test, in its own process.

use gmfy_sidecar::clock::{Clock, Timestamp};
use gmfy_sidecar::simulator::{Faults, Handle, Options, Simulator};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::process::KEY;

/// A simulator that records everything, and runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Gmfy {
    pub(crate) handle: Handle,
    pub(crate) url: String,
    pub(crate) address: std::net::SocketAddr,
    _running: JoinSet<()>,
}

impl Gmfy {
    pub(crate) async fn start(faults: Faults) -> Self {
        let options = Options {
            api_key: Some(KEY.to_owned()),
            faults,
            record: 10_000_000,
            // The same dates in all answers.
            clock: Clock::manual(Timestamp::from_millis(1_800_000_000_000)),
            ..Options::default()
        };
        let simulator = Simulator::bind(options).await.unwrap();
        let (handle, url, address) = (simulator.handle(), simulator.url(), simulator.address());
        let mut running = JoinSet::new();
        running.spawn(simulator.run(CancellationToken::new()));
        Self { handle, url, address, _running: running }
    }
}
