//! Counters of one pool on one thread. Plain cells: the thread that counts is the only one that writes, and the
//! console asks each thread for a copy.

use std::cell::{Cell, RefCell};

use hdrhistogram::Histogram;

/// Counts since the start of the process. Times in nanoseconds.
#[derive(Debug)]
#[allow(missing_docs, reason = "PgBouncer's names, see SHOW STATS")]
pub struct Stats {
    pub assignments: Cell<u64>,
    pub xacts: Cell<u64>,
    pub queries: Cell<u64>,
    pub received: Cell<u64>,
    pub sent: Cell<u64>,
    pub xact_time: Cell<u64>,
    pub query_time: Cell<u64>,
    pub wait_time: Cell<u64>,
    pub client_parses: Cell<u64>,
    pub server_parses: Cell<u64>,
    pub binds: Cell<u64>,
    pub logins: Cell<u64>,
    /// Clients that were served after a wait, gave up after `queue_timeout`, or found the queue full.
    pub served: Cell<u64>,
    pub timed_out: Cell<u64>,
    pub refused: Cell<u64>,
    /// Reads that a replica could not serve because the client's own write had not arrived there.
    pub stale: Cell<u64>,
    /// Statements that a replica refused and the primary ran.
    pub rerouted: Cell<u64>,
    pub errors: Cell<u64>,
    /// Connections given to another thread.
    pub handed_over: Cell<u64>,
    /// Statements by node.
    pub by_node: RefCell<Vec<NodeStats>>,
    /// Microseconds, three digits.
    pub query_us: RefCell<Histogram<u64>>,
    /// Microseconds, three digits.
    pub wait_us: RefCell<Histogram<u64>>,
}

/// Statements sent to one node by kind, as `SHOW POOL_BACKEND_STATS` counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct NodeStats {
    pub selects: u64,
    pub inserts: u64,
    pub updates: u64,
    pub deletes: u64,
    pub ddl: u64,
    pub other: u64,
    pub panics: u64,
    pub fatals: u64,
    pub errors: u64,
}

/// A plain copy of [`Stats`], added up over threads.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs, reason = "the same names as Stats")]
pub struct Totals {
    pub assignments: u64,
    pub xacts: u64,
    pub queries: u64,
    pub received: u64,
    pub sent: u64,
    pub xact_time: u64,
    pub query_time: u64,
    pub wait_time: u64,
    pub client_parses: u64,
    pub server_parses: u64,
    pub binds: u64,
    pub logins: u64,
    pub served: u64,
    pub timed_out: u64,
    pub refused: u64,
    pub stale: u64,
    pub rerouted: u64,
    pub errors: u64,
    pub handed_over: u64,
    pub by_node: Vec<NodeStats>,
}

impl Default for Stats {
    fn default() -> Self {
        let zero = || Cell::new(0);
        // One minute at three digits; longer values are counted in the last bucket.
        let histogram = || {
            let mut h = Histogram::new(2).unwrap_or_else(|_| unreachable_histogram());
            h.auto(true);
            RefCell::new(h)
        };
        Stats {
            assignments: zero(),
            xacts: zero(),
            queries: zero(),
            received: zero(),
            sent: zero(),
            xact_time: zero(),
            query_time: zero(),
            wait_time: zero(),
            client_parses: zero(),
            server_parses: zero(),
            binds: zero(),
            logins: zero(),
            served: zero(),
            timed_out: zero(),
            refused: zero(),
            stale: zero(),
            rerouted: zero(),
            errors: zero(),
            handed_over: zero(),
            by_node: RefCell::default(),
            query_us: histogram(),
            wait_us: histogram(),
        }
    }
}

/// Two digits are within the documented 0 to 5, so this is never reached; a one-digit histogram is as valid.
fn unreachable_histogram() -> Histogram<u64> {
    Histogram::new(1).unwrap_or_else(|_| std::process::abort())
}

/// Adds to a counter.
#[inline]
pub fn add(cell: &Cell<u64>, n: u64) {
    cell.set(cell.get().wrapping_add(n));
}

impl Stats {
    /// A statement whose command tag or error ended it ran on `node`.
    #[inline]
    pub fn count_on(&self, node: usize, count: impl FnOnce(&mut NodeStats)) {
        let mut nodes = self.by_node.borrow_mut();
        if nodes.len() <= node {
            nodes.resize(node + 1, NodeStats::default());
        }
        if let Some(entry) = nodes.get_mut(node) {
            count(entry);
        }
    }

    /// A copy.
    pub fn totals(&self) -> Totals {
        Totals {
            assignments: self.assignments.get(),
            xacts: self.xacts.get(),
            queries: self.queries.get(),
            received: self.received.get(),
            sent: self.sent.get(),
            xact_time: self.xact_time.get(),
            query_time: self.query_time.get(),
            wait_time: self.wait_time.get(),
            client_parses: self.client_parses.get(),
            server_parses: self.server_parses.get(),
            binds: self.binds.get(),
            logins: self.logins.get(),
            served: self.served.get(),
            timed_out: self.timed_out.get(),
            refused: self.refused.get(),
            stale: self.stale.get(),
            rerouted: self.rerouted.get(),
            errors: self.errors.get(),
            handed_over: self.handed_over.get(),
            by_node: self.by_node.borrow().clone(),
        }
    }
}

impl Totals {
    /// Adds another thread's counts.
    pub fn add(&mut self, other: &Totals) {
        self.assignments += other.assignments;
        self.xacts += other.xacts;
        self.queries += other.queries;
        self.received += other.received;
        self.sent += other.sent;
        self.xact_time += other.xact_time;
        self.query_time += other.query_time;
        self.wait_time += other.wait_time;
        self.client_parses += other.client_parses;
        self.server_parses += other.server_parses;
        self.binds += other.binds;
        self.logins += other.logins;
        self.served += other.served;
        self.timed_out += other.timed_out;
        self.refused += other.refused;
        self.stale += other.stale;
        self.rerouted += other.rerouted;
        self.errors += other.errors;
        self.handed_over += other.handed_over;
        if self.by_node.len() < other.by_node.len() {
            self.by_node.resize(other.by_node.len(), NodeStats::default());
        }
        for (mine, theirs) in self.by_node.iter_mut().zip(&other.by_node) {
            mine.selects += theirs.selects;
            mine.inserts += theirs.inserts;
            mine.updates += theirs.updates;
            mine.deletes += theirs.deletes;
            mine.ddl += theirs.ddl;
            mine.other += theirs.other;
            mine.panics += theirs.panics;
            mine.fatals += theirs.fatals;
            mine.errors += theirs.errors;
        }
    }
}

impl NodeStats {
    /// Counts a completed statement by its command tag.
    #[inline]
    pub fn completed(&mut self, tag: &[u8]) {
        match tag {
            [b'S', b'E', b'L', ..] => self.selects += 1,
            [b'I', b'N', b'S', ..] => self.inserts += 1,
            [b'U', b'P', b'D', ..] => self.updates += 1,
            [b'D', b'E', b'L', ..] => self.deletes += 1,
            [b'C', b'R', b'E', ..] | [b'A', b'L', b'T', ..] | [b'D', b'R', b'O', ..] | [b'T', b'R', b'U', ..] => {
                self.ddl += 1;
            }
            _ => self.other += 1,
        }
    }
}
