//! Whether this process may still send writes to primaries: until a time that is moved on by whoever keeps its lease.
//!
//! Counted on `CLOCK_BOOTTIME`, which goes on while the machine sleeps: a process that was stopped, or a machine that
//! was suspended, wakes up without the right to write.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::time::{ClockId, clock_gettime};

/// Nobody else could take the right away.
const ALWAYS: u64 = u64::MAX;

/// Whether any permit of this process may end: where none can, nobody has to look at one.
static MAY_END: AtomicBool = AtomicBool::new(false);

/// Whether permits have to be looked at. One load; stays true once it is.
#[inline]
pub fn may_end() -> bool {
    MAY_END.load(Ordering::Relaxed)
}

/// The right to write, shared by all threads.
#[derive(Debug)]
pub struct Permit {
    /// ns of [`boottime_ns`]; 0: not now.
    until_ns: AtomicU64,
}

impl Permit {
    /// For the only instance: it ends never.
    pub fn always() -> Self {
        Self { until_ns: AtomicU64::new(ALWAYS) }
    }

    /// For one of several instances: it has to be given first.
    pub fn leased() -> Self {
        // Before any thread that looks at it begins.
        MAY_END.store(true, Ordering::SeqCst);
        Self { until_ns: AtomicU64::new(0) }
    }

    /// Whether it holds now. Reads the clock (a vDSO call, about 25 ns) only where there is a lease.
    #[inline]
    pub fn holds(&self) -> bool {
        let until_ns = self.until_ns.load(Ordering::Acquire);
        until_ns == ALWAYS || boottime_ns() < until_ns
    }

    /// Gives or prolongs it.
    pub fn extend(&self, until_ns: u64) {
        self.until_ns.store(until_ns.min(ALWAYS - 1), Ordering::Release);
    }

    /// Takes it away.
    pub fn end(&self) {
        self.until_ns.store(0, Ordering::Release);
    }
}

/// Nanoseconds of `CLOCK_BOOTTIME`.
pub fn boottime_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    // Neither is negative, and seconds since the machine started are far from overflow.
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_by_itself() {
        let permit = Permit::leased();
        assert!(!permit.holds(), "it was never given");
        permit.extend(boottime_ns() + 1_000_000_000_000);
        assert!(permit.holds());
        permit.extend(boottime_ns());
        assert!(!permit.holds(), "its time is over");
        permit.extend(u64::MAX);
        permit.end();
        assert!(!permit.holds());
        assert!(may_end() && Permit::always().holds());
    }
}
