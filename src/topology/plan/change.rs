//! What [`crate::topology::failover`] does is told to the plan.

use super::{Action, Closed, Facts, Member, Plan, Reach, Record};
use crate::config::model::{FailoverMode, NodeRole};
use crate::topology::failover::record::Strayed;

impl Plan {
    /// Nobody takes writes until [`Plan::open`] or [`Plan::install`]. With `cuts`, not even what is under way goes on.
    pub fn close(&mut self, now_ns: u64, why: String, cuts: bool) -> Vec<Action> {
        self.changed(now_ns, |plan, _| plan.closed = Some(Closed { why, cuts }))
    }

    /// As [`Plan::close`] without cuts, because a switchover was ordered; with `restarts` one that restarts the primary as
    /// a standby.
    pub fn leave(&mut self, now_ns: u64, why: String, restarts: bool) -> Vec<Action> {
        (self.is_leaving, self.restarts) = (true, restarts);
        self.close(now_ns, why, false)
    }

    /// The accepted primary takes writes as before.
    pub fn open(&mut self, now_ns: u64) -> Vec<Action> {
        self.is_leaving = false;
        self.changed(now_ns, |plan, _| plan.closed = None)
    }

    /// Whether `rejoin_command` makes a replica of a former primary.
    pub fn set_rejoins(&mut self, rejoins: bool) {
        self.rejoins = rejoins;
    }

    /// We have promoted this node, and it takes writes.
    pub fn install(&mut self, now_ns: u64, node: usize, timeline: u32, epoch: u64) -> Vec<Action> {
        let actions = self.changed(now_ns, |plan, actions| {
            let Some(member) = plan.members.get_mut(node) else { return };
            let system_identifier = plan.identifier;
            let started = member.facts.as_ref().and_then(|facts| facts.started);
            member.facts = Some(Facts { in_recovery: false, timeline: Some(timeline), system_identifier, started });
            member.reach = Reach::Up;
            (member.fence, member.stray) = (None, None);
            plan.closed = None;
            plan.record = Some(Record { node, timeline });
            plan.floor = plan.floor.max(timeline);
            plan.epoch = epoch;
            actions.push(Action::ForgetPositions);
        });
        self.is_leaving = false;
        actions
    }

    /// From now on several instances decide together.
    pub fn set_led(&mut self) {
        self.is_led = true;
    }

    /// The node that should be the primary, as far as this instance can tell, and the timeline that it writes.
    pub fn proposal(&self) -> Option<(usize, u32)> {
        self.proposal.and_then(|node| Some((node, self.members.get(node)?.timeline())))
    }

    /// What the instances have decided: the primary, `None` if it is no node here, why nobody writes to it now, and, if
    /// that is a switchover, whether it restarts the primary.
    pub fn adopt(
        &mut self,
        now_ns: u64,
        (node, timeline, epoch): (Option<usize>, u32, u64),
        identifier: Option<u64>,
        closed: Option<(String, bool)>,
        leaving: Option<bool>,
    ) -> Vec<Action> {
        if let Some(restarts) = leaving {
            (self.is_leaving, self.restarts) = (true, restarts);
        }
        let is_open = closed.is_none();
        let actions = self.changed(now_ns, |plan, actions| {
            let record = node.map(|node| Record { node, timeline });
            plan.closed = closed.map(|(why, cuts)| Closed { why, cuts });
            plan.identifier = identifier.or(plan.identifier);
            if (plan.record, plan.epoch) == (record, epoch) {
                return;
            }
            let is_other = plan.record.map(|record| record.node) != node;
            (plan.record, plan.epoch, plan.wanted) = (record, epoch, None);
            // A decision for an older timeline is an admin's.
            plan.floor = timeline;
            actions.push(Action::ForgetPositions);
            if let Some(member) = node.and_then(|node| plan.members.get_mut(node)).filter(|_| is_other) {
                (member.fence, member.stray) = (None, None);
            }
            actions.extend(node.map(|node| Action::Probe { node, after: std::time::Duration::ZERO }));
        });
        self.is_leaving &= !is_open;
        actions
    }

    /// What was decided before a restart: this node was the primary.
    pub fn restore(&mut self, node: Option<usize>, timeline: u32, epoch: u64, identifier: Option<u64>) {
        self.record = node.map(|node| Record { node, timeline });
        self.floor = timeline;
        self.epoch = epoch;
        self.identifier = identifier;
        self.last_served = node;
        self.is_restored = identifier.is_some();
    }

    /// The record is of a cluster that is gone: every node answers, and all of them belong to another one (`initdb` was
    /// run again).
    pub(super) fn forget_another_cluster(&mut self, actions: &mut Vec<Action>) {
        let Some(recorded) = self.identifier.filter(|_| self.is_restored && !self.is_led) else { return };
        let told = |member: &Member| member.facts.as_ref().filter(|_| member.is_reachable())?.system_identifier;
        let all: Vec<Option<u64>> = self.members.iter().map(told).collect();
        if all.contains(&Some(recorded)) {
            self.is_restored = false;
            return;
        }
        let Some(&Some(other)) = all.first().filter(|first| all.iter().all(|id| id == *first)) else { return };
        (self.is_restored, self.identifier, self.record) = (false, None, None);
        (self.floor, self.last_served, self.closed) = (0, None, None);
        let detail = format!("the recorded primary was of the cluster {recorded}, all nodes are of {other}");
        actions.push(Action::Report { node: None, event: "record_forgotten", detail });
    }

    /// The node was promoted, or may have been, beside the primary.
    pub fn set_stray(&mut self, node: usize, how: Strayed) {
        if let Some(member) = self.members.get_mut(node) {
            member.stray = Some(how);
        }
    }

    /// See [`Plan::set_stray`].
    pub fn strayed(&self, node: usize) -> Option<Strayed> {
        self.members.get(node)?.stray
    }

    /// Not even what is under way goes on, see [`Plan::close`].
    pub fn is_cut(&self) -> bool {
        self.closed.as_ref().is_some_and(|closed| closed.cuts)
    }

    /// What is known of the accepted primary: its place, its timeline, and the epoch.
    pub fn accepted_as(&self) -> Option<(usize, u32, u64)> {
        self.record.map(|record| (record.node, record.timeline, self.epoch))
    }

    /// Connections that were made to the primary in this epoch or before, and do not lead to the primary of now, are
    /// taken away from their clients: what they still do would be lost.
    pub fn cut_epoch(&self) -> u64 {
        if self.is_cut() { self.epoch } else { self.epoch.saturating_sub(1) }
    }

    /// `failover.mode`
    pub fn mode(&self) -> FailoverMode {
        self.mode
    }

    /// Why nobody takes writes, if Forebay itself changes the primary.
    pub fn closed(&self) -> Option<&str> {
        self.closed.as_ref().map(|closed| closed.why.as_str())
    }

    /// The node takes part in no promotion: an admin's order, or the configuration.
    pub fn may_lead(&self, node: usize) -> bool {
        self.members.get(node).is_some_and(|member| {
            let is_free = member.hold.is_none() && member.fence.is_none() && member.stray.is_none();
            is_free && member.seat.role != NodeRole::Replica
        })
    }

    fn changed(&mut self, now_ns: u64, change: impl FnOnce(&mut Self, &mut Vec<Action>)) -> Vec<Action> {
        let before = self.standings();
        let mut actions = Vec::new();
        change(self, &mut actions);
        self.settle(now_ns, &before, &mut actions);
        actions
    }
}
