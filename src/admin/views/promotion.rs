//! `SHOW HA CHECKS` where Forebay promotes: what each node and the monitor's login need for it.

use tokio_postgres::Client;

use super::checks::{Checks, Grade};
use crate::config::model::Durability;
use crate::topology::failover::{conninfo, managers};
use Grade::{Error, Ok as Fine, Warning};

/// From here on a login needs no superuser: `GRANT ALTER SYSTEM ON PARAMETER`.
const GRANTS_PARAMETERS: i32 = 150_000;

/// A replica that is led elsewhere waits for so long before it tries again, ms.
const RETRY_MS: i64 = 500;

/// What a server told of what a promotion needs. Settings that it does not have or does not show are `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Needs {
    /// As in `server_version_num`.
    version: i32,
    /// The login, quoted for SQL.
    login: String,
    is_superuser: bool,
    may_replicate: bool,
    /// May end sessions of others.
    may_signal: bool,
    /// Functions that it may not call, as `GRANT` wants them.
    functions: Vec<String>,
    /// Settings that it may not change.
    parameters: Vec<String>,
    /// `allow_alter_system`
    may_alter: Option<String>,
    may_read_conninfo: bool,
    conninfo: String,
    slot: String,
    checksums: bool,
    hint_bits: bool,
    hot_standby: bool,
    target_timeline: Option<String>,
    retry_ms: i64,
    senders: i64,
    slots: i64,
    /// Names of the slots that it has.
    slot_names: Vec<String>,
    synchronous: String,
    /// Another manager.
    manager: Option<String>,
}

/// What a node is compared with.
pub(super) struct Company<'a> {
    pub(super) durability: Durability,
    /// Nodes besides this one.
    pub(super) others: usize,
    /// Slots that the others use, one for each of those that use any.
    pub(super) their_slots: Vec<&'a str>,
    /// The primary and its `synchronous_standby_names`.
    pub(super) primary: Option<(&'a str, &'a str)>,
}

const LOOK: &str = "SELECT pg_catalog.current_setting('server_version_num')::pg_catalog.int4 AS version, \
     pg_catalog.quote_ident(current_user) AS login, own.rolsuper, own.rolreplication, \
     pg_catalog.pg_has_role('pg_signal_backend', 'usage') AS may_signal, \
     ARRAY(SELECT needed FROM pg_catalog.unnest(ARRAY['pg_promote(boolean, integer)', 'pg_reload_conf()', \
      'pg_wal_replay_resume()']) AS needed \
      WHERE NOT pg_catalog.has_function_privilege(pg_catalog.to_regprocedure('pg_catalog.' || needed), 'execute')) \
      AS functions, \
     pg_catalog.current_setting('allow_alter_system', true) AS may_alter, \
     (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'primary_conninfo') AS conninfo, \
     (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'primary_slot_name') AS slot, \
     pg_catalog.current_setting('data_checksums') = 'on' AS checksums, \
     pg_catalog.current_setting('wal_log_hints') = 'on' AS hint_bits, \
     pg_catalog.current_setting('hot_standby') = 'on' AS hot_standby, \
     (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'recovery_target_timeline') AS target_timeline, \
     (SELECT setting::pg_catalog.int8 FROM pg_catalog.pg_settings WHERE name = 'wal_retrieve_retry_interval') AS retry, \
     pg_catalog.current_setting('max_wal_senders')::pg_catalog.int8 AS senders, \
     pg_catalog.current_setting('max_replication_slots')::pg_catalog.int8 AS slots, \
     ARRAY(SELECT slot_name::pg_catalog.text FROM pg_catalog.pg_replication_slots) AS slot_names, \
     pg_catalog.current_setting('synchronous_standby_names') AS synchronous \
     FROM pg_catalog.pg_roles AS own WHERE own.rolname = current_user";

/// Before version 15 nobody else than a superuser may.
const PARAMETERS: &str = "SELECT needed FROM pg_catalog.unnest(ARRAY['primary_conninfo', 'primary_slot_name', \
     'default_transaction_read_only']) AS needed \
     WHERE NOT pg_catalog.has_parameter_privilege(needed, 'alter system')";

/// Asks a node.
///
/// # Errors
/// The server's.
pub(super) async fn ask(client: &Client) -> Result<Needs, tokio_postgres::Error> {
    let row = client.query_one(LOOK, &[]).await?;
    let version: i32 = row.try_get("version")?;
    let mut parameters = Vec::new();
    if version >= GRANTS_PARAMETERS {
        for row in client.query(PARAMETERS, &[]).await? {
            parameters.push(row.try_get(0)?);
        }
    }
    let conninfo: Option<String> = row.try_get("conninfo")?;
    Ok(Needs {
        version,
        login: row.try_get("login")?,
        is_superuser: row.try_get("rolsuper")?,
        may_replicate: row.try_get("rolreplication")?,
        may_signal: row.try_get("may_signal")?,
        functions: row.try_get("functions")?,
        parameters,
        may_alter: row.try_get("may_alter")?,
        may_read_conninfo: conninfo.is_some(),
        conninfo: conninfo.unwrap_or_default(),
        slot: row.try_get::<_, Option<String>>("slot")?.unwrap_or_default(),
        checksums: row.try_get("checksums")?,
        hint_bits: row.try_get("hint_bits")?,
        hot_standby: row.try_get("hot_standby")?,
        target_timeline: row.try_get("target_timeline")?,
        retry_ms: row.try_get("retry")?,
        senders: row.try_get("senders")?,
        slots: row.try_get("slots")?,
        slot_names: row.try_get("slot_names")?,
        synchronous: row.try_get("synchronous")?,
        manager: managers::at_work(client).await?,
    })
}

impl Needs {
    /// `primary_slot_name`, unless it uses none.
    pub(super) fn slot(&self) -> Option<&str> {
        (!self.slot.is_empty()).then_some(self.slot.as_str())
    }

    pub(super) fn synchronous(&self) -> &str {
        &self.synchronous
    }
}

/// Every row about one node.
pub(super) fn check(checks: &mut Checks<'_>, node: &str, needs: &Needs, company: &Company<'_>) {
    let mut add = |check, (result, detail): (Grade, String)| checks.add(node, check, result, detail);
    add("other_manager", other_manager(needs));
    add("version", version(needs));
    add("rights", rights(needs));
    add("rewind", rewind(needs));
    add("hot_standby", hot_standby(needs));
    add("recovery_target_timeline", target_timeline(needs));
    add("wal_retrieve_retry_interval", retry(needs));
    add("max_wal_senders", senders(needs, company));
    add("max_replication_slots", slots(needs, company));
    add("synchronous_standby_names", synchronous(node, needs, company));
    add("primary_conninfo", primary_conninfo(needs));
}

fn other_manager(needs: &Needs) -> (Grade, String) {
    match &needs.manager {
        Some(who) => (Error, format!("{who}: nothing is promoted; {}", managers::WAY_OUT)),
        None => (Fine, "no other manager shows".to_owned()),
    }
}

fn version(needs: &Needs) -> (Grade, String) {
    let major = needs.version / 10_000;
    match major {
        13.. => (Fine, format!("PostgreSQL {major}")),
        _ => {
            (Error, format!("PostgreSQL {major} leads replicas elsewhere only with a restart: upgrade to 13 or later"))
        }
    }
}

/// What is missing, as SQL. Grants reach the replicas by themselves.
fn rights(needs: &Needs) -> (Grade, String) {
    if needs.may_alter.as_deref() == Some("off") {
        return (Error, "allow_alter_system = off: set it to on in postgresql.conf, and reload".to_owned());
    }
    if needs.is_superuser {
        return (Fine, format!("{} is a superuser", needs.login));
    }
    let login = &needs.login;
    if needs.version < GRANTS_PARAMETERS {
        return (Error, format!("before PostgreSQL 15, on the primary: ALTER ROLE {login} SUPERUSER"));
    }
    let mut missing = Vec::new();
    if !needs.may_replicate {
        missing.push(format!("ALTER ROLE {login} REPLICATION"));
    }
    let roles = [("pg_read_all_settings", needs.may_read_conninfo), ("pg_signal_backend", needs.may_signal)];
    let roles: Vec<&str> = roles.iter().filter(|(_, has)| !has).map(|(role, _)| *role).collect();
    if !roles.is_empty() {
        missing.push(format!("GRANT {} TO {login}", roles.join(", ")));
    }
    if !needs.parameters.is_empty() {
        missing.push(format!("GRANT ALTER SYSTEM ON PARAMETER {} TO {login}", needs.parameters.join(", ")));
    }
    if !needs.functions.is_empty() {
        missing.push(format!("GRANT EXECUTE ON FUNCTION {} TO {login}", needs.functions.join(", ")));
    }
    match missing.is_empty() {
        true => (Fine, format!("{login} may do everything that is needed")),
        false => (Error, format!("on the primary, in monitor_database: {}", missing.join("; "))),
    }
}

fn rewind(needs: &Needs) -> (Grade, String) {
    match (needs.checksums, needs.hint_bits) {
        (true, _) => (Fine, "data checksums are on".to_owned()),
        (false, true) => (Fine, "wal_log_hints is on".to_owned()),
        (false, false) => {
            let way_out = "ALTER SYSTEM SET wal_log_hints = on, and restart";
            (Warning, format!("pg_rewind cannot make a replica of it after a failover: {way_out}"))
        }
    }
}

fn hot_standby(needs: &Needs) -> (Grade, String) {
    match needs.hot_standby {
        true => (Fine, "on".to_owned()),
        false => {
            (Error, "as a replica it could not be asked: ALTER SYSTEM SET hot_standby = on, and restart".to_owned())
        }
    }
}

fn target_timeline(needs: &Needs) -> (Grade, String) {
    match needs.target_timeline.as_deref() {
        Some("latest") => (Fine, "latest".to_owned()),
        other => {
            let is = other.unwrap_or("not shown");
            let way_out = "ALTER SYSTEM SET recovery_target_timeline = 'latest', and restart";
            (Error, format!("{is}: as a replica it does not follow a new primary: {way_out}"))
        }
    }
}

fn retry(needs: &Needs) -> (Grade, String) {
    let is = format!("{} ms", needs.retry_ms);
    if needs.retry_ms <= RETRY_MS {
        return (Fine, is);
    }
    let way_out = format!("ALTER SYSTEM SET wal_retrieve_retry_interval = '{RETRY_MS}ms'; SELECT pg_reload_conf()");
    (Warning, format!("{is}: it may wait so long before it follows a new primary: {way_out}"))
}

fn senders(needs: &Needs, company: &Company<'_>) -> (Grade, String) {
    let others = company.others;
    if is_enough(needs.senders, others) {
        return (Fine, format!("{} for {others} other nodes", needs.senders));
    }
    // One for what pg_basebackup and pg_rewind need besides.
    let way_out = format!("ALTER SYSTEM SET max_wal_senders = {}, and restart", others + 1);
    (Error, format!("{} for {others} other nodes, if this one is promoted: {way_out}", needs.senders))
}

fn slots(needs: &Needs, company: &Company<'_>) -> (Grade, String) {
    let (others, with_slot) = (company.others, company.their_slots.len());
    let is_theirs = |name: &&String| company.their_slots.contains(&name.as_str());
    let besides = needs.slot_names.iter().filter(|name| !is_theirs(name)).count();
    let needed = others + besides;
    let for_whom = match besides {
        0 => format!("{others} other nodes"),
        _ => format!("{others} other nodes and {besides} slots besides"),
    };
    if is_enough(needs.slots, needed) {
        return (Fine, format!("{} for {for_whom}", needs.slots));
    }
    let way_out = format!("ALTER SYSTEM SET max_replication_slots = {needed}, and restart");
    let result = if is_enough(needs.slots, with_slot + besides) { Warning } else { Error };
    (result, format!("{} for {for_whom}, {with_slot} of the nodes use one: {way_out}", needs.slots))
}

fn is_enough(has: i64, needed: usize) -> bool {
    usize::try_from(has).is_ok_and(|has| has >= needed)
}

fn synchronous(node: &str, needs: &Needs, company: &Company<'_>) -> (Grade, String) {
    let is_strict = company.durability == Durability::Strict;
    let own = needs.synchronous.as_str();
    let set = |names: &str| {
        let names = names.replace('\'', "''");
        format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'; SELECT pg_reload_conf()")
    };
    match company.primary {
        _ if is_strict && own.is_empty() => {
            let names = set("ANY 1 (...)");
            (Error, format!("not set, and durability is strict: nothing is promoted; {names} with all nodes' names"))
        }
        Some((primary, names)) if names != own && primary != node => {
            let result = if is_strict { Error } else { Warning };
            let way_out = set(names);
            (
                result,
                format!("\"{own}\", and \"{names}\" on {primary}: a promotion would change what is safe; {way_out}"),
            )
        }
        _ if own.is_empty() => (Fine, "not set: commits wait for no standby".to_owned()),
        _ => (Fine, own.to_owned()),
    }
}

/// Never shown: it may hold a password.
fn primary_conninfo(needs: &Needs) -> (Grade, String) {
    if !needs.may_read_conninfo {
        return (Error, format!("it cannot be read: GRANT pg_read_all_settings TO {}", needs.login));
    }
    match conninfo::pairs(&needs.conninfo) {
        Some(_) => (Fine, "it can be led elsewhere".to_owned()),
        None => {
            let way_out = "ALTER SYSTEM SET primary_conninfo = 'host=... port=... user=...'; SELECT pg_reload_conf()";
            (Error, format!("it is not of keywords and values (a URI?), and cannot be led elsewhere: {way_out}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::table::{Kind, Row};

    fn good() -> Needs {
        Needs {
            version: 150_004,
            login: "steward".into(),
            is_superuser: false,
            may_replicate: true,
            may_signal: true,
            functions: Vec::new(),
            parameters: Vec::new(),
            may_alter: None,
            may_read_conninfo: true,
            conninfo: "host=db1 user=replicator".into(),
            slot: "pg2".into(),
            checksums: false,
            hint_bits: true,
            hot_standby: true,
            target_timeline: Some("latest".into()),
            retry_ms: 100,
            senders: 10,
            slots: 10,
            slot_names: vec!["pg1".into(), "backup".into()],
            synchronous: "ANY 1 (pg1, pg2)".into(),
            manager: None,
        }
    }

    fn company(durability: Durability) -> Company<'static> {
        Company { durability, others: 2, their_slots: vec!["pg1"], primary: Some(("pg1", "ANY 1 (pg1, pg2)")) }
    }

    fn told(needs: &Needs, durability: Durability) -> Vec<(String, String)> {
        let mut checks = Checks::of("main");
        check(&mut checks, "pg2", needs, &company(durability));
        let rows = checks.into_rows();
        let cell =
            |row: &Row, n: usize| row.get(n).and_then(|cell| cell.text(Kind::Text)).unwrap_or_default().into_owned();
        rows.iter().filter(|row| cell(row, 3) != "ok").map(|row| (cell(row, 2), cell(row, 3))).collect()
    }

    fn one(needs: &Needs, durability: Durability) -> String {
        let told = told(needs, durability);
        let words: Vec<String> = told.into_iter().map(|(check, result)| format!("{check} {result}")).collect();
        words.join(", ")
    }

    #[test]
    fn a_node_that_has_everything_is_well() {
        assert_eq!(one(&good(), Durability::Strict), "");
    }

    #[test]
    fn what_an_old_server_lacks() {
        let superuser = Needs { version: 140_000, is_superuser: true, ..good() };
        assert_eq!(one(&superuser, Durability::Bounded), "");
        assert_eq!(one(&Needs { version: 140_000, ..good() }, Durability::Bounded), "rights error");
        assert_eq!(one(&Needs { version: 120_000, ..superuser }, Durability::Bounded), "version error");
        assert_eq!(one(&Needs { may_alter: Some("off".into()), ..good() }, Durability::Bounded), "rights error");
    }

    #[test]
    fn slots_matter_more_where_they_are_used() {
        // Of two other nodes one uses a slot, and there is one slot for something else.
        assert_eq!(one(&Needs { slots: 3, ..good() }, Durability::Bounded), "");
        assert_eq!(one(&Needs { slots: 2, ..good() }, Durability::Bounded), "max_replication_slots warning");
        assert_eq!(one(&Needs { slots: 1, ..good() }, Durability::Bounded), "max_replication_slots error");
    }

    #[test]
    fn synchronous_names_matter_more_where_nothing_may_be_lost() {
        let other = Needs { synchronous: "pg1".into(), ..good() };
        assert_eq!(one(&other, Durability::Bounded), "synchronous_standby_names warning");
        assert_eq!(one(&other, Durability::Strict), "synchronous_standby_names error");
    }
}
