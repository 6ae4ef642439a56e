//! Which Redis node takes writes, decided from what Sentinels and nodes say. Pure: what was heard and times go in, the
//! decision and what is left to do come out.
//!
//! A primary is accepted once the Sentinels name it and it says so itself ([`follow`]); without Sentinels, when it is
//! the only one that says so ([`roles`]). From the first sign that it is being replaced it takes no writes, even if it
//! answers. Whoever says that it is the primary and is not the accepted one gets no traffic at all.

use std::collections::BTreeMap;
use std::time::Duration;

use super::address::Address;
use super::sign::{Sign, What};
use crate::topology::model::{Role, State};
use crate::topology::plan::Hold;

mod follow;
mod orders;
mod report;
mod roles;
#[cfg(test)]
mod tests;

pub use crate::topology::plan::{Order, Standing};
use report::Loss;

/// A fence that only signs have raised ends this long after the last of them, if nothing has come of them: a false
/// alarm must not stop writes for minutes.
pub const ALARM: Duration = Duration::from_secs(5);
/// A Sentinel that has not answered for this long counts as lost.
pub const SENTINEL_SILENT: Duration = Duration::from_secs(3);
const UNASKED: &str = "not probed yet";

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Says {
    /// It takes writes.
    Primary {
        /// Replicas that are linked to it.
        replicas: usize,
    },
    /// It follows another.
    Replica {
        /// Whom.
        upstream: Address,
        /// The stream flows.
        linked: bool,
    },
}

/// What a probe learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `ROLE`
    pub says: Says,
    /// Replication offset, bytes.
    pub offset: u64,
    /// Id of the history that it writes or follows; `None` if it was not told.
    pub replid: Option<String>,
    /// Id of the history that it followed before its promotion.
    pub replid2: Option<String>,
    /// First offset that is not of `replid2`.
    pub second_offset: Option<u64>,
    /// Drawn at each start of the server.
    pub run_id: Option<String>,
    /// [`crate::worker::clock::now_ns`] just before it was asked.
    pub asked_ns: u64,
}

impl Facts {
    fn is_primary(&self) -> bool {
        matches!(self.says, Says::Primary { .. })
    }
}

/// How a probe failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Refused, closed, not ready, or not for us.
    Down(String),
    /// Alive, but not able to tell (a script runs too long): what is known of it stays.
    Busy(String),
    /// This process was held up; says nothing about the node.
    Stalled,
}

/// A replica in a Sentinel's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Where.
    pub address: Address,
    /// The flag that keeps it from being used: `s_down`, `o_down` or `disconnected`.
    pub trouble: Option<String>,
    /// `replica-priority` as the Sentinel knows it.
    pub priority: Option<u64>,
    /// Whether the replica wants to be known to clients.
    pub announced: bool,
}

/// What a Sentinel says about the service at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Naming {
    /// Grows with each failover that the Sentinels agreed on.
    pub config_epoch: u64,
    /// Who is the primary.
    pub primary: Address,
    /// The others.
    pub replicas: Vec<Listed>,
    /// It carries out a failover at this moment.
    pub in_failover: bool,
    /// Sentinels that must hold a primary for down.
    pub quorum: u64,
    /// Sentinels that it knows besides itself.
    pub other_sentinels: u64,
    /// After how many milliseconds it holds a silent node for down.
    pub down_after_ms: u64,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A Sentinel answered.
    Named {
        /// Its index.
        sentinel: usize,
        /// What it said.
        naming: Naming,
    },
    /// A Sentinel did not answer.
    Unheard {
        /// Its index.
        sentinel: usize,
        /// Why.
        why: String,
        /// It refused or closed the connection: it is lost without waiting any longer.
        refused: bool,
    },
    /// A Sentinel published something.
    Signed {
        /// Its index.
        sentinel: usize,
        /// What.
        sign: Sign,
    },
    /// A probe was answered.
    Answered {
        /// The node's index.
        node: usize,
        /// What it said.
        facts: Facts,
    },
    /// A probe was not answered.
    Failed {
        /// The node's index.
        node: usize,
        /// How.
        failure: Failure,
    },
    /// Time has passed.
    Tick,
}

/// What the caller has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A node that was not known: the last one of [`Plan::standings`].
    Discovered(Address),
    /// A new epoch has begun, or the history has changed: earlier offsets say nothing any more.
    ForgetPositions,
    /// Something is going on: everybody is asked at once, and often for a while.
    Look,
    /// A primary serves again, or another one does.
    Served {
        /// For so long nobody did; `None` if that was never so.
        gap: Option<Duration>,
        /// It is another one.
        changed: bool,
    },
    /// A row for `SHOW EVENTS`.
    Report {
        /// Index of the node, `None` for the service as a whole.
        node: Option<usize>,
        /// Name of the event.
        event: &'static str,
        /// In words.
        detail: String,
    },
    /// The same of what somebody has ordered: no bad news, whatever its name.
    ReportPlanned {
        /// Index of the node.
        node: usize,
        /// Name of the event.
        event: &'static str,
        /// In words.
        detail: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Reach {
    Unasked,
    Up,
    Down(String),
}

#[derive(Debug, Clone)]
struct Member {
    name: String,
    address: Address,
    reach: Reach,
    facts: Option<Facts>,
    hold: Option<Hold>,
    /// Since when no Sentinel lists it any more.
    unlisted_ns: Option<u64>,
    /// It was the primary, or said so beside the accepted one, and has not said since that it is a replica.
    outdated: bool,
}

/// A Sentinel as this plan knows it.
#[derive(Debug, Clone)]
struct Watcher {
    address: Address,
    /// Of the configuration: only these count for a majority.
    configured: bool,
    reach: Reach,
    naming: Option<Naming>,
    heard_ns: u64,
}

/// The accepted primary.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Accepted {
    node: usize,
    /// The newest one under which Sentinels have named it; of the one before while `instead_of` is set.
    config_epoch: u64,
    /// Accepted before any Sentinel has named it, instead of this node.
    instead_of: Option<usize>,
    /// When it was accepted.
    since_ns: u64,
}

/// Signs that the accepted primary is being replaced.
#[derive(Debug, Clone)]
struct Alarm {
    why: String,
    raised_ns: u64,
    last_ns: u64,
    /// By Sentinel: those whose signs still stand.
    signs: BTreeMap<usize, String>,
    /// A Sentinel was elected to carry out a failover.
    elected: bool,
    /// Sentinels that voted, or were elected.
    voters: Vec<usize>,
}

/// Failover is paused: what is accepted stays, and so does what stood in its way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Paused {
    by: String,
    /// Why the accepted primary was fenced at that time, if it was.
    fenced: Option<String>,
}

/// The decisions about one service.
#[derive(Debug, Clone)]
pub struct Plan {
    members: Vec<Member>,
    /// Names given; none is given twice.
    named: usize,
    /// Nodes of the plan before a reload, which this one may yet come to know.
    inherited: Vec<Member>,
    watchers: Vec<Watcher>,
    /// Whether there are Sentinels at all.
    has_sentinels: bool,
    epoch: u64,
    accepted: Option<Accepted>,
    alarm: Option<Alarm>,
    /// The naming by a few Sentinels that nothing has come of.
    dismissed: Option<(u64, Address)>,
    /// Why there is no primary although nodes say that they are.
    dispute: Option<String>,
    /// The accepted primary's history, and how far it was last seen in it.
    history: Option<Seen>,
    loss: Option<Loss>,
    /// A planned change is under way.
    switching: bool,
    paused: Option<Paused>,
    /// What was ordered about nodes that are not known yet, before a restart.
    remembered: BTreeMap<Address, Hold>,
    last_served: Option<usize>,
    lost_at_ns: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    replid: String,
    offset: u64,
    asked_ns: u64,
}

impl Plan {
    /// Nothing is known yet. Without `sentinels`, `nodes` are all there are.
    pub fn new(sentinels: &[Address], nodes: &[Address]) -> Self {
        let mut plan = Self {
            members: Vec::new(),
            named: 0,
            inherited: Vec::new(),
            watchers: Vec::new(),
            has_sentinels: !sentinels.is_empty(),
            epoch: 0,
            accepted: None,
            alarm: None,
            dismissed: None,
            dispute: None,
            history: None,
            loss: None,
            switching: false,
            paused: None,
            remembered: BTreeMap::new(),
            last_served: None,
            lost_at_ns: None,
        };
        for address in nodes {
            plan.seat(address.clone());
        }
        for address in sentinels {
            plan.add_sentinel(address.clone(), true);
        }
        plan
    }

    fn seat(&mut self, address: Address) -> usize {
        let (name, hold) = match self.inherited.iter().find(|known| known.address == address) {
            Some(known) => (known.name.clone(), known.hold.clone()),
            None => {
                self.named += 1;
                (format!("redis{}", self.named), self.remembered.remove(&address))
            }
        };
        let (reach, facts, unlisted_ns, outdated) = (Reach::Unasked, None, None, false);
        self.members.push(Member { name, address, reach, facts, hold, unlisted_ns, outdated });
        self.members.len() - 1
    }

    /// Takes over, from the plan that this one replaces, what has to outlive a reload: epochs go on, nodes keep their
    /// names, and admins' orders about them hold.
    pub fn succeed(&mut self, old: &Self) {
        self.epoch = old.epoch;
        self.named = old.named;
        self.inherited = old.members.clone();
        for member in std::mem::take(&mut self.members) {
            let node = self.seat(member.address);
            if let (Some(again), Some(hold)) = (self.members.get_mut(node), member.hold) {
                again.hold.get_or_insert(hold);
            }
        }
    }

    /// Adds a Sentinel; the answer is its index.
    pub fn add_sentinel(&mut self, address: Address, configured: bool) -> usize {
        self.watchers.push(Watcher { address, configured, reach: Reach::Unasked, naming: None, heard_ns: 0 });
        self.watchers.len() - 1
    }

    /// Takes in what happened.
    pub fn step(&mut self, now_ns: u64, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        let before = self.standings();
        match input {
            Input::Named { sentinel, naming } => self.named(now_ns, sentinel, naming, &mut actions),
            Input::Unheard { sentinel, why, refused } => {
                self.unheard(now_ns, sentinel, &why, refused, &mut actions);
            }
            Input::Signed { sentinel, sign } => self.signed(now_ns, sentinel, sign, &mut actions),
            Input::Answered { node, facts } => self.answered(node, facts, &mut actions),
            Input::Failed { node, failure } => self.failed(node, failure),
            Input::Tick => {}
        }
        self.settle(now_ns, &before, &mut actions);
        actions
    }

    fn answered(&mut self, node: usize, facts: Facts, actions: &mut Vec<Action>) {
        let is_accepted = self.accepted_node() == Some(node);
        let Some(member) = self.members.get_mut(node) else { return };
        // A probe that began before a planned change looked at the node knows less than that.
        if member.facts.as_ref().is_some_and(|known| known.asked_ns > facts.asked_ns) {
            return;
        }
        member.reach = Reach::Up;
        if !facts.is_primary() {
            member.outdated = false;
        }
        let run_ids = member.facts.as_ref().and_then(|known| known.run_id.as_ref()).zip(facts.run_id.as_ref());
        if is_accepted && facts.is_primary() && run_ids.is_some_and(|(old, new)| old != new) {
            let detail = "what it had written and not saved is gone, from its replicas too".to_owned();
            actions.push(Action::Report { node: Some(node), event: "primary_restarted", detail });
        }
        if is_accepted && facts.is_primary() {
            let seen =
                facts.replid.clone().map(|replid| Seen { replid, offset: facts.offset, asked_ns: facts.asked_ns });
            let is_other = |old: &Seen| seen.as_ref().is_some_and(|new| new.replid != old.replid);
            // A primary that was restarted writes another history: its offsets begin anew.
            if self.history.as_ref().is_some_and(is_other) {
                actions.push(Action::ForgetPositions);
            }
            self.history = seen.or(self.history.take());
        }
        member.facts = Some(facts);
        self.settle_loss(node, actions);
    }

    fn failed(&mut self, node: usize, failure: Failure) {
        let Some(member) = self.members.get_mut(node) else { return };
        match failure {
            Failure::Stalled => {}
            Failure::Busy(_) if member.reach == Reach::Up => {}
            Failure::Down(why) | Failure::Busy(why) => member.reach = Reach::Down(why),
        }
    }

    /// Decides again and reports what has changed since `before`.
    fn settle(&mut self, now_ns: u64, before: &[Standing], actions: &mut Vec<Action>) {
        // Before there is a primary, the first is looked for all the same: a restart must not end the service.
        let stays = self.paused.is_some() && self.accepted.is_some();
        match (stays, self.has_sentinels) {
            (false, true) => self.follow(now_ns, actions),
            (false, false) => self.go_by_roles(now_ns, actions),
            (true, true) => self.let_silent_sentinels_go(now_ns, actions),
            (true, false) => {}
        }
        self.report(now_ns, before, actions);
    }

    /// Takes `node` as the primary from here on.
    fn accept(&mut self, now_ns: u64, accepted: Accepted, actions: &mut Vec<Action>) {
        let node = accepted.node;
        let old = self.accepted.replace(accepted).map(|old| old.node);
        self.alarm = None;
        self.dispute = None;
        self.paused.iter_mut().for_each(|paused| paused.fenced = None);
        if old != Some(node) {
            self.epoch += 1;
            actions.push(Action::ForgetPositions);
            actions.push(Action::Look);
            if let Some(old) = old
                && let Some(member) = self.members.get_mut(old)
            {
                member.outdated = member.facts.as_ref().is_some_and(Facts::is_primary);
                if !self.switching {
                    self.estimate_loss(now_ns, old, node, actions);
                }
            }
        }
        if let Some(member) = self.members.get_mut(node) {
            member.outdated = false;
            self.history = member.facts.as_ref().and_then(|facts| {
                let replid = facts.replid.clone()?;
                Some(Seen { replid, offset: facts.offset, asked_ns: facts.asked_ns })
            });
        }
    }

    /// The node that takes writes.
    pub fn primary(&self) -> Option<usize> {
        let node = self.accepted_node()?;
        let serves = self.says_primary(node) && self.heeded().is_none() && self.members.get(node)?.hold.is_none();
        serves.then_some(node)
    }

    /// The accepted primary, in service or not.
    pub fn accepted_node(&self) -> Option<usize> {
        self.accepted.as_ref().map(|accepted| accepted.node)
    }

    /// See [`super::model::ServiceView::epoch`].
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The accepted primary's history.
    pub fn replid(&self) -> Option<&str> {
        self.history.as_ref().map(|seen| seen.replid.as_str())
    }

    /// Every node as seen from outside, in order.
    pub fn standings(&self) -> Vec<Standing> {
        (0..self.members.len()).map(|node| self.standing(node)).collect()
    }

    /// The node's address and its name.
    pub fn node(&self, node: usize) -> Option<(&Address, &str)> {
        self.members.get(node).map(|member| (&member.address, member.name.as_str()))
    }

    /// What the node said last.
    pub fn facts(&self, node: usize) -> Option<&Facts> {
        self.members.get(node)?.facts.as_ref()
    }

    /// What each Sentinel says, `Err` with the reason while it is not heard: address, configured or not, the rest.
    pub fn sentinels(&self) -> impl Iterator<Item = (&Address, bool, Result<&Naming, &str>)> {
        self.watchers.iter().map(|watcher| {
            let said = match (&watcher.reach, &watcher.naming) {
                (Reach::Up, Some(naming)) => Ok(naming),
                (Reach::Down(why), _) => Err(why.as_str()),
                _ => Err(UNASKED),
            };
            (&watcher.address, watcher.configured, said)
        })
    }

    /// Something is going on that has to be watched closely.
    pub fn is_unsettled(&self) -> bool {
        self.alarm.is_some() || self.switching || self.primary().is_none() && self.last_served.is_some()
    }

    /// Why there is no primary; empty while there is one.
    pub fn reason(&self) -> String {
        if self.primary().is_some() {
            return String::new();
        }
        if let Some(node) = self.accepted_node() {
            let standing = self.standing(node);
            let what = match (standing.state, standing.role) {
                (State::Up, Role::Replica) => "says that it is a replica now".to_owned(),
                _ => format!("is {}: {}", standing.state, standing.reason),
            };
            return format!("{} {what}", self.name(node));
        }
        self.dispute.clone().unwrap_or_else(|| "no primary was found yet".to_owned())
    }

    fn standing(&self, node: usize) -> Standing {
        let Some(member) = self.members.get(node) else {
            return Standing { role: Role::Unknown, state: State::Down, reason: String::new() };
        };
        let is_accepted = self.accepted_node() == Some(node);
        let role = match (&member.facts, &member.reach) {
            (None, _) => Role::Unknown,
            (Some(facts), _) if !facts.is_primary() => Role::Replica,
            (Some(_), Reach::Down(_)) if !is_accepted => Role::Unknown,
            (Some(_), _) => Role::Primary,
        };
        let (state, reason) = match (&member.hold, &member.reach) {
            (Some(Hold::Detach { by }), _) => (State::Detached, format!("detached by {by}")),
            (_, Reach::Unasked) => (State::Down, UNASKED.to_owned()),
            (_, Reach::Down(why)) => (State::Down, why.clone()),
            (hold, Reach::Up) => match (self.fence(node, role, is_accepted), hold) {
                (Some(why), _) => (State::Fenced, why),
                (None, Some(Hold::Drain { by })) => (State::Draining, format!("drained by {by}")),
                (None, _) if role == Role::Primary && !is_accepted => (State::Up, "not accepted yet".to_owned()),
                (None, _) => (State::Up, String::new()),
            },
        };
        Standing { role, state, reason }
    }

    /// The sign that keeps writes from the accepted primary. While failover is paused, new ones are only noted.
    fn heeded(&self) -> Option<&str> {
        match &self.paused {
            Some(paused) => paused.fenced.as_deref(),
            None => self.alarm.as_ref().map(|alarm| alarm.why.as_str()),
        }
    }

    /// Why a node that answers may not be used.
    fn fence(&self, node: usize, role: Role, is_accepted: bool) -> Option<String> {
        if role != Role::Primary {
            return None;
        }
        if is_accepted {
            return self.heeded().map(str::to_owned);
        }
        let Some(accepted) = &self.accepted else { return self.dispute.clone() };
        let past = match self.members.get(node).is_some_and(|member| member.outdated) {
            true => "still says that it is the primary",
            false => "says that it is the primary",
        };
        let config_epoch = match self.has_sentinels {
            true => format!(" since config epoch {}", accepted.config_epoch),
            false => String::new(),
        };
        Some(format!("{past}, which is {}{config_epoch}", self.name(accepted.node)))
    }

    fn name(&self, node: usize) -> &str {
        self.members.get(node).map_or("?", |member| &member.name)
    }

    /// Answers, and says that it takes writes.
    fn says_primary(&self, node: usize) -> bool {
        self.members
            .get(node)
            .is_some_and(|member| member.reach == Reach::Up && member.facts.as_ref().is_some_and(Facts::is_primary))
    }

    /// Whether a node holds the history that we followed, or one that goes on from it.
    fn descends(&self, node: usize) -> bool {
        let facts = self.members.get(node).and_then(|member| member.facts.as_ref());
        let (Some(facts), Some(history)) = (facts, &self.history) else { return false };
        [&facts.replid, &facts.replid2].into_iter().flatten().any(|replid| *replid == history.replid)
    }
}
