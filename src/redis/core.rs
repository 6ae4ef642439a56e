//! One data thread's Redis half: its services and clients.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use super::client::Client;
use super::connect::{connect, read_replies};
use super::service::Service;
use super::shared::Shared;
use crate::config::model::Config;
use crate::net::Doors;
use crate::topology::redis::RedisSnapshot;
use crate::wire::resp::command::Commands;
use crate::wire::resp::encode;
use crate::worker::clock::{after, now_ns};
use crate::worker::{TICK, Wheel};

/// Size of the buffer that everything is read into.
const SCRATCH: usize = 64 * 1024;
/// A server is not asked more often for its commands, ns.
const LEARN_AGAIN: u64 = 10_000_000_000;

/// See the module.
pub struct Core {
    /// Index of the thread.
    pub id: usize,
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// Timers of this thread.
    pub wheel: Rc<Wheel>,
    /// Read into, scanned and written from within one poll; borrowed only there.
    pub scratch: RefCell<Box<[u8]>>,
    /// Clients of this thread.
    pub clients: RefCell<FxHashMap<u64, Rc<Client>>>,
    /// True while the process ends: nobody new is let in.
    pub is_closing: Cell<bool>,
    /// Left to another process, perhaps.
    pub(super) threshold: Doors,
    /// Tells connections that are not sessions yet to look whether they still may become some.
    pub(super) doors: Notify,
    services: RefCell<Vec<Rc<Service>>>,
    /// When the thread's time was looked at last, and its time then, ns.
    pub(super) weighed: Cell<(u64, u64)>,
    /// When to look whether a client has logged in, ns, and its number.
    strangers: RefCell<BTreeSet<(u64, u64)>>,
    /// For how many ticks it has had no time left.
    pub(super) busy_ticks: Cell<u32>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Core({})", self.id)
    }
}

impl Core {
    /// The state of data thread `id`.
    pub fn new(id: usize, shared: Arc<Shared>, wheel: Rc<Wheel>, config: &Config) -> Rc<Self> {
        let core = Rc::new(Core {
            id,
            shared,
            wheel,
            scratch: RefCell::new(vec![0; SCRATCH].into()),
            clients: RefCell::default(),
            is_closing: Cell::new(false),
            threshold: Doors::default(),
            doors: Notify::new(),
            services: RefCell::default(),
            weighed: Cell::default(),
            strangers: RefCell::default(),
            busy_ticks: Cell::new(0),
        });
        core.set_config(config);
        core
    }

    /// The service of a name.
    pub fn service(&self, name: &str) -> Option<Rc<Service>> {
        self.services.borrow().iter().find(|service| service.name == name).cloned()
    }

    /// Every service, in the order of the configuration.
    pub fn services(&self) -> Vec<Rc<Service>> {
        self.services.borrow().clone()
    }

    /// A new configuration.
    pub fn set_config(&self, config: &Config) {
        let mut services = self.services.borrow_mut();
        let mut kept = Vec::new();
        for wanted in &config.redis {
            match services.iter().find(|service| service.name == wanted.name) {
                Some(service) => {
                    service.set_config(wanted.clone());
                    kept.push(Rc::clone(service));
                }
                None => kept.push(Service::new(wanted.clone(), self.shared.totals(&wanted.name))),
            }
        }
        let gone = std::mem::replace(&mut *services, kept);
        let names: Vec<String> = services.iter().map(|service| service.name.clone()).collect();
        drop(services);
        for service in gone.iter().filter(|service| !names.contains(&service.name)) {
            for client in self.clients.borrow().values().filter(|client| client.service.name == service.name) {
                client.cut();
            }
            // Nobody looks after its connections from now on.
            service.close();
        }
        self.doors.notify_waiters();
    }

    /// New nodes or roles.
    pub fn set_topology(self: &Rc<Self>, snapshot: &RedisSnapshot) {
        for view in &snapshot.services {
            let Some(service) = self.service(&view.name) else { continue };
            let is_new = service.view().epoch != view.epoch;
            service.set_view(Arc::clone(view));
            // Their connections may lead to a node that says nothing any more: they have to be told to look.
            for client in self.clients.borrow().values().filter(|client| Rc::ptr_eq(&client.service, &service)) {
                if client.mode.get().has_own {
                    client.wake();
                }
            }
            if is_new && view.primary.is_some() && self.id == 0 {
                self.learn(&service);
            }
        }
    }

    /// Something answered that is not in the table of commands: the server is asked for it again.
    pub fn learn_soon(self: &Rc<Self>, service: &Rc<Service>) {
        if now_ns().saturating_sub(service.asked_commands.get()) > LEARN_AGAIN {
            self.learn(service);
        }
    }

    /// Asks the primary for its commands, and tells all threads.
    fn learn(self: &Rc<Self>, service: &Rc<Service>) {
        service.asked_commands.set(now_ns());
        let (core, service) = (Rc::clone(self), Rc::clone(service));
        tokio::task::spawn_local(async move {
            let Ok((_, wanted)) = service.control_wanted() else { return };
            let asked = async {
                let mut stream = connect(&core, &wanted).await.map_err(|failure| failure.to_string())?.stream;
                let mut request = Vec::new();
                encode(&mut request, &["COMMAND"]);
                stream.write_all(&request).await.map_err(|e| e.to_string())?;
                let replies = read_replies(&mut stream, 1).await.map_err(|e| e.to_string())?;
                Commands::learn(replies.first().map(Vec::as_slice).unwrap_or_default()).map_err(|e| e.to_string())
            };
            match core.wheel.timeout(Some(Duration::from_secs(5)), Box::pin(asked)).await {
                Ok(Ok(commands)) => {
                    let commands = Arc::new(commands);
                    for worker in core.shared.workers() {
                        let (commands, name) = (Arc::clone(&commands), service.name.clone());
                        worker.post(move |core| {
                            if let Some(service) = core.service(&name) {
                                service.set_commands(commands);
                            }
                        });
                    }
                }
                Ok(Err(why)) => {
                    tracing::info!(service = %service.name, reason = %why,
                        "the server's commands are not known, the built-in table serves");
                }
                Err(_) => {}
            }
        });
    }

    /// Every 100 ms.
    pub fn tick(&self, now: u64) {
        self.weigh(now);
        self.end_strangers(now);
        for service in self.services.borrow().iter() {
            service.tick(now);
            let idle_timeout = service.config.borrow().idle_timeout;
            if let Some(limit) = idle_timeout {
                let limit = limit.as_nanos() as u64;
                for client in self.clients.borrow().values() {
                    if client.service.name == service.name && client.is_idle_since(now.saturating_sub(limit)) {
                        tracing::info!(client_id = client.id, peer = %client.peer, "closed: idle_timeout");
                        client.cut();
                    }
                }
            }
        }
    }

    /// Somebody has to log in, in time.
    pub(super) fn expect_login(&self, client: &Client) {
        let limit = client.service.config.borrow().client_login_timeout;
        if let Some(limit) = limit.filter(|_| client.login.borrow().is_none()) {
            self.strangers.borrow_mut().insert((after(client.stranger_since.get(), limit), client.id));
        }
    }

    /// Closes whoever has not logged in in time, whatever it has sent meanwhile.
    fn end_strangers(&self, now: u64) {
        let due = {
            let mut all = self.strangers.borrow_mut();
            if all.first().is_none_or(|(when, _)| *when > now) {
                return;
            }
            let later = all.split_off(&(now + 1, 0));
            std::mem::replace(&mut *all, later)
        };
        for (_, id) in due {
            let client = self.clients.borrow().get(&id).cloned();
            let Some(client) = client.filter(|client| client.login.borrow().is_none()) else { continue };
            let limit = client.service.config.borrow().client_login_timeout;
            let Some(limit) = limit else { continue };
            // It has done its part, and waits for a server to say whether the password is right.
            let waits = client.is_waiting.get() && client.waiting_output() == 0 && !client.is_ending.get();
            let again = after(client.stranger_since.get(), limit);
            if again > now || waits {
                self.strangers.borrow_mut().insert((again.max(after(now, TICK)), id));
                continue;
            }
            tracing::info!(client_id = client.id, peer = %client.peer, "closed: client_login_timeout");
            client.cut();
        }
    }

    /// The server's numbers of connections on which clients of a service wait in a blocking command.
    pub fn blocked_on(&self, service: &str) -> Vec<u64> {
        let clients = self.clients.borrow();
        clients.values().filter(|c| c.service.name == service).filter_map(|c| c.blocked_on.get()).collect()
    }

    /// A client's session is over.
    pub fn client_left(&self, client: &Client) {
        self.clients.borrow_mut().remove(&client.id);
        self.shared.load(self.id).count(&client.service.name, false);
        client.service.totals.clients.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }

    /// From here on nobody new is let in, nor who has not got beyond the door.
    pub fn close_doors(&self) {
        self.is_closing.set(true);
        self.doors.notify_waiters();
    }

    /// Every client is closed: at once, or when nothing is on its way for it.
    pub fn end_clients(&self, at_once: bool) {
        for client in self.clients.borrow().values() {
            if at_once {
                client.cut();
            } else {
                client.is_ending.set(true);
                client.wake();
            }
        }
    }
}
