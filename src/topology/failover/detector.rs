//! Whether a primary is lost, from what its probes say. Pure: outcomes and times in, a verdict out.
//!
//! A single failure opens a doubt, never a failover: sessions are ended, networks drop packets, processes are held up.

use std::time::Duration;

use crate::topology::plan::Failure;

/// Refusals have to last for so long, and to be so many.
const REFUSED_FOR: Duration = Duration::from_millis(400);
const REFUSED_TIMES: u32 = 3;
/// Probes in a row that were not answered in time. It is asked once more while the replicas are heard, and goes on as the
/// primary if it answers then.
const SILENT_TIMES: u32 = 2;
/// Between two probes of a primary that has failed.
pub const AGAIN: Duration = Duration::from_millis(150);
/// Beats in a row that were not committed in time.
const HUNG_TIMES: u32 = 3;
/// How long a server that starts or recovers may take before it counts as lost.
const RECOVERY_GRACE: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Detector {
    failing_since_ns: Option<u64>,
    refused: u32,
    silent: u32,
    last: String,
    /// It answers, and commits nothing.
    hung: u32,
}

/// A primary that is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// In words.
    pub why: String,
    /// Nothing listens there any more.
    pub is_refused: bool,
    /// It answers questions.
    pub is_hung: bool,
}

impl Detector {
    /// Takes the outcome of a probe of the primary.
    pub fn take(&mut self, now_ns: u64, outcome: Result<(), &Failure>) {
        let failure = match outcome {
            // Alive, if not well.
            Ok(()) | Err(Failure::Unheard(_)) => return *self = Self { hung: self.hung, ..Self::default() },
            Err(Failure::Stalled) => return,
            Err(failure) => failure,
        };
        self.failing_since_ns.get_or_insert(now_ns);
        match failure {
            Failure::Broken(why) => {
                self.refused += 1;
                self.last.clone_from(why);
            }
            Failure::Silent(why) => {
                self.silent += 1;
                self.last.clone_from(why);
            }
            Failure::Unheard(_) | Failure::Stalled => {}
        }
    }

    /// Takes what came of a beat, see [`super::heart`].
    pub fn beat(&mut self, hangs: bool) {
        self.hung = if hangs { self.hung + 1 } else { 0 };
    }

    /// Whether there is any doubt, so that it has to be asked again soon.
    pub fn is_in_doubt(&self) -> bool {
        self.failing_since_ns.is_some()
    }

    /// Whether it is lost.
    pub fn verdict(&self, now_ns: u64) -> Option<Lost> {
        if self.hung >= HUNG_TIMES && self.failing_since_ns.is_none() {
            let why = format!("it answers, and has committed nothing in {HUNG_TIMES} attempts");
            return Some(Lost { why, is_refused: false, is_hung: true });
        }
        let failing = Duration::from_nanos(now_ns.saturating_sub(self.failing_since_ns?));
        let is_starting = self.last.contains("57P03");
        if is_starting && failing < RECOVERY_GRACE {
            return None;
        }
        let is_refused = self.refused >= REFUSED_TIMES && failing >= REFUSED_FOR;
        let is_silent = self.silent >= SILENT_TIMES;
        let is_refused_only = is_refused && !is_silent;
        (is_refused || is_silent).then(|| Lost { why: self.last.clone(), is_refused: is_refused_only, is_hung: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn broken(why: &str) -> Failure {
        Failure::Broken(why.to_owned())
    }

    #[test]
    fn three_refusals_over_a_while() {
        let mut detector = Detector::default();
        for (at, is_lost) in [(0, false), (50, false), (200, false), (399, false), (400, true)] {
            detector.take(at * MS, Err(&broken("refused")));
            assert_eq!(detector.verdict(at * MS).is_some(), is_lost, "{at} ms");
        }
        assert!(detector.verdict(400 * MS).expect("lost").is_refused);
        detector.take(500 * MS, Ok(()));
        assert_eq!(detector.verdict(900 * MS), None, "it has answered");
    }

    #[test]
    fn two_silences() {
        let mut detector = Detector::default();
        for at in 1..=2 {
            assert_eq!(detector.verdict(at * 1000 * MS), None);
            detector.take(at * 1000 * MS, Err(&Failure::Silent("no answer".into())));
        }
        assert!(!detector.verdict(2000 * MS).expect("lost").is_refused);
    }

    #[test]
    fn who_is_full_is_alive_and_who_was_held_up_knows_nothing() {
        let mut detector = Detector::default();
        for at in 0..10 {
            detector.take(at * 1000 * MS, Err(&Failure::Stalled));
        }
        assert!(!detector.is_in_doubt());
        for at in 0..10 {
            detector.take(at * 1000 * MS, Err(&broken("refused")));
            detector.take(at * 1000 * MS, Err(&Failure::Unheard("too many clients".into())));
        }
        assert!(!detector.is_in_doubt());
    }

    #[test]
    fn a_server_that_answers_and_commits_nothing_is_lost() {
        let mut detector = Detector::default();
        for hangs in [true, true, false, true, true] {
            detector.take(0, Ok(()));
            detector.beat(hangs);
            assert_eq!(detector.verdict(0), None);
        }
        detector.beat(true);
        assert!(detector.verdict(0).expect("lost").is_hung);
        detector.take(0, Ok(()));
        assert!(detector.verdict(0).is_some(), "that it answers proves nothing");
    }

    #[test]
    fn a_server_that_recovers_gets_its_time() {
        let mut detector = Detector::default();
        for at in 0..66 {
            detector.take(at * 150 * MS, Err(&broken("FATAL: the database system is in recovery mode (57P03)")));
            assert_eq!(detector.verdict(at * 150 * MS), None, "after {} ms", at * 150);
        }
        assert!(detector.verdict(10_000 * MS).is_some());
    }
}
