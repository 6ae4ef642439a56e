//! Which of a lane's replies are looked at: those to requests whose time is taken, and large ones.
//!
//! Requests and replies are counted as they go and come, a whole batch at a time, so that the place of a request among
//! all tells which reply is its. What is looked at costs something only when it comes.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use super::{Entry, EntryKind, Lane};
use crate::redis::session::first_request;
use crate::redis::usage::Call;
use crate::worker::clock::now_ns;

/// Calls that are timed at once.
const MOST: usize = 64;

/// No reply is looked at.
const NONE: u32 = u32::MAX;

/// See the module.
#[derive(Debug)]
pub(super) struct Timing {
    /// Replies to come before the first one that is looked at.
    until: Cell<u32>,
    /// The calls that are timed, and how many replies come between the one before and it.
    calls: RefCell<VecDeque<(u32, Call)>>,
    /// Bytes of the reply that has begun in an earlier read.
    begun: Cell<u64>,
}

impl Default for Timing {
    fn default() -> Self {
        Timing { until: Cell::new(NONE), calls: RefCell::default(), begun: Cell::new(0) }
    }
}

impl Timing {
    /// So many replies have come.
    #[inline]
    pub fn answer(&self, replies: u32) {
        let until = self.until.get();
        if until != NONE {
            self.until.set(until.saturating_sub(replies));
        }
    }

    /// Of the `left` replies of an entry that were to come when any was counted last: how many are left when the one comes
    /// that is looked at. 0: none of them is.
    #[inline]
    pub fn place(&self, left: u32) -> u32 {
        left.saturating_sub(self.until.get())
    }

    /// Some of a reply has come that has not ended.
    pub fn begin(&self, bytes: u64) {
        self.begun.set(bytes);
    }

    /// What had come of the reply that ends, or goes on, here.
    #[inline]
    pub fn take_begun(&self) -> u64 {
        self.begun.take()
    }

    /// Takes the time of a call whose reply comes behind so many others.
    fn begin_call(&self, call: Call, behind: u32) {
        let mut calls = self.calls.borrow_mut();
        if calls.len() >= MOST {
            return;
        }
        let Some(until) = Some(self.until.get()).filter(|until| *until != NONE) else {
            self.until.set(behind);
            return calls.push_back((0, call));
        };
        let last = until + calls.iter().skip(1).map(|(between, _)| between + 1).sum::<u32>();
        calls.push_back((behind.saturating_sub(last + 1), call));
    }

    /// The reply has come that is looked at.
    fn end_call(&self, bytes: u64) {
        let mut calls = self.calls.borrow_mut();
        if let Some((_, call)) = calls.pop_front() {
            call.end(now_ns(), bytes);
        }
        let next = calls.front().map_or(NONE, |(between, _)| self.until.get() + 1 + between);
        self.until.set(next);
    }
}

impl Lane {
    /// Takes the time of a request that is about to be sent, behind `ahead` others.
    pub fn time(&self, call: Call, ahead: u32) {
        let behind = u32::try_from(self.in_flight()).unwrap_or(NONE - 1);
        self.timing.begin_call(call, behind.saturating_add(ahead).min(NONE - 1));
    }

    /// A reply of so many bytes has come that `is_due` to be looked at, or is large. `before` replies to requests of the
    /// entry have come before it.
    #[cold]
    #[inline(never)]
    pub(super) fn look(&self, entry: &Entry, is_due: bool, bytes: u64) {
        if is_due {
            self.timing.end_call(bytes);
        }
        let usage = &entry.client.service.usage;
        if usage.is_large(bytes) && usage.may_look_further(bytes, entry.total - entry.left) {
            self.with_request(entry, |request| usage.look_at_reply(request, self.key.db, bytes));
        }
    }

    /// The reply that comes is an error of the server's.
    #[cold]
    #[inline(never)]
    pub(super) fn note_error(&self, entry: &Entry) {
        let usage = &entry.client.service.usage;
        match &entry.kind {
            EntryKind::Greeting { .. } | EntryKind::Login { .. } => {}
            _ if usage.may_look_further(0, entry.total - entry.left) => {
                self.with_request(entry, |request| usage.fail(Some(request)))
            }
            _ => usage.fail(None),
        }
    }

    /// One reply to what is not simply handed on has come.
    pub(super) fn look_at_special(&self, entry: &Entry, reply: &[u8], begun: u64) {
        if self.timing.place(1) == 1 {
            self.timing.end_call(begun + reply.len() as u64);
        }
        self.timing.answer(1);
        if matches!(entry.kind, EntryKind::Block { .. }) && entry.left == 1 && begun == 0 {
            let sending = self.sending.borrow();
            let block = sending.bytes.get(sending.answered..sending.answered + entry.bytes).unwrap_or_default();
            entry.client.service.usage.fail_within(block, reply);
        }
    }

    /// The request that the next reply of the entry is about, and whatever is behind it.
    pub(super) fn with_request<T>(&self, entry: &Entry, look: impl FnOnce(&[u8]) -> T) -> T {
        let sending = self.sending.borrow();
        let mut requests = sending.bytes.get(sending.answered..sending.answered + entry.bytes).unwrap_or_default();
        for _ in entry.left..entry.total {
            requests = first_request(requests).map(|(_, behind)| behind).unwrap_or_default();
        }
        look(requests)
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::Arc;

    use super::*;
    use crate::redis::usage::Table;
    use crate::wire::resp::command::Commands;

    #[test]
    fn the_place_among_all_tells_which_reply_it_is() {
        let table = Rc::new(Table::new(Arc::new(Commands::builtin())));
        let timing = Timing::default();
        let call = || Call::new(Rc::clone(&table), 0, 1, 10);
        assert_eq!(timing.place(5), 0, "none is looked at");
        for behind in [4, 5, 9] {
            timing.begin_call(call(), behind);
        }
        timing.answer(3);
        assert_eq!(timing.place(1), 0, "one comes before it");
        let batch = 5;
        assert_eq!(timing.place(batch), 4);
        timing.end_call(20);
        assert_eq!(timing.place(batch), 3, "the next one");
        timing.end_call(20);
        assert_eq!(timing.place(batch), 0);
        timing.answer(batch);
        timing.begin_call(call(), 1_000);
        assert_eq!(timing.place(2), 1, "the last but one of four");
        timing.end_call(20);
        timing.answer(2);
        assert_eq!(timing.place(u32::MAX - 1), u32::MAX - 1 - 998);
    }
}
