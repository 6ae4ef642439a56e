//! A lane: one pipelined connection to a server that many clients share.
//!
//! Clients append whole requests and are noted in a queue; the lane's task writes what has gathered since its last
//! turn, cuts the replies, and writes each to the client whose turn it is. The bytes of requests are kept until they
//! are answered, so that they can be run again elsewhere when the connection is lost ([`returned`]).

mod returned;
mod rhythm;
mod task;
mod timing;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker;

use self::timing::Timing;
use super::client::Client;
use super::login::Login;
use crate::wire::resp::Version;

pub use task::{is_refusal, open, runs_script};

/// Bytes that may wait for a server before clients have to wait.
const MOST_WAITING: usize = 1024 * 1024;
/// Answered requests whose bytes are kept before the rest moves to the front, bytes.
const MOST_ANSWERED: usize = 128 * 1024;

/// What the clients of a lane have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LaneKey {
    /// [`crate::topology::redis::RedisNode::id`]
    pub node: u64,
    /// Protocol.
    pub version: Version,
    /// Database.
    pub db: u32,
    /// [`Login::id`]
    pub login: u32,
    /// What goes on it.
    pub kind: Kind,
}

/// What goes on a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Quick commands.
    Quick,
    /// Commands that may take long or answer much.
    Slow,
    /// AUTH of clients: whose user the connection is changes with each.
    Login,
}

/// See the module.
pub struct Lane {
    /// What its clients have in common.
    pub key: LaneKey,
    /// It leads to the node that takes writes.
    pub is_primary: bool,
    state: Cell<State>,
    sending: RefCell<Sending>,
    fifo: RefCell<VecDeque<Entry>>,
    /// Clients that wait until the server takes more.
    crowd: RefCell<Vec<Rc<Client>>>,
    /// The client that has to take its bytes first, and since when, ns.
    stuck: RefCell<Option<(Rc<Client>, u64)>>,
    /// How many commands went out in how many writes.
    writes: Cell<(u64, u64)>,
    pushed: Cell<u64>,
    waker: RefCell<Option<Waker>>,
    is_woken: Cell<bool>,
    /// Requests wait for replies, see [`rhythm`]; a few more are no reason to wake the task.
    holds: Cell<bool>,
    timing: Timing,
}

/// How a lane is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not connected yet; takes requests.
    Opening,
    /// Takes requests.
    Open,
    /// Takes no more; ends when all are answered.
    Retired,
    /// To be ended at once: its node is not what it was.
    Replaced,
    /// Ended.
    Dead,
}

/// Bytes of requests, from the first that is not answered: `written` of them are with the server.
#[derive(Debug, Default)]
struct Sending {
    bytes: Vec<u8>,
    written: usize,
    /// Bytes of requests that are answered.
    answered: usize,
}

/// Requests of one client, one behind the other.
#[derive(Debug)]
pub struct Entry {
    client: Rc<Client>,
    kind: EntryKind,
    /// Replies still to come.
    left: u32,
    /// Replies when it was noted.
    total: u32,
    /// Bytes of the requests.
    bytes: usize,
}

/// What becomes of the replies.
#[derive(Debug, Clone)]
pub enum EntryKind {
    /// All go to the client.
    Plain,
    /// None does: the client wants no replies.
    Silent,
    /// MULTI, commands, EXEC: the last one does, unless the client wants no replies.
    Block { is_silent: bool },
    /// Only an error does; that there is one tells the client's task to go on.
    Greeting { is_silent: bool },
    /// The client becomes this user if the reply is no error. `tell`: the reply is the client's; otherwise only an
    /// error is, and the client's task goes on.
    Login { login: Rc<Login>, tell: bool, is_silent: bool },
}

impl EntryKind {
    /// The client wants no reply to it.
    fn is_silent(&self) -> bool {
        match self {
            EntryKind::Plain => false,
            EntryKind::Silent => true,
            EntryKind::Block { is_silent } | EntryKind::Greeting { is_silent } | EntryKind::Login { is_silent, .. } => {
                *is_silent
            }
        }
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lane({:?}, {:?})", self.key, self.state.get())
    }
}

impl Lane {
    /// A lane that is being opened.
    pub fn new(key: LaneKey, is_primary: bool) -> Rc<Self> {
        Rc::new(Lane {
            key,
            is_primary,
            state: Cell::new(State::Opening),
            sending: RefCell::default(),
            fifo: RefCell::default(),
            crowd: RefCell::default(),
            stuck: RefCell::default(),
            writes: Cell::default(),
            pushed: Cell::new(0),
            waker: RefCell::default(),
            is_woken: Cell::new(false),
            holds: Cell::new(false),
            timing: Timing::default(),
        })
    }

    /// True if it takes requests.
    #[inline]
    pub fn is_open(&self) -> bool {
        matches!(self.state.get(), State::Opening | State::Open)
    }

    /// True if clients have to wait until the server has taken more; the caller calls [`Lane::wait_for_room`].
    #[inline]
    pub fn is_full(&self) -> bool {
        self.unsent() > MOST_WAITING
    }

    fn unsent(&self) -> usize {
        let sending = self.sending.borrow();
        sending.bytes.len() - sending.written
    }

    /// The client is woken when there is room.
    pub fn wait_for_room(&self, client: &Rc<Client>) {
        self.crowd.borrow_mut().push(Rc::clone(client));
    }

    /// Requests without an answer.
    pub fn in_flight(&self) -> usize {
        self.fifo.borrow().iter().map(|entry| entry.left as usize).sum()
    }

    /// Clients' turns without an answer: quick to count.
    pub fn load(&self) -> usize {
        self.fifo.borrow().len()
    }

    /// True if nothing is on its way.
    pub fn is_idle(&self) -> bool {
        self.fifo.borrow().is_empty()
    }

    /// Commands, and the writes that took them to the server.
    pub fn batching(&self) -> (u64, u64) {
        self.writes.get()
    }

    /// How it is doing.
    pub fn state(&self) -> State {
        self.state.get()
    }

    /// Sends `count` whole requests of a client. They leave with all others of this turn.
    #[inline]
    pub fn push(&self, client: &Rc<Client>, requests: &[u8], count: u32) {
        self.sending.borrow_mut().bytes.extend_from_slice(requests);
        self.pushed.set(self.pushed.get() + u64::from(count));
        client.in_flight.set(client.in_flight.get() + count);
        let mut fifo = self.fifo.borrow_mut();
        match fifo.back_mut() {
            // The bytes of an entry are kept until all of it is answered: one that grew for ever would keep them all.
            Some(last)
                if Rc::ptr_eq(&last.client, client)
                    && matches!(last.kind, EntryKind::Plain)
                    && last.bytes < MOST_ANSWERED =>
            {
                last.left += count;
                last.total += count;
                last.bytes += requests.len();
            }
            _ => fifo.push_back(Entry {
                client: Rc::clone(client),
                kind: EntryKind::Plain,
                left: count,
                total: count,
                bytes: requests.len(),
            }),
        }
        drop(fifo);
        self.wake_to_write();
    }

    /// Sends requests whose `replies` are not simply the client's.
    pub fn push_special(&self, client: &Rc<Client>, requests: &[u8], replies: u32, kind: EntryKind) {
        self.sending.borrow_mut().bytes.extend_from_slice(requests);
        self.pushed.set(self.pushed.get() + u64::from(replies));
        client
            .in_flight
            .set(client.in_flight.get() + if matches!(kind, EntryKind::Block { .. }) { 1 } else { replies });
        let entry = Entry { client: Rc::clone(client), kind, left: replies, total: replies, bytes: requests.len() };
        self.fifo.borrow_mut().push_back(entry);
        self.wake_to_write();
    }

    #[inline]
    fn wake_to_write(&self) {
        if !self.holds.get() || self.unsent() >= rhythm::MUCH {
            self.wake();
        }
    }

    #[inline]
    fn wake(&self) {
        if !self.is_woken.replace(true)
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }

    /// Takes no more requests; ends when all are answered.
    pub fn retire(&self) {
        if self.is_open() {
            self.state.set(State::Retired);
            self.wake();
        }
    }

    /// Its node is not what it was: what is not answered goes back to the clients.
    pub fn replace(&self) {
        if self.state.get() != State::Dead {
            self.state.set(State::Replaced);
            self.wake();
        }
    }

    /// Others have to wait until this client has taken its bytes.
    fn others_wait_for(&self, client: &Rc<Client>) -> bool {
        self.fifo.borrow().iter().any(|entry| !Rc::ptr_eq(&entry.client, client))
    }

    /// Closes the client that holds up everybody behind it, if it has for `limit` ns. Nobody is closed on a lane that
    /// is its alone.
    pub fn cut_stuck(&self, now: u64, limit: u64) {
        let stuck = self.stuck.borrow().clone();
        let Some((client, since)) = stuck.filter(|(client, _)| self.others_wait_for(client)) else { return };
        // Others may have taken theirs, which makes room for this one's.
        self.wake();
        if now.saturating_sub(since) >= limit {
            tracing::info!(client_id = client.id, peer = %client.peer, waiting = client.waiting_output(),
                "closed: it did not take its replies while others waited behind it");
            client.cut();
        }
    }
}
