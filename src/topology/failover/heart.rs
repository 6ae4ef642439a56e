//! Whether the primary can still write: one small record of the write-ahead log each second.
//!
//! A server whose disk hangs answers every question and commits nothing. The record is not waited for by replicas, so
//! that a missing standby is no reason to fail over, and it keeps the replicas' receivers hearing from the primary.

use std::hash::{Hash as _, Hasher as _};
use std::path::Path;
use std::time::Duration;

use rustc_hash::FxHasher;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::record::At;
use crate::topology::link::{Link, words};
use crate::topology::probe::Target;

/// Between two beats.
const PACE: Duration = Duration::from_secs(1);

/// What came of a beat.
#[derive(Debug)]
pub(in crate::topology) struct Beat {
    pub(in crate::topology) at: At,
    /// It was not committed in time. Anything else, such as a connection that is lost, is for the probes to judge.
    pub(in crate::topology) hangs: bool,
    /// Another instance of Forebay promotes here.
    pub(in crate::topology) is_taken: bool,
}

/// In a transaction of its own; `local` waits for the own disk only.
const BEAT: &str = "BEGIN; SET LOCAL synchronous_commit = local; \
     SELECT pg_catalog.pg_logical_emit_message(true, 'forebay', ''); COMMIT";

/// The instance that has this lock on the primary is the one that promotes. The server gives it to another one soon after
/// the machine of the first is gone, and not only when the system's two hours are over.
const CLAIM: &str = "SELECT pg_catalog.set_config('tcp_keepalives_idle', '10', false), \
     pg_catalog.set_config('tcp_keepalives_interval', '5', false), \
     pg_catalog.set_config('tcp_keepalives_count', '3', false), \
     pg_catalog.pg_try_advisory_lock(1179603525, $1)";

/// An ordinary login that has the lock is passed over for the next one; all instances go through them in this order.
const LOCKS: std::ops::RangeInclusive<i32> = 1..=8;

/// Who has the lock if it is not this session: a login that may watch a cluster (an ordinary one that takes the lock
/// stops nobody), and whether that is a session of this instance's own, which a hung disk has outlived its process in.
const HOLDER: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks AS own WHERE own.pid = lock.pid AND own.granted \
     AND own.locktype = 'advisory' AND own.classid = 1179603526 AND own.objid = $1 AND own.objsubid = 2) \
     FROM pg_catalog.pg_locks AS lock JOIN pg_catalog.pg_stat_activity AS activity ON activity.pid = lock.pid \
     WHERE lock.locktype = 'advisory' AND lock.granted AND lock.classid = 1179603525 AND lock.objid = $2 \
     AND lock.objsubid = 2 AND lock.database = (SELECT oid FROM pg_catalog.pg_database \
     WHERE datname = pg_catalog.current_database()) \
     AND (activity.usename = current_user OR pg_catalog.pg_has_role(activity.usesysid, 'pg_monitor', 'member'))";

/// Marks a session as one of this instance's.
const MARK: &str = "SELECT pg_catalog.pg_try_advisory_lock_shared(1179603526, $1)";

/// Why a session with the primary has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// A beat hangs in it. It has the lock, for as long as that lasts.
    Hangs,
    Lost,
}

/// Whose claim it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// This session's, or that of one before it in this process.
    Ours,
    /// A session's of the process before this one.
    Former,
    /// Nobody's, as far as that can be told.
    Nobody,
    Others,
}

/// A number for this instance, the same after a restart: by its machine and its state folder.
pub(in crate::topology) fn instance(state_dir: &Path) -> i32 {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let folder = std::fs::canonicalize(state_dir).unwrap_or_else(|_| state_dir.to_owned());
    let mut hasher = FxHasher::default();
    (host.trim(), folder).hash(&mut hasher);
    // Half of the bits are enough, and keep it what both int4 and oid can be.
    i32::try_from(hasher.finish() >> 33).unwrap_or_default()
}

/// Beats at whatever primary there is, until nobody names one any more. `instance` is [`instance()`].
pub(in crate::topology) async fn beat(
    instance: i32,
    mut primary: watch::Receiver<Option<(At, Target)>>,
    beats: mpsc::UnboundedSender<Beat>,
) {
    let mut is_ours = None;
    loop {
        let Some((at, target)) = primary.borrow_and_update().clone() else {
            if primary.changed().await.is_err() {
                return;
            }
            continue;
        };
        tokio::select! {
            // As soon as there is another primary, or none.
            changed = primary.changed() => if changed.is_err() { return },
            ended = beat_at(instance, &at, &target, &beats, is_ours.as_ref() == Some(&at)) => match ended {
                Ended::Hangs => is_ours = Some(at),
                Ended::Lost => {
                    is_ours = None;
                    sleep(PACE).await;
                }
            },
        }
    }
}

/// Beats at one primary, for as long as the session lasts.
async fn beat_at(instance: i32, at: &At, target: &Target, beats: &mpsc::UnboundedSender<Beat>, is_ours: bool) -> Ended {
    let Ok(Ok(link)) = timeout(target.timeout, Link::open(target.login(), target.timeout)).await else {
        return Ended::Lost;
    };
    let mut claim = if is_ours { Claim::Ours } else { Claim::Nobody };
    let mut is_marked = false;
    loop {
        let beat = async {
            if !is_marked {
                is_marked = true;
                link.client.query_one(MARK, &[&instance]).await?;
            }
            if claim != Claim::Ours {
                claim = ask_for_claim(&link, instance).await?;
            }
            link.client.batch_execute(BEAT).await
        };
        let hangs = match timeout(target.timeout, beat).await {
            Err(_) => true,
            Ok(Ok(())) => false,
            Ok(Err(error)) => {
                tracing::debug!(node = %at, error = words(&error), "no beat");
                return Ended::Lost;
            }
        };
        if beats.send(Beat { at: at.clone(), hangs, is_taken: claim == Claim::Others }).is_err() {
            return Ended::Lost;
        }
        if hangs {
            // A session that hangs in a commit answers nothing else: the next beat is made by another one.
            return if claim == Claim::Ours { Ended::Hangs } else { Ended::Lost };
        }
        sleep(PACE).await;
    }
}

async fn ask_for_claim(link: &Link, instance: i32) -> Result<Claim, tokio_postgres::Error> {
    let oid = |number: i32| u32::try_from(number).unwrap_or_default();
    for lock in LOCKS {
        if link.client.query_one(CLAIM, &[&lock]).await?.try_get(3)? {
            return Ok(Claim::Ours);
        }
        let holder = link.client.query_opt(HOLDER, &[&oid(instance), &oid(lock)]).await?;
        match holder.map(|row| row.try_get(0)).transpose()? {
            Some(true) => return Ok(Claim::Former),
            Some(false) => return Ok(Claim::Others),
            None => {}
        }
    }
    Ok(Claim::Nobody)
}
