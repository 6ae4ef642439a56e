//! What the data threads share: touched when clients come and go, never per command.

use std::hash::RandomState;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use dashmap::DashMap;

use super::core::Core;
use super::travel::Traveller;
use crate::guard::Guard;
use crate::net::Departure;
use crate::worker::Remote;

/// What the data threads ask of the control thread. Implementations must not block.
pub trait Control: Send + Sync {
    /// A node failed, or said something that does not fit its role.
    fn suspect(&self, service: &str, node: u64, why: &str);
    /// A client goes on in the process that follows this one.
    fn depart(&self, departure: Departure<Traveller>);
}

/// See the module.
pub struct Shared {
    /// The data threads, in order; set once they run.
    pub workers: OnceLock<Vec<Remote<Core>>>,
    /// The control thread.
    pub control: Box<dyn Control>,
    /// Who may connect.
    pub guard: Arc<Guard>,
    /// What all threads count together, by the name of the service.
    services: DashMap<String, Arc<Totals>>,
    /// How busy each thread is.
    loads: DashMap<usize, Arc<Load>>,
    ids: AtomicU64,
}

/// Counts of one service that hold for all threads.
#[derive(Debug, Default)]
pub struct Totals {
    /// Client connections.
    pub clients: AtomicUsize,
    /// Clients that wait for a primary.
    pub waiting: AtomicUsize,
    /// Threads that new clients may live on; 0 is one.
    pub homes: AtomicUsize,
    /// By which all threads tell keys apart.
    pub seeds: Arc<RandomState>,
}

/// How busy one thread is.
#[derive(Debug, Default)]
pub struct Load {
    /// Share of the time for which it has computed lately, per mille.
    pub busy: AtomicU32,
    clients: DashMap<String, usize>,
}

impl Load {
    /// Clients of a service on the thread.
    pub fn clients(&self, service: &str) -> usize {
        self.clients.get(service).map_or(0, |count| *count)
    }

    /// A client has come or gone.
    pub fn count(&self, service: &str, comes: bool) {
        let mut count = self.clients.entry(service.to_owned()).or_default();
        *count = if comes { *count + 1 } else { count.saturating_sub(1) };
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

impl Shared {
    /// For a process whose control thread is `control`.
    pub fn new(control: Box<dyn Control>, guard: Arc<Guard>) -> Self {
        Shared {
            workers: OnceLock::new(),
            control,
            guard,
            services: DashMap::new(),
            loads: DashMap::new(),
            ids: AtomicU64::new(1),
        }
    }

    /// The data threads.
    pub fn workers(&self) -> &[Remote<Core>] {
        self.workers.get().map(Vec::as_slice).unwrap_or_default()
    }

    /// A number that no other client of this process has: what `CLIENT ID` answers.
    pub fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// How busy a thread is.
    pub fn load(&self, thread: usize) -> Arc<Load> {
        Arc::clone(&self.loads.entry(thread).or_default())
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
