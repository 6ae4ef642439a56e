//! Clients that go on in another process of ours: between two requests, packed here and unpacked there with the socket.
//!
//! A client that has a connection of its own (WATCH, a subscription, a blocking command) stays until that is over, one
//! with TLS, whose keys stay here, until it leaves.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::core::Core;
use super::login::Password;
use super::place::{Guest, arrive};
use super::session::Session;
use crate::net::channel::bytes;
use crate::net::{Departure, Detached, Passport};
use crate::wire::resp::Version;

/// A thread that no process has: a client that should go on there goes on in another process.
pub(super) const ELSEWHERE: usize = usize::MAX;

/// A session between two requests, without its socket.
#[derive(Debug, Serialize, Deserialize)]
pub struct Traveller {
    passport: Passport,
    service: String,
    connected: SystemTime,
    version: Version,
    db: u32,
    #[serde(with = "bytes")]
    user: Vec<u8>,
    password: Option<Word>,
    #[serde(with = "bytes")]
    name: Vec<u8>,
    #[serde(with = "bytes")]
    library_name: Vec<u8>,
    #[serde(with = "bytes")]
    library_version: Vec<u8>,
    said: (String, u64),
    bytes: (u64, u64),
    /// The clock is the machine's.
    seen: u64,
}

/// A password.
#[derive(Serialize, Deserialize)]
struct Word(#[serde(with = "bytes")] Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Session {
    /// Whether the client can be packed at all.
    pub(super) fn may_travel(&self) -> bool {
        self.client.stream.borrow().may_leave_the_process() && self.client.login.borrow().is_some()
    }

    /// Sends the client to the other process.
    ///
    /// # Errors
    /// Its socket cannot be copied: it stays.
    pub(super) fn travel(&self) -> std::io::Result<()> {
        let client = &self.client;
        let (socket, passport) = client.stream.borrow().copy_for_another_process()?;
        let login = client.login.borrow();
        let password = login.as_ref().and_then(|login| login.password());
        let (library_name, library_version) = client.library.borrow().clone();
        let traveller = Box::new(Traveller {
            passport,
            service: client.service.name.clone(),
            connected: client.connected,
            version: client.version.get(),
            db: client.db.get(),
            user: login.as_ref().map(|login| login.user.to_vec()).unwrap_or_default(),
            password: password.as_ref().map(|known: &Password| Word(known.as_bytes().to_vec().into())),
            name: client.name.borrow().clone(),
            library_name,
            library_version,
            said: client.said.borrow().clone(),
            bytes: client.bytes.get(),
            seen: self.has_seen(),
        });
        self.core.shared.control.depart(Departure { traveller, socket });
        Ok(())
    }
}

impl Core {
    /// From here on another process accepts; every client follows as soon as it can.
    pub fn leave(&self) {
        self.threshold.leave();
        for client in self.clients.borrow().values() {
            client.moves_to.set(Some(ELSEWHERE));
            client.wake();
        }
    }

    /// The other process takes nobody any more.
    pub fn stay(&self) {
        self.threshold.lead_nowhere();
        for client in self.clients.borrow().values().filter(|client| client.moves_to.get() == Some(ELSEWHERE)) {
            client.moves_to.set(None);
        }
    }
}

impl Departure<Traveller> {
    /// The client goes on in this process. To be called on any data thread.
    pub fn arrive(self, core: &Rc<Core>) {
        let Departure { traveller, socket } = self;
        let totals = core.shared.totals(&traveller.service);
        totals.clients.fetch_add(1, Ordering::Relaxed);
        let stream = traveller.passport.admit(socket);
        let home = core.home_for(&traveller.service, &totals);
        match core.shared.workers().get(home) {
            Some(worker) if home != core.id => worker.post(move |core| settle(core, stream, *traveller)),
            _ => settle(core, stream, *traveller),
        }
    }
}

fn settle(core: &Rc<Core>, stream: Detached, traveller: Traveller) {
    let password = traveller.password.map(|word| Password::new(&word.0));
    let guest = Guest {
        id: core.shared.next_id(),
        stream,
        service: traveller.service,
        connected: traveller.connected,
        version: traveller.version,
        db: traveller.db,
        login: Some((traveller.user.into(), password)),
        name: traveller.name,
        library: (traveller.library_name, traveller.library_version),
        said: traveller.said,
        bytes: traveller.bytes,
        seen: traveller.seen,
        pass: None,
    };
    if let Err(service) = arrive(core, guest) {
        tracing::warn!(service, "a client was lost between two processes");
    }
}
