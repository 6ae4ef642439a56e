//! What is done while no change is under way: whatever one has left is put right.

use std::time::Duration;

use super::{Act, Facts, Move, Seen, View, astray};
use crate::topology::failover::conninfo;
use crate::topology::failover::record::{Astray, At, Job, Kind, Step};

/// A primary that takes writes for so long is not being restarted as a standby any more.
const SETTLED: Duration = Duration::from_secs(10);

/// What there is to be done, as far as it is known.
#[derive(Default)]
struct Duties {
    acts: Vec<(At, Act)>,
    /// Replicas that are where they belong.
    done: Vec<At>,
    /// In words, what has to come first.
    missing: Vec<String>,
}

impl View<'_> {
    pub(super) fn tend(&self) -> Move {
        let primary = &self.record.primary;
        let facts = self.facts(primary);
        if self.record.read_only.contains(primary) && facts.is_some_and(|facts| !facts.read_only) {
            return self.write(|record| record.read_only.retain(|at| *at != record.primary));
        }
        let mut duties = Duties::default();
        if self.record.demoted
            && let Some(returned) = self.take_back(&mut duties)
        {
            return returned;
        }
        if let Some(asked) = self.ask_unasked() {
            return asked;
        }
        match self.unfence() {
            Some(act) => duties.acts.push(act),
            None if self.record.read_only.contains(primary) => duties.missing.push(self.answer_of(primary)),
            None => {}
        }
        duties.missing.extend(self.record.unasked.iter().map(|at| self.answer_of(at)));
        for astray in &self.record.astray {
            self.lead(astray, &mut duties);
        }
        let Duties { acts, done, missing } = duties;
        if !acts.is_empty() {
            return Move::Act(acts);
        }
        if !done.is_empty() {
            return self.write(|record| record.astray.retain(|astray| !done.contains(&astray.at)));
        }
        if missing.is_empty() { Move::Rest } else { Move::Wait(missing.join(", ")) }
    }

    fn answer_of(&self, at: &At) -> String {
        format!("{} to answer", self.name(at))
    }

    /// What makes a primary that is to take writes do so again.
    pub(super) fn unfence(&self) -> Option<(At, Act)> {
        let at = self.record.read_only.iter().find(|at| **at == self.record.primary)?;
        let facts = self.facts(at)?;
        (!facts.in_recovery && facts.read_only).then(|| (at.clone(), Act::Unfence))
    }

    /// A primary that was restarted as a standby, and whose place nobody has taken, is promoted again; or it has been
    /// already, by an order that was given up meanwhile.
    fn take_back(&self, duties: &mut Duties) -> Option<Move> {
        let primary = &self.record.primary;
        let Some(facts) = self.facts(primary) else {
            duties.missing.push(self.answer_of(primary));
            return None;
        };
        let is_newer = |timeline: Option<u32>| timeline.is_some_and(|own| own > self.record.timeline);
        let is_rival = |seen: &Seen| {
            let facts = seen.facts.as_ref().filter(|_| seen.at != *primary);
            facts.is_some_and(|facts| !facts.in_recovery && is_newer(facts.timeline))
        };
        if !facts.in_recovery && !is_newer(facts.timeline) {
            if self.in_step >= SETTLED {
                return Some(self.write(|record| record.demoted = false));
            }
            duties.missing.push(format!("whether {} stays as it is", self.name(primary)));
            return None;
        }
        if let Some(finished) = self.candidate_after_all(facts) {
            return Some(finished);
        }
        if self.look.iter().any(is_rival) || facts.in_recovery && is_newer(facts.timeline) {
            duties.missing.push(format!("somebody to say whether {} is the primary", self.name(primary)));
            return None;
        }
        if facts.is_paused {
            duties.acts.push((primary.clone(), Act::Resume));
            return None;
        }
        let why = format!("{} was restarted as a standby and nobody took its place", self.name(primary));
        let step = Step::Promoting { candidate: primary.clone(), from: facts.received.unwrap_or_default() };
        Some(self.write(|record| record.job = Some(Job::new(Kind::Return, why, step))))
    }

    /// The candidate of a promotion that was given up has been promoted, and the old primary, a standby by then, has
    /// gone over to its timeline: nobody else has all that the old primary has, which cannot go back by itself. That a
    /// server follows a timeline which began before its own end is what PostgreSQL itself refuses.
    fn candidate_after_all(&self, old: &Facts) -> Option<Move> {
        let timeline = old.timeline.filter(|own| *own > self.record.timeline)?;
        let upstream = conninfo::server(old.conninfo.as_deref()?)?;
        let is_promoted = |facts: &Facts| !facts.in_recovery && facts.timeline == Some(timeline) && self.is_ours(facts);
        let stray = self.record.strays.iter().find(|stray| stray.at == upstream)?;
        let candidate = self.facts(&stray.at).filter(|facts| is_promoted(facts)).map(|_| stray.at.clone())?;
        let why = format!("{} was promoted after all, and {}", self.name(&candidate), "the former primary follows it");
        let step = Step::Promoting { candidate, from: old.received.unwrap_or_default() };
        Some(self.write(|record| record.job = Some(Job::new(Kind::Switchover, why, step))))
    }

    /// Leads a replica to where it belongs.
    fn lead(&self, astray: &Astray, duties: &mut Duties) {
        let Some(facts) = self.facts(&astray.at) else {
            return duties.missing.push(self.answer_of(&astray.at));
        };
        let point = |conninfo: String| (astray.at.clone(), Act::Point { conninfo, slot: astray.slot.clone() });
        if astray.at == self.record.primary {
            // It was about to become a standby: what it would have followed is taken back.
            let is_as_before = facts.conninfo.as_deref() == Some(astray.conninfo.as_str()) && facts.slot == astray.slot;
            return match (facts.in_recovery, is_as_before) {
                (true, _) => duties.missing.push(format!("{} to take writes", self.name(&astray.at))),
                (false, true) => duties.done.push(astray.at.clone()),
                (false, false) => duties.acts.push(point(astray.conninfo.clone())),
            };
        }
        let Some(conninfo) = self.home_of(astray) else {
            return duties.missing.push(format!("somebody to set primary_conninfo of {}", self.name(&astray.at)));
        };
        if !facts.in_recovery || facts.conninfo.as_deref() == Some(conninfo.as_str()) {
            return duties.done.push(astray.at.clone());
        }
        let Some(primary) = self.facts(&self.record.primary).filter(|primary| !primary.in_recovery) else {
            // To an old primary it can be led back at any time: it has its slots.
            if astray.upstream == self.record.primary {
                duties.acts.push(point(conninfo));
            } else {
                duties.missing.push(self.answer_of(&self.record.primary));
            }
            return;
        };
        if !astray.slot.is_empty() && !primary.slots.contains(&astray.slot) {
            duties.acts.push((self.record.primary.clone(), Act::Slot(astray.slot.clone())));
        } else {
            duties.acts.push(point(conninfo));
        }
    }

    /// Nodes that can be asked now and could not when the primary was changed.
    fn ask_unasked(&self) -> Option<Move> {
        let answers = |at: &At| Some((self.seen(at)?, self.facts(at)?));
        let is_decided = |seen: &Seen, facts: &Facts| {
            self.upstream_is_silent_for_a_moment(facts).is_none() && !self.may_yet_be_fed(seen, facts)
        };
        let (seen, facts) = self
            .record
            .unasked
            .iter()
            .filter_map(answers)
            .find(|(seen, facts)| !facts.in_recovery || is_decided(seen, facts))?;
        let primary = &self.record.primary;
        let leads_home = |text: &str| conninfo::led_to(text, primary).as_deref() == Some(text);
        // Whom it followed is not known; not the primary of now.
        let nobody = At::nobody();
        let is_well = |conninfo: &str| leads_home(conninfo) || self.is_fed_by_a_follower(seen, facts);
        let may_follow = facts.in_recovery && self.is_ours(facts);
        let astray = astray(&seen.at, facts, &nobody).filter(|astray| may_follow && !is_well(&astray.conninfo));
        Some(self.write(|record| {
            record.unasked.retain(|other| *other != seen.at);
            record.astray.retain(|other| other.at != seen.at);
            record.astray.extend(astray);
        }))
    }

    /// A replica of another one, which leads it. The former primary may be a standby by now, and still is not whom it
    /// should follow.
    fn is_fed_by_a_follower(&self, seen: &Seen, facts: &Facts) -> bool {
        let follows_former = self.upstream_of(facts).is_some_and(|seen| self.record.former.as_ref() == Some(&seen.at));
        self.is_fed_by_another(seen) && !follows_former
    }

    /// It follows a replica that has answered, and nothing of the new timeline has come from there yet. That one may
    /// have gone since.
    fn may_yet_be_fed(&self, seen: &Seen, facts: &Facts) -> bool {
        facts.timeline.is_some_and(|own| own < self.record.timeline) && self.is_fed_by_a_follower(seen, facts)
    }

    /// What leads a replica to the recorded primary.
    fn home_of(&self, astray: &Astray) -> Option<String> {
        if astray.upstream == self.record.primary {
            return Some(astray.conninfo.clone());
        }
        conninfo::led_to(&astray.conninfo, &self.record.primary)
    }
}
