//! The last minutes and the last day, for whoever opens the status page now: what its plots are drawn from, and since when
//! a service has no primary.
//!
//! [`keep`] reads the counters that the data threads keep anyway, and nothing is counted for this alone. It runs on the
//! control thread, as does everybody who reads what it keeps.

mod reel;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value as Json, json};
use tokio::time::MissedTickBehavior;

use self::reel::{Kind, Reading, Reel, Subject};
use crate::config::model::Config;
use crate::ops::Instance;
use crate::pg::report::{PoolReport, merged};
use crate::redis::report::{ServiceReport, together};
use crate::worker::clock::now_ns;

/// Between two readings.
const PERIOD: Duration = Duration::from_secs(2);
/// Ten minutes of them.
const FINE: usize = 300;
/// Readings that make a sample of the long reel: a minute.
const EVERY: usize = 30;
/// A day of those.
const COARSE: usize = 24 * 60;

/// How far back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Span {
    /// 10 minutes, in samples of 2 s.
    Minutes,
    /// 24 hours, in samples of a minute.
    Day,
}

impl Span {
    /// As it is asked for.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "10m" => Some(Span::Minutes),
            "24h" => Some(Span::Day),
            _ => None,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Past {
    fine: Reel,
    coarse: Reel,
    /// Services that have no primary, and since when.
    without: BTreeMap<String, SystemTime>,
}

/// As it is shared by the connections, all on one thread.
pub(super) type SharedPast = Rc<RefCell<Past>>;

impl Past {
    /// Nothing yet, and all counters at 0.
    pub(super) fn new() -> SharedPast {
        let now = now_ns();
        let period_ms = PERIOD.as_millis() as u64;
        Rc::new(RefCell::new(Past {
            fine: Reel::new(FINE, 1, period_ms, now),
            coarse: Reel::new(COARSE, EVERY, EVERY as u64 * period_ms, now),
            without: BTreeMap::new(),
        }))
    }

    /// Samples that ended after `since` (ms since 1970).
    pub(super) fn json(&self, span: Span, since: u64) -> Json {
        let reel = match span {
            Span::Minutes => &self.fine,
            Span::Day => &self.coarse,
        };
        let mut whole = reel.json(since);
        whole.insert("now".to_owned(), json!(wall_ms()));
        Json::Object(whole)
    }

    /// For how long this service has had no primary; `None` if it has one.
    pub(super) fn without_primary(&self, service: &str) -> Option<Duration> {
        self.without.get(service).map(|since| since.elapsed().unwrap_or_default())
    }

    /// Puts down which services have no primary now.
    pub(super) fn look_at_primaries(&mut self, instance: &Instance) {
        let (clusters, redis) = (instance.monitor.snapshot(), instance.redis.snapshot());
        let clusters =
            clusters.clusters.iter().filter(|cluster| cluster.primary.is_none()).map(|cluster| &cluster.name);
        let services = redis.services.iter().filter(|service| service.primary.is_none()).map(|service| &service.name);
        let now = SystemTime::now();
        let since = |name: &String| (name.clone(), self.without.get(name).copied().unwrap_or(now));
        self.without = clusters.chain(services).map(since).collect();
    }
}

/// Milliseconds since 1970.
pub(super) fn wall_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// Reads for as long as the process runs.
pub(super) async fn keep(instance: Arc<Instance>, past: SharedPast) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is now, where there is nothing to read.
    ticks.tick().await;
    let mut events = instance.events.watch();
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let readings = readings(&instance).await;
                let (now, wall) = (now_ns(), wall_ms());
                let mut past = past.borrow_mut();
                past.coarse.add(now, wall, readings.clone());
                past.fine.add(now, wall, readings);
            }
            // The loss of a primary is an event, too: it is dated by that, not by the next tick.
            changed = events.changed() => if changed.is_err() { return },
        }
        past.borrow_mut().look_at_primaries(&instance);
    }
}

/// What everything shows now.
async fn readings(instance: &Arc<Instance>) -> BTreeMap<Subject, Reading> {
    let config = instance.config.load_full();
    let pools = merged(instance.ask_all(|core| core.report_pools()).await);
    let services = together(instance.ask_redis(|core| core.report(now_ns())).await);
    let pools = pools.iter().filter(|pool| pool.is_there()).map(|report| pool(&config, report));
    pools.chain(services.iter().map(service)).chain(nodes(instance)).collect()
}

fn pool(config: &Config, pool: &PoolReport) -> (Subject, Reading) {
    let cluster = config.postgres.clusters.get(pool.cluster);
    let service = cluster.map(|cluster| cluster.name.clone()).unwrap_or_default();
    let names = vec![service, pool.key.database.to_string(), pool.key.user.to_string()];
    let (clients, totals) = (&pool.clients, &pool.totals);
    let levels = [clients.all(), clients.waiting, pool.servers.active];
    let reading = Reading {
        counts: vec![totals.queries, totals.xacts, totals.errors],
        levels: levels.map(|level| Some(level as u64)).to_vec(),
        times: totals.query_times,
    };
    (Subject { kind: Kind::Pool, names }, reading)
}

fn service(service: &ServiceReport) -> (Subject, Reading) {
    let (primary, replica, own) = service.requests;
    let reading = Reading {
        counts: vec![primary + replica + own],
        levels: vec![Some(service.clients as u64), Some(service.waiting as u64)],
        ..Reading::default()
    };
    (Subject { kind: Kind::Redis, names: vec![service.name.clone()] }, reading)
}

/// The lag of every node.
fn nodes(instance: &Instance) -> Vec<(Subject, Reading)> {
    let lag = |service: &str, node: &str, bytes: Option<u64>, ms: Option<u64>| {
        let names = vec![service.to_owned(), node.to_owned()];
        (Subject { kind: Kind::Node, names }, Reading { levels: vec![bytes, ms], ..Reading::default() })
    };
    let mut all = Vec::new();
    for cluster in &instance.monitor.snapshot().clusters {
        all.extend(cluster.nodes.iter().map(|node| lag(&cluster.name, &node.name, node.lag_bytes, node.lag_ms)));
    }
    for service in &instance.redis.snapshot().services {
        all.extend(service.nodes.iter().map(|node| lag(&service.name, &node.name, node.lag_bytes, node.lag_ms)));
    }
    all
}
