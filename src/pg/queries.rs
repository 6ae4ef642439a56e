//! Which statements a thread's clients run most: the rows of `SHOW QUERIES`.
//!
//! Bounded in memory by [`MOST`] statements, of which those that took least give way, and bounded in time by tokens: to
//! find what a statement has in common with its like takes a quarter of what we do with it otherwise. Up to [`BURST`] at
//! once and one every [`TICKS`] are counted one by one, and of what comes faster one in [`SHARE`], which then counts for
//! those that were passed over.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::pool::PoolKey;
use crate::config::model::Config;
use crate::sql;
use crate::worker::clock::now_ns;
use crate::worker::times::Durations;

/// Statements that are kept apart, by thread.
const MOST: usize = 1000;
/// Tokens that may be saved up.
const BURST: u32 = 2000;
/// Ticks for which there is one token.
const TICKS: u32 = 2;
/// Statements for which there is one more.
const SHARE: u32 = 400;

/// ns
const SECOND: u64 = 1_000_000_000;
/// Lines about slow statements that a thread writes in a second; of the others the next line tells the number.
const MOST_LINES: u32 = 10;

/// See the module.
#[derive(Debug)]
pub struct Queries {
    tokens: Cell<u32>,
    /// Statements since one was counted.
    passed: Cell<u32>,
    /// Statements that were counted since the last token came.
    in_tick: Cell<u32>,
    ticks: Cell<u32>,
    by_key: RefCell<FxHashMap<Key, Entry>>,
    /// A statement that takes longer has a line in the log, ns; every one is counted then, whatever it costs.
    slow: Cell<Option<u64>>,
    lines: Cell<SlowLines>,
    /// 1 if statements are looked through for a trace that they belong to, whatever tokens there are; else 0.
    traces: Cell<u32>,
    /// Of 2^32 statements without one, so many begin a trace.
    sample: Cell<u64>,
    random: Cell<u32>,
}

#[derive(Debug, Default, Clone, Copy)]
struct SlowLines {
    second: u64,
    written: u32,
    passed: u32,
}

/// What tells statements apart: the common form, whose it is, and where it ran. Database and user by their address, which
/// the entry keeps alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    fingerprint: u64,
    database: usize,
    user: usize,
    is_replica: bool,
}

#[derive(Debug)]
struct Entry {
    pool: PoolKey,
    text: Arc<str>,
    figures: Figures,
}

/// What is known of a statement.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    /// How often it ended.
    pub calls: u64,
    /// In the server, ns.
    pub time: u64,
    /// Its distribution.
    pub times: Durations,
    /// Rows that its command tags tell.
    pub rows: u64,
    /// How often it failed.
    pub errors: u64,
}

/// A statement in `SHOW QUERIES`.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryReport {
    /// See [`sql::fingerprint`].
    pub fingerprint: u64,
    /// Whose.
    pub pool: PoolKey,
    /// It ran on a replica.
    pub is_replica: bool,
    /// See [`Figures`].
    pub figures: Figures,
    /// See [`sql::common_form`].
    pub text: Arc<str>,
}

/// A statement that is being counted, from its sending to its end.
#[derive(Debug, Clone)]
pub(super) struct Counted {
    key: Key,
    /// For so many it counts.
    weight: u32,
    /// When it began, ns.
    pub began: u64,
    /// Of its command tags so far.
    pub rows: u64,
    /// It has failed.
    pub failed: bool,
}

impl Default for Queries {
    fn default() -> Self {
        Queries {
            tokens: Cell::new(BURST),
            passed: Cell::new(0),
            in_tick: Cell::new(0),
            ticks: Cell::new(0),
            by_key: RefCell::default(),
            slow: Cell::new(None),
            lines: Cell::default(),
            traces: Cell::new(0),
            sample: Cell::new(0),
            random: Cell::new(1),
        }
    }
}

impl Queries {
    /// A statement is sent. True if it is to be counted, or may be traced.
    #[inline]
    pub(super) fn is_due(&self) -> bool {
        self.passed.set(self.passed.get().wrapping_add(1));
        // One branch for both.
        self.tokens.get() | self.traces.get() > 0
    }

    /// New tokens, once a tick.
    pub(super) fn tick(&self) {
        let ticks = self.ticks.get() + 1;
        if ticks < TICKS && !self.logs_slow() {
            return self.ticks.set(ticks);
        }
        self.ticks.set(0);
        let statements = self.in_tick.replace(0);
        let tokens = if self.logs_slow() { BURST } else { 1 + statements / SHARE };
        self.tokens.set((self.tokens.get() + tokens).min(BURST));
    }

    /// As configured.
    pub(super) fn for_config(config: &Config) -> Self {
        let queries = Queries::default();
        queries.follow(config);
        queries
    }

    /// Goes by another configuration.
    pub(super) fn follow(&self, config: &Config) {
        let slow = config.general.log_slow_statements;
        self.set_slow(slow.map(|slow| u64::try_from(slow.as_nanos()).unwrap_or(u64::MAX)));
        let telemetry = &config.telemetry;
        self.traces.set(u32::from(telemetry.otlp.is_some()));
        self.sample.set((telemetry.sample * 2f64.powi(32)) as u64);
        let seed = (now_ns() as u32 ^ (std::ptr::from_ref(self) as usize as u32)) | 1;
        self.random.set(seed);
    }

    /// Statements may belong to a trace.
    #[inline]
    pub(super) fn traces(&self) -> bool {
        self.traces.get() > 0
    }

    /// Some that belong to none begin one.
    pub(super) fn may_sample(&self) -> bool {
        self.sample.get() > 0
    }

    /// One that belongs to none is to begin one.
    pub(super) fn samples(&self) -> bool {
        let sample = self.sample.get();
        if sample == 0 {
            return false;
        }
        // xorshift: chance for a sample, not for secrets.
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        self.random.set(x);
        u64::from(x) < sample
    }

    /// From now on a statement that takes so long (ns) has a line in the log. To find those, every one is counted.
    fn set_slow(&self, slow: Option<u64>) {
        self.slow.set(slow);
        if slow.is_some() {
            self.tokens.set(BURST);
        }
    }

    /// A statement has taken so long, its wait included, ns. If it deserves a line: how many such had none.
    pub(super) fn slow_line(&self, took: u64, now: u64) -> Option<u32> {
        if took < self.slow.get()? {
            return None;
        }
        let mut lines = self.lines.get();
        if lines.second != now / SECOND {
            lines = SlowLines { second: now / SECOND, written: 0, ..lines };
        }
        let told = (lines.written < MOST_LINES).then(|| std::mem::take(&mut lines.passed));
        match told {
            Some(_) => lines.written += 1,
            None => lines.passed += 1,
        }
        self.lines.set(lines);
        told
    }

    /// Slow statements have lines in the log.
    pub(super) fn logs_slow(&self) -> bool {
        self.slow.get().is_some()
    }

    /// A statement may be counted.
    pub(super) fn has_tokens(&self) -> bool {
        self.tokens.get() > 0
    }

    /// Begins to count a statement for which [`Queries::is_due`].
    pub(super) fn begin(&self, text: &[u8], pool: &PoolKey, is_replica: bool, now: u64) -> Counted {
        if !self.logs_slow() {
            self.tokens.set(self.tokens.get().saturating_sub(1));
        }
        let passed = self.passed.get().max(1);
        let key = Key {
            fingerprint: sql::fingerprint(text),
            database: pool.database.as_ptr() as usize,
            user: pool.user.as_ptr() as usize,
            is_replica,
        };
        let mut by_key = self.by_key.borrow_mut();
        if !by_key.contains_key(&key) {
            if by_key.len() >= MOST {
                forget_half(&mut by_key);
            }
            let text = sql::common_form(text).into();
            by_key.insert(key, Entry { pool: pool.clone(), text, figures: Figures::default() });
        }
        // What is seen for the first time by chance would be shown with hundreds of calls. It counts for more with each
        // time, and what it does not count for the next ones do.
        let calls = by_key.get(&key).map_or(0, |entry| entry.figures.calls);
        let weight = passed.min(u32::try_from(calls.saturating_mul(2)).unwrap_or(u32::MAX).max(1));
        self.passed.set(passed - weight);
        self.in_tick.set(self.in_tick.get().saturating_add(weight));
        Counted { key, weight, began: now, rows: 0, failed: false }
    }

    /// It has ended. The answer is its common form, and the number to find it by.
    pub(super) fn end(&self, counted: &Counted, now: u64) -> Option<(u64, Arc<str>)> {
        let mut by_key = self.by_key.borrow_mut();
        let entry = by_key.get_mut(&counted.key)?;
        let weight = u64::from(counted.weight);
        let took = now.saturating_sub(counted.began);
        let figures = &mut entry.figures;
        figures.calls += weight;
        figures.time = figures.time.saturating_add(took.saturating_mul(weight));
        figures.times.add(took, weight);
        figures.rows += counted.rows * weight;
        figures.errors += u64::from(counted.failed) * weight;
        Some((counted.key.fingerprint, Arc::clone(&entry.text)))
    }

    /// Copies of everything.
    pub fn report(&self) -> Vec<QueryReport> {
        let by_key = self.by_key.borrow();
        let report = |(key, entry): (&Key, &Entry)| QueryReport {
            fingerprint: key.fingerprint,
            pool: entry.pool.clone(),
            is_replica: key.is_replica,
            figures: entry.figures.clone(),
            text: Arc::clone(&entry.text),
        };
        by_key.iter().filter(|(_, entry)| entry.figures.calls > 0).map(report).collect()
    }
}

/// Drops the half that took least.
fn forget_half(by_key: &mut FxHashMap<Key, Entry>) {
    let mut times: Vec<u64> = by_key.values().map(|entry| entry.figures.time).collect();
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or(0);
    let mut left = by_key.len() / 2;
    by_key.retain(|_, entry| {
        let goes = left > 0 && entry.figures.time <= median;
        left -= usize::from(goes);
        !goes
    });
}

impl Figures {
    fn add(&mut self, other: &Figures) {
        self.calls += other.calls;
        self.time = self.time.saturating_add(other.time);
        self.times += other.times;
        self.rows += other.rows;
        self.errors += other.errors;
    }
}

/// The statements of all threads, those that took longest in all first, `most` at the most.
pub fn top(threads: Vec<Vec<QueryReport>>, most: usize) -> Vec<QueryReport> {
    let mut all: BTreeMap<(u64, PoolKey, bool), QueryReport> = BTreeMap::new();
    for report in threads.into_iter().flatten() {
        match all.get_mut(&(report.fingerprint, report.pool.clone(), report.is_replica)) {
            Some(known) => known.figures.add(&report.figures),
            None => drop(all.insert((report.fingerprint, report.pool.clone(), report.is_replica), report)),
        }
    }
    let mut all: Vec<QueryReport> = all.into_values().collect();
    all.sort_by_key(|report| std::cmp::Reverse(report.figures.time));
    all.truncate(most);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> PoolKey {
        PoolKey { database: "shop".into(), user: "app".into() }
    }

    fn run(queries: &Queries, pool: &PoolKey, text: &str, took: u64) {
        if queries.is_due() {
            let mut counted = queries.begin(text.as_bytes(), pool, false, 0);
            counted.rows = 1;
            queries.end(&counted, took);
        }
    }

    #[test]
    fn a_few_statements_are_counted_one_by_one() {
        let (queries, pool) = (Queries::default(), pool());
        (0..500).for_each(|i| run(&queries, &pool, &format!("select {i}"), 1000));
        let rows = top(vec![queries.report()], 10);
        assert_eq!(rows.len(), 1);
        let figures = &rows[0].figures;
        assert_eq!((figures.calls, figures.time, figures.rows, figures.errors), (500, 500_000, 500, 0));
        assert_eq!(&*rows[0].text, "select ?");
    }

    #[test]
    fn of_many_some_count_for_all() {
        let (queries, pool) = (Queries::default(), pool());
        for tick in 0..100 {
            (0..3000).for_each(|i| run(&queries, &pool, if i % 3 == 0 { "select a" } else { "select b" }, 1000));
            queries.tick();
            assert!(tick == 0 || queries.tokens.get() < 100, "{}", queries.tokens.get());
        }
        let rows = top(vec![queries.report()], 10);
        let calls: Vec<u64> = rows.iter().map(|row| row.figures.calls).collect();
        let all: u64 = calls.iter().sum();
        assert!((290_000..=300_000).contains(&all), "{calls:?}");
    }

    #[test]
    fn what_is_rare_is_not_blown_up() {
        let (queries, pool) = (Queries::default(), pool());
        for tick in 0..200 {
            (0..3000).for_each(|_| run(&queries, &pool, "select a", 1000));
            // As if chance had it that just this one is looked at.
            queries.tokens.set(queries.tokens.get().max(1));
            run(&queries, &pool, &format!("create table t{tick} (a int)"), 1000);
            queries.tick();
        }
        let rows = queries.report();
        let of = |what: &str| -> Vec<u64> {
            rows.iter().filter(|row| row.text.contains(what)).map(|row| row.figures.calls).collect()
        };
        assert!(of("create").iter().all(|calls| *calls == 1), "{:?}", of("create"));
        let frequent: u64 = of("select").iter().sum();
        assert!((570_000..=600_000).contains(&frequent), "{frequent}");
    }

    #[test]
    fn who_takes_least_gives_way() {
        let (queries, pool) = (Queries::default(), pool());
        for i in 0..3 * MOST {
            queries.tokens.set(BURST);
            run(&queries, &pool, &format!("select c{i}"), i as u64);
        }
        let rows = queries.report();
        assert!(rows.len() <= MOST, "{}", rows.len());
        assert!(rows.iter().any(|row| *row.text == format!("select c{}", 3 * MOST - 1)));
    }

    #[test]
    fn the_threads_are_one_and_the_slowest_first() {
        let pool = pool();
        let threads = [Queries::default(), Queries::default()];
        threads.iter().for_each(|queries| run(queries, &pool, "select a", 10));
        run(&threads[0], &pool, "select b", 100);
        let rows = top(threads.iter().map(Queries::report).collect(), 10);
        let told: Vec<_> = rows.iter().map(|row| (&*row.text, row.figures.calls)).collect();
        assert_eq!(told, [("select b", 1), ("select a", 2)]);
        assert_eq!(top(threads.iter().map(Queries::report).collect(), 1).len(), 1);
    }

    #[test]
    fn no_more_than_so_many_lines_a_second_and_the_rest_is_told() {
        let queries = Queries::default();
        assert_eq!(queries.slow_line(SECOND, 5), None, "nothing is slow unless that is wanted");
        queries.set_slow(Some(100));
        let told: Vec<_> = (0..12).map(|_| queries.slow_line(100, 5)).collect();
        assert_eq!(told.iter().filter(|line| line.is_some()).count(), 10);
        assert_eq!(queries.slow_line(99, SECOND + 5), None);
        assert_eq!(queries.slow_line(100, SECOND + 5), Some(2));
        assert_eq!(queries.slow_line(100, SECOND + 5), Some(0));
    }
}
