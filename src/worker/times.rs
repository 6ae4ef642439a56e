//! How long things took, counted by powers of two: a few instructions each, and exact enough to tell 2 ms from 20.

use std::cell::Cell;
use std::ops::AddAssign;

/// One for each power of two that nanoseconds in 64 bits have.
const BUCKETS: usize = 64;

/// Counts of one thread.
#[derive(Debug)]
pub struct Times([Cell<u64>; BUCKETS]);

impl Default for Times {
    fn default() -> Self {
        Times([const { Cell::new(0) }; BUCKETS])
    }
}

impl Times {
    /// Counts one of so many ns.
    #[inline]
    pub fn add(&self, ns: u64) {
        if let Some(cell) = self.0.get((ns | 1).ilog2() as usize) {
            cell.set(cell.get().wrapping_add(1));
        }
    }

    /// A copy.
    pub fn durations(&self) -> Durations {
        Durations(std::array::from_fn(|i| self.0.get(i).map_or(0, Cell::get)))
    }
}

/// A plain copy of [`Times`], added up over threads. The entry with index `i` counts times of at least 2^i ns and less
/// than 2^(i+1) ns; the first also those of 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durations(pub [u64; BUCKETS]);

impl Default for Durations {
    fn default() -> Self {
        Durations([0; BUCKETS])
    }
}

impl AddAssign for Durations {
    fn add_assign(&mut self, other: Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }
}

impl Durations {
    /// Counts so many of so many ns.
    pub fn add(&mut self, ns: u64, count: u64) {
        if let Some(entry) = self.0.get_mut((ns | 1).ilog2() as usize) {
            *entry += count;
        }
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// What has been added since an earlier copy.
    pub fn since(&self, earlier: &Durations) -> Durations {
        let mut grown = *self;
        for (mine, theirs) in grown.0.iter_mut().zip(earlier.0) {
            *mine = mine.saturating_sub(theirs);
        }
        grown
    }

    /// The time in ns that a share of them (0 to 1) did not exceed, between the bounds of its bucket in proportion;
    /// `None` if there were none.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let count = self.count();
        let wanted = (share.clamp(0.0, 1.0) * count as f64).max(1.0);
        let mut before = 0.0;
        for (i, &in_bucket) in self.0.iter().enumerate() {
            let here = in_bucket as f64;
            if in_bucket > 0 && before + here >= wanted {
                let low = if i == 0 { 0.0 } else { (1u64 << i) as f64 };
                let width = (1u64 << i) as f64;
                return Some((low + width * (wanted - before) / here) as u64);
            }
            before += here;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_counted_between_its_powers_of_two() {
        let times = Times::default();
        for ns in [0, 1, 2, 3, 4, 1023, 1024, u64::MAX] {
            times.add(ns);
        }
        let counted = times.durations();
        assert_eq!((counted.0[0], counted.0[1], counted.0[2], counted.0[9], counted.0[10]), (2, 2, 1, 1, 1));
        assert_eq!((counted.0[63], counted.count()), (1, 8));
    }

    #[test]
    fn a_quantile_lies_within_the_bucket_that_has_it() {
        assert_eq!(Durations::default().quantile(0.5), None);
        let times = Times::default();
        (0..99).for_each(|_| times.add(1_000_000));
        times.add(900_000_000);
        let counted = times.durations();
        let (half, most) = (counted.quantile(0.5).unwrap(), counted.quantile(0.999).unwrap());
        assert!((524_288..=1_048_576).contains(&half), "{half}");
        assert!((536_870_912..=1_073_741_824).contains(&most), "{most}");
    }

    #[test]
    fn what_was_there_before_is_not_counted_again() {
        let times = Times::default();
        times.add(5);
        let earlier = times.durations();
        times.add(5);
        times.add(500);
        assert_eq!(times.durations().since(&earlier).count(), 2);
    }
}
