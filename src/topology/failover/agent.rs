//! One node during a change of the primary: its own session, on which it is told what to do and asked how it is.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use super::course::{Act, Facts, Receiver};
use super::record::At;
use crate::topology::lag::last_record_end;
use crate::topology::link::{Link, position, words};
use crate::topology::probe::{
    DEFAULT_STANDBY, Target, replica_timeline, standby_name, timeline_of_log, timeline_of_wal_file,
};

/// What came of a turn.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) at: At,
    /// Orders up to this number have been carried out, or have failed.
    pub(super) done: u64,
    /// What the node said afterwards.
    pub(super) facts: Result<Facts, String>,
    /// Orders that it refused.
    pub(super) refused: Vec<String>,
}

/// The task of one node; ends with this.
pub(super) struct Agent {
    orders: mpsc::UnboundedSender<(u64, Act)>,
    look: Arc<Notify>,
    task: AbortHandle,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Agent {
    /// `timeline` is the newest that the node has shown to others lately: its control file lags behind.
    pub(super) fn start(at: At, target: Target, timeline: Option<u32>, reports: mpsc::UnboundedSender<Report>) -> Self {
        let (orders, given) = mpsc::unbounded_channel();
        let look = Arc::new(Notify::new());
        let task = tokio::spawn(run(at, target, timeline, given, Arc::clone(&look), reports));
        Self { orders, look, task: task.abort_handle() }
    }

    /// To be carried out in this order; `number` grows with each.
    pub(super) fn tell(&self, number: u64, act: Act) {
        // The task ends only with this.
        let _ = self.orders.send((number, act));
        self.look.notify_one();
    }

    /// Asks the node how it is.
    pub(super) fn look(&self) {
        self.look.notify_one();
    }
}

async fn run(
    at: At,
    target: Target,
    mut timeline: Option<u32>,
    mut given: mpsc::UnboundedReceiver<(u64, Act)>,
    look: Arc<Notify>,
    reports: mpsc::UnboundedSender<Report>,
) {
    let mut link: Option<Arc<Link>> = None;
    let mut done = 0;
    loop {
        look.notified().await;
        let mut refused = Vec::new();
        let mut acts = Vec::new();
        while let Ok((number, act)) = given.try_recv() {
            done = number;
            acts.push(act);
        }
        let mut facts = turn(&mut link, &target, &acts, &mut refused, &mut timeline).await;
        match &mut facts {
            Ok(facts) => {
                timeline = timeline.max(facts.timeline);
                facts.timeline = timeline;
            }
            // It may come back with older data.
            Err(_) => (link, timeline) = (None, None),
        }
        if reports.send(Report { at: at.clone(), done, facts, refused }).is_err() {
            return;
        }
    }
}

/// Carries out `acts`, then asks. An error means that the session cannot be used any more.
async fn turn(
    link: &mut Option<Arc<Link>>,
    target: &Target,
    acts: &[Act],
    refused: &mut Vec<String>,
    timeline: &mut Option<u32>,
) -> Result<Facts, String> {
    if link.as_ref().is_none_or(|link| link.client.is_closed()) {
        let opened = within(target.timeout, async {
            let opened = match Link::open(target.login(), target.timeout).await {
                Ok(link) => Arc::new(link),
                Err(error) if error.code() == Some(&SqlState::TOO_MANY_CONNECTIONS) => {
                    target.kept.get().ok_or(error)?
                }
                Err(error) => return Err(error),
            };
            let of_log = timeline_of_log(&opened).await;
            Ok((opened, of_log))
        });
        let (opened, of_log) = opened.await?;
        *timeline = (*timeline).max(of_log);
        *link = Some(opened);
    }
    let Some(link) = link else { return Err("no connection".to_owned()) };
    for act in acts {
        let begun = Instant::now();
        if let Err(why) = within(target.timeout, carry_out(link, act)).await {
            refused.push(format!("{}: {why}", describe(act)));
            // A refusal leaves the session usable; whatever was not answered does not.
            if link.client.is_closed() || begun.elapsed() >= target.timeout {
                return Err(why);
            }
        }
    }
    let row = within(target.timeout, link.client.query_one(LOOK, &[])).await?;
    facts(&row).map_err(|error| words(&error))
}

pub(super) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, String> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done.map_err(|error| words(&error)),
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}

fn describe(act: &Act) -> String {
    match act {
        Act::Point { conninfo, .. } if conninfo.is_empty() => "primary_conninfo could not be taken away".to_owned(),
        Act::Point { .. } => "primary_conninfo could not be set".to_owned(),
        Act::Resume => "replay could not be resumed".to_owned(),
        Act::Promote => "it could not be promoted".to_owned(),
        Act::Fence => "it could not be kept from writing".to_owned(),
        Act::Unfence => "it could not be let write again".to_owned(),
        Act::EndReads => "the reads that hold it up could not be ended".to_owned(),
        Act::Slot(name) => format!("the replication slot \"{name}\" could not be made"),
    }
}

async fn carry_out(link: &Link, act: &Act) -> Result<(), tokio_postgres::Error> {
    let client = &link.client;
    match act {
        Act::Point { conninfo, slot } => {
            // One by one: ALTER SYSTEM cannot be part of a transaction.
            client.batch_execute(&format!("ALTER SYSTEM SET primary_slot_name = {}", literal(slot))).await?;
            client.batch_execute(&format!("ALTER SYSTEM SET primary_conninfo = {}", literal(conninfo))).await?;
            client.batch_execute("SELECT pg_catalog.pg_reload_conf()").await
        }
        Act::Resume => client.batch_execute("SELECT pg_catalog.pg_wal_replay_resume()").await,
        // Not waited for: that would poll every 100 ms.
        // Asked twice, it may be over already.
        Act::Promote => {
            let promote = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_promote(false) END";
            client.batch_execute(promote).await
        }
        Act::Fence => {
            client.batch_execute("ALTER SYSTEM SET default_transaction_read_only = on").await?;
            client.batch_execute("SELECT pg_catalog.pg_reload_conf()").await?;
            client.batch_execute(END_SESSIONS).await
        }
        Act::Unfence => {
            client.batch_execute("ALTER SYSTEM RESET default_transaction_read_only").await?;
            client.batch_execute("SELECT pg_catalog.pg_reload_conf()").await
        }
        Act::EndReads => client.batch_execute(END_SESSIONS).await,
        Act::Slot(name) => client.execute(MAKE_SLOT, &[name]).await.map(drop),
    }
}

/// One that is there already is left as it is.
pub(super) const MAKE_SLOT: &str = "SELECT pg_catalog.pg_create_physical_replication_slot($1, true) WHERE NOT EXISTS \
     (SELECT FROM pg_catalog.pg_replication_slots WHERE slot_name = $1::pg_catalog.text)";

/// A string constant whatever `standard_conforming_strings` says.
pub(super) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    match quoted.contains('\\') {
        true => format!("E'{}'", quoted.replace('\\', "\\\\")),
        false => format!("'{quoted}'"),
    }
}

/// Sessions of others, except those that this login has no right to end.
const END_SESSIONS: &str = "SELECT pg_catalog.pg_terminate_backend(activity.pid) \
     FROM pg_catalog.pg_stat_activity AS activity \
     JOIN pg_catalog.pg_roles AS other ON other.oid = activity.usesysid \
     JOIN pg_catalog.pg_roles AS own ON own.rolname = current_user \
     WHERE activity.backend_type = 'client backend' AND activity.pid <> pg_catalog.pg_backend_pid() \
     AND NOT (activity.usename = current_user AND activity.application_name = 'forebay') \
     AND (own.rolsuper OR NOT other.rolsuper)";

/// One row with everything that matters. Settings that a login may not see are NULL.
const LOOK: &str = "SELECT pg_catalog.pg_is_in_recovery() AS in_recovery, \
     (SELECT system_identifier FROM pg_catalog.pg_control_system()) AS system_identifier, \
     (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()) AS checkpoint_timeline, \
     (SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery()) AS recovery_timeline, \
     CASE WHEN NOT pg_catalog.pg_is_in_recovery() \
          THEN pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) END AS wal_file, \
     CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_wal_flush_lsn() END AS flush, \
     pg_catalog.pg_last_wal_receive_lsn() AS receive, pg_catalog.pg_last_wal_replay_lsn() AS replay, \
     CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_is_wal_replay_paused() END AS paused, \
     (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'primary_conninfo') AS conninfo, \
     (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'primary_slot_name') AS slot, \
     (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'cluster_name') AS cluster_name, \
     (SELECT setting <> '0' FROM pg_catalog.pg_settings WHERE name = 'recovery_min_apply_delay') AS delayed, \
     (SELECT reset_val = 'on' FROM pg_catalog.pg_settings WHERE name = 'default_transaction_read_only') AS read_only, \
     EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE backend_type = 'startup' \
      AND (wait_event LIKE 'RecoveryConflict%' OR wait_event_type IN ('Lock', 'BufferPin'))) AS held_up, \
     pg_catalog.current_setting('wal_block_size')::pg_catalog.int4 AS wal_block_size, \
     EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE backend_type = 'startup' \
      AND wait_event IN ('RecoveryWalStream', 'RecoveryWalAll', 'RecoveryRetrieveRetryInterval')) AS at_end, \
     EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE backend_type = 'walreceiver') AS has_receiver, \
     receiver.pid AS receiver, receiver.status, receiver.received_tli AS received_timeline, \
     extract(epoch FROM pg_catalog.clock_timestamp() - receiver.last_msg_receipt_time)::pg_catalog.float8 AS heard, \
     (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity \
      WHERE backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid() AND state <> 'idle' \
      AND NOT (usename = current_user AND application_name = 'forebay')) AS at_work, \
     ARRAY(SELECT slot_name::pg_catalog.text FROM pg_catalog.pg_replication_slots WHERE slot_type = 'physical') AS slots \
     FROM pg_catalog.pg_stat_get_wal_receiver() AS receiver";

fn facts(row: &Row) -> Result<Facts, tokio_postgres::Error> {
    let in_recovery: bool = row.try_get("in_recovery")?;
    let position = |column| position(row, column);
    let timeline = match in_recovery {
        true => replica_timeline(row, row.try_get("received_timeline")?)?,
        false => row.try_get::<_, Option<&str>>("wal_file")?.and_then(timeline_of_wal_file),
    };
    let conninfo: Option<String> = row.try_get("conninfo")?;
    let cluster_name: Option<String> = row.try_get("cluster_name")?;
    let standby =
        standby_name(conninfo.as_deref(), cluster_name.as_deref()).unwrap_or_else(|| DEFAULT_STANDBY.to_owned());
    let block: i32 = row.try_get("wal_block_size")?;
    let heard: Option<f64> = row.try_get("heard")?;
    let (receive, replay) = (position("receive")?, position("replay")?);
    let (at_end, has_receiver): (bool, bool) = (row.try_get("at_end")?, row.try_get("has_receiver")?);
    let receiver = row.try_get::<_, Option<i32>>("receiver")?.map(|_| -> Result<_, tokio_postgres::Error> {
        Ok(Receiver {
            is_streaming: row.try_get::<_, Option<&str>>("status")? == Some("streaming"),
            heard: heard.map(|ago| Duration::from_secs_f64(ago.clamp(0.0, 1e9))),
        })
    });
    Ok(Facts {
        in_recovery,
        timeline,
        system_identifier: row.try_get::<_, Option<i64>>("system_identifier")?.map(i64::cast_unsigned),
        // The position of the receiver falls back to the beginning of a segment when it starts again. A server that was
        // started since and has not received anything tells only by waiting that it has replayed all there is.
        received: receive.max(replay).filter(|_| in_recovery && (receive.is_some() || at_end)),
        has_more: in_recovery && receive.is_none() && !at_end,
        is_connecting: has_receiver && receiver.is_none(),
        replayed: replay.filter(|_| in_recovery),
        flushed: position("flush")?.map(|lsn| last_record_end(lsn, u64::from(block.unsigned_abs()))),
        conninfo,
        slot: row.try_get::<_, Option<String>>("slot")?.unwrap_or_default(),
        standby,
        receiver: receiver.transpose()?,
        is_paused: row.try_get::<_, Option<bool>>("paused")?.unwrap_or(false),
        is_delayed: row.try_get::<_, Option<bool>>("delayed")?.unwrap_or(false),
        is_held_up: row.try_get("held_up")?,
        read_only: row.try_get::<_, Option<bool>>("read_only")?.unwrap_or(false),
        at_work: u32::try_from(row.try_get::<_, i64>("at_work")?).unwrap_or(u32::MAX),
        slots: row.try_get("slots")?,
    })
}
