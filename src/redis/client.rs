//! One client as others see it: the lane that has its reply, the console that lists or closes it.
//!
//! The client's own task ([`super::session`]) reads its socket; whoever has bytes for it writes them, or leaves in
//! `output` what the socket does not take, which the task then sends.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use super::errors::Trouble;
use super::login::Login;
use super::service::Service;
use crate::guard::Pass;
use crate::net::{Endpoint, Stream};
use crate::wire::resp::Version;

/// Replies that wait for a slow client before whoever makes them has to wait, bytes.
pub const MOST_OUTPUT: usize = 1024 * 1024;

/// See the module.
pub struct Client {
    /// What `CLIENT ID` answers.
    pub id: u64,
    /// Where it is connected.
    pub service: Rc<Service>,
    /// The other side.
    pub peer: Endpoint,
    /// Our side.
    pub local: Endpoint,
    /// When it came.
    pub connected: SystemTime,
    /// Protocol that it speaks.
    pub version: Cell<Version>,
    /// Database of its SELECT.
    pub db: Cell<u32>,
    /// As whom it speaks; `None` before it has said so.
    pub login: RefCell<Option<Rc<Login>>>,
    /// `CLIENT SETNAME`.
    pub name: RefCell<Vec<u8>>,
    /// `CLIENT SETINFO LIB-NAME` and `LIB-VER`.
    pub library: RefCell<(Vec<u8>, Vec<u8>)>,
    /// Its last command that was more than a plain read or write, and where in its bytes that ended: if more has come
    /// since, it was not the last one.
    pub said: RefCell<(String, u64)>,
    /// Kind of its connection, for `CLIENT LIST`.
    pub mode: Cell<Mode>,
    /// Requests on a lane that are not answered yet.
    pub in_flight: Cell<u32>,
    /// Bytes from it, and to it.
    pub bytes: Cell<(u64, u64)>,
    /// When it said something last, ns.
    pub active: Cell<u64>,
    /// What has to be done before its next request: requests that came back from a lane, and answers to others behind
    /// them.
    pub backlog: RefCell<VecDeque<Todo>>,
    /// What a server has said to what it was asked about the client, such as whether its AUTH succeeds: yes or no; `None`
    /// while that is not known.
    pub login_result: Cell<Option<bool>>,
    /// Its login has failed, by the server's word, since that was looked at.
    pub(super) has_failed_login: Cell<bool>,
    /// Since when it may say nothing but a login, ns; of who has none.
    pub(super) stranger_since: Cell<u64>,
    /// Counts it among those who have not logged in.
    pub(super) pass: Cell<Option<Pass>>,
    /// The server's number of the connection on which its command blocks, or will when it has arrived.
    pub blocked_on: Cell<Option<u64>>,
    /// The server's node and its number of the connection on which the client waits for something to happen.
    pub(super) waits_on: Cell<Option<(u64, u64)>>,
    /// CLIENT UNBLOCK has asked the server to end that: until it has, nobody else may wait on that connection.
    pub(super) unblocking: Cell<u32>,
    /// CLIENT UNBLOCK where the server cannot be asked: whether with an error.
    pub unblock: Cell<Option<bool>>,
    /// It has read much lately: its reads keep out of the others' way.
    pub heavy: Cell<u16>,
    /// Nobody reads what is for it any more.
    pub is_gone: Cell<bool>,
    /// To be closed, what is on its way to it first.
    pub is_ending: Cell<bool>,
    /// To be closed at once.
    pub is_cut: Cell<bool>,
    /// Its task waits for something that others do.
    pub is_waiting: Cell<bool>,
    /// The thread that it should go on on, at the next quiet moment.
    pub(super) moves_to: Cell<Option<usize>>,
    pub(super) stream: RefCell<Stream>,
    output: RefCell<Output>,
    /// A lane that does not read on before this client has taken its bytes.
    pub(super) blocks: RefCell<Option<Waker>>,
    waker: RefCell<Option<Waker>>,
}

/// What a client's connection is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mode {
    /// Between MULTI and EXEC: commands that wait.
    pub queued: Option<u32>,
    /// Keys are watched.
    pub is_watching: bool,
    /// Channels, and patterns.
    pub subscriptions: (u32, u32),
    /// Waits in a blocking command.
    pub is_blocked: bool,
    /// MONITOR
    pub is_monitor: bool,
    /// Has a connection of its own.
    pub has_own: bool,
}

/// Bytes for the socket: the first `sent` of them are there.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    sent: usize,
    /// What of it is in the service's `kept`.
    counted: usize,
}

impl Output {
    fn waiting(&self) -> usize {
        self.bytes.len() - self.sent
    }
}

/// See [`Client::backlog`].
#[derive(Debug)]
pub enum Todo {
    /// A request that has not been carried out, or may be carried out twice.
    Run(Vec<u8>),
    /// A request that blocks, and since when it has, ns.
    Wait(Vec<u8>, u64),
    /// A request of a client that wanted no reply to it.
    Quiet(Vec<u8>),
    /// MULTI, commands, and EXEC.
    Block(Vec<u8>),
    /// The same, of a client that wanted no reply to it.
    QuietBlock(Vec<u8>),
    /// The answer to a request.
    Say(Vec<u8>),
    /// A transaction begins of which nothing can be carried out.
    Spoil,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.id)
    }
}

impl Client {
    /// A client that has just come.
    pub fn new(
        id: u64,
        service: Rc<Service>,
        stream: Stream,
        login: Option<Rc<Login>>,
        connected: SystemTime,
        now: u64,
    ) -> Rc<Self> {
        Rc::new(Client {
            id,
            service,
            peer: stream.peer(),
            local: stream.local(),
            connected,
            version: Cell::default(),
            db: Cell::new(0),
            login: RefCell::new(login),
            name: RefCell::default(),
            library: RefCell::default(),
            said: RefCell::default(),
            mode: Cell::default(),
            in_flight: Cell::new(0),
            bytes: Cell::default(),
            active: Cell::new(now),
            backlog: RefCell::default(),
            login_result: Cell::new(None),
            has_failed_login: Cell::new(false),
            stranger_since: Cell::new(now),
            pass: Cell::new(None),
            blocked_on: Cell::new(None),
            waits_on: Cell::new(None),
            unblocking: Cell::new(0),
            unblock: Cell::new(None),
            heavy: Cell::new(0),
            is_gone: Cell::new(false),
            is_ending: Cell::new(false),
            is_cut: Cell::new(false),
            is_waiting: Cell::new(false),
            moves_to: Cell::new(None),
            stream: RefCell::new(stream),
            output: RefCell::default(),
            blocks: RefCell::default(),
            waker: RefCell::default(),
        })
    }

    /// Its task goes on.
    pub fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// To be called by its task whenever it runs.
    pub(super) fn keep_waker(&self, cx: &Context<'_>) {
        keep_waker(&self.waker, cx);
    }

    /// `done` of its requests on a lane are over. Its task is woken only if that matters to it: plain answers have been
    /// delivered without it.
    #[inline]
    pub fn settle(&self, done: u32) {
        let left = self.in_flight.get().saturating_sub(done);
        self.in_flight.set(left);
        // What came back from a lane is for its task too, which may have waited for nothing.
        if left == 0 && (self.is_waiting.get() || !self.backlog.borrow().is_empty()) {
            self.wake();
        }
    }

    /// Bytes for it, sent at once if the socket takes them. Answers false if so much is waiting that the caller has
    /// to stop.
    #[inline]
    pub fn deliver(&self, bytes: &[u8]) -> bool {
        let mut output = self.output.borrow_mut();
        if output.bytes.is_empty() {
            if self.is_gone.get() {
                return true;
            }
            let sent = match self.stream.borrow().try_write(bytes) {
                Ok(sent) => sent,
                Err(_) => {
                    self.cut();
                    return true;
                }
            };
            self.bytes.set((self.bytes.get().0, self.bytes.get().1 + sent as u64));
            let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) else { return true };
            output.bytes.extend_from_slice(rest);
            self.recount(&mut output);
            drop(output);
            self.wake();
            return true;
        }
        if self.is_gone.get() {
            return true;
        }
        output.bytes.extend_from_slice(bytes);
        self.recount(&mut output);
        output.waiting() < MOST_OUTPUT
    }

    fn recount(&self, output: &mut Output) {
        let waiting = output.waiting();
        let counted = std::mem::replace(&mut output.counted, waiting);
        self.service.kept.update(|kept| kept - counted + waiting);
    }

    /// Bytes for it that its own task sends at the end of its turn.
    pub fn say(&self, bytes: &[u8]) {
        self.output.borrow_mut().bytes.extend_from_slice(bytes);
    }

    /// The same, for a refusal.
    pub fn refuse(&self, trouble: &Trouble) {
        trouble.write(&mut self.output.borrow_mut().bytes);
    }

    /// The same, made in place.
    pub fn tell(&self, make: impl FnOnce(&mut Vec<u8>)) {
        make(&mut self.output.borrow_mut().bytes);
    }

    /// Bytes that wait for the socket.
    pub fn waiting_output(&self) -> usize {
        self.output.borrow().waiting()
    }

    /// Something is there for its task besides its next bytes.
    #[inline]
    pub(super) fn has_more(&self) -> bool {
        !self.output.borrow().bytes.is_empty()
            || !self.backlog.borrow().is_empty()
            || self.unblock.get().is_some()
            || self.moves_to.get().is_some()
    }

    /// Sends what waits. `Ready(Ok)`: all of it is sent.
    ///
    /// # Errors
    /// The socket's.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let mut output = self.output.borrow_mut();
        while output.sent < output.bytes.len() {
            let rest = output.bytes.get(output.sent..).unwrap_or_default();
            let sent = self.stream.borrow().try_write(rest)?;
            output.sent += sent;
            self.bytes.set((self.bytes.get().0, self.bytes.get().1 + sent as u64));
            if sent == 0 {
                // Others go on as soon as there is room, not only when nothing is left.
                if output.waiting() < MOST_OUTPUT / 2 {
                    self.unblock();
                }
                match self.stream.borrow().poll_write_ready(cx) {
                    Poll::Ready(ready) => ready?,
                    Poll::Pending => {
                        if output.sent > MOST_OUTPUT / 4 {
                            let sent = std::mem::take(&mut output.sent);
                            output.bytes.drain(..sent);
                        }
                        self.recount(&mut output);
                        return Poll::Pending;
                    }
                }
            }
        }
        self.recount(&mut output);
        output.sent = 0;
        if output.bytes.capacity() > 4096 {
            output.bytes = Vec::new();
        } else {
            output.bytes.clear();
        }
        self.unblock();
        Poll::Ready(Ok(()))
    }

    fn unblock(&self) {
        if let Some(lane) = self.blocks.borrow_mut().take() {
            lane.wake();
        }
    }

    /// It has said nothing since `then`, ns, and waits for nothing: neither for a message nor for an answer.
    pub fn is_idle_since(&self, then: u64) -> bool {
        let mode = self.mode.get();
        self.active.get() < then
            && self.in_flight.get() == 0
            && !mode.is_blocked
            && !mode.is_monitor
            && mode.subscriptions == (0, 0)
    }

    /// Closes it at once.
    pub fn cut(&self) {
        self.is_cut.set(true);
        self.wake();
    }

    /// Its task is over: what comes for it is dropped.
    pub(super) fn leave(&self) {
        self.is_gone.set(true);
        let mut output = self.output.borrow_mut();
        (output.bytes, output.sent) = (Vec::new(), 0);
        self.recount(&mut output);
        drop(output);
        self.backlog.borrow_mut().clear();
        self.unblock();
        self.waker.borrow_mut().take();
    }
}

/// Keeps what wakes the task that runs.
#[inline]
pub(super) fn keep_waker(kept: &RefCell<Option<Waker>>, cx: &Context<'_>) {
    let mut kept = kept.borrow_mut();
    if kept.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
        *kept = Some(cx.waker().clone());
    }
}

#[cfg(test)]
mod tests {
    use crate::redis::testing;

    #[tokio::test]
    async fn what_comes_for_a_client_that_has_left_is_not_counted_as_kept_for_it() {
        let (client, _far) = testing::client().await;
        let large = vec![b'x'; 16 << 20];
        assert!(client.deliver(&large));
        assert!(client.service.kept.get() > 0, "the socket takes less than that");
        client.leave();
        assert_eq!(client.service.kept.get(), 0);
        client.say(b"-ERR lost\r\n");
        assert!(client.deliver(&large), "nobody has to wait for it");
        assert_eq!(client.service.kept.get(), 0);
    }
}
