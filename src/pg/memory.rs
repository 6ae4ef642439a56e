//! What a session remembers beside what each statement needs: rare things, and small truths.

use std::sync::Arc;

use super::errors::Trouble;
use super::listen::Listening;
use super::look::Looks;
use super::route::Wish;
use super::settings::Settings;
use super::track::Op;
use super::watch::Watched;
use crate::config::model::ListenRoute;
use crate::topology::Lsn;

/// Named portals, and what executing them means for the session.
#[derive(Debug, Default)]
pub(super) struct Portals(pub Vec<(Box<[u8]>, Box<Op>)>);

/// What few statements need.
#[derive(Debug)]
pub(super) struct Rare {
    /// From the listener or `SET forebay.route`.
    pub route: ListenRoute,
    /// As the listener said.
    pub listen_route: ListenRoute,
    /// `SET LOCAL forebay.route`.
    pub route_local: Option<ListenRoute>,
    /// Why the last request that began outside a transaction was to go to a replica, if it need not only read.
    pub wish: Option<Wish>,
    /// What the statement bound last does to the session.
    pub bound: Option<Box<Op>>,
    /// The same for named portals whose statement means something for the session.
    pub portals: Option<Box<Portals>>,
    /// Names the text of the unnamed statement among all clients of the thread; 0 before the first.
    pub unnamed_serial: u64,
    /// Node of the last statement, for `SHOW forebay.node`.
    pub last_node: Option<u32>,
    /// Home thread, for the count of clients.
    pub home: usize,
    /// Session pooling: the connection stays until the client leaves.
    pub is_session: bool,
    /// Length of `output` when the answer began that may still be dropped.
    pub held_from: usize,
    /// How often the current request was run again.
    pub reruns: u8,
    /// The end of the answer waits until so many things have come that belong before it.
    pub awaited: u16,
    /// An error that the client is told when it next asks for something.
    pub owed: Option<Box<Trouble>>,
    /// What the connection really has, where a RESET made it differ from what the session should have.
    pub actual: Option<Arc<Settings>>,
    /// `forebay.read_after`
    pub read_after: Option<Box<Lsn>>,
    /// Of what was left on connections; nothing before the first.
    pub looks: Option<Box<Looks>>,
    /// Which statement an answer is about, where statements are counted.
    pub watched: Option<Box<Watched>>,
    /// Channels; nothing before the first.
    pub listening: Option<Box<Listening>>,
}

impl Rare {
    /// For a client that came in by a listener with this route.
    pub(super) fn new(route: ListenRoute, home: usize, is_session: bool) -> Self {
        Rare {
            route,
            listen_route: route,
            route_local: None,
            wish: None,
            bound: None,
            portals: None,
            unnamed_serial: 0,
            last_node: None,
            home,
            is_session,
            held_from: 0,
            reruns: 0,
            awaited: 0,
            owed: None,
            actual: None,
            read_after: None,
            looks: None,
            watched: None,
            listening: None,
        }
    }
}

/// Small truths about the session.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Flags {
    /// Input waits until the connection is quiet.
    pub hold: bool,
    /// Extended messages were sent since the last Sync.
    pub unsynced: bool,
    /// The open transaction (or request) may have written.
    pub wrote: bool,
    /// `wrote` is a guess: the only statement of the request was not examined.
    pub unexamined: bool,
    /// A COMMIT was sent and not answered.
    pub committing: bool,
    /// One that has written is committed, and the answer to that has not ended.
    pub committed: bool,
    /// The open transaction failed or was rolled back.
    pub rolled_back: bool,
    /// The answer so far may still be dropped and the request run elsewhere.
    pub undecided: bool,
    /// The request failed on this node in a way that another node mends: drop the answer and run it again.
    pub rerun: bool,
    /// The request begins with a Bind, and nothing of its answer has come.
    pub heals: bool,
    /// The open transaction (or request) may have changed tables or types.
    pub reshaped: bool,
    /// The next run must be on the primary.
    pub force_primary: bool,
    /// After an error of ours, drop everything up to the client's Sync.
    pub skip_to_sync: bool,
    /// The request at hand was run before and comes again.
    pub is_rerun: bool,
    /// Something in flight is counted.
    pub watching: bool,
    /// Everything in flight is counted, or nothing is in flight.
    pub watches: bool,
    /// The read at hand could wait for a replica that shows what its client has to see.
    pub awaits_fresh: bool,
    /// It has waited.
    pub has_awaited: bool,
    /// A request is running (between its first byte sent and ReadyForQuery).
    pub running: bool,
    /// `hold` waits to hear whether a LISTEN can be shared.
    pub asks: bool,
    /// The connection must be cleaned before somebody else gets it.
    pub dirty: bool,
    /// Counted among those who are pinned, for a statement that may pin it.
    pub may_pin: bool,
    /// The open transaction may have written data, and its server has not denied it; only with
    /// `failover.commit_resolution`.
    pub stirred: bool,
}
