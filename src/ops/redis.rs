//! The Redis half of the data threads: started beside the PostgreSQL half, and held for planned changes.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::config::model::Config;
use crate::net::Listener;
use crate::pg;
use crate::redis::{Control, Core, Shared, accept};
use crate::topology::redis::{HoldWrites, RedisMonitorHandle};
use crate::worker::clock::now_ns;
use crate::worker::{Remote, TICK, inbox};

/// Between two looks whether everything has been answered.
const LOOK: Duration = Duration::from_millis(2);

/// What the data threads ask of the control thread.
pub struct Asks {
    /// The nodes.
    pub monitor: RedisMonitorHandle,
}

impl Control for Asks {
    fn suspect(&self, service: &str, node: u64, why: &str) {
        self.monitor.suspect(service, node, why);
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
    for (listener, worker) in bound.into_iter().zip(shared.workers()) {
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
pub fn bind(config: &Config) -> io::Result<Vec<(String, Vec<Listener>)>> {
    let mut all = Vec::new();
    for service in &config.redis {
        for addr in &service.listen {
            all.push((service.name.clone(), crate::net::bind(addr, config.general.threads)?));
        }
    }
    Ok(all)
}

/// Holds the writes of a service on every data thread.
pub struct Holds {
    /// The data threads.
    pub shared: Arc<Shared>,
}

impl HoldWrites for Holds {
    fn hold<'a>(
        &'a self,
        service: &'a str,
        limit: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>> {
        Box::pin(async move {
            let deadline = tokio::time::Instant::now() + limit;
            for worker in self.shared.workers() {
                let service = service.to_owned();
                worker.ask(move |core| core.service(&service).map(|service| service.hold(true))).await;
            }
            loop {
                let mut is_quiet = true;
                for worker in self.shared.workers() {
                    let service = service.to_owned();
                    let quiet = worker.ask(move |core| core.service(&service).is_none_or(|service| service.is_quiet()));
                    is_quiet &= quiet.await.unwrap_or(true);
                }
                if is_quiet {
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
