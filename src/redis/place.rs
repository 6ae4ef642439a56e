//! On which thread a client lives.
//!
//! Requests of clients on one thread leave in one write, so that few threads are cheaper for everybody than many: a
//! service begins with one home, and gets another one only when its homes have no time left. Clients that are quiet
//! then move there, a part of them, between two requests.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use rustix::time::{ClockId, clock_gettime};

use super::client::Client;
use super::core::Core;
use super::login::Password;
use super::session::Session;
use super::shared::Totals;
use super::travel::ELSEWHERE;
use crate::guard::Pass;
use crate::net::{Detached, Stream};
use crate::wire::resp::Version;
use crate::worker::clock::now_ns;

/// A thread that has computed for more than so much of the time, per mille, has none left.
const BUSY: u32 = 850;
/// A thread that has computed for less can take clients of another one.
const FREE: u32 = 500;
/// Ticks in a row that a thread must be busy for.
const LONG: u32 = 5;
/// A thread with fewer clients of a service gives none away.
const FEW: usize = 8;

/// A user and a password; a thread has its own [`super::login::Login`] for them.
type Credentials = (Box<[u8]>, Option<Password>);

/// A client on its way to another thread.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) id: u64,
    pub(super) stream: Detached,
    pub(super) service: String,
    pub(super) connected: SystemTime,
    pub(super) version: Version,
    pub(super) db: u32,
    pub(super) login: Option<Credentials>,
    pub(super) name: Vec<u8>,
    pub(super) library: (Vec<u8>, Vec<u8>),
    pub(super) said: (String, u64),
    pub(super) bytes: (u64, u64),
    pub(super) seen: u64,
    pub(super) pass: Option<Pass>,
}

impl Core {
    /// The home for a new client of a service: of its homes the one with the fewest.
    pub(super) fn home_for(&self, service: &str, totals: &Totals) -> usize {
        let threads = self.shared.workers().len().max(1);
        let homes = totals.homes.load(Ordering::Relaxed).clamp(1, threads);
        // Services begin on different threads.
        let first = service.bytes().fold(0, |sum, byte| sum * 31 + usize::from(byte)) % threads;
        (0..homes)
            .map(|n| (first + n) % threads)
            .min_by_key(|home| self.shared.load(*home).clients(service))
            .unwrap_or(self.id)
    }

    /// Every 100 ms: whether this thread has time left, and if not, who could help.
    pub(super) fn weigh(&self, now: u64) {
        let spent = clock_gettime(ClockId::ThreadCPUTime);
        let spent = (spent.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(spent.tv_nsec as u64);
        let (then, before) = self.weighed.replace((now, spent));
        if then == 0 || now <= then {
            return;
        }
        let busy = spent.saturating_sub(before).saturating_mul(1000) / (now - then);
        let busy = u32::try_from(busy).unwrap_or(u32::MAX);
        let load = self.shared.load(self.id);
        load.busy.store(busy, Ordering::Relaxed);
        let ticks = if busy > BUSY { self.busy_ticks.get() + 1 } else { 0 };
        self.busy_ticks.set(ticks);
        if ticks < LONG {
            return;
        }
        self.busy_ticks.set(0);
        let threads = self.shared.workers().len();
        let free = (0..threads)
            .filter(|thread| *thread != self.id)
            .find(|thread| self.shared.load(*thread).busy.load(Ordering::Relaxed) < FREE);
        if let Some(to) = free {
            self.send_some(to);
        }
    }

    /// Half of the clients of the service with the most go to another thread.
    fn send_some(&self, to: usize) {
        let clients = self.clients.borrow();
        let services = self.services();
        let count = |name: &str| clients.values().filter(|client| client.service.name == name).count();
        let Some((service, many)) =
            services.iter().map(|service| (service, count(&service.name))).max_by_key(|(_, many)| *many)
        else {
            return;
        };
        if many < FEW {
            return;
        }
        let threads = self.shared.workers().len();
        service.totals.homes.store(threads, Ordering::Relaxed);
        tracing::info!(service = %service.name, from = self.id, to, clients = many / 2, "clients move to another thread");
        for client in clients.values().filter(|client| client.service.name == service.name).take(many / 2) {
            client.moves_to.set(Some(to));
            client.wake();
        }
    }
}

impl Session {
    /// Where the client should go on, if this is a moment at which it can.
    pub(super) fn moves_now(&self) -> Option<usize> {
        let to = self.client.moves_to.get()?;
        let may_go = to != ELSEWHERE || self.may_travel();
        (may_go && self.is_between_requests()).then_some(to)
    }

    /// The client goes on on another thread; if that cannot be, it is lost.
    pub(super) fn move_to(self, to: usize) {
        let core = Rc::clone(&self.core);
        let (client, seen) = self.into_client();
        core.clients.borrow_mut().remove(&client.id);
        core.shared.load(core.id).count(&client.service.name, false);
        let totals = std::sync::Arc::clone(&client.service.totals);
        let lost = move || {
            totals.clients.fetch_sub(1, Ordering::Relaxed);
        };
        let Some(worker) = core.shared.workers().get(to) else { return lost() };
        match pack(client, seen) {
            Some(guest) => worker.post(move |core| drop(arrive(core, guest))),
            None => lost(),
        }
    }
}

fn pack(client: Rc<Client>, seen: u64) -> Option<Guest> {
    // Nobody else has it between two requests.
    let client = Rc::try_unwrap(client).ok()?;
    let login = client.login.borrow().as_ref().map(|login| (login.user.clone(), login.password()));
    Some(Guest {
        id: client.id,
        stream: client.stream.into_inner().detach().ok()?,
        service: client.service.name.clone(),
        connected: client.connected,
        version: client.version.get(),
        db: client.db.get(),
        login,
        name: client.name.take(),
        library: client.library.take(),
        said: client.said.take(),
        bytes: client.bytes.get(),
        seen,
        pass: client.pass.take(),
    })
}

/// The client goes on on this thread; if that cannot be, it is lost, and the answer is of which service it was.
pub(super) fn arrive(core: &Rc<Core>, guest: Guest) -> Result<(), String> {
    let (service, stream) = match (core.service(&guest.service), guest.stream.attach()) {
        (Some(service), Ok(stream)) => (service, stream),
        // A reload has taken the service away meanwhile, or the system has no room: nothing was on its way.
        _ => {
            core.shared.totals(&guest.service).clients.fetch_sub(1, Ordering::Relaxed);
            return Err(guest.service);
        }
    };
    let login = guest.login.map(|(user, password)| service.logins.of(&user, password.as_ref().map(Password::as_bytes)));
    let now = now_ns();
    let client = Client::new(guest.id, service, stream, login, guest.connected, now);
    client.version.set(guest.version);
    client.db.set(guest.db);
    *client.name.borrow_mut() = guest.name;
    *client.library.borrow_mut() = guest.library;
    *client.said.borrow_mut() = guest.said;
    client.bytes.set(guest.bytes);
    client.pass.set(guest.pass);
    let mut session = Session::new(Rc::clone(core), Rc::clone(&client));
    session.seen = guest.seen;
    core.take_in(client, session);
    Ok(())
}

impl Core {
    /// A client begins to be served here.
    pub(super) fn take_in(self: &Rc<Self>, client: Rc<Client>, session: Session) {
        self.shared.load(self.id).count(&client.service.name, true);
        self.expect_login(&client);
        if self.threshold.leads_on() {
            // Who comes in while the others leave for another process follows them.
            client.moves_to.set(Some(ELSEWHERE));
        }
        self.clients.borrow_mut().insert(client.id, client);
        tokio::task::spawn_local(Box::new(session).run());
    }
}

/// A new connection that found another thread than its home.
pub(super) fn send_home(
    core: &Rc<Core>,
    stream: Stream,
    service: String,
    home: usize,
    greet: impl FnOnce(&Rc<Core>, Stream, &str) + Send + 'static,
) {
    let (Ok(stream), Some(worker)) = (stream.detach(), core.shared.workers().get(home)) else { return };
    worker.post(move |core| match stream.attach() {
        Ok(stream) => greet(core, stream, &service),
        Err(e) => tracing::warn!(error = %e, "a client was lost between two threads"),
    });
}
