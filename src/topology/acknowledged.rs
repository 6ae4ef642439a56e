//! What clients were acknowledged since the primary's position was last asked for, in bytes of write-ahead log.
//!
//! A promotion that may lose so many bytes has to know how far the primary had come. Asking it with every commit would
//! cost as much as the commit. So the workers count the rows and the bytes of what was acknowledged, what a row costs is
//! learned from one position to the next, and the primary is asked earlier when much has been written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::{Notify, watch};

use super::lsn::Lsn;

/// How much more than the estimate something may have been.
const SAFETY: u64 = 2;
/// Least and most bytes of log that a row is taken for, besides what the client has sent: its headers with those of an
/// index entry, and a few whole pages after a checkpoint.
const PER_ROW: (u64, u64) = (256, 64 * 1024);
/// The fastest that one session writes log, bytes a microsecond.
const RATE: u64 = 200;
/// Of what was learned before, this share counts beside each new position.
const MEMORY: f64 = 0.8;
/// So many rows of the least size are added to what was learned: one row says little about the next.
const PRIOR: f64 = 16.0;

/// What one transaction has written. What is more than fits is more than any bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Volume {
    /// By the tags of the commands.
    pub rows: u32,
    /// What its client has sent for it.
    pub bytes: u32,
}

/// What was counted by some moment.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    rows: u64,
    bytes: u64,
}

/// The most log that one session writes in a time, bytes.
fn written_within(took_ns: u64) -> u64 {
    took_ns.saturating_mul(RATE) / 1000
}

/// The counters of one node. Counted by the workers, read and set back by the monitor.
#[derive(Debug)]
pub struct Acknowledged {
    rows: AtomicU64,
    bytes: AtomicU64,
    /// The primary's last known position, 0 for none.
    position: AtomicU64,
    /// The two counters when it was asked for.
    known_rows: AtomicU64,
    known_bytes: AtomicU64,
    per_row: AtomicU64,
    /// The position is wanted as soon as so many bytes may be missing in it.
    most: AtomicU64,
    is_wanted: AtomicBool,
    /// The node lives and does not tell its position: it refuses the monitor.
    is_hidden: AtomicBool,
    wake: Arc<Notify>,
    answered: watch::Sender<Answered>,
}

/// The last question that was answered.
#[derive(Debug, Clone, Copy, Default)]
struct Answered {
    /// When it was asked, ns of [`now_ns`](super::clock::now_ns).
    asked_ns: u64,
    /// False if the answer was a refusal.
    is_known: bool,
}

impl Acknowledged {
    /// Nothing yet; `wake` is told when the position is wanted.
    pub fn new(wake: Arc<Notify>) -> Self {
        Self {
            rows: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            position: AtomicU64::new(0),
            known_rows: AtomicU64::new(0),
            known_bytes: AtomicU64::new(0),
            per_row: AtomicU64::new(PER_ROW.0),
            most: AtomicU64::new(u64::MAX),
            is_wanted: AtomicBool::new(false),
            is_hidden: AtomicBool::new(false),
            wake,
            answered: watch::Sender::default(),
        }
    }

    /// A client is about to be told that this was committed.
    pub fn add(&self, volume: Volume) {
        self.rows.fetch_add(volume.rows.into(), Ordering::Relaxed);
        self.bytes.fetch_add(volume.bytes.into(), Ordering::Relaxed);
        if self.unseen() >= self.most.load(Ordering::Relaxed) {
            self.want();
        }
    }

    fn want(&self) {
        // Who refuses is asked as often as any node.
        if !self.is_hidden() && !self.is_wanted.swap(true, Ordering::Relaxed) {
            self.wake.notify_one();
        }
    }

    /// True if the client should not hear of it before the position is known: it may be much, as far as its rows, its
    /// bytes and the time that it took tell, or much has been acknowledged since the last one.
    pub fn is_much(&self, volume: Volume, took_ns: u64) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        if most == u64::MAX {
            return false;
        }
        let rows = u64::from(volume.rows).saturating_mul(self.per_row.load(Ordering::Relaxed));
        let told = rows.saturating_add(volume.bytes.into()).saturating_mul(SAFETY);
        let at_most = written_within(took_ns);
        told >= most || at_most >= most.saturating_mul(4) || self.unseen() >= most.saturating_mul(4)
    }

    /// A client is about to be told of something that took so long and is much, and the position cannot be known: it is
    /// taken for the most that it may be, so that no failover loses it unless a replica has more.
    pub fn add_at_most(&self, volume: Volume, took_ns: u64) {
        let bytes = u32::try_from(written_within(took_ns) / SAFETY).unwrap_or(u32::MAX);
        self.add(Volume { bytes: volume.bytes.max(bytes), ..volume });
    }

    /// True while the node answers, but not the monitor.
    pub fn is_hidden(&self) -> bool {
        self.is_hidden.load(Ordering::Relaxed)
    }

    /// Resolves once a question is answered that was asked after `at_ns`: with true if the position is known since.
    pub async fn known_since(self: Arc<Self>, at_ns: u64) -> bool {
        let mut answered = self.answered.subscribe();
        self.want();
        // The sender is ours: it is not gone.
        answered.wait_for(|answered| answered.asked_ns > at_ns).await.is_ok_and(|answered| answered.is_known)
    }

    /// The primary's last known position.
    pub fn known(&self) -> Option<Lsn> {
        Some(Lsn(self.position.load(Ordering::Relaxed))).filter(|position| position.0 > 0)
    }

    /// The most that was acknowledged beyond the known position, bytes of log, as far as that can be estimated.
    pub fn unseen(&self) -> u64 {
        let since = |now: &AtomicU64, known: &AtomicU64| {
            now.load(Ordering::Relaxed).saturating_sub(known.load(Ordering::Relaxed))
        };
        let (rows, bytes) = (since(&self.rows, &self.known_rows), since(&self.bytes, &self.known_bytes));
        rows.saturating_mul(self.per_row.load(Ordering::Relaxed)).saturating_add(bytes).saturating_mul(SAFETY)
    }

    /// The position is wanted as soon as so many bytes may be missing in it; never with `u64::MAX`.
    pub(super) fn set_most(&self, most: u64) {
        self.most.store(most, Ordering::Relaxed);
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Relaxed)
    }
}

/// What a row costs, learned from one position of the primary to the next.
#[derive(Debug, Default)]
pub(super) struct Cost {
    /// What was counted when the position was asked for.
    asked: Counted,
    last: Option<(Lsn, Counted)>,
    log: f64,
    rows: f64,
}

impl Cost {
    /// The position is about to be asked for: what is counted by now is in the answer.
    pub(super) fn ask(&mut self, of: &Acknowledged) {
        of.is_wanted.store(false, Ordering::Relaxed);
        self.asked = Counted { rows: of.rows.load(Ordering::Relaxed), bytes: of.bytes.load(Ordering::Relaxed) };
    }

    /// The answer was a refusal. What is counted until the next one is no measure for what rows cost.
    pub(super) fn refused(&mut self, of: &Acknowledged, asked_ns: u64) {
        self.last = None;
        of.is_hidden.store(true, Ordering::Relaxed);
        of.answered.send_replace(Answered { asked_ns, is_known: false });
    }

    /// The answer has come.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate"
    )]
    pub(super) fn learn(&mut self, of: &Acknowledged, position: Lsn, asked_ns: u64) {
        let asked = self.asked;
        of.position.store(position.0, Ordering::Relaxed);
        of.known_rows.store(asked.rows, Ordering::Relaxed);
        of.known_bytes.store(asked.bytes, Ordering::Relaxed);
        of.is_hidden.store(false, Ordering::Relaxed);
        of.answered.send_replace(Answered { asked_ns, is_known: true });
        if let Some((before, then)) = self.last.replace((position, asked)) {
            let rows = asked.rows.saturating_sub(then.rows);
            // What is written while nobody writes through here is not these rows' cost.
            if rows > 0 {
                let sent = asked.bytes.saturating_sub(then.bytes);
                let log = position.bytes_since(before).saturating_sub(sent);
                (self.log, self.rows) = (self.log * MEMORY + log as f64, self.rows * MEMORY + rows as f64);
            }
        }
        let (least, most) = PER_ROW;
        let per_row = (self.log + PRIOR * least as f64) / (self.rows + PRIOR);
        of.per_row.store((per_row as u64).clamp(least, most), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters() -> Acknowledged {
        Acknowledged::new(Arc::default())
    }

    #[test]
    fn what_was_counted_before_the_question_is_in_the_answer() {
        let (of, mut cost) = (counters(), Cost::default());
        of.add(Volume { rows: 10, bytes: 1000 });
        cost.ask(&of);
        of.add(Volume { rows: 1, bytes: 50 });
        assert_eq!(of.unseen(), 2 * (11 * 256 + 1050));
        cost.learn(&of, Lsn(5000), 1);
        assert_eq!(of.unseen(), 2 * (256 + 50));
    }

    #[test]
    fn rows_that_cost_more_are_taken_for_more() {
        let (of, mut cost) = (counters(), Cost::default());
        let mut position = 0;
        for _ in 0..20 {
            of.add(Volume { rows: 1000, bytes: 0 });
            position += 1000 * 4000;
            cost.ask(&of);
            cost.learn(&of, Lsn(position), 1);
        }
        of.add(Volume { rows: 1, bytes: 0 });
        assert!((7800..=8000).contains(&of.unseen()), "{}", of.unseen());
    }

    #[test]
    fn a_lone_row_beside_a_vacuum_does_not_make_rows_dear() {
        let (of, mut cost) = (counters(), Cost::default());
        cost.learn(&of, Lsn(0), 1);
        of.add(Volume { rows: 1, bytes: 0 });
        cost.ask(&of);
        cost.learn(&of, Lsn(500_000), 1);
        of.add(Volume { rows: 1, bytes: 0 });
        assert!(of.unseen() <= 128 * 1024, "{}", of.unseen());
        for position in [90_000_000, 180_000_000] {
            cost.ask(&of);
            cost.learn(&of, Lsn(position), 1);
        }
        assert_eq!(of.unseen(), 0, "nobody has written since");
    }

    #[test]
    fn what_may_be_much_waits() {
        let of = counters();
        let (small, long) = (Volume { rows: 1, bytes: 100 }, 1_000_000_000);
        assert!(!of.is_much(small, long), "nobody wants to know");
        of.set_most(1 << 17);
        assert!(!of.is_much(small, 1_000_000));
        assert!(of.is_much(small, 3_000_000), "in so long it can have written half of 1 MiB");
        assert!(of.is_much(Volume { rows: 256, bytes: 0 }, 0));
        assert!(of.is_much(Volume { rows: 0, bytes: 65_536 }, 0));
        of.add(Volume { rows: 1024, bytes: 0 });
        assert!(of.is_much(small, 0), "others have written");
    }

    #[test]
    fn the_position_is_wanted_once_much_may_be_missing() {
        let of = counters();
        of.add(Volume { rows: 1_000_000, bytes: 0 });
        assert!(!of.is_wanted(), "nobody wants to know");
        of.set_most(2 * 1_000_100 * 256);
        of.add(Volume { rows: 99, bytes: 0 });
        assert!(!of.is_wanted());
        of.add(Volume { rows: 1, bytes: 0 });
        assert!(of.is_wanted());
        Cost::default().ask(&of);
        assert!(!of.is_wanted());
    }

    #[tokio::test]
    async fn a_position_that_is_refused_is_not_waited_for() {
        let (of, mut cost) = (Arc::new(counters()), Cost::default());
        of.set_most(1 << 17);
        cost.ask(&of);
        cost.refused(&of, 2);
        assert!(of.is_hidden() && !Arc::clone(&of).known_since(1).await);
        of.add_at_most(Volume { rows: 1, bytes: 100 }, 10_000_000);
        assert!(of.unseen() >= 2_000_000 && !of.is_wanted(), "nobody asks more often for it");
        cost.ask(&of);
        cost.learn(&of, Lsn(5000), 3);
        assert!(!of.is_hidden() && Arc::clone(&of).known_since(2).await);
        assert_eq!(of.unseen(), 0);
    }
}
