//! What [`super::conductor`] tells of its work in `SHOW EVENTS`, once and not over and over.

use std::time::{Duration, Instant};

use super::conductor::{Conductor, Notice};
use super::record::{At, Job, Kind, Record};

/// Before a failover that is undone for the same reason over and over is told of anew.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// A job that is tried again as long as the primary is lost.
#[derive(Debug)]
pub(in crate::topology) struct Undone {
    why: String,
    told: Instant,
    /// Since then.
    times: u32,
    /// The one that is under way was not told of yet: (epoch, event, node, detail).
    begun: Option<(u64, &'static str, String, String)>,
}

impl Conductor {
    /// Once a minute as long as it is the same.
    pub(super) fn tell_unkept(&mut self, record: &Record, why: String) {
        let is_told = |(known, told): &(String, Instant)| *known == why && told.elapsed() < TELL_AGAIN;
        if !self.unkept.as_ref().is_some_and(is_told) {
            self.report(record, "record_not_kept", "", &why);
            self.unkept = Some((why, Instant::now()));
        }
    }

    /// At once, unless it is likely to end as the one before did.
    pub(super) fn tell_begun(&mut self, record: &Record, job: &Job) {
        let (event, node, detail) = (began(job.kind), self.name(&record.primary), said(job));
        let is_again = |undone: &&mut Undone| job.by.is_empty() && undone.told.elapsed() < TELL_AGAIN;
        match self.undone.as_mut().filter(is_again) {
            Some(undone) => undone.begun = Some((record.epoch, event, node, detail)),
            None => self.report(record, event, &node, &detail),
        }
    }

    /// The job under way goes further, or ends otherwise, than the one before, which is the answer.
    pub(super) fn tell_begun_after_all(&mut self) -> Option<Undone> {
        let mut before = self.undone.take()?;
        if let Some((epoch, event, node, detail)) = before.begun.take() {
            self.events.record(&self.cluster, epoch, event, &node, &detail);
        }
        Some(before)
    }

    pub(super) fn tell_undone(&mut self, record: &Record, job: &Job, node: &str, why: &str) {
        let is_same = |undone: &&mut Undone| undone.begun.is_some() && undone.why == why;
        if let Some(undone) = self.undone.as_mut().filter(is_same) {
            (undone.times, undone.begun) = (undone.times + 1, None);
            tracing::info!(cluster = self.cluster, epoch = record.epoch, times = undone.times, why, "undone again");
            return;
        }
        let before = self.tell_begun_after_all();
        let detail = match before.filter(|before| before.times > 0 && before.why == why) {
            Some(before) => format!("{why}; the same {} times since it was told last", before.times),
            None => why.to_owned(),
        };
        self.report(record, ended(job.kind, false), node, &detail);
        let (told, times, begun) = (Instant::now(), 0, None);
        self.undone = job.by.is_empty().then(|| Undone { why: why.to_owned(), told, times, begun });
    }

    /// A candidate that was told to promote does not answer, or does so again.
    pub(super) async fn tell_lost(&self, record: &Record, candidate: Option<&At>) {
        let Some(job) = &record.job else { return };
        let why = match candidate {
            Some(at) => {
                let name = self.name(at);
                let why = format!("{name} was told to promote and does not answer");
                let ways = format!("it goes on when {name} is back; FAILOVER {} promotes another", self.cluster);
                self.report(record, "candidate_lost", &name, &format!("{why}: {ways}"));
                format!("{why}: {ways}")
            }
            None => promoting(job),
        };
        self.notify(Notice::Close { why, cut: true }).await;
    }
}

pub(super) fn began(kind: Kind) -> &'static str {
    match kind {
        Kind::Failover | Kind::Ordered => "failover_begun",
        Kind::Switchover => "switchover_begun",
        Kind::Return => "return_begun",
        Kind::Followed => "follow_begun",
    }
}

pub(super) fn ended(kind: Kind, is_done: bool) -> &'static str {
    match (kind, is_done) {
        (Kind::Switchover, true) => "switchover_done",
        (Kind::Switchover, false) => "switchover_undone",
        (Kind::Return, _) => "primary_returned",
        (Kind::Followed, true) => "follow_done",
        (Kind::Followed, false) => "follow_undone",
        (_, true) => "failover_done",
        (_, false) => "failover_undone",
    }
}

/// Why nobody writes meanwhile.
pub(super) fn promoting(job: &Job) -> String {
    match job.kind {
        Kind::Followed => job.why.clone(),
        _ => format!("{} is being promoted", job.why),
    }
}

pub(super) fn said(job: &Job) -> String {
    match job.by.as_str() {
        "" => job.why.clone(),
        by => format!("{}, by {by}", job.why),
    }
}
