//! Replies on a client's own connection: whose they are, and what they say about what is left on it.

use std::collections::BTreeSet;

use super::blocking::ends_by_itself;
use super::client::{Mode, Todo};
use super::connect::asks_for_none;
use super::errors::Trouble;
use super::hello::{is_name, login_in};
use super::lane::{is_refusal, runs_script};
use super::login::DEFAULT_USER;
use super::own::{Answering, Expect, Fate, Own, OwnState, Queued, What};
use super::session::Session;
use super::verbs::database;
use crate::wire::resp::{Version, build, words};
use crate::worker::clock::now_ns;

/// Connections lost in a row, without any reply, with which a client is let try the same read.
const MOST_LOSSES: u32 = 5;
/// A message beyond this goes on without being looked at as a whole, bytes.
const LONGEST_WHOLE: usize = 256 * 1024;
/// WAITAOF: on no disk, as far as is known.
const NO_DISK: &[u8] = b"*2\r\n:0\r\n:0\r\n";

impl Session {
    /// Takes replies. Returns the bytes used.
    ///
    /// # Errors
    /// Why the connection cannot be used any further.
    pub(super) fn take_replies(&mut self, own: &mut Own, bytes: &[u8]) -> Result<usize, String> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = bytes.get(at..).unwrap_or_default();
            let fate = match own.fate {
                Some(fate) => fate,
                None => match self.fate(own, rest)? {
                    Some(fate) => fate,
                    None => return Ok(at),
                },
            };
            own.fate = Some(fate);
            let scanned = own.scan.scan(rest).map_err(|bad| bad.to_string())?;
            let part = rest.get(..scanned.used).unwrap_or_default();
            at += scanned.used;
            if let Some(answering) = &mut own.answering {
                answering.bytes += scanned.used as u64;
            }
            match fate {
                Fate::Deliver => drop(self.client.deliver(part)),
                Fate::Drop => {}
                Fate::Whole => {
                    own.whole.extend_from_slice(part);
                    if own.whole.len() > LONGEST_WHOLE && !scanned.is_done {
                        // Only messages are as long: they answer nothing.
                        self.client.deliver(&std::mem::take(&mut own.whole));
                        own.fate = Some(Fate::Deliver);
                        own.is_long_message = true;
                    }
                }
            }
            if !scanned.is_done {
                if scanned.used == 0 && !own.scan.has_begun() {
                    own.fate = None;
                }
                return Ok(at);
            }
            own.fate = None;
            self.end_answering(own);
            if std::mem::take(&mut own.is_long_message) {
                continue;
            }
            if fate == Fate::Whole {
                let whole = std::mem::take(&mut own.whole);
                self.take_whole(own, &whole);
            }
        }
        Ok(at)
    }

    /// What becomes of the reply that begins here; `None`: more bytes are needed.
    fn fate(&mut self, own: &mut Own, bytes: &[u8]) -> Result<Option<Fate>, String> {
        if own.state.is_monitor {
            return Ok(Some(Fate::Deliver));
        }
        let first = bytes.first().copied().unwrap_or_default();
        let may_be_message = match self.client.version.get() {
            Version::Resp3 => first == b'>',
            Version::Resp2 => first == b'*' && self.listens(own),
        };
        if may_be_message {
            return Ok(Some(Fate::Whole));
        }
        let Some(end) = memchr::memchr(b'\n', bytes) else { return Ok(None) };
        let line = bytes.get(..end).unwrap_or_default().trim_ascii_end();
        let fails_to_follow = own.expects.front().is_some_and(|expect| expect.what == What::Follow)
            && line.strip_prefix(b"-").is_some_and(|error| !asks_for_none(error));
        if own.expects.is_empty() || fails_to_follow {
            return Err(String::from_utf8_lossy(line).into_owned());
        }
        Ok(Some(self.settle_own(own, line)))
    }

    /// The first line of the reply to the request that has waited longest: that is over.
    fn settle_own(&mut self, own: &mut Own, line: &[u8]) -> Fate {
        let Some(mut expect) = own.expects.pop() else { return Fate::Drop };
        let error = line.strip_prefix(b"-");
        let is_ok = error.is_none();
        if let Some(error) = error
            && (is_refusal(error) && !is_of_script(&expect) || error.starts_with(b"UNBLOCKED force "))
            && self.run_elsewhere(own, &expect)
        {
            return Fate::Drop;
        }
        let call = expect.call.take();
        if let Some(call) = call.as_ref().filter(|_| !is_ok) {
            call.fail();
        }
        match expect.what {
            What::Swallow | What::Resubscribe | What::Follow => return Fate::Drop,
            What::Plain | What::Read | What::Subscribe => {}
            What::Block { .. } => self.note_blocked(false),
            What::Offset => {
                own.unproved = error.map(<[u8]>::to_vec);
                return Fate::Drop;
            }
            What::Replicated => {
                self.note_blocked(false);
                if let Some(refusal) = own.unproved.take().filter(|_| is_ok) {
                    if !expect.is_silent {
                        self.client.tell(|out| Trouble::Unproved(refusal).write(out));
                    }
                    return Fate::Drop;
                }
            }
            What::Unknown => {
                own.state.is_tainted |= is_ok;
                if is_ok {
                    self.core.learn_soon(&self.service);
                }
            }
            What::Multi { tell } => {
                own.state.is_in_multi |= is_ok;
                if !tell {
                    return Fate::Drop;
                }
            }
            What::Database => {
                own.learning = Some(expect.queued);
                return Fate::Whole;
            }
            What::Exec | What::Discard => {
                let is_done = expect.what == What::Exec && line.starts_with(b"*") && line != b"*-1";
                own.has_executed = is_done;
                self.end_queued(&expect.queued.subscribing, is_done);
                // Any other error says that there was nothing to end, or that the words were wrong: all is as before.
                if is_ok || line.starts_with(b"-EXECABORT") {
                    own.state.is_in_multi = false;
                    own.state.is_watching = false;
                    self.has_lost_watch = false;
                }
            }
            What::Watch => own.state.is_watching |= is_ok,
            What::Unwatch if is_ok => {
                own.state.is_watching = false;
                self.has_lost_watch = false;
            }
            What::Unwatch => {}
            What::Select(db) if is_ok => self.become_db(own, db),
            What::Select(_) => {}
            What::Resume { monitors } => {
                if !is_ok {
                    // It relies on what it has switched on.
                    self.client.cut();
                }
                own.state.is_monitor |= monitors;
                own.state.is_special |= !monitors;
                own.state.is_tainted = true;
                return Fate::Drop;
            }
            What::Monitor if is_ok => {
                own.state.is_monitor = true;
                self.switched.follow(expect.request.as_deref().unwrap_or_default());
            }
            What::Monitor => {}
            What::Special(_) if is_ok => {
                self.switched.follow(expect.request.as_deref().unwrap_or_default());
                own.state.is_special = !self.switched.is_empty();
                own.state.is_tainted = true;
            }
            What::Special(_) => {}
        }
        self.losses = 0;
        self.note_watching(own.state.is_watching);
        own.answering = call.map(|call| Answering { call, request: expect.request, bytes: 0 });
        if expect.is_silent { Fate::Drop } else { Fate::Deliver }
    }

    /// The reply that was coming has come.
    fn end_answering(&self, own: &mut Own) {
        let Some(Answering { call, request, bytes }) = own.answering.take() else { return };
        call.end(now_ns(), bytes);
        if let Some(request) = request.filter(|_| self.service.usage.is_large(bytes)) {
            self.service.usage.look_at_reply(&request, self.client.db.get(), bytes);
        }
    }

    /// The node has refused the request because of what it is now, or has sent the client away: it goes elsewhere,
    /// unless it is part of something that cannot.
    fn run_elsewhere(&mut self, own: &mut Own, expect: &Expect) -> bool {
        self.service.doubt(&self.core, own.node(), "it does not serve as the primary any more");
        if own.state.is_in_multi || own.state.is_watching {
            return false;
        }
        let Some(todo) = again(expect) else { return false };
        self.note_blocked(false);
        self.client.backlog.borrow_mut().push_back(todo);
        own.state.is_tainted = true;
        true
    }

    /// The transaction is over: what it held becomes true, if it was carried out.
    fn end_queued(&mut self, queued: &[Vec<u8>], is_done: bool) {
        if !is_done {
            return;
        }
        for request in queued {
            self.subscriptions.follow(request);
        }
        self.note_subscriptions();
    }

    /// What CLIENT INFO says about database, protocol, name and user behind a transaction with these commands.
    fn learn_session(&mut self, own: &mut Own, info: &[u8], queued: &Queued) {
        if !own.has_executed {
            return;
        }
        for request in queued.others.iter().filter(|request| is_client_switch(request)) {
            self.switched.follow(request);
            own.state.is_special = !self.switched.is_empty();
        }
        let text = String::from_utf8_lossy(info);
        let field =
            |key: &str| text.split_ascii_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        let Some(db) = field("db").and_then(|db| db.parse().ok()) else {
            // Its user may not ask, or it has become a subscriber in the second protocol.
            return self.guess_session(own, queued);
        };
        self.become_db(own, db);
        match field("resp") {
            Some("2") => self.become_version(own, Version::Resp2),
            Some("3") => self.become_version(own, Version::Resp3),
            _ => {}
        }
        if let Some(name) = field("name") {
            self.become_name(own, name.as_bytes());
        }
        if let Some(user) = field("user") {
            self.become_user(user.as_bytes(), queued);
        }
    }

    /// What the commands of a transaction have made of the session, if the server does not say it. A wrong guess would
    /// lead the next command to the wrong place: rather the client goes.
    fn guess_session(&mut self, own: &mut Own, queued: &Queued) {
        for request in &queued.others {
            let words: Vec<&[u8]> = words(request).collect();
            let name = words.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
            match (name.as_slice(), words.as_slice()) {
                (b"SELECT", _) => match database(request) {
                    Some(db) if db == self.client.db.get() || self.service.has_db(db) => self.become_db(own, db),
                    _ => return self.client.cut(),
                },
                (b"HELLO", [_]) => {}
                (b"HELLO", [_, b"2"]) => self.become_version(own, Version::Resp2),
                (b"HELLO", [_, b"3"]) => self.become_version(own, Version::Resp3),
                (b"CLIENT", [_, sub, name]) if sub.eq_ignore_ascii_case(b"SETNAME") => {
                    if is_name(name) {
                        self.become_name(own, name);
                    }
                }
                (b"CLIENT", _) => {}
                _ => return self.client.cut(),
            }
        }
    }

    fn become_db(&mut self, own: &mut Own, db: u32) {
        own.set_db(db);
        self.service.learn_db(db);
        self.client.db.set(db);
        self.lane = None;
    }

    fn become_version(&mut self, own: &mut Own, version: Version) {
        own.set_version(version);
        self.client.version.set(version);
        self.lane = None;
    }

    fn become_name(&mut self, own: &mut Own, name: &[u8]) {
        own.name_is(name);
        *self.client.name.borrow_mut() = name.to_vec();
    }

    /// A transaction has made this the client's user: its password is that of the AUTH in it.
    fn become_user(&mut self, user: &[u8], queued: &Queued) {
        let is_same = self.client.login.borrow().as_ref().is_some_and(|login| *login.user == *user);
        for request in queued.others.iter().rev().filter(|_| !is_same) {
            let words: Vec<&[u8]> = words(request).collect();
            let named = match words.as_slice() {
                [verb, password] if verb.eq_ignore_ascii_case(b"AUTH") => Some((DEFAULT_USER, *password)),
                [verb, name, password] if verb.eq_ignore_ascii_case(b"AUTH") => Some((*name, *password)),
                [verb, ..] if verb.eq_ignore_ascii_case(b"HELLO") => login_in(&words),
                _ => None,
            };
            if let Some((_, password)) = named.filter(|(name, _)| *name == user) {
                let login = self.service.logins.of(user, Some(password));
                *self.client.login.borrow_mut() = Some(login);
                return;
            }
        }
        if !is_same {
            // Nobody knows how to be that user on another connection.
            self.client.cut();
        }
    }

    /// A reply that may be a message, or confirm a subscription.
    fn take_whole(&mut self, own: &mut Own, whole: &[u8]) {
        if let Some(queued) = own.learning.take() {
            return self.learn_session(own, whole, &queued);
        }
        let Some((kind, channel)) = push_words(whole) else {
            return self.take_reply_in_whole(own, whole);
        };
        let adds = matches!(kind, b"subscribe" | b"psubscribe" | b"ssubscribe");
        let set: &mut BTreeSet<Vec<u8>> = match kind {
            b"subscribe" | b"unsubscribe" => &mut self.subscriptions.channels,
            b"psubscribe" | b"punsubscribe" => &mut self.subscriptions.patterns,
            b"ssubscribe" | b"sunsubscribe" => &mut self.subscriptions.shards,
            b"message" | b"pmessage" | b"smessage" => {
                self.client.deliver(whole);
                return;
            }
            _ if whole.first() == Some(&b'>') => {
                self.client.deliver(whole);
                return;
            }
            _ => return self.take_reply_in_whole(own, whole),
        };
        let before = set.len();
        match channel {
            Some(channel) if adds => drop(set.insert(channel.to_vec())),
            Some(channel) => drop(set.remove(channel)),
            None => {}
        }
        self.note_subscriptions();
        let is_due = |expect: &&mut Expect| matches!(expect.what, What::Subscribe | What::Resubscribe);
        let Some(expect) = own.expects.front_mut().filter(is_due) else {
            // A transaction has more than one channel in a command, or the server takes a subscription away by itself, as
            // that of a slot that moves.
            self.client.deliver(whole);
            return;
        };
        let is_again = expect.what == What::Resubscribe;
        let due = expect.left.unwrap_or_else(|| confirmations(expect.request.as_deref(), before));
        expect.left = Some(due.saturating_sub(1));
        if due <= 1
            && let Some(call) = own.expects.pop().and_then(|expect| expect.call)
        {
            call.end(now_ns(), whole.len() as u64);
        }
        if !is_again {
            self.client.deliver(whole);
        }
    }

    fn take_reply_in_whole(&mut self, own: &mut Own, whole: &[u8]) {
        let end = memchr::memchr(b'\n', whole).unwrap_or(whole.len());
        let line = whole.get(..end).unwrap_or_default().trim_ascii_end();
        if self.settle_own(own, line) == Fate::Deliver {
            self.client.deliver(whole);
        }
        if let Some(answering) = &mut own.answering {
            answering.bytes = whole.len() as u64;
        }
        self.end_answering(own);
    }

    /// The connection is gone: what was due goes elsewhere or is answered, and what was left on it is taken up again,
    /// or the client is told at the next occasion.
    pub(super) fn lose_own(&mut self, why: &str) {
        let OwnState::Open(mut own) = std::mem::replace(&mut self.own, OwnState::None) else { return };
        // One lost connection says little about a node that serves everybody else: the control thread looks, and
        // if the node is gone, the next attempt to connect says so at once.
        self.core.shared.control.suspect(&self.service.name, own.node(), why);
        self.losses += 1;
        self.note_blocked(false);
        if own.fate.is_some() && own.scan.has_begun() {
            // Half a reply is with the client.
            return self.client.cut();
        }
        self.tell_flushed();
        self.has_lost_watch |= own.state.is_watching;
        let mut is_in_multi = own.state.is_in_multi;
        while let Some(expect) = own.expects.pop() {
            let is_written = expect.end <= own.sent;
            let mut reply = Vec::new();
            match expect.what {
                What::Swallow | What::Offset | What::Resubscribe | What::Database | What::Follow => {}
                What::Resume { .. } => {}
                What::Multi { tell } => {
                    is_in_multi = true;
                    if tell {
                        reply.extend_from_slice(build::OK);
                    }
                }
                What::Discard => {
                    is_in_multi = false;
                    self.has_lost_watch = false;
                    reply.extend_from_slice(build::OK);
                }
                What::Unwatch => {
                    self.has_lost_watch = false;
                    reply.extend_from_slice(build::OK);
                }
                What::Exec if is_written => {
                    is_in_multi = false;
                    self.has_lost_watch = false;
                    self.unknown_outcome(why, &mut reply);
                }
                What::Exec => {
                    is_in_multi = false;
                    self.has_lost_watch = false;
                    build::null_array(&mut reply, self.client.version.get());
                }
                _ if is_in_multi => reply.extend_from_slice(build::QUEUED),
                // The server closes at this very request, as for a reply beyond its client-output-buffer-limit.
                What::Read if is_written && self.losses > MOST_LOSSES => self.unknown_outcome(why, &mut reply),
                What::Watch
                | What::Read
                | What::Block { may_rerun: true }
                | What::Select(_)
                | What::Subscribe
                | What::Special(_)
                | What::Monitor => match again(&expect) {
                    Some(todo) => self.client.backlog.borrow_mut().push_back(todo),
                    None if is_written => self.unknown_outcome(why, &mut reply),
                    None => Trouble::NotSent(why.to_owned()).write(&mut reply),
                },
                What::Replicated => reply.extend_from_slice(NO_DISK),
                What::Block { .. } if is_written => match ends_by_itself(expect.request.as_deref()) {
                    // As if nothing had come in time: whether something had, nobody can tell.
                    true => build::null_array(&mut reply, self.client.version.get()),
                    false => self.unknown_outcome(why, &mut reply),
                },
                What::Plain | What::Unknown | What::Block { .. } if !is_written => match again(&expect) {
                    Some(todo) => self.client.backlog.borrow_mut().push_back(todo),
                    None => Trouble::NotSent(why.to_owned()).write(&mut reply),
                },
                _ => self.unknown_outcome(why, &mut reply),
            }
            if !reply.is_empty() && !expect.is_silent {
                self.client.backlog.borrow_mut().push_back(Todo::Say(reply));
            }
        }
        if is_in_multi {
            // Nothing of it was carried out, and its commands are not known any more. What came before it goes first.
            self.client.backlog.borrow_mut().push_back(Todo::Spoil);
        }
        self.lose_stream();
        self.note_watching(false);
    }

    pub(super) fn note_blocked(&self, is_blocked: bool) {
        self.client.mode.update(|mode| Mode { is_blocked, ..mode });
    }

    fn note_watching(&self, is_watching: bool) {
        self.client.mode.update(|mode| Mode { is_watching, ..mode });
    }

    fn note_subscriptions(&self) {
        let count = |set: &BTreeSet<Vec<u8>>| u32::try_from(set.len()).unwrap_or(u32::MAX);
        let all = &self.subscriptions;
        let subscriptions = (count(&all.channels) + count(&all.shards), count(&all.patterns));
        self.client.mode.update(|mode| Mode { subscriptions, ..mode });
    }

    fn unknown_outcome(&self, why: &str, reply: &mut Vec<u8>) {
        self.service.stats.unknown.set(self.service.stats.unknown.get() + 1);
        Trouble::Unknown(why.to_owned()).write(reply);
    }

    /// CLIENT UNBLOCK where the server cannot be asked: the command ends as if its time were over, or with an error, and
    /// its connection is given up.
    pub(super) fn obey_unblock(&mut self) {
        let Some(by_error) = self.client.unblock.get() else { return };
        if self.end_wait(by_error) {
            return self.client.unblock.set(None);
        }
        if self.client.mode.get().is_blocked
            && let OwnState::Open(own) = &mut self.own
            && own.expects.len() == 1
        {
            let mut reply = Vec::new();
            match own.expects.front().map(|expect| expect.what) {
                _ if by_error => Trouble::Unblocked.write(&mut reply),
                Some(What::Replicated) => reply.extend_from_slice(NO_DISK),
                _ => build::null_array(&mut reply, self.client.version.get()),
            }
            self.client.say(&reply);
            self.has_lost_watch |= own.state.is_watching;
            self.note_blocked(false);
            self.drop_own();
        }
        self.client.unblock.set(None);
    }
}

/// The reply is that of a script, whose errors are its own.
fn is_of_script(expect: &Expect) -> bool {
    expect.request.as_deref().is_some_and(runs_script)
}

/// CLIENT TRACKING, CLIENT NO-TOUCH.
fn is_client_switch(request: &[u8]) -> bool {
    let mut words = words(request).map(<[u8]>::to_ascii_lowercase);
    words.next().as_deref() == Some(b"client") && matches!(words.next().as_deref(), Some(b"tracking" | b"no-touch"))
}

/// The request once more, if it was kept.
fn again(expect: &Expect) -> Option<Todo> {
    let request = expect.request.clone()?;
    Some(match expect.what {
        _ if expect.is_silent => Todo::Quiet(request),
        What::Block { .. } => Todo::Wait(request, expect.since),
        _ => Todo::Run(request),
    })
}

/// The kind of a message, and its channel.
fn push_words(frame: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let rest = frame.get(memchr::memchr(b'\n', frame)? + 1..)?;
    let (kind, rest) = bulk(rest)?;
    Some((kind, bulk(rest).map(|(channel, _)| channel)))
}

fn bulk(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(b'\n', bytes)?;
    let digits = bytes.get(..end)?.trim_ascii_end().strip_prefix(b"$")?;
    let length: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let (word, rest) = bytes.get(end + 1..)?.split_at_checked(length)?;
    Some((word, rest.get(2..)?))
}

/// How many confirmations a request gets: one for each name, and one for each subscription if it ends all of them.
fn confirmations(request: Option<&[u8]>, subscribed: usize) -> usize {
    match request.map(|request| words(request).count()) {
        Some(words) if words > 1 => words - 1,
        _ => subscribed.max(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::testing::request;

    #[test]
    fn confirmations_are_counted() {
        assert_eq!(confirmations(Some(&request("SUBSCRIBE a b")), 0), 2);
        assert_eq!(confirmations(Some(&request("UNSUBSCRIBE")), 3), 3);
        assert_eq!(confirmations(Some(&request("UNSUBSCRIBE")), 0), 1);
    }

    #[test]
    fn messages_are_told_by_their_words() {
        assert_eq!(
            push_words(b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n"),
            Some((b"subscribe".as_slice(), Some(b"c".as_slice())))
        );
        assert_eq!(push_words(b">3\r\n$11\r\nunsubscribe\r\n_\r\n:0\r\n"), Some((b"unsubscribe".as_slice(), None)));
    }
}
