//! Requests too large to be kept: their bytes go on as they come, on a connection of the client's own.

use std::rc::Rc;

use super::errors::Trouble;
use super::own::{OwnState, What};
use super::request::Taken;
use super::session::{Session, Wait};
use super::usage::{Call, Ran, Table};
use crate::wire::resp::command::{Access, Path, Verb};
use crate::wire::resp::{Bounds, Found, ProtocolError, build};
use crate::worker::clock::now_ns;

/// Bytes of a command about the session that are kept until it has come whole, such as a WATCH of many keys.
const LONGEST_GATHERED: usize = 16 * 1024 * 1024;
/// [`super::own::Expect::end`] of a request whose end is not known yet: until then it counts as not sent.
const UNFINISHED: u64 = u64::MAX;

/// What becomes of the bytes of the request that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    /// They go to the client's own connection.
    Forward,
    /// The request has been answered already.
    Drop,
    /// They cannot be understood any further.
    Broken(ProtocolError),
}

impl Session {
    /// A large request is on its way.
    pub(super) fn is_streaming(&self) -> bool {
        self.stream.is_some()
    }

    /// Begins with a request of which `bytes` have come. Returns how many of them were used.
    pub(super) fn begin_stream(&mut self, bytes: &[u8]) -> Result<usize, Wait> {
        let word = |session: &mut Session, n: usize| {
            session.scanner().heads().get(n).and_then(|span| span.of(bytes)).map(<[u8]>::to_vec)
        };
        let (name, second) = (word(self, 0).unwrap_or_default(), word(self, 1));
        let table = self.service.usage.table();
        let found = table.commands().judge_at(&name, second.as_deref());
        self.command = found.map_or(table.others(), |(place, _)| place);
        let command = found.map(|(_, command)| command);
        let path = command.map(|command| command.path);
        let is_for_session = matches!(path, Some(Path::Session(verb)) if !matches!(verb, Verb::Ping | Verb::Script));
        if is_for_session && bytes.len().saturating_add(self.scanner().body_left()) <= LONGEST_GATHERED {
            // Its words are ours to look at: it goes on when it has come whole.
            return Ok(0);
        }
        let login = self.client.login.borrow().clone();
        let is_refused =
            command.is_some_and(|c| c.is_admin && !login.is_some_and(|l| self.service.may_run(&l.user, &c.name)));
        if let Some(wait) = self.before_stream() {
            return Err(wait);
        }
        if is_refused {
            let name = command.map(|command| command.name.to_string()).unwrap_or_default();
            let taken = self.refuse(&Trouble::Admin(name));
            return self.drop_stream(bytes, taken);
        }
        let what = match command.map(|command| (command.path, command.access)) {
            Some((Path::Session(Verb::Ping | Verb::Script), _)) => What::Plain,
            Some((Path::Session(_), _)) => {
                if let Some(wait) = self.before_answer() {
                    return Err(wait);
                }
                self.client.refuse(&Trouble::Err("Protocol error: this command may not be longer than 16 MiB"));
                self.client.is_ending.set(true);
                return Ok(bytes.len());
            }
            None | Some((Path::Own, _)) => What::Unknown,
            Some((Path::Block | Path::MayBlock, Access::Write)) => What::Block { may_rerun: false },
            Some(_) => What::Plain,
        };
        if self.is_transaction_spoilt() {
            let taken = self.answer_with(build::QUEUED);
            return self.drop_stream(bytes, taken);
        }
        if self.transaction.is_some() {
            match self.move_transaction(&[]) {
                // It was refused, and has been answered.
                taken if self.transaction.is_some() => return self.drop_stream(bytes, taken),
                _ => {}
            }
        }
        let opened = match self.before_own() {
            Ok(()) => self.open_own(),
            Err(taken) => Err(taken),
        };
        match opened {
            Ok(own) => {
                own.expect(what, None);
                if let Some(expect) = own.expects.back_mut() {
                    expect.end = UNFINISHED;
                }
                let is_wanted = self.wants_reply();
                if let OwnState::Open(own) = &mut self.own
                    && let Some(expect) = own.expects.back_mut()
                {
                    expect.is_silent = !is_wanted;
                }
            }
            Err(taken) => return self.drop_stream(bytes, taken),
        }
        self.note_write();
        self.note_stream(bytes, table);
        self.count_pending();
        self.stream = Some(Stream::Forward);
        Ok(self.pass(bytes))
    }

    /// Counts the request that begins with `bytes`.
    fn note_stream(&mut self, bytes: &[u8], table: Rc<Table>) {
        table.count(self.command, Ran::Own);
        let size = bytes.len().saturating_add(self.scanner().body_left());
        let heads = self.scanner().heads().to_vec();
        // The last one has only begun.
        let words: Vec<&[u8]> = heads.iter().map_while(|span| span.of(bytes)).collect();
        self.service.usage.look_at_beginning(self.command, &words, self.client.db.get(), size as u64);
        let call = Call::new(table, self.command, now_ns(), size);
        if let OwnState::Open(own) = &mut self.own
            && let Some(expect) = own.expects.back_mut().filter(|expect| expect.end == UNFINISHED)
        {
            expect.call = Some(call);
        }
    }

    /// What has to come before: the answers of a lane, since the order of a client's requests is kept.
    fn before_stream(&self) -> Option<Wait> {
        (self.client.in_flight.get() > 0).then_some(Wait::Answers)
    }

    /// The request has been answered: the rest of its bytes is for nobody.
    fn drop_stream(&mut self, bytes: &[u8], answered: Taken) -> Result<usize, Wait> {
        match answered {
            Taken::Wait(wait) => Err(wait),
            Taken::Done => {
                self.stream = Some(Stream::Drop);
                Ok(self.pass(bytes))
            }
        }
    }

    /// Sends on what has been understood of `bytes`.
    fn pass(&mut self, bytes: &[u8]) -> usize {
        let n = self.scanner().scanned().min(bytes.len());
        self.scanner().pass(n);
        self.forward(bytes.get(..n).unwrap_or_default());
        n
    }

    fn forward(&mut self, bytes: &[u8]) {
        if let (Some(Stream::Forward), OwnState::Open(own)) = (self.stream, &mut self.own) {
            own.put(bytes);
        }
    }

    /// Goes on with the request. Returns how many bytes were used; 0: more are needed, or the server has to take some
    /// first.
    pub(super) fn stream_on(&mut self, bytes: &[u8]) -> Result<usize, ProtocolError> {
        if let Some(Stream::Broken(error)) = self.stream {
            return Err(error);
        }
        if self.own_is_full() {
            return Ok(0);
        }
        let found = self.scanner().scan(bytes, Bounds::USUAL).inspect_err(|error| self.break_stream(*error))?;
        match found {
            Found::Request(request) => {
                self.forward(bytes.get(..request.len).unwrap_or_default());
                self.stream = None;
                if let OwnState::Open(own) = &mut self.own {
                    let end = own.put;
                    if let Some(expect) = own.expects.back_mut().filter(|expect| expect.end == UNFINISHED) {
                        expect.end = end;
                    }
                }
                Ok(request.len)
            }
            Found::More => Ok(self.pass(bytes)),
            Found::Inline(_) | Found::Nothing(_) => Ok(0),
        }
    }

    /// The server will never have the request whole.
    fn break_stream(&mut self, error: ProtocolError) {
        self.stream = Some(Stream::Broken(error));
        if let OwnState::Open(own) = &mut self.own
            && own.expects.back().is_some_and(|expect| expect.end == UNFINISHED)
        {
            own.expects.give_up_last();
        }
    }

    /// Replies are due to requests before the one that has begun.
    pub(super) fn owes_before_stream(&self) -> bool {
        let OwnState::Open(own) = &self.own else { return false };
        own.fate.is_some() || own.expects.front().is_some_and(|expect| expect.end != UNFINISHED)
    }

    /// The connection that it went to is lost: the server has not carried out what it has not got whole.
    pub(super) fn lose_stream(&mut self) {
        if self.stream == Some(Stream::Forward) {
            self.stream = Some(Stream::Drop);
        }
    }
}
