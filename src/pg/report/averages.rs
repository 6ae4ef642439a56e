//! Averages over the last period or two, as PgBouncer computes them: from the present counters and those of the
//! period before the last, so that a reader never sees an average over no time at all.

use std::collections::HashMap;

use super::super::pool::PoolKey;
use super::super::stats::Totals;

/// Counters of every pool at one moment.
#[derive(Debug, Clone, Default)]
struct Sample {
    at: u64,
    totals: HashMap<PoolKey, Totals>,
}

/// The last two samples.
#[derive(Debug, Clone, Default)]
pub struct History {
    older: Sample,
    newer: Sample,
}

/// Rates a second and means in microseconds, rounded down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "PgBouncer's names without their avg_, see SHOW STATS")]
pub struct Averages {
    pub assignments: u64,
    pub xacts: u64,
    pub queries: u64,
    pub received: u64,
    pub sent: u64,
    /// For each transaction.
    pub xact_time: u64,
    /// For each query.
    pub query_time: u64,
    /// For each assignment of a server.
    pub wait_time: u64,
    pub client_parses: u64,
    pub server_parses: u64,
    pub binds: u64,
    pub logins: u64,
}

impl History {
    /// Begins at `now` (ns), with all counters at 0.
    pub fn new(now: u64) -> Self {
        let begin = Sample { at: now, totals: HashMap::new() };
        History { older: begin.clone(), newer: begin }
    }

    /// A period ends at `now` with these counters. Returns the averages of this period over all pools.
    pub fn roll(&mut self, now: u64, totals: impl IntoIterator<Item = (PoolKey, Totals)>) -> Averages {
        let current = Sample { at: now, totals: totals.into_iter().collect() };
        self.older = std::mem::replace(&mut self.newer, current);
        let sum = |sample: &Sample| {
            let mut sum = Totals::default();
            sample.totals.values().for_each(|t| sum.add(t));
            sum
        };
        Averages::between(&sum(&self.older), &sum(&self.newer), now.saturating_sub(self.older.at))
    }

    /// The averages over some pools that have the counters `totals` together at `now`.
    pub fn averages<'k>(&self, now: u64, keys: impl IntoIterator<Item = &'k PoolKey>, totals: &Totals) -> Averages {
        let mut older = Totals::default();
        for key in keys {
            if let Some(known) = self.older.totals.get(key) {
                older.add(known);
            }
        }
        Averages::between(&older, totals, now.saturating_sub(self.older.at))
    }
}

impl Averages {
    /// What was done from `old` to `new` in `span` ns.
    fn between(old: &Totals, new: &Totals, span: u64) -> Self {
        if span == 0 {
            return Averages::default();
        }
        let rate = |old: u64, new: u64| {
            let done = u128::from(new.saturating_sub(old));
            u64::try_from(done * 1_000_000_000 / u128::from(span)).unwrap_or(u64::MAX)
        };
        let mean = |old_ns: u64, new_ns: u64, old: u64, new: u64| {
            (new_ns.saturating_sub(old_ns) / 1000).checked_div(new.saturating_sub(old)).unwrap_or(0)
        };
        Averages {
            assignments: rate(old.assignments, new.assignments),
            xacts: rate(old.xacts, new.xacts),
            queries: rate(old.queries, new.queries),
            received: rate(old.received, new.received),
            sent: rate(old.sent, new.sent),
            xact_time: mean(old.xact_time, new.xact_time, old.xacts, new.xacts),
            query_time: mean(old.query_time, new.query_time, old.queries, new.queries),
            wait_time: mean(old.wait_time, new.wait_time, old.assignments, new.assignments),
            client_parses: rate(old.client_parses, new.client_parses),
            server_parses: rate(old.server_parses, new.server_parses),
            binds: rate(old.binds, new.binds),
            logins: rate(old.logins, new.logins),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn key(database: &str) -> PoolKey {
        PoolKey { database: database.into(), user: "app".into() }
    }

    fn totals(queries: u64, query_time: u64) -> Totals {
        Totals { queries, query_time, received: queries * 100, ..Totals::default() }
    }

    #[test]
    fn rates_are_a_second_and_times_a_query() {
        let mut history = History::new(0);
        let period = history.roll(60 * SECOND, [(key("a"), totals(600, 1_200_000_000))]);
        assert_eq!((period.queries, period.query_time, period.received), (10, 2000, 1000));
    }

    #[test]
    fn a_reader_sees_one_to_two_periods() {
        let mut history = History::new(0);
        history.roll(60 * SECOND, [(key("a"), totals(600, 0))]);
        history.roll(120 * SECOND, [(key("a"), totals(1200, 0))]);
        let now = history.averages(130 * SECOND, [&key("a")], &totals(1300, 0));
        assert_eq!(now.queries, 10, "700 queries in the 70 s since the last but one sample");
        let other = history.averages(130 * SECOND, [&key("b")], &totals(70, 0));
        assert_eq!(other.queries, 1, "a pool that was not there before began at 0");
    }

    #[test]
    fn nothing_done_and_no_time_gone_are_zero() {
        let history = History::new(5);
        assert_eq!(history.averages(5, [&key("a")], &totals(9, 9)), Averages::default());
        assert_eq!(history.averages(5 + SECOND, [&key("a")], &Totals::default()), Averages::default());
    }
}
