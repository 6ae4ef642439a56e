//! The monitor against real PostgreSQL servers: one primary and two replicas, as an operator treats them.

use std::cell::RefCell;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay::config::model as conf;
use forebay::topology::clock::now_ns;
use forebay::topology::failover::doubt::{Doubt, Outcome};
use forebay::topology::model::Workers;
use forebay::topology::{EventLog, Monitor, MonitorHandle, NodeView, Role, Snapshot, State};

#[path = "topology_real/servers.rs"]
mod servers;
#[path = "topology_real/settings.rs"]
mod settings;

use servers::{Server, three_servers};
use settings::config;

const DEADLINE: Duration = Duration::from_secs(60);

/// Stands for data threads: there are none.
struct Nobody;

impl Workers for Nobody {
    fn settled(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {})
    }

    fn busy<'a>(&'a self, _: &'a str, _: u16) -> Pin<Box<dyn Future<Output = usize> + Send + 'a>> {
        Box::pin(async { 0 })
    }

    fn in_doubt<'a>(&'a self, _: &'a str) -> Pin<Box<dyn Future<Output = Vec<Doubt>> + Send + 'a>> {
        Box::pin(async { Vec::new() })
    }

    fn settle(&self, _: &[(Doubt, Outcome)]) {}
}

/// What an instance of Forebay would hold.
struct Watch {
    handle: MonitorHandle,
    events: EventLog,
    published: Rc<RefCell<Vec<Arc<Snapshot>>>>,
}

impl Watch {
    fn start(config: &conf::Postgres, state_dir: &Path) -> Self {
        let (events, published) = (EventLog::new(1000), Rc::<RefCell<Vec<_>>>::default());
        let taken = Rc::clone(&published);
        let publish = move |snapshot| taken.borrow_mut().push(snapshot);
        let handle = Monitor::start(config, state_dir, publish, Arc::new(Nobody), None, events.clone());
        Self { handle, events, published }
    }

    fn node(&self, node: usize) -> NodeView {
        self.handle.snapshot().clusters[0].nodes[node].clone()
    }

    fn primary(&self) -> Option<usize> {
        self.handle.snapshot().clusters[0].primary
    }

    fn epoch(&self) -> u64 {
        self.handle.snapshot().clusters[0].epoch
    }

    fn want_fresh(&self) {
        self.handle.snapshot().clusters[0].wanted_fresh.raise();
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            if begun.elapsed() > DEADLINE {
                panic!("never happened: {what}\n{:#?}\n{:#?}", self.handle.snapshot(), self.events.rows());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn has_event(&self, event: &str, node: &str) -> bool {
        self.events.rows().iter().any(|row| row.event == event && row.node == node)
    }
}

fn is_fit(node: &NodeView) -> bool {
    node.role == Role::Replica && node.state == State::Up && node.fit_for_reads
}

/// The time at which a write on `server` was acknowledged.
async fn write(server: &Server) -> u64 {
    server.run("INSERT INTO t VALUES (1)").await;
    now_ns()
}

#[tokio::test]
async fn a_cluster_through_lag_loss_promotion_and_return() {
    tokio::task::LocalSet::new().run_until(a_cluster_s_life()).await;
}

async fn a_cluster_s_life() {
    let folder = tempfile::tempdir().expect("a folder");
    let state = tempfile::tempdir().expect("a folder");
    let mut servers = three_servers(folder.path()).await;
    let ports = [0, 1, 2].map(|i: usize| servers[i].port);
    let settings = config(&ports, "watch", Duration::from_millis(100));
    let watch = Watch::start(&settings, state.path());
    assert_eq!(watch.published.borrow().len(), 1, "the workers get a snapshot at once");
    assert_eq!(watch.node(0).reason, "not probed yet");

    roles_are_found(&watch, &servers).await;
    reads_wait_for_their_writes(&watch, &servers).await;
    a_replica_leaves_and_returns(&watch, &mut servers).await;
    admins_orders_last(&watch, &settings, state.path()).await;
    a_promotion_is_followed(&watch, &settings, &mut servers).await;
    an_ordinary_login_is_careful(&servers, &ports).await;
    the_old_primary_is_fenced_until_rebuilt(&watch, &mut servers).await;

    let versions: Vec<u64> = watch.published.borrow().iter().map(|snapshot| snapshot.version).collect();
    let expected: Vec<u64> = (1..=versions.len() as u64).collect();
    assert_eq!(versions, expected, "each published snapshot has the next version");
}

async fn roles_are_found(watch: &Watch, servers: &[Server; 3]) {
    watch.until("pg1 is the primary", |w| w.primary() == Some(0)).await;
    watch.until("both replicas are fit", |w| is_fit(&w.node(1)) && is_fit(&w.node(2))).await;
    assert_eq!(watch.epoch(), 1);
    assert!(watch.has_event("primary_found", "pg1"));
    let view = Arc::clone(&watch.handle.snapshot().clusters[0]);
    let asked = servers[0].ready().await;
    let row = asked
        .query_one("SELECT system_identifier, current_setting('server_version') FROM pg_control_system()", &[])
        .await
        .expect("a row");
    assert_eq!(view.system_identifier, Some(row.get::<_, i64>(0).cast_unsigned()));
    assert_eq!(view.server_version.as_deref(), Some(row.get::<_, &str>(1)));
    for node in &view.nodes {
        assert_eq!(node.timeline, Some(1), "{node:?}");
        assert!(node.position.is_some() && node.health.success > 0, "{node:?}");
    }
    assert!(!view.nodes[0].fit_for_reads, "a primary is not fit as a replica");
}

async fn reads_wait_for_their_writes(watch: &Watch, servers: &[Server; 3]) {
    // After this the primary's insert position stands behind a page header, which no replica reaches.
    servers[0].run("SELECT pg_switch_wal()").await;
    let switched = now_ns();
    watch
        .until("an idle primary's replicas catch up", |w| {
            w.want_fresh();
            w.node(1).fresh.has_seen(switched) && w.node(2).fresh.has_seen(switched)
        })
        .await;

    let waited = Duration::from_nanos(now_ns() - switched);
    assert!(waited < Duration::from_secs(8), "only the next background record (15 s) helped: {waited:?}");

    servers[2].run("ALTER SYSTEM SET recovery_min_apply_delay = '1h'; SELECT pg_reload_conf()").await;
    let before = watch.node(2).fresh.caught_up_ns();
    watch.until("pg3 was probed after the reload", |w| w.node(2).fresh.caught_up_ns() > before).await;
    let written = write(&servers[0]).await;
    watch
        .until("pg2 has seen the write", |w| {
            w.want_fresh();
            w.node(1).fresh.has_seen(written)
        })
        .await;
    assert!(!watch.node(2).fresh.has_seen(written), "pg3 applies an hour late: {:?}", watch.node(2));
    watch.until("pg3 is too late for reads", |w| !w.node(2).fit_for_reads).await;
    let late = watch.node(2);
    assert!(!late.fresh.has_seen(written), "{late:?}");
    assert!(late.lag_ms.is_some_and(|lag| lag >= 3000) && late.lag_bytes.is_some_and(|lag| lag > 0), "{late:?}");
    assert!(late.state == State::Up && late.reason.contains("max_lag is 3s"), "{late:?}");
    assert!(watch.node(1).fit_for_reads, "pg2 is not late");

    servers[2].run("ALTER SYSTEM RESET recovery_min_apply_delay; SELECT pg_reload_conf()").await;
    watch.until("pg3 has caught up", |w| is_fit(&w.node(2)) && w.node(2).fresh.has_seen(written)).await;
}

async fn a_replica_leaves_and_returns(watch: &Watch, servers: &mut [Server; 3]) {
    servers[2].stop(rustix::process::Signal::INT);
    watch.until("pg3 is down", |w| w.node(2).state == State::Down).await;
    assert!(!watch.node(2).fresh.has_seen(1), "a node that is away has seen nothing for certain");
    assert!(!watch.node(2).reason.is_empty());
    assert_eq!(watch.primary(), Some(0), "the primary is not concerned");
    servers[2].start();
    watch.until("pg3 is back", |w| is_fit(&w.node(2))).await;
    assert!(watch.has_event("node_down", "pg3") && watch.has_event("node_up", "pg3"));
    assert_eq!(watch.epoch(), 1);
}

async fn admins_orders_last(watch: &Watch, settings: &conf::Postgres, state: &Path) {
    let handle = &watch.handle;
    handle.detach("pg3", "ann").await.expect("a known node");
    handle.drain("main.pg2", "bob").await.expect("a known node, by its full name");
    assert_eq!((watch.node(1).state, watch.node(2).state), (State::Draining, State::Detached));
    assert!(handle.detach("pg9", "ann").await.is_err_and(|why| why.contains("main.pg1")), "the known ones are named");

    let restarted = Watch::start(settings, state);
    restarted.until("roles are found", |w| w.primary() == Some(0)).await;
    restarted.until("pg2 is still draining", |w| w.node(1).state == State::Draining).await;
    assert_eq!(restarted.node(2).state, State::Detached);
    assert_eq!(restarted.node(2).reason, "detached by ann");

    for node in ["pg2", "pg3"] {
        handle.attach(node, false, "ann").await.expect("nothing bars it");
    }
    handle.set_weight("pg2", 0, "ann").await.expect("a known node");
    assert!(!watch.node(1).fit_for_reads, "weight 0 takes no reads");
    handle.reconfigure(settings).await;
    handle.set_weight("pg3", 5, "ann").await.expect("a known node");
    assert_eq!((watch.node(1).weight, watch.node(2).weight), (0, 5), "a reload of the same file keeps them");
    handle.set_weight("pg2", 1, "ann").await.expect("a known node");
    watch.until("both are fit again", |w| is_fit(&w.node(1)) && is_fit(&w.node(2))).await;
}

async fn a_promotion_is_followed(watch: &Watch, settings: &conf::Postgres, servers: &mut [Server; 3]) {
    // With rounds an hour apart only the data path's word can make the loss known.
    let mut seldom = settings.clone();
    seldom.failover.check_interval = Duration::from_secs(3600);
    watch.handle.reconfigure(&seldom).await;
    let probes = watch.node(0).health.total;
    watch.until("the last of the fast rounds is over", |w| w.node(0).health.total > probes).await;
    servers[0].stop(rustix::process::Signal::KILL);
    watch.handle.suspect(0, 0, "connection reset");
    watch.until("the primary is lost", |w| w.primary().is_none()).await;
    watch.handle.reconfigure(settings).await;
    watch.handle.suspect(0, 1, "wake up");
    assert!(watch.has_event("primary_lost", "pg1"));

    let new_home = format!("host=127.0.0.1 port={} user=postgres", servers[1].port);
    servers[2].run(&format!("ALTER SYSTEM SET primary_conninfo = '{new_home}'; SELECT pg_reload_conf()")).await;
    servers[1].run("SELECT pg_promote()").await;
    watch.until("pg2 is the primary", |w| w.primary() == Some(1)).await;
    assert_eq!((watch.epoch(), watch.node(1).timeline), (2, Some(2)));
    assert!(watch.has_event("primary_changed", "pg2"));
    let written = write(&servers[1]).await;
    watch.until("pg3 follows the new primary", |w| is_fit(&w.node(2)) && w.node(2).fresh.has_seen(written)).await;
    assert_eq!(watch.node(0).state, State::Down);
}

/// Over Unix sockets, for a change. Without `pg_monitor` a replica's move to the new timeline is not seen before its next restartpoint.
async fn an_ordinary_login_is_careful(servers: &[Server; 3], ports: &[u16]) {
    let state = tempfile::tempdir().expect("a folder");
    let mut by_socket = config(ports, "plain", Duration::from_millis(100));
    let sockets = servers[0].data.parent().expect("the servers' folder");
    for node in &mut by_socket.clusters[0].nodes {
        node.host = sockets.to_str().expect("a plain path").to_owned();
    }
    let plain = Watch::start(&by_socket, state.path());
    plain.until("pg2 is the primary", |w| w.primary() == Some(1)).await;
    servers[1].run("CHECKPOINT; INSERT INTO t VALUES (2)").await;
    watch_restartpoint(&plain, &servers[2]).await;
    let written = write(&servers[1]).await;
    plain.until("pg3 is trusted", |w| is_fit(&w.node(2)) && w.node(2).fresh.has_seen(written)).await;
}

async fn watch_restartpoint(plain: &Watch, replica: &Server) {
    plain.until("pg3 answers", |w| w.node(2).state == State::Up).await;
    if plain.node(2).timeline == Some(1) {
        plain.until("pg3 is not trusted", |w| !w.node(2).fit_for_reads && !w.node(2).fresh.has_seen(1)).await;
        let reason = plain.node(2).reason;
        assert!(reason.contains("GRANT pg_monitor TO \"plain\""), "the reason tells the way out: {reason}");
    }
    let begun = Instant::now();
    while plain.node(2).timeline != Some(2) {
        assert!(begun.elapsed() < DEADLINE, "no restartpoint: {:?}", plain.node(2));
        replica.run("CHECKPOINT").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn the_old_primary_is_fenced_until_rebuilt(watch: &Watch, servers: &mut [Server; 3]) {
    servers[0].start();
    watch.until("the old primary is fenced", |w| w.node(0).state == State::Fenced).await;
    assert_eq!((watch.primary(), watch.epoch()), (Some(1), 2), "the new one stays");
    assert!(watch.node(0).reason.contains("pg2 is the primary on timeline 2"), "{}", watch.node(0).reason);
    let refused = watch.handle.attach("pg1", true, "ann").await;
    assert!(refused.as_ref().is_err_and(|why| why.contains("DETACH pg2")), "{refused:?}");

    servers[0].stop(rustix::process::Signal::INT);
    watch.until("it is down", |w| w.node(0).state == State::Down).await;
    std::fs::remove_dir_all(&servers[0].data).expect("the data of a stopped server");
    servers[0].copy_from(&servers[1]);
    servers[0].start();
    let written = write(&servers[1]).await;
    watch.until("it is back as a replica", |w| is_fit(&w.node(0)) && w.node(0).fresh.has_seen(written)).await;
    assert_eq!((watch.primary(), watch.epoch()), (Some(1), 2));
    let disputed = watch.events.rows().iter().any(|row| row.event == "two_primaries");
    assert!(!disputed, "it was always clear who is primary: {:#?}", watch.events.rows());
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_down_after_the_timeout() {
    tokio::task::LocalSet::new().run_until(silence()).await;
}

async fn silence() {
    let state = tempfile::tempdir().expect("a folder");
    let mute = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = mute.local_addr().expect("bound").port();
    let mut settings = config(&[port], "watch", Duration::from_millis(50));
    settings.failover.check_timeout = Duration::from_millis(200);
    settings.clusters.push(conf::Cluster { name: "other".to_owned(), ..settings.clusters[0].clone() });
    let watch = Watch::start(&settings, state.path());
    watch.until("three probes have failed", |w| w.node(0).health.fail >= 3).await;
    let node = watch.node(0);
    assert_eq!((node.state, node.role), (State::Down, Role::Unknown));
    assert_eq!(node.reason, "no connection within 200ms");
    assert!(node.health.min >= Some(Duration::from_millis(200)), "{:?}", node.health);

    let asked = watch.handle.drain("pg1", "ann").await;
    assert!(asked.as_ref().is_err_and(|why| why.contains("main.pg1 or other.pg1")), "{asked:?}");
    watch.handle.drain("other.pg1", "ann").await.expect("by its full name");
}
