//! COMMITs whose answer is lost with their server (`failover.commit_resolution`): what has to be known of a transaction
//! before its COMMIT is sent, and the wait for what became of it.
//!
//! A transaction that may have written is asked about right behind its statement, by a batch of ours whose answer the
//! client does not see; its COMMIT is not sent before that answer. So a COMMIT that was sent has a number,
//! and one that has none was not sent.

use std::sync::LazyLock;
use std::task::{Context, Poll};

use super::backend::Backend;
use super::core::Core;
use super::errors::{End, Trouble};
use super::registry::ClientState;
use super::request::transaction_status;
use super::session::Session;
use super::stats::add;
use super::track::Expect;
use crate::sql::{Kind, Reason, Verdict, is_plain_commit};
use crate::topology::Lsn;
use crate::topology::failover::doubt::{Doubt, Outcome, Transaction};
use crate::topology::failover::record::At;
use crate::wire::pg::build;
use crate::wire::pg::message::{self, Bind, Fields, Parse, Target};
use crate::wire::pg::sqlstate::write_error;

/// Our statement and its portal; no client's and none of the shared ones is called so.
const NAME: &[u8] = b"fb";

/// Both exist since PostgreSQL 10 and may be called by everybody. The number has its epoch: 64 bits.
const QUESTION: &[u8] = b"SELECT pg_catalog.txid_current_if_assigned(), pg_catalog.pg_current_wal_insert_lsn(), \
    pg_catalog.pg_last_wal_replay_lsn()";

static ASK: LazyLock<Vec<u8>> = LazyLock::new(|| batch_of_ours(QUESTION));

/// A question of ours, whose answer is [`Expect::Asked`]. A statement and a portal with names of their own leave the
/// client's unnamed ones alone. Parsed each time: a prepared one could be gone, and an error would cost the client its
/// transaction.
pub(super) fn batch_of_ours(question: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    build::close(&mut out, Target::Statement, NAME);
    build::parse(&mut out, NAME, question, [].into_iter());
    build::bind(&mut out, NAME, NAME);
    build::execute(&mut out, NAME);
    build::close(&mut out, Target::Portal, NAME);
    build::sync(&mut out);
    out
}

/// What a connection's server has told of its open transaction.
#[derive(Debug, Default)]
pub enum Asked {
    /// Nothing, and it was not asked.
    #[default]
    No,
    /// It has not answered yet.
    Sent {
        /// What it has said so far; `None` if the transaction has no number.
        told: Option<Transaction>,
    },
    /// It will write a commit record.
    Known(Transaction),
    /// The question failed, and the transaction with it: the error, which the client has not seen.
    Failed(Vec<u8>),
}

/// A client whose COMMIT was sent and not answered, or not in a way that a failover bears out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InDoubt {
    pub(super) doubt: Doubt,
    /// If it is known already.
    pub(super) outcome: Option<Outcome>,
    /// What the client reads if it was committed.
    pub(super) committed: Vec<u8>,
    /// Why the server was lost.
    pub(super) why: String,
    /// ns
    pub(super) since: u64,
    /// The session ends with its connection.
    pub(super) is_bound: bool,
}

impl Session {
    /// A statement is about to be sent: it may make the server give the transaction its number.
    #[inline]
    pub(super) fn note_stir(&mut self, verdict: &Verdict) {
        // These write no data, and neither takes a snapshot: our question would, too early for the client.
        let is_calm = verdict.kind == Kind::Savepoint || matches!(verdict.reason, Reason::Keyword("LOCK"));
        self.flags.stirred |= !is_calm;
    }

    /// The transaction may have written: asks about it unless that is done, or something else is under way.
    pub(super) fn ask(&mut self, backend: &mut Backend) {
        let is_quiet = backend.track.is_quiet() && backend.track.status == b'T';
        let is_between = is_quiet && !self.flags.unsynced && self.left == 0 && backend.out.is_empty();
        if is_between && matches!(backend.asked, Asked::No) && backend.entry.primary_of.get().is_some() {
            self.ask_now(backend);
        }
    }

    /// True if the question may follow this lone statement in the same packet: one that reads nothing from the client
    /// while it runs, and takes a snapshot of its own.
    pub(super) fn may_ask_behind(&self, backend: &Backend, verdict: &Verdict) -> bool {
        backend.track.status == b'T'
            && matches!(backend.asked, Asked::No)
            && backend.entry.primary_of.get().is_some()
            && matches!(verdict.reason, Reason::Keyword("INSERT" | "UPDATE" | "DELETE" | "MERGE"))
    }

    /// Sends the question behind what waits in the connection's buffer.
    pub(super) fn ask_now(&mut self, backend: &mut Backend) {
        backend.asked = Asked::Sent { told: None };
        // Until the answer says so, or another statement comes.
        self.flags.stirred = false;
        backend.track.push(Expect::Asked);
        super::forward::send(backend, &ASK);
    }

    /// A message that answers our question.
    pub(super) fn take_told(&mut self, backend: &mut Backend, kind: u8, body: &[u8]) -> Result<(), End> {
        if self.is_looking() {
            return self.take_look(backend, kind, body);
        }
        match kind {
            b'D' => backend.asked = Asked::Sent { told: transaction(body) },
            b'E' => {
                if let Some(end) = self.fatal(backend, body) {
                    return Err(end);
                }
                if Fields::read("ErrorResponse", body).is_ok_and(|fields| fields.sqlstate() == Some(b"25P02")) {
                    // The client's own statement before it has failed, as the client was told.
                    backend.asked = Asked::No;
                    self.flags.stirred = true;
                    return Ok(());
                }
                let mut error = vec![b'E'];
                error.extend(u32::try_from(body.len() + 4).unwrap_or(u32::MAX).to_be_bytes());
                error.extend_from_slice(body);
                backend.asked = Asked::Failed(error);
                self.flags.stirred = true;
            }
            b'Z' => {
                self.told(backend, body);
                if let Asked::Sent { told } = backend.asked {
                    // Without a number it has written nothing.
                    backend.asked = told.map_or(Asked::No, Asked::Known);
                    self.flags.stirred |= told.is_some();
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// `Z` of the answer to a question of ours.
    pub(super) fn told(&mut self, backend: &mut Backend, body: &[u8]) {
        backend.track.told(body.first().copied().unwrap_or(b'I'));
        if backend.track.is_quiet() && self.flags.running {
            self.flags.running = false;
            self.me.since.set(self.core.read_clock());
        }
    }

    /// True if a batch begins with a COMMIT that has to wait for the answer to our question.
    pub(super) fn must_wait_to_commit(&self, backend: &Backend, kind: u8, body: &[u8]) -> bool {
        if !matches!(backend.asked, Asked::Sent { .. }) {
            return false;
        }
        let verdict = match kind {
            b'P' => Parse::read(body).ok().map(|parse| self.examine(parse.text)),
            b'B' => Bind::read(body).ok().and_then(|bind| self.verdict_of(bind.statement, None).cloned()),
            _ => None,
        };
        verdict.is_some_and(|verdict| verdict.kind == Kind::Commit)
    }

    /// A COMMIT is about to be sent. False: not before the server has answered our question.
    pub(super) fn before_commit(&mut self, backend: &mut Backend, text: &[u8]) -> bool {
        match backend.asked {
            Asked::Sent { .. } if !self.flags.unsynced => return false,
            Asked::Sent { .. } => self.flags.stirred = true,
            Asked::Known(transaction) if is_plain_commit(text) && !backend.track.has_statement() => {
                backend.entry.doubt.set(Some(transaction));
            }
            _ => {}
        }
        // PREPARE TRANSACTION outlives its session even if it changed nothing.
        self.flags.stirred |= !is_plain_commit(text);
        if !matches!(backend.asked, Asked::Failed(_)) {
            // What was told is of this transaction only.
            backend.asked = Asked::No;
        }
        true
    }

    /// The error of a question of ours that has made the client's COMMIT a ROLLBACK: it takes the place of that tag.
    pub(super) fn own_failure(&self, backend: &mut Backend) -> Option<Vec<u8>> {
        match std::mem::take(&mut backend.asked) {
            Asked::Failed(error) if self.flags.committing => Some(error),
            _ => None,
        }
    }

    /// The server was lost: what the client has to wait for, if its COMMIT may have been carried out and nothing else
    /// was on its way. To be asked before the connection is dropped.
    pub(super) fn in_doubt(&self, backend: &Backend, why: &Trouble) -> Option<Box<InDoubt>> {
        let doubt = self.doubt_of(backend)?;
        // Committed, but not where it should have been before anybody is told.
        if matches!(why, Trouble::NotReplicated) {
            return None;
        }
        let committed = answer_to_commit(backend.track.owed())?;
        let (why, is_bound) = (why.reason(), self.is_bound());
        Some(Box::new(InDoubt { doubt, outcome: None, committed, why, since: self.core.read_clock(), is_bound }))
    }

    /// What has to be found out if the COMMIT that this connection is sent is not answered.
    pub(super) fn doubt_of(&self, backend: &Backend) -> Option<Doubt> {
        let entry = &backend.entry;
        let (transaction, epoch) = (entry.doubt.get()?, entry.primary_of.get()?);
        let at = At { host: entry.target.host.clone(), port: entry.target.port };
        Some(Doubt { cluster: self.core.cluster_name(&self.pool)?, at, epoch, transaction })
    }

    /// The wait begins.
    pub(super) fn await_outcome(&mut self, wait: Box<InDoubt>) -> Box<InDoubt> {
        self.me.state.set(ClientState::Waiting);
        self.me.since.set(wait.since);
        self.me.is_unwatched.set(false);
        self.core.doubts.borrow_mut().insert(self.me.id, (wait.doubt.clone(), wait.outcome));
        self.core.shared.control.in_doubt(&wait.doubt.cluster);
        wait
    }

    /// Waits until it is known what became of a COMMIT, `failover.hold` at the longest, and tells the client.
    pub(super) fn poll_outcome(
        &mut self,
        cx: &mut Context<'_>,
        wait: &mut InDoubt,
        scratch: &mut [u8],
    ) -> Poll<Result<(), End>> {
        let order = self.obey_orders(true);
        let told = self.core.doubts.borrow().get(&self.me.id).and_then(|(_, outcome)| *outcome);
        let now = self.core.read_clock();
        let is_late = now.saturating_sub(wait.since) >= self.pool.config.borrow().hold;
        let outcome = match (told, order) {
            (Some(outcome), _) => outcome,
            (None, None) if !is_late => {
                if !self.output.is_empty()
                    && let Poll::Ready(Err(end)) = self.poll_output(cx)
                {
                    return Poll::Ready(Err(self.stop_waiting(end)));
                }
                return match self.read_ahead(cx, scratch) {
                    Some(end) => Poll::Ready(Err(self.stop_waiting(end))),
                    None => Poll::Pending,
                };
            }
            (None, Some(_)) => {
                let unknown = End::Trouble(Box::new(Trouble::OutcomeUnknown(wait.why.clone())));
                return Poll::Ready(Err(self.stop_waiting(unknown)));
            }
            (None, None) => Outcome::Unknown,
        };
        self.core.doubts.borrow_mut().remove(&self.me.id);
        self.me.state.set(ClientState::Idle);
        self.me.since.set(now);
        tracing::info!(
            client_id = self.me.id,
            database = %self.me.database,
            xid = wait.doubt.transaction.xid,
            ?outcome,
            waited_ms = now.saturating_sub(wait.since) / 1_000_000,
            "a COMMIT in doubt has ended"
        );
        Poll::Ready(self.tell_outcome(wait, outcome))
    }

    fn stop_waiting(&self, end: End) -> End {
        self.core.doubts.borrow_mut().remove(&self.me.id);
        end
    }

    fn tell_outcome(&mut self, wait: &mut InDoubt, outcome: Outcome) -> Result<(), End> {
        if outcome == Outcome::Committed {
            // What it has set stays.
            self.before_tx = None;
        }
        self.start_over();
        self.wrote_at = self.core.now();
        let why = std::mem::take(&mut wait.why);
        let trouble = match outcome {
            Outcome::Committed => {
                let took = self.wrote_at.saturating_sub(self.me.tx_began.get());
                add(&self.pool.stats.xact_time, took);
                self.pool.stats.xact_times.add(took);
                self.output.append(&mut wait.committed);
                return match wait.is_bound {
                    true => Err(End::Trouble(Box::new(Trouble::Ended(BOUND)))),
                    false => Ok(()),
                };
            }
            Outcome::RolledBack => Trouble::TransactionToRepeat(why),
            Outcome::Unknown => Trouble::OutcomeUnknown(why),
        };
        if wait.is_bound {
            return Err(End::Trouble(Box::new(trouble)));
        }
        add(&self.pool.stats.errors, 1);
        write_error(&mut self.output, &trouble.as_error());
        build::ready_for_query(&mut self.output, transaction_status(b'I'));
        Ok(())
    }
}

/// For a client that cannot go on without its connection.
const BOUND: &str = "terminating connection due to the loss of the server";

impl Core {
    /// COMMITs to this cluster that will never be answered by their servers.
    pub fn in_doubt(&self, cluster: &str) -> Vec<Doubt> {
        let waiting = self.doubts.borrow();
        let mut doubts: Vec<Doubt> = waiting.values().map(|(doubt, _)| doubt.clone()).collect();
        // Cut, and its session has not been there since.
        for server in self.servers.borrow().values().filter(|server| server.is_cut.get()) {
            let pool = self.pool_of(server);
            let cluster = pool.and_then(|pool| self.cluster_name(&pool));
            let epoch = server.primary_of.get();
            if let (Some(cluster), Some(transaction), Some(epoch)) = (cluster, server.doubt.get(), epoch) {
                let at = At { host: server.target.host.clone(), port: server.target.port };
                doubts.push(Doubt { cluster, at, epoch, transaction });
            }
        }
        for kept in self.kept.borrow().values() {
            let is_lost = || self.pool_of(&kept.server).is_some_and(|pool| self.is_superseded(&pool, &kept.server));
            if let Some((doubt, None)) = &kept.doubt
                && (kept.server.is_cut.get() || is_lost())
            {
                doubts.push(doubt.clone());
            }
        }
        doubts.retain(|doubt| doubt.cluster == cluster);
        doubts
    }

    /// It is known now what became of these.
    pub fn settle(&self, answers: &[(Doubt, Outcome)]) {
        for (id, (doubt, outcome)) in self.doubts.borrow_mut().iter_mut() {
            let Some((_, known)) = answers.iter().find(|(of, _)| of == doubt) else { continue };
            outcome.get_or_insert(*known);
            if let Some(client) = self.clients.borrow().get(id) {
                client.call();
            }
        }
        for (doubt, outcome) in self.kept.borrow_mut().values_mut().filter_map(|kept| kept.doubt.as_mut()) {
            if let Some((_, known)) = answers.iter().find(|(of, _)| of == doubt) {
                outcome.get_or_insert(*known);
            }
        }
    }
}

/// What a client reads whose COMMIT has been carried out; `None` if more is owed, or something was answered already.
fn answer_to_commit<'a>(owed: impl Iterator<Item = &'a Expect>) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut is_bound, mut is_done, mut is_over) = (false, false, false);
    for expect in owed {
        match expect {
            _ if is_over => return None,
            Expect::Query(_) if out.is_empty() => {
                build::command_complete(&mut out, "COMMIT");
                is_over = true;
            }
            Expect::ParseInjected(_) | Expect::CloseInjected(_) => {}
            Expect::Parse { .. } | Expect::ParseKnown(_) if !is_bound => build::parse_complete(&mut out),
            Expect::Bind if !is_bound => {
                is_bound = true;
                build::bind_complete(&mut out);
            }
            Expect::Describe if is_bound && !is_done => build::no_data(&mut out),
            Expect::Execute(_) if is_bound && !is_done => {
                is_done = true;
                build::command_complete(&mut out, "COMMIT");
            }
            Expect::Sync if is_done => is_over = true,
            _ => return None,
        }
    }
    is_over.then(|| {
        build::ready_for_query(&mut out, transaction_status(b'I'));
        out
    })
}

/// The row that answers [`QUESTION`]; `None` if the transaction has no number.
fn transaction(body: &[u8]) -> Option<Transaction> {
    let row = message::data_row(body).ok()?;
    let [xid, written, recovered] = row.as_slice() else { return None };
    let position = |value| text(value)?.parse::<Lsn>().ok();
    Some(Transaction { xid: text(*xid)?.parse().ok()?, written: position(*written)?, recovered: position(*recovered) })
}

fn text(value: Option<&[u8]>) -> Option<&str> {
    std::str::from_utf8(value?).ok()
}

impl Session {
    /// The end of the connection, if this error is that.
    pub(super) fn fatal(&self, backend: &Backend, body: &[u8]) -> Option<End> {
        let Ok(fields) = Fields::read("ErrorResponse", body) else {
            return Some(End::ServerLost(Box::new(Trouble::ServerNonsense)));
        };
        let severity = fields.severity().unwrap_or_default();
        if severity != b"FATAL" && severity != b"PANIC" {
            return None;
        }
        let is_panic = severity == b"PANIC";
        self.pool.stats.count_on(backend.entry.node, |n| add(if is_panic { &n.panics } else { &n.fatals }, 1));
        Some(End::ServerLost(Box::new(Trouble::ServerEnded {
            code: String::from_utf8_lossy(fields.sqlstate().unwrap_or_default()).into_owned(),
            message: String::from_utf8_lossy(fields.message().unwrap_or_default()).into_owned(),
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_tells_of_a_transaction() {
        let row = |values: &[Option<&str>]| {
            let mut out = Vec::new();
            build::data_row(&mut out, values);
            transaction(&out[5..])
        };
        let known = Transaction { xid: 4_294_967_299, written: Lsn(0x16_B374_D848), recovered: Some(Lsn(16)) };
        assert_eq!(row(&[Some("4294967299"), Some("16/B374D848"), Some("0/10")]), Some(known));
        assert_eq!(row(&[Some("3"), Some("0/20"), None]).and_then(|told| told.recovered), None);
        assert_eq!(row(&[None, Some("0/20"), None]), None, "it has written nothing");
    }

    #[test]
    fn only_a_commit_that_nothing_else_waits_for_can_be_answered() {
        let kinds = |owed: &[Expect]| {
            let out = answer_to_commit(owed.iter())?;
            let mut kinds = String::new();
            let mut rest = out.as_slice();
            while let [kind, a, b, c, d, after @ ..] = rest {
                kinds.push(char::from(*kind));
                rest = &after[u32::from_be_bytes([*a, *b, *c, *d]) as usize - 4..];
            }
            Some(kinds)
        };
        let parse = || Expect::Parse { name: Box::default(), statement: None };
        assert_eq!(kinds(&[Expect::Query(None)]).as_deref(), Some("CZ"));
        let batch = [parse(), Expect::Bind, Expect::Describe, Expect::Execute(None), Expect::Sync];
        assert_eq!(kinds(&batch).as_deref(), Some("12nCZ"));
        let taught = [Expect::ParseInjected(3), Expect::Bind, Expect::Execute(None), Expect::Sync];
        assert_eq!(kinds(&taught).as_deref(), Some("2CZ"));
        for other in [
            vec![],
            vec![Expect::Query(None), Expect::Query(None)],
            vec![Expect::Execute(None), Expect::Sync],
            vec![Expect::Bind, Expect::Execute(None)],
            vec![Expect::Bind, Expect::Execute(None), Expect::Bind, Expect::Execute(None), Expect::Sync],
            vec![Expect::Bind, Expect::Execute(None), Expect::Sync, Expect::Query(None)],
            vec![parse(), Expect::Describe, Expect::Bind, Expect::Execute(None), Expect::Sync],
        ] {
            assert_eq!(kinds(&other), None, "{other:?}");
        }
    }
}
