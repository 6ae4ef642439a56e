//! Who is accepted as primary, and who is fenced for claiming to be one.

use crate::config::model::FailoverMode;
use crate::topology::failover::record::Strayed;

use super::{Action, Member, Plan, Record};

/// What the answers so far amount to.
enum Verdict {
    /// Not everybody has been asked; nobody is accepted and nobody accused.
    Wait,
    /// The recorded primary stays, in service or not.
    Stay,
    /// This node is the primary from now on.
    Accept(usize),
    /// Several claims, or only ones that are too old: nobody serves.
    Dispute {
        /// Name of the event.
        event: &'static str,
        /// In words.
        why: String,
    },
}

impl Plan {
    /// Decides who is primary and fences every other node that accepts writes.
    pub(super) fn elect(&mut self, actions: &mut Vec<Action>) {
        self.raise_floor();
        let accepted = self.accepted();
        self.proposal = self.wanted.filter(|node| Some(*node) != accepted);
        let dispute = match self.judge() {
            Verdict::Wait => return,
            Verdict::Stay => {
                self.follow_timeline(actions);
                None
            }
            Verdict::Accept(node) if self.is_led => {
                self.proposal.get_or_insert(node);
                None
            }
            Verdict::Accept(node) => {
                self.accept(node, actions);
                None
            }
            Verdict::Dispute { event, why } => {
                if self.dispute.as_ref() != Some(&why) {
                    actions.push(Action::Report { node: None, event, detail: why.clone() });
                }
                Some(why)
            }
        };
        self.fence_claimants(dispute.as_deref());
        self.dispute = dispute;
    }

    /// Records `node` as the primary of a new epoch.
    pub(super) fn accept(&mut self, node: usize, actions: &mut Vec<Action>) {
        let Some(member) = self.members.get_mut(node) else {
            return;
        };
        (member.fence, member.stray) = (None, None);
        self.record = Some(Record { node, timeline: member.timeline() });
        self.epoch += 1;
        actions.push(Action::ForgetPositions);
    }

    fn judge(&self) -> Verdict {
        match self.record {
            _ if self.closed.is_some() => Verdict::Stay,
            None if self.is_unasked() => Verdict::Wait,
            None => self.judge_first(),
            Some(_) if self.mode == FailoverMode::Off || self.paused.is_some() => Verdict::Stay,
            Some(record) => self.judge_against(record),
        }
    }

    /// Without a record: the only claimant of the newest timeline. One that was seen to accept writes and is away
    /// still counts, or a lost packet would settle a dispute.
    fn judge_first(&self) -> Verdict {
        let claims = self.claims(|member| member.timeline() >= self.floor);
        let is_present = |&node: &usize| self.members.get(node).is_some_and(Member::is_reachable);
        if claims.iter().any(is_present) {
            return self.judge_claims(&claims);
        }
        match self.claims(Member::is_reachable).first() {
            Some(&old) => self.nobody_on_floor(old),
            None => Verdict::Stay,
        }
    }

    /// With a record: only a newer timeline replaces it.
    fn judge_against(&self, record: Record) -> Verdict {
        let recorded = self.members.get(record.node).filter(|member| self.is_claimant(member));
        let own = recorded.map_or(record.timeline, |member| member.timeline().max(record.timeline));
        if self.floor <= own {
            return Verdict::Stay;
        }
        // In this mode only we promote while the primary is well: whoever else was is fenced. Once it is gone, an
        // admin's promotion by hand is as good as ours.
        let is_well = recorded.is_some_and(|member| member.is_reachable() && member.fence.is_none());
        if self.mode == FailoverMode::Promote && is_well {
            return Verdict::Stay;
        }
        let is_barred = |member: &Member| self.mode == FailoverMode::Promote && member.stray.is_some();
        let claims =
            self.claims(|member| member.is_reachable() && member.timeline() >= self.floor && !is_barred(member));
        if !claims.is_empty() {
            return self.judge_claims(&claims);
        }
        // One that was promoted beside the primary is no reason to do without a failover.
        if self.members.iter().any(|member| is_barred(member) && member.timeline() >= self.floor) {
            return Verdict::Stay;
        }
        self.nobody_on_floor(record.node)
    }

    /// `answered` has just answered: if it is the primary, it has outlived all who claim a newer timeline.
    pub(super) fn note_outlived(&mut self, answered: usize) {
        let Some(record) = self.record.filter(|record| record.node == answered) else { return };
        if !self.members.get(answered).is_some_and(|member| self.is_claimant(member)) {
            return;
        }
        for member in self.members.iter_mut().filter(|member| member.was_writable()) {
            if member.timeline() > record.timeline {
                member.stray = Some(Strayed::Promoted);
            }
        }
    }

    /// The accepted primary, if `node` claims a newer timeline than its and it has not answered since.
    pub(super) fn rival_of(&self, node: usize) -> Option<usize> {
        let record = self.record.filter(|record| record.node != node)?;
        let member = self.members.get(node)?;
        let is_rival = member.was_writable() && member.stray.is_none() && member.timeline() > record.timeline;
        (is_rival && self.members.get(record.node)?.is_reachable()).then_some(record.node)
    }

    /// Judges those who claim the newest timeline.
    fn judge_claims(&self, claims: &[usize]) -> Verdict {
        match (claims, self.newer_replica()) {
            (&[node], None) => Verdict::Accept(node),
            (&[node], Some(ahead)) => Verdict::Dispute {
                event: "no_primary",
                why: format!(
                    "{} accepts writes on timeline {}, but {ahead}: its primary is not among the nodes that answer",
                    self.name(node),
                    self.floor
                ),
            },
            (several, _) => Verdict::Dispute { event: "two_primaries", why: self.equal_claims(several) },
        }
    }

    fn nobody_on_floor(&self, old: usize) -> Verdict {
        let why = format!(
            "a node accepted writes on timeline {} and does not answer; {} has only timeline {}",
            self.floor,
            self.name(old),
            self.members.get(old).map_or(0, Member::timeline)
        );
        Verdict::Dispute { event: "no_primary", why }
    }

    /// The recorded primary may go on to a newer timeline by itself (recovery to a point in time): a new epoch,
    /// because positions of the old history say nothing about the new one.
    fn follow_timeline(&mut self, actions: &mut Vec<Action>) {
        let Some(record) = self.record else { return };
        let Some(member) = self.members.get_mut(record.node) else {
            return;
        };
        let timeline = member.timeline();
        if !member.is_reachable() || !member.was_writable() || timeline < record.timeline {
            return;
        }
        member.fence = None;
        if timeline > record.timeline && self.is_led {
            self.proposal.get_or_insert(record.node);
        } else if timeline > record.timeline {
            self.record = Some(Record { timeline, ..record });
            self.epoch += 1;
            actions.push(Action::ForgetPositions);
            let detail = format!("timeline {} to {timeline}", record.timeline);
            actions.push(Action::Report { node: Some(record.node), event: "timeline_changed", detail });
        }
    }

    fn fence_claimants(&mut self, dispute: Option<&str>) {
        let record = self.record;
        let accepted = record.map(|r| (self.name(r.node).to_owned(), r));
        let kept_because = match (&self.paused, self.mode) {
            (Some(by), _) => Some(format!("failover is paused by {by}")),
            (None, FailoverMode::Off) => Some("failover.mode is off".to_owned()),
            (None, _) => None,
        };
        let promotes = self.is_cut();
        let rejoins = self.rejoins && self.paused.is_none();
        for (node, member) in self.members.iter_mut().enumerate() {
            if !member.is_reachable() || !member.was_writable() {
                continue;
            }
            let timeline = member.timeline();
            if promotes && record.is_some_and(|record| timeline > record.timeline) {
                // Most likely the one that we promote. Nobody gets traffic before that is known.
                continue;
            }
            member.fence = match (&accepted, dispute) {
                (_, Some(why)) => Some(why.to_owned()),
                (None, None) => None,
                (Some((_, record)), None) if record.node == node => (timeline < record.timeline)
                    .then(|| format!("came back on timeline {timeline}, older than the accepted {}", record.timeline)),
                (Some((name, record)), None) => Some(match &kept_because {
                    Some(why) if timeline > record.timeline => {
                        format!("accepts writes on timeline {timeline}, but {why} and {name} is the primary")
                    }
                    _ => {
                        let way_out = match rejoins && timeline < record.timeline {
                            true => "rejoin_command is to make it a replica again",
                            false => "rebuild or rewind this node as a replica",
                        };
                        format!(
                            "accepts writes on timeline {timeline}, but {name} is the primary on timeline {}: {way_out}",
                            record.timeline
                        )
                    }
                }),
            };
        }
    }

    /// Notes the newest timeline that accepts writes; before the first primary also what did so before it went
    /// away. Not until everybody was asked: till then a node of another cluster is not known for one.
    fn raise_floor(&mut self) {
        let is_first = self.record.is_none();
        if is_first && self.is_unasked() {
            return;
        }
        let claimants = self.members.iter().filter(|m| (is_first || m.is_reachable()) && self.is_claimant(m));
        let newest = claimants.map(Member::timeline).max();
        self.floor = self.floor.max(newest.unwrap_or(0));
    }

    /// Says of itself that it accepts writes, and may be listened to.
    fn is_claimant(&self, member: &Member) -> bool {
        member.was_writable() && !member.is_detached() && self.refusal(member).is_none()
    }

    fn claims(&self, also: impl Fn(&Member) -> bool) -> Vec<usize> {
        let is_claim = |(node, member): (usize, &Member)| (self.is_claimant(member) && also(member)).then_some(node);
        self.members.iter().enumerate().filter_map(is_claim).collect()
    }

    /// A replica on a timeline newer than any that accepts writes proves that somebody else was promoted.
    fn newer_replica(&self) -> Option<String> {
        let ahead = self.members.iter().find(|member| {
            let counts = member.is_reachable() && !member.is_detached() && self.refusal(member).is_none();
            counts && member.timeline() > self.floor
        })?;
        Some(format!("{} follows timeline {}", ahead.seat.name, ahead.timeline()))
    }

    fn equal_claims(&self, nodes: &[usize]) -> String {
        let describe = |&node: &usize| {
            let away = self.members.get(node).is_some_and(|member| !member.is_reachable());
            format!("{}{}", self.name(node), if away { " (away now)" } else { "" })
        };
        let names: Vec<String> = nodes.iter().map(describe).collect();
        let started = |&node: &usize| self.members.get(node)?.facts.as_ref()?.started;
        let first = nodes.first().and_then(started);
        if first.is_some() && nodes.iter().all(|node| started(node) == first) {
            // To the microsecond: nothing else starts two servers at once.
            return format!("{} are one server: leave one of them in nodes", names.join(" and "));
        }
        format!(
            "{} accept writes on timeline {} and none of them was accepted before: DETACH the wrong ones, \
             or ATTACH the right one with FORCE",
            names.join(" and "),
            self.floor
        )
    }
}
