//! The most frequent of very many things, in little room: Space-Saving (Metwally, Agrawal, El Abbadi: Efficient
//! Computation of Frequent and Top-k Elements in Data Streams, 2005) with weights, and with counts that fade.
//!
//! Invariant, for what was added as it was added: an estimate is never below the true count, and by no more above it
//! than its `error`, which is at most the sum of all weights divided by [`Sketch::most`]. So whatever has a larger share
//! of all than 1/`most` is here.
//!
//! Written here, in a hundred lines: counts that fade, weights with their variance, and reads apart from writes would have
//! to be put around a ready-made one.

use rustc_hash::FxHashMap;

/// What falls below this is dropped: it was used less than once, by today's weight.
const LEAST: f64 = 0.5;

/// What tells keys apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId {
    /// Database.
    pub db: u32,
    /// Of the whole key, by a function that nobody outside knows: so the two of different keys are different.
    pub hash: u64,
}

/// What is known of a key.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// How often it was used, at the most.
    pub estimate: f64,
    /// By how much that may be too high.
    pub error: f64,
    /// Of what `estimate` has beyond `error`: how much it may differ from what was not looked at, squared.
    pub variance: f64,
    /// What of it was seen to write.
    pub writes: f64,
    /// Beginning of the key.
    pub key: Box<[u8]>,
    /// Length of the whole key, bytes.
    pub len: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Sketch {
    most: usize,
    entries: FxHashMap<KeyId, Entry>,
    /// All weights, faded as the counts are.
    total: f64,
}

impl Sketch {
    /// One that keeps `most` entries.
    pub fn new(most: usize) -> Self {
        Sketch { most: most.max(1), entries: FxHashMap::default(), total: 0.0 }
    }

    /// A key was used; this use counts for `weight` uses, of which the others were not looked at. `key` is asked for its
    /// bytes to keep, and its whole length, if it is new.
    pub fn add(&mut self, id: KeyId, weight: f64, is_write: bool, key: impl FnOnce() -> (Box<[u8]>, usize)) {
        self.total += weight;
        // Of `weight` uses one was drawn: the variance of counting it for all of them.
        let variance = weight * (weight - 1.0);
        let writes = if is_write { weight } else { 0.0 };
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.estimate += weight;
            entry.variance += variance;
            entry.writes += writes;
            return;
        }
        let floor = if self.entries.len() >= self.most { self.replace_least() } else { 0.0 };
        let (key, len) = key();
        self.entries.insert(id, Entry { estimate: floor + weight, error: floor, variance, writes, key, len });
    }

    /// Takes the least one out, and tells its estimate: whoever is not here was used no more often.
    fn replace_least(&mut self) -> f64 {
        let least = self.entries.iter().min_by(|a, b| a.1.estimate.total_cmp(&b.1.estimate));
        let Some((id, floor)) = least.map(|(id, entry)| (*id, entry.estimate)) else { return 0.0 };
        self.entries.remove(&id);
        floor
    }

    /// Everything counts for `share` of what it has.
    pub fn fade(&mut self, share: f64) {
        self.total *= share;
        self.entries.retain(|_, entry| {
            entry.estimate *= share;
            entry.error *= share;
            entry.writes *= share;
            entry.variance *= share * share;
            entry.estimate >= LEAST
        });
    }

    /// Forgets everything, and gives its room back.
    pub fn clear(&mut self) {
        *self = Sketch::new(self.most);
    }

    /// How many entries it keeps at the most.
    pub fn most(&self) -> usize {
        self.most
    }

    /// All that it has, in no order.
    pub fn entries(&self) -> impl Iterator<Item = (KeyId, &Entry)> {
        self.entries.iter().map(|(id, entry)| (*id, entry))
    }

    /// All weights.
    pub fn total(&self) -> f64 {
        self.total
    }

    /// How often something that is not here may have been used.
    pub fn floor(&self) -> f64 {
        if self.entries.len() < self.most {
            return 0.0;
        }
        self.entries.values().map(|entry| entry.estimate).fold(f64::INFINITY, f64::min)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn id(n: u64) -> KeyId {
        KeyId { db: 0, hash: n }
    }

    fn add(sketch: &mut Sketch, n: u64, weight: f64) {
        sketch.add(id(n), weight, n.is_multiple_of(2), || (n.to_le_bytes().into(), 8));
    }

    fn estimate(sketch: &Sketch, n: u64) -> Option<f64> {
        sketch.entries().find(|(known, _)| *known == id(n)).map(|(_, entry)| entry.estimate)
    }

    #[test]
    fn a_hot_key_is_found_among_many_others() {
        let mut sketch = Sketch::new(64);
        for n in 0..100_000 {
            add(&mut sketch, if n % 20 == 0 { 7 } else { 1000 + n }, 1.0);
        }
        let best = sketch.entries().max_by(|a, b| a.1.estimate.total_cmp(&b.1.estimate)).expect("some");
        assert_eq!(best.0, id(7));
        assert!(best.1.estimate >= 5000.0 && best.1.estimate - best.1.error <= 5000.0, "{:?}", best.1);
        assert_eq!(sketch.entries().count(), 64);
        assert_eq!(sketch.total(), 100_000.0);
    }

    #[test]
    fn what_is_not_used_any_more_fades_and_leaves() {
        let mut sketch = Sketch::new(8);
        (0..1000).for_each(|_| add(&mut sketch, 1, 1.0));
        for _ in 0..10 {
            sketch.fade(0.5);
            add(&mut sketch, 2, 10.0);
        }
        assert!(estimate(&sketch, 1).expect("still there") < 1.0);
        assert!(estimate(&sketch, 2).expect("there") > 19.0);
        sketch.fade(0.5);
        assert_eq!(estimate(&sketch, 1), None);
        (0..12).for_each(|_| sketch.fade(0.5));
        assert_eq!(sketch.entries().count(), 0);
    }

    proptest! {
        #[test]
        fn an_estimate_is_never_too_low_and_too_high_by_its_error_at_most(
            stream in prop::collection::vec((0u64..40, 1u32..9), 1..600),
            most in 1usize..30,
        ) {
            let mut sketch = Sketch::new(most);
            let mut truth: HashMap<u64, f64> = HashMap::new();
            for (n, weight) in &stream {
                add(&mut sketch, *n, f64::from(*weight));
                *truth.entry(*n).or_default() += f64::from(*weight);
            }
            let total: f64 = truth.values().sum();
            prop_assert_eq!(sketch.total(), total);
            prop_assert!(sketch.entries().count() <= most);
            for (known, entry) in sketch.entries() {
                let truth = truth[&known.hash];
                prop_assert!(entry.estimate >= truth, "{} of {truth}", entry.estimate);
                prop_assert!(entry.estimate - entry.error <= truth, "{entry:?} of {truth}");
                prop_assert!(entry.error <= total / most as f64, "{entry:?} of {total}");
                prop_assert!(entry.writes <= truth);
            }
            for (n, truth) in truth {
                if estimate(&sketch, n).is_none() {
                    prop_assert!(truth <= sketch.floor() && truth <= total / most as f64, "{n}: {truth}");
                }
            }
        }

        #[test]
        fn fading_keeps_the_bounds(
            stream in prop::collection::vec((0u64..40, 1u32..9, 0u8..20), 1..600),
            most in 1usize..30,
        ) {
            let mut sketch = Sketch::new(most);
            let mut truth: HashMap<u64, f64> = HashMap::new();
            for (n, weight, fades) in &stream {
                if *fades == 0 {
                    sketch.fade(0.75);
                    truth.values_mut().for_each(|count| *count *= 0.75);
                }
                add(&mut sketch, *n, f64::from(*weight));
                *truth.entry(*n).or_default() += f64::from(*weight);
            }
            for (known, entry) in sketch.entries() {
                let truth = truth[&known.hash];
                prop_assert!(entry.estimate >= truth - LEAST, "{} of {truth}", entry.estimate);
                prop_assert!(entry.estimate - entry.error <= truth + 1e-6, "{entry:?} of {truth}");
            }
        }
    }
}
