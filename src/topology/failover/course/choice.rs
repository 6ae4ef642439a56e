//! Which replica takes the primary's place: all of them have to stop receiving, one has to be good enough.

use std::time::Duration;

use super::{ASKED, Act, Facts, Move, QUIET, Seen, View};
use crate::config::model::Durability;
use crate::topology::failover::record::{Astray, At, Job, Kind, Step};
use crate::topology::failover::synchronous::Synchronous;
use crate::topology::lsn::Lsn;

/// How long receivers may take to end.
const FROZEN: Duration = Duration::from_secs(10);
/// The same for those that will not: see [`Facts::is_busy`].
const FROZEN_BUSY: Duration = Duration::from_secs(1);

impl View<'_> {
    /// Until no replica receives any more; those that cannot stop are left out later, see [`View::obstacle`].
    pub(super) fn wait_for_receivers(&self) -> Option<Move> {
        let still = || self.replicas().filter(|(seen, _)| seen.quiet < QUIET);
        if let Some((seen, _)) = still().find(|(_, facts)| facts.conninfo.is_none()) {
            let may_not = "the monitoring login may not read its primary_conninfo (GRANT pg_monitor)";
            return Some(self.undo_because(format!("{}: {may_not}", seen.name)));
        }
        if let Some((seen, _)) = still().find(|(_, facts)| !facts.is_busy()) {
            return Some(match self.in_step > FROZEN {
                true => self.undo_because(format!("{} did not stop receiving", seen.name)),
                false => Move::Wait("the receivers to end".to_owned()),
            });
        }
        still().next()?;
        if self.in_step <= FROZEN_BUSY {
            return Some(Move::Wait("the receivers of busy replicas to end".to_owned()));
        }
        let freed = still().filter_map(|(seen, facts)| match facts {
            Facts { is_paused: true, .. } => Some((seen.at.clone(), Act::Resume)),
            Facts { is_held_up: true, .. } => Some((seen.at.clone(), Act::EndReads)),
            _ => None,
        });
        let acts: Vec<(At, Act)> = freed.collect();
        (!acts.is_empty() && self.in_step <= FROZEN).then_some(Move::Act(acts))
    }

    /// The old primary is at rest, and still writes a record of its own now and then: a replica that has received one more
    /// than the new primary could never follow that. So the others stop receiving before it is said how far the candidate
    /// has to come.
    pub(super) fn choose_planned(&self, job: &Job, flushed: Option<Lsn>) -> Move {
        if self.look.iter().any(|seen| seen.facts.is_none() && seen.silent < ASKED) {
            return Move::Wait("an answer of every node".to_owned());
        }
        let flows = |facts: &Facts| facts.conninfo.as_deref().is_some_and(|conninfo| !conninfo.is_empty());
        let wanted = self.replicas().filter(|(seen, facts)| {
            job.to.as_ref().is_none_or(|to| *to == seen.at) && self.obstacle(job, seen, facts).is_none()
        });
        let best = wanted.max_by_key(|(_, facts)| (flows(facts), facts.received));
        let (Some((candidate, _)), Some(flushed)) = (best, flushed) else {
            return self.undo_because("no replica can be promoted any more".to_owned());
        };
        let others = || self.replicas().filter(|(seen, _)| seen.at != candidate.at);
        if let Some((seen, why)) = others().find_map(|(seen, _)| Some((seen, seen.refused.as_ref()?))) {
            return self.undo_because(format!("{}: {why}", seen.name));
        }
        let stop =
            |(seen, _): (&Seen, &Facts)| (seen.at.clone(), Act::Point { conninfo: String::new(), slot: String::new() });
        let acts: Vec<(At, Act)> = others().filter(|(_, facts)| flows(facts)).map(stop).collect();
        if !acts.is_empty() {
            return Move::Act(acts);
        }
        let patience = |facts: &Facts| if facts.is_busy() { FROZEN_BUSY } else { FROZEN };
        let is_waited_for = |facts: &Facts| facts.conninfo.is_some() && self.in_step <= patience(facts);
        if others().any(|(seen, facts)| seen.quiet < QUIET && is_waited_for(facts)) {
            return Move::Wait("the receivers to end".to_owned());
        }
        let most = others().filter_map(|(_, facts)| facts.received).fold(flushed, Lsn::max);
        self.step(Step::CatchingUp { candidate: candidate.at.clone(), target: most })
    }

    /// The replica to promote, and what it has; the error is why none is good enough.
    pub(super) fn choose(&self, job: &Job) -> Result<(At, Lsn), String> {
        let mut refused = Vec::new();
        let mut best: Option<(&Seen, Lsn)> = None;
        for (seen, facts) in self.replicas() {
            match self.obstacle(job, seen, facts) {
                Some(why) => refused.push(format!("{}: {why}", seen.name)),
                None => {
                    let received = facts.received.unwrap_or_default();
                    let is_wanted = job.to.as_ref().is_none_or(|to| *to == seen.at);
                    if is_wanted && best.is_none_or(|(_, most)| received > most) {
                        best = Some((seen, received));
                    }
                }
            }
        }
        let Some((candidate, received)) = best else {
            let unseen = self.look.iter().filter(|seen| seen.facts.is_none() && seen.at != self.record.primary);
            refused.extend(unseen.map(|seen| format!("{}: does not answer", seen.name)));
            let why = if refused.is_empty() { "there is none".to_owned() } else { refused.join("; ") };
            return Err(format!("no replica can be promoted: {why}"));
        };
        let most = self.replicas().filter_map(|(_, facts)| facts.received).max().unwrap_or_default();
        if !job.allow_loss {
            let behind = most.bytes_since(received);
            if behind > 0 && self.policy.durability == Durability::Strict {
                return Err(format!("{} lacks {behind} bytes that another replica has", candidate.name));
            }
            self.refuse_loss(job, &candidate.name, received)?;
        }
        Ok((candidate.at.clone(), received))
    }

    /// Why a replica must not be promoted whatever it has.
    fn obstacle(&self, job: &Job, seen: &Seen, facts: &Facts) -> Option<String> {
        if !seen.may_lead {
            return Some("it may not become the primary (promote = false, or an admin's order)".to_owned());
        }
        if facts.is_delayed {
            return Some("recovery_min_apply_delay is set".to_owned());
        }
        if job.kind != Kind::Switchover && !facts.is_at_rest() {
            return Some("it does not stop receiving".to_owned());
        }
        match facts.timeline {
            Some(own) if own != self.record.timeline => {
                Some(format!("it is on timeline {own}, the primary's is {}", self.record.timeline))
            }
            _ if facts.conninfo.is_none() => Some("the monitoring login may not read its primary_conninfo".to_owned()),
            _ => facts.received.is_none().then(|| "its position is not known".to_owned()),
        }
    }

    /// The proof that not too much is lost, or why there is none.
    fn refuse_loss(&self, job: &Job, candidate: &str, received: Lsn) -> Result<(), String> {
        let hint = "FAILOVER ... ALLOW DATA LOSS promotes it nevertheless";
        match self.policy.durability {
            Durability::BestEffort => Ok(()),
            Durability::Bounded => {
                let known = job.known.ok_or_else(|| {
                    format!("how far the primary had come is not known, so that no bound can be proven; {hint}")
                })?;
                let (lost, most) = (known.bytes_since(received), self.policy.max_lost_bytes);
                if lost <= most {
                    return Ok(());
                }
                Err(format!(
                    "{candidate} lacks {lost} bytes of what the primary wrote, max_lost_bytes is {most}; {hint}"
                ))
            }
            Durability::Strict => {
                let Some(synchronous) = Synchronous::read(&job.synchronous) else {
                    let why = "durability is strict, but the primary had no synchronous_standby_names";
                    return Err(format!("{why}, so that nothing proves where its commits are; {hint}"));
                };
                // Any set of so many contains one that has the last acknowledged commit.
                let of = synchronous.most(self.look.len().saturating_sub(1), &self.name(&self.record.primary));
                let needed = (of + 1).saturating_sub(synchronous.least);
                let is_heard = |astray: &&Astray| {
                    let is_frozen = |facts: &Facts| facts.in_recovery && facts.is_at_rest();
                    synchronous.names(&astray.standby) && self.facts(&astray.at).is_some_and(is_frozen)
                };
                let heard = self.record.astray.iter().filter(is_heard).count();
                if heard >= needed {
                    return Ok(());
                }
                Err(format!(
                    "durability is strict: {needed} of the {of} standbys of synchronous_standby_names have to be \
                     heard to be sure of every commit, {heard} are; {hint}"
                ))
            }
        }
    }
}
