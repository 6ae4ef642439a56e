//! Averages over the last period or two, as PgBouncer computes them: from the present counters and those of the
//! period before the last, so that a reader never sees an average over no time at all.

use std::collections::HashMap;

use super::super::pool::PoolKey;
use super::super::stats::{Averages, Totals};

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
