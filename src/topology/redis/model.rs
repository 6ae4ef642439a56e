//! The picture of the Redis nodes that the data threads route by. Snapshots are immutable.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::topology::model::{Freshness, FreshnessWanted, HealthCounters, Role, State, Suspicion};

/// Every service at one moment.
#[derive(Debug, Clone, Default)]
pub struct RedisSnapshot {
    /// Grows by one with every published change that matters to routing.
    pub version: u64,
    /// In the order of `Config.redis`.
    pub services: Vec<Arc<ServiceView>>,
}

/// One service at one moment.
#[derive(Debug, Clone)]
pub struct ServiceView {
    /// `[[redis.service]] name`.
    pub name: String,
    /// Grows by one with every accepted primary; 0 before the first.
    pub epoch: u64,
    /// Index into `nodes` of the node that takes writes; `None` means that they have to wait.
    pub primary: Option<usize>,
    /// Known nodes. A node keeps its id, not its place.
    pub nodes: Vec<RedisNode>,
    /// Why there is no primary, in words; empty while there is one.
    pub reason: String,
    /// Who has paused failover, if somebody has.
    pub paused: Option<String>,
    /// Raised by a worker whose read had to go to the primary because no replica had seen a write yet.
    pub wanted_fresh: Arc<FreshnessWanted>,
}

/// One node at one moment.
#[derive(Debug, Clone)]
pub struct RedisNode {
    /// Never given to another host and port while the process lives.
    pub id: u64,
    /// `redis1`, in the order of the configuration, or of discovery.
    pub name: String,
    /// Host name or address, as Forebay reaches it.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Share of reads; 0 takes none.
    pub weight: u32,
    /// What the node says of itself.
    pub role: Role,
    /// Whether it takes traffic; only `Up` takes new work.
    pub state: State,
    /// Bytes of the replication stream between the primary's latest offset and this replica's.
    pub lag_bytes: Option<u64>,
    /// Milliseconds since everything on the primary had arrived here.
    pub lag_ms: Option<u64>,
    /// Replication offset.
    pub position: Option<u64>,
    /// When role or state last changed.
    pub last_change: SystemTime,
    /// Why the node is not used, or not for reads; empty when there is nothing to say.
    pub reason: String,
    /// A replica that is up, linked to the primary, of its history, within `max_lag`, and of weight > 0.
    pub fit_for_reads: bool,
    /// Time of the last probe there and back, for `reads = "nearest"`.
    pub round_trip: Option<Duration>,
    /// How far this node is known to have come, without a new snapshot.
    pub fresh: Arc<Freshness>,
    /// Doubts that the data path has raised since the last probe.
    pub suspicion: Arc<Suspicion>,
    /// Counts and times of the probes.
    pub health: HealthCounters,
}

/// A planned change of the primary, as it was ordered.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The node that is to be the primary.
    pub to: Option<String>,
    /// How long transactions on watched keys are waited for; `None`: they are not, and fail.
    pub patience: Option<Duration>,
    /// How long writes are held at the longest.
    pub limit: Duration,
    /// Only the preconditions are looked at.
    pub dry_run: bool,
}

/// Holds a service's writes back for a planned change of its primary. Implemented by whoever owns the data threads.
pub trait HoldWrites: Send + Sync {
    /// From when this is ready with `Ok` until [`HoldWrites::release`], no client is between WATCH and EXEC: who would
    /// begin that waits, and everything else goes on.
    fn drain<'a>(
        &'a self,
        service: &'a str,
        limit: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;
    /// From when this is ready with `Ok`, every data thread keeps new writes in its queue and none is on its way:
    /// all have been answered. Undone by the callee if they are not answered within `limit`.
    fn hold<'a>(
        &'a self,
        service: &'a str,
        limit: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;
    /// The server's numbers of connections on which a command was sent that waits for an element, and has not been
    /// answered.
    fn blocked<'a>(&'a self, service: &'a str) -> Pin<Box<dyn Future<Output = Vec<u64>> + Send + 'a>>;
    /// Lets what is held go on, to the primary of the latest snapshot, which has been published before.
    fn release(&self, service: &str);
}
