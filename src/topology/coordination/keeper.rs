//! The thread that keeps the lease, and everything that hangs on it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::future::pending;
use std::hash::{Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustc_hash::FxHasher;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use super::etcd::{Condition, Deed, Entry, Etcd, Event, Trouble};
use super::peers::{Door, Roster, hex};
use super::{Call, Coordination, LEADER, Member, SECRET, View};
use crate::config::model::{Coordination as Config, ServerTls};
use crate::worker::permit::{Permit, boottime_ns};

/// Before etcd is asked again after it could not be reached.
const AGAIN: Duration = Duration::from_millis(100);
/// Between two looks at instances that have vanished.
const GHOSTS: Duration = Duration::from_secs(1);
/// Whoever wanted another to lead does not for so long.
const LEAVE: Duration = Duration::from_secs(1);

/// What the rest of the program wants.
pub(super) enum Ask {
    Join(String),
    Leave(String),
    Ready(String, u64),
    /// A key under the lease, without the own name at its end.
    Publish(String, String),
    Write {
        key: String,
        expected: i64,
        text: String,
        reply: oneshot::Sender<Result<i64, String>>,
    },
    Call {
        to: String,
        what: String,
        reply: oneshot::Sender<Result<String, String>>,
    },
    Resign(Duration),
    StandAside(bool),
    Goodbye(oneshot::Sender<()>),
}

pub(super) struct Keeper {
    pub(super) etcd: Etcd,
    pub(super) prefix: String,
    pub(super) lease_time: Duration,
    member: RefCell<Member>,
    place: u64,
    peer_listen: Option<SocketAddr>,
    /// Since when etcd has not answered a sign of life.
    silent_since_ns: Cell<Option<u64>>,
    permit: Arc<Permit>,
    pub(super) view: watch::Sender<Arc<View>>,
    pub(super) state: RefCell<State>,
    /// Takes what other instances want done here.
    pub(super) called: mpsc::UnboundedSender<Call>,
    /// A key under the lease has another value.
    published: Notify,
    /// Somebody else should lead, or nobody does.
    campaign: Notify,
    /// The session is over, whatever etcd says.
    pub(super) is_leaving: Cell<bool>,
    left: Notify,
    /// The own key is gone.
    evicted: Notify,
    /// etcd's revision at the last sign of life.
    heard_of: Cell<i64>,
    /// The watch is silent about changes.
    is_behind: Notify,
}

#[derive(Default)]
pub(super) struct State {
    lease: i64,
    /// Keys under the lease, and those that etcd does not have yet.
    published: BTreeMap<String, String>,
    unsent: BTreeSet<String>,
    participants: BTreeSet<String>,
    /// Since which session they go by what is decided.
    ready: BTreeMap<String, u64>,
    is_aside: bool,
    leads_not_before: Option<Instant>,
    /// Calls of this instance that were not answered yet, by number: to whom.
    pub(super) waiting: BTreeMap<u64, (String, oneshot::Sender<Result<String, String>>)>,
    last_call: u64,
    /// Calls of others that are being carried out, or were, by their keys.
    pub(super) taken: BTreeSet<String>,
    /// Others that stand in the roster, or may.
    knows: BTreeSet<String>,
    /// Processes of this instance before this one.
    replaces: BTreeSet<String>,
}

pub(super) fn start(config: &Config, tls: &ServerTls, me: Member, place: u64) -> Result<Coordination, String> {
    let prefix = format!("/{}/", config.prefix.trim_matches('/'));
    let mut hasher = FxHasher::default();
    prefix.hash(&mut hasher);
    let mut random = [0_u8; 4];
    getrandom::fill(&mut random).map_err(|e| e.to_string())?;
    let id = format!("{}~{:08x}", super::coded(&me.name), u32::from_le_bytes(random));
    let (view, seen) = watch::channel(Arc::new(View::new(id)));
    let (asks, asked) = mpsc::unbounded_channel();
    let (called, calls) = mpsc::unbounded_channel();
    let calls = Arc::new(Mutex::new(Some(calls)));
    let permit = Arc::new(Permit::leased());
    let coordination = Coordination {
        view: seen,
        asks,
        permit: Arc::clone(&permit),
        group: hasher.finish(),
        calls,
        lease_time: config.lease,
    };
    // Two members that do not answer must not cost the lease.
    let patience = (config.lease / 10).clamp(Duration::from_millis(200), Duration::from_secs(1));
    let login = config.user.clone().zip(config.password.clone());
    let (urls, tls, lease_time) = (config.etcd.clone(), tls.clone(), config.lease);
    let (member, peer_listen) = (RefCell::new(me), config.peer_listen.as_ref().and_then(|at| at.parse().ok()));
    // Here, so that a URL that cannot be used ends the start.
    Etcd::new(&urls, &tls, None, patience)?;
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default());
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "coordination cannot run"),
        };
        let Ok(etcd) = Etcd::new(&urls, &tls, login, patience) else { return };
        let keeper = Rc::new(Keeper {
            etcd,
            prefix,
            lease_time,
            member,
            permit,
            view,
            place,
            peer_listen,
            silent_since_ns: Cell::new(None),
            state: RefCell::default(),
            called,
            published: Notify::new(),
            campaign: Notify::new(),
            is_leaving: Cell::new(false),
            left: Notify::new(),
            evicted: Notify::new(),
            heard_of: Cell::new(0),
            is_behind: Notify::new(),
        });
        runtime.block_on(keeper.run(asked));
    };
    std::thread::Builder::new().name("coordination".to_owned()).spawn(run).map_err(|e| e.to_string())?;
    Ok(coordination)
}

impl Keeper {
    async fn run(self: Rc<Self>, asked: mpsc::UnboundedReceiver<Ask>) {
        let sessions = Rc::clone(&self);
        tokio::select! {
            () = Rc::clone(&self).obey(asked) => {}
            () = async move {
                loop {
                    let why = sessions.session().await;
                    sessions.lose(why);
                    if sessions.is_leaving.get() {
                        return sessions.say_goodbye().await;
                    }
                    sleep(AGAIN).await;
                }
            } => {}
        }
        self.permit.end();
    }

    async fn obey(self: Rc<Self>, mut asked: mpsc::UnboundedReceiver<Ask>) {
        while let Some(ask) = asked.recv().await {
            match ask {
                Ask::Join(participant) => {
                    // Its way to write is closed: nothing that it may have missed lets it write.
                    let session = self.view.borrow().session;
                    let mut state = self.state.borrow_mut();
                    state.participants.insert(participant.clone());
                    state.ready.insert(participant, session);
                }
                Ask::Leave(participant) => {
                    self.state.borrow_mut().participants.remove(&participant);
                }
                Ask::Ready(participant, session) => {
                    self.state.borrow_mut().ready.insert(participant, session);
                    self.arm();
                }
                Ask::Publish(key, value) => {
                    let key = format!("{key}/{}", self.me());
                    let mut state = self.state.borrow_mut();
                    if state.published.insert(key.clone(), value.clone()).as_ref() != Some(&value) {
                        state.unsent.insert(key);
                        self.published.notify_one();
                    }
                }
                Ask::Write { key, expected, text, reply } => {
                    let keeper = Rc::clone(&self);
                    tokio::task::spawn_local(async move {
                        // Whoever asked may have left.
                        let _ = reply.send(keeper.write(&key, expected, &text).await);
                    });
                }
                Ask::Call { to, what, reply } => {
                    let number = {
                        let mut state = self.state.borrow_mut();
                        state.last_call += 1;
                        let number = state.last_call;
                        state.waiting.insert(number, (to.clone(), reply));
                        number
                    };
                    let keeper = Rc::clone(&self);
                    tokio::task::spawn_local(async move { keeper.call(number, &to, &what).await });
                }
                Ask::Resign(pause) => {
                    self.state.borrow_mut().leads_not_before = Some(Instant::now() + pause.max(LEAVE));
                    self.campaign.notify_one();
                }
                Ask::StandAside(is_aside) => {
                    self.state.borrow_mut().is_aside = is_aside;
                    self.campaign.notify_one();
                }
                Ask::Goodbye(reply) => {
                    self.permit.end();
                    self.is_leaving.set(true);
                    self.left.notify_one();
                    let keeper = Rc::clone(&self);
                    tokio::task::spawn_local(async move {
                        // The lease is given back by whoever had it.
                        let mut view = keeper.view.subscribe();
                        let is_gone = view.wait_for(|view| view.session == u64::MAX);
                        drop(timeout(keeper.lease_time, is_gone).await);
                        let _ = reply.send(());
                    });
                }
            }
        }
    }

    pub(super) fn me(&self) -> String {
        self.view.borrow().me.clone()
    }

    pub(super) fn lease(&self) -> i64 {
        self.state.borrow().lease
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut View)) {
        let mut view = View::clone(&self.view.borrow());
        change(&mut view);
        self.view.send_replace(Arc::new(view));
    }

    /// From a new lease to its end; the answer is why it ended.
    async fn session(self: &Rc<Self>) -> String {
        let granted = match self.register().await {
            Ok((granted, until_ns)) => {
                self.change(|view| {
                    (view.session, view.lost, view.until_ns) = (view.session + 1, None, until_ns);
                });
                granted
            }
            Err(trouble) => return trouble.to_string(),
        };
        tracing::info!(granted = ?granted, "etcd knows this instance");
        self.arm();
        tokio::select! {
            why = self.keep(granted) => why,
            never = self.follow() => match never {},
            never = self.publish() => match never {},
            never = self.lead() => match never {},
            never = self.tell_roster() => match never {},
            () = self.left.notified() => "this instance stops".to_owned(),
        }
    }

    /// Has etcd know this instance under a new lease, and reads what was decided; the time that etcd grants, and the end of
    /// the right to write.
    async fn register(self: &Rc<Self>) -> Result<(Duration, u64), Trouble> {
        let sent_ns = boottime_ns();
        let (lease, granted) = self.etcd.grant(self.lease_time.as_secs().max(1)).await?;
        self.open_door().await;
        // The other instances begin to wait for this one from here on; what is decided is read after that.
        let me = format!("{}members/{}", self.prefix, self.me());
        let member = serde_json::to_string(&*self.member.borrow()).unwrap_or_default();
        self.etcd.put(&me, &member, lease).await?;
        self.read().await?;
        self.draw_secret().await?;
        self.silent_since_ns.set(None);
        self.change(|view| (view.token, view.is_alone) = (None, false));
        let mut state = self.state.borrow_mut();
        state.lease = lease;
        state.unsent = state.published.keys().cloned().collect();
        drop(state);
        self.published.notify_one();
        self.campaign.notify_one();
        Ok((granted, self.until(sent_ns, granted)))
    }

    /// Where the others ask this instance when etcd is lost.
    async fn open_door(self: &Rc<Self>) {
        if !self.member.borrow().peer.is_empty() {
            return;
        }
        let Some(at) = self.peer_listen.or_else(|| Some(SocketAddr::new(self.etcd.local_ip()?, 0))) else { return };
        match Door::open(at).await {
            Ok(door) => {
                let host = if at.ip().is_unspecified() { self.etcd.local_ip().unwrap_or(at.ip()) } else { at.ip() };
                self.member.borrow_mut().peer = SocketAddr::new(host, door.address.port()).to_string();
                tokio::task::spawn_local(door.serve(Rc::clone(self)));
            }
            Err(error) => {
                tracing::warn!(%error, %at, "the other instances cannot ask this one: it stops writing when etcd is lost");
            }
        }
    }

    /// The first instance draws what all of them sign with.
    async fn draw_secret(self: &Rc<Self>) -> Result<(), Trouble> {
        if self.view.borrow().secret().is_some() {
            return Ok(());
        }
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|error| Trouble::Refused(error.to_string()))?;
        let (key, value) = (format!("{}{SECRET}", self.prefix), hex(&secret));
        let deeds = [Deed::Put { key: &key, value: &value, lease: 0 }];
        self.etcd.transact(&[Condition::CreatedAt(&key, 0)], &deeds, &key).await.map(drop)?;
        self.read().await
    }

    /// What this instance knows, for when it has vanished.
    async fn tell_roster(self: &Rc<Self>) -> Infallible {
        let mut view = self.view.subscribe();
        let mut told = None;
        loop {
            let present = Arc::clone(&view.borrow_and_update());
            let knows = present.others().map(str::to_owned).collect();
            let key = format!("roster/{}", present.me);
            let is_there = present.entries.contains_key(&key);
            let replaces = self.state.borrow().replaces.clone();
            let roster = Roster { knows, place: self.place, replaces };
            if present.lost.is_none() && (told.as_ref() != Some(&roster) || !is_there) {
                let value = serde_json::to_string(&roster).unwrap_or_default();
                // What may be in etcd counts: whoever is in it may lead when this instance has vanished.
                self.state.borrow_mut().knows.extend(roster.knows.iter().cloned());
                match self.etcd.put(&format!("{}{key}", self.prefix), &value, 0).await {
                    Ok(()) => {
                        self.state.borrow_mut().knows.clone_from(&roster.knows);
                        told = Some(roster);
                    }
                    Err(trouble) => {
                        tracing::debug!(%trouble, "the roster is not told");
                        sleep(AGAIN).await;
                    }
                }
                if !is_there {
                    // The watch tells it.
                    drop(timeout(self.lease_time / 5, view.changed()).await);
                }
                continue;
            }
            if view.changed().await.is_err() {
                pending::<()>().await;
            }
        }
    }

    /// Everybody who may lead without this instance.
    pub(super) fn known(&self) -> BTreeSet<String> {
        let mut known = self.state.borrow().knows.clone();
        known.extend(self.view.borrow().others().map(str::to_owned));
        known
    }

    /// Whether etcd answers now.
    pub(super) async fn look_for_etcd(&self) {
        let alive = timeout(self.lease_time / 10, self.etcd.keep_alive(self.lease())).await;
        if !matches!(alive, Ok(Ok(_))) && self.silent_since_ns.get().is_none() {
            self.silent_since_ns.set(Some(boottime_ns()));
        }
    }

    /// etcd has not answered this instance for long enough that it is no accident.
    pub(super) fn is_out_of_touch(&self) -> bool {
        self.view.borrow().lost.is_some() || self.silent_since_ns.get().is_some()
    }

    /// The end of the right to write: counted from before etcd was asked, and a fifth earlier than etcd may take it away.
    fn until(&self, sent_ns: u64, granted: Duration) -> u64 {
        let time = granted * 4 / 5;
        sent_ns.saturating_add(u64::try_from(time.as_nanos()).unwrap_or_default())
    }

    /// Gives the right to write, once everybody goes by what was decided.
    fn arm(&self) {
        let view = Arc::clone(&self.view.borrow());
        let state = self.state.borrow();
        let is_ready = |participant: &String| state.ready.get(participant) == Some(&view.session);
        if view.lost.is_none() && !self.is_leaving.get() && state.participants.iter().all(is_ready) {
            self.permit.extend(view.until_ns);
        }
    }

    fn lose(&self, why: String) {
        self.permit.end();
        for (_, (_, reply)) in std::mem::take(&mut self.state.borrow_mut().waiting) {
            // Whoever asked may have left.
            let _ = reply.send(Err(format!("this instance is cut off from the others: {why}")));
        }
        if self.view.borrow().lost.as_ref() != Some(&why) {
            tracing::warn!(why, "etcd does not know this instance");
            self.change(|view| (view.lost, view.token, view.is_alone) = (Some(why), None, false));
        }
    }

    /// Gives signs of life until the right to write has ended.
    async fn keep(self: &Rc<Self>, mut granted: Duration) -> String {
        let mut last = String::new();
        loop {
            let left = Duration::from_nanos(self.view.borrow().until_ns.saturating_sub(boottime_ns()));
            if left.is_zero() {
                return if last.is_empty() { "this process was held up".to_owned() } else { last };
            }
            let pause = if last.is_empty() { granted / 3 } else { AGAIN };
            let is_evicted = timeout(pause.min(left), self.evicted.notified()).await.is_ok();
            let sent_ns = boottime_ns();
            let alive = timeout(granted / 5, self.etcd.keep_alive(self.lease()));
            match if is_evicted { Ok(Ok((Duration::ZERO, 0))) } else { alive.await } {
                // Others may have changed what is decided since: only if they have not, this instance goes on as it is.
                Ok(Ok((Duration::ZERO, _))) => {
                    let before = self.view.borrow().revisions();
                    match self.register().await {
                        Ok((time, until_ns))
                            if self.view.borrow().revisions() == before && self.view.borrow().is_calm() =>
                        {
                            tracing::info!("the lease had ended, and nothing was decided since: there is a new one");
                            granted = time;
                            self.prolong(until_ns);
                            last = String::new();
                        }
                        Ok(_) => {
                            return "the lease has ended, and the others have decided without this instance".to_owned();
                        }
                        Err(Trouble::Refused(why)) => return why,
                        Err(trouble) => last = self.go_on_alone(trouble.to_string()).await,
                    }
                }
                Ok(Ok((_, revision))) => {
                    self.look_for_silence(revision).await;
                    self.silent_since_ns.set(None);
                    if self.view.borrow().is_alone {
                        tracing::info!("etcd answers again");
                        self.change(|view| view.is_alone = false);
                        self.campaign.notify_one();
                    }
                    self.prolong(self.until(sent_ns, granted));
                    last = String::new();
                }
                Ok(Err(trouble)) => last = self.go_on_alone(trouble.to_string()).await,
                Err(_) => last = self.go_on_alone("etcd does not answer".to_owned()).await,
            }
        }
    }

    /// A member that hangs keeps a watch open and says nothing: what another one knows has to be told within the time between
    /// two signs of life.
    async fn look_for_silence(&self, revision: i64) {
        let view = Arc::clone(&self.view.borrow());
        // Somebody else may have written to etcd.
        if self.heard_of.replace(revision) > view.revision
            && let Ok(Ok((newest, count))) = timeout(self.lease_time / 5, self.etcd.newest(&self.prefix)).await
            && (newest > view.revision || count != view.entries.len())
        {
            self.is_behind.notify_one();
        }
    }

    fn prolong(&self, until_ns: u64) {
        self.change(|view| view.until_ns = view.until_ns.max(until_ns));
        self.arm();
    }

    /// etcd does not answer: with the word of all others this instance goes on as it is. Returns why it may have to stop.
    async fn go_on_alone(&self, why: String) -> String {
        if self.silent_since_ns.get().is_none() {
            self.silent_since_ns.set(Some(boottime_ns()));
        }
        match self.ask_all().await {
            Ok(until_ns) => {
                if !self.view.borrow().is_alone {
                    tracing::warn!(why, "etcd is lost; all instances go on as they are");
                    self.change(|view| view.is_alone = true);
                }
                self.prolong(until_ns);
                why
            }
            Err(other) => format!("{why}; {other}"),
        }
    }

    /// Reads everything anew.
    async fn read(self: &Rc<Self>) -> Result<(), Trouble> {
        let (events, revision) = self.etcd.list(&self.prefix).await?;
        let entries = events
            .into_iter()
            .filter_map(|event| Some((event.key.strip_prefix(&self.prefix)?.to_owned(), event.entry?)));
        let entries: Arc<BTreeMap<String, Entry>> = Arc::new(entries.collect());
        let own = format!("members/{}", self.me());
        if self.view.borrow().entries.contains_key(&own) && !entries.contains_key(&own) {
            self.evicted.notify_one();
        }
        self.change(|view| {
            let gone = view.below("members/").map(|(id, _)| id.to_owned());
            let gone = gone.filter(|id| !entries.contains_key(&format!("members/{id}")));
            let gone: Vec<(String, u64)> = gone.map(|id| (id, boottime_ns())).collect();
            view.departed.extend(gone);
            (view.entries, view.revision) = (entries, revision);
        });
        self.campaign.notify_one();
        self.look_for_calls();
        Ok(())
    }

    /// Takes in what changes.
    async fn follow(self: &Rc<Self>) -> Infallible {
        loop {
            let revision = self.view.borrow().revision;
            let ended = match self.etcd.watch(&self.prefix, revision + 1).await {
                Ok(mut watch) => loop {
                    tokio::select! {
                        changes = watch.next() => match changes {
                            // What etcd says of its own revision may be ahead of what it has told.
                            Ok(events) => {
                                let newest = events.iter().map(|event| event.revision).max().unwrap_or_default();
                                self.take(events, newest);
                            }
                            Err(why) => break why,
                        },
                        () = self.is_behind.notified() => break "a member of etcd is silent about changes".to_owned(),
                    }
                },
                Err(trouble) => trouble.to_string(),
            };
            tracing::debug!(why = ended, "changes in etcd are not told");
            // What was missed is read; the lease tells whether etcd is there at all.
            while let Err(trouble) = self.read().await {
                tracing::debug!(%trouble, "etcd cannot be read");
                sleep(AGAIN).await;
            }
            sleep(AGAIN).await;
        }
    }

    fn take(self: &Rc<Self>, events: Vec<Event>, revision: i64) {
        if events.is_empty() {
            return;
        }
        let mut is_evicted = false;
        self.change(|view| {
            let departed = &mut view.departed;
            departed.retain(|gone| gone.1.saturating_add(super::DEPARTING_NS) > boottime_ns());
            let entries = Arc::make_mut(&mut view.entries);
            for event in events {
                let Some(key) = event.key.strip_prefix(&self.prefix) else { continue };
                // What this instance has done itself is known before it is told.
                if entries.get(key).is_some_and(|known| known.mod_revision >= event.revision) {
                    continue;
                }
                match event.entry {
                    Some(entry) => drop(entries.insert(key.to_owned(), entry)),
                    None => {
                        entries.remove(key);
                        if let Some(member) = key.strip_prefix("members/") {
                            is_evicted |= member == view.me;
                            departed.push((member.to_owned(), boottime_ns()));
                        }
                    }
                }
            }
            view.revision = view.revision.max(revision);
        });
        self.campaign.notify_one();
        self.look_for_calls();
        if is_evicted {
            self.evicted.notify_one();
        }
    }

    /// Tells the others what they have to know of this instance.
    async fn publish(&self) -> Infallible {
        loop {
            let next = {
                let state = self.state.borrow();
                state.unsent.first().and_then(|key| Some((key.clone(), state.published.get(key)?.clone())))
            };
            let Some((key, value)) = next else {
                self.published.notified().await;
                continue;
            };
            match self.etcd.put(&format!("{}{key}", self.prefix), &value, self.lease()).await {
                Ok(()) => {
                    let mut state = self.state.borrow_mut();
                    if state.published.get(&key) == Some(&value) {
                        state.unsent.remove(&key);
                    }
                }
                // A lease that has ended is noticed by whoever keeps it.
                Err(trouble) => {
                    tracing::debug!(%trouble, "the others do not hear what is told to them");
                    sleep(AGAIN).await;
                }
            }
        }
    }

    /// Leads when nobody else does.
    async fn lead(self: &Rc<Self>) -> Infallible {
        loop {
            let view = Arc::clone(&self.view.borrow());
            let (may_lead, pause) = {
                let state = self.state.borrow();
                let left = state.leads_not_before.map_or(Duration::ZERO, |then| then - Instant::now());
                (!state.is_aside && left.is_zero(), if state.is_aside { Duration::ZERO } else { left })
            };
            // Those that have just vanished are looked at again.
            let has_ghosts = view.ghosts().next().is_some() || view.of_place(self.place).next().is_some();
            let pause = if has_ghosts { GHOSTS } else { pause };
            // Whoever has vanished without knowing this instance would not ask for its word to go on.
            let may_lead = may_lead && view.strangers().next().is_none();
            let known = view.entries.get(LEADER);
            let moved = match known {
                // While they are there, nobody leads.
                _ if view.of_place(self.place).next().is_some() => self.lay_own_ghosts().await.map(|()| false),
                None if may_lead => self.take_lead(&view.me).await,
                // Of a session before this one, or not wanted any more.
                Some(entry) if entry.value == view.me && (view.token != Some(entry.create_revision) || !may_lead) => {
                    self.give_up_lead(entry.create_revision).await
                }
                _ if view.leads() => self.lay_ghosts(&view).await,
                _ => Ok(false),
            };
            match moved {
                Ok(true) => {}
                Ok(false) if pause.is_zero() => self.campaign.notified().await,
                Ok(false) => drop(timeout(pause, self.campaign.notified()).await),
                // As above.
                Err(trouble) => {
                    tracing::debug!(%trouble, "leadership cannot be asked for");
                    sleep(AGAIN).await;
                }
            }
        }
    }

    /// Forgets the processes of this instance before this one, which have ended, or it could not be there.
    async fn lay_own_ghosts(self: &Rc<Self>) -> Result<(), Trouble> {
        let view = Arc::clone(&self.view.borrow());
        for (id, entry) in view.of_place(self.place) {
            self.state.borrow_mut().replaces.insert(id.to_owned());
            let key = format!("{}roster/{id}", self.prefix);
            let member = format!("{}members/{id}", self.prefix);
            let conditions = [Condition::ChangedAt(&key, entry.mod_revision), Condition::CreatedAt(&member, 0)];
            match self.etcd.transact(&conditions, &[Deed::Delete { key: &key }], &key).await? {
                Ok(revision) => self.take_own(key, revision, None),
                // Somebody else has done it.
                Err(None) => self.take_own(key, entry.mod_revision + 1, None),
                Err(Some(_)) => {}
            }
        }
        Ok(())
    }

    /// Forgets instances that have vanished, whose right to write has ended, and who would need this one's word to have it
    /// again; and processes before those of now.
    async fn lay_ghosts(self: &Rc<Self>, view: &View) -> Result<bool, Trouble> {
        let now_ns = boottime_ns();
        let Some(token) = view.token else { return Ok(false) };
        let leader = format!("{}{LEADER}", self.prefix);
        for (id, entry) in view.ghosts() {
            let is_awaited = view.promised.iter().any(|(to, until_ns)| to == id && *until_ns > now_ns);
            let is_recent = |gone: &(String, u64)| gone.0 == id && gone.1.saturating_add(super::DEPARTING_NS) > now_ns;
            if is_awaited || view.departed.iter().any(is_recent) {
                continue;
            }
            let key = format!("{}roster/{id}", self.prefix);
            let conditions = [
                Condition::CreatedAt(&leader, token),
                Condition::ChangedAt(&key, entry.mod_revision),
                Condition::CreatedAt(&format!("{}members/{id}", self.prefix), 0),
            ];
            let done = self.etcd.transact(&conditions, &[Deed::Delete { key: &key }], &key).await?;
            tracing::info!(instance = view.name(id), is_done = done.is_ok(), "an instance has vanished");
        }
        Ok(false)
    }

    async fn take_lead(self: &Rc<Self>, me: &str) -> Result<bool, Trouble> {
        let key = format!("{}{LEADER}", self.prefix);
        let lease = self.lease();
        let deeds = [Deed::Put { key: &key, value: me, lease }];
        let entry = match self.etcd.transact(&[Condition::CreatedAt(&key, 0)], &deeds, &key).await? {
            Ok(revision) => {
                self.change(|view| view.token = Some(revision));
                Some(Entry { value: me.to_owned(), create_revision: revision, mod_revision: revision })
            }
            Err(entry) => entry,
        };
        let Some(entry) = entry else { return Ok(false) };
        self.take_own(key, entry.mod_revision, Some(entry));
        Ok(true)
    }

    async fn give_up_lead(self: &Rc<Self>, created: i64) -> Result<bool, Trouble> {
        let key = format!("{}{LEADER}", self.prefix);
        self.change(|view| view.token = None);
        let deeds = [Deed::Delete { key: &key }];
        match self.etcd.transact(&[Condition::CreatedAt(&key, created)], &deeds, &key).await? {
            Ok(revision) => self.take_own(key, revision, None),
            // Somebody else leads already; or the watch has yet to tell that nobody does.
            Err(entry) => {
                let revision = entry.as_ref().map_or(created + 1, |entry| entry.mod_revision);
                self.take_own(key, revision, entry);
            }
        }
        Ok(true)
    }

    /// The watch tells it too, a moment later.
    fn take_own(self: &Rc<Self>, key: String, revision: i64, entry: Option<Entry>) {
        self.take(vec![Event { key, revision, entry }], 0);
    }

    async fn write(self: &Rc<Self>, key: &str, expected: i64, text: &str) -> Result<i64, String> {
        let Some(token) = self.view.borrow().token else { return Err("another instance leads".to_owned()) };
        let (leader, full) = (format!("{}{LEADER}", self.prefix), format!("{}{key}", self.prefix));
        let conditions = [Condition::CreatedAt(&leader, token), Condition::ChangedAt(&full, expected)];
        let deeds = [Deed::Put { key: &full, value: text, lease: 0 }];
        let entry = match self.etcd.transact(&conditions, &deeds, &full).await.map_err(|trouble| trouble.to_string())? {
            Ok(revision) => Entry { value: text.to_owned(), create_revision: 0, mod_revision: revision },
            // An attempt whose answer was lost.
            Err(Some(entry)) if entry.value == text && entry.mod_revision > expected => entry,
            Err(_) if self.view.borrow().token != Some(token) => return Err("another instance leads".to_owned()),
            Err(_) => return Err("the record was changed meanwhile, or another instance leads".to_owned()),
        };
        let revision = entry.mod_revision;
        self.take_own(full, revision, Some(entry));
        Ok(revision)
    }

    async fn say_goodbye(&self) {
        let roster = format!("{}roster/{}", self.prefix, self.me());
        if let Err(trouble) = self.etcd.delete(&roster).await {
            tracing::debug!(%trouble, "whoever leads forgets this instance");
        }
        let lease = self.state.borrow().lease;
        if lease != 0
            && let Err(trouble) = self.etcd.revoke(lease).await
        {
            tracing::debug!(%trouble, "the lease ends by itself");
        }
        self.change(|view| view.session = u64::MAX);
    }
}
