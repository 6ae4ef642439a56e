//! Clients that go on in another process of ours: what a session is made of between two transactions, packed here and
//! unpacked there, with its socket.
//!
//! Only who owns nothing but a socket and a memory can go: a client with TLS cannot, whose keys stay here, nor one that
//! holds a server connection or listens. It stays until that is over, or until it leaves.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::accept::enlist;
use super::core::Core;
use super::errors::Trouble;
use super::login::Talk;
use super::lookup::Found;
use super::memory::{Flags, Rare};
use super::pool::{PoolConfig, PoolKey};
use super::prepare::Names;
use super::registry::{ClientState, Order};
use super::session::Session;
use super::settings::{Settings, Value};
use super::shared::Shared;
use crate::config::model::{ListenRoute, PoolMode};
use crate::net::channel::bytes;
use crate::net::{Departure, Detached, Passport};
use crate::pool::Limits;
use crate::sql::{Kind, Verdict};
use crate::topology::Lsn;
use crate::topology::acknowledged::Volume;
use crate::wire::pg::auth::Credential;
use crate::wire::pg::cancel_key::{CancelKey, SecretBytes};
use crate::wire::pg::scram::Verifier;

/// Bytes of a client that goes along; one with more stays.
const MOST: usize = 16 * 1024 * 1024;

/// A session between two transactions, without its socket.
#[derive(Debug, Serialize, Deserialize)]
pub struct Traveller {
    passport: Passport,
    database: String,
    user: String,
    application_name: String,
    connected: SystemTime,
    /// Of what a CancelRequest must show.
    process_id: i32,
    #[serde(with = "bytes")]
    secret: Vec<u8>,
    route: ListenRoute,
    listen_route: ListenRoute,
    settings: Vec<(String, Value)>,
    /// As the session began; none if these are the same.
    start: Option<Vec<(String, Value)>>,
    statements: Vec<Prepared>,
    #[serde(with = "bytes")]
    unnamed: Vec<u8>,
    describes: bool,
    /// See [`Session::wrote_at`]: the clock is the machine's.
    wrote_at: u64,
    read_after: Option<Lsn>,
    /// The beginning of its next request.
    #[serde(with = "bytes")]
    input: Vec<u8>,
}

/// A named statement: what follows the name in its Parse.
#[derive(Debug, Serialize, Deserialize)]
struct Prepared {
    #[serde(with = "bytes")]
    name: Box<[u8]>,
    #[serde(with = "bytes")]
    body: Box<[u8]>,
}

impl Session {
    /// Whether this is a moment at which the client owns nothing but what can be packed.
    pub(super) fn may_travel(&self) -> bool {
        let (flags, rare) = (&self.flags, &self.rare);
        let is_between = self.me.state.get() == ClientState::Idle
            && self.output.is_empty()
            && (self.left, self.want, self.discard) == (0, 0, 0)
            && !(flags.skip_to_sync || flags.unsynced || flags.is_rerun || flags.may_pin)
            && !self.is_kept_back();
        let owns_nothing = !rare.is_session
            && self.pool.config.borrow().mode != PoolMode::Session
            && self.before_tx.is_none()
            && rare.owed.is_none()
            && rare.route_local.is_none()
            && rare.portals.is_none()
            && self.hears_nothing()
            && self.me.pin.get().is_none()
            && self.me.inbox.borrow().is_none();
        is_between && owns_nothing && self.stream.may_leave_the_process() && self.has_only_its_own_texts()
    }

    /// Bytes that would have to be told of it, about.
    fn weight(&self) -> usize {
        let of_names = |names: &Names| {
            let all = names.all();
            all.iter().map(|(name, s)| name.len() + s.body.len()).sum::<usize>() + names.unnamed.len()
        };
        self.input.len() + self.names.as_deref().map_or(0, of_names)
    }

    /// What the client has prepared has the texts that it gave: what we have put in their place means something here only.
    fn has_only_its_own_texts(&self) -> bool {
        let is_as_given = |verdict: &Verdict| match &verdict.kind {
            Kind::Listen(_) | Kind::Deallocate(Some(_)) => false,
            Kind::Show(name) => !name.starts_with("forebay."),
            _ => true,
        };
        self.names.as_deref().is_none_or(|names| {
            names.all().iter().all(|(_, statement)| is_as_given(&statement.verdict))
                && names.unnamed_verdict.as_deref().is_none_or(is_as_given)
        })
    }

    /// A cancel was obeyed: what everybody is told holds again.
    pub(super) fn cancelled(&self) {
        let leads_on = self.core.doors.leads_on();
        self.me.order.set(leads_on.then_some(Order::Travel));
        self.me.is_called.set(leads_on);
    }

    /// Sends the client to the other process.
    ///
    /// # Errors
    /// Its socket cannot be copied: it stays.
    pub(super) fn travel(&mut self) -> std::io::Result<()> {
        if self.weight() > MOST {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        let (socket, passport) = self.stream.copy_for_another_process()?;
        let listed = |settings: &Settings| settings.iter().map(|(n, v)| (n.to_owned(), v.clone())).collect();
        let names = self.names.as_deref();
        let statements = names.map(Names::all).unwrap_or_default();
        let traveller = Box::new(Traveller {
            passport,
            database: self.me.database.to_string(),
            user: self.me.user.to_string(),
            application_name: self.me.application_name.borrow().clone(),
            connected: self.me.connected,
            process_id: self.me.key.process_id,
            secret: self.me.key.secret.as_bytes().to_vec(),
            route: self.rare.route,
            listen_route: self.rare.listen_route,
            settings: listed(&self.settings),
            start: (!self.settings.is_same(&self.start)).then(|| listed(&self.start)),
            statements: statements.into_iter().map(|(name, s)| Prepared { name, body: s.body.clone() }).collect(),
            unnamed: names.map(|names| names.unnamed.clone()).unwrap_or_default(),
            describes: names.is_some_and(|names| names.describes),
            wrote_at: self.wrote_at,
            read_after: self.rare.read_after.as_deref().copied(),
            input: std::mem::take(&mut self.input),
        });
        self.core.shared.control.depart(Departure { traveller, socket });
        Ok(())
    }
}

/// A connection to a server that a process which is leaving does not use is kept for so long, ns: the next one needs the
/// room.
const UNUSED: u64 = 1_000_000_000;

impl Core {
    /// From here on another process accepts; every client follows as soon as it can.
    pub fn leave(self: &Rc<Self>) {
        self.doors.leave();
        for pool in self.all_pools() {
            let limits = pool.config.borrow().limits(pool.shared.homes.len());
            pool.state.borrow_mut().set_limits(Limits { min_size: 0, ..limits });
        }
        self.tell_all(Some(Order::Travel));
    }

    /// The other process takes nobody any more.
    pub fn stay(&self) {
        self.doors.lead_nowhere();
        for client in self.clients.borrow().values().filter(|client| client.order.get() == Some(Order::Travel)) {
            client.order.set(None);
        }
    }

    /// How long an unused connection to a server is kept, ns.
    pub(super) fn idle_limit(&self, config: &PoolConfig) -> Option<u64> {
        if self.doors.is_left() { Some(UNUSED) } else { config.server_idle_timeout }
    }
}

impl Departure<Traveller> {
    /// The client goes on in this process. To be called on any data thread.
    pub fn arrive(self, core: &Rc<Core>) {
        let Departure { traveller, socket } = self;
        core.shared.clients.fetch_add(1, Ordering::Relaxed);
        let key = PoolKey { database: traveller.database.as_str().into(), user: traveller.user.as_str().into() };
        let stream = traveller.passport.admit(socket);
        let Some((_, pool_config, _)) = core.pool_config(&key) else {
            return refuse(core, stream, Trouble::NoDatabase(traveller.database.clone()));
        };
        let shared = core.shared.pool(&key, &pool_config);
        let home = shared.emptiest_home();
        shared.count_client(home, true);
        match core.shared.workers().get(home) {
            Some(_) if home == core.id => move_in(core, stream, *traveller, home),
            Some(worker) => worker.post(move |core| move_in(core, stream, *traveller, home)),
            None => {}
        }
    }
}

/// The client cannot go on: the configuration of this process has no place for it.
fn refuse(core: &Rc<Core>, stream: Detached, trouble: Trouble) {
    let core = Rc::clone(core);
    tokio::task::spawn_local(async move {
        if let Ok(stream) = stream.attach() {
            let mut talk = Talk::new(stream);
            let peer = talk.peer();
            talk.refuse(trouble).await.log(peer);
        }
        core.shared.clients.fetch_sub(1, Ordering::Relaxed);
    });
}

fn move_in(core: &Rc<Core>, stream: Detached, traveller: Traveller, home: usize) {
    let key = PoolKey { database: traveller.database.as_str().into(), user: traveller.user.as_str().into() };
    let Some(pool) = core.pool(&key) else {
        return refuse(core, stream, Trouble::NoDatabase(traveller.database));
    };
    core.renew_login(&pool);
    let (Ok(stream), Some(secret)) = (stream.attach(), SecretBytes::new(&traveller.secret)) else {
        tracing::warn!(database = traveller.database, user = traveller.user, "a client was lost between two processes");
        core.shared.clients.fetch_sub(1, Ordering::Relaxed);
        return pool.shared.count_client(home, false);
    };
    let id = core.shared.next_id();
    let cancel_key = CancelKey { process_id: traveller.process_id, secret };
    core.shared.cancels.insert(cancel_key.process_id, (core.id, id));
    let me = enlist(core, &pool, &stream, id, cancel_key, traveller.application_name.clone(), traveller.connected);
    // The session's pool mode is this process' own.
    let is_session = pool.config.borrow().mode == PoolMode::Session;
    let settings = pool.shared.intern(Settings::of(traveller.settings));
    let start = match traveller.start {
        Some(start) => pool.shared.intern(Settings::of(start)),
        None => Arc::clone(&settings),
    };
    let mut rare = Rare::new(traveller.listen_route, home, is_session);
    rare.route = traveller.route;
    rare.read_after = traveller.read_after.map(Box::new);
    let mut session = Box::new(Session {
        core: Rc::clone(core),
        me,
        pool,
        stream,
        input: traveller.input,
        output: Vec::new(),
        left: 0,
        want: 0,
        discard: 0,
        names: None,
        planned: None,
        settings,
        start,
        before_tx: None,
        wrote_at: traveller.wrote_at,
        volume: Volume::default(),
        rare,
        flags: Flags::default(),
    });
    session.remember(traveller.statements, &traveller.unnamed, traveller.describes);
    tokio::task::spawn_local(session.run());
}

impl Session {
    /// What the client has prepared, judged by what is known here.
    fn remember(&mut self, statements: Vec<Prepared>, unnamed: &[u8], describes: bool) {
        if statements.is_empty() && unnamed.is_empty() {
            return;
        }
        let mut names = Names::default();
        (names.describes, names.generation) = (describes, self.pool.generation.get());
        for Prepared { name, body } in statements {
            let verdict = self.examine(super::prepare::text_in(&body));
            names.insert(&name, self.core.shared.statements.intern(&body, verdict, self.scope()));
        }
        if !unnamed.is_empty() {
            names.set_unnamed(unnamed, self.examine(super::prepare::text_in(unnamed)));
            self.rare.unnamed_serial = self.core.next_serial();
        }
        self.me.prepared.set(names.len());
        self.names = Some(Box::new(names));
    }
}

/// What a process knows that the next one cannot find out: without it, it could not log in at servers for clients whose
/// password only they know.
#[derive(Default, Serialize, Deserialize)]
pub struct Knowledge {
    proofs: Vec<Proof>,
    logins: Vec<LookedUp>,
    /// Of a process that knew none of them there are none.
    #[serde(default)]
    given: Vec<Given>,
}

impl std::fmt::Debug for Knowledge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Knowledge({} proofs, {} logins)", self.proofs.len(), self.logins.len())
    }
}

/// See [`Shared::remember_proof`].
#[derive(Serialize, Deserialize)]
struct Proof {
    user: String,
    verifier: Zeroizing<String>,
    client_key: Zeroizing<[u8; 32]>,
}

/// See [`super::lookup::Logins`].
#[derive(Serialize, Deserialize)]
struct LookedUp {
    cluster: String,
    user: String,
    credential: Zeroizing<String>,
    valid_until: Option<SystemTime>,
}

/// See [`super::lookup::Logins::take_given`].
#[derive(Serialize, Deserialize)]
struct Given {
    cluster: String,
    user: String,
    password: Zeroizing<String>,
}

impl Knowledge {
    /// Of this process.
    pub fn of(shared: &Shared) -> Self {
        let proof = |(user, verifier, key)| Proof { user, verifier, client_key: Zeroizing::new(key) };
        let looked_up = |(cluster, user, credential, valid_until): (_, _, Credential, _)| LookedUp {
            cluster,
            user,
            credential: credential.text(),
            valid_until,
        };
        let given = |(cluster, user, password): (_, _, Credential)| Given { cluster, user, password: password.text() };
        Knowledge {
            given: shared.logins.all_given().into_iter().map(given).collect(),
            proofs: shared.proofs().into_iter().map(proof).collect(),
            logins: shared.logins.all().into_iter().map(looked_up).collect(),
        }
    }

    /// This process knows it too. A login that was looked up serves for servers; for clients it is looked up again.
    pub fn learn(self, shared: &Shared) {
        for Proof { user, verifier, client_key } in self.proofs {
            if let Some(verifier) = Verifier::parse(&verifier) {
                shared.remember_proof(&user, &verifier, *client_key);
            }
        }
        for LookedUp { cluster, user, credential, valid_until } in self.logins {
            if let Ok(credential) = Credential::parse(&credential) {
                shared.logins.learn(&cluster, &user, Found::new(Some(credential), valid_until));
            }
        }
        for Given { cluster, user, password } in self.given {
            shared.logins.take_given(&cluster, &user, password);
        }
        shared.logins.doubt_all();
    }
}
