//! Carries out what [`super::course`] says for one cluster, and keeps its record.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::agent::{Agent, Report};
use super::course::{self, Facts, Move, Policy, Seen};
use super::demote;
use super::hooks::{self, Demote, Hooks, Named, Told};
use super::led::Led;
use super::record::{At, InFile, Job, Keep as _, Kind, LastSeen, Record, Step, Stray};
use super::telling::{Undone, began, ended, promoting, said};
use crate::topology::acknowledged::Acknowledged;
use crate::topology::events::EventLog;
use crate::topology::model::Workers;
use crate::topology::probe::Target;

/// Between two looks while something is under way.
const PACE: Duration = Duration::from_millis(10);
/// Between two looks while only a node is waited for that may be gone for long.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks whether clients' work has ended.
const DRAIN_LOOK: Duration = Duration::from_millis(5);
/// Before a record that could not be written is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// A node as the conductor needs it.
#[derive(Debug, Clone)]
pub(in crate::topology) struct Party {
    pub(in crate::topology) at: At,
    pub(in crate::topology) name: String,
    pub(in crate::topology) target: Target,
    /// It may become the primary.
    pub(in crate::topology) may_lead: bool,
    /// It has been down for a while, as far as the monitor can tell.
    pub(in crate::topology) is_down: bool,
    /// The newest timeline that it has shown.
    pub(in crate::topology) timeline: Option<u32>,
    /// `pg_postmaster_start_time()` when that was last known, microseconds since 1970.
    pub(in crate::topology) started: Option<i64>,
    /// As which a primary knows it, when that was last known.
    pub(in crate::topology) standby: Option<String>,
    /// What its clients were acknowledged.
    pub(in crate::topology) acknowledged: Arc<Acknowledged>,
}

/// What the conductor can be told.
#[derive(Debug)]
pub(in crate::topology) enum Order {
    /// These are the nodes, and this is the policy, from now on.
    Nodes(Vec<Party>, Policy, Hooks),
    /// A node accepts writes and is not the primary: `rejoin_command` is for it.
    Rejoin(At),
    /// Somebody else has promoted a primary, and it was accepted.
    Accepted(Box<Record>),
    /// The same, if all instances are to accept it.
    Proposed(Box<Record>),
    /// How the primary was just now.
    Seen(At, LastSeen),
    /// See [`Record::strays`].
    Strays(Vec<Stray>),
    /// An admin has taken these out of service: none of them is promoted while a change is under way.
    Held(Vec<At>),
    /// Somebody has paused failover.
    Paused(String),
    /// A change of the primary; `epoch` is the one in which that was decided.
    Begin { job: Job, epoch: u64, drain: Option<Duration>, reply: oneshot::Sender<Result<String, String>> },
}

/// What the conductor has decided, for the monitor; each is answered once the data threads go by it.
#[derive(Debug)]
pub(in crate::topology) enum Notice {
    /// No primary, with the reason; `cut` takes connections to it away from their clients.
    Close { why: String, cut: bool },
    /// No primary for a while, by order.
    Leave { why: String, restarts: bool },
    /// As before.
    Open,
    /// This node may be promoted beside whoever is the primary in the end.
    Stray(Stray),
    /// Another primary.
    Install { primary: At, timeline: u32, epoch: u64 },
    /// What the instances have decided; `closed` as in `Close`, `leaving` as `restarts` in `Leave`.
    Adopt {
        primary: At,
        timeline: u32,
        epoch: u64,
        identifier: Option<u64>,
        closed: Option<(String, bool)>,
        leaving: Option<bool>,
    },
}

/// Told of each notice, with the cluster's name.
pub(in crate::topology) type Tell = Arc<dyn Fn(&str, Notice) -> oneshot::Receiver<()> + Send + Sync>;

/// Everything that the task of one cluster has.
pub(in crate::topology) struct Conductor {
    pub(in crate::topology) cluster: String,
    pub(in crate::topology) keep: Arc<Mutex<InFile>>,
    /// The other instances, if there are any: they share the record, and it is in no file.
    pub(in crate::topology) led: Option<Led>,
    pub(in crate::topology) record: Option<Record>,
    pub(in crate::topology) events: EventLog,
    pub(in crate::topology) tell: Tell,
    pub(in crate::topology) workers: Arc<dyn Workers>,
    pub(in crate::topology) parties: Vec<Party>,
    pub(in crate::topology) policy: Policy,
    pub(in crate::topology) hooks: Hooks,
    /// `failover.commit_resolution`
    pub(in crate::topology) resolves: bool,
    /// The last job that Forebay began by itself and that was undone.
    pub(in crate::topology) undone: Option<Undone>,
    /// Why the record could not be written, and when that was told.
    pub(in crate::topology) unkept: Option<(String, Instant)>,
    /// A primary that is no node any more.
    pub(in crate::topology) gone: Option<(At, Arc<Acknowledged>)>,
    /// `rejoin_command` runs for these.
    pub(in crate::topology) rejoining: HashMap<At, JoinHandle<()>>,
}

/// A job that somebody waits for, and what it has brought so far.
pub(super) struct Running {
    pub(super) begun: Instant,
    pub(super) reply: Option<oneshot::Sender<Result<String, String>>>,
}

/// What is known of a node from its agent.
struct Known {
    agent: Agent,
    /// The last order given, and the last one carried out.
    told: u64,
    done: u64,
    is_asked: bool,
    facts: Option<Facts>,
    answered: Instant,
    quiet: u32,
    last_told: Instant,
    /// What it said when it refused the last orders.
    refused: Option<String>,
}

impl Conductor {
    /// Runs until nobody can give it orders any more.
    pub(in crate::topology) async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        let mut begun = None;
        loop {
            if !self.leads() {
                if !self.follow(&mut orders).await {
                    return;
                }
                continue;
            }
            if self.record.as_ref().is_some_and(Record::is_unsettled) {
                if !self.conduct(&mut orders, begun.take()).await {
                    return;
                }
                continue;
            }
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => begun = self.obey(order).await,
                    None => return,
                },
                () = self.others_change() => self.look_after_record().await,
            }
        }
    }

    /// Takes an order; a job that could begin is answered later.
    pub(super) async fn obey(&mut self, order: Order) -> Option<Running> {
        match order {
            Order::Nodes(parties, policy, hooks) => {
                self.keep_gone(&parties);
                (self.parties, self.policy, self.hooks) = (parties, policy, hooks);
            }
            Order::Rejoin(at) => self.rejoin(&at),
            Order::Seen(at, seen) => self.seen(&at, seen).await,
            Order::Strays(strays) => self.strays(strays).await,
            Order::Accepted(record) => self.accepted(*record).await,
            Order::Proposed(record) => return self.proposed(*record).await,
            Order::Held(held) => {
                for party in &mut self.parties {
                    party.may_lead &= !held.contains(&party.at);
                }
            }
            Order::Paused(by) => self.stop_by_itself(&format!("failover was paused by {by}")).await,
            Order::Begin { job, epoch, drain, reply } => match self.begin(job, epoch, drain).await {
                Ok(begun) => return Some(Running { begun, reply: Some(reply) }),
                // Whoever asked may have left.
                Err(why) => drop(reply.send(Err(why))),
            },
        }
        None
    }

    /// What a primary that is no node any more has acknowledged is asked for when another is promoted.
    fn keep_gone(&mut self, parties: &[Party]) {
        let Some(primary) = self.record.as_ref().map(|record| &record.primary) else { return };
        let gone = self.party(primary).filter(|known| parties.iter().all(|party| party.at != known.at));
        if let Some(gone) = gone {
            self.gone = Some((gone.at.clone(), Arc::clone(&gone.acknowledged)));
        }
    }

    async fn seen(&mut self, at: &At, seen: LastSeen) {
        if self.led.is_some() {
            // Every second to all instances would be too much; they look for themselves.
            return;
        }
        let Some(known) = self.record.as_ref().filter(|record| record.primary == *at && record.job.is_none()) else {
            return;
        };
        let record = Record { seen: Some(seen), ..known.clone() };
        // The next one will tell if the disk is full: this one only makes a proof sharper.
        if record != *known && self.kept(&record).await.is_ok() {
            self.record = Some(record);
        }
    }

    async fn accepted(&mut self, mut record: Record) {
        // What is astray of another cluster is not ours to lead.
        if let Some(known) = self.record.as_ref().filter(|known| known.system_identifier == record.system_identifier) {
            (record.astray, record.read_only) = (known.astray.clone(), known.read_only.clone());
            record.strays = known.strays.iter().filter(|stray| stray.at != record.primary).cloned().collect();
            record.unasked.clone_from(&known.unasked);
            record.seen = known.seen.clone().filter(|_| known.primary == record.primary);
            record.demoted = known.demoted && known.primary == record.primary;
            let returns = known.job.as_ref().is_some_and(|job| job.kind == Kind::Return);
            if returns && known.primary == record.primary {
                // Its new timeline is our own doing, and told when the job ends.
                return;
            }
            if *known == record {
                return;
            }
            if let Some(job) = &known.job {
                tracing::warn!(cluster = self.cluster, primary = %record.primary, job.why, "not accepted meanwhile");
                return;
            }
        }
        self.take_over(record).await;
    }

    async fn strays(&mut self, mut strays: Vec<Stray>) {
        let Some(known) = &self.record else { return };
        if known.job.is_some() {
            // Whoever says so may not have heard yet of one that was just given up.
            let is_new = |known: &&Stray| strays.iter().all(|stray| stray.at != known.at);
            let missing: Vec<Stray> = known.strays.iter().filter(is_new).cloned().collect();
            strays.extend(missing);
        }
        if known.strays != strays {
            self.take_over(Record { strays, ..known.clone() }).await;
        }
    }

    /// Keeps a record. A slow disk must not hold up whoever else runs on this thread: nodes would seem not to answer.
    pub(super) async fn kept(&self, record: &Record) -> Result<(), String> {
        if let Some(led) = &self.led {
            return led.write(record).await;
        }
        let (keep, record) = (Arc::clone(&self.keep), record.clone());
        let written =
            tokio::task::spawn_blocking(move || keep.lock().unwrap_or_else(PoisonError::into_inner).write(&record))
                .await;
        written.unwrap_or_else(|gone| Err(gone.to_string()))
    }

    /// What has happened already: kept or not, it is what is.
    pub(super) async fn take_over(&mut self, record: Record) {
        if let Err(why) = self.kept(&record).await {
            self.tell_unkept(&record, why);
        }
        self.record = Some(record);
    }

    /// Has the administrator's program make a replica of a former primary; what comes of it is reported.
    fn rejoin(&mut self, at: &At) {
        let Some(record) = self.record.as_ref().filter(|_| !self.hooks.rejoin.is_empty()) else { return };
        if self.rejoining.get(at).is_some_and(|running| !running.is_finished()) {
            return;
        }
        let told =
            Told::about(&self.cluster, record.epoch).failed(&self.named(at)).new_main(&self.named(&record.primary));
        let (argv, events, name) = (self.hooks.rejoin.clone(), self.events.clone(), self.name(at));
        let (cluster, epoch) = (self.cluster.clone(), record.epoch);
        events.record(&cluster, epoch, "rejoin_begun", &name, "rejoin_command was started");
        let running = tokio::spawn(async move {
            match hooks::run(&argv, &told, hooks::LONG_PATIENCE).await {
                Ok(()) => events.record(&cluster, epoch, "rejoin_done", &name, "rejoin_command has ended well"),
                Err(why) => events.record(&cluster, epoch, "rejoin_failed", &name, &why),
            }
        });
        self.rejoining.insert(at.clone(), running);
    }

    /// Programs that may forbid the step from one record to the next; the error is why it is not taken.
    pub(super) async fn ask_programs(&self, old: Option<&Job>, new: &Record) -> Result<(), String> {
        let Some(job) = &new.job else { return Ok(()) };
        let told = || Told::about(&self.cluster, new.epoch).failed(&self.named(&new.primary));
        let was = old.map(|job| &job.step);
        // The primary of a switchover steps down by itself, and has been lost meanwhile.
        let becomes_failover = old.is_some_and(|old| old.kind == Kind::Switchover) && job.kind == Kind::Failover;
        match &job.step {
            Step::Freezing if !matches!(was, Some(Step::Freezing | Step::CatchingUp { .. })) || becomes_failover => {
                let ended = hooks::run(&self.hooks.fence, &told(), hooks::PATIENCE).await;
                ended.map_err(|why| format!("the old primary may still write: fence_command: {why}"))
            }
            Step::Promoting { candidate, .. }
                if !old.is_some_and(Job::is_promoting)
                    && !matches!(job.kind, Kind::Return | Kind::Followed)
                    // It was asked about a stray before that was told to promote.
                    && !new.strays.iter().any(|stray| stray.at == *candidate) =>
            {
                let told = told().new_main(&self.named(candidate));
                let ended = hooks::run(&self.hooks.validate, &told, hooks::PATIENCE).await;
                ended.map_err(|why| format!("{} may not be promoted: validate_command: {why}", self.name(candidate)))
            }
            _ => Ok(()),
        }
    }

    /// Has the primary restarted as a standby; the answer is the record to go on with.
    async fn demote(&self, mut next: Record) -> Record {
        let old = self.named(&next.primary);
        let Some(job) = &mut next.job else { return next };
        let done = match (&self.hooks.demote, &job.step) {
            (Demote::Program(argv), Step::Comparing { candidate }) => {
                let told = Told::about(&self.cluster, next.epoch).failed(&old).new_main(&self.named(candidate));
                hooks::run(argv, &told, demote::PATIENCE).await.map_err(|why| format!("demote_command: {why}"))
            }
            (Demote::ThroughSql, _) => match self.party(&old.at) {
                Some(party) => demote::by_sql(&party.target).await,
                None => Err("it is no node of this cluster any more".to_owned()),
            },
            _ => Err("demote_method is none by now".to_owned()),
        };
        if let Err(why) = done {
            job.step = Step::Undoing { why: format!("{} could not be made a standby: {why}", old.name) };
        }
        next
    }

    /// Begins a job: nobody new writes from here on, and it is on disk.
    pub(super) async fn begin(&mut self, mut job: Job, epoch: u64, drain: Option<Duration>) -> Result<Instant, String> {
        let record = match &self.record {
            Some(record) => record.clone(),
            None if job.allow_loss => self.record_of_nobody(),
            None => return Err(format!("no primary was ever known, so that nothing can be proven; {LOSS}")),
        };
        if record.epoch > epoch {
            return Err(format!("the primary was changed meanwhile: it is {} now", self.name(&record.primary)));
        }
        let begun = Instant::now();
        if let Some(seen) = record.seen.as_ref().filter(|seen| job.known.is_none_or(|known| known <= seen.flushed)) {
            // The process before this one has seen it, or an earlier attempt.
            if job.known.is_none() {
                job.synchronous.clone_from(&seen.synchronous);
            }
            (job.known, job.unseen) = (Some(seen.flushed), seen.unseen);
        }
        let record = Record { job: Some(job.clone()), ..record };
        self.tell_begun(&record, &job);
        let why = job.why.clone();
        self.notify(match job.kind {
            Kind::Switchover => Notice::Leave { why, restarts: job.is_clean },
            _ => Notice::Close { why, cut: false },
        })
        .await;
        if self.led.is_some() {
            return self.begin_together(record, &job, drain).await.map(|()| begun);
        }
        let quiet = match drain {
            Some(limit) => self.drain(&record.primary, limit).await,
            None => Ok(()),
        };
        let allowed = match quiet {
            Ok(()) => self.ask_programs(None, &record).await,
            Err(why) => Err(why),
        };
        let kept = match allowed {
            Ok(()) => self.kept(&record).await,
            refused => refused,
        };
        match kept {
            Ok(()) => {
                self.record = Some(record);
                Ok(begun)
            }
            Err(why) => {
                self.notify(Notice::Open).await;
                self.tell_undone(&record, &job, "", &why);
                Err(why)
            }
        }
    }

    /// For a cluster whose primary nobody can name any more: its replicas are all there is.
    fn record_of_nobody(&self) -> Record {
        let timeline = self.parties.iter().filter_map(|party| party.timeline).max().unwrap_or(1);
        Record::accepted(At::nobody(), timeline, 0, None)
    }

    /// A failover that nobody has ordered is not begun any more, or undone as long as that can be.
    async fn stop_by_itself(&mut self, why: &str) {
        let Some(known) = &self.record else { return };
        let is_stopped = |job: &&Job| {
            let is_over = matches!(job.step, Step::Undoing { .. });
            job.by.is_empty() && job.kind != Kind::Return && !job.is_promoting() && !is_over
        };
        let Some(job) = known.job.as_ref().filter(is_stopped) else { return };
        let step = Step::Undoing { why: why.to_owned() };
        self.take_over(Record { job: Some(Job { step, ..job.clone() }), ..known.clone() }).await;
    }

    /// Another takes the place of a candidate that was told to promote and is lost.
    async fn give_up(&mut self, old: &Record, given_up: Result<Record, String>) -> Result<(), String> {
        let new = given_up?;
        let Some((stray, job)) = new.strays.last().zip(new.job.as_ref()) else { return Ok(()) };
        let at = &stray.at;
        let told = Told::about(&self.cluster, new.epoch).failed(&self.named(at));
        let fenced = hooks::run(&self.hooks.fence, &told, hooks::PATIENCE).await;
        fenced.map_err(|why| format!("{} may still be promoted: fence_command: {why}", self.name(at)))?;
        if old.job.as_ref().is_some_and(|before| before.kind != job.kind) {
            // Nobody has fenced it: it was to step down by itself.
            self.ask_programs(None, &new).await?;
        }
        self.kept(&new).await?;
        self.report(old, "candidate_given_up", &self.name(at), &said(job));
        self.notify(Notice::Stray(stray.clone())).await;
        self.notify(Notice::Close { why: job.why.clone(), cut: true }).await;
        self.record = Some(new);
        Ok(())
    }

    /// Waits until no client has work on the primary.
    pub(super) async fn drain(&self, primary: &At, limit: Duration) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let busy = self.workers.busy(&primary.host, primary.port).await;
            if busy == 0 {
                return Ok(());
            }
            if begun.elapsed() >= limit {
                let name = self.name(primary);
                return Err(format!(
                    "{busy} server connections to {name} were still in use after {limit:?}; DRAIN allows more time"
                ));
            }
            sleep(DRAIN_LOOK).await;
        }
    }

    /// Carries out the job at hand and puts right what is left, until there is nothing to do. False: nobody can give
    /// orders any more.
    async fn conduct(&mut self, orders: &mut mpsc::UnboundedReceiver<Order>, begun: Option<Running>) -> bool {
        let (mut agents, mut told) = self.hire();
        let mut running = begun.unwrap_or_else(|| Running { begun: Instant::now(), reply: None });
        let mut in_step = Instant::now();
        let mut last_refusal = String::new();
        let mut lost = None;
        loop {
            if !self.leads() {
                if let Some(reply) = running.reply.take() {
                    // Whoever asked may have left.
                    drop(reply.send(Err(super::led::DEPOSED.to_owned())));
                }
                return true;
            }
            if !self.policy.may_promote {
                self.stop_by_itself("failover.mode is not promote any more").await;
            }
            let Some(record) = self.record.clone() else { break };
            let look = self.look(&agents);
            let mut pace = PACE;
            match course::next(&record, &look, &self.policy_for(&record), in_step.elapsed()) {
                Move::Rest => break,
                Move::Write(next) => {
                    match self.write(&record, *next, &look, &mut running).await {
                        true => in_step = Instant::now(),
                        false => sleep(AGAIN).await,
                    }
                    continue;
                }
                Move::Demote(next) => {
                    let next = self.demote(*next).await;
                    while !self.write(&record, next.clone(), &look, &mut running).await {
                        sleep(AGAIN).await;
                    }
                    in_step = Instant::now();
                    // What they said before is of another time.
                    (agents, told) = self.hire();
                    continue;
                }
                Move::Act(acts) => {
                    for (at, act) in acts {
                        if let Some(known) = agents.get_mut(&at)
                            && known.told == known.done
                            && (known.refused.is_none() || known.last_told.elapsed() >= PATIENCE)
                        {
                            tracing::debug!(cluster = self.cluster, node = %at, act = act.name(), "ordered");
                            known.told += 1;
                            known.last_told = Instant::now();
                            known.agent.tell(known.told, act);
                            known.is_asked = true;
                        }
                    }
                }
                Move::Wait(what) => {
                    tracing::trace!(cluster = self.cluster, what, "waits");
                    pace = if record.job.is_some() { PACE } else { PATIENCE };
                    let candidate = course::lost_candidate(&record, &look).cloned();
                    if candidate != lost {
                        self.tell_lost(&record, candidate.as_ref()).await;
                        lost = candidate;
                    }
                }
            }
            tokio::select! {
                Some(report) = told.recv() => {
                    for refusal in &report.refused {
                        let detail = format!("{}: {refusal}", self.name(&report.at));
                        if detail != last_refusal {
                            self.report(&record, "order_refused", &self.name(&report.at), refusal);
                            last_refusal = detail;
                        }
                    }
                    take(&mut agents, report);
                }
                order = orders.recv() => match order {
                    Some(Order::Begin { job, reply, .. }) if record.job.is_some() => {
                        let given_up = course::give_up(&record, &self.look(&agents), &self.policy, &job);
                        match self.give_up(&record, given_up).await {
                            Ok(()) => {
                                let mine = Running { begun: Instant::now(), reply: Some(reply) };
                                let before = std::mem::replace(&mut running, mine);
                                in_step = Instant::now();
                                if let Some(reply) = before.reply {
                                    // Whoever asked may have left.
                                    drop(reply.send(Err(format!("given up by {}", job.by))));
                                }
                            }
                            // As above.
                            Err(why) => drop(reply.send(Err(why))),
                        }
                    }
                    Some(order) => {
                        let is_other = match &order {
                            Order::Nodes(parties, ..) => !self.are_known(parties),
                            other => matches!(other, Order::Begin { .. }),
                        };
                        if let Some(begun) = self.obey(order).await {
                            (running, in_step) = (begun, Instant::now());
                        }
                        if is_other {
                            // What was seen before says nothing about what has begun now.
                            (agents, told) = self.hire();
                        }
                    }
                    None => return false,
                },
                () = self.others_change() => self.look_after_record().await,
                () = sleep(pace) => {
                    for known in agents.values_mut().filter(|known| !known.is_asked) {
                        known.is_asked = true;
                        known.agent.look();
                    }
                }
            }
        }
        true
    }

    /// With what is known now of the primary of this record.
    fn policy_for(&self, record: &Record) -> Policy {
        let gone = self.gone.as_ref().filter(|(at, _)| *at == record.primary).map(|(_, acknowledged)| acknowledged);
        let acknowledged = self.party(&record.primary).map(|party| &party.acknowledged).or(gone);
        let (known, unseen) = acknowledged.map_or((None, 0), |of| (of.known(), of.unseen()));
        let (known, unseen) = self.led.as_ref().map_or((known, unseen), |led| led.with_heard(known, unseen));
        Policy { known, unseen, ..self.policy.clone() }
    }

    /// The same servers as before.
    fn are_known(&self, parties: &[Party]) -> bool {
        let server = |party: &Party| (party.at.clone(), party.target.clone());
        parties.iter().map(server).eq(self.parties.iter().map(server))
    }

    /// Agents, and where they report: what earlier ones still say is heard by nobody.
    fn hire(&self) -> (HashMap<At, Known>, mpsc::UnboundedReceiver<Report>) {
        let (reports, told) = mpsc::unbounded_channel();
        let hired = self.parties.iter().map(|party| {
            let agent = Agent::start(party.at.clone(), party.target.clone(), party.timeline, reports.clone());
            agent.look();
            let answered = Instant::now();
            let (facts, refused) = (None, None);
            let (told, done, last_told) = (0, 0, answered);
            let known = Known { agent, told, done, is_asked: true, facts, answered, quiet: 0, last_told, refused };
            (party.at.clone(), known)
        });
        (hired.collect(), told)
    }

    fn look(&self, agents: &HashMap<At, Known>) -> Vec<Seen> {
        let look = self.parties.iter().filter_map(|party| {
            let known = agents.get(&party.at)?;
            Some(Seen {
                at: party.at.clone(),
                name: party.name.clone(),
                may_lead: party.may_lead,
                // What it said before it was told something is not what it says now.
                facts: known.facts.clone().filter(|_| known.told == known.done),
                silent: known.answered.elapsed(),
                is_down: party.is_down,
                started: party.started,
                standby: party.standby.clone(),
                quiet: known.quiet,
                refused: known.refused.clone(),
            })
        });
        look.collect()
    }

    /// Goes from one record to the next. False if that could not be written.
    async fn write(&mut self, old: &Record, mut new: Record, look: &[Seen], running: &mut Running) -> bool {
        if let Err(why) = self.ask_programs(old.job.as_ref(), &new).await
            && let Some(job) = &mut new.job
        {
            job.step = Step::Undoing { why };
        }
        let promotes = |record: &Record| record.job.as_ref().is_some_and(Job::is_promoting);
        if promotes(&new) && !promotes(old) {
            self.tell_begun_after_all();
            // What the old primary still acknowledges must reach nobody once another may take writes.
            let why = new.job.as_ref().map_or_else(String::new, promoting);
            self.notify(Notice::Close { why, cut: true }).await;
            if self.led.is_some()
                && let Err(why) = self.cut_together(old, &mut new).await
            {
                self.tell_unkept(old, why);
                return false;
            }
            if let Err(why) = course::still_bounded(&new, look, &self.policy_for(&new))
                && let Some(job) = &mut new.job
            {
                job.step = Step::Undoing { why };
            }
            new.in_doubt = self.resolve(&new).await;
        }
        if self.led.is_some()
            && old.job.as_ref().is_some_and(|job| job.kind == Kind::Followed)
            && let Err(why) = self.all_cut().await
        {
            self.tell_unkept(old, why);
            return false;
        }
        if promotes(old) && new.job.is_none() {
            self.resolve_rest(&mut new).await;
        }
        if let Err(why) = self.kept(&new).await {
            self.tell_unkept(old, why);
            return false;
        }
        self.unkept = None;
        self.record = Some(new.clone());
        match (&old.job, &new.job) {
            (Some(job), None) => self.end(old, &new, job, running).await,
            (Some(before), Some(job)) if before.kind == Kind::Switchover && job.kind == Kind::Failover => {
                self.report(&new, began(job.kind), &self.name(&new.primary), &said(job));
            }
            (_, Some(job)) if old.job.as_ref() != Some(job) => {
                let change = if job.kind == Kind::Switchover { "switchover" } else { "failover" };
                tracing::info!(cluster = self.cluster, epoch = new.epoch, step = %job.step, "{change}");
            }
            _ => {}
        }
        true
    }

    /// A job is over: another primary, or none.
    async fn end(&mut self, old: &Record, new: &Record, job: &Job, running: &mut Running) {
        let took = running.begun.elapsed().as_secs_f64();
        let result = if job.kind == Kind::Return {
            let (primary, timeline, epoch) = (new.primary.clone(), new.timeline, new.epoch);
            self.notify(Notice::Install { primary, timeline, epoch }).await;
            let name = self.name(&new.primary);
            let text = format!("{name} takes writes again, timeline {timeline}; {took:.3}s; nothing is lost");
            self.report(new, ended(job.kind, true), &name, &text);
            Ok(text)
        } else if old.primary == new.primary {
            self.notify(Notice::Open).await;
            let why = match &job.step {
                Step::Undoing { why } => why.clone(),
                _ => "it was given up".to_owned(),
            };
            self.tell_undone(new, job, &self.name(&new.primary), &why);
            Err(why)
        } else {
            let (primary, timeline, epoch) = (new.primary.clone(), new.timeline, new.epoch);
            self.notify(Notice::Install { primary, timeline, epoch }).await;
            self.settle(old, new);
            let (from, to) = (self.name(&old.primary), self.name(&new.primary));
            let lost = match (job.kind, job.known, new.fork) {
                (Kind::Switchover, ..) => "nothing is lost".to_owned(),
                (_, Some(known), Some(fork)) => {
                    let bytes = known.bytes_since(fork);
                    let unseen = self.policy_for(old).unseen.max(job.unseen);
                    let since = job.known_ago_ms.filter(|_| !job.is_exact).map(|ms| {
                        format!(", asked for {ms} ms before this began; about {unseen} bytes may have been acknowledged since")
                    });
                    let what = match bytes {
                        0 => format!("nothing that {from} was known to have written is lost"),
                        _ => format!("{bytes} bytes that {from} was known to have written are not in it"),
                    };
                    format!("{what} ({from} at {known}{}, fork at {fork})", since.unwrap_or_default())
                }
                _ => format!("how far {from} had come is not known"),
            };
            let text = format!("{to} is the primary now, {from} was, timeline {}; {took:.3}s; {lost}", new.timeline);
            self.report(new, ended(job.kind, true), &to, &text);
            Ok(text)
        };
        if let Some(reply) = running.reply.take() {
            // Whoever asked may have left.
            drop(reply.send(result));
        }
    }

    /// Tells the monitor, and returns when every data thread goes by it.
    pub(super) async fn notify(&self, notice: Notice) {
        // A monitor that has stopped takes this task with it.
        let _ = (self.tell)(&self.cluster, notice).await;
        self.workers.settled().await;
    }

    pub(super) fn party(&self, at: &At) -> Option<&Party> {
        self.parties.iter().find(|party| party.at == *at)
    }

    pub(super) fn name(&self, at: &At) -> String {
        self.party(at).map_or_else(|| at.to_string(), |party| party.name.clone())
    }

    fn named(&self, at: &At) -> Named {
        let id = self.parties.iter().position(|party| party.at == *at).unwrap_or(self.parties.len());
        Named { id, name: self.name(at), at: at.clone() }
    }

    pub(super) fn report(&self, record: &Record, event: &'static str, node: &str, detail: &str) {
        self.events.record(&self.cluster, record.epoch, event, node, detail);
    }
}

fn take(agents: &mut HashMap<At, Known>, report: Report) {
    let Some(known) = agents.get_mut(&report.at) else { return };
    if report.done > known.done {
        known.refused = report.refused.last().cloned();
    }
    known.done = known.done.max(report.done);
    known.is_asked = known.told != known.done;
    match report.facts {
        Ok(facts) => {
            known.quiet = if facts.is_at_rest() { known.quiet + 1 } else { 0 };
            known.answered = Instant::now();
            known.facts = Some(facts);
        }
        Err(why) => {
            tracing::debug!(node = %report.at, why, "does not answer");
            known.quiet = 0;
            known.facts = None;
        }
    }
}

/// What an admin can do where nothing is proven.
const LOSS: &str = "FAILOVER ... ALLOW DATA LOSS promotes the replica that has most";
