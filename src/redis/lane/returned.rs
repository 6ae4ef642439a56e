//! Requests that a lane cannot answer: each goes back to its client, in the client's order.
//!
//! What never was with the server, or may run twice, runs again elsewhere. Of anything else nobody knows whether it
//! was carried out, and the client is told so.

use std::collections::VecDeque;
use std::rc::Rc;

use super::task::{HEAVY_FOR, is_refusal, runs_script};
use super::{Entry, EntryKind, Sending};
use crate::redis::client::{Client, Todo};
use crate::redis::errors::Trouble;
use crate::wire::resp::command::Commands;
use crate::wire::resp::{BadReply, Bounds, Found, ReplyScan, RequestScan};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Returned {
    items: VecDeque<Item>,
    /// The reply that is being read.
    reply: Vec<u8>,
    /// A reply of the first item's has begun.
    has_begun: bool,
    /// Items whose replies have come, although they do not count.
    seen: usize,
}

#[derive(Debug)]
struct Item {
    client: Rc<Client>,
    kind: EntryKind,
    request: Vec<u8>,
    /// Replies still to come; more than one for a block.
    left: u32,
    /// The server has all of it.
    is_written: bool,
    may_run_twice: bool,
    /// Some command of a block was refused because of the node.
    is_refused: bool,
}

/// The reply to a command that may run twice is not kept beyond this, bytes: it runs again. Any other exists only once.
const LONGEST_KEPT: usize = 1024 * 1024;

impl Returned {
    /// Takes a lane's requests apart.
    pub(super) fn new(sending: Sending, fifo: VecDeque<Entry>, commands: &Commands) -> Self {
        let mut items = VecDeque::new();
        let mut at = sending.answered;
        for entry in fifo {
            let end = at + entry.bytes;
            if let EntryKind::Block { .. } = entry.kind {
                items.push_back(Item {
                    client: entry.client,
                    kind: entry.kind,
                    request: sending.bytes.get(at..end).unwrap_or_default().to_vec(),
                    left: entry.left,
                    is_written: end <= sending.written,
                    may_run_twice: false,
                    is_refused: false,
                });
                at = end;
                continue;
            }
            let answered = entry.total - entry.left;
            let mut scan = RequestScan::default();
            let mut n = 0;
            while let Ok(Found::Request(request)) =
                scan.scan(sending.bytes.get(at..end).unwrap_or_default(), Bounds::USUAL)
            {
                let frame = sending.bytes.get(at..at + request.len).unwrap_or_default();
                if n >= answered {
                    let word = |n: usize| request.word(n).and_then(|word| word.of(frame));
                    let command = commands.judge(word(0).unwrap_or_default(), word(1));
                    items.push_back(Item {
                        client: Rc::clone(&entry.client),
                        kind: entry.kind.clone(),
                        request: frame.to_vec(),
                        left: 1,
                        is_written: at + request.len <= sending.written,
                        may_run_twice: command.is_some_and(|command| command.may_run_twice()),
                        is_refused: false,
                    });
                }
                n += 1;
                at += request.len;
            }
            at = end;
        }
        Returned { items, ..Returned::default() }
    }

    /// True if nothing was on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// True if the server will still answer the first one.
    pub(super) fn has_written(&self) -> bool {
        self.items.front().is_some_and(|item| item.is_written)
    }

    /// A reply of the first one has gone to its client in part.
    pub(super) fn was_begun(&mut self) {
        self.has_begun = true;
    }

    /// Takes replies of a node that has refused one: what it refuses runs elsewhere, and everything of the same client
    /// behind that is kept in its order. Returns the bytes used; what follows is the beginning of a line.
    pub(super) fn sort(&mut self, scan: &mut ReplyScan, bytes: &[u8]) -> Result<usize, BadReply> {
        let mut at = 0;
        while at < bytes.len() && self.has_written() {
            let scanned = scan.scan(bytes.get(at..).unwrap_or_default())?;
            let may_run_twice = self.items.front().is_some_and(|item| item.may_run_twice);
            if self.reply.len() < LONGEST_KEPT || !may_run_twice {
                self.reply.extend_from_slice(bytes.get(at..at + scanned.used).unwrap_or_default());
            }
            at += scanned.used;
            if !scanned.is_done {
                return Ok(at);
            }
            let reply = std::mem::take(&mut self.reply);
            self.take(reply);
        }
        Ok(at)
    }

    /// Takes replies of a node that has been replaced. Only what it refuses counts, since that was not carried out. Of
    /// what it has carried out nobody knows whether the new primary has it: its replica may have been promoted before.
    /// Returns the bytes used.
    pub(super) fn note_refusals(&mut self, scan: &mut ReplyScan, bytes: &[u8]) -> Result<usize, BadReply> {
        let mut at = 0;
        while let Some(item) = self.items.get_mut(self.seen).filter(|item| item.is_written && at < bytes.len()) {
            let rest = bytes.get(at..).unwrap_or_default();
            if rest.first() == Some(&b'-') && scan.is_idle() {
                let Some(end) = memchr::memchr(b'\n', rest) else { break };
                item.is_refused |= item.was_refused(rest.get(1..end).unwrap_or_default());
            }
            let scanned = scan.scan(rest)?;
            at += scanned.used;
            if !scanned.is_done {
                break;
            }
            item.left -= 1;
            if item.left == 0 {
                self.seen += 1;
            }
        }
        Ok(at)
    }

    fn take(&mut self, reply: Vec<u8>) {
        let Some(item) = self.items.front_mut() else { return };
        item.left -= 1;
        item.is_refused |= reply.strip_prefix(b"-").is_some_and(|line| item.was_refused(line));
        if item.left > 0 {
            return;
        }
        let Some(item) = self.items.pop_front() else { return };
        if item.is_asked_again() {
            item.client.settle(1);
        } else if item.is_refused || reply.len() >= LONGEST_KEPT && item.may_run_twice {
            item.run_again();
        } else if item.client.backlog.borrow().is_empty() {
            if !item.kind.is_silent() {
                item.client.deliver(&reply);
            }
            item.client.settle(1);
        } else if item.may_run_twice {
            item.run_again();
        } else {
            item.answer(reply);
        }
    }

    /// The connection is lost.
    pub(super) fn give_back(self, why: &str) {
        for (n, item) in self.items.into_iter().enumerate() {
            if n == 0 && self.has_begun {
                // Half an answer is with the client: no other can follow it. Of what was sorted, none is.
                item.client.cut();
                item.client.settle(1);
            } else if item.is_asked_again() {
                item.client.settle(1);
            } else if !item.is_written || item.may_run_twice || item.is_refused {
                if n == 0 && item.is_written && item.may_run_twice {
                    // The server may have closed because of this very one, as for a reply beyond its
                    // client-output-buffer-limit: next time only its own client is hit.
                    item.client.heavy.set(HEAVY_FOR);
                }
                item.run_again();
            } else {
                item.client.service.stats.unknown.update(|n| n + 1);
                let mut reply = Vec::new();
                Trouble::Unknown(why.to_owned()).write(&mut reply);
                item.answer(reply);
            }
        }
    }

    /// The server refuses everything.
    pub(super) fn refuse(self, trouble: &Trouble) {
        let mut reply = Vec::new();
        trouble.write(&mut reply);
        for item in self.items {
            if matches!(item.kind, EntryKind::Login { .. } | EntryKind::Greeting { .. }) {
                item.client.login_result.set(Some(false));
            }
            item.answer(reply.clone());
        }
    }
}

impl Item {
    /// The node did not even begin with it, by the error that it answers.
    fn was_refused(&self, line: &[u8]) -> bool {
        is_refusal(line) && !runs_script(&self.request)
    }

    /// The client's task asks again when it sees that there was no answer.
    fn is_asked_again(&self) -> bool {
        matches!(self.kind, EntryKind::Login { .. } | EntryKind::Greeting { .. })
    }

    fn run_again(self) {
        let todo = match self.kind {
            EntryKind::Block { is_silent: false } => Todo::Block(self.request),
            EntryKind::Block { is_silent: true } => Todo::QuietBlock(self.request),
            EntryKind::Silent => Todo::Quiet(self.request),
            EntryKind::Plain | EntryKind::Login { .. } | EntryKind::Greeting { .. } => Todo::Run(self.request),
        };
        self.client.backlog.borrow_mut().push_back(todo);
        self.client.settle(1);
        // It may wait for nothing but its next bytes.
        self.client.wake();
    }

    fn answer(self, reply: Vec<u8>) {
        if !self.kind.is_silent() {
            self.client.backlog.borrow_mut().push_back(Todo::Say(reply));
        }
        self.client.settle(1);
        self.client.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::lane::{Kind, Lane, LaneKey};
    use crate::redis::testing::{client, request};
    use crate::wire::resp::Version;

    #[tokio::test]
    async fn half_a_reply_that_was_kept_closes_nobody() {
        let (client, _far) = client().await;
        let key = LaneKey { node: 0, version: Version::Resp2, db: 0, login: 0, kind: Kind::Quick };
        let lane = Lane::new(key, true);
        for line in ["GET a", "INCR b"] {
            lane.push(&client, &request(line), 1);
        }
        let mut sending = lane.sending.take();
        sending.written = sending.bytes.len();
        let mut returned = Returned::new(sending, lane.fifo.take(), &Commands::builtin());
        returned.sort(&mut ReplyScan::default(), b"$1000\r\nhalf").expect("a reply");
        returned.give_back("it was replaced");
        assert!(!client.is_cut.get());
        let backlog: Vec<Todo> = client.backlog.borrow_mut().drain(..).collect();
        let [Todo::Run(again), Todo::Say(unknown)] = backlog.as_slice() else { panic!("{backlog:?}") };
        assert!(again == &request("GET a") && unknown.starts_with(b"-UNKNOWN "));
    }

    #[tokio::test]
    async fn of_a_node_that_was_replaced_only_refusals_count_however_they_come() {
        let replies = b"+OK\r\n-READONLY You can't write against a read only replica.\r\n:1\r\n";
        for piece in 1..=replies.len() {
            let (client, _far) = client().await;
            let key = LaneKey { node: 0, version: Version::Resp2, db: 0, login: 0, kind: Kind::Quick };
            let lane = Lane::new(key, true);
            for line in ["SET a 1", "SET b 1", "INCR c", "INCR d"] {
                lane.push(&client, &request(line), 1);
            }
            let mut sending = lane.sending.take();
            sending.written = sending.bytes.len();
            let mut returned = Returned::new(sending, lane.fifo.take(), &Commands::builtin());
            let (mut scan, mut input) = (ReplyScan::default(), Vec::new());
            for some in replies.chunks(piece) {
                input.extend_from_slice(some);
                let used = returned.note_refusals(&mut scan, &input).expect("replies");
                input.drain(..used);
            }
            returned.give_back("it was replaced");
            let backlog: Vec<Todo> = client.backlog.borrow_mut().drain(..).collect();
            let [Todo::Say(first), Todo::Run(again), Todo::Say(_), Todo::Say(_)] = backlog.as_slice() else {
                panic!("in pieces of {piece}: {backlog:?}");
            };
            assert!(first.starts_with(b"-UNKNOWN "), "it may have been carried out");
            assert_eq!(again, &request("SET b 1"));
            assert_eq!(client.service.stats.unknown.get(), 3, "each is counted");
            assert_eq!(client.in_flight.get(), 0);
        }
    }
}
