//! What the console and cancel requests can see of clients and servers of one thread.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::task::Waker;
use std::time::SystemTime;

use super::listen::Inbox;
use crate::net::tls::Cipher;
use crate::net::{Endpoint, Target};
use crate::topology::failover::doubt::Transaction;
use crate::wire::pg::cancel_key::CancelKey;
use crate::worker::permit::Permit;

/// One client, from its login to its end.
#[derive(Debug)]
pub struct Client {
    /// Unique in this process.
    pub id: u64,
    /// Name that the client asked for.
    pub database: Arc<str>,
    /// Login.
    pub user: Arc<str>,
    /// The other side.
    pub peer: Endpoint,
    /// Our side.
    pub local: Endpoint,
    /// Wall clock, for the console.
    pub connected: SystemTime,
    /// What a CancelRequest must show.
    pub key: CancelKey,
    /// What protects the connection.
    pub tls: Option<Cipher>,
    /// As the client set it.
    pub application_name: RefCell<String>,
    /// What it is doing.
    pub state: Cell<ClientState>,
    /// Since when it has been in `state`, ns.
    pub since: Cell<u64>,
    /// When the current or last request began, ns.
    pub query_began: Cell<u64>,
    /// When the current or last transaction began, ns.
    pub tx_began: Cell<u64>,
    /// Set by somebody else to end or interrupt the session.
    pub order: Cell<Option<Order>>,
    /// The session must look at `order` and at the time when it is next polled.
    pub is_called: Cell<bool>,
    /// While its request runs, the session does not look at its client: see [`Client::call`].
    pub is_unwatched: Cell<bool>,
    /// Wakes the session's task.
    pub waker: RefCell<Option<Waker>>,
    /// Protocol-level statements that the client has named.
    pub prepared: Cell<usize>,
    /// Why it keeps its server connection, if it does.
    pub pin: Cell<Option<&'static str>>,
    /// What it has listened for.
    pub inbox: RefCell<Option<Box<Inbox>>>,
    /// How much of what its answer waits for has come.
    pub arrived: Cell<u16>,
}

/// State of a client, as `SHOW CLIENTS` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientState {
    /// Has no server connection and asks for none.
    Idle,
    /// In the queue.
    Waiting,
    /// Has a server connection.
    Active,
}

/// What somebody else wants of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// End now: `KILL_CLIENT`, `KILL`, the end of the process. The words are for the client.
    End(&'static str),
    /// End when it next is outside a transaction: a drain.
    EndWhenIdle(&'static str),
    /// Go on in another process as soon as it owns nothing but what can be packed.
    Travel,
    /// A CancelRequest while it waits in the queue.
    CancelWait,
}

impl Order {
    /// Why the session has to end, for one that is never idle.
    pub fn end(self) -> Option<&'static str> {
        match self {
            Order::End(why) | Order::EndWhenIdle(why) => Some(why),
            Order::Travel | Order::CancelWait => None,
        }
    }
}

impl Client {
    /// Tells the session what is wanted of it.
    pub fn tell(&self, order: Order) {
        self.order.set(Some(order));
        self.call();
    }

    /// Has the session look at its orders, the time, and its client.
    pub fn call(&self) {
        self.is_called.set(true);
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// One server connection.
#[derive(Debug)]
pub struct Server {
    /// Unique in this process.
    pub id: u64,
    /// Pool's database and user.
    pub database: Arc<str>,
    /// See `database`.
    pub user: Arc<str>,
    /// Index in the cluster.
    pub node: usize,
    /// Where it is connected to.
    pub target: Arc<Target>,
    /// The other side.
    pub peer: Endpoint,
    /// Our side.
    pub local: Endpoint,
    /// Wall clock, for the console.
    pub connected: SystemTime,
    /// The server's process and the secret that cancels its query.
    pub process_id: i32,
    /// See `process_id`.
    pub secret: Box<[u8]>,
    /// What protects the connection.
    pub tls: Option<Cipher>,
    /// What it is doing.
    pub state: Cell<ServerState>,
    /// When its last request began, ns.
    pub since: Cell<u64>,
    /// The client that has it, 0 for none.
    pub client: Cell<u64>,
    /// Cancel requests on their way to the server: until they have ended the connection serves nobody else.
    pub cancels: Cell<u32>,
    /// Woken when `cancels` falls to 0.
    pub cancelled: RefCell<Option<Waker>>,
    /// Close it when it comes back (`RECONNECT`, a changed configuration).
    pub close_needed: Cell<bool>,
    /// The epoch in which the node was the primary: when this was made, or since it was promoted under it.
    pub primary_of: Cell<Option<u64>>,
    /// Taken away from its client, by an admin or because of a failover: it reads as lost.
    pub is_cut: Cell<bool>,
    /// Before each use `is_cut` and `permit` have to be looked at; else neither can be against it.
    pub is_guarded: Cell<bool>,
    /// The process' right to send writes to primaries, and to pass on what they answer.
    pub permit: Arc<Permit>,
    /// Statements that it knows.
    pub prepared: Cell<usize>,
    /// The transaction whose COMMIT was sent and not answered, if it is known.
    pub doubt: Cell<Option<Transaction>>,
}

/// State of a server connection, as `SHOW SERVERS` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerState {
    /// Connecting or logging in.
    New,
    /// Serves nobody.
    Idle,
    /// Serves a client.
    Active,
    /// Being cleaned.
    Tested,
    /// Waits for a cancel request to end.
    BeingCanceled,
}

impl ServerState {
    /// PgBouncer's word.
    pub fn as_str(self) -> &'static str {
        match self {
            ServerState::New => "new",
            ServerState::Idle => "idle",
            ServerState::Active => "active",
            ServerState::Tested => "tested",
            ServerState::BeingCanceled => "being_canceled",
        }
    }
}

impl ClientState {
    /// PgBouncer's word.
    pub fn as_str(self) -> &'static str {
        match self {
            ClientState::Idle => "idle",
            ClientState::Waiting => "waiting",
            ClientState::Active => "active",
        }
    }
}
