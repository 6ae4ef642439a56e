//! What the data threads share: touched at login, at Parse of a named statement and for cancels, never per query.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwapOption;
use dashmap::DashMap;
use zeroize::Zeroizing;

use super::consoles::Consoles;
use super::core::Core;
use super::ldap::Directories;
use super::listen::{Place, Wish};
use super::login::Newcomer;
use super::lookup::{Ask, Logins};
use super::pool::{PoolConfig, PoolKey, PoolShared};
use super::prepare::Statements;
use super::trace::Spans;
use super::travel::Traveller;
use crate::config::model::Secret;
use crate::guard::Guard;
use crate::net::tls::Acceptor;
use crate::net::{Departure, aside};
use crate::sql::Catalog;
use crate::wire::pg::auth::Credential;
use crate::wire::pg::cancel_key::CancelKey;
use crate::wire::pg::scram::{self, Keys, Verifier};
use crate::wire::pg::startup::Cancel;
use crate::worker::Remote;
use crate::worker::permit::Permit;

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
    /// A login that only PostgreSQL knows; what it says goes to [`Shared::logins`].
    fn look_up(&self, ask: Ask);
    /// A client of the admin console, its startup packet read.
    fn console(&self, newcomer: Newcomer);
    /// A client goes on in the process that follows this one.
    fn depart(&self, departure: Departure<Traveller>);
    /// A key that no client of this process has: it may be one of the process before this one.
    fn cancel_elsewhere(&self, cancel: &Cancel);
}

/// Keys that are kept: of each password for its clients, and for each server with a salt of its own.
const MOST_DERIVED: usize = 10_000;

/// A password and what became of it.
type Derived = (Zeroizing<String>, Keys);

/// The thread of the console's clients in [`Shared::cancels`].
pub const CONSOLE: usize = usize::MAX;

/// See the module.
pub struct Shared {
    /// The data threads, in order; set once they run.
    pub workers: OnceLock<Vec<Remote<Core>>>,
    /// The control thread.
    pub control: Box<dyn Control>,
    /// Whether this process may send writes to primaries.
    pub permit: Arc<Permit>,
    /// Statement texts of all clients.
    pub statements: Statements,
    /// Whom a cancel request means: thread and client by the process number that the client was told. The thread
    /// checks the secret. A thread that does not exist ([`CONSOLE`]) stands for the console.
    pub cancels: DashMap<i32, (usize, u64)>,
    /// Sessions of the admin console.
    pub consoles: Consoles,
    /// What was traced and is still to be told; see `[telemetry]`.
    pub spans: Spans,
    /// Who may connect.
    pub guard: Arc<Guard>,
    /// Client connections, logged in or not.
    pub clients: AtomicUsize,
    /// Reads that wait for a replica.
    pub lagging: AtomicUsize,
    /// How clients are met that ask for TLS; nothing if they are not offered it.
    pub tls: ArcSwapOption<Acceptor>,
    /// See [`Catalog`]; by cluster and database.
    pub catalogs: DashMap<(usize, String), Arc<Catalog>>,
    /// Of `postgres.auth_query`, and of directories.
    pub logins: Logins,
    /// How LDAP servers do.
    pub directories: Arc<Directories>,
    pools: Mutex<HashMap<PoolKey, Arc<PoolShared>>>,
    ids: AtomicU64,
    /// Makes the salts that unknown users are shown; new in each process.
    pub mock_secret: [u8; 32],
    /// By salt and iterations; with the password.
    derived: DashMap<(Vec<u8>, u32), Vec<Derived>>,
    /// By login.
    proved: DashMap<String, Vec<(Verifier, Keys)>>,
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
    pub fn new(control: Box<dyn Control>, guard: Arc<Guard>, permit: Arc<Permit>) -> Result<Self, getrandom::Error> {
        let mut mock_secret = [0; 32];
        getrandom::fill(&mut mock_secret)?;
        let mut instance = [0; 16];
        getrandom::fill(&mut instance)?;
        Ok(Shared {
            workers: OnceLock::new(),
            control,
            permit,
            statements: Statements::default(),
            cancels: DashMap::new(),
            consoles: Consoles::default(),
            spans: Spans::new(instance),
            guard,
            clients: AtomicUsize::new(0),
            lagging: AtomicUsize::new(0),
            tls: ArcSwapOption::empty(),
            catalogs: DashMap::new(),
            logins: Logins::default(),
            directories: Arc::default(),
            pools: Mutex::default(),
            ids: AtomicU64::new(1),
            mock_secret,
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

    /// What a client's proof of one of these passwords is checked against: all of one salt and number of iterations.
    /// Unknown users get the same salt each time, too.
    pub async fn verifiers(self: &Arc<Self>, user: &str, credentials: &[Credential]) -> Vec<Verifier> {
        let stored = credentials.iter().find_map(|credential| match credential {
            Credential::Scram(verifier) => Some(verifier),
            Credential::Clear(_) | Credential::Md5(_) => None,
        });
        let (salt, iterations) = match stored {
            Some(verifier) => (verifier.salt.clone(), verifier.iterations),
            None => (scram::mock_salt(&self.mock_secret, user).to_vec(), scram::ITERATIONS),
        };
        let mut verifiers = Vec::new();
        for credential in credentials {
            match credential {
                Credential::Clear(password) => {
                    let keys = self.keys(password, &salt, iterations).await;
                    verifiers.push(Verifier::from_keys(&keys, &salt, iterations));
                }
                Credential::Scram(verifier) => verifiers.push(verifier.clone()),
                Credential::Md5(_) => {}
            }
        }
        verifiers
    }

    /// What a password becomes by this salt, derived once: that costs 0.6 ms of a processor, which no other client of
    /// this thread is to wait for.
    async fn keys(self: &Arc<Self>, password: &str, salt: &[u8], iterations: u32) -> Keys {
        if let Some(keys) = self.known_keys(password, salt, iterations) {
            return keys;
        }
        let (shared, secret, own_salt) = (Arc::clone(self), Zeroizing::new(password.to_owned()), salt.to_vec());
        let derived = aside::run(move || async move {
            // Many clients of one login may have come at once.
            let known = shared.known_keys(&secret, &own_salt, iterations);
            known.unwrap_or_else(|| scram::derive(secret.as_bytes(), &own_salt, iterations))
        });
        let keys = match derived.await {
            Ok(keys) => keys,
            Err(_) => scram::derive(password.as_bytes(), salt, iterations),
        };
        if self.derived.len() >= MOST_DERIVED {
            self.derived.clear();
        }
        let mut derived = self.derived.entry((salt.to_vec(), iterations)).or_default();
        if !derived.iter().any(|(known, _)| **known == *password) {
            derived.push((Zeroizing::new(password.to_owned()), keys.clone()));
        }
        keys
    }

    fn known_keys(&self, password: &str, salt: &[u8], iterations: u32) -> Option<Keys> {
        let derived = self.derived.get(&(salt.to_vec(), iterations))?;
        derived.iter().find(|(known, _)| **known == *password).map(|(_, keys)| keys.clone())
    }

    /// A client has proved that it knows the password behind a verifier: servers with the same one can be logged in to.
    pub fn remember_proof(&self, user: &str, verifier: &Verifier, client_key: [u8; 32]) {
        let keys = Keys { client_key, server_key: verifier.server_key };
        let mut proofs = self.proved.entry(user.to_owned()).or_default();
        if !proofs.iter().any(|(known, _)| known == verifier) {
            // The one in force, the one before, and one that is on its way out.
            proofs.truncate(2);
            proofs.insert(0, (verifier.clone(), keys));
        }
    }

    /// What clients have proved, for a process that follows this one: by login, the verifier and the client's key.
    pub fn proofs(&self) -> Vec<(String, Zeroizing<String>, [u8; 32])> {
        let of_login = |entry: dashmap::mapref::multiple::RefMulti<'_, String, Vec<(Verifier, Keys)>>| {
            let user = entry.key().clone();
            let proof = |(verifier, keys): &(Verifier, Keys)| (user.clone(), verifier.format().into(), keys.client_key);
            // The newest comes last, as it came here.
            entry.value().iter().rev().map(proof).collect::<Vec<_>>()
        };
        self.proved.iter().flat_map(of_login).collect()
    }

    /// What was made of passwords that are not in force any more is forgotten: `passwords` are all of a user's. Those of
    /// others are PostgreSQL's to know if it `is_asked`, which it is again.
    pub fn forget_old_passwords<'a>(&self, passwords: impl Fn(&str) -> Vec<&'a Secret>, is_asked: bool) {
        self.derived.clear();
        self.proved.retain(|user, proofs| {
            let now = passwords(user);
            let is_theirs = now.is_empty() && is_asked;
            proofs.retain(|(verifier, _)| {
                is_theirs || now.iter().any(|now| Verifier::parse(&now.0).as_ref() == Some(verifier))
            });
            !proofs.is_empty()
        });
        self.logins.doubt_all();
    }

    /// No directory is asked any more: passwords that clients gave are kept for those who are still here.
    pub fn forget_given_passwords(&self) {
        let pools = self.pools();
        self.logins.forget_given(|user| pools.iter().any(|pool| *pool.key.user == *user && pool.has_clients()));
    }

    /// The keys for a SCRAM login at a server. `None` if nothing that we know can make them.
    pub async fn server_keys(
        self: &Arc<Self>,
        user: &str,
        credential: Option<&Credential>,
        salt: &[u8],
        iterations: u32,
    ) -> Option<Keys> {
        match credential? {
            Credential::Clear(password) => Some(self.keys(password, salt, iterations).await),
            Credential::Scram(verifier) => {
                let proofs = self.proved.get(user)?;
                proofs.iter().find(|(known, _)| known == verifier).map(|(_, keys)| keys.clone())
            }
            Credential::Md5(_) => None,
        }
    }
}
