//! `EXPLAIN ROUTE`: where a statement would run, and why.

use std::sync::Arc;

use super::errors::Refusal;
use super::table::{Column, Row, Table, columns, row};
use crate::config::model::{Consistency, ListenRoute, PoolMode};
use crate::ops::Instance;
use crate::pg::fresh::READ_AFTER;
use crate::pg::pool::PoolConfig;
use crate::pg::route::{ROUTE, Way, begin_of, splits, way};
use crate::sql::{Access, Hint, Kind, Verdict, classify};
use crate::topology::{ClusterView, Limits, Role, State};

pub(super) const COLUMNS: &[Column] = columns![Text "target" "reason" "statement"];

/// Explains `text` for a client of `database` that comes by an ordinary listener, outside a transaction.
pub(super) fn explain(instance: &Instance, database: Option<&str>, text: &str) -> Result<Table, Refusal> {
    let config = instance.config.load();
    let pg = &config.postgres;
    let name = match database {
        Some(name) => Some(name.to_owned()),
        None => usual_database(instance),
    };
    let found = match &name {
        Some(name) => Some(pg.database(name).ok_or_else(|| Refusal::NoDatabase(name.clone()))?),
        None => None,
    };
    let cluster = found.map_or(0, |f| f.cluster);
    let dbname = found.and_then(|f| f.entry).and_then(|e| e.dbname.clone()).or_else(|| name.clone());
    let catalog = dbname.and_then(|dbname| instance.shared.catalogs.get(&(cluster, dbname)).map(|c| Arc::clone(&c)));
    let verdict = classify(text.as_bytes(), catalog.as_deref());
    let named = name.as_deref().unwrap_or_default();
    let settings = PoolConfig::new(pg.pool_for(named, ""), pg.routing_for(named, ""), pg.failover.hold);
    let snapshot = instance.monitor.snapshot();
    let has_replicas = snapshot.clusters.get(cluster).is_some_and(|c| has_fit_replica(c, &settings));
    let row: Row = decide(&verdict, &settings, has_replicas).row(text);
    Ok(Table { columns: COLUMNS.into(), rows: vec![row] })
}

/// The only database whose catalog was read, else the first of the configuration.
fn usual_database(instance: &Instance) -> Option<String> {
    let config = instance.config.load();
    let mut read = instance.shared.catalogs.iter().map(|entry| entry.key().clone());
    if let (Some((cluster, dbname)), None) = (read.next(), read.next()) {
        let entry =
            config.postgres.databases.iter().find(|d| d.cluster == cluster && d.dbname.as_deref() == Some(&dbname));
        return Some(entry.map_or(dbname, |e| e.name.clone()));
    }
    config.postgres.databases.iter().find(|d| d.name != "*").map(|d| d.name.clone())
}

fn has_fit_replica(cluster: &ClusterView, settings: &PoolConfig) -> bool {
    let limits = Limits::of(&settings.routing);
    cluster.nodes.iter().any(|n| n.state == State::Up && n.role == Role::Replica && n.is_fit(&limits))
}

struct Decision {
    target: &'static str,
    reason: String,
}

impl Decision {
    fn row(self, statement: &str) -> Row {
        row![self.target, self.reason, statement.to_owned()]
    }
}

fn decide(verdict: &Verdict, settings: &PoolConfig, has_replicas: bool) -> Decision {
    if is_local(&verdict.kind) {
        return Decision { target: "local", reason: "Forebay answers it itself".to_owned() };
    }
    if settings.mode == PoolMode::Statement && matches!(verdict.kind, Kind::Begin { .. }) {
        let reason = "pool.mode is statement: transaction blocks are refused".to_owned();
        return Decision { target: "local", reason };
    }
    let (serializable, read_only) = begin_of(&verdict.kind);
    if serializable {
        let reason = "a standby cannot run serializable transactions".to_owned();
        return Decision { target: "primary", reason };
    }
    let is_read = verdict.access == Access::Read || read_only;
    let way = way(verdict.hint, ListenRoute::Auto, splits(settings), is_read, has_replicas);
    let target = match way {
        Way::Primary => "primary",
        Way::Replica | Way::FreshReplica => "replica",
        Way::Any => "any",
    };
    let because = match verdict.hint {
        Some(Hint::Primary) => "its comment asks for the primary".to_owned(),
        Some(Hint::Replica) => "its comment asks for a replica".to_owned(),
        None if !is_read => verdict.reason.to_string(),
        None if settings.mode == PoolMode::Session => {
            "a read, but pool.mode is session: one connection for all".to_owned()
        }
        None if settings.consistency == Consistency::Primary => "a read, but routing.consistency is primary".to_owned(),
        None if !settings.split => "a read, but routing.split is off".to_owned(),
        None if read_only => "a transaction that is declared READ ONLY".to_owned(),
        None => verdict.reason.to_string(),
    };
    let more = match way {
        Way::Any => "; no replica is fit now, so it runs on the primary",
        Way::FreshReplica if settings.consistency == Consistency::Session => {
            "; on the primary while no replica has what this client wrote"
        }
        _ => "",
    };
    Decision { target, reason: because + more }
}

fn is_own(setting: &str) -> bool {
    matches!(setting, ROUTE | READ_AFTER)
}

/// Statements that a session answers without a server.
fn is_local(kind: &Kind) -> bool {
    match kind {
        Kind::Set(setting) | Kind::SetLocal(setting) => is_own(&setting.name),
        Kind::Reset(Some(name)) => is_own(name),
        Kind::Show(name) => is_own(name) || name == "forebay.node",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(mode: PoolMode, split: bool) -> PoolConfig {
        let loaded = crate::config::load_str(
            "[[postgres.cluster]]\nname = \"main\"\nnodes = [\"127.0.0.1:5432\"]\n\
             [[postgres.user]]\nname = \"app\"\npassword = \"app\"\n",
            "test",
            std::path::Path::new(""),
        );
        let pg = loaded.unwrap().config.postgres;
        let mut config = PoolConfig::new(pg.pool.clone(), pg.routing.clone(), pg.failover.hold);
        config.mode = mode;
        config.split = split;
        config
    }

    #[test]
    fn targets_follow_the_statement_the_settings_and_the_replicas() {
        use PoolMode::{Session, Statement, Transaction};
        for (text, mode, split, replicas, expected) in [
            ("select 1", Transaction, true, true, "replica"),
            ("select 1", Transaction, true, false, "any"),
            ("select 1", Transaction, false, true, "primary"),
            ("select 1", Session, true, true, "primary"),
            ("select 1 for update", Transaction, true, true, "primary"),
            ("/* forebay: replica */ select 1", Transaction, false, true, "replica"),
            ("/*NO LOAD BALANCE*/ select 1", Transaction, true, true, "primary"),
            ("begin read only", Transaction, true, true, "replica"),
            ("begin isolation level serializable read only", Transaction, true, true, "primary"),
            ("begin", Statement, true, true, "local"),
            ("show forebay.node", Transaction, true, true, "local"),
            ("set forebay.route = 'primary'", Transaction, true, true, "local"),
        ] {
            let decision = decide(&classify(text.as_bytes(), None), &settings(mode, split), replicas);
            assert_eq!(decision.target, expected, "{text}: {}", decision.reason);
            assert!(!decision.reason.is_empty());
        }
    }
}
