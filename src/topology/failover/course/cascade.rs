//! Replicas that follow another replica: as long as that one goes on, they get from there whatever there is.

use super::{Facts, Seen, View};
use crate::topology::failover::conninfo;
use crate::topology::failover::record::At;

impl View<'_> {
    /// Another node than the primary, which this one follows by its `primary_conninfo`.
    pub(super) fn upstream_of(&self, facts: &Facts) -> Option<&Seen> {
        let upstream: At = conninfo::server(facts.conninfo.as_deref()?)?;
        self.seen(&upstream).filter(|seen| seen.at != self.record.primary)
    }

    /// A replica that needs nothing: it follows another one that goes on.
    pub(super) fn is_fed_by_another(&self, replica: &Seen) -> bool {
        let is_astray = |seen: &Seen| self.noted(&seen.at).is_some();
        let goes_on = |seen: &&Seen| self.replicas().any(|(other, _)| other.at == seen.at);
        let mut here = replica;
        // Replicas that follow each other in a ring are fed by nobody.
        for _ in 0..self.look.len() {
            let above = here.facts.as_ref().and_then(|facts| self.upstream_of(facts)).filter(goes_on);
            match above {
                Some(above) if !is_astray(here) => here = above,
                _ => return here.at != replica.at,
            }
        }
        false
    }

    /// The node that this one follows has just been asked, and may answer yet.
    pub(super) fn upstream_is_silent_for_a_moment(&self, facts: &Facts) -> Option<&Seen> {
        self.upstream_of(facts).filter(|seen| self.may_answer(seen))
    }
}
