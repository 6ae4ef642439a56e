//! What is to be done next about a cluster's primary. Pure: the record and what the nodes say go in, one move comes out.
//!
//! The caller writes a record where it is told to, and only then asks again; so the record on disk always allows what
//! is being done. Every act may be done twice. Up to [`Step::Promoting`] everything can be undone; from there on only
//! the recorded candidate can become the primary, unless it is lost for good and an admin says so ([`give_up`]).

use std::time::Duration;

use super::conninfo;
use super::record::{Astray, At, Job, Kind, Record, Step};
use crate::config::model::Durability;
use crate::topology::lsn::Lsn;

mod cascade;
mod choice;
mod clean;
mod lost;
mod tend;

pub use lost::{give_up, lost_candidate};

/// A replica that can still reach the primary streams again within about 25 ms; so long one is waited for.
const WITNESS: Duration = Duration::from_millis(1000);
/// An attempt of a replica to connect to a primary that refuses Forebay ends by itself within this.
const CONNECTED: Duration = Duration::from_secs(4);
/// Frozen replicas are looked at so often before they are believed: the receiver may be about to be started again.
const QUIET: u32 = 2;
/// A candidate that says nothing for so long before it was told to promote is left for another one; from there on an
/// admin may do so.
const CANDIDATE_SILENT: Duration = Duration::from_secs(5);
/// How long receivers may take to end.
const FROZEN: Duration = Duration::from_secs(10);
/// The same for those that will not: see [`Facts::is_busy`].
const FROZEN_BUSY: Duration = Duration::from_secs(1);
/// A replica that can be asked at all has answered within this.
pub const ASKED: Duration = Duration::from_secs(2);
/// What a candidate has received is nearly always replayed within this.
const REPLAYED: Duration = Duration::from_millis(500);
/// So long reads may hold up the replay of a replica that has been told to promote.
const READS: Duration = Duration::from_secs(1);
/// How long the sessions of a primary that steps down may take to end.
const FENCED: Duration = Duration::from_secs(3);

/// Why a node cannot be led anywhere.
const MAY_NOT_READ: &str = "the monitoring login may not read its primary_conninfo";

/// What a node says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// `pg_is_in_recovery()`
    pub in_recovery: bool,
    /// Timeline, if it may be seen.
    pub timeline: Option<u32>,
    /// System identifier, if it may be seen.
    pub system_identifier: Option<u64>,
    /// Replica: the end of what it has, received or replayed.
    pub received: Option<Lsn>,
    /// Replica.
    pub replayed: Option<Lsn>,
    /// Primary: the end of what is safe on its disk.
    pub flushed: Option<Lsn>,
    /// `primary_conninfo`; `None` if the login may not read it.
    pub conninfo: Option<String>,
    /// `primary_slot_name`
    pub slot: String,
    /// As which a primary knows it.
    pub standby: String,
    /// Replica: it still replays what it had when its server was started; how much that is nobody knows.
    pub has_more: bool,
    /// Its WAL receiver, if one is connected.
    pub receiver: Option<Receiver>,
    /// One is about to be.
    pub is_connecting: bool,
    /// `pg_is_wal_replay_paused()`
    pub is_paused: bool,
    /// `recovery_min_apply_delay` is set.
    pub is_delayed: bool,
    /// Replay waits for the end of somebody's read.
    pub is_held_up: bool,
    /// `default_transaction_read_only`
    pub read_only: bool,
    /// Sessions that are in a transaction, ours apart.
    pub at_work: u32,
    /// Physical replication slots.
    pub slots: Vec<String>,
}

impl Facts {
    /// A replica that receives nothing and cannot begin to; a primary that nobody writes to and nobody can.
    pub fn is_at_rest(&self) -> bool {
        match self.in_recovery {
            true => self.receiver.is_none() && self.conninfo.as_deref() == Some(""),
            false => self.read_only && self.at_work == 0,
        }
    }

    /// Replay waits for something else than more log. Such a replica goes on receiving from where it did, whatever its
    /// `primary_conninfo` says: PostgreSQL acts upon that only when there is nothing left to replay.
    fn is_busy(&self) -> bool {
        self.is_paused || self.is_delayed || self.is_held_up
    }
}

/// A WAL receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver {
    /// `status = 'streaming'`. Says nothing about now: it stays so for as long as the connection is open.
    pub is_streaming: bool,
    /// When it last heard from the primary.
    pub heard: Option<Duration>,
}

/// One node as seen now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Which.
    pub at: At,
    /// Its name.
    pub name: String,
    /// It may become the primary, as far as configuration and admins' orders go.
    pub may_lead: bool,
    /// What it says, after everything that it was told to do; `None` while it says nothing.
    pub facts: Option<Facts>,
    /// Since when it has said nothing.
    pub silent: Duration,
    /// It was down when the change began, and for longer than a restart takes: nobody waits for it.
    pub is_down: bool,
    /// `pg_postmaster_start_time()` when that was last known, microseconds since 1970.
    pub started: Option<i64>,
    /// As which a primary knows it, when that was last known.
    pub standby: Option<String>,
    /// How many looks in a row have found it at rest, see [`Facts::is_at_rest`].
    pub quiet: u32,
    /// What it said when it refused the last thing that it was told to do.
    pub refused: Option<String>,
}

/// What a promotion may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// `failover.durability`
    pub durability: Durability,
    /// `failover.max_lost_bytes`
    pub max_lost_bytes: u64,
    /// `failover.mode` is promote.
    pub may_promote: bool,
    /// The last known position of the primary by now.
    pub known: Option<Lsn>,
    /// The most that clients were acknowledged beyond that, bytes of log; an estimate.
    pub unseen: u64,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Move {
    /// This record takes the place of the present one.
    Write(Box<Record>),
    /// The primary is restarted as a standby, by the program that is configured for that; once that has ended well,
    /// this record takes the place of the present one.
    Demote(Box<Record>),
    /// To be done at these nodes, which are then asked again.
    Act(Vec<(At, Act)>),
    /// Something has to change first; in words, what.
    Wait(String),
    /// Nothing is left to do.
    Rest,
}

/// What a node can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// `primary_conninfo` and `primary_slot_name` are set; an empty upstream ends the receiver.
    Point {
        /// `primary_conninfo`
        conninfo: String,
        /// `primary_slot_name`
        slot: String,
    },
    /// `pg_wal_replay_resume()`
    Resume,
    /// `pg_promote(false)`
    Promote,
    /// No more writes: `default_transaction_read_only`, and the sessions of others end.
    Fence,
    /// Takes writes again.
    Unfence,
    /// The sessions of others end: their reads hold up a promotion.
    EndReads,
    /// A physical replication slot.
    Slot(String),
}

impl Act {
    /// Without what must not be in a log.
    pub fn name(&self) -> &'static str {
        match self {
            Act::Point { conninfo, .. } if conninfo.is_empty() => "receive nothing",
            Act::Point { .. } => "follow",
            Act::Resume => "resume replay",
            Act::Promote => "promote",
            Act::Fence => "take no writes",
            Act::Unfence => "take writes",
            Act::EndReads => "end reads",
            Act::Slot(_) => "make a slot",
        }
    }
}

/// The next move.
///
/// `in_step` is the time since the present record was written, or since this process began with it.
pub fn next(record: &Record, look: &[Seen], policy: &Policy, in_step: Duration) -> Move {
    let view = View { record, look, policy, in_step };
    match &record.job {
        None => view.tend(),
        Some(job) => match &job.step {
            Step::Witnessing => view.witness(job),
            Step::Freezing => view.freeze(job),
            Step::Fencing => view.fence(job),
            Step::Preparing => view.prepare(job),
            Step::Demoting { candidate } => view.demote(candidate),
            Step::Comparing { candidate } => view.compare(candidate),
            Step::CatchingUp { candidate, target } => view.catch_up(job, candidate, *target),
            Step::Promoting { candidate, from } => view.promote(job, candidate, *from),
            Step::Undoing { .. } => view.undo(),
        },
    }
}

/// Whether the promotion of this record may still begin, once nothing more of the old primary reaches a client.
///
/// # Errors
///
/// In words, what may be lost.
pub fn still_bounded(record: &Record, look: &[Seen], policy: &Policy) -> Result<(), String> {
    View { record, look, policy, in_step: Duration::ZERO }.still_bounded()
}

/// Everything that a decision needs.
struct View<'a> {
    record: &'a Record,
    look: &'a [Seen],
    policy: &'a Policy,
    in_step: Duration,
}

impl View<'_> {
    fn seen(&self, at: &At) -> Option<&Seen> {
        self.look.iter().find(|seen| seen.at == *at)
    }

    fn facts(&self, at: &At) -> Option<&Facts> {
        self.seen(at)?.facts.as_ref()
    }

    fn answer(&self, at: &At) -> Option<(&Seen, &Facts)> {
        self.seen(at).and_then(|seen| Some((seen, seen.facts.as_ref()?)))
    }

    /// How a node that is to be led elsewhere was before.
    fn noted(&self, at: &At) -> Option<&Astray> {
        self.record.astray.iter().find(|astray| astray.at == *at)
    }

    fn name<'a>(&'a self, at: &'a At) -> String {
        self.seen(at).map_or_else(|| at.to_string(), |seen| seen.name.clone())
    }

    /// Those that answer, are in recovery and belong to this cluster.
    fn replicas(&self) -> impl Iterator<Item = (&Seen, &Facts)> {
        let all = self.look.iter().filter_map(|seen| Some((seen, seen.facts.as_ref()?)));
        let is_apart = |at: &At| *at == self.record.primary || self.record.strays.iter().any(|stray| stray.at == *at);
        all.filter(move |(seen, facts)| facts.in_recovery && self.is_ours(facts) && !is_apart(&seen.at))
    }

    /// As far as it is known.
    fn is_ours(&self, facts: &Facts) -> bool {
        let own = self.record.system_identifier;
        own.is_none() || facts.system_identifier.is_none() || facts.system_identifier == own
    }

    /// The recorded primary answers and takes writes, as it did before.
    fn primary_lives(&self) -> bool {
        self.facts(&self.record.primary)
            .is_some_and(|facts| !facts.in_recovery && facts.timeline.is_none_or(|own| own == self.record.timeline))
    }

    /// It was asked, and an answer may yet come.
    fn may_answer(&self, seen: &Seen) -> bool {
        seen.facts.is_none() && seen.silent < ASKED && !seen.is_down
    }

    fn write(&self, change: impl FnOnce(&mut Record)) -> Move {
        let mut record = self.record.clone();
        change(&mut record);
        Move::Write(Box::new(record))
    }

    fn step(&self, step: Step) -> Move {
        self.write(|record| {
            if let Some(job) = &mut record.job {
                job.step = step;
            }
        })
    }

    fn undo_because(&self, why: String) -> Move {
        self.step(Step::Undoing { why })
    }

    fn undo_if_primary_lives(&self) -> Option<Move> {
        let primary = &self.record.primary;
        // One that we have made a standby takes writes as soon as it is promoted again.
        let comes_back = self.record.demoted && self.facts(primary).is_some_and(|facts| facts.in_recovery);
        (self.primary_lives() || comes_back).then(|| self.undo_because(format!("{} answers again", self.name(primary))))
    }

    /// Notes replicas whose upstream will be changed, before it is.
    fn note_astray(&self) -> Option<Move> {
        let new: Vec<Astray> = self
            .replicas()
            .filter(|(seen, _)| self.noted(&seen.at).is_none() && !self.is_fed_by_another(seen))
            .filter(|(_, facts)| self.upstream_is_silent_for_a_moment(facts).is_none())
            .filter_map(|(seen, facts)| astray(&seen.at, facts, &self.record.primary))
            .collect();
        (!new.is_empty()).then(|| self.write(|record| record.astray.extend(new)))
    }

    /// Whether the primary is heard by others: each replica is made to connect to it anew.
    fn witness(&self, job: &Job) -> Move {
        if let Some(undoing) = self.undo_if_primary_lives() {
            return undoing;
        }
        if let Some(noting) = self.note_astray() {
            return noting;
        }
        let mut acts = Vec::new();
        let (mut is_open, mut is_connecting) = (false, false);
        for (seen, facts) in self.replicas() {
            let Some(astray) = self.noted(&seen.at) else { continue };
            if self.upstream_of(facts).is_some() {
                // It hears another replica, which says nothing of the primary.
                continue;
            }
            let Some(bounced) = bounced(&astray.conninfo) else { continue };
            if facts.conninfo.as_deref() != Some(bounced.as_str()) {
                acts.push((seen.at.clone(), Act::Point { conninfo: bounced, slot: astray.slot.clone() }));
                continue;
            }
            match &facts.receiver {
                // It has connected since: the one before was ended by the change.
                Some(receiver) if receiver.is_streaming && receiver.heard.is_some_and(|ago| ago < self.in_step) => {
                    let (witness, primary) = (&seen.name, self.name(&self.record.primary));
                    return self.undo_because(format!("{witness} still hears {primary}, which Forebay cannot reach"));
                }
                Some(_) => is_open = true,
                None => is_connecting |= facts.is_connecting,
            }
        }
        if !acts.is_empty() {
            return Move::Act(acts);
        }
        // Where nothing listens any more, an attempt ends at once; one that goes on has found somebody.
        let patience = match (job.is_refused, is_open, is_connecting) {
            (true, _, true) => CONNECTED,
            (true, false, false) => WITNESS / 5,
            _ => WITNESS,
        };
        if self.in_step < patience {
            return Move::Wait(format!("whether a replica still hears {}", self.name(&self.record.primary)));
        }
        self.step(Step::Freezing)
    }

    /// Ends every receiver, and chooses once that is done.
    fn freeze(&self, job: &Job) -> Move {
        if job.kind == Kind::Failover
            && let Some(undoing) = self.undo_if_primary_lives()
        {
            return undoing;
        }
        if let Some(noting) = self.note_astray() {
            return noting;
        }
        if let Some(waiting) = self.wait_for_others() {
            return waiting;
        }
        if let Some((seen, why)) = self.replicas().find_map(|(seen, _)| Some((seen, seen.refused.as_ref()?))) {
            return self.undo_because(format!("{}: {why}", seen.name));
        }
        let flows = |facts: &Facts| facts.conninfo.as_deref().is_some_and(|conninfo| !conninfo.is_empty());
        // Who follows a frozen one gets no further either.
        let to_freeze = || self.replicas().filter(|(seen, _)| !self.is_fed_by_another(seen));
        let acts: Vec<(At, Act)> = to_freeze()
            .filter(|(_, facts)| flows(facts))
            .map(|(seen, _)| (seen.at.clone(), Act::Point { conninfo: String::new(), slot: String::new() }))
            .collect();
        if !acts.is_empty() {
            return Move::Act(acts);
        }
        if let Some(moved) = self.wait_for_receivers() {
            return moved;
        }
        let chosen = self.choose(job);
        let loses = |received: Lsn| job.known.is_some_and(|known| known.bytes_since(received) > 0);
        // Whoever still replays may have what the others lack.
        if chosen.as_ref().map_or(true, |(_, received)| loses(*received))
            && let Some(waiting) = self.wait_for_replay()
        {
            return waiting;
        }
        match chosen {
            Ok((candidate, target)) => self.write(|record| {
                if let Some(job) = &mut record.job {
                    job.step = Step::CatchingUp { candidate, target };
                    // What any replica has the primary had written: the one that is promoted may lack it.
                    let most = self.replicas().filter_map(|(_, facts)| facts.received).max();
                    job.known = job.known.map(|known| known.max(most.unwrap_or_default()));
                }
            }),
            Err(why) => self.undo_because(why),
        }
    }

    /// The primary of a switchover stops taking writes.
    fn fence(&self, job: &Job) -> Move {
        let old = &self.record.primary;
        let Some((seen, facts)) = self.answer(old) else {
            return match self.seen(old) {
                Some(seen) if seen.silent < ASKED => Move::Wait(format!("an answer of {}", seen.name)),
                _ if job.kind == Kind::Ordered => self.step(Step::Freezing),
                _ => self.undo_because(format!("{} does not answer", self.name(old))),
            };
        };
        if facts.in_recovery {
            return self.undo_because(format!("{} is in recovery", self.name(old)));
        }
        if !self.record.read_only.contains(old) {
            return self.write(|record| record.read_only.push(old.clone()));
        }
        if !facts.is_at_rest() {
            if let Some(why) = &seen.refused
                && job.kind == Kind::Switchover
            {
                return self.undo_because(format!("{}: {why}", seen.name));
            }
            // Nothing reaches its disk, as a rule: nobody waits for what cannot be had.
            if job.kind == Kind::Ordered && (seen.refused.is_some() || self.in_step > FENCED) {
                return self.step(Step::Freezing);
            }
            if self.in_step > FENCED {
                let still = facts.at_work;
                return self.undo_because(format!("{still} sessions on {} did not end", seen.name));
            }
            return Move::Act(vec![(old.clone(), Act::Fence)]);
        }
        if seen.quiet < QUIET {
            return Move::Wait(format!("{} to be at rest", seen.name));
        }
        if job.kind == Kind::Ordered {
            let flushed = facts.flushed;
            return self.write(|record| {
                if let Some(job) = &mut record.job {
                    job.step = Step::Freezing;
                    if flushed.is_some() {
                        (job.known, job.is_exact) = (flushed, true);
                    }
                }
            });
        }
        // Whoever follows the old primary has to follow the new one.
        if let Some(noting) = self.note_astray() {
            return noting;
        }
        if let Some(waiting) = self.wait_for_others() {
            return waiting;
        }
        match (self.best_replica(job), facts.flushed) {
            (Some((candidate, _)), Some(target)) => {
                self.step(Step::CatchingUp { candidate: candidate.at.clone(), target })
            }
            _ => self.undo_because("no replica can be promoted any more".to_owned()),
        }
    }

    fn catch_up(&self, job: &Job, candidate: &At, target: Lsn) -> Move {
        let is_planned = job.kind == Kind::Switchover;
        if job.kind == Kind::Failover
            && let Some(undoing) = self.undo_if_primary_lives()
        {
            return undoing;
        }
        let Some(seen) = self.seen(candidate) else {
            return self.undo_because(format!("{candidate} is no node of this cluster any more"));
        };
        if !seen.may_lead && !job.allow_loss {
            let why = format!("{} was taken out of service", seen.name);
            return if is_planned { self.undo_because(why) } else { self.step(Step::Freezing) };
        }
        let Some(facts) = &seen.facts else {
            return match seen.silent < CANDIDATE_SILENT {
                true => Move::Wait(format!("an answer of {}", seen.name)),
                false if is_planned => self.undo_because(format!("{} does not answer", seen.name)),
                false => self.step(Step::Freezing),
            };
        };
        if !facts.in_recovery {
            return self.undo_because(format!("{} was promoted by somebody else", seen.name));
        }
        if facts.is_paused {
            return Move::Act(vec![(candidate.clone(), Act::Resume)]);
        }
        let target = match is_planned.then(|| self.hold_others(candidate)) {
            Some(Err(first)) => return first,
            Some(Ok(most)) => target.max(most),
            None => target,
        };
        // What was received may end within a record, which is never replayed. A promotion replays whatever else there is
        // before it ends; only a planned one has to be sure of it before.
        let is_near = !is_planned && self.in_step >= REPLAYED;
        // What it said before it was lost is no reason to bind everything to it.
        if seen.silent >= REPLAYED {
            return Move::Wait(format!("another answer of {}", seen.name));
        }
        if is_near || facts.replayed.is_some_and(|replayed| replayed >= target) {
            return self.step(Step::Promoting { candidate: candidate.clone(), from: target });
        }
        if is_planned && self.in_step > CANDIDATE_SILENT {
            return self.give_up_plan(&seen.name, facts, target);
        }
        Move::Wait(format!("{} to replay up to {target}", seen.name))
    }

    /// A switchover whose candidate does not come as far as the old primary was.
    fn give_up_plan(&self, candidate: &str, facts: &Facts, target: Lsn) -> Move {
        let old = &self.record.primary;
        if self.primary_lives() || !self.policy.may_promote {
            let reads = if facts.is_held_up { ": reads on it hold it up" } else { "" };
            return self.undo_because(format!("{candidate} did not replay up to {target} in time{reads}"));
        }
        // It has died meanwhile: what it had written is known exactly.
        let why = format!("{} was lost during a switchover", self.name(old));
        self.write(|record| {
            if let Some(job) = &mut record.job {
                (job.kind, job.why, job.step) = (Kind::Failover, why, Step::Freezing);
                // It was asked when it was at rest.
                (job.known, job.is_exact) = (Some(target), true);
            }
        })
    }

    fn promote(&self, job: &Job, candidate: &At, from: Lsn) -> Move {
        let Some(facts) = self.facts(candidate) else {
            let is_gone = self.seen(candidate).is_none_or(|seen| seen.silent >= CANDIDATE_SILENT);
            if job.kind == Kind::Followed && is_gone {
                return self.undo_because(format!("{} does not answer any more", self.name(candidate)));
            }
            return Move::Wait(format!("an answer of {}, which is being promoted", self.name(candidate)));
        };
        if job.kind == Kind::Followed && facts.in_recovery {
            return self.undo_because(format!("{} is in recovery again", self.name(candidate)));
        }
        if facts.in_recovery {
            // With max_standby_streaming_delay = -1 it would wait for them without end.
            let act = if facts.is_held_up && self.in_step > READS { Act::EndReads } else { Act::Promote };
            return Move::Act(vec![(candidate.clone(), act)]);
        }
        let is_newer = |own: &u32| *own > self.record.timeline || job.kind == Kind::Followed;
        let Some(timeline) = facts.timeline.filter(is_newer) else {
            return Move::Wait(format!("the new timeline of {}", self.name(candidate)));
        };
        if self.record.read_only.contains(candidate) && facts.read_only {
            return Move::Act(vec![(candidate.clone(), Act::Unfence)]);
        }
        if job.kind == Kind::Return {
            // Whoever followed it follows it still.
            return self.write(|record| {
                record.epoch += 1;
                record.timeline = timeline;
                record.fork = Some(from);
                (record.seen, record.job, record.demoted) = (None, None, false);
                record.read_only.retain(|at| at != candidate);
            });
        }
        if job.kind == Kind::Followed {
            return self.write(|record| {
                record.epoch += 1;
                record.former = Some(std::mem::replace(&mut record.primary, candidate.clone()));
                record.timeline = timeline;
                (record.fork, record.seen, record.job, record.demoted) = (None, None, None, false);
                record.strays.retain(|stray| stray.at != *candidate);
                record.read_only.retain(|at| at != candidate);
                record.astray.retain(|astray| astray.at != *candidate);
            });
        }
        let old = &self.record.primary;
        // One that was restarted as a standby was told whom to follow; whether it does is looked at.
        let is_known = |at: &At| match at == old {
            true => !self.record.demoted,
            false => at == candidate || self.noted(at).is_some(),
        };
        let unasked: Vec<At> = self.look.iter().map(|seen| seen.at.clone()).filter(|at| !is_known(at)).collect();
        self.write(|record| {
            record.epoch += 1;
            let old = std::mem::replace(&mut record.primary, candidate.clone());
            record.timeline = timeline;
            record.fork = Some(from);
            (record.seen, record.job, record.demoted) = (None, None, false);
            record.astray.retain(|astray| astray.at != *candidate && astray.at != old);
            record.former = Some(old);
            record.unasked = unasked;
            record.strays.retain(|stray| stray.at != *candidate);
            record.read_only.retain(|at| at != candidate);
        })
    }

    fn undo(&self) -> Move {
        let primary = &self.record.primary;
        let is_being_asked = |seen: &Seen| seen.facts.is_none() && seen.silent < ASKED;
        if self.record.read_only.contains(primary) && self.seen(primary).is_some_and(is_being_asked) {
            // Clients are let in as soon as this is over: not before it can take writes.
            return Move::Wait(format!("an answer of {}", self.name(primary)));
        }
        if self.record.demoted && self.facts(primary).is_none() && self.in_step < clean::COMES_BACK {
            return Move::Wait(format!("{} to come back", self.name(primary)));
        }
        // What is left is done by `tend`, as soon as the node can be reached.
        match self.unfence() {
            Some(act) => Move::Act(vec![act]),
            None => self.write(|record| {
                if let Some(job) = record.job.take().filter(|job| matches!(job.kind, Kind::Failover | Kind::Ordered)) {
                    record.seen = self.seen_of(&job).or(record.seen.take());
                }
                record.strays.retain(|stray| stray.at != record.primary);
            }),
        }
    }
}

/// A replica as it is, before its upstream is changed; `None` if it has none, or one that may not be read.
fn astray(at: &At, facts: &Facts, upstream: &At) -> Option<Astray> {
    Some(Astray {
        at: at.clone(),
        conninfo: facts.conninfo.clone().filter(|conninfo| !conninfo.is_empty())?,
        slot: facts.slot.clone(),
        standby: facts.standby.clone(),
        upstream: upstream.clone(),
    })
}

/// The same upstream in other words: the change makes the receiver connect anew.
fn bounced(text: &str) -> Option<String> {
    conninfo::with(text, "connect_timeout", "2")
}
