//! `LISTEN` without a server connection of one's own.
//!
//! All clients of a database share one connection that listens, see [`Control::listen`]. A client's `LISTEN` goes to the
//! server as an `UNLISTEN` of the same channel, which succeeds and fails where it would, and takes effect here when its
//! transaction has committed. A connection that has its client to itself listens itself.
//!
//! [`Control::listen`]: super::shared::Control::listen

use std::mem;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use rustc_hash::FxHashMap;

use super::backend::Backend;
use super::core::Core;
use super::errors::End;
use super::registry::Client;
use super::session::Session;
use super::settings::quote_identifier;
use crate::sql::{Effects, Kind, Verdict, unlistened};
use crate::wire::pg::build::{self, ErrorFields};
use crate::wire::pg::sqlstate::Severity;

/// What a client that does not read is kept of notifications, bytes.
const MOST_NEWS: usize = 8 * 1024 * 1024;
/// ReadyForQuery, bytes.
const READY: usize = 6;
/// How the statement that goes to the server instead begins. No client's own text does.
pub(super) const INSTEAD: &str = "UNLISTEN /* for LISTEN */ ";

/// A database of the servers, by the name of its cluster and its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// `[[postgres.cluster]] name`
    pub cluster: String,
    /// As the servers know it.
    pub database: String,
}

/// What a thread wants of the connection that listens.
#[derive(Debug)]
pub enum Wish {
    /// That there is one.
    Open,
    /// That the thread hears of this channel.
    Listen(String),
    /// That it hears of it no more.
    Unlisten(String),
    /// To be told when everything that has been notified so far was passed on, for this client.
    Sync(u64),
}

/// What a thread is told of the connection that listens.
#[derive(Debug, Clone)]
pub enum News {
    /// It is there, and listens to what it was asked for; `after_gap`: it was lost, and notifications may have been missed.
    Open {
        /// See the variant.
        after_gap: bool,
    },
    /// It cannot be had.
    Failed,
    /// It was closed: nobody listened any more.
    Closed,
    /// It listens to this channel.
    Listens(String),
    /// Everything that was notified before this client asked has been passed on.
    Synced(u64),
    /// A notification, as a NotificationResponse.
    Heard {
        /// Name of the channel.
        channel: String,
        /// The message.
        message: Arc<[u8]>,
    },
}

/// What this thread knows of the connection that listens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// Not asked for.
    #[default]
    Unknown,
    Asked,
    Open,
    Failed,
}

#[derive(Debug, Default)]
struct Listened {
    state: State,
    /// Who waits to hear whether it can be had.
    asking: Vec<u64>,
    channels: FxHashMap<String, Listeners>,
}

#[derive(Debug, Default)]
struct Listeners {
    clients: Vec<u64>,
    is_heard: bool,
    /// Who waits until it is.
    waiting: Vec<u64>,
}

/// The channels that clients of one thread listen to.
#[derive(Debug, Default)]
pub struct Channels {
    places: FxHashMap<Place, Listened>,
}

/// What a client has to be told as soon as it can be.
#[derive(Debug, Default)]
pub struct Inbox {
    messages: Vec<u8>,
    /// Notifications that found no room.
    dropped: u64,
}

/// What a session listens to, once it has.
#[derive(Debug)]
pub(super) struct Listening {
    place: Place,
    channels: Vec<String>,
    /// Of the open transaction.
    pending: Vec<Change>,
}

/// What takes effect at the end of a transaction.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// `LISTEN channel`
    Listen(String),
    /// `UNLISTEN channel`, or all of them.
    Unlisten(Option<String>),
}

/// Whether a statement can be shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shared {
    Yes,
    /// It is not known yet; the session is woken.
    Wait,
    No,
}

impl Inbox {
    fn add(&mut self, message: &[u8]) {
        if self.dropped > 0 || self.messages.len() + message.len() > MOST_NEWS {
            self.dropped += 1;
        } else {
            self.messages.extend_from_slice(message);
        }
    }
}

impl Core {
    /// Something has come from the connection that listens.
    pub fn hear(&self, place: &Place, news: News) {
        let mut channels = self.channels.borrow_mut();
        let Some(known) = channels.places.get_mut(place) else { return };
        match news {
            News::Open { after_gap } => {
                known.state = State::Open;
                for listeners in known.channels.values_mut() {
                    self.let_go(listeners, true);
                }
                self.wake(known.asking.drain(..), Client::call);
                if after_gap {
                    let mut all: Vec<u64> = known.channels.values().flat_map(|of| of.clients.iter().copied()).collect();
                    all.sort_unstable();
                    all.dedup();
                    let gap = warning(
                        "notifications may have been missed: the connection to the server that listens for this client \
                         was lost and has been made anew",
                    );
                    self.wake(all, |client| client.receive(&gap));
                }
            }
            News::Failed => {
                known.state = State::Failed;
                self.wake(known.asking.drain(..), Client::call);
                for listeners in known.channels.values_mut() {
                    // It listens as soon as it can, and the client is told that it has missed something.
                    self.let_go(listeners, false);
                }
            }
            News::Closed => known.state = State::Unknown,
            News::Listens(channel) => {
                if let Some(listeners) = known.channels.get_mut(&channel) {
                    self.let_go(listeners, true);
                }
            }
            News::Synced(client) => self.wake([client], Client::has_come),
            News::Heard { channel, message } => {
                if let Some(listeners) = known.channels.get(&channel) {
                    self.wake(listeners.clients.iter().copied(), |client| client.receive(&message));
                }
            }
        }
    }

    /// Whoever waits until this channel is heard waits no longer.
    fn let_go(&self, listeners: &mut Listeners, is_heard: bool) {
        listeners.is_heard = is_heard;
        self.wake(listeners.waiting.drain(..), Client::has_come);
    }

    fn wake(&self, ids: impl IntoIterator<Item = u64>, tell: impl Fn(&Client)) {
        let clients = self.clients.borrow();
        for client in ids.into_iter().filter_map(|id| clients.get(&id)) {
            tell(client);
        }
    }

    /// Whether `LISTEN` in this database can be shared; if that is not known yet, `client` is called when it is.
    fn shares(&self, place: &Place, client: u64) -> Shared {
        let mut channels = self.channels.borrow_mut();
        let known = channels.places.entry(place.clone()).or_default();
        match known.state {
            State::Open => return Shared::Yes,
            // The next one may find it mended.
            State::Failed if known.channels.is_empty() => known.state = State::Unknown,
            State::Failed => {}
            State::Unknown | State::Asked => {
                if known.state == State::Unknown {
                    known.state = State::Asked;
                    self.ask_to_listen(place, Wish::Open);
                }
                known.asking.push(client);
                return Shared::Wait;
            }
        }
        Shared::No
    }

    fn ask_to_listen(&self, place: &Place, wish: Wish) {
        self.shared.control.listen(self.id, place.clone(), wish);
    }

    /// From now on `client` hears of `channel`. True: it is called when the server knows.
    fn listen(&self, place: &Place, channel: &str, client: u64) -> bool {
        let mut channels = self.channels.borrow_mut();
        let known = channels.places.entry(place.clone()).or_default();
        let is_new = !known.channels.contains_key(channel);
        let listeners = known.channels.entry(channel.to_owned()).or_default();
        listeners.clients.push(client);
        if is_new {
            self.ask_to_listen(place, Wish::Listen(channel.to_owned()));
        }
        let waits = !listeners.is_heard && known.state != State::Failed;
        if waits {
            listeners.waiting.push(client);
        }
        waits
    }

    fn unlisten(&self, place: &Place, channel: &str, client: u64) {
        let mut channels = self.channels.borrow_mut();
        let Some(known) = channels.places.get_mut(place) else { return };
        let Some(listeners) = known.channels.get_mut(channel) else { return };
        listeners.clients.retain(|id| *id != client);
        if listeners.waiting.contains(&client) {
            listeners.waiting.retain(|id| *id != client);
            self.wake([client], Client::has_come);
        }
        if listeners.clients.is_empty() {
            known.channels.remove(channel);
            self.ask_to_listen(place, Wish::Unlisten(channel.to_owned()));
        }
    }
}

impl Client {
    /// Something that it has listened for.
    fn receive(&self, message: &[u8]) {
        self.inbox.borrow_mut().get_or_insert_default().add(message);
        self.call();
    }

    /// One of the things that its answer waits for has come.
    pub(super) fn has_come(&self) {
        self.arrived.set(self.arrived.get() + 1);
        self.call();
    }
}

impl Session {
    /// Whether this session shares what it listens to.
    pub(super) fn shares_listen(&mut self, verdict: &Verdict) -> Shared {
        // One that listens itself has everything in the order of the server.
        let is_own = || self.rare.is_session || self.me.pin.get() == Some("listen");
        if !matches!(verdict.kind, Kind::Listen(_)) || is_own() {
            return Shared::No;
        }
        let Some(place) = self.place() else { return Shared::No };
        let shared = self.core.shares(&place, self.me.id);
        self.flags.asks = shared == Shared::Wait;
        shared
    }

    fn place(&self) -> Option<Place> {
        let cluster = self.core.cluster_name(&self.pool)?;
        Some(Place { cluster, database: self.pool.login.borrow().database.clone() })
    }

    /// True while it is not known whether the statement at hand can be shared.
    pub(super) fn waits_to_listen(&mut self) -> bool {
        if !self.flags.asks {
            return false;
        }
        let Some(place) = self.place() else { return false };
        let channels = self.core.channels.borrow();
        let state = channels.places.get(&place).map(|known| known.state).unwrap_or_default();
        self.flags.asks = state == State::Asked;
        self.flags.asks
    }

    /// What a statement changes of what the session listens to. `text` is what the server gets.
    pub(super) fn listen_change(&mut self, verdict: &Verdict, text: &[u8]) -> Option<Change> {
        match &verdict.kind {
            Kind::Listen(channel) if text.starts_with(INSTEAD.as_bytes()) => Some(Change::Listen(channel.clone())),
            Kind::Unlisten(channel) if self.rare.listening.is_some() => Some(Change::Unlisten(channel.clone())),
            Kind::Multiple if self.rare.listening.is_some() && verdict.effects.contains(Effects::MAY_END) => {
                // One that fails takes the others back, too.
                for channel in unlistened(text) {
                    self.change_listening(Change::Unlisten(channel));
                }
                None
            }
            _ => None,
        }
    }

    /// Takes effect at the end of the transaction.
    pub(super) fn change_listening(&mut self, change: Change) {
        if self.rare.listening.is_none() {
            let Some(place) = self.place() else { return };
            let listening = Listening { place, channels: Vec::new(), pending: Vec::new() };
            self.rare.listening = Some(Box::new(listening));
        }
        if let Some(listening) = &mut self.rare.listening {
            listening.pending.push(change);
        }
    }

    /// The transaction is over: what it has changed holds, or not. What was notified before its end comes before the end
    /// of its answer, as from a server, so that is kept back.
    #[cold]
    pub(super) fn settle_listening(&mut self, backend: &Backend) {
        let Some(listening) = &mut self.rare.listening else { return };
        let changes = mem::take(&mut listening.pending);
        let me = self.me.id;
        let mut awaited = 0;
        for change in changes.into_iter().filter(|_| !self.flags.rolled_back) {
            match change {
                Change::Listen(channel) if listening.channels.contains(&channel) => {}
                Change::Listen(channel) => {
                    awaited += u16::from(self.core.listen(&listening.place, &channel, me));
                    listening.channels.push(channel);
                }
                Change::Unlisten(Some(channel)) => {
                    if listening.channels.contains(&channel) {
                        listening.channels.retain(|known| *known != channel);
                        self.core.unlisten(&listening.place, &channel, me);
                    }
                }
                Change::Unlisten(None) => {
                    for channel in mem::take(&mut listening.channels) {
                        self.core.unlisten(&listening.place, &channel, me);
                    }
                }
            }
        }
        // What it has notified itself it hears of at once.
        if !backend.track.is_quiet() {
            // What was sent ahead is answered as it comes.
            awaited = 0;
        } else if self.flags.wrote && !listening.channels.is_empty() {
            awaited += 1;
            self.core.ask_to_listen(&listening.place, Wish::Sync(me));
        }
        if listening.channels.is_empty() {
            self.rare.listening = None;
        }
        self.keep_back(awaited);
    }

    /// The end of the answer waits until so many more things have come that belong before it.
    pub(super) fn keep_back(&mut self, awaited: u16) {
        if self.rare.awaited == 0 {
            self.me.arrived.set(0);
        }
        self.rare.awaited += awaited;
        // Each turn of the session looks until then.
        self.me.is_called.set(self.rare.awaited > 0 || self.me.is_called.get());
    }

    /// True while the end of the answer at hand is kept back, as far as was looked.
    #[inline]
    pub(super) fn is_kept_back(&self) -> bool {
        self.rare.awaited > 0
    }

    /// The same after another look: `None` if nothing is kept back any more, else whether that is the end of the session.
    pub(super) fn still_kept_back(&mut self) -> Option<Poll<End>> {
        if !self.is_kept_back() {
            return None;
        }
        self.rare.awaited = self.rare.awaited.saturating_sub(self.me.arrived.take());
        if self.rare.awaited > 0 {
            self.me.is_called.set(true);
            return Some(Poll::Pending);
        }
        if let Some(end) = self.refuted() {
            return Some(Poll::Ready(end));
        }
        // Before ReadyForQuery, which is the last that is kept back.
        let at = self.output.len().saturating_sub(READY);
        let end = self.output.split_off(at);
        self.take_inbox();
        self.output.extend_from_slice(&end);
        None
    }

    /// The client is outside of a transaction and asks for nothing: it is told what it has listened for.
    #[cold]
    pub(super) fn take_inbox(&mut self) {
        let Some(inbox) = self.me.inbox.borrow_mut().take() else { return };
        self.output.extend_from_slice(&inbox.messages);
        if inbox.dropped > 0 {
            let what = format!("{} notifications were dropped: the client has not read them in time", inbox.dropped);
            self.output.extend_from_slice(&warning(&what));
        }
    }

    /// The open transaction has changed what the session listens to.
    pub(super) fn changes_listening(&self) -> bool {
        self.rare.listening.as_ref().is_some_and(|listening| !listening.pending.is_empty())
    }

    /// True for a notification that this session gets from the connection that is shared.
    pub(super) fn hears_elsewhere(&self, body: &[u8]) -> bool {
        let Some(listening) = &self.rare.listening else { return false };
        let channel = body.get(4..).and_then(|rest| rest.split(|byte| *byte == 0).next()).unwrap_or_default();
        listening.channels.iter().any(|known| known.as_bytes() == channel)
    }

    /// It listens to nothing, nor is about to.
    pub(super) fn hears_nothing(&self) -> bool {
        let is_quiet = |listening: &Listening| listening.channels.is_empty() && listening.pending.is_empty();
        self.rare.listening.as_deref().is_none_or(is_quiet)
    }

    /// The session is over.
    pub(super) fn stop_listening(&mut self) {
        if let Some(listening) = self.rare.listening.take() {
            for channel in &listening.channels {
                self.core.unlisten(&listening.place, channel, self.me.id);
            }
        }
    }
}

/// The statement for the server instead of `LISTEN channel`.
pub(super) fn instead(channel: &str) -> String {
    format!("{INSTEAD}{}", quote_identifier(channel))
}

/// A NotificationResponse.
pub fn message(process_id: i32, channel: &str, payload: &str) -> Arc<[u8]> {
    let mut out = Vec::new();
    build::notification_response(&mut out, process_id, channel.as_bytes(), payload.as_bytes());
    out.into()
}

fn warning(message: &str) -> Rc<[u8]> {
    let mut out = Vec::new();
    let fields = ErrorFields { severity: Severity::Warning, code: "01000", message, detail: None, hint: None };
    build::notice_response(&mut out, &fields);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_counted_and_nothing_comes_after_it() {
        let mut inbox = Inbox::default();
        inbox.add(&vec![0; MOST_NEWS - 1]);
        inbox.add(&[1, 2]);
        inbox.add(&[3]);
        assert_eq!((inbox.messages.len(), inbox.dropped), (MOST_NEWS - 1, 2));
    }

    #[test]
    fn the_statement_instead_names_the_same_channel() {
        assert_eq!(instead("a\"b"), "UNLISTEN /* for LISTEN */ \"a\"\"b\"");
    }
}
