//! One Redis service's live state: the plan, the offsets, and what each node last said. Owned by [`super::monitor`].
//!
//! No sockets here: answers and times go in, a [`ServiceView`] comes out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use super::address::Address;
use super::link::Meeting;
use super::model::{RedisNode, ServiceView};
use super::node::{Answer, Settings};
use super::plan::{Action, Failure, Input, Naming, Plan, Says, Standing};
use crate::config::model::RedisService;
use crate::topology::events::EventLog;
use crate::topology::lag::{Lag, Limits, SampleRing};
use crate::topology::lsn::Lsn;
use crate::topology::model::{Freshness, FreshnessWanted, HealthCounters, Role, State, Suspicion};
use crate::topology::schedule::{Schedule, Turn};

/// Between two rounds of probes while nothing happens; [`Schedule`] knows the fast ones.
const INTERVAL: Duration = Duration::from_secs(1);
/// A sample of the primary that is older than this tells no lag in time.
const RECENT: Duration = Duration::from_secs(4);
/// Samples kept of the primary's offset.
const SAMPLES: usize = 1024;
/// A service without a primary is watched closely for this long; after that a round a second and the Sentinels' word
/// are enough.
const CLOSELY: Duration = Duration::from_secs(60);
/// The weight of a node that nothing is ordered about.
pub(super) const UNWEIGHED: u32 = 1;
const DEFAULT_PORT: u16 = 6379;
const DEFAULT_SENTINEL_PORT: u16 = 26379;

/// A service.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) conf: RedisService,
    pub(super) meetings: Meetings,
    pub(super) plan: Plan,
    pub(super) nodes: Vec<WatchedNode>,
    /// Ids of the Sentinels' followers, in the plan's order.
    pub(super) sentinels: Vec<u64>,
    pub(super) schedule: Schedule,
    pub(super) wanted_fresh: Arc<FreshnessWanted>,
    /// Something asks for every Sentinel to be asked at once.
    pub(super) look: bool,
    /// Set by admins, also before a reload or a restart.
    pub(super) weights: HashMap<Address, u32>,
    samples: SampleRing,
    unsettled_since_ns: Option<u64>,
    events: EventLog,
}

/// How the nodes and the Sentinels of a service are met.
#[derive(Debug, Default)]
pub(super) struct Meetings {
    pub(super) nodes: Meeting,
    pub(super) sentinels: Meeting,
}

impl Meetings {
    fn of(conf: &RedisService) -> Self {
        let meetings = Self::default();
        meetings.update(conf);
        meetings
    }

    /// Whoever connects from now on does so as `conf` says.
    pub(super) fn update(&self, conf: &RedisService) {
        self.nodes.store(Arc::new(conf.to_nodes.clone()));
        self.sentinels.store(Arc::new(conf.to_sentinels.clone()));
    }
}

/// A node of a service.
#[derive(Debug)]
pub(super) struct WatchedNode {
    pub(super) id: u64,
    pub(super) address: Address,
    pub(super) weight: u32,
    pub(super) turn: Turn,
    pub(super) suspicion: Arc<Suspicion>,
    fresh: Arc<Freshness>,
    health: HealthCounters,
    answer: Option<Answer>,
    lag: Lag,
    unfit: Option<String>,
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

/// More than routing needs to know of a service, for checks. Grows as needed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Insight {
    /// `[[redis.service]] name`.
    pub service: String,
    /// Every Sentinel, those of the configuration first.
    pub sentinels: Vec<SentinelSeen>,
    /// Sentinels of the configuration.
    pub configured: usize,
    /// Those of them that are heard.
    pub heard: usize,
    /// How many of them have to agree.
    pub majority: usize,
    /// By node, in the order of [`ServiceView::nodes`].
    pub settings: Vec<Option<Settings>>,
}

/// A Sentinel and what it said last.
#[derive(Debug, Clone)]
pub struct SentinelSeen {
    /// Where.
    pub address: Address,
    /// Named in the configuration; the others were found by asking these.
    pub configured: bool,
    /// What it said, or why it is not heard.
    pub said: Result<Naming, String>,
}

impl WatchedNode {
    pub(super) fn new(id: u64, address: Address) -> Self {
        Self {
            id,
            address,
            weight: UNWEIGHED,
            turn: Turn::default(),
            suspicion: Arc::default(),
            fresh: Arc::default(),
            health: HealthCounters::default(),
            answer: None,
            lag: Lag::default(),
            unfit: None,
            standing: Standing { role: Role::Unknown, state: State::Down, reason: String::new() },
            last_change: SystemTime::now(),
        }
    }

    fn forget_position(&mut self) {
        self.fresh.set(0);
        self.lag = Lag::default();
    }
}

/// The configured addresses; the configuration has checked them.
fn addresses(texts: &[String], default_port: u16) -> Vec<Address> {
    let mut known = Vec::new();
    for address in texts.iter().filter_map(|text| Address::parse(text, default_port)) {
        if !known.contains(&address) {
            known.push(address);
        }
    }
    known
}

impl Watched {
    /// A service with the nodes of its configuration; ids for them and for the Sentinels are the caller's to give.
    pub(super) fn new(conf: &RedisService, wake: Arc<Notify>, events: EventLog) -> Self {
        let sentinels = addresses(&conf.sentinels, DEFAULT_SENTINEL_PORT);
        let nodes = if sentinels.is_empty() { addresses(&conf.nodes, DEFAULT_PORT) } else { Vec::new() };
        Self {
            plan: Plan::new(&sentinels, &nodes),
            conf: conf.clone(),
            meetings: Meetings::of(conf),
            nodes: Vec::new(),
            sentinels: Vec::new(),
            schedule: Schedule::new(INTERVAL),
            wanted_fresh: Arc::new(FreshnessWanted::new(wake)),
            look: false,
            weights: HashMap::new(),
            samples: SampleRing::new(SAMPLES),
            unsettled_since_ns: None,
            events,
        }
    }

    /// Whether a changed configuration leaves everything that was found out valid.
    pub(super) fn survives(&self, conf: &RedisService) -> bool {
        let key = |conf: &RedisService| {
            let RedisService { sentinels, master_name, sentinel_password, nodes, auth, .. } = conf.clone();
            (sentinels, master_name, sentinel_password, nodes, auth)
        };
        key(&self.conf) == key(conf)
    }

    /// Takes in the end of a probe of `node`.
    pub(super) fn take(&mut self, now_ns: u64, node: usize, report: Report) {
        let Some(watched) = self.nodes.get_mut(node) else { return };
        let answered = report.outcome.is_ok();
        watched.turn.end();
        if !matches!(report.outcome, Err(Failure::Stalled)) {
            watched.health.add(answered, report.took, SystemTime::now());
        }
        let credited = watched.suspicion.settle(report.started_ns);
        if !credited {
            watched.turn.want_for_doubt(now_ns);
        }
        let input = match report.outcome {
            Ok(answer) => {
                let facts = answer.facts.clone();
                watched.answer = Some(answer);
                Input::Answered { node, facts }
            }
            Err(failure) => Input::Failed { node, failure },
        };
        self.step(now_ns, input);
        if answered && self.plan.accepted_node() == Some(node) {
            self.sample(node);
            self.nodes.iter_mut().for_each(|other| other.turn.primary_answered(now_ns));
        } else if answered && credited {
            self.measure(node);
        }
        self.refresh();
    }

    /// Takes in anything, and does what the plan makes of it.
    pub(super) fn step(&mut self, now_ns: u64, input: Input) {
        let actions = self.plan.step(now_ns, input);
        self.carry_out(now_ns, actions);
    }

    fn sample(&mut self, node: usize) {
        let Some(watched) = self.nodes.get_mut(node) else { return };
        watched.forget_position();
        if let Some(Answer { facts, .. }) = &watched.answer
            && matches!(facts.says, Says::Primary { .. })
        {
            self.samples.push(Lsn(facts.offset), facts.asked_ns);
        }
    }

    /// A replica of the accepted primary's history that has come to an offset has everything that was acknowledged
    /// before the primary was asked and answered that offset.
    fn measure(&mut self, node: usize) {
        let replid = self.plan.replid();
        let Some(watched) = self.nodes.get_mut(node) else { return };
        let facts = watched.answer.as_ref().map(|answer| &answer.facts);
        let comparable = |facts: &&super::plan::Facts| {
            matches!(facts.says, Says::Replica { .. }) && replid.is_some() && facts.replid.as_deref() == replid
        };
        let (Some(facts), Some((head, sampled_ns))) = (facts.filter(comparable), self.samples.newest()) else {
            watched.forget_position();
            return;
        };
        let here = Lsn(facts.offset);
        let since = |t: u64| Duration::from_nanos(facts.asked_ns.saturating_sub(t));
        let caught_up = self.samples.caught_up(here);
        let time = caught_up.or(self.samples.oldest()).map(since).filter(|_| since(sampled_ns) <= RECENT);
        watched.lag = Lag { caught_up_ns: caught_up.unwrap_or(0), bytes: Some(head.bytes_since(here)), time };
        watched.fresh.set(watched.lag.caught_up_ns);
    }

    pub(super) fn carry_out(&mut self, now_ns: u64, actions: Vec<Action>) {
        for action in actions {
            match action {
                // The monitor seats whoever has no seat yet.
                Action::Discovered(_) => {}
                Action::ForgetPositions => {
                    self.samples = SampleRing::new(SAMPLES);
                    for node in &mut self.nodes {
                        node.forget_position();
                        node.turn.want(now_ns);
                    }
                }
                Action::Look => {
                    self.look = true;
                    self.schedule.hurry(now_ns);
                    self.nodes.iter_mut().for_each(|node| node.turn.want_for_doubt(now_ns));
                }
                Action::Served { gap, changed } => self.events.count_served(&self.conf.name, gap, changed),
                Action::Report { node, event, detail } => {
                    let name = node.and_then(|node| self.plan.node(node)).map_or("", |(_, name)| name);
                    self.events.record(&self.conf.name, self.plan.epoch(), event, name, &detail);
                }
                Action::ReportPlanned { node, event, detail } => {
                    let name = self.plan.node(node).map_or("", |(_, name)| name);
                    self.events.record_planned(&self.conf.name, self.plan.epoch(), event, name, &detail);
                }
            }
        }
    }

    /// Lets a node go that has left for good; the answer is its id.
    pub(super) fn forget_one(&mut self, now_ns: u64) -> Option<u64> {
        // Both lists have to be of one length, or their indexes would part.
        let node = (self.nodes.len() == self.plan.standings().len()).then(|| self.plan.forget_one(now_ns))??;
        let gone = self.nodes.remove(node);
        let (epoch, address) = (self.plan.epoch(), gone.address.to_string());
        self.events.record(&self.conf.name, epoch, "node_removed", &address, "no Sentinel lists it any more");
        Some(gone.id)
    }

    /// Takes over what has to outlive a reload.
    pub(super) fn succeed(&mut self, old: &Watched) {
        self.plan.succeed(&old.plan);
        self.weights = old.weights.clone();
        self.weights.extend(old.nodes.iter().map(|node| (node.address.clone(), node.weight)));
    }

    /// Keeps rounds fast while something is going on.
    pub(super) fn pace(&mut self, now_ns: u64) {
        if !self.plan.is_unsettled() {
            self.unsettled_since_ns = None;
            return;
        }
        let since = *self.unsettled_since_ns.get_or_insert(now_ns);
        if Duration::from_nanos(now_ns.saturating_sub(since)) < CLOSELY {
            self.schedule.hurry(now_ns);
        }
    }

    /// Works out again what each node may be used for.
    pub(super) fn refresh(&mut self) {
        let limits = Limits { time: self.conf.max_lag, bytes: None };
        for (n, (node, standing)) in self.nodes.iter_mut().zip(self.plan.standings()).enumerate() {
            if (standing.role, standing.state) != (node.standing.role, node.standing.state) {
                node.last_change = SystemTime::now();
            }
            if !matches!(standing.state, State::Up | State::Draining) {
                node.forget_position();
            }
            let was_fit = node.unfit.is_none();
            node.unfit = unlinked(&self.plan, n).or_else(|| limits.refusal(&node.lag, was_fit));
            node.standing = standing;
        }
    }

    /// Whether a probe of each node may wait for the primary's answer.
    pub(super) fn waits_for_primary(&self) -> Vec<bool> {
        let has_primary = self.plan.primary().is_some();
        self.nodes.iter().map(|node| has_primary && node.standing.role == Role::Replica).collect()
    }

    pub(super) fn view(&self) -> ServiceView {
        ServiceView {
            name: self.conf.name.clone(),
            epoch: self.plan.epoch(),
            primary: self.plan.primary(),
            nodes: (self.nodes.iter().enumerate())
                .filter_map(|(n, node)| Some(node.view(self.plan.node(n)?.1)))
                .collect(),
            reason: self.plan.reason(),
            paused: self.plan.paused().map(str::to_owned),
            wanted_fresh: Arc::clone(&self.wanted_fresh),
        }
    }

    pub(super) fn insight(&self) -> Insight {
        let sentinels = self.plan.sentinels().map(|(address, configured, said)| SentinelSeen {
            address: address.clone(),
            configured,
            said: said.cloned().map_err(str::to_owned),
        });
        Insight {
            service: self.conf.name.clone(),
            sentinels: sentinels.collect(),
            configured: self.plan.configured(),
            heard: self.plan.heard_configured(),
            majority: self.plan.majority(),
            settings: self.nodes.iter().map(|node| Some(node.answer.as_ref()?.settings.clone())).collect(),
        }
    }

    /// A node by `redis1`, `service.redis1`, or `host:port`.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        let own = name.strip_prefix(self.conf.name.as_str()).and_then(|rest| rest.strip_prefix('.'));
        let address = Address::parse(name, DEFAULT_PORT).filter(|_| name.contains(':'));
        (0..self.nodes.len()).find(|&node| {
            self.plan
                .node(node)
                .is_some_and(|(at, called)| called == name || own == Some(called) || address.as_ref() == Some(at))
        })
    }
}

/// Why a replica holds something else than what the primary sends it.
fn unlinked(plan: &Plan, node: usize) -> Option<String> {
    let facts = plan.facts(node)?;
    let Says::Replica { upstream, linked } = &facts.says else { return None };
    if !linked {
        return Some(format!("its link to {upstream} is down"));
    }
    let Some(replid) = plan.replid() else { return Some("the primary's history is not known".to_owned()) };
    if facts.replid.as_deref() != Some(replid) {
        return Some("it follows another history than the primary's".to_owned());
    }
    plan.listed_trouble(node)
}

impl WatchedNode {
    fn view(&self, name: &str) -> RedisNode {
        let serves = self.standing.role == Role::Replica && self.standing.state == State::Up;
        let mut reason = self.standing.reason.clone();
        if let (true, true, Some(why)) = (reason.is_empty(), serves, &self.unfit) {
            reason.clone_from(why);
        }
        let answer = self.answer.as_ref();
        RedisNode {
            id: self.id,
            name: name.to_owned(),
            host: self.address.host.clone(),
            port: self.address.port,
            weight: self.weight,
            role: self.standing.role,
            state: self.standing.state,
            lag_bytes: self.lag.bytes,
            lag_ms: self.lag.time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            position: answer.map(|answer| answer.facts.offset),
            last_change: self.last_change,
            reason,
            fit_for_reads: serves && self.unfit.is_none() && self.weight > 0,
            round_trip: answer.map(|answer| answer.round_trip),
            fresh: Arc::clone(&self.fresh),
            suspicion: Arc::clone(&self.suspicion),
            health: self.health.clone(),
        }
    }

    /// What `SHOW POOL_HEALTH_CHECK_STATS` and a planned change need of the last answer.
    pub(super) fn answer(&self) -> Option<&Answer> {
        self.answer.as_ref()
    }

    /// Why it is not read from.
    pub(super) fn unfit(&self) -> Option<&str> {
        self.unfit.as_deref()
    }
}
