//! Which statement an answer is about, for [`Queries`](super::queries::Queries) and the log of slow statements.
//!
//! Answers come in the order of the requests, so a queue of what was sent tells whose each is. It holds statements only
//! from a quiet connection on and without a gap: once one passes that is not counted, the rest of the pipeline passes,
//! too, until one is traced, for which the gap is filled from what the connection owes. Sessions that count nothing at the
//! moment, which on a busy thread are nearly all, pay for one look at a flag.

use std::collections::VecDeque;

use super::backend::Backend;
use super::errors::End;
use super::queries::Counted;
use super::request::{UnnamedBatch, text_of};
use super::session::Session;
use super::trace::{Failure, Traced};
use super::track::Expect;

/// What was sent and not answered.
#[derive(Debug, Default)]
pub(super) struct Watched {
    due: VecDeque<Due>,
    /// Bound to the unnamed portal, not executed yet.
    bound: Option<Item>,
    /// Something was sent behind it that is not in the queue.
    is_closed: bool,
    /// How long the first of them had waited for its connection, ns; only if somebody wants to know.
    pub waited: u64,
    /// When that wait was over, ns; 0 if nobody has asked since.
    pub served: u64,
}

impl Watched {
    /// From when to when the first of them was in the queue, ns, for whoever asks first.
    pub(super) fn take_wait(&mut self) -> Option<(u64, u64)> {
        let served = std::mem::take(&mut self.served);
        (served > 0).then(|| (served.saturating_sub(self.waited), served))
    }

    /// Puts in the queue what was sent unwatched and is not answered.
    fn catch_up(&mut self, backend: &Backend) {
        self.is_closed = false;
        let owed = backend.track.owed().filter_map(|expect| match expect {
            Expect::Query(_) | Expect::Batch { .. } | Expect::Function => Some(Due::Query(Item::default())),
            Expect::Execute(_) => Some(Due::Execute(None)),
            Expect::Sync => Some(Due::Sync),
            _ => None,
        });
        let unwatched: Vec<Due> = owed.skip(self.due.len()).collect();
        self.due.extend(unwatched);
    }
}

/// Who wants to know of a statement.
#[derive(Debug, Default)]
struct Item {
    counted: Option<Counted>,
    trace: Option<Box<Traced>>,
}

impl Item {
    fn add_rows(&mut self, rows: u64) {
        if let Some(counted) = &mut self.counted {
            counted.rows += rows;
        }
        if let Some(trace) = &mut self.trace {
            trace.rows += rows;
        }
    }

    fn fail(&mut self, code: &[u8]) {
        if let Some(counted) = &mut self.counted {
            counted.failed = true;
        }
        if let Some(trace) = &mut self.trace {
            trace.failure = Some(Failure { code: String::from_utf8_lossy(code).into_owned(), is_of_server: true });
        }
    }
}

#[derive(Debug)]
enum Due {
    /// Until ReadyForQuery, whatever comes before it.
    Query(Item),
    /// Until its CommandComplete. One that is executed again, in parts, is counted once.
    Execute(Option<Item>),
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
        if self.core.queries.traces() {
            self.trace_request();
        }
        self.watch_query(backend, text);
    }

    /// A simple query is sent.
    #[cold]
    #[inline(never)]
    pub(super) fn watch_query(&mut self, backend: &Backend, text: &[u8]) {
        let trace = self.traced(text);
        if let Some(item) = self.item(backend, text, trace)
            && let Some(watched) = &mut self.rare.watched
        {
            watched.due.push_back(Due::Query(item));
        }
    }

    /// A statement is bound to the unnamed portal.
    #[cold]
    #[inline(never)]
    pub(super) fn watch_bind(&mut self, backend: &Backend, statement: &[u8]) {
        if !self.counts() && !self.may_trace_bind() {
            return self.pass_unwatched();
        }
        let Some(text) = self.text_of_statement(statement) else { return };
        let trace = self.traced_bind(statement, &text);
        if let Some(item) = self.item(backend, &text, trace)
            && let Some(watched) = &mut self.rare.watched
        {
            watched.bound = Some(item);
        }
    }

    /// Execute is sent.
    #[cold]
    #[inline(never)]
    pub(super) fn watch_execute(&mut self) {
        if let Some(watched) = self.rare.watched.as_mut().filter(|watched| !watched.is_closed) {
            let item = watched.bound.take();
            watched.due.push_back(Due::Execute(item));
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

    /// There is time to count a statement, and everything before it is counted.
    fn counts(&self) -> bool {
        self.flags.watches && self.core.queries.has_tokens()
    }

    /// A statement is sent of which nobody wants to know.
    fn pass_unwatched(&mut self) {
        self.flags.watches = false;
        match &mut self.rare.watched {
            Some(watched) if self.flags.watching => watched.is_closed = true,
            // Nothing in flight is watched, and its wait is of no interest any more.
            _ => self.rare.watched = None,
        }
    }

    /// Begins to watch a statement: to count it if there is time for it and everything before it is counted, and if it is
    /// traced in any case.
    fn item(&mut self, backend: &Backend, text: &[u8], trace: Option<Box<Traced>>) -> Option<Item> {
        let counts = self.counts();
        if !counts && trace.is_none() {
            self.pass_unwatched();
            return None;
        }
        if !self.flags.watching {
            self.watch_anew();
        }
        self.flags.watching = true;
        self.flags.watches = true;
        let watched = self.rare.watched.get_or_insert_default();
        if !counts {
            watched.catch_up(backend);
        }
        let wait = watched.take_wait();
        let now = self.core.read_clock();
        let trace = trace.map(|mut trace| {
            (trace.wait, trace.began) = (wait, now);
            trace
        });
        // A replica that was promoted under the connection is none any more.
        let is_replica = backend.is_standby && backend.entry.primary_of.get().is_none();
        let counted = counts.then(|| self.core.queries.begin(text, &self.pool.shared.key, is_replica, now));
        Some(Item { counted, trace })
    }

    /// CommandComplete, or what stands in its place.
    #[cold]
    #[inline(never)]
    pub(super) fn watch_completed(&mut self, backend: &Backend, tag: &[u8]) {
        let Some(watched) = &mut self.rare.watched else { return };
        match watched.due.front_mut() {
            Some(Due::Query(item)) => item.add_rows(rows(tag)),
            Some(Due::Execute(_)) => {
                if let Some(Due::Execute(Some(mut item))) = watched.due.pop_front() {
                    item.add_rows(rows(tag));
                    self.watch_end(backend, item);
                }
            }
            Some(Due::Sync) | None => {}
        }
    }

    /// ErrorResponse.
    #[cold]
    #[inline(never)]
    pub(super) fn watch_failed(&mut self, backend: &Backend, code: &[u8]) {
        let Some(watched) = &mut self.rare.watched else { return };
        match watched.due.front_mut() {
            Some(Due::Query(item)) => item.fail(code),
            Some(Due::Execute(_)) => {
                let failed = watched.due.pop_front();
                // What is left of the batch is skipped by the server.
                while matches!(watched.due.front(), Some(Due::Execute(_))) {
                    watched.due.pop_front();
                }
                if let Some(Due::Execute(Some(mut item))) = failed {
                    item.fail(code);
                    self.watch_end(backend, item);
                }
            }
            // It failed before it was executed, and with it what was bound.
            Some(Due::Sync) => {}
            None => {
                if let Some(mut item) = watched.bound.take() {
                    item.fail(code);
                    self.watch_end(backend, item);
                }
            }
        }
    }

    /// ReadyForQuery: what was skipped after an error goes uncounted.
    #[cold]
    #[inline(never)]
    pub(super) fn watch_ready(&mut self, backend: &Backend) {
        let Some(watched) = &mut self.rare.watched else { return };
        while let Some(due) = watched.due.pop_front() {
            match due {
                Due::Query(item) => {
                    self.watch_end(backend, item);
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

    /// The use of the connection ends before everything is answered.
    #[cold]
    #[inline(never)]
    pub(super) fn watch_stopped(&mut self, backend: &Backend, end: &End) {
        if matches!(end, End::Adjust | End::Rerun) {
            return;
        }
        let Some(watched) = self.rare.watched.take() else { return };
        self.flags.watching = false;
        let items = watched.due.into_iter().filter_map(|due| match due {
            Due::Query(item) => Some(item),
            Due::Execute(item) => item,
            Due::Sync => None,
        });
        let lost = items.chain(watched.bound).filter_map(|item| item.trace.map(|trace| *trace)).collect();
        self.trace_lost(backend, lost, end);
    }

    fn watch_end(&mut self, backend: &Backend, item: Item) {
        let now = self.core.read_clock();
        // What is to run again has not ended.
        if let Some(trace) = item.trace.filter(|_| !self.flags.rerun) {
            self.trace_end(Some(backend), *trace, now);
        }
        let Some(counted) = item.counted else { return };
        let Some((fingerprint, text)) = self.core.queries.end(&counted, now) else { return };
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
