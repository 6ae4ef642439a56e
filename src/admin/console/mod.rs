//! The console's sessions: PostgreSQL's protocol, simple and extended, on the control thread.
//!
//! A session holds little: one message of at most [`LONGEST`] bytes, its prepared statements and portals (at most
//! [`MOST_NAMES`] each), and one answer while it is sent. Who does not take an answer within [`PATIENCE`] is closed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Refusal;
use crate::net::{Endpoint, Stream};
use crate::ops::Instance;
use crate::pg::login::{LoginError, Newcomer, Talk};
use crate::pg::registry::ClientState;
use crate::pg::report::ClientReport;
use crate::pg::shared::CONSOLE;
use crate::wire::pg::build;
use crate::wire::pg::message::TransactionStatus;
use crate::wire::pg::sqlstate::{ToClient, write_error};
use crate::worker::clock::now_ns;

mod encode;
mod extended;
mod login;
mod session;

/// Longest message of a client, in bytes.
const LONGEST: usize = 64 * 1024;
/// Sessions at a time, and as many connections that are still logging in.
const MOST_SESSIONS: usize = 100;
/// Prepared statements of a session, and portals.
const MOST_NAMES: usize = 100;
/// For a client to take 64 KiB of an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// The database of the console's clients in the views, as in PgBouncer.
const DATABASE: &str = "pgbouncer";

/// Serves one client of the console. Must be called on the control thread.
pub fn serve(instance: Arc<Instance>, newcomer: Newcomer) {
    tokio::task::spawn_local(async move {
        let Newcomer { stream, startup, buffered } = newcomer;
        let stream = match stream.attach() {
            Ok(stream) => stream,
            Err(e) => return tracing::warn!(error = %e, "a client of the console was lost between two threads"),
        };
        let peer = stream.peer();
        let mut talk = Talk::with_buffered(stream, buffered);
        let consoles = &instance.shared.consoles;
        if !consoles.arrive(MOST_SESSIONS) {
            return turn_away(&mut talk, &Refusal::TooManySessions(MOST_SESSIONS), peer).await;
        }
        let limit = instance.config.load().postgres.pool.client_login_timeout;
        let caller = login::login(&instance, &mut talk, &startup);
        let caller = match limit {
            Some(limit) => tokio::time::timeout(limit, caller).await,
            None => Ok(caller.await),
        };
        consoles.arrived();
        match caller {
            Ok(Ok(caller)) => begin(&instance, talk, caller, startup.spoken_minor()).await,
            Ok(Err(login::Failure::Password(error))) => {
                error.log(peer);
                if let Some(failure) = error.failure() {
                    instance.shared.guard.note_failure(peer, failure);
                }
            }
            Ok(Err(login::Failure::Refused(refusal))) => turn_away(&mut talk, &refusal, peer).await,
            Err(_) => {
                tracing::info!(%peer, "a client of the console did not log in within client_login_timeout");
            }
        }
    });
}

/// Last words to somebody who is not let in.
async fn turn_away(talk: &mut Talk, refusal: &Refusal, peer: Endpoint) {
    tracing::warn!(%peer, code = refusal.sqlstate(), error = %refusal.message(), "a client of the console was refused");
    let mut out = Vec::new();
    write_error(&mut out, refusal);
    let _ = tokio::time::timeout(Duration::from_secs(2), talk.write(&out)).await;
}

/// A logged-in client, from its greeting to its end.
async fn begin(instance: &Arc<Instance>, mut talk: Talk, mut caller: super::Caller, minor: u16) {
    let shared = &instance.shared;
    let id = shared.next_id();
    let Some(key) = shared.new_cancel_key(CONSOLE, id, minor) else { return };
    caller.process_id = key.process_id;
    let _registered = Registered { instance, id, process_id: key.process_id };
    let report = ClientReport {
        id,
        database: DATABASE.into(),
        user: caller.name.as_str().into(),
        peer: talk.peer().named(),
        local: talk.stream().local().named(),
        connected: SystemTime::now(),
        tls: talk.stream().cipher(),
        application_name: super::drivers::value(&caller, "application_name"),
        state: ClientState::Idle,
        since: now_ns(),
        link: 0,
        linked: 0,
        prepared: 0,
        pin: None,
    };
    let peer = talk.peer();
    let Some(bells) = shared.consoles.enter(report, key.clone(), MOST_SESSIONS) else {
        return turn_away(&mut talk, &Refusal::TooManySessions(MOST_SESSIONS), peer).await;
    };
    tracing::debug!(session_id = id, user = caller.name, rights = ?caller.rights, %peer, "console session begins");
    let mut greeting = Vec::new();
    build::authentication_ok(&mut greeting);
    for (name, value) in super::drivers::at_login(&caller) {
        build::parameter_status(&mut greeting, name.as_bytes(), value.as_bytes());
    }
    build::backend_key_data(&mut greeting, key.process_id, key.secret.as_bytes());
    build::ready_for_query(&mut greeting, TransactionStatus::Idle);
    let (stream, input): (Stream, Vec<u8>) = talk.into_parts();
    session::Session::new(Arc::clone(instance), caller, bells, id, stream, input, greeting).run().await;
    tracing::debug!(session_id = id, "console session ends");
}

/// What others know of a session, for as long as it lasts.
struct Registered<'a> {
    instance: &'a Instance,
    id: u64,
    process_id: i32,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.instance.shared.cancels.remove(&self.process_id);
        self.instance.shared.consoles.leave(self.id);
    }
}

impl From<LoginError> for login::Failure {
    fn from(error: LoginError) -> Self {
        login::Failure::Password(error)
    }
}
