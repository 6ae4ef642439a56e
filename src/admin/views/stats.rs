//! PgBouncer's statistics: counters since the start, and averages.
//!
//! Counters are kept in nanoseconds where they are times; PgBouncer's are microseconds.

use std::collections::BTreeMap;

use crate::admin::facts::Facts;
use crate::admin::table::{Column, Row, Value, columns, row};
use crate::pg::report::{Averages, PoolReport};
use crate::pg::stats::Totals;

pub(super) const BOTH: &[Column] = columns![
    Text "database";
    Numeric "total_server_assignment_count" "total_xact_count" "total_query_count" "total_received" "total_sent";
    Numeric "total_xact_time" "total_query_time" "total_wait_time" "total_client_parse_count";
    Numeric "total_server_parse_count" "total_bind_count" "total_client_login_count";
    Numeric "avg_server_assignment_count" "avg_xact_count" "avg_query_count" "avg_recv" "avg_sent";
    Numeric "avg_xact_time" "avg_query_time" "avg_wait_time" "avg_client_parse_count";
    Numeric "avg_server_parse_count" "avg_bind_count" "avg_client_login_count";
];

pub(super) const TOTALS: &[Column] = columns![
    Text "database";
    Numeric "server_assignment_count" "xact_count" "query_count" "bytes_received" "bytes_sent" "xact_time" "query_time";
    Numeric "wait_time" "client_parse_count" "server_parse_count" "bind_count" "client_login_count";
];

/// The last four names are PgBouncer's own inconsistency.
pub(super) const AVERAGES: &[Column] = columns![
    Text "database";
    Numeric "server_assignment_count" "xact_count" "query_count" "bytes_received" "bytes_sent" "xact_time" "query_time";
    Numeric "wait_time" "avg_client_parse_count" "avg_server_parse_count" "avg_bind_count" "avg_client_login_count";
];

/// The twelve counters in PgBouncer's order.
fn counters(t: &Totals) -> [u64; 12] {
    [
        t.assignments,
        t.xacts,
        t.queries,
        t.received,
        t.sent,
        t.xact_time / 1000,
        t.query_time / 1000,
        t.wait_time / 1000,
        t.client_parses,
        t.server_parses,
        t.binds,
        t.logins,
    ]
}

/// The twelve averages in the same order.
fn rates(a: &Averages) -> [u64; 12] {
    [
        a.assignments,
        a.xacts,
        a.queries,
        a.received,
        a.sent,
        a.xact_time,
        a.query_time,
        a.wait_time,
        a.client_parses,
        a.server_parses,
        a.binds,
        a.logins,
    ]
}

/// Each database with its counters and averages, the console's own last.
fn databases(facts: &Facts) -> Vec<(String, Totals, Averages)> {
    let mut by_name: BTreeMap<&str, Vec<&PoolReport>> = BTreeMap::new();
    for pool in &facts.pools {
        by_name.entry(&pool.key.database).or_default().push(pool);
    }
    let mut all: Vec<_> = by_name
        .into_iter()
        .map(|(name, pools)| {
            let (totals, averages) = facts.totals(pools.into_iter());
            (name.to_owned(), totals, averages)
        })
        .collect();
    all.push((super::pools::CONSOLE.to_owned(), facts.console_totals.clone(), Averages::default()));
    all
}

fn line(name: String, numbers: impl IntoIterator<Item = u64>) -> Row {
    let mut row = row![name];
    row.extend(numbers.into_iter().map(Value::from));
    row
}

pub(super) fn both(facts: &Facts) -> Vec<Row> {
    let row = |(name, t, a): (String, Totals, Averages)| line(name, counters(&t).into_iter().chain(rates(&a)));
    databases(facts).into_iter().map(row).collect()
}

pub(super) fn totals(facts: &Facts) -> Vec<Row> {
    databases(facts).into_iter().map(|(name, t, _)| line(name, counters(&t))).collect()
}

pub(super) fn averages(facts: &Facts) -> Vec<Row> {
    databases(facts).into_iter().map(|(name, _, a)| line(name, rates(&a))).collect()
}

pub(super) fn overall(facts: &Facts) -> Vec<Row> {
    const NAMES: [&str; 12] = [
        "server_assignment_count",
        "xact_count",
        "query_count",
        "client_bytes",
        "server_bytes",
        "xact_time",
        "query_time",
        "wait_time",
        "ps_client_parse_count",
        "ps_server_parse_count",
        "ps_bind_count",
        "client_login_count",
    ];
    let (totals, averages) = facts.totals(facts.pools.iter());
    let rows = |prefix: &str, numbers: [u64; 12]| -> Vec<Row> {
        NAMES.iter().zip(numbers).map(|(name, number)| row![format!("{prefix}_{name}"), number]).collect()
    };
    let mut all = rows("total", counters(&totals));
    all.extend(rows("avg", rates(&averages)));
    all
}
