//! The Redis half of the data threads: started beside the PostgreSQL half, and held for planned changes.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;

use super::sockets::Sockets;
use super::upgrade::Departure;
use crate::config::model::Config;
use crate::net::{self, Listener};
use crate::pg;
use crate::redis::{Control, Core, Shared, accept, travel};
use crate::topology::redis::{HoldWrites, RedisMonitorHandle};
use crate::worker::clock::now_ns;
use crate::worker::{Remote, TICK, inbox};

/// Between two looks whether everything has been answered.
const LOOK: Duration = Duration::from_millis(2);

/// What the data threads ask of the control thread.
pub struct Asks {
    /// The nodes.
    pub monitor: RedisMonitorHandle,
    /// To the process that follows this one.
    pub travellers: mpsc::UnboundedSender<Departure>,
    /// How many of these are on their way.
    pub travelling: Arc<AtomicUsize>,
}

impl Control for Asks {
    fn suspect(&self, service: &str, node: u64, why: &str) {
        self.monitor.suspect(service, node, why);
    }
    fn depart(&self, departure: net::Departure<travel::Traveller>) {
        self.travelling.fetch_add(1, Ordering::SeqCst);
        let _ = self.travellers.send(Departure::Redis(departure));
    }
}

/// Gives every data thread its Redis half.
pub fn start(workers: &[Remote<pg::Core>], shared: &Arc<Shared>, config: &Arc<Config>) {
    let mut remotes = Vec::new();
    for worker in workers {
        let (remote, jobs) = inbox();
        let (shared, config) = (Arc::clone(shared), Arc::clone(config));
        worker.post(move |pg| {
            let core = Core::new(pg.id, shared, std::rc::Rc::clone(&pg.wheel), &config);
            let ticking = std::rc::Rc::clone(&core);
            tokio::task::spawn_local(async move {
                loop {
                    ticking.wheel.sleep(TICK).await;
                    ticking.tick(now_ns());
                }
            });
            tokio::task::spawn_local(jobs.run(core));
        });
        remotes.push(remote);
    }
    let _ = shared.workers.set(remotes);
}

/// Opens the doors of a service.
pub fn listen(shared: &Shared, service: &str, bound: Vec<Listener>) {
    for (listener, worker) in bound.into_iter().zip(shared.workers().iter().cycle()) {
        let service = service.to_owned();
        worker.post(move |core| {
            if let Err(e) = accept::listen(core, listener, service) {
                tracing::error!(error = %e, "a listener cannot be used");
            }
        });
    }
}

/// Binds the addresses of every service, once for each thread.
///
/// # Errors
/// The operating system's, with the address in front.
pub fn bind(config: &Config, sockets: &Sockets) -> io::Result<Vec<(String, Vec<Listener>)>> {
    let mut all = Vec::new();
    for service in &config.redis {
        for addr in &service.listen {
            all.push((service.name.clone(), sockets.bind(addr, config.general.threads)?));
        }
    }
    Ok(all)
}

/// Holds the writes of a service on every data thread.
pub struct Holds {
    /// The data threads.
    pub shared: Arc<Shared>,
}

impl Holds {
    /// Asks every data thread about the service, and returns the answers of those that have it.
    async fn ask<T: Send + 'static>(&self, service: &str, of: fn(&crate::redis::Service) -> T) -> Vec<T> {
        let mut answers = Vec::new();
        for worker in self.shared.workers() {
            let service = service.to_owned();
            answers.extend(worker.ask(move |core| core.service(&service).map(|service| of(&service))).await.flatten());
        }
        answers
    }
}

impl HoldWrites for Holds {
    fn drain<'a>(
        &'a self,
        service: &'a str,
        limit: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>> {
        Box::pin(async move {
            let deadline = tokio::time::Instant::now() + limit;
            self.ask(service, |service| service.is_draining.set(true)).await;
            loop {
                let left: usize = self.ask(service, |service| service.in_transaction.get()).await.into_iter().sum();
                if left == 0 {
                    return Ok(());
                }
                if tokio::time::Instant::now() >= deadline {
                    return Err(format!("{left} clients were still between WATCH and EXEC after {limit:?}"));
                }
                tokio::time::sleep(LOOK).await;
            }
        })
    }

    fn hold<'a>(
        &'a self,
        service: &'a str,
        limit: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>> {
        Box::pin(async move {
            let deadline = tokio::time::Instant::now() + limit;
            self.ask(service, |service| service.hold(true)).await;
            loop {
                if self.ask(service, |service| service.is_quiet()).await.into_iter().all(|is_quiet| is_quiet) {
                    return Ok(());
                }
                if tokio::time::Instant::now() >= deadline {
                    self.release(service);
                    return Err(format!("commands on their way to the primary were not answered within {limit:?}"));
                }
                tokio::time::sleep(LOOK).await;
            }
        })
    }

    fn blocked<'a>(&'a self, service: &'a str) -> Pin<Box<dyn Future<Output = Vec<u64>> + Send + 'a>> {
        Box::pin(async move {
            let mut all = Vec::new();
            for worker in self.shared.workers() {
                let service = service.to_owned();
                all.extend(worker.ask(move |core| core.blocked_on(&service)).await.unwrap_or_default());
            }
            all
        })
    }

    fn release(&self, service: &str) {
        for worker in self.shared.workers() {
            let service = service.to_owned();
            worker.post(move |core| {
                if let Some(service) = core.service(&service) {
                    service.hold(false);
                }
            });
        }
    }
}
