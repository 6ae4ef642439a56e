//! The running instance: what the console, the signals and HTTP steer, on the control thread.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::ServerConfig;
use tokio::sync::{mpsc, watch};

use super::log::LogLevel;
use super::redis::Holds;
use super::sockets::Sockets;
use super::upgrade::{Departure, Program};
use crate::config::{self, Change, hba::Method, model::Config};
use crate::net::credentials;
use crate::pg::orders::Orders;
use crate::pg::registry::Order;
use crate::pg::report::History;
use crate::pg::{Core, Shared};
use crate::topology::coordination::Coordination;
use crate::topology::failover::hooks;
use crate::topology::redis::{HoldWrites, RedisMonitorHandle};
use crate::topology::{Event, EventLog, MonitorHandle};
use crate::worker::Remote;
use crate::worker::clock::now_ns;

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Not at all.
    Run,
    /// When every client has followed to the process that has taken over, or has left; `general.upgrade_grace` at the
    /// latest.
    HandOver,
    /// When the last client has left, `shutdown_grace` at the latest.
    WaitForClients,
    /// When running transactions have ended, `shutdown_grace` at the latest.
    WaitForServers,
    /// Now.
    Now,
}

/// What an instance is made of.
#[derive(Debug)]
pub struct Parts {
    /// How HTTP is spoken.
    pub admin_tls: Option<Arc<ServerConfig>>,
    /// What the data threads share.
    pub shared: Arc<Shared>,
    /// The PostgreSQL nodes.
    pub monitor: MonitorHandle,
    /// What the Redis halves of the data threads share.
    pub redis_shared: Arc<crate::redis::Shared>,
    /// The Redis nodes.
    pub redis: RedisMonitorHandle,
    /// What happened.
    pub events: EventLog,
    /// Listening sockets.
    pub sockets: Sockets,
    /// Clients that go on in another process.
    pub travellers: mpsc::UnboundedReceiver<Departure>,
    /// How many of these are on their way.
    pub travelling: Arc<AtomicUsize>,
    /// How the process was started.
    pub program: Program,
    /// The other instances.
    pub coordination: Option<Coordination>,
}

/// See the module. Cheap to clone behind its `Arc`; every method may be called from the control thread only.
#[derive(Debug)]
pub struct Instance {
    /// Configuration in force.
    pub config: ArcSwap<Config>,
    /// Where it was read from.
    pub path: PathBuf,
    /// How HTTP is spoken; `None` in clear text.
    pub admin_tls: ArcSwapOption<ServerConfig>,
    /// What the data threads share.
    pub shared: Arc<Shared>,
    /// The PostgreSQL nodes.
    pub monitor: MonitorHandle,
    /// What the Redis halves of the data threads share.
    pub redis_shared: Arc<crate::redis::Shared>,
    /// The Redis nodes.
    pub redis: RedisMonitorHandle,
    /// What happened.
    pub events: EventLog,
    /// When the process started.
    pub started: SystemTime,
    /// Listening sockets.
    pub sockets: Sockets,
    /// Clients that are on their way to another process.
    pub travelling: Arc<AtomicUsize>,
    /// How the process was started.
    pub program: Program,
    /// The other instances, if there may be any.
    pub coordination: Option<Coordination>,
    travellers: Mutex<Option<mpsc::UnboundedReceiver<Departure>>>,
    is_upgrading: AtomicBool,
    predecessor: Mutex<Option<i32>>,
    /// Earlier counters of the pools, for averages.
    pub history: Mutex<History>,
    orders: Mutex<Orders>,
    level: LogLevel,
    stop: watch::Sender<Stop>,
    /// Of the last reload: `None` before the first.
    pub last_reload: Mutex<Option<Result<(), String>>>,
}

impl Instance {
    /// An instance that has just been started.
    pub fn new(config: Arc<Config>, path: PathBuf, parts: Parts, level: LogLevel) -> Arc<Self> {
        let Parts { admin_tls, shared, monitor, redis_shared, redis, events, .. } = parts;
        Arc::new(Instance {
            config: ArcSwap::new(config),
            path,
            admin_tls: ArcSwapOption::new(admin_tls),
            shared,
            monitor,
            redis_shared,
            redis,
            events,
            started: SystemTime::now(),
            sockets: parts.sockets,
            travelling: parts.travelling,
            program: parts.program,
            coordination: parts.coordination,
            travellers: Mutex::new(Some(parts.travellers)),
            is_upgrading: AtomicBool::new(false),
            predecessor: Mutex::default(),
            history: Mutex::new(History::new(now_ns())),
            orders: Mutex::default(),
            level,
            stop: watch::Sender::new(Stop::Run),
            last_reload: Mutex::default(),
        })
    }

    /// The configuration file could be used when it was read last.
    pub fn has_good_config(&self) -> bool {
        !matches!(&*self.last_reload.lock().unwrap_or_else(PoisonError::into_inner), Some(Err(_)))
    }

    /// Who holds writes back during a switchover of a Redis service.
    pub fn hold_writes(&self) -> Arc<dyn HoldWrites> {
        Arc::new(Holds { shared: Arc::clone(&self.redis_shared) })
    }

    /// The data threads.
    pub fn workers(&self) -> &[Remote<Core>] {
        self.shared.workers()
    }

    /// Asks every data thread, and returns the answers in order.
    pub async fn ask_all<T: Send + 'static>(&self, job: impl Fn(&Rc<Core>) -> T + Clone + Send + 'static) -> Vec<T> {
        let mut answers = Vec::new();
        for worker in self.workers() {
            let job = job.clone();
            if let Some(answer) = worker.ask(move |core| job(core)).await {
                answers.push(answer);
            }
        }
        answers
    }

    /// Returns when every data thread has carried out what was posted to it before.
    pub async fn settled(&self) {
        self.ask_all(|_| ()).await;
        self.ask_redis(|_| ()).await;
    }

    /// Asks the Redis half of every data thread, and returns the answers in order.
    pub async fn ask_redis<T: Send + 'static>(
        &self,
        job: impl Fn(&Rc<crate::redis::Core>) -> T + Clone + Send + 'static,
    ) -> Vec<T> {
        let mut answers = Vec::new();
        for worker in self.redis_shared.workers() {
            let job = job.clone();
            answers.extend(worker.ask(move |core| job(core)).await);
        }
        answers
    }

    /// Client connections of both protocols, with those that are on their way to another process.
    fn clients(&self) -> usize {
        // In this order: who leaves counts as travelling before it is no client any more.
        let clients = self.shared.clients.load(Ordering::SeqCst) + self.redis_shared.clients();
        clients + self.travelling.load(Ordering::SeqCst)
    }

    /// Who is to go on in another process, for whoever sees them off: once.
    pub(super) fn take_travellers(&self) -> Option<mpsc::UnboundedReceiver<Departure>> {
        self.travellers.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Reads the configuration file again and applies it, all or nothing. `by` names who asked.
    ///
    /// # Errors
    /// What is wrong with the file; the old configuration stays in force.
    pub async fn reload(&self, by: &str) -> Result<Vec<Change>, String> {
        let result = config::load(&self.path).map_err(|errors| errors.to_string());
        // A certificate that cannot be used changes nothing, as any other error in the configuration.
        let result = result.and_then(|mut loaded| {
            credentials::for_servers(&mut loaded.config.postgres)?;
            credentials::for_redis(&mut loaded.config.redis)?;
            let tls = credentials::for_postgres_clients(&loaded.config.postgres)?;
            let admin_tls = credentials::for_admin(&loaded.config.admin)?;
            Ok((loaded, tls, admin_tls))
        });
        let done = match result {
            Ok((loaded, tls, admin_tls)) => {
                self.shared.tls.store(tls);
                self.admin_tls.store(admin_tls);
                for warning in &loaded.warnings {
                    tracing::warn!("{warning}");
                }
                Ok(self.apply(loaded.config, by).await)
            }
            Err(errors) => {
                tracing::error!(by, "the configuration was not reloaded, the old one stays in force: {errors}");
                self.events.record("", 0, "reload_failed", "", &errors);
                Err(errors)
            }
        };
        let summary = done.as_ref().map(|_| ()).map_err(Clone::clone);
        *self.last_reload.lock().unwrap_or_else(PoisonError::into_inner) = Some(summary);
        done
    }

    /// Puts a valid configuration into force. Returns what changed, when every thread goes by it.
    pub async fn apply(&self, new: Config, by: &str) -> Vec<Change> {
        let old = self.config.load_full();
        let changes = config::diff(&old, &new);
        hooks::hide(&new.secret_variables);
        let new = Arc::new(new);
        self.shared.guard.set_rules(new.security.clone());
        self.config.store(Arc::clone(&new));
        if let Err(e) = self.level.set(&new.general.log_level) {
            tracing::warn!(error = %e, "log.level was not changed");
        }
        for worker in self.workers() {
            let new = Arc::clone(&new);
            worker.post(move |core| core.set_config(new));
        }
        for worker in self.redis_shared.workers() {
            let new = Arc::clone(&new);
            worker.post(move |core| core.set_config(&new));
        }
        self.monitor.reconfigure(&new.postgres).await;
        self.redis.reconfigure(&new.redis).await;
        self.settled().await;
        // No thread goes by the old one any more.
        self.shared.forget_old_passwords(|user| new.passwords_of(user), new.postgres.auth_user.is_some());
        let mut rules = new.postgres.hba.iter().flat_map(|hba| &hba.rules);
        if !rules.any(|rule| rule.method == Method::Ldap) {
            self.shared.forget_given_passwords();
        }
        for change in &changes {
            tracing::info!(by, key = %change.key, from = %change.from, to = %change.to,
                needs_restart = change.needs_restart, "configuration changed");
        }
        let detail = match changes.len() {
            0 => format!("nothing changed, by {by}"),
            n => format!("{n} changed by {by}"),
        };
        self.events.record("", 0, "reloaded", "", &detail);
        changes
    }

    /// Holds or releases the requests of a database (by the clients' name), or of all; released are also those that
    /// were held one by one.
    pub fn set_paused(&self, database: Option<&str>, paused: bool) {
        self.order(|orders| match (database, paused) {
            (None, true) => orders.all_paused = true,
            (None, false) => {
                orders.all_paused = false;
                orders.suspended = false;
                orders.paused.clear();
            }
            (Some(name), true) => drop(orders.paused.insert(name.to_owned())),
            (Some(name), false) => drop(orders.paused.remove(name)),
        });
    }

    /// Changes what is ordered about databases, and has every data thread follow.
    pub fn order(&self, change: impl FnOnce(&mut Orders)) {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut orders);
        // Posted under the lock: the threads see the orders in the order in which they were given.
        for worker in self.workers() {
            let orders = orders.clone();
            worker.post(move |core| core.set_orders(Rc::new(orders)));
        }
    }

    /// What is ordered about databases.
    pub fn orders(&self) -> Orders {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the process to end. A stronger wish replaces a weaker one.
    pub fn stop(&self, how: Stop) {
        self.stop.send_if_modified(|now| {
            let is_stronger = how > *now;
            if is_stronger {
                *now = how;
            }
            is_stronger
        });
    }

    /// How the process is ending.
    pub fn stopping(&self) -> Stop {
        *self.stop.borrow()
    }

    /// From here on nobody new is let in, on any thread.
    pub async fn close_doors(&self) {
        self.ask_all(|core| core.is_closing.set(true)).await;
        self.ask_redis(|core| core.close_doors()).await;
    }

    /// Whether this process tells others of an event: of what becomes of the nodes the process tells that has taken over.
    pub(super) fn tells(&self, event: &Event) -> bool {
        event.service.is_empty() || !self.sockets.is_handed_on()
    }

    /// The process that this one has replaced, while it still serves clients.
    pub fn predecessor(&self) -> Option<i32> {
        *self.predecessor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_predecessor(&self, process: Option<i32>) {
        *self.predecessor.lock().unwrap_or_else(PoisonError::into_inner) = process;
    }

    /// Whether what is ordered now might be lost between two processes.
    pub fn is_upgrading(&self) -> bool {
        self.is_upgrading.load(Ordering::Relaxed)
    }

    /// An upgrade begins; false if one is under way.
    pub(super) fn begin_upgrade(&self) -> bool {
        !self.is_upgrading.swap(true, Ordering::Relaxed)
    }

    /// It came to nothing.
    pub(super) fn end_upgrade(&self) {
        self.is_upgrading.store(false, Ordering::Relaxed);
    }

    /// Waits until another process has the listening sockets.
    pub async fn handed_over(&self) {
        let mut wishes = self.stop.subscribe();
        if wishes.wait_for(|_| self.sockets.is_handed_on()).await.is_err() {
            std::future::pending().await
        }
    }

    /// How long the process may take to end in this way.
    pub(super) fn grace(&self, stop: Stop) -> Duration {
        let general = &self.config.load().general;
        if stop == Stop::HandOver { general.upgrade_grace } else { general.shutdown_grace }
    }

    /// Waits for the wish to end.
    pub async fn stop_wished(&self) -> Stop {
        let mut wishes = self.stop.subscribe();
        match wishes.wait_for(|s| *s != Stop::Run).await {
            Ok(stop) => *stop,
            Err(_) => Stop::Now,
        }
    }

    /// Drains as `stop` says, for as long as the configuration allows. A stronger wish on the way is obeyed.
    pub async fn drain(&self) {
        let mut deadline = tokio::time::Instant::now();
        let mut told = Stop::Run;
        loop {
            let stop = self.stopping();
            if stop != told {
                if matches!(told, Stop::Run | Stop::HandOver) {
                    deadline = tokio::time::Instant::now() + self.grace(stop);
                }
                match stop {
                    Stop::HandOver => self.shared.consoles.end_all(),
                    _ => self.close_doors().await,
                }
                told = stop;
                for worker in self.workers() {
                    worker.post(move |core| core.tell_all(order_of(stop)));
                }
                for worker in self.redis_shared.workers().iter().filter(|_| stop >= Stop::WaitForServers) {
                    worker.post(move |core| core.end_clients(stop == Stop::Now));
                }
            }
            // Clients of the process before come by this one, and their cancels do.
            let is_on_the_way = stop == Stop::HandOver && self.predecessor().is_some();
            let left = self.clients() + usize::from(is_on_the_way);
            let is_late = tokio::time::Instant::now() >= deadline;
            if is_late && stop == Stop::HandOver {
                tracing::info!(clients = left, "general.upgrade_grace is over");
                self.stop(Stop::WaitForServers);
                continue;
            }
            if stop == Stop::Now || left == 0 || is_late {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for worker in self.workers() {
            worker.post(|core| core.tell_all(Some(Order::End(GOODBYE))));
        }
        for worker in self.redis_shared.workers() {
            worker.post(|core| core.end_clients(true));
        }
        // Their last words need a moment; nobody is waited for longer.
        let until = tokio::time::Instant::now() + Duration::from_millis(500);
        while self.clients() > 0 && tokio::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Told to clients that are closed because the process ends.
const GOODBYE: &str = "terminating connection due to administrator command";

fn order_of(stop: Stop) -> Option<Order> {
    match stop {
        Stop::Run | Stop::HandOver | Stop::WaitForClients => None,
        Stop::WaitForServers => Some(Order::EndWhenIdle(GOODBYE)),
        Stop::Now => Some(Order::End(GOODBYE)),
    }
}
