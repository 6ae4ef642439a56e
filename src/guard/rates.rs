//! How often addresses connect, and how many of their connections have not logged in.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::source::Source;

/// Parts of a table, each with its own lock.
const PARTS: usize = 16;
/// Addresses in one part.
const MOST: usize = 4096;

/// A table by address that many threads use at once. Which part an address is in nobody outside can choose.
#[derive(Debug)]
pub(super) struct Parts<T> {
    parts: [Mutex<HashMap<Source, T>>; PARTS],
    hasher: RandomState,
}

impl<T> Default for Parts<T> {
    fn default() -> Self {
        Parts { parts: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new() }
    }
}

impl<T> Parts<T> {
    /// The part that an address is in, locked.
    pub(super) fn of(&self, source: Source) -> MutexGuard<'_, HashMap<Source, T>> {
        let n = self.hasher.hash_one(source) as usize % PARTS;
        let [first, ..] = &self.parts;
        self.parts.get(n).unwrap_or(first).lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every part, locked one after the other.
    pub(super) fn each(&self) -> impl Iterator<Item = MutexGuard<'_, HashMap<Source, T>>> {
        self.parts.iter().map(|part| part.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// When each address has used up what it may do (the generic cell rate algorithm: one number an address), ns.
#[derive(Debug, Default)]
pub(super) struct Rates(Parts<u64>);

impl Rates {
    /// True if an address may make another connection now, `rate` a second and `burst` at once.
    pub(super) fn take(&self, source: Source, rate: usize, burst: usize, now: u64) -> bool {
        let step = 1_000_000_000 / (rate as u64).max(1);
        let tolerance = step.saturating_mul((burst as u64).saturating_sub(1));
        let mut part = self.0.of(source);
        if part.len() >= MOST && !part.contains_key(&source) {
            // Who has waited long enough may do everything again, as somebody unknown.
            part.retain(|_, used_up| *used_up > now);
            if part.len() >= MOST {
                let first = part.iter().min_by_key(|(_, used_up)| **used_up).map(|(source, _)| *source);
                first.and_then(|first| part.remove(&first));
            }
        }
        let used_up = part.entry(source).or_insert(now);
        let from = (*used_up).max(now);
        if from - now > tolerance {
            return false;
        }
        *used_up = from + step;
        true
    }
}

/// Connections that have not logged in. Bounded by how many connections there are.
#[derive(Debug, Default)]
pub(super) struct Pending {
    all: AtomicUsize,
    of: Parts<usize>,
}

impl Pending {
    pub(super) fn all(&self) -> usize {
        self.all.load(Ordering::Relaxed)
    }

    /// One more; returns how many the address has now.
    pub(super) fn enter(&self, source: Option<Source>) -> usize {
        self.all.fetch_add(1, Ordering::Relaxed);
        let Some(source) = source else { return 0 };
        let mut part = self.of.of(source);
        let count = part.entry(source).or_default();
        *count += 1;
        *count
    }

    /// One less.
    pub(super) fn leave(&self, source: Option<Source>) {
        self.all.fetch_sub(1, Ordering::Relaxed);
        let Some(source) = source else { return };
        if let Entry::Occupied(mut entry) = self.of.of(source).entry(source) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(n: u32) -> Source {
        Source::of(std::net::Ipv4Addr::from_bits(n).into())
    }

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_is_let_in_and_then_as_many_as_the_rate_allows() {
        let rates = Rates::default();
        let taken = |count, now| (0..count).filter(|_| rates.take(source(1), 2, 5, now)).count();
        assert_eq!(taken(100, SECOND), 5, "the burst");
        assert_eq!(taken(100, 2 * SECOND), 2, "two a second");
        assert_eq!(taken(100, 2 * SECOND + SECOND / 2), 1);
        assert_eq!(taken(100, 100 * SECOND), 5, "the burst again, and no more");
        assert!(rates.take(source(2), 2, 5, 2 * SECOND), "others do not suffer");
    }

    #[test]
    fn a_flood_of_addresses_takes_bounded_memory_and_does_not_free_who_was_refused_last() {
        let rates = Rates::default();
        while rates.take(source(1), 1, 10, SECOND) {}
        for n in 2..70_000 {
            assert!(rates.take(source(n), 1, 10, SECOND));
        }
        assert!(!rates.take(source(1), 1, 10, SECOND), "it has the most to wait for, and is remembered longest");
        assert!(rates.0.each().all(|part| part.len() <= MOST));
    }

    #[test]
    fn who_has_left_leaves_nothing() {
        let pending = Pending::default();
        assert_eq!([1, 1, 2].map(|n| pending.enter(Some(source(n)))), [1, 2, 1]);
        assert_eq!(pending.enter(None), 0);
        assert_eq!(pending.all(), 4);
        for n in [1, 1, 2] {
            pending.leave(Some(source(n)));
        }
        pending.leave(None);
        assert_eq!(pending.all(), 0);
        assert!(pending.of.each().all(|part| part.is_empty()));
    }
}
