//! `SHOW HA CHECKS`: what would hurt at the next failure, from what the monitor knows and from the servers themselves.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio_postgres::Client;

use super::promotion::{self, Company, Needs};
use super::redis;
use crate::admin::servers;
use crate::admin::table::{Row, row};
use crate::config::model::{Cluster, FailoverMode, Postgres};
use crate::ops::Instance;
use crate::pg::report::PoolReport;
use crate::topology::{ClusterView, NodeView, Role, State};

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::admin) struct Check {
    service: String,
    node: String,
    check: &'static str,
    result: Grade,
    detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grade {
    Ok,
    Warning,
    Error,
}
use Grade::{Error, Ok as Fine, Warning};

impl Check {
    pub(super) fn row(&self) -> Row {
        let result = match self.result {
            Grade::Ok => "ok",
            Grade::Warning => "warning",
            Grade::Error => "error",
        };
        row![&self.service, &self.node, self.check, result, &self.detail]
    }
}

/// What a server told of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    max_connections: i64,
    /// Kept back from ordinary users.
    reserved: i64,
    /// Rows of `pg_stat_replication`.
    senders: i64,
    /// A WAL receiver runs.
    receives: bool,
    /// What a promotion needs.
    needs: Needs,
}

/// Runs every check of every cluster; asks all nodes at once.
pub(in crate::admin) async fn run(instance: &Arc<Instance>, pools: &[PoolReport]) -> Vec<Check> {
    let config = instance.config.load_full();
    let snapshot = instance.monitor.snapshot();
    let answers = servers::ask_all(&config, |_, _| true, ask).await;
    let mut checks = Vec::new();
    for (c, cluster) in config.postgres.clusters.iter().enumerate() {
        let Some(view) = snapshot.clusters.get(c).filter(|view| view.name == cluster.name) else { continue };
        let mut of_cluster = Checks::of(&cluster.name);
        of_cluster.roles(view);
        of_cluster.pause(view.paused.as_deref());
        for (n, node) in view.nodes.iter().enumerate() {
            let told = answers.get(&(c, n));
            of_cluster.node(view, n, node, told);
            if let Some(Ok(told)) = told {
                of_cluster.room(node, told, demand(&config.postgres, cluster, c, pools));
            }
        }
        if config.postgres.failover.mode == FailoverMode::Promote {
            of_cluster.promotion(&config.postgres, view, |n| answers.get(&(c, n))?.as_ref().ok());
        }
        checks.append(&mut of_cluster.all);
    }
    let (snapshot, insights) = (instance.redis.snapshot(), instance.redis.insights());
    for conf in &config.redis {
        let Some(view) = snapshot.services.iter().find(|view| view.name == conf.name) else { continue };
        let mut of_service = Checks::of(&conf.name);
        let insight = insights.iter().find(|insight| insight.service == conf.name);
        redis::check(&mut of_service, conf, view, insight);
        of_service.pause(view.paused.as_deref());
        checks.append(&mut of_service.all);
    }
    checks
}

async fn ask(client: &Client) -> Result<Told, tokio_postgres::Error> {
    let row = client
        .query_one(
            "select pg_catalog.current_setting('max_connections')::bigint, \
             pg_catalog.current_setting('superuser_reserved_connections')::bigint \
             + coalesce(pg_catalog.current_setting('reserved_connections', true)::bigint, 0), \
             (select pg_catalog.count(*) from pg_catalog.pg_stat_replication), \
             exists (select from pg_catalog.pg_stat_wal_receiver)",
            &[],
        )
        .await?;
    Ok(Told {
        max_connections: row.try_get(0)?,
        reserved: row.try_get(1)?,
        senders: row.try_get(2)?,
        receives: row.try_get(3)?,
        needs: promotion::ask(client).await?,
    })
}

/// The most connections that the pools of a cluster may open to one node, and of what that is the sum.
fn demand(pg: &Postgres, cluster: &Cluster, index: usize, pools: &[PoolReport]) -> (usize, String) {
    let here: Vec<&PoolReport> = pools.iter().filter(|p| p.cluster == index).collect();
    let open: usize = here.iter().map(|p| p.settings.size + p.settings.reserve_size).sum();
    let databases: BTreeSet<&str> = pg
        .databases
        .iter()
        .filter(|d| d.cluster_name == cluster.name && d.name != "*")
        .map(|d| d.name.as_str())
        .collect();
    // Users of a database with a login of its own share that login, but not their pool.
    let of_users = |database: &str| -> usize {
        let pools = pg.users.iter().map(|u| pg.pool_for(database, &u.name));
        pools.map(|pool| pool.size + pool.reserve_size).sum()
    };
    let (configured, of) = match databases.len() {
        // Any name is passed on: at least one will be used.
        0 => (of_users(""), format!("the users ({}), with one database each,", pg.users.len())),
        n => (
            databases.iter().map(|d| of_users(d)).sum(),
            format!("the databases ({n}) with all users ({})", pg.users.len()),
        ),
    };
    if configured > open { (configured, of) } else { (open, format!("the pools in use ({})", here.len())) }
}

pub(super) struct Checks<'a> {
    service: &'a str,
    all: Vec<Check>,
}

impl<'a> Checks<'a> {
    pub(super) fn of(service: &'a str) -> Self {
        Self { service, all: Vec::new() }
    }

    #[cfg(test)]
    pub(super) fn into_rows(self) -> Vec<Row> {
        self.all.iter().map(Check::row).collect()
    }

    pub(super) fn add(&mut self, node: &str, check: &'static str, result: Grade, detail: impl Into<String>) {
        let service = self.service.to_owned();
        self.all.push(Check { service, node: node.to_owned(), check, result, detail: detail.into() });
    }

    /// Only where failover is paused.
    pub(super) fn pause(&mut self, paused: Option<&str>) {
        if let Some(by) = paused {
            let way_out = format!("RESUME FAILOVER {} ends that", self.service);
            self.add("", "failover", Warning, format!("paused by {by}: no other primary is followed; {way_out}"));
        }
    }

    fn roles(&mut self, view: &ClusterView) {
        match view.primary.and_then(|p| view.nodes.get(p)) {
            Some(primary) => self.add("", "primary", Fine, format!("{} takes writes", primary.name)),
            None => self.add(
                "",
                "primary",
                Error,
                "no node takes writes: clients wait for failover.hold, then get an error",
            ),
        }
        let others: Vec<&str> = view
            .nodes
            .iter()
            .enumerate()
            .filter(|(n, node)| node.role == Role::Primary && view.primary != Some(*n) && node.state != State::Down)
            .map(|(_, node)| node.name.as_str())
            .collect();
        if others.is_empty() {
            self.add("", "one_primary", Fine, "no other node accepts writes");
        } else {
            self.add(
                "",
                "one_primary",
                Error,
                format!("{} also accepts writes: stop it or make it a replica", others.join(", ")),
            );
        }
        let replicas = view.nodes.iter().filter(|n| n.role == Role::Replica && n.state == State::Up).count();
        let fit = view.nodes.iter().filter(|n| n.fit_for_reads && n.state == State::Up).count();
        match (replicas, fit) {
            (0, _) => self.add("", "replicas", Error, "no replica is up: the loss of the primary loses the service"),
            (1, _) => self.add("", "replicas", Warning, "one replica is up: nothing is left to lose after it"),
            (n, 0) => self.add("", "replicas", Warning, format!("{n} replicas are up, none is fit for reads")),
            (n, fit) => self.add("", "replicas", Fine, format!("{n} replicas are up, {fit} fit for reads")),
        }
    }

    fn node(&mut self, view: &ClusterView, index: usize, node: &NodeView, told: Option<&Result<Told, String>>) {
        match told {
            Some(Ok(_)) => self.add(&node.name, "monitor_login", Fine, "it answers to the monitor's login"),
            Some(Err(why)) => self.add(&node.name, "monitor_login", Error, why),
            None => self.add(&node.name, "monitor_login", Warning, "it was not asked"),
        }
        let (result, detail) = match node.state {
            State::Up => (Fine, String::new()),
            State::Draining | State::Detached => (Warning, node.reason.clone()),
            State::Down | State::Fenced => (Error, node.reason.clone()),
        };
        self.add(&node.name, "state", result, with_reason(&node.state.to_string(), &detail));
        match node.role {
            Role::Unknown => self.add(&node.name, "role", Error, "its role is not known"),
            role => self.add(&node.name, "role", Fine, role.to_string()),
        }
        let Some(Ok(told)) = told else { return };
        if node.role == Role::Replica {
            match told.receives {
                true => self.add(&node.name, "streaming", Fine, "a WAL receiver runs"),
                false => self.add(
                    &node.name,
                    "streaming",
                    Error,
                    "no WAL receiver runs: it falls behind, see primary_conninfo",
                ),
            }
            self.lag(node);
        }
        if view.primary == Some(index) {
            let replicas = view.nodes.iter().filter(|n| n.role == Role::Replica && n.state == State::Up).count();
            let detail = format!("{} standbys stream from it, {replicas} replicas are up", told.senders);
            // Replicas of replicas do not show here, so that fewer is not wrong by itself.
            let result = if told.senders == 0 && replicas > 0 { Error } else { Fine };
            self.add(&node.name, "senders", result, detail);
        }
    }

    fn lag(&mut self, node: &NodeView) {
        let lag = match (node.lag_bytes, node.lag_ms) {
            (None, None) => "its lag is not known".to_owned(),
            (bytes, ms) => {
                let part = |n: Option<u64>, unit: &str| n.map_or(format!("? {unit}"), |n| format!("{n} {unit}"));
                format!("{}, {} behind", part(bytes, "bytes"), part(ms, "ms"))
            }
        };
        let result = if node.fit_for_reads { Fine } else { Warning };
        self.add(&node.name, "lag", result, with_reason(&lag, if node.fit_for_reads { "" } else { &node.reason }));
    }

    /// What a promotion needs of each node that can be asked.
    fn promotion<'t>(&mut self, pg: &Postgres, view: &ClusterView, told: impl Fn(usize) -> Option<&'t Told>) {
        let of = |n: usize| told(n).map(|told| &told.needs);
        let primary = view.primary.and_then(|n| Some((view.nodes.get(n)?.name.as_str(), of(n)?.synchronous())));
        let nodes = || view.nodes.iter().enumerate().filter_map(|(n, node)| Some((n, node, of(n)?)));
        for (n, node, needs) in nodes() {
            let their_slots: Vec<&str> =
                nodes().filter(|(other, ..)| *other != n).filter_map(|(.., needs)| needs.slot()).collect();
            let company = Company {
                durability: pg.failover.durability,
                others: view.nodes.len().saturating_sub(1),
                their_slots,
                primary,
            };
            promotion::check(self, &node.name, needs, &company);
        }
    }

    /// Whether a server has room for all connections that the pools may open to it.
    fn room(&mut self, node: &NodeView, told: &Told, (demand, of): (usize, String)) {
        let room = told.max_connections.saturating_sub(told.reserved);
        let detail = format!(
            "{of} may open {demand} connections, the server has room for {room} (max_connections = {})",
            told.max_connections
        );
        let is_enough = i64::try_from(demand).is_ok_and(|demand| demand < room);
        self.add(&node.name, "max_connections", if is_enough { Fine } else { Warning }, detail);
    }
}

pub(super) fn with_reason(what: &str, reason: &str) -> String {
    if reason.is_empty() { what.to_owned() } else { format!("{what}: {reason}") }
}
