//! What the console tells about the services, gathered from every thread.

use std::rc::Rc;

use super::client::Client;
use super::core::Core;
use super::usage::UsageReport;

/// One service on one thread.
#[derive(Debug, Clone, Default)]
pub struct ServiceReport {
    /// `[[redis.service]] name`.
    pub name: String,
    /// Client connections of this thread.
    pub clients: usize,
    /// Clients of this thread that wait for a primary.
    pub waiting: usize,
    /// How long the first of them has waited, ns.
    pub oldest_wait: u64,
    /// Clients that waited and were served, waited in vain, or were not let wait.
    pub queue: (u64, u64, u64),
    /// Requests to the primary, to replicas, and on connections of clients' own.
    pub requests: (u64, u64, u64),
    /// Requests whose outcome nobody knows, and those that ran again elsewhere.
    pub unknown: u64,
    /// See `unknown`.
    pub moved: u64,
    /// Commands that went out on shared connections, and in how many writes.
    pub batching: (u64, u64),
    /// Connections by [`crate::topology::redis::RedisNode::id`].
    pub connections: Vec<(u64, usize)>,
    /// Logins that failed.
    pub bad_logins: u64,
}

/// One client.
#[derive(Debug, Clone)]
pub struct ClientReport {
    /// Service.
    pub service: String,
    /// What `CLIENT ID` answers.
    pub id: u64,
    /// User.
    pub user: String,
    /// Database.
    pub db: u32,
    /// Address of the client, and ours.
    pub addresses: ((String, u16), (String, u16)),
    /// When it came.
    pub connected: std::time::SystemTime,
    /// When it said something last, ns.
    pub active: u64,
    /// CLIENT SETNAME
    pub name: String,
    /// Requests on their way.
    pub in_flight: u32,
    /// Keeps a connection of its own, and for what.
    pub pin: Option<&'static str>,
}

impl ClientReport {
    /// Where it stands among all when only some are shown: those that wait for an answer, then those that were active
    /// last.
    pub fn place(&self) -> (bool, u64) {
        place(self.in_flight, self.active)
    }
}

fn place(in_flight: u32, active: u64) -> (bool, u64) {
    (in_flight == 0, u64::MAX - active)
}

/// What the threads say about the same services, together.
pub fn together(by_thread: Vec<Vec<ServiceReport>>) -> Vec<ServiceReport> {
    let mut all: Vec<ServiceReport> = Vec::new();
    for report in by_thread.into_iter().flatten() {
        match all.iter_mut().find(|known| known.name == report.name) {
            Some(known) => known.add(&report),
            None => all.push(report),
        }
    }
    all
}

impl ServiceReport {
    fn add(&mut self, other: &ServiceReport) {
        let sum = |a: (u64, u64, u64), b: (u64, u64, u64)| (a.0 + b.0, a.1 + b.1, a.2 + b.2);
        self.clients += other.clients;
        self.waiting += other.waiting;
        self.oldest_wait = self.oldest_wait.max(other.oldest_wait);
        self.queue = sum(self.queue, other.queue);
        self.requests = sum(self.requests, other.requests);
        self.unknown += other.unknown;
        self.moved += other.moved;
        self.batching = (self.batching.0 + other.batching.0, self.batching.1 + other.batching.1);
        self.bad_logins += other.bad_logins;
        for (node, count) in &other.connections {
            match self.connections.iter_mut().find(|(known, _)| known == node) {
                Some((_, known)) => *known += count,
                None => self.connections.push((*node, *count)),
            }
        }
    }
}

impl Core {
    /// Every service of this thread.
    pub fn report(&self, now: u64) -> Vec<ServiceReport> {
        self.services()
            .iter()
            .map(|service| {
                let (waiting, until) = service.queue();
                let hold = service.config.borrow().hold.as_nanos() as u64;
                let (commands, writes, _) = service.batching();
                let stats = &service.stats;
                ServiceReport {
                    name: service.name.clone(),
                    clients: self.clients.borrow().values().filter(|c| c.service.name == service.name).count(),
                    waiting,
                    oldest_wait: until.map_or(0, |until| now.saturating_sub(until.saturating_sub(hold))),
                    queue: (stats.served.get(), stats.timed_out.get(), stats.refused.get()),
                    requests: (stats.to_primary.get(), stats.to_replica.get(), stats.to_own.get()),
                    unknown: stats.unknown.get(),
                    moved: stats.moved.get(),
                    batching: (commands, writes),
                    connections: service
                        .view()
                        .nodes
                        .iter()
                        .map(|node| (node.id, service.connections(node.id)))
                        .collect(),
                    bad_logins: stats.bad_logins.get(),
                }
            })
            .collect()
    }

    /// What the commands and keys of every service are used for.
    pub fn report_usage(&self) -> Vec<UsageReport> {
        self.services().iter().map(|service| service.usage.report(&service.name)).collect()
    }

    /// Every client of this thread.
    pub fn report_clients(&self) -> Vec<ClientReport> {
        reports_of(self.clients.borrow().values())
    }

    /// The `most` clients of this thread that come first by [`ClientReport::place`]: copies are made of those alone.
    pub fn report_foremost_clients(&self, most: usize) -> Vec<ClientReport> {
        let clients = self.clients.borrow();
        let mut all: Vec<&Rc<Client>> = clients.values().collect();
        if all.len() > most {
            all.select_nth_unstable_by_key(most, |client| place(client.in_flight.get(), client.active.get()));
            all.truncate(most);
        }
        reports_of(all)
    }
}

fn reports_of<'a>(clients: impl IntoIterator<Item = &'a Rc<Client>>) -> Vec<ClientReport> {
    clients
        .into_iter()
        .map(|client| {
            let login = client.login.borrow();
            let user = login.as_ref().map(|login| String::from_utf8_lossy(&login.user).into_owned());
            let mode = client.mode.get();
            ClientReport {
                service: client.service.name.clone(),
                id: client.id,
                user: user.unwrap_or_default(),
                db: client.db.get(),
                addresses: (client.peer.named(), client.local.named()),
                connected: client.connected,
                active: client.active.get(),
                name: String::from_utf8_lossy(&client.name.borrow()).into_owned(),
                in_flight: client.in_flight.get(),
                pin: match mode {
                    mode if mode.is_monitor => Some("MONITOR"),
                    mode if mode.subscriptions != (0, 0) => Some("subscribed"),
                    mode if mode.is_blocked => Some("blocking command"),
                    mode if mode.is_watching => Some("WATCH"),
                    mode if mode.has_own => Some("own connection"),
                    _ => None,
                },
            }
        })
        .collect()
}
