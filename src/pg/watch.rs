//! Which statement an answer is about, for [`Queries`](super::queries::Queries) and the log of slow statements.
//!
//! Answers come in the order of the requests, so a queue of what was sent tells whose each is. It holds statements only
//! from a quiet connection on and without a gap: once one passes that is not counted, the rest of the pipeline passes,
//! too. Sessions that count nothing at the moment, which on a busy thread are nearly all, pay for one look at a flag.

use std::collections::VecDeque;

use super::backend::Backend;
use super::queries::Counted;
use super::request::{UnnamedBatch, text_of};
use super::session::Session;

/// What was sent and not answered.
#[derive(Debug, Default)]
pub(super) struct Watched {
    due: VecDeque<Due>,
    /// Bound to the unnamed portal, not executed yet.
    bound: Option<Counted>,
    /// Something was sent behind it that is not in the queue.
    is_closed: bool,
    /// How long the first of them had waited for its connection, ns; only if slow statements are logged.
    pub waited: u64,
}

#[derive(Debug)]
enum Due {
    /// Until ReadyForQuery, whatever comes before it.
    Query(Counted),
    /// Until its CommandComplete. One that is executed again, in parts, is counted once.
    Execute(Option<Counted>),
    /// ReadyForQuery
    Sync,
}

impl Session {
    /// A lone request begins, on a quiet connection.
    #[cold]
    #[inline(never)]
    pub(super) fn watch_plain(&mut self, backend: &Backend, request: &[u8], batch: Option<&UnnamedBatch<'_>>) {
        let text = match batch {
            Some(batch) => batch.text,
            None => text_of(request).unwrap_or_default(),
        };
        self.flags.watches = true;
        self.watch_query(backend, text);
    }

    /// A simple query is sent.
    #[cold]
    #[inline(never)]
    pub(super) fn watch_query(&mut self, backend: &Backend, text: &[u8]) {
        if let Some(counted) = self.counted(backend, text)
            && let Some(watched) = &mut self.rare.watched
        {
            watched.due.push_back(Due::Query(counted));
        }
    }

    /// A statement is bound to the unnamed portal.
    #[cold]
    #[inline(never)]
    pub(super) fn watch_bind(&mut self, backend: &Backend, statement: &[u8]) {
        let text = self.text_of_statement(statement);
        if let Some(counted) = text.and_then(|text| self.counted(backend, &text))
            && let Some(watched) = &mut self.rare.watched
        {
            watched.bound = Some(counted);
        }
    }

    /// Execute is sent.
    #[cold]
    #[inline(never)]
    pub(super) fn watch_execute(&mut self) {
        if let Some(watched) = self.rare.watched.as_mut().filter(|watched| !watched.is_closed) {
            let counted = watched.bound.take();
            watched.due.push_back(Due::Execute(counted));
        }
    }

    /// Sync is sent.
    #[cold]
    #[inline(never)]
    pub(super) fn watch_sync(&mut self) {
        if let Some(watched) = self.rare.watched.as_mut().filter(|watched| !watched.is_closed) {
            watched.bound = None;
            watched.due.push_back(Due::Sync);
        }
    }

    /// Nothing of an earlier request is due.
    #[cold]
    #[inline(never)]
    pub(super) fn watch_anew(&mut self) {
        self.flags.watching = false;
        if let Some(watched) = &mut self.rare.watched {
            watched.due.clear();
            watched.bound = None;
            watched.is_closed = false;
        }
    }

    /// Begins to count a statement, if there is time for it and everything before it is counted.
    fn counted(&mut self, backend: &Backend, text: &[u8]) -> Option<Counted> {
        if !self.flags.watches || !self.core.queries.has_tokens() {
            self.flags.watches = false;
            if let Some(watched) = &mut self.rare.watched {
                watched.is_closed = true;
            }
            return None;
        }
        if !self.flags.watching {
            self.watch_anew();
        }
        self.flags.watching = true;
        self.rare.watched.get_or_insert_default();
        let now = self.core.read_clock();
        Some(self.core.queries.begin(text, &self.pool.shared.key, backend.is_standby, now))
    }

    /// CommandComplete, or what stands in its place.
    #[cold]
    #[inline(never)]
    pub(super) fn watch_completed(&mut self, backend: &Backend, tag: &[u8]) {
        let Some(watched) = &mut self.rare.watched else { return };
        match watched.due.front_mut() {
            Some(Due::Query(counted)) => counted.rows += rows(tag),
            Some(Due::Execute(_)) => {
                if let Some(Due::Execute(Some(mut counted))) = watched.due.pop_front() {
                    counted.rows = rows(tag);
                    self.watch_end(backend, &counted);
                }
            }
            Some(Due::Sync) | None => {}
        }
    }

    /// ErrorResponse.
    #[cold]
    #[inline(never)]
    pub(super) fn watch_failed(&mut self, backend: &Backend) {
        let Some(watched) = &mut self.rare.watched else { return };
        match watched.due.front_mut() {
            Some(Due::Query(counted)) => counted.failed = true,
            Some(Due::Execute(_)) => {
                if let Some(Due::Execute(Some(mut counted))) = watched.due.pop_front() {
                    counted.failed = true;
                    self.watch_end(backend, &counted);
                }
            }
            // It failed before it was executed.
            Some(Due::Sync) | None => {}
        }
    }

    /// ReadyForQuery: what was skipped after an error goes uncounted.
    #[cold]
    #[inline(never)]
    pub(super) fn watch_ready(&mut self, backend: &Backend) {
        let Some(watched) = &mut self.rare.watched else { return };
        while let Some(due) = watched.due.pop_front() {
            match due {
                Due::Query(counted) => {
                    self.watch_end(backend, &counted);
                    break;
                }
                Due::Execute(_) => {}
                Due::Sync => break,
            }
        }
        self.flags.watching = self.rare.watched.as_ref().is_some_and(|w| !w.due.is_empty() || w.bound.is_some());
        if !self.flags.watching {
            // An idle client keeps nothing of it.
            self.rare.watched = None;
        }
    }

    fn watch_end(&mut self, backend: &Backend, counted: &Counted) {
        let now = self.core.read_clock();
        let Some((fingerprint, text)) = self.core.queries.end(counted, now) else { return };
        let waited = self.rare.watched.as_mut().map_or(0, |watched| std::mem::take(&mut watched.waited));
        let took = now.saturating_sub(counted.began);
        let Some(passed) = self.core.queries.slow_line(took.saturating_add(waited), now) else { return };
        let key = &self.pool.shared.key;
        tracing::warn!(
            database = &*key.database,
            user = &*key.user,
            node = self.core.node_name(&self.pool, backend.entry.node),
            wait_ms = waited / 1_000_000,
            run_ms = took / 1_000_000,
            rows = counted.rows,
            failed = counted.failed,
            fingerprint = format!("{fingerprint:016x}"),
            statement = &*text,
            not_told = passed,
            "slow statement"
        );
    }
}

/// The number at the end of a command tag.
fn rows(tag: &[u8]) -> u64 {
    let digits = tag.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let number = tag.get(tag.len() - digits..).and_then(|digits| std::str::from_utf8(digits).ok());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_at_the_end_of_a_tag() {
        for (tag, expected) in [("SELECT 5", 5), ("INSERT 0 12", 12), ("BEGIN", 0), ("", 0), ("UPDATE 0", 0)] {
            assert_eq!(rows(tag.as_bytes()), expected, "{tag}");
        }
    }
}
