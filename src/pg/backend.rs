//! One server connection of a pool, with everything that it remembers between clients.

use std::future::poll_fn;
use std::io;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::doubt::Asked;
use super::prepare::Taught;
use super::registry::Server;
use super::settings::Settings;
use super::track::Track;
use crate::net::{Detached, Stream};
use crate::pool::Pooled;

/// A logged-in connection. It is idle in its pool or owned by one client's session; never shared.
#[derive(Debug)]
pub struct Backend {
    /// The socket.
    pub stream: Line,
    /// What others see of it.
    pub entry: Rc<Server>,
    /// Answers owed.
    pub track: Track,
    /// Bytes for the server that its socket has not taken yet.
    pub out: Vec<u8>,
    /// The beginning of a server message whose rest has not arrived.
    pub partial: Vec<u8>,
    /// Bytes of the current server message that are still to come and pass unread.
    pub left: usize,
    /// Settings in force outside a transaction.
    pub settings: Arc<Settings>,
    /// Statements that it knows.
    pub taught: Taught,
    /// Which client's unnamed statement it has, by that client's serial number; 0 for none.
    pub unnamed_of: u64,
    /// The request that a replica has not begun to answer yet: it can run elsewhere instead.
    pub retained: Vec<u8>,
    /// Oldest age at which it is closed, ns; jittered so that connections made together do not end together.
    pub expires: u64,
    /// The server said that it is a standby (`in_hot_standby`, or `pg_is_in_recovery` before PostgreSQL 14).
    pub is_standby: bool,
    /// Its session state is not known any more: it must be cleaned before somebody else gets it.
    pub is_dirty: bool,
    /// What the client gets instead of the server's message that was just swallowed.
    pub instead: Option<Vec<u8>>,
    /// What is known of the open transaction; nothing without `failover.commit_resolution`.
    pub asked: Asked,
}

/// The socket of a server connection, which an admin may cut ([`Server::is_cut`]): from then on it reads as failed with
/// [`Line::CUT`], whatever the server still says, so that its client is told as if the server had been lost.
#[derive(Debug)]
pub struct Line {
    stream: Stream,
    entry: Rc<Server>,
}

impl Line {
    /// No socket that is read from fails with this by itself.
    pub const CUT: io::ErrorKind = io::ErrorKind::ConnectionAborted;

    /// The socket of the connection that others see as `entry`.
    pub fn new(stream: Stream, entry: &Rc<Server>) -> Self {
        Line { stream, entry: Rc::clone(entry) }
    }

    /// As [`Stream::poll_read`].
    #[inline]
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.is_cut() {
            return Poll::Ready(Err(Self::CUT.into()));
        }
        self.stream.poll_read(cx, buf)
    }

    /// As [`Stream::try_write`]. A primary that this process may not write to any more gets nothing.
    #[inline]
    pub fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        if self.is_cut() {
            return Err(Self::CUT.into());
        }
        self.stream.try_write(buf)
    }

    #[inline]
    fn is_cut(&self) -> bool {
        self.entry.is_guarded.get() && self.is_stopped()
    }

    #[cold]
    fn is_stopped(&self) -> bool {
        self.entry.is_cut.get() || self.is_barred()
    }

    /// It leads to a primary, and this process may not write to one now.
    #[inline]
    pub fn is_barred(&self) -> bool {
        self.entry.is_guarded.get() && self.entry.primary_of.get().is_some() && !self.entry.permit.holds()
    }

    /// As [`Stream::read`].
    pub async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read(cx, buf)).await
    }

    /// As [`Stream::detach`].
    pub fn detach(self) -> io::Result<Detached> {
        self.stream.detach()
    }
}

impl Deref for Line {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.stream
    }
}

impl Pooled for Box<Backend> {
    fn node(&self) -> usize {
        self.entry.node
    }
}

impl Backend {
    /// True if the server spoke or closed while nobody asked. Costs no system call when it did not.
    pub fn has_news(&self) -> bool {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        self.stream.poll_read_ready(&mut cx).is_ready()
    }

    /// Nothing is half-sent, half-read or owed, and no transaction is open.
    pub fn is_clean(&self) -> bool {
        self.track.is_free()
            && !self.track.is_skipping()
            && self.out.is_empty()
            && self.partial.is_empty()
            && self.left == 0
    }
}
