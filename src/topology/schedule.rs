//! When each node of a cluster is probed next. Pure: times in, times out, in nanoseconds of [`super::clock`].
//!
//! A round asks whoever is not a replica first and the replicas as soon as the primary has answered, so that a
//! fresh sample of the primary's position is met by the replicas' answers at once instead of half a round later.

use std::time::Duration;

use super::clock::after;

/// Time between rounds while clients wait for a fresh replica.
const FAST: Duration = Duration::from_millis(10);
/// How long after the last wish rounds stay fast.
const FAST_FOR: Duration = Duration::from_millis(250);
/// How long a round's replicas wait for the primary's answer.
const AFTER_PRIMARY: Duration = Duration::from_millis(20);
/// The least time between two probes of one node that doubts may cause.
const DOUBT_GAP: Duration = Duration::from_millis(20);
/// The same for what is written.
const POSITION_GAP: Duration = Duration::from_millis(2);

/// The timetable of one cluster.
#[derive(Debug)]
pub(super) struct Schedule {
    interval: Duration,
    round_ns: u64,
    round_started_ns: u64,
    fast_until_ns: u64,
}

/// The timetable of one node.
#[derive(Debug)]
pub(super) struct Turn {
    due_ns: u64,
    started_ns: u64,
    running: bool,
    waits_for_primary: bool,
}

impl Default for Turn {
    fn default() -> Self {
        Self { due_ns: u64::MAX, started_ns: 0, running: false, waits_for_primary: false }
    }
}

impl Schedule {
    /// The first round is due at once.
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, round_ns: 0, round_started_ns: 0, fast_until_ns: 0 }
    }

    /// Takes a changed `check_interval`; a shorter one also brings the next round forward.
    pub(super) fn set_interval(&mut self, interval: Duration) {
        self.interval = interval;
        self.round_ns = self.round_ns.min(after(self.round_started_ns, interval));
    }

    /// Notes that a client waits for a fresh replica: rounds are fast for a while, the first without delay.
    pub(super) fn hurry(&mut self, now_ns: u64) {
        self.fast_until_ns = after(now_ns, FAST_FOR);
        self.round_ns = self.round_ns.min(after(self.round_started_ns, FAST.min(self.interval)));
    }

    /// When the next round starts.
    pub(super) fn next_round(&self) -> u64 {
        self.round_ns
    }

    /// Starts a round if one is due. `turns` tells for each node whether it may wait for the primary's answer.
    pub(super) fn round<'a>(&mut self, now_ns: u64, turns: impl Iterator<Item = (&'a mut Turn, bool)>) {
        if now_ns < self.round_ns {
            return;
        }
        self.round_started_ns = now_ns;
        let pause = if now_ns < self.fast_until_ns { FAST.min(self.interval) } else { self.interval };
        self.round_ns = after(now_ns, pause);
        for (turn, waits) in turns {
            turn.join_round(now_ns, waits);
        }
    }
}

impl Turn {
    /// A probe with this round, unless one is already planned: a second look keeps its distance from the first.
    fn join_round(&mut self, now_ns: u64, waits: bool) {
        if self.due_ns == u64::MAX {
            self.due_ns = if waits { after(now_ns, AFTER_PRIMARY) } else { now_ns };
            self.waits_for_primary = waits;
        }
    }

    /// A probe no later than `at_ns`.
    pub(super) fn want(&mut self, at_ns: u64) {
        self.due_ns = self.due_ns.min(at_ns);
    }

    /// A probe as soon as `wait` has passed.
    pub(super) fn want_after(&mut self, now_ns: u64, wait: Duration) {
        self.want(after(now_ns, wait));
    }

    /// A probe because of a doubt: at once, unless one has only just begun.
    pub(super) fn want_for_doubt(&mut self, now_ns: u64) {
        self.want(after(self.started_ns, DOUBT_GAP).max(now_ns));
    }

    /// A probe because much has been written since the last one.
    pub(super) fn want_for_position(&mut self, now_ns: u64) {
        self.want(after(self.started_ns, POSITION_GAP).max(now_ns));
    }

    /// The primary has answered: who was waiting for that is due.
    pub(super) fn primary_answered(&mut self, now_ns: u64) {
        if self.waits_for_primary {
            self.want(now_ns);
        }
    }

    /// Whether to start a probe now; if so it counts as running.
    pub(super) fn start(&mut self, now_ns: u64) -> bool {
        let starts = !self.running && self.due_ns <= now_ns;
        if starts {
            *self = Self { started_ns: now_ns, running: true, ..Self::default() };
        }
        starts
    }

    /// The probe has ended.
    pub(super) fn end(&mut self) {
        self.running = false;
    }

    /// When this node wants to be woken for; never while a probe runs, whose end wakes anyway.
    pub(super) fn next(&self) -> u64 {
        if self.running { u64::MAX } else { self.due_ns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn replicas_are_asked_once_the_primary_has_answered() {
        let mut schedule = Schedule::new(Duration::from_millis(500));
        let (mut primary, mut replica) = (Turn::default(), Turn::default());
        schedule.round(MS, [(&mut primary, false), (&mut replica, true)].into_iter());
        assert!(primary.start(MS), "the primary is due at once");
        assert!(!replica.start(MS), "the replica waits for the primary");
        replica.primary_answered(2 * MS);
        assert!(replica.start(2 * MS));
        assert_eq!(schedule.next_round(), 501 * MS);
    }

    #[test]
    fn replicas_do_not_wait_for_long() {
        let mut schedule = Schedule::new(Duration::from_millis(500));
        let mut replica = Turn::default();
        schedule.round(MS, [(&mut replica, true)].into_iter());
        assert_eq!(replica.next(), 21 * MS);
        assert!(replica.start(21 * MS));
    }

    #[test]
    fn rounds_are_fast_only_while_somebody_waits() {
        let mut schedule = Schedule::new(Duration::from_millis(500));
        schedule.round(0, std::iter::empty());
        schedule.hurry(10 * MS);
        assert_eq!(schedule.next_round(), 10 * MS);
        schedule.round(10 * MS, std::iter::empty());
        assert_eq!(schedule.next_round(), 20 * MS);
        schedule.round(300 * MS, std::iter::empty());
        assert_eq!(schedule.next_round(), 800 * MS);
        schedule.hurry(700 * MS);
        assert_eq!(schedule.next_round(), 310 * MS, "a wish after a long pause is served at once");
    }

    #[test]
    fn a_shorter_interval_does_not_wait_for_the_longer_one_to_end() {
        let mut schedule = Schedule::new(Duration::from_secs(3600));
        schedule.round(MS, std::iter::empty());
        schedule.set_interval(Duration::from_millis(500));
        assert_eq!(schedule.next_round(), 501 * MS);
    }

    #[test]
    fn doubts_cannot_make_a_storm_of_probes() {
        let mut turn = Turn::default();
        turn.want_for_doubt(100 * MS);
        assert!(turn.start(100 * MS));
        turn.want_for_doubt(101 * MS);
        assert!(!turn.start(101 * MS), "one is running");
        turn.end();
        assert_eq!(turn.next(), 120 * MS);
    }
}
