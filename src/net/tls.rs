//! TLS over a TCP socket, with the non-blocking verbs of [`Stream`](super::Stream).
//!
//! What is written is encrypted at once, and the socket may not take all of it. The caller is told then that one byte
//! was not taken, though it is on its way: so it comes back with that byte once the socket takes more, as with any short
//! write, and nothing has to be copied or remembered twice.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustls::pki_types::ServerName;
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, Connection, ProtocolVersion, ServerConfig, ServerConnection,
};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use super::stream::{DetachedTcp, Tcp};
use super::{aside, end_point};

/// First byte of a handshake (RFC 8446, section 5.1), with which neither a startup packet of PostgreSQL nor a request of
/// RESP begins.
pub const HANDSHAKE: u8 = 0x16;

/// The most that one record holds, bytes (RFC 8446, section 5.1).
const RECORD: usize = 16 * 1024;

/// An encrypted connection whose handshake is over.
#[derive(Debug)]
pub struct Tls {
    tcp: Tcp,
    state: RefCell<State>,
}

/// The encryption's part of a connection, on its way from one thread to another.
#[derive(Debug)]
pub struct State {
    connection: Connection,
    /// What a login can be bound to: the hash of the server's certificate, which is ours or the other side's.
    end_point: Option<Arc<[u8]>>,
    /// So many bytes at the start of what the caller writes next are on their way already.
    owed: usize,
}

/// Version and cipher suite; as the console shows them, `TLSv1.3/TLS_AES_256_GCM_SHA384`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cipher {
    version: ProtocolVersion,
    suite: CipherSuite,
}

impl std::fmt::Display for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let version = if self.version == ProtocolVersion::TLSv1_3 { "TLSv1.3" } else { "TLSv1.2" };
        let suite = self.suite.as_str().unwrap_or("unknown");
        write!(f, "{version}/{}", suite.replacen("TLS13_", "TLS_", 1))
    }
}

/// How clients are met: what rustls needs, and what their logins can be bound to.
#[derive(Debug)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    end_point: Option<Arc<[u8]>>,
}

impl Acceptor {
    /// With the certificate that `config` shows, DER.
    pub fn new(config: ServerConfig, certificate: &[u8]) -> Self {
        Acceptor { config: Arc::new(config), end_point: end_point(certificate).map(Arc::from) }
    }

    /// What rustls needs.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// What logins can be bound to; `None` if they cannot be.
    pub fn end_point(&self) -> Option<Arc<[u8]>> {
        self.end_point.clone()
    }
}

impl Tls {
    /// Does the server's part of the handshake, on a thread for that; `ahead` was read from the socket already,
    /// `end_point` is of the certificate that `config` shows. The caller bounds the time.
    ///
    /// # Errors
    /// The socket's, or in words what was wrong with the other side's part.
    pub async fn accept(
        tcp: Tcp,
        config: Arc<ServerConfig>,
        end_point: Option<Arc<[u8]>>,
        ahead: Vec<u8>,
    ) -> io::Result<Self> {
        let begin = move || {
            let connection = ServerConnection::new(config).map_err(io::Error::other)?;
            Ok(State { connection: connection.into(), end_point, owed: 0 })
        };
        Self::shake_hands(tcp, begin, ahead).await
    }

    /// Does the client's part of the handshake with a server that is to have this name.
    ///
    /// # Errors
    /// As [`Tls::accept`].
    pub async fn connect(tcp: Tcp, config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<Self> {
        let begin = move || {
            let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
            Ok(State { connection: connection.into(), end_point: None, owed: 0 })
        };
        let mut tls = Self::shake_hands(tcp, begin, Vec::new()).await?;
        let state = tls.state.get_mut();
        let shown = state.connection.peer_certificates().and_then(<[_]>::first);
        state.end_point = shown.and_then(|certificate| end_point(certificate)).map(Arc::from);
        Ok(tls)
    }

    async fn shake_hands(
        tcp: Tcp,
        begin: impl FnOnce() -> io::Result<State> + Send + 'static,
        ahead: Vec<u8>,
    ) -> io::Result<Self> {
        let tcp = tcp.detach()?;
        let (tcp, state) = aside::run(move || async move {
            let mut tls = Tls::attach(tcp, begin()?)?;
            tls.begin(&ahead)?;
            poll_fn(|cx| tls.poll_handshake(cx)).await?;
            tls.detach()
        })
        .await??;
        Tls::attach(tcp, *state)
    }

    fn begin(&mut self, mut ahead: &[u8]) -> io::Result<()> {
        let state = self.state.get_mut();
        while !ahead.is_empty() {
            state.connection.read_tls(&mut ahead)?;
            state.process(&self.tcp)?;
        }
        Ok(())
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = self.state.get_mut();
        loop {
            if !state.flush(&self.tcp)? {
                match self.tcp.poll_write_ready(cx)? {
                    Poll::Ready(()) => continue,
                    Poll::Pending => return Poll::Pending,
                }
            }
            if !state.connection.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            match state.receive(&mut Incoming { tcp: &mut self.tcp, cx })? {
                Some(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Some(_) => state.process(&self.tcp)?,
                None => return Poll::Pending,
            }
        }
    }

    /// As [`Stream::poll_read`](super::Stream::poll_read).
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let state = self.state.get_mut();
        loop {
            if let Some(read) = state.take(buf)? {
                return Poll::Ready(Ok(read));
            }
            match state.receive(&mut Incoming { tcp: &mut self.tcp, cx })? {
                Some(_) => state.process(&self.tcp)?,
                // What the protocol itself has to say and could not goes with the next write.
                None => return Poll::Pending,
            }
        }
    }

    /// As [`Stream::try_write`](super::Stream::try_write).
    pub fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        self.try_write_vectored(&[IoSlice::new(buf)])
    }

    /// As [`Stream::try_write_vectored`](super::Stream::try_write_vectored).
    pub fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.state.borrow_mut();
        if !state.flush(&self.tcp)? {
            return Ok(0);
        }
        let mut skip = std::mem::take(&mut state.owed);
        let mut taken = skip;
        for buf in bufs {
            let mut rest = buf.get(skip..).unwrap_or_default();
            skip = skip.saturating_sub(buf.len());
            while !rest.is_empty() {
                let record = rest.get(..RECORD).unwrap_or(rest);
                let written = state.connection.writer().write(record)?;
                taken += written;
                rest = rest.get(written..).unwrap_or_default();
                if !state.flush(&self.tcp)? {
                    state.owed = 1;
                    return Ok(taken - 1);
                }
            }
        }
        Ok(taken)
    }

    /// As [`Stream::read_unannounced`](super::Stream::read_unannounced): `buf` is full, or the socket has no more, so
    /// that the next bytes give a sign again.
    pub fn read_unannounced(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        let mut state = self.state.borrow_mut();
        let mut filled = 0;
        while filled < buf.len() {
            match state.take(buf.get_mut(filled..).unwrap_or_default())? {
                Some(0) if filled == 0 => return Ok(Some(0)),
                // The end comes again.
                Some(0) => break,
                Some(read) => filled += read,
                None => match state.receive(&mut Unannounced(&self.tcp))? {
                    Some(_) => state.process(&self.tcp)?,
                    None => break,
                },
            }
        }
        Ok((filled > 0).then_some(filled))
    }

    /// Tells the other side that no more will come.
    pub fn say_goodbye(&mut self) {
        let state = self.state.get_mut();
        state.connection.send_close_notify();
        // Whether it can still be told decides nothing.
        let _ = state.flush(&self.tcp);
    }

    /// The socket.
    pub fn tcp(&self) -> &Tcp {
        &self.tcp
    }

    /// See [`Tls::tcp`].
    pub fn tcp_mut(&mut self) -> &mut Tcp {
        &mut self.tcp
    }

    /// What protects it.
    pub fn cipher(&self) -> Option<Cipher> {
        let state = self.state.borrow();
        let suite = state.connection.negotiated_cipher_suite()?.suite();
        Some(Cipher { version: state.connection.protocol_version()?, suite })
    }

    /// What both sides have agreed to speak (ALPN), if they did.
    pub fn protocol(&self) -> Option<Vec<u8>> {
        self.state.borrow().connection.alpn_protocol().map(<[u8]>::to_vec)
    }

    /// What a login on this connection can be bound to: see [`end_point()`].
    pub fn end_point(&self) -> Option<Arc<[u8]>> {
        self.state.borrow().end_point.clone()
    }

    /// The other side's certificate, DER.
    pub fn peer_certificate(&self) -> Option<Vec<u8>> {
        let state = self.state.borrow();
        state.connection.peer_certificates()?.first().map(|certificate| certificate.to_vec())
    }

    /// Apart from its runtime.
    pub fn detach(self) -> io::Result<(DetachedTcp, Box<State>)> {
        Ok((self.tcp.detach()?, Box::new(self.state.into_inner())))
    }

    /// The other way round, in the runtime of the calling thread.
    pub fn attach(tcp: DetachedTcp, state: State) -> io::Result<Self> {
        Ok(Tls { tcp: tcp.attach()?, state: RefCell::new(state) })
    }
}

impl State {
    /// Plain bytes that are there; 0 for the end of the stream, with or without a farewell.
    fn take(&mut self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        match self.connection.reader().read(buf) {
            Ok(read) => Ok(Some(read)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(Some(0)),
            Err(e) => Err(e),
        }
    }

    /// Encrypted bytes from the socket; `None` if there are none now.
    fn receive(&mut self, from: &mut dyn Read) -> io::Result<Option<usize>> {
        match self.connection.read_tls(from) {
            Ok(read) => Ok(Some(read)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Decrypts what has come, and answers what the protocol itself wants answered.
    fn process(&mut self, tcp: &TcpStream) -> io::Result<()> {
        let done = self.connection.process_new_packets();
        // An alert, if something was wrong. But what the caller believes not to be sent yet leaves only with its next
        // write: if the connection is lost before that, it may send the same elsewhere.
        let flushed = if self.owed == 0 { self.flush(tcp) } else { Ok(false) };
        done.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        flushed.map(drop)
    }

    /// True once the socket has taken all that is encrypted.
    fn flush(&mut self, tcp: &TcpStream) -> io::Result<bool> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Outgoing(tcp)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }
}

/// Reads what the socket has, and has the task woken when it has more.
struct Incoming<'a, 'b> {
    tcp: &'a mut TcpStream,
    cx: &'a mut Context<'b>,
}

impl Read for Incoming<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(buf);
        match Pin::new(&mut *self.tcp).poll_read(self.cx, &mut buf) {
            Poll::Ready(done) => done.map(|()| buf.filled().len()),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

/// Reads what the socket has, whether or not there was a sign of it.
struct Unannounced<'a>(&'a TcpStream);

impl Read for Unannounced<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match rustix::net::recv(self.0, buf, RecvFlags::DONTWAIT) {
            Ok((_, read)) => Ok(read),
            Err(Errno::AGAIN | Errno::INTR) => Err(io::ErrorKind::WouldBlock.into()),
            Err(e) => Err(e.into()),
        }
    }
}

struct Outgoing<'a>(&'a TcpStream);

impl Write for Outgoing<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.try_write(buf)
    }
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(bufs)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
