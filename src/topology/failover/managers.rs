//! Other programs that promote. Two that do it for one cluster make two primaries of it.
//!
//! Seen by what they leave in the catalogs and by the names of their connections. Those count only for roles that may
//! replicate or may everything: no ordinary client can stop a failover by a name that it gives itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_postgres::Client;

use super::agent::within;
use crate::topology::link::Link;
use crate::topology::probe::Target;

/// Between two looks.
const PACE: Duration = Duration::from_secs(60);
/// The same while a node has not been seen at all.
const SOON: Duration = Duration::from_secs(1);
/// A node that could not be looked at in so many attempts, such as one without a free connection, is not waited for.
const ATTEMPTS: u32 = 10;

/// Who, what shows it, and its name in lower case; with a star at the end any that begins so.
const SIGNS: &[(&str, &str, &str)] = &[
    ("Patroni", "application_name", "patroni*"),
    ("pg_auto_failover", "application_name", "pgautofailover*"),
    ("pg_auto_failover", "application_name", "pg_auto_failover*"),
    ("pg_auto_failover", "application_name", "pg_autoctl*"),
    ("pg_auto_failover", "role", "pgautofailover_*"),
    ("pg_auto_failover", "database", "pg_auto_failover"),
    ("pg_auto_failover", "schema", "pgautofailover"),
    ("pg_auto_failover", "extension", "pgautofailover"),
    ("repmgr", "application_name", "repmgr*"),
    ("repmgr", "role", "repmgr"),
    ("repmgr", "database", "repmgr"),
    ("repmgr", "schema", "repmgr"),
    ("repmgr", "extension", "repmgr"),
    ("CloudNativePG", "application_name", "cnpg*"),
    ("CloudNativePG", "role", "cnpg_*"),
    ("Amazon RDS", "role", "rds_superuser"),
    ("Google Cloud SQL", "role", "cloudsqlsuperuser"),
    ("Azure", "role", "azure_pg_admin"),
];

/// Everything that could be a sign; `$1` is how one begins. Connections of standbys are in `pg_stat_activity` as well.
const LOOK: &str = "SELECT kind, name::pg_catalog.text FROM ( \
     SELECT 'application_name' AS kind, activity.application_name AS name FROM pg_catalog.pg_stat_activity AS activity \
     JOIN pg_catalog.pg_roles AS own ON own.oid = activity.usesysid WHERE own.rolsuper OR own.rolreplication \
     UNION ALL SELECT 'role', rolname FROM pg_catalog.pg_roles \
     UNION ALL SELECT 'database', datname FROM pg_catalog.pg_database \
     UNION ALL SELECT 'schema', nspname FROM pg_catalog.pg_namespace \
     UNION ALL SELECT 'extension', extname FROM pg_catalog.pg_extension) AS seen \
     WHERE name OPERATOR(pg_catalog.~*) $1 ORDER BY kind, name";

/// A node to look at.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::topology) struct Suspect {
    pub(in crate::topology) name: String,
    pub(in crate::topology) target: Target,
}

/// What nodes showed, by their names: the other manager in words, or none, or why it could not be looked at.
pub(in crate::topology) type Seen = BTreeMap<String, Result<Option<String>, String>>;

/// What is known of one cluster.
#[derive(Debug, Default)]
pub(in crate::topology) struct Managers {
    /// Of nodes that show one.
    found: BTreeMap<String, String>,
    /// Nodes that could be looked at.
    looked_at: BTreeSet<String>,
    /// How often it was tried.
    looks: u32,
    /// Another instance of Forebay had the claim to promote when it was last asked for.
    is_taken: bool,
}

/// Looks for signs with a connection of the monitor's login; the answer is who is at work, and what shows it.
///
/// # Errors
/// The server's.
pub async fn at_work(client: &Client) -> Result<Option<String>, tokio_postgres::Error> {
    let beginnings: Vec<&str> = SIGNS.iter().map(|(_, _, name)| name.trim_end_matches('*')).collect();
    let rows = client.query(LOOK, &[&format!("^({})", beginnings.join("|"))]).await?;
    for row in rows {
        if let Some(found) = manager(row.try_get(0)?, row.try_get(1)?) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn manager(kind: &str, name: &str) -> Option<String> {
    let low = name.to_lowercase();
    let is_sign = |sign: &str| sign.strip_suffix('*').map_or(low == sign, |beginning| low.starts_with(beginning));
    let (who, _, _) = SIGNS.iter().find(|(_, of, sign)| *of == kind && is_sign(sign))?;
    Some(format!("{who} ({kind} \"{name}\")"))
}

/// Looks at all of these at once.
pub(in crate::topology) async fn look(suspects: &[Suspect]) -> Seen {
    let mut asked = JoinSet::new();
    for suspect in suspects.iter().cloned() {
        asked.spawn(async move {
            let limit = suspect.target.timeout;
            let looked = async { at_work(&Link::open(suspect.target.login(), limit).await?.client).await };
            (suspect.name, within(limit, looked).await)
        });
    }
    let mut seen = Seen::new();
    while let Some(done) = asked.join_next().await {
        seen.extend(done.ok());
    }
    seen
}

/// Looks at whatever nodes there are once a minute, and when there are others, until nobody names any more.
pub(in crate::topology) async fn watch(mut suspects: watch::Receiver<Vec<Suspect>>, tell: impl Fn(Seen)) {
    let mut looked_at = BTreeSet::new();
    loop {
        let present = suspects.borrow_and_update().clone();
        if !present.is_empty() {
            let seen = look(&present).await;
            looked_at.extend(seen.iter().filter(|(_, seen)| seen.is_ok()).map(|(node, _)| node.clone()));
            tell(seen);
        }
        let pause = if present.iter().all(|suspect| looked_at.contains(&suspect.name)) { PACE } else { SOON };
        tokio::select! {
            changed = suspects.changed() => match changed {
                Ok(()) => looked_at.clear(),
                Err(_) => return,
            },
            () = sleep(pause), if !present.is_empty() => {}
        }
    }
}

impl Managers {
    /// A node that could not be looked at keeps what is known of it: it may be the primary that was just lost.
    pub(in crate::topology) fn take(&mut self, seen: Seen) {
        self.looks = self.looks.saturating_add(1);
        for (node, seen) in seen {
            if seen.is_ok() {
                self.looked_at.insert(node.clone());
            }
            match seen {
                Ok(Some(who)) => drop(self.found.insert(node, who)),
                Ok(None) => drop(self.found.remove(&node)),
                Err(why) => tracing::debug!(node, why, "it could not be looked at for other managers"),
            }
        }
    }

    /// Takes what was seen for an admin's order. A manager that is alive shows on every node that is, so that what a
    /// dead one once showed does not count against somebody who knows better.
    pub(in crate::topology) fn take_instead(&mut self, seen: Seen) {
        self.found.clear();
        self.take(seen);
    }

    /// The nodes are others.
    pub(in crate::topology) fn forget(&mut self) {
        *self = Self { is_taken: self.is_taken, ..Self::default() };
    }

    /// Whether another instance of Forebay has the claim to promote, see [`super::heart`]; in words if that is new.
    pub(in crate::topology) fn take_claim(&mut self, is_taken: bool) -> Option<&'static str> {
        let is_new = std::mem::replace(&mut self.is_taken, is_taken) != is_taken;
        let told = match is_taken {
            true => "another instance of Forebay promotes here, and this one only follows",
            false => "this instance promotes from now on",
        };
        is_new.then_some(told)
    }

    /// Why no failover may begin by itself.
    pub(in crate::topology) fn objection(&self) -> Option<String> {
        let other = "another instance of Forebay promotes here; FAILOVER promotes all the same";
        self.refusal().or_else(|| self.is_taken.then(|| other.to_owned()))
    }

    /// Whether it is known who is at work on these nodes, which answer.
    pub(in crate::topology) fn is_known<'a>(&self, mut nodes: impl Iterator<Item = &'a str>) -> bool {
        self.looks >= ATTEMPTS || nodes.all(|node| self.looked_at.contains(node))
    }

    /// Why nothing may be promoted.
    pub(in crate::topology) fn refusal(&self) -> Option<String> {
        let (node, who) = self.found.first_key_value()?;
        Some(format!("another manager promotes here: {who} on {node}; {WAY_OUT}"))
    }
}

/// What to do about another manager.
pub const WAY_OUT: &str =
    "set postgres.failover.mode = \"follow\" and leave it to that one, or end it and drop what it left";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_is_known_by_its_signs() {
        let patroni = manager("application_name", "Patroni heartbeat");
        assert_eq!(patroni.as_deref(), Some("Patroni (application_name \"Patroni heartbeat\")"));
        assert!(manager("role", "cnpg_pooler_pgbouncer").is_some_and(|who| who.starts_with("CloudNativePG")));
        assert!(manager("role", "rds_superuser").is_some_and(|who| who.starts_with("Amazon RDS")));
        assert_eq!(manager("role", "rds_superusers"), None, "only names with a star are beginnings");
        assert_eq!(manager("role", "patroni"), None, "a role of that name is not Patroni's own");
        assert_eq!(manager("database", "repmgr_archive"), None);
    }

    #[test]
    fn a_node_that_does_not_answer_keeps_what_it_showed() {
        let mut managers = Managers::default();
        assert!(!managers.is_known(["pg1"].into_iter()));
        managers.take(Seen::from([("pg1".into(), Ok(Some("Patroni".into()))), ("pg2".into(), Ok(None))]));
        managers.take(Seen::from([("pg1".into(), Err("gone".into())), ("pg3".into(), Err("late".into()))]));
        assert!(managers.is_known(["pg1", "pg2"].into_iter()));
        assert!(!managers.is_known(["pg2", "pg3"].into_iter()), "nobody knows what it would show");
        (0..ATTEMPTS).for_each(|_| managers.take(Seen::from([("pg3".into(), Err("full".into()))])));
        assert!(managers.is_known(["pg2", "pg3"].into_iter()), "it is not waited for without end");
        assert!(managers.refusal().is_some_and(|why| why.contains("Patroni on pg1")));
        managers.take(Seen::from([("pg1".into(), Ok(None))]));
        assert_eq!(managers.refusal(), None);
    }

    #[test]
    fn an_order_counts_only_what_is_there_now() {
        let mut managers = Managers::default();
        managers.take(Seen::from([("pg1".into(), Ok(Some("Patroni".into())))]));
        managers.take_instead(Seen::from([("pg1".into(), Err("gone".into())), ("pg2".into(), Ok(None))]));
        assert_eq!(managers.refusal(), None);
    }
}
