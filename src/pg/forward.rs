//! From the client to its server: each message is looked at once, remembered in the ring, and passed on as it came
//! unless its statement has another name on this connection.

use std::borrow::Cow;
use std::sync::Arc;

use super::backend::Backend;
use super::errors::{End, Trouble};
use super::fresh::{ASK_LAST_LSN, LAST_LSN, READ_AFTER};
use super::listen::{self, Change, Shared};
use super::look::{self, PINS};
use super::prepare::{Names, Statement};
use super::request::{LONGEST_PARSE, LONGEST_TEXT, UnnamedBatch, text_of};
use super::route::ROUTE;
use super::session::Session;
use super::stats::add;
use super::track::{Expect, Op};
use crate::pool::Class;
use crate::sql::{Effects, Kind, Reason, Verdict};
use crate::wire::pg::frame::{Head, head};
use crate::wire::pg::message::{self, Bind, Parse, Target};
use crate::wire::pg::{build, rewrite};

/// What becomes of one message.
enum Step {
    /// Goes as it is.
    Pass,
    /// Goes in other words, which are in the connection's buffer already; the rest of it goes as it is from here.
    Rewritten(usize),
    /// Does not go.
    Drop,
    /// Waits until the connection is quiet.
    Hold,
    /// Is not complete and has to be.
    More,
}

/// The bytes before the current message that go as they are and have not gone yet.
struct Run<'a> {
    bytes: &'a [u8],
    from: usize,
    /// Start of the current message.
    at: usize,
}

impl Run<'_> {
    /// Moves them in front of what is to be inserted.
    fn flush(&mut self, backend: &mut Backend) {
        if let Some(raw) = self.bytes.get(self.from..self.at) {
            backend.out.extend_from_slice(raw);
        }
        self.from = self.at;
    }
}

/// Longest first request of a transaction that is copied for as long as its answer is due, bytes.
const LONGEST_RETAINED: usize = 4096;

impl Session {
    /// Sends what may go now of `bytes`; the rest is kept in `input`.
    pub(super) fn forward(&mut self, backend: &mut Backend, bytes: &[u8]) -> Result<(), End> {
        let mut at = self.left.min(bytes.len());
        self.left -= at;
        let mut run = Run { bytes, from: 0, at };
        let mut is_first = false;
        if (backend.track.is_quiet() || backend.track.is_only_asked()) && at == 0 {
            self.begin_request(backend);
            self.flags.watches = true;
            if self.core.queries.traces() {
                self.trace_request();
            }
            is_first = backend.track.status == b'I';
        }
        let kept = loop {
            let rest = bytes.get(at..).unwrap_or_default();
            let (kind, len) = match head(rest) {
                Head::Need => break at,
                Head::Bad(bad) => return Err(End::Trouble(Box::new(Trouble::Protocol(bad.to_string())))),
                Head::Frame { kind, len } => (kind, len),
            };
            let available = rest.get(..len).unwrap_or(rest);
            run.at = at;
            match self.step(backend, kind, available, available.len() == len, &mut run)? {
                Step::Pass => {}
                Step::Rewritten(from) => run.from = at + from,
                Step::Drop => {
                    run.flush(backend);
                    run.from = at + len;
                }
                Step::Hold => {
                    self.flags.hold = true;
                    break at;
                }
                Step::More => break at,
            }
            if available.len() < len {
                self.left = len - available.len();
                at = bytes.len();
                break at;
            }
            at += len;
        };
        let raw = bytes.get(run.from.min(kept)..kept).unwrap_or_default();
        send(backend, raw);
        let is_small = is_first && kept <= LONGEST_RETAINED && backend.retained.is_empty();
        if self.flags.undecided || self.flags.heals || is_small {
            backend.retained.extend_from_slice(bytes.get(..kept).unwrap_or_default());
            self.flags.heals &= backend.retained.len() <= LONGEST_TEXT;
        }
        self.keep(bytes.get(kept..).unwrap_or_default());
        self.planned = None;
        // With the server's answer otherwise: what was said cannot be taken back if the request has to run again.
        if backend.track.is_all_local() {
            self.say_local(backend);
        }
        let is_whole = kept == bytes.len() && self.left == 0 && self.want == 0 && !self.flags.unsynced;
        if is_whole && backend.track.is_quiet() {
            // The server has nothing to answer.
            self.flags.running = false;
        }
        self.me.is_unwatched.set(is_whole && self.flags.running && !backend.track.is_copying_in());
        Ok(())
    }

    /// As [`Session::forward`] for one whole Query, or batch, that means nothing for the session.
    #[inline]
    pub(super) fn forward_plain(
        &mut self,
        backend: &mut Backend,
        request: &[u8],
        batch: Option<&UnnamedBatch<'_>>,
        verdict: Option<&Arc<Verdict>>,
    ) {
        self.begin_request(backend);
        if self.core.queries.is_due() {
            self.watch_plain(backend, request, batch);
        }
        match verdict {
            Some(verdict) => self.note_access(backend, verdict),
            None => {
                self.rare.last_node = u32::try_from(backend.entry.node).ok();
                self.flags.wrote = true;
                self.flags.unexamined = true;
            }
        }
        let is_small = request.len() <= LONGEST_RETAINED && (batch.is_none() || verdict.is_some() && self.flags.wrote);
        if self.flags.undecided || self.flags.unexamined && batch.is_none() || is_small {
            // Kept until the answer is complete: it may have to run elsewhere, and if no answer ever comes, the text
            // decides what the client is told.
            backend.retained.extend_from_slice(request);
        }
        match batch {
            None => {
                backend.unnamed_of = 0;
                backend.track.push(Expect::Query(None));
            }
            Some(batch) => {
                self.names
                    .get_or_insert_default()
                    .set_unnamed(batch.definition, Arc::clone(verdict.unwrap_or(&self.core.inert)));
                self.rare.unnamed_serial = self.core.next_serial();
                backend.unnamed_of = self.rare.unnamed_serial;
                self.rare.bound = None;
                let stats = &self.pool.stats;
                add(&stats.client_parses, 1);
                add(&stats.server_parses, 1);
                add(&stats.binds, 1);
                backend.track.push(Expect::Batch { is_parsed: false });
            }
        }
        if self.flags.stirred && verdict.is_some_and(|verdict| self.may_ask_behind(backend, verdict)) {
            backend.out.extend_from_slice(request);
            self.ask_now(backend);
        } else {
            send(backend, request);
        }
        self.keep(&[]);
        self.me.is_unwatched.set(true);
    }

    /// A request begins on a quiet connection.
    fn begin_request(&mut self, backend: &mut Backend) {
        self.flags.running = true;
        self.flags.heals = false;
        self.rare.held_from = self.output.len();
        backend.retained.clear();
        if self.flags.watching {
            self.watch_anew();
        }
        if backend.track.status == b'I' {
            self.flags.wrote = false;
            self.flags.unexamined = false;
            self.flags.committing = false;
            self.flags.rolled_back = false;
            if backend.is_standby && self.core.class_of(&self.pool, backend.entry.node) == Some(Class::Replica) {
                self.flags.undecided = true;
            }
        }
    }

    fn step(
        &mut self,
        backend: &mut Backend,
        kind: u8,
        frame: &[u8],
        is_whole: bool,
        run: &mut Run<'_>,
    ) -> Result<Step, End> {
        let body = frame.get(5..).unwrap_or_default();
        match kind {
            b'Q' => self.step_query(backend, frame, is_whole, run),
            b'S' | b'H' | b'c' | b'X' if !is_whole => Ok(Step::More),
            b'S' => {
                self.flags.unsynced = false;
                backend.track.synced();
                if self.flags.watching {
                    self.watch_sync();
                }
                if !backend.track.is_copying_in() {
                    backend.track.push(Expect::Sync);
                }
                Ok(Step::Pass)
            }
            b'H' | b'd' => Ok(Step::Pass),
            b'c' | b'f' => {
                backend.track.push(Expect::CopyEnd);
                Ok(Step::Pass)
            }
            b'X' => Err(End::Terminated),
            b'F' if backend.track.is_skipping() => Ok(if is_whole { Step::Drop } else { Step::Pass }),
            b'F' => {
                if self.must_hold(backend) {
                    return Ok(Step::Hold);
                }
                self.flags.wrote = true;
                self.flags.stirred = self.core.resolves;
                backend.track.push(Expect::Function);
                Ok(Step::Pass)
            }
            b'p' => Err(End::Trouble(Box::new(Trouble::Protocol("unexpected password message after login".into())))),
            // Skipped by the server after an error, so nothing of it takes effect.
            _ if backend.track.is_skipping() => Ok(if is_whole { Step::Drop } else { Step::Pass }),
            _ => {
                if !self.flags.unsynced && (self.must_hold(backend) || self.must_wait_to_commit(backend, kind, body)) {
                    return Ok(Step::Hold);
                }
                self.flags.unsynced = true;
                match kind {
                    b'P' => self.step_parse(backend, frame, is_whole, run),
                    b'B' => self.step_bind(backend, frame, run),
                    b'E' if is_whole => {
                        if self.flags.watching {
                            self.watch_execute();
                        }
                        let op = match body.first() {
                            Some(0) => self.rare.bound.take(),
                            _ => self.op_of_portal(body),
                        };
                        backend.track.push(Expect::Execute(op));
                        Ok(Step::Pass)
                    }
                    b'D' if is_whole => match message::describe(body) {
                        Ok((target, name)) => {
                            self.names.get_or_insert_default().describes = true;
                            let step = self.step_name(backend, target, name, frame, run, rewrite::describe)?;
                            backend.track.push(Expect::Describe);
                            Ok(step)
                        }
                        Err(bad) => Err(End::Trouble(Box::new(Trouble::Protocol(bad.to_string())))),
                    },
                    b'C' if is_whole => self.step_close(backend, body),
                    _ => Ok(Step::More),
                }
            }
        }
    }

    /// True if a request must wait for the answers before it: it may have to go to another node.
    fn must_hold(&self, backend: &Backend) -> bool {
        !backend.track.is_quiet() && backend.is_standby && !self.is_bound()
    }

    fn step_query(
        &mut self,
        backend: &mut Backend,
        frame: &[u8],
        is_whole: bool,
        run: &mut Run<'_>,
    ) -> Result<Step, End> {
        if self.must_hold(backend) {
            return Ok(Step::Hold);
        }
        if !is_whole && frame.len() < LONGEST_TEXT {
            return Ok(Step::More);
        }
        if backend.track.is_skipping() {
            return Ok(if is_whole { Step::Drop } else { Step::Pass });
        }
        if !is_whole {
            // Too long to look at: whatever it leaves behind is cleaned up after it.
            self.note_unread();
            backend.track.push(Expect::Query(None));
            return Ok(Step::Pass);
        }
        let Some(text) = text_of(frame) else {
            return Err(End::Trouble(Box::new(Trouble::Protocol(
                "invalid query message: the text must end in a NUL".into(),
            ))));
        };
        let verdict = match self.planned.take() {
            Some(verdict) => verdict,
            None => self.classify(text),
        };
        if self.is_ours(&verdict.kind) || self.is_forbidden_block(&verdict) {
            if !backend.track.is_quiet() {
                return Ok(Step::Hold);
            }
            if !self.flags.unsynced && self.answer_locally(&verdict, backend.track.status) {
                return Ok(Step::Drop);
            }
        }
        if self.core.resolves && verdict.kind == Kind::Commit && !self.before_commit(backend, text) {
            return Ok(Step::Hold);
        }
        if matches!(&verdict.kind, Kind::Show(name) if name == LAST_LSN) {
            backend.unnamed_of = 0;
            backend.track.push(Expect::Query(None));
            run.flush(backend);
            build::query(&mut backend.out, ASK_LAST_LSN.as_bytes());
            return Ok(Step::Rewritten(frame.len()));
        }
        match self.shares_listen(&verdict) {
            Shared::No => {}
            Shared::Wait => return Ok(Step::Hold),
            Shared::Yes => {
                let Kind::Listen(channel) = &verdict.kind else { return Ok(Step::Pass) };
                let text = listen::instead(channel);
                let op = self.note(&verdict, text.as_bytes()).map(Box::new);
                backend.unnamed_of = 0;
                backend.track.push(Expect::Query(op));
                run.flush(backend);
                build::query(&mut backend.out, text.as_bytes());
                return Ok(Step::Rewritten(frame.len()));
            }
        }
        self.note_access(backend, &verdict);
        self.flags.reshaped |= verdict.kind == Kind::Multiple && verdict.may_change_schema(Some(text));
        if self.flags.unexamined && !self.flags.undecided {
            // Kept until the answer is complete: if it never is, the text decides what the client is told.
            backend.retained.extend_from_slice(frame);
        }
        if verdict.effects.contains(Effects::TRANSACTION) && backend.track.status == b'T' {
            // One of several statements may be a COMMIT.
            self.flags.committing = true;
        }
        if self.may_not_pin(backend, &verdict, text) {
            backend.unnamed_of = 0;
            backend.track.push(Expect::Query(None));
            run.flush(backend);
            build::query(&mut backend.out, look::REFUSED_QUERY);
            return Ok(Step::Rewritten(frame.len()));
        }
        let op = if verdict.is_plain() { None } else { self.note(&verdict, text).map(Box::new) };
        self.flags.watches &= self.flags.watching || backend.track.is_quiet();
        if self.core.queries.is_due() || self.flags.watching {
            self.watch_query(backend, text);
        } else {
            self.flags.watches = false;
        }
        backend.unnamed_of = 0;
        backend.track.push(Expect::Query(op));
        Ok(Step::Pass)
    }

    /// Statements that Forebay answers itself.
    fn is_ours(&self, kind: &Kind) -> bool {
        match kind {
            Kind::Set(setting) | Kind::SetLocal(setting) => matches!(setting.name.as_str(), ROUTE | READ_AFTER),
            Kind::Reset(Some(name)) | Kind::Show(name) => name.starts_with("forebay."),
            Kind::Deallocate(Some(name)) => self.names.as_ref().is_some_and(|n| n.find(name.as_bytes()).is_some()),
            _ => false,
        }
    }

    /// Remembers where a statement runs and whether it may write.
    #[inline]
    fn note_access(&mut self, backend: &Backend, verdict: &Verdict) {
        if !matches!(&verdict.kind, Kind::Show(name) if name.starts_with("forebay.")) {
            self.rare.last_node = u32::try_from(backend.entry.node).ok();
        }
        if verdict.may_change_data() {
            self.flags.unexamined = !self.flags.wrote && verdict.reason == Reason::NotExamined;
            self.flags.wrote = true;
            self.flags.reshaped |= verdict.may_change_schema(None);
            if self.core.resolves {
                self.note_stir(verdict);
            }
        }
    }

    /// Remembers what a statement means for the session. The answer is what happens when it succeeds.
    fn note(&mut self, verdict: &Verdict, text: &[u8]) -> Option<Op> {
        if verdict.kind == Kind::Commit {
            self.flags.committing = true;
        }
        let change = self.listen_change(verdict, text);
        if let Some(listen @ Change::Listen(_)) = change {
            return Some(Op::Listen(listen));
        }
        self.note_left(verdict, text);
        if let Some(change) = change {
            return Some(Op::Listen(change));
        }
        let pins = verdict.effects & PINS;
        if !pins.is_empty() {
            if verdict.effects.contains(Effects::RESETS_ALL) {
                self.lose_track();
            }
            return Some(Op::Pin(pins));
        }
        match &verdict.kind {
            Kind::Set(setting) => Some(Op::Set(setting.clone(), String::from_utf8_lossy(text).into_owned())),
            Kind::Reset(name) => Some(Op::Reset(name.clone())),
            Kind::DiscardAll => Some(Op::DiscardAll),
            Kind::Deallocate(name) => Some(Op::Deallocate(name.clone())),
            Kind::Savepoint => Some(Op::Savepoint),
            Kind::Multiple if verdict.effects.contains(Effects::RESETS_ALL) => Some(Op::Reset(None)),
            Kind::Multiple if verdict.effects.contains(Effects::TRANSACTION) => Some(Op::Savepoint),
            _ => None,
        }
    }

    fn step_parse(
        &mut self,
        backend: &mut Backend,
        frame: &[u8],
        is_whole: bool,
        run: &mut Run<'_>,
    ) -> Result<Step, End> {
        if !is_whole {
            return self.step_long_parse(backend, frame);
        }
        let body = frame.get(5..).unwrap_or_default();
        let parse = Parse::read(body).map_err(|bad| End::Trouble(Box::new(Trouble::Protocol(bad.to_string()))))?;
        add(&self.pool.stats.client_parses, 1);
        if self.core.queries.traces() {
            self.trace_parse(parse.name, parse.text);
        }
        let verdict = match self.planned.take() {
            Some(verdict) => verdict,
            None if parse.name.is_empty() => self.classify(parse.text),
            None => self.examine(parse.text),
        };
        let shared = self.shares_listen(&verdict);
        if shared == Shared::Wait {
            return Ok(Step::Hold);
        }
        let definition = match self.instead(backend, &verdict.kind, shared, run) {
            Some(instead) => Cow::Owned(instead),
            None => Cow::Borrowed(body.get(parse.name.len() + 1..).unwrap_or_default()),
        };
        let is_ours = matches!(definition, Cow::Owned(_));
        if parse.name.is_empty() {
            // The text of the one that runs already is not remembered any more.
            self.flags.unexamined &= !self.flags.wrote;
            self.names.get_or_insert_default().set_unnamed(&definition, verdict);
            add(&self.pool.stats.server_parses, 1);
            self.rare.unnamed_serial = self.core.next_serial();
            backend.unnamed_of = self.rare.unnamed_serial;
            backend.track.push(Expect::Parse { name: Box::default(), statement: None });
            if is_ours {
                run.flush(backend);
                parse_as(&mut backend.out, b"", &definition);
                return Ok(Step::Rewritten(frame.len()));
            }
            return Ok(Step::Pass);
        }
        if let Some(known) = self.names.as_ref().and_then(|n| n.find(parse.name)).cloned() {
            // The name is taken: the server says so, and skips what follows, when it is taught the same name twice.
            run.flush(backend);
            self.teach(backend, &known);
            // Unless something sent ahead drops the first one: then our name stands for another text.
            backend.is_dirty = true;
            parse_as(&mut backend.out, known.name.as_bytes(), &definition);
            backend.track.push(Expect::Parse { name: parse.name.into(), statement: None });
            return Ok(Step::Rewritten(frame.len()));
        }
        let statement = self.core.shared.statements.intern(&definition, verdict, self.scope());
        let names = self.names.get_or_insert_default();
        names.insert(parse.name, Arc::clone(&statement));
        self.me.prepared.set(names.len());
        if backend.taught.knows(statement.id) && !backend.track.is_unsure_of(statement.id) {
            backend.track.push(Expect::ParseKnown(parse.name.into()));
            return Ok(Step::Drop);
        }
        run.flush(backend);
        self.learn(backend, &statement);
        if is_ours {
            parse_again(&mut backend.out, &statement);
            backend.track.push(Expect::Parse { name: parse.name.into(), statement: Some(statement) });
            return Ok(Step::Rewritten(frame.len()));
        }
        let from = rewrite::parse(&mut backend.out, frame, statement.name.as_bytes())
            .map_err(|bad| End::Trouble(Box::new(Trouble::Protocol(bad.to_string()))))?
            .unwrap_or(frame.len());
        backend.track.push(Expect::Parse { name: parse.name.into(), statement: Some(statement) });
        Ok(Step::Rewritten(from))
    }

    /// A Parse whose end has not arrived. It is held whole if it can be; an unnamed one may also pass unread.
    fn step_long_parse(&mut self, backend: &mut Backend, frame: &[u8]) -> Result<Step, End> {
        let Head::Frame { len, .. } = head(frame) else { return Ok(Step::More) };
        if len <= LONGEST_PARSE {
            self.want = len;
            return Ok(Step::More);
        }
        if frame.get(5) != Some(&0) {
            return Err(End::Trouble(Box::new(Trouble::TooLong)));
        }
        self.note_unread();
        if let Some(names) = &mut self.names {
            names.clear_unnamed();
        }
        self.rare.unnamed_serial = self.core.next_serial();
        backend.unnamed_of = self.rare.unnamed_serial;
        backend.track.push(Expect::Parse { name: Box::default(), statement: None });
        Ok(Step::Pass)
    }

    /// What the server runs instead of a statement that is ours or names one of ours, in the extended protocol.
    fn instead(&mut self, backend: &mut Backend, kind: &Kind, shared: Shared, run: &mut Run<'_>) -> Option<Vec<u8>> {
        if let (Kind::Listen(channel), Shared::Yes) = (kind, shared) {
            return Some([listen::instead(channel).as_bytes(), &[0, 0, 0]].concat());
        }
        if let Kind::Deallocate(Some(name)) = kind {
            let statement = self.names.as_ref()?.find(name.as_bytes()).cloned()?;
            run.flush(backend);
            self.teach(backend, &statement);
            return Some([b"DEALLOCATE ", statement.name.as_bytes(), &[0, 0, 0]].concat());
        }
        self.own_show(kind)
    }

    /// `SHOW forebay.*`: a statement with the answer.
    fn own_show(&self, kind: &Kind) -> Option<Vec<u8>> {
        let Kind::Show(name) = kind else { return None };
        if name == LAST_LSN {
            return Some([ASK_LAST_LSN.as_bytes(), &[0, 0, 0]].concat());
        }
        let value = self.own_value(name)?;
        let text = format!("SELECT {}::pg_catalog.text AS \"{name}\"", super::settings::quote(&value));
        Some([text.as_bytes(), &[0, 0, 0]].concat())
    }

    /// The connection is about to be taught a statement; one that it has not used for long may have to go.
    fn learn(&mut self, backend: &mut Backend, statement: &Arc<Statement>) {
        add(&self.pool.stats.server_parses, 1);
        if backend.is_dirty || backend.track.is_unsure_of(statement.id) {
            // Closing what is not there is no error, teaching what is there would be.
            build::close(&mut backend.out, Target::Statement, statement.name.as_bytes());
            backend.track.push(Expect::CloseInjected(None));
        }
        let limit = self.pool.config.borrow().prepared_statements;
        if let Some(old) = backend.taught.learn(statement, limit) {
            build::close(&mut backend.out, Target::Statement, old.name.as_bytes());
            backend.track.push(Expect::CloseInjected(Some(old)));
        }
        backend.entry.prepared.set(backend.taught.len());
    }

    /// The connection is taught a statement of the client's unless it knows it.
    fn teach(&mut self, backend: &mut Backend, statement: &Arc<Statement>) {
        if backend.taught.knows(statement.id) && !backend.track.is_unsure_of(statement.id) {
            return;
        }
        self.learn(backend, statement);
        parse_again(&mut backend.out, statement);
        backend.track.push(Expect::ParseInjected(statement.id));
    }

    fn step_bind(&mut self, backend: &mut Backend, frame: &[u8], run: &mut Run<'_>) -> Result<Step, End> {
        let Ok(bind) = Bind::read(frame.get(5..).unwrap_or_default()) else {
            // The names may still be on their way.
            return if frame.len() < LONGEST_TEXT {
                Ok(Step::More)
            } else {
                Err(End::Trouble(Box::new(Trouble::Protocol("invalid Bind message".into()))))
            };
        };
        add(&self.pool.stats.binds, 1);
        self.renew_verdicts();
        // A request that begins with it can be sent again: nothing of its answer has come before.
        self.flags.heals |= !bind.statement.is_empty() && backend.track.is_free() && run.at == 0;
        let mut op = None;
        let verdict = self.names.as_ref().and_then(|names| match bind.statement {
            [] => names.unnamed_verdict.as_ref(),
            name => names.find(name).map(|statement| &statement.verdict),
        });
        if let Some(verdict) = verdict.cloned() {
            self.note_access(backend, &verdict);
            if !verdict.is_plain() {
                self.refresh_show(bind.statement, &verdict);
                if self.core.resolves && verdict.kind == Kind::Commit {
                    let text = self.text_of_statement(bind.statement).unwrap_or_default();
                    self.before_commit(backend, &text);
                }
                let text = self.text_of_statement(bind.statement).unwrap_or_default();
                if self.may_not_pin(backend, &verdict, &text) {
                    run.flush(backend);
                    backend.track.push(Expect::Bind);
                    let from = rewrite::bind(&mut backend.out, frame, look::REFUSED);
                    let from = from.map_err(|bad| End::Trouble(Box::new(Trouble::Protocol(bad.to_string()))))?;
                    return Ok(Step::Rewritten(from.unwrap_or(frame.len())));
                }
                op = self.note(&verdict, &text).map(Box::new);
            }
        }
        match bind.portal {
            [] => self.rare.bound = op,
            name => self.remember_portal(backend, name, op),
        }
        if self.core.queries.is_due() || self.flags.watching {
            self.watch_bind(backend, bind.statement);
        } else {
            self.flags.watches = false;
        }
        let step = self.step_name(backend, Target::Statement, bind.statement, frame, run, rewrite::bind)?;
        backend.track.push(Expect::Bind);
        Ok(step)
    }

    /// What the client has prepared is judged again once more, or something else, is known of the functions and tables.
    #[inline]
    pub(super) fn renew_verdicts(&mut self) {
        let generation = self.pool.generation.get();
        if self.names.as_ref().is_some_and(|names| names.generation != generation) {
            self.judge_again(generation);
        }
    }

    #[cold]
    fn judge_again(&mut self, generation: u64) {
        let Some(mut names) = self.names.take() else { return };
        names.generation = generation;
        // The others mean the same whatever there is, and some have another text than their client gave.
        let depends = |verdict: &Verdict| {
            matches!(verdict.kind, Kind::Other | Kind::Multiple) && verdict.reason != Reason::NotExamined
        };
        for (name, statement) in names.all().into_iter().filter(|(_, statement)| depends(&statement.verdict)) {
            let verdict = self.examine(statement.text());
            if *verdict != *statement.verdict {
                names.insert(&name, self.core.shared.statements.judged(&statement, verdict));
            }
        }
        if names.unnamed_verdict.as_deref().is_some_and(depends) {
            names.unnamed_verdict = Some(self.examine(names.unnamed_text()));
        }
        self.names = Some(names);
    }

    /// What the statement of a named portal means for the session, until the portal is executed.
    fn remember_portal(&mut self, backend: &Backend, name: &[u8], op: Option<Box<Op>>) {
        if backend.track.is_free() {
            // None outlives its transaction.
            self.rare.portals = None;
        }
        if let Some(portals) = &mut self.rare.portals {
            portals.0.retain(|(known, _)| **known != *name);
        }
        if let Some(op) = op {
            self.rare.portals.get_or_insert_default().0.push((name.into(), op));
        }
    }

    /// What executing a named portal means for the session. `body` is that of the Execute.
    fn op_of_portal(&self, body: &[u8]) -> Option<Box<Op>> {
        let name = body.split(|byte| *byte == 0).next()?;
        self.rare.portals.as_ref()?.0.iter().find(|(known, _)| **known == *name).map(|(_, op)| op.clone())
    }

    pub(super) fn text_of_statement(&self, name: &[u8]) -> Option<Vec<u8>> {
        Some(match self.names.as_ref()? {
            names if name.is_empty() => names.unnamed_text().to_vec(),
            names => names.find(name)?.text().to_vec(),
        })
    }

    /// A prepared `SHOW forebay.*` must tell what is true now, not when it was parsed.
    fn refresh_show(&mut self, name: &[u8], verdict: &Arc<Verdict>) {
        let Some(definition) = self.own_show(&verdict.kind).filter(|_| !name.is_empty()) else { return };
        let now = self.core.shared.statements.intern(&definition, Arc::clone(verdict), 0);
        if let Some(names) = &mut self.names {
            names.insert(name, now);
        }
    }

    /// A message that names a statement: the connection is taught it if it must be, and told its own name for it.
    fn step_name(
        &mut self,
        backend: &mut Backend,
        target: Target,
        name: &[u8],
        frame: &[u8],
        run: &mut Run<'_>,
        rename: Rename,
    ) -> Result<Step, End> {
        if target == Target::Portal {
            return Ok(Step::Pass);
        }
        if name.is_empty() {
            let serial = self.rare.unnamed_serial;
            if backend.unnamed_of == serial && serial != 0 && !backend.track.is_unsure_of(0) {
                return Ok(Step::Pass);
            }
            run.flush(backend);
            match self.names.as_ref().filter(|names| !names.unnamed.is_empty()) {
                Some(names) => {
                    parse_unnamed(&mut backend.out, names);
                    backend.unnamed_of = serial;
                    backend.track.push(Expect::ParseInjected(0));
                }
                None => {
                    // What the connection has may be another client's; the server says that there is none.
                    build::close(&mut backend.out, Target::Statement, b"");
                    backend.unnamed_of = 0;
                    backend.track.push(Expect::CloseInjected(None));
                }
            }
            return Ok(Step::Rewritten(0));
        }
        let Some(statement) = self.names.as_ref().and_then(|n| n.find(name)).cloned() else {
            return Ok(Step::Pass);
        };
        run.flush(backend);
        self.teach(backend, &statement);
        let from = rename(&mut backend.out, frame, statement.name.as_bytes())
            .map_err(|bad| End::Trouble(Box::new(Trouble::Protocol(bad.to_string()))))?
            .unwrap_or(frame.len());
        Ok(Step::Rewritten(from))
    }

    fn step_close(&mut self, backend: &mut Backend, body: &[u8]) -> Result<Step, End> {
        let (target, name) =
            message::close(body).map_err(|bad| End::Trouble(Box::new(Trouble::Protocol(bad.to_string()))))?;
        if target == Target::Statement && !name.is_empty() {
            let known = self.names.as_ref().and_then(|n| n.find(name)).cloned();
            if let (Some(names), Some(statement)) = (&mut self.names, known) {
                // Other clients may use the same text: the connection keeps it until it needs the room.
                names.remove(name);
                self.me.prepared.set(names.len());
                backend.track.push(Expect::CloseKnown { name: name.into(), statement });
                return Ok(Step::Drop);
            }
        } else if target == Target::Statement
            && let Some(names) = &mut self.names
        {
            names.clear_unnamed();
        }
        backend.track.push(Expect::Close);
        Ok(Step::Pass)
    }
}

/// Sends what is in the connection's buffer, then `raw`. What the socket does not take waits in the buffer.
#[inline]
pub(super) fn send(backend: &mut Backend, raw: &[u8]) {
    if backend.out.is_empty() {
        if !raw.is_empty() {
            // An error shows again when the answer is read, after what the server said before it closed.
            let sent = backend.stream.try_write(raw).unwrap_or(raw.len());
            backend.out.extend_from_slice(raw.get(sent..).unwrap_or_default());
        }
    } else {
        backend.out.extend_from_slice(raw);
        let sent = backend.stream.try_write(&backend.out).unwrap_or(backend.out.len());
        backend.out.drain(..sent);
    }
}

type Rename = fn(&mut Vec<u8>, &[u8], &[u8]) -> Result<Option<usize>, crate::wire::pg::Malformed>;

fn parse_again(out: &mut Vec<u8>, statement: &Statement) {
    parse_as(out, statement.name.as_bytes(), &statement.body);
}

fn parse_unnamed(out: &mut Vec<u8>, names: &Names) {
    parse_as(out, b"", &names.unnamed);
}

/// A Parse message of a name and the definition that a client sent under another.
fn parse_as(out: &mut Vec<u8>, name: &[u8], definition: &[u8]) {
    let length = u32::try_from(4 + name.len() + 1 + definition.len()).unwrap_or(u32::MAX);
    out.push(b'P');
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(name);
    out.push(0);
    out.extend_from_slice(definition);
}
