//! What an idle client wants: cuts its bytes into requests and answers what needs no server.

use std::sync::Arc;

use super::backend::Backend;
use super::errors::{End, Trouble};
use super::fresh::{self, LAST_LSN, READ_AFTER};
use super::route::{self, Way, Wish, begin_of, way};
use super::session::Session;
use crate::config::model::{ListenRoute, PoolMode};
use crate::pool::Class;
use crate::sql::{Access, Effects, Hint, Kind, Verdict, is_inert};
use crate::wire::pg::build;
use crate::wire::pg::frame::{Head, head};
use crate::wire::pg::message::{self, Bind, Parse, Target, TransactionStatus};
use crate::wire::pg::sqlstate::write_error;

/// Longest statement that is classified; a longer one goes to the primary and its connection is cleaned afterwards.
pub(super) const LONGEST_TEXT: usize = 48 * 1024;

/// Longest statement that may pass without being examined, bytes: it is copied for as long as its answer is due.
const LONGEST_INERT: usize = 1024;

/// True if nobody has to examine a statement of a pool without a split.
#[inline]
fn passes_unexamined(text: &[u8]) -> bool {
    text.len() <= LONGEST_INERT && is_inert(text)
}

/// `pg_type.oid` of text.
const TEXT: u32 = 25;

/// Longest Parse that is held whole: its text is needed again on other connections. A longer one passes through, if
/// it is unnamed.
pub(super) const LONGEST_PARSE: usize = 16 * 1024 * 1024;

/// What [`Session::plan`] found.
pub(super) enum Plan {
    /// Not a whole request yet.
    More,
    /// A request that needs a server.
    Start(Class),
    /// The session is over.
    End(End),
}

/// What the messages up to a Sync want together.
struct Batch {
    access: Access,
    hint: Option<Hint>,
    /// Nothing in it needs a server.
    is_local: bool,
    serializable: bool,
    begins_read_only: bool,
}

impl Session {
    /// Looks at the bytes of a client without a connection. Returns how many are dealt with, and what the rest is.
    /// `is_full`: no more bytes fit, so a request that is still incomplete must start as it is.
    pub(super) fn plan(&mut self, bytes: &[u8], is_full: bool) -> (usize, Plan) {
        let mut at = 0;
        loop {
            if self.discard > 0 {
                let n = self.discard.min(bytes.len() - at);
                self.discard -= n;
                at += n;
            }
            let rest = bytes.get(at..).unwrap_or_default();
            let (kind, len) = match head(rest) {
                Head::Need => return (at, Plan::More),
                Head::Bad(bad) => return (at, Plan::End(End::Trouble(Box::new(Trouble::Protocol(bad.to_string()))))),
                Head::Frame { kind, len } => (kind, len),
            };
            let frame = rest.get(..len);
            match kind {
                b'X' => return (at, Plan::End(End::Terminated)),
                b'p' => {
                    let what = "unexpected password message after login".to_owned();
                    return (at, Plan::End(End::Trouble(Box::new(Trouble::Protocol(what)))));
                }
                b'S' => {
                    if frame.is_none() {
                        return (at, Plan::More);
                    }
                    self.flags.skip_to_sync = false;
                    build::ready_for_query(&mut self.output, TransactionStatus::Idle);
                    at += len;
                }
                // Flush has nothing to flush; copy data after a COPY that failed is ignored, as by the server itself.
                b'H' | b'd' | b'c' | b'f' => {
                    self.discard = len;
                }
                _ if self.flags.skip_to_sync => self.discard = len,
                b'Q' => match self.plan_query(frame, is_full) {
                    Some(Plan::More) => return (at, Plan::More),
                    Some(plan) => return (at, plan),
                    None => at += len,
                },
                b'F' => {
                    if frame.is_none() && !is_full {
                        return (at, Plan::More);
                    }
                    return (at, Plan::Start(Class::Primary));
                }
                _ => match self.plan_batch(rest, is_full) {
                    BatchPlan::More => return (at, Plan::More),
                    BatchPlan::Bad(what) => return (at, Plan::End(End::Trouble(Box::new(Trouble::Protocol(what))))),
                    BatchPlan::Start(class) => return (at, Plan::Start(class)),
                    BatchPlan::Local(len) => {
                        self.planned = None;
                        self.answer_batch(rest.get(..len).unwrap_or_default());
                        at += len;
                    }
                },
            }
        }
    }

    /// A simple query. `None`: answered without a server.
    fn plan_query(&mut self, frame: Option<&[u8]>, is_full: bool) -> Option<Plan> {
        let Some(frame) = frame else {
            return Some(if is_full { Plan::Start(Class::Primary) } else { Plan::More });
        };
        let Some(text) = text_of(frame) else {
            let what = "invalid query message: the text must end in a NUL".to_owned();
            return Some(Plan::End(End::Trouble(Box::new(Trouble::Protocol(what)))));
        };
        let verdict = match self.planned.take() {
            Some(judged) => judged,
            None => self.classify(text),
        };
        if self.answer_locally(&verdict, b'I') {
            return None;
        }
        let class = self.class_of(&verdict);
        self.planned = Some(verdict);
        Some(Plan::Start(class))
    }

    /// True if a statement without a hint goes to the primary whatever it is.
    #[inline]
    fn is_never_steered(&self) -> bool {
        !self.pool.is_split.get() && self.rare.route != ListenRoute::Replica && !self.flags.force_primary
    }

    /// What a statement is and who may run it, if it means nothing for the session. With the split off most are not
    /// even examined: those have no verdict.
    #[inline]
    pub(super) fn judge_plain(&mut self, text: &[u8]) -> Option<(Option<Arc<Verdict>>, Class)> {
        if self.is_never_steered() && !self.pool.examines.get() {
            return passes_unexamined(text).then_some((None, Class::Primary));
        }
        if self.flags.force_primary || text.len() > LONGEST_TEXT {
            return None;
        }
        let verdict = self.examine(text);
        if !verdict.is_plain() {
            self.planned = Some(verdict);
            return None;
        }
        let class = self.class_of(&verdict);
        if self.flags.awaits_fresh {
            return None;
        }
        Some((Some(verdict), class))
    }

    /// Extended messages up to their Sync, all there and none of them steering: they go to the primary. `None`: they
    /// have to be looked at more closely.
    fn plan_plain_batch(&mut self, mut bytes: &[u8]) -> Option<Class> {
        if !self.is_never_steered()
            || self.pool.examines.get()
            || self.names.as_ref().is_some_and(|names| names.may_steer)
        {
            return None;
        }
        loop {
            let Head::Frame { kind, len } = head(bytes) else { return None };
            let (frame, rest) = bytes.split_at_checked(len)?;
            match kind {
                b'B' | b'E' | b'D' => {}
                b'P' => {
                    let parse = Parse::read(frame.get(5..)?).ok()?;
                    if !parse.name.is_empty() || !passes_unexamined(parse.text) {
                        return None;
                    }
                    self.planned = Some(Arc::clone(&self.core.inert));
                }
                b'S' => return Some(Class::Primary),
                _ => return None,
            }
            bytes = rest;
        }
    }

    /// Extended messages up to their Sync.
    fn plan_batch(&mut self, bytes: &[u8], is_full: bool) -> BatchPlan {
        self.renew_verdicts();
        if let Some(class) = self.plan_plain_batch(bytes) {
            return BatchPlan::Start(class);
        }
        self.planned = None;
        let mut batch =
            Batch { access: Access::Read, hint: None, is_local: true, serializable: false, begins_read_only: false };
        let mut at = 0;
        let mut unnamed: Option<Arc<Verdict>> = None;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            let (kind, len) = match head(rest) {
                Head::Need if is_full => return BatchPlan::Start(Class::Primary),
                Head::Need => return BatchPlan::More,
                Head::Bad(bad) => return BatchPlan::Bad(bad.to_string()),
                Head::Frame { kind, len } => (kind, len),
            };
            let Some(frame) = rest.get(..len) else {
                if kind == b'P' && len <= LONGEST_PARSE {
                    self.want = at + len;
                    return BatchPlan::More;
                }
                return if is_full { BatchPlan::Start(Class::Primary) } else { BatchPlan::More };
            };
            let body = frame.get(5..).unwrap_or_default();
            match kind {
                b'S' => {
                    at += len;
                    break;
                }
                b'P' => {
                    batch.is_local = false;
                    let Ok(parse) = Parse::read(body) else { return BatchPlan::Bad("invalid Parse message".into()) };
                    // A named one is remembered for as long as its name: it is worth a look.
                    let verdict =
                        if parse.name.is_empty() { self.classify(parse.text) } else { self.examine(parse.text) };
                    batch.take(&verdict);
                    // The first one is looked at again at once, when it is sent.
                    if self.planned.is_none() {
                        self.planned = Some(Arc::clone(&verdict));
                    }
                    if parse.name.is_empty() {
                        unnamed = Some(verdict);
                    } else if frame.len() > LONGEST_TEXT {
                        batch.access = Access::Write;
                    }
                }
                b'B' => {
                    batch.is_local = false;
                    let Ok(bind) = Bind::read(body) else { return BatchPlan::Bad("invalid Bind message".into()) };
                    match self.verdict_of(bind.statement, unnamed.as_ref()) {
                        Some(verdict) => batch.take(verdict),
                        None => batch.access = Access::Write,
                    }
                    if !bind.portal.is_empty() {
                        batch.access = Access::Write;
                    }
                }
                b'D' | b'C' => {
                    let read = if kind == b'D' { message::describe(body) } else { message::close(body) };
                    let Ok((target, name)) = read else {
                        return BatchPlan::Bad("invalid Describe or Close message".into());
                    };
                    let is_known = self.names.as_ref().is_some_and(|n| n.find(name).is_some());
                    if kind == b'D' || target == Target::Portal || !is_known {
                        batch.is_local = false;
                        match (target, self.verdict_of(name, unnamed.as_ref())) {
                            (Target::Statement, Some(verdict)) => batch.take(verdict),
                            (Target::Statement, None) => batch.access = Access::Write,
                            (Target::Portal, _) => {}
                        }
                    }
                }
                b'E' => batch.is_local = false,
                // What follows a Flush before the Sync is not known yet, and could not move to another node.
                b'H' => return BatchPlan::Start(Class::Primary),
                _ => return BatchPlan::Start(Class::Primary),
            }
            at += len;
        }
        if batch.is_local {
            return BatchPlan::Local(at);
        }
        let class = self.class(batch.access, batch.hint, batch.serializable, batch.begins_read_only);
        BatchPlan::Start(class)
    }

    /// Closes of statements, and their Sync.
    fn answer_batch(&mut self, mut bytes: &[u8]) {
        while let Head::Frame { kind, len } = head(bytes) {
            let Some((frame, rest)) = bytes.split_at_checked(len) else { return };
            bytes = rest;
            if kind == b'S' {
                build::ready_for_query(&mut self.output, TransactionStatus::Idle);
            } else if let Ok((_, name)) = message::close(frame.get(5..).unwrap_or_default()) {
                if let Some(names) = &mut self.names {
                    names.remove(name);
                    self.me.prepared.set(names.len());
                }
                build::close_complete(&mut self.output);
            }
        }
    }

    /// What a statement of the client's is, by its name.
    pub(super) fn verdict_of<'a>(&'a self, name: &[u8], unnamed: Option<&'a Arc<Verdict>>) -> Option<&'a Arc<Verdict>> {
        if name.is_empty() {
            return unnamed.or_else(|| self.names.as_ref()?.unnamed_verdict.as_ref());
        }
        self.names.as_ref()?.find(name).map(|s| &s.verdict)
    }

    /// Which servers may run a statement that begins outside a transaction.
    pub(super) fn class_of(&mut self, verdict: &Verdict) -> Class {
        let (serializable, read_only) = begin_of(&verdict.kind);
        let is_of_primary = matches!(&verdict.kind, Kind::Show(name) if name == LAST_LSN);
        self.class(verdict.access, verdict.hint, serializable || is_of_primary, read_only)
    }

    fn class(&mut self, access: Access, hint: Option<Hint>, serializable: bool, read_only: bool) -> Class {
        self.rare.wish = None;
        if std::mem::take(&mut self.flags.force_primary) || serializable {
            return Class::Primary;
        }
        if hint.is_none() && self.is_never_steered() || self.must_stay_on_primary() {
            return Class::Primary;
        }
        let split = self.pool.is_split.get();
        let has_replicas = self.pool.state.borrow().has_replicas();
        let is_read = access == Access::Read || read_only;
        match way(hint, self.rare.route, split, is_read, has_replicas) {
            Way::Replica => {
                self.rare.wish = (!read_only).then(|| self.wish(hint));
                Class::Replica
            }
            Way::FreshReplica if self.may_read_on_replica() => Class::Replica,
            // As long as no node is known, whichever is found first may serve it.
            Way::Any if self.wrote_at == 0 && !self.pool.state.borrow().has_primary() => Class::Replica,
            Way::FreshReplica | Way::Any | Way::Primary => Class::Primary,
        }
    }

    fn wish(&self, hint: Option<Hint>) -> Wish {
        match hint {
            Some(_) => Wish::Hint,
            None if self.rare.listen_route == ListenRoute::Replica => Wish::Connection,
            None => Wish::Session,
        }
    }

    /// A replica's refusal of a write, with the way out if it was the client's own wish that sent it there.
    #[cold]
    pub(super) fn with_way_out(&self, backend: &Backend, refusal: &[u8]) -> Option<Vec<u8>> {
        let way_out = self.rare.wish?.way_out(self.is_bound());
        let is_replica = self.core.class_of(&self.pool, backend.entry.node) == Some(Class::Replica);
        let fields = refusal.strip_suffix(b"\0").filter(|_| is_replica)?;
        let length = u32::try_from(4 + fields.len() + way_out.len() + 3).ok()?;
        Some([b"E", &length.to_be_bytes()[..], fields, b"H", way_out.as_bytes(), b"\0\0"].concat())
    }

    /// Session settings that a standby would refuse or answer differently.
    fn must_stay_on_primary(&self) -> bool {
        use super::settings::Value;
        let written = |value: &Value| match value {
            Value::Text(text) | Value::Statement(text) => text.to_ascii_lowercase(),
        };
        if self.settings.is_plain() {
            return false;
        }
        self.settings.iter().any(|(name, value)| match name {
            "default_transaction_isolation" | "session characteristics" => written(value).contains("serializable"),
            "client_encoding" => {
                let text = written(value);
                // In these a byte of a character may look like a quote or a backslash.
                [
                    "sjis",
                    "shift_jis",
                    "big5",
                    "gbk",
                    "gb18030",
                    "uhc",
                    "johab",
                    "mskanji",
                    "shiftjis",
                    "win949",
                    "win936",
                    "win950",
                    "win932",
                ]
                .iter()
                .any(|e| text.contains(e))
            }
            "standard_conforming_strings" => true,
            _ => false,
        })
    }

    /// What a statement is, as far as this pool has to know.
    #[inline]
    pub(super) fn classify(&self, text: &[u8]) -> Arc<Verdict> {
        if !self.pool.is_split.get() && !self.pool.examines.get() && passes_unexamined(text) {
            return Arc::clone(&self.core.inert);
        }
        self.examine(text)
    }

    /// What a statement is.
    pub(super) fn examine(&self, text: &[u8]) -> Arc<Verdict> {
        self.core.classify(&self.pool, text)
    }

    /// Statements that Forebay answers itself. `status` is that of the transaction. False: not one of them.
    pub(super) fn answer_locally(&mut self, verdict: &Verdict, status: u8) -> bool {
        match &verdict.kind {
            Kind::Set(setting) if setting.name == "forebay.route" => {
                let done = self.set_route(setting.value.as_deref(), false, status);
                self.local_done("SET", done, status);
            }
            Kind::SetLocal(setting) if setting.name == "forebay.route" => {
                let done = self.set_route(setting.value.as_deref(), true, status);
                self.local_done("SET", done, status);
            }
            Kind::Set(setting) | Kind::SetLocal(setting) if setting.name == READ_AFTER => {
                let done = self.set_read_after(setting.value.as_deref(), status);
                self.local_done("SET", done, status);
            }
            Kind::Reset(Some(name)) if name == READ_AFTER => {
                if status != b'E' {
                    self.rare.read_after = None;
                }
                self.local_done("RESET", Ok(()), status);
            }
            Kind::Reset(Some(name)) if name == "forebay.route" => {
                if status != b'E' {
                    self.rare.route = self.rare.listen_route;
                }
                self.local_done("RESET", Ok(()), status);
            }
            Kind::Show(name) => match self.own_value(name) {
                Some(value) => self.local_row(name, &value, status),
                None => return false,
            },
            Kind::Deallocate(Some(name)) if self.names.as_ref().is_some_and(|n| n.find(name.as_bytes()).is_some()) => {
                if let Some(names) = self.names.as_mut().filter(|_| status != b'E') {
                    names.remove(name.as_bytes());
                    self.me.prepared.set(names.len());
                }
                self.local_done("DEALLOCATE", Ok(()), status);
            }
            _ if self.is_forbidden_block(verdict) => self.local_done("BEGIN", Err(Trouble::NoBlocks), status),
            _ => return false,
        }
        true
    }

    /// True for what would open a transaction block in statement mode.
    pub(super) fn is_forbidden_block(&self, verdict: &Verdict) -> bool {
        (matches!(verdict.kind, Kind::Begin { .. }) || verdict.effects.contains(Effects::TRANSACTION))
            && self.pool.config.borrow().mode == PoolMode::Statement
    }

    /// The value of a setting that is ours.
    pub(super) fn own_value(&self, name: &str) -> Option<String> {
        match name {
            "forebay.node" => {
                Some(self.rare.last_node.map(|n| self.core.node_name(&self.pool, n as usize)).unwrap_or_default())
            }
            "forebay.route" => Some(
                match self.rare.route {
                    ListenRoute::Auto => "auto",
                    ListenRoute::Primary => "primary",
                    ListenRoute::Replica => "replica",
                }
                .to_owned(),
            ),
            READ_AFTER => Some(self.rare.read_after.as_ref().map_or_else(String::new, |position| position.to_string())),
            _ => None,
        }
    }

    fn set_read_after(&mut self, value: Option<&str>, status: u8) -> Result<(), Trouble> {
        if status == b'E' {
            return Err(Trouble::InFailedTransaction);
        }
        self.rare.read_after = fresh::position(value.unwrap_or_default())?.map(Box::new);
        Ok(())
    }

    fn set_route(&mut self, value: Option<&str>, local: bool, status: u8) -> Result<(), Trouble> {
        if status == b'E' {
            return Err(Trouble::InFailedTransaction);
        }
        let route = route::named(value.unwrap_or_default())?;
        if local {
            self.rare.route_local.get_or_insert(self.rare.route);
        }
        self.rare.route = route;
        Ok(())
    }

    fn local_done(&mut self, tag: &str, done: Result<(), Trouble>, status: u8) {
        let done = if status == b'E' { Err(Trouble::InFailedTransaction) } else { done };
        match done {
            Ok(()) => build::command_complete(&mut self.output, tag),
            Err(trouble) => write_error(&mut self.output, &trouble.as_error()),
        }
        build::ready_for_query(&mut self.output, transaction_status(status));
    }

    fn local_row(&mut self, name: &str, value: &str, status: u8) {
        if status == b'E' {
            return self.local_done("SHOW", Err(Trouble::InFailedTransaction), status);
        }
        build::row_description(&mut self.output, &[(name, TEXT)]);
        build::data_row(&mut self.output, &[Some(value)]);
        self.local_done("SHOW", Ok(()), status);
    }
}

enum BatchPlan {
    More,
    Local(usize),
    Start(Class),
    Bad(String),
}

impl Batch {
    fn take(&mut self, verdict: &Verdict) {
        let (serializable, read_only) = begin_of(&verdict.kind);
        self.serializable |= serializable;
        if read_only {
            self.begins_read_only = true;
        } else if verdict.access == Access::Write {
            self.access = Access::Write;
        }
        self.hint = self.hint.or(verdict.hint);
    }
}

/// The protocol's status byte as the builder wants it.
pub(super) fn transaction_status(byte: u8) -> TransactionStatus {
    match byte {
        b'T' => TransactionStatus::InTransaction,
        b'E' => TransactionStatus::Failed,
        _ => TransactionStatus::Idle,
    }
}

/// The statement of a request that goes as it is: one whole Query message, or such a batch, and nothing else.
#[inline]
pub(super) fn plain_request(bytes: &[u8]) -> Option<(&[u8], Option<UnnamedBatch<'_>>)> {
    match bytes.first()? {
        b'Q' if is_lone_query(bytes) => text_of(bytes).map(|text| (text, None)),
        b'P' => UnnamedBatch::read(bytes).map(|batch| (batch.text, Some(batch))),
        _ => None,
    }
}

/// True if the bytes are one whole Query message and nothing else.
#[inline]
fn is_lone_query(bytes: &[u8]) -> bool {
    matches!(head(bytes), Head::Frame { kind: b'Q', len } if len == bytes.len())
}

/// A batch that goes as it is: the unnamed statement is parsed, bound, perhaps described, executed and synced, all of
/// it is there, and nothing follows.
pub(super) struct UnnamedBatch<'a> {
    /// The Parse body without the name.
    pub definition: &'a [u8],
    /// The statement.
    pub text: &'a [u8],
}

impl<'a> UnnamedBatch<'a> {
    /// `None`: it is something else.
    #[inline]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let Head::Frame { kind: b'P', len } = head(bytes) else { return None };
        let (parse, mut rest) = bytes.split_at_checked(len)?;
        let [_, _, _, _, _, 0, definition @ ..] = parse else { return None };
        // Without parameter types the text ends where the frame ends.
        let text = match definition {
            [text @ .., 0, 0, 0] if !text.ends_with(&[0]) => text,
            _ => Parse::read(parse.get(5..)?).ok()?.text,
        };
        let mut is_bound = false;
        loop {
            let Head::Frame { kind, len } = head(rest) else { return None };
            let (frame, after) = rest.split_at_checked(len)?;
            match (kind, frame.get(5..)?) {
                (b'B', [0, 0, ..]) if !is_bound => is_bound = true,
                (b'D', [b'S' | b'P', 0]) | (b'E', [0, ..]) if is_bound => {}
                (b'S', []) if is_bound && after.is_empty() => return Some(UnnamedBatch { definition, text }),
                _ => return None,
            }
            rest = after;
        }
    }
}

/// The text of a whole Query message.
pub(super) fn text_of(frame: &[u8]) -> Option<&[u8]> {
    match frame.get(5..)? {
        [text @ .., 0] => Some(text),
        _ => None,
    }
}
