//! Databases, pools and users.

use std::collections::{BTreeMap, BTreeSet};

use crate::admin::facts::Facts;
use crate::admin::table::{Row, Value, row};
use crate::config::model::{Balance, Cluster, PoolMode, Postgres};
use crate::pg::report::PoolReport;

/// The console's database and user, as PgBouncer calls its own.
pub(super) const CONSOLE: &str = "pgbouncer";

pub(in crate::admin) fn mode(mode: PoolMode) -> &'static str {
    match mode {
        PoolMode::Transaction => "transaction",
        PoolMode::Session => "session",
        PoolMode::Statement => "statement",
    }
}

/// How one of several nodes is chosen; NULL where there is no choice, as in PgBouncer.
fn balance(cluster: Option<&Cluster>, balance: Balance) -> Value {
    let word = match balance {
        Balance::LeastConnections => "least_connections",
        Balance::RoundRobin => "round_robin",
        Balance::Random => "random",
        Balance::Source => "source",
    };
    Value::from(cluster.filter(|c| c.nodes.len() > 1).map(|_| word))
}

/// The hosts of a cluster, each once.
fn hosts(cluster: &Cluster) -> String {
    let mut hosts: Vec<&str> = Vec::new();
    for node in &cluster.nodes {
        if !hosts.contains(&node.host.as_str()) {
            hosts.push(&node.host);
        }
    }
    hosts.join(",")
}

/// Those of the configuration in its order, then those that clients have used by way of `*` or of no list at all.
pub(super) fn database_names(facts: &Facts) -> Vec<String> {
    let pg = &facts.config.postgres;
    let mut names: Vec<String> = pg.databases.iter().map(|d| d.name.clone()).filter(|n| n != "*").collect();
    let mut more: BTreeSet<&str> = facts.pools.iter().map(|p| &*p.key.database).collect();
    more.extend(facts.orders.paused.iter().chain(&facts.orders.disabled).map(String::as_str));
    names.extend(more.into_iter().filter(|n| !pg.databases.iter().any(|d| d.name == *n)).map(str::to_owned));
    names
}

pub(super) fn databases(facts: &Facts) -> Vec<Row> {
    let mut rows: Vec<Row> = database_names(facts).iter().map(|name| database(facts, name)).collect();
    let port = facts.config.postgres.listen.iter().find_map(|listen| match listen.addr {
        crate::config::model::ListenAddr::Tcp(addr) => Some(addr.port()),
        crate::config::model::ListenAddr::Unix(_) => None,
    });
    rows.push(row![
        CONSOLE,
        None::<&str>,
        port.unwrap_or_default(),
        CONSOLE,
        CONSOLE,
        2,
        0,
        0,
        0,
        "statement",
        None::<&str>,
        0,
        0,
        0,
        facts.consoles.len(),
        0,
        0,
        0
    ]);
    rows
}

fn database(facts: &Facts, name: &str) -> Row {
    let pg = &facts.config.postgres;
    let found = pg.database(name);
    let entry = found.and_then(|f| f.entry);
    let cluster = found.and_then(|f| pg.clusters.get(f.cluster));
    let pool = pg.pool_for(name, "");
    let routing = pg.routing_for(name, "");
    let pools = || facts.pools.iter().filter(|p| *p.key.database == *name);
    let servers: usize = pools().map(|p| p.servers.all()).sum();
    let clients: usize = pools().map(clients).sum();
    row![
        name.to_owned(),
        cluster.map(hosts),
        cluster.and_then(|c| c.nodes.first()).map_or(0, |n| n.port),
        entry.and_then(|e| e.dbname.clone()).unwrap_or_else(|| name.to_owned()),
        entry.and_then(|e| e.user.clone()),
        pool.size,
        pool.min_size,
        pool.reserve_size,
        pool.server_lifetime.map_or(0, |d| d.as_secs()),
        entry.and_then(|e| e.pool.mode).map(mode),
        balance(cluster, routing.balance),
        0,
        servers,
        0,
        clients,
        facts.orders.holds(name),
        facts.orders.is_disabled(name),
        pool.reserve_size,
    ]
}

fn clients(pool: &PoolReport) -> usize {
    pool.clients.all()
}

pub(super) fn pools(facts: &Facts) -> Vec<Row> {
    let mut rows: Vec<Row> = facts.pools.iter().map(|p| pool(facts, &facts.config.postgres, p)).collect();
    rows.push(row![
        CONSOLE,
        CONSOLE,
        facts.consoles.len(),
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        "statement",
        None::<&str>
    ]);
    rows
}

fn pool(facts: &Facts, pg: &Postgres, pool: &PoolReport) -> Row {
    let waited = pool.oldest.map_or(0, |since| facts.now.saturating_sub(since) / 1000);
    let PoolReport { clients, servers, .. } = pool;
    row![
        &pool.key.database,
        &pool.key.user,
        // A client without a transaction is active to PgBouncer: it does not wait.
        clients.active + clients.idle,
        clients.waiting,
        // A cancel request is passed on at once, and the client that brought it is gone.
        0,
        0,
        servers.active,
        servers.cancels,
        servers.being_canceled,
        servers.idle,
        0,
        servers.tested,
        servers.login,
        waited / 1_000_000,
        waited % 1_000_000,
        mode(pool.mode),
        balance(pg.clusters.get(pool.cluster), pool.balance),
    ]
}

pub(super) fn users(facts: &Facts) -> Vec<Row> {
    let pg = &facts.config.postgres;
    let mut in_use: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for pool in &facts.pools {
        let (servers, of_clients) = in_use.entry(&pool.key.user).or_default();
        *servers += pool.servers.all();
        *of_clients += clients(pool);
    }
    let known = pg.users.iter().map(|u| u.name.as_str());
    let more: Vec<&str> = in_use.keys().copied().filter(|name| pg.user(name).is_none()).collect();
    let row = |name: &str| {
        let overrides = pg.user(name).map(|u| u.pool.clone()).unwrap_or_default();
        let text = |size: Option<usize>| size.map(|s| s.to_string()).unwrap_or_default();
        let (servers, of_clients) = in_use.get(name).copied().unwrap_or_default();
        row![
            name.to_owned(),
            text(overrides.size),
            text(overrides.reserve_size),
            overrides.mode.map(mode),
            0,
            servers,
            0,
            of_clients,
        ]
    };
    known.chain(more).map(row).collect()
}
