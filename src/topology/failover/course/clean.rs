//! `SWITCHOVER ... MODE clean`: the old primary is restarted as a standby before another is promoted, so that both end
//! at the same position and the old one follows the new one without `pg_rewind`.
//!
//! Until the promotion everything can be undone. An old primary that is a standby by then is promoted again, see
//! `tend`: that [`Record::demoted`](crate::topology::failover::record::Record::demoted) is set before it may become one.

use std::time::Duration;

use super::{ASKED, Act, CANDIDATE_SILENT, Facts, MAY_NOT_READ, Move, Seen, View};
use crate::topology::failover::conninfo;
use crate::topology::failover::record::{Astray, At, Job, Step};

/// A candidate that is further behind than this would keep the old primary from stopping.
const NEAR: u64 = 1024 * 1024;
/// How long a primary may take to begin its restart, once it was told to.
const RESTARTS: Duration = Duration::from_secs(10);
/// How long it may take until it answers again.
pub(super) const COMES_BACK: Duration = Duration::from_secs(30);
/// How long the old primary and the candidate may take to be at the same position.
const EQUAL: Duration = Duration::from_secs(10);

impl View<'_> {
    /// Chooses who takes the place of the primary, and notes how the primary is before it is changed.
    pub(super) fn prepare(&self, job: &Job) -> Move {
        let old = &self.record.primary;
        let Some((seen, facts)) = self.answer(old) else {
            return match self.seen(old) {
                Some(seen) if seen.silent < ASKED => Move::Wait(format!("an answer of {}", seen.name)),
                _ => self.undo_because(format!("{} does not answer", self.name(old))),
            };
        };
        if facts.in_recovery {
            return self.undo_because(format!("{} is in recovery", self.name(old)));
        }
        if let Some(waiting) = self.wait_for_others() {
            return waiting;
        }
        // Whoever follows the old primary has to follow the new one.
        if let Some(noting) = self.note_astray() {
            return noting;
        }
        let Some((candidate, ready)) = self.best_replica(job) else {
            return self.undo_because(self.nobody());
        };
        if ready.is_paused {
            return Move::Act(vec![(candidate.at.clone(), Act::Resume)]);
        }
        let behind = facts.flushed.unwrap_or_default().bytes_since(ready.replayed.unwrap_or_default());
        if behind > NEAR {
            if self.in_step > CANDIDATE_SILENT {
                return self.undo_because(format!("{} is {behind} bytes behind", candidate.name));
            }
            return Move::Wait(format!("{} to catch up", candidate.name));
        }
        let (Some(conninfo), slot, standby) = (facts.conninfo.clone(), facts.slot.clone(), standby_name(seen, facts))
        else {
            return self.undo_because(format!("{}: {MAY_NOT_READ} (GRANT pg_monitor)", seen.name));
        };
        let before = Astray { at: old.clone(), conninfo, slot, standby, upstream: old.clone() };
        let candidate = candidate.at.clone();
        self.write(|record| {
            record.astray.retain(|astray| astray.at != before.at);
            record.astray.push(before);
            record.demoted = true;
            if let Some(job) = &mut record.job {
                job.step = Step::Demoting { candidate };
            }
        })
    }

    /// The old primary is told whom to follow, and restarted as a standby.
    pub(super) fn demote(&self, candidate: &At) -> Move {
        let old = &self.record.primary;
        let Some((seen, facts)) = self.answer(old) else {
            // A process before this one may have had it restarted.
            return match self.in_step < COMES_BACK {
                true => Move::Wait(format!("an answer of {}", self.name(old))),
                false => self.undo_because(format!("{} does not answer", self.name(old))),
            };
        };
        if facts.in_recovery {
            return self.step(Step::Comparing { candidate: candidate.clone() });
        }
        let (Some(next), Some((conninfo, slot))) = (self.seen(candidate), self.to_follow(candidate)) else {
            let why = "primary_conninfo is not of keywords and values (a URI?), and cannot be led elsewhere";
            return self.undo_because(format!("{}: {why}", self.name(candidate)));
        };
        let Some(ready) = &next.facts else {
            return match next.silent < CANDIDATE_SILENT {
                true => Move::Wait(format!("an answer of {}", next.name)),
                false => self.undo_because(format!("{} does not answer", next.name)),
            };
        };
        if let Some((seen, why)) = [seen, next].iter().find_map(|seen| Some((seen, seen.refused.as_ref()?))) {
            return self.undo_because(format!("{}: {why}", seen.name));
        }
        if !slot.is_empty() && !ready.slots.contains(&slot) {
            return Move::Act(vec![(candidate.clone(), Act::Slot(slot))]);
        }
        if facts.conninfo.as_deref() != Some(conninfo.as_str()) || facts.slot != slot {
            return Move::Act(vec![(old.clone(), Act::Point { conninfo, slot })]);
        }
        match self.step(Step::Comparing { candidate: candidate.clone() }) {
            Move::Write(record) => Move::Demote(record),
            other => other,
        }
    }

    /// What makes the old primary follow the candidate: its own settings of that time if it has been a standby before,
    /// else those of the candidate under its own name.
    fn to_follow(&self, candidate: &At) -> Option<(String, String)> {
        let old = &self.record.primary;
        let before = self.noted(old)?;
        let slot = if before.slot.is_empty() { slot_name(&self.name(old)) } else { before.slot.clone() };
        if !before.conninfo.is_empty() {
            return Some((conninfo::led_to(&before.conninfo, candidate)?, slot));
        }
        let of_candidate = match self.noted(candidate) {
            Some(astray) => astray.conninfo.clone(),
            None => self.facts(candidate)?.conninfo.clone()?,
        };
        let led = conninfo::led_to(&of_candidate, candidate)?;
        Some((conninfo::with(&led, "application_name", &before.standby)?, slot))
    }

    /// The old primary comes back as a standby; the candidate has to have exactly what it has.
    pub(super) fn compare(&self, candidate: &At) -> Move {
        let old = &self.record.primary;
        let name = self.name(old);
        let Some(facts) = self.facts(old) else {
            return match self.in_step < COMES_BACK {
                true => Move::Wait(format!("{name} to come back as a standby")),
                false => self.undo_because(format!("{name} did not come back as a standby within {COMES_BACK:?}")),
            };
        };
        if !facts.in_recovery {
            return match self.in_step < RESTARTS {
                true => Move::Wait(format!("{name} to be restarted")),
                false => self.undo_because(format!("{name} was not restarted as a standby: it still accepts writes")),
            };
        }
        let Some(seen) = self.seen(candidate) else {
            return self.undo_because(format!("{candidate} is no node of this cluster any more"));
        };
        let Some(ready) = &seen.facts else {
            return match seen.silent < CANDIDATE_SILENT {
                true => Move::Wait(format!("an answer of {}", seen.name)),
                false => self.undo_because(format!("{} does not answer", seen.name)),
            };
        };
        if !ready.in_recovery {
            return self.undo_because(format!("{} was promoted by somebody else", seen.name));
        }
        if let Some((at, _)) = [(old, facts), (candidate, ready)].into_iter().find(|(_, facts)| facts.is_paused) {
            return Move::Act(vec![(at.clone(), Act::Resume)]);
        }
        match end_of(facts).filter(|end| end_of(ready) == Some(*end)) {
            Some(from) => self.step(Step::Promoting { candidate: candidate.clone(), from }),
            None if self.in_step < EQUAL => Move::Wait(format!("{} to have all that {name} has", seen.name)),
            None => {
                let at = |facts: &Facts| facts.replayed.unwrap_or_default();
                let (has, wants) = (at(ready), at(facts));
                self.undo_because(format!("{} is at {has} and {name} at {wants}", seen.name))
            }
        }
    }
}

/// How far a standby is that has replayed all that it has.
fn end_of(facts: &Facts) -> Option<crate::topology::lsn::Lsn> {
    facts.replayed.filter(|replayed| facts.received == Some(*replayed))
}

/// As which a primary is to know this node once it follows.
fn standby_name(seen: &Seen, facts: &Facts) -> String {
    if facts.standby == "walreceiver" { seen.name.clone() } else { facts.standby.clone() }
}

/// A slot's name may have small letters, digits and underscores.
fn slot_name(node: &str) -> String {
    let plain = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '_' };
    node.to_ascii_lowercase().chars().map(plain).take(63).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_named_after_its_node() {
        assert_eq!(slot_name("Db-1.example"), "db_1_example");
    }
}
