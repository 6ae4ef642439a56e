//! The process as a whole.

use std::collections::BTreeSet;

use crate::admin::drivers;
use crate::admin::facts::Facts;
use crate::admin::table::{Row, row};
use crate::admin::{process, time};
use crate::config;
use crate::guard::Ban;

pub(super) fn version(_: &Facts) -> Vec<Row> {
    vec![row![drivers::version()]]
}

pub(super) fn config(facts: &Facts) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut known = BTreeSet::new();
    for entry in config::rows(&facts.config) {
        known.insert(entry.key.clone());
        rows.push(row![entry.key, entry.value, entry.default, if entry.changeable { "yes" } else { "no" }]);
    }
    // Limits of PgBouncer that do not exist here, and that its exporter reads: 0 is unlimited.
    for key in ["max_user_connections", "max_db_connections"] {
        if !known.contains(key) {
            rows.push(row![key, "0", "0", "no"]);
        }
    }
    rows
}

pub(super) fn lists(facts: &Facts) -> Vec<Row> {
    let users: BTreeSet<&str> = (facts.config.postgres.users.iter().map(|u| u.name.as_str()))
        .chain(facts.pools.iter().map(|p| &*p.key.user))
        .collect();
    let servers: usize = facts.pools.iter().map(|p| p.servers.all()).sum();
    let logged_in = facts.clients.len();
    let list = |name: &'static str, items: usize| row![name, items];
    vec![
        list("databases", super::pools::database_names(facts).len() + 1),
        list("users", users.len()),
        list("peers", 0),
        list("pools", facts.pools.len() + 1),
        list("peer_pools", 0),
        // Memory that is kept for the next: none is.
        list("free_clients", 0),
        list("used_clients", logged_in + facts.consoles.len()),
        list("login_clients", facts.connections.saturating_sub(logged_in)),
        list("free_servers", 0),
        list("used_servers", servers),
        list("dns_names", 0),
        list("dns_zones", 0),
        list("dns_queries", 0),
        list("dns_pending", 0),
    ]
}

pub(super) fn state(facts: &Facts) -> Vec<Row> {
    let word = |is: bool| if is { "yes" } else { "no" };
    let (paused, suspended) = (facts.orders.all_paused, facts.orders.suspended);
    vec![row!["active", word(!paused && !suspended)], row!["paused", word(paused)], row!["suspended", word(suspended)]]
}

pub(super) fn bans(facts: &Facts) -> Vec<Row> {
    let row = |ban: &Ban| {
        row![ban.block.to_string(), time::with_zone(time::wall(ban.until)), ban.reason.to_string(), ban.failures]
    };
    facts.bans.iter().map(row).collect()
}

/// Only what is known exactly: pages of the process, the buffers of the data threads, and texts of statements.
pub(super) fn mem(facts: &Facts) -> Vec<Row> {
    const SCRATCH: usize = 64 * 1024;
    let line = |name: &'static str, size: usize, used: usize| row![name, size, used, 0, size * used];
    let mut rows = Vec::new();
    let page = rustix::param::page_size();
    rows.push(line("resident", page, process::resident_memory() / page));
    rows.push(line("scratch_buffer", SCRATCH, facts.config.general.threads));
    rows.push(row!["statement_text", 0, facts.statements, 0, 0]);
    rows
}
