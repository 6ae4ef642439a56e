//! Plain copies of what a data thread knows of its pools, clients and servers, for the console and for metrics.
//!
//! Made on the data thread, sent to the control thread, and merged there: a pool that is spread over several threads
//! is one row to everybody outside.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use rustc_hash::FxHashMap;

use super::core::Core;
use super::pool::PoolKey;
use super::registry::{Client, ClientState, ServerState};
use super::stats::{Totals, add_by_index, summed};
use crate::config::model::{Balance, PoolMode, PoolSettings};
use crate::net::tls::Cipher;

mod averages;

pub use super::stats::Averages;
pub use averages::History;

/// One pool. Times in ns of the process's clock.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolReport {
    /// Whose.
    pub key: PoolKey,
    /// Index of the cluster.
    pub cluster: usize,
    /// Database on the server.
    pub server_database: String,
    /// Login on the server.
    pub server_user: String,
    /// When a connection goes back.
    pub mode: PoolMode,
    /// How one of several replicas is chosen.
    pub balance: Balance,
    /// As configured for this pool.
    pub settings: PoolSettings,
    /// Its clients.
    pub clients: ClientCounts,
    /// Its connections.
    pub servers: ServerCounts,
    /// Connections, opening ones included, by node.
    pub by_node: Vec<usize>,
    /// Since when the longest waiter has waited.
    pub oldest: Option<u64>,
    /// Since the start of the process.
    pub totals: Totals,
    /// Statements that primaries and replicas were sent.
    pub by_target: (u64, u64),
    /// Clients that keep their connection, by reason.
    pub pins: BTreeMap<&'static str, usize>,
    /// `PAUSE`, `SUSPEND` or `KILL`.
    pub is_paused: bool,
    /// `DISABLE`
    pub is_disabled: bool,
    /// Not configured any more.
    pub is_removed: bool,
}

summed! {
    /// Clients of a pool by state.
    pub struct ClientCounts {
        /// Without a server connection, asking for none.
        pub idle: usize,
        /// With a server connection.
        pub active: usize,
        /// In the queue, also for their login.
        pub waiting: usize,
    }
}

summed! {
    /// Server connections of a pool by state.
    pub struct ServerCounts {
        /// Serving a client.
        pub active: usize,
        /// Serving nobody.
        pub idle: usize,
        /// Being cleaned.
        pub tested: usize,
        /// Connecting or logging in.
        pub login: usize,
        /// Kept back until a cancel request has ended.
        pub being_canceled: usize,
        /// Cancel requests on their way to servers.
        pub cancels: usize,
        /// To be closed when they come back.
        pub close_needed: usize,
    }
}

impl ClientCounts {
    /// Clients that are logged in, and those that wait for their login.
    pub fn all(&self) -> usize {
        self.idle + self.active + self.waiting
    }
}

impl ServerCounts {
    /// Connections, opening ones included.
    pub fn all(&self) -> usize {
        self.active + self.idle + self.tested + self.login + self.being_canceled
    }
}

/// One client.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of registry::Client")]
pub struct ClientReport {
    pub id: u64,
    pub database: Arc<str>,
    pub user: Arc<str>,
    pub peer: (String, u16),
    pub local: (String, u16),
    pub connected: SystemTime,
    pub tls: Option<Cipher>,
    pub application_name: String,
    pub state: ClientState,
    /// In `state` since, ns.
    pub since: u64,
    /// Id of the server connection that it has; 0 for none.
    pub link: u64,
    /// When it was given that connection, ns.
    pub linked: u64,
    pub prepared: usize,
    pub pin: Option<&'static str>,
}

/// One server connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of registry::Server")]
pub struct ServerReport {
    pub id: u64,
    pub database: Arc<str>,
    pub user: Arc<str>,
    pub cluster: usize,
    pub node: usize,
    pub tls: Option<Cipher>,
    pub peer: (String, u16),
    pub local: (String, u16),
    pub connected: SystemTime,
    pub state: ServerState,
    /// When its last request began, or when it became idle, ns.
    pub since: u64,
    /// Id of the client that has it; 0 for none.
    pub client: u64,
    pub process_id: i32,
    pub prepared: usize,
    pub close_needed: bool,
}

impl PoolReport {
    /// Adds another thread's share of the same pool.
    pub fn merge(&mut self, other: &PoolReport) {
        self.clients += other.clients;
        self.servers += other.servers;
        add_by_index(&mut self.by_node, &other.by_node);
        self.oldest = [self.oldest, other.oldest].into_iter().flatten().min();
        self.totals.add(&other.totals);
        self.by_target = (self.by_target.0 + other.by_target.0, self.by_target.1 + other.by_target.1);
        for (reason, clients) in &other.pins {
            *self.pins.entry(reason).or_default() += clients;
        }
        self.is_paused |= other.is_paused;
        self.is_disabled |= other.is_disabled;
        self.is_removed |= other.is_removed;
    }

    /// Something of it is in use, or could be.
    pub fn is_there(&self) -> bool {
        !self.is_removed || self.clients.all() + self.servers.all() > 0
    }
}

impl ClientReport {
    /// Where it stands among all when only some are shown: those that wait, the longest first, those that work, the longest
    /// first, then those that were active last.
    pub fn place(&self) -> (u8, u64) {
        place(self.state, self.since)
    }
}

fn place(state: ClientState, since: u64) -> (u8, u64) {
    match state {
        ClientState::Waiting => (0, since),
        ClientState::Active => (1, since),
        ClientState::Idle => (2, u64::MAX - since),
    }
}

/// The first `most` by their places, in no order.
fn foremost<'a>(clients: impl Iterator<Item = &'a Rc<Client>>, most: usize) -> Vec<&'a Rc<Client>> {
    let mut all: Vec<_> = clients.collect();
    if all.len() > most {
        all.select_nth_unstable_by_key(most, |client| place(client.state.get(), client.since.get()));
        all.truncate(most);
    }
    all
}

/// The reports of all threads as one, sorted by database and user.
pub fn merged(threads: Vec<Vec<PoolReport>>) -> Vec<PoolReport> {
    let mut all: BTreeMap<PoolKey, PoolReport> = BTreeMap::new();
    for report in threads.into_iter().flatten() {
        match all.get_mut(&report.key) {
            Some(known) => known.merge(&report),
            None => drop(all.insert(report.key.clone(), report)),
        }
    }
    all.into_values().collect()
}

#[derive(Default)]
struct Tally {
    clients: ClientCounts,
    pins: BTreeMap<&'static str, usize>,
    tested: usize,
    being_canceled: usize,
    cancels: usize,
    close_needed: usize,
}

impl Core {
    fn primary_of(&self, pool: &super::pool::PgPool) -> Option<usize> {
        self.topology.borrow().clusters.get(pool.cluster.get()).and_then(|cluster| cluster.primary)
    }

    /// Puts down what every node was sent so far to the role that it has now.
    pub(super) fn note_targets(&self) {
        for pool in self.pools.borrow().values() {
            pool.stats.targets(self.primary_of(pool));
        }
    }

    /// Every pool of this thread.
    pub fn report_pools(&self) -> Vec<PoolReport> {
        let mut tallies: FxHashMap<(Arc<str>, Arc<str>), Tally> = FxHashMap::default();
        for client in self.clients.borrow().values() {
            let tally = tallies.entry((Arc::clone(&client.database), Arc::clone(&client.user))).or_default();
            match client.state.get() {
                ClientState::Idle => tally.clients.idle += 1,
                ClientState::Active => tally.clients.active += 1,
                ClientState::Waiting => {}
            }
            if let Some(reason) = client.pin.get() {
                *tally.pins.entry(reason).or_default() += 1;
            }
        }
        for server in self.servers.borrow().values() {
            let tally = tallies.entry((Arc::clone(&server.database), Arc::clone(&server.user))).or_default();
            tally.cancels += server.cancels.get() as usize;
            tally.close_needed += usize::from(server.close_needed.get());
            match server.state.get() {
                ServerState::Tested => tally.tested += 1,
                ServerState::BeingCanceled => tally.being_canceled += 1,
                ServerState::New | ServerState::Idle | ServerState::Active => {}
            }
        }
        let pools = self.pools.borrow();
        let report = |(key, pool): (&PoolKey, &Rc<super::pool::PgPool>)| {
            let tally = tallies.remove(&(Arc::clone(&key.database), Arc::clone(&key.user))).unwrap_or_default();
            let state = pool.state.borrow();
            let counts = state.counts();
            let config = Rc::clone(&pool.config.borrow());
            let login = Rc::clone(&pool.login.borrow());
            let by_node = (0..state.nodes()).map(|node| state.node_counts(node).total());
            PoolReport {
                key: key.clone(),
                cluster: pool.cluster.get(),
                server_database: login.database.clone(),
                server_user: login.user.clone(),
                mode: config.mode,
                balance: config.balance,
                settings: config.settings.clone(),
                // Who waits during the login is no client yet, but stands in the queue.
                clients: ClientCounts { waiting: counts.waiting, ..tally.clients },
                servers: ServerCounts {
                    active: counts.servers.busy.saturating_sub(tally.tested + tally.being_canceled),
                    idle: counts.servers.idle,
                    tested: tally.tested,
                    login: counts.servers.opening,
                    being_canceled: tally.being_canceled,
                    cancels: tally.cancels,
                    close_needed: tally.close_needed,
                },
                by_node: by_node.collect(),
                oldest: counts.oldest,
                totals: pool.stats.totals(),
                by_target: pool.stats.targets(self.primary_of(pool)),
                pins: tally.pins,
                is_paused: state.is_paused(),
                is_disabled: pool.is_disabled.get(),
                is_removed: pool.is_removed.get(),
            }
        };
        pools.iter().map(report).collect()
    }

    /// Every client of this thread.
    pub fn report_clients(&self) -> Vec<ClientReport> {
        self.reports_of(self.clients.borrow().values())
    }

    /// The `most` clients of this thread that come first by [`ClientReport::place`]: copies are made of those alone.
    pub fn report_foremost_clients(&self, most: usize) -> Vec<ClientReport> {
        let clients = self.clients.borrow();
        self.reports_of(foremost(clients.values(), most))
    }

    /// The same of clients that keep their connection.
    pub fn report_pinned_clients(&self, most: usize) -> Vec<ClientReport> {
        let clients = self.clients.borrow();
        self.reports_of(foremost(clients.values().filter(|client| client.pin.get().is_some()), most))
    }

    fn reports_of<'a>(&self, clients: impl IntoIterator<Item = &'a Rc<Client>>) -> Vec<ClientReport> {
        let servers = self.servers.borrow();
        let links: FxHashMap<u64, &Rc<super::registry::Server>> =
            servers.values().map(|server| (server.client.get(), server)).collect();
        let report = |client: &Rc<Client>| {
            let link = links.get(&client.id);
            ClientReport {
                id: client.id,
                database: Arc::clone(&client.database),
                user: Arc::clone(&client.user),
                peer: client.peer.named(),
                local: client.local.named(),
                connected: client.connected,
                tls: client.tls,
                application_name: client.application_name.borrow().clone(),
                state: client.state.get(),
                since: client.since.get(),
                link: link.map_or(0, |server| server.id),
                linked: link.map_or(0, |server| server.since.get()),
                prepared: client.prepared.get(),
                pin: client.pin.get(),
            }
        };
        clients.into_iter().map(report).collect()
    }

    /// Every server connection of this thread.
    pub fn report_servers(&self) -> Vec<ServerReport> {
        let pools = self.pools.borrow();
        let report = |server: &Rc<super::registry::Server>| {
            let key = PoolKey { database: Arc::clone(&server.database), user: Arc::clone(&server.user) };
            ServerReport {
                id: server.id,
                database: key.database.clone(),
                user: key.user.clone(),
                cluster: pools.get(&key).map_or(0, |pool| pool.cluster.get()),
                node: server.node,
                tls: server.tls,
                peer: server.peer.named(),
                local: server.local.named(),
                connected: server.connected,
                state: server.state.get(),
                since: server.since.get(),
                client: server.client.get(),
                process_id: server.process_id,
                prepared: server.prepared.get(),
                close_needed: server.close_needed.get(),
            }
        };
        self.servers.borrow().values().map(report).collect()
    }
}
