//! What the data threads share: touched when clients come and go, never per command.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use dashmap::DashMap;

use super::core::Core;
use crate::worker::Remote;

/// What the data threads ask of the control thread. Implementations must not block.
pub trait Control: Send + Sync {
    /// A node failed, or said something that does not fit its role.
    fn suspect(&self, service: &str, node: u64, why: &str);
}

/// See the module.
pub struct Shared {
    /// The data threads, in order; set once they run.
    pub workers: OnceLock<Vec<Remote<Core>>>,
    /// The control thread.
    pub control: Box<dyn Control>,
    /// What all threads count together, by the name of the service.
    services: DashMap<String, Arc<Totals>>,
    ids: AtomicU64,
}

/// Counts of one service that hold for all threads.
#[derive(Debug, Default)]
pub struct Totals {
    /// Client connections.
    pub clients: AtomicUsize,
    /// Clients that wait for a primary.
    pub waiting: AtomicUsize,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

impl Shared {
    /// For a process whose control thread is `control`.
    pub fn new(control: Box<dyn Control>) -> Self {
        Shared { workers: OnceLock::new(), control, services: DashMap::new(), ids: AtomicU64::new(1) }
    }

    /// The data threads.
    pub fn workers(&self) -> &[Remote<Core>] {
        self.workers.get().map(Vec::as_slice).unwrap_or_default()
    }

    /// A number that no other client of this process has: what `CLIENT ID` answers.
    pub fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// The counts of a service.
    pub fn totals(&self, service: &str) -> Arc<Totals> {
        Arc::clone(&self.services.entry(service.to_owned()).or_default())
    }

    /// Client connections of all services.
    pub fn clients(&self) -> usize {
        self.services.iter().map(|totals| totals.clients.load(Ordering::Relaxed)).sum()
    }
}
