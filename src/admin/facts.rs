//! What the views are made of: gathered once for a statement, from all threads, so that the rows of one answer belong
//! together as well as they can.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use bitflags::bitflags;

use super::views::checks::{self, Check};
use super::views::replication::{self, Stream};
use crate::config::model::Config;
use crate::guard::Ban;
use crate::ops::Instance;
use crate::ops::instance::Stop;
use crate::pg::orders::Orders;
use crate::pg::queries::{self, QueryReport};
use crate::pg::report::{Averages, ClientReport, History, PoolReport, ServerReport, merged};
use crate::pg::stats::Totals;
use crate::redis::report::{ClientReport as RedisClientReport, ServiceReport, together};
use crate::redis::usage::{self, ServiceUsage};
use crate::topology::coordination::{Coordination, View};
use crate::topology::redis::RedisSnapshot;
use crate::topology::{ClusterView, Event, NodeView, Snapshot};
use crate::worker::clock::now_ns;

/// Statements that `SHOW QUERIES` lists.
const MOST_QUERIES: usize = 500;

bitflags! {
    /// What a view has to have gathered.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Needs: u16 {
        /// Pools and their counters.
        const POOLS = 1;
        /// Clients.
        const CLIENTS = 2;
        /// Server connections.
        const SERVERS = 4;
        /// Events.
        const EVENTS = 8;
        /// Answers of the servers themselves.
        const CHECKS = 16;
        /// Memory in use.
        const MEMORY = 32;
        /// How the primaries see their replicas, of the servers themselves.
        const REPLICATION = 64;
        /// Who is banned.
        const BANS = 128;
        /// Statements that are run most.
        const QUERIES = 256;
        /// What Redis' commands and keys are used for.
        const USAGE = 512;
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Facts {
    pub(super) config: Arc<Config>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) redis: Arc<RedisSnapshot>,
    /// ns
    pub(super) now: u64,
    pub(super) stopping: Stop,
    /// How this instance stands with the others, if there may be any.
    pub(super) others: Option<Arc<View>>,
    pub(super) orders: Orders,
    pub(super) pools: Vec<PoolReport>,
    pub(super) clients: Vec<ClientReport>,
    pub(super) servers: Vec<ServerReport>,
    /// Redis services, of all threads together.
    pub(super) redis_services: Vec<ServiceReport>,
    /// Clients of Redis services.
    pub(super) redis_clients: Vec<RedisClientReport>,
    /// Sessions of the console, and what all of them did.
    pub(super) consoles: Vec<ClientReport>,
    pub(super) console_totals: Totals,
    /// Client connections, logged in or not, without the console's.
    pub(super) connections: usize,
    /// Statement texts that are kept.
    pub(super) statements: usize,
    pub(super) history: History,
    pub(super) events: Vec<Event>,
    pub(super) bans: Vec<Ban>,
    pub(super) queries: Vec<QueryReport>,
    /// Commands and keys of Redis services, of all threads together.
    pub(super) usage: Vec<ServiceUsage>,
    pub(super) checks: Vec<Check>,
    /// By cluster and node; of those alone of which it is known.
    pub(super) streams: BTreeMap<(usize, usize), Stream>,
}

/// A node and where it belongs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed<'a> {
    /// Its number over all clusters, as Pgpool-II counts backends.
    pub(super) id: usize,
    /// The cluster's index.
    pub(super) c: usize,
    pub(super) cluster: &'a ClusterView,
    /// The node's index in the cluster.
    pub(super) n: usize,
    pub(super) node: &'a NodeView,
}

impl Facts {
    /// Asks whoever knows.
    pub(super) async fn gather(instance: &Arc<Instance>, needs: Needs) -> Self {
        let mut pools = Vec::new();
        let mut clients = Vec::new();
        let mut servers = Vec::new();
        if needs.intersects(Needs::POOLS | Needs::CLIENTS | Needs::SERVERS) {
            let answers = instance
                .ask_all(move |core| {
                    let pools = needs.contains(Needs::POOLS).then(|| core.report_pools());
                    let clients = needs.contains(Needs::CLIENTS).then(|| core.report_clients());
                    let servers = needs.contains(Needs::SERVERS).then(|| core.report_servers());
                    (pools.unwrap_or_default(), clients.unwrap_or_default(), servers.unwrap_or_default())
                })
                .await;
            let mut by_thread = Vec::new();
            for (p, c, s) in answers {
                by_thread.push(p);
                clients.extend(c);
                servers.extend(s);
            }
            pools = merged(by_thread);
            pools.retain(PoolReport::is_there);
            clients.sort_by_key(|c| c.id);
            servers.sort_by_key(|s| s.id);
        }
        let mut redis_clients = Vec::new();
        if needs.contains(Needs::CLIENTS) {
            redis_clients = instance.ask_redis(|core| core.report_clients()).await.into_iter().flatten().collect();
            redis_clients.sort_by_key(|client: &RedisClientReport| client.id);
        }
        let redis_services = match needs.contains(Needs::POOLS) {
            true => together(instance.ask_redis(|core| core.report(now_ns())).await),
            false => Vec::new(),
        };
        let queries = match needs.contains(Needs::QUERIES) {
            true => queries::top(instance.ask_all(|core| core.queries.report()).await, MOST_QUERIES),
            false => Vec::new(),
        };
        let usage = match needs.contains(Needs::USAGE) {
            true => usage::together(instance.ask_redis(|core| core.report_usage()).await),
            false => Vec::new(),
        };
        let checks = if needs.contains(Needs::CHECKS) { checks::run(instance, &pools).await } else { Vec::new() };
        let streams = match needs.contains(Needs::REPLICATION) {
            true => replication::streams(instance).await,
            false => BTreeMap::new(),
        };
        let (consoles, console_totals) = instance.shared.consoles.report();
        let history = instance.history.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Facts {
            config: instance.config.load_full(),
            snapshot: instance.monitor.snapshot(),
            redis: instance.redis.snapshot(),
            now: now_ns(),
            stopping: instance.stopping(),
            others: instance.coordination.as_ref().map(Coordination::view),
            orders: instance.orders(),
            pools,
            clients,
            servers,
            redis_services,
            redis_clients,
            consoles,
            console_totals,
            connections: instance.shared.clients.load(std::sync::atomic::Ordering::Relaxed),
            statements: if needs.contains(Needs::MEMORY) { instance.shared.statements.sweep() } else { 0 },
            history,
            bans: if needs.contains(Needs::BANS) { instance.shared.guard.bans() } else { Vec::new() },
            events: if needs.contains(Needs::EVENTS) { instance.events.rows() } else { Vec::new() },
            queries,
            usage,
            checks,
            streams,
        }
    }

    /// Every node of every cluster.
    pub(super) fn nodes(&self) -> impl Iterator<Item = Placed<'_>> {
        let clusters = self.snapshot.clusters.iter().enumerate();
        let nodes = clusters
            .flat_map(|(c, cluster)| cluster.nodes.iter().enumerate().map(move |(n, node)| (c, cluster, n, node)));
        nodes.enumerate().map(|(id, (c, cluster, n, node))| Placed { id, c, cluster, n, node })
    }

    /// The counters of some pools together, and their averages.
    pub(super) fn totals<'p>(&self, pools: impl Iterator<Item = &'p PoolReport>) -> (Totals, Averages) {
        let mut sum = Totals::default();
        let mut keys = Vec::new();
        for pool in pools {
            sum.add(&pool.totals);
            keys.push(&pool.key);
        }
        let averages = self.history.averages(self.now, keys, &sum);
        (sum, averages)
    }
}
