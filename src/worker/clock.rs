//! Monotonic time in the units that the rest of the program counts in.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`, never 0, which is left to mean "never". One vDSO clock read, about 25 ns.
/// Monotonic over all threads, so that a time taken by a worker compares with one taken by a probe.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Neither is negative, and seconds since the machine started are far from overflow.
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64).max(1)
}

/// `wait` later than `now_ns`; the end of time if that is beyond it.
pub fn after(now_ns: u64, wait: Duration) -> u64 {
    now_ns.saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX))
}
