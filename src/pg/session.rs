//! One client's session: the stages it goes through and the loop that moves it from one to the next.
//!
//! A session owns its client's socket, and while it is served also the server connection. All stages that a usual
//! request goes through run within one poll of the task, without a wait that the request does not need; what is rare
//! (other settings to be made first) is a boxed future. Nothing here parses SQL: `request` says what the client wants,
//! `wait` queues, `forward` and `answer` move the bytes.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::backend::Backend;
use super::core::Core;
use super::doubt::InDoubt;
use super::errors::{End, Trouble};
use super::memory::{Flags, Rare};
use super::pool::PgPool;
use super::prepare::Names;
use super::registry::{Client, ClientState, Order, ServerState};
use super::request::{Plan, plain_request};
use super::settings::Settings;
use super::stats::add;
use super::wait::Wait;
use crate::net::Stream;
use crate::pool::{Choice, Class, Take};
use crate::sql::Verdict;
use crate::topology::acknowledged::Volume;

/// Unsent bytes for a client above which its server is not read: a slow client slows only itself.
pub(super) const OUTPUT_HIGH: usize = 64 * 1024;
/// A connection that came back less than this ago, ns, is not asked for news: the server had no time to say any.
const FRESH: u64 = 1_000_000;

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
    /// Of the request at the front, if it was judged already.
    pub(super) planned: Option<Arc<Verdict>>,
    /// In force now.
    pub(super) settings: Arc<Settings>,
    /// As the session began.
    pub(super) start: Arc<Settings>,
    /// Before the open transaction changed them.
    pub(super) before_tx: Option<Arc<Settings>>,
    /// When this client's last writing transaction had ended, ns; 0 for never.
    pub(super) wrote_at: u64,
    /// Of the open transaction, should it write: rows by its tags, and bytes that the client has sent for it.
    pub(super) volume: Volume,
    pub(super) rare: Rare,
    pub(super) flags: Flags,
}

/// What a session is doing.
pub(super) enum Stage {
    /// Has no connection and needs none yet.
    Idle,
    /// In the queue.
    Waiting(Wait),
    /// Has a connection until it is free again.
    Serving(Box<Backend>),
    /// Waits, until then at the latest (ns), for a replica that shows what its client has to see.
    Lagging(u64),
    /// Waits to hear what became of its COMMIT.
    InDoubt(Box<InDoubt>),
}

/// Why the loop over the stages stopped.
pub(super) enum Pause {
    /// A connection is at hand, but its session settings are another client's.
    Adjust(Box<Backend>),
    /// The session is over.
    End(End),
}

impl From<End> for Pause {
    fn from(end: End) -> Self {
        Pause::End(end)
    }
}

impl Session {
    /// Runs the session to its end and leaves everything it used in order.
    pub async fn run(mut self: Box<Self>) {
        poll_fn(|cx| {
            *self.me.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Ready(())
        })
        .await;
        let mut stage = Stage::Idle;
        let end = loop {
            let backend = match poll_fn(|cx| self.poll_stages(cx, &mut stage)).await {
                Pause::Adjust(backend) => backend,
                Pause::End(End::Travels) => match self.travel() {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::warn!(client_id = self.me.id, %error, "a client stays in the process that is leaving");
                        self.me.order.set(None);
                        continue;
                    }
                },
                Pause::End(end) => break end,
            };
            match Box::pin(self.begin(backend)).await {
                Ok(Some(backend)) => stage = Stage::Serving(backend),
                Ok(None) => {}
                Err(end) => break end,
            }
        };
        Box::pin(self.leave(end)).await;
    }

    /// Goes from stage to stage as far as it goes now.
    fn poll_stages(&mut self, cx: &mut Context<'_>, stage: &mut Stage) -> Poll<Pause> {
        let core = Rc::clone(&self.core);
        let scratch = &mut *core.scratch.borrow_mut();
        loop {
            let next = match stage {
                Stage::Idle => ready!(self.poll_idle(cx, scratch)),
                Stage::Waiting(wait) => {
                    let found = ready!(self.poll_wait(cx, wait, scratch));
                    if let Stage::Waiting(wait) = std::mem::replace(stage, Stage::Idle) {
                        self.pool.state.borrow_mut().recycle(wait.0);
                    }
                    match found {
                        Ok(Some(backend)) if !self.is_served_by(&backend) => {
                            self.core.put(&self.pool, backend);
                            self.enqueue(Class::Primary)
                        }
                        Ok(Some(backend)) => self.start(backend),
                        Ok(None) => continue,
                        Err(end) => Err(Pause::End(end)),
                    }
                }
                Stage::Serving(backend) => {
                    let served = ready!(self.poll_serve(cx, backend, scratch));
                    let Stage::Serving(backend) = std::mem::replace(stage, Stage::Idle) else { continue };
                    match served {
                        Ok(()) => {
                            self.release(backend);
                            continue;
                        }
                        Err(end) => self.stopped(backend, end),
                    }
                }
                Stage::Lagging(deadline) => ready!(self.poll_fresh(cx, *deadline, scratch)),
                Stage::InDoubt(wait) => {
                    ready!(self.poll_outcome(cx, wait, scratch)).map(|()| Stage::Idle).map_err(Pause::End)
                }
            };
            match next {
                Ok(next) => *stage = next,
                Err(Pause::End(End::InDoubt(wait))) => *stage = Stage::InDoubt(self.await_outcome(wait)),
                Err(pause) => {
                    *stage = Stage::Idle;
                    return Poll::Ready(pause);
                }
            }
        }
    }

    /// The use of a connection is over before it is free.
    #[cold]
    fn stopped(&mut self, backend: Box<Backend>, how: End) -> Result<Stage, Pause> {
        if self.flags.watching {
            self.watch_stopped(&backend, &how);
        }
        match how {
            End::Adjust => return Err(Pause::Adjust(backend)),
            End::Rerun => self.reroute(backend),
            End::ServerLost(trouble) => return Ok(self.server_lost(backend, *trouble)?.unwrap_or(Stage::Idle)),
            end => {
                let end = self.honest(&backend, end);
                self.abandon(backend);
                return Err(end.into());
            }
        }
        Ok(Stage::Idle)
    }

    /// A client that is closed while its COMMIT, or its write outside a transaction, is with the server is told that
    /// nobody knows whether it took effect.
    fn honest(&self, backend: &Backend, end: End) -> End {
        let End::Trouble(trouble) = end else { return end };
        let is_on_its_way = backend.track.has_statement() && backend.track.status == b'I' && self.flags.wrote;
        match *trouble {
            Trouble::Ended(why) if self.flags.committing || is_on_its_way => {
                let is_read = self.flags.unexamined && self.is_read_after_all(backend);
                End::Trouble(Box::new(if is_read {
                    Trouble::Ended(why)
                } else {
                    Trouble::OutcomeUnknown(why.to_owned())
                }))
            }
            Trouble::TransactionTimeout | Trouble::QueryTimeout if self.flags.committing => {
                End::Trouble(Box::new(Trouble::OutcomeUnknown("the time-out is over".to_owned())))
            }
            other => End::Trouble(Box::new(other)),
        }
    }

    /// No connection: reads until there is a request that needs one.
    fn poll_idle(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<Result<Stage, Pause>> {
        if let Some(stopped) = self.obey(true) {
            return stopped.map(|end| Err(end.into()));
        }
        let mut read = self.input.is_empty();
        loop {
            if !self.output.is_empty() {
                ready!(self.poll_output(cx))?;
            }
            if self.want > 0 {
                let bytes = ready!(self.poll_large(cx, scratch))?;
                match self.plan_start(&bytes, true) {
                    Some(done) => return Poll::Ready(done),
                    None => continue,
                }
            }
            let have = put_in_front(scratch, &self.input);
            let mut filled = have;
            if read {
                let Some(room) = scratch.get_mut(have..).filter(|room| !room.is_empty()) else {
                    return Poll::Ready(Err(End::Trouble(Box::new(Trouble::TooLong)).into()));
                };
                match self.stream.poll_read(cx, room) {
                    // With its last answer sent, it may be free for what it was called for before.
                    Poll::Pending => {
                        return self.obey(true).map_or(Poll::Pending, |stopped| stopped.map(|end| Err(end.into())));
                    }
                    Poll::Ready(Ok(n)) if n > 0 => {
                        self.count_received(n);
                        filled += n;
                    }
                    Poll::Ready(_) => return Poll::Ready(Err(End::ClientGone.into())),
                }
            }
            read = true;
            let Some(bytes) = scratch.get(..filled) else {
                return Poll::Ready(Err(End::Trouble(Box::new(Trouble::TooLong)).into()));
            };
            if let Some(done) = self.plan_start(bytes, filled >= scratch.len()) {
                return Poll::Ready(done);
            }
        }
    }

    /// Looks at what an idle client sent and starts what needs a server. `None`: more bytes are needed.
    #[inline]
    pub(super) fn plan_start(&mut self, bytes: &[u8], is_full: bool) -> Option<Result<Stage, Pause>> {
        self.planned = None;
        if let Some(done) = self.start_plain(bytes) {
            return Some(done);
        }
        let (done, plan) = self.plan(bytes, is_full);
        let rest = bytes.get(done..).unwrap_or_default();
        let mut class = match plan {
            Plan::Start(class) if self.rare.owed.is_none() => class,
            Plan::Start(_) => {
                self.keep(rest);
                match self.rare.owed.take() {
                    Some(last) if matches!(*last, Trouble::TransactionLost(_)) => {
                        return Some(Err(End::Trouble(last).into()));
                    }
                    Some(trouble) => {
                        if let Err(end) = self.refuse(*trouble) {
                            return Some(Err(end.into()));
                        }
                    }
                    None => {}
                }
                // The rest of the request has come with it, as a rule.
                let bytes = std::mem::take(&mut self.input);
                return self.plan_start(&bytes, is_full);
            }
            Plan::More => {
                self.keep(rest);
                return None;
            }
            Plan::End(end) => return Some(Err(end.into())),
        };
        if self.flags.awaits_fresh {
            return Some(Ok(self.await_fresh(rest)));
        }
        let now = self.core.read_clock();
        self.me.query_began.set(now);
        if !std::mem::take(&mut self.flags.is_rerun) {
            self.rare.reruns = 0;
        }
        let Some(mut backend) = self.take(&mut class, now) else {
            self.keep(rest);
            return Some(self.enqueue(class));
        };
        self.adopt(&mut backend, now);
        if !self.settings.is_same(&backend.settings) {
            self.keep(rest);
            return Some(Err(Pause::Adjust(backend)));
        }
        Some(self.send(backend, rest))
    }

    /// The commonest requests, one whole Query or batch that means nothing for the session, in a short way. `None`: it
    /// is another one, and nothing was done but that its statement may be judged, in `planned`.
    #[inline]
    fn start_plain(&mut self, bytes: &[u8]) -> Option<Result<Stage, Pause>> {
        let is_usual = !self.flags.skip_to_sync && !self.flags.is_rerun && self.discard == 0;
        if !is_usual || self.rare.owed.is_some() {
            return None;
        }
        let (text, batch) = plain_request(bytes)?;
        let (verdict, mut class) = self.judge_plain(text)?;
        let now = self.core.read_clock();
        self.rare.reruns = 0;
        let taken = self.take(&mut class, now);
        let Some(mut backend) = taken else {
            self.planned = Some(verdict.unwrap_or_else(|| Arc::clone(&self.core.inert)));
            self.keep(bytes);
            return Some(self.enqueue(class));
        };
        self.adopt(&mut backend, now);
        if !self.settings.is_same(&backend.settings) {
            self.planned = Some(verdict.unwrap_or_else(|| Arc::clone(&self.core.inert)));
            self.keep(bytes);
            return Some(Err(Pause::Adjust(backend)));
        }
        self.forward_plain(&mut backend, bytes, batch.as_ref(), verdict.as_ref());
        Some(Ok(Stage::Serving(backend)))
    }

    /// The request goes to its connection, which has the session's settings.
    #[inline]
    fn send(&mut self, mut backend: Box<Backend>, request: &[u8]) -> Result<Stage, Pause> {
        if self.planned.as_ref().is_some_and(|verdict| verdict.is_plain())
            && let Some((_, batch)) = plain_request(request)
            && let Some(verdict) = self.planned.take()
        {
            self.forward_plain(&mut backend, request, batch.as_ref(), Some(&verdict));
            return Ok(Stage::Serving(backend));
        }
        match self.forward(&mut backend, request) {
            Ok(()) => Ok(Stage::Serving(backend)),
            Err(end) => {
                self.abandon(backend);
                Err(end.into())
            }
        }
    }

    /// A connection from the queue: the request that waits in `input` goes to it.
    fn start(&mut self, mut backend: Box<Backend>) -> Result<Stage, Pause> {
        self.adopt(&mut backend, self.core.now());
        if !self.settings.is_same(&backend.settings) {
            return Err(Pause::Adjust(backend));
        }
        let request = std::mem::take(&mut self.input);
        let next = self.send(backend, &request);
        self.core.recycle(request);
        next
    }

    /// Bytes have come from the client.
    #[inline]
    pub(super) fn count_received(&mut self, n: usize) {
        add(&self.pool.stats.received, n as u64);
        self.volume.bytes = self.volume.bytes.saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
    }

    /// Reads until `input` has the `want`ed bytes, and takes them.
    fn poll_large(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<Result<Vec<u8>, End>> {
        while self.input.len() < self.want {
            match self.stream.poll_read(cx, scratch) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.count_received(n);
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
    ///
    /// A client whose whole request is with the server has nothing to say until the answer comes, as a rule. Looking at
    /// its socket would cost as much as the rest of the turn, so it is left for the first bytes of the answer, or for
    /// the next tick of the thread's clock ([`Client::call`]): that a client has left, or sends ahead, is noticed by
    /// then.
    fn poll_serve(
        &mut self,
        cx: &mut Context<'_>,
        backend: &mut Box<Backend>,
        scratch: &mut [u8],
    ) -> Poll<Result<(), End>> {
        if let Some(stopped) = self.obey(backend.track.is_free()) {
            return stopped.map(Err);
        }
        loop {
            let mut moved = false;
            if !backend.out.is_empty() {
                match self.poll_to_server(cx, backend) {
                    Poll::Ready(Ok(())) => moved = true,
                    Poll::Ready(Err(end)) => return Poll::Ready(Err(end)),
                    Poll::Pending => {}
                }
            }
            if self.output.len() < OUTPUT_HIGH || backend.entry.is_cut.get() {
                let kept = put_in_front(scratch, &backend.partial);
                let room = scratch.get_mut(kept..).unwrap_or_default();
                match backend.stream.poll_read(cx, room) {
                    Poll::Ready(Ok(n)) if n > 0 => {
                        moved = true;
                        backend.partial.clear();
                        let bytes = scratch.get(..kept + n).unwrap_or_default();
                        match self.answer(backend, bytes, n) {
                            Ok(true) => return Poll::Ready(Ok(())),
                            Ok(false) if self.is_kept_back() => return Poll::Pending,
                            Ok(false) => self.me.is_unwatched.set(false),
                            Err(end) => return Poll::Ready(Err(end)),
                        }
                    }
                    Poll::Ready(Ok(_)) => return Poll::Ready(Err(End::ServerLost(Box::new(Trouble::ServerClosed)))),
                    Poll::Ready(Err(e)) => {
                        return Poll::Ready(Err(End::ServerLost(Box::new(Trouble::ServerIo(e.kind())))));
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
            if backend.out.is_empty() && !self.me.is_unwatched.get() {
                match self.poll_input(cx, backend, scratch) {
                    Poll::Ready(Ok(())) => moved = true,
                    Poll::Ready(Err(end)) => return Poll::Ready(Err(end)),
                    Poll::Pending => {}
                }
            }
            if !moved {
                let is_idle = backend.track.is_free() && !self.flags.running && self.output.is_empty();
                if !is_idle || self.me.inbox.borrow().is_none() {
                    return Poll::Pending;
                }
                self.take_inbox();
            }
        }
    }

    /// While served: takes more of the client's bytes to the server, unless they must wait for its answer.
    fn poll_input(&mut self, cx: &mut Context<'_>, backend: &mut Backend, scratch: &mut [u8]) -> Poll<Result<(), End>> {
        if self.flags.hold {
            let waits = match self.flags.asks {
                true => self.waits_to_listen(),
                false => !backend.track.is_quiet() || self.flags.rerun,
            };
            if waits {
                return Poll::Pending;
            }
            self.flags.hold = false;
            if self.must_adjust(backend) {
                return Poll::Ready(Err(End::Adjust));
            }
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
        let have = put_in_front(scratch, &self.input);
        let Some(room) = scratch.get_mut(have..).filter(|room| !room.is_empty()) else {
            return Poll::Ready(Err(End::Trouble(Box::new(Trouble::TooLong))));
        };
        match self.stream.poll_read(cx, room) {
            Poll::Ready(Ok(n)) if n > 0 => {
                self.count_received(n);
                self.input.clear();
                let bytes = scratch.get(..have + n).unwrap_or_default();
                let is_quiet = backend.track.is_quiet() || backend.track.is_only_asked();
                if is_quiet && !self.flags.unsynced && self.left == 0 {
                    self.next_begins(backend);
                    if self.must_adjust(backend) {
                        self.keep(bytes);
                        // Once it has answered what we have asked it.
                        self.flags.hold = !backend.track.is_quiet();
                        return Poll::Ready(if self.flags.hold { Ok(()) } else { Err(End::Adjust) });
                    }
                }
                Poll::Ready(self.forward(backend, bytes))
            }
            Poll::Ready(_) => Poll::Ready(Err(End::ClientGone)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// The connection that the client keeps has other settings than it should have: a RESET gave it the server's own where
    /// the client had named others at its start.
    #[inline]
    fn must_adjust(&self, backend: &Backend) -> bool {
        !Arc::ptr_eq(&backend.settings, &self.settings)
            && backend.track.status == b'I'
            && backend.settings != self.settings
    }

    /// The client asks for more on the connection that it has kept: its time begins now.
    fn next_begins(&self, backend: &Backend) {
        let now = self.core.read_clock();
        self.me.query_began.set(now);
        if backend.track.status == b'I' {
            self.me.tx_began.set(now);
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
                if self.is_bound() {
                    return Err(End::Trouble(Box::new(failure.into_trouble())));
                }
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

    /// An idle connection for a request of `class`, if there is one. If only some replicas would do and none of these has
    /// one, it is a request for the primary from then on.
    #[inline]
    fn take(&mut self, class: &mut Class, now: u64) -> Option<Box<Backend>> {
        let among = self.core.among.take();
        loop {
            let taken = if *class == Class::Replica {
                let choice = self.core.choice(&self.pool, self.me.peer);
                let taken = self.pool.state.borrow_mut().take_among(among, choice);
                self.core.spread(&self.pool, choice, now);
                taken
            } else {
                self.pool.state.borrow_mut().take(*class, Choice::LeastConnections)
            };
            let Take::Connection(mut backend) = taken else {
                if among == 0 || *class == Class::Primary {
                    return None;
                }
                *class = Class::Primary;
                continue;
            };
            let is_fresh = now.saturating_sub(backend.entry.since.get()) < FRESH;
            let is_good = is_fresh || !backend.has_news() || self.core.read_news(&mut backend);
            // Nothing was sent yet: whoever waits for a primary loses nothing.
            if is_good && !backend.stream.is_barred() {
                return Some(backend);
            }
            self.core.close(&self.pool, backend);
        }
    }

    /// The connection is this client's from now on.
    fn adopt(&mut self, backend: &mut Backend, now: u64) {
        let entry = &backend.entry;
        entry.state.set(ServerState::Active);
        entry.since.set(now);
        entry.client.set(self.me.id);
        let me = &self.me;
        me.state.set(ClientState::Active);
        me.since.set(now);
        me.tx_began.set(now);
        me.query_began.set(now);
        add(&self.pool.stats.assignments, 1);
    }

    /// Remembers bytes for later.
    #[inline]
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            if self.input.capacity() > 0 {
                self.core.recycle(std::mem::take(&mut self.input));
            }
            return;
        }
        if self.input.capacity() == 0 {
            self.input = self.core.buffer();
        }
        self.input.clear();
        self.input.extend_from_slice(bytes);
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
                        return Poll::Ready(Err(End::ServerLost(Box::new(Trouble::ServerIo(e.kind())))));
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

    /// Looks at orders, time-outs and answers that are kept back, if somebody asked for it: `None` if the session may go
    /// on, pending while it waits, else its end. `is_outside`: no transaction is open.
    #[inline]
    fn obey(&mut self, is_outside: bool) -> Option<Poll<End>> {
        if self.me.is_called.get() { self.stops(is_outside) } else { None }
    }

    /// The same of a session that gives no answer meanwhile.
    pub(super) fn obey_orders(&mut self, is_outside: bool) -> Option<End> {
        if self.me.is_called.get() { self.answer_call(is_outside) } else { None }
    }

    #[cold]
    fn stops(&mut self, is_outside: bool) -> Option<Poll<End>> {
        match self.answer_call(is_outside) {
            Some(end) => Some(Poll::Ready(end)),
            None => self.still_kept_back(),
        }
    }

    /// Orders and time-outs.
    fn answer_call(&mut self, is_outside: bool) -> Option<End> {
        self.me.is_called.set(false);
        self.me.is_unwatched.set(false);
        if self.me.inbox.borrow().is_some() {
            match is_outside && !self.flags.running && !self.is_kept_back() && self.output.len() < OUTPUT_HIGH {
                true => self.take_inbox(),
                // Looks again at each turn until then.
                false => self.me.is_called.set(true),
            }
        }
        match self.me.order.get() {
            Some(Order::End(why)) => return Some(End::Trouble(Box::new(Trouble::Ended(why)))),
            Some(Order::Travel | Order::EndWhenIdle(_))
                if is_outside && self.core.doors.leads_on() && self.may_travel() =>
            {
                return Some(End::Travels);
            }
            Some(Order::EndWhenIdle(why)) if self.me.state.get() == ClientState::Idle => {
                return Some(End::Trouble(Box::new(Trouble::Ended(why))));
            }
            // Looks again at each turn until then.
            Some(Order::Travel | Order::EndWhenIdle(_)) => self.me.is_called.set(true),
            Some(Order::CancelWait) => self.cancelled(),
            None => {}
        }
        let (deadline, trouble) = self.deadline(is_outside)?;
        (self.core.read_clock() >= deadline).then(|| End::Trouble(Box::new(trouble)))
    }

    /// When the current state must end, and what the client is told then.
    fn deadline(&self, is_outside: bool) -> Option<(u64, Trouble)> {
        if self.is_kept_back() {
            // It is not the client that takes its time.
            return None;
        }
        let config = self.pool.config.borrow();
        let me = &self.me;
        let at = |from: u64, limit: Option<u64>, trouble: Trouble| limit.map(|l| (from.saturating_add(l), trouble));
        let both = match me.state.get() {
            ClientState::Idle => [at(me.since.get(), config.client_idle_timeout, Trouble::IdleTimeout), None],
            ClientState::Waiting => [None, None],
            // Keeps its connection, but asks nothing of it.
            ClientState::Active if is_outside && !self.flags.running => {
                [at(me.since.get(), config.client_idle_timeout, Trouble::IdleTimeout), None]
            }
            ClientState::Active => [
                at(me.tx_began.get(), config.transaction_timeout, Trouble::TransactionTimeout),
                if self.flags.running {
                    at(me.query_began.get(), config.query_timeout, Trouble::QueryTimeout)
                } else {
                    at(me.since.get(), config.idle_in_transaction_timeout, Trouble::IdleInTransaction)
                },
            ],
        };
        both.into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}

/// Copies what was kept of a message in front of the rest that is about to be read. Returns its length.
#[inline]
fn put_in_front(scratch: &mut [u8], kept: &[u8]) -> usize {
    if !kept.is_empty()
        && let Some(front) = scratch.get_mut(..kept.len())
    {
        front.copy_from_slice(kept);
    }
    kept.len()
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop_listening();
        self.core.client_left(&self.me, &self.pool, self.rare.home);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of the future that a function returns, bytes.
    fn future_size<A, F: Future>(_: impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn what_each_client_holds_stays_small() {
        // Idle clients hold it too: what is rare is boxed when it happens.
        // 8 of them: who the client is where a load balancer tells it, within the socket that everything is done with.
        assert!(size_of::<Session>() <= 336, "a session has {} bytes", size_of::<Session>());
        assert!(future_size(Session::run) <= 64, "its future has {} bytes", future_size(Session::run));
    }
}
