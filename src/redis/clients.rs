//! CLIENT: about the clients of Forebay, not about the few connections that the servers see.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::Duration;

use super::client::Client;
use super::connect::{Failure, Wanted, connect, read_replies};
use super::core::Core;
use super::errors::Trouble;
use super::hello::is_name;
use super::own::What;
use super::replicas::Counted;
use super::request::Taken;
use super::session::{ReplyMode, Session, Wait};
use super::verbs::is_switched_on;
use crate::guard;
use crate::wire::resp::command::{Command, Path, Verb};
use crate::wire::resp::{build, words};
use crate::worker::clock::now_ns;

/// How long a server may take to end a script.
const PATIENCE: Duration = Duration::from_secs(5);
/// A number that no server gives to a connection.
const NOBODY: &str = "9223372036854775807";

/// An answer that somebody else makes before the client's next request is looked at.
#[derive(Debug, Default)]
pub(super) enum Asked {
    #[default]
    Nothing,
    /// A server says whether a password is right. The request, and whether its answer goes to the client.
    Login(Vec<u8>, bool),
    /// A server says what it answers to HELLO.
    Hello(Vec<u8>),
    /// A server says whether the client's user may do this.
    Right(Vec<u8>),
    /// The primary says which replicas have what; the request.
    Replicas(Rc<Counted>, Vec<u8>),
    /// Another task asks the other threads, or a server, and makes the answer.
    Task(Rc<RefCell<Option<Vec<u8>>>>),
}

impl Session {
    /// An answer is due that somebody else makes.
    pub(super) fn is_asking(&self) -> bool {
        !matches!(self.asked, Asked::Nothing)
    }

    /// What the next request has to wait for because of that.
    pub(super) fn awaits_asked(&self) -> Option<Wait> {
        match self.asked {
            Asked::Nothing => None,
            // It may take for ever, so that it must be seen if the client leaves.
            Asked::Replicas(..) => Some(Wait::Own),
            _ => Some(Wait::Answers),
        }
    }

    /// Looks whether what was asked has been answered.
    pub(super) fn finish_asked(&mut self) -> Option<Wait> {
        if matches!(self.asked, Asked::Nothing) {
            return None;
        }
        if self.client.in_flight.get() > 0 {
            return Some(Wait::Answers);
        }
        let asked = std::mem::take(&mut self.asked);
        let result = self.client.login_result.get();
        let again = match &asked {
            Asked::Nothing => return None,
            Asked::Task(slot) => {
                let Some(reply) = slot.borrow_mut().take() else {
                    self.asked = Asked::Task(Rc::clone(slot));
                    return Some(Wait::Answers);
                };
                if self.wants_reply() {
                    self.client.say(&reply);
                }
                return None;
            }
            Asked::Replicas(answer, frame) => match answer.take() {
                None => {
                    self.asked = asked;
                    return self.awaits_asked();
                }
                Some(counted) => {
                    self.note_blocked(false);
                    match counted {
                        Some(count) => {
                            self.replicated = Some(count);
                            let _ = self.answer_replicas(count);
                            return None;
                        }
                        None => frame,
                    }
                }
            },
            Asked::Right(frame) if result != Some(false) => frame,
            Asked::Right(_) => {
                self.client.login_result.set(None);
                // CLIENT REPLY SKIP was about this one.
                self.wants_reply();
                return None;
            }
            Asked::Login(frame, false) if result == Some(true) => frame,
            Asked::Hello(frame) if result != Some(false) => frame,
            Asked::Login(frame, _) if result.is_none() => frame,
            Asked::Login(..) | Asked::Hello(_) => {
                if result == Some(false) {
                    self.service.stats.bad_logins.set(self.service.stats.bad_logins.get() + 1);
                }
                let has_failed = self.client.has_failed_login.take();
                if has_failed && self.core.shared.guard.note_failure(self.client.peer, guard::Failure::Password) {
                    // Whoever is banned must not go on trying where he is.
                    self.client.is_ending.set(true);
                }
                self.client.login_result.set(None);
                self.lane = None;
                self.own_follows();
                // CLIENT REPLY SKIP was about this one.
                self.wants_reply();
                return None;
            }
        };
        if matches!(asked, Asked::Hello(_)) {
            self.client.login_result.set(None);
        }
        match self.take_again(again) {
            Taken::Done => {
                // What a server has said of this request says nothing of the next.
                self.client.login_result.set(None);
                self.finish_asked()
            }
            Taken::Wait(wait) => {
                if matches!(self.asked, Asked::Nothing) {
                    self.asked = asked;
                }
                Some(wait)
            }
        }
    }

    /// CLIENT and its subcommands.
    pub(super) fn client_command(&mut self, frame: &[u8], command: &Command) -> Taken {
        let words: Vec<&[u8]> = words(frame).collect();
        let argument = words.get(2).copied().unwrap_or_default();
        let mut reply = Vec::new();
        match command.name.split_once('|').map(|(_, sub)| sub).unwrap_or_default() {
            "id" => build::integer(&mut reply, i64::try_from(self.client.id).unwrap_or(i64::MAX)),
            "getname" => match &*self.client.name.borrow() {
                name if name.is_empty() => build::null(&mut reply, self.client.version.get()),
                name => build::bulk(&mut reply, name),
            },
            "setname" if is_name(argument) => {
                *self.client.name.borrow_mut() = argument.to_vec();
                reply.extend_from_slice(build::OK);
            }
            "setname" => {
                Trouble::Err("Client names cannot contain spaces, newlines or special characters.").write(&mut reply);
            }
            "setinfo" => self.set_info(argument, words.get(3).copied().unwrap_or_default(), &mut reply),
            "info" => build::text(&mut reply, self.client.version.get(), self.client.line(now_ns()).as_bytes()),
            "reply" => return self.client_reply(argument),
            "no-evict" if is_switch(argument) => reply.extend_from_slice(build::OK),
            "no-evict" => Trouble::Err("syntax error").write(&mut reply),
            "no-touch" | "tracking" => return self.send_own(frame, What::Special(is_switched_on(frame))),
            "list" => return self.list(&words, frame),
            "kill" => return self.kill(&words, frame),
            "unblock" => return self.unblock(&words, frame),
            "trackinginfo" | "getredir" | "help" => {
                return self.send_shared(frame, crate::wire::resp::command::Access::Pinned, super::lane::Kind::Quick);
            }
            // CACHING without TRACKING is an error that the server words; PAUSE is an administrator's.
            _ => return self.send_own(frame, What::Plain),
        }
        self.answer_with(&reply)
    }

    /// Remembers the command for `CLIENT LIST`, unless it is one of those that have to be fast.
    pub(super) fn note_command(&self, command: &Command) {
        if matches!(command.path, Path::Lane | Path::Slow | Path::Session(Verb::Ping)) {
            return;
        }
        let mut said = self.client.said.borrow_mut();
        said.0.clear();
        said.0.push_str(&command.name);
        said.1 = self.taken_to;
    }

    fn set_info(&self, what: &[u8], value: &[u8], reply: &mut Vec<u8>) {
        let mut library = self.client.library.borrow_mut();
        let place = match what.to_ascii_lowercase().as_slice() {
            b"lib-name" => &mut library.0,
            b"lib-ver" => &mut library.1,
            _ => {
                let text = format!("ERR Unrecognized option '{}'", String::from_utf8_lossy(what));
                return build::error(reply, text.as_bytes());
            }
        };
        if is_name(value) {
            *place = value.to_vec();
            reply.extend_from_slice(build::OK);
        } else {
            let text = format!(
                "ERR {} cannot contain spaces, newlines or special characters.",
                String::from_utf8_lossy(what).to_ascii_lowercase()
            );
            build::error(reply, text.as_bytes());
        }
    }

    fn client_reply(&mut self, argument: &[u8]) -> Taken {
        let mode = match argument.to_ascii_lowercase().as_slice() {
            b"on" => ReplyMode::On,
            b"off" => ReplyMode::Off,
            b"skip" if self.reply == ReplyMode::Off => ReplyMode::Off,
            b"skip" => ReplyMode::Skip,
            _ => return self.answer(&Trouble::Err("syntax error")),
        };
        self.reply = mode;
        if mode == ReplyMode::On {
            return self.answer_with(build::OK);
        }
        Taken::Done
    }

    /// Has every thread do something, and answers what `conclude` makes of their answers.
    fn ask_threads<T: Send + 'static>(
        &mut self,
        job: impl Fn(&Rc<Core>) -> T + Clone + Send + 'static,
        conclude: impl FnOnce(Vec<T>) -> Vec<u8> + 'static,
    ) -> Taken {
        if let Some(wait) = self.before_answer() {
            return Taken::Wait(wait);
        }
        let slot = Rc::new(RefCell::new(None));
        let (core, client, made) = (Rc::clone(&self.core), Rc::clone(&self.client), Rc::clone(&slot));
        tokio::task::spawn_local(async move {
            let mut answers = Vec::new();
            for worker in core.shared.workers() {
                answers.extend(worker.ask(job.clone()).await);
            }
            *made.borrow_mut() = Some(conclude(answers));
            client.wake();
        });
        self.asked = Asked::Task(slot);
        self.lane = None;
        Taken::Done
    }

    /// SCRIPT KILL and FUNCTION KILL, on a connection for this alone: any other may wait behind the script, and a server
    /// that is busy lets nobody in but for that. Nothing is held back: it is what ends a trouble.
    pub(super) fn kill_script(&mut self, frame: &[u8]) -> Taken {
        if let Some(wait) = self.before_answer() {
            return Taken::Wait(wait);
        }
        let wanted = match self.service.kill_wanted(&self.client) {
            Ok(wanted) => wanted,
            Err(why) => return self.wait_for_primary(why),
        };
        let slot = Rc::new(RefCell::new(None));
        let (core, client, made) = (Rc::clone(&self.core), Rc::clone(&self.client), Rc::clone(&slot));
        let frame = frame.to_vec();
        tokio::task::spawn_local(async move {
            let reply = ask_once(&core, &wanted, &frame).await.unwrap_or_else(|trouble| {
                let mut reply = Vec::new();
                trouble.write(&mut reply);
                reply
            });
            *made.borrow_mut() = Some(reply);
            client.wake();
        });
        self.asked = Asked::Task(slot);
        self.lane = None;
        Taken::Done
    }

    fn list(&mut self, words: &[&[u8]], frame: &[u8]) -> Taken {
        if let Err(taken) = self.may(&["CLIENT", "LIST", "TYPE", "master"], frame) {
            return taken;
        }
        let filter = match Filter::of_list(words.get(2..).unwrap_or_default()) {
            Ok(filter) => filter,
            Err(text) => return self.answer_with(format!("-ERR {text}\r\n").as_bytes()),
        };
        let (service, version, now) = (self.service.name.clone(), self.client.version.get(), now_ns());
        let job = move |core: &Rc<Core>| {
            let clients = core.clients.borrow();
            let fits = |client: &&Rc<Client>| client.service.name == service && filter.fits(client);
            clients.values().filter(fits).map(|client| (client.id, client.line(now))).collect::<Vec<_>>()
        };
        self.ask_threads(job, move |answers| {
            let mut lines: Vec<(u64, String)> = answers.into_iter().flatten().collect();
            lines.sort();
            let text: String = lines.into_iter().map(|(_, line)| line).collect();
            let mut reply = Vec::new();
            build::text(&mut reply, version, text.as_bytes());
            reply
        })
    }

    fn kill(&mut self, words: &[&[u8]], frame: &[u8]) -> Taken {
        if let Err(taken) = self.may(&["CLIENT", "KILL", "ID", NOBODY], frame) {
            return taken;
        }
        let arguments = words.get(2..).unwrap_or_default();
        let is_old_form = arguments.len() == 1;
        let filter = match Filter::of_kill(arguments) {
            Ok(filter) => filter,
            Err(text) => return self.answer_with(format!("-ERR {text}\r\n").as_bytes()),
        };
        let (service, me) = (self.service.name.clone(), self.client.id);
        let skips_me = filter.skips_me && !is_old_form;
        let job = move |core: &Rc<Core>| {
            let clients: Vec<Rc<Client>> = core.clients.borrow().values().cloned().collect();
            let mut killed = 0;
            for client in clients {
                if client.service.name == service && filter.fits(&client) && !(skips_me && client.id == me) {
                    killed += 1;
                    if client.id == me {
                        client.is_ending.set(true);
                    } else {
                        client.cut();
                    }
                }
            }
            killed
        };
        self.ask_threads(job, move |killed: Vec<i64>| {
            let killed: i64 = killed.into_iter().sum();
            let mut reply = Vec::new();
            match (is_old_form, killed) {
                (true, 0) => Trouble::Err("No such client").write(&mut reply),
                (true, _) => reply.extend_from_slice(build::OK),
                (false, killed) => build::integer(&mut reply, killed),
            }
            reply
        })
    }

    fn unblock(&mut self, words: &[&[u8]], frame: &[u8]) -> Taken {
        if let Err(taken) = self.may(&["CLIENT", "UNBLOCK", NOBODY], frame) {
            return taken;
        }
        let id = words.get(2).and_then(|id| std::str::from_utf8(id).ok()?.parse::<u64>().ok());
        let by_error = match words.get(3).map(|how| how.to_ascii_lowercase()) {
            None => false,
            Some(how) if how == b"timeout" => false,
            Some(how) if how == b"error" => true,
            Some(_) => return self.answer(&Trouble::Err("CLIENT UNBLOCK reason should be TIMEOUT or ERROR")),
        };
        let Some(id) = id else { return self.answer(&Trouble::Err("value is not an integer or out of range")) };
        self.unblock_client(id, by_error)
    }
}

/// One request on a connection of its own.
pub(super) async fn ask_once(core: &Core, wanted: &Wanted, request: &[u8]) -> Result<Vec<u8>, Trouble> {
    let mut stream = match connect(core, wanted).await {
        Ok(opened) => opened.stream,
        Err(Failure::Refused(line) | Failure::NotReady(line)) => return Err(Trouble::Server(line)),
        Err(failure) => return Err(Trouble::NotSent(failure.to_string())),
    };
    let asked = async {
        stream.write_all(request).await?;
        read_replies(&mut stream, 1).await
    };
    match core.wheel.timeout(Some(PATIENCE), Box::pin(asked)).await {
        Ok(Ok(replies)) => Ok(replies.concat()),
        Ok(Err(e)) => Err(Trouble::Unknown(e.to_string())),
        Err(_) => Err(Trouble::Unknown(format!("no answer within {PATIENCE:?}"))),
    }
}

fn is_switch(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"on") || word.eq_ignore_ascii_case(b"off")
}

/// Which clients are meant.
#[derive(Debug, Clone)]
struct Filter {
    ids: Option<Vec<u64>>,
    kind: Option<&'static str>,
    address: Option<String>,
    local: Option<String>,
    user: Option<Vec<u8>>,
    max_age: Option<u64>,
    skips_me: bool,
}

impl Default for Filter {
    fn default() -> Self {
        Filter { ids: None, kind: None, address: None, local: None, user: None, max_age: None, skips_me: true }
    }
}

impl Filter {
    fn of_list(arguments: &[&[u8]]) -> Result<Self, String> {
        let mut filter = Filter::default();
        match arguments {
            [] => {}
            [option, kind] if option.eq_ignore_ascii_case(b"TYPE") => filter.kind = Some(kind_of(kind)?),
            [option, ids @ ..] if option.eq_ignore_ascii_case(b"ID") && !ids.is_empty() => {
                filter.ids = Some(ids.iter().map(|id| number(id)).collect::<Result<_, _>>()?);
            }
            _ => return Err("syntax error".into()),
        }
        Ok(filter)
    }

    fn of_kill(arguments: &[&[u8]]) -> Result<Self, String> {
        let mut filter = Filter::default();
        if let [address] = arguments {
            filter.address = Some(String::from_utf8_lossy(address).into_owned());
            return Ok(filter);
        }
        for pair in arguments.chunks(2) {
            let [option, value] = pair else { return Err("syntax error".into()) };
            let text = || String::from_utf8_lossy(value).into_owned();
            match option.to_ascii_lowercase().as_slice() {
                b"id" => filter.ids = Some(vec![number(value).map_err(|_| "client-id should be greater than 0")?]),
                b"type" => filter.kind = Some(kind_of(value)?),
                b"addr" => filter.address = Some(text()),
                b"laddr" => filter.local = Some(text()),
                b"user" => filter.user = Some(value.to_vec()),
                b"maxage" => filter.max_age = Some(number(value)?),
                b"skipme" if value.eq_ignore_ascii_case(b"yes") => filter.skips_me = true,
                b"skipme" if value.eq_ignore_ascii_case(b"no") => filter.skips_me = false,
                _ => return Err("syntax error".into()),
            }
        }
        Ok(filter)
    }

    fn fits(&self, client: &Client) -> bool {
        let user = client.login.borrow();
        self.ids.as_ref().is_none_or(|ids| ids.contains(&client.id))
            && self.kind.is_none_or(|kind| kind == client.kind())
            && self.address.as_ref().is_none_or(|address| *address == client.peer.to_string())
            && self.local.as_ref().is_none_or(|address| *address == client.local.to_string())
            && self.user.as_ref().is_none_or(|wanted| user.as_ref().is_some_and(|user| *user.user == **wanted))
            && self
                .max_age
                .is_none_or(|age| client.connected.elapsed().is_ok_and(|connected| connected.as_secs() >= age))
    }
}

fn number(word: &[u8]) -> Result<u64, String> {
    let text = std::str::from_utf8(word).unwrap_or_default();
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "Invalid client ID".to_owned())
}

fn kind_of(word: &[u8]) -> Result<&'static str, String> {
    match word.to_ascii_lowercase().as_slice() {
        b"normal" => Ok("normal"),
        b"pubsub" => Ok("pubsub"),
        // Forebay has none of these.
        b"master" => Ok("master"),
        b"replica" | b"slave" => Ok("replica"),
        _ => Err(format!("Unknown client type '{}'", String::from_utf8_lossy(word))),
    }
}

impl Client {
    /// `normal` or `pubsub`.
    fn kind(&self) -> &'static str {
        match self.mode.get().subscriptions {
            (0, 0) => "normal",
            _ => "pubsub",
        }
    }

    /// Its line of `CLIENT LIST`, in Redis' form; what only a server knows is 0.
    pub fn line(&self, now: u64) -> String {
        let mode = self.mode.get();
        let mut flags = String::new();
        for (is_so, flag) in [
            (mode.is_monitor, 'O'),
            (mode.subscriptions != (0, 0), 'P'),
            (mode.queued.is_some(), 'x'),
            (mode.is_blocked, 'b'),
        ] {
            if is_so {
                flags.push(flag);
            }
        }
        if flags.is_empty() {
            flags.push('N');
        }
        let age = self.connected.elapsed().map_or(0, |age| age.as_secs());
        let idle = now.saturating_sub(self.active.get()) / 1_000_000_000;
        let login = self.login.borrow();
        let user = login.as_ref().map_or(super::login::DEFAULT_USER, |login| &login.user);
        let library = self.library.borrow();
        let said = self.said.borrow();
        let command = if said.1 == self.bytes.get().0 && !said.0.is_empty() { &said.0 } else { "NULL" };
        let mut line = String::new();
        let _ = writeln!(
            line,
            "id={} addr={} laddr={} fd=-1 name={} age={age} idle={idle} flags={flags} db={} sub={} psub={} ssub=0 \
             multi={} watch={} qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem={} tot-mem=0 \
             events=r cmd={command} user={} redir=-1 resp={} lib-name={} lib-ver={} tot-net-in={} tot-net-out={}",
            self.id,
            self.peer,
            self.local,
            String::from_utf8_lossy(&self.name.borrow()),
            self.db.get(),
            mode.subscriptions.0,
            mode.subscriptions.1,
            mode.queued.map_or(-1, i64::from),
            u8::from(mode.is_watching),
            self.waiting_output(),
            String::from_utf8_lossy(user),
            self.version.get().number(),
            String::from_utf8_lossy(&library.0),
            String::from_utf8_lossy(&library.1),
            self.bytes.get().0,
            self.bytes.get().1,
        );
        line
    }
}
