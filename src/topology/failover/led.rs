//! A cluster whose record several instances share: whoever leads conducts, the others do as the record says.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::conductor::{Conductor, Notice, Order, Running};
use super::doubt::Transaction;
use super::record::{self, Job, Kind, Record, Step};
use crate::topology::coordination::{Ack, Coordination, Gate, View};
use crate::topology::lsn::Lsn;

/// What is said to whoever waits for a change that another instance carries out by now.
pub(super) const DEPOSED: &str = "another instance leads now and goes on with it: SHOW EVENTS there tells how it ends";
/// Between two looks whether clients' work has ended.
const QUIET_LOOK: Duration = Duration::from_millis(10);
/// Between two looks whether the others have answered, if nothing else calls.
const ANSWER_LOOK: Duration = Duration::from_millis(100);

/// The other instances, as one cluster's task sees them.
#[derive(Debug)]
pub(in crate::topology) struct Led {
    coordination: Coordination,
    view: watch::Receiver<Arc<View>>,
    cluster: String,
    /// Of the record that the task goes by; 0: there is none.
    revision: Cell<i64>,
    /// The session in which it was read.
    session: u64,
    /// Why the record cannot be used.
    damage: Option<String>,
    /// What the others have said when they cut the way to the old primary.
    heard: RefCell<Vec<Ack>>,
}

impl Led {
    pub(in crate::topology) fn new(coordination: &Coordination, cluster: &str) -> Self {
        coordination.join(cluster);
        Self {
            coordination: coordination.clone(),
            view: coordination.watch(),
            cluster: cluster.to_owned(),
            revision: Cell::new(0),
            session: 0,
            damage: None,
            heard: RefCell::default(),
        }
    }

    /// Keeps a record, as long as this instance leads.
    pub(super) async fn write(&self, record: &Record) -> Result<(), String> {
        let text = String::from_utf8(record::written(record)?).map_err(|error| error.to_string())?;
        self.revision.set(self.coordination.write(&self.cluster, self.revision.get(), text).await?);
        Ok(())
    }

    /// COMMITs whose clients wait at other instances.
    pub(super) fn heard_doubts(&self) -> Vec<Transaction> {
        self.heard.borrow().iter().flat_map(|ack| ack.doubts.iter().copied()).collect()
    }

    /// What is known of the old primary, with what the others know.
    pub(super) fn with_heard(&self, known: Option<Lsn>, unseen: u64) -> (Option<Lsn>, u64) {
        let heard = self.heard.borrow();
        let most = heard.iter().filter_map(|ack| ack.known).chain(known).max();
        (most, heard.iter().fold(unseen, |sum, ack| sum.saturating_add(ack.unseen)))
    }

    fn leads(&self) -> bool {
        let view = self.view.borrow();
        let revision = view.record(&self.cluster).map_or(0, |(_, revision)| revision);
        view.leads() && view.session == self.session && revision == self.revision.get() && self.damage.is_none()
    }
}

impl Drop for Led {
    fn drop(&mut self) {
        self.coordination.leave(&self.cluster);
    }
}

impl Conductor {
    /// This instance decides about the cluster, and knows what was decided last.
    pub(super) fn leads(&self) -> bool {
        self.led.as_ref().is_none_or(Led::leads)
    }

    /// Returns when something that the instances share has changed; never if there is only this one.
    pub(super) async fn others_change(&self) {
        let Some(led) = &self.led else { return pending().await };
        if led.view.clone().changed().await.is_err() {
            pending::<()>().await;
        }
    }

    /// What has changed was seen; whether this instance still leads is looked at next.
    pub(super) async fn look_after_record(&mut self) {
        if let Some(led) = &mut self.led {
            led.view.mark_unchanged();
        }
    }

    /// Does as the record says until this instance leads. False: nobody can give orders any more.
    pub(super) async fn follow(&mut self, orders: &mut mpsc::UnboundedReceiver<Order>) -> bool {
        let mut told = None;
        // What this instance has decided itself may not be what counts.
        let mut is_new = true;
        loop {
            let Some(led) = &mut self.led else { return true };
            let view = Arc::clone(&led.view.borrow_and_update());
            self.mirror(&view, std::mem::take(&mut is_new)).await;
            if self.leads() {
                let is_missing = self.led.as_ref().is_some_and(|led| led.revision.get() == 0);
                if let Some(record) = self.record.clone().filter(|_| is_missing)
                    && let Err(why) = self.kept(&record).await
                {
                    self.tell_unkept(&record, why);
                    sleep(ANSWER_LOOK).await;
                    continue;
                }
                return true;
            }
            self.answer(&view, &mut told).await;
            let is_draining = matches!(&told, Some(Ack { gate: Gate::Closed, .. }));
            tokio::select! {
                () = self.others_change() => {}
                order = orders.recv() => match order {
                    Some(Order::Begin { reply, .. }) => {
                        let leader = view.leader().map_or_else(|| "no instance".to_owned(), |id| view.name(id));
                        // Whoever asked may have left.
                        drop(reply.send(Err(format!("{leader} leads: the order has to be given there"))));
                        // Whoever ordered it may have closed the way to the primary already.
                        is_new = true;
                    }
                    Some(order @ Order::Nodes(..)) => drop(self.obey(order).await),
                    // The leader sees the same.
                    Some(_) => {}
                    None => return false,
                },
                () = sleep(QUIET_LOOK), if is_draining => {}
            }
        }
    }

    /// Goes by what the view says was decided.
    async fn mirror(&mut self, view: &View, is_new: bool) {
        let Some(led) = &mut self.led else { return };
        if let Some(why) = &view.lost {
            if led.session != 0 || is_new {
                led.session = 0;
                let why = format!("this instance is cut off from the others: {why}");
                self.notify(Notice::Close { why, cut: true }).await;
            }
            return;
        }
        let found = view.record(&led.cluster);
        let revision = found.map_or(0, |(_, revision)| revision);
        if (led.session, led.revision.get()) == (view.session, revision) && !is_new {
            return;
        }
        let record = found.map(|(text, _)| record::parse(text.as_bytes()));
        led.damage = record.as_ref().and_then(|record| record.as_ref().err().cloned());
        match record {
            Some(Err(why)) => {
                let why = format!("what was decided about this cluster cannot be read: {why}");
                self.events.record(&self.cluster, 0, "record_damaged", "", &why);
                self.notify(Notice::Close { why, cut: true }).await;
            }
            Some(Ok(record)) => self.take_in(record).await,
            // Somebody has deleted it; until it is decided anew, what was decided counts.
            None if self.record.is_some() => {
                if let Some(record) = self.record.take() {
                    self.take_in(record).await;
                }
            }
            None => self.notify(Notice::Open).await,
        }
        let Some(led) = &mut self.led else { return };
        led.revision.set(revision);
        led.session = view.session;
        if led.damage.is_none() {
            led.coordination.ready(&led.cluster, view.session);
        }
    }

    async fn take_in(&mut self, new: Record) {
        let old = self.record.replace(new.clone());
        for stray in &new.strays {
            if old.as_ref().is_none_or(|old| !old.strays.contains(stray)) {
                self.notify(Notice::Stray(stray.clone())).await;
            }
        }
        let closed = new.job.as_ref().map(|job| (said_of(job), job.cuts()));
        let (primary, timeline, epoch) = (new.primary.clone(), new.timeline, new.epoch);
        let identifier = new.system_identifier;
        let planned = new.job.as_ref().filter(|job| job.kind == Kind::Switchover);
        let leaving = planned.map(|job| job.is_clean);
        self.notify(Notice::Adopt { primary, timeline, epoch, identifier, closed, leaving }).await;
        if let Some(old) = old.filter(|old| old.primary != new.primary) {
            self.settle(&old, &new);
        }
    }

    /// Tells the leader how far this instance has come.
    async fn answer(&self, view: &View, told: &mut Option<Ack>) {
        let (Some(led), Some(record)) = (&self.led, &self.record) else { return };
        if view.lost.is_some() || led.session != view.session || led.damage.is_some() {
            return;
        }
        let (revision, epoch) = (led.revision.get(), record.epoch);
        let mut ack = Ack { revision, epoch, gate: Gate::Open, known: None, unseen: 0, doubts: Vec::new() };
        if let Some(job) = &record.job {
            let is_busy = || self.workers.busy(&record.primary.host, record.primary.port);
            ack.gate = match job.cuts() {
                true => Gate::Cut,
                false if is_busy().await > 0 => Gate::Closed,
                false => Gate::Quiet,
            };
        }
        if ack.gate == Gate::Cut {
            ack.doubts = self.own_doubts(record).await;
            if let Some(party) = self.party(&record.primary) {
                (ack.known, ack.unseen) = (party.acknowledged.known(), party.acknowledged.unseen());
            }
        }
        let is_same = |told: &Ack| (told.revision, told.gate) == (ack.revision, ack.gate);
        // The keeper sends the last word again in a session of its own.
        if told.as_ref().is_some_and(is_same) {
            return;
        }
        led.coordination.acknowledge(&led.cluster, &ack);
        *told = Some(ack);
    }

    /// Waits until every other instance has closed the way to the primary so far, or is gone.
    async fn gather(&mut self, gate: Gate, limit: Option<Duration>) -> Result<Vec<Ack>, String> {
        let begun = Instant::now();
        let mut is_told = false;
        loop {
            let Some(led) = &mut self.led else { return Ok(Vec::new()) };
            let view = Arc::clone(&led.view.borrow_and_update());
            // Nor if somebody has changed or deleted the record by hand.
            if !led.leads() {
                return Err(DEPOSED.to_owned());
            }
            let revision = led.revision.get();
            let mut missing = Vec::new();
            let mut acks = Vec::new();
            for other in view.waited_for() {
                match view.ack(&led.cluster, other) {
                    Some(ack) if ack.revision >= revision && ack.gate >= gate => acks.push(ack),
                    _ => missing.push(view.name(other)),
                }
            }
            // An instance that came before the record was written may not be in a view that is older than that.
            if missing.is_empty() && view.is_of(revision) {
                return Ok(acks);
            }
            let waited = begun.elapsed();
            if limit.is_some_and(|limit| waited >= limit) {
                let names = missing.join(", ");
                return Err(format!(
                    "clients of {names} were still at work after {waited:.1?}; DRAIN allows more time"
                ));
            }
            if waited > Duration::from_secs(1) && !std::mem::replace(&mut is_told, true) {
                let names = missing.join(", ");
                tracing::warn!(cluster = led.cluster, instances = names, ?gate, "waits for other instances");
            }
            let changed = led.view.changed();
            // A view that has ended is seen above.
            drop(timeout(ANSWER_LOOK.min(limit.unwrap_or(ANSWER_LOOK)), changed).await);
        }
    }

    /// Writes a job down for all instances, and has them close the way to the primary.
    pub(super) async fn begin_together(
        &mut self,
        record: Record,
        job: &Job,
        drain: Option<Duration>,
    ) -> Result<(), String> {
        if let Some(led) = &self.led {
            led.heard.take();
        }
        let kept = match self.ask_programs(None, &record).await {
            Ok(()) => self.kept(&record).await,
            Err(why) => Err(why),
        };
        if let Err(why) = kept {
            self.notify(Notice::Open).await;
            self.tell_undone(&record, job, "", &why);
            return Err(why);
        }
        self.record = Some(record.clone());
        let Some(limit) = drain else { return Ok(()) };
        let begun = Instant::now();
        let quiet = match self.drain(&record.primary, limit).await {
            Ok(()) => self.gather(Gate::Quiet, Some(limit.saturating_sub(begun.elapsed()))).await.map(drop),
            busy => busy,
        };
        if let Err(why) = quiet {
            let step = Step::Undoing { why };
            self.take_over(Record { job: Some(Job { step, ..job.clone() }), ..record }).await;
        }
        Ok(())
    }

    /// Has all instances take away from their clients what is under way on the old primary, before another may be promoted.
    pub(super) async fn cut_together(&mut self, old: &Record, new: &mut Record) -> Result<(), String> {
        let marked = |record: &Record| {
            let job = record.job.clone().map(|job| Job { is_cut: true, ..job });
            Record { job, ..record.clone() }
        };
        let cut = marked(old);
        if cut != *old {
            self.kept(&cut).await?;
            self.record = Some(cut);
        }
        let acks = self.gather(Gate::Cut, None).await?;
        *new = marked(new);
        if let Some(led) = &self.led {
            led.heard.replace(acks);
        }
        Ok(())
    }

    /// All instances have done so.
    pub(super) async fn all_cut(&mut self) -> Result<(), String> {
        self.gather(Gate::Cut, None).await.map(drop)
    }

    /// This instance, which leads, has found another primary than the recorded one, or another timeline.
    pub(super) async fn proposed(&mut self, found: Record) -> Option<Running> {
        let Some(known) = self.record.clone() else {
            self.accept_at_once(Record { epoch: 1, ..found }).await;
            return None;
        };
        if known.job.is_some() {
            return None;
        }
        if known.primary == found.primary {
            let (timeline, epoch) = (found.timeline, known.epoch + 1);
            let system_identifier = found.system_identifier;
            self.accept_at_once(Record { timeline, epoch, fork: None, system_identifier, ..known }).await;
            return None;
        }
        let why = format!("{} is the primary now, by somebody else's doing", self.name(&found.primary));
        let step = Step::Promoting { candidate: found.primary, from: Lsn(0) };
        match self.begin(Job::new(Kind::Followed, why, step), known.epoch, None).await {
            Ok(begun) => Some(Running { begun, reply: None }),
            Err(why) => {
                tracing::debug!(cluster = self.cluster, why, "another primary is not accepted");
                None
            }
        }
    }

    /// Nobody else goes by another primary: the others hear of it as soon as they can.
    async fn accept_at_once(&mut self, record: Record) {
        match self.kept(&record).await {
            Ok(()) => self.take_in(record).await,
            Err(why) => self.tell_unkept(&record, why),
        }
    }
}

fn said_of(job: &Job) -> String {
    if job.is_promoting() { super::telling::promoting(job) } else { job.why.clone() }
}
