//! The sockets: bound before anything is served, so that a bad address is told at start.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Why a listener can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("{setting}: can't listen on {address}: {source}{}", in_use(source))]
    Tcp { setting: &'static str, address: SocketAddr, source: io::Error },
    #[error("api.unix_socket: can't listen on {}: {source}", path.display())]
    Unix { path: PathBuf, source: io::Error },
    #[error("api.unix_socket: a process listens on {} already", path.display())]
    UnixInUse { path: PathBuf },
}

fn in_use(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another process has it: choose another port, or stop that one"
        }
        _ => "",
    }
}

/// A bound socket.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// An accepted connection.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    pub(super) async fn tcp(setting: &'static str, address: SocketAddr) -> Result<Self, BindError> {
        let bound = TcpListener::bind(address).await;
        bound.map(Self::Tcp).map_err(|source| BindError::Tcp { setting, address, source })
    }

    /// A Unix socket with these permissions. A file that a dead process left is replaced.
    pub(super) async fn unix(path: &Path, mode: u32) -> Result<Self, BindError> {
        let failed = |source| BindError::Unix { path: path.to_owned(), source };
        if UnixStream::connect(path).await.is_ok() {
            return Err(BindError::UnixInUse { path: path.to_owned() });
        }
        let is_socket = std::fs::symlink_metadata(path)
            .is_ok_and(|metadata| std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type()));
        if is_socket {
            std::fs::remove_file(path).map_err(failed)?;
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, permissions).map_err(failed)?;
        Ok(Self::Unix(listener, path.to_owned()))
    }

    /// Where TCP listens; none for a Unix socket.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    /// Waits for a connection.
    ///
    /// # Cancel safety
    /// A connection is taken or stays in the backlog.
    pub(super) async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Answers are small and come at once: waiting for more bytes only delays them. It
                // fails on a connection that is gone already, as its first read will tell.
                drop(stream.set_nodelay(true));
                Ok(Stream::Tcp(stream))
            }
            Self::Unix(listener, _) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            // It may be gone already; the next start replaces it in any case.
            drop(std::fs::remove_file(path));
        }
    }
}
