//! The listening sockets of the process: those that it was handed, and copies of all for whoever comes after it.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::config::model::ListenAddr;
use crate::net::{self, Listener};

/// An address, which two listeners never share, and its listening sockets.
pub(super) type Door = (String, Vec<OwnedFd>);

/// See the module.
#[derive(Debug, Default)]
pub struct Sockets {
    inherited: Mutex<HashMap<String, Vec<OwnedFd>>>,
    open: Mutex<Vec<Door>>,
    is_handed_on: AtomicBool,
}

impl Sockets {
    /// Of a process that was handed these.
    pub(super) fn inherited(doors: impl IntoIterator<Item = Door>) -> Self {
        Sockets { inherited: Mutex::new(doors.into_iter().collect()), ..Sockets::default() }
    }

    fn take(&self, name: &str) -> Vec<OwnedFd> {
        self.inherited.lock().unwrap_or_else(PoisonError::into_inner).remove(name).unwrap_or_default()
    }

    fn keep(&self, name: String, sockets: Vec<OwnedFd>) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).push((name, sockets));
    }

    /// The listeners of an address, `threads` at least: all that were inherited, because the kernel goes on to give new
    /// connections to each.
    ///
    /// # Errors
    /// The operating system's, with the address in front.
    pub fn bind(&self, addr: &ListenAddr, threads: usize) -> io::Result<Vec<Listener>> {
        let inherited = self.take(&addr.to_string());
        let bound = match inherited.is_empty() {
            true => net::bind(addr, threads)?,
            false => net::bind_more(addr, inherited, threads)?,
        };
        let copies: io::Result<Vec<OwnedFd>> = bound.iter().map(Listener::duplicate).collect();
        self.keep(addr.to_string(), copies?);
        Ok(bound)
    }

    /// The listener of HTTP on an address, bound by `bind` unless it was inherited.
    ///
    /// # Errors
    /// `bind`'s.
    pub fn bind_alone(
        &self,
        addr: std::net::SocketAddr,
        bind: impl FnOnce() -> io::Result<std::net::TcpListener>,
    ) -> io::Result<std::net::TcpListener> {
        let listener = match self.take(&addr.to_string()).pop() {
            Some(inherited) => inherited.into(),
            None => bind()?,
        };
        self.keep(addr.to_string(), vec![listener.as_fd().try_clone_to_owned()?]);
        Ok(listener)
    }

    /// Those that were inherited and are not used any more are closed.
    pub(super) fn close_unused(&self) {
        let unused = std::mem::take(&mut *self.inherited.lock().unwrap_or_else(PoisonError::into_inner));
        for path in unused.into_keys().filter(|name| name.starts_with('/')) {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Everything that is open, for another process.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub(super) fn copies(&self) -> io::Result<Vec<Door>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let copy = |(name, sockets): &Door| {
            let copies: io::Result<Vec<OwnedFd>> = sockets.iter().map(OwnedFd::try_clone).collect();
            Ok((name.clone(), copies?))
        };
        open.iter().map(copy).collect()
    }

    /// They are another process' from here on.
    pub(super) fn hand_on(&self) {
        self.is_handed_on.store(true, Ordering::Relaxed);
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Whether they are another process' by now.
    pub fn is_handed_on(&self) -> bool {
        self.is_handed_on.load(Ordering::Relaxed)
    }
}
