//! The picture of the nodes that the data threads route by.
//!
//! Snapshots are immutable and built by [`super::monitor`] alone. What must be current at every query without
//! a new snapshot ([`Freshness`], [`FreshnessWanted`], [`Suspicion`]) is shared by `Arc` and atomic.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use super::acknowledged::Acknowledged;
use super::failover::doubt::{Doubt, Outcome};
use super::lag::Limits;
use super::lsn::Lsn;

/// Every cluster at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Grows by one with every published change that matters to routing.
    pub version: u64,
    /// In the order of `Config.postgres.clusters`.
    pub clusters: Vec<Arc<ClusterView>>,
}

impl Snapshot {
    /// Whether both send every statement to the same place: positions, lags, reasons and counters do not matter.
    pub(super) fn routes_like(&self, other: &Snapshot) -> bool {
        let same = |a: &Arc<ClusterView>, b: &Arc<ClusterView>| a.routes_like(b);
        self.clusters.len() == other.clusters.len()
            && self.clusters.iter().zip(&other.clusters).all(|(a, b)| same(a, b))
    }
}

/// One cluster at one moment.
#[derive(Debug, Clone)]
pub struct ClusterView {
    /// `[[postgres.cluster]] name`.
    pub name: String,
    /// Grows by one with every accepted primary and every new timeline of the same primary; 0 before the first.
    pub epoch: u64,
    /// Index into `nodes` of the node that takes writes; `None` means that writes have to wait.
    pub primary: Option<usize>,
    /// In the order of the configuration.
    pub nodes: Vec<NodeView>,
    /// How many replicas are there that may be promoted.
    pub candidates: usize,
    /// The primary's commits wait for standbys (`synchronous_standby_names`).
    pub is_synchronous: bool,
    /// Why no failover may begin by itself, as far as others promote here.
    pub objection: Option<String>,
    /// Who has paused failover, if somebody has.
    pub paused: Option<String>,
    /// What `initdb` drew for this cluster, once agreed on.
    pub system_identifier: Option<u64>,
    /// `server_version` of the primary, or of the first node that told one.
    pub server_version: Option<String>,
    /// Connections that were made to the primary in this epoch or before, and do not lead to the primary of now, are
    /// taken away from their clients.
    pub cut_epoch: u64,
    /// Why nobody takes writes while Forebay itself changes the primary.
    pub closed: Option<String>,
    /// Raised by a worker whose read had to go to the primary because no replica had seen a write yet.
    pub wanted_fresh: Arc<FreshnessWanted>,
}

impl ClusterView {
    fn routes_like(&self, other: &ClusterView) -> bool {
        let key = |view: &ClusterView| {
            let epochs = (view.epoch, view.cut_epoch);
            (epochs, view.primary, view.system_identifier, view.nodes.len(), Arc::as_ptr(&view.wanted_fresh))
        };
        key(self) == key(other)
            && self.name == other.name
            && self.server_version == other.server_version
            && self.nodes.iter().zip(&other.nodes).all(|(a, b)| a.routes_like(b))
    }
}

/// What the monitor asks of the data threads.
pub trait Workers: Send + Sync {
    /// Returns when every data thread goes by what was published last.
    fn settled(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;

    /// Server connections to this node that have a client's work, over all threads.
    fn busy<'a>(&'a self, host: &'a str, port: u16) -> Pin<Box<dyn Future<Output = usize> + Send + 'a>>;

    /// COMMITs to this cluster that will never be answered by their servers, and whose clients wait, over all threads.
    fn in_doubt<'a>(&'a self, cluster: &'a str) -> Pin<Box<dyn Future<Output = Vec<Doubt>> + Send + 'a>>;

    /// More is known of what replicas show: whoever waits for that may look.
    fn freshened(&self) {}

    /// Tells those clients what became of them. Posted at once, in order with everything else.
    fn settle(&self, answers: &[(Doubt, Outcome)]);
}

/// One node at one moment.
#[derive(Debug, Clone)]
pub struct NodeView {
    /// `pg1`, or the name in the configuration.
    pub name: String,
    /// Host name, address, or directory of a Unix socket.
    pub host: String,
    /// Port, also part of a Unix socket's name.
    pub port: u16,
    /// Share of reads; 0 takes none.
    pub weight: u32,
    /// What the node says of itself. A fenced node may say `Primary`: route by [`ClusterView::primary`].
    pub role: Role,
    /// Whether it takes traffic; only `Up` takes new work.
    pub state: State,
    /// Bytes of WAL between the primary's latest sample and what this replica has replayed.
    pub lag_bytes: Option<u64>,
    /// Milliseconds since everything on the primary was replayed here.
    pub lag_ms: Option<u64>,
    /// Insert position of a primary, replay position of a replica.
    pub position: Option<Lsn>,
    /// Timeline, as far as the monitor's login may see it.
    pub timeline: Option<u32>,
    /// When role or state last changed.
    pub last_change: SystemTime,
    /// Why the node is not used, or not for reads; empty when there is nothing to say.
    pub reason: String,
    /// A replica that is up, of the primary's history, within the lag limits of `[postgres.routing]`, and of weight > 0.
    pub fit_for_reads: bool,
    /// The same under each other pair of lag limits that a database or user has.
    pub fit_elsewhere: Vec<(Limits, bool)>,
    /// How far this node is known to have come, without a new snapshot.
    pub fresh: Arc<Freshness>,
    /// What its clients were acknowledged.
    pub acknowledged: Arc<Acknowledged>,
    /// Doubts that the data path has raised since the last probe.
    pub suspicion: Arc<Suspicion>,
    /// Counts and times of the probes.
    pub health: HealthCounters,
}

impl NodeView {
    /// Whether a pool with these lag limits may read here. Limits that are news to the monitor are not yet enforced.
    pub fn is_fit(&self, limits: &Limits) -> bool {
        self.fit_elsewhere.iter().find(|(of, _)| of == limits).map_or(self.fit_for_reads, |(_, fit)| *fit)
    }

    fn routes_like(&self, other: &NodeView) -> bool {
        fn key(view: &NodeView) -> (&str, &str, u16, u32, Role, State, bool, *const Freshness) {
            let fresh = Arc::as_ptr(&view.fresh);
            (&view.name, &view.host, view.port, view.weight, view.role, view.state, view.fit_for_reads, fresh)
        }
        key(self) == key(other) && self.fit_elsewhere == other.fit_elsewhere
    }
}

/// What a node says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Not in recovery.
    Primary,
    /// In recovery.
    Replica,
    /// Never answered, or was replaced as primary while it was away.
    Unknown,
}

/// Whether a node takes traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Takes traffic.
    Up,
    /// Does not answer.
    Down,
    /// Running work may end, nothing new starts.
    Draining,
    /// Taken out of service by an admin.
    Detached,
    /// Answers, but must not be used; the reason says why.
    Fenced,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Primary => "primary",
            Role::Replica => "replica",
            Role::Unknown => "unknown",
        })
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Up => "up",
            State::Down => "down",
            State::Draining => "draining",
            State::Detached => "detached",
            State::Fenced => "fenced",
        })
    }
}

/// Counts and times of one node's probes, for `SHOW POOL_HEALTH_CHECK_STATS`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HealthCounters {
    /// Probes that ended.
    pub total: u64,
    /// Probes that were answered.
    pub success: u64,
    /// Probes that were not.
    pub fail: u64,
    /// Shortest probe; `None` before the first.
    pub min: Option<Duration>,
    /// Longest probe; `None` before the first.
    pub max: Option<Duration>,
    /// Sum of all probes' durations, for [`HealthCounters::average`].
    pub sum: Duration,
    /// End of the last probe.
    pub last_check: Option<SystemTime>,
    /// End of the last probe that was answered.
    pub last_success: Option<SystemTime>,
    /// End of the last probe that was not.
    pub last_failure: Option<SystemTime>,
}

impl HealthCounters {
    /// Adds one probe.
    pub fn add(&mut self, answered: bool, took: Duration, ended: SystemTime) {
        self.total += 1;
        self.min = Some(self.min.map_or(took, |min| min.min(took)));
        self.max = Some(self.max.map_or(took, |max| max.max(took)));
        self.sum += took;
        self.last_check = Some(ended);
        if answered {
            self.success += 1;
            self.last_success = Some(ended);
        } else {
            self.fail += 1;
            self.last_failure = Some(ended);
        }
    }

    /// Mean duration; `None` before the first probe.
    pub fn average(&self) -> Option<Duration> {
        let total = u32::try_from(self.total).unwrap_or(u32::MAX);
        (total > 0).then(|| self.sum / total)
    }
}

/// Read-your-writes without asking at query time.
///
/// Holds the largest time T ([`super::clock::now_ns`]) such that everything committed on the primary before T is
/// replayed on this node; 0 when nothing is known. Written by the monitor, read by every worker.
#[derive(Debug, Default)]
pub struct Freshness {
    caught_up_ns: AtomicU64,
    replayed: AtomicU64,
}

impl Freshness {
    /// Whether this node shows every commit that was acknowledged at `t_ns` or earlier.
    pub fn has_seen(&self, t_ns: u64) -> bool {
        let caught_up = self.caught_up_ns.load(Ordering::Acquire);
        caught_up != 0 && caught_up >= t_ns
    }

    /// T itself; 0 when nothing is known.
    pub fn caught_up_ns(&self) -> u64 {
        self.caught_up_ns.load(Ordering::Acquire)
    }

    /// Whether this node shows every commit that was acknowledged at `wrote_ns` (0: none is asked for), and has replayed up
    /// to `read_after`.
    pub fn shows(&self, wrote_ns: u64, read_after: Option<Lsn>) -> bool {
        let has_seen = wrote_ns == 0 || self.has_seen(wrote_ns);
        has_seen && read_after.is_none_or(|position| self.has_replayed(position))
    }

    /// Whether this node has replayed up to here; false while its position is not known.
    pub fn has_replayed(&self, position: Lsn) -> bool {
        self.replayed.load(Ordering::Acquire) >= position.0.max(1)
    }

    /// Replaces the position up to which it has replayed; `None` if that is not known.
    pub fn set_replayed(&self, position: Option<Lsn>) {
        self.replayed.store(position.map_or(0, |lsn| lsn.0), Ordering::Release);
    }

    /// Replaces T. It may go back: a replica that restarts can have replayed less than before.
    pub fn set(&self, caught_up_ns: u64) {
        self.caught_up_ns.store(caught_up_ns, Ordering::Release);
    }
}

/// Asks the monitor to look more often while clients are kept on the primary for want of a fresh replica.
#[derive(Debug, Default)]
pub struct FreshnessWanted {
    raised: AtomicBool,
    wake: Arc<Notify>,
}

impl FreshnessWanted {
    pub(super) fn new(wake: Arc<Notify>) -> Self {
        Self { raised: AtomicBool::new(false), wake }
    }

    /// Called for each read that went to the primary for freshness. One atomic load when already raised.
    pub fn raise(&self) {
        if !self.raised.load(Ordering::Relaxed) && !self.raised.swap(true, Ordering::AcqRel) {
            self.wake.notify_one();
        }
    }

    pub(super) fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Acquire)
    }

    pub(super) fn take(&self) -> bool {
        self.raised.swap(false, Ordering::AcqRel)
    }
}

/// The time of the last doubt about a node that no probe has answered yet; 0 for none.
///
/// A probe that began before the doubt proves nothing about it.
#[derive(Debug, Default)]
pub struct Suspicion {
    raised_ns: AtomicU64,
}

impl Suspicion {
    /// Notes a doubt. True when it is the first since the last probe, so that somebody has to be told.
    pub(super) fn raise(&self, now_ns: u64) -> bool {
        self.raised_ns.swap(now_ns.max(1), Ordering::AcqRel) == 0
    }

    /// Ends the doubt if a probe that began at `started_ns` answers it. False when a doubt remains.
    pub(super) fn settle(&self, started_ns: u64) -> bool {
        let raised = self.raised_ns.load(Ordering::Acquire);
        raised == 0
            || started_ns >= raised
                && self.raised_ns.compare_exchange(raised, 0, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_nothing_is_known_of_has_seen_nothing() {
        assert!(!Freshness::default().has_seen(0));
    }

    #[test]
    fn a_probe_that_began_before_the_doubt_does_not_settle_it() {
        let suspicion = Suspicion::default();
        assert!(suspicion.raise(10), "the first doubt has to be told");
        assert!(!suspicion.raise(20), "the second one rides along");
        assert!(!suspicion.settle(15), "the probe began before the second doubt");
        assert!(suspicion.settle(20));
        assert!(suspicion.raise(30), "a settled doubt starts afresh");
    }

    #[test]
    fn averages_over_all_probes() {
        let mut health = HealthCounters::default();
        assert_eq!(health.average(), None);
        health.add(true, Duration::from_millis(2), SystemTime::UNIX_EPOCH);
        health.add(false, Duration::from_millis(4), SystemTime::UNIX_EPOCH);
        assert_eq!(health.average(), Some(Duration::from_millis(3)));
        assert_eq!((health.min, health.max), (Some(Duration::from_millis(2)), Some(Duration::from_millis(4))));
        assert_eq!((health.success, health.fail, health.total), (1, 1, 2));
    }
}
