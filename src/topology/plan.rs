//! Which node is the primary, and which nodes may be used. Pure: answers and orders in, actions out.
//!
//! One [`Plan`] a cluster, fed by [`super::monitor`]. It follows what others promote; what [`super::failover`] does
//! itself is told to it by [`Plan::close`], [`Plan::open`] and [`Plan::install`].
//! The accepted primary is a recorded decision: a fresher answer does not replace it, a newer timeline does.
//! A node that accepts writes without being the accepted primary is fenced until it is a replica again that has
//! provably replayed what the primary wrote, or until an admin insists.

use std::time::Duration;

use crate::config::model::{FailoverMode, NodeRole};
use crate::topology::failover::record::Strayed;

use super::model::{Role, State};

mod change;
mod election;
mod orders;
#[cfg(test)]
mod tests;

pub use orders::Order;

/// The reason of a node that no probe has come back from yet.
const UNASKED: &str = "not probed yet";

/// Between a first failure and the second look that confirms it.
const SECOND_LOOK: Duration = Duration::from_millis(50);

/// What a probe learned that matters to roles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `pg_is_in_recovery()`
    pub in_recovery: bool,
    /// Timeline, `None` when the login may not see it.
    pub timeline: Option<u32>,
    /// System identifier, `None` when the login may not see it.
    pub system_identifier: Option<u64>,
    /// `pg_postmaster_start_time()`, microseconds since 1970 by its own clock.
    pub started: Option<i64>,
}

/// How a probe failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Refused, closed or in error: a restart, a dropped session or worse. A second look tells.
    Broken(String),
    /// No answer within `check_timeout`.
    Silent(String),
    /// Alive, and it does not let us in: without a free connection (53300), or the login is refused (class 28, 3D000).
    Unheard(String),
    /// This process was held up; says nothing about the node.
    Stalled,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A probe was answered.
    Answered {
        /// What it said.
        facts: Facts,
        /// It is a replica that has replayed what the present primary wrote on the present timeline.
        proven: bool,
    },
    /// A probe was not answered.
    Failed(Failure),
}

/// What the caller has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Probe this node after a while.
    Probe {
        /// Index of the node.
        node: usize,
        /// From now.
        after: Duration,
    },
    /// A new epoch has begun: earlier positions say nothing any more.
    ForgetPositions,
    /// A primary serves again, or another one does.
    Served {
        /// For so long nobody did; `None` if that was never so.
        gap: Option<Duration>,
        /// It is another one.
        changed: bool,
    },
    /// A row for `SHOW EVENTS`.
    Report {
        /// Index of the node, `None` for the cluster as a whole.
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

/// What a node's name, role and state look like from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// What it says of itself.
    pub role: Role,
    /// Whether it may be used.
    pub state: State,
    /// Why not; empty for `Up` without remarks.
    pub reason: String,
}

/// A node as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// Name for messages.
    pub name: String,
    /// `role` in the file.
    pub role: NodeRole,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Reach {
    Unasked,
    Up,
    /// Failed once; the second look is under way, and until then it counts as up.
    Doubted,
    Down(String),
}

/// An admin's wish about a node, with the admin's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// Running work ends, nothing new starts.
    Drain {
        /// Who.
        by: String,
    },
    /// Out of service at once.
    Detach {
        /// Who.
        by: String,
    },
}

#[derive(Debug, Clone)]
struct Member {
    seat: Seat,
    reach: Reach,
    facts: Option<Facts>,
    hold: Option<Hold>,
    fence: Option<String>,
    /// The primary has answered since this one was promoted beside it, or another was promoted in its place; so it
    /// lacks what was written since, and until it has proven that it follows, nothing that it says makes it the primary.
    stray: Option<Strayed>,
}

/// The accepted primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    node: usize,
    timeline: u32,
}

/// Nobody takes writes, because Forebay itself changes the primary.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Closed {
    why: String,
    /// Even what is under way on the primary has to end.
    cuts: bool,
}

/// The decisions about one cluster.
#[derive(Debug, Clone)]
pub struct Plan {
    mode: FailoverMode,
    /// Who has paused failover: the recorded primary stays then, whatever others promote.
    paused: Option<String>,
    members: Vec<Member>,
    epoch: u64,
    record: Option<Record>,
    /// The newest timeline on which a node of this cluster accepted writes: nothing older is accepted by itself.
    floor: u32,
    identifier: Option<u64>,
    /// Why there is no primary although a node accepts writes.
    dispute: Option<String>,
    closed: Option<Closed>,
    /// The accepted primary leaves by a switchover.
    is_leaving: bool,
    /// It leaves by being restarted as a standby.
    restarts: bool,
    /// `rejoin_command` makes a replica of a former primary.
    rejoins: bool,
    /// What is known comes from a record, and no node has confirmed that it is still of this cluster.
    is_restored: bool,
    /// Several instances decide together: what this one finds is proposed, and [`Plan::adopt`] says what was decided.
    is_led: bool,
    proposal: Option<usize>,
    /// An admin insists on this one.
    wanted: Option<usize>,
    /// The last primary in service, and since when it is not.
    last_served: Option<usize>,
    lost_at_ns: Option<u64>,
}

impl Plan {
    /// Nothing is known yet.
    pub fn new(mode: FailoverMode, seats: Vec<Seat>) -> Self {
        Self {
            mode,
            paused: None,
            members: seats.into_iter().map(Member::new).collect(),
            epoch: 0,
            record: None,
            floor: 0,
            identifier: None,
            dispute: None,
            closed: None,
            is_leaving: false,
            restarts: false,
            rejoins: false,
            is_restored: false,
            is_led: false,
            proposal: None,
            wanted: None,
            last_served: None,
            lost_at_ns: None,
        }
    }

    /// Takes in what a probe of `node` said.
    pub fn step(&mut self, now_ns: u64, node: usize, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        let before = self.standings();
        let Some(member) = self.members.get_mut(node) else {
            return actions;
        };
        match input {
            Input::Answered { facts, proven } => {
                if proven && facts.in_recovery {
                    member.fence = None;
                }
                member.stray = member.stray.and_then(|how| stays_stray(how, &facts, proven));
                member.facts = Some(facts);
                member.reach = Reach::Up;
                self.note_outlived(node);
                if let Some(primary) = self.rival_of(node) {
                    // Whether it outlives this one has to be known before it is lost.
                    actions.push(Action::Probe { node: primary, after: Duration::ZERO });
                }
            }
            Input::Failed(failure) => {
                if let Some(after) = member.fail(failure) {
                    actions.push(Action::Probe { node, after });
                }
            }
        }
        self.settle(now_ns, &before, &mut actions);
        actions
    }

    /// Takes a changed configuration. `from[i]` is the old index of the node that now sits at `i`; what was known
    /// of it stays. If the accepted primary has left, the next one is looked for from scratch.
    pub fn reseat(&mut self, now_ns: u64, mode: FailoverMode, seats: Vec<Seat>, from: &[Option<usize>]) -> Vec<Action> {
        let place = |old: usize| from.iter().position(|&f| f == Some(old));
        self.mode = mode;
        let had_record = self.record.is_some();
        self.record = self.record.and_then(|r| Some(Record { node: place(r.node)?, ..r }));
        (self.proposal, self.wanted) = (None, self.wanted.and_then(place));
        self.last_served = self.last_served.and_then(place);
        let old = std::mem::take(&mut self.members);
        self.members = seats
            .into_iter()
            .enumerate()
            .map(|(i, seat)| match from.get(i).copied().flatten().and_then(|f| old.get(f)) {
                Some(known) => Member { seat, ..known.clone() },
                None => Member::new(seat),
            })
            .collect();
        let before = self.standings();
        let mut actions = Vec::new();
        if had_record && self.record.is_none() {
            self.lost_at_ns.get_or_insert(now_ns);
            let detail = "its node is no longer configured".to_owned();
            actions.push(Action::Report { node: None, event: "primary_lost", detail });
        }
        self.settle(now_ns, &before, &mut actions);
        actions
    }

    /// The node that takes writes.
    pub fn primary(&self) -> Option<usize> {
        let record = self.record?;
        let member = self.members.get(record.node)?;
        let serves = self.closed.is_none()
            && self.is_writable(member)
            && member.fence.is_none()
            && member.hold.is_none()
            && member.timeline() >= record.timeline;
        serves.then_some(record.node)
    }

    /// The accepted primary, in service or not.
    pub fn accepted(&self) -> Option<usize> {
        self.record.map(|record| record.node)
    }

    /// See [`super::model::ClusterView::epoch`].
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What the nodes of this cluster have in common, once agreed on.
    pub fn system_identifier(&self) -> Option<u64> {
        self.identifier
    }

    /// Every node as seen from outside, in order.
    pub fn standings(&self) -> Vec<Standing> {
        (0..self.members.len()).map(|node| self.standing(node)).collect()
    }

    /// One node as seen from outside; down and unknown if there is none.
    pub fn standing(&self, node: usize) -> Standing {
        let Some(member) = self.members.get(node) else {
            return Standing { role: Role::Unknown, state: State::Down, reason: String::new() };
        };
        let is_accepted = self.accepted() == Some(node);
        let role = match (&member.facts, &member.reach) {
            (None, _) => Role::Unknown,
            (Some(facts), _) if facts.in_recovery => Role::Replica,
            (Some(_), Reach::Down(_)) if !is_accepted => Role::Unknown,
            (Some(_), _) => Role::Primary,
        };
        let (state, reason) = match (&member.hold, &member.reach) {
            (Some(Hold::Detach { by }), _) => (State::Detached, format!("detached by {by}")),
            (_, Reach::Unasked) => (State::Down, UNASKED.to_owned()),
            (_, Reach::Down(why)) => (State::Down, why.clone()),
            (hold, Reach::Up | Reach::Doubted) => {
                let barred = self.refusal(member).or_else(|| member.fence.clone());
                match (barred, hold) {
                    (Some(why), _) => (State::Fenced, why),
                    (None, Some(Hold::Drain { by })) => (State::Draining, format!("drained by {by}")),
                    (None, _) if is_accepted && let Some(closed) = &self.closed => {
                        (State::Draining, closed.why.clone())
                    }
                    (None, _) if role == Role::Primary && !is_accepted => {
                        (State::Up, "not accepted yet: other nodes have not been asked".to_owned())
                    }
                    (None, _) => (State::Up, String::new()),
                }
            }
        };
        Standing { role, state, reason }
    }

    /// Decides again and reports what has changed since `before`.
    fn settle(&mut self, now_ns: u64, before: &[Standing], actions: &mut Vec<Action>) {
        self.forget_another_cluster(actions);
        self.agree_on_identifier();
        self.elect(actions);
        for (node, (old, new)) in before.iter().zip(self.standings()).enumerate() {
            match change(old, &new) {
                Some((event @ "node_fenced", detail)) if self.is_leaving && self.rejoins => {
                    actions.push(Action::ReportPlanned { node, event, detail });
                }
                Some((event @ "node_down", why))
                    if self.is_leaving && self.restarts && self.accepted() == Some(node) =>
                {
                    let detail = format!("it is being restarted as a standby: {why}");
                    actions.push(Action::ReportPlanned { node, event, detail });
                }
                Some((event, detail)) => actions.push(Action::Report { node: Some(node), event, detail }),
                None => {}
            }
        }
        self.report_service(now_ns, actions);
    }

    fn report_service(&mut self, now_ns: u64, actions: &mut Vec<Action>) {
        let report = |actions: &mut Vec<Action>, node, event, detail| {
            actions.push(Action::Report { node: Some(node), event, detail });
        };
        let Some(serving) = self.primary() else {
            if let (Some(last), None) = (self.last_served, self.lost_at_ns) {
                if self.closed.is_none() && self.members.get(last).is_some_and(|member| member.reach == Reach::Unasked)
                {
                    // After a restart: it was not lost, it was not asked yet.
                    return;
                }
                self.lost_at_ns = Some(now_ns);
                let standing = self.standing(last);
                // Out of service only because this was ordered.
                let is_leaving = self.is_leaving && standing.state == State::Draining;
                let why = match standing.state {
                    _ if let Some(closed) = &self.closed => closed.why.clone(),
                    State::Up => format!("is a {} now", standing.role),
                    _ => standing.reason,
                };
                if is_leaving {
                    report(actions, last, "primary_leaving", format!("{why}: writes wait for the next primary"));
                } else {
                    report(actions, last, "primary_lost", why);
                }
            }
            return;
        };
        let lost_for = self.lost_at_ns.take().map(|lost| Duration::from_nanos(now_ns.saturating_sub(lost)));
        let gap = match lost_for {
            Some(gap) => format!(", after {:.3}s without a primary", gap.as_secs_f64()),
            None if self.last_served == Some(serving) => return,
            None => String::new(),
        };
        let changed = self.last_served.is_some_and(|last| last != serving);
        actions.push(Action::Served { gap: lost_for, changed });
        let timeline = self.record.map_or(0, |record| record.timeline);
        match self.last_served.replace(serving) {
            Some(last) if last != serving => {
                let (from, to) = (self.name(last), self.name(serving));
                report(actions, serving, "primary_changed", format!("{from} to {to}, timeline {timeline}{gap}"));
            }
            _ => report(actions, serving, "primary_found", format!("timeline {timeline}{gap}")),
        }
    }

    fn name(&self, node: usize) -> &str {
        self.members.get(node).map_or("?", |member| &member.seat.name)
    }

    /// Answers, accepts writes, and is not barred by its configuration or its identifier.
    fn is_writable(&self, member: &Member) -> bool {
        member.is_reachable() && member.was_writable() && self.refusal(member).is_none()
    }

    /// Why a node may not be used whatever the others do.
    fn refusal(&self, member: &Member) -> Option<String> {
        let facts = member.facts.as_ref()?;
        if let (Some(own), Some(agreed)) = (facts.system_identifier, self.identifier)
            && own != agreed
        {
            return Some(format!(
                "system identifier {own} is not the cluster's {agreed}: another database cluster answers here"
            ));
        }
        match (member.seat.role, facts.in_recovery) {
            (NodeRole::Primary, true) => Some("configured with role \"primary\" but is in recovery".to_owned()),
            (NodeRole::Replica, false) => Some("configured with role \"replica\" but accepts writes".to_owned()),
            _ => None,
        }
    }

    /// Once every node has been asked: the identifier that most of them have, the first of equals.
    fn agree_on_identifier(&mut self) {
        if self.identifier.is_some() || self.is_unasked() {
            return;
        }
        let told: Vec<u64> = self.members.iter().filter_map(|m| m.facts.as_ref()?.system_identifier).collect();
        let votes = |id: u64| told.iter().filter(|&&other| other == id).count();
        self.identifier = told.iter().copied().rev().max_by_key(|&id| votes(id));
    }

    fn is_unasked(&self) -> bool {
        self.members.iter().any(|member| member.reach == Reach::Unasked)
    }
}

impl Member {
    fn new(seat: Seat) -> Self {
        Self { seat, reach: Reach::Unasked, facts: None, hold: None, fence: None, stray: None }
    }

    /// Takes in a failure; the answer is when to look again before calling it down.
    fn fail(&mut self, failure: Failure) -> Option<Duration> {
        match failure {
            Failure::Stalled => return Some(Duration::ZERO),
            Failure::Unheard(_) if self.is_reachable() => self.reach = Reach::Up,
            Failure::Broken(_) if self.reach == Reach::Up => {
                self.reach = Reach::Doubted;
                return Some(SECOND_LOOK);
            }
            Failure::Broken(why) | Failure::Silent(why) | Failure::Unheard(why) => {
                self.reach = Reach::Down(why);
            }
        }
        None
    }

    fn is_reachable(&self) -> bool {
        matches!(self.reach, Reach::Up | Reach::Doubted)
    }

    fn was_writable(&self) -> bool {
        self.facts.as_ref().is_some_and(|facts| !facts.in_recovery)
    }

    fn is_detached(&self) -> bool {
        matches!(self.hold, Some(Hold::Detach { .. }))
    }

    fn timeline(&self) -> u32 {
        self.facts.as_ref().and_then(|facts| facts.timeline).unwrap_or(0)
    }
}

/// How a stray goes on once it has said this; `None` if it is one as any other again.
fn stays_stray(how: Strayed, facts: &Facts, proven: bool) -> Option<Strayed> {
    let is_restarted = match how {
        _ if !facts.in_recovery => return Some(Strayed::Promoted),
        Strayed::Told { started: None } => return Some(Strayed::Told { started: facts.started }),
        Strayed::Told { started } => facts.started.is_some() && facts.started != started,
        Strayed::Promoted => true,
    };
    (!is_restarted || !proven).then_some(how)
}

/// The event that a change of standing deserves, if any. An admin's orders report themselves.
fn change(old: &Standing, new: &Standing) -> Option<(&'static str, String)> {
    match (old.state, new.state) {
        (State::Down, State::Up | State::Draining) => Some(("node_up", new.role.to_string())),
        (State::Fenced, State::Up) => Some(("node_unfenced", new.role.to_string())),
        (old, State::Fenced) if old != State::Fenced => Some(("node_fenced", new.reason.clone())),
        (State::Down, State::Down) if old.reason == UNASKED && new.reason != UNASKED => {
            Some(("node_down", new.reason.clone()))
        }
        (old, State::Down) if !matches!(old, State::Down | State::Detached) => Some(("node_down", new.reason.clone())),
        (State::Up, State::Up) if (old.role, new.role) == (Role::Primary, Role::Replica) => {
            Some(("node_demoted", "in recovery now".to_owned()))
        }
        _ => None,
    }
}
