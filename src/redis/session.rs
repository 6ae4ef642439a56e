//! The life of a client's connection: its task reads, looks at what came, and waits for whatever is needed.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::blocking::shortened;
use super::client::{Client, MOST_OUTPUT, Todo};
use super::core::Core;
use super::errors::Trouble;
use super::lane::{EntryKind, Lane};
use super::own::OwnState;
use super::request::Taken;
use super::service::Service;
use super::stream::Stream;
use super::subscriptions::{Subscriptions, Switched};
use super::transaction::Transaction;
use super::travel::ELSEWHERE;
use super::usage::{Ran, Table};
use crate::wire::resp::{Bounds, Found, ProtocolError, RequestScan, encode, split, words};
use crate::worker::clock::now_ns;

/// Bytes of an unfinished request that are kept; a longer one goes on as it comes, on a connection of its own.
pub(super) const LONGEST_KEPT: usize = 256 * 1024;
/// Bytes that are read ahead while the client's request waits, so that its leaving is noticed: the end of a stream comes
/// behind all of its bytes, as far as nobody makes room for them.
const READ_AHEAD: usize = 64 * 1024;
/// The same, of what may wait for ever.
const READ_FAR_AHEAD: usize = 1024 * 1024;
/// Requests of one client that may be on their way: at first, since nobody knows how much they answer and others wait
/// behind them, and after all of so many were answered with little.
const FIRST_IN_FLIGHT: u32 = 32;
const MOST_IN_FLIGHT: u32 = 16 * 1024;

/// What a client's next request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// The answers to those before it.
    Answers,
    /// A lane that can take it.
    Room,
    /// A primary, and the like.
    Primary,
    /// A connection of its own, or what is on its way there.
    Own,
    /// The server, which has to take or to answer what was sent on the connection of its own.
    Server,
    /// The client, which has to take its replies.
    Output,
}

/// Whether replies are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplyMode {
    On,
    Off,
    /// Not to the next command.
    Skip,
}

/// See the module.
pub struct Session {
    pub(super) core: Rc<Core>,
    pub(super) service: Rc<Service>,
    pub(super) client: Rc<Client>,
    scan: RequestScan,
    /// Bytes that were read and not used, from `at`.
    input: Vec<u8>,
    at: usize,
    /// Where in all of its bytes the request ends that is looked at; 0: it has been looked at before.
    pub(super) taken_to: u64,
    /// When it began to wait for a primary, ns; until it has been served, every further wait counts from then.
    pub(super) held_since: Option<u64>,
    /// Where its requests went last, and the service's version of that time.
    pub(super) lane: Option<Rc<Lane>>,
    pub(super) lane_version: u64,
    pub(super) table: Rc<Table>,
    /// The place in it of the request that is looked at.
    pub(super) command: u16,
    pub(super) reads_primary: bool,
    pub(super) transaction: Option<Box<Transaction>>,
    pub(super) own: OwnState,
    pub(super) subscriptions: Subscriptions,
    pub(super) switched: Switched,
    pub(super) reply: ReplyMode,
    /// It has written something since `seen` was set.
    pub(super) has_written: bool,
    /// How many replicas had everything when it last asked by WAIT, if it has written nothing since.
    pub(super) replicated: Option<i64>,
    /// What it wrote before this time, ns, its reads must see; 0: nothing.
    pub(super) seen: u64,
    /// An answer of Forebay's that another task makes.
    pub(super) asked: super::clients::Asked,
    /// The keys that it watches may have changed unseen: its transaction must fail.
    pub(super) has_lost_watch: bool,
    /// A request that goes on as it comes.
    pub(super) stream: Option<Stream>,
    /// Connections of its own that were lost in a row, without any reply.
    pub(super) losses: u32,
    /// Requests that may be on their way, and whether so many were.
    window: u32,
    has_filled_window: bool,
    /// It is counted among those who wait for a primary.
    pub(super) has_waited: bool,
    /// Replies on the own connection wait until the client has taken earlier ones.
    pub(super) is_own_paused: bool,
    /// What of the service's `own_pending` is this client's.
    pub(super) pending_own: usize,
    /// It is counted in the service's `in_transaction`.
    pub(super) is_in_transaction: bool,
    /// The client sends no more.
    is_deaf: bool,
    /// Its socket may have bytes of which it gives no sign.
    has_unannounced: bool,
}

impl Session {
    /// A session that begins.
    pub fn new(core: Rc<Core>, client: Rc<Client>) -> Self {
        let service = Rc::clone(&client.service);
        let table = service.usage.table();
        Session {
            core,
            service,
            client,
            scan: RequestScan::default(),
            input: Vec::new(),
            at: 0,
            taken_to: 0,
            held_since: None,
            lane: None,
            lane_version: 0,
            table,
            command: 0,
            reads_primary: true,
            transaction: None,
            own: OwnState::None,
            subscriptions: Subscriptions::default(),
            switched: Switched::default(),
            reply: ReplyMode::On,
            has_written: false,
            replicated: None,
            seen: 0,
            asked: Default::default(),
            has_lost_watch: false,
            stream: None,
            losses: 0,
            window: FIRST_IN_FLIGHT,
            has_filled_window: false,
            has_waited: false,
            is_own_paused: false,
            pending_own: 0,
            is_in_transaction: false,
            is_deaf: false,
            has_unannounced: false,
        }
    }

    /// Serves the client until it leaves. In a box: a future keeps what it is given twice.
    pub async fn run(mut self: Box<Self>) {
        loop {
            poll_fn(|cx| self.poll(cx)).await;
            match self.moves_now() {
                Some(ELSEWHERE) => match self.travel() {
                    Ok(()) => break,
                    Err(error) => {
                        tracing::warn!(client_id = self.client.id, %error, "a client stays in the process that is leaving");
                        self.client.moves_to.set(None);
                    }
                },
                Some(to) => return (*self).move_to(to),
                None => break,
            }
        }
        self.service.wait_no_more(&self.client);
        self.leave_own();
        self.client.leave();
        self.core.client_left(&self.client);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.client.keep_waker(cx);
        loop {
            if self.only_reads() {
                self.client.is_waiting.set(false);
                match self.read(cx, None) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(true) => continue,
                    Poll::Ready(false) => self.is_deaf = true,
                }
            }
            if self.client.is_cut.get() {
                // What it was told last may still reach it.
                let _ = self.client.poll_flush(cx);
                return Poll::Ready(());
            }
            self.poll_own(cx);
            self.end_hold();
            self.obey_unblock();
            let wait = if self.resubscribe() { self.go_on() } else { Some(Wait::Own) };
            // What was asked of the own connection leaves before anything is waited for.
            let has_moved = self.poll_own(cx);
            let is_sent = match self.client.poll_flush(cx) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => false,
            };
            if self.is_own_paused && self.client.waiting_output() < MOST_OUTPUT / 2 {
                continue;
            }
            if has_moved && !self.is_own_paused {
                // A reply or a loss may be just what the next request waits for, and nobody else tells of it.
                continue;
            }
            let is_done = self.client.in_flight.get() == 0 && self.client.backlog.borrow().is_empty();
            let is_ending = self.is_deaf || self.client.is_ending.get();
            if is_ending && is_sent && is_done && (self.client.is_ending.get() || self.is_over(wait)) {
                return Poll::Ready(());
            }
            if wait == Some(Wait::Output) && is_sent || wait == Some(Wait::Server) && !self.own_is_full() {
                continue;
            }
            if is_sent && is_done && !is_ending && wait.is_none() && self.moves_now().is_some() {
                return Poll::Ready(());
            }
            // Answers alone are no reason to be woken: the lane delivers them.
            let moves = self.client.moves_to.get().is_some();
            self.client.is_waiting.set(wait.is_some() || is_ending || moves);
            let reads = match wait {
                None => is_sent || self.client.waiting_output() < MOST_OUTPUT / 4,
                Some(Wait::Primary) => self.input.len() - self.at < READ_AHEAD,
                Some(Wait::Own) => self.input.len() - self.at < READ_FAR_AHEAD,
                Some(_) => false,
            };
            if is_ending {
                return Poll::Pending;
            }
            if !reads {
                return if self.waits_in_vain(wait) { self.poll_hang_up(cx) } else { Poll::Pending };
            }
            match self.read(cx, wait) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(true) => {}
                Poll::Ready(false) if self.waits_in_vain(wait) => return Poll::Ready(()),
                Poll::Ready(false) => self.is_deaf = true,
            }
        }
    }

    /// What waits would matter to nobody if the client left now.
    fn waits_in_vain(&self, wait: Option<Wait>) -> bool {
        wait == Some(Wait::Primary) || wait == Some(Wait::Own) && self.waits_without_end()
    }

    /// For something to happen, or for a connection to listen on.
    fn waits_without_end(&self) -> bool {
        let waits_elsewhere = self.client.mode.get().is_blocked && !self.awaits_own();
        self.is_blocked() || waits_elsewhere || matches!(self.own, OwnState::None)
    }

    /// Of a client that sends no more: no answer is due to it, or none that comes by itself.
    fn is_over(&self, wait: Option<Wait>) -> bool {
        match wait {
            None if self.is_streaming() => !self.owes_before_stream(),
            None => !self.awaits_own() || self.is_blocked(),
            Some(Wait::Own) => self.waits_without_end(),
            Some(_) => false,
        }
    }

    /// Ready when the client has left, whatever it has sent that was not read.
    fn poll_hang_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.has_unannounced = true;
        self.client.stream.borrow().poll_hang_up(cx)
    }

    /// Nothing but the client's next bytes can matter, as nearly always: the short way of [`Session::poll`].
    #[inline]
    fn only_reads(&self) -> bool {
        let has_ended = self.is_deaf || self.client.is_ending.get() || self.client.is_cut.get();
        let takes_up = !self.subscriptions.is_empty() || !self.switched.is_empty();
        let has_own = !matches!(self.own, OwnState::None) || takes_up || self.is_own_paused;
        let has_more = !self.input.is_empty() || self.is_asking() || self.client.has_more();
        !(has_ended || has_own || has_more || self.client.moves_to.get().is_some())
    }

    /// All that was sent on has been answered: if there is no primary again, that is another time.
    fn end_hold(&mut self) {
        if self.held_since.is_some()
            && !self.has_waited
            && self.client.in_flight.get() == 0
            && self.client.backlog.borrow().is_empty()
            && self.lane.as_ref().is_some_and(|lane| lane.is_open())
        {
            self.held_since = None;
        }
    }

    /// Reads once, and looks at what came. `Ready(false)`: no more will come.
    fn read(&mut self, cx: &mut Context<'_>, wait: Option<Wait>) -> Poll<bool> {
        let core = Rc::clone(&self.core);
        let mut scratch = core.scratch.borrow_mut();
        let unannounced = match self.has_unannounced {
            true => self.client.stream.borrow().read_unannounced(&mut scratch).transpose(),
            false => None,
        };
        self.has_unannounced = matches!(unannounced, Some(Ok(n)) if n == scratch.len());
        let read = match unannounced {
            Some(read) => Poll::Ready(read),
            None => self.client.stream.borrow_mut().poll_read(cx, &mut scratch),
        };
        let n = match read {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Poll::Ready(false),
            Poll::Ready(Ok(n)) => n,
        };
        let bytes = scratch.get(..n).unwrap_or_default();
        let (read, sent) = self.client.bytes.get();
        self.client.bytes.set((read + n as u64, sent));
        let now = now_ns();
        self.client.active.set(now);
        if !self.input.is_empty() {
            self.input.extend_from_slice(bytes);
            return Poll::Ready(true);
        }
        self.held_since = None;
        let used = if wait.is_none() && self.client.backlog.borrow().is_empty() { self.work(bytes).0 } else { 0 };
        self.input.extend_from_slice(bytes.get(used..).unwrap_or_default());
        Poll::Ready(true)
    }

    /// Goes on with what could not be done before. `None`: all is done, as far as it has come.
    fn go_on(&mut self) -> Option<Wait> {
        if let Some(wait) = self.finish_asked() {
            return Some(wait);
        }
        if let Some(wait) = self.work_off_backlog() {
            return Some(wait);
        }
        if self.client.is_ending.get() || self.input.is_empty() {
            return self.awaits_asked();
        }
        let input = std::mem::take(&mut self.input);
        let (used, wait) = self.work(input.get(self.at..).unwrap_or_default());
        self.at += used;
        self.input = input;
        if self.at >= self.input.len() {
            self.input = Vec::new();
            self.at = 0;
        } else if self.at > READ_AHEAD {
            self.input.drain(..self.at);
            self.at = 0;
        }
        wait.or_else(|| self.awaits_asked())
    }

    /// Requests that came back from a lane, before any other.
    fn work_off_backlog(&mut self) -> Option<Wait> {
        loop {
            let todo = self.client.backlog.borrow_mut().pop_front()?;
            self.taken_to = 0;
            let taken = match &todo {
                Todo::Say(_) | Todo::Spoil if self.has_answers_to_come() => Taken::Wait(match self.before_answer() {
                    Some(wait) => wait,
                    None => Wait::Answers,
                }),
                Todo::Spoil => {
                    self.begin_lost_transaction();
                    Taken::Done
                }
                Todo::Say(reply) => {
                    self.client.say(reply);
                    Taken::Done
                }
                Todo::Run(request) => self.take_again(request),
                Todo::Wait(request, since) => self.take_again(&shortened(request, now_ns().saturating_sub(*since))),
                Todo::Quiet(request) => self.quietly(|session| session.take_again(request)),
                Todo::Block(request) => self.send_block(request),
                Todo::QuietBlock(request) => self.quietly(|session| session.send_block(request)),
            };
            match taken {
                Taken::Done if matches!(todo, Todo::Say(_) | Todo::Spoil) => {}
                Taken::Done => self.service.stats.moved.set(self.service.stats.moved.get() + 1),
                Taken::Wait(wait) => {
                    self.client.backlog.borrow_mut().push_front(todo);
                    return Some(wait);
                }
            }
        }
    }

    /// Does what the client wants no reply to.
    fn quietly(&mut self, work: impl FnOnce(&mut Self) -> Taken) -> Taken {
        let mode = std::mem::replace(&mut self.reply, ReplyMode::Off);
        let taken = work(self);
        self.reply = mode;
        taken
    }

    pub(super) fn take_again(&mut self, request: &[u8]) -> Taken {
        match RequestScan::default().scan(request, Bounds::USUAL) {
            Ok(Found::Request(found)) => self.take(request, &found),
            _ => Taken::Done,
        }
    }

    /// Looks at the client's bytes, request by request. Returns how many were used, and what the next one waits for.
    fn work(&mut self, bytes: &[u8]) -> (usize, Option<Wait>) {
        // Requests in a row that go to the same lane go in one piece.
        let (mut at, mut run_from, mut run) = (0, 0, 0);
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            if self.is_streaming() {
                match self.stream_on(rest) {
                    Ok(used) => {
                        at += used;
                        run_from = at;
                        if used == 0 {
                            return (at, self.is_streaming().then_some(Wait::Server).filter(|_| self.own_is_full()));
                        }
                        continue;
                    }
                    Err(_) if self.owes_before_stream() => return (at, Some(Wait::Answers)),
                    Err(error) => return self.end_badly(bytes.len(), &error),
                }
            }
            let bounds = if self.client.login.borrow().is_some() { Bounds::USUAL } else { Bounds::STRANGER };
            let found = match self.scan.scan(rest, bounds) {
                Ok(found) => found,
                Err(error) => {
                    self.send_run(bytes.get(run_from..at).unwrap_or_default(), run);
                    if self.has_answers_to_come() {
                        self.scan = RequestScan::default();
                        return (at, Some(Wait::Answers));
                    }
                    return self.end_badly(bytes.len(), &error);
                }
            };
            let len = match found {
                Found::More => break,
                Found::Nothing(len) => {
                    self.send_run(bytes.get(run_from..at).unwrap_or_default(), run);
                    (run, run_from) = (0, at + len);
                    len
                }
                Found::Request(request) => {
                    let frame = rest.get(..request.len).unwrap_or_default();
                    if self.client.in_flight.get() + run < self.window && self.is_quick(frame, &request, run) {
                        run += 1;
                        at += request.len;
                        continue;
                    }
                    self.send_run(bytes.get(run_from..at).unwrap_or_default(), run);
                    (run, run_from) = (0, at + request.len);
                    if let Some(wait) = self.must_wait() {
                        return (at, Some(wait));
                    }
                    self.note_end(rest.len().saturating_sub(request.len));
                    match self.take(frame, &request) {
                        Taken::Done => request.len,
                        Taken::Wait(wait) => return (at, Some(wait)),
                    }
                }
                Found::Inline(len) => {
                    self.send_run(bytes.get(run_from..at).unwrap_or_default(), run);
                    (run, run_from) = (0, at + len);
                    if let Some(wait) = self.must_wait() {
                        return (at, Some(wait));
                    }
                    self.note_end(rest.len().saturating_sub(len));
                    match self.take_inline(rest.get(..len).unwrap_or_default()) {
                        Taken::Done => len,
                        Taken::Wait(wait) => return (at, Some(wait)),
                    }
                }
            };
            at += len;
            if self.client.is_ending.get() {
                return (bytes.len(), None);
            }
        }
        self.send_run(bytes.get(run_from..at).unwrap_or_default(), run);
        if self.is_streaming() {
            // The rest of a request that has begun already: it must not count as another one.
            return (at, self.own_is_full().then_some(Wait::Server));
        }
        let rest = bytes.get(at..).unwrap_or_default();
        if rest.len().saturating_add(self.scan.body_left()) > LONGEST_KEPT {
            return match self.begin_stream(rest) {
                Ok(used) => (at + used, self.own_is_full().then_some(Wait::Server)),
                Err(wait) => (at, Some(wait)),
            };
        }
        (at, None)
    }

    /// A request is looked at behind which so many bytes have come.
    fn note_end(&mut self, behind: usize) {
        self.taken_to = self.client.bytes.get().0.saturating_sub(behind as u64);
    }

    /// Sends requests to the lane of the last one.
    #[inline]
    fn send_run(&mut self, requests: &[u8], count: u32) {
        if count > 0
            && let Some(lane) = &self.lane
        {
            if self.service.usage.is_due(count) {
                self.look_at_some(lane, requests, count);
            }
            lane.push(&self.client, requests, count);
            self.service.stats.count(lane.is_primary, count);
        }
    }

    /// Looks at those of some requests that it is the turn of, before they are sent.
    #[cold]
    #[inline(never)]
    fn look_at_some(&self, lane: &Lane, mut requests: &[u8], count: u32) {
        let usage = &self.service.usage;
        let mut passed = 0;
        while let Some(due) = usage.next_due(count - passed) {
            for _ in 0..due {
                requests = first_request(requests).map(|(_, behind)| behind).unwrap_or_default();
            }
            let Some((request, behind)) = first_request(requests) else { return usage.look_at_none() };
            let mut words = words(request);
            let found = self.table.commands().judge_at(words.next().unwrap_or_default(), words.next());
            let place = found.map_or(self.table.others(), |(place, _)| place);
            if let Some(call) = usage.look(true, place, request, lane.key.db) {
                lane.time(call, passed + due);
            }
            (passed, requests) = (passed + due + 1, behind);
        }
    }

    /// What any further request has to wait for.
    fn must_wait(&mut self) -> Option<Wait> {
        if self.client.in_flight.get() == 0 && std::mem::take(&mut self.has_filled_window) {
            let is_heavy = self.client.heavy.get() > 0;
            self.window = if is_heavy { FIRST_IN_FLIGHT } else { (self.window * 2).min(MOST_IN_FLIGHT) };
        }
        if self.client.in_flight.get() >= self.window {
            self.has_filled_window = true;
            return Some(Wait::Answers);
        }
        if let Some(wait) = self.awaits_asked() {
            return Some(wait);
        }
        if self.own_is_full() {
            return Some(Wait::Server);
        }
        if self.client.unblocking.get() > 0 {
            return Some(Wait::Own);
        }
        (self.client.waiting_output() > MOST_OUTPUT / 2).then_some(Wait::Output)
    }

    /// Answers to earlier requests come first.
    fn has_answers_to_come(&self) -> bool {
        self.client.in_flight.get() > 0 || self.awaits_own()
    }

    /// Nothing is on its way, nothing is left of what was, and nobody but this task and its thread knows the client.
    pub(super) fn is_between_requests(&self) -> bool {
        let client = &self.client;
        Rc::strong_count(client) == 2
            && client.in_flight.get() == 0
            && client.backlog.borrow().is_empty()
            && client.waiting_output() == 0
            && !client.is_ending.get()
            && !client.is_cut.get()
            && !self.is_deaf
            && !self.is_asking()
            && !self.has_lost_watch
            && self.input.len() == self.at
            && self.scan == RequestScan::default()
            && matches!(self.own, OwnState::None)
            && self.transaction.is_none()
            && self.stream.is_none()
            && self.subscriptions.is_empty()
            && self.switched.is_empty()
            && self.reply == ReplyMode::On
    }

    /// The time before which it has written something that its reads must see, ns.
    pub(super) fn has_seen(&self) -> u64 {
        if self.has_written { now_ns() } else { self.seen }
    }

    /// The client, and [`Session::has_seen`].
    pub(super) fn into_client(self) -> (Rc<Client>, u64) {
        let seen = self.has_seen();
        (self.client, seen)
    }

    fn take_inline(&mut self, line: &[u8]) -> Taken {
        let words = match split(line) {
            Ok(words) => words,
            Err(_) => {
                if self.has_answers_to_come() {
                    return Taken::Wait(Wait::Answers);
                }
                self.client.refuse(&Trouble::Err("Protocol error: unbalanced quotes in request"));
                self.client.is_ending.set(true);
                return Taken::Done;
            }
        };
        if words.is_empty() {
            return Taken::Done;
        }
        let first = words.first().map(Vec::as_slice).unwrap_or_default();
        if first.eq_ignore_ascii_case(b"post") || first.eq_ignore_ascii_case(b"host:") {
            // As Redis: a browser that was led here must not be able to say anything.
            self.client.cut();
            return Taken::Done;
        }
        let mut frame = Vec::new();
        encode(&mut frame, &words);
        self.take_again(&frame)
    }

    /// The client cannot be understood any further.
    fn end_badly(&mut self, used: usize, error: &ProtocolError) -> (usize, Option<Wait>) {
        if *error == ProtocolError::Tls {
            tracing::warn!(peer = %self.client.peer, service = %self.service.name,
                "a client was closed: it began a TLS handshake where clear text is spoken (client_tls.mode)");
        }
        self.client.tell(|out| crate::wire::resp::build::error(out, format!("ERR {error}").as_bytes()));
        self.client.is_ending.set(true);
        (used, None)
    }

    /// Sends a transaction in one piece.
    pub(super) fn send_block(&mut self, block: &[u8]) -> Taken {
        let lane = match self.choose(crate::wire::resp::command::Access::Write, super::lane::Kind::Quick) {
            Ok(lane) => lane,
            Err(taken) => return taken,
        };
        let is_silent = !self.wants_reply();
        let replies = self.note_block(block, &lane);
        lane.push_special(&self.client, block, replies, EntryKind::Block { is_silent });
        self.note_write();
        Taken::Done
    }

    /// Counts the requests of a transaction that is about to be sent. Returns how many there are.
    fn note_block(&self, mut block: &[u8], lane: &Lane) -> u32 {
        let table = self.service.usage.table();
        let mut count = 0;
        while let Some((request, behind)) = first_request(block) {
            let mut words = words(request);
            let found = table.commands().judge_at(words.next().unwrap_or_default(), words.next());
            let place = found.map_or(table.others(), |(place, _)| place);
            // MULTI was counted when it was answered.
            if count > 0 {
                let call = self.service.usage.note(place, Ran::shared(lane.is_primary), request, self.client.db.get());
                // The others are answered as soon as they are queued.
                if let Some(call) = call.filter(|_| behind.is_empty()) {
                    lane.time(call, count);
                }
            }
            count += 1;
            block = behind;
        }
        count
    }

    /// The client is about to write something.
    #[inline]
    pub(super) fn note_write(&mut self) {
        self.has_written = true;
        self.replicated = None;
    }

    pub(super) fn scanner(&mut self) -> &mut RequestScan {
        &mut self.scan
    }
}

/// The first of some requests, and the others.
pub(super) fn first_request(requests: &[u8]) -> Option<(&[u8], &[u8])> {
    match RequestScan::default().scan(requests, Bounds::USUAL) {
        Ok(Found::Request(request)) => requests.split_at_checked(request.len),
        _ => None,
    }
}
