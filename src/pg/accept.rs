//! From a new connection to a session at its home: startup packet, login, the way to the right thread.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;

use super::admission;
use super::core::Core;
use super::errors::Trouble;
use super::login::{self, LoginError, Newcomer, Talk};
use super::memory::{Flags, Rare};
use super::pool::{PgPool, PoolKey};
use super::registry::{Client, ClientState, Order};
use super::replicate;
use super::session::Session;
use super::settings::Settings;
use super::shared::Shared;
use super::welcome;
use crate::config::model::{ListenRoute, PoolMode};
use crate::guard::{Farewell, Introduced, Pass, Refused};
use crate::net::{Accepted, Detached, Listener, Stream};
use crate::topology::acknowledged::Volume;
use crate::wire::pg::build;
use crate::wire::pg::cancel_key::{CancelKey, SecretBytes};
use crate::wire::pg::sqlstate::write_error;
use crate::wire::pg::startup::{self, Startup};
use crate::worker::Elapsed;
use crate::worker::clock::now_ns;

/// Accepts from one listener until the process ends.
pub fn listen(core: &Rc<Core>, listener: Listener, route: ListenRoute) -> std::io::Result<()> {
    let listener = listener.attach()?;
    let core = Rc::clone(core);
    tokio::task::spawn_local(async move { accept_all(&core, &listener, route).await });
    Ok(())
}

async fn accept_all(core: &Rc<Core>, listener: &Accepted, route: ListenRoute) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = core.doors.left() => return,
        };
        match accepted {
            Ok(stream) => receive(core, stream, route),
            Err(e) => {
                // Out of file descriptors, usually: the connections that wait in the backlog are not lost.
                tracing::warn!(error = %e, "cannot accept a connection");
                core.wheel.sleep(Duration::from_millis(100)).await;
            }
        }
        if core.is_closing.get() {
            return;
        }
    }
}

/// A new connection, of which nothing has been read: who is refused costs no more than this.
fn receive(core: &Rc<Core>, stream: Stream, route: ListenRoute) {
    let (guard, peer) = (&core.shared.guard, stream.peer());
    if guard.expects_header(peer) {
        let (core, guard) = (Rc::clone(core), Arc::clone(guard));
        tokio::task::spawn_local(async move {
            match Box::pin(guard.introduce(stream, &core.wheel)).await {
                Introduced::In(stream, pass) => greet(core, stream, route, pass).await,
                Introduced::Out(stream, refused) => turn_away(&core, stream, refused),
                Introduced::Gone => {}
            }
        });
        return;
    }
    match guard.admit(peer) {
        Ok(pass) => {
            let core = Rc::clone(core);
            tokio::task::spawn_local(async move { greet(core, stream, route, pass).await });
        }
        Err(refused) => turn_away(core, stream, refused),
    }
}

/// Tells somebody who is refused why.
fn turn_away(core: &Rc<Core>, stream: Stream, refused: Refused) {
    let trouble = Trouble::Refused(refused);
    let Some(farewell) = core.shared.guard.farewell() else {
        let mut out = Vec::new();
        write_error(&mut out, &trouble);
        let _ = stream.try_write(&out);
        return;
    };
    let core = Rc::clone(core);
    tokio::task::spawn_local(async move {
        let told = Box::pin(tell_and_close(&core, Talk::new(stream), trouble));
        let _ = core.wheel.timeout(Some(Farewell::PATIENCE), told).await;
        drop(farewell);
    });
}

/// libpq shows nobody what a server says instead of an answer to its request for TLS: where that is not offered it is
/// answered first.
async fn tell_and_close(core: &Core, mut talk: Talk, trouble: Trouble) {
    while let Ok(Startup::Ssl | Startup::GssEnc) = talk.startup().await {
        if core.shared.tls.load().is_some() {
            break;
        }
        if talk.write(b"N").await.is_err() {
            return;
        }
    }
    let _ = talk.refuse(trouble).await;
    let _ = talk.into_stream().close().await;
}

/// One new connection, up to the moment when its session runs.
async fn greet(core: Rc<Core>, stream: Stream, route: ListenRoute, pass: Pass) {
    core.shared.clients.fetch_add(1, Ordering::Relaxed);
    let peer = stream.peer();
    let met = Box::pin(meet(&core, stream, route)).await;
    drop(pass);
    match met {
        // Counted until the session's end from here on.
        Ok(Ok(Met::AtHome)) => return,
        Ok(Ok(Met::Done)) => {}
        Ok(Err(error)) => {
            error.log(peer);
            if let Some(failure) = error.failure() {
                core.shared.guard.note_failure(peer, failure);
            }
        }
        Err(Elapsed) => tracing::info!(%peer, "a client did not log in within client_login_timeout"),
    }
    core.shared.clients.fetch_sub(1, Ordering::Relaxed);
}

enum Met {
    /// The connection has become a session.
    AtHome,
    /// The connection was for something else and is over.
    Done,
}

/// Until the startup packet has come the general time-out holds, then that of its database and user.
async fn meet(core: &Rc<Core>, stream: Stream, route: ListenRoute) -> Result<Result<Met, LoginError>, Elapsed> {
    let began = now_ns();
    let talk = Talk::new(stream);
    let limit = core.config.borrow().postgres.pool.client_login_timeout;
    let (talk, startup) = match core.wheel.timeout(limit, hear(core, talk)).await? {
        Ok(Some(heard)) => heard,
        Ok(None) => return Ok(Ok(Met::Done)),
        Err(error) => return Ok(Err(error)),
    };
    let limit = core.config.borrow().postgres.pool_for(&startup.database, &startup.user).client_login_timeout;
    let spent = Duration::from_nanos(now_ns().saturating_sub(began));
    let left = limit.map(|limit| limit.saturating_sub(spent));
    core.wheel.timeout(left, admit(core, talk, startup, route)).await
}

/// What the client wants; `None` if that was done.
async fn hear(core: &Rc<Core>, talk: Talk) -> Result<Option<(Talk, startup::Session)>, LoginError> {
    let mut talk = talk.take_direct_tls(&core.shared).await?;
    loop {
        match talk.startup().await? {
            // Within TLS there is none.
            Startup::Ssl if talk.has_tls() => talk.write(b"N").await?,
            Startup::Ssl => talk = talk.offer_tls(&core.shared).await?,
            Startup::GssEnc => talk.write(b"N").await?,
            Startup::Cancel(cancel) => {
                // Its end: nobody ever says anything.
                let _ = relay_cancel(&core.shared, &cancel).await;
                return Ok(None);
            }
            Startup::Session(session) => return Ok(Some((talk, session))),
        }
    }
}

async fn admit(
    core: &Rc<Core>,
    mut talk: Talk,
    startup: startup::Session,
    route: ListenRoute,
) -> Result<Met, LoginError> {
    let config = Arc::clone(&core.config.borrow());
    if talk.lacks_tls(config.postgres.tls_mode) {
        return Err(talk.refuse(Trouble::NeedsTls(startup.user)).await);
    }
    if startup.database == config.admin.database || startup.database == "pgbouncer" {
        admission::to_the_console(&config, &mut talk, &startup).await?;
        core.shared.control.console(Newcomer::new(talk, startup)?);
        return Ok(Met::Done);
    }
    let max = config.postgres.max_clients;
    if core.is_closing.get() {
        return Err(talk.refuse(Trouble::Ended("the proxy is shutting down")).await);
    }
    if core.shared.clients.load(Ordering::Relaxed) > max {
        return Err(talk.refuse(Trouble::TooManyClients(max)).await);
    }
    let wanted = login::settings(&startup).map_err(Box::new);
    login::authenticate(core, &config, &mut talk, &startup).await?;
    let key = PoolKey { database: startup.database.as_str().into(), user: startup.user.as_str().into() };
    let Some((_, pool_config, _)) = core.pool_config(&key) else {
        return Err(talk.refuse(Trouble::NoDatabase(startup.database.clone())).await);
    };
    let (settings, route) = match wanted {
        Ok((settings, wish)) => (settings, wish.unwrap_or(route)),
        Err(trouble) => return Err(talk.refuse(*trouble).await),
    };
    let shared = core.shared.pool(&key, &pool_config);
    let home = shared.emptiest_home();
    shared.count_client(home, true);
    let guest = Guest { key, settings, route, home, startup, buffered: talk.take_buffered() };
    if home == core.id {
        settle(core, talk.into_stream(), guest);
    } else {
        let stream = talk.into_stream().detach().map_err(LoginError::Socket)?;
        let Some(worker) = core.shared.workers().get(home) else { return Ok(Met::Done) };
        worker.post(move |core| arrive(core, stream, guest));
    }
    Ok(Met::AtHome)
}

/// A logged-in client on its way to its home.
struct Guest {
    key: PoolKey,
    settings: Arc<Settings>,
    route: ListenRoute,
    home: usize,
    startup: startup::Session,
    buffered: Vec<u8>,
}

fn arrive(core: &Rc<Core>, stream: Detached, guest: Guest) {
    match stream.attach() {
        Ok(stream) => settle(core, stream, guest),
        Err(e) => {
            tracing::warn!(error = %e, "a client was lost between two threads");
            core.shared.clients.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The session begins: the client is told what it needs to know, then served.
fn settle(core: &Rc<Core>, stream: Stream, guest: Guest) {
    let core = Rc::clone(core);
    tokio::task::spawn_local(async move {
        if let Some(session) = move_in(core, stream, guest).await {
            // A task of its own: what lives as long as the client holds nothing of the login.
            tokio::task::spawn_local(session.run());
        }
    });
}

async fn move_in(core: Rc<Core>, stream: Stream, guest: Guest) -> Option<Box<Session>> {
    let Guest { key, settings, route, home, startup, buffered } = guest;
    let mut talk = Talk::with_buffered(stream, buffered);
    let leave = |core: &Core| {
        core.shared.clients.fetch_sub(1, Ordering::Relaxed);
    };
    let Some(pool) = core.pool(&key) else {
        leave(&core);
        let _ = talk.refuse(Trouble::NoDatabase(startup.database)).await;
        return None;
    };
    core.renew_login(&pool);
    if pool.is_disabled.get() {
        leave(&core);
        pool.shared.count_client(home, false);
        let _ = talk.refuse(Trouble::Disabled(startup.database)).await;
        return None;
    }
    let refused = |core: &Rc<Core>, pool: Rc<PgPool>| {
        leave(core);
        pool.shared.count_client(home, false);
        core.forget_unused(pool);
    };
    if let Some(params) = replicate::wanted(&startup) {
        match replicate::open(&core, &pool, &params).await {
            Ok((backend, params)) => match register(&core, &pool, &talk, &startup) {
                Some(me) => {
                    replicate::serve(Rc::clone(&core), Rc::clone(&me), talk, backend, params).await;
                    core.client_left(&me, &pool, home);
                }
                None => {
                    core.forget(&backend);
                    leave(&core);
                }
            },
            Err(trouble) => {
                refused(&core, pool);
                talk.refuse(trouble).await.log(talk.peer());
            }
        }
        return None;
    }
    let welcome = match welcome::welcome(&core, &pool, &settings).await {
        Ok(welcome) => welcome,
        Err(trouble) => {
            refused(&core, pool);
            talk.refuse(trouble).await.log(talk.peer());
            return None;
        }
    };
    let Some(me) = register(&core, &pool, &talk, &startup) else {
        leave(&core);
        return None;
    };
    let settings = pool.shared.intern(settings);
    let mut output = Vec::new();
    build::authentication_ok(&mut output);
    for (name, value) in &welcome.params {
        let value = match name.as_str() {
            "in_hot_standby" if route == ListenRoute::Replica => "on",
            "in_hot_standby" => "off",
            _ => value,
        };
        build::parameter_status(&mut output, name.as_bytes(), value.as_bytes());
    }
    build::backend_key_data(&mut output, me.key.process_id, me.key.secret.as_bytes());
    build::ready_for_query(&mut output, super::request::transaction_status(b'I'));
    let is_session = pool.config.borrow().mode == PoolMode::Session;
    let (stream, input) = talk.into_parts();
    let input = if input.is_empty() { Vec::new() } else { input };
    Some(Box::new(Session {
        core,
        me,
        pool,
        stream,
        input,
        output,
        left: 0,
        want: 0,
        discard: 0,
        names: None,
        planned: None,
        start: Arc::clone(&settings),
        settings,
        before_tx: None,
        wrote_at: 0,
        volume: Volume::default(),
        rare: Rare::new(route, home, is_session),
        flags: Flags::default(),
    }))
}

/// The client is known to the console, to cancels and to whoever has orders for it. `None`: the system has no randomness.
fn register(core: &Core, pool: &PgPool, talk: &Talk, startup: &startup::Session) -> Option<Rc<Client>> {
    let id = core.shared.next_id();
    let key = core.shared.new_cancel_key(core.id, id, startup.spoken_minor())?;
    let name = startup.param("application_name").map(|n| String::from_utf8_lossy(n).into_owned()).unwrap_or_default();
    pool.stats.logins.update(|n| n + 1);
    Some(enlist(core, pool, talk.stream(), id, key, name, SystemTime::now()))
}

/// A client of this thread, under a number and a key that are known to cancels already.
pub(super) fn enlist(
    core: &Core,
    pool: &PgPool,
    stream: &Stream,
    id: u64,
    key: CancelKey,
    application_name: String,
    connected: SystemTime,
) -> Rc<Client> {
    let me = Rc::new(Client {
        id,
        database: Arc::clone(&pool.shared.key.database),
        user: Arc::clone(&pool.shared.key.user),
        peer: stream.peer(),
        local: stream.local(),
        connected,
        tls: stream.cipher(),
        key,
        application_name: RefCell::new(application_name),
        state: Cell::new(ClientState::Idle),
        since: Cell::new(now_ns()),
        query_began: Cell::new(0),
        tx_began: Cell::new(0),
        // Who comes in while the others leave for another process follows them.
        order: Cell::new(core.doors.leads_on().then_some(Order::Travel)),
        is_called: Cell::new(core.doors.leads_on()),
        is_unwatched: Cell::new(false),
        waker: RefCell::default(),
        prepared: Cell::new(0),
        pin: Cell::new(None),
        inbox: RefCell::default(),
        arrived: Cell::new(0),
    });
    core.clients.borrow_mut().insert(id, Rc::clone(&me));
    pool.clients.update(|n| n + 1);
    tracing::debug!(client_id = id, database = %me.database, user = %me.user, peer = %me.peer, "client logged in");
    me
}

/// A CancelRequest that shows the right key is taken to the client's thread. Nothing is ever answered; what is returned
/// ends when the cancel has been delivered, or is none.
fn relay_cancel(shared: &Shared, cancel: &startup::Cancel) -> oneshot::Receiver<()> {
    let (done, delivered) = oneshot::channel();
    let Some((worker, client)) = shared.cancels.get(&cancel.process_id).map(|e| *e.value()) else {
        shared.control.cancel_elsewhere(cancel);
        return delivered;
    };
    let cancel = cancel.clone();
    if worker == super::shared::CONSOLE {
        shared.consoles.cancel(client, &cancel);
    } else if let Some(worker) = shared.workers().get(worker) {
        worker.post(move |core| {
            let client = core.clients.borrow().get(&client).cloned();
            if let Some(client) = client.filter(|c| c.key.allows(cancel.process_id, &cancel.secret)) {
                super::cancel::cancel_client(core, &client, done);
            }
        });
    }
    delivered
}

/// A CancelRequest that came to another process of ours.
pub fn deliver_cancel(shared: &Shared, process_id: i32, secret: &[u8]) {
    if let Some(secret) = SecretBytes::new(secret) {
        drop(relay_cancel(shared, &startup::Cancel { process_id, secret }));
    }
}

impl Talk {
    /// Tells the client why it is not let in.
    pub(super) async fn refuse(&mut self, trouble: Trouble) -> LoginError {
        let mut out = Vec::new();
        write_error(&mut out, &trouble);
        let _ = self.write(&out).await;
        LoginError::Refused(trouble)
    }
}
