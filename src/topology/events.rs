//! What happened to the nodes, newest last: the rows of `SHOW EVENTS`.
//!
//! Any thread may add a row; readers copy. The ring is bounded, the log lines are what lasts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use crate::worker::times::{Durations, Times};

/// Events whose line in the log is a warning: something is worse than it was.
const BAD_NEWS: &[&str] = &[
    "banned",
    "candidate_lost",
    "coordination_lost",
    "failover_begun",
    "failover_loss",
    "failover_refused",
    "failover_undone",
    "failsafe_begun",
    "node_down",
    "node_fenced",
    "predecessor_lost",
    "primary_lost",
    "record_damaged",
    "record_not_kept",
    "rejoin_failed",
    "reload_failed",
    "sentinel_lost",
    "state_damaged",
    "successor_lost",
    "switchover_undone",
    "upgrade_failed",
];

/// One row of `SHOW EVENTS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Counts up from 1 over the life of the process, so that a reader can ask for what is new.
    pub seq: u64,
    /// When it was noticed.
    pub time: SystemTime,
    /// Cluster or Redis service; empty for the instance itself.
    pub service: String,
    /// Epoch of the service at that time; 0 before the first primary.
    pub epoch: u64,
    /// Name such as `primary_changed`.
    pub event: String,
    /// Node concerned; empty when it is the service as a whole.
    pub node: String,
    /// Why, in words.
    pub detail: String,
}

/// A bounded ring of [`Event`]s, shared by cloning.
#[derive(Debug, Clone)]
pub struct EventLog {
    ring: Arc<Mutex<Ring>>,
    added: Arc<watch::Sender<u64>>,
}

/// What became of a service's primaries since the start of the process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Served {
    /// So often another node became the primary.
    pub failovers: u64,
    /// Each time without a primary that has ended.
    pub gaps: Durations,
    /// All of them together.
    pub without: Duration,
}

#[derive(Debug)]
struct Ring {
    rows: VecDeque<Event>,
    served: BTreeMap<String, Served>,
    capacity: usize,
    last_seq: u64,
}

impl EventLog {
    /// Keeps the last `capacity` events (at least one).
    pub fn new(capacity: usize) -> Self {
        let ring = Ring { rows: VecDeque::new(), served: BTreeMap::new(), capacity: capacity.max(1), last_seq: 0 };
        Self { ring: Arc::new(Mutex::new(ring)), added: Arc::new(watch::Sender::new(0)) }
    }

    /// Adds a row and writes it as a log line. `node` is empty when the service as a whole is meant.
    pub fn record(&self, service: &str, epoch: u64, event: &str, node: &str, detail: &str) {
        if BAD_NEWS.contains(&event) {
            tracing::warn!(service, epoch, event, node, detail);
            self.add(service, epoch, event, node, detail);
        } else {
            self.record_planned(service, epoch, event, node, detail);
        }
    }

    /// The same of what somebody has ordered: its log line is never a warning.
    pub fn record_planned(&self, service: &str, epoch: u64, event: &str, node: &str, detail: &str) {
        tracing::info!(service, epoch, event, node, detail);
        self.add(service, epoch, event, node, detail);
    }

    fn add(&self, service: &str, epoch: u64, event: &str, node: &str, detail: &str) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.last_seq += 1;
        let row = Event {
            seq: ring.last_seq,
            time: SystemTime::now(),
            service: service.to_owned(),
            epoch,
            event: event.to_owned(),
            node: node.to_owned(),
            detail: detail.to_owned(),
        };
        while ring.rows.len() >= ring.capacity {
            ring.rows.pop_front();
        }
        ring.rows.push_back(row);
        self.added.send_replace(ring.last_seq);
    }

    /// Tells each new `seq`.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.added.subscribe()
    }

    /// Counts that a service has a primary again after `gap`, or another one (`changed`).
    pub(super) fn count_served(&self, service: &str, gap: Option<Duration>, changed: bool) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let served = ring.served.entry(service.to_owned()).or_default();
        served.failovers += u64::from(changed);
        if let Some(gap) = gap {
            let times = Times::default();
            times.add(u64::try_from(gap.as_nanos()).unwrap_or(u64::MAX));
            served.gaps += times.durations();
            served.without += gap;
        }
    }

    /// By service.
    pub fn served(&self) -> BTreeMap<String, Served> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner).served.clone()
    }

    /// Every kept row, oldest first.
    pub fn rows(&self) -> Vec<Event> {
        self.since(0)
    }

    /// Kept rows with a `seq` greater than `seq`, oldest first.
    pub fn since(&self, seq: u64) -> Vec<Event> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.rows.iter().filter(|row| row.seq > seq).cloned().collect()
    }
}

impl Default for EventLog {
    fn default() -> Self {
        Self::new(1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_row_leaves_when_the_ring_is_full() {
        let log = EventLog::new(2);
        for event in ["a", "b", "c"] {
            log.record("main", 1, event, "pg1", "");
        }
        let kept: Vec<_> = log.rows().into_iter().map(|row| (row.seq, row.event)).collect();
        assert_eq!(kept, [(2, "b".to_owned()), (3, "c".to_owned())]);
        assert_eq!(log.since(2).len(), 1, "one row is newer than 2");
    }
}
