//! The thread that keeps the lease, and everything that hangs on it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash as _, Hasher as _};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustc_hash::FxHasher;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use super::etcd::{Condition, Deed, Entry, Etcd, Event, Trouble};
use super::{Call, Coordination, LEADER, Member, View};
use crate::config::model::{Coordination as Config, ServerTls};
use crate::worker::permit::{Permit, boottime_ns};

/// Before etcd is asked again after it could not be reached.
const AGAIN: Duration = Duration::from_millis(100);
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
    lease_time: Duration,
    member: String,
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
    is_leaving: Cell<bool>,
    left: Notify,
    /// The own key is gone.
    evicted: Notify,
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
}

pub(super) fn start(config: &Config, tls: &ServerTls, me: Member) -> Result<Coordination, String> {
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
    let coordination = Coordination { view: seen, asks, permit: Arc::clone(&permit), group: hasher.finish(), calls };
    // Two members that do not answer must not cost the lease.
    let patience = (config.lease / 5).clamp(Duration::from_millis(200), Duration::from_secs(2));
    let login = config.user.clone().zip(config.password.clone());
    let (urls, tls, lease_time) = (config.etcd.clone(), tls.clone(), config.lease);
    let member = serde_json::to_string(&me).map_err(|e| e.to_string())?;
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
            state: RefCell::default(),
            called,
            published: Notify::new(),
            campaign: Notify::new(),
            is_leaving: Cell::new(false),
            left: Notify::new(),
            evicted: Notify::new(),
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

    fn change(&self, change: impl FnOnce(&mut View)) {
        let mut view = View::clone(&self.view.borrow());
        change(&mut view);
        self.view.send_replace(Arc::new(view));
    }

    /// From a new lease to its end; the answer is why it ended.
    async fn session(self: &Rc<Self>) -> String {
        let (lease, granted, sent_ns) = match self.begin().await {
            Ok(begun) => begun,
            Err(trouble) => return trouble.to_string(),
        };
        // The other instances begin to wait for this one from here on; what is decided is read after that.
        let me = format!("{}members/{}", self.prefix, self.me());
        if let Err(trouble) = self.etcd.put(&me, &self.member, lease).await {
            return trouble.to_string();
        }
        if let Err(trouble) = self.read().await {
            return trouble.to_string();
        }
        {
            let mut state = self.state.borrow_mut();
            state.lease = lease;
            state.unsent = state.published.keys().cloned().collect();
        }
        let until_ns = self.until(sent_ns, granted);
        self.change(|view| {
            (view.session, view.lost, view.token, view.until_ns) = (view.session + 1, None, None, until_ns);
        });
        tracing::info!(lease = format!("{lease:x}"), granted = ?granted, "etcd knows this instance");
        self.arm();
        tokio::select! {
            why = self.keep(lease, granted) => why,
            why = self.follow() => why,
            why = self.publish(lease) => why,
            why = self.lead(lease) => why,
            () = self.evicted.notified() => "its key was deleted".to_owned(),
            () = self.left.notified() => "this instance stops".to_owned(),
        }
    }

    async fn begin(&self) -> Result<(i64, Duration, u64), Trouble> {
        let sent_ns = boottime_ns();
        let (lease, granted) = self.etcd.grant(self.lease_time.as_secs().max(1)).await?;
        Ok((lease, granted, sent_ns))
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
            self.change(|view| (view.lost, view.token) = (Some(why), None));
        }
    }

    /// Gives signs of life until the lease cannot be kept.
    async fn keep(&self, lease: i64, granted: Duration) -> String {
        let mut last = String::new();
        let mut pause = granted / 3;
        loop {
            let until_ns = self.view.borrow().until_ns;
            let left = Duration::from_nanos(until_ns.saturating_sub(boottime_ns()));
            if left.is_zero() {
                return if last.is_empty() { "this process was held up".to_owned() } else { last };
            }
            sleep(pause.min(left)).await;
            let sent_ns = boottime_ns();
            let left = Duration::from_nanos(until_ns.saturating_sub(sent_ns));
            match timeout(left, self.etcd.keep_alive(lease)).await {
                Ok(Ok((Duration::ZERO, _))) => return "the lease has ended".to_owned(),
                Ok(Ok((_, revision))) => {
                    let until_ns = self.until(sent_ns, granted);
                    self.change(|view| view.until_ns = until_ns);
                    self.arm();
                    (pause, last) = (granted / 3, String::new());
                    tracing::trace!(revision, "the lease is kept");
                }
                Ok(Err(trouble)) => (pause, last) = (AGAIN, trouble.to_string()),
                Err(_) => last = "etcd does not answer".to_owned(),
            }
        }
    }

    /// Reads everything anew.
    async fn read(self: &Rc<Self>) -> Result<(), Trouble> {
        let (events, revision) = self.etcd.list(&self.prefix).await?;
        let entries = events
            .into_iter()
            .filter_map(|event| Some((event.key.strip_prefix(&self.prefix)?.to_owned(), event.entry?)));
        let entries: Arc<BTreeMap<String, Entry>> = Arc::new(entries.collect());
        self.change(|view| (view.entries, view.revision) = (entries, revision));
        self.campaign.notify_one();
        self.look_for_calls();
        Ok(())
    }

    /// Takes in what changes.
    async fn follow(self: &Rc<Self>) -> String {
        loop {
            let revision = self.view.borrow().revision;
            let ended = match self.etcd.watch(&self.prefix, revision + 1).await {
                Ok(mut watch) => loop {
                    match watch.next().await {
                        Ok((events, revision)) => self.take(events, revision),
                        Err(why) => break why,
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
    async fn publish(&self, lease: i64) -> String {
        loop {
            let next = {
                let state = self.state.borrow();
                state.unsent.first().and_then(|key| Some((key.clone(), state.published.get(key)?.clone())))
            };
            let Some((key, value)) = next else {
                self.published.notified().await;
                continue;
            };
            match self.etcd.put(&format!("{}{key}", self.prefix), &value, lease).await {
                Ok(()) => {
                    let mut state = self.state.borrow_mut();
                    if state.published.get(&key) == Some(&value) {
                        state.unsent.remove(&key);
                    }
                }
                Err(Trouble::Refused(why)) => return format!("etcd refuses: {why}"),
                Err(Trouble::Unreachable(why)) => {
                    tracing::debug!(why, "the others do not hear what is told to them");
                    sleep(AGAIN).await;
                }
            }
        }
    }

    /// Leads when nobody else does.
    async fn lead(self: &Rc<Self>, lease: i64) -> String {
        loop {
            let view = Arc::clone(&self.view.borrow());
            let (may_lead, pause) = {
                let state = self.state.borrow();
                let left = state.leads_not_before.map_or(Duration::ZERO, |then| then - Instant::now());
                (!state.is_aside && left.is_zero(), if state.is_aside { Duration::ZERO } else { left })
            };
            let known = view.entries.get(LEADER);
            let moved = match known {
                None if may_lead => self.take_lead(&view.me, lease).await,
                // Of a session before this one, or not wanted any more.
                Some(entry) if entry.value == view.me && (view.token != Some(entry.create_revision) || !may_lead) => {
                    self.give_up_lead(entry.create_revision).await
                }
                _ => Ok(false),
            };
            match moved {
                Ok(true) => {}
                Ok(false) if pause.is_zero() => self.campaign.notified().await,
                Ok(false) => drop(timeout(pause, self.campaign.notified()).await),
                Err(Trouble::Refused(why)) => return format!("etcd refuses: {why}"),
                Err(Trouble::Unreachable(why)) => {
                    tracing::debug!(why, "leadership cannot be asked for");
                    sleep(AGAIN).await;
                }
            }
        }
    }

    async fn take_lead(self: &Rc<Self>, me: &str, lease: i64) -> Result<bool, Trouble> {
        let key = format!("{}{LEADER}", self.prefix);
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
        let lease = self.state.borrow().lease;
        if lease != 0
            && let Err(trouble) = self.etcd.revoke(lease).await
        {
            tracing::debug!(%trouble, "the lease ends by itself");
        }
        self.change(|view| view.session = u64::MAX);
    }
}
