//! A way to a server that can be closed.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A way to a server that can be closed: then nothing passes, and no one is told.
#[derive(Debug)]
pub(crate) struct Link {
    address: SocketAddr,
    is_open: watch::Sender<bool>,
    _task: JoinSet<()>,
}

impl Link {
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let is_open = watch::Sender::new(true);
        let watching = is_open.subscribe();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((caller, _)) = listener.accept().await {
                connections.spawn(relay(caller, port, watching.clone()));
            }
        });
        Self { address, is_open, _task: task }
    }

    pub(crate) const fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    pub(crate) fn open(&self, is_open: bool) {
        self.is_open.send_replace(is_open);
    }
}

async fn relay(caller: TcpStream, port: u16, mut is_open: watch::Receiver<bool>) {
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
    let pairs = [(&caller, &server), (&server, &caller)];
    let mut bytes = vec![0; 16 * 1024];
    loop {
        if is_open.wait_for(|is_open| *is_open).await.is_err() {
            return;
        }
        let from = tokio::select! {
            _ = is_open.changed() => continue,
            ready = caller.readable() => ready.map(|()| 0),
            ready = server.readable() => ready.map(|()| 1),
        };
        let Ok(from) = from else { return };
        let (from, to) = pairs[from];
        let count = match from.try_read(&mut bytes) {
            Ok(0) => return,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => return,
        };
        let mut sent = 0;
        while sent < count {
            if to.writable().await.is_err() {
                return;
            }
            match to.try_write(&bytes[sent..count]) {
                Ok(more) => sent += more,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}
