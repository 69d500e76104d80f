//! A way to a server that can be closed, and cut.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What passes: what doesn't is held up, and no one is told.
#[derive(Clone, Copy, Debug)]
struct Passes {
    to_server: bool,
    to_caller: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Link {
    address: SocketAddr,
    passes: watch::Sender<Passes>,
    cuts: watch::Sender<()>,
    _task: JoinSet<()>,
}

impl Link {
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let passes = watch::Sender::new(Passes { to_server: true, to_caller: true });
        let cuts = watch::Sender::new(());
        let (passing, cutting) = (passes.subscribe(), cuts.subscribe());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((caller, _)) = listener.accept().await {
                let mut cuts = cutting.clone();
                cuts.mark_unchanged();
                connections.spawn(relay(caller, port, passing.clone(), cuts));
            }
        });
        Self { address, passes, cuts, _task: task }
    }

    pub(crate) const fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Whether anything passes.
    pub(crate) fn open(&self, is_open: bool) {
        self.passes.send_replace(Passes { to_server: is_open, to_caller: is_open });
    }

    /// Whether what the server says passes.
    pub(crate) fn answers(&self, pass: bool) {
        self.passes.send_replace(Passes { to_server: true, to_caller: pass });
    }

    /// Ends all connections; what is held up is lost.
    pub(crate) fn cut(&self) {
        self.cuts.send_replace(());
    }
}

async fn relay(
    caller: TcpStream,
    port: u16,
    passes: watch::Receiver<Passes>,
    mut cuts: watch::Receiver<()>,
) {
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
    let (from_caller, to_caller) = caller.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pass(from_caller, to_server, passes.clone(), |passes| passes.to_server) => {}
        () = pass(from_server, to_caller, passes, |passes| passes.to_caller) => {}
        _ = cuts.changed() => {}
    }
}

/// Until either end is gone.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut passes: watch::Receiver<Passes>,
    is_open: impl Fn(&Passes) -> bool,
) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        let is_over = passes.wait_for(|passes| is_open(passes)).await.is_err();
        if is_over || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
