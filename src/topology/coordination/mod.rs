//! Several instances, one decision: what they share through etcd.
//!
//! Each instance has a lease. Under it stand a key that says that it is there ([`Member`]) and what it has to tell the
//! others; without it, it has no [`Permit`] to write. One instance leads: it alone changes the records of who is
//! primary, each change made only if it still leads and nobody has changed the record meanwhile. All others do as the
//! records say, and say how far they have come ([`Ack`]).
//!
//! The safety of a promotion rests on this: before it, the leader waits until every other instance has said that
//! nothing of the old primary reaches its clients any more, or its key is gone. The key goes away when the lease ends,
//! which is later than the permit: that ends by the instance's own clock, counted from before etcd was asked.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use super::failover::doubt::Transaction;
use super::lsn::Lsn;
use crate::config::model::{Coordination as Config, ServerTls};
use crate::worker::permit::{Permit, boottime_ns};

mod calls;
mod etcd;
mod keeper;
mod peers;
pub mod votes;

use etcd::Entry;
use keeper::Ask;
use peers::Roster;
pub use votes::Vote;

/// So long after its key an instance may still have the right to write, if its lease did not end by itself, ns.
const DEPARTING_NS: u64 = 500_000_000;
/// The key of what instances sign with among each other.
const SECRET: &str = "secret";
/// The key of whoever leads.
const LEADER: &str = "leader";

/// What an instance says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// As it is called.
    pub name: String,
    /// Where clients reach it.
    pub address: String,
    /// Of the program.
    pub version: String,
    /// Of the process.
    pub pid: u32,
    /// Where the other instances ask it when etcd is lost.
    #[serde(default)]
    pub peer: String,
}

/// How far an instance has closed the way to a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// Clients write.
    Open,
    /// Nothing new begins.
    Closed,
    /// Nothing new begins, and nothing is under way.
    Quiet,
    /// What was under way was taken away from its clients.
    Cut,
}

impl Gate {
    /// As `SHOW INSTANCES` has it.
    pub fn name(self) -> &'static str {
        match self {
            Gate::Open => "open",
            Gate::Closed => "closed",
            Gate::Quiet => "quiet",
            Gate::Cut => "cut",
        }
    }
}

/// What an instance answers to a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The record that it goes by: etcd's `mod_revision`.
    pub revision: i64,
    /// The record's epoch.
    pub epoch: u64,
    /// How it stands for that.
    pub gate: Gate,
    /// How far it knows the primary to have come.
    #[serde(default)]
    pub known: Option<Lsn>,
    /// How much more its clients were acknowledged perhaps, bytes of log.
    #[serde(default)]
    pub unseen: u64,
    /// COMMITs whose clients wait to hear what became of them.
    #[serde(default)]
    pub doubts: Vec<Transaction>,
}

/// What another instance wants done here.
#[derive(Debug)]
pub struct Call {
    /// In the words of whoever is called.
    pub what: String,
    /// Takes the answer; without one the caller is told that there is none.
    pub reply: oneshot::Sender<String>,
}

/// How this instance stands with the others, and what they share.
#[derive(Debug, Clone)]
pub struct View {
    /// Own name among the members: another one for each process.
    pub me: String,
    /// Counts the times that this instance has found to the others; 0 before the first.
    pub session: u64,
    /// Why it is without them now.
    pub lost: Option<String>,
    /// When the key of the own leadership was made: no other leader has the same.
    token: Option<i64>,
    /// The end of the lease, ns of [`crate::worker::permit::boottime_ns`].
    pub until_ns: u64,
    /// Everything shared, by key without the prefix.
    entries: Arc<BTreeMap<String, Entry>>,
    revision: i64,
    /// Instances whose keys are gone, and since when, as `until_ns`.
    departed: Vec<(String, u64)>,
    /// Instances that go on without etcd with this one's word, and until when, as `until_ns`.
    promised: Vec<(String, u64)>,
    /// etcd is lost, and all instances have agreed to go on as they are.
    pub is_alone: bool,
}

impl View {
    fn new(me: String) -> Self {
        let lost = Some("etcd was not reached yet".to_owned());
        Self {
            me,
            session: 0,
            lost,
            token: None,
            until_ns: 0,
            entries: Arc::default(),
            revision: 0,
            departed: Vec::new(),
            promised: Vec::new(),
            is_alone: false,
        }
    }

    /// This instance is the one that decides.
    pub fn leads(&self) -> bool {
        let leader = self.entries.get(LEADER);
        // One that was stopped and has just woken up may not know yet that another one leads.
        let is_in_time = boottime_ns() < self.until_ns;
        is_in_time
            && self.lost.is_none()
            && !self.is_alone
            && self.token.is_some()
            && leader.map(|entry| entry.create_revision) == self.token
    }

    /// Who decides, if anybody.
    pub fn leader(&self) -> Option<&str> {
        self.entries.get(LEADER).map(|entry| entry.value.as_str())
    }

    /// What an instance is called.
    pub fn name<'a>(&'a self, id: &'a str) -> String {
        let member = self.entries.get(&format!("members/{id}"));
        let known = member.and_then(|entry| serde_json::from_str::<Member>(&entry.value).ok());
        // After the name, a key has what tells processes apart.
        known.map_or_else(|| id.rsplit_once('~').map_or(id, |(name, _)| name).to_owned(), |member| member.name)
    }

    /// All instances, by their keys.
    pub fn members(&self) -> impl Iterator<Item = (&str, Option<Member>)> {
        self.below("members/").map(|(id, entry)| (id, serde_json::from_str(&entry.value).ok()))
    }

    /// All others.
    pub fn others(&self) -> impl Iterator<Item = &str> {
        self.below("members/").map(|(id, _)| id).filter(|id| *id != self.me)
    }

    /// All others that a change has to wait for: with those whose keys went away only a moment ago. A lease that somebody
    /// has revoked ends before the right to write; the instance hears of it at once.
    pub fn waited_for(&self) -> impl Iterator<Item = &str> {
        let now_ns = boottime_ns();
        let is_recent = move |gone: &&(String, u64)| gone.1.saturating_add(DEPARTING_NS) > now_ns;
        let departed = self.departed.iter().filter(is_recent).map(|(id, _)| id.as_str());
        let is_promised = move |promise: &&(String, u64)| promise.1 > now_ns;
        let promised = self.promised.iter().filter(is_promised).map(|(id, _)| id.as_str());
        self.others().chain(departed).chain(promised).chain(self.strangers())
    }

    /// Instances that have vanished and do not need this one: should they live, they go on without asking it.
    pub fn strangers(&self) -> impl Iterator<Item = &str> {
        let vanished = self.below("roster/").filter(|(id, _)| *id != self.me && !self.is_member(id));
        vanished.filter(|(_, entry)| !self.binds(entry)).map(|(id, _)| id)
    }

    /// Processes that have vanished of the instance at this place.
    fn of_place(&self, place: u64) -> impl Iterator<Item = (&str, &Entry)> {
        let vanished = self.below("roster/").filter(|(id, _)| *id != self.me && !self.is_member(id));
        vanished.filter(move |(_, entry)| {
            serde_json::from_str::<Roster>(&entry.value).is_ok_and(|roster| roster.place == place)
        })
    }

    /// The same of those that need this one, with when that was written.
    fn ghosts(&self) -> impl Iterator<Item = (&str, &Entry)> {
        let vanished = self.below("roster/").filter(|(id, _)| *id != self.me && !self.is_member(id));
        vanished.filter(|(_, entry)| self.binds(entry))
    }

    fn is_member(&self, id: &str) -> bool {
        self.entries.contains_key(&format!("members/{id}"))
    }

    /// Whether an instance with this roster needs the word of this one, or of one that has ended, to go on without etcd.
    fn binds(&self, entry: &Entry) -> bool {
        let of = |entry: &Entry| serde_json::from_str::<Roster>(&entry.value).ok();
        let Some(Roster { knows, .. }) = of(entry) else { return false };
        let has_ended =
            |id: &String| self.below("roster/").filter_map(|(_, other)| of(other)).any(|of| of.replaces.contains(id));
        knows.contains(&self.me) || knows.iter().any(has_ended)
    }

    fn secret(&self) -> Option<&str> {
        self.entries.get(SECRET).map(|entry| entry.value.as_str())
    }

    /// No change is under way anywhere.
    fn is_calm(&self) -> bool {
        self.below("records/").all(|(_, entry)| {
            serde_json::from_str::<serde_json::Value>(&entry.value).is_ok_and(|value| value["record"]["job"].is_null())
        })
    }

    /// What this instance goes by.
    fn revisions(&self) -> BTreeMap<String, i64> {
        self.below("records/").map(|(name, entry)| (name.to_owned(), entry.mod_revision)).collect()
    }

    /// Everything that had happened when the record with this revision was written is known.
    pub fn is_of(&self, revision: i64) -> bool {
        self.revision >= revision
    }

    /// What is decided about a cluster, as text, and its revision.
    pub fn record(&self, cluster: &str) -> Option<(&str, i64)> {
        let entry = self.entries.get(&record_key(cluster))?;
        Some((&entry.value, entry.mod_revision))
    }

    /// What an instance has answered about a cluster.
    pub fn ack(&self, cluster: &str, member: &str) -> Option<Ack> {
        let entry = self.entries.get(&format!("acks/{}/{member}", coded(cluster)))?;
        serde_json::from_str(&entry.value).ok()
    }

    /// What an instance thinks of a cluster's primary.
    pub fn vote(&self, cluster: &str, member: &str) -> Option<Vote> {
        let entry = self.entries.get(&format!("votes/{}/{member}", coded(cluster)))?;
        serde_json::from_str(&entry.value).ok()
    }

    fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Entry)> {
        let from = self.entries.range(prefix.to_owned()..);
        from.map_while(move |(key, entry)| Some((key.strip_prefix(prefix)?, entry)))
    }
}

/// Reaches the others. Stops with its last clone.
#[derive(Clone)]
pub struct Coordination {
    view: watch::Receiver<Arc<View>>,
    asks: mpsc::UnboundedSender<Ask>,
    permit: Arc<Permit>,
    /// The same for all instances, and for nobody else.
    group: u64,
    lease_time: Duration,
    calls: Arc<Mutex<Option<mpsc::UnboundedReceiver<Call>>>>,
}

impl fmt::Debug for Coordination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coordination").field("me", &self.view.borrow().me).finish_non_exhaustive()
    }
}

impl Coordination {
    /// Begins to look for the others, as a process of the instance at `place` (its host and state folder), on a thread of its own: no load on the data threads or on the control thread keeps
    /// the lease from being kept.
    ///
    /// # Errors
    /// The configuration cannot be used, or there is no thread to be had.
    pub fn start(config: &Config, tls: &ServerTls, me: Member, place: u64) -> Result<Self, String> {
        keeper::start(config, tls, me, place)
    }

    /// The right to write.
    pub fn permit(&self) -> Arc<Permit> {
        Arc::clone(&self.permit)
    }

    /// For so long an instance counts as there that says nothing any more.
    pub fn lease_time(&self) -> Duration {
        self.lease_time
    }

    /// A number for all instances that go by the same keys.
    pub fn group(&self) -> u64 {
        self.group
    }

    /// As it is now.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    /// As it is now and will be.
    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// From now on the right to write is not had before `participant` goes by what the others have decided, each time
    /// that it was lost. Its way to write must be closed now.
    pub fn join(&self, participant: &str) {
        self.ask(Ask::Join(participant.to_owned()));
    }

    /// The participant is no more.
    pub fn leave(&self, participant: &str) {
        self.ask(Ask::Leave(participant.to_owned()));
    }

    /// The participant goes by what was decided, as of a view of this session.
    pub fn ready(&self, participant: &str, session: u64) {
        self.ask(Ask::Ready(participant.to_owned(), session));
    }

    /// Tells the others; the last word counts.
    pub fn acknowledge(&self, cluster: &str, ack: &Ack) {
        let value = serde_json::to_string(ack).unwrap_or_default();
        self.ask(Ask::Publish(format!("acks/{}", coded(cluster)), value));
    }

    /// As [`Self::acknowledge`].
    pub fn vote(&self, cluster: &str, vote: &Vote) {
        let value = serde_json::to_string(vote).unwrap_or_default();
        self.ask(Ask::Publish(format!("votes/{}", coded(cluster)), value));
    }

    /// Changes the record of a cluster; the answer is its new revision. `expected` is the one before, 0 for none.
    ///
    /// # Errors
    /// It was not changed, as far as is known: another instance leads, the record is another one by now, or etcd does not
    /// answer. To be tried again with the same text, unless the view shows another one.
    pub async fn write(&self, cluster: &str, expected: i64, text: String) -> Result<i64, String> {
        let (reply, told) = oneshot::channel();
        self.ask(Ask::Write { key: record_key(cluster), expected, text, reply });
        told.await.unwrap_or_else(|_| Err("coordination has stopped".to_owned()))
    }

    /// What other instances want done here, for whoever does it: once.
    pub fn take_calls(&self) -> Option<mpsc::UnboundedReceiver<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Has another instance do something; the answer is its own.
    ///
    /// # Errors
    /// It has not answered: whether it was done is not known.
    pub async fn call(&self, to: &str, what: String) -> Result<String, String> {
        let (reply, told) = oneshot::channel();
        self.ask(Ask::Call { to: to.to_owned(), what, reply });
        told.await.unwrap_or_else(|_| Err("coordination has stopped".to_owned()))
    }

    /// Another instance should lead: this one sees less than others do.
    pub fn resign(&self, pause: Duration) {
        self.ask(Ask::Resign(pause));
    }

    /// This process never leads again, or may again.
    pub fn stand_aside(&self, is_aside: bool) {
        self.ask(Ask::StandAside(is_aside));
    }

    /// Gives back what this instance has: nobody has to wait for it. Nothing is written from here on.
    pub async fn leave_all(&self) {
        let (reply, told) = oneshot::channel();
        self.ask(Ask::Goodbye(reply));
        // Without an answer the lease ends by itself.
        let _ = told.await;
    }

    fn ask(&self, ask: Ask) {
        // Its thread ends with the last of these only.
        let _ = self.asks.send(ask);
    }
}

fn record_key(cluster: &str) -> String {
    format!("records/{}", coded(cluster))
}

/// A cluster may be called anything; a part of a key has no slash.
fn coded(name: &str) -> String {
    super::failover::record::file_name(name)
}
