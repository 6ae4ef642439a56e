//! One request: where it has to go.

use std::rc::Rc;

use super::errors::Trouble;
use super::lane::{EntryKind, Kind, Lane};
use super::own::{OwnState, What};
use super::session::{ReplyMode, Session, Wait};
use super::usage::{LARGE, Ran};
use super::verbs::redirects_tracking;
use crate::config::model::RedisReads;
use crate::wire::resp::command::{Access, Command, Path, Verb};
use crate::wire::resp::{Request, words};
use crate::worker::clock::now_ns;

/// GET without a key.
const REFUSED_AT_ONCE: &[u8] = b"*1\r\n$3\r\nGET\r\n";

/// Replies that wait for a client that has not logged in before its next request has to, bytes; Redis closes it then.
const STRANGERS_OUTPUT: usize = 1024;

/// What became of a request.
#[derive(Debug)]
pub(super) enum Taken {
    /// It is on its way, or answered.
    Done,
    /// Nothing was done: it has to be shown again.
    Wait(Wait),
}

impl Session {
    /// The commonest case: a request that goes where the last one went. `run` requests are about to go there.
    #[inline]
    pub(super) fn is_quick(&mut self, frame: &[u8], request: &Request, run: u32) -> bool {
        if self.lane_version != self.service.version.get()
            || self.transaction.is_some()
            || self.reply != ReplyMode::On
            || !matches!(self.own, OwnState::None)
            || self.client.heavy.get() > 0
        {
            return false;
        }
        let Some(lane) = &self.lane else { return false };
        if !lane.is_open() || lane.is_full() {
            return false;
        }
        let name = request.word(0).and_then(|word| word.of(frame)).unwrap_or_default();
        let second = request.word(1).and_then(|word| word.of(frame));
        let Some((place, command)) = self.table.commands().judge_at(name, second) else {
            return false;
        };
        let goes_on = run > 0 || self.client.in_flight.get() > 0;
        let fits_kind = match command.path {
            Path::Lane => lane.key.kind == Kind::Quick || goes_on,
            Path::Slow => lane.key.kind == Kind::Slow,
            _ => return false,
        };
        let fits_node = match command.access {
            Access::Read => lane.is_primary && self.reads_primary || goes_on,
            Access::Pinned => lane.is_primary,
            Access::Write => {
                self.has_written = true;
                self.replicated = None;
                lane.is_primary
            }
        };
        if !fits_kind || !fits_node || command.is_admin {
            return false;
        }
        self.table.count(place, Ran::shared(lane.is_primary));
        if frame.len() as u64 >= LARGE {
            self.service.usage.look(false, place, frame, lane.key.db);
        }
        true
    }

    /// Any request.
    pub(super) fn take(&mut self, frame: &[u8], request: &Request) -> Taken {
        let table = self.service.usage.table();
        let name = request.word(0).and_then(|word| word.of(frame)).unwrap_or_default();
        let found = table.commands().judge_at(name, request.word(1).and_then(|word| word.of(frame)));
        self.command = found.map_or(table.others(), |(place, _)| place);
        let command = found.map(|(_, command)| command);
        let is_stranger = self.client.login.borrow().is_none();
        if is_stranger && self.client.waiting_output() > STRANGERS_OUTPUT {
            return Taken::Wait(Wait::Output);
        }
        if is_stranger && !command.is_some_and(is_for_strangers) {
            let trouble = match command {
                None => self.unknown(frame),
                Some(command) if command.path == Path::Session(Verb::Exec) => Trouble::ExecNoAuth,
                Some(command) if !command.arity_fits(request.words as usize) => {
                    Trouble::Arity(command.name.to_string())
                }
                Some(_) => Trouble::NoAuth,
            };
            return self.answer(&trouble);
        }
        if let Some(command) = command.filter(|command| command.is_admin && !self.may_administrate(command)) {
            return self.refuse(&Trouble::Admin(command.name.to_string()));
        }
        if command.is_some_and(|command| command.path == Path::Session(Verb::Client)) && redirects_tracking(frame) {
            let trouble = Trouble::Err(
                "CLIENT TRACKING cannot REDIRECT here; after HELLO 3 what changes is told on the same connection",
            );
            return self.refuse(&trouble);
        }
        if self.transaction.is_some() {
            return self.collect(frame, request, command);
        }
        if !matches!(self.own, OwnState::None) {
            return self.take_own(frame, request, command);
        }
        let Some(command) = command else { return self.send_own(frame, What::Unknown) };
        match command.path {
            Path::Lane => self.send_shared(frame, command.access, Kind::Quick),
            Path::Slow => self.send_shared(frame, command.access, Kind::Slow),
            Path::MayBlock if !command.is_blocking_now(words(frame).skip(1)) => {
                self.send_shared(frame, command.access, Kind::Quick)
            }
            Path::MayBlock | Path::Block => {
                self.note_command(command);
                self.send_own(frame, What::Block { may_rerun: command.access == Access::Read })
            }
            Path::Own => {
                self.note_command(command);
                self.send_own(frame, What::Unknown)
            }
            Path::Session(verb) => self.obey(verb, frame, request, command),
        }
    }

    fn may_administrate(&self, command: &Command) -> bool {
        let login = self.client.login.borrow();
        login.as_ref().is_some_and(|login| self.service.may_run(&login.user, &command.name))
    }

    /// Refuses a request, and any transaction that it would be part of.
    pub(super) fn refuse(&mut self, trouble: &Trouble) -> Taken {
        if self.transaction.is_some() {
            return self.spoil_transaction(trouble);
        }
        let is_in_multi = self.is_in_multi();
        let taken = self.answer(trouble);
        if is_in_multi
            && matches!(taken, Taken::Done)
            && let OwnState::Open(own) = &mut self.own
        {
            // The transaction is the server's, which fails it for what it has refused itself.
            own.send(REFUSED_AT_ONCE, What::Swallow);
        }
        taken
    }

    /// Answers a request with an error.
    pub(super) fn answer(&mut self, trouble: &Trouble) -> Taken {
        let mut reply = Vec::new();
        trouble.write(&mut reply);
        self.answer_with(&reply)
    }

    /// Answers a request without a server, in its turn.
    pub(super) fn answer_with(&mut self, reply: &[u8]) -> Taken {
        if let Some(wait) = self.before_answer() {
            return Taken::Wait(wait);
        }
        if self.wants_reply() {
            self.client.say(reply);
        }
        Taken::Done
    }

    /// What has to come before an answer of our own.
    pub(super) fn before_answer(&self) -> Option<Wait> {
        if self.client.in_flight.get() > 0 {
            return Some(Wait::Answers);
        }
        self.awaits_own().then_some(Wait::Own)
    }

    /// Whether the reply to this command is wanted; after CLIENT REPLY SKIP the next one is again.
    pub(super) fn wants_reply(&mut self) -> bool {
        match self.reply {
            ReplyMode::On => true,
            ReplyMode::Off => false,
            ReplyMode::Skip => {
                self.reply = ReplyMode::On;
                false
            }
        }
    }

    /// A request that shares a connection with those of others.
    pub(super) fn send_shared(&mut self, frame: &[u8], access: Access, kind: Kind) -> Taken {
        if access != Access::Write && self.client.heavy.get() > 0 {
            // Who reads much reads where nobody else has to wait for it.
            let taken = self.send_own(frame, What::Read);
            if matches!(taken, Taken::Done) {
                self.client.heavy.update(|n| n.saturating_sub(1));
            }
            return taken;
        }
        let lane = match self.choose(access, kind) {
            Ok(lane) => lane,
            Err(taken) => return taken,
        };
        if access == Access::Write {
            self.note_write();
        }
        self.service.stats.count(lane.is_primary, 1);
        let ran = Ran::shared(lane.is_primary);
        if let Some(call) = self.service.usage.note(self.command, ran, frame, lane.key.db) {
            lane.time(call, 0);
        }
        if self.wants_reply() {
            lane.push(&self.client, frame, 1);
        } else {
            lane.push_special(&self.client, frame, 1, EntryKind::Silent);
        }
        Taken::Done
    }

    /// The lane for a request.
    ///
    /// The order of a client's requests is kept by this rule: as long as one is on its way, the next goes to the same
    /// lane or waits.
    pub(super) fn choose(&mut self, access: Access, kind: Kind) -> Result<Rc<Lane>, Taken> {
        let is_busy = self.client.in_flight.get() > 0;
        let is_current = self.lane_version == self.service.version.get();
        if let Some(lane) = self.lane.as_ref().filter(|lane| is_current && lane.is_open()) {
            let takes_access = lane.is_primary || access == Access::Read;
            let takes_kind = match lane.key.kind {
                Kind::Login => kind == Kind::Login,
                Kind::Slow => kind != Kind::Login,
                Kind::Quick => kind == Kind::Quick,
            };
            let suits = if is_busy {
                takes_access && takes_kind
            } else {
                lane.is_primary && lane.key.kind == kind && (access != Access::Read || self.reads_primary)
            };
            if suits && lane.is_full() {
                lane.wait_for_room(&self.client);
                return Err(Taken::Wait(Wait::Room));
            }
            if suits {
                return Ok(Rc::clone(lane));
            }
        }
        if is_busy {
            return Err(Taken::Wait(Wait::Answers));
        }
        if self.has_written {
            // Later than any write, since all are answered.
            self.seen = now_ns();
            self.has_written = false;
        }
        let chosen = self.service.lane_for(&self.core, &self.client, access, kind, self.seen);
        match chosen {
            Ok(lane) => {
                self.reads_primary = self.service.config.borrow().reads == RedisReads::Primary;
                self.table = self.service.usage.table();
                self.lane_version = self.service.version.get();
                self.lane = Some(Rc::clone(&lane));
                self.end_waiting();
                Ok(lane)
            }
            Err(why) => Err(self.wait_for_primary(why)),
        }
    }

    /// There is a primary again.
    pub(super) fn end_waiting(&mut self) {
        if std::mem::take(&mut self.has_waited) {
            self.service.wait_no_more(&self.client);
            self.service.stats.served.set(self.service.stats.served.get() + 1);
        }
    }

    /// The request waits until there is a primary, `hold` at the longest.
    pub(super) fn wait_for_primary(&mut self, why: String) -> Taken {
        let hold = self.service.config.borrow().hold;
        let now = now_ns();
        // From now, not from when the request came: it may have been on its way for long, or blocked.
        let since = *self.held_since.get_or_insert(now);
        let until = since.saturating_add(hold.as_nanos() as u64);
        let trouble = if now >= until {
            self.service.wait_no_more(&self.client);
            self.has_waited = false;
            self.service.stats.timed_out.set(self.service.stats.timed_out.get() + 1);
            let waited = std::time::Duration::from_nanos(now.saturating_sub(since));
            Trouble::NoPrimary { service: self.service.name.clone(), waited, why }
        } else {
            match self.service.wait(&self.client, until) {
                Ok(()) => {
                    self.has_waited = true;
                    return Taken::Wait(Wait::Primary);
                }
                Err(trouble) => trouble,
            }
        };
        self.answer(&trouble)
    }
}

/// What may be said before AUTH.
fn is_for_strangers(command: &Command) -> bool {
    matches!(command.path, Path::Session(Verb::Auth | Verb::Hello | Verb::Quit | Verb::Reset))
}
