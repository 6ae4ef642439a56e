//! What the data threads share: touched at login, at Parse of a named statement and for cancels, never per query.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwapOption;
use dashmap::DashMap;
use zeroize::Zeroizing;

use super::consoles::Consoles;
use super::core::Core;
use super::listen::{Place, Wish};
use super::login::Newcomer;
use super::pool::{PoolConfig, PoolKey, PoolShared};
use super::prepare::Statements;
use crate::config::model::Secret;
use crate::sql::Catalog;
use crate::wire::pg::auth::Credential;
use crate::wire::pg::cancel_key::CancelKey;
use crate::wire::pg::scram::{self, Keys, Verifier};
use crate::worker::Remote;

/// What the data threads ask of the control thread. Implementations must not block.
pub trait Control: Send + Sync {
    /// A node failed or said something that does not fit its role.
    fn suspect(&self, cluster: usize, node: usize, why: &str);
    /// A client of this cluster waits to hear what became of its COMMIT.
    fn in_doubt(&self, cluster: &str);
    /// Statements for this database are going to be classified: its catalog is wanted. Called once per pool.
    fn want_catalog(&self, cluster: usize, database: &str);
    /// What a thread wants of the connection that listens in a database; the answer comes by [`Core::hear`].
    fn listen(&self, worker: usize, place: Place, wish: Wish);
    /// A client of the admin console, its startup packet read.
    fn console(&self, newcomer: Newcomer);
}

/// The thread of the console's clients in [`Shared::cancels`].
pub const CONSOLE: usize = usize::MAX;

/// User, salt and iterations.
type DerivedFor = (String, Vec<u8>, u32);

/// See the module.
pub struct Shared {
    /// The data threads, in order; set once they run.
    pub workers: OnceLock<Vec<Remote<Core>>>,
    /// The control thread.
    pub control: Box<dyn Control>,
    /// Statement texts of all clients.
    pub statements: Statements,
    /// Whom a cancel request means: thread and client by the process number that the client was told. The thread
    /// checks the secret. A thread that does not exist ([`CONSOLE`]) stands for the console.
    pub cancels: DashMap<i32, (usize, u64)>,
    /// Sessions of the admin console.
    pub consoles: Consoles,
    /// Client connections, logged in or not.
    pub clients: AtomicUsize,
    /// Catalogs by cluster and database.
    /// How clients are met that ask for TLS; nothing if they are not offered it.
    pub tls: ArcSwapOption<rustls::ServerConfig>,
    /// See [`Catalog`].
    pub catalogs: DashMap<(usize, String), Arc<Catalog>>,
    pools: Mutex<HashMap<PoolKey, Arc<PoolShared>>>,
    ids: AtomicU64,
    /// Makes the salts that unknown users are shown; new in each process.
    pub mock_secret: [u8; 32],
    verifiers: DashMap<String, (Zeroizing<String>, Verifier)>,
    derived: DashMap<DerivedFor, (Zeroizing<String>, Keys)>,
    proved: DashMap<String, (Verifier, Keys)>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

impl Shared {
    /// For a process whose control thread is `control`.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn new(control: Box<dyn Control>) -> Result<Self, getrandom::Error> {
        let mut mock_secret = [0; 32];
        getrandom::fill(&mut mock_secret)?;
        Ok(Shared {
            workers: OnceLock::new(),
            control,
            statements: Statements::default(),
            cancels: DashMap::new(),
            consoles: Consoles::default(),
            clients: AtomicUsize::new(0),
            tls: ArcSwapOption::empty(),
            catalogs: DashMap::new(),
            pools: Mutex::default(),
            ids: AtomicU64::new(1),
            mock_secret,
            verifiers: DashMap::new(),
            derived: DashMap::new(),
            proved: DashMap::new(),
        })
    }

    /// A number that nothing else in this process has.
    pub fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// A key by which a cancel request finds `client` of `thread`, for a client that speaks protocol 3.`minor`. The
    /// caller takes it out of `cancels` in the end. `None` if the system has no randomness.
    pub fn new_cancel_key(&self, thread: usize, client: u64, minor: u16) -> Option<CancelKey> {
        loop {
            let key = CancelKey::generate(minor)
                .inspect_err(|e| tracing::error!(error = %e, "the system has no randomness"))
                .ok()?;
            if let dashmap::Entry::Vacant(free) = self.cancels.entry(key.process_id) {
                free.insert((thread, client));
                return Some(key);
            }
        }
    }

    /// The data threads.
    pub fn workers(&self) -> &[Remote<Core>] {
        self.workers.get().map(Vec::as_slice).unwrap_or_default()
    }

    /// The pool of a key, with homes for it if it is new: the threads with the fewest pools.
    pub fn pool(&self, key: &PoolKey, config: &PoolConfig) -> Arc<PoolShared> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(key) {
            return Arc::clone(pool);
        }
        let threads = self.workers().len().max(1);
        let mut load = vec![0; threads];
        for pool in pools.values() {
            for (home, _) in &pool.homes {
                if let Some(n) = load.get_mut(*home) {
                    *n += 1;
                }
            }
        }
        let mut order: Vec<usize> = (0..threads).collect();
        order.sort_by_key(|t| load.get(*t).copied());
        order.truncate(config.homes(threads));
        let pool = Arc::new(PoolShared::new(key.clone(), order));
        pools.insert(key.clone(), Arc::clone(&pool));
        pool
    }

    /// Forgets a pool for which no connection was ever made, if no thread has it any more: anybody who may log in can
    /// ask for databases that do not exist.
    pub fn forget_unused(&self, key: &PoolKey) {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let is_unused = |pool: &Arc<PoolShared>| Arc::strong_count(pool) == 1 && !pool.was_used();
        if pools.get(key).is_some_and(is_unused) {
            pools.remove(key);
        }
    }

    /// Every pool that somebody has asked for.
    pub fn pools(&self) -> Vec<Arc<PoolShared>> {
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.values().cloned().collect()
    }

    /// The verifier that a client with a clear-text entry is checked against: derived once, since that costs 0.6 ms.
    pub fn verifier(&self, user: &str, password: &str) -> Verifier {
        if let Some(entry) = self.verifiers.get(user).filter(|e| *e.0 == password) {
            return entry.1.clone();
        }
        let salt = scram::mock_salt(&self.mock_secret, user);
        let verifier = Verifier::derive(password.as_bytes(), &salt, 4096);
        self.verifiers.insert(user.to_owned(), (password.to_owned().into(), verifier.clone()));
        verifier
    }

    /// A client has proved that it knows the password behind a verifier: servers with the same one can be logged in to.
    pub fn remember_proof(&self, user: &str, verifier: &Verifier, keys: Keys) {
        self.proved.insert(user.to_owned(), (verifier.clone(), keys));
    }

    /// What was derived of other passwords than users have now is forgotten: `passwords` are all of a user's.
    pub fn forget_old_passwords<'a>(&self, passwords: impl Fn(&str) -> Vec<&'a Secret>) {
        let is_now = |user: &str, is_it: &dyn Fn(&str) -> bool| passwords(user).iter().any(|now| is_it(&now.0));
        self.verifiers.retain(|user, (password, _)| is_now(user, &|now| now == password.as_str()));
        self.derived.retain(|(user, ..), (password, _)| is_now(user, &|now| now == password.as_str()));
        self.proved.retain(|user, (verifier, _)| is_now(user, &|now| Verifier::parse(now).as_ref() == Some(verifier)));
    }

    /// The keys for a SCRAM login at a server. `None` if nothing that we know can make them.
    pub fn server_keys(
        &self,
        user: &str,
        credential: &Option<Credential>,
        salt: &[u8],
        iterations: u32,
    ) -> Option<Keys> {
        match credential.as_ref()? {
            Credential::Clear(password) => {
                let key = (user.to_owned(), salt.to_vec(), iterations);
                if let Some(entry) = self.derived.get(&key).filter(|e| e.0 == *password) {
                    return Some(entry.1.clone());
                }
                let keys = scram::derive(password.as_bytes(), salt, iterations);
                self.derived.insert(key, (password.clone(), keys.clone()));
                Some(keys)
            }
            Credential::Scram(verifier) => self.proved.get(user).filter(|e| e.0 == *verifier).map(|e| e.1.clone()),
            Credential::Md5(_) => None,
        }
    }
}
