//! Which replica is promoted, and what proves that not too much is lost by it.

use super::{ASKED, Act, FROZEN, FROZEN_BUSY, Facts, MAY_NOT_READ, Move, QUIET, Seen, View};
use crate::config::model::Durability;
use crate::topology::failover::record::{At, Awaited, Job, Kind, LastSeen};
use crate::topology::failover::synchronous::Synchronous;
use crate::topology::lsn::Lsn;

impl View<'_> {
    /// The replica to promote, and what it has; the error is why none is good enough.
    pub(super) fn choose(&self, job: &Job) -> Result<(At, Lsn), String> {
        let best = self.best_replica(job).map(|(seen, facts)| (seen, facts.received.unwrap_or_default()));
        let Some((candidate, received)) = best else { return Err(self.nobody()) };
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

    /// Until no replica receives any more; those that cannot stop are left out later, see [`View::obstacle`].
    pub(super) fn wait_for_receivers(&self) -> Option<Move> {
        let still = || self.replicas().filter(|(seen, _)| seen.quiet < QUIET && !self.is_fed_by_another(seen));
        if let Some((seen, _)) = still().find(|(_, facts)| facts.conninfo.is_none()) {
            return Some(self.undo_because(format!("{}: {MAY_NOT_READ} (GRANT pg_monitor)", seen.name)));
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

    /// What a replica has that was just started is known once it has replayed all of it, unless it takes its time.
    pub(super) fn wait_for_replay(&self) -> Option<Move> {
        let (seen, _) = self.replicas().find(|(_, facts)| facts.has_more && !facts.is_delayed && !facts.is_paused)?;
        (self.in_step <= FROZEN).then(|| Move::Wait(format!("{} to replay what it has", seen.name)))
    }

    /// It has had its time to stop receiving, and could not.
    fn is_given_up(&self, facts: &Facts) -> bool {
        facts.is_busy() && !facts.is_at_rest() && self.in_step > FROZEN_BUSY
    }

    /// An old primary writes a little more log while it steps down. Those that are to follow the candidate receive none of
    /// it from here on; what they have by then, the candidate has to have.
    pub(super) fn hold_others(&self, candidate: &At) -> Result<Lsn, Move> {
        let is_led = |at: &At| at != candidate && self.noted(at).is_some();
        let others = || self.replicas().filter(|(seen, _)| is_led(&seen.at));
        if let Some((seen, why)) = others().find_map(|(seen, _)| Some((seen, seen.refused.as_ref()?))) {
            return Err(self.undo_because(format!("{}: {why}", seen.name)));
        }
        let flows = |facts: &Facts| facts.conninfo.as_deref() != Some("");
        let acts: Vec<(At, Act)> = others()
            .filter(|(_, facts)| flows(facts))
            .map(|(seen, _)| (seen.at.clone(), Act::Point { conninfo: String::new(), slot: String::new() }))
            .collect();
        if !acts.is_empty() {
            return Err(Move::Act(acts));
        }
        // One that is being told says nothing meanwhile.
        let is_told = |seen: &Seen| is_led(&seen.at) && seen.facts.is_none() && seen.silent < ASKED;
        let moves =
            self.look.iter().find(|seen| is_told(seen)).or(others()
                .find(|(seen, facts)| seen.quiet < QUIET && !self.is_given_up(facts))
                .map(|(seen, _)| seen));
        match moves {
            Some(seen) if self.in_step > FROZEN => {
                Err(self.undo_because(format!("{} did not stop receiving", seen.name)))
            }
            Some(_) => Err(Move::Wait("the receivers to end".to_owned())),
            None => Ok(others().filter_map(|(_, facts)| facts.received).max().unwrap_or_default()),
        }
    }

    /// Whoever can be asked at all answers within a moment.
    pub(super) fn wait_for_others(&self) -> Option<Move> {
        let is_asked = |seen: &Seen| self.may_answer(seen) && seen.at != self.record.primary;
        self.look.iter().any(is_asked).then(|| Move::Wait("an answer of every node".to_owned()))
    }

    /// Why no replica can be promoted.
    pub(super) fn nobody(&self) -> String {
        let mut refused = Vec::new();
        for (seen, facts) in self.replicas() {
            if let Some(why) = self.obstacle(seen, facts) {
                refused.push(format!("{}: {why}", seen.name));
            }
        }
        let unseen = self.look.iter().filter(|seen| seen.facts.is_none() && seen.at != self.record.primary);
        refused.extend(unseen.map(|seen| format!("{}: does not answer", seen.name)));
        let why = if refused.is_empty() { "there is none".to_owned() } else { refused.join("; ") };
        format!("no replica can be promoted: {why}")
    }

    /// The replica that has most of those that may be promoted; of equals one that followed the primary itself.
    pub(super) fn best_replica(&self, job: &Job) -> Option<(&Seen, &Facts)> {
        let wanted = self.replicas().filter(|(seen, facts)| {
            job.to.as_ref().is_none_or(|to| *to == seen.at) && self.obstacle(seen, facts).is_none()
        });
        let mut best: Option<(&Seen, &Facts)> = None;
        for (seen, facts) in wanted {
            let rank = |seen: &Seen, facts: &Facts| (facts.received, !self.is_fed_by_another(seen));
            if best.is_none_or(|(other, most)| rank(seen, facts) > rank(other, most)) {
                best = Some((seen, facts));
            }
        }
        best
    }

    /// Why a replica must not be promoted whatever it has.
    pub(super) fn obstacle(&self, seen: &Seen, facts: &Facts) -> Option<String> {
        if !seen.may_lead {
            return Some("it may not become the primary (promote = false, or an admin's order)".to_owned());
        }
        if facts.is_delayed {
            return Some("recovery_min_apply_delay is set".to_owned());
        }
        let is_planned = self.record.job.as_ref().is_some_and(|job| job.kind == Kind::Switchover);
        if !is_planned && self.cannot_stop(seen, facts) {
            return Some("it does not stop receiving".to_owned());
        }
        match facts.timeline {
            Some(own) if own != self.record.timeline => {
                Some(format!("it is on timeline {own}, the primary's is {}", self.record.timeline))
            }
            _ if facts.conninfo.is_none() => Some(MAY_NOT_READ.to_owned()),
            _ if facts.has_more => Some("it still replays what it had when it was started".to_owned()),
            _ => facts.received.is_none().then(|| "its position is not known".to_owned()),
        }
    }

    /// Those that answer; one that is listed under two addresses counts once.
    fn distinct_replicas(&self) -> Vec<(&Seen, &Facts)> {
        let mut distinct: Vec<(&Seen, &Facts)> = Vec::new();
        for (seen, facts) in self.replicas() {
            let is_same = |(other, _): &(&Seen, &Facts)| seen.started.is_some() && seen.started == other.started;
            if !distinct.iter().any(is_same) {
                distinct.push((seen, facts));
            }
        }
        distinct
    }

    fn cannot_stop(&self, seen: &Seen, facts: &Facts) -> bool {
        facts.is_busy() && !facts.is_at_rest() && !self.is_fed_by_another(seen)
    }

    /// How far the primary has come at least, and how much more it may have acknowledged, bytes; `None` if nothing is
    /// known. What a replica has the primary had as well.
    fn known_of_primary(&self, job: &Job) -> Option<(Lsn, u64)> {
        let known = job.known.max(self.policy.known)?;
        let unseen = if job.is_exact { 0 } else { job.unseen.max(self.policy.unseen) };
        let most = self.replicas().filter_map(|(_, facts)| facts.received).max().unwrap_or_default().max(known);
        Some((most, Lsn(known.0.saturating_add(unseen)).bytes_since(most)))
    }

    /// What a later attempt has to know.
    pub(super) fn seen_of(&self, job: &Job) -> Option<LastSeen> {
        let (flushed, unseen) = self.known_of_primary(job)?;
        Some(LastSeen { flushed, unseen, synchronous: job.synchronous.clone() })
    }

    /// The same of a candidate that is about to be promoted, once nothing more of the old primary reaches a client.
    pub(super) fn still_bounded(&self) -> Result<(), String> {
        let job = self.record.job.as_ref().filter(|job| matches!(job.kind, Kind::Failover | Kind::Ordered));
        let Some(job) = job.filter(|job| !job.allow_loss && self.policy.durability == Durability::Bounded) else {
            return Ok(());
        };
        match job.promotion() {
            Some((candidate, received)) => self.refuse_loss(job, &self.name(candidate), received),
            None => Ok(()),
        }
    }

    /// The proof that not too much is lost, or why there is none.
    fn refuse_loss(&self, job: &Job, candidate: &str, received: Lsn) -> Result<(), String> {
        let hint = "FAILOVER ... ALLOW DATA LOSS promotes it nevertheless";
        match self.policy.durability {
            Durability::BestEffort => Ok(()),
            Durability::Bounded => {
                let (known, unseen) = self.known_of_primary(job).ok_or_else(|| {
                    format!("how far the primary had come is not known, so that no bound can be proven; {hint}")
                })?;
                let (lost, most) = (known.bytes_since(received), self.policy.max_lost_bytes);
                if lost > most {
                    return Err(format!(
                        "{candidate} lacks {lost} bytes of what the primary wrote, max_lost_bytes is {most}; {hint}"
                    ));
                }
                let perhaps = Lsn(known.0.saturating_add(unseen)).bytes_since(received);
                if perhaps <= most {
                    return Ok(());
                }
                Err(format!(
                    "{candidate} may lack {perhaps} bytes of what the primary wrote, max_lost_bytes is {most}: what \
                     was acknowledged since its position was asked for last is taken for {unseen} bytes; {hint}"
                ))
            }
            Durability::Strict => {
                let Some(synchronous) = Synchronous::read(&job.synchronous.setting) else {
                    let why = "durability is strict, but the primary had no synchronous_standby_names";
                    return Err(format!("{why}, so that nothing proves where its commits are; {hint}"));
                };
                // One that was led elsewhere is known by the name that it had before.
                let standby = |seen: &Seen, facts: &Facts| {
                    self.noted(&seen.at).map_or_else(|| facts.standby.clone(), |astray| astray.standby.clone())
                };
                let answering = self.distinct_replicas();
                let names: Vec<String> = answering.iter().map(|(seen, facts)| standby(seen, facts)).collect();
                let others = self.look.iter().filter(|seen| seen.at != self.record.primary);
                let silent = others.filter(|seen| self.replicas().all(|(known, _)| known.at != seen.at));
                let (known, nameless): (Vec<&Seen>, Vec<&Seen>) = silent.partition(|seen| seen.standby.is_some());
                let nodes: Vec<String> =
                    names.iter().cloned().chain(known.iter().filter_map(|seen| seen.standby.clone())).collect();
                // Several standbys may have one name, and any of them acknowledges.
                let meant = nodes.iter().filter(|name| synchronous.names(name)).count();
                let Awaited { own_name, senders, .. } = &job.synchronous;
                let own_names = [own_name.as_str(), &self.name(&self.record.primary)];
                let of = meant + synchronous.elsewhere(&nodes, senders, &own_names).max(nameless.len());
                // Any set of so many contains one that has the last acknowledged commit.
                let needed = (of + 1).saturating_sub(synchronous.least);
                let is_heard = |((seen, facts), name): &((&Seen, &Facts), &String)| {
                    synchronous.names(name) && facts.received.is_some() && !self.cannot_stop(seen, facts)
                };
                let heard = answering.iter().copied().zip(&names).filter(is_heard).count();
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
