//! The pool of one (database, user) on one thread, and what its siblings on other threads share with it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::backend::Backend;
use super::settings::Settings;
use super::stats::Stats;
use crate::config::model::{Balance, Consistency, PoolMode, PoolSettings, RoutingSettings};
use crate::pool::{Limits, Pool};
use crate::sql::Catalog;
use crate::wire::pg::auth::Credential;

/// Names a pool: the database as the client calls it, and its login.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolKey {
    /// Database as the client calls it.
    pub database: Arc<str>,
    /// Login of the client.
    pub user: Arc<str>,
}

/// Connections that one thread serves well before a pool is spread over more threads. One thread of ours keeps
/// several fully busy PostgreSQL processes supplied, so a pool this small is served best, and in strict order of
/// arrival, by one thread.
pub const SERVERS_PER_HOME: usize = 20;

/// What all threads know of a pool.
#[derive(Debug)]
pub struct PoolShared {
    /// Whose pool.
    pub key: PoolKey,
    /// Threads that serve it, with their clients.
    pub homes: Vec<(usize, AtomicUsize)>,
    /// `PAUSE`d.
    pub paused: AtomicBool,
    /// Clients that keep a server connection for what they left on it.
    pub pinned: AtomicUsize,
    settings: Mutex<HashMap<u64, Weak<Settings>>>,
    permits: Mutex<Vec<Arc<AtomicUsize>>>,
    /// What a fresh connection reported at its login; the primary's if there was one.
    pub base: Mutex<Option<Arc<Welcome>>>,
    /// What a login is told, by the settings that the client asked for.
    pub welcomes: Mutex<HashMap<u64, Arc<Welcome>>>,
    /// Threads (by bit) with somebody waiting and nothing to open, for the primary and for replicas.
    pub starving: [AtomicUsize; 2],
}

/// The parameters that a client is told at login.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Welcome {
    /// ParameterStatus names and values.
    pub params: Vec<(String, String)>,
}

impl PoolShared {
    /// A pool served by `homes`.
    pub fn new(key: PoolKey, homes: Vec<usize>) -> Self {
        PoolShared {
            key,
            homes: homes.into_iter().map(|h| (h, AtomicUsize::new(0))).collect(),
            paused: AtomicBool::new(false),
            pinned: AtomicUsize::new(0),
            settings: Mutex::default(),
            permits: Mutex::default(),
            base: Mutex::default(),
            welcomes: Mutex::default(),
            starving: Default::default(),
        }
    }

    /// The one copy of settings that many clients share. What is remembered is bounded.
    pub fn intern(&self, settings: Arc<Settings>) -> Arc<Settings> {
        let mut all = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(&settings.digest()).and_then(Weak::upgrade).filter(|known| **known == *settings) {
            return known;
        }
        if all.len() >= 1024 {
            all.retain(|_, s| s.strong_count() > 0);
        }
        if all.len() < 1024 {
            all.insert(settings.digest(), Arc::downgrade(&settings));
        }
        settings
    }

    /// The counter of connections to a node over all threads. It belongs to the place in the cluster: connections to
    /// what was there before a reload still count there until they are closed.
    pub fn permits(&self, node: usize) -> Arc<AtomicUsize> {
        let mut all = self.permits.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() <= node {
            all.resize_with(node + 1, Default::default);
        }
        all.get(node).cloned().unwrap_or_default()
    }

    /// The home with the fewest clients.
    pub fn emptiest_home(&self) -> usize {
        self.homes.iter().min_by_key(|(_, n)| n.load(Ordering::Relaxed)).map_or(0, |(home, _)| *home)
    }

    /// Somebody is logged in, or is about to be.
    pub fn has_clients(&self) -> bool {
        self.homes.iter().any(|(_, n)| n.load(Ordering::Relaxed) > 0)
    }

    /// Counts a client in or out of a home.
    pub fn count_client(&self, home: usize, joined: bool) {
        if let Some((_, n)) = self.homes.iter().find(|(h, _)| *h == home) {
            if joined {
                n.fetch_add(1, Ordering::Relaxed);
            } else {
                n.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

/// Settings of a pool in the units of the hot path (ns).
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the keys of the configuration; None is off")]
pub struct PoolConfig {
    pub mode: PoolMode,
    pub split: bool,
    pub consistency: Consistency,
    pub balance: Balance,
    pub queue_timeout: Option<u64>,
    pub queue_notice: Option<u64>,
    pub connect_timeout: Duration,
    pub server_idle_timeout: Option<u64>,
    pub server_lifetime: Option<u64>,
    pub client_idle_timeout: Option<u64>,
    pub query_timeout: Option<u64>,
    pub transaction_timeout: Option<u64>,
    pub idle_in_transaction_timeout: Option<u64>,
    pub prepared_statements: usize,
    pub max_pinned: usize,
    pub hold: u64,
    pub settings: PoolSettings,
    pub routing: RoutingSettings,
}

impl PoolConfig {
    /// From the configuration's values.
    pub fn new(settings: PoolSettings, routing: RoutingSettings, hold: Duration) -> Self {
        let ns = |d: Option<Duration>| d.map(|d| d.as_nanos() as u64);
        PoolConfig {
            mode: settings.mode,
            split: routing.split && routing.consistency != Consistency::Primary,
            consistency: routing.consistency,
            balance: routing.balance,
            queue_timeout: ns(settings.queue_timeout),
            queue_notice: ns(settings.queue_notice),
            connect_timeout: settings.connect_timeout,
            server_idle_timeout: ns(settings.server_idle_timeout),
            server_lifetime: ns(settings.server_lifetime),
            client_idle_timeout: ns(settings.client_idle_timeout),
            query_timeout: ns(settings.query_timeout),
            transaction_timeout: ns(settings.transaction_timeout),
            idle_in_transaction_timeout: ns(settings.idle_in_transaction_timeout),
            prepared_statements: settings.prepared_statements,
            max_pinned: settings.max_pinned.unwrap_or(usize::MAX),
            hold: hold.as_nanos() as u64,
            settings,
            routing,
        }
    }

    /// The pool's bounds when spread over `homes` threads.
    pub fn limits(&self, homes: usize) -> Limits {
        let s = &self.settings;
        Limits {
            size: s.size,
            min_size: s.min_size,
            reserve_size: s.reserve_size,
            reserve_after: s.reserve_after.as_nanos() as u64,
            queue_length: s.queue_length.unwrap_or(usize::MAX),
            homes,
        }
    }

    /// How many of `threads` serve the pool.
    pub fn homes(&self, threads: usize) -> usize {
        self.settings.size.div_ceil(SERVERS_PER_HOME).clamp(1, threads.max(1))
    }
}

/// How the pool logs in to its servers.
#[derive(Debug, Clone)]
pub struct ServerLogin {
    /// Database on the server.
    pub database: String,
    /// Login on the server.
    pub user: String,
    /// The one to try first in front; none if the server must trust us.
    pub credentials: Vec<Credential>,
}

/// One pool on one thread.
#[derive(Debug)]
pub struct PgPool {
    /// Whose pool.
    pub shared: Arc<PoolShared>,
    /// Index of the cluster.
    pub cluster: Cell<usize>,
    /// Settings; replaced whole on reload.
    pub config: RefCell<Rc<PoolConfig>>,
    /// How to log in to servers.
    pub login: RefCell<Rc<ServerLogin>>,
    /// Connections and queue.
    pub state: RefCell<Pool<Box<Backend>>>,
    /// Counters.
    pub stats: Stats,
    /// What the database's catalog says of functions and relations; `None` until it is read.
    pub catalog: RefCell<Option<Arc<Catalog>>>,
    /// Rises with each change of what a statement's verdict depends on.
    pub generation: Cell<u64>,
    /// Reads are sent to replicas, so every statement is examined.
    pub is_split: Cell<bool>,
    /// Every statement is examined, with the split off as well.
    pub examines: Cell<bool>,
    /// A pool removed by a reload: its clients are told and nobody new gets in.
    pub is_removed: Cell<bool>,
    /// `DISABLE`d: no new clients.
    pub is_disabled: Cell<bool>,
    /// Clients on this thread.
    pub clients: Cell<usize>,
    /// The last reason why a connection could not be made, for those who wait in vain.
    pub last_failure: RefCell<Option<ServerFailure>>,
}

/// Why a server could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFailure {
    /// When, ns.
    pub at: u64,
    /// SQLSTATE of the server's answer, if it gave one.
    pub code: Option<String>,
    /// For the client and the log.
    pub message: String,
    /// The server answered: trying again soon is not going to help (wrong password, no such database).
    pub is_final: bool,
}
