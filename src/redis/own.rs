//! A client's own connection, for as long as it needs one: while it blocks, watches keys, is subscribed, sends
//! something large, or does what nobody knows.
//!
//! It goes back to be used by others only when every reply has come and nothing is left on it: no watched key, no open
//! transaction, no subscription. If anything might be left that cannot be seen, it is closed.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::connect::{Failure, NAME, Opened, Wanted, auth, connect, read_replies};
use super::errors::Trouble;
use super::expects::Expects;
use super::login::Login;
use super::request::Taken;
use super::session::{Session, Wait};
use super::subscriptions::{Subscriptions, Switched};
use super::usage::{Call, Ran};
use crate::net::Stream;
use crate::wire::resp::{ReplyScan, Version, encode};
use crate::worker::clock::now_ns;

/// Bytes that may wait for the server before the client has to.
const MOST_WAITING: usize = 1024 * 1024;
/// Replies that may be due.
const MOST_DUE: usize = 16 * 1024;
/// Bytes that may be kept for a second run.
const MOST_KEPT: usize = 1024 * 1024;
/// A request is kept for a second run up to this, bytes.
const LONGEST_AGAIN: usize = 64 * 1024;
/// Before a client is connected again whose connections are lost one after the other.
const PAUSE: Duration = Duration::from_millis(100);

/// Whether a client has a connection of its own.
#[derive(Debug)]
pub(super) enum OwnState {
    None,
    /// Being opened; the result lies there.
    Opening(Rc<Slot>),
    Open(Box<Own>),
}

/// Where a connection is put when it is open.
pub(super) type Slot = RefCell<Option<Result<Own, Failure>>>;

/// See the module.
#[derive(Debug)]
pub struct Own {
    node: u64,
    wanted: Wanted,
    /// Its number at the server, if that has told it.
    id: Option<u64>,
    /// What the server calls it.
    name: Box<[u8]>,
    stream: Stream,
    pub(super) output: Vec<u8>,
    /// Bytes of requests that were ever put into `output`, and those that were sent.
    pub(super) put: u64,
    pub(super) sent: u64,
    pub(super) scan: ReplyScan,
    pub(super) input: Vec<u8>,
    pub(super) expects: Expects,
    /// What becomes of the reply that has begun.
    pub(super) fate: Option<Fate>,
    /// The reply that is looked at as a whole.
    pub(super) whole: Vec<u8>,
    /// A message goes on as it comes: it was too long to be looked at.
    pub(super) is_long_message: bool,
    pub(super) state: Held,
    /// What waits for the next EXEC.
    pub(super) queued: Queued,
    /// The last EXEC was carried out.
    pub(super) has_executed: bool,
    /// The reply that is looked at as a whole is that of CLIENT INFO, behind these commands.
    pub(super) learning: Option<Queued>,
    /// The server's refusal of [`What::Offset`]: what is said behind it counts for nothing.
    pub(super) unproved: Option<Vec<u8>>,
    /// The reply that has begun answers this.
    pub(super) answering: Option<Answering>,
    since: u64,
}

/// What is left on a connection by what was done on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) is_watching: bool,
    pub(super) is_in_multi: bool,
    /// MONITOR: what comes answers no request.
    pub(super) is_monitor: bool,
    /// CLIENT TRACKING or NO-TOUCH.
    pub(super) is_special: bool,
    /// Something that cannot be seen may be left.
    pub(super) is_tainted: bool,
}

/// A reply that is due.
#[derive(Debug)]
pub(super) struct Expect {
    pub(super) what: What,
    /// The request, if it may have to run again.
    pub(super) request: Option<Vec<u8>>,
    /// Where the request ends, counted as [`Own::put`].
    pub(super) end: u64,
    /// When it was put, ns; only of what blocks.
    pub(super) since: u64,
    /// The client wants no reply.
    pub(super) is_silent: bool,
    /// Of EXEC and DISCARD: what the transaction holds that changes the session.
    pub(super) queued: Queued,
    /// Confirmations still to come, once the first has.
    pub(super) left: Option<usize>,
    /// How it is counted; `None` of Forebay's own.
    pub(super) call: Option<Call>,
}

/// See [`Own::answering`].
#[derive(Debug)]
pub(super) struct Answering {
    pub(super) call: Call,
    /// If it was kept.
    pub(super) request: Option<Vec<u8>>,
    /// Of the reply, so far.
    pub(super) bytes: u64,
}

/// Commands of a transaction that change the session when it is carried out.
#[derive(Debug, Clone, Default)]
pub(super) struct Queued {
    /// Subscribing and unsubscribing commands.
    pub(super) subscribing: Vec<Vec<u8>>,
    /// Others: SELECT, AUTH and the like, of which the connection has to be asked, and CLIENT TRACKING.
    pub(super) others: Vec<Vec<u8>>,
}

/// What a request means for its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// Nothing.
    Plain,
    /// Nothing, and may run twice.
    Read,
    /// The client does not see the reply.
    Swallow,
    /// Not one of those that are known.
    Unknown,
    /// `tell`: the client has not been answered yet.
    Multi {
        tell: bool,
    },
    Exec,
    Discard,
    Watch,
    Unwatch,
    /// Waits on the server.
    Block {
        may_rerun: bool,
    },
    /// A write that makes WAITAOF behind it count all before it: the client does not see the reply.
    Offset,
    /// WAITAOF: on how many disks the client's writes are.
    Replicated,
    /// One of the subscribing and unsubscribing commands.
    Subscribe,
    /// The same, to take up again what was lost: the client does not see the confirmations.
    Resubscribe,
    /// What the client had switched on: it does not see the reply.
    Resume {
        monitors: bool,
    },
    Select(u32),
    /// CLIENT INFO, to find out which database a transaction has left: the client does not see it.
    Database,
    /// Makes the connection what its client has become; of no use if that fails. The client does not see it.
    Follow,
    Monitor,
    /// Leaves something on the connection, or takes it off.
    Special(bool),
}

/// What becomes of the bytes of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// They go on as they come.
    Deliver,
    Drop,
    /// It is looked at when it is whole.
    Whole,
}

impl Own {
    pub(super) fn new(node: u64, wanted: Wanted, opened: Opened) -> Self {
        Own {
            node,
            wanted,
            id: opened.hello.as_deref().and_then(id_of),
            name: Box::from(NAME),
            stream: opened.stream,
            output: Vec::new(),
            put: 0,
            sent: 0,
            scan: ReplyScan::default(),
            input: Vec::new(),
            expects: Expects::default(),
            fate: None,
            whole: Vec::new(),
            is_long_message: false,
            state: Held::default(),
            queued: Queued::default(),
            has_executed: false,
            learning: None,
            unproved: None,
            answering: None,
            since: now_ns(),
        }
    }

    /// [`crate::topology::redis::RedisNode::id`]
    pub(super) fn node(&self) -> u64 {
        self.node
    }

    /// When it was used last, ns.
    pub(super) fn since(&self) -> u64 {
        self.since
    }

    /// Has the connection bear the client's name, for what asks for it within a transaction.
    pub(super) fn take_name(&mut self, name: &[u8]) {
        if *self.name != *name {
            let mut request = Vec::new();
            encode(&mut request, &[b"CLIENT".as_slice(), b"SETNAME", name]);
            self.send(&request, What::Swallow);
            self.name = name.into();
        }
    }

    /// The server calls it so now.
    pub(super) fn name_is(&mut self, name: &[u8]) {
        self.name = name.into();
    }

    /// The connection has another database now.
    pub(super) fn set_db(&mut self, db: u32) {
        self.wanted.db = db;
    }

    /// The connection speaks another protocol now.
    pub(super) fn set_version(&mut self, version: Version) {
        self.wanted.version = version;
    }

    /// The connection becomes this user's, and speaks this protocol.
    pub(super) fn follow(&mut self, login: Rc<Login>, version: Version) {
        let mut request = Vec::new();
        if self.wanted.login.id != login.id
            && let Some(words) = auth(&login)
        {
            encode(&mut request, &words);
            self.send(&request, What::Follow);
        }
        if self.wanted.version != version {
            request.clear();
            encode(&mut request, &["HELLO", &version.number().to_string()]);
            self.send(&request, What::Follow);
        }
        (self.wanted.login, self.wanted.version) = (login, version);
    }

    /// A reply is due, or has not come whole.
    pub(super) fn owes(&self) -> bool {
        !self.expects.is_empty() || self.fate.is_some()
    }

    /// What was sent last waits on the server.
    pub(super) fn is_waiting(&self) -> bool {
        self.expects.back().is_some_and(|last| matches!(last.what, What::Block { .. } | What::Replicated))
    }

    /// A command waits on the server for an element, or is on its way to do so.
    fn blocks(&self) -> bool {
        self.expects.back().is_some_and(|last| matches!(last.what, What::Block { .. }))
    }

    /// True if it can serve whoever wants that.
    pub(super) fn fits(&self, node: u64, wanted: &Wanted) -> bool {
        self.node == node
            && self.wanted.login.id == wanted.login.id
            && self.wanted.db == wanted.db
            && self.wanted.version == wanted.version
    }

    /// Sends a request.
    pub(super) fn send(&mut self, request: &[u8], what: What) {
        self.put(request);
        // Confirmations are counted by the words, however many; what is watched must be watched again.
        let is_needed = matches!(what, What::Subscribe | What::Watch | What::Special(_) | What::Monitor);
        let keeps = (request.len() <= LONGEST_AGAIN || is_needed)
            && matches!(
                what,
                What::Read
                    | What::Block { .. }
                    | What::Watch
                    | What::Subscribe
                    | What::Special(_)
                    | What::Monitor
                    | What::Plain
                    | What::Unknown
                    | What::Select(_)
            );
        self.expect(what, keeps.then(|| request.to_vec()));
    }

    /// Asks, right behind EXEC, what the transaction has made of the session. Its own reply would tell only deep inside,
    /// and later would be too late: the next transaction may be on its way.
    pub(super) fn ask_session(&mut self) {
        if !self.queued.others.is_empty() {
            let mut request = Vec::new();
            encode(&mut request, &["CLIENT", "INFO"]);
            self.put(&request);
            self.expect(What::Database, None);
        }
    }

    /// Bytes of a request.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
        self.put += bytes.len() as u64;
    }

    /// A reply is due, to a request that ends with what was put last.
    pub(super) fn expect(&mut self, what: What, request: Option<Vec<u8>>) {
        if self.state.is_monitor {
            return;
        }
        let since = if matches!(what, What::Block { .. }) { now_ns() } else { 0 };
        let mut expect = Expect {
            what,
            request,
            end: self.put,
            since,
            left: None,
            is_silent: false,
            queued: Queued::default(),
            call: None,
        };
        if matches!(what, What::Exec | What::Discard | What::Database) {
            expect.queued = std::mem::take(&mut self.queued);
        }
        if what == What::Exec {
            self.queued.others = std::mem::take(&mut expect.queued.others);
        }
        self.expects.push(expect);
    }

    /// So much is waiting for the server that the client has to wait.
    pub(super) fn is_full(&self) -> bool {
        self.output.len() > MOST_WAITING || self.expects.len() >= MOST_DUE || self.expects.kept() > MOST_KEPT
    }

    /// Sends what waits.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> std::io::Result<()> {
        let mut at = 0;
        while at < self.output.len() {
            let sent = self.stream.try_write(self.output.get(at..).unwrap_or_default())?;
            at += sent;
            if sent == 0 {
                match self.stream.poll_write_ready(cx) {
                    Poll::Ready(ready) => ready?,
                    Poll::Pending => break,
                }
            }
        }
        self.sent += at as u64;
        if at == self.output.len() {
            self.output = Vec::new();
        } else {
            self.output.drain(..at);
        }
        Ok(())
    }

    /// The server has closed it, or said something that nobody had asked for.
    pub(super) fn is_stale(&mut self) -> bool {
        let mut byte = [0; 1];
        self.stream.poll_read(&mut Context::from_waker(std::task::Waker::noop()), &mut byte).is_ready()
    }

    /// Asks something of Forebay's own, and reads so many replies. Out of step afterwards if it is dropped or fails.
    ///
    /// # Errors
    /// The socket's; also if the server closes the connection or does not speak RESP.
    pub(super) async fn ask(&mut self, requests: &[u8], replies: usize) -> std::io::Result<Vec<Vec<u8>>> {
        self.stream.write_all(requests).await?;
        let replies = read_replies(&mut self.stream, replies).await?;
        self.since = now_ns();
        Ok(replies)
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<std::io::Result<usize>> {
        self.stream.poll_read(cx, buf)
    }
}

impl Session {
    /// The client's connection, opened if there is none.
    ///
    /// # Errors
    /// What became of the request instead: it waits, or was refused.
    pub(super) fn open_own(&mut self) -> Result<&mut Own, Taken> {
        if self.client.in_flight.get() > 0 {
            return Err(Taken::Wait(Wait::Answers));
        }
        if let OwnState::Opening(slot) = &self.own {
            let Some(opened) = slot.borrow_mut().take() else { return Err(Taken::Wait(Wait::Own)) };
            match opened {
                // Since it was asked for, writes may be held, or another node may be the primary.
                Ok(own) if self.service.primary().is_ok_and(|node| node == own.node()) => {
                    self.own = OwnState::Open(Box::new(own));
                    self.client.mode.update(|mode| super::client::Mode { has_own: true, ..mode });
                }
                Ok(own) => {
                    self.own = OwnState::None;
                    self.service.give_spare(own);
                }
                Err(Failure::Refused(line)) => {
                    self.own = OwnState::None;
                    return Err(self.answer(&Trouble::Server(line)));
                }
                Err(_) => self.own = OwnState::None,
            }
        }
        if matches!(self.own, OwnState::None) {
            let (node, wanted) = match self.service.own_wanted(&self.client) {
                Ok(found) => found,
                Err(why) => return Err(self.wait_for_primary(why)),
            };
            self.end_waiting();
            let spare = if self.losses > 1 { None } else { self.service.take_spare(node, &wanted) };
            match spare {
                Some(own) => self.own = OwnState::Open(Box::new(own)),
                None => {
                    self.dial_own(node, wanted);
                    return Err(Taken::Wait(Wait::Own));
                }
            }
            self.client.mode.update(|mode| super::client::Mode { has_own: true, ..mode });
        }
        match &mut self.own {
            OwnState::Open(own) => Ok(own),
            OwnState::None | OwnState::Opening(_) => Err(Taken::Wait(Wait::Own)),
        }
    }

    fn dial_own(&mut self, node: u64, wanted: Wanted) {
        let slot: Rc<Slot> = Rc::default();
        self.own = OwnState::Opening(Rc::clone(&slot));
        let (core, service, client) = (Rc::clone(&self.core), Rc::clone(&self.service), Rc::clone(&self.client));
        let pauses = self.losses > 1;
        tokio::task::spawn_local(async move {
            if pauses {
                core.wheel.sleep(PAUSE).await;
            }
            let opened = connect(&core, &wanted).await;
            if let Err(failure) = &opened
                && !matches!(failure, Failure::Refused(_))
            {
                service.doubt(&core, node, &failure.to_string());
            }
            if let Ok(opened) = &opened {
                service.learn_db(wanted.db);
                if let Some(hello) = &opened.hello {
                    service.learn_hello(wanted.version, hello);
                }
            }
            *slot.borrow_mut() = Some(opened.map(|opened| Own::new(node, wanted, opened)));
            client.wake();
        });
    }

    /// What the next request on the client's connection has to wait for, besides what is on its way. While writes are
    /// held, and until it is clear that the node still is the primary, nothing more goes there.
    ///
    /// # Errors
    /// What became of the request.
    pub(super) fn before_own(&mut self) -> Result<(), Taken> {
        let OwnState::Open(own) = &self.own else { return Ok(()) };
        if own.is_waiting() {
            // It would only wait there, too, as one more that is on its way to a primary that may be about to change.
            return Err(Taken::Wait(Wait::Own));
        }
        match self.service.primary() {
            Ok(node) if node == own.node() => Ok(()),
            _ if own.owes() => Err(Taken::Wait(Wait::Own)),
            Ok(_) => {
                self.lose_own("the primary was replaced");
                Err(Taken::Wait(Wait::Output))
            }
            Err(why) => {
                let taken = self.wait_for_primary(why);
                if matches!(taken, Taken::Done) && self.is_in_multi() {
                    self.abort_transaction();
                }
                Err(taken)
            }
        }
    }

    /// A request that needs a connection of its own.
    pub(super) fn send_own(&mut self, frame: &[u8], what: What) -> Taken {
        let begins_transaction = matches!(what, What::Watch | What::Multi { .. }) && !self.is_in_transaction;
        if begins_transaction && self.service.is_draining.get() {
            if self.awaits_own() {
                return Taken::Wait(Wait::Own);
            }
            return self.wait_for_primary("its primary is about to be changed".to_owned());
        }
        match self.open_own() {
            Ok(own) => own.send(frame, what),
            Err(taken) => return taken,
        }
        self.note_own(frame);
        if !self.wants_reply()
            && let OwnState::Open(own) = &mut self.own
            && let Some(expect) = own.expects.back_mut()
        {
            expect.is_silent = true;
        }
        self.service.stats.to_own.set(self.service.stats.to_own.get() + 1);
        self.note_write();
        if matches!(what, What::Block { .. }) {
            self.note_blocked(true);
        }
        self.count_pending();
        Taken::Done
    }

    /// Counts the request that the reply is about that is due last.
    fn note_own(&mut self, frame: &[u8]) {
        let usage = &self.service.usage;
        // Each has its time taken: it costs little beside what else is done for it.
        drop(usage.note(self.command, Ran::Own, frame, self.client.db.get()));
        let call = Call::new(usage.table(), self.command, now_ns(), frame.len());
        if let OwnState::Open(own) = &mut self.own
            && !own.state.is_monitor
            && let Some(expect) = own.expects.back_mut()
        {
            expect.call = Some(call);
        }
    }

    /// Replies are due on the client's own connection, or it is being opened.
    pub(super) fn awaits_own(&self) -> bool {
        match &self.own {
            OwnState::None => false,
            OwnState::Opening(slot) => slot.borrow().is_none(),
            OwnState::Open(own) => own.owes() || !own.output.is_empty(),
        }
    }

    /// The next reply comes when something happens.
    pub(super) fn is_blocked(&self) -> bool {
        let what = match &self.own {
            OwnState::Open(own) => own.expects.front().map(|expect| expect.what),
            OwnState::None | OwnState::Opening(_) => None,
        };
        matches!(what, Some(What::Block { .. } | What::Replicated))
    }

    /// The client must wait until its server takes more, or answers.
    pub(super) fn own_is_full(&self) -> bool {
        matches!(&self.own, OwnState::Open(own) if own.is_full())
    }

    /// The service must know how many requests are on their way to the primary, wherever.
    pub(super) fn count_pending(&mut self) {
        let now = match &self.own {
            OwnState::Open(own) => own.expects.pending(),
            _ => 0,
        };
        let before = std::mem::replace(&mut self.pending_own, now);
        self.service.own_pending.update(|all| (all + now).saturating_sub(before));
        let is_in_transaction = self.has_begun_transaction();
        if is_in_transaction != self.is_in_transaction {
            self.is_in_transaction = is_in_transaction;
            let count = |all: usize| if is_in_transaction { all + 1 } else { all.saturating_sub(1) };
            self.service.in_transaction.update(count);
        }
        let blocked_on = match &self.own {
            OwnState::Open(own) => own.id.filter(|_| own.blocks()),
            _ => None,
        };
        self.client.blocked_on.set(blocked_on);
        let waits_on = match &self.own {
            OwnState::Open(own) => own.id.filter(|_| own.is_waiting()).map(|id| (own.node, id)),
            _ => None,
        };
        self.client.waits_on.set(waits_on);
    }

    /// Keys are watched or a transaction is open on the client's own connection, or will be when what is on its way is
    /// answered.
    fn has_begun_transaction(&self) -> bool {
        let OwnState::Open(own) = &self.own else { return false };
        own.state.is_watching || own.state.is_in_multi || own.expects.begin_transaction()
    }

    /// Moves bytes between the client's own connection and the client.
    /// Answers whether anything came, or the connection was lost.
    pub(super) fn poll_own(&mut self, cx: &mut Context<'_>) -> bool {
        if !matches!(self.own, OwnState::Open(_)) {
            return false;
        }
        let OwnState::Open(mut own) = std::mem::replace(&mut self.own, OwnState::None) else { return false };
        // A node that has been replaced gets no more. What it has said already is told: its refusals hold, and an element
        // that it has given away is better given twice than lost.
        let is_replaced = self.service.is_replaced(own.node());
        let served = self.serve_own(&mut own, cx, !is_replaced).and_then(|has_come| match is_replaced {
            true => Err("the primary was replaced".to_owned()),
            false => Ok(has_come),
        });
        self.own = OwnState::Open(own);
        match &served {
            Ok(_) => self.release_own(),
            Err(why) => self.lose_own(why),
        }
        self.count_pending();
        served.unwrap_or(true)
    }

    fn serve_own(&mut self, own: &mut Own, cx: &mut Context<'_>, writes: bool) -> Result<bool, String> {
        if writes {
            own.poll_write(cx).map_err(|e| e.to_string())?;
        }
        let mut has_come = false;
        loop {
            self.is_own_paused = self.client.waiting_output() > super::client::MOST_OUTPUT;
            if self.is_own_paused {
                return Ok(has_come);
            }
            let core = Rc::clone(&self.core);
            let mut scratch = core.scratch.borrow_mut();
            let n = match own.poll_read(cx, &mut scratch) {
                Poll::Pending => return Ok(has_come),
                Poll::Ready(Ok(0)) => return Err("the server closed the connection".into()),
                Poll::Ready(Ok(n)) => n,
                Poll::Ready(Err(e)) => return Err(e.to_string()),
            };
            let read = scratch.get(..n).unwrap_or_default();
            if own.input.is_empty() {
                let used = self.take_replies(own, read)?;
                own.input.extend_from_slice(read.get(used..).unwrap_or_default());
            } else {
                let mut input = std::mem::take(&mut own.input);
                input.extend_from_slice(read);
                let used = self.take_replies(own, &input)?;
                input.drain(..used);
                own.input = input;
            }
            own.since = now_ns();
            has_come = true;
        }
    }

    /// The connection is not needed any more: it goes to the next who needs one, if nothing is left on it.
    pub(super) fn release_own(&mut self) {
        let OwnState::Open(own) = &self.own else { return };
        let is_quiet = !own.owes() && own.output.is_empty() && own.input.is_empty();
        let tainted_only = Held { is_tainted: true, ..Held::default() };
        let is_clean = own.state == Held::default();
        if !is_quiet
            || self.client.unblocking.get() > 0
            || self.is_streaming()
            || !self.subscriptions.is_empty()
            || !is_clean && own.state != tainted_only
        {
            return;
        }
        let OwnState::Open(own) = std::mem::replace(&mut self.own, OwnState::None) else { return };
        self.client.mode.update(|mode| super::client::Mode { has_own: false, ..mode });
        if is_clean && own.wanted.version == self.client.version.get() && own.wanted.db == self.client.db.get() {
            self.service.give_spare(*own);
        }
    }

    /// Closes the connection; what the client is subscribed to and has switched on is taken up again.
    pub(super) fn drop_own(&mut self) {
        self.tell_flushed();
        self.own = OwnState::None;
        let drop = |mode| super::client::Mode { has_own: false, is_watching: false, queued: None, ..mode };
        self.client.mode.update(drop);
        self.count_pending();
    }

    /// The client leaves, or has no use for what is left on its connection.
    pub(super) fn leave_own(&mut self) {
        self.own = OwnState::None;
        self.subscriptions = Subscriptions::default();
        self.switched = Switched::default();
        self.client.mode.update(|mode| super::client::Mode { queued: mode.queued, ..Default::default() });
        self.count_pending();
    }
}

/// The connection's number in a server's answer to HELLO.
fn id_of(hello: &[u8]) -> Option<u64> {
    let (_, number) = super::hello::around_id(hello)?;
    std::str::from_utf8(number.get(1..)?.split(|byte| *byte == b'\r').next()?).ok()?.parse().ok()
}
