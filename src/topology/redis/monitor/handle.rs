//! How the rest of the program talks to the monitor of the Redis nodes.

use arc_swap::ArcSwap;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

use crate::config::model::RedisService;
use crate::topology::model::{State, Suspicion};
use crate::topology::plan::Hold;
use crate::topology::redis::model::{HoldWrites, Planned, RedisSnapshot};
use crate::topology::redis::plan::{Facts, Order};
use crate::topology::redis::service::Insight;
use crate::topology::redis::switchover::{self, Course};
use crate::worker::clock::now_ns;

pub(in crate::topology::redis) type Reply<T> = oneshot::Sender<Result<T, String>>;

#[derive(Debug)]
pub(in crate::topology::redis) enum Command {
    Doubt { suspicion: Arc<Suspicion>, why: String },
    Order { node: String, order: Order, reply: Reply<String> },
    Weigh { node: String, weight: u32, by: String, reply: Reply<String> },
    SetPaused { service: Option<String>, paused: bool, by: String, reply: Reply<Vec<String>> },
    Reconfigure { services: Vec<RedisService>, reply: Reply<String> },
    StandAside { is_aside: bool, reply: Reply<()> },
    PlanSwitch { service: String, to: Option<String>, begun_by: Option<String>, reply: Reply<Course> },
    EndSwitch { service: String, promoted: Option<(u64, Facts)>, told: (&'static str, String), reply: Reply<String> },
}

/// Talks to the monitor from any thread. The monitor stops when the last one is dropped.
#[derive(Clone, Debug)]
pub struct RedisMonitorHandle {
    current: Arc<ArcSwap<RedisSnapshot>>,
    insights: Arc<ArcSwap<Vec<Insight>>>,
    commands: mpsc::UnboundedSender<Command>,
}

impl RedisMonitorHandle {
    pub(super) fn new(
        current: Arc<ArcSwap<RedisSnapshot>>,
        insights: Arc<ArcSwap<Vec<Insight>>>,
        commands: mpsc::UnboundedSender<Command>,
    ) -> Self {
        Self { current, insights, commands }
    }

    /// The present view, with offsets, lags and counters of the last probes.
    pub fn snapshot(&self) -> Arc<RedisSnapshot> {
        self.current.load_full()
    }

    /// What Sentinels and nodes told besides, in the order of the configuration.
    pub fn insights(&self) -> Arc<Vec<Insight>> {
        self.insights.load_full()
    }

    /// The data path saw an error of a node, or a role that is not the known one (`-READONLY`): it is probed at once,
    /// and counts as having seen no write until then. `node_id` is [`super::super::RedisNode::id`]; one that is not
    /// known any more is ignored.
    ///
    /// Never blocks. Probes for doubts are at least 20 ms apart, whatever is reported; a node that is known not to be
    /// in service is left to the ordinary rounds.
    pub fn suspect(&self, service: &str, node_id: u64, why: &str) {
        let snapshot = self.current.load();
        let view = snapshot.services.iter().find(|view| view.name == service);
        let node = view.and_then(|view| view.nodes.iter().find(|node| node.id == node_id));
        let Some(node) = node.filter(|node| matches!(node.state, State::Up | State::Draining)) else { return };
        let is_first = node.suspicion.raise(now_ns());
        node.fresh.set(0);
        if is_first {
            let doubt = Command::Doubt { suspicion: Arc::clone(&node.suspicion), why: why.to_owned() };
            // A monitor that has stopped has nobody to tell.
            let _ = self.commands.send(doubt);
        }
    }

    /// Whether an admin may mean a Redis node by this name.
    pub fn knows(&self, node: &str) -> bool {
        self.snapshot().services.iter().any(|service| {
            let own = node.strip_prefix(service.name.as_str()).and_then(|rest| rest.strip_prefix('.'));
            service.nodes.iter().any(|known| {
                known.name == node || own == Some(&known.name) || format!("{}:{}", known.host, known.port) == node
            })
        })
    }

    /// `DETACH NODE node`: out of service at once, and after a restart too. `by` is the admin's name.
    ///
    /// All orders answer with a sentence for the admin, or with the reason why nothing was changed. Nodes are called
    /// `redis1`, `service.redis1` where several services have one of that name, or by `host:port`.
    pub async fn detach(&self, node: &str, by: &str) -> Result<String, String> {
        self.order(node, Order::Hold(Hold::Detach { by: by.to_owned() })).await
    }

    /// `DRAIN NODE node`: running work may end, nothing new starts.
    pub async fn drain(&self, node: &str, by: &str) -> Result<String, String> {
        self.order(node, Order::Hold(Hold::Drain { by: by.to_owned() })).await
    }

    /// `ATTACH NODE node [FORCE]`: back into service. A node that says that it is the primary and was not accepted
    /// becomes the primary by force, and only while no other is in service.
    pub async fn attach(&self, node: &str, force: bool, by: &str) -> Result<String, String> {
        self.order(node, Order::Attach { force, by: by.to_owned() }).await
    }

    /// `PAUSE FAILOVER [service]` or `RESUME FAILOVER [service]`: while it is paused, no other primary is accepted and no
    /// sign heeded. The answer is the services to which that was news; none if there is no service of that name.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub async fn set_paused(&self, service: Option<&str>, paused: bool, by: &str) -> Result<Vec<String>, String> {
        let (service, by) = (service.map(str::to_owned), by.to_owned());
        self.send(|reply| Command::SetPaused { service, paused, by, reply }).await
    }

    /// `SET WEIGHT node = n`: over restarts too.
    pub async fn set_weight(&self, node: &str, weight: u32, by: &str) -> Result<String, String> {
        let (node, by) = (node.to_owned(), by.to_owned());
        self.send(|reply| Command::Weigh { node, weight, by, reply }).await
    }

    /// Takes a reloaded configuration; returns when the new view has been given out. A service whose Sentinels, nodes
    /// and passwords are the same keeps what is known of it.
    pub async fn reconfigure(&self, services: &[RedisService]) {
        let services = services.to_vec();
        // Without a monitor there is nothing to change.
        let _ = self.send(|reply| Command::Reconfigure { services, reply }).await;
    }

    /// From here on another process of this instance takes admins' orders: this one follows the nodes, and writes nothing
    /// into its state folder. `false` takes that back.
    ///
    /// # Errors
    /// A switchover is under way, and must not be left half done.
    pub async fn stand_aside(&self, is_aside: bool) -> Result<(), String> {
        self.send(|reply| Command::StandAside { is_aside, reply }).await
    }

    /// `SWITCHOVER service [TO node]`: makes a replica the primary while clients only wait, see [`switchover`].
    ///
    /// # Errors
    /// Why it was refused or given up; the old primary is in service then, unless the text says otherwise. Not
    /// cancelled when dropped: what has begun is brought to one of its ends.
    pub async fn switchover(
        &self,
        service: &str,
        planned: Planned,
        by: &str,
        hold: Arc<dyn HoldWrites>,
    ) -> Result<String, String> {
        let (service, by) = (service.to_owned(), by.to_owned());
        let begun_by = (!planned.dry_run).then(|| by.clone());
        let (of, to) = (service.clone(), planned.to.clone());
        let course = self.send(|reply| Command::PlanSwitch { service: of, to, begun_by, reply }).await?;
        if planned.dry_run {
            return Ok(course.promise());
        }
        let run = tokio::spawn(switchover::run(self.clone(), service, course, planned, by, hold));
        run.await.unwrap_or_else(|_| Err("the switchover broke off".to_owned()))
    }

    pub(in crate::topology::redis) async fn end_switch(
        &self,
        service: &str,
        promoted: Option<(u64, Facts)>,
        told: (&'static str, String),
    ) -> Result<String, String> {
        let service = service.to_owned();
        self.send(|reply| Command::EndSwitch { service, promoted, told, reply }).await
    }

    async fn order(&self, node: &str, order: Order) -> Result<String, String> {
        self.send(|reply| Command::Order { node: node.to_owned(), order, reply }).await
    }

    async fn send<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, String> {
        let (reply, answer) = oneshot::channel();
        let stopped = || "the monitor of the Redis nodes has stopped".to_owned();
        self.commands.send(command(reply)).map_err(|_| stopped())?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }
}
