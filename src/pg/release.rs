//! How a connection leaves a session: free, abandoned, or lost; and how a session ends.
//!
//! A connection goes back only when it is provably clean. Everything that may not be is cleaned by a task of its own
//! or closed, and the client's part in it is over at once.

use std::rc::Rc;
use std::time::Duration;

use super::backend::Backend;
use super::core::Core;
use super::doubt::Asked;
use super::errors::{End, Trouble};
use super::pool::PgPool;
use super::registry::{ClientState, ServerState};
use super::request::transaction_status;
use super::session::{Session, Stage};
use super::stats::add;
use super::{cancel, control};
use crate::pool::Put;
use crate::sql::Access;
use crate::wire::pg::build;
use crate::wire::pg::frame::{Head, head};
use crate::wire::pg::message::{Bind, Parse};
use crate::wire::pg::sqlstate::write_error;

/// Longest time to tell a client why it is closed.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Longest time to clean a connection before it is closed instead.
const CLEANING: Duration = Duration::from_secs(10);

impl Session {
    /// The connection is free.
    #[inline]
    pub(super) fn release(&mut self, mut backend: Box<Backend>) {
        self.unlink(&backend);
        if self.flags.dirty {
            self.flags.dirty = false;
            backend.is_dirty = true;
        }
        self.core.give_back(&self.pool, backend);
    }

    /// From here on the connection is nobody's: no cancel request finds it.
    #[inline]
    fn unlink(&mut self, backend: &Backend) {
        backend.entry.client.set(0);
        self.me.state.set(ClientState::Idle);
        self.me.since.set(self.core.now());
        self.flags.running = false;
        self.flags.hold = false;
        if self.rare.portals.is_some() {
            self.rare.portals = None;
        }
        if self.flags.may_pin {
            self.does_not_pin();
        }
    }

    /// The session ends while it has a connection.
    pub(super) fn abandon(&mut self, mut backend: Box<Backend>) {
        self.unlink(&backend);
        backend.is_dirty |= self.flags.dirty || self.is_bound() || self.has_look();
        let is_between = (backend.track.is_quiet() || self.is_looking() && backend.track.is_only_asked())
            && !backend.track.is_skipping()
            && !self.flags.unsynced
            && self.left == 0
            && backend.out.is_empty()
            && backend.partial.is_empty()
            && backend.left == 0;
        if is_between && backend.track.status == b'I' && backend.track.is_quiet() {
            self.core.give_back(&self.pool, backend);
        } else if is_between {
            clean(&self.core, &self.pool, backend);
        } else {
            cancel::cancel_and_close(&self.core, &self.pool, backend);
        }
    }

    /// A connection that is not to be used any more.
    pub(super) fn drop_backend(&mut self, backend: Box<Backend>) {
        self.unlink(&backend);
        self.core.close(&self.pool, backend);
    }

    /// The request failed on a replica in a way that the primary mends, or its replica was lost: it runs again.
    pub(super) fn rerun(&mut self, backend: &mut Backend, on_primary: bool) {
        let mut request = std::mem::take(&mut backend.retained);
        self.forget_names(&request);
        request.append(&mut self.input);
        self.input = request;
        self.output.truncate(self.rare.held_from);
        self.flags.undecided = false;
        self.flags.rerun = false;
        self.flags.heals = false;
        self.flags.unsynced = false;
        self.flags.rolled_back = false;
        self.flags.wrote = false;
        self.flags.dirty = false;
        self.forget_looks();
        self.rare.bound = None;
        self.left = 0;
        self.flags.force_primary = on_primary;
        self.rare.reruns += 1;
        self.flags.is_rerun = true;
        add(&self.pool.stats.rerouted, 1);
    }

    /// Takes back the statement names that a request gave: it is going to give them again.
    fn forget_names(&mut self, mut request: &[u8]) {
        let Some(names) = &mut self.names else { return };
        while let Head::Frame { kind, len } = head(request) {
            let Some((frame, rest)) = request.split_at_checked(len) else { return };
            request = rest;
            if kind == b'P'
                && let Ok(parse) = Parse::read(frame.get(5..).unwrap_or_default())
            {
                names.remove(parse.name);
            }
        }
    }

    /// The statements of the request that a replica refused are writes from now on: also those that were prepared before.
    fn remember_write(&mut self, mut request: &[u8]) {
        while let Head::Frame { kind, len } = head(request) {
            let Some((frame, rest)) = request.split_at_checked(len) else { return };
            request = rest;
            let body = frame.get(5..).unwrap_or_default();
            match kind {
                b'Q' => self.core.remember_write(super::request::text_of(frame).unwrap_or_default()),
                b'P' => self.core.remember_write(Parse::read(body).map_or(&[][..], |parse| parse.text)),
                b'B' => self.remember_bound_write(Bind::read(body).map_or(&[][..], |bind| bind.statement)),
                _ => {}
            }
        }
    }

    fn remember_bound_write(&mut self, name: &[u8]) {
        let Some(mut names) = self.names.take() else { return };
        if let Some(statement) = names.find(name).cloned() {
            self.core.remember_write(statement.text());
            let verdict = self.examine(statement.text());
            names.insert(name, self.core.shared.statements.judged(&statement, verdict));
        } else if name.is_empty() && names.unnamed_verdict.is_some() {
            self.core.remember_write(names.unnamed_text());
            names.unnamed_verdict = Some(self.examine(names.unnamed_text()));
        }
        self.names = Some(names);
    }

    /// The replica's refusal has been read to its end: the request runs on the primary.
    pub(super) fn reroute(&mut self, mut backend: Box<Backend>) {
        let is_refused = !self.flags.heals;
        if is_refused {
            self.remember_write(&backend.retained);
        }
        self.rerun(&mut backend, is_refused);
        self.unlink(&backend);
        self.core.give_back(&self.pool, backend);
    }

    /// The server connection ended under a session. Goes on if the client can be told what became of its request, or
    /// once it is known.
    pub(super) fn server_lost(&mut self, mut backend: Box<Backend>, why: Trouble) -> Result<Option<Stage>, End> {
        let node = backend.entry.node;
        let reason = why.reason();
        self.core.suspect(&self.pool, node, &reason);
        tracing::info!(
            client_id = self.me.id,
            server = %self.core.node_name(&self.pool, node),
            database = %self.me.database,
            reason,
            "a server connection was lost in use"
        );
        let was_undecided = self.flags.undecided || self.flags.rerun;
        let is_to_run = was_undecided || self.has_never_run(&backend, &why);
        if is_to_run && self.rare.reruns < 3 && !backend.retained.is_empty() {
            self.rerun(&mut backend, false);
            self.drop_backend(backend);
            return Ok(None);
        }
        self.output.truncate(if was_undecided { self.rare.held_from } else { self.output.len() });
        if self.flags.hold && self.flags.asks && backend.track.is_free() && !self.is_bound() {
            // What it has asked for waits here and was not sent: it goes to another connection.
            self.drop_backend(backend);
            return Ok(None);
        }
        let is_cut = backend.left > 0 && !was_undecided || self.left > 0;
        if let Some(wait) = self.in_doubt(&backend, &why).filter(|_| !is_cut) {
            self.drop_backend(backend);
            return Ok(Some(Stage::InDoubt(self.await_outcome(wait))));
        }
        let in_block = backend.track.status != b'I';
        let is_idle = (backend.track.is_quiet() || backend.track.is_only_asked()) && !self.flags.unsynced;
        // Its COMMIT waits here and was not sent.
        let is_held = is_idle && self.flags.hold && matches!(backend.asked, Asked::Sent { .. });
        let owed = backend.track.owed_readies();
        // A COPY of the extended protocol has swallowed the Sync that came with it.
        let is_synced = owed == 0 && !self.flags.unsynced && !backend.track.is_copying_in();
        let committing = self.flags.committing;
        let is_told = !matches!(backend.asked, Asked::Sent { .. });
        let changed_nothing = self.core.resolves && committing && is_told && !self.flags.stirred;
        let wrote = self.flags.wrote && !(self.flags.unexamined && self.is_read_after_all(&backend));
        // What it has left there was about to be known.
        let was_bound = self.is_bound() || self.is_looking();
        self.drop_backend(backend);
        let closes = self.core.config.borrow().postgres.failover.txn_loss_close;
        let trouble = if (in_block && !committing) || (is_idle && was_bound) {
            if is_held && was_bound {
                return Err(End::Trouble(Box::new(Trouble::TransactionToRepeat(reason))));
            }
            let is_over = (closes || was_bound) && !is_held;
            // A COMMIT may be on its way to us. Its client would take words that come before it for no answer to it.
            let is_told_later = !is_over || self.core.resolves && in_block;
            if is_idle && is_told_later {
                // The client has asked nothing yet: it is told when it does.
                let tell = if is_over { Trouble::TransactionLost } else { Trouble::TransactionToRepeat };
                self.rare.owed = Some(Box::new(tell(reason)));
                self.start_over();
                return Ok(None);
            }
            if is_over {
                return Err(End::Trouble(Box::new(Trouble::TransactionLost(reason))));
            }
            Trouble::TransactionToRepeat(reason)
        } else if changed_nothing {
            Trouble::TransactionToRepeat(reason)
        } else if committing || wrote {
            Trouble::OutcomeUnknown(reason)
        } else {
            Trouble::ReadLost(reason)
        };
        if is_cut || was_bound {
            return Err(End::Trouble(Box::new(trouble)));
        }
        add(&self.pool.stats.errors, 1);
        // Each request that was sent ahead has its own end.
        for _ in 0..owed + usize::from(is_synced) {
            write_error(&mut self.output, &trouble.as_error());
            build::ready_for_query(&mut self.output, transaction_status(b'I'));
        }
        if !is_synced && (owed == 0 || self.flags.unsynced) {
            write_error(&mut self.output, &trouble.as_error());
            self.flags.skip_to_sync = true;
        }
        self.start_over();
        if wrote || committing {
            self.wrote_at = self.core.read_clock();
        }
        Ok(None)
    }

    /// The server had closed the connection before it could read the request: it says so only while it waits for one.
    fn has_never_run(&self, backend: &Backend, why: &Trouble) -> bool {
        let was_idle = matches!(why, Trouble::ServerEnded { code, .. } if code == "57P05");
        let is_whole = self.left == 0 && !self.flags.unsynced && backend.track.owed_readies() == 1;
        was_idle && is_whole && backend.track.status == b'I' && !self.is_bound()
    }

    /// Examines the statement whose answer was lost and which nobody examined before.
    pub(super) fn is_read_after_all(&self, backend: &Backend) -> bool {
        let text = match head(&backend.retained) {
            Head::Frame { kind: b'Q', len } => backend.retained.get(..len).and_then(super::request::text_of),
            _ => self.names.as_ref().map(|names| names.unnamed_text()),
        };
        text.is_some_and(|text| self.examine(text).access == Access::Read)
    }

    /// The session is outside a transaction, whatever it was in before.
    pub(super) fn start_over(&mut self) {
        if let Some(before) = self.before_tx.take() {
            self.settings = before;
        }
        self.rare.actual = None;
        self.rare.bound = None;
        self.flags.unsynced = false;
        self.flags.undecided = false;
        self.flags.rerun = false;
        self.flags.wrote = false;
        self.flags.committing = false;
        self.flags.rolled_back = false;
        self.flags.dirty = false;
        self.flags.stirred = false;
        self.forget_looks();
        if let Some(route) = self.rare.route_local.take() {
            self.rare.route = route;
        }
    }

    /// Answers the request at the front of `input` with an error instead of running it.
    pub(super) fn refuse(&mut self, trouble: Trouble) -> Result<(), End> {
        add(&self.pool.stats.errors, 1);
        if self.core.queries.traces() {
            self.trace_refused(&trouble);
        }
        write_error(&mut self.output, &trouble.as_error());
        match head(&self.input) {
            Head::Frame { kind: b'Q' | b'F', len } => {
                self.discard = len;
                build::ready_for_query(&mut self.output, transaction_status(b'I'));
            }
            _ => self.flags.skip_to_sync = true,
        }
        self.want = 0;
        self.planned = None;
        Ok(())
    }

    /// The end of the session: last words, then the socket closes with the struct.
    pub(super) async fn leave(mut self: Box<Self>, end: End) {
        let trouble = match end {
            End::Trouble(trouble) | End::ServerLost(trouble) => self.forget_kept(trouble),
            End::InDoubt(wait) => Box::new(Trouble::OutcomeUnknown(wait.why)),
            End::Terminated | End::ClientGone | End::Rerun | End::Adjust | End::Travels => return,
        };
        if matches!(*trouble, Trouble::Protocol(_) | Trouble::TooLong) {
            tracing::warn!(
                client_id = self.me.id,
                peer = %self.me.peer,
                database = %self.me.database,
                user = %self.me.user,
                error = %crate::wire::pg::sqlstate::ToClient::message(&*trouble),
                "a client was closed for what it sent"
            );
        }
        let mut words = std::mem::take(&mut self.output);
        write_error(&mut words, &*trouble);
        let wheel = Rc::clone(&self.core.wheel);
        // A COMMIT that nobody has read would have the words thrown away by the client's system.
        let is_heard = self.core.resolves && matches!(*trouble, Trouble::TransactionLost(_));
        let _ = wheel
            .timeout(Some(LAST_WORDS), async {
                self.stream.write_all(&words).await?;
                if is_heard { self.stream.close().await } else { Ok(()) }
            })
            .await;
    }
}

impl Core {
    /// A connection whose use is over: into the pool, or cleaned first, or closed.
    #[inline]
    pub fn give_back(self: &Rc<Self>, pool: &Rc<PgPool>, mut backend: Box<Backend>) {
        if backend.entry.cancels.get() > 0 {
            return self.spawn_after_cancels(pool, backend);
        }
        if !backend.is_clean() {
            self.close(pool, backend);
            return self.open_wanted(pool);
        }
        if backend.is_dirty {
            return clean(self, pool, backend);
        }
        if backend.entry.close_needed.get() || self.now() > backend.expires {
            self.close(pool, backend);
            return self.open_wanted(pool);
        }
        backend.retained.clear();
        self.put(pool, backend);
    }

    /// Gives a clean connection to the longest waiter, or keeps it idle.
    #[inline]
    pub fn put(self: &Rc<Self>, pool: &Rc<PgPool>, backend: Box<Backend>) {
        backend.entry.state.set(ServerState::Idle);
        let now = self.now();
        backend.entry.since.set(now);
        let backend = if pool.shared.homes.len() > 1 {
            match self.give_to_starving(pool, backend) {
                Some(backend) => backend,
                None => return,
            }
        } else {
            backend
        };
        let put = pool.state.borrow_mut().put(backend, now);
        if let Put::Close(backend) = put {
            self.forget(&backend);
        }
    }

    /// Until cancel requests on their way have ended, the connection could still be interrupted: it serves nobody.
    fn spawn_after_cancels(self: &Rc<Self>, pool: &Rc<PgPool>, backend: Box<Backend>) {
        let (core, pool) = (Rc::clone(self), Rc::clone(pool));
        backend.entry.state.set(ServerState::BeingCanceled);
        tokio::task::spawn_local(async move {
            cancel::settled(&backend.entry).await;
            core.give_back(&pool, backend);
        });
    }
}

/// Rolls back and undoes what a session left, then gives the connection back.
fn clean(core: &Rc<Core>, pool: &Rc<PgPool>, mut backend: Box<Backend>) {
    let (core, pool) = (Rc::clone(core), Rc::clone(pool));
    backend.entry.state.set(ServerState::Tested);
    backend.entry.client.set(0);
    tokio::task::spawn_local(async move {
        let work = async {
            if backend.track.is_only_asked() {
                control::finish(&mut backend).await?;
            }
            if backend.track.status != b'I' {
                control::run(&mut backend, "ROLLBACK").await?;
            }
            if backend.is_dirty {
                control::run(&mut backend, "DISCARD ALL").await?;
                backend.taught.clear();
                backend.entry.prepared.set(0);
                backend.settings = Default::default();
            }
            Ok::<_, control::Failure>(())
        };
        match core.wheel.timeout(Some(CLEANING), work).await {
            Ok(Ok(())) => {
                backend.is_dirty = false;
                core.give_back(&pool, backend);
            }
            failed => {
                tracing::debug!(server_id = backend.entry.id, ?failed, "a connection could not be cleaned");
                core.close(&pool, backend);
                core.open_wanted(&pool);
            }
        }
    });
}
