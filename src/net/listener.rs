//! Listening sockets. Every data thread has its own TCP listener on the same address (`SO_REUSEPORT`), so that the
//! kernel spreads new connections; a Unix socket cannot be shared that way and is accepted from by all threads.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::task::{Context, Poll};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::{Stream, dial::set_options};
use crate::config::model::ListenAddr;

/// Connections that the kernel keeps for us until we accept them.
const BACKLOG: i32 = 4096;

/// A bound socket, not yet registered with a runtime.
#[derive(Debug)]
pub enum Listener {
    /// TCP
    Tcp(std::net::TcpListener),
    /// Unix domain
    Unix(std::os::unix::net::UnixListener),
}

/// A listener registered with this thread's runtime.
#[derive(Debug)]
pub enum Accepted {
    /// TCP
    Tcp(TcpListener),
    /// Unix domain
    Unix(UnixListener),
}

/// More listeners on an address of which this process has inherited some: `threads` in all.
///
/// # Errors
/// As [`bind`].
pub fn bind_more(addr: &ListenAddr, inherited: Vec<OwnedFd>, threads: usize) -> io::Result<Vec<Listener>> {
    let named = |e| named(addr, e);
    let mut all: Vec<Listener> = inherited.into_iter().map(|socket| Listener::inherited(addr, socket)).collect();
    while all.len() < threads {
        let next = match (addr, all.first()) {
            (ListenAddr::Tcp(addr), _) => bind_tcp(*addr).map(Listener::Tcp),
            (ListenAddr::Unix(_), Some(first)) => first.duplicate().map(|socket| Listener::inherited(addr, socket)),
            (ListenAddr::Unix(path), None) => bind_unix(path).map(Listener::Unix),
        };
        all.push(next.map_err(named)?);
    }
    Ok(all)
}

/// Binds `addr` once for each of `threads` data threads.
///
/// # Errors
/// The operating system's, with the address in front.
pub fn bind(addr: &ListenAddr, threads: usize) -> io::Result<Vec<Listener>> {
    let named = |e| named(addr, e);
    match addr {
        ListenAddr::Tcp(addr) => {
            // Without this probe a second instance would silently share the port with the first.
            drop(std::net::TcpListener::bind(addr).map_err(named)?);
            (0..threads).map(|_| bind_tcp(*addr).map(Listener::Tcp)).collect::<io::Result<_>>().map_err(named)
        }
        ListenAddr::Unix(path) => {
            let first = bind_unix(path).map_err(named)?;
            let mut all = Vec::new();
            for _ in 1..threads {
                all.push(Listener::Unix(first.try_clone().map_err(named)?));
            }
            all.push(Listener::Unix(first));
            Ok(all)
        }
    }
}

fn named(addr: &ListenAddr, e: io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("cannot listen on {addr}: {e}"))
}

fn bind_tcp(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind_unix(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    if let Ok(meta) = std::fs::symlink_metadata(path) {
        if !meta.file_type().is_socket() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path exists and is not a socket"));
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there"));
        }
        std::fs::remove_file(path)?;
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Listener {
    /// A second descriptor of the same listening socket.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        match self {
            Listener::Tcp(l) => l.as_fd().try_clone_to_owned(),
            Listener::Unix(l) => l.as_fd().try_clone_to_owned(),
        }
    }

    /// The listening socket of `addr` that another process has bound.
    pub fn inherited(addr: &ListenAddr, socket: OwnedFd) -> Self {
        match addr {
            ListenAddr::Tcp(_) => Listener::Tcp(socket.into()),
            ListenAddr::Unix(_) => Listener::Unix(socket.into()),
        }
    }

    /// Registers the listener with the runtime of the calling thread.
    pub fn attach(self) -> io::Result<Accepted> {
        Ok(match self {
            Listener::Tcp(l) => Accepted::Tcp(TcpListener::from_std(l)?),
            Listener::Unix(l) => Accepted::Unix(UnixListener::from_std(l)?),
        })
    }
}

impl Accepted {
    /// The next connection, its options set. Cancel-safe.
    pub async fn accept(&self) -> io::Result<Stream> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        match self {
            Accepted::Tcp(l) => l.poll_accept(cx).map(|done| {
                let (stream, _) = done?;
                set_options(&stream)?;
                Ok(Stream::Tcp(stream.into()))
            }),
            Accepted::Unix(l) => l.poll_accept(cx).map(|done| Ok(Stream::Unix(done?.0))),
        }
    }
}
