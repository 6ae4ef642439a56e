//! A lane's task: connects, writes what has gathered, hands out the replies, and ends.

use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Context, Poll};

use super::returned::Returned;
use super::rhythm::Rhythm;
use super::{Entry, EntryKind, Kind, Lane, MOST_ANSWERED, MOST_WAITING, State};
use crate::net::Stream;
use crate::redis::client::{Client, MOST_OUTPUT, keep_waker};
use crate::redis::connect::{Failure, Wanted, connect};
use crate::redis::core::Core;
use crate::redis::errors::Trouble;
use crate::redis::service::Service;
use crate::wire::resp::{BadReply, ReplyScan, Version, words};
use crate::worker::clock::now_ns;

/// So many of its next reads go where large replies go.
pub(super) const HEAVY_FOR: u16 = 100;
/// Replies that are kept for all clients of a service that do not take them while others wait behind them, bytes. Redis
/// itself keeps any amount.
const MOST_FOR_OTHERS: usize = 32 * 1024 * 1024;
/// Reads from a node that has been replaced.
const MOST_LOOKS: usize = 64;
/// Looks for requests of others before a write.
const MOST_GATHERS: u8 = 8;
/// A reply that is larger takes its lane out of the others' way, bytes.
const LARGE_REPLY: u64 = 256 * 1024;

/// Connects the lane and serves it until it ends.
pub fn open(core: &Rc<Core>, service: &Rc<Service>, lane: &Rc<Lane>, wanted: Wanted) {
    let (core, service, lane) = (Rc::clone(core), Rc::clone(service), Rc::clone(lane));
    tokio::task::spawn_local(async move {
        let mut connecting = Box::pin(connect(&core, &wanted));
        // A node that has been replaced is not waited for: it may be one that takes connections and says nothing.
        let connected = poll_fn(|cx| {
            lane.keep_waker(cx);
            match lane.state.get() {
                State::Replaced => Poll::Ready(None),
                _ => connecting.as_mut().poll(cx).map(Some),
            }
        });
        let Some(connected) = connected.await else {
            return lane.end(&core, &service, Ended::Replaced, None, true);
        };
        match connected {
            Ok(opened) => {
                if let Some(hello) = opened.hello {
                    service.learn_hello(wanted.version, &hello);
                }
                service.learn_db(wanted.db);
                if lane.state.get() == State::Opening {
                    lane.state.set(State::Open);
                }
                let mut task = Task {
                    lane: Rc::clone(&lane),
                    service: Rc::clone(&service),
                    stream: opened.stream,
                    scan: ReplyScan::default(),
                    input: Vec::new(),
                    returned: None,
                    gathered: (0, 0),
                    rhythm: Rhythm::default(),
                };
                let why = loop {
                    match poll_fn(|cx| task.poll(cx, &core)).await {
                        Turn::Gathers => tokio::task::yield_now().await,
                        Turn::Ended(why) => break why,
                    }
                };
                let (returned, is_between) = (task.returned.take(), !task.scan.has_begun());
                drop(task);
                lane.end(&core, &service, why, returned, is_between);
            }
            Err(failure) => lane.end(&core, &service, Ended::Failed(failure), None, true),
        }
    });
}

/// Why a lane has ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// It was not needed any more.
    Idle,
    /// It could not be connected.
    Failed(Failure),
    /// The server closed it, or the network did.
    Lost(String),
    /// Its node is not what it was.
    Replaced,
}

/// Why a lane's task does not simply wait.
enum Turn {
    /// The event loop looks for requests of others before what is there is written.
    Gathers,
    Ended(Ended),
}

impl From<Ended> for Turn {
    fn from(why: Ended) -> Self {
        Turn::Ended(why)
    }
}

struct Task {
    lane: Rc<Lane>,
    service: Rc<Service>,
    stream: Stream,
    scan: ReplyScan,
    /// The beginning of a line that has not ended.
    input: Vec<u8>,
    /// The node has refused a request: what is behind it is looked through.
    returned: Option<Returned>,
    /// How often the event loop has looked for requests of others, and what had gathered by then, bytes.
    gathered: (u8, usize),
    rhythm: Rhythm,
}

impl Task {
    fn poll(&mut self, cx: &mut Context<'_>, core: &Core) -> Poll<Turn> {
        self.lane.keep_waker(cx);
        let is_usual = self.lane.key.kind == Kind::Quick && self.lane.state.get() == State::Open;
        let holds = is_usual && self.rhythm.waits(self.lane.unsent());
        self.lane.holds.set(holds);
        if !holds && self.gathers() {
            return Poll::Ready(Turn::Gathers);
        }
        self.turn(cx, core).map(Turn::from)
    }

    /// Where several clients are at work, more requests are nearly always on their way, and a write for all of them
    /// costs the server hardly more than one for each. So it goes on as long as each look brings more.
    fn gathers(&mut self) -> bool {
        let (looks, before) = self.gathered;
        let unsent = self.lane.unsent();
        let goes_on = unsent > before && looks < MOST_GATHERS && self.lane.load() > 1;
        self.gathered = if goes_on { (looks + 1, unsent) } else { (0, 0) };
        // Nobody has to wake it: it goes on by itself.
        self.lane.is_woken.set(goes_on);
        goes_on
    }

    fn turn(&mut self, cx: &mut Context<'_>, core: &Core) -> Poll<Ended> {
        match self.lane.state.get() {
            State::Replaced => {
                self.look_once_more(cx, core);
                return Poll::Ready(Ended::Replaced);
            }
            State::Retired if self.is_over() => return Poll::Ready(Ended::Idle),
            _ => {}
        }
        if !self.lane.holds.get()
            && let Err(e) = self.write(cx)
        {
            return Poll::Ready(Ended::Lost(e.to_string()));
        }
        loop {
            if self.is_stuck(cx) {
                return Poll::Pending;
            }
            let mut scratch = core.scratch.borrow_mut();
            let n = match self.stream.poll_read(cx, &mut scratch) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => return Poll::Ready(Ended::Lost("the server closed the connection".into())),
                Poll::Ready(Ok(n)) => n,
                Poll::Ready(Err(e)) => return Poll::Ready(Ended::Lost(e.to_string())),
            };
            let read = scratch.get(..n).unwrap_or_default();
            self.rhythm.heard(now_ns);
            // The server works on what has waited while this thread hands out.
            let written = if self.lane.holds.take() { self.write(cx) } else { Ok(()) };
            let done = if self.input.is_empty() {
                self.take(core, read).map(|used| {
                    self.input.extend_from_slice(read.get(used..).unwrap_or_default());
                })
            } else {
                let mut input = std::mem::take(&mut self.input);
                input.extend_from_slice(read);
                self.take(core, &input).map(|used| {
                    input.drain(..used);
                    self.input = input;
                })
            };
            if let Err(lost) = done.and(written.map_err(|e| e.to_string())) {
                return Poll::Ready(Ended::Lost(lost));
            }
            if self.returned.as_ref().is_some_and(|returned| !returned.has_written()) {
                return Poll::Ready(Ended::Lost("the node does not serve any more".into()));
            }
            if self.lane.state.get() == State::Retired && self.is_over() {
                return Poll::Ready(Ended::Idle);
            }
        }
    }

    /// Its node was replaced: what that has refused already goes on to the new one. Nothing is waited for.
    fn look_once_more(&mut self, cx: &mut Context<'_>, core: &Core) {
        if self.returned.is_some() || self.lane.is_idle() {
            return;
        }
        let is_between = !self.scan.has_begun();
        let (sending, fifo) = (self.lane.sending.take(), self.lane.fifo.take());
        let mut returned = Returned::new(sending, fifo, &self.service.commands());
        if !is_between {
            returned.was_begun();
        }
        let mut input = std::mem::take(&mut self.input);
        for _ in 0..MOST_LOOKS {
            let mut scratch = core.scratch.borrow_mut();
            let Poll::Ready(Ok(n @ 1..)) = self.stream.poll_read(cx, &mut scratch) else { break };
            input.extend_from_slice(scratch.get(..n).unwrap_or_default());
            match returned.note_refusals(&mut self.scan, &input) {
                Ok(used) => drop(input.drain(..used)),
                Err(_) => break,
            }
        }
        self.returned = Some(returned);
    }

    /// Takes replies. Returns how many bytes were used; the error is why the connection cannot be used any more.
    fn take(&mut self, core: &Core, bytes: &[u8]) -> Result<usize, String> {
        let mut at = 0;
        if self.returned.is_none() {
            match self.lane.hand_out(&mut self.scan, bytes) {
                Ok(used) => return Ok(used),
                Err(Stop::Bad(bad)) => return Err(bad.to_string()),
                Err(Stop::Unasked(line)) => return Err(line),
                Err(Stop::Refused(used, line)) => {
                    at = used;
                    self.lane.retire();
                    self.service.doubt(core, self.lane.key.node, &line);
                    let (sending, fifo) = (self.lane.sending.take(), self.lane.fifo.take());
                    self.returned = Some(Returned::new(sending, fifo, &self.service.commands()));
                }
            }
        }
        let rest = bytes.get(at..).unwrap_or_default();
        match &mut self.returned {
            Some(returned) => returned.sort(&mut self.scan, rest).map(|used| at + used).map_err(|bad| bad.to_string()),
            None => Ok(at),
        }
    }

    /// Sends what has gathered.
    fn write(&mut self, cx: &mut Context<'_>) -> std::io::Result<()> {
        let mut sending = self.lane.sending.borrow_mut();
        let (begun, mut count) = (sending.written, 0);
        let is_alone = begun == sending.answered;
        while sending.written < sending.bytes.len() {
            let rest = sending.bytes.get(sending.written..).unwrap_or_default();
            let sent = self.stream.try_write(rest)?;
            if sent == 0 {
                match self.stream.poll_write_ready(cx) {
                    Poll::Ready(ready) => ready?,
                    Poll::Pending => break,
                }
            } else {
                let (commands, writes) = self.lane.writes.get();
                let new = self.lane.pushed.take();
                count += new;
                self.lane.writes.set((commands + new, writes + 1));
            }
            sending.written += sent;
        }
        if sending.written > begun {
            let is_whole = sending.written == sending.bytes.len();
            self.rhythm.wrote(count, is_whole, is_alone.then(now_ns));
        }
        let has_room = sending.bytes.len() - sending.written < MOST_WAITING / 2;
        drop(sending);
        if has_room && !self.lane.crowd.borrow().is_empty() {
            for client in self.lane.crowd.take() {
                client.wake();
            }
        }
        Ok(())
    }

    /// Nothing is on its way; of what was looked through after a refusal, replies may still be due.
    fn is_over(&self) -> bool {
        self.lane.is_idle() && self.returned.is_none()
    }

    /// True while some client has to take its bytes first.
    fn is_stuck(&self, cx: &Context<'_>) -> bool {
        let mut stuck = self.lane.stuck.borrow_mut();
        let Some((client, _)) = stuck.as_ref() else { return false };
        let has_room = || self.lane.others_wait_for(client) && self.service.kept.get() < MOST_FOR_OTHERS;
        if client.is_gone.get() || client.waiting_output() < MOST_OUTPUT / 2 || has_room() {
            *stuck = None;
            return false;
        }
        *client.blocks.borrow_mut() = Some(cx.waker().clone());
        true
    }
}

/// Why no further reply can be handed out.
pub(super) enum Stop {
    /// The server does not speak RESP.
    Bad(BadReply),
    /// It said something that nobody had asked for: its reason for closing.
    Unasked(String),
    /// It does not serve, in its own words, which begin behind so many bytes.
    Refused(usize, String),
}

impl From<BadReply> for Stop {
    fn from(bad: BadReply) -> Self {
        Stop::Bad(bad)
    }
}

impl Lane {
    /// To be called by its task whenever it runs.
    fn keep_waker(&self, cx: &Context<'_>) {
        self.is_woken.set(false);
        keep_waker(&self.waker, cx);
    }

    /// Hands replies to the clients whose turn it is. Returns how many bytes were used: what follows is the beginning
    /// of a line.
    fn hand_out(self: &Rc<Self>, scan: &mut ReplyScan, bytes: &[u8]) -> Result<usize, Stop> {
        let mut at = 0;
        while at < bytes.len() {
            let mut fifo = self.fifo.borrow_mut();
            let Some(entry) = fifo.front_mut() else {
                drop(fifo);
                return self.unasked(scan, bytes, at);
            };
            if !matches!(entry.kind, EntryKind::Plain) {
                drop(fifo);
                let used = self.hand_out_special(scan, bytes, at)?;
                if used == 0 {
                    return Ok(at);
                }
                at += used;
                continue;
            }
            let (from, before) = (at, entry.left);
            let (mut refused, mut bad) = (None, None);
            let least = entry.client.service.usage.least();
            let (mut looked_at, mut begun) = (self.timing.place(before), self.timing.take_begun());
            // Of a reply that began in an earlier read nobody knows here how large it is.
            let mut limit = if begun > 0 { 0 } else { least };
            loop {
                let rest = bytes.get(at..).unwrap_or_default();
                if rest.first() == Some(&b'-') && scan.is_idle() {
                    let Some(end) = memchr::memchr(b'\n', rest) else { break };
                    let line = rest.get(1..end).unwrap_or_default();
                    if is_refusal(line) && !self.answers_script(entry) {
                        refused = Some(String::from_utf8_lossy(line.trim_ascii_end()).into_owned());
                        break;
                    }
                    if line.ends_with(b"\r") {
                        self.note_error(entry);
                    }
                }
                let scanned = match scan.scan(rest) {
                    Ok(scanned) => scanned,
                    // The replies before it are the client's nevertheless.
                    Err(error) => {
                        bad = Some(Stop::Bad(error));
                        break;
                    }
                };
                if scanned.is_done && self.key.version == Version::Resp3 && scan.is_push() {
                    // Nobody has asked for it here.
                    bad = Some(Stop::Unasked("a push message on a shared connection".into()));
                    break;
                }
                at += scanned.used;
                if !scanned.is_done {
                    self.timing.begin(begun + scanned.used as u64);
                    break;
                }
                if entry.left == looked_at || scanned.used as u64 >= limit {
                    self.look(entry, entry.left == looked_at, begun + scanned.used as u64);
                    (looked_at, begun, limit) = (self.timing.place(before), 0, least);
                }
                entry.left -= 1;
                if entry.left == 0 || at >= bytes.len() {
                    break;
                }
            }
            let done = before - entry.left;
            self.timing.answer(done);
            let is_over = entry.left == 0;
            let client = if is_over {
                let Some(entry) = fifo.pop_front() else { return Ok(at) };
                self.forget_answered(entry.bytes);
                entry.client
            } else {
                Rc::clone(&entry.client)
            };
            drop(fifo);
            let goes_on = at == from || client.deliver(bytes.get(from..at).unwrap_or_default());
            client.settle(done);
            if scan.body_left() > LARGE_REPLY {
                client.heavy.set(HEAVY_FOR);
                if self.key.kind == Kind::Quick {
                    self.retire();
                }
            }
            if !goes_on {
                self.stop_for(&client);
            }
            if let Some(bad) = bad {
                return Err(bad);
            }
            if let Some(line) = refused {
                return Err(Stop::Refused(at, line));
            }
            if at == from {
                return Ok(at);
            }
        }
        Ok(at)
    }

    /// Replies that are not simply handed on. Returns the bytes used, 0 if more are needed.
    fn hand_out_special(&self, scan: &mut ReplyScan, bytes: &[u8], at: usize) -> Result<usize, Stop> {
        let bytes = bytes.get(at..).unwrap_or_default();
        let mut fifo = self.fifo.borrow_mut();
        let Some(entry) = fifo.front_mut() else { return Ok(0) };
        let is_error = bytes.first() == Some(&b'-') && scan.is_idle();
        if is_error {
            let Some(end) = memchr::memchr(b'\n', bytes) else { return Ok(0) };
            let line = bytes.get(1..end).unwrap_or_default();
            if is_refusal(line) && !self.answers_script(entry) {
                return Err(Stop::Refused(at, String::from_utf8_lossy(line.trim_ascii_end()).into_owned()));
            }
            if line.ends_with(b"\r") {
                self.note_error(entry);
            }
        }
        let begun = self.timing.take_begun();
        let scanned = scan.scan(bytes)?;
        let part = bytes.get(..scanned.used).unwrap_or_default();
        let client = Rc::clone(&entry.client);
        let is_told = match &entry.kind {
            EntryKind::Plain => true,
            EntryKind::Silent => false,
            EntryKind::Block { .. } => entry.left == 1,
            EntryKind::Greeting { .. } => {
                if scanned.is_done {
                    client.login_result.set(Some(!is_error));
                }
                is_error
            }
            EntryKind::Login { login, tell, .. } => {
                if scanned.is_done {
                    client.login_result.set(Some(!is_error));
                }
                if scanned.is_done && !is_error {
                    *client.login.borrow_mut() = Some(Rc::clone(login));
                    client.pass.take();
                }
                if is_error && is_wrong_password(bytes) {
                    client.has_failed_login.set(true);
                }
                *tell || is_error
            }
        };
        let goes_on = !is_told || entry.kind.is_silent() || client.deliver(part);
        if !scanned.is_done {
            self.timing.begin(begun + scanned.used as u64);
            return Ok(scanned.used);
        }
        self.look_at_special(entry, part, begun);
        entry.left -= 1;
        let counts = !matches!(entry.kind, EntryKind::Block { .. }) || entry.left == 0;
        if entry.left == 0 {
            let bytes = entry.bytes;
            fifo.pop_front();
            self.forget_answered(bytes);
        }
        drop(fifo);
        if counts {
            client.settle(1);
        }
        if !goes_on {
            self.stop_for(&client);
        }
        Ok(scanned.used)
    }

    /// The reply that comes is that of a script, whose errors are its own: it may have run in part.
    #[cold]
    fn answers_script(&self, entry: &Entry) -> bool {
        self.with_request(entry, runs_script)
    }

    /// No more is read before this client has taken its bytes; others use another lane.
    fn stop_for(&self, client: &Rc<Client>) {
        self.retire();
        self.stuck.borrow_mut().get_or_insert_with(|| (Rc::clone(client), now_ns()));
    }

    /// The server speaks although nobody has asked: an error with which it closes the connection.
    fn unasked(&self, scan: &mut ReplyScan, bytes: &[u8], at: usize) -> Result<usize, Stop> {
        let rest = bytes.get(at..).unwrap_or_default();
        match memchr::memchr(b'\n', rest) {
            Some(end) => {
                let line = rest.get(..end).unwrap_or_default().trim_ascii_end();
                Err(Stop::Unasked(String::from_utf8_lossy(line).into_owned()))
            }
            None => {
                let _ = scan.scan(rest)?;
                Ok(at)
            }
        }
    }

    /// A request's bytes are not needed any more.
    #[inline]
    fn forget_answered(&self, bytes: usize) {
        let mut sending = self.sending.borrow_mut();
        sending.answered += bytes;
        if sending.answered >= sending.bytes.len() {
            sending.bytes.clear();
            sending.answered = 0;
            sending.written = 0;
            if sending.bytes.capacity() > MOST_WAITING {
                sending.bytes = Vec::new();
            }
        } else if sending.answered > MOST_ANSWERED && sending.answered > sending.bytes.len() / 2 {
            let answered = std::mem::take(&mut sending.answered);
            sending.bytes.drain(..answered);
            sending.written -= answered;
        }
    }

    /// The connection is gone: what is not answered goes back to the clients, or is answered here.
    fn end(&self, core: &Rc<Core>, service: &Rc<Service>, why: Ended, returned: Option<Returned>, is_between: bool) {
        self.state.set(State::Dead);
        service.forget_lane(self);
        let was_refused = returned.is_some();
        let mut returned =
            returned.unwrap_or_else(|| Returned::new(self.sending.take(), self.fifo.take(), &service.commands()));
        if !is_between && !was_refused {
            returned.was_begun();
        }
        for client in self.crowd.take() {
            client.wake();
        }
        match why {
            Ended::Idle => {}
            Ended::Replaced => returned.give_back("the primary was replaced"),
            Ended::Lost(reason) => {
                if !returned.is_empty() && !was_refused {
                    service.doubt(core, self.key.node, &reason);
                }
                tracing::debug!(service = %service.name, lane = ?self.key, reason, "a shared connection was lost");
                returned.give_back(&reason);
            }
            Ended::Failed(Failure::Refused(line)) => {
                let trouble = match line.strip_prefix(b"NOAUTH") {
                    Some(_) => Trouble::NoAuth,
                    None => Trouble::Server(line),
                };
                returned.refuse(&trouble);
            }
            Ended::Failed(failure) => {
                service.doubt(core, self.key.node, &failure.to_string());
                returned.give_back(&failure.to_string());
            }
        }
    }
}

/// A request whose first word says that it runs a script or a function. Inside of a transaction its errors stand within
/// the reply to EXEC.
pub fn runs_script(request: &[u8]) -> bool {
    let name = words(request).next().map(<[u8]>::to_ascii_uppercase).unwrap_or_default();
    name.starts_with(b"EVAL") || name.starts_with(b"FCALL")
}

/// A server's answer to AUTH or HELLO: neither the user nor the password is known, or they do not belong together.
fn is_wrong_password(error: &[u8]) -> bool {
    // Redis 5 and older have no code for it.
    error.starts_with(b"-WRONGPASS ") || error.starts_with(b"-ERR invalid password")
}

/// The node did not even begin with the request, because it is not what it was taken for.
pub fn is_refusal(line: &[u8]) -> bool {
    let line = line.trim_ascii_end();
    // The role has changed between MULTI and EXEC: nothing of the transaction was carried out.
    let line = line.strip_prefix(b"EXECABORT Transaction discarded because of: ").unwrap_or(line);
    // By the server's whole sentence: a script may answer an error that begins like these.
    line.starts_with(b"READONLY You can't write against a read only")
        || line.starts_with(b"LOADING ") && line.ends_with(b" is loading the dataset in memory")
        || line.starts_with(b"MASTERDOWN Link with MASTER is down")
}
