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
}

/// In a transaction of its own; `local` waits for the own disk only.
const BEAT: &str = "BEGIN; SET LOCAL synchronous_commit = local; \
     SELECT pg_catalog.pg_logical_emit_message(true, 'forebay', ''); COMMIT";

/// Beats at whatever primary there is, until nobody names one any more.
pub(in crate::topology) async fn beat(
    mut primary: watch::Receiver<Option<(At, Target)>>,
    beats: mpsc::UnboundedSender<Beat>,
) {
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
            hangs = beat_at(&at, &target, &beats) => if !hangs { sleep(PACE).await },
        }
    }
}

/// Beats at one primary, for as long as the session lasts. Answers whether that ended with a beat that hangs.
async fn beat_at(at: &At, target: &Target, beats: &mpsc::UnboundedSender<Beat>) -> bool {
    let Ok(Ok(link)) = timeout(target.timeout, Link::open(target.login(), target.timeout)).await else { return false };
    loop {
        let hangs = match timeout(target.timeout, link.client.batch_execute(BEAT)).await {
            Err(_) => true,
            Ok(Ok(())) => false,
            Ok(Err(error)) => {
                tracing::debug!(node = %at, error = words(&error), "no beat");
                return false;
            }
        };
        if beats.send(Beat { at: at.clone(), hangs }).is_err() {
            return false;
        }
        if hangs {
            // A session that hangs in a commit answers nothing else: the next beat is made by another one.
            return true;
        }
        sleep(PACE).await;
    }
}
