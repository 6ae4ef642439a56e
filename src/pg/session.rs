//! One client's session: the states it goes through and the loop that moves it from one to the next.
//!
//! A session owns its client's socket, and while it is served also the server connection. States are the functions of
//! this module: [`Session::poll_idle`] (no connection; ends with a request that needs one), [`Session::wait`] (in the
//! queue), [`Session::poll_serve`] (has a connection until it is free again). Nothing here parses SQL: `request` says what
//! the client wants, `forward` and `answer` move the bytes.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::backend::Backend;
use super::core::Core;
use super::errors::{End, Trouble};
use super::pool::PgPool;
use super::prepare::Names;
use super::registry::{Client, ClientState, Order, ServerState};
use super::request::Plan;
use super::settings::Settings;
use super::stats::add;
use super::track::Op;
use crate::config::model::ListenRoute;
use crate::net::Stream;
use crate::pool::{Class, Refusal, Take, Waiter};
use crate::wire::pg::build::{self, ErrorFields};
use crate::wire::pg::sqlstate::Severity;
use crate::worker::clock::now_ns;

/// Unsent bytes for a client above which its server is not read: a slow client slows only itself.
pub(super) const OUTPUT_HIGH: usize = 64 * 1024;
/// What a client may send ahead while it waits in the queue; twice this fits the scratch buffer.
const AHEAD: usize = 16 * 1024;

/// See the module.
pub struct Session {
    pub(super) core: Rc<Core>,
    pub(super) me: Rc<Client>,
    pub(super) pool: Rc<PgPool>,
    pub(super) stream: Stream,
    /// Bytes read from the client and not yet dealt with.
    pub(super) input: Vec<u8>,
    /// Bytes for the client that its socket has not taken.
    pub(super) output: Vec<u8>,
    /// Of the client's current message: bytes still to come that pass unread.
    pub(super) left: usize,
    /// Bytes that `input` must have before it is worth another look; 0 for any.
    pub(super) want: usize,
    /// Of a message that nobody wants: bytes still to come that are dropped.
    pub(super) discard: usize,
    pub(super) names: Option<Box<Names>>,
    /// In force now.
    pub(super) settings: Arc<Settings>,
    /// As the session began.
    pub(super) start: Arc<Settings>,
    /// Before the open transaction changed them.
    pub(super) before_tx: Option<Arc<Settings>>,
    /// When this client's last writing transaction had ended, ns; 0 for never.
    pub(super) wrote_at: u64,
    pub(super) rare: Rare,
    pub(super) flags: Flags,
}

/// What few statements need.
#[derive(Debug)]
pub(super) struct Rare {
    /// From the listener or `SET forebay.route`.
    pub route: ListenRoute,
    /// As the listener said.
    pub listen_route: ListenRoute,
    /// `SET LOCAL forebay.route`.
    pub route_local: Option<ListenRoute>,
    /// What the statement bound last does to the session.
    pub bound: Option<Box<Op>>,
    /// Names the text of the unnamed statement among all clients of the thread; 0 before the first.
    pub unnamed_serial: u64,
    /// Node of the last statement, for `SHOW forebay.node`.
    pub last_node: Option<usize>,
    /// When the current request began / the current transaction began / the session became idle, ns.
    pub query_began: u64,
    pub tx_began: u64,
    /// Since when the request has looked for a server, ns; 0 if it does not.
    pub wait_began: u64,
    /// Earliest timer that is armed, ns.
    pub armed: Option<(u64, crate::worker::TimerId)>,
    /// A queue notice was sent for this wait.
    pub noticed: bool,
    /// Home thread, for the count of clients.
    pub home: usize,
    /// Session pooling: the connection stays until the client leaves.
    pub is_session: bool,
    /// Length of `output` when the answer began that may still be dropped.
    pub held_from: usize,
    /// How often the current request was run again.
    pub reruns: u32,
    /// What the client gets instead of the server's message that was just swallowed.
    pub instead: Option<Vec<u8>>,
    /// An error that the client is told when it next asks for something.
    pub owed: Option<Box<Trouble>>,
    /// What the connection really has, where a RESET made it differ from what the session should have.
    pub actual: Option<Arc<Settings>>,
}

impl Rare {
    /// For a client that came in by a listener with this route.
    pub(super) fn new(route: ListenRoute, home: usize, is_session: bool) -> Self {
        Rare {
            route,
            listen_route: route,
            route_local: None,
            bound: None,
            unnamed_serial: 0,
            last_node: None,
            query_began: 0,
            tx_began: 0,
            wait_began: 0,
            armed: None,
            noticed: false,
            home,
            is_session,
            held_from: 0,
            reruns: 0,
            instead: None,
            owed: None,
            actual: None,
        }
    }
}

/// Small truths about the session.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Flags {
    /// Input waits until the connection is quiet.
    pub hold: bool,
    /// Extended messages were sent since the last Sync.
    pub unsynced: bool,
    /// The open transaction (or request) may have written.
    pub wrote: bool,
    /// A COMMIT was sent and not answered.
    pub committing: bool,
    /// The open transaction failed or was rolled back.
    pub rolled_back: bool,
    /// The answer so far may still be dropped and the request run elsewhere.
    pub undecided: bool,
    /// The request failed on this node in a way that another node mends: drop the answer and run it again.
    pub rerun: bool,
    /// The next run must be on the primary.
    pub force_primary: bool,
    /// After an error of ours, drop everything up to the client's Sync.
    pub skip_to_sync: bool,
    /// The request at hand was run before and comes again.
    pub is_rerun: bool,
    /// A request is running (between its first byte sent and ReadyForQuery).
    pub running: bool,
    /// The connection must be cleaned before somebody else gets it.
    pub dirty: bool,
}

/// Where `poll_idle` ended.
pub(super) enum Next {
    /// A connection was at hand and has the request.
    Serve(Box<Backend>),
    /// A connection was at hand, but its session settings are another client's.
    Adjust(Box<Backend>),
    /// Get one first.
    Wait(Class),
}

impl Session {
    /// Runs the session to its end and leaves everything it used in order.
    pub async fn run(mut self: Box<Self>) {
        poll_fn(|cx| {
            *self.me.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Ready(())
        })
        .await;
        let end = self.work().await;
        Box::pin(self.leave(end)).await;
    }

    async fn work(&mut self) -> End {
        loop {
            let next = match poll_fn(|cx| self.poll_idle(cx)).await {
                Ok(next) => next,
                Err(end) => return end,
            };
            let found = match next {
                Next::Serve(backend) => Ok(Some(backend)),
                Next::Adjust(backend) => Box::pin(self.begin(backend)).await,
                Next::Wait(class) => match Box::pin(self.wait(class)).await {
                    Ok(Some(backend)) => match self.begin_waited(backend) {
                        Ok(Next::Adjust(backend)) => Box::pin(self.begin(backend)).await,
                        Ok(Next::Serve(backend)) => Ok(Some(backend)),
                        Ok(Next::Wait(_)) => Ok(None),
                        Err(end) => Err(end),
                    },
                    other => other,
                },
            };
            let mut backend = match found {
                Ok(Some(backend)) => backend,
                Ok(None) => continue,
                Err(end) => return end,
            };
            match poll_fn(|cx| self.poll_serve(cx, &mut backend)).await {
                Ok(()) => self.release(backend),
                Err(End::Rerun) => self.reroute(backend),
                Err(End::ServerLost(trouble)) => {
                    if let Err(end) = self.server_lost(backend, trouble) {
                        return end;
                    }
                }
                Err(end) => {
                    self.abandon(backend);
                    return end;
                }
            }
        }
    }

    /// No connection: reads until there is a request that needs one.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Result<Next, End>> {
        if let Some(end) = self.obey() {
            return Poll::Ready(Err(end));
        }
        let core = Rc::clone(&self.core);
        let mut scratch = core.scratch.borrow_mut();
        let mut read = self.input.is_empty();
        loop {
            if !self.output.is_empty() {
                match self.poll_output(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(end)) => return Poll::Ready(Err(end)),
                    Poll::Pending => return self.pend(cx),
                }
            }
            if self.want > 0 {
                match self.poll_large(cx, &mut scratch) {
                    Poll::Ready(Ok(bytes)) => match self.plan_start(&bytes, true) {
                        Some(done) => return Poll::Ready(done),
                        None => continue,
                    },
                    Poll::Ready(Err(end)) => return Poll::Ready(Err(end)),
                    Poll::Pending => return self.pend(cx),
                }
            }
            let have = self.input.len();
            if let Some(front) = scratch.get_mut(..have) {
                front.copy_from_slice(&self.input);
            }
            let mut filled = have;
            if read {
                let Some(room) = scratch.get_mut(have..).filter(|room| !room.is_empty()) else {
                    return Poll::Ready(Err(End::Trouble(Trouble::TooLong)));
                };
                match self.stream.poll_read(cx, room) {
                    Poll::Ready(Ok(n)) if n > 0 => {
                        add(&self.pool.stats.received, n as u64);
                        filled += n;
                    }
                    Poll::Ready(_) => return Poll::Ready(Err(End::ClientGone)),
                    Poll::Pending => return self.pend(cx),
                }
            }
            read = true;
            let Some(bytes) = scratch.get(..filled) else {
                return Poll::Ready(Err(End::Trouble(Trouble::TooLong)));
            };
            if let Some(done) = self.plan_start(bytes, filled >= scratch.len()) {
                return Poll::Ready(done);
            }
        }
    }

    /// Looks at what an idle client sent and starts what needs a server. `None`: more bytes are needed.
    #[inline]
    fn plan_start(&mut self, bytes: &[u8], is_full: bool) -> Option<Result<Next, End>> {
        let (done, plan) = self.plan(bytes, is_full);
        let rest = bytes.get(done..).unwrap_or_default();
        match plan {
            Plan::More => {
                self.core.planned.take();
                self.keep(rest);
                None
            }
            Plan::End(end) => Some(Err(end)),
            Plan::Start(_) if self.rare.owed.is_some() => {
                self.core.planned.take();
                self.keep(rest);
                let owed = self.rare.owed.take();
                owed.and_then(|trouble| self.refuse(*trouble).err()).map(Err)
            }
            Plan::Start(class) => {
                let now = now_ns();
                self.rare.query_began = now;
                self.rare.reruns = if self.flags.is_rerun { self.rare.reruns } else { 0 };
                self.flags.is_rerun = false;
                let Some(mut backend) = self.take(class, now) else {
                    self.core.planned.take();
                    self.keep(rest);
                    return Some(Ok(Next::Wait(class)));
                };
                self.adopt(&mut backend, now);
                if !self.settings.is_same(&backend.settings) {
                    self.core.planned.take();
                    self.keep(rest);
                    return Some(Ok(Next::Adjust(backend)));
                }
                self.input.clear();
                Some(match self.forward(&mut backend, rest) {
                    Ok(()) => Ok(Next::Serve(backend)),
                    Err(end) => {
                        self.abandon(backend);
                        Err(end)
                    }
                })
            }
        }
    }

    /// Reads until `input` has the `want`ed bytes, and takes them.
    fn poll_large(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<Result<Vec<u8>, End>> {
        while self.input.len() < self.want {
            match self.stream.poll_read(cx, scratch) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    add(&self.pool.stats.received, n as u64);
                    self.input.extend_from_slice(scratch.get(..n).unwrap_or_default());
                }
                Poll::Ready(_) => return Poll::Ready(Err(End::ClientGone)),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.want = 0;
        Poll::Ready(Ok(std::mem::take(&mut self.input)))
    }

    /// Has a connection: moves bytes both ways until the connection is free.
    fn poll_serve(&mut self, cx: &mut Context<'_>, backend: &mut Box<Backend>) -> Poll<Result<(), End>> {
        if let Some(end) = self.obey() {
            return Poll::Ready(Err(end));
        }
        let core = Rc::clone(&self.core);
        let mut scratch = core.scratch.borrow_mut();
        loop {
            let mut moved = false;
            if !backend.out.is_empty() {
                match self.poll_to_server(cx, backend) {
                    Poll::Ready(Ok(())) => moved = true,
                    Poll::Ready(Err(end)) => return Poll::Ready(Err(end)),
                    Poll::Pending => {}
                }
            }
            if self.output.len() < OUTPUT_HIGH {
                let kept = backend.partial.len();
                if let Some(front) = scratch.get_mut(..kept) {
                    front.copy_from_slice(&backend.partial);
                }
                let room = scratch.get_mut(kept..).unwrap_or_default();
                match backend.stream.poll_read(cx, room) {
                    Poll::Ready(Ok(n)) if n > 0 => {
                        moved = true;
                        backend.partial.clear();
                        let bytes = scratch.get(..kept + n).unwrap_or_default();
                        match self.answer(backend, bytes, n) {
                            Ok(true) => return Poll::Ready(Ok(())),
                            Ok(false) => {}
                            Err(end) => return Poll::Ready(Err(end)),
                        }
                    }
                    Poll::Ready(Ok(_)) => return Poll::Ready(Err(End::ServerLost(Trouble::ServerClosed))),
                    Poll::Ready(Err(e)) => {
                        return Poll::Ready(Err(End::ServerLost(Trouble::ServerIo(e.kind()))));
                    }
                    Poll::Pending => {}
                }
            }
            if !self.output.is_empty() && !self.flags.undecided {
                match self.poll_output(cx) {
                    Poll::Ready(Ok(())) => moved = true,
                    Poll::Ready(Err(end)) => return Poll::Ready(Err(end)),
                    Poll::Pending => {}
                }
            }
            if backend.out.is_empty() {
                match self.poll_input(cx, backend, &mut scratch) {
                    Poll::Ready(Ok(())) => moved = true,
                    Poll::Ready(Err(end)) => return Poll::Ready(Err(end)),
                    Poll::Pending => {}
                }
            }
            if !moved {
                return self.pend(cx);
            }
        }
    }

    /// While served: takes more of the client's bytes to the server, unless they must wait for its answer.
    fn poll_input(&mut self, cx: &mut Context<'_>, backend: &mut Backend, scratch: &mut [u8]) -> Poll<Result<(), End>> {
        if self.flags.hold {
            if !backend.track.is_quiet() || self.flags.rerun {
                return Poll::Pending;
            }
            self.flags.hold = false;
            if !self.input.is_empty() {
                let bytes = std::mem::take(&mut self.input);
                return Poll::Ready(self.forward(backend, &bytes));
            }
        }
        if self.want > 0 {
            return match self.poll_large(cx, scratch) {
                Poll::Ready(Ok(bytes)) => Poll::Ready(self.forward(backend, &bytes)),
                Poll::Ready(Err(end)) => Poll::Ready(Err(end)),
                Poll::Pending => Poll::Pending,
            };
        }
        let have = self.input.len();
        if let Some(front) = scratch.get_mut(..have) {
            front.copy_from_slice(&self.input);
        }
        let Some(room) = scratch.get_mut(have..).filter(|room| !room.is_empty()) else {
            return Poll::Ready(Err(End::Trouble(Trouble::TooLong)));
        };
        match self.stream.poll_read(cx, room) {
            Poll::Ready(Ok(n)) if n > 0 => {
                add(&self.pool.stats.received, n as u64);
                self.input.clear();
                let bytes = scratch.get(..have + n).unwrap_or_default();
                Poll::Ready(self.forward(backend, bytes))
            }
            Poll::Ready(_) => Poll::Ready(Err(End::ClientGone)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// In the queue. `None`: the request was answered without a connection (refused, cancelled).
    async fn wait(&mut self, class: Class) -> Result<Option<Box<Backend>>, End> {
        let now = now_ns();
        self.rare.wait_began = now;
        self.rare.noticed = false;
        let waiter = self.pool.state.borrow_mut().enqueue(class, now);
        let Some(waiter) = waiter else {
            add(&self.pool.stats.refused, 1);
            let length = self.pool.config.borrow().settings.queue_length.unwrap_or_default();
            return self.refuse(Trouble::QueueFull { pool: self.pool.name(), length }).map(|()| None);
        };
        self.me.state.set(ClientState::Waiting);
        self.me.since.set(now);
        self.core.open_wanted(&self.pool);
        self.core.cry(&self.pool);
        let granted = poll_fn(|cx| self.poll_wait(cx, &waiter)).await;
        let waited = now_ns() - now;
        add(&self.pool.stats.wait_time, waited);
        self.pool.stats.wait_us.borrow_mut().saturating_record(waited / 1000);
        self.me.state.set(ClientState::Idle);
        match granted {
            Ok(backend) => {
                add(&self.pool.stats.served, 1);
                Ok(Some(backend))
            }
            Err(why) => {
                if let Some(backend) = waiter.leave() {
                    self.core.put(&self.pool, backend);
                }
                match why {
                    Wait::End(end) => Err(end),
                    Wait::Refused(trouble) => self.refuse(trouble).map(|()| None),
                }
            }
        }
    }

    fn poll_wait(&mut self, cx: &mut Context<'_>, waiter: &Waiter<Box<Backend>>) -> Poll<Result<Box<Backend>, Wait>> {
        match waiter.poll(cx) {
            Poll::Ready(Ok(backend)) => return Poll::Ready(Ok(backend)),
            Poll::Ready(Err(Refusal::Closed(why))) => {
                return Poll::Ready(Err(Wait::End(End::Trouble(Trouble::Ended(why)))));
            }
            Poll::Ready(Err(Refusal::Server { code, message })) => {
                return Poll::Ready(Err(Wait::Refused(Trouble::ServerRefused { code, message })));
            }
            Poll::Pending => {}
        }
        if self.me.order.get() == Some(Order::CancelWait) {
            self.me.order.set(None);
            return Poll::Ready(Err(Wait::Refused(Trouble::Cancelled)));
        }
        if let Some(end) = self.obey() {
            return Poll::Ready(Err(Wait::End(end)));
        }
        let now = now_ns();
        let config = Rc::clone(&self.pool.config.borrow());
        let waited = now.saturating_sub(waiter.since);
        let limit = self.core.wait_limit(&self.pool, &config);
        if limit.is_some_and(|limit| waited >= limit) {
            add(&self.pool.stats.timed_out, 1);
            return Poll::Ready(Err(Wait::Refused(self.core.why_waited(&self.pool, waited))));
        }
        if let Some(notice) = config.queue_notice.filter(|n| waited >= *n && !self.rare.noticed) {
            self.rare.noticed = true;
            let text = self.core.queue_notice(&self.pool, notice);
            build::notice_response(
                &mut self.output,
                &ErrorFields { severity: Severity::Notice, code: "01000", message: &text, detail: None, hint: None },
            );
        }
        if !self.output.is_empty()
            && let Poll::Ready(Err(end)) = self.poll_output(cx)
        {
            return Poll::Ready(Err(Wait::End(end)));
        }
        // The client may leave, or send ahead, while it waits.
        while self.input.len() < AHEAD {
            let core = Rc::clone(&self.core);
            let mut scratch = core.scratch.borrow_mut();
            let room = scratch.get_mut(..AHEAD).unwrap_or_default();
            match self.stream.poll_read(cx, room) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    add(&self.pool.stats.received, n as u64);
                    self.input.extend_from_slice(scratch.get(..n).unwrap_or_default());
                }
                Poll::Ready(_) => return Poll::Ready(Err(Wait::End(End::ClientGone))),
                Poll::Pending => break,
            }
        }
        let notice = config.queue_notice.filter(|_| !self.rare.noticed);
        if let Some(after) = [limit, notice].into_iter().flatten().min() {
            self.arm(cx, waiter.since.saturating_add(after).max(now + 1));
        }
        Poll::Pending
    }

    /// A connection from the queue: the request that waits in `input` goes to it.
    fn begin_waited(&mut self, mut backend: Box<Backend>) -> Result<Next, End> {
        self.adopt(&mut backend, now_ns());
        if !self.settings.is_same(&backend.settings) {
            return Ok(Next::Adjust(backend));
        }
        let bytes = std::mem::take(&mut self.input);
        match self.forward(&mut backend, &bytes) {
            Ok(()) => Ok(Next::Serve(backend)),
            Err(end) => {
                self.abandon(backend);
                Err(end)
            }
        }
    }

    /// Makes the connection's settings this client's, then sends the request that waits in `input`.
    async fn begin(&mut self, mut backend: Box<Backend>) -> Result<Option<Box<Backend>>, End> {
        let sql = self.settings.difference(&backend.settings);
        match super::control::run(&mut backend, &sql).await {
            Ok(_) => backend.settings = Arc::clone(&self.settings),
            Err(failure) => {
                tracing::warn!(
                    client_id = self.me.id,
                    database = %self.me.database,
                    user = %self.me.user,
                    error = %failure,
                    "session settings could not be made on a server connection"
                );
                self.drop_backend(backend);
                return match failure.into_trouble() {
                    trouble @ Trouble::ServerSaid { .. } => self.refuse(trouble).map(|()| None),
                    _ => Ok(None),
                };
            }
        }
        let bytes = std::mem::take(&mut self.input);
        match self.forward(&mut backend, &bytes) {
            Ok(()) => Ok(Some(backend)),
            Err(end) => {
                self.abandon(backend);
                Err(end)
            }
        }
    }

    /// An idle connection for a request of `class`, if there is one.
    fn take(&mut self, class: Class, now: u64) -> Option<Box<Backend>> {
        let pool = Rc::clone(&self.pool);
        loop {
            let taken = if class == Class::Replica {
                let choice = self.core.choice(&pool, self.me.peer);
                let taken = pool.state.borrow_mut().take(class, choice);
                self.core.spread(&pool, choice, now);
                taken
            } else {
                pool.state.borrow_mut().take(class, crate::pool::Choice::LeastConnections)
            };
            let Take::Connection(mut backend) = taken else { return None };
            if !backend.has_news() || self.core.read_news(&pool, &mut backend) {
                return Some(backend);
            }
            self.core.close(&pool, backend);
        }
    }

    /// The connection is this client's from now on.
    fn adopt(&mut self, backend: &mut Backend, now: u64) {
        backend.entry.state.set(ServerState::Active);
        backend.entry.since.set(now);
        backend.entry.client.set(self.me.id);
        *self.me.link.borrow_mut() = Some(Rc::clone(&backend.entry));
        self.me.state.set(ClientState::Active);
        self.me.since.set(now);
        self.rare.tx_began = now;
        self.rare.query_began = now;
        add(&self.pool.stats.assignments, 1);
    }

    /// Remembers bytes for later.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        self.input.clear();
        if bytes.is_empty() {
            self.input.shrink_to(0);
        } else {
            self.input.extend_from_slice(bytes);
        }
    }

    /// Sends what the client's socket takes.
    pub(super) fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        while !self.output.is_empty() {
            match self.stream.try_write(&self.output) {
                Ok(0) => {
                    if let Poll::Ready(Err(_)) | Poll::Pending = self.stream.poll_write_ready(cx) {
                        return Poll::Pending;
                    }
                }
                Ok(n) if n == self.output.len() => self.output = Vec::new(),
                Ok(n) => drop(self.output.drain(..n)),
                Err(_) => return Poll::Ready(Err(End::ClientGone)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what the server's socket takes.
    fn poll_to_server(&mut self, cx: &mut Context<'_>, backend: &mut Backend) -> Poll<Result<(), End>> {
        while !backend.out.is_empty() {
            match backend.stream.try_write(&backend.out) {
                Ok(0) => match backend.stream.poll_write_ready(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(e)) => {
                        return Poll::Ready(Err(End::ServerLost(Trouble::ServerIo(e.kind()))));
                    }
                    Poll::Pending => return Poll::Pending,
                },
                Ok(n) => drop(backend.out.drain(..n)),
                // What the server said before it closed is still to be read: reading decides.
                Err(_) => {
                    backend.out.clear();
                    return Poll::Ready(Ok(()));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Looks at orders and time-outs.
    fn obey(&mut self) -> Option<End> {
        if let Some(order) = self.me.order.get() {
            match order {
                Order::End(why) => return Some(End::Trouble(Trouble::Ended(why))),
                Order::EndWhenIdle(why) if self.me.state.get() == ClientState::Idle => {
                    return Some(End::Trouble(Trouble::Ended(why)));
                }
                Order::EndWhenIdle(_) => {}
                Order::CancelWait => self.me.order.set(None),
            }
        }
        if self.rare.armed.is_some() { self.overdue() } else { None }
    }

    fn overdue(&mut self) -> Option<End> {
        let (deadline, trouble) = self.deadline()?;
        (now_ns() >= deadline).then_some(End::Trouble(trouble))
    }

    /// When the current state must end, and what the client is told then.
    fn deadline(&self) -> Option<(u64, Trouble)> {
        let config = self.pool.config.borrow();
        if !config.has_timeouts() {
            return None;
        }
        let at = |from: u64, limit: Option<u64>, trouble: Trouble| limit.map(|l| (from.saturating_add(l), trouble));
        let both = match self.me.state.get() {
            ClientState::Idle => [at(self.me.since.get(), config.client_idle_timeout, Trouble::IdleTimeout), None],
            ClientState::Waiting => [None, None],
            ClientState::Active => [
                at(self.rare.tx_began, config.transaction_timeout, Trouble::TransactionTimeout),
                if self.flags.running {
                    at(self.rare.query_began, config.query_timeout, Trouble::QueryTimeout)
                } else {
                    at(self.me.since.get(), config.idle_in_transaction_timeout, Trouble::IdleInTransaction)
                },
            ],
        };
        both.into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    fn pend<T>(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        if let Some((deadline, _)) = self.deadline() {
            self.arm(cx, deadline);
        }
        Poll::Pending
    }

    /// Has the task woken at `deadline` at the latest. Timers are re-armed when they fire, not when they move: the
    /// usual request costs no timer.
    fn arm(&mut self, cx: &mut Context<'_>, deadline: u64) {
        let now = now_ns();
        if let Some((at, timer)) = self.rare.armed {
            if at > now && at <= deadline {
                return;
            }
            self.core.wheel.cancel(timer);
        }
        self.rare.armed = Some((deadline, self.core.wheel.wake_at(deadline, cx.waker().clone())));
    }
}

/// Why a wait ended without a connection.
enum Wait {
    /// The session is over.
    End(End),
    /// The request is answered with this.
    Refused(Trouble),
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some((_, timer)) = self.rare.armed.take() {
            self.core.wheel.cancel(timer);
        }
        self.core.client_left(&self.me, &self.pool, self.rare.home);
    }
}
