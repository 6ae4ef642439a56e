//! The replies that are due on a connection, and what has to be known of all of them at every request: a client may
//! have sent as many as it likes, so nothing here looks at each.

use std::collections::VecDeque;
use std::ops::Deref;

use super::own::{Expect, What};

/// See the module. Read as the queue that it is, the reply that is due next first.
#[derive(Debug, Default)]
pub(super) struct Expects {
    queue: VecDeque<Expect>,
    /// How many were ever taken from the front.
    taken: u64,
    /// Those that a planned change of the primary waits for.
    pending: usize,
    /// WATCH and MULTI among them.
    beginning: usize,
    /// Bytes of requests that are kept for a second run.
    kept: usize,
    /// The last MULTI, EXEC or DISCARD: its place, counted as `taken`, and whether a transaction is open behind it.
    turn: Option<(u64, bool)>,
}

impl Deref for Expects {
    type Target = VecDeque<Expect>;

    fn deref(&self) -> &VecDeque<Expect> {
        &self.queue
    }
}

impl Expects {
    pub(super) fn push(&mut self, expect: Expect) {
        self.pending += usize::from(is_pending(expect.what));
        self.beginning += usize::from(begins_transaction(expect.what));
        self.kept += kept(&expect);
        if let Some(is_open) = turn(expect.what) {
            self.turn = Some((self.taken + self.queue.len() as u64, is_open));
        }
        self.queue.push_back(expect);
    }

    /// The reply that was due next has come.
    pub(super) fn pop(&mut self) -> Option<Expect> {
        let expect = self.queue.pop_front()?;
        self.taken += 1;
        self.forget(&expect);
        Some(expect)
    }

    /// The last one will never come. It must be none that [`Expects::is_in_multi`] goes by.
    pub(super) fn give_up_last(&mut self) {
        if let Some(expect) = self.queue.pop_back() {
            self.forget(&expect);
        }
    }

    /// [`Expect::what`] and [`Expect::request`] must stay as they are.
    pub(super) fn front_mut(&mut self) -> Option<&mut Expect> {
        self.queue.front_mut()
    }

    /// As [`Expects::front_mut`].
    pub(super) fn back_mut(&mut self) -> Option<&mut Expect> {
        self.queue.back_mut()
    }

    /// Those that a planned change of the primary waits for: all but what waits for something to happen.
    pub(super) fn pending(&self) -> usize {
        self.pending
    }

    /// A WATCH or MULTI is on its way.
    pub(super) fn begin_transaction(&self) -> bool {
        self.beginning > 0
    }

    /// Bytes of the requests that are kept.
    pub(super) fn kept(&self) -> usize {
        self.kept
    }

    /// A transaction will be open when everything is answered; `None`: as now.
    pub(super) fn is_in_multi(&self) -> Option<bool> {
        self.turn.filter(|(place, _)| *place >= self.taken).map(|(_, is_open)| is_open)
    }

    fn forget(&mut self, expect: &Expect) {
        self.pending -= usize::from(is_pending(expect.what));
        self.beginning -= usize::from(begins_transaction(expect.what));
        self.kept -= kept(expect);
    }
}

fn is_pending(what: What) -> bool {
    !matches!(what, What::Block { .. } | What::Subscribe | What::Resubscribe | What::Replicated)
}

fn begins_transaction(what: What) -> bool {
    matches!(what, What::Watch | What::Multi { .. })
}

fn kept(expect: &Expect) -> usize {
    expect.request.as_ref().map_or(0, Vec::len)
}

fn turn(what: What) -> Option<bool> {
    match what {
        What::Multi { .. } => Some(true),
        What::Exec | What::Discard => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::own::Queued;
    use super::*;

    const ALL: [What; 8] = [
        What::Plain,
        What::Read,
        What::Watch,
        What::Multi { tell: true },
        What::Exec,
        What::Discard,
        What::Subscribe,
        What::Block { may_rerun: false },
    ];

    fn expect(what: What) -> Expect {
        let request = (what == What::Read).then(|| b"GET".to_vec());
        Expect { what, request, end: 0, since: 0, is_silent: false, queued: Queued::default(), left: None, call: None }
    }

    /// The same, by looking at each.
    fn counted(expects: &Expects) -> (usize, bool, usize, Option<bool>) {
        let queue = &expects.queue;
        (
            queue.iter().filter(|expect| is_pending(expect.what)).count(),
            queue.iter().any(|expect| begins_transaction(expect.what)),
            queue.iter().map(kept).sum(),
            queue.iter().rev().find_map(|expect| turn(expect.what)),
        )
    }

    #[test]
    fn what_is_kept_of_all_is_what_looking_at_each_would_tell() {
        let mut expects = Expects::default();
        let mut seed = 1_usize;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            match seed >> 33 & 15 {
                n @ 0..8 => expects.push(expect(ALL[n])),
                8..15 => drop(expects.pop()),
                _ => {
                    expects.push(expect(What::Plain));
                    expects.give_up_last();
                }
            }
            let kept = (expects.pending(), expects.begin_transaction(), expects.kept(), expects.is_in_multi());
            assert_eq!(kept, counted(&expects));
        }
    }
}
