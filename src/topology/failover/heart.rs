//! Whether the primary can still write: one small record of the write-ahead log each second.
//!
//! A server whose disk hangs answers every question and commits nothing. The record is not waited for by replicas, so
//! that a missing standby is no reason to fail over, and it keeps the replicas' receivers hearing from the primary.

use std::time::Duration;

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
     pg_catalog.pg_try_advisory_lock(1179603525, 1)";

/// Why a session with the primary has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// A beat hangs in it. It has the lock, for as long as that lasts.
    Hangs,
    Lost,
}

/// Beats at whatever primary there is, until nobody names one any more.
pub(in crate::topology) async fn beat(
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
            ended = beat_at(&at, &target, &beats, is_ours.as_ref() == Some(&at)) => match ended {
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
async fn beat_at(at: &At, target: &Target, beats: &mpsc::UnboundedSender<Beat>, is_ours: bool) -> Ended {
    let Ok(Ok(link)) = timeout(target.timeout, Link::open(target.login(), target.timeout)).await else {
        return Ended::Lost;
    };
    let mut has_claim = is_ours;
    loop {
        let beat = async {
            if !has_claim {
                has_claim = link.client.query_one(CLAIM, &[]).await?.try_get(3)?;
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
        if beats.send(Beat { at: at.clone(), hangs, is_taken: !has_claim }).is_err() {
            return Ended::Lost;
        }
        if hangs {
            // A session that hangs in a commit answers nothing else: the next beat is made by another one.
            return if has_claim { Ended::Hangs } else { Ended::Lost };
        }
        sleep(PACE).await;
    }
}
