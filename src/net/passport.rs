//! Sockets that leave this process for another one of ours, and what goes with them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::{Detached, DetachedTcp, Stream};

/// What another process has to know of a socket that it is handed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Passport {
    /// TCP; and whose connection it is where a load balancer has told it: `None` is somebody whose address it does not
    /// know.
    Tcp(Option<Option<SocketAddr>>),
    /// Unix domain
    Unix,
}

/// A client on its way to another process.
#[derive(Debug)]
pub struct Departure<T> {
    /// What that process has to be told of it.
    pub traveller: Box<T>,
    /// A copy of its socket.
    pub socket: OwnedFd,
}

impl Stream {
    /// A second descriptor of the socket for another process, which goes on with it once this one is closed.
    ///
    /// # Errors
    /// A connection with TLS, whose keys stay here; or the system has no descriptor left.
    pub fn copy_for_another_process(&self) -> io::Result<(OwnedFd, Passport)> {
        match self {
            Stream::Tcp(tcp) => Ok((tcp.as_fd().try_clone_to_owned()?, Passport::Tcp(tcp.told_client()))),
            Stream::Unix(unix) => Ok((unix.as_fd().try_clone_to_owned()?, Passport::Unix)),
            Stream::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Whether [`Stream::copy_for_another_process`] is possible at all.
    pub fn may_leave_the_process(&self) -> bool {
        !matches!(self, Stream::Tls(_))
    }
}

impl Passport {
    /// The connection whose socket was handed to this process.
    pub fn admit(self, socket: OwnedFd) -> Detached {
        match self {
            Passport::Tcp(told) => Detached::Tcp(DetachedTcp::from_another_process(socket.into(), told)),
            Passport::Unix => Detached::Unix(socket.into()),
        }
    }
}
