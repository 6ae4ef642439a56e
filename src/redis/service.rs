//! One service on one thread: which node takes what, the lanes to it, and who has to wait.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};

use super::client::Client;
use super::connect::Wanted;
use super::core::Core;
use super::errors::Trouble;
use super::lane::{self, Kind, Lane, LaneKey};
use super::login::{DEFAULT_USER, Login, Logins};
use super::own::Own;
use super::shared::Totals;
use super::usage::Usage;
use crate::config::model::{RedisReads, RedisService, ServerTls};
use crate::net::Target;
use crate::topology::redis::{RedisNode, ServiceView};
use crate::topology::{Role, State};
use crate::wire::resp::Version;
use crate::wire::resp::command::{Access, Commands};
use crate::worker::clock::now_ns;

/// How long a doubt of the data path keeps requests back if the control thread says nothing new, ns.
const DOUBT: u64 = 100_000_000;
/// A lane that nobody has used for so long is closed, ns.
const LANE_IDLE: u64 = 60_000_000_000;
/// A client that holds up others for so long is closed, ns.
const STUCK: u64 = 10_000_000_000;
/// Lanes of one service on one thread: beyond that, those that have been idle for longest are closed. Each database,
/// user and protocol has its own.
const MOST_LANES: usize = 256;
/// Connections of their own that are kept for the next client.
const SPARE_OWN: usize = 16;

/// See the module.
pub struct Service {
    /// `[[redis.service]] name`.
    pub name: String,
    /// Settings in force.
    pub config: RefCell<Rc<RedisService>>,
    /// Counts of all threads.
    pub totals: Arc<Totals>,
    /// Counts of this thread.
    pub stats: Stats,
    /// What its commands and keys are used for.
    pub usage: Usage,
    /// Every login that was ever used here.
    pub logins: Logins,
    /// Changes whenever requests may have to go elsewhere.
    pub version: Cell<u64>,
    /// When a server was asked for its commands, ns.
    pub asked_commands: Cell<u64>,
    /// Requests on connections of their own that are not answered yet, those that block apart.
    pub own_pending: Cell<usize>,
    /// Clients of this thread that are between WATCH (or MULTI on a connection of their own) and EXEC.
    pub in_transaction: Cell<usize>,
    /// Nobody new may get there: a planned change waits for those who are.
    pub is_draining: Cell<bool>,
    /// Replies that wait for clients of this thread to take them, bytes.
    pub kept: Cell<usize>,
    view: RefCell<Arc<ServiceView>>,
    lanes: RefCell<FxHashMap<LaneKey, Vec<Kept>>>,
    spare: RefCell<Vec<Own>>,
    waiting: RefCell<VecDeque<(Rc<Client>, u64)>>,
    is_held: Cell<bool>,
    /// A node that did not behave as the view says: its id, the view's version of that moment, and when, ns.
    doubted: RefCell<Vec<(u64, u64)>>,
    has_learned: Cell<bool>,
    hello: RefCell<[Option<Rc<[u8]>>; 2]>,
    databases: RefCell<FxHashSet<u32>>,
    turn: Cell<usize>,
}

/// A lane, and when it was used last, ns.
type Kept = (Rc<Lane>, Cell<u64>);

/// What a service has done on one thread.
#[derive(Debug, Default)]
pub struct Stats {
    /// Requests to the primary.
    pub to_primary: Cell<u64>,
    /// Requests to replicas.
    pub to_replica: Cell<u64>,
    /// Requests on connections of their own.
    pub to_own: Cell<u64>,
    /// Clients that waited for a primary and got one.
    pub served: Cell<u64>,
    /// Clients that waited in vain.
    pub timed_out: Cell<u64>,
    /// Clients that were not let wait.
    pub refused: Cell<u64>,
    /// Requests whose outcome nobody knows.
    pub unknown: Cell<u64>,
    /// Requests that ran again elsewhere.
    pub moved: Cell<u64>,
    /// Logins that failed.
    pub bad_logins: Cell<u64>,
    /// Commands and writes of lanes that have ended.
    pub batching: Cell<(u64, u64)>,
}

impl Stats {
    /// Requests have gone to a shared connection.
    #[inline]
    pub fn count(&self, is_primary: bool, requests: u32) {
        let counter = if is_primary { &self.to_primary } else { &self.to_replica };
        counter.update(|n| n + u64::from(requests));
    }

    /// Requests that have gone to a server.
    pub fn sent(&self) -> u64 {
        self.to_primary.get() + self.to_replica.get() + self.to_own.get()
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Service({})", self.name)
    }
}

impl Service {
    /// A service nothing of which is known yet.
    pub fn new(config: RedisService, totals: Arc<Totals>) -> Rc<Self> {
        let view = ServiceView {
            name: config.name.clone(),
            epoch: 0,
            primary: None,
            nodes: Vec::new(),
            reason: "the nodes have not been looked at yet".into(),
            paused: None,
            wanted_fresh: Arc::default(),
        };
        Rc::new(Service {
            name: config.name.clone(),
            usage: Usage::new(config.count_keys, Arc::clone(&totals.seeds)),
            config: RefCell::new(Rc::new(config)),
            totals,
            stats: Stats::default(),
            logins: Logins::default(),
            version: Cell::new(1),
            asked_commands: Cell::new(0),
            own_pending: Cell::new(0),
            in_transaction: Cell::new(0),
            is_draining: Cell::new(false),
            kept: Cell::new(0),
            view: RefCell::new(Arc::new(view)),
            lanes: RefCell::default(),
            spare: RefCell::default(),
            waiting: RefCell::default(),
            is_held: Cell::new(false),
            doubted: RefCell::default(),
            has_learned: Cell::new(false),
            hello: RefCell::default(),
            databases: RefCell::default(),
            turn: Cell::new(0),
        })
    }

    // === what is known ===

    /// The nodes as last told.
    pub fn view(&self) -> Arc<ServiceView> {
        Arc::clone(&self.view.borrow())
    }

    /// The commands that the servers know.
    pub fn commands(&self) -> Arc<Commands> {
        Arc::clone(self.usage.table().commands())
    }

    /// The servers have said which commands they know.
    pub fn set_commands(&self, commands: Arc<Commands>) {
        self.usage.set_commands(commands);
        self.has_learned.set(true);
        self.note_change();
    }

    /// The table of commands is a server's own: what is not in it does not exist.
    pub fn has_learned(&self) -> bool {
        self.has_learned.get()
    }

    /// What a server answers to HELLO.
    pub fn learn_hello(&self, version: Version, reply: &[u8]) {
        if let Some(known) = self.hello.borrow_mut().get_mut(place(version)) {
            *known = Some(reply.into());
        }
    }

    /// What a server answered to HELLO.
    pub fn hello(&self, version: Version) -> Option<Rc<[u8]>> {
        self.hello.borrow().get(place(version)).cloned().flatten()
    }

    /// The servers have this database.
    pub fn learn_db(&self, db: u32) {
        self.databases.borrow_mut().insert(db);
    }

    /// True if the servers are known to have this database.
    pub fn has_db(&self, db: u32) -> bool {
        self.databases.borrow().contains(&db)
    }

    /// As whom a client speaks that has said nothing; `None` if it has to.
    pub fn anonymous(&self) -> Option<Rc<Login>> {
        self.config.borrow().auth.is_none().then(|| self.logins.of(DEFAULT_USER, None))
    }

    /// Whether a user may run an administrator's command.
    pub fn may_run(&self, user: &[u8], command: &str) -> bool {
        let config = self.config.borrow();
        let Some(allowed) = std::str::from_utf8(user).ok().and_then(|user| config.admin_commands.get(user)) else {
            return false;
        };
        let container = command.split('|').next().unwrap_or(command);
        allowed
            .iter()
            .any(|name| name == "*" || name.eq_ignore_ascii_case(command) || name.eq_ignore_ascii_case(container))
    }

    // === changes ===

    /// Requests may have to go elsewhere than before.
    fn note_change(&self) {
        self.version.update(|version| version + 1);
    }

    /// New nodes or roles.
    pub fn set_view(&self, view: Arc<ServiceView>) {
        let old = std::mem::replace(&mut *self.view.borrow_mut(), Arc::clone(&view));
        self.note_change();
        self.doubted.borrow_mut().clear();
        let primary = view.primary.and_then(|place| view.nodes.get(place)).map(|node| node.id);
        for lane in self.all_lanes() {
            let node = view.nodes.iter().find(|node| node.id == lane.key.node);
            let is_usable = node.is_some_and(|node| matches!(node.state, State::Up | State::Draining));
            match (lane.is_primary, primary) {
                // Whatever an old primary still answers is not waited for once there is a new one.
                (true, Some(id)) if id != lane.key.node => lane.replace(),
                (true, Some(_)) if view.epoch != old.epoch && old.epoch != 0 && old.primary.is_some() => lane.replace(),
                (true, _) => {}
                (false, Some(id)) if id == lane.key.node => lane.replace(),
                (false, _) if node.is_none() || !is_usable => lane.replace(),
                (false, _) => {}
            }
        }
        let fits = |own: &Own| primary == Some(own.node());
        self.spare.borrow_mut().retain(fits);
        self.release_waiting();
    }

    /// New settings.
    pub fn set_config(&self, config: RedisService) {
        let before = Rc::clone(&self.config.borrow());
        let was = before.auth.iter().map(|auth| (DEFAULT_USER, auth));
        let was = was.chain(before.users.iter().map(|(user, password)| (user.as_bytes(), password)));
        for (user, old) in was {
            let new = match std::str::from_utf8(user) {
                _ if user == DEFAULT_USER => config.auth.as_ref(),
                name => name.ok().and_then(|name| config.users.get(name)),
            };
            if let Some(new) = new.filter(|new| *new != old) {
                self.logins.renew(user, old.0.as_bytes(), new.0.as_bytes());
            }
        }
        if config.to_nodes != before.to_nodes {
            // What is on its way ends as it began; everything else goes by the new files.
            self.all_lanes().iter().for_each(|lane| lane.retire());
            self.spare.borrow_mut().clear();
        }
        self.usage.count_keys(config.count_keys);
        *self.config.borrow_mut() = Rc::new(config);
        self.note_change();
    }

    /// The service is not served any more, or not on this thread.
    pub fn close(&self) {
        for lane in self.all_lanes() {
            lane.replace();
        }
        self.spare.borrow_mut().clear();
        self.note_change();
    }

    /// Requests to the primary wait, for a planned change.
    pub fn hold(&self, is_held: bool) {
        self.is_held.set(is_held);
        self.note_change();
        if !is_held {
            self.is_draining.set(false);
            self.release_waiting();
        }
    }

    /// True if nothing is on its way to the primary. Commands that block change nothing while everybody is held.
    pub fn is_quiet(&self) -> bool {
        self.own_pending.get() == 0 && self.all_lanes().iter().all(|lane| !lane.is_primary || lane.is_idle())
    }

    /// A node does not behave as it should: nothing new goes there until the control thread has looked.
    pub fn doubt(&self, core: &Core, node: u64, why: &str) {
        core.shared.control.suspect(&self.name, node, why);
        let mut doubted = self.doubted.borrow_mut();
        if !doubted.iter().any(|(id, _)| *id == node) {
            doubted.push((node, now_ns()));
        }
        drop(doubted);
        self.note_change();
        for lane in self.all_lanes() {
            if lane.key.node == node {
                lane.retire();
            }
        }
    }

    /// Another node than this is the primary.
    pub fn is_replaced(&self, node: u64) -> bool {
        let view = self.view.borrow();
        view.primary.and_then(|place| view.nodes.get(place)).is_some_and(|primary| primary.id != node)
    }

    fn is_doubted(&self, node: u64) -> bool {
        self.doubted.borrow().iter().any(|(id, _)| *id == node)
    }

    // === lanes ===

    fn all_lanes(&self) -> Vec<Rc<Lane>> {
        self.lanes.borrow().values().flatten().map(|(lane, _)| Rc::clone(lane)).collect()
    }

    /// The node that takes writes, by its id.
    ///
    /// # Errors
    /// Why requests have to wait.
    pub fn primary(&self) -> Result<u64, String> {
        let view = self.view.borrow();
        if self.is_held.get() {
            return Err("its primary is being changed".into());
        }
        let Some(node) = view.primary.and_then(|place| view.nodes.get(place)) else {
            return Err(view.reason.clone());
        };
        if self.is_doubted(node.id) {
            return Err(format!("{} does not behave like the primary", node.name));
        }
        Ok(node.id)
    }

    /// Where a node is reached.
    fn target(&self, node: u64) -> Result<Target, String> {
        let view = self.view.borrow();
        let node = view.nodes.iter().find(|known| known.id == node).ok_or("the node is gone")?;
        Ok(Target { host: node.host.clone(), port: node.port })
    }

    /// How every node is met.
    fn tls(&self) -> ServerTls {
        self.config.borrow().to_nodes.clone()
    }

    /// The node for a request, by its id, and whether it is the primary: a replica where that is wished and allowed. `seen` is the time, ns, of the client's
    /// last write, which a replica must have; 0 if it has written nothing.
    fn node_for(&self, access: Access, seen: u64) -> Result<(u64, bool), String> {
        let reads = self.config.borrow().reads;
        if access != Access::Read || reads == RedisReads::Primary {
            return self.primary().map(|node| (node, true));
        }
        let view = self.view();
        let fits = |node: &&RedisNode| {
            node.fit_for_reads && node.state == State::Up && node.role == Role::Replica && !self.is_doubted(node.id)
        };
        let fit: Vec<&RedisNode> = view.nodes.iter().filter(fits).collect();
        let fresh: Vec<&RedisNode> =
            fit.iter().copied().filter(|node| seen == 0 || node.fresh.has_seen(seen)).collect();
        if fresh.len() < fit.len() {
            view.wanted_fresh.raise();
        }
        match reads {
            RedisReads::Nearest => {
                let primary = self.primary().ok().and_then(|id| view.nodes.iter().find(|node| node.id == id));
                let far = |node: &RedisNode| node.round_trip.unwrap_or(Duration::MAX);
                let replica = fresh.iter().min_by_key(|node| far(node)).copied();
                match (primary, replica) {
                    (Some(primary), Some(replica)) if far(replica) < far(primary) => Ok((replica.id, false)),
                    (Some(primary), _) => Ok((primary.id, true)),
                    (None, Some(replica)) => Ok((replica.id, false)),
                    (None, None) => self.primary().map(|node| (node, true)),
                }
            }
            _ => match self.least_loaded(&fresh) {
                Some(node) => Ok((node.id, false)),
                None if !fit.is_empty() || reads == RedisReads::PreferReplica => {
                    self.primary().map(|node| (node, true))
                }
                None => Err("no replica may be read (reads = \"replica\")".into()),
            },
        }
    }

    /// Of these the one with the fewest requests on its way for its weight; among equals each in its turn.
    fn least_loaded<'a>(&self, nodes: &[&'a RedisNode]) -> Option<&'a RedisNode> {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let lanes = self.lanes.borrow();
        let load = |node: &RedisNode| -> usize {
            let of_node = lanes.values().flatten().filter(|(lane, _)| lane.key.node == node.id);
            (1 + of_node.map(|(lane, _)| lane.load()).sum::<usize>()) * 1000 / (node.weight.max(1) as usize)
        };
        let n = nodes.len();
        (0..n).filter_map(|i| nodes.get((i + turn) % n).copied()).min_by_key(|node| load(node))
    }

    /// The lane for a request of a client.
    ///
    /// # Errors
    /// Why it has to wait.
    pub fn lane_for(
        self: &Rc<Self>,
        core: &Rc<Core>,
        client: &Client,
        access: Access,
        kind: Kind,
        seen: u64,
    ) -> Result<Rc<Lane>, String> {
        let (node, is_primary) = self.node_for(access, seen)?;
        let login = client.login.borrow().clone();
        let login = login.unwrap_or_else(|| self.logins.of(DEFAULT_USER, None));
        // Whose user a connection for logins is changes with every client.
        let login = if kind == Kind::Login { self.logins.of(DEFAULT_USER, None) } else { login };
        let db = if kind == Kind::Login { 0 } else { client.db.get() };
        let version = if kind == Kind::Login { Version::Resp2 } else { client.version.get() };
        let key = LaneKey { node, version, db, login: login.id, kind };
        if let Some(lane) = self.open_lane(&key, client.id) {
            return Ok(lane);
        }
        let target = self.target(node)?;
        self.retire_idle();
        let wanted =
            Wanted { target, tls: self.tls(), is_primary, login, version, db, is_for_logins: kind == Kind::Login };
        let lane = Lane::new(key.clone(), is_primary);
        self.lanes.borrow_mut().entry(key).or_default().push((Rc::clone(&lane), Cell::new(now_ns())));
        lane::open(core, self, &lane, wanted);
        Ok(lane)
    }

    /// One of the lanes of a key, if there are as many as are wanted.
    fn open_lane(&self, key: &LaneKey, client: u64) -> Option<Rc<Lane>> {
        let lanes = self.lanes.borrow();
        let open: Vec<&Kept> = lanes.get(key)?.iter().filter(|(lane, _)| lane.is_open()).collect();
        if open.len() < self.config.borrow().lanes {
            return None;
        }
        let (lane, used) = open.get(client as usize % open.len())?;
        used.set(now_ns());
        Some(Rc::clone(lane))
    }

    /// Makes room for another lane, if some are idle.
    fn retire_idle(&self) {
        let lanes = self.lanes.borrow();
        let open = || lanes.values().flatten().filter(|(lane, _)| lane.is_open());
        if open().count() >= MOST_LANES
            && let Some((lane, _)) = open().filter(|(lane, _)| lane.is_idle()).min_by_key(|(_, used)| used.get())
        {
            lane.retire();
        }
    }

    /// A lane has ended.
    pub fn forget_lane(&self, lane: &Lane) {
        let (commands, writes) = self.stats.batching.get();
        let (more, in_writes) = lane.batching();
        self.stats.batching.set((commands + more, writes + in_writes));
        let mut lanes = self.lanes.borrow_mut();
        if let Some(of_key) = lanes.get_mut(&lane.key) {
            of_key.retain(|(kept, _)| !std::ptr::eq(Rc::as_ptr(kept), lane));
            if of_key.is_empty() {
                lanes.remove(&lane.key);
            }
        }
        drop(lanes);
        self.note_change();
    }

    /// What `connect` needs for a connection of a client's own to the primary.
    ///
    /// # Errors
    /// Why it has to wait.
    pub fn own_wanted(&self, client: &Client) -> Result<(u64, Wanted), String> {
        let node = self.primary()?;
        let target = self.target(node)?;
        let login = client.login.borrow().clone().unwrap_or_else(|| self.logins.of(DEFAULT_USER, None));
        let (version, db) = (client.version.get(), client.db.get());
        Ok((node, Wanted { target, tls: self.tls(), is_primary: true, login, version, db, is_for_logins: false }))
    }

    /// What `connect` needs for a connection of a client's user to the primary, even one that is in doubt; its database is
    /// the first, since a server that is busy with a script takes no SELECT.
    ///
    /// # Errors
    /// Nobody is known to be the primary.
    pub fn kill_wanted(&self, client: &Client) -> Result<Wanted, String> {
        let view = self.view();
        let node = view.primary.and_then(|place| view.nodes.get(place)).ok_or_else(|| view.reason.clone())?;
        let target = Target { host: node.host.clone(), port: node.port };
        let login = client.login.borrow().clone().unwrap_or_else(|| self.logins.of(DEFAULT_USER, None));
        Ok(Wanted {
            target,
            tls: self.tls(),
            is_primary: true,
            login,
            version: Version::Resp2,
            db: 0,
            is_for_logins: false,
        })
    }

    /// What `connect` needs for a question of Forebay's own to the primary.
    ///
    /// # Errors
    /// Why it has to wait.
    pub fn control_wanted(&self) -> Result<(u64, Wanted), String> {
        let node = self.primary()?;
        let target = self.target(node)?;
        let password = self.config.borrow().auth.clone();
        let login = self.logins.of(DEFAULT_USER, password.as_ref().map(|password| password.0.as_bytes()));
        let version = Version::Resp2;
        Ok((node, Wanted { target, tls: self.tls(), is_primary: true, login, version, db: 0, is_for_logins: false }))
    }

    /// A connection that somebody has given back clean.
    pub fn take_spare(&self, node: u64, wanted: &Wanted) -> Option<Own> {
        let mut spare = self.spare.borrow_mut();
        loop {
            let found = spare.iter().rposition(|own| own.fits(node, wanted))?;
            let mut own = spare.remove(found);
            // A request on one that the server has closed meanwhile would be one whose outcome nobody knows.
            if !own.is_stale() {
                return Some(own);
            }
        }
    }

    /// Takes back a connection that is clean.
    pub fn give_spare(&self, own: Own) {
        let mut spare = self.spare.borrow_mut();
        if self.primary().is_ok_and(|node| node == own.node()) {
            if spare.len() >= SPARE_OWN {
                spare.remove(0);
            }
            spare.push(own);
        }
    }

    // === waiting ===

    /// The client waits until there is a primary; its task is woken then, and when `until`, ns, is over.
    ///
    /// # Errors
    /// As many as may wait do so.
    pub fn wait(&self, client: &Rc<Client>, until: u64) -> Result<(), Trouble> {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.iter().any(|(known, _)| Rc::ptr_eq(known, client)) {
            return Ok(());
        }
        let length = self.config.borrow().queue_length;
        if let Some(length) = length
            && self.totals.waiting.load(Ordering::Relaxed) >= length
        {
            self.stats.refused.set(self.stats.refused.get() + 1);
            return Err(Trouble::QueueFull { service: self.name.clone(), length });
        }
        self.totals.waiting.fetch_add(1, Ordering::Relaxed);
        waiting.push_back((Rc::clone(client), until));
        Ok(())
    }

    /// The client waits no more, whatever the reason.
    pub fn wait_no_more(&self, client: &Client) {
        let mut waiting = self.waiting.borrow_mut();
        let before = waiting.len();
        waiting.retain(|(known, _)| known.id != client.id);
        self.totals.waiting.fetch_sub(before - waiting.len(), Ordering::Relaxed);
    }

    /// As [`Service::wait`], without an end and whatever `queue_length` is: for who has not asked for anything.
    pub fn wait_quietly(&self, client: &Rc<Client>) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|(known, _)| Rc::ptr_eq(known, client)) {
            self.totals.waiting.fetch_add(1, Ordering::Relaxed);
            waiting.push_back((Rc::clone(client), u64::MAX));
        }
    }

    fn release_waiting(&self) {
        let released = self.waiting.take();
        self.totals.waiting.fetch_sub(released.len(), Ordering::Relaxed);
        for (client, _) in released {
            client.wake();
        }
    }

    /// How many wait on this thread, and since when the first has, by its deadline, ns.
    pub fn queue(&self) -> (usize, Option<u64>) {
        let waiting = self.waiting.borrow();
        (waiting.len(), waiting.iter().map(|(_, until)| *until).min())
    }

    /// Every 100 ms.
    pub fn tick(&self, now: u64) {
        self.usage.tick(now);
        let had_doubts = !self.doubted.borrow().is_empty();
        self.doubted.borrow_mut().retain(|(_, at)| now.saturating_sub(*at) < DOUBT);
        if had_doubts && self.doubted.borrow().is_empty() {
            self.note_change();
            self.release_waiting();
        }
        let due: Vec<Rc<Client>> =
            self.waiting.borrow().iter().filter(|(_, until)| *until <= now).map(|(c, _)| Rc::clone(c)).collect();
        for client in due {
            self.wait_no_more(&client);
            client.wake();
        }
        for (lane, used) in self.lanes.borrow().values().flatten() {
            lane.cut_stuck(now, STUCK);
            if !lane.is_idle() {
                used.set(now);
            } else if now.saturating_sub(used.get()) > LANE_IDLE {
                lane.retire();
            }
        }
        self.spare.borrow_mut().retain(|own| now.saturating_sub(own.since()) < LANE_IDLE);
    }

    /// Commands that went out on lanes, the writes that took them, and how many lanes are open.
    pub fn batching(&self) -> (u64, u64, usize) {
        let (mut commands, mut writes) = self.stats.batching.get();
        let lanes = self.all_lanes();
        for lane in &lanes {
            let (more, in_writes) = lane.batching();
            commands += more;
            writes += in_writes;
        }
        (commands, writes, lanes.len())
    }

    /// Open lanes by node.
    pub fn connections(&self, node: u64) -> usize {
        let spare = self.spare.borrow().iter().filter(|own| own.node() == node).count();
        spare + self.all_lanes().iter().filter(|lane| lane.key.node == node).count()
    }
}

fn place(version: Version) -> usize {
    match version {
        Version::Resp2 => 0,
        Version::Resp3 => 1,
    }
}
