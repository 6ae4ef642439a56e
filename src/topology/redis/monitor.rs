//! The one task that watches all Redis services: asks, decides, publishes.
//!
//! It owns every [`Watched`] service; each node and each Sentinel has tasks of its own that own the connections, so
//! that one that hangs delays nobody. Runs on the control runtime and stops with its last [`RedisMonitorHandle`].

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

use super::address::Address;
use super::link::Meeting;
use super::model::{RedisNode, RedisSnapshot, ServiceView};
use super::node::Prober;
use super::plan::{Input, Order};
use super::sentinel::{Follower, Post, Told};
use super::service::{Insight, Report, UNWEIGHED, Watched, WatchedNode};
use super::switchover::Course;
use crate::config::model::RedisService;
use crate::topology::aside::Aside;
use crate::topology::events::EventLog;
use crate::topology::plan::Hold;
use crate::topology::store::{Kind, Store, Weight};
use crate::worker::clock::now_ns;

mod handle;

pub(super) use handle::Command;
pub use handle::RedisMonitorHandle;

/// Starts the watch, see [`RedisMonitor::start`].
pub struct RedisMonitor {
    services: Vec<Watched>,
    probers: HashMap<u64, ProberTask>,
    followers: HashMap<u64, Follower>,
    last_id: u64,
    reports: mpsc::UnboundedSender<Report>,
    tellings: mpsc::UnboundedSender<(u64, Told)>,
    store: Store,
    aside: Aside,
    events: EventLog,
    wake: Arc<Notify>,
    publish: Box<dyn Fn(Arc<RedisSnapshot>)>,
    published: Arc<RedisSnapshot>,
    current: Arc<ArcSwap<RedisSnapshot>>,
    insights: Arc<ArcSwap<Vec<Insight>>>,
}

/// A node's own task; ends with this.
struct ProberTask {
    ask: Arc<Notify>,
    task: AbortHandle,
}

impl Drop for ProberTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the monitor's task waits for.
struct Inbox {
    reports: mpsc::UnboundedReceiver<Report>,
    tellings: mpsc::UnboundedReceiver<(u64, Told)>,
    commands: mpsc::UnboundedReceiver<Command>,
}

impl RedisMonitor {
    /// Starts to watch `services`, with admins' orders kept in `state_dir`.
    ///
    /// `publish` is called at once with every node unknown, and then with each change that matters to routing (not
    /// for offsets, lags and counters alone: those are in [`RedisMonitorHandle::snapshot`]). It runs on this thread
    /// and must not block. Must be called where `tokio::task::spawn_local` works.
    pub fn start(
        services: &[RedisService],
        state_dir: &Path,
        publish: impl Fn(Arc<RedisSnapshot>) + 'static,
        events: EventLog,
    ) -> RedisMonitorHandle {
        let (reports, ended) = mpsc::unbounded_channel();
        let (tellings, told) = mpsc::unbounded_channel();
        let (commands, ordered) = mpsc::unbounded_channel();
        let empty = Arc::new(RedisSnapshot::default());
        let aside = Aside::default();
        let mut monitor = Self {
            services: Vec::new(),
            probers: HashMap::new(),
            followers: HashMap::new(),
            last_id: 0,
            reports,
            tellings,
            store: Store::open(state_dir, Kind::Redis, &events).yielding(aside.clone()),
            aside,
            events,
            wake: Arc::default(),
            publish: Box::new(publish),
            published: Arc::clone(&empty),
            current: Arc::new(ArcSwap::new(empty)),
            insights: Arc::default(),
        };
        for conf in services {
            let watched = monitor.watch(conf);
            monitor.tell_of_kept(&watched);
            monitor.services.push(watched);
        }
        monitor.show();
        let handle = RedisMonitorHandle::new(Arc::clone(&monitor.current), Arc::clone(&monitor.insights), commands);
        tokio::task::spawn_local(monitor.run(Inbox { reports: ended, tellings: told, commands: ordered }));
        handle
    }

    async fn run(mut self, mut inbox: Inbox) {
        let wake = Arc::clone(&self.wake);
        loop {
            let next = self.ask_whoever_is_due(now_ns());
            let pause = Duration::from_nanos(next.saturating_sub(now_ns()));
            tokio::select! {
                Some(report) = inbox.reports.recv() => self.take(report),
                Some((id, told)) = inbox.tellings.recv() => self.hear(id, told),
                command = inbox.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                () = wake.notified() => self.hurry(),
                () = tokio::time::sleep(pause) => {}
            }
            self.seat();
            self.show();
        }
    }

    /// Starts the probes that are due; the answer is when the next one will be.
    fn ask_whoever_is_due(&mut self, now_ns: u64) -> u64 {
        let mut next = u64::MAX;
        for service in &mut self.services {
            if now_ns >= service.schedule.next_round() {
                service.step(now_ns, Input::Tick);
                service.refresh();
                service.pace(now_ns);
                if let Some(gone) = service.forget_one(now_ns) {
                    self.probers.remove(&gone);
                }
                if service.wanted_fresh.take() {
                    service.schedule.hurry(now_ns);
                }
                let waits = service.waits_for_primary();
                let turns = service.nodes.iter_mut().map(|node| &mut node.turn);
                service.schedule.round(now_ns, turns.zip(waits));
            }
            if std::mem::take(&mut service.look) {
                let followers = service.sentinels.iter().filter_map(|id| self.followers.get(id));
                followers.for_each(Follower::hurry);
            }
            next = next.min(service.schedule.next_round());
            for node in &mut service.nodes {
                if node.turn.start(now_ns)
                    && let Some(prober) = self.probers.get(&node.id)
                {
                    prober.ask.notify_one();
                }
                next = next.min(node.turn.next());
            }
        }
        next
    }

    fn take(&mut self, report: Report) {
        let now_ns = now_ns();
        for service in &mut self.services {
            if let Some(node) = service.nodes.iter().position(|node| node.id == report.id) {
                service.take(now_ns, node, report);
                return;
            }
        }
    }

    fn hear(&mut self, id: u64, told: Told) {
        let now_ns = now_ns();
        let found = self.services.iter_mut().enumerate().find_map(|(s, service)| {
            let sentinel = service.sentinels.iter().position(|known| *known == id)?;
            Some((s, service, sentinel))
        });
        let Some((s, service, sentinel)) = found else { return };
        let mut unknown = Vec::new();
        match told {
            Told::Named { naming, others } => {
                let is_known = |address: &Address| service.plan.sentinels().any(|(known, _, _)| known == address);
                unknown = others.into_iter().filter(|address| !is_known(address)).collect();
                service.step(now_ns, Input::Named { sentinel, naming });
            }
            Told::Unheard { why, refused } => service.step(now_ns, Input::Unheard { sentinel, why, refused }),
            Told::Signed(sign) => service.step(now_ns, Input::Signed { sentinel, sign }),
        }
        service.refresh();
        for address in unknown {
            self.follow(s, address);
        }
    }

    /// Follows a Sentinel that another one has told of.
    fn follow(&mut self, service: usize, address: Address) {
        let Some(known) = self.services.get(service) else { return };
        let (conf, tls) = (known.conf.clone(), Meeting::clone(&known.meetings.sentinels));
        let id = self.start_follower(&conf, tls, address.clone());
        if let Some(service) = self.services.get_mut(service) {
            service.plan.add_sentinel(address, false);
            service.sentinels.push(id);
        }
    }

    fn hurry(&mut self) {
        let now_ns = now_ns();
        for service in self.services.iter_mut().filter(|service| service.wanted_fresh.is_raised()) {
            service.schedule.hurry(now_ns);
        }
    }

    fn obey(&mut self, command: Command) {
        // Whoever asked may have left; what was ordered is carried out all the same.
        match command {
            Command::Doubt { suspicion, why } => {
                let now_ns = now_ns();
                let nodes = self.services.iter_mut().flat_map(|service| &mut service.nodes);
                for node in nodes.filter(|node| Arc::ptr_eq(&node.suspicion, &suspicion)) {
                    tracing::debug!(node = %node.address, why, "doubted by the data path");
                    node.turn.want_for_doubt(now_ns);
                }
            }
            Command::Order { node, order, reply } => drop(reply.send(self.order(&node, order))),
            Command::Weigh { node, weight, by, reply } => drop(reply.send(self.weigh(&node, weight, &by))),
            Command::SetPaused { service, paused, by, reply } => {
                let _ = reply.send(self.set_paused(service.as_deref(), paused, &by));
            }
            Command::Reconfigure { services, reply } => {
                self.reconfigure(&services);
                self.show();
                let _ = reply.send(Ok(String::new()));
            }
            Command::StandAside { is_aside, reply } => drop(reply.send(self.stand_aside(is_aside))),
            Command::PlanSwitch { service, to, begun_by, reply } => {
                let (events, aside) = (self.events.clone(), self.aside.clone());
                let course = self.service(&service).and_then(|service| {
                    aside.check()?;
                    let course = Course::plan(service, to.as_deref())?;
                    if let Some(by) = begun_by {
                        service.plan.begin_switch();
                        service.schedule.hurry(now_ns());
                        let detail = format!("{}, by {by}", course.way());
                        events.record(&service.conf.name, service.plan.epoch(), "switchover_begun", "", &detail);
                    }
                    Ok(course)
                });
                let _ = reply.send(course);
            }
            Command::EndSwitch { service, promoted, told: (event, detail), reply } => {
                let ended = self.service(&service).map(|service| {
                    let place = |id: u64| service.nodes.iter().position(|node| node.id == id);
                    let promoted = promoted.and_then(|(id, facts)| Some((place(id)?, facts)));
                    let node = promoted.as_ref().and_then(|(node, _)| service.plan.node(*node));
                    let node = node.map_or(String::new(), |(_, name)| name.to_owned());
                    let now_ns = now_ns();
                    let actions = service.plan.end_switch(now_ns, promoted);
                    service.carry_out(now_ns, actions);
                    service.refresh();
                    (service.plan.epoch(), node)
                });
                let ended = ended.map(|(epoch, node)| self.events.record(&service, epoch, event, &node, &detail));
                // Whoever holds writes lets them go after this.
                self.show();
                let _ = reply.send(ended.map(|()| String::new()));
            }
        }
    }

    fn stand_aside(&mut self, is_aside: bool) -> Result<(), String> {
        let changing = self.services.iter().find(|service| service.plan.is_switching());
        if let Some(service) = changing.filter(|_| is_aside) {
            return Err(format!("a switchover of {} is under way", service.conf.name));
        }
        self.aside.set(is_aside);
        Ok(())
    }

    fn service(&mut self, name: &str) -> Result<&mut Watched, String> {
        let known: Vec<String> = self.services.iter().map(|service| service.conf.name.clone()).collect();
        let found = self.services.iter_mut().find(|service| service.conf.name == name);
        found.ok_or_else(|| format!("no Redis service \"{name}\"; there are {}", known.join(", ")))
    }

    fn order(&mut self, name: &str, order: Order) -> Result<String, String> {
        let (service, node) = self.find(name)?;
        let watched = self.services.get_mut(service).ok_or("no such service")?;
        let now_ns = now_ns();
        let mut plan = watched.plan.clone();
        let (told, actions) = plan.order(now_ns, node, order)?;
        if let Some((address, _)) = plan.node(node) {
            self.store.set_hold(&watched.conf.name, &address.host, address.port, plan.hold(node))?;
        }
        watched.plan = plan;
        watched.carry_out(now_ns, actions);
        watched.refresh();
        self.show();
        Ok(told)
    }

    fn weigh(&mut self, name: &str, weight: u32, by: &str) -> Result<String, String> {
        let (service, node) = self.find(name)?;
        let watched = self.services.get_mut(service).ok_or("no such service")?;
        let called = watched.plan.node(node).map_or(String::new(), |(_, name)| name.to_owned());
        let known = watched.nodes.get_mut(node).ok_or("no such node")?;
        let told = format!("{called} has weight {weight}, {} before", known.weight);
        let kept = (weight != UNWEIGHED).then_some(Weight { is: weight, instead_of: UNWEIGHED });
        self.store.set_weight(&watched.conf.name, &known.address.host, known.address.port, kept)?;
        known.weight = weight;
        watched.weights.insert(known.address.clone(), weight);
        let detail = format!("{told}, by {by}");
        self.events.record(&watched.conf.name, watched.plan.epoch(), "weight_set", &called, &detail);
        self.show();
        Ok(told)
    }

    /// `PAUSE` or `RESUME FAILOVER` of a service, or of all; the answer is which were not paused, or paused, before.
    fn set_paused(&mut self, service: Option<&str>, paused: bool, by: &str) -> Result<Vec<String>, String> {
        let now_ns = now_ns();
        let by_whom = paused.then_some(by);
        let mut changed = Vec::new();
        for (s, known) in self.services.iter().enumerate() {
            let is_meant = service.is_none_or(|name| known.conf.name == name);
            if is_meant && known.plan.paused().is_some() != paused {
                let mut plan = known.plan.clone();
                let actions = plan.set_paused(now_ns, by_whom.map(str::to_owned));
                changed.push((s, plan, actions.map_err(|why| format!("{}: {why}", known.conf.name))?));
            }
        }
        let name = |s: usize| self.services.get(s).map(|known| known.conf.name.clone());
        let names: Vec<String> = changed.iter().filter_map(|(s, _, _)| name(*s)).collect();
        self.store.set_paused(&names, by_whom)?;
        let event = if paused { "failover_paused" } else { "failover_resumed" };
        for (s, plan, actions) in changed {
            let Some(watched) = self.services.get_mut(s) else { continue };
            self.events.record(&watched.conf.name, plan.epoch(), event, "", &format!("by {by}"));
            watched.plan = plan;
            watched.carry_out(now_ns, actions);
            watched.refresh();
        }
        self.show();
        Ok(names)
    }

    /// A node by its name, where several services have one of that name by `service.name`, or by `host:port`.
    fn find(&self, name: &str) -> Result<(usize, usize), String> {
        let found: Vec<(usize, usize)> =
            self.services.iter().enumerate().filter_map(|(s, service)| Some((s, service.find(name)?))).collect();
        let full = |&(s, n): &(usize, usize)| {
            let service = self.services.get(s)?;
            Some(format!("{}.{}", service.conf.name, service.plan.node(n)?.1))
        };
        match found.as_slice() {
            &[one] => Ok(one),
            [] => {
                let every = self
                    .services
                    .iter()
                    .enumerate()
                    .flat_map(|(s, service)| (0..service.nodes.len()).map(move |n| (s, n)).collect::<Vec<_>>());
                let known: Vec<String> = every.filter_map(|place| full(&place)).collect();
                Err(format!("no node \"{name}\"; there are {}", known.join(", ")))
            }
            several => {
                let known: Vec<String> = several.iter().filter_map(full).collect();
                Err(format!("several nodes are called \"{name}\"; write {}", known.join(" or ")))
            }
        }
    }

    fn reconfigure(&mut self, services: &[RedisService]) {
        let mut old = std::mem::take(&mut self.services);
        for conf in services {
            let known = old.iter().position(|watched| watched.conf.name == conf.name && watched.survives(conf));
            let watched = match known {
                Some(known) => {
                    let mut watched = old.swap_remove(known);
                    watched.conf = conf.clone();
                    watched.meetings.update(conf);
                    watched.refresh();
                    watched
                }
                None => {
                    let mut watched = self.watch(conf);
                    if !old.iter().any(|watched| watched.conf.name == conf.name) {
                        self.tell_of_kept(&watched);
                    }
                    if let Some(old) = old.iter().find(|watched| watched.conf.name == conf.name) {
                        watched.succeed(old);
                        for node in &mut watched.nodes {
                            node.weight = watched.weights.get(&node.address).copied().unwrap_or(node.weight);
                        }
                    }
                    watched
                }
            };
            self.services.push(watched);
        }
        for gone in old {
            let replaced = self.services.iter().any(|service| service.conf.name == gone.conf.name);
            let (event, detail) = match replaced {
                true => ("service_restarted", "its Sentinels, nodes or passwords were changed by a reload"),
                false => ("service_removed", "by a reload"),
            };
            self.events.record(&gone.conf.name, gone.plan.epoch(), event, "", detail);
            gone.nodes.iter().for_each(|node| drop(self.probers.remove(&node.id)));
            gone.sentinels.iter().for_each(|id| drop(self.followers.remove(id)));
        }
        self.seat();
    }

    fn watch(&mut self, conf: &RedisService) -> Watched {
        let mut watched = Watched::new(conf, Arc::clone(&self.wake), self.events.clone());
        for kept in self.store.kept(&conf.name) {
            let address = Address::new(&kept.host, kept.port);
            watched.weights.extend(kept.weight.map(|weight| (address.clone(), weight.is)));
            if let Some(hold) = kept.hold {
                watched.plan.remember(address, hold);
            }
        }
        // Nothing is known yet that would be under way.
        let paused = watched.plan.set_paused(now_ns(), self.store.paused(&conf.name).map(str::to_owned));
        watched.carry_out(now_ns(), paused.unwrap_or_default());
        let sentinels: Vec<Address> = watched.plan.sentinels().map(|(address, _, _)| address.clone()).collect();
        let tls = Meeting::clone(&watched.meetings.sentinels);
        let follow = |address| self.start_follower(conf, Meeting::clone(&tls), address);
        watched.sentinels = sentinels.into_iter().map(follow).collect();
        self.seat_nodes(&mut watched);
        watched
    }

    /// What was ordered before a restart and is in force again.
    fn tell_of_kept(&self, watched: &Watched) {
        let service = &watched.conf.name;
        let record = |event, node: &str, by: &str| {
            self.events.record(service, watched.plan.epoch(), event, node, &format!("by {by}, before the restart"));
        };
        for kept in self.store.kept(service) {
            let address = Address::new(&kept.host, kept.port);
            // Names of nodes that Sentinels have to tell of are not known yet.
            let node = watched.plan.place(&address).and_then(|node| watched.plan.node(node));
            let node = node.map_or(address.to_string(), |(_, name)| name.to_owned());
            match &kept.hold {
                Some(Hold::Drain { by }) => record("node_draining", &node, by),
                Some(Hold::Detach { by }) => record("node_detached", &node, by),
                None => {}
            }
        }
        if let Some(by) = watched.plan.paused() {
            record("failover_paused", "", by);
        }
    }

    /// Gives a task to every node that a plan has come to know.
    fn seat(&mut self) {
        let mut services = std::mem::take(&mut self.services);
        services.iter_mut().for_each(|watched| self.seat_nodes(watched));
        self.services = services;
    }

    fn seat_nodes(&mut self, watched: &mut Watched) {
        let seated = watched.nodes.len();
        let mut n = seated;
        while let Some((address, _)) = watched.plan.node(n) {
            let address = address.clone();
            let tls = Meeting::clone(&watched.meetings.nodes);
            let id = self.hire(Prober::new(address.clone(), tls, watched.conf.auth.clone()));
            let mut node = WatchedNode::new(id, address);
            node.weight = watched.weights.get(&node.address).copied().unwrap_or(node.weight);
            node.turn.want(now_ns());
            watched.nodes.push(node);
            n += 1;
        }
        if n > seated {
            watched.refresh();
        }
    }

    fn start_follower(&mut self, conf: &RedisService, tls: Meeting, address: Address) -> u64 {
        self.last_id += 1;
        let post = Post {
            address,
            tls,
            password: conf.sentinel_password.clone(),
            primary_name: conf.master_name.clone().unwrap_or_default(),
        };
        self.followers.insert(self.last_id, Follower::start(self.last_id, post, self.tellings.clone()));
        self.last_id
    }

    /// Starts the task of a node.
    fn hire(&mut self, prober: Prober) -> u64 {
        self.last_id += 1;
        let ask = Arc::new(Notify::new());
        let task = tokio::spawn(answer_when_asked(self.last_id, prober, Arc::clone(&ask), self.reports.clone()));
        self.probers.insert(self.last_id, ProberTask { ask, task: task.abort_handle() });
        self.last_id
    }

    /// Puts up the present view, and publishes it if it matters to routing.
    fn show(&mut self) {
        self.insights.store(Arc::new(self.services.iter().map(Watched::insight).collect()));
        let services = self.services.iter().map(|service| Arc::new(service.view())).collect();
        let mut snapshot = RedisSnapshot { version: self.published.version, services };
        if routes_alike(&snapshot, &self.published) && self.published.version > 0 {
            self.current.store(Arc::new(snapshot));
            return;
        }
        snapshot.version += 1;
        let snapshot = Arc::new(snapshot);
        self.published = Arc::clone(&snapshot);
        self.current.store(Arc::clone(&snapshot));
        (self.publish)(snapshot);
    }
}

/// Whether both send every command to the same place: offsets, lags and counters do not matter.
fn routes_alike(a: &RedisSnapshot, b: &RedisSnapshot) -> bool {
    fn of_node(node: &RedisNode) -> impl PartialEq + '_ {
        let RedisNode { id, name, weight, role, state, fit_for_reads, .. } = node;
        (id, name, weight, role, state, fit_for_reads)
    }
    fn is_same(a: &ServiceView, b: &ServiceView) -> bool {
        (&a.name, a.epoch, a.primary, &a.reason, a.nodes.len())
            == (&b.name, b.epoch, b.primary, &b.reason, b.nodes.len())
            && Arc::ptr_eq(&a.wanted_fresh, &b.wanted_fresh)
            && a.nodes.iter().zip(&b.nodes).all(|(a, b)| of_node(a) == of_node(b))
    }
    a.services.len() == b.services.len() && a.services.iter().zip(&b.services).all(|(a, b)| is_same(a, b))
}

async fn answer_when_asked(id: u64, mut prober: Prober, ask: Arc<Notify>, reports: mpsc::UnboundedSender<Report>) {
    loop {
        ask.notified().await;
        let (started_ns, begun) = (now_ns(), Instant::now());
        let outcome = prober.probe().await;
        let report = Report { id, outcome, started_ns, took: begun.elapsed() };
        if reports.send(report).is_err() {
            return;
        }
    }
}
