//! What a session has left on its server connection, where its statements alone do not tell.
//!
//! A client that made what cannot be moved keeps its connection as long as that is there, and what code of the server's
//! own has set has to follow the client as if it had been a `SET`. So the connection is asked, behind the answer that
//! the client already has: by a batch of ours, as with a COMMIT in doubt.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::backend::Backend;
use super::doubt;
use super::errors::End;
use super::session::Session;
use super::settings::{Settings, quote};
use super::track::Expect;
use crate::config::model::PoolMode;
use crate::sql::{Effects, Verdict, dotted_names};
use crate::wire::pg::message;

/// A pinned client whose statements do not say that anything ended is looked at this seldom, ns.
const SELDOM: u64 = 1_000_000_000;
/// What may have been left by code that nobody reads.
const UNSEEN: Effects = Effects::OPAQUE.union(Effects::UNKNOWN_SET);
/// What makes state that cannot be moved.
pub(super) const PINS: Effects = Effects::TEMP
    .union(Effects::LISTEN)
    .union(Effects::ADVISORY_LOCK)
    .union(Effects::WITH_HOLD)
    .union(Effects::SQL_PREPARE)
    .union(Effects::SEED);
/// A statement that no server knows, in place of one that must not run.
pub(super) const REFUSED: &[u8] = b"fb_max_pinned";
/// The same as a query.
pub(super) const REFUSED_QUERY: &[u8] = b"EXECUTE fb_max_pinned";
/// What may end it.
const ENDS: Effects = Effects::MAY_END.union(Effects::DDL).union(Effects::DROPS_PREPARED);

/// Each row says what is there: a kind, a name and a value. Outside of a transaction, where nothing is there that ends
/// with one. A schema for temporary objects stays when the last of them is gone, so that what depends on it is asked for.
const QUESTION: &str = "SELECT 'set', pg_catalog.lower(name), setting FROM pg_catalog.pg_settings \
     WHERE source OPERATOR(pg_catalog.=) 'session' \
     UNION ALL SELECT 'set', 'role', pg_catalog.current_setting('role') \
     WHERE pg_catalog.current_setting('role') OPERATOR(pg_catalog.<>) 'none' \
     UNION ALL SELECT 'temporary table', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_depend \
     WHERE refclassid OPERATOR(pg_catalog.=) 2615 AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) \
     UNION ALL SELECT 'listen', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_listening_channels()) \
     UNION ALL SELECT 'advisory lock', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_locks \
     WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()) \
     UNION ALL SELECT 'cursor with hold', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable) \
     UNION ALL SELECT 'prepare', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql)";

/// `SHOW PINS` names the first of these that is there.
const REASONS: [&str; 5] = ["temporary table", "listen", "advisory lock", "cursor with hold", "prepare"];

/// True for temporary tables that end with their transaction, and for what is only explained.
fn leaves_nothing(pins: Effects, text: &[u8]) -> bool {
    const DROP: [&[u8]; 3] = [b"on", b"commit", b"drop"];
    let is_break = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b';' | b')' | b'(');
    let words: Vec<&[u8]> = text.split(is_break).filter(|word| !word.is_empty()).collect();
    let same = |a: &[u8], b: &[u8]| a.eq_ignore_ascii_case(b);
    let is_explained = words.first().is_some_and(|word| same(word, b"explain"));
    let drops = words.windows(3).any(|found| found.iter().zip(DROP).all(|(word, wanted)| same(word, wanted)));
    pins == Effects::TEMP && drops || is_explained && !words.iter().any(|word| same(word, b"analyze"))
}

/// A look at a connection that is due or under way.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// The session's settings are not what was tracked.
    is_uncertain: bool,
    /// Something may be left that no look shows: nobody else may get it.
    is_blind: bool,
    /// A setting may have been made whose name is not known.
    is_hidden: bool,
    /// Settings that the server lists nowhere and that have to be asked for by name.
    names: BTreeSet<String>,
    found: Vec<(String, String, String)>,
    has_failed: bool,
}

/// What a session remembers of its looks.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// Will be sent when the connection is free.
    due: Option<Look>,
    /// Its answer is owed.
    sent: Option<Look>,
    /// When the last one was sent, ns.
    at: u64,
    /// `setseed` was called: nobody else can have that.
    pub(super) is_seeded: bool,
}

impl Session {
    /// A statement is about to be sent: whether its connection has to be looked at afterwards.
    #[inline]
    pub(super) fn note_left(&mut self, verdict: &Verdict, text: &[u8]) {
        let is_pinned = self.me.pin.get().is_some() || self.has_look();
        if verdict.effects.intersects(PINS | UNSEEN) || is_pinned && verdict.effects.intersects(ENDS) {
            self.look_after(verdict.effects, text);
        }
    }

    #[cold]
    fn look_after(&mut self, effects: Effects, text: &[u8]) {
        let made = match &*self.pool.catalog.borrow() {
            Some(catalog) if effects.intersects(UNSEEN) => catalog.settings().clone(),
            _ => BTreeSet::new(),
        };
        if let Some(look) = self.due_look()
            && effects.intersects(UNSEEN)
        {
            look.is_uncertain = true;
            look.is_blind |= effects.contains(Effects::OPAQUE);
            look.is_hidden |= effects.contains(Effects::HIDDEN_SET) || !dotted_names(text, &mut look.names);
            look.names.extend(made);
        }
    }

    /// The look that is due from now on. None in session mode: there the connection is cleaned when the client leaves.
    fn due_look(&mut self) -> Option<&mut Look> {
        if self.rare.is_session {
            self.flags.dirty = true;
            return None;
        }
        Some(self.looks().due.get_or_insert_default())
    }

    pub(super) fn looks(&mut self) -> &mut Looks {
        self.rare.looks.get_or_insert_default()
    }

    /// A text that nobody has read is about to be sent: it may do anything.
    pub(super) fn note_unread(&mut self) {
        self.flags.wrote = true;
        self.flags.reshaped = true;
        self.flags.stirred = self.core.resolves;
        self.look_after(UNSEEN, b"");
    }

    /// Which of the session's settings hold is not known any more.
    #[cold]
    pub(super) fn lose_track(&mut self) {
        if let Some(look) = self.due_look() {
            look.is_uncertain = true;
        }
    }

    /// A statement has failed that may have left something all the same.
    pub(super) fn look_after_failure(&mut self) {
        self.look_after(PINS, b"");
    }

    /// A transaction of a pinned client has written: a function may have ended what pins it.
    #[cold]
    pub(super) fn look_now_and_then(&mut self, now: u64) {
        if !self.rare.is_session && now.saturating_sub(self.looks().at) > SELDOM {
            self.due_look();
        }
    }

    /// The connection is outside of a transaction and owes nothing: asks it, if that is due. False: nothing is.
    #[inline]
    pub(super) fn look(&mut self, backend: &mut Backend) -> bool {
        self.rare.looks.is_some() && self.send_look(backend)
    }

    #[cold]
    fn send_look(&mut self, backend: &mut Backend) -> bool {
        let looks = self.looks();
        if looks.sent.is_some() {
            return true;
        }
        let Some(mut look) = looks.due.take() else { return false };
        if look.is_uncertain {
            look.names.extend(self.settings.iter().map(|(name, _)| name.to_owned()).filter(|name| name.contains('.')));
        }
        let mut question = QUESTION.to_owned();
        let login = self.pool.login.borrow().user.clone();
        let _ = write!(
            question,
            " UNION ALL SELECT 'set', 'session_authorization', session_user::pg_catalog.text \
             WHERE session_user OPERATOR(pg_catalog.<>) {}",
            quote(&login)
        );
        for name in &look.names {
            let name = quote(name);
            let _ = write!(question, " UNION ALL SELECT 'set', {name}, pg_catalog.current_setting({name}, true)");
        }
        let now = self.core.now();
        let looks = self.looks();
        (looks.sent, looks.at) = (Some(look), now);
        backend.track.push(Expect::Asked);
        super::forward::send(backend, &doubt::batch_of_ours(question.as_bytes()));
        true
    }

    /// A look is due or under way.
    pub(super) fn has_look(&self) -> bool {
        self.rare.looks.as_ref().is_some_and(|looks| looks.due.is_some() || looks.sent.is_some())
    }

    /// The answer to a look is owed.
    #[inline]
    pub(super) fn is_looking(&self) -> bool {
        self.rare.looks.as_ref().is_some_and(|looks| looks.sent.is_some())
    }

    /// The connection is gone, with what was on it.
    pub(super) fn forget_looks(&mut self) {
        if let Some(looks) = &mut self.rare.looks {
            (looks.due, looks.sent) = (None, None);
        }
    }

    /// `setseed` was called.
    pub(super) fn is_seeded(&self) -> bool {
        self.rare.looks.as_ref().is_some_and(|looks| looks.is_seeded)
    }

    /// The client keeps its connection from now on, for this reason, or does not.
    pub(super) fn set_pin(&mut self, reason: Option<&'static str>) {
        let pinned = &self.pool.shared.pinned;
        let is_counted = std::mem::take(&mut self.flags.may_pin);
        match (self.me.pin.replace(reason), reason) {
            (None, Some(_)) if !is_counted => drop(pinned.fetch_add(1, Ordering::Relaxed)),
            (Some(_), None) => drop(pinned.fetch_sub(1, Ordering::Relaxed)),
            _ => self.flags.may_pin = is_counted && reason.is_none(),
        }
    }

    /// The connection is going back, and the client has not been pinned to it.
    #[cold]
    pub(super) fn does_not_pin(&mut self) {
        self.flags.may_pin = false;
        self.pool.shared.pinned.fetch_sub(1, Ordering::Relaxed);
    }

    /// True for a statement that would make this client keep its connection while as many do as may
    /// (`pool.max_pinned`). The server is to refuse it, so that a transaction fails by it as by any other error.
    pub(super) fn may_not_pin(&mut self, backend: &Backend, verdict: &Verdict, text: &[u8]) -> bool {
        // LISTEN keeps a connection only where it cannot be shared; what code does may be over when it ends.
        let pins = verdict.effects & PINS.difference(Effects::LISTEN);
        let is_seen = !pins.is_empty() && !verdict.effects.contains(Effects::BY_CODE) && backend.track.status != b'E';
        if !is_seen || self.is_bound() || self.flags.may_pin {
            return false;
        }
        let (most, mode) = {
            let config = self.pool.config.borrow();
            (config.max_pinned, config.mode)
        };
        if most == usize::MAX || mode == PoolMode::Session || leaves_nothing(pins, text) {
            return false;
        }
        // Counted before it is sent: others are on their way as well.
        let one_more = |pinned| if pinned < most { Some(pinned + 1) } else { None };
        let pinned = &self.pool.shared.pinned;
        self.flags.may_pin = pinned.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok();
        !self.flags.may_pin
    }

    /// A message that answers a look.
    pub(super) fn take_look(&mut self, backend: &mut Backend, kind: u8, body: &[u8]) -> Result<(), End> {
        let Some(look) = &mut self.looks().sent else { return Ok(()) };
        match kind {
            b'D' => match row(body) {
                Some(row) => look.found.extend(row),
                None => look.has_failed = true,
            },
            b'E' => {
                look.has_failed = true;
                if let Some(end) = self.fatal(backend, body) {
                    return Err(end);
                }
            }
            b'Z' => {
                self.told(backend, body);
                if let Some(look) = self.looks().sent.take() {
                    self.looked(backend, look);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn looked(&mut self, backend: &mut Backend, look: Look) {
        if look.has_failed {
            // Whatever it was, the client keeps it.
            self.flags.dirty = true;
            let reason = if look.is_uncertain { "setting" } else { "session state" };
            self.set_pin(self.me.pin.get().or(Some(reason)));
            return;
        }
        if look.is_uncertain {
            let there = self.pool.shared.intern(settings(&look.found));
            // What was reset is for the session as it began, for the connection as its server has it.
            let missing = self.start.iter().filter(|(name, _)| there.value(name).is_none());
            let whole = missing.fold(Arc::clone(&there), |all, (name, value)| all.with(name, value.clone()));
            (self.settings, self.before_tx, self.rare.actual) = (whole, None, None);
            backend.settings = there;
        }
        let is_there = |reason: &&&str| look.found.iter().any(|(kind, ..)| kind == **reason);
        let pin = REASONS.iter().find(is_there).copied();
        let pin = pin.or(self.is_seeded().then_some("setseed")).or(look.is_hidden.then_some("setting"));
        self.set_pin(pin);
        self.flags.dirty = pin.is_some() || look.is_blind;
    }
}

/// A row of the answer; nothing in it if it says that a setting is not there. `None`: it cannot be read.
fn row(body: &[u8]) -> Option<Option<(String, String, String)>> {
    let row = message::data_row(body).ok()?;
    let [kind, name, value] = row.as_slice() else { return None };
    let text = |value: &Option<&[u8]>| String::from_utf8(value.as_ref()?.to_vec()).ok();
    if value.is_none() {
        return Some(None);
    }
    Some(Some((text(kind)?, text(name)?, text(value)?)))
}

/// A setting by somebody's own name that was reset is empty from then on, and has no other default.
fn settings(found: &[(String, String, String)]) -> Arc<Settings> {
    let set = found.iter().filter(|(kind, name, value)| kind == "set" && !(value.is_empty() && name.contains('.')));
    Settings::from_startup(set.map(|(_, name, value)| (name.clone(), value.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::pg::build;

    #[test]
    fn a_setting_that_nobody_has_made_is_none() {
        let read = |values: &[Option<&str>]| {
            let mut out = Vec::new();
            build::data_row(&mut out, values);
            row(&out[5..])
        };
        assert_eq!(read(&[Some("set"), Some("app.x"), None]), Some(None));
        assert_eq!(read(&[Some("set"), Some("app.x")]), None);
        let of = |kind: &str, name: &str, value: &str| (kind.to_owned(), name.to_owned(), value.to_owned());
        assert_eq!(read(&[Some("set"), Some("a"), Some("")]), Some(Some(of("set", "a", ""))));
        let found = [of("set", "app.x", ""), of("set", "search_path", ""), of("listen", "", "")];
        let left = settings(&found);
        assert_eq!(left.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["search_path"]);
    }
}
