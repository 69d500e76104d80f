//! The signals that concern the sidecar.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT, each as a wish to stop; the second one means now. SIGHUP: reload.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Takes the signals over from their default actions.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for a wish to stop. Meanwhile `reload` is called at each SIGHUP.
    ///
    /// # Cancel safety
    /// No signal is lost.
    pub(super) async fn stop(&mut self, mut reload: impl AsyncFnMut()) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                hangup = self.hangup.recv() => match hangup {
                    Some(()) => reload().await,
                    None => return,
                },
            }
        }
    }
}
