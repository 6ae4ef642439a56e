//! Counters of one pool on one thread. Plain cells: the thread that counts is the only one that writes, and the
//! console asks each thread for a copy.

use std::cell::{Cell, RefCell};
use std::ops::AddAssign;
use std::rc::Rc;

use crate::worker::times::{Durations, Times};

/// Makes [`Stats`], [`Totals`] and [`Averages`] of one list, so that no counter can be forgotten on its way from a
/// thread to the console.
macro_rules! counters {
    (
        timed { $($(#[$timed_doc:meta])* $times:ident counts $timed:ident: $timed_how:ident(),)* }
        averaged { $($(#[$shown_doc:meta])* $shown:ident: $how:ident($($over:ident)?),)* }
        counted { $($(#[$kept_doc:meta])* $kept:ident,)* }
    ) => {
        /// Counts since the start of the process. Times in nanoseconds.
        #[derive(Debug)]
        #[allow(missing_docs, reason = "PgBouncer's names, see SHOW STATS")]
        pub struct Stats {
            $($(#[$timed_doc])* pub $times: Times,)*
            $($(#[$shown_doc])* pub $shown: Cell<u64>,)*
            $($(#[$kept_doc])* pub $kept: Cell<u64>,)*
            /// Statements by node.
            pub by_node: ByNode,
            /// The same by what the node was at the time.
            pub by_target: RefCell<ByTarget>,
        }

        /// A plain copy of [`Stats`], added up over threads.
        #[derive(Debug, Clone, Default, PartialEq)]
        #[allow(missing_docs, reason = "the same names as Stats")]
        pub struct Totals {
            $(pub $times: Durations,)*
            $(pub $timed: u64,)*
            $(pub $shown: u64,)*
            $(pub $kept: u64,)*
            pub by_node: Vec<NodeStats>,
        }

        /// Rates a second and means in microseconds, rounded down.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[allow(missing_docs, reason = "PgBouncer's names without their avg_, see SHOW STATS")]
        pub struct Averages {
            $(pub $timed: u64,)*
            $($(#[$shown_doc])* pub $shown: u64,)*
        }

        impl Default for Stats {
            fn default() -> Self {
                Stats {
                    $($times: Times::default(),)*
                    $($shown: Cell::new(0),)*
                    $($kept: Cell::new(0),)*
                    by_node: ByNode::default(),
                    by_target: RefCell::default(),
                }
            }
        }

        impl Stats {
            /// A copy.
            pub fn totals(&self) -> Totals {
                Totals {
                    $($times: self.$times.durations(),)*
                    $($timed: self.$times.durations().count(),)*
                    $($shown: self.$shown.get(),)*
                    $($kept: self.$kept.get(),)*
                    by_node: self.by_node.copies(),
                }
            }
        }

        impl Totals {
            fn add_counts(&mut self, other: &Totals) {
                $(self.$times += other.$times;)*
                $(self.$timed += other.$timed;)*
                $(self.$shown += other.$shown;)*
                $(self.$kept += other.$kept;)*
            }
        }

        impl Averages {
            /// What was done from `old` to `new` in `span` ns; all 0 over no time.
            pub fn between(old: &Totals, new: &Totals, span: u64) -> Self {
                Averages {
                    $($timed: $timed_how(span, [old.$timed, new.$timed]),)*
                    $($shown: $how(span, [old.$shown, new.$shown] $(, [old.$over, new.$over])?),)*
                }
            }
        }
    };
}

counters! {
    timed {
        /// From a request to the answer's end.
        query_times counts queries: rate(),
        /// From the beginning of a transaction to its end.
        xact_times counts xacts: rate(),
        /// In the queue, in vain or not.
        wait_times counts waits: rate(),
    }
    averaged {
        assignments: rate(),
        received: rate(),
        sent: rate(),
        xact_time: mean(xacts),
        query_time: mean(queries),
        wait_time: mean(assignments),
        client_parses: rate(),
        server_parses: rate(),
        binds: rate(),
        logins: rate(),
    }
    counted {
        /// Clients that were served after a wait, gave up after `queue_timeout`, or found the queue full.
        served,
        timed_out,
        refused,
        /// Reads behind a client's own write, or a position that it has named, that a replica served.
        fresh,
        /// Those that no replica could serve because it had not replayed so far.
        stale,
        /// Statements that a replica refused and the primary ran.
        rerouted,
        errors,
        /// Connections given to another thread.
        handed_over,
    }
}

/// How many a second.
fn rate(span: u64, [old, new]: [u64; 2]) -> u64 {
    let done = u128::from(new.saturating_sub(old)) * 1_000_000_000;
    done.checked_div(u128::from(span)).map_or(0, |rate| u64::try_from(rate).unwrap_or(u64::MAX))
}

/// How many microseconds each.
fn mean(span: u64, [old_ns, new_ns]: [u64; 2], [old, new]: [u64; 2]) -> u64 {
    if span == 0 {
        return 0;
    }
    (new_ns.saturating_sub(old_ns) / 1000).checked_div(new.saturating_sub(old)).unwrap_or(0)
}

/// Adds to a counter.
#[inline]
pub fn add(cell: &Cell<u64>, n: u64) {
    cell.set(cell.get().wrapping_add(n));
}

/// Nodes whose statements are counted in place; those of further ones, which hardly anybody has, are found more slowly.
const NEAR: usize = 8;

/// Statements by node.
#[derive(Debug, Default)]
pub struct ByNode {
    near: [NodeCounts; NEAR],
    far: RefCell<Vec<Rc<NodeCounts>>>,
}

impl ByNode {
    #[inline]
    fn with(&self, node: usize, count: impl FnOnce(&NodeCounts)) {
        match self.near.get(node) {
            Some(counts) => count(counts),
            None => count(&self.far(node - NEAR)),
        }
    }

    #[cold]
    fn far(&self, index: usize) -> Rc<NodeCounts> {
        let mut far = self.far.borrow_mut();
        while far.len() <= index {
            far.push(Rc::default());
        }
        far.get(index).map(Rc::clone).unwrap_or_default()
    }

    /// A copy, up to the last node that has had a statement.
    fn copies(&self) -> Vec<NodeStats> {
        let far = self.far.borrow();
        let mut all: Vec<NodeStats> =
            self.near.iter().chain(far.iter().map(|counts| &**counts)).map(NodeCounts::copy).collect();
        let used = all.iter().rposition(|node| *node != NodeStats::default()).map_or(0, |last| last + 1);
        all.truncate(used);
        all
    }
}

impl Stats {
    /// A statement whose command tag or error ended it ran on `node`.
    #[inline]
    pub fn count_on(&self, node: usize, count: impl FnOnce(&NodeCounts)) {
        self.by_node.with(node, count);
    }
}

/// Statements by what their node was. Roles change rarely and statements come often, so nothing is counted a second time:
/// what a node was sent is put down to its role when it loses it, or when somebody asks.
#[derive(Debug, Clone, Default)]
pub struct ByTarget {
    primary: u64,
    replica: u64,
    /// Statements by node that are in the two.
    counted: Vec<u64>,
}

impl Stats {
    /// Statements that primaries and replicas were sent, if `primary` has been one since this was called last. Without any,
    /// what has come since then is left to the next call.
    pub fn targets(&self, primary: Option<usize>) -> (u64, u64) {
        let mut by_target = self.by_target.borrow_mut();
        let ByTarget { primary: to_primary, replica: to_replica, counted } = &mut *by_target;
        if let Some(primary) = primary {
            let nodes = self.by_node.copies();
            counted.resize(nodes.len().max(counted.len()), 0);
            for (node, (now, counted)) in nodes.iter().zip(counted).enumerate() {
                let all = now.all();
                let target = if node == primary { &mut *to_primary } else { &mut *to_replica };
                *target += all.saturating_sub(*counted);
                *counted = all;
            }
        }
        (*to_primary, *to_replica)
    }
}

impl Totals {
    /// Adds another thread's counts.
    pub fn add(&mut self, other: &Totals) {
        self.add_counts(other);
        add_by_index(&mut self.by_node, &other.by_node);
    }
}

/// Adds what another thread counted of each node; a thread knows the nodes up to the last one that it used.
pub(super) fn add_by_index<T: AddAssign + Copy + Default>(mine: &mut Vec<T>, theirs: &[T]) {
    if mine.len() < theirs.len() {
        mine.resize(theirs.len(), T::default());
    }
    for (mine, theirs) in mine.iter_mut().zip(theirs) {
        *mine += *theirs;
    }
}

/// Makes a struct of plain numbers that is added up field by field.
macro_rules! summed {
    (
        $(#[$about:meta])*
        pub struct $name:ident { $($(#[$doc:meta])* pub $field:ident: $number:ty,)* }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct $name { $($(#[$doc])* pub $field: $number,)* }

        impl std::ops::AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                $(self.$field += other.$field;)*
            }
        }
    };
}
pub(super) use summed;

summed! {
    /// Statements sent to one node by kind, as `SHOW POOL_BACKEND_STATS` counts them.
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
}

impl NodeStats {
    /// Statements of every kind, those that failed included.
    fn all(&self) -> u64 {
        self.selects + self.inserts + self.updates + self.deletes + self.ddl + self.other + self.errors
    }
}

/// Makes [`NodeCounts`], the same in cells.
macro_rules! node_counts {
    ($($field:ident)*) => {
        /// What a thread counts of one node, see [`NodeStats`].
        #[derive(Debug, Default)]
        #[allow(missing_docs, reason = "the names of NodeStats")]
        pub struct NodeCounts { $(pub $field: Cell<u64>,)* }

        impl NodeCounts {
            fn copy(&self) -> NodeStats {
                NodeStats { $($field: self.$field.get(),)* }
            }
        }
    };
}
node_counts!(selects inserts updates deletes ddl other panics fatals errors);

impl NodeCounts {
    /// Counts a completed statement by its command tag.
    #[inline]
    pub fn completed(&self, tag: &[u8]) {
        let counter = match tag {
            [b'S', b'E', b'L', ..] => &self.selects,
            [b'I', b'N', b'S', ..] => &self.inserts,
            [b'U', b'P', b'D', ..] => &self.updates,
            [b'D', b'E', b'L', ..] => &self.deletes,
            [b'C', b'R', b'E', ..] | [b'A', b'L', b'T', ..] | [b'D', b'R', b'O', ..] | [b'T', b'R', b'U', ..] => {
                &self.ddl
            }
            _ => &self.other,
        };
        add(counter, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_nodes_is_counted() {
        let stats = Stats::default();
        for node in [0, 2, NEAR, NEAR + 3, NEAR + 3] {
            stats.count_on(node, |n| n.completed(b"SELECT 1"));
        }
        let told: Vec<u64> = stats.totals().by_node.iter().map(|node| node.selects).collect();
        let mut expected = vec![0; NEAR + 4];
        (expected[0], expected[2], expected[NEAR], expected[NEAR + 3]) = (1, 1, 1, 2);
        assert_eq!(told, expected);
    }

    #[test]
    fn what_a_node_was_sent_stays_with_the_role_that_it_had() {
        let stats = Stats::default();
        stats.count_on(0, |n| n.completed(b"INSERT 0 1"));
        stats.count_on(1, |n| n.completed(b"SELECT 1"));
        assert_eq!(stats.targets(Some(0)), (1, 1));
        stats.count_on(1, |n| n.completed(b"INSERT 0 1"));
        assert_eq!(stats.targets(None), (1, 1), "nobody is the primary: it is not known yet");
        assert_eq!(stats.targets(Some(1)), (2, 1));
        assert_eq!(stats.targets(Some(1)), (2, 1));
    }
}
