//! Starts everything, runs until told to stop, and ends in order.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::catalogs;
use super::instance::{Instance, Parts, Stop};
use super::log::LogLevel;
use super::redis;
use super::sockets::Sockets;
use super::upgrade::{Departure, Heir, Program};
use crate::config::model::{Config, ListenAddr, ServerTls};
use crate::guard::Guard;
use crate::net::{self, credentials};
use crate::pg::listen::{Place, Wish};
use crate::pg::login::Newcomer;
use crate::pg::lookup::Ask;
use crate::pg::{Control, Core, Shared, accept, travel};
use crate::topology::coordination::{Coordination, Member};
use crate::topology::failover::doubt::{Doubt, Outcome};
use crate::topology::failover::hooks;
use crate::topology::model::Workers;
use crate::topology::redis::{RedisMonitor, RedisMonitorHandle, RedisSnapshot};
use crate::topology::{EventLog, Monitor, MonitorHandle};
use crate::wire::pg::startup::Cancel;
use crate::worker;
use crate::worker::permit::Permit;

/// Events that `SHOW EVENTS` remembers.
const EVENTS: usize = 10_000;

/// Cancels that wait to be passed on to the process before this one.
const MOST_CANCELS: usize = 1000;

/// What the data threads ask of the control thread.
struct Asks {
    monitor: MonitorHandle,
    catalogs: mpsc::UnboundedSender<(usize, String)>,
    console: mpsc::UnboundedSender<Newcomer>,
    listeners: mpsc::UnboundedSender<(usize, Place, Wish)>,
    logins: mpsc::UnboundedSender<Ask>,
    travellers: mpsc::UnboundedSender<Departure>,
    travelling: Arc<AtomicUsize>,
    cancels: mpsc::Sender<Cancel>,
}

impl Control for Asks {
    fn suspect(&self, cluster: usize, node: usize, why: &str) {
        self.monitor.suspect(cluster, node, why);
    }
    fn in_doubt(&self, cluster: &str) {
        self.monitor.in_doubt(cluster);
    }
    fn want_catalog(&self, cluster: usize, database: &str) {
        let _ = self.catalogs.send((cluster, database.to_owned()));
    }
    fn console(&self, newcomer: Newcomer) {
        let _ = self.console.send(newcomer);
    }
    fn look_up(&self, ask: Ask) {
        let _ = self.logins.send(ask);
    }
    fn listen(&self, worker: usize, place: Place, wish: Wish) {
        let _ = self.listeners.send((worker, place, wish));
    }
    fn depart(&self, departure: net::Departure<travel::Traveller>) {
        self.travelling.fetch_add(1, Ordering::SeqCst);
        let _ = self.travellers.send(Departure::Postgres(departure));
    }
    fn cancel_elsewhere(&self, cancel: &Cancel) {
        // Without a process before this one nobody has such a key, and whoever invents more than can be passed on is not
        // missed.
        let _ = self.cancels.try_send(cancel.clone());
    }
}

/// The data threads, as the monitor asks them; nobody before they run.
#[derive(Default)]
struct Threads(OnceLock<Arc<Shared>>);

impl Threads {
    fn workers(&self) -> &[worker::Remote<Core>] {
        self.0.get().map(|shared| shared.workers()).unwrap_or_default()
    }
}

impl Workers for Threads {
    fn settled(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            for worker in self.workers() {
                worker.ask(|_| ()).await;
            }
        })
    }

    fn busy<'a>(&'a self, host: &'a str, port: u16) -> Pin<Box<dyn Future<Output = usize> + Send + 'a>> {
        Box::pin(async move {
            let mut busy = 0;
            for worker in self.workers() {
                let host = host.to_owned();
                busy += worker.ask(move |core| core.busy_on(&host, port)).await.unwrap_or(0);
            }
            busy
        })
    }

    fn in_doubt<'a>(&'a self, cluster: &'a str) -> Pin<Box<dyn Future<Output = Vec<Doubt>> + Send + 'a>> {
        Box::pin(async move {
            let mut doubts = Vec::new();
            for worker in self.workers() {
                let cluster = cluster.to_owned();
                doubts.extend(worker.ask(move |core| core.in_doubt(&cluster)).await.unwrap_or_default());
            }
            doubts
        })
    }

    fn freshened(&self) {
        if self.0.get().is_some_and(|shared| shared.lagging.load(Ordering::Relaxed) > 0) {
            self.workers().iter().for_each(|worker| worker.post(|core| core.call_lagging()));
        }
    }

    fn settle(&self, answers: &[(Doubt, Outcome)]) {
        if answers.is_empty() {
            return;
        }
        for worker in self.workers() {
            let answers = answers.to_vec();
            worker.post(move |core| core.settle(&answers));
        }
    }
}

/// Serves until stopped. Runs on the calling thread, which becomes the control thread. `console` takes each client of
/// the admin console. An `heir` takes over from the process that has started it.
///
/// # Errors
/// A listener or a thread could not be had. Once it serves, it only ends when it is told to.
pub fn serve<C, H>(
    mut config: Config,
    path: &Path,
    level: LogLevel,
    heir: Option<Heir>,
    console: C,
    http: H,
) -> io::Result<()>
where
    C: Fn(Arc<Instance>, Newcomer) + 'static,
    H: FnOnce(Arc<Instance>) -> io::Result<()>,
{
    if !config.general.core_dumps {
        // Nothing before this knows a secret of a client's; those of the file were read a moment ago.
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    }
    hooks::hide(&config.secret_variables);
    credentials::for_servers(&mut config.postgres).map_err(io::Error::other)?;
    credentials::for_redis(&mut config.redis).map_err(io::Error::other)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(async move {
        let program = Program::current()?;
        let mut inheritance = match heir {
            Some(heir) => Some(heir.hear().await?),
            None => None,
        };
        // First, so that a taken port is reported before anything else is touched.
        let sockets = Sockets::inherited(inheritance.iter_mut().flat_map(|known| known.doors.drain()));
        let mut listeners = Vec::new();
        for listen in &config.postgres.listen {
            let bound = sockets.bind(&listen.addr, config.general.threads)?;
            listeners.push((listen.route, bound));
        }
        let redis_listeners = redis::bind(&config, &sockets)?;
        let mut signals = Signals::new()?;
        let events = EventLog::new(EVENTS);
        let publish_to: Rc<std::cell::OnceCell<Arc<Shared>>> = Rc::default();
        let publish = {
            let publish_to = Rc::clone(&publish_to);
            move |snapshot: Arc<crate::topology::Snapshot>| {
                for worker in publish_to.get().map(|s| s.workers()).unwrap_or_default() {
                    let snapshot = Arc::clone(&snapshot);
                    worker.post(move |core| core.set_topology(snapshot));
                }
            }
        };
        let threads = Arc::new(Threads::default());
        let asked = Arc::clone(&threads);
        let coordination = start_coordination(&config)?;
        let others = coordination.clone();
        let state_dir = &config.general.state_dir;
        let monitor = Monitor::start(&config.postgres, state_dir, publish, asked, others, events.clone());
        let (catalogs, wanted) = mpsc::unbounded_channel();
        let (newcomers, mut arrivals) = mpsc::unbounded_channel();
        let (listens, wishes) = mpsc::unbounded_channel();
        let (logins, unknown) = mpsc::unbounded_channel();
        let (departures, travellers) = mpsc::unbounded_channel();
        let (cancels, mut unknown_keys) = mpsc::channel(MOST_CANCELS);
        let travelling: Arc<AtomicUsize> = Arc::default();
        let asks = Asks {
            monitor: monitor.clone(),
            catalogs,
            console: newcomers,
            listeners: listens,
            logins,
            travellers: departures.clone(),
            travelling: Arc::clone(&travelling),
            cancels,
        };
        let banned = events.clone();
        let guard = Guard::new(config.security.clone(), Box::new(move |what| banned.record("", 0, "banned", "", what)));
        let permit = coordination.as_ref().map_or_else(|| Arc::new(Permit::always()), Coordination::permit);
        let shared = Shared::new(Box::new(asks), Arc::clone(&guard), permit);
        let shared = Arc::new(shared.map_err(|e| io::Error::other(e.to_string()))?);
        shared.tls.store(credentials::for_postgres_clients(&config.postgres).map_err(io::Error::other)?);
        let config = Arc::new(config);
        start_workers(&config, &shared, &monitor)?;
        let _ = publish_to.set(Arc::clone(&shared));
        let _ = threads.0.set(Arc::clone(&shared));
        let redis_shared_cell: Rc<std::cell::OnceCell<Arc<crate::redis::Shared>>> = Rc::default();
        // What was published before the threads ran.
        for worker in shared.workers() {
            let snapshot = monitor.snapshot();
            worker.post(move |core| core.set_topology(snapshot));
        }
        let redis_monitor = start_redis_monitor(&config, &redis_shared_cell, &events);
        let redis_asks =
            redis::Asks { monitor: redis_monitor.clone(), travellers: departures, travelling: Arc::clone(&travelling) };
        let redis_shared = Arc::new(crate::redis::Shared::new(Box::new(redis_asks), guard));
        redis::start(shared.workers(), &redis_shared, &config);
        let _ = redis_shared_cell.set(Arc::clone(&redis_shared));
        for worker in redis_shared.workers() {
            let snapshot = redis_monitor.snapshot();
            worker.post(move |core| core.set_topology(&snapshot));
        }
        let parts = Parts {
            admin_tls: credentials::for_admin(&config.admin).map_err(io::Error::other)?,
            shared: Arc::clone(&shared),
            monitor,
            redis_shared: Arc::clone(&redis_shared),
            redis: redis_monitor,
            events: events.clone(),
            sockets,
            travellers,
            travelling,
            program,
            coordination: coordination.clone(),
        };
        let instance = Instance::new(Arc::clone(&config), path.to_owned(), parts, level);
        tokio::task::spawn_local(catalogs::keep(Arc::clone(&instance), wanted));
        tokio::task::spawn_local(super::listeners::keep(Arc::clone(&instance), wishes));
        tokio::task::spawn_local(super::logins::keep(Arc::clone(&instance), unknown));
        tokio::task::spawn_local(super::event_command::run(Arc::clone(&instance)));
        tokio::task::spawn_local(super::webhook::run(Arc::clone(&instance)));
        tokio::task::spawn_local(super::otlp::run(Arc::clone(&instance)));
        tokio::task::spawn_local(super::log::tell_left_out());
        if let Some(others) = &coordination {
            tokio::task::spawn_local(super::others::tell(others.watch(), events.clone()));
        }
        if let Some(inheritance) = &mut inheritance {
            inheritance.look(&instance).await;
        }
        http(Arc::clone(&instance))?;
        let take = match inheritance {
            Some(inheritance) => Some(inheritance.take(&instance).await?),
            None => None,
        };
        instance.sockets.close_unused();
        for (route, bound) in listeners {
            for (listener, worker) in bound.into_iter().zip(shared.workers().iter().cycle()) {
                worker.post(move |core| {
                    if let Err(e) = accept::listen(core, listener, route) {
                        tracing::error!(error = %e, "a listener cannot be used");
                    }
                });
            }
        }
        for (service, bound) in redis_listeners {
            redis::listen(&redis_shared, &service, bound);
        }
        match take {
            Some(take) => drop(tokio::task::spawn_local(take.run(Arc::clone(&instance), unknown_keys))),
            // They are nobody's.
            None => unknown_keys.close(),
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        let redis_addresses = config.redis.iter().flat_map(|service| service.listen.iter().map(ToString::to_string));
        let postgres_addresses = config.postgres.listen.iter().map(|l| l.addr.to_string());
        let addresses: Vec<String> = postgres_addresses.chain(redis_addresses).collect();
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            listen = addresses.join(", "),
            threads = config.general.threads,
            pid = std::process::id(),
            "serving"
        );
        events.record("", 0, "started", "", &format!("version {}", env!("CARGO_PKG_VERSION")));
        let sockets = config.postgres.listen.iter().filter_map(|listen| match &listen.addr {
            ListenAddr::Unix(path) => Some(path.clone()),
            ListenAddr::Tcp(_) => None,
        });
        let sockets: Vec<_> = sockets.collect();
        // What it says holds until the first reload only, and it has passwords.
        drop(config);
        let at_work = Arc::clone(&instance);
        let console_for = Arc::clone(&instance);
        tokio::task::spawn_local(async move {
            while let Some(newcomer) = arrivals.recv().await {
                console(Arc::clone(&console_for), newcomer);
            }
        });
        tokio::task::spawn_local(async move { signals.obey(&at_work).await });
        let stop = instance.stop_wished().await;
        if stop != Stop::HandOver {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        }
        tracing::info!(?stop, grace = ?instance.grace(stop), "stopping");
        instance.drain().await;
        if let Some(others) = coordination {
            // Nobody has to wait until its lease ends.
            others.leave_all().await;
        }
        super::otlp::flush(&instance).await;
        for path in sockets.into_iter().filter(|_| !instance.sockets.is_handed_on()) {
            let _ = std::fs::remove_file(path);
        }
        tracing::info!("stopped");
        Ok(())
    })
}

/// Looks for the other instances, if there may be any.
fn start_coordination(config: &Config) -> io::Result<Option<Coordination>> {
    let Some(conf) = &config.coordination else { return Ok(None) };
    let is_encrypted = conf.etcd.iter().any(|url| url.starts_with("https:"));
    let tls = match is_encrypted {
        true => credentials::for_etcd(conf).map_err(io::Error::other)?,
        false => ServerTls::default(),
    };
    let listen = config.postgres.listen.iter().find_map(|listen| match &listen.addr {
        ListenAddr::Tcp(addr) => Some(addr),
        ListenAddr::Unix(_) => None,
    });
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let port = listen.map(|addr| format!(":{}", addr.port())).unwrap_or_default();
    let member = Member {
        name: conf.name.clone().unwrap_or_else(|| format!("{}{port}", host.trim())),
        address: listen.map(ToString::to_string).unwrap_or_default(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        peer: String::new(),
    };
    let place = Monitor::instance(&config.general.state_dir);
    Coordination::start(conf, &tls, member, place).map(Some).map_err(io::Error::other)
}

/// Follows the Redis nodes; the data threads are told once they run.
fn start_redis_monitor(
    config: &Config,
    publish_to: &Rc<std::cell::OnceCell<Arc<crate::redis::Shared>>>,
    events: &EventLog,
) -> RedisMonitorHandle {
    let publish_to = Rc::clone(publish_to);
    let publish = move |snapshot: Arc<RedisSnapshot>| {
        for worker in publish_to.get().map(|shared| shared.workers()).unwrap_or_default() {
            let snapshot = Arc::clone(&snapshot);
            worker.post(move |core| core.set_topology(&snapshot));
        }
    };
    RedisMonitor::start(&config.redis, &config.general.state_dir, publish, events.clone())
}

fn start_workers(config: &Arc<Config>, shared: &Arc<Shared>, monitor: &MonitorHandle) -> io::Result<()> {
    let mut workers = Vec::new();
    for id in 0..config.general.threads {
        let (config, shared, snapshot) = (Arc::clone(config), Arc::clone(shared), monitor.snapshot());
        let (worker, _thread) = worker::spawn(
            format!("data-{id}"),
            move |wheel| Core::new(id, shared, wheel, config, snapshot),
            |core: &Rc<Core>, now| core.tick(now),
        )?;
        workers.push(worker);
    }
    let _ = shared.workers.set(workers);
    Ok(())
}

/// The signals of the contract.
struct Signals {
    hup: tokio::signal::unix::Signal,
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
    usr1: tokio::signal::unix::Signal,
    usr2: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Signals {
            hup: signal(SignalKind::hangup())?,
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            usr1: signal(SignalKind::user_defined1())?,
            usr2: signal(SignalKind::user_defined2())?,
        })
    }

    async fn obey(&mut self, instance: &Instance) {
        loop {
            tokio::select! {
                _ = self.hup.recv() => {
                    let _ = sd_notify::notify(&[sd_notify::NotifyState::Reloading, sd_notify::NotifyState::monotonic_usec_now().unwrap_or(sd_notify::NotifyState::Ready)]);
                    let _ = instance.reload("SIGHUP").await;
                    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
                }
                _ = self.term.recv() => instance.stop(Stop::WaitForClients),
                _ = self.int.recv() => instance.stop(Stop::WaitForServers),
                _ = self.quit.recv() => instance.stop(Stop::Now),
                _ = self.usr1.recv() => {
                    instance.events.record("", 0, "paused", "", "by SIGUSR1");
                    instance.set_paused(None, true);
                }
                _ = self.usr2.recv() => {
                    instance.events.record("", 0, "resumed", "", "by SIGUSR2");
                    instance.set_paused(None, false);
                }
            }
        }
    }
}
