//! Pgpool-II's views. All of their columns are text, as there.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::admin::drivers;
use crate::admin::facts::{Facts, Placed};
use crate::admin::table::{Row, row};
use crate::admin::time;
use crate::pg::registry::ClientState;
use crate::pg::report::{ClientReport, ServerReport};
use crate::pg::stats::NodeStats;
use crate::topology::{ClusterView, NodeView, Role, State};

/// Pgpool-II's word for whether a node is used.
fn status(node: &NodeView) -> &'static str {
    match node.state {
        State::Up => "up",
        State::Draining => "waiting",
        State::Down | State::Detached => "down",
        State::Fenced => "quarantine",
    }
}

/// What the node itself is like, whatever was ordered about it.
fn pg_status(node: &NodeView) -> &'static str {
    match (node.state, node.role) {
        (State::Down, _) => "down",
        (_, Role::Unknown) => "unknown",
        _ => "up",
    }
}

fn word(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Replica => "standby",
        Role::Unknown => "unknown",
    }
}

/// The accepted primary is the only one.
fn role(cluster: &ClusterView, index: usize, node: &NodeView) -> &'static str {
    match node.role {
        Role::Primary if cluster.primary != Some(index) => "unknown",
        role => word(role),
    }
}

/// Statements by cluster and node, over all pools.
fn statements(facts: &Facts) -> BTreeMap<(usize, usize), NodeStats> {
    let mut all: BTreeMap<(usize, usize), NodeStats> = BTreeMap::new();
    for pool in &facts.pools {
        for (node, counts) in pool.totals.by_node.iter().enumerate() {
            *all.entry((pool.cluster, node)).or_default() += *counts;
        }
    }
    all
}

/// A share of all weights of the cluster, with six decimals as Pgpool-II writes it.
fn share(cluster: &ClusterView, node: &NodeView) -> String {
    let total: u32 = cluster.nodes.iter().map(|n| n.weight).sum();
    if total == 0 { "0.000000".to_owned() } else { format!("{:.6}", f64::from(node.weight) / f64::from(total)) }
}

pub(super) fn nodes(facts: &Facts) -> Vec<Row> {
    let statements = statements(facts);
    let row = |Placed { id, c, cluster, n, node }: Placed<'_>| {
        let is_primary = cluster.primary == Some(n);
        let stream = facts.streams.get(&(c, n));
        row![
            id.to_string(),
            &node.host,
            node.port.to_string(),
            status(node),
            pg_status(node),
            share(cluster, node),
            role(cluster, n, node),
            word(node.role),
            statements.get(&(c, n)).map_or(0, |s| s.selects).to_string(),
            // Not a property of a node here: each statement is balanced on its own.
            if node.fit_for_reads { "true" } else { "false" },
            if is_primary { Some("0".to_owned()) } else { node.lag_bytes.map(|b| b.to_string()) },
            stream.map_or("", |stream| &stream.state).to_owned(),
            stream.map_or("", |stream| &stream.sync_state).to_owned(),
            time::plain(node.last_change),
        ]
    };
    facts.nodes().map(row).collect()
}

pub(super) fn backend_stats(facts: &Facts) -> Vec<Row> {
    let statements = statements(facts);
    let row = |Placed { id, c, cluster, n, node }: Placed<'_>| {
        let s = statements.get(&(c, n)).copied().unwrap_or_default();
        let mut row: Row =
            row![id.to_string(), &node.host, node.port.to_string(), status(node), role(cluster, n, node)];
        let counts = [s.selects, s.inserts, s.updates, s.deletes, s.ddl, s.other, s.panics, s.fatals, s.errors];
        row.extend(counts.into_iter().map(|n| n.to_string().into()));
        row
    };
    facts.nodes().map(row).collect()
}

pub(super) fn health_check_stats(facts: &Facts) -> Vec<Row> {
    let millis = |d: Option<Duration>| d.map_or(0, |d| d.as_millis()).to_string();
    let moment = |t: Option<SystemTime>| t.map(time::plain).unwrap_or_default();
    let row = |Placed { id, cluster, n, node, .. }: Placed<'_>| {
        let health = &node.health;
        row![
            id.to_string(),
            &node.host,
            node.port.to_string(),
            status(node),
            role(cluster, n, node),
            time::plain(node.last_change),
            health.total.to_string(),
            health.success.to_string(),
            health.fail.to_string(),
            // Every probe is made, and one that fails is followed by the next, not by retries of its own.
            "0",
            "0",
            "0.000000",
            "0",
            millis(health.max),
            millis(health.min),
            format!("{:.6}", health.average().unwrap_or_default().as_secs_f64() * 1000.0),
            moment(health.last_check),
            moment(health.last_success),
            "",
            moment(health.last_failure),
        ]
    };
    facts.nodes().map(row).collect()
}

/// A client has here what a child process is there.
pub(super) fn processes(facts: &Facts) -> Vec<Row> {
    let servers: BTreeMap<u64, &ServerReport> = facts.servers.iter().map(|s| (s.id, s)).collect();
    let row = |client: &ClientReport| {
        let server = servers.get(&client.link);
        let status = match client.state {
            ClientState::Idle => "Idle",
            ClientState::Waiting => "Wait for connection",
            ClientState::Active => "Execute command",
        };
        row![
            client.id.to_string(),
            time::plain(client.connected),
            "1",
            &client.database,
            &client.user,
            server.map(|s| time::plain(s.connected)).unwrap_or_default(),
            if server.is_some() { "1" } else { "0" },
            status,
        ]
    };
    facts.clients.iter().map(row).collect()
}

pub(super) fn pools(facts: &Facts) -> Vec<Row> {
    let clients: BTreeMap<u64, &ClientReport> = facts.clients.iter().map(|c| (c.id, c)).collect();
    let ids: BTreeMap<(usize, usize), usize> = facts.nodes().map(|at| ((at.c, at.n), at.id)).collect();
    let row = |server: &ServerReport| {
        let client = clients.get(&server.client);
        let primary = facts.snapshot.clusters.get(server.cluster).and_then(|c| c.primary);
        row![
            std::process::id().to_string(),
            time::plain(server.connected),
            "1",
            server.id.to_string(),
            ids.get(&(server.cluster, server.node)).map(|id| id.to_string()).unwrap_or_default(),
            &server.database,
            &server.user,
            time::plain(server.connected),
            client.map(|c| time::plain(c.connected)).unwrap_or_default(),
            "",
            "0",
            "3",
            "0",
            "1",
            server.process_id.to_string(),
            if client.is_some() { "1" } else { "0" },
            if client.is_some() { "Execute command" } else { "Idle" },
            if primary == Some(server.node) { "0" } else { "1" },
            client.map(|c| c.peer.0.clone()).unwrap_or_default(),
            client.map(|c| c.peer.1.to_string()).unwrap_or_default(),
            "",
        ]
    };
    facts.servers.iter().map(row).collect()
}

pub(super) fn cache(_: &Facts) -> Vec<Row> {
    vec![row!["0", "0", "0.00", "0", "0", "0", "0", "0", "0"]]
}

pub(super) fn version(_: &Facts) -> Vec<Row> {
    vec![row![format!("{} (Forebay {})", drivers::PGPOOL, env!("CARGO_PKG_VERSION"))]]
}
