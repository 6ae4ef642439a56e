//! The monitor against real Redis servers and Sentinels: failovers by command, by crash and by a hung process,
//! switchovers under load, and nodes without Sentinels.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use forebay::config::model::{RedisReads, RedisService, TlsMode, TlsVersion};
use forebay::topology::clock::now_ns;
use forebay::topology::redis::{
    HoldWrites, Planned, RedisMonitor, RedisMonitorHandle, RedisNode, RedisSnapshot, ServiceView,
};
use forebay::topology::{EventLog, Role, State};
use rustix::process::Signal;

#[path = "redis_topology/servers.rs"]
mod servers;

use servers::{PRIMARY_NAME, Server, Talk, first_switch, three_of_each};

const DEADLINE: Duration = Duration::from_secs(60);
const SERVICE: &str = "cache";

fn service(sentinels: &[Server], nodes: &[Server]) -> RedisService {
    let at = |server: &Server| format!("127.0.0.1:{}", server.port);
    RedisService {
        name: SERVICE.to_owned(),
        listen: Vec::new(),
        sentinels: sentinels.iter().map(at).collect(),
        master_name: (!sentinels.is_empty()).then(|| PRIMARY_NAME.to_owned()),
        sentinel_password: None,
        nodes: if sentinels.is_empty() { nodes.iter().map(at).collect() } else { Vec::new() },
        auth: None,
        admin_commands: Default::default(),
        users: BTreeMap::new(),
        max_clients: 100,
        lanes: 1,
        reads: RedisReads::Primary,
        max_lag: Some(Duration::from_secs(3)),
        hold: Duration::from_secs(4),
        count_keys: true,
        queue_length: None,
        client_login_timeout: None,
        idle_timeout: None,
        tls_mode: TlsMode::Disable,
        tls_ca: None,
        tls_cert: None,
        tls_key: None,
        sentinel_tls: None,
        client_tls_mode: TlsMode::Disable,
        client_tls_cert: None,
        client_tls_key: None,
        client_tls_ca: None,
        client_tls_min_version: TlsVersion::Tls12,
        client_tls_timeout: Duration::from_secs(15),
        to_nodes: Default::default(),
        to_sentinels: Default::default(),
        to_clients: Default::default(),
    }
}

type Published = Rc<RefCell<Vec<(u64, Arc<RedisSnapshot>)>>>;

/// What an instance of Forebay would hold.
struct Watch {
    handle: RedisMonitorHandle,
    events: EventLog,
    published: Published,
    /// Orders are kept there.
    _state: tempfile::TempDir,
}

impl Watch {
    fn start(service: RedisService) -> Self {
        let (events, published) = (EventLog::new(1000), Published::default());
        let taken = Rc::clone(&published);
        let publish = move |snapshot| taken.borrow_mut().push((now_ns(), snapshot));
        let state = tempfile::tempdir().expect("a folder");
        let handle = RedisMonitor::start(&[service], state.path(), publish, events.clone());
        Self { handle, events, published, _state: state }
    }

    fn view(&self) -> Arc<ServiceView> {
        Arc::clone(&self.handle.snapshot().services[0])
    }

    /// The port of the node that takes writes.
    fn primary(&self) -> Option<u16> {
        let view = self.view();
        view.primary.map(|node| view.nodes[node].port)
    }

    fn node(&self, port: u16) -> RedisNode {
        let view = self.view();
        let found = view.nodes.iter().find(|node| node.port == port);
        found.unwrap_or_else(|| panic!("no node with port {port}: {view:#?}")).clone()
    }

    fn events(&self, event: &str) -> Vec<String> {
        let rows = self.events.rows().into_iter().filter(|row| row.event == event);
        rows.map(|row| format!("{}: {}", row.node, row.detail)).collect()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            if begun.elapsed() > DEADLINE {
                let rows = self.events.rows();
                panic!("never happened: {what}\n{:#?}\n{rows:#?}\n{:#?}", self.view(), self.handle.insights());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Two replicas are fit, and three Sentinels know that too.
    async fn until_whole(&self) {
        self.until("all is well", |w| {
            let view = w.view();
            let told = w.handle.insights()[0].sentinels.iter().all(|sentinel| {
                sentinel.said.as_ref().is_ok_and(|said| {
                    let usable = said.replicas.iter().filter(|listed| listed.trouble.is_none()).count();
                    said.other_sentinels == 2 && usable == 2 && !said.in_failover
                })
            });
            view.primary.is_some() && view.nodes.iter().filter(|node| node.fit_for_reads).count() == 2 && told
        })
        .await;
    }

    /// The newest that any Sentinel has told of.
    fn config_epoch(&self) -> u64 {
        let insights = self.handle.insights();
        let said = insights[0].sentinels.iter().filter_map(|sentinel| sentinel.said.as_ref().ok());
        said.map(|said| said.config_epoch).max().unwrap_or(0)
    }

    /// When a snapshot with this primary was first published, after a time.
    fn published_at(&self, port: u16, after: u64) -> u64 {
        let published = self.published.borrow();
        let found = published.iter().find(|(when, snapshot)| {
            let view = &snapshot.services[0];
            *when >= after && view.primary.is_some_and(|node| view.nodes[node].port == port)
        });
        found.expect("it was published").0
    }
}

fn at(servers: &mut [Server], port: u16) -> &mut Server {
    servers.iter_mut().find(|server| server.port == port).expect("one of ours")
}

#[tokio::test]
async fn a_service_through_failover_crash_and_return() {
    tokio::task::LocalSet::new().run_until(a_service_s_life()).await;
}

async fn a_service_s_life() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut nodes, sentinels) = three_of_each(folder.path());
    let watch = Watch::start(service(&sentinels, &[]));
    assert_eq!(watch.published.borrow().len(), 1, "the workers get a snapshot at once");
    watch.until("the primary is found", |w| w.primary() == Some(nodes[0].port)).await;
    assert_eq!((watch.view().epoch, watch.node(nodes[0].port).name.as_str()), (1, "redis1"));
    watch.until_whole().await;

    reads_wait_for_their_writes(&watch, &nodes).await;
    a_failover_by_command(&watch, &nodes, &sentinels).await;
    watch.until_whole().await;
    a_crash(&watch, &mut nodes, &sentinels).await;
    watch.until_whole().await;
    a_hung_primary(&watch, &mut nodes).await;
    watch.until_whole().await;
    a_stale_sentinel(&watch, &sentinels).await;

    a_reload(&watch, &sentinels).await;

    let versions: Vec<u64> = watch.published.borrow().iter().map(|(_, snapshot)| snapshot.version).collect();
    let expected: Vec<u64> = (1..=versions.len() as u64).collect();
    assert_eq!(versions, expected, "each published snapshot has the next version");
}

async fn reads_wait_for_their_writes(watch: &Watch, nodes: &[Server; 3]) {
    assert_eq!(nodes[0].say("SET a 1"), "+OK");
    let written = now_ns();
    let begun = Instant::now();
    watch
        .until("both replicas have seen the write", |w| {
            w.view().wanted_fresh.raise();
            nodes[1..].iter().all(|node| w.node(node.port).fresh.has_seen(written))
        })
        .await;
    assert!(begun.elapsed() < Duration::from_secs(1), "rounds are fast while it is wanted: {:?}", begun.elapsed());
    assert!(!watch.node(nodes[0].port).fit_for_reads, "a primary is not fit as a replica");
    let doubted = watch.node(nodes[1].port);
    watch.handle.suspect(SERVICE, doubted.id, "a test");
    assert!(!doubted.fresh.has_seen(1), "doubted until it is asked");
    watch.until("the doubt is answered", |w| w.node(nodes[1].port).fresh.has_seen(written)).await;
}

async fn a_failover_by_command(watch: &Watch, nodes: &[Server; 3], sentinels: &[Server; 3]) {
    let (old, begun) = (nodes[0].port, now_ns());
    let told = first_switch(sentinels);
    assert_eq!(sentinels[0].say(&format!("SENTINEL FAILOVER {PRIMARY_NAME}")), "+OK");
    watch.until("no writes", |w| w.primary().is_none()).await;
    watch.until("another primary", |w| w.primary().is_some_and(|port| port != old)).await;
    let new = watch.primary().expect("just seen");
    watch.until("a Sentinel tells of it", |_| told.load(Ordering::Acquire) != 0).await;
    let taken = watch.published_at(new, begun);
    let late = Duration::from_nanos(taken.saturating_sub(told.load(Ordering::Acquire)));
    println!(
        "failover by command: writes flow {late:?} after the first +switch-master, \
        {:?} after the command",
        Duration::from_nanos(taken - begun)
    );
    assert!(late < Duration::from_millis(200), "after the first +switch-master: {late:?}");
    assert_eq!(watch.view().epoch, 2);
    assert_ne!(watch.node(old).state, State::Up, "the old one, writable for 10 s, is fenced");
    watch.until("the old one follows", |w| w.node(old).role == Role::Replica && w.node(old).fit_for_reads).await;
    assert_eq!(watch.primary(), Some(new));
}

async fn a_crash(watch: &Watch, nodes: &mut [Server; 3], sentinels: &[Server; 3]) {
    let old = watch.primary().expect("it is whole");
    let id = watch.node(old).id;
    let (begun, told) = (now_ns(), first_switch(sentinels));
    at(nodes, old).kill();
    watch.handle.suspect(SERVICE, id, "connection reset");
    watch.until("no writes", |w| w.primary().is_none()).await;
    println!("crash: noticed after {:?}", Duration::from_nanos(now_ns() - begun));
    watch.until("another primary", |w| w.primary().is_some_and(|port| port != old)).await;
    let new = watch.primary().expect("just seen");
    watch.until("a Sentinel tells of it", |_| told.load(Ordering::Acquire) != 0).await;
    let late = Duration::from_nanos(watch.published_at(new, begun).saturating_sub(told.load(Ordering::Acquire)));
    println!("crash: writes flow {late:?} after the first +switch-master; {:?}", watch.events("failover_loss"));
    assert!(late < Duration::from_millis(200), "after the first +switch-master: {late:?}");
    assert!(!watch.events("failover_loss").is_empty(), "{:#?}", watch.events.rows());
    at(nodes, old).start();
    watch.until("the old one follows", |w| w.node(old).role == Role::Replica && w.node(old).fit_for_reads).await;
    assert_eq!(watch.primary(), Some(new));
}

async fn a_hung_primary(watch: &Watch, nodes: &mut [Server; 3]) {
    let old = watch.primary().expect("it is whole");
    let begun = Instant::now();
    at(nodes, old).signal(Signal::STOP);
    watch.until("it is down", |w| w.node(old).state == State::Down).await;
    println!("hung primary: down after {:?}", begun.elapsed());
    assert!(
        begun.elapsed() < Duration::from_millis(4600),
        "a round a second, an answer of a primary within three: {:?}",
        begun.elapsed()
    );
    watch.until("another primary", |w| w.primary().is_some_and(|port| port != old)).await;
    println!("hung primary: another after {:?}", begun.elapsed());
    let new = watch.primary().expect("just seen");
    at(nodes, old).signal(Signal::CONT);
    watch.until("it is fenced", |w| w.node(old).state == State::Fenced).await;
    assert!(watch.node(old).reason.contains("still says that it is the primary"), "{}", watch.node(old).reason);
    assert_eq!(watch.primary(), Some(new), "it comes back writable and is not believed");
    watch.until("it follows", |w| w.node(old).role == Role::Replica && w.node(old).fit_for_reads).await;
    assert_eq!(watch.primary(), Some(new));
    println!("hung primary: {:?}", watch.events("failover_loss"));
}

async fn a_stale_sentinel(watch: &Watch, sentinels: &[Server; 3]) {
    // On a machine without time the Sentinels may fail over once more of their own accord: that proves nothing.
    for _ in 0..5 {
        if a_stale_sentinel_is_not_believed(watch, sentinels).await {
            return;
        }
    }
    panic!("the Sentinels failed over again in each of five attempts");
}

/// False if they agreed on another failover than the one that was asked for.
async fn a_stale_sentinel_is_not_believed(watch: &Watch, sentinels: &[Server; 3]) -> bool {
    let old = watch.primary().expect("it is whole");
    let of_it = |event| watch.events(event).iter().filter(|row| row.contains(&sentinels[2].port.to_string())).count();
    let (losses, returns) = (of_it("sentinel_lost"), of_it("sentinel_back"));
    sentinels[2].signal(Signal::STOP);
    assert_eq!(sentinels[0].say(&format!("SENTINEL FAILOVER {PRIMARY_NAME}")), "+OK");
    watch.until("another primary", |w| w.primary().is_some_and(|port| port != old)).await;
    let (new, epoch, lost) = (watch.primary(), watch.view().epoch, watch.events("primary_lost").len());
    watch.until("it is lost", |_| of_it("sentinel_lost") > losses).await;
    let agreed = watch.config_epoch();
    sentinels[2].signal(Signal::CONT);
    watch.until("it is back", |_| of_it("sentinel_back") > returns).await;
    watch.until_whole().await;
    if watch.config_epoch() != agreed {
        return false;
    }
    assert_eq!((watch.primary(), watch.view().epoch), (new, epoch));
    assert_eq!(watch.events("primary_lost").len(), lost, "what it said of the past stopped nothing");
    true
}

async fn a_reload(watch: &Watch, sentinels: &[Server; 3]) {
    let old = watch.view();
    let mut replicas = old.nodes.iter().filter(|node| node.role == Role::Replica).map(|node| node.name.clone());
    let (heavy, drained) = (replicas.next().expect("two"), replicas.next().expect("two"));
    watch.handle.set_weight(&heavy, 7, "ann").await.expect("a node");
    watch.handle.drain(&drained, "ann").await.expect("a node");
    watch.handle.reconfigure(&[service(sentinels, &[])]).await;
    assert!(Arc::ptr_eq(&watch.view().wanted_fresh, &old.wanted_fresh), "nothing has changed");
    watch.handle.reconfigure(&[service(&sentinels[1..], &[])]).await;
    watch.until("the primary is found again", |w| w.view().primary.is_some()).await;
    watch
        .until("all three are known again", |w| w.view().nodes.iter().filter(|n| n.state != State::Down).count() == 3)
        .await;
    let new = watch.view();
    assert_eq!(new.epoch, old.epoch + 1, "epochs go on");
    for node in &old.nodes {
        let again = watch.node(node.port);
        assert_eq!(again.name, node.name);
        assert!(again.id > node.id, "an id is never given twice");
        assert_eq!(again.weight, if node.name == heavy { 7 } else { 1 });
        assert_eq!(again.state == State::Draining, node.name == drained);
    }
    watch.handle.reconfigure(&[]).await;
    assert!(watch.handle.snapshot().services.is_empty());
}

/// Writes without pause, as one client of Forebay would, to the primary of the latest view.
#[derive(Default)]
struct Writer {
    held: AtomicBool,
    busy: AtomicBool,
    stop: AtomicBool,
    port: AtomicU16,
    acknowledged: AtomicU64,
    refused: AtomicU64,
    longest_gap_ns: AtomicU64,
}

impl Writer {
    fn run(self: Arc<Self>) {
        let mut talk: Option<(u16, Talk)> = None;
        let (mut last, mut n) = (now_ns(), 0_u64);
        while !self.stop.load(Ordering::SeqCst) {
            self.busy.store(true, Ordering::SeqCst);
            if self.held.load(Ordering::SeqCst) {
                self.busy.store(false, Ordering::SeqCst);
                std::thread::sleep(Duration::from_micros(200));
                continue;
            }
            let port = self.port.load(Ordering::SeqCst);
            if talk.as_ref().is_none_or(|(known, _)| *known != port) {
                talk = Talk::to(port).ok().map(|talk| (port, talk));
            }
            let answer = talk.as_mut().map(|(_, talk)| talk.say(&format!("SADD written {n}")));
            match answer {
                Some(Ok(answer)) if answer == ":1" => {
                    self.acknowledged.fetch_add(1, Ordering::SeqCst);
                    self.longest_gap_ns.fetch_max(now_ns() - last, Ordering::SeqCst);
                    last = now_ns();
                }
                other => {
                    eprintln!("refused: {other:?}");
                    self.refused.fetch_add(1, Ordering::SeqCst);
                    talk = None;
                }
            }
            n += 1;
            self.busy.store(false, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Holds a [`Writer`]; lets it go to whatever the monitor has published.
struct Held {
    writer: Arc<Writer>,
    handle: RedisMonitorHandle,
}

impl HoldWrites for Held {
    fn drain<'a>(&'a self, _: &'a str, _: Duration) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>> {
        panic!("nobody has asked for a clean switchover")
    }
    fn hold<'a>(&'a self, _: &'a str, _: Duration) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>> {
        Box::pin(async {
            self.writer.held.store(true, Ordering::SeqCst);
            while self.writer.busy.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok(())
        })
    }
    fn blocked<'a>(&'a self, _: &'a str) -> Pin<Box<dyn Future<Output = Vec<u64>> + Send + 'a>> {
        Box::pin(async { Vec::new() })
    }
    fn release(&self, _: &str) {
        let view = Arc::clone(&self.handle.snapshot().services[0]);
        if let Some(primary) = view.primary {
            self.writer.port.store(view.nodes[primary].port, Ordering::SeqCst);
        }
        self.writer.held.store(false, Ordering::SeqCst);
    }
}

/// As ordered without MODE.
fn planned(to: Option<String>, limit: Duration, dry_run: bool) -> Planned {
    Planned { to, patience: None, limit, dry_run }
}

/// Switches over under load; the answer is the new primary's port.
async fn switched(watch: &Watch, nodes: &[Server], to: Option<u16>, longest: Duration) -> u16 {
    let old = watch.primary().expect("it is whole");
    let writer = Arc::new(Writer { port: AtomicU16::new(old), ..Writer::default() });
    let running = std::thread::spawn({
        let writer = Arc::clone(&writer);
        || writer.run()
    });
    watch.until("it writes", |_| writer.acknowledged.load(Ordering::SeqCst) > 50).await;
    let hold = Arc::new(Held { writer: Arc::clone(&writer), handle: watch.handle.clone() });
    let to = to.map(|port| format!("127.0.0.1:{port}"));
    let limit = Duration::from_secs(5);
    let told = watch.handle.switchover(SERVICE, planned(to, limit, false), "ann", hold).await;
    println!("{told:?}");
    let told = told.unwrap_or_else(|why| panic!("{why}\n{:#?}", watch.events.rows()));
    let new = watch.primary().expect("published before it was told");
    assert_ne!(new, old, "{told}");
    let so_far = writer.acknowledged.load(Ordering::SeqCst);
    watch.until("it writes again", |_| writer.acknowledged.load(Ordering::SeqCst) > so_far + 50).await;
    writer.stop.store(true, Ordering::SeqCst);
    running.join().expect("the writer");
    let stored = nodes.iter().find(|node| node.port == new).expect("ours").say("SCARD written");
    let (acknowledged, refused) = (&writer.acknowledged, writer.refused.load(Ordering::SeqCst));
    println!(
        "{refused} refused, {stored} stored, longest gap {:?}",
        Duration::from_nanos(writer.longest_gap_ns.load(Ordering::SeqCst))
    );
    assert_eq!(stored, format!(":{}", acknowledged.load(Ordering::SeqCst)), "what was acknowledged is there");
    assert_eq!(refused, 0, "clients only wait");
    let gap = Duration::from_nanos(writer.longest_gap_ns.load(Ordering::SeqCst));
    assert!(gap < longest, "clients waited for {gap:?}");
    nodes.iter().find(|node| node.port == new).expect("ours").say("DEL written");
    watch.until("the old one follows", |w| w.node(old).role == Role::Replica && w.node(old).fit_for_reads).await;
    new
}

#[tokio::test]
async fn a_switchover_through_sentinels_loses_nothing() {
    tokio::task::LocalSet::new().run_until(switchovers()).await;
}

async fn switchovers() {
    let folder = tempfile::tempdir().expect("a folder");
    let (nodes, sentinels) = three_of_each(folder.path());
    let watch = Watch::start(service(&sentinels, &[]));
    watch.until_whole().await;
    let hold = || {
        let writer = Arc::<Writer>::default();
        Arc::new(Held { writer, handle: watch.handle.clone() })
    };
    let second = Duration::from_secs(1);
    let dry = watch.handle.switchover(SERVICE, planned(None, second, true), "ann", hold()).await;
    assert!(dry.as_ref().is_ok_and(|told| told.contains("is possible")), "{dry:?}");
    let own = watch.handle.switchover(SERVICE, planned(Some("redis1".to_owned()), second, true), "ann", hold()).await;
    assert!(own.as_ref().is_err_and(|why| why.contains("is the primary already")), "{own:?}");

    let limit = Duration::from_secs(3);
    switched(&watch, &nodes, None, limit).await;
    watch.until_whole().await;
    assert!(watch.events("failover_loss").is_empty(), "it was planned: {:#?}", watch.events.rows());

    // The one that Sentinels would not choose: of equal priority and offset, by the larger run id.
    let view = watch.view();
    let replicas: Vec<u16> = view.nodes.iter().filter(|n| n.role == Role::Replica).map(|n| n.port).collect();
    let run_id = |port: &u16| {
        let info = nodes.iter().find(|node| node.port == *port).expect("ours").say("INFO server");
        info.lines().find_map(|line| line.strip_prefix("run_id:").map(str::to_owned)).expect("a run id")
    };
    let wanted = *replicas.iter().max_by_key(|port| run_id(port)).expect("two replicas");
    assert_eq!(switched(&watch, &nodes, Some(wanted), limit).await, wanted);
    for node in &nodes {
        let priority =
            node.say("INFO replication").lines().find_map(|l| l.strip_prefix("slave_priority:").map(str::to_owned));
        assert!(priority.is_none_or(|priority| priority == "100"), "put back on {}", node.port);
    }
    watch.until_whole().await;

    a_switchover_that_cannot_finish_is_undone(&watch, &nodes).await;
    watch.until_whole().await;

    for sentinel in &sentinels[..2] {
        sentinel.signal(Signal::STOP);
    }
    watch.until("two Sentinels are lost", |w| w.handle.insights()[0].heard == 1).await;
    let few = watch.handle.switchover(SERVICE, planned(None, second, true), "ann", hold()).await;
    assert!(few.as_ref().is_err_and(|why| why.contains("only 1 of 3 Sentinels")), "{few:?}");
    assert_eq!(watch.primary(), Some(wanted), "without a majority the primary is kept");
}

/// A replica hangs from the moment at which writes are held.
struct Hanging {
    held: Held,
    hang: Box<dyn Fn() + Send + Sync>,
}

impl HoldWrites for Hanging {
    fn drain<'a>(&'a self, _: &'a str, _: Duration) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>> {
        panic!("nobody has asked for a clean switchover")
    }
    fn hold<'a>(
        &'a self,
        of: &'a str,
        limit: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>> {
        (self.hang)();
        self.held.hold(of, limit)
    }
    fn blocked<'a>(&'a self, of: &'a str) -> Pin<Box<dyn Future<Output = Vec<u64>> + Send + 'a>> {
        self.held.blocked(of)
    }
    fn release(&self, of: &str) {
        self.held.release(of);
    }
}

async fn a_switchover_that_cannot_finish_is_undone(watch: &Watch, nodes: &[Server]) {
    let (old, epoch) = (watch.primary(), watch.view().epoch);
    let replicas: Vec<rustix::process::Pid> =
        nodes.iter().filter(|node| Some(node.port) != old).map(Server::pid).collect();
    let stopped = replicas.clone();
    let hang = Box::new(move || {
        stopped.iter().for_each(|pid| rustix::process::kill_process(*pid, Signal::STOP).expect("ours"));
    });
    let writer = Arc::<Writer>::default();
    let held = Held { writer: Arc::clone(&writer), handle: watch.handle.clone() };
    let (begun, limit) = (Instant::now(), Duration::from_millis(500));
    let undone =
        watch.handle.switchover(SERVICE, planned(None, limit, false), "ann", Arc::new(Hanging { held, hang })).await;
    replicas.iter().for_each(|pid| rustix::process::kill_process(*pid, Signal::CONT).expect("ours"));
    let why = undone.expect_err("no replica can have everything");
    assert!(why.contains("was given up"), "{why}");
    assert!(begun.elapsed() < Duration::from_secs(1), "within the limit: {:?}", begun.elapsed());
    assert!(!writer.held.load(Ordering::SeqCst), "writes go on");
    assert_eq!((watch.primary(), watch.view().epoch), (old, epoch));
    assert!(!watch.events("switchover_undone").is_empty());
}

#[tokio::test]
async fn without_sentinels_roles_decide() {
    tokio::task::LocalSet::new().run_until(roles_decide()).await;
}

async fn roles_decide() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = Server::node(folder.path(), None);
    let second = Server::node(folder.path(), Some(first.port));
    let third = Server::node(folder.path(), Some(first.port));
    let mut nodes = [first, second, third];
    let ports = [nodes[0].port, nodes[1].port, nodes[2].port];
    let watch = Watch::start(service(&[], &nodes));
    watch.until("the primary is found", |w| w.primary() == Some(ports[0])).await;
    watch.until("both replicas are fit", |w| ports[1..].iter().all(|port| w.node(*port).fit_for_reads)).await;

    nodes[2].say("REPLICAOF NO ONE");
    watch.until("a rival is fenced", |w| w.node(ports[2]).state == State::Fenced).await;
    assert_eq!(watch.primary(), Some(ports[0]), "the accepted one stays");
    nodes[2].say(&format!("REPLICAOF 127.0.0.1 {}", ports[0]));
    watch.until("it follows again", |w| w.node(ports[2]).fit_for_reads).await;

    let new = switched(&watch, &nodes, Some(ports[1]), Duration::from_secs(2)).await;
    assert_eq!(new, ports[1]);
    watch.until("all follow it", |w| [ports[0], ports[2]].iter().all(|port| w.node(*port).fit_for_reads)).await;

    nodes[1].kill();
    watch.handle.suspect(SERVICE, watch.node(ports[1]).id, "connection reset");
    watch.until("no writes", |w| w.primary().is_none()).await;
    nodes[0].say("REPLICAOF NO ONE");
    watch.until("the promoted one is taken", |w| w.primary() == Some(ports[0])).await;
    assert!(!watch.events("failover_loss").is_empty());
    nodes[1].start();
    nodes[1].say("REPLICAOF NO ONE");
    watch.until("the old one is fenced", |w| w.node(ports[1]).state == State::Fenced).await;
    assert_eq!(watch.primary(), Some(ports[0]));

    watch.handle.detach("redis3", "ann").await.expect("a node");
    watch.handle.drain(&format!("127.0.0.1:{}", ports[0]), "ann").await.expect("a node by its address");
    assert_eq!((watch.node(ports[2]).state, watch.primary()), (State::Detached, None));
    let unknown = watch.handle.detach("redis9", "ann").await;
    assert!(unknown.as_ref().is_err_and(|why| why.contains("cache.redis1")), "{unknown:?}");
    watch.handle.attach("cache.redis1", false, "ann").await.expect("nothing bars it");
    assert_eq!(watch.primary(), Some(ports[0]));
}
