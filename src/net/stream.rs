//! One connected socket, TCP or Unix, with the few non-blocking verbs that the relays need.
//!
//! Reads go through `AsyncRead::poll_read` and never through `readable` + `try_read`: only the former clears tokio's
//! readiness after a short read, which saves the `recv` that would answer EAGAIN on every message.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::tls::{Cipher, State, Tls};

/// A connected socket registered with this thread's runtime.
#[derive(Debug)]
pub enum Stream {
    /// TCP, `TCP_NODELAY` set.
    Tcp(Tcp),
    /// Unix domain.
    Unix(UnixStream),
    /// TLS over TCP.
    Tls(Box<Tls>),
}

/// A TCP connection, and the client's own address if a load balancer has told it: whoever wraps or moves the socket
/// keeps both together.
#[derive(Debug)]
pub struct Tcp {
    socket: TcpStream,
    told: Option<Box<Told>>,
}

/// A [`Tcp`] that belongs to no runtime.
#[derive(Debug)]
pub struct DetachedTcp {
    socket: std::net::TcpStream,
    told: Option<Box<Told>>,
}

/// Whose connection it is, as its load balancer says.
#[derive(Debug, Clone, Copy)]
enum Told {
    /// This client's.
    Client(SocketAddr),
    /// That of somebody whose address it does not know.
    Somebody,
}

impl From<TcpStream> for Tcp {
    fn from(socket: TcpStream) -> Self {
        Tcp { socket, told: None }
    }
}

impl Deref for Tcp {
    type Target = TcpStream;
    fn deref(&self) -> &TcpStream {
        &self.socket
    }
}

impl DerefMut for Tcp {
    fn deref_mut(&mut self) -> &mut TcpStream {
        &mut self.socket
    }
}

impl Tcp {
    /// Apart from its runtime.
    pub fn detach(self) -> io::Result<DetachedTcp> {
        Ok(DetachedTcp { socket: self.socket.into_std()?, told: self.told })
    }

    /// From now on the connection counts as that of `client`, of which a load balancer has told; `None`: as that of
    /// somebody whose address it does not know.
    pub fn set_client(&mut self, client: Option<SocketAddr>) {
        self.told = Some(Box::new(client.map_or(Told::Somebody, Told::Client)));
    }

    /// What a load balancer has told with [`Tcp::set_client`], if one has.
    pub(super) fn told_client(&self) -> Option<Option<SocketAddr>> {
        match self.told.as_deref()? {
            Told::Client(client) => Some(Some(*client)),
            Told::Somebody => Some(None),
        }
    }

    /// The other side; the client itself where a load balancer has told of it.
    pub fn peer(&self) -> Endpoint {
        let told = match self.told.as_deref() {
            Some(Told::Client(client)) => return Endpoint { address: Some(*client), is_relayed: true },
            Some(Told::Somebody) => true,
            None => false,
        };
        let address = self.socket.peer_addr().ok();
        // Who has left already is taken for nobody of ours.
        Endpoint { address, is_relayed: told || address.is_none() }
    }

    /// Our side.
    pub fn local(&self) -> Endpoint {
        Endpoint { address: self.socket.local_addr().ok(), is_relayed: false }
    }
}

impl DetachedTcp {
    /// A socket that was handed to this process, with what a load balancer has told of it.
    pub(super) fn from_another_process(socket: std::net::TcpStream, told: Option<Option<SocketAddr>>) -> Self {
        let told = told.map(|client| Box::new(client.map_or(Told::Somebody, Told::Client)));
        DetachedTcp { socket, told }
    }

    /// In the runtime of the calling thread.
    pub fn attach(self) -> io::Result<Tcp> {
        Ok(Tcp { socket: TcpStream::from_std(self.socket)?, told: self.told })
    }
}

/// One end of a connection; a Unix socket's has no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Endpoint {
    address: Option<SocketAddr>,
    is_relayed: bool,
}

impl Endpoint {
    /// Address and port as the console shows them; a Unix socket is `unix` and 0.
    pub fn named(self) -> (String, u16) {
        self.address.map_or_else(|| ("unix".to_owned(), 0), |a| (a.ip().to_canonical().to_string(), a.port()))
    }

    /// The address without the port.
    pub fn ip(self) -> Option<std::net::IpAddr> {
        self.address.map(|a| a.ip().to_canonical())
    }

    /// True for who is on this machine: a loopback address of another one, which a load balancer tells, is none of ours.
    pub fn is_local(self) -> bool {
        !self.is_relayed && self.ip().is_none_or(|ip| ip.is_loopback())
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Endpoint { address: Some(address), is_relayed: false }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.address {
            Some(addr) => write!(f, "{}:{}", addr.ip().to_canonical(), addr.port()),
            None => f.write_str("unix"),
        }
    }
}

/// A connected socket that belongs to no runtime, on its way to another thread.
#[derive(Debug)]
pub enum Detached {
    /// TCP
    Tcp(DetachedTcp),
    /// Unix domain
    Unix(std::os::unix::net::UnixStream),
    /// TLS
    Tls(DetachedTcp, Box<State>),
}

impl Stream {
    /// Reads into `buf`; 0 bytes is the end of the stream. Cancel-safe.
    #[inline]
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(s) => poll_read(&mut s.socket, cx, buf),
            other => other.poll_read_other(cx, buf),
        }
    }

    /// Apart, for what nearly all connections are to cost nothing more.
    #[inline(never)]
    fn poll_read_other(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(s) => poll_read(&mut s.socket, cx, buf),
            Stream::Unix(s) => poll_read(s, cx, buf),
            Stream::Tls(s) => s.poll_read(cx, buf),
        }
    }

    /// Writes what the socket takes now; `Ok(0)` means that it takes nothing (for a non-empty `buf`).
    #[inline]
    pub fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(s) => blocked_is_zero(s.try_write(buf)),
            other => other.try_write_other(buf),
        }
    }

    #[inline(never)]
    fn try_write_other(&self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(s) => blocked_is_zero(s.try_write(buf)),
            Stream::Unix(s) => blocked_is_zero(s.try_write(buf)),
            Stream::Tls(s) => s.try_write(buf),
        }
    }

    /// As [`Stream::try_write`] for several slices in one system call.
    pub fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let done = match self {
            Stream::Tcp(s) => s.try_write_vectored(bufs),
            Stream::Unix(s) => s.try_write_vectored(bufs),
            Stream::Tls(s) => s.try_write_vectored(bufs),
        };
        blocked_is_zero(done)
    }

    /// Ready when a write may make progress.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(s) => s.poll_write_ready(cx),
            Stream::Unix(s) => s.poll_write_ready(cx),
            Stream::Tls(s) => s.tcp().poll_write_ready(cx),
        }
    }

    /// Ready when a read may make progress: data, end of stream or an error. Costs no system call.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(s) => s.poll_read_ready(cx),
            Stream::Unix(s) => s.poll_read_ready(cx),
            Stream::Tls(s) => s.tcp().poll_read_ready(cx),
        }
    }

    /// Ready when the other side has ended the stream or the connection, also behind bytes that nobody has read. These
    /// give no sign any more: [`Stream::read_unannounced`] has them.
    pub fn poll_hang_up(&self, cx: &mut Context<'_>) -> Poll<()> {
        // tokio forgets that bytes are there, but never that no more will come: what is left to wait for is the end.
        let forget = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        let _ = match self {
            Stream::Tcp(s) => s.try_io(Interest::READABLE, forget),
            Stream::Unix(s) => s.try_io(Interest::READABLE, forget),
            Stream::Tls(s) => s.tcp().try_io(Interest::READABLE, forget),
        };
        self.poll_read_ready(cx).map(drop)
    }

    /// Reads what is there, whether or not there was a sign of it; `None` if nothing is. 0 bytes is the end of the
    /// stream.
    pub fn read_unannounced(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        let read = match self {
            Stream::Tcp(s) => rustix::net::recv(&s.socket, buf, RecvFlags::DONTWAIT),
            Stream::Unix(s) => rustix::net::recv(s, buf, RecvFlags::DONTWAIT),
            Stream::Tls(s) => return s.read_unannounced(buf),
        };
        match read {
            Ok((_, read)) => Ok(Some(read)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Reads some bytes. Cancel-safe.
    pub async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read(cx, buf)).await
    }

    /// Writes all of `buf`. Not cancel-safe: a prefix may have been sent.
    pub async fn write_all(&self, mut buf: &[u8]) -> io::Result<()> {
        while !buf.is_empty() {
            let n = self.try_write(buf)?;
            if n == 0 {
                poll_fn(|cx| self.poll_write_ready(cx)).await?;
            }
            buf = buf.get(n..).unwrap_or_default();
        }
        Ok(())
    }

    /// Says no more, and waits until the other side has nothing more to say either.
    pub async fn close(&mut self) -> io::Result<()> {
        match self {
            Stream::Tcp(s) => s.socket.shutdown().await?,
            Stream::Unix(s) => s.shutdown().await?,
            Stream::Tls(s) => {
                s.say_goodbye();
                s.tcp_mut().shutdown().await?;
            }
        }
        let mut unread = [0; 256];
        while self.read(&mut unread).await? > 0 {}
        Ok(())
    }

    /// Takes the socket off this runtime.
    pub fn detach(self) -> io::Result<Detached> {
        Ok(match self {
            Stream::Tcp(s) => Detached::Tcp(s.detach()?),
            Stream::Unix(s) => Detached::Unix(s.into_std()?),
            Stream::Tls(s) => {
                let (tcp, state) = s.detach()?;
                Detached::Tls(tcp, state)
            }
        })
    }

    /// What protects it, if anything does.
    pub fn cipher(&self) -> Option<Cipher> {
        match self {
            Stream::Tls(s) => s.cipher(),
            Stream::Tcp(_) | Stream::Unix(_) => None,
        }
    }

    /// The other side.
    pub fn peer(&self) -> Endpoint {
        match self {
            Stream::Tcp(s) => s.peer(),
            Stream::Tls(s) => s.tcp().peer(),
            Stream::Unix(_) => Endpoint::default(),
        }
    }

    /// Our side.
    pub fn local(&self) -> Endpoint {
        match self {
            Stream::Tcp(s) => s.local(),
            Stream::Tls(s) => s.tcp().local(),
            Stream::Unix(_) => Endpoint::default(),
        }
    }
}

impl Detached {
    /// Registers the socket with the runtime of the calling thread.
    pub fn attach(self) -> io::Result<Stream> {
        Ok(match self {
            Detached::Tcp(s) => Stream::Tcp(s.attach()?),
            Detached::Unix(s) => Stream::Unix(UnixStream::from_std(s)?),
            Detached::Tls(tcp, state) => Stream::Tls(Box::new(Tls::attach(tcp, *state)?)),
        })
    }
}

#[inline]
fn poll_read(stream: &mut (impl AsyncRead + Unpin), cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut buf = ReadBuf::new(buf);
    Pin::new(stream).poll_read(cx, &mut buf).map_ok(|()| buf.filled().len())
}

fn blocked_is_zero(done: io::Result<usize>) -> io::Result<usize> {
    match done {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known_by_every_form_of_its_address() {
        let end = |address: &str, is_relayed| Endpoint { address: address.parse().ok(), is_relayed };
        for local in ["127.0.0.1:1", "127.3.4.5:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(end(local, false).is_local(), "{local} is this machine");
            assert!(!end(local, true).is_local(), "{local} is the load balancer's machine");
        }
        for far in ["10.0.0.1:1", "[::ffff:10.0.0.1]:1"] {
            assert!(!end(far, false).is_local(), "{far} is not this machine");
        }
        assert!(Endpoint::default().is_local(), "a Unix socket");
        assert!(!end("", true).is_local(), "somebody who has left");
    }
}
