//! Monotonic time since the start of the process, in the units that the rest of the program counts in.

use std::sync::LazyLock;
use std::time::Instant;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds since the first call in this process, plus one: 0 is left to mean "never". One vDSO clock read, about
/// 25 ns. Monotonic over all threads, so that a time taken by a worker compares with one taken by a probe.
pub fn now_ns() -> u64 {
    let elapsed = START.elapsed().as_nanos();
    u64::try_from(elapsed).unwrap_or(u64::MAX - 1) + 1
}
