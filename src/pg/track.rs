//! What a server connection still owes its client: the ring of expected answers.
//!
//! One entry per message that was sent and will be answered, in order; what we inject ourselves is in the ring too,
//! so that pipelines, injected statements and errors stay in step. Pure: fed with message kinds, says what to do.

use std::collections::VecDeque;
use std::sync::Arc;

use super::listen::Change;
use super::prepare::Statement;
use crate::sql::{Effects, Setting};

/// Something that happens to the session when a statement succeeds.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// A session setting, with the statement that made it.
    Set(Setting, String),
    /// `RESET name` or `RESET ALL`.
    Reset(Option<String>),
    /// `DISCARD ALL`.
    DiscardAll,
    /// `DEALLOCATE ALL` or a name.
    Deallocate(Option<String>),
    /// State was left behind that cannot be moved.
    Pin(Effects),
    /// `ROLLBACK TO`: settings made since are unknown.
    Savepoint,
    /// `LISTEN` or `UNLISTEN`, where the connection is not the client's own.
    Listen(Change),
}

/// One expected answer.
#[derive(Debug)]
pub enum Expect {
    /// Simple query, until ReadyForQuery.
    Query(Option<Box<Op>>),
    /// A whole batch around the unnamed statement, its Parse included, that means nothing for the session: everything
    /// until ReadyForQuery passes.
    Batch {
        /// The Parse has succeeded, as far as that was looked at.
        is_parsed: bool,
    },
    /// FunctionCall, until ReadyForQuery.
    Function,
    /// A client's Parse: `1`. What it taught is untaught if it fails.
    Parse {
        /// The client's name, empty for the unnamed statement.
        name: Box<[u8]>,
        /// What it stands for, if named.
        statement: Option<Arc<Statement>>,
    },
    /// A Parse of ours: its `1` is swallowed.
    ParseInjected(u64),
    /// A Parse that the connection did not need, by the client's name: we say `1` when its turn comes.
    ParseKnown(Box<[u8]>),
    /// `2`
    Bind,
    /// `T` or `n` (after `t` for a statement)
    Describe,
    /// `C`, `s` or `I`
    Execute(Option<Box<Op>>),
    /// `3`
    Close,
    /// A Close that never leaves us, with what it took back: we say `3` when its turn comes.
    CloseKnown {
        /// The client's name.
        name: Box<[u8]>,
        /// What it stood for.
        statement: Arc<Statement>,
    },
    /// A Close of ours, with what the connection had been taught: its `3` is swallowed.
    CloseInjected(Option<Arc<Statement>>),
    /// ReadyForQuery
    Sync,
    /// A whole batch of ours about the open transaction: everything until its ReadyForQuery is for us.
    Asked,
    /// No answer: marks that the client ended its COPY here.
    CopyEnd,
}

impl Expect {
    /// True for what the server is not asked.
    #[inline]
    fn is_local(&self) -> bool {
        matches!(self, Expect::ParseKnown(_) | Expect::CloseKnown { .. } | Expect::CopyEnd)
    }

    /// True for what the client did not ask.
    #[inline]
    pub fn is_injected(&self) -> bool {
        matches!(self, Expect::ParseInjected(_) | Expect::CloseInjected(_))
    }

    /// True if it changes whether the connection knows statement `id` (0: the unnamed one).
    fn is_about(&self, id: u64) -> bool {
        match self {
            Expect::ParseInjected(of) => *of == id,
            Expect::CloseInjected(of) => of.as_ref().is_some_and(|statement| statement.id == id),
            Expect::Parse { name, statement: None } => id == 0 && name.is_empty(),
            Expect::Batch { .. } => id == 0,
            _ => false,
        }
    }
}

/// What to do with a server's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Pass it on.
    Pass,
    /// Keep it from the client.
    Swallow,
}

/// The ring and the transaction status.
#[derive(Debug)]
pub struct Track {
    ring: VecDeque<Expect>,
    /// How many in the ring we answer ourselves: almost always none.
    locals: usize,
    /// How many in the ring are messages of ours.
    injected: usize,
    /// Of the last ReadyForQuery: `I`, `T` or `E`.
    pub status: u8,
    failed: bool,
    copying_in: bool,
}

impl Default for Track {
    fn default() -> Self {
        Track { ring: VecDeque::new(), locals: 0, injected: 0, status: b'I', failed: false, copying_in: false }
    }
}

impl Track {
    /// A message was sent.
    #[inline]
    pub fn push(&mut self, expect: Expect) {
        self.locals += usize::from(expect.is_local());
        self.injected += usize::from(expect.is_injected());
        self.ring.push_back(expect);
    }

    /// True when one simple query or one such batch is all that is owed, and nothing happens to the session when it
    /// succeeds.
    #[inline]
    pub fn is_lone(&self) -> bool {
        self.ring.len() == 1 && matches!(self.ring.front(), Some(Expect::Query(None) | Expect::Batch { .. }))
    }

    /// True if an earlier batch, which may fail, teaches the connection statement `id` or takes it from it: what it
    /// knows by now is not known. `id` 0 is the unnamed statement.
    pub fn is_unsure_of(&self, id: u64) -> bool {
        if self.ring.is_empty() || self.injected == 0 && id != 0 {
            return false;
        }
        let mut is_earlier = false;
        for expect in self.ring.iter().rev() {
            is_earlier |= matches!(expect, Expect::Sync | Expect::Batch { .. });
            if expect.is_about(id) {
                return is_earlier;
            }
        }
        false
    }

    /// True if something after the batch that has just failed changes whether the connection knows statement `id`.
    pub fn is_to_learn(&self, id: u64) -> bool {
        self.ring.iter().skip(1).any(|expect| expect.is_about(id))
    }

    /// True if something was sent after the batch that has just failed.
    pub fn has_more(&self) -> bool {
        self.ring.len() > 1
    }

    /// True when everything that was asked has been answered.
    #[inline]
    pub fn is_quiet(&self) -> bool {
        self.ring.is_empty()
    }

    /// True when the connection is outside a transaction and owes nothing.
    #[inline]
    pub fn is_free(&self) -> bool {
        self.ring.is_empty() && self.status == b'I'
    }

    /// True between the server's CopyInResponse and the end of that COPY.
    pub fn is_copying_in(&self) -> bool {
        self.copying_in
    }

    /// True if a message waits in front that we answer ourselves.
    #[inline]
    pub fn has_local_front(&self) -> bool {
        self.locals > 0 && self.ring.front().is_some_and(Expect::is_local)
    }

    /// Takes a message from the front that we answer ourselves.
    pub fn pop_local(&mut self) -> Option<Expect> {
        if !self.has_local_front() {
            return None;
        }
        self.locals -= 1;
        self.ring.pop_front()
    }

    /// `1`
    pub fn parse_complete(&mut self) -> Turn {
        match self.ring.front_mut() {
            Some(Expect::ParseInjected(_)) => {
                self.injected -= 1;
                self.ring.pop_front();
                Turn::Swallow
            }
            Some(Expect::Parse { .. }) => {
                self.ring.pop_front();
                Turn::Pass
            }
            Some(Expect::Batch { is_parsed }) => {
                *is_parsed = true;
                Turn::Pass
            }
            _ => Turn::Pass,
        }
    }

    /// `2`
    #[inline]
    pub fn bind_complete(&mut self) {
        if matches!(self.ring.front(), Some(Expect::Bind)) {
            self.ring.pop_front();
        }
    }

    /// `3`
    pub fn close_complete(&mut self) -> Turn {
        match self.ring.front() {
            Some(Expect::CloseInjected(_)) => {
                self.injected -= 1;
                self.ring.pop_front();
                Turn::Swallow
            }
            Some(Expect::Close) => {
                self.ring.pop_front();
                Turn::Pass
            }
            _ => Turn::Pass,
        }
    }

    /// `T` or `n`
    #[inline]
    pub fn described(&mut self) {
        if matches!(self.ring.front(), Some(Expect::Describe)) {
            self.ring.pop_front();
        }
    }

    /// `C`, `s` or `I`: the statement's effect on the session. A statement that stopped at its limit of rows has called
    /// its functions as well.
    #[inline]
    pub fn executed(&mut self) -> Option<Box<Op>> {
        self.copying_in = false;
        match self.ring.front_mut() {
            Some(Expect::Execute(op)) => {
                let op = op.take();
                self.ring.pop_front();
                op
            }
            Some(Expect::Query(op)) => op.take(),
            _ => None,
        }
    }

    /// `E`: everything up to the next Sync will not be answered. `lost` is told what never took effect.
    pub fn failed(&mut self, mut lost: impl FnMut(Expect)) {
        self.copying_in = false;
        match self.ring.front_mut() {
            Some(Expect::Query(op)) => lost(Expect::Query(op.take())),
            Some(Expect::Batch { is_parsed: true }) => {}
            Some(Expect::Batch { .. }) => lost(Expect::Parse { name: Box::default(), statement: None }),
            Some(Expect::Function | Expect::Sync) | None => {}
            Some(_) => {
                while let Some(expect) = self.ring.pop_front() {
                    if matches!(expect, Expect::Sync) {
                        self.ring.push_front(expect);
                        return;
                    }
                    self.locals -= usize::from(expect.is_local());
                    self.injected -= usize::from(expect.is_injected());
                    lost(expect);
                }
                self.failed = true;
            }
        }
    }

    /// True after an error whose Sync the client has not sent yet: the server skips everything until then.
    pub fn is_skipping(&self) -> bool {
        self.failed
    }

    /// The client's Sync ends the skipping.
    pub fn synced(&mut self) {
        self.failed = false;
    }

    /// `Z`
    #[inline]
    pub fn ready(&mut self, status: u8) {
        self.status = status;
        self.copying_in = false;
        if matches!(self.ring.front(), Some(Expect::Query(_) | Expect::Batch { .. } | Expect::Function | Expect::Sync))
        {
            self.ring.pop_front();
        }
        if self.locals > 0 {
            self.end_copies();
        }
    }

    /// A COPY that has ended owes nothing.
    #[cold]
    fn end_copies(&mut self) {
        while matches!(self.ring.front(), Some(Expect::CopyEnd)) {
            self.locals -= 1;
            self.ring.pop_front();
        }
    }

    /// True if nothing is owed but what we answer ourselves.
    #[inline]
    pub fn is_all_local(&self) -> bool {
        self.locals > 0 && self.locals == self.ring.len()
    }

    /// True if the server's next message answers a question of ours.
    #[inline]
    pub fn is_asked(&self) -> bool {
        matches!(self.ring.front(), Some(Expect::Asked))
    }

    /// True if nothing but the answer to a question of ours is owed.
    pub fn is_only_asked(&self) -> bool {
        self.ring.len() == 1 && self.is_asked()
    }

    /// `Z` of the answer to a question of ours.
    pub fn told(&mut self, status: u8) {
        self.status = status;
        if self.is_asked() {
            self.ring.pop_front();
        }
    }

    /// What is owed, in order.
    pub fn owed(&self) -> impl Iterator<Item = &Expect> {
        self.ring.iter()
    }

    /// `G`: Syncs that were sent before the client saw it are swallowed by the server's COPY mode.
    pub fn copy_in(&mut self) {
        self.copying_in = true;
        if !matches!(self.ring.front(), Some(Expect::Execute(_))) {
            return;
        }
        let end = self.ring.iter().position(|e| matches!(e, Expect::CopyEnd)).unwrap_or(self.ring.len());
        let mut at = 0;
        self.ring.retain(|e| {
            at += 1;
            at > end || !matches!(e, Expect::Sync)
        });
    }

    /// Forgets everything, for a connection that starts afresh.
    pub fn clear(&mut self) {
        self.ring.clear();
        self.locals = 0;
        self.injected = 0;
        self.failed = false;
        self.copying_in = false;
    }

    /// True if a statement of the client was sent and has not been answered (a Sync alone does not count).
    pub fn has_statement(&self) -> bool {
        let is_statement =
            |e: &Expect| matches!(e, Expect::Query(_) | Expect::Batch { .. } | Expect::Function | Expect::Execute(_));
        self.ring.iter().any(is_statement)
    }

    /// How many ReadyForQuery the client waits for: one for each of its Syncs, simple queries and function calls.
    pub fn owed_readies(&self) -> usize {
        let is_ended =
            |e: &&Expect| matches!(e, Expect::Query(_) | Expect::Batch { .. } | Expect::Function | Expect::Sync);
        self.ring.iter().filter(is_ended).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_in_a_batch_drops_everything_up_to_its_sync() {
        let mut track = Track::default();
        for expect in [Expect::ParseInjected(7), Expect::Bind, Expect::Execute(None), Expect::Sync, Expect::Bind] {
            track.push(expect);
        }
        let mut lost = Vec::new();
        track.failed(|e| lost.push(e));
        assert_eq!(lost.len(), 3, "the injected Parse, Bind and Execute");
        track.ready(b'I');
        assert!(!track.is_quiet(), "the next batch's Bind is still owed");
        track.bind_complete();
        assert!(track.is_free());
    }

    #[test]
    fn an_error_without_a_sync_yet_skips_until_it_comes() {
        let mut track = Track::default();
        track.push(Expect::Bind);
        track.failed(|_| ());
        assert!(track.is_skipping() && track.is_quiet());
        track.synced();
        track.push(Expect::Sync);
        track.ready(b'I');
        assert!(track.is_free());
    }

    #[test]
    fn a_sync_sent_with_an_extended_copy_is_swallowed_by_the_copy() {
        let mut track = Track::default();
        for expect in [Expect::Bind, Expect::Execute(None), Expect::Sync] {
            track.push(expect);
        }
        track.bind_complete();
        track.copy_in();
        track.push(Expect::CopyEnd);
        track.push(Expect::Sync);
        assert!(track.executed().is_none());
        assert!(matches!(track.pop_local(), Some(Expect::CopyEnd)));
        track.ready(b'I');
        assert!(track.is_free(), "one Sync was swallowed, one was answered");
    }

    #[test]
    fn a_batch_is_over_with_its_ready_for_query_and_loses_its_parse_with_an_error() {
        let mut track = Track::default();
        track.push(Expect::Batch { is_parsed: false });
        assert!(track.is_lone());
        assert_eq!(track.parse_complete(), Turn::Pass);
        track.bind_complete();
        assert!(track.executed().is_none());
        track.ready(b'I');
        assert!(track.is_free());
        track.push(Expect::Batch { is_parsed: false });
        let mut lost = Vec::new();
        track.failed(|e| lost.push(e));
        assert!(matches!(lost.as_slice(), [Expect::Parse { statement: None, .. }]));
        assert!(!track.is_skipping(), "its Sync was sent with it");
        track.ready(b'I');
        assert!(track.is_free());
    }

    #[test]
    fn a_question_of_ours_is_no_statement_and_leaves_what_came_after_it() {
        let mut track = Track::default();
        track.push(Expect::Asked);
        assert!(track.is_only_asked() && !track.is_quiet() && !track.has_statement());
        assert_eq!(track.owed_readies(), 0, "the client waits for nothing");
        track.push(Expect::Query(None));
        assert!(track.is_asked() && !track.is_only_asked());
        track.told(b'T');
        assert_eq!((track.is_asked(), track.status, track.owed_readies()), (false, b'T', 1));
    }

    #[test]
    fn our_own_parse_is_kept_from_the_client_and_the_client_s_own_is_not() {
        let mut track = Track::default();
        track.push(Expect::ParseInjected(1));
        track.push(Expect::Parse { name: Box::default(), statement: None });
        assert_eq!(track.parse_complete(), Turn::Swallow);
        assert_eq!(track.parse_complete(), Turn::Pass);
    }
}
