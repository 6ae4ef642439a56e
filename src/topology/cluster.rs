//! One cluster's live state: the plan, the positions, and what each node last said. Owned by [`super::monitor`].
//!
//! No sockets here: answers and times go in, a [`ClusterView`] comes out.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use crate::config::model::{Cluster, Node, Postgres};

use super::acknowledged::{Acknowledged, Cost};
use super::clock::after;
use super::events::EventLog;
use super::failover::detector::{self, Detector};
use super::failover::record::{At, Awaited};
use super::lag::{Lag, Limits, Positions, Replayed, Written};
use super::link::Kept;
use super::lsn::Lsn;
use super::model::{ClusterView, Freshness, FreshnessWanted, HealthCounters, NodeView, Role, State, Suspicion};
use super::plan::{Action, Facts, Failure, Input, Plan, Seat, Standing};
use super::probe::{Answer, DEFAULT_STANDBY, Target};
use super::schedule::{Schedule, Turn};

/// Settings of `[postgres]` that every cluster shares.
#[derive(Debug, Clone)]
pub(super) struct Limiting {
    limits: Limits,
    /// Of databases and users that have their own.
    others: Vec<Limits>,
    /// A sample of the primary that is older than this tells no lag in time.
    recent: Duration,
    /// A failover will depend on how far the primary is known to have come.
    is_bounded: bool,
    /// As much as may be missing in what is known of it, before it is asked for again.
    most_unseen: u64,
}

/// Between two looks at the position of a primary whose failover depends on it.
const POSITION: Duration = Duration::from_millis(100);

impl Limiting {
    pub(super) fn of(config: &Postgres) -> Self {
        let is_bounded = config.failover.is_bounded();
        Self {
            limits: Limits::of(&config.routing),
            others: Limits::others(config),
            recent: config.failover.check_interval * 3 + config.failover.check_timeout,
            is_bounded,
            most_unseen: if is_bounded { config.failover.max_lost_bytes / 8 } else { u64::MAX },
        }
    }
}

/// A cluster.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) name: String,
    pub(super) plan: Plan,
    pub(super) nodes: Vec<WatchedNode>,
    pub(super) schedule: Schedule,
    pub(super) wanted_fresh: Arc<FreshnessWanted>,
    /// Of the accepted primary.
    pub(super) detector: Detector,
    /// Why no failover may begin by itself.
    pub(super) objection: Option<String>,
    positions: Positions,
    limiting: Limiting,
    monitor_user: String,
    events: EventLog,
}

/// A node of a cluster.
#[derive(Debug)]
pub(super) struct WatchedNode {
    /// Never used twice in a process: answers that outlive their node find nobody.
    pub(super) id: u64,
    pub(super) conf: Node,
    pub(super) target: Target,
    pub(super) weight: u32,
    pub(super) turn: Turn,
    pub(super) suspicion: Arc<Suspicion>,
    fresh: Arc<Freshness>,
    pub(super) acknowledged: Arc<Acknowledged>,
    cost: Cost,
    health: HealthCounters,
    answer: Option<Answer>,
    lag: Lag,
    unfit: Option<String>,
    /// Whether it may be read under the limits that some databases and users have of their own.
    elsewhere: Vec<(Limits, bool)>,
    standing: Standing,
    last_change: SystemTime,
}

/// The end of a probe.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) id: u64,
    pub(super) outcome: Result<Answer, Failure>,
    pub(super) started_ns: u64,
    pub(super) took: Duration,
}

pub(super) fn seats(conf: &Cluster) -> Vec<Seat> {
    conf.nodes.iter().map(|node| Seat { name: node.name.clone(), role: node.role }).collect()
}

pub(super) fn target(conf: &Cluster, node: &Node, timeout: Duration) -> Target {
    Target {
        host: node.host.clone(),
        port: node.port,
        user: conf.monitor_user.clone(),
        password: conf.monitor_password.clone(),
        previous_password: conf.monitor_previous_password.clone(),
        database: conf.monitor_database.clone(),
        tls: conf.tls.clone(),
        timeout,
        kept: Kept::default(),
    }
}

impl WatchedNode {
    pub(super) fn new(id: u64, conf: &Node, target: Target, wake: Arc<Notify>) -> Self {
        Self {
            id,
            weight: conf.weight,
            conf: conf.clone(),
            target,
            turn: Turn::default(),
            suspicion: Arc::default(),
            fresh: Arc::default(),
            acknowledged: Arc::new(Acknowledged::new(wake)),
            cost: Cost::default(),
            health: HealthCounters::default(),
            answer: None,
            lag: Lag::default(),
            unfit: None,
            elsewhere: Vec::new(),
            standing: Standing { role: Role::Unknown, state: State::Down, reason: String::new() },
            last_change: SystemTime::now(),
        }
    }

    /// The same server under a changed entry of the file.
    pub(super) fn renamed(self, conf: &Node) -> Self {
        let weight = if conf.weight == self.conf.weight { self.weight } else { conf.weight };
        Self { weight, conf: conf.clone(), ..self }
    }

    /// The same server, asked by another task from now on.
    pub(super) fn asked_anew(self, id: u64, target: Target) -> Self {
        Self { id, target, turn: Turn::default(), ..self }
    }

    /// Where it is reached.
    pub(super) fn at(&self) -> At {
        At { host: self.conf.host.clone(), port: self.conf.port }
    }

    pub(super) fn is_at(&self, at: &At) -> bool {
        (&self.conf.host, self.conf.port) == (&at.host, at.port)
    }

    /// Whether a probe is to start now.
    pub(super) fn starts(&mut self, now_ns: u64) -> bool {
        let starts = self.turn.start(now_ns);
        if starts {
            self.cost.ask(&self.acknowledged);
        }
        starts
    }

    /// It has answered once, is down, and has said nothing for so long.
    pub(super) fn is_down_for(&self, now_ns: u64, time: Duration) -> bool {
        let was_heard = self.answer.as_ref().is_some_and(|answer| after(answer.asked_ns, time) <= now_ns);
        was_heard && self.standing.state == State::Down
    }

    fn replayed(&self) -> Option<Replayed> {
        let answer = self.answer.as_ref().filter(|answer| answer.in_recovery)?;
        Some(Replayed {
            asked_ns: answer.asked_ns,
            timeline: answer.timeline,
            receive: answer.receive,
            replay: answer.replay,
            commit_age: answer.commit_age,
        })
    }

    fn forget_position(&mut self) {
        self.fresh.set(0);
        self.fresh.set_replayed(None);
        self.lag = Lag::default();
    }
}

impl Watched {
    pub(super) fn new(config: &Postgres, conf: &Cluster, wake: Arc<Notify>, events: EventLog) -> Self {
        let mut plan = Plan::new(config.failover.mode, seats(conf));
        plan.set_rejoins(!config.failover.rejoin_command.is_empty());
        Self {
            name: conf.name.clone(),
            plan,
            nodes: Vec::new(),
            schedule: Schedule::new(config.failover.check_interval),
            wanted_fresh: Arc::new(FreshnessWanted::new(wake)),
            detector: Detector::default(),
            objection: None,
            positions: Positions::new(),
            limiting: Limiting::of(config),
            monitor_user: conf.monitor_user.clone(),
            events,
        }
    }

    /// Takes changed settings; the nodes are the caller's to replace first.
    pub(super) fn reconfigure(&mut self, now_ns: u64, config: &Postgres, conf: &Cluster, from: &[Option<usize>]) {
        self.limiting = Limiting::of(config);
        self.monitor_user.clone_from(&conf.monitor_user);
        self.schedule.set_interval(config.failover.check_interval);
        self.plan.set_rejoins(!config.failover.rejoin_command.is_empty());
        let actions = self.plan.reseat(now_ns, config.failover.mode, seats(conf), from);
        self.carry_out(now_ns, actions);
        self.refresh();
    }

    /// Takes in the end of a probe of `node`.
    pub(super) fn take(&mut self, now_ns: u64, node: usize, report: Report) {
        let Some(watched) = self.nodes.get_mut(node) else {
            return;
        };
        let answered = report.outcome.is_ok();
        watched.turn.end();
        if !matches!(report.outcome, Err(Failure::Stalled)) {
            watched.health.add(answered, report.took, SystemTime::now());
        }
        if self.plan.accepted() == Some(node) {
            self.detector.take(now_ns, report.outcome.as_ref().map(drop));
            if self.detector.is_in_doubt() {
                watched.turn.want_after(now_ns, detector::AGAIN);
            } else if self.limiting.is_bounded {
                watched.turn.want_after(now_ns, POSITION);
            }
        }
        let credited = watched.suspicion.settle(report.started_ns);
        if !credited {
            watched.turn.want_for_doubt(now_ns);
        }
        let input = match report.outcome {
            Ok(answer) => {
                let facts = Facts {
                    in_recovery: answer.in_recovery,
                    timeline: answer.timeline,
                    system_identifier: answer.system_identifier,
                    started: answer.started,
                };
                watched.answer = Some(answer);
                Input::Answered { facts, proven: credited && self.has_replayed_this_epoch(node) }
            }
            Err(failure) => {
                if matches!(failure, Failure::Unheard(_)) {
                    watched.cost.refused(&watched.acknowledged, report.started_ns);
                }
                Input::Failed(failure)
            }
        };
        let actions = self.plan.step(now_ns, node, input);
        self.carry_out(now_ns, actions);
        if answered && self.plan.accepted() == Some(node) {
            let is_fenced = self.plan.standings().get(node).is_none_or(|now| now.state == State::Fenced);
            if !is_fenced {
                self.sample(node);
                self.learn(node);
            }
            self.nodes.iter_mut().for_each(|other| other.turn.primary_answered(now_ns));
        } else if answered && credited {
            self.measure(node);
        }
        self.refresh();
    }

    fn has_replayed_this_epoch(&self, node: usize) -> bool {
        let replayed = self.nodes.get(node).and_then(WatchedNode::replayed);
        replayed.is_some_and(|replayed| self.positions.measure(&replayed, self.limiting.recent).caught_up_ns > 0)
    }

    fn sample(&mut self, node: usize) {
        let Some(watched) = self.nodes.get_mut(node) else {
            return;
        };
        watched.forget_position();
        let Some(answer) = &watched.answer else {
            return;
        };
        if let (Some(insert), Some(flush)) = (answer.insert, answer.flush) {
            self.positions.push(&Written { asked_ns: answer.asked_ns, timeline: answer.timeline, insert, flush });
        }
    }

    /// How far the primary has come.
    fn learn(&mut self, node: usize) {
        let Some(watched) = self.nodes.get_mut(node) else { return };
        let known = watched.answer.as_ref().and_then(|answer| Some((answer.flush?, answer.asked_ns)));
        if let Some((flush, asked_ns)) = known {
            watched.acknowledged.set_most(self.limiting.most_unseen);
            watched.cost.learn(&watched.acknowledged, flush, asked_ns);
        }
    }

    fn measure(&mut self, node: usize) {
        let Some(watched) = self.nodes.get_mut(node) else {
            return;
        };
        match watched.replayed() {
            Some(replayed) => {
                watched.lag = self.positions.measure(&replayed, self.limiting.recent);
                watched.fresh.set(watched.lag.caught_up_ns);
                let is_known = watched.lag.caught_up_ns > 0;
                watched.fresh.set_replayed(replayed.replay.filter(|_| is_known));
            }
            None => watched.forget_position(),
        }
    }

    pub(super) fn carry_out(&mut self, now_ns: u64, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Probe { node, after } => {
                    if let Some(node) = self.nodes.get_mut(node) {
                        node.turn.want_after(now_ns, after);
                    }
                }
                Action::ForgetPositions => {
                    self.positions = Positions::new();
                    for node in &mut self.nodes {
                        node.forget_position();
                        node.turn.want(now_ns);
                    }
                }
                Action::Served { gap, changed } => self.events.count_served(&self.name, gap, changed),
                Action::Report { node, event, detail } => {
                    let name = node.and_then(|node| self.nodes.get(node)).map_or("", |node| &node.conf.name);
                    self.events.record(&self.name, self.plan.epoch(), event, name, &detail);
                }
                Action::ReportPlanned { node, event, detail } => {
                    let name = self.nodes.get(node).map_or("", |node| &node.conf.name);
                    self.events.record_planned(&self.name, self.plan.epoch(), event, name, &detail);
                }
            }
        }
    }

    /// Works out again what each node may be used for.
    pub(super) fn refresh(&mut self) {
        let primary = self.plan.accepted().and_then(|node| self.nodes.get(node)).and_then(|node| node.answer.as_ref());
        let timeline = primary.and_then(|answer| answer.timeline);
        for (node, standing) in self.nodes.iter_mut().zip(self.plan.standings()) {
            if (standing.role, standing.state) != (node.standing.role, node.standing.state) {
                node.last_change = SystemTime::now();
            }
            if !matches!(standing.state, State::Up | State::Draining) {
                node.forget_position();
            }
            let own = node.answer.as_ref().and_then(|answer| answer.timeline);
            let hidden = node.answer.as_ref().is_some_and(|answer| answer.receiver_hidden);
            let diverged = other_history(own, timeline, hidden, &self.monitor_user);
            let elsewhere = self.limiting.others.iter().map(|limits| {
                let was_fit = node.elsewhere.iter().find(|(of, _)| of == limits).is_none_or(|(_, fit)| *fit);
                (*limits, diverged.is_none() && limits.refusal(&node.lag, was_fit).is_none())
            });
            node.elsewhere = elsewhere.collect();
            node.unfit = diverged.or_else(|| self.limiting.limits.refusal(&node.lag, node.unfit.is_none()));
            node.standing = standing;
        }
    }

    /// Whether a probe of `node` may wait for the primary's answer.
    pub(super) fn waits_for_primary(&self) -> Vec<bool> {
        let has_primary = self.plan.primary().is_some();
        self.nodes.iter().map(|node| has_primary && node.standing.role == Role::Replica).collect()
    }

    /// What is known of the accepted primary: the end of what is safe on its disk, and whom its commits wait for.
    pub(super) fn last_of_primary(&self) -> (Option<Lsn>, Awaited) {
        let answer = self.plan.accepted().and_then(|node| self.nodes.get(node)?.answer.as_ref());
        let answer = answer.filter(|answer| !answer.in_recovery);
        (answer.and_then(|answer| answer.flush), answer.map(|answer| answer.synchronous.clone()).unwrap_or_default())
    }

    /// A replica that is there and may be promoted.
    pub(super) fn is_candidate(&self, node: usize) -> bool {
        let may = self.nodes.get(node).is_some_and(|node| node.conf.promote) && self.plan.may_lead(node);
        may && self.is_replica_up(node)
    }

    /// A replica that answers.
    pub(super) fn is_replica_up(&self, node: usize) -> bool {
        let standing = self.plan.standing(node);
        standing.role == Role::Replica && standing.state != State::Down
    }

    /// As which a primary knows this node; `None` if it was never asked.
    pub(super) fn standby(&self, node: usize) -> Option<String> {
        let name = self.nodes.get(node)?.answer.as_ref()?.own_name.clone();
        Some(if name.is_empty() { DEFAULT_STANDBY.to_owned() } else { name })
    }

    /// How long ago the primary said that, ms.
    pub(super) fn known_ago_ms(&self, now_ns: u64) -> Option<u64> {
        let answer = self.nodes.get(self.plan.accepted()?)?.answer.as_ref()?;
        Some(now_ns.saturating_sub(answer.asked_ns) / 1_000_000)
    }

    /// The newest timeline that a node has shown.
    pub(super) fn timeline(&self, node: usize) -> Option<u32> {
        self.nodes.get(node)?.answer.as_ref()?.timeline
    }

    /// When a node's server was started, as it said last, see [`super::plan::Facts::started`].
    pub(super) fn started(&self, node: usize) -> Option<i64> {
        self.nodes.get(node)?.answer.as_ref()?.started
    }

    pub(super) fn view(&self) -> ClusterView {
        let primary = self.plan.primary();
        let answers = primary.and_then(|node| self.nodes.get(node)).into_iter().chain(&self.nodes);
        let server_version = answers.filter_map(|node| node.answer.as_ref()).next();
        ClusterView {
            name: self.name.clone(),
            epoch: self.plan.epoch(),
            cut_epoch: self.plan.cut_epoch(),
            closed: self.plan.closed().map(str::to_owned),
            primary,
            nodes: self.nodes.iter().map(WatchedNode::view).collect(),
            candidates: (0..self.nodes.len()).filter(|node| self.is_candidate(*node)).count(),
            is_synchronous: !self.last_of_primary().1.setting.trim().is_empty(),
            objection: self.objection.clone(),
            paused: self.plan.paused().map(str::to_owned),
            system_identifier: self.plan.system_identifier(),
            server_version: server_version.map(|answer| answer.server_version.clone()),
            wanted_fresh: Arc::clone(&self.wanted_fresh),
        }
    }
}

impl WatchedNode {
    fn view(&self) -> NodeView {
        let answer = self.answer.as_ref();
        let is_replica = self.standing.role == Role::Replica;
        let serves = is_replica && self.standing.state == State::Up;
        let mut reason = self.standing.reason.clone();
        if let (true, true, Some(why)) = (reason.is_empty(), serves, &self.unfit) {
            reason.clone_from(why);
        }
        NodeView {
            name: self.conf.name.clone(),
            host: self.conf.host.clone(),
            port: self.conf.port,
            weight: self.weight,
            role: self.standing.role,
            state: self.standing.state,
            lag_bytes: self.lag.bytes,
            lag_ms: self.lag.time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            position: answer.and_then(|answer| if answer.in_recovery { answer.replay } else { answer.insert }),
            timeline: answer.and_then(|answer| answer.timeline),
            last_change: self.last_change,
            fit_for_reads: serves && self.unfit.is_none() && self.weight > 0,
            fit_elsewhere: (self.elsewhere.iter())
                .map(|(limits, fit)| (*limits, serves && *fit && self.weight > 0))
                .collect(),
            reason,
            fresh: Arc::clone(&self.fresh),
            acknowledged: Arc::clone(&self.acknowledged),
            suspicion: Arc::clone(&self.suspicion),
            health: self.health.clone(),
        }
    }
}

/// Why a replica may hold another history than the primary. Positions on two timelines do not compare, and a node
/// that has diverged looks healthy otherwise. One that is ahead follows a primary that was not asked yet.
fn other_history(own: Option<u32>, primary: Option<u32>, hidden: bool, user: &str) -> Option<String> {
    let primary = primary?;
    let own = match own {
        Some(own) if own >= primary => return None,
        Some(own) => own.to_string(),
        None => "not known".to_owned(),
    };
    Some(match hidden {
        true => format!(
            "takes no reads until it shows that it follows the primary: the monitor's login sees its timeline ({own}, the \
             primary's is {primary}) only after a restartpoint, in minutes; GRANT pg_monitor TO \"{user}\" shows it at once"
        ),
        false => format!("does not follow the primary yet: its timeline is {own}, the primary's is {primary}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_on_an_older_timeline_is_told_apart_from_one_whose_timeline_is_hidden() {
        let told = |own, hidden| other_history(own, Some(2), hidden, "monitor");
        assert_eq!(told(Some(2), true), None);
        let late = told(Some(1), false).unwrap();
        assert_eq!(late, "does not follow the primary yet: its timeline is 1, the primary's is 2");
        let unseen = told(Some(1), true).unwrap();
        assert!(unseen.contains("until it shows that it follows") && unseen.contains("in minutes"), "{unseen}");
    }
}
