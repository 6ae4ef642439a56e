//! MULTI to EXEC without a connection of its own: the commands are kept, and sent in one piece with EXEC.
//!
//! Nothing has been carried out before that, so that a transaction survives the loss of the primary. What the server
//! would refuse at once (a command that does not exist, a wrong number of words) is refused here in the same words;
//! what only the server knows (rights, memory) it tells at EXEC.

use super::errors::Trouble;
use super::own::{OwnState, What};
use super::request::Taken;
use super::session::Session;
use super::usage::Ran;
use crate::wire::resp::command::{Command, Path, Verb};
use crate::wire::resp::{Request, build, words};

/// A longer transaction goes to a connection of its own, bytes.
const LONGEST: usize = 1024 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    requests: Vec<u8>,
    count: u32,
    /// EXEC will not carry it out.
    failed: Option<Failed>,
}

/// Why a transaction cannot be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failed {
    /// A command was refused.
    Refused,
    /// The watched keys may have changed.
    Watch,
}

/// `MULTI`
const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";
/// `EXEC`
const EXEC: &[u8] = b"*1\r\n$4\r\nEXEC\r\n";

impl Session {
    /// MULTI
    pub(super) fn begin_transaction(&mut self, frame: &[u8]) -> Taken {
        if !self.is_default_user() {
            // Only a server knows what this user may do, and says so at each command.
            return self.send_own(frame, What::Multi { tell: true });
        }
        let taken = self.answer_with(build::OK);
        if matches!(taken, Taken::Done) {
            self.transaction = Some(Box::default());
            self.note_queued();
        }
        taken
    }

    fn note_queued(&self) {
        let queued = self.transaction.as_ref().map(|transaction| transaction.count);
        self.client.mode.update(|mode| super::client::Mode { queued, ..mode });
    }

    /// A command between MULTI and EXEC.
    pub(super) fn collect(&mut self, frame: &[u8], request: &Request, command: Option<&Command>) -> Taken {
        if let Some(wait) = self.before_answer() {
            return Taken::Wait(wait);
        }
        let Some(command) = command else {
            if self.service.has_learned() {
                let trouble = self.unknown(frame);
                return self.spoil_transaction(&trouble);
            }
            return self.move_transaction(frame);
        };
        if !command.arity_fits(request.words as usize) {
            if command.path == Path::Session(Verb::Exec) {
                self.end_transaction();
                return self.answer(&Trouble::ExecArity);
            }
            return self.spoil_transaction(&Trouble::Arity(command.name.to_string()));
        }
        match command.path {
            Path::Session(Verb::Exec) => self.execute(),
            Path::Session(Verb::Discard) => {
                let taken = self.answer_with(build::OK);
                self.has_lost_watch = false;
                self.end_transaction();
                self.count_here(&taken);
                taken
            }
            Path::Session(Verb::Multi) => self.answer(&Trouble::Err("MULTI calls can not be nested")),
            Path::Session(Verb::Watch) => self.answer(&Trouble::Err("WATCH inside MULTI is not allowed")),
            Path::Session(Verb::Quit | Verb::Reset) => {
                self.end_transaction();
                self.take(frame, request)
            }
            Path::Session(Verb::Ping | Verb::Script | Verb::Kill | Verb::Wait | Verb::Unwatch)
            | Path::Lane
            | Path::Slow
            | Path::Block
            | Path::MayBlock => {
                let Some(transaction) = &mut self.transaction else { return Taken::Done };
                if transaction.requests.len() + frame.len() > LONGEST {
                    return self.move_transaction(frame);
                }
                transaction.requests.extend_from_slice(frame);
                transaction.count += 1;
                self.note_queued();
                self.answer_with(build::QUEUED)
            }
            Path::Session(_) | Path::Own => self.move_transaction(frame),
        }
    }

    fn execute(&mut self) -> Taken {
        let Some(transaction) = &self.transaction else { return Taken::Done };
        let is_watch_lost = self.has_lost_watch || transaction.failed == Some(Failed::Watch);
        let is_sent = transaction.failed.is_none() && !is_watch_lost && transaction.count > 0;
        let taken = if transaction.failed == Some(Failed::Refused) {
            self.answer(&Trouble::ExecAbort)
        } else if is_watch_lost {
            let mut reply = Vec::new();
            build::null_array(&mut reply, self.client.version.get());
            self.answer_with(&reply)
        } else if transaction.count == 0 {
            self.answer_with(b"*0\r\n")
        } else {
            let block = [MULTI, &transaction.requests, EXEC].concat();
            self.send_block(&block)
        };
        if matches!(taken, Taken::Done) {
            self.has_lost_watch = false;
            self.end_transaction();
        }
        if !is_sent {
            self.count_here(&taken);
        }
        taken
    }

    /// The command that is looked at was answered without a server.
    fn count_here(&self, taken: &Taken) {
        if matches!(taken, Taken::Done) {
            self.service.usage.table().count(self.command, Ran::Here);
        }
    }

    /// A request of a transaction that stands on the client's own connection was refused here, so that EXEC must be, too.
    /// The server knows nothing of that: what it has queued goes with the connection.
    pub(super) fn abort_transaction(&mut self) {
        if matches!(&self.own, OwnState::Open(own) if own.state.is_special) {
            // It relies on what this connection alone could tell it.
            return self.client.cut();
        }
        self.drop_own();
        // Whatever has become of the watched keys, EXEC says that it was refused.
        self.has_lost_watch = false;
        self.begin_lost_transaction();
    }

    /// The connection that a transaction stood on is lost: nothing of it was carried out, and EXEC says so.
    pub(super) fn begin_lost_transaction(&mut self) {
        let failed_by = if self.has_lost_watch { Failed::Watch } else { Failed::Refused };
        self.transaction = Some(Box::new(Transaction { failed: Some(failed_by), ..Transaction::default() }));
        self.note_queued();
    }

    /// A command that no server knows, in Redis' words.
    pub(super) fn unknown(&self, frame: &[u8]) -> Trouble {
        let words: Vec<&[u8]> = words(frame).collect();
        let name = String::from_utf8_lossy(words.first().copied().unwrap_or_default()).into_owned();
        if self.service.commands().is_container(name.as_bytes()) && words.len() > 1 {
            let sub = String::from_utf8_lossy(words.get(1).copied().unwrap_or_default()).into_owned();
            return Trouble::Subcommand(name, sub);
        }
        let mut arguments = String::new();
        for word in words.iter().skip(1) {
            if arguments.len() >= 128 {
                break;
            }
            let left = 128 - arguments.len();
            let shown: String = String::from_utf8_lossy(word).chars().take(left).collect();
            arguments.push_str(&format!("'{shown}' "));
        }
        let name: String = name.chars().take(128).collect();
        Trouble::UnknownCommand(name, arguments)
    }

    pub(super) fn end_transaction(&mut self) {
        self.transaction = None;
        self.note_queued();
    }

    /// A command is refused: EXEC will be, too.
    pub(super) fn spoil_transaction(&mut self, trouble: &Trouble) -> Taken {
        let taken = self.answer(trouble);
        if matches!(taken, Taken::Done) {
            self.note_refused();
        }
        taken
    }

    fn note_refused(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.failed = Some(Failed::Refused);
        }
    }

    /// Nothing of the client's transaction will be carried out, whatever it still says.
    pub(super) fn is_transaction_spoilt(&self) -> bool {
        self.transaction.as_ref().is_some_and(|transaction| transaction.failed.is_some())
    }

    /// The transaction goes on on a connection of its own, with a command that cannot wait for EXEC.
    pub(super) fn move_transaction(&mut self, frame: &[u8]) -> Taken {
        if self.is_transaction_spoilt() {
            // It cannot be carried out any more, so that nothing has to be known of this one.
            return self.answer_with(build::QUEUED);
        }
        if let Err(taken) = self.open_own() {
            if matches!(taken, Taken::Done) {
                self.note_refused();
            }
            return taken;
        }
        let (Some(transaction), OwnState::Open(own)) = (self.transaction.take(), &mut self.own) else {
            return Taken::Done;
        };
        own.take_name(&self.client.name.borrow());
        own.send(MULTI, What::Multi { tell: false });
        let table = self.service.usage.table();
        let mut rest = transaction.requests.as_slice();
        while let Some((request, behind)) = super::session::first_request(rest) {
            own.send(request, What::Swallow);
            let mut words = words(request);
            let found = table.commands().judge_at(words.next().unwrap_or_default(), words.next());
            let place = found.map_or(table.others(), |(place, _)| place);
            drop(self.service.usage.note(place, Ran::Own, request, self.client.db.get()));
            rest = behind;
        }
        self.note_queued();
        if frame.is_empty() { Taken::Done } else { self.take_again(frame) }
    }
}
