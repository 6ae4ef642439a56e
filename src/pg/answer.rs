//! From the server to its client: message heads are matched with the ring, a few bodies are opened, and everything
//! that the client may see goes on in one piece.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use rustc_hash::FxHasher;

use super::backend::Backend;
use super::doubt::Asked;
use super::errors::{End, Trouble};
use super::fresh::{self, READ_AFTER};
use super::listen::Change;
use super::look;
use super::pool::Welcome;
use super::session::Session;
use super::settings::{Settings, Value};
use super::stats::add;
use super::track::{Expect, Op, Turn};
use crate::config::model::{ListenRoute, PoolMode};
use crate::wire::pg::build;
use crate::wire::pg::frame::{Head, head, server_head};
use crate::wire::pg::message::{self, Fields};
use crate::wire::pg::sqlstate::write_error;

/// The server has stopped waiting for its synchronous standbys (`SyncRepWaitForLSN`, because it was cancelled or ended)
/// and is about to say that the commit went well, which a failover may prove wrong.
fn is_false_acknowledgement(body: &[u8]) -> bool {
    Fields::read("NoticeResponse", body).is_ok_and(|fields| fields.find(b'R') == Some(b"SyncRepWaitForLSN".as_slice()))
}

/// A message whose body is opened may be this long; a longer one passes unread.
const LONGEST_OPENED: usize = 32 * 1024;

impl Session {
    /// Deals with bytes from the server: `bytes` begins with what `partial` had, `fresh` of them are new.
    /// True when the connection is free.
    pub(super) fn answer(&mut self, backend: &mut Backend, bytes: &[u8], fresh: usize) -> Result<bool, End> {
        add(&self.pool.stats.sent, fresh as u64);
        if let Some(tag) = self.plain_answer(backend, bytes) {
            if self.flags.undecided {
                self.decide(backend);
            }
            self.completed(backend, tag);
            let status = bytes.last().copied().unwrap_or(b'I');
            self.ready(backend, &[status]);
            self.deliver(bytes, 0, bytes.len())?;
            if self.flags.stirred {
                self.ask(backend);
            }
            return Ok(self.is_released(backend));
        }
        self.answer_by_message(backend, bytes)
    }

    /// Apart, for what it needs of the stack costs the plain answers, too.
    #[inline(never)]
    fn answer_by_message(&mut self, backend: &mut Backend, bytes: &[u8]) -> Result<bool, End> {
        let mut at = backend.left.min(bytes.len());
        backend.left -= at;
        // Start of the bytes that go to the client as they are.
        let mut run = 0;
        if at > 0 && self.flags.wrote {
            // The answer may be taken back from its last whole message on.
            self.pass(bytes, 0, at);
            run = at;
        }
        let mut is_free = false;
        // Until its ReadyForQuery, whatever was said before: that may come alone.
        let is_asked = self.core.resolves || self.is_looking();
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if backend.track.has_local_front() {
                self.pass(bytes, run, at);
                run = at;
                self.say_local(backend);
            }
            let (kind, len) = match server_head(rest) {
                Head::Need => break,
                Head::Bad(_) => return Err(End::ServerLost(Box::new(Trouble::ServerNonsense))),
                Head::Frame { kind, len } => (kind, len),
            };
            let is_told = is_asked && backend.track.is_asked() && !matches!(kind, b'N' | b'S' | b'A');
            let Some(frame) = rest.get(..len) else {
                if is_told || self.must_be_whole(kind, len) {
                    break;
                }
                self.take_cut_message(backend, kind);
                if self.flags.rerun {
                    run = bytes.len();
                }
                backend.left = len - rest.len();
                at = bytes.len();
                break;
            };
            if is_told {
                self.pass(bytes, run, at);
                self.take_told(backend, kind, frame.get(5..).unwrap_or_default())?;
                at += len;
                run = at;
                if kind == b'Z' {
                    is_free = self.is_released(backend);
                }
                continue;
            }
            if kind == b'D' && !self.flags.undecided && !self.flags.rerun {
                at += len;
                continue;
            }
            let turn = match self.take_message(backend, kind, frame) {
                Ok(turn) => turn,
                Err(end) => {
                    // What came before it goes to the client in any case.
                    self.pass(bytes, run, at);
                    if is_free && !self.flags.rerun {
                        // The answer was complete: what follows is between us and the server, which has ended.
                        backend.partial.extend_from_slice(rest);
                        return Ok(true);
                    }
                    return Err(end);
                }
            };
            if turn == Turn::Swallow || self.flags.rerun {
                self.pass(bytes, run, at);
                run = at + len;
                if let Some(instead) = backend.instead.take().filter(|_| !self.flags.rerun) {
                    self.output.extend_from_slice(&instead);
                }
            }
            at += len;
            if kind == b'Z' {
                is_free = self.is_released(backend);
            }
        }
        if let Some(partial) = bytes.get(at..).filter(|p| !p.is_empty()) {
            backend.partial.extend_from_slice(partial);
        }
        self.deliver(bytes, run, at)?;
        if backend.track.has_local_front() {
            self.say_local(backend);
        }
        if self.flags.rerun && is_free {
            return Err(End::Rerun);
        }
        if self.flags.stirred {
            self.ask(backend);
        }
        Ok(is_free)
    }

    /// The commonest answer: rows, the tag of one statement that means nothing more, ReadyForQuery, to a lone query and
    /// all at once. Returns the tag. `None`: it has to be looked at message by message.
    #[inline]
    fn plain_answer<'a>(&self, backend: &Backend, bytes: &'a [u8]) -> Option<&'a [u8]> {
        if self.flags.rerun || backend.left > 0 || !backend.track.is_lone() {
            return None;
        }
        let mut rest = bytes;
        let mut tag = None;
        loop {
            let Head::Frame { kind, len } = server_head(rest) else { return None };
            let (frame, after) = rest.split_at_checked(len)?;
            match kind {
                b'T' | b'D' | b'1' | b'2' | b'n' => {}
                b'C' if tag.is_none() => {
                    let body = frame.get(5..len - 1)?;
                    // ROLLBACK, DEALLOCATE and DISCARD are more than a tag.
                    if matches!(body, [b'R', ..] | [b'D', b'E' | b'I', b'A' | b'S', ..]) {
                        return None;
                    }
                    tag = Some(body);
                }
                b'Z' => return tag.filter(|_| after.is_empty()),
                _ => return None,
            }
            rest = after;
        }
    }

    /// A statement has ended with this tag.
    #[inline]
    fn completed(&mut self, backend: &Backend, tag: &[u8]) {
        self.pool.stats.count_on(backend.entry.node, |n| n.completed(tag));
        if self.flags.watching {
            self.watch_completed(backend, tag);
        }
        if self.flags.wrote && self.core.is_bounded.get() {
            self.note_written(tag);
        }
    }

    /// One whole message of the server.
    #[inline]
    fn take_message(&mut self, backend: &mut Backend, kind: u8, frame: &[u8]) -> Result<Turn, End> {
        let body = frame.get(5..).unwrap_or_default();
        if self.flags.undecided && matches!(kind, b'D' | b'C' | b'I' | b's' | b'G' | b'H' | b'W' | b'Z' | b'V') {
            self.decide(backend);
        }
        match kind {
            b'D' | b'd' | b'c' | b'V' | b't' | b'H' | b'W' => {}
            b'A' if self.hears_elsewhere(body) => return Ok(Turn::Swallow),
            b'A' => {}
            b'N' if is_false_acknowledgement(body) => {
                return Err(End::ServerLost(Box::new(Trouble::NotReplicated)));
            }
            b'N' => {}
            b'C' => {
                let tag = body.split_last().map_or(body, |(_, tag)| tag);
                let op = backend.track.executed();
                self.completed(backend, tag);
                if tag == b"ROLLBACK" {
                    if let Some(error) = self.own_failure(backend) {
                        backend.instead = Some(error);
                        return Ok(Turn::Swallow);
                    }
                    // Outside of a transaction it takes nothing back.
                    self.flags.rolled_back = self.before_tx.is_some() || self.changes_listening();
                } else if self.core.resolves && tag == b"COMMIT" {
                    // Another transaction may begin in the same message.
                    backend.asked = Asked::No;
                } else if let [b'D', b'E' | b'I', ..] = tag {
                    forget_taught(backend, tag);
                    if tag == b"DEALLOCATE ALL" {
                        self.apply(backend, Op::Deallocate(None));
                    }
                }
                if let Some(op) = op {
                    let is_listen = matches!(*op, Op::Listen(Change::Listen(_)));
                    self.apply(backend, *op);
                    if is_listen {
                        let mut told = Vec::new();
                        build::command_complete(&mut told, "LISTEN");
                        backend.instead = Some(told);
                        return Ok(Turn::Swallow);
                    }
                }
            }
            b's' | b'I' => {
                if self.flags.watching {
                    self.watch_completed(backend, b"");
                }
                if let Some(op) = backend.track.executed() {
                    self.apply(backend, *op);
                }
            }
            b'Z' => self.ready(backend, body),
            b'1' => return Ok(backend.track.parse_complete()),
            b'2' => {
                self.flags.heals = false;
                backend.track.bind_complete();
            }
            b'3' => return Ok(backend.track.close_complete()),
            b'T' | b'n' => backend.track.described(),
            b'E' => return self.failed(backend, body),
            b'S' => return Ok(self.parameter(backend, body)),
            b'G' => backend.track.copy_in(),
            // Nothing of a login can come after it.
            b'R' | b'K' | b'v' => return Err(End::ServerLost(Box::new(Trouble::ServerNonsense))),
            _ => {}
        }
        Ok(Turn::Pass)
    }

    /// True for a message that is opened, so that its end has to be there.
    fn must_be_whole(&self, kind: u8, len: usize) -> bool {
        !matches!(kind, b'D' | b'd' | b'V' | b'T' | b't') && len <= LONGEST_OPENED
    }

    /// A message that goes on before its end is there: only the ring must know.
    fn take_cut_message(&mut self, backend: &mut Backend, kind: u8) {
        if self.flags.undecided && !matches!(kind, b'T' | b't') {
            self.decide(backend);
        }
        match kind {
            b'T' => backend.track.described(),
            b'E' => {
                let rolled_back = &mut self.flags.rolled_back;
                *rolled_back = true;
                backend.track.failed(|_| ());
                backend.is_dirty = true;
            }
            b'C' => {
                let _ = backend.track.executed();
            }
            _ => {}
        }
    }

    /// `Z`
    #[inline]
    fn ready(&mut self, backend: &mut Backend, body: &[u8]) {
        let status = body.first().copied().unwrap_or(b'I');
        let stats = &self.pool.stats;
        let now = self.core.read_clock();
        let took = now.saturating_sub(self.me.query_began.get());
        add(&stats.query_time, took);
        stats.query_times.add(took);
        self.me.query_began.set(now);
        if self.flags.watching {
            self.watch_ready(backend);
        }
        backend.track.ready(status);
        if backend.track.is_quiet() {
            self.flags.running = false;
            self.me.since.set(now);
        }
        if self.core.is_bounded.get() {
            self.count_answer(backend, now);
        }
        let stats = &self.pool.stats;
        if status == b'I' {
            let took = now.saturating_sub(self.me.tx_began.get());
            add(&stats.xact_time, took);
            stats.xact_times.add(took);
            self.me.tx_began.set(now);
            if self.rare.listening.is_some() {
                self.settle_listening(backend);
            }
            if self.flags.wrote {
                self.wrote_at = now;
                self.flags.wrote = !backend.track.is_quiet();
                self.flags.unexamined = false;
                if self.me.pin.get().is_some() {
                    self.look_now_and_then(now);
                }
            }
            self.flags.committing = false;
            if self.flags.reshaped {
                self.flags.reshaped = !backend.track.is_quiet();
                self.schema_changed();
            }
            if self.core.resolves {
                self.flags.stirred = false;
                backend.asked = Asked::No;
                backend.entry.doubt.set(None);
            }
            if self.before_tx.is_some() || self.rare.actual.is_some() || !Arc::ptr_eq(&backend.settings, &self.settings)
            {
                self.settle_settings(backend);
            }
            self.flags.rolled_back = false;
            if self.rare.route_local.is_some()
                && let Some(route) = self.rare.route_local.take()
            {
                self.rare.route = route;
            }
        } else if status == b'T' && (self.flags.rolled_back || self.flags.committing && !self.flags.running) {
            self.go_on();
        }
    }

    /// A transaction goes on: after a `ROLLBACK TO`, or as the next one of a chain.
    #[cold]
    fn go_on(&mut self) {
        if self.before_tx.is_some() {
            self.lose_track();
        }
        self.flags.rolled_back = false;
        self.flags.committing = false;
    }

    /// The transaction that changed settings is over: what holds now for the session and for its connection.
    #[cold]
    fn settle_settings(&mut self, backend: &mut Backend) {
        if let Some(before) = self.before_tx.take()
            && self.flags.rolled_back
        {
            self.settings = before;
            self.rare.actual = None;
        }
        backend.settings = self.rare.actual.take().unwrap_or_else(|| Arc::clone(&self.settings));
    }

    /// True if the connection may go back after this ReadyForQuery.
    #[inline]
    fn is_released(&mut self, backend: &mut Backend) -> bool {
        let is_free = backend.track.is_free() && !self.flags.unsynced && self.left == 0;
        is_free && !self.look(backend) && !self.is_bound()
    }

    /// True while the client keeps its connection between transactions.
    #[inline]
    pub(super) fn is_bound(&self) -> bool {
        self.me.pin.get().is_some() || self.rare.is_session
    }

    /// `E`
    fn failed(&mut self, backend: &mut Backend, body: &[u8]) -> Result<Turn, End> {
        let Ok(fields) = Fields::read("ErrorResponse", body) else {
            return Err(End::ServerLost(Box::new(Trouble::ServerNonsense)));
        };
        let code = fields.sqlstate().unwrap_or_default();
        if let Some(end) = self.fatal(backend, body) {
            return Err(end);
        }
        backend.entry.doubt.set(None);
        self.pool.stats.count_on(backend.entry.node, |n| add(&n.errors, 1));
        add(&self.pool.stats.errors, 1);
        if self.flags.undecided && is_standby_error(code, fields.message().unwrap_or_default()) {
            (self.flags.undecided, self.flags.heals) = (false, false);
            self.flags.rerun = true;
            self.output.truncate(self.rare.held_from);
        } else if self.flags.heals && is_stale_plan(code, fields.message().unwrap_or_default()) && self.renew(backend) {
            if std::mem::take(&mut self.flags.undecided) {
                self.output.truncate(self.rare.held_from);
            }
            self.flags.rerun = true;
        } else {
            if is_stale_plan(code, fields.message().unwrap_or_default()) {
                self.note_stale_plan(fields.message().unwrap_or_default());
            }
            if self.flags.undecided {
                self.decide(backend);
            }
        }
        if self.flags.watching && !self.flags.rerun {
            self.watch_failed(backend, code);
        }
        self.flags.rolled_back = true;
        let mut lost = Vec::new();
        backend.track.failed(|expect| lost.push(expect));
        if backend.track.has_more() && lost.iter().any(Expect::is_injected) {
            // What was sent ahead may teach and close the same statements.
            backend.taught.clear();
            backend.is_dirty = true;
        }
        // The last first, so that a name has in the end what it had before.
        for expect in lost.into_iter().rev() {
            self.undo(backend, expect);
        }
        if code == b"26000" && memchr::memmem::find(body, look::REFUSED).is_some() {
            let limit = self.pool.config.borrow().max_pinned;
            let mut refusal = Vec::new();
            write_error(&mut refusal, &Trouble::TooManyPinned(limit).as_error());
            backend.instead = Some(refusal);
            return Ok(Turn::Swallow);
        }
        if code == b"26000" {
            // A statement that we thought the connection knows is gone: something dropped it behind our back.
            backend.taught.clear();
            backend.is_dirty = true;
        }
        let instead = match code {
            b"26000" | b"42P05" => self.in_their_words(body),
            b"25006" => self.with_way_out(backend, body),
            _ => None,
        };
        if instead.is_some() {
            backend.instead = instead;
            return Ok(Turn::Swallow);
        }
        Ok(Turn::Pass)
    }

    /// A message has failed, or was skipped because one before it had.
    fn undo(&mut self, backend: &mut Backend, lost: Expect) {
        match lost {
            Expect::Parse { name, statement: Some(statement) } => {
                backend.taught.forget(statement.id);
                self.forget_name(&name);
            }
            Expect::ParseKnown(name) => self.forget_name(&name),
            Expect::Parse { name, .. } if name.is_empty() => {
                backend.unnamed_of = 0;
                if !backend.track.is_to_learn(0)
                    && let Some(names) = &mut self.names
                {
                    // If it was skipped, the server has the one before, which nobody remembers.
                    names.clear_unnamed();
                }
            }
            Expect::ParseInjected(0) => backend.unnamed_of = 0,
            Expect::ParseInjected(id) => backend.taught.forget(id),
            Expect::CloseKnown { name, statement } => {
                if let Some(names) = &mut self.names {
                    names.insert(&name, statement);
                    self.me.prepared.set(names.len());
                }
            }
            Expect::CloseInjected(Some(statement)) if !backend.is_dirty => backend.taught.restore(statement),
            Expect::CloseInjected(_) => backend.is_dirty = true,
            // Locks, prepared statements and the like outlive the error.
            Expect::Query(Some(op)) | Expect::Execute(Some(op)) if matches!(*op, Op::Pin(_)) => {
                self.look_after_failure();
            }
            _ => {}
        }
    }

    /// The client is told that a plan is stale: who parses from now on must not get that plan.
    #[cold]
    fn note_stale_plan(&self, message: &[u8]) {
        if self.flags.heals || has(message, b"cached plan") {
            self.schema_changed();
        }
    }

    /// What the request at hand binds was planned for other tables, by this client or another one: it is prepared anew
    /// under another number. False: the client is told, as it must be if it would read other columns than it expects.
    #[cold]
    fn renew(&mut self, backend: &Backend) -> bool {
        let is_whole = backend.track.owed().filter(|expect| matches!(expect, Expect::Sync)).count() == 1;
        if self.is_bound() || self.rare.reruns >= 3 || !is_whole || backend.track.status != b'I' {
            return false;
        }
        let scope = self.scope();
        let Some(names) = &mut self.names else { return false };
        let Some(outdated) = bound_in(&backend.retained, names.describes) else { return false };
        let mut is_renewed = false;
        for name in outdated {
            if let Some(statement) = names.find(name).cloned() {
                names.insert(name, self.core.shared.statements.renew(&statement, scope));
                is_renewed = true;
            }
        }
        is_renewed
    }

    /// The schema of the client's database may be another one.
    #[cold]
    fn schema_changed(&self) {
        let database = &self.pool.login.borrow().database;
        self.core.shared.statements.schema_changed(self.pool.cluster.get(), database);
    }

    /// What the meaning of a statement's text depends on: who looks up names, where, and when. A number of its own where
    /// that is a transaction which has changed something nobody else sees yet, or temporary tables.
    pub(super) fn scope(&self) -> u64 {
        let shared = &self.core.shared;
        let when = match self.flags.reshaped || self.me.pin.get() == Some(TEMPORARY) {
            true => shared.next_id() | 1 << 63,
            false => shared.statements.schema(self.pool.cluster.get(), &self.pool.login.borrow().database),
        };
        let mut hasher = FxHasher::default();
        (self.settings.scope(), when).hash(&mut hasher);
        hasher.finish()
    }

    fn forget_name(&mut self, name: &[u8]) {
        if let Some(names) = &mut self.names {
            names.remove(name);
            self.me.prepared.set(names.len());
        }
    }

    /// An ErrorResponse about a statement that the server knows by our name, with the client's name for it.
    fn in_their_words(&self, body: &[u8]) -> Option<Vec<u8>> {
        let at = memchr::memmem::find(body, b"\"fb_")?;
        let (before, rest) = body.split_at_checked(at + 1)?;
        let end = memchr::memchr(b'"', rest)?;
        let (ours, after) = rest.split_at_checked(end)?;
        let id: u64 = std::str::from_utf8(ours.get(3..)?).ok()?.parse().ok()?;
        let name = self.names.as_ref()?.name_of(id)?;
        let length = u32::try_from(4 + before.len() + name.len() + after.len()).ok()?;
        Some([b"E", &length.to_be_bytes()[..], before, name, after].concat())
    }

    /// `S`
    fn parameter(&mut self, backend: &mut Backend, body: &[u8]) -> Turn {
        let Ok((name, value)) = message::parameter_status(body) else { return Turn::Pass };
        match name {
            b"in_hot_standby" => {
                backend.is_standby = value == b"on";
                return Turn::Swallow;
            }
            b"application_name" => {
                *self.me.application_name.borrow_mut() = String::from_utf8_lossy(value).into_owned();
            }
            _ => {}
        }
        Turn::Pass
    }

    /// The answer has begun for good: it goes to the client, and the request cannot run elsewhere any more.
    #[inline]
    fn decide(&mut self, backend: &mut Backend) {
        self.flags.undecided = false;
        backend.retained.clear();
        if backend.retained.capacity() > 4096 {
            backend.retained = Vec::new();
        }
    }

    /// Puts bytes into the client's buffer, unless the request is going to run elsewhere.
    fn pass(&mut self, bytes: &[u8], from: usize, to: usize) {
        if !self.flags.rerun
            && let Some(bytes) = bytes.get(from..to)
        {
            self.output.extend_from_slice(bytes);
        }
    }

    /// Sends bytes to the client, as many as its socket takes; the rest is kept.
    #[inline]
    fn deliver(&mut self, bytes: &[u8], from: usize, to: usize) -> Result<(), End> {
        let bytes = bytes.get(from..to).unwrap_or_default();
        if self.flags.rerun || bytes.is_empty() {
            return Ok(());
        }
        if !self.output.is_empty() || self.flags.undecided || self.is_kept_back() {
            self.output.extend_from_slice(bytes);
            return Ok(());
        }
        match self.stream.try_write(bytes) {
            Ok(n) => {
                if let Some(rest) = bytes.get(n..).filter(|rest| !rest.is_empty()) {
                    self.output.extend_from_slice(rest);
                }
                Ok(())
            }
            Err(_) => Err(End::ClientGone),
        }
    }

    /// Says what the server was not asked, when its turn in the ring has come.
    pub(super) fn say_local(&mut self, backend: &mut Backend) {
        while let Some(expect) = backend.track.pop_local() {
            match expect {
                Expect::ParseKnown(_) => build::parse_complete(&mut self.output),
                Expect::CloseKnown { .. } => build::close_complete(&mut self.output),
                _ => {}
            }
        }
    }

    /// A statement that means something for the session has succeeded.
    fn apply(&mut self, backend: &mut Backend, op: Op) {
        if self.flags.rolled_back && matches!(op, Op::Set(..) | Op::Reset(_)) {
            // Made after a ROLLBACK in the same batch: it holds, what was made before it does not.
            self.lose_track();
        }
        match op {
            Op::Set(setting, _) if setting.name == READ_AFTER => {
                self.rare.read_after =
                    fresh::position(setting.value.as_deref().unwrap_or_default()).ok().flatten().map(Box::new);
            }
            Op::Reset(Some(name)) if name == READ_AFTER => self.rare.read_after = None,
            Op::Set(setting, text) if setting.name == "forebay.route" => {
                self.rare.route = match setting.value.as_deref() {
                    Some("primary") => ListenRoute::Primary,
                    Some("replica") => ListenRoute::Replica,
                    _ => ListenRoute::Auto,
                };
                drop(text);
            }
            Op::Set(setting, text) => {
                self.before_tx.get_or_insert_with(|| Arc::clone(&self.settings));
                if let Some(actual) = self.rare.actual.take() {
                    self.rare.actual = Some(actual.with(&setting.name, Value::Statement(text.clone())));
                }
                self.settings = self.settings.with(&setting.name, Value::Statement(text));
            }
            Op::Reset(name) => {
                self.before_tx.get_or_insert_with(|| Arc::clone(&self.settings));
                // The server goes back to its own defaults, the session to what it started with.
                let actual = self.rare.actual.take().unwrap_or_else(|| Arc::clone(&self.settings));
                match name {
                    Some(name) => {
                        self.settings = self.settings.reset(&name, &self.start);
                        self.rare.actual = Some(actual.without(&name));
                    }
                    None => {
                        self.rare.actual = Some(Arc::<Settings>::default().with_rights_of(&self.settings));
                        self.settings = self.start.with_rights_of(&self.settings);
                    }
                }
            }
            Op::DiscardAll => {
                backend.taught.clear();
                backend.entry.prepared.set(0);
                backend.unnamed_of = 0;
                if let Some(names) = &mut self.names {
                    names.clear();
                }
                self.me.prepared.set(0);
                self.settings = Arc::clone(&self.start);
                self.rare.actual = Some(Arc::default());
                if self.rare.listening.is_some() {
                    self.change_listening(Change::Unlisten(None));
                }
                if !self.rare.is_session {
                    self.set_pin(self.is_seeded().then_some("setseed"));
                }
                self.flags.dirty = self.is_seeded();
            }
            Op::Deallocate(None) => {
                if let Some(names) = &mut self.names {
                    names.clear();
                }
                self.me.prepared.set(0);
            }
            Op::Deallocate(Some(name)) => {
                if let Some(statement) = self.names.as_ref().and_then(|n| n.find(name.as_bytes())) {
                    backend.taught.forget(statement.id);
                }
                if let Some(names) = &mut self.names {
                    names.remove(name.as_bytes());
                    self.me.prepared.set(names.len());
                }
            }
            Op::Pin(effects) => {
                self.flags.dirty = true;
                if effects.contains(crate::sql::Effects::SEED) {
                    self.looks().is_seeded = true;
                }
                self.set_pin(Some(reason(effects)));
            }
            Op::Listen(change) => self.change_listening(change),
            Op::Savepoint => {
                if self.before_tx.is_some() {
                    self.lose_track();
                }
            }
        }
        if self.rare.is_session || self.pool.config.borrow().mode == PoolMode::Session {
            self.flags.dirty = true;
        }
    }
}

/// `DEALLOCATE ALL` and `DISCARD ALL` take every statement of the connection, by whatever name it was prepared.
fn forget_taught(backend: &mut Backend, tag: &[u8]) {
    if tag == b"DEALLOCATE ALL" || tag == b"DISCARD ALL" {
        backend.taught.clear();
        backend.entry.prepared.set(0);
        backend.unnamed_of = 0;
    }
}

/// See [`reason`].
const TEMPORARY: &str = "temporary table";

/// Why a client is pinned, in a word for `SHOW PINS`.
fn reason(effects: crate::sql::Effects) -> &'static str {
    use crate::sql::Effects;
    const REASONS: [(Effects, &str); 6] = [
        (Effects::TEMP, TEMPORARY),
        (Effects::LISTEN, "listen"),
        (Effects::ADVISORY_LOCK, "advisory lock"),
        (Effects::WITH_HOLD, "cursor with hold"),
        (Effects::SQL_PREPARE, "prepare"),
        (Effects::SEED, "setseed"),
    ];
    REASONS.iter().find(|(e, _)| effects.contains(*e)).map_or("session state", |(_, r)| r)
}

/// Errors that say "a standby cannot do this": the primary can.
fn is_standby_error(code: &[u8], message: &[u8]) -> bool {
    match code {
        b"25006" => true,
        // "recovery is in progress", "cannot use serializable mode in a hot standby"
        b"55000" | b"0A000" => has(message, b"recovery") || has(message, b"standby"),
        // "canceling statement due to conflict with recovery"
        b"40001" => has(message, b"recovery"),
        b"40P01" => has(message, b"recovery"),
        _ => false,
    }
}

/// The statements that a batch binds. `None` if it cannot be read, or does not ask for the columns of each where it must.
fn bound_in(batch: &[u8], must_describe: bool) -> Option<Vec<&[u8]>> {
    let (mut rest, mut bound, mut is_described) = (batch, Vec::new(), true);
    while let Head::Frame { kind, len } = head(rest) {
        let (frame, after) = rest.split_at_checked(len)?;
        let body = frame.get(5..).unwrap_or_default();
        match kind {
            b'B' if must_describe && !is_described => return None,
            b'B' => {
                bound.push(message::Bind::read(body).ok()?.statement);
                is_described = false;
            }
            b'D' => is_described |= body.first() == Some(&b'P'),
            _ => {}
        }
        rest = after;
    }
    (is_described || !must_describe).then_some(bound)
}

/// "cached plan must not change result type", in any language: nothing else that a Bind does fails so.
fn is_stale_plan(code: &[u8], message: &[u8]) -> bool {
    code == b"0A000" && !has(message, b"recovery") && !has(message, b"standby")
}

fn has(text: &[u8], word: &[u8]) -> bool {
    memchr::memmem::find(text, word).is_some()
}

impl Welcome {
    /// Remembers a parameter as a server reported it.
    pub fn learn(&mut self, name: &[u8], value: &[u8]) {
        let name = String::from_utf8_lossy(name).into_owned();
        let value = String::from_utf8_lossy(value).into_owned();
        match self.params.iter_mut().find(|(n, _)| *n == name) {
            Some(entry) => entry.1 = value,
            None => self.params.push((name, value)),
        }
    }
}
