//! A candidate that was told to promote, and is lost.

use super::{CANDIDATE_SILENT, Policy, Seen, View};
use crate::topology::failover::record::{At, Job, Kind, Record, Step, Stray, Strayed};
use crate::topology::lsn::Lsn;

/// The record once an admin has ordered another promotion in the place of one whose candidate is lost. Nobody has
/// written to the candidate through Forebay, which lets clients in only when a promotion has ended; so what proves that
/// another one has enough is what proved it before.
///
/// # Errors
/// Why the candidate is not given up.
pub fn give_up(record: &Record, look: &[Seen], policy: &Policy, ordered: &Job) -> Result<Record, String> {
    let view = View { record, look, policy, in_step: Default::default() };
    let Some(job) = &record.job else { return Err("nothing is under way".to_owned()) };
    let Some((candidate, from)) = job.promotion().filter(|_| ordered.kind == Kind::Ordered) else {
        let why = &job.why;
        return Err(format!(
            "another change of the primary is under way: {why}; try again when SHOW EVENTS has its end"
        ));
    };
    let name = view.name(candidate);
    let started = view.seen(candidate).and_then(|seen| seen.started);
    if let Some(since) = awaited(candidate, look) {
        return Err(format!("{name} is being promoted, and {since}"));
    }
    if ordered.to.as_ref() == Some(candidate) {
        return Err(format!("{name} is being promoted already, and does not answer"));
    }
    let mut next = record.clone();
    next.strays.retain(|stray| stray.at != *candidate);
    next.strays.push(Stray { at: candidate.clone(), how: Strayed::Told { started } });
    // Nobody was told: it is resolved anew on whoever is promoted.
    next.in_doubt.clear();
    next.job = Some(view.after_loss(job, from, &name, ordered));
    Ok(next)
}

/// The candidate that was told to promote and has not answered for long.
pub fn lost_candidate<'a>(record: &'a Record, look: &[Seen]) -> Option<&'a At> {
    let (candidate, _) = record.job.as_ref()?.promotion()?;
    awaited(candidate, look).is_none().then_some(candidate)
}

/// In words, why a candidate that was told to promote is waited for.
fn awaited(candidate: &At, look: &[Seen]) -> Option<String> {
    let seen = look.iter().find(|seen| seen.at == *candidate)?;
    match (&seen.facts, seen.silent < CANDIDATE_SILENT) {
        (Some(_), _) => Some("answers".to_owned()),
        (None, true) => Some(format!("has answered within {CANDIDATE_SILENT:?}")),
        (None, false) => None,
    }
}

impl View<'_> {
    fn after_loss(&self, job: &Job, from: Lsn, name: &str, ordered: &Job) -> Job {
        let (kind, known, is_exact) = match job.kind {
            // What the old primary had written is known exactly.
            Kind::Switchover => (Kind::Failover, Some(from), true),
            Kind::Return => (Kind::Failover, job.known, job.is_exact),
            // What the candidate had the old primary had, too.
            Kind::Followed => (Kind::Failover, job.known, job.is_exact),
            Kind::Failover | Kind::Ordered => (job.kind, job.known.map(|known| known.max(from)), job.is_exact),
        };
        let why = format!("{name} was lost while it was being promoted");
        let step = match kind == Kind::Failover && self.primary_lives() {
            true => Step::Undoing { why: why.clone() },
            false => Step::Freezing,
        };
        let (by, to) = (ordered.by.clone(), ordered.to.clone());
        let synchronous = job.synchronous.clone();
        let (unseen, known_ago_ms, allow_loss) = (job.unseen, job.known_ago_ms, ordered.allow_loss);
        Job { by, to, allow_loss, known, is_exact, unseen, known_ago_ms, synchronous, ..Job::new(kind, why, step) }
    }
}
