//! How long to leave a server in trouble alone.

/// Pause after the first failure, in nanoseconds.
const FIRST_NS: u64 = 100_000_000;
/// Longest pause, in nanoseconds: clients are waiting, and a server that is back should be noticed soon.
const LAST_NS: u64 = 2_000_000_000;

/// Exponential pauses between connection attempts to one node, from 0.1 s to 2 s.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
    retry_at: u64,
}

impl Backoff {
    /// An attempt failed at `now` (ns).
    pub fn fail(&mut self, now: u64) {
        let pause = FIRST_NS.saturating_mul(1 << self.failures.min(10)).min(LAST_NS);
        self.failures = self.failures.saturating_add(1);
        self.retry_at = now.saturating_add(pause);
    }

    /// An attempt succeeded, or the node was reported healthy again.
    pub fn reset(&mut self) {
        *self = Backoff::default();
    }

    /// True when the next attempt may start.
    pub fn is_over(&self, now: u64) -> bool {
        now >= self.retry_at
    }

    /// True after a failure and before the next success: attempts are made one at a time.
    pub fn is_in_trouble(&self) -> bool {
        self.failures > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_two_seconds_and_end_with_a_success() {
        let mut b = Backoff::default();
        assert!(b.is_over(0));
        b.fail(0);
        assert!(!b.is_over(FIRST_NS - 1) && b.is_over(FIRST_NS));
        b.fail(0);
        assert!(!b.is_over(2 * FIRST_NS - 1) && b.is_over(2 * FIRST_NS));
        for _ in 0..40 {
            b.fail(0);
        }
        assert!(b.is_over(LAST_NS));
        b.reset();
        assert!(b.is_over(0) && !b.is_in_trouble());
    }
}
