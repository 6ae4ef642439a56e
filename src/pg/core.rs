//! One data thread's PostgreSQL half: its pools, clients and connections, and what it knows of the world.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustc_hash::FxHashMap;

use super::acknowledge::Kept;
use super::backend::Backend;
use super::connect::connect;
use super::errors::{Trouble, seconds};
use super::listen::Channels;
use super::orders::Orders;
use super::pool::{PgPool, PoolConfig, PoolKey, PoolShared, ServerFailure, ServerLogin};
use super::queries::Queries;
use super::registry::{Client, ClientState, Order, Server};
use super::route::splits;
use super::shared::Shared;
use crate::config::model::ServerTls;
use crate::config::model::{Balance, Config};
use crate::net::{Doors, Endpoint, Target};
use crate::pool::{Choice, Class, NodeClass, Pool, Put, Refusal, Stale};
use crate::sql::{Catalog, Verdict, VerdictCache, classify, without_traceparent};
use crate::topology::failover::doubt::{Doubt, Outcome};
use crate::topology::{ClusterView, Limits, Role, Snapshot, State};
use crate::worker::Wheel;
use crate::worker::clock::now_ns;

/// Size of the buffer that everything is read into.
const SCRATCH: usize = 64 * 1024;
/// Statements whose verdict a thread remembers.
const VERDICTS: usize = 4096;
/// Buffers that a thread keeps for requests that have to wait, and the size of the largest, bytes.
const SPARE_BUFFERS: usize = 64;
const SPARE_BYTES: usize = 2048;
/// A request that runs for longer, ns, has its client watched.
const WATCHED_AFTER: u64 = 50_000_000;

/// See the module.
pub struct Core {
    /// Index of the thread.
    pub id: usize,
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// Timers of this thread.
    pub wheel: Rc<Wheel>,
    /// Configuration in force.
    pub config: RefCell<Arc<Config>>,
    /// Nodes and roles as last told.
    pub topology: RefCell<Arc<Snapshot>>,
    /// Pools that this thread serves.
    pub pools: RefCell<FxHashMap<PoolKey, Rc<PgPool>>>,
    /// Clients of this thread.
    pub clients: RefCell<FxHashMap<u64, Rc<Client>>>,
    /// Server connections of this thread.
    pub servers: RefCell<FxHashMap<u64, Rc<Server>>>,
    /// Read into, scanned and written from within one poll; borrowed only there.
    pub scratch: RefCell<Box<[u8]>>,
    /// True while the process ends: nobody new is let in.
    pub is_closing: Cell<bool>,
    /// Left to another process, perhaps.
    pub doors: Doors,
    /// Of every statement that is not examined.
    pub inert: Arc<Verdict>,
    /// What an admin has ordered about databases.
    pub orders: RefCell<Rc<Orders>>,
    /// `failover.commit_resolution`, as the process began.
    pub resolves: bool,
    /// A failover may lose so much and no more: what clients are told of their writes is counted.
    pub is_bounded: Cell<bool>,
    /// Clients that wait to hear what became of their COMMIT, with the answer once it is known.
    pub doubts: RefCell<FxHashMap<u64, (Doubt, Option<Outcome>)>>,
    /// Answers that clients do not see before more is known, by client.
    pub kept: RefCell<FxHashMap<u64, Kept>>,
    /// What clients listen to.
    pub channels: RefCell<Channels>,
    /// Of the replicas that may serve, by bit, those that show what the client at hand has to see; 0 for all.
    pub among: Cell<u64>,
    /// Clients whose reads wait for a replica.
    pub lagging: RefCell<Vec<Rc<Client>>>,
    /// What is run most.
    pub queries: Queries,
    /// Buffers to be used again.
    spare: RefCell<Vec<Vec<u8>>>,
    /// The last reading of the clock, ns.
    clock: Cell<u64>,
    verdicts: RefCell<VerdictCache>,
    serial: Cell<u64>,
    random: Cell<u64>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Core({})", self.id)
    }
}

impl Core {
    /// The state of data thread `id`.
    pub fn new(
        id: usize,
        shared: Arc<Shared>,
        wheel: Rc<Wheel>,
        config: Arc<Config>,
        topology: Arc<Snapshot>,
    ) -> Rc<Self> {
        Rc::new(Core {
            id,
            shared,
            wheel,
            resolves: config.postgres.failover.commit_resolution,
            is_bounded: Cell::new(config.postgres.failover.is_bounded()),
            doubts: RefCell::default(),
            kept: RefCell::default(),
            channels: RefCell::default(),
            among: Cell::new(0),
            lagging: RefCell::default(),
            queries: Queries::for_config(&config),
            config: RefCell::new(config),
            topology: RefCell::new(topology),
            pools: RefCell::default(),
            clients: RefCell::default(),
            servers: RefCell::default(),
            scratch: RefCell::new(vec![0; SCRATCH].into()),
            is_closing: Cell::new(false),
            doors: Doors::default(),
            inert: Arc::new(Verdict::not_examined()),
            clock: Cell::new(now_ns()),
            spare: RefCell::default(),
            orders: RefCell::default(),
            verdicts: RefCell::new(VerdictCache::new(VERDICTS)),
            serial: Cell::new(0),
            random: Cell::new(now_ns() | 1),
        })
    }

    // === pools ===

    /// What a pool of this key is made of; `None` if no database answers to the name.
    pub fn pool_config(&self, key: &PoolKey) -> Option<(usize, PoolConfig, ServerLogin)> {
        let config = self.config.borrow();
        let pg = &config.postgres;
        let found = pg.database(&key.database)?;
        let entry = found.entry;
        let user = entry.and_then(|e| e.user.clone()).unwrap_or_else(|| key.user.to_string());
        let credentials = self.server_credentials(pg, found.cluster, &user, &key.user);
        let login = ServerLogin {
            database: entry.and_then(|e| e.dbname.clone()).unwrap_or_else(|| key.database.to_string()),
            user,
            credentials,
        };
        let pool = pg.pool_for(&key.database, &key.user);
        let routing = pg.routing_for(&key.database, &key.user);
        Some((found.cluster, PoolConfig::new(pool, routing, pg.failover.hold), login))
    }

    /// This thread's pool of a key, made if need be; `None` if no database answers to the name.
    pub fn pool(self: &Rc<Self>, key: &PoolKey) -> Option<Rc<PgPool>> {
        if let Some(pool) = self.pools.borrow().get(key) {
            return Some(Rc::clone(pool));
        }
        let (cluster, config, login) = self.pool_config(key)?;
        let shared = self.shared.pool(key, &config);
        let state = Pool::new(config.limits(shared.homes.len()));
        let catalog = self.shared.catalogs.get(&(cluster, login.database.clone())).map(|c| Arc::clone(&c));
        let pool = Rc::new(PgPool {
            cluster: Cell::new(cluster),
            state: RefCell::new(state),
            stats: Default::default(),
            examines: Cell::new(self.examines(catalog.as_deref())),
            catalog: RefCell::new(catalog),
            generation: Cell::new(1),
            is_split: Cell::new(splits(&config)),
            is_removed: Cell::new(false),
            is_disabled: Cell::new(false),
            clients: Cell::new(0),
            last_failure: RefCell::default(),
            login: RefCell::new(Rc::new(login)),
            config: RefCell::new(Rc::new(config)),
            shared,
        });
        self.pools.borrow_mut().insert(key.clone(), Rc::clone(&pool));
        let orders = Rc::clone(&self.orders.borrow());
        self.follow_orders(&pool, &orders);
        self.place_nodes(&pool);
        self.shared.control.want_catalog(cluster, &pool.login.borrow().database);
        Some(pool)
    }

    /// How the servers of a pool's cluster are met.
    pub(super) fn tls_of(&self, pool: &PgPool) -> ServerTls {
        let config = self.config.borrow();
        config.postgres.clusters.get(pool.cluster.get()).map(|cluster| cluster.tls.clone()).unwrap_or_default()
    }

    pub(super) fn view(&self, pool: &PgPool) -> Option<Arc<ClusterView>> {
        let (config, topology) = (self.config.borrow(), self.topology.borrow());
        let cluster = pool.cluster.get();
        let name = &config.postgres.clusters.get(cluster)?.name;
        // A reload that changes the order of the clusters arrives in two steps: until the second, names tell.
        let in_place = topology.clusters.get(cluster).filter(|view| view.name == *name);
        in_place.or_else(|| topology.clusters.iter().find(|view| view.name == *name)).cloned()
    }

    /// The name of a pool's cluster.
    pub(super) fn cluster_name(&self, pool: &PgPool) -> Option<String> {
        self.view(pool).map(|view| view.name.clone())
    }

    /// The pool that a connection belongs to.
    pub(super) fn pool_of(&self, server: &Server) -> Option<Rc<PgPool>> {
        let key = PoolKey { database: Arc::clone(&server.database), user: Arc::clone(&server.user) };
        self.pools.borrow().get(&key).cloned()
    }

    /// Tells a pool what each node may be used for.
    fn place_nodes(self: &Rc<Self>, pool: &Rc<PgPool>) {
        let Some(view) = self.view(pool) else { return };
        let mut unused = Vec::new();
        let limits = Limits::of(&pool.config.borrow().routing);
        {
            let mut state = pool.state.borrow_mut();
            for (i, node) in view.nodes.iter().enumerate() {
                let class = match node.state {
                    State::Up if view.primary == Some(i) => NodeClass::Primary,
                    State::Up if node.role == Role::Replica && node.is_fit(&limits) => NodeClass::Replica,
                    _ => NodeClass::Unfit,
                };
                let permits = pool.shared.permits(i);
                unused.extend(state.set_node(i, class, node.weight, &permits));
            }
            for i in view.nodes.len()..state.nodes() {
                let permits = Default::default();
                unused.extend(state.set_node(i, NodeClass::Unfit, 0, &permits));
            }
            state.settle(now_ns());
        }
        for backend in unused {
            self.forget(&backend);
        }
        self.open_wanted(pool);
    }

    /// New nodes or roles.
    pub fn set_topology(self: &Rc<Self>, snapshot: Arc<Snapshot>) {
        self.note_targets();
        *self.topology.borrow_mut() = snapshot;
        self.review_servers();
        for pool in self.all_pools() {
            self.place_nodes(&pool);
        }
    }

    /// A database's catalog was read or has changed.
    pub fn set_catalog(&self, cluster: usize, database: &str) {
        let catalog = self.shared.catalogs.get(&(cluster, database.to_owned())).map(|c| Arc::clone(&c));
        for pool in self.pools.borrow().values() {
            if pool.cluster.get() == cluster && pool.login.borrow().database == database {
                pool.examines.set(self.examines(catalog.as_deref()));
                *pool.catalog.borrow_mut() = catalog.clone();
                pool.generation.set(pool.generation.get() + 1);
            }
        }
    }

    /// Whether statements have to be examined where nothing is steered by them: what a transaction may have written has
    /// to be known if its COMMIT is to be resolved, and triggers may leave something on the connection.
    fn examines(&self, catalog: Option<&Catalog>) -> bool {
        self.resolves || catalog.is_some_and(Catalog::has_triggers_that_leave_something)
    }

    /// A new configuration: pools take their new settings, those of removed databases and users end.
    pub fn set_config(self: &Rc<Self>, config: Arc<Config>) {
        self.is_bounded.set(config.postgres.failover.is_bounded());
        self.queries.follow(&config);
        *self.config.borrow_mut() = config;
        for pool in self.all_pools() {
            match self.pool_config(&pool.shared.key) {
                Some((cluster, config, login)) => {
                    pool.is_removed.set(false);
                    let is_moved = cluster != pool.cluster.get() || {
                        let old = pool.login.borrow();
                        old.user != login.user || old.database != login.database
                    };
                    pool.cluster.set(cluster);
                    pool.state.borrow_mut().set_limits(config.limits(pool.shared.homes.len()));
                    pool.is_split.set(splits(&config));
                    *pool.config.borrow_mut() = Rc::new(config);
                    *pool.login.borrow_mut() = Rc::new(login);
                    pool.last_failure.borrow_mut().take();
                    if is_moved {
                        self.reconnect(&pool);
                    }
                    self.place_nodes(&pool);
                    pool.generation.set(pool.generation.get() + 1);
                }
                None => {
                    pool.is_removed.set(true);
                    self.end_clients(&pool, Order::EndWhenIdle("the database was removed from the configuration"));
                    self.reconnect(&pool);
                }
            }
        }
    }

    /// Forgets a pool that could make no connection and that nobody uses.
    pub fn forget_unused(&self, pool: Rc<PgPool>) {
        let counts = pool.state.borrow().counts();
        // The map's and ours: nobody else is on the way in.
        let is_idle = Rc::strong_count(&pool) == 2 && counts.waiting == 0 && counts.servers.total() == 0;
        if is_idle && !pool.shared.was_used() {
            let key = pool.shared.key.clone();
            self.pools.borrow_mut().remove(&key);
            drop(pool);
            self.shared.forget_unused(&key);
        }
    }

    /// Every pool of this thread.
    pub fn all_pools(&self) -> Vec<Rc<PgPool>> {
        self.pools.borrow().values().cloned().collect()
    }

    // === connections ===

    /// Starts the connections that a pool wants now.
    pub fn open_wanted(self: &Rc<Self>, pool: &Rc<PgPool>) {
        loop {
            let node = pool.state.borrow_mut().to_open(now_ns());
            match node {
                Some(node) => self.spawn_connect(pool, node),
                None => return,
            }
        }
    }

    /// A replica that should have served had no connection: it gets one for the next read.
    pub fn spread(self: &Rc<Self>, pool: &Rc<PgPool>, choice: Choice, now: u64) {
        let node = {
            let mut state = pool.state.borrow_mut();
            state.wants_spread(choice, now).and_then(|node| state.start(node))
        };
        if let Some(node) = node {
            self.spawn_connect(pool, node);
        }
    }

    fn spawn_connect(self: &Rc<Self>, pool: &Rc<PgPool>, node: usize) {
        let (core, pool) = (Rc::clone(self), Rc::clone(pool));
        tokio::task::spawn_local(async move {
            let opened = connect(&core, &pool, node).await;
            let now = now_ns();
            match opened {
                Ok(backend) => {
                    backend.entry.state.set(super::registry::ServerState::Idle);
                    tracing::debug!(server_id = backend.entry.id, database = %pool.shared.key.database,
                        user = %pool.shared.key.user, node = %core.node_name(&pool, node), "server connection opened");
                    pool.last_failure.borrow_mut().take();
                    let put = pool.state.borrow_mut().opened(backend, now);
                    if let Put::Close(backend) = put {
                        core.forget(&backend);
                    }
                }
                Err(failure) => core.connect_failed(&pool, node, failure, now),
            }
            core.open_wanted(&pool);
        });
    }

    fn connect_failed(&self, pool: &Rc<PgPool>, node: usize, failure: ServerFailure, now: u64) {
        let is_news = pool
            .last_failure
            .borrow()
            .as_ref()
            .is_none_or(|last| last.message != failure.message || now.saturating_sub(last.at) > 10_000_000_000);
        if is_news {
            tracing::warn!(database = %pool.shared.key.database, user = %pool.shared.key.user,
                node = %self.node_name(pool, node), reason = %failure.message, "no server connection");
        }
        let mut state = pool.state.borrow_mut();
        state.open_failed(node, now);
        if failure.is_final && state.counts().servers.busy == 0 {
            let code = failure.code.clone().unwrap_or_else(|| "08000".into());
            state.refuse_all(&Refusal::Server { code, message: failure.message.clone() });
        } else if failure.code.is_none() {
            self.shared.control.suspect(pool.cluster.get(), node, &failure.message);
        }
        drop(state);
        let kept = if is_news {
            failure
        } else {
            ServerFailure { at: pool.last_failure.borrow().as_ref().map_or(now, |l| l.at), ..failure }
        };
        *pool.last_failure.borrow_mut() = Some(kept);
    }

    /// Closes a busy connection.
    pub fn close(&self, pool: &PgPool, backend: Box<Backend>) {
        pool.state.borrow_mut().closed(backend.entry.node);
        self.forget(&backend);
    }

    /// The console does not see a connection any more; its socket closes when it is dropped.
    pub fn forget(&self, backend: &Backend) {
        self.servers.borrow_mut().remove(&backend.entry.id);
        let mut bye = Vec::new();
        crate::wire::pg::build::terminate(&mut bye);
        if backend.is_clean() {
            let _ = backend.stream.try_write(&bye);
        }
    }

    /// An idle connection has something to say. True if it is still good.
    pub fn read_news(&self, backend: &mut Backend) -> bool {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let mut chunk = [0; 4096];
        loop {
            match backend.stream.poll_read(&mut cx, &mut chunk) {
                std::task::Poll::Pending => return true,
                std::task::Poll::Ready(Ok(n)) if n > 0 => {
                    if !is_harmless(chunk.get(..n).unwrap_or_default()) {
                        return false;
                    }
                }
                std::task::Poll::Ready(_) => return false,
            }
        }
    }

    /// Closes idle connections now and busy ones when they come back.
    pub fn reconnect(self: &Rc<Self>, pool: &Rc<PgPool>) {
        for server in self.servers.borrow().values() {
            if server.database == pool.shared.key.database && server.user == pool.shared.key.user {
                server.close_needed.set(true);
            }
        }
        let closed = pool.state.borrow_mut().take_stale(|_, _| Stale::Yes);
        closed.iter().for_each(|b| self.forget(b));
        self.open_wanted(pool);
    }

    /// An empty buffer for a request that has to wait.
    pub fn buffer(&self) -> Vec<u8> {
        self.spare.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes back a buffer that is not needed now.
    pub fn recycle(&self, mut buffer: Vec<u8>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE_BUFFERS && (1..=SPARE_BYTES).contains(&buffer.capacity()) {
            buffer.clear();
            spare.push(buffer);
        }
    }

    // === time ===

    /// Reads the clock. Within a turn of a session [`Core::now`] is exact enough for what follows.
    #[inline]
    pub fn read_clock(&self) -> u64 {
        let now = now_ns();
        self.clock.set(now);
        now
    }

    /// What the clock said last, ns.
    #[inline]
    pub fn now(&self) -> u64 {
        self.clock.get()
    }

    /// Every 100 ms: sessions whose time is up are woken, broken and aged connections end, missing ones are opened.
    pub fn tick(self: &Rc<Self>, now: u64) {
        self.clock.set(now);
        self.queries.tick();
        self.call_served(now);
        self.call_in_doubt();
        self.call_lagging();
        for pool in self.all_pools() {
            let config = Rc::clone(&pool.config.borrow());
            if pool.state.borrow().is_waited_for() {
                let limit = self.wait_limit(&pool, &config);
                pool.state.borrow().call_waiting(now, limit, config.queue_notice);
            }
            if let Some(limit) = config.client_idle_timeout {
                self.call_idle(&pool, now, limit);
            }
            let stale = pool.state.borrow_mut().take_stale(|backend, since| {
                if backend.has_news() && !self.read_news(backend) {
                    return Stale::Yes;
                }
                if now > backend.expires || backend.entry.close_needed.get() {
                    return Stale::Yes;
                }
                match self.idle_limit(&config) {
                    Some(limit) if now.saturating_sub(since) > limit => Stale::Unused,
                    _ => Stale::No,
                }
            });
            stale.iter().for_each(|b| self.forget(b));
            self.open_wanted(&pool);
            self.cry(&pool);
        }
    }

    /// Wakes sessions that have a connection and a reason to look up from it: a time-out, or a request that has run
    /// for a while, so that the client may have left.
    fn call_served(&self, now: u64) {
        let clients = self.clients.borrow();
        for server in self.servers.borrow().values() {
            if let Some(client) = clients.get(&server.client.get()).filter(|client| self.may_be_due(client, now)) {
                client.call();
            }
        }
    }

    /// Those who wait to hear of their COMMIT look whether they have waited long enough.
    fn call_in_doubt(&self) {
        let clients = self.clients.borrow();
        self.doubts.borrow().keys().filter_map(|id| clients.get(id)).for_each(|client| client.call());
    }

    /// True if a client that has a connection may have run out of some time; the session knows exactly.
    fn may_be_due(&self, client: &Client, now: u64) -> bool {
        if client.is_unwatched.get() && now.saturating_sub(client.query_began.get()) >= WATCHED_AFTER {
            return true;
        }
        let pools = self.pools.borrow();
        let key = PoolKey { database: Arc::clone(&client.database), user: Arc::clone(&client.user) };
        let Some(pool) = pools.get(&key) else { return false };
        let config = pool.config.borrow();
        let limits = [
            (&client.tx_began, config.transaction_timeout),
            (&client.query_began, config.query_timeout),
            (&client.since, config.idle_in_transaction_timeout),
            (&client.since, config.client_idle_timeout),
        ];
        limits.iter().any(|(from, limit)| limit.is_some_and(|limit| now.saturating_sub(from.get()) >= limit))
    }

    /// Wakes the idle clients of a pool whose `limit` (ns) is over.
    fn call_idle(&self, pool: &PgPool, now: u64, limit: u64) {
        for client in self.clients.borrow().values() {
            if client.state.get() == ClientState::Idle
                && now.saturating_sub(client.since.get()) >= limit
                && pool.is_of(client)
            {
                client.call();
            }
        }
    }

    /// True if the pool's cluster has a primary now.
    pub fn has_primary(&self, pool: &PgPool) -> bool {
        self.view(pool).is_some_and(|view| view.primary.is_some())
    }

    /// How long a client may wait in the queue, ns; `None` for ever.
    pub fn wait_limit(&self, pool: &PgPool, config: &PoolConfig) -> Option<u64> {
        if self.has_primary(pool) || pool.state.borrow().is_paused() {
            config.queue_timeout
        } else {
            Some(config.queue_timeout.map_or(config.hold, |limit| limit.min(config.hold)))
        }
    }

    /// What a client is told that waited too long (`waited` ns).
    pub fn why_waited(&self, pool: &PgPool, waited: u64) -> Trouble {
        let waited_ms = waited / 1_000_000;
        let view = self.view(pool);
        if let Some(view) = view.filter(|view| view.primary.is_none()) {
            return Trouble::NoPrimary { service: view.name.clone(), waited_ms };
        }
        let state = pool.state.borrow();
        let counts = state.counts();
        let because = if state.is_paused() {
            Some("the pool is paused".to_owned())
        } else {
            pool.last_failure.borrow().as_ref().map(|f| f.message.clone())
        };
        Trouble::QueueTimeout {
            pool: pool.name(),
            waited_ms,
            busy: counts.servers.busy,
            waiting: counts.waiting.saturating_sub(1),
            because,
        }
    }

    /// The NOTICE for a client that has waited for `after` ns.
    pub fn queue_notice(&self, pool: &PgPool, after: u64) -> String {
        let state = pool.state.borrow();
        let counts = state.counts();
        let why = match self.view(pool).filter(|view| view.primary.is_none()) {
            _ if state.is_paused() => "the pool is paused".to_owned(),
            Some(view) => format!("cluster \"{}\" has no primary", view.name),
            None => "all server connections are in use".to_owned(),
        };
        format!(
            "no server connection for {}: {why} ({} busy, {} waiting); still waiting",
            seconds(after / 1_000_000),
            counts.servers.busy,
            counts.waiting
        )
    }

    // === routing ===

    /// What a statement is.
    pub fn classify(&self, pool: &PgPool, text: &[u8]) -> Arc<Verdict> {
        let catalog = pool.catalog.borrow();
        let generation = pool.generation.get() ^ catalog_identity(&catalog);
        let mut verdicts = self.verdicts.borrow_mut();
        Arc::clone(verdicts.lookup_or(without_traceparent(text), generation, || classify(text, catalog.as_deref())))
    }

    /// A replica refused this text.
    pub fn remember_write(&self, text: &[u8]) {
        self.verdicts.borrow_mut().remember_write(without_traceparent(text));
    }

    /// How the pool chooses among replicas for this client.
    pub fn choice(&self, pool: &PgPool, peer: Endpoint) -> Choice {
        let balance = pool.config.borrow().balance;
        match balance {
            Balance::LeastConnections => Choice::LeastConnections,
            Balance::RoundRobin => Choice::RoundRobin,
            Balance::Random => {
                // xorshift: chance for balance, not for secrets.
                let mut x = self.random.get();
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                self.random.set(x);
                Choice::Number(x >> 11)
            }
            Balance::Source => {
                use std::hash::{Hash, Hasher};
                let mut hasher = rustc_hash::FxHasher::default();
                peer.ip().hash(&mut hasher);
                Choice::Number(hasher.finish() >> 16)
            }
        }
    }

    /// What a pool may use a node for now.
    pub fn class_of(&self, pool: &PgPool, node: usize) -> Option<Class> {
        match pool.state.borrow().node_class(node) {
            NodeClass::Primary => Some(Class::Primary),
            NodeClass::Replica => Some(Class::Replica),
            NodeClass::Unfit => None,
        }
    }

    /// Where a node listens.
    pub fn target(&self, pool: &PgPool, node: usize) -> Option<Arc<Target>> {
        let view = self.view(pool)?;
        let node = view.nodes.get(node)?;
        Some(Arc::new(Target { host: node.host.clone(), port: node.port }))
    }

    /// A node's name.
    pub fn node_name(&self, pool: &PgPool, node: usize) -> String {
        self.view(pool)
            .and_then(|v| v.nodes.get(node).map(|n| n.name.clone()))
            .unwrap_or_else(|| format!("node {node}"))
    }

    /// A connection to the primary must be to a writable server, one to a replica to a standby.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check_role(&self, pool: &PgPool, node: usize, is_standby: bool) -> Result<(), String> {
        match (pool.state.borrow().node_class(node), is_standby) {
            (NodeClass::Primary, true) => Err("the node is in recovery, but was taken for the primary".into()),
            (NodeClass::Replica, false) => Err("the node accepts writes, but was taken for a replica".into()),
            _ => Ok(()),
        }
    }

    /// A node failed or does not have its role.
    pub fn suspect(&self, pool: &PgPool, node: usize, why: &str) {
        self.shared.control.suspect(pool.cluster.get(), node, why);
    }

    // === clients ===

    /// Tells every client of a pool.
    pub fn end_clients(&self, pool: &PgPool, order: Order) {
        for client in self.clients.borrow().values() {
            if pool.is_of(client) {
                client.tell(order);
            }
        }
    }

    /// Tells every client of this thread.
    pub fn tell_all(&self, order: Option<Order>) {
        if let Some(order) = order {
            for client in self.clients.borrow().values() {
                client.tell(order);
            }
        }
    }

    /// A client's session is over.
    pub fn client_left(&self, client: &Client, pool: &PgPool, home: usize) {
        self.clients.borrow_mut().remove(&client.id);
        self.doubts.borrow_mut().remove(&client.id);
        self.kept.borrow_mut().remove(&client.id);
        if client.pin.take().is_some() {
            pool.shared.pinned.fetch_sub(1, Ordering::Relaxed);
        }
        self.shared.cancels.remove(&client.key.process_id);
        self.shared.clients.fetch_sub(1, Ordering::Relaxed);
        pool.clients.update(|n| n - 1);
        pool.shared.count_client(home, false);
    }

    /// A number that no other unnamed statement of this thread has.
    pub fn next_serial(&self) -> u64 {
        let next = self.serial.get() + 1;
        self.serial.set(next);
        next
    }
}

impl PgPool {
    /// True for the pool's own clients.
    pub fn is_of(&self, client: &Client) -> bool {
        client.database == self.shared.key.database && client.user == self.shared.key.user
    }

    /// `database/user`, for messages.
    pub fn name(&self) -> String {
        format!("{}/{}", self.shared.key.database, self.shared.key.user)
    }
}

/// Catalogs of different databases must not share verdicts.
fn catalog_identity(catalog: &Option<Arc<Catalog>>) -> u64 {
    catalog.as_ref().map_or(0, |c| Arc::as_ptr(c) as u64)
}

/// Messages that a server may send at any time: notices, parameter changes, notifications. Anything else, or a cut
/// message, and the connection is not trusted any more.
fn is_harmless(mut bytes: &[u8]) -> bool {
    use crate::wire::pg::frame::{Head, server_head};
    while !bytes.is_empty() {
        let Head::Frame { kind, len } = server_head(bytes) else { return false };
        let Some((_, rest)) = bytes.split_at_checked(len) else { return false };
        if !matches!(kind, b'N' | b'S' | b'A') {
            return false;
        }
        bytes = rest;
    }
    true
}

impl PoolShared {
    /// True once a connection was made for the pool.
    pub fn was_used(&self) -> bool {
        self.base.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_some()
    }

    /// What a fresh connection reported.
    pub fn learn_base(&self, welcome: &super::pool::Welcome, is_standby: bool) {
        let mut base = self.base.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !is_standby || base.is_none() {
            *base = Some(Arc::new(welcome.clone()));
        }
    }
}
