//! What one of several instances tells the others of a primary, and whether it may decide about it.

use std::time::Duration;

use super::changes::{Changes, SEEN, takes_writes};
use crate::topology::clock::after;
use crate::topology::cluster::{Watched, WatchedNode};
use crate::topology::coordination::votes::{self, Finding, Vote};
use crate::topology::failover::conductor::Order;
use crate::topology::failover::record::{At, Record};

/// So much longer than a lease a primary that is lost here may answer other instances before one of them should lead: by
/// then those that hang with it are gone.
const HAND_OVER: Duration = Duration::from_secs(1);

impl Changes {
    /// This instance decides.
    pub(super) fn leads(&self) -> bool {
        self.others.as_ref().is_none_or(|others| others.view().leads())
    }

    /// Whether a primary that is lost here is lost.
    pub(super) fn others_agree(&mut self, cluster: &str, now_ns: u64) -> bool {
        let Some(others) = &self.others else { return true };
        let view = others.view();
        if !view.leads() {
            return false;
        }
        match votes::judge(view.others().map(|id| (id, view.vote(cluster, id)))) {
            Finding::Begin => {
                self.objected_ns = None;
                true
            }
            Finding::Wait(why) => {
                tracing::debug!(cluster, why, "the primary is lost here");
                false
            }
            Finding::HandOver(why) => {
                let since = *self.objected_ns.get_or_insert(now_ns);
                if now_ns >= after(since, others.lease_time() + HAND_OVER) {
                    tracing::warn!(cluster, why, "the primary is lost here: another instance should lead");
                    self.objected_ns = None;
                    others.resign(others.lease_time());
                }
                false
            }
        }
    }

    /// What this instance thinks of the primary.
    pub(super) fn tell_vote(&mut self, watched: &Watched, now_ns: u64) {
        let Some(others) = &self.others else { return };
        let vote = match watched.plan.accepted() {
            Some(_) if watched.detector.verdict(now_ns).is_some() => Vote::Lost,
            Some(node) if !watched.detector.is_in_doubt() && takes_writes(watched, node) => Vote::Up,
            _ => Vote::Unsure,
        };
        if self.voted != Some(vote) {
            self.voted = Some(vote);
            others.vote(&watched.name, &vote);
        }
    }

    /// Another primary, or another timeline of it, is for all instances to accept together.
    pub(super) fn propose(&mut self, watched: &Watched, now_ns: u64) {
        let found = watched.plan.proposal().filter(|_| watched.plan.closed().is_none() && self.leads());
        let Some((node, timeline)) = found else { return };
        let Some(at) = watched.nodes.get(node).map(WatchedNode::at) else { return };
        let is_told = |known: &(At, u32, u64)| (&known.0, known.1) == (&at, timeline) && now_ns < after(known.2, SEEN);
        if self.proposed.as_ref().is_some_and(is_told) {
            return;
        }
        let record = Record::accepted(at.clone(), timeline, 1, watched.plan.system_identifier());
        self.proposed = Some((at, timeline, now_ns));
        self.begin(watched, Order::Proposed(Box::new(record)));
    }
}
