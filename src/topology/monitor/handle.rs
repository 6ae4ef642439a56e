//! How the rest of the program talks to the monitor.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

use crate::config::model::Postgres;

use super::ordered::Change;
use crate::topology::clock::now_ns;
use crate::topology::failover::conductor::Notice;
use crate::topology::failover::managers::Seen;
use crate::topology::model::{Snapshot, State, Suspicion};
use crate::topology::plan::{Hold, Order};

pub(super) type Reply<T = String> = oneshot::Sender<Result<T, String>>;

#[derive(Debug)]
pub(super) enum Command {
    Doubt {
        suspicion: Arc<Suspicion>,
        why: String,
    },
    Order {
        node: String,
        order: Order,
        reply: Reply,
    },
    Weigh {
        node: String,
        weight: u32,
        by: String,
        reply: Reply,
    },
    SetPaused {
        cluster: Option<String>,
        paused: bool,
        by: String,
        reply: Reply<Vec<String>>,
    },
    Reconfigure {
        config: Box<Postgres>,
        reply: Reply,
    },
    StandAside {
        is_aside: bool,
        config: Box<Postgres>,
        reply: Reply<()>,
    },
    /// An admin's order, before the nodes were looked at for other managers.
    Consider {
        change: Change,
        reply: Reply,
    },
    /// The same afterwards.
    Change {
        change: Change,
        seen: Seen,
        reply: Reply,
    },
    /// A client waits to hear what became of its COMMIT.
    InDoubt {
        cluster: String,
    },
    /// The nodes of a cluster were looked at for other managers.
    Looked {
        cluster: String,
        seen: Seen,
    },
    /// What the task of a cluster's primary has decided; answered when it is published.
    Notice {
        cluster: String,
        notice: Notice,
        done: oneshot::Sender<()>,
    },
}

/// Talks to the monitor from any thread. The monitor stops when the last one is dropped.
#[derive(Clone, Debug)]
pub struct MonitorHandle {
    current: Arc<ArcSwap<Snapshot>>,
    commands: mpsc::UnboundedSender<Command>,
}

impl MonitorHandle {
    pub(super) fn new(current: Arc<ArcSwap<Snapshot>>, commands: mpsc::UnboundedSender<Command>) -> Self {
        Self { current, commands }
    }

    /// The present view, with positions, lags and counters of the last probes.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// The data path saw an error of a node, or a role that is not the known one (25006): it is probed at once, and
    /// counts as having seen no write until then. Indexes are those of the latest snapshot; others are ignored.
    ///
    /// Never blocks. Probes for doubts are at least 20 ms apart, whatever is reported; a node that is known not to
    /// be in service is left to the ordinary rounds.
    pub fn suspect(&self, cluster: usize, node: usize, why: &str) {
        let snapshot = self.current.load();
        let view = snapshot.clusters.get(cluster).and_then(|cluster| cluster.nodes.get(node));
        let Some(view) = view.filter(|view| matches!(view.state, State::Up | State::Draining)) else {
            return;
        };
        let is_first = view.suspicion.raise(now_ns());
        view.fresh.set(0);
        if is_first {
            let doubt = Command::Doubt { suspicion: Arc::clone(&view.suspicion), why: why.to_owned() };
            // A monitor that has stopped has nobody to tell.
            let _ = self.commands.send(doubt);
        }
    }

    /// A client of this cluster waits to hear what became of its COMMIT: see [`crate::topology::model::Workers::settle`].
    pub fn in_doubt(&self, cluster: &str) {
        // Without a monitor it waits in vain, and is told so.
        let _ = self.commands.send(Command::InDoubt { cluster: cluster.to_owned() });
    }

    /// `DETACH NODE node`: out of service at once, and after a restart too. `by` is the admin's name.
    ///
    /// All orders answer with a sentence for the admin, or with the reason why nothing was changed. Nodes are
    /// called `pg1`, or `cluster.pg1` where several clusters have one of that name.
    pub async fn detach(&self, node: &str, by: &str) -> Result<String, String> {
        self.hold(node, Hold::Detach { by: by.to_owned() }).await
    }

    /// `DRAIN NODE node`: running work may end, nothing new starts.
    pub async fn drain(&self, node: &str, by: &str) -> Result<String, String> {
        self.hold(node, Hold::Drain { by: by.to_owned() }).await
    }

    /// `ATTACH NODE node [FORCE]`: back into service. A fenced node needs `force`; one that accepts writes becomes
    /// the primary by it, and only while no other is in service.
    pub async fn attach(&self, node: &str, force: bool, by: &str) -> Result<String, String> {
        let order = Order::Attach { force, by: by.to_owned() };
        self.send(|reply| Command::Order { node: node.to_owned(), order, reply }).await
    }

    /// `PAUSE FAILOVER [cluster]` or `RESUME FAILOVER [cluster]`: while it is paused, no other primary is accepted. The
    /// answer is the clusters to which that was news; none if there is no cluster of that name.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub async fn set_paused(&self, cluster: Option<&str>, paused: bool, by: &str) -> Result<Vec<String>, String> {
        let (cluster, by) = (cluster.map(str::to_owned), by.to_owned());
        self.send(|reply| Command::SetPaused { cluster, paused, by, reply }).await
    }

    /// `SET WEIGHT node = n`: until the file has another weight.
    pub async fn set_weight(&self, node: &str, weight: u32, by: &str) -> Result<String, String> {
        let (node, by) = (node.to_owned(), by.to_owned());
        self.send(|reply| Command::Weigh { node, weight, by, reply }).await
    }

    /// Changes the primary of a cluster: `SWITCHOVER`, `FAILOVER`, `PROMOTE`. Returns when it is over.
    pub async fn change(&self, change: Change) -> Result<String, String> {
        self.send(|reply| Command::Consider { change, reply }).await
    }

    /// Takes a reloaded configuration; returns when the new view has been given out. Nodes with the same host and
    /// port keep what is known of them.
    pub async fn reconfigure(&self, config: &Postgres) {
        let config = Box::new(config.clone());
        // As above: without a monitor there is nothing to change.
        let _ = self.send(|reply| Command::Reconfigure { config, reply }).await;
    }

    /// From here on another process of this instance decides about the nodes: this one follows it, changes nothing, and
    /// writes nothing into its state folder. `false` takes that back. `config` is the one in force.
    ///
    /// # Errors
    /// A change of a primary is under way, and must not be left half done.
    pub async fn stand_aside(&self, is_aside: bool, config: &Postgres) -> Result<(), String> {
        let config = Box::new(config.clone());
        self.send(|reply| Command::StandAside { is_aside, config, reply }).await
    }

    async fn hold(&self, node: &str, hold: Hold) -> Result<String, String> {
        self.send(|reply| Command::Order { node: node.to_owned(), order: Order::Hold(hold), reply }).await
    }

    async fn send<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, String> {
        let (reply, answer) = oneshot::channel();
        let stopped = || "the monitor of the PostgreSQL nodes has stopped".to_owned();
        self.commands.send(command(reply)).map_err(|_| stopped())?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }
}
