//! Asking one PostgreSQL node how it is: one kept session, one query a probe.
//!
//! Works with an ordinary login. Members of `pg_monitor` also see the timeline that a replica streams, without
//! which a replica's move to a new timeline shows only after its next restartpoint (minutes).

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;
use tokio_postgres::{Row, Statement};

use super::clock::{after, now_ns};
use super::failover::conninfo;
use super::failover::record::Awaited;
use super::lag::last_record_end;
use super::link::{self, Kept, Link, Login};
use super::lsn::Lsn;
use super::plan::Failure;
use crate::config::model::ServerTls;

/// Where and as whom to ask.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) password: crate::config::model::Secret,
    pub(super) previous_password: crate::config::model::Secret,
    pub(super) database: String,
    /// Of its cluster.
    pub(super) tls: ServerTls,
    /// For the connection and for each query.
    pub(super) timeout: Duration,
    /// The session of the probes.
    pub(super) kept: Kept,
}

impl Target {
    pub(super) fn login(&self) -> Login<'_> {
        Login {
            host: &self.host,
            port: self.port,
            user: &self.user,
            password: &self.password,
            previous_password: &self.previous_password,
            database: &self.database,
            tls: &self.tls,
        }
    }
}

/// What a node said.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    /// [`now_ns`] just before the query was sent.
    pub(super) asked_ns: u64,
    pub(super) in_recovery: bool,
    pub(super) timeline: Option<u32>,
    pub(super) system_identifier: Option<u64>,
    pub(super) started: Option<i64>,
    pub(super) server_version: String,
    /// Primary: end of the last record, see [`last_record_end`].
    pub(super) insert: Option<Lsn>,
    /// Primary.
    pub(super) flush: Option<Lsn>,
    /// Replica.
    pub(super) receive: Option<Lsn>,
    /// Replica.
    pub(super) replay: Option<Lsn>,
    /// Replica: age of the last replayed commit.
    pub(super) commit_age: Option<Duration>,
    /// Primary: what a commit waits for.
    pub(super) synchronous: Awaited,
    /// A WAL receiver runs, and this login may not see its timeline.
    pub(super) receiver_hidden: bool,
    /// As which it is known where it is a standby; empty for the default.
    pub(super) own_name: String,
}

/// The kept session to one node.
pub(super) struct Prober {
    target: Target,
    session: Option<Session>,
}

struct Session {
    link: Arc<Link>,
    query: Statement,
    /// The same without what is in the control file, which costs the server more than all the rest.
    light: Statement,
    /// Nothing but how far a primary has come, a third of that again.
    position: Statement,
    /// When `query` was asked last, ns.
    asked_whole_ns: u64,
    /// The last answer to one of the other two, of a primary.
    last: Option<Answer>,
    system_identifier: Option<u64>,
    /// As which it is known where it is a standby; empty for the default.
    own_name: String,
    server_version: String,
    /// A restart ends the session.
    started: Option<i64>,
    wal_block_size: u64,
    /// A server's timeline goes back only with a restart, which ends the session. The receiver's row, the only
    /// prompt source, is gone whenever the receiver is.
    newest_timeline: Option<u32>,
}

/// Between two looks into a node's control file, as long as probes come faster than that.
const WHOLE_EVERY: Duration = Duration::from_millis(200);

/// The same for everything but a primary's position.
const MORE_EVERY: Duration = Duration::from_millis(50);

/// See [`Session::position`].
const POSITION: &str = "SELECT pg_catalog.pg_is_in_recovery() AS in_recovery, \
     CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_wal_insert_lsn() END AS insert, \
     CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_wal_flush_lsn() END AS flush";

enum Trouble {
    /// The deadline passed; `held_up` when this process is to blame.
    Late {
        held_up: bool,
    },
    Failed(tokio_postgres::Error),
}

impl Prober {
    pub(super) fn new(target: Target) -> Self {
        Self { target, session: None }
    }

    /// Asks once. A session that turns out to be dead is replaced within the same probe: that it was closed
    /// (`pg_terminate_backend`, `idle_session_timeout`, a restart since) says nothing about the server now.
    ///
    /// Not cancel safe: a dropped probe may leave an answer behind; drop the prober with it.
    pub(super) async fn probe(&mut self) -> Result<Answer, Failure> {
        if let Some(mut session) = self.session.take() {
            match within(self.target.timeout, session.ask()).await {
                Ok(answer) => {
                    self.session = Some(session);
                    return Ok(answer);
                }
                Err(late @ Trouble::Late { .. }) => return Err(self.failure(late, "no answer")),
                Err(Trouble::Failed(_)) => {}
            }
        }
        let timeout = self.target.timeout;
        let opened = within(timeout, Session::open(&self.target)).await;
        let mut session = opened.map_err(|trouble| self.failure(trouble, "no connection"))?;
        let answer = within(timeout, session.ask()).await;
        let answer = answer.map_err(|trouble| self.failure(trouble, "no answer"))?;
        self.session = Some(session);
        Ok(answer)
    }

    fn failure(&self, trouble: Trouble, missing: &str) -> Failure {
        let error = match trouble {
            Trouble::Late { held_up: true } => return Failure::Stalled,
            Trouble::Late { held_up: false } => {
                return Failure::Silent(format!("{missing} within {:?}", self.target.timeout));
            }
            Trouble::Failed(error) => error,
        };
        let told = describe(&error);
        match error.code() {
            Some(code) if *code == SqlState::TOO_MANY_CONNECTIONS => Failure::Unheard(told),
            Some(code) if code.code().starts_with("28") || *code == SqlState::INVALID_CATALOG_NAME => {
                let Target { user, database, .. } = &self.target;
                Failure::Unheard(format!("{told} (monitor_user \"{user}\", monitor_database \"{database}\")"))
            }
            _ => Failure::Broken(told),
        }
    }
}

/// Waits for at most `limit`. When far more than that has passed, this process did not get to run, and an answer
/// may lie unread.
async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Trouble> {
    let begun = Instant::now();
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done.map_err(Trouble::Failed),
        Err(_) => Err(Trouble::Late { held_up: begun.elapsed() > limit + limit / 2 }),
    }
}

/// With the SQLSTATE: it ends up as a node's reason, which an operator may have to look up.
fn describe(error: &tokio_postgres::Error) -> String {
    let told = link::words(error);
    match error.as_db_error() {
        Some(db) => format!("{}: {told} ({})", db.severity(), db.code().code()),
        None => told,
    }
}

impl Session {
    async fn open(target: &Target) -> Result<Self, tokio_postgres::Error> {
        let link = Arc::new(Link::open(target.login(), target.timeout).await?);
        target.kept.set(&link);
        let rights = link.client.query_one(RIGHTS, &[]).await?;
        let query = query_for(rights.try_get(2)?, rights.try_get(3)?, rights.try_get(4)?, rights.try_get(6)?);
        let light = query_for(false, false, false, false);
        let (query, light) = (link.client.prepare(&query).await?, link.client.prepare(&light).await?);
        let position = link.client.prepare(POSITION).await?;
        let newest_timeline = timeline_of_log(&link).await;
        Ok(Self {
            link,
            query,
            light,
            position,
            asked_whole_ns: 0,
            last: None,
            system_identifier: None,
            own_name: String::new(),
            server_version: rights.try_get(0)?,
            started: rights.try_get(5)?,
            wal_block_size: u64::from(rights.try_get::<_, i32>(1)?.unsigned_abs()),
            newest_timeline,
        })
    }

    async fn ask(&mut self) -> Result<Answer, tokio_postgres::Error> {
        let asked_ns = now_ns();
        if let Some(last) = self.last.as_ref().filter(|last| asked_ns < after(last.asked_ns, MORE_EVERY)) {
            let row = self.link.client.query_one(&self.position, &[]).await?;
            if !row.try_get::<_, bool>("in_recovery")? {
                let insert = link::position(&row, "insert")?.map(|lsn| last_record_end(lsn, self.wal_block_size));
                return Ok(Answer { asked_ns, insert, flush: link::position(&row, "flush")?, ..last.clone() });
            }
        }
        let answer = self.ask_more(asked_ns).await?;
        self.last = Some(answer.clone()).filter(|answer| !answer.in_recovery);
        Ok(answer)
    }

    async fn ask_more(&mut self, asked_ns: u64) -> Result<Answer, tokio_postgres::Error> {
        let is_light = self.asked_whole_ns > 0 && asked_ns < after(self.asked_whole_ns, WHOLE_EVERY);
        let query = if is_light { &self.light } else { &self.query };
        let row = self.link.client.query_one(query, &[]).await?;
        if !is_light {
            self.asked_whole_ns = asked_ns;
            self.system_identifier = row.try_get::<_, Option<i64>>("system_identifier")?.map(i64::cast_unsigned);
            self.own_name = standby_name(row.try_get("conninfo")?, row.try_get("cluster_name")?).unwrap_or_default();
        }
        let synchronous = Awaited {
            setting: row.try_get("synchronous")?,
            own_name: self.own_name.clone(),
            senders: row.try_get("senders")?,
        };
        let in_recovery: bool = row.try_get("in_recovery")?;
        let receiver: Option<i32> = row.try_get("receiver")?;
        let received: Option<i32> = row.try_get("received_timeline")?;
        let seen = match in_recovery {
            true => replica_timeline(&row, received)?,
            false => row.try_get::<_, Option<&str>>("wal_file")?.and_then(timeline_of_wal_file),
        };
        self.newest_timeline = self.newest_timeline.max(seen);
        let position = |column| link::position(&row, column);
        let age: Option<f64> = row.try_get("commit_age")?;
        let on = |wanted: bool, lsn: Option<Lsn>| lsn.filter(|_| wanted);
        Ok(Answer {
            asked_ns,
            in_recovery,
            timeline: self.newest_timeline,
            system_identifier: self.system_identifier,
            started: self.started,
            server_version: self.server_version.clone(),
            insert: on(!in_recovery, position("insert")?).map(|lsn| last_record_end(lsn, self.wal_block_size)),
            flush: on(!in_recovery, position("flush")?),
            receive: on(in_recovery, position("receive")?),
            replay: on(in_recovery, position("replay")?),
            commit_age: age.filter(|_| in_recovery).map(|s| Duration::from_secs_f64(s.clamp(0.0, 1e9))),
            synchronous,
            receiver_hidden: receiver.is_some() && received.is_none(),
            own_name: self.own_name.clone(),
        })
    }
}

/// What does not change within a session, and which of the control functions this login may call (everybody may
/// unless an administrator has taken that away).
const RIGHTS: &str = "SELECT pg_catalog.current_setting('server_version'), \
     pg_catalog.current_setting('wal_block_size')::pg_catalog.int4, \
     pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'execute'), \
     pg_catalog.has_function_privilege('pg_catalog.pg_control_checkpoint()', 'execute'), \
     pg_catalog.has_function_privilege('pg_catalog.pg_control_recovery()', 'execute'), \
     (extract(epoch FROM pg_catalog.pg_postmaster_start_time()) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8, \
     pg_catalog.pg_has_role('pg_read_all_settings', 'member')";

/// The query of every probe. `pg_is_in_recovery()` turns from true to false only, so the functions that fail in
/// recovery are safe behind it even if a promotion comes in between.
fn query_for(system: bool, checkpoint: bool, recovery: bool, settings: bool) -> String {
    let when = |allowed: bool, expression: &'static str, otherwise: &'static str| {
        if allowed { expression } else { otherwise }
    };
    format!(
        "SELECT pg_catalog.pg_is_in_recovery() AS in_recovery, \
         {} AS system_identifier, {} AS checkpoint_timeline, {} AS recovery_timeline, \
         CASE WHEN NOT pg_catalog.pg_is_in_recovery() \
              THEN pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) END AS wal_file, \
         CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_wal_insert_lsn() END AS insert, \
         CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_wal_flush_lsn() END AS flush, \
         pg_catalog.pg_last_wal_receive_lsn() AS receive, \
         pg_catalog.pg_last_wal_replay_lsn() AS replay, \
         extract(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp())\
         ::pg_catalog.float8 AS commit_age, \
         pg_catalog.current_setting('synchronous_standby_names') AS synchronous, \
         {} AS conninfo, pg_catalog.current_setting('cluster_name') AS cluster_name, \
         ARRAY(SELECT coalesce(sender.application_name, '') FROM pg_catalog.pg_stat_replication AS sender \
          WHERE coalesce(sender.sync_priority, 1) OPERATOR(pg_catalog.>) 0 \
          AND sender.state IS DISTINCT FROM 'backup') AS senders, \
         receiver.pid AS receiver, receiver.received_tli AS received_timeline \
         FROM pg_catalog.pg_stat_get_wal_receiver() AS receiver",
        when(system, "(SELECT system_identifier FROM pg_catalog.pg_control_system())", "NULL::pg_catalog.int8"),
        when(checkpoint, "(SELECT timeline_id FROM pg_catalog.pg_control_checkpoint())", "NULL::pg_catalog.int4"),
        when(
            recovery,
            "(SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery())",
            "NULL::pg_catalog.int4"
        ),
        when(settings, "pg_catalog.current_setting('primary_conninfo')", "NULL::pg_catalog.text"),
    )
}

/// The newest timeline on which a replica has the segment that it replayed last; none on a primary, or if the login may
/// not look (pg_monitor). A receiver makes a segment of a timeline only once it receives that, so that this proves as
/// much as a running receiver does. Without one nothing else shows it before the next restartpoint: neither
/// `pg_control_checkpoint()` nor `pg_control_recovery()` does.
pub(super) async fn timeline_of_log(link: &Link) -> Option<u32> {
    // A refusal would stand in the server's log as an error.
    let right = link.client.query_one(MAY_LOOK, &[]).await.ok()?;
    right.try_get::<_, bool>(0).ok().filter(|may| *may)?;
    let row = link.client.query_opt(OF_LOG, &[]).await.ok()??;
    row.try_get::<_, Option<&str>>(0).ok()?.and_then(timeline_of_wal_file)
}

const MAY_LOOK: &str = "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_ls_waldir()', 'execute')";

const OF_LOG: &str = "SELECT pg_catalog.max(file.name OPERATOR(pg_catalog.||) '') \
     FROM (SELECT (pg_catalog.pg_last_wal_replay_lsn() - '0/0'::pg_catalog.pg_lsn - 1)::pg_catalog.int8 AS last, \
           (SELECT setting::pg_catalog.int8 FROM pg_catalog.pg_settings WHERE name = 'wal_segment_size') AS size) AS at, \
     pg_catalog.pg_ls_waldir() AS file \
     WHERE pg_catalog.pg_is_in_recovery() AND file.name OPERATOR(pg_catalog.~) '^[0-9A-F]{24}$' \
     AND pg_catalog.substr(file.name, 9) = pg_catalog.upper( \
     pg_catalog.lpad(pg_catalog.to_hex(at.last / at.size / (4294967296 / at.size)), 8, '0') || \
     pg_catalog.lpad(pg_catalog.to_hex(at.last / at.size % (4294967296 / at.size)), 8, '0'))";

/// The name of a standby that has none of its own.
pub(super) const DEFAULT_STANDBY: &str = "walreceiver";

/// As which a primary knows this node where it is a standby (`application_name` of its `primary_conninfo`, else
/// `cluster_name`); `None` for the default of all.
pub(super) fn standby_name(conninfo: Option<&str>, cluster_name: Option<&str>) -> Option<String> {
    let named = conninfo.and_then(|text| conninfo::value(text, "application_name"));
    named.or(cluster_name.map(str::to_owned)).filter(|name| !name.is_empty())
}

/// The newest timeline that a replica shows: what it streams, or what its control file says.
pub(super) fn replica_timeline(row: &Row, received: Option<i32>) -> Result<Option<u32>, tokio_postgres::Error> {
    let checkpoint: Option<i32> = row.try_get("checkpoint_timeline")?;
    let recovery: Option<i32> = row.try_get("recovery_timeline")?;
    let newest = received.max(checkpoint).max(recovery);
    Ok(newest.and_then(|timeline| u32::try_from(timeline).ok()).filter(|&timeline| timeline > 0))
}

/// The first eight hexadecimal digits of a WAL file's name.
pub(super) fn timeline_of_wal_file(name: &str) -> Option<u32> {
    u32::from_str_radix(name.get(..8)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wal_file_names_its_timeline() {
        assert_eq!(timeline_of_wal_file("0000001A0000000000000002"), Some(26));
        assert_eq!(timeline_of_wal_file("0000"), None);
    }

    #[tokio::test]
    async fn a_deadline_that_passed_long_ago_is_our_own_fault() {
        let limit = Duration::from_millis(20);
        let held_up = within::<()>(limit, async {
            std::thread::sleep(Duration::from_millis(60));
            std::future::pending().await
        });
        assert!(matches!(held_up.await, Err(Trouble::Late { held_up: true })));
        let silent = within::<()>(limit, std::future::pending());
        assert!(matches!(silent.await, Err(Trouble::Late { held_up: false })));
    }
}
