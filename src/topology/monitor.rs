//! The one task that watches all PostgreSQL nodes: asks, decides, publishes.
//!
//! It owns every [`Watched`] cluster; each node has a task of its own that owns the session to it, so that a node
//! that hangs delays nobody. Runs on the control runtime and stops with its last [`MonitorHandle`].

use std::collections::HashMap;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use crate::config::model::{Cluster, Postgres};

use super::aside::Aside;
use super::clock::now_ns;
use super::cluster::{Report, Watched, WatchedNode, target};
use super::coordination::{Coordination, View};
use super::events::EventLog;
use super::failover::heart::{self, Beat};
use super::model::{Snapshot, Workers};
use super::plan::{Hold, Order};
use super::probe::{Prober, Target};
use super::store::{Kind, Store, Weight};

mod changes;
mod handle;
mod ordered;
mod together;

use changes::Changes;
use handle::Command;
pub use handle::MonitorHandle;
pub use ordered::Change;

/// Starts the watch, see [`Monitor::start`].
pub struct Monitor {
    clusters: Vec<Watched>,
    probers: HashMap<u64, ProberTask>,
    last_id: u64,
    reports: mpsc::UnboundedSender<Report>,
    store: Store,
    aside: Aside,
    state_dir: PathBuf,
    /// By cluster.
    changes: HashMap<String, Changes>,
    commands: mpsc::WeakUnboundedSender<Command>,
    workers: Arc<dyn Workers>,
    coordination: Option<Coordination>,
    beats: mpsc::UnboundedSender<Beat>,
    events: EventLog,
    wake: Arc<Notify>,
    publish: Box<dyn Fn(Arc<Snapshot>)>,
    published: Arc<Snapshot>,
    current: Arc<ArcSwap<Snapshot>>,
    /// Tasks that wait until what they have told is published.
    heeded: Vec<oneshot::Sender<()>>,
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

impl Monitor {
    /// Starts to watch the clusters of `config`, with admins' orders about nodes kept in `state_dir`.
    ///
    /// `publish` is called at once with every node unknown, and then with each change that matters to routing (not
    /// for positions, lags and counters alone: those are in [`MonitorHandle::snapshot`]). It runs on this thread
    /// and must not block. With `coordination` nothing is decided without the other instances. `workers` are the data threads, which may begin later. Must be called where
    /// `tokio::task::spawn_local` works.
    pub fn start(
        config: &Postgres,
        state_dir: &Path,
        publish: impl Fn(Arc<Snapshot>) + 'static,
        workers: Arc<dyn Workers>,
        coordination: Option<Coordination>,
        events: EventLog,
    ) -> MonitorHandle {
        let aside = Aside::default();
        let store = Store::open(state_dir, Kind::Postgres, &events).yielding(aside.clone());
        let (reports, ended) = mpsc::unbounded_channel();
        let (commands, ordered) = mpsc::unbounded_channel();
        let (beats, felt) = mpsc::unbounded_channel();
        let empty = Arc::new(Snapshot { version: 0, clusters: Vec::new() });
        let mut monitor = Self {
            clusters: Vec::new(),
            probers: HashMap::new(),
            last_id: 0,
            reports,
            store,
            aside,
            state_dir: state_dir.to_owned(),
            changes: HashMap::new(),
            commands: commands.downgrade(),
            workers,
            coordination,
            beats,
            events,
            wake: Arc::default(),
            publish: Box::new(publish),
            published: Arc::clone(&empty),
            current: Arc::new(ArcSwap::new(empty)),
            heeded: Vec::new(),
        };
        monitor.clusters = config.clusters.iter().map(|conf| monitor.watch(config, conf)).collect();
        for (watched, conf) in monitor.take_clusters().into_iter().zip(&config.clusters) {
            let mut watched = monitor.seat(watched, config, conf);
            monitor.begin_changes(&mut watched, config);
            monitor.clusters.push(watched);
        }
        monitor.show();
        let handle = MonitorHandle::new(Arc::clone(&monitor.current), commands);
        tokio::task::spawn_local(monitor.run(ended, ordered, felt));
        handle
    }

    /// A number for the instance with this state folder on this machine, the same after a restart.
    pub fn instance(state_dir: &Path) -> u64 {
        u64::try_from(heart::instance(state_dir)).unwrap_or_default()
    }

    async fn run(
        mut self,
        mut ended: mpsc::UnboundedReceiver<Report>,
        mut ordered: mpsc::UnboundedReceiver<Command>,
        mut felt: mpsc::UnboundedReceiver<Beat>,
    ) {
        let wake = Arc::clone(&self.wake);
        let mut others = self.coordination.as_ref().map(Coordination::watch);
        loop {
            let next = self.ask_whoever_is_due(now_ns());
            let pause = Duration::from_nanos(next.saturating_sub(now_ns()));
            tokio::select! {
                Some(report) = ended.recv() => self.take(report),
                Some(beat) = felt.recv() => self.take_beat(&beat),
                command = ordered.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                () = wake.notified() => self.hurry(),
                () = changed(&mut others) => {}
                () = tokio::time::sleep(pause) => {}
            }
            self.look_for_changes();
            self.show();
            // Those who wait for what has just been published.
            for done in self.heeded.drain(..) {
                let _ = done.send(());
            }
        }
    }

    /// Starts the probes that are due; the answer is when the next one will be.
    fn ask_whoever_is_due(&mut self, now_ns: u64) -> u64 {
        let mut next = u64::MAX;
        for cluster in &mut self.clusters {
            if now_ns >= cluster.schedule.next_round() {
                if cluster.wanted_fresh.take() {
                    cluster.schedule.hurry(now_ns);
                }
                let waits = cluster.waits_for_primary();
                let turns = cluster.nodes.iter_mut().map(|node| &mut node.turn);
                cluster.schedule.round(now_ns, turns.zip(waits));
            }
            next = next.min(cluster.schedule.next_round());
            for node in &mut cluster.nodes {
                if node.starts(now_ns)
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
        for cluster in &mut self.clusters {
            if let Some(node) = cluster.nodes.iter().position(|node| node.id == report.id) {
                cluster.take(now_ns, node, report);
                self.workers.freshened();
                return;
            }
        }
    }

    fn hurry(&mut self) {
        let now_ns = now_ns();
        for cluster in &mut self.clusters {
            if cluster.wanted_fresh.is_raised() {
                cluster.schedule.hurry(now_ns);
            }
            let is_silent = cluster.detector.is_in_doubt();
            for node in cluster.nodes.iter_mut().filter(|node| node.acknowledged.is_wanted() && !is_silent) {
                node.turn.want_for_position(now_ns);
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Doubt { suspicion, why } => {
                let now_ns = now_ns();
                let nodes = self.clusters.iter_mut().flat_map(|cluster| &mut cluster.nodes);
                for node in nodes.filter(|node| Arc::ptr_eq(&node.suspicion, &suspicion)) {
                    tracing::debug!(node = node.conf.name, why, "doubted by the data path");
                    node.turn.want_for_doubt(now_ns);
                }
            }
            Command::Order { node, order, reply } => {
                // Whoever asked may have left; the order is carried out all the same.
                let _ = reply.send(self.order(&node, order));
            }
            Command::Weigh { node, weight, by, reply } => {
                let _ = reply.send(self.weigh(&node, weight, &by));
            }
            Command::Consider { change, reply } => self.consider(change, reply),
            Command::Change { change, seen, reply } => self.change(&change, seen, reply),
            Command::InDoubt { cluster } => self.take_doubt(&cluster),
            Command::Looked { cluster, seen } => self.take_seen(&cluster, seen),
            Command::Notice { cluster, notice, done } => {
                self.heed(&cluster, notice);
                self.heeded.push(done);
            }
            Command::SetPaused { cluster, paused, by, reply } => {
                let _ = reply.send(self.set_paused(cluster.as_deref(), paused, &by));
            }
            Command::Reconfigure { config, reply } => {
                self.reconfigure(&config);
                let _ = reply.send(Ok(String::new()));
            }
            Command::StandAside { is_aside, config, reply } => {
                let _ = reply.send(self.stand_aside(is_aside, &config));
            }
        }
    }

    fn order(&mut self, name: &str, order: Order) -> Result<String, String> {
        let (cluster, node) = self.find(name)?;
        let watched = self.clusters.get_mut(cluster).ok_or("no such cluster")?;
        let now_ns = now_ns();
        let mut plan = watched.plan.clone();
        let (told, actions) = plan.order(now_ns, node, order)?;
        if let Some(conf) = watched.nodes.get(node).map(|node| &node.conf) {
            self.store.set_hold(&watched.name, &conf.host, conf.port, plan.hold(node))?;
        }
        watched.plan = plan;
        watched.carry_out(now_ns, actions);
        watched.refresh();
        Ok(told)
    }

    fn weigh(&mut self, name: &str, weight: u32, by: &str) -> Result<String, String> {
        let (cluster, node) = self.find(name)?;
        let watched = self.clusters.get_mut(cluster).ok_or("no such cluster")?;
        let node = watched.nodes.get_mut(node).ok_or("no such node")?;
        let told = format!("{} has weight {weight}, {} before", node.conf.name, node.weight);
        let instead_of = node.conf.weight;
        let kept = (weight != instead_of).then_some(Weight { is: weight, instead_of });
        self.store.set_weight(&watched.name, &node.conf.host, node.conf.port, kept)?;
        node.weight = weight;
        let detail = format!("{told}, by {by}");
        self.events.record(&watched.name, watched.plan.epoch(), "weight_set", &node.conf.name, &detail);
        Ok(told)
    }

    /// `PAUSE` or `RESUME FAILOVER` of a cluster, or of all; the answer is which were not paused, or paused, before.
    fn set_paused(&mut self, cluster: Option<&str>, paused: bool, by: &str) -> Result<Vec<String>, String> {
        let is_meant = |known: &&mut Watched| {
            cluster.is_none_or(|name| known.name == name) && known.plan.paused().is_some() != paused
        };
        let names: Vec<String> = self.clusters.iter_mut().filter(is_meant).map(|known| known.name.clone()).collect();
        let by_whom = paused.then_some(by);
        self.store.set_paused(&names, by_whom)?;
        let event = if paused { "failover_paused" } else { "failover_resumed" };
        for watched in self.clusters.iter_mut().filter(|known| names.contains(&known.name)) {
            self.events.record(&watched.name, watched.plan.epoch(), event, "", &format!("by {by}"));
            let now_ns = now_ns();
            let actions = watched.plan.set_paused(now_ns, by_whom.map(str::to_owned));
            watched.carry_out(now_ns, actions);
            watched.refresh();
        }
        self.show();
        Ok(names)
    }

    /// A node by `name`, or by `cluster.name` where several clusters have one of that name.
    fn find(&self, name: &str) -> Result<(usize, usize), String> {
        let mut found = Vec::new();
        let mut known = Vec::new();
        for (c, cluster) in self.clusters.iter().enumerate() {
            for (n, node) in cluster.nodes.iter().enumerate() {
                let full = format!("{}.{}", cluster.name, node.conf.name);
                if full == name {
                    return Ok((c, n));
                }
                if node.conf.name == name {
                    found.push((c, n));
                }
                known.push(full);
            }
        }
        match found.as_slice() {
            &[one] => Ok(one),
            [] => Err(format!("no node \"{name}\"; there are {}", known.join(", "))),
            _ => {
                known.retain(|full| full.strip_suffix(name).is_some_and(|rest| rest.ends_with('.')));
                Err(format!("several nodes are called \"{name}\"; write {}", known.join(" or ")))
            }
        }
    }

    fn stand_aside(&mut self, is_aside: bool, config: &Postgres) -> Result<(), String> {
        let changing = self.clusters.iter().find_map(|watched| Some((&watched.name, watched.plan.closed()?)));
        if let Some((cluster, why)) = changing.filter(|_| is_aside) {
            return Err(format!("a change of the primary of {cluster} is under way: {why}"));
        }
        self.aside.set(is_aside);
        if let Some(others) = &self.coordination {
            others.stand_aside(is_aside);
        }
        self.reconfigure(config);
        Ok(())
    }

    fn reconfigure(&mut self, config: &Postgres) {
        let config = &*self.aside.apply(config);
        let mut old = self.take_clusters();
        for conf in &config.clusters {
            let known = old.iter().position(|cluster| cluster.name == conf.name);
            let watched = match known {
                Some(known) => old.swap_remove(known),
                None => self.watch(config, conf),
            };
            let mut watched = self.seat(watched, config, conf);
            if known.is_none() {
                self.begin_changes(&mut watched, config);
            }
            self.clusters.push(watched);
        }
        for cluster in old {
            self.events.record(&cluster.name, cluster.plan.epoch(), "cluster_removed", "", "by a reload");
            cluster.nodes.iter().for_each(|node| self.dismiss(node));
        }
        self.reconfigure_changes(config);
    }

    fn take_clusters(&mut self) -> Vec<Watched> {
        std::mem::take(&mut self.clusters)
    }

    fn watch(&self, config: &Postgres, conf: &Cluster) -> Watched {
        let mut watched = Watched::new(config, conf, Arc::clone(&self.wake), self.events.clone());
        if let Some(by) = self.store.paused(&conf.name) {
            self.events.record(&conf.name, 0, "failover_paused", "", &format!("by {by}, before the restart"));
            let actions = watched.plan.set_paused(now_ns(), Some(by.to_owned()));
            watched.carry_out(now_ns(), actions);
        }
        watched
    }

    /// Gives a cluster the nodes of `conf`. A server that was there before, by host and port, keeps what is known
    /// of it, and its weight unless the file's has changed.
    fn seat(&mut self, mut watched: Watched, config: &Postgres, conf: &Cluster) -> Watched {
        let is_new = watched.nodes.is_empty();
        let mut old: Vec<Option<WatchedNode>> = std::mem::take(&mut watched.nodes).into_iter().map(Some).collect();
        let mut from = Vec::new();
        for node in &conf.nodes {
            let target = target(conf, node, config.failover.check_timeout);
            let is_same = |known: &WatchedNode| (&known.conf.host, known.conf.port) == (&node.host, node.port);
            let place = old.iter().position(|slot| slot.as_ref().is_some_and(is_same));
            from.push(place);
            let known = place.and_then(|place| old.get_mut(place)?.take());
            let seated = match known {
                Some(known) if known.target == target => known.renamed(node),
                Some(known) => {
                    self.dismiss(&known);
                    let id = self.hire(target.clone());
                    known.renamed(node).asked_anew(id, target)
                }
                None => {
                    let id = self.hire(target.clone());
                    if !is_new {
                        let epoch = watched.plan.epoch();
                        self.events.record(&watched.name, epoch, "node_added", &node.name, "by a reload");
                    }
                    WatchedNode::new(id, node, target, Arc::clone(&self.wake))
                }
            };
            watched.nodes.push(seated);
        }
        watched.reconfigure(now_ns(), config, conf, &from);
        for gone in old.into_iter().flatten() {
            self.events.record(&watched.name, watched.plan.epoch(), "node_removed", &gone.conf.name, "by a reload");
            self.dismiss(&gone);
        }
        for (place, _) in from.iter().enumerate().filter(|(_, known)| known.is_none()) {
            let held = watched
                .nodes
                .get(place)
                .and_then(|node| self.store.hold(&watched.name, &node.conf.host, node.conf.port));
            if let Some(hold) = held {
                self.resume(&mut watched, place, hold);
            }
        }
        self.weigh_again(&mut watched);
        watched.refresh();
        watched
    }

    /// Gives nodes the weights that were ordered, unless the file has brought another since.
    fn weigh_again(&mut self, watched: &mut Watched) {
        for node in &mut watched.nodes {
            let (host, port) = (&node.conf.host, node.conf.port);
            match self.store.weight(&watched.name, host, port) {
                Some(ordered) if ordered.instead_of == node.conf.weight => node.weight = ordered.is,
                Some(_) => {
                    if let Err(error) = self.store.set_weight(&watched.name, host, port, None) {
                        tracing::warn!(node = node.conf.name, error, "an order that is void could not be forgotten");
                    }
                }
                None => {}
            }
        }
    }

    fn resume(&self, watched: &mut Watched, place: usize, hold: Hold) {
        let name = watched.nodes.get(place).map_or("", |node| &node.conf.name);
        let (event, by) = match &hold {
            Hold::Drain { by } => ("node_draining", by),
            Hold::Detach { by } => ("node_detached", by),
        };
        self.events.record(&watched.name, watched.plan.epoch(), event, name, &format!("by {by}, before the restart"));
        watched.plan.resume(place, hold);
    }

    /// Starts the task of a node.
    fn hire(&mut self, target: Target) -> u64 {
        self.last_id += 1;
        let ask = Arc::new(Notify::new());
        let task = tokio::spawn(answer_when_asked(self.last_id, target, Arc::clone(&ask), self.reports.clone()));
        self.probers.insert(self.last_id, ProberTask { ask, task: task.abort_handle() });
        self.last_id
    }

    fn dismiss(&mut self, node: &WatchedNode) {
        self.probers.remove(&node.id);
    }

    /// Puts up the present view, and publishes it if it matters to routing.
    fn show(&mut self) {
        let clusters = self.clusters.iter().map(|cluster| Arc::new(cluster.view())).collect();
        let mut snapshot = Snapshot { version: self.published.version, clusters };
        if snapshot.routes_like(&self.published) && self.published.version > 0 {
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

/// Returns when something that the instances share has changed; never if there is only this one.
async fn changed(others: &mut Option<watch::Receiver<Arc<View>>>) {
    let is_over = match others {
        Some(others) => others.changed().await.is_err(),
        None => true,
    };
    if is_over {
        pending::<()>().await;
    }
}

async fn answer_when_asked(id: u64, target: Target, ask: Arc<Notify>, reports: mpsc::UnboundedSender<Report>) {
    let mut prober = Prober::new(target);
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
