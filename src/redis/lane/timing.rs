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
/// Requests of an entry that are gone through to find the one that a reply answers, without anything being saved.
const MOST_STEPS: u32 = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct Timing {
    /// Replies that were ever asked for, and those that have come.
    asked: Cell<u64>,
    answered: Cell<u64>,
    /// The first reply that is looked at, counted as they are.
    next: Cell<u64>,
    calls: RefCell<VecDeque<(u64, Call)>>,
    /// Bytes of the reply that has begun in an earlier read.
    begun: Cell<u64>,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            asked: Cell::new(0),
            answered: Cell::new(0),
            next: Cell::new(u64::MAX),
            calls: RefCell::default(),
            begun: Cell::new(0),
        }
    }
}

impl Timing {
    /// So many replies will come.
    #[inline]
    pub fn ask(&self, replies: u32) {
        self.asked.set(self.asked.get() + u64::from(replies));
    }

    /// So many replies have come.
    #[inline]
    pub fn answer(&self, replies: u32) {
        self.answered.set(self.answered.get() + u64::from(replies));
    }

    /// Of the `left` replies of an entry that were to come when any was counted last: how many are left when the one comes
    /// that is looked at. 0: none of them is.
    #[inline]
    pub fn place(&self, left: u32) -> u32 {
        let before = self.next.get().wrapping_sub(self.answered.get());
        if before < u64::from(left) { left - before as u32 } else { 0 }
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

    /// The reply has come that is looked at.
    fn end(&self, bytes: u64) {
        let mut calls = self.calls.borrow_mut();
        if let Some((_, call)) = calls.pop_front() {
            call.end(now_ns(), bytes);
        }
        self.next.set(calls.front().map_or(u64::MAX, |(place, _)| *place));
    }
}

impl Lane {
    /// Takes the time of a request that is about to be sent, behind `ahead` others.
    pub fn time(&self, call: Call, ahead: u32) {
        let mut calls = self.timing.calls.borrow_mut();
        if calls.len() < MOST {
            calls.push_back((self.timing.asked.get() + u64::from(ahead), call));
            self.timing.next.set(calls.front().map_or(u64::MAX, |(place, _)| *place));
        }
    }

    /// A reply of so many bytes has come that `is_due` to be looked at, or is large. `before` replies to requests of the
    /// entry have come before it.
    #[cold]
    #[inline(never)]
    pub(super) fn look(&self, entry: &Entry, is_due: bool, bytes: u64) {
        if is_due {
            self.timing.end(bytes);
        }
        let usage = &entry.client.service.usage;
        if usage.is_large(bytes) && usage.may_look_further(if is_near(entry) { bytes } else { 0 }) {
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
            _ if usage.may_look_further(0) => self.with_request(entry, |request| usage.fail(Some(request))),
            _ => usage.fail(None),
        }
    }

    /// One reply to what is not simply handed on has come.
    pub(super) fn look_at_special(&self, entry: &Entry, reply: &[u8], begun: u64) {
        if self.timing.place(1) == 1 {
            self.timing.end(begun + reply.len() as u64);
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

/// The request that the next reply is about is soon found.
fn is_near(entry: &Entry) -> bool {
    entry.total - entry.left < MOST_STEPS
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
        timing.ask(3);
        timing.calls.borrow_mut().push_back((4, call()));
        timing.next.set(4);
        timing.ask(5);
        timing.answer(3);
        assert_eq!(timing.place(5), 4, "one comes before it");
        assert_eq!(timing.place(1), 0);
        timing.answer(1);
        assert_eq!(timing.place(1), 1);
        timing.end(20);
        assert_eq!(timing.place(u32::MAX), 0);
    }
}
