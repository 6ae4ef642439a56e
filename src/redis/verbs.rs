//! Commands that are about the client's own session.

use super::clients::Asked;
use super::errors::Trouble;
use super::lane::{EntryKind, Kind};
use super::login::DEFAULT_USER;
use super::own::{OwnState, What};
use super::request::Taken;
use super::session::{ReplyMode, Session, Wait};
use super::usage::Ran;
use crate::wire::resp::command::{Access, Command, Path, Verb};
use crate::wire::resp::{Request, Version, build, encode, words};
use crate::worker::clock::now_ns;

/// Commands that change what the client is subscribed to.
const SUBSCRIBING: &[Verb] =
    &[Verb::Subscribe, Verb::Psubscribe, Verb::Ssubscribe, Verb::Unsubscribe, Verb::Punsubscribe, Verb::Sunsubscribe];

impl Session {
    /// A command that is about the session, while the client has no connection of its own.
    pub(super) fn obey(&mut self, verb: Verb, frame: &[u8], request: &Request, command: &Command) -> Taken {
        let sent = self.service.stats.sent();
        let taken = self.obey_uncounted(verb, frame, request, command);
        // What a server is asked first comes once more.
        let comes_again = matches!(self.asked, Asked::Right(_) | Asked::Hello(_) | Asked::Login(_, false));
        if matches!(taken, Taken::Done) && !comes_again && self.service.stats.sent() == sent {
            self.service.usage.table().count(self.command, Ran::Here);
        }
        taken
    }

    fn obey_uncounted(&mut self, verb: Verb, frame: &[u8], request: &Request, command: &Command) -> Taken {
        if verb != Verb::Ping
            && let Some(wait) = self.before_answer()
        {
            return Taken::Wait(wait);
        }
        self.note_command(command);
        let is_ping = verb == Verb::Ping && &*command.name == "ping";
        if !command.arity_fits(request.words as usize) || is_ping && request.words > 2 {
            if verb == Verb::Exec {
                return self.answer(&Trouble::ExecArity);
            }
            return self.answer(&Trouble::Arity(command.name.to_string()));
        }
        match verb {
            Verb::Ping => self.ping(frame),
            Verb::Quit => {
                let taken = self.answer_with(build::OK);
                self.client.is_ending.set(true);
                taken
            }
            Verb::Reset => self.reset(),
            Verb::Select => self.select(frame),
            Verb::Auth => self.auth(frame),
            Verb::Hello => self.hello(frame),
            Verb::Client => self.client_command(frame, command),
            Verb::Multi => self.begin_transaction(frame),
            Verb::Exec => self.answer(&Trouble::Err("EXEC without MULTI")),
            Verb::Discard => self.answer(&Trouble::Err("DISCARD without MULTI")),
            Verb::Unwatch => {
                self.has_lost_watch = false;
                self.answer_with(build::OK)
            }
            Verb::Watch => self.send_own(frame, What::Watch),
            Verb::Subscribe | Verb::Psubscribe | Verb::Ssubscribe => self.send_own(frame, What::Subscribe),
            Verb::Unsubscribe | Verb::Punsubscribe | Verb::Sunsubscribe => self.send_own(frame, What::Subscribe),
            Verb::Monitor => self.send_own(frame, What::Monitor),
            Verb::Wait => self.wait_for_replicas(frame),
            Verb::Kill => self.kill_script(frame),
            Verb::Script => self.send_shared(frame, Access::Write, Kind::Slow),
        }
    }

    /// Any command while the client has a connection of its own, or is getting one.
    pub(super) fn take_own(&mut self, frame: &[u8], request: &Request, command: Option<&Command>) -> Taken {
        let (is_listening, is_in_multi) = (self.is_in_subscribe_mode(), self.is_in_multi());
        let path = command.map(|command| command.path);
        let verb = match path {
            Some(Path::Session(verb)) => Some(verb),
            _ => None,
        };
        if let Some(command) = command {
            self.note_command(command);
        }
        // What Forebay answers itself has to wait for what is on its way; a server that refuses everything but
        // subscriptions says so itself.
        // Whether a server that is asked to end the last subscription still refuses the rest shows when it has.
        let is_about_session = matches!(verb, Some(Verb::Client | Verb::Auth | Verb::Hello | Verb::Wait | Verb::Kill));
        if is_about_session && is_listening && self.awaits_own() {
            return Taken::Wait(Wait::Own);
        }
        let is_local = match verb {
            Some(Verb::Quit | Verb::Reset) => true,
            Some(Verb::Client) => !is_listening && !is_in_multi && !self.is_for_own(command),
            Some(Verb::Auth | Verb::Hello | Verb::Kill) => !is_listening && !is_in_multi,
            _ => false,
        };
        if is_local && self.awaits_own() {
            return Taken::Wait(Wait::Own);
        }
        if let Some(verb) = verb.filter(|_| is_local) {
            let Some(command) = command else { return Taken::Done };
            return self.obey(verb, frame, request, command);
        }
        // Listening goes on while writes are held; in the third protocol a subscriber may write, too.
        let only_listens = is_listening
            || !self.subscriptions.is_empty()
                && verb.is_some_and(|verb| verb == Verb::Ping || SUBSCRIBING.contains(&verb));
        if !only_listens && let Err(taken) = self.before_own() {
            if matches!((&taken, verb), (Taken::Done, Some(Verb::Exec | Verb::Discard))) {
                // A refused end is an end all the same.
                self.end_transaction();
            }
            return taken;
        }
        if is_in_multi
            && let OwnState::Open(own) = &mut self.own
            && let Some(verb) = verb
            && !matches!(verb, Verb::Ping | Verb::Exec | Verb::Discard | Verb::Multi | Verb::Watch)
        {
            // It takes effect at EXEC, if at all; what it leaves behind is not given to others.
            own.state.is_tainted = true;
            if SUBSCRIBING.contains(&verb) {
                own.queued.subscribing.push(frame.to_vec());
            } else if changes_session(command) {
                own.queued.others.push(frame.to_vec());
            }
            return self.send_own(frame, What::Plain);
        }
        if verb == Some(Verb::Multi)
            && let OwnState::Open(own) = &mut self.own
        {
            own.take_name(&self.client.name.borrow());
        }
        let is_refused = command.is_some_and(|command| !command.arity_fits(request.words as usize));
        let what = match (path, verb) {
            // Without any effect, but for EXEC, which ends the transaction nevertheless.
            (_, Some(verb)) if is_refused && !(is_in_multi && verb == Verb::Exec) => What::Plain,
            (_, Some(Verb::Exec | Verb::Discard)) if !is_in_multi => What::Plain,
            (_, Some(Verb::Multi)) => What::Multi { tell: true },
            (_, Some(Verb::Exec)) => What::Exec,
            (_, Some(Verb::Discard)) => What::Discard,
            (_, Some(Verb::Watch)) => What::Watch,
            (_, Some(Verb::Unwatch)) => What::Unwatch,
            (_, Some(verb)) if SUBSCRIBING.contains(&verb) => What::Subscribe,
            (_, Some(Verb::Monitor)) => What::Monitor,
            (_, Some(Verb::Select)) => What::Select(database(frame).unwrap_or_default()),
            (_, Some(Verb::Wait)) if !is_listening => return self.wait_for_replicas(frame),
            (_, Some(Verb::Client)) if is_switch(command) => What::Special(is_switched_on(frame)),
            (_, Some(_)) => What::Plain,
            (None | Some(Path::Own), None) => What::Unknown,
            (Some(Path::Block), None) if !is_in_multi => What::Block { may_rerun: false },
            (Some(Path::MayBlock), None) if !is_in_multi => {
                What::Block { may_rerun: command.is_some_and(|command| command.access == Access::Read) }
            }
            (Some(_), None) if command.is_some_and(Command::may_run_twice) => What::Read,
            (Some(_), None) => What::Plain,
        };
        if what == What::Exec && self.has_lost_watch {
            // The server knows only of keys that were watched later. What it has queued goes with the connection.
            if self.awaits_own() {
                return Taken::Wait(Wait::Own);
            }
            self.drop_own();
            self.has_lost_watch = false;
            let mut reply = Vec::new();
            build::null_array(&mut reply, self.client.version.get());
            return self.answer_with(&reply);
        }
        let taken = self.send_own(frame, what);
        if what == What::Exec
            && matches!(taken, Taken::Done)
            && let OwnState::Open(own) = &mut self.own
        {
            own.ask_session();
        }
        taken
    }

    /// A transaction is open on the client's own connection, or will be when what is on its way is answered.
    pub(super) fn is_in_multi(&self) -> bool {
        let OwnState::Open(own) = &self.own else { return false };
        own.expects.is_in_multi().unwrap_or(own.state.is_in_multi)
    }

    /// CLIENT TRACKING and the like: they are about the connection, not about the client.
    fn is_for_own(&self, command: Option<&Command>) -> bool {
        let sub = command.and_then(|command| command.name.split_once('|')).map(|(_, sub)| sub).unwrap_or_default();
        matches!(sub, "tracking" | "caching" | "trackinginfo" | "getredir" | "no-touch")
    }

    fn ping(&mut self, frame: &[u8]) -> Taken {
        if self.client.in_flight.get() > 0 {
            // Behind what is on its way, in its order.
            return self.send_shared(frame, Access::Pinned, Kind::Quick);
        }
        if let Some(wait) = self.before_answer() {
            return Taken::Wait(wait);
        }
        let mut reply = Vec::new();
        match words(frame).nth(1) {
            Some(text) => build::bulk(&mut reply, text),
            None => build::simple(&mut reply, "PONG"),
        }
        self.answer_with(&reply)
    }

    fn reset(&mut self) -> Taken {
        self.leave_own();
        self.transaction = None;
        self.lane = None;
        self.has_lost_watch = false;
        self.reply = ReplyMode::On;
        self.client.db.set(0);
        self.client.version.set(Version::Resp2);
        self.client.name.borrow_mut().clear();
        *self.client.login.borrow_mut() = self.service.anonymous();
        self.client.stranger_since.set(now_ns());
        self.core.expect_login(&self.client);
        self.answer_with(b"+RESET\r\n")
    }

    pub(super) fn is_default_user(&self) -> bool {
        self.client.login.borrow().as_ref().is_none_or(|login| *login.user == *DEFAULT_USER)
    }

    fn select(&mut self, frame: &[u8]) -> Taken {
        if !self.is_default_user()
            && let Err(taken) = self.may(&["SELECT", &self.client.db.get().to_string()], frame)
        {
            return taken;
        }
        let Some(db) = database(frame) else {
            let is_number =
                words(frame).nth(1).and_then(|word| std::str::from_utf8(word).ok()?.parse::<i64>().ok()).is_some();
            let text = if is_number { "DB index is out of range" } else { "value is not an integer or out of range" };
            return self.answer(&Trouble::Err(text));
        };
        if db == self.client.db.get() || self.service.has_db(db) {
            self.lane = None;
            self.client.db.set(db);
            return self.answer_with(build::OK);
        }
        // Only a server knows how many it has: a connection of this client's own asks.
        self.send_own(frame, What::Select(db))
    }

    /// Whether the client's user may do what Forebay does itself: a server is asked by `harmless` words for the same.
    ///
    /// # Errors
    /// What became of the request: it comes again if it may, and is answered by the server if it may not.
    pub(super) fn may(&mut self, harmless: &[&str], frame: &[u8]) -> Result<(), Taken> {
        if self.client.login_result.take() == Some(true) {
            return Ok(());
        }
        if let Some(wait) = self.before_answer() {
            return Err(Taken::Wait(wait));
        }
        let lane = self.choose(Access::Pinned, Kind::Quick)?;
        let mut request = Vec::new();
        encode(&mut request, harmless);
        lane.push_special(&self.client, &request, 1, EntryKind::Greeting { is_silent: self.reply != ReplyMode::On });
        self.lane = None;
        self.asked = Asked::Right(frame.to_vec());
        Err(Taken::Done)
    }

    fn auth(&mut self, frame: &[u8]) -> Taken {
        let words: Vec<&[u8]> = words(frame).collect();
        let (user, password) = match words.as_slice() {
            [_, password] => (DEFAULT_USER, *password),
            [_, user, password] => (*user, *password),
            _ => return self.answer(&Trouble::Err("syntax error")),
        };
        match self.prove(user, password, frame, true) {
            Proof::Yes => self.answer_with(build::OK),
            Proof::Asked => Taken::Done,
            Proof::Wait(taken) => taken,
        }
    }

    /// Whether a password is right: a server is asked, since passwords change there. Its answer goes to the client, if
    /// that is `tell`ed or is an error.
    pub(super) fn prove(&mut self, user: &[u8], password: &[u8], frame: &[u8], tell: bool) -> Proof {
        let login = self.service.logins.of(user, Some(password));
        match self.client.login_result.take() {
            Some(true) if !tell => {
                self.lane = None;
                return Proof::Yes;
            }
            _ => {}
        }
        if let Err(refused) = self.core.shared.guard.recheck(self.client.peer) {
            let taken = self.answer(&Trouble::Refused(refused));
            self.client.is_ending.set(matches!(taken, Taken::Done));
            return Proof::Wait(taken);
        }
        let lane = match self.choose(Access::Pinned, Kind::Login) {
            Ok(lane) => lane,
            Err(taken) => return Proof::Wait(taken),
        };
        let is_silent = self.reply != ReplyMode::On;
        let mut request = Vec::new();
        if user == DEFAULT_USER && words(frame).count() == 2 {
            encode(&mut request, &[b"AUTH".as_slice(), password]);
        } else {
            encode(&mut request, &[b"AUTH".as_slice(), user, password]);
        }
        lane.push_special(&self.client, &request, 1, EntryKind::Login { login, tell, is_silent });
        self.lane = None;
        self.asked = Asked::Login(frame.to_vec(), tell);
        Proof::Asked
    }
}

/// What is known of a password.
pub(super) enum Proof {
    Yes,
    /// A server will say.
    Asked,
    /// Nobody can be asked now.
    Wait(Taken),
}

/// The database of a SELECT.
pub(super) fn database(frame: &[u8]) -> Option<u32> {
    let word = words(frame).nth(1)?;
    let text = std::str::from_utf8(word).ok()?;
    text.parse().ok().filter(|n: &u32| *n < 1 << 20)
}

/// A command that makes the session of its connection another one, when a transaction with it is carried out.
fn changes_session(command: Option<&Command>) -> bool {
    is_switch(command)
        || command.is_some_and(|command| matches!(&*command.name, "auth" | "hello" | "select" | "client|setname"))
}

/// CLIENT TRACKING and NO-TOUCH, which may be on or off.
fn is_switch(command: Option<&Command>) -> bool {
    command.is_some_and(|command| matches!(&*command.name, "client|tracking" | "client|no-touch"))
}

/// CLIENT TRACKING ON, CLIENT NO-TOUCH ON.
pub(super) fn is_switched_on(frame: &[u8]) -> bool {
    words(frame).nth(2).is_some_and(|word| word.eq_ignore_ascii_case(b"on"))
}

/// CLIENT TRACKING ON with a REDIRECT: its number is one of Forebay's, while a server that has a connection of the same
/// number would tell somebody else what changes.
pub(super) fn redirects_tracking(frame: &[u8]) -> bool {
    let mut words = words(frame).skip(1);
    let is_tracking = words.next().is_some_and(|word| word.eq_ignore_ascii_case(b"tracking"));
    if !is_tracking || !words.next().is_some_and(|word| word.eq_ignore_ascii_case(b"on")) {
        return false;
    }
    while let Some(word) = words.next() {
        if word.eq_ignore_ascii_case(b"redirect") {
            return true;
        }
        if word.eq_ignore_ascii_case(b"prefix") {
            words.next();
        }
    }
    false
}
