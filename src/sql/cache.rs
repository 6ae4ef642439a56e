//! Verdicts of statements seen before.
//!
//! Owns a bounded table from text to verdict, one per core. Short texts are classified faster than they are looked up
//! and long ones would crowd out the others, so both pass it by. The whole text is compared, never only its hash: a
//! collision must not route a write as a read. It also remembers which statements a replica refused.

use std::hash::Hasher;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHasher};

use super::{Access, Reason, Verdict};

/// Texts shorter than this are not kept, in bytes.
pub const SHORTEST: usize = 64;
/// Texts longer than this are not kept, in bytes.
pub const LONGEST: usize = 16 * 1024;
/// How many bytes of text the table holds on average for each entry of its capacity.
const BYTES_PER_ENTRY: usize = 2048;

/// Verdicts by text, with clock eviction.
#[derive(Debug)]
pub struct VerdictCache {
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    by_hash: FxHashMap<u64, usize>,
    capacity: usize,
    bytes: usize,
    most_bytes: usize,
    hand: usize,
    generation: u64,
    /// Remembered writes too short to be kept otherwise: as long as there are none, short texts need no look-up.
    short_writes: usize,
    /// The last verdict that was not kept.
    scratch: Arc<Verdict>,
}

#[derive(Debug)]
struct Slot {
    hash: u64,
    text: Box<[u8]>,
    generation: u64,
    /// `None` if a write was remembered before the statement was classified.
    verdict: Option<Arc<Verdict>>,
    refused: bool,
    /// Used since the hand passed by.
    used: bool,
}

impl VerdictCache {
    /// Room for `capacity` statements (at least one) and on average 2 KiB of text for each.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_hash: FxHashMap::default(),
            capacity,
            bytes: 0,
            most_bytes: capacity.saturating_mul(BYTES_PER_ENTRY).max(LONGEST),
            hand: 0,
            generation: 0,
            short_writes: 0,
            scratch: Arc::new(Verdict::not_examined()),
        }
    }

    /// The verdict on `text`, from the table if it was made under the same `generation` of the catalog, else by `make`.
    pub fn lookup_or(&mut self, text: &[u8], generation: u64, make: impl FnOnce() -> Verdict) -> &Arc<Verdict> {
        self.generation = generation;
        if !(text.len() >= SHORTEST || self.short_writes > 0) || text.len() > LONGEST {
            return pass(&mut self.scratch, make());
        }
        let hash = hash(text);
        let found = self.find(hash, text);
        if found.is_none() && text.len() < SHORTEST {
            return pass(&mut self.scratch, make());
        }
        let at = match found {
            Some(at) => at,
            None => self.insert(hash, text),
        };
        let short = text.len() < SHORTEST;
        let Some(Some(slot)) = self.slots.get_mut(at) else {
            return pass(&mut self.scratch, make());
        };
        slot.used = true;
        if slot.generation != generation {
            slot.generation = generation;
            slot.verdict = None;
            if slot.refused && short {
                self.short_writes -= 1;
            }
            slot.refused = false;
        }
        let refused = slot.refused;
        slot.verdict.get_or_insert_with(|| Arc::new(if refused { refuse(&make()) } else { make() }))
    }

    /// From now on `text` is a write, because a replica refused it, until the generation changes or it is evicted.
    /// Texts of more than 16 KiB are not remembered.
    pub fn remember_write(&mut self, text: &[u8]) {
        if text.len() > LONGEST {
            return;
        }
        let hash = hash(text);
        let generation = self.generation;
        let at = match self.find(hash, text) {
            Some(at) => at,
            None => self.insert(hash, text),
        };
        let Some(Some(slot)) = self.slots.get_mut(at) else {
            return;
        };
        slot.used = true;
        if slot.generation != generation {
            slot.generation = generation;
            slot.verdict = None;
        }
        if !slot.refused {
            slot.refused = true;
            self.short_writes += usize::from(text.len() < SHORTEST);
        }
        slot.verdict = slot.verdict.take().map(|verdict| Arc::new(refuse(&verdict)));
    }

    /// How many statements it holds.
    pub fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.by_hash.is_empty()
    }

    /// How many bytes of text it holds.
    pub fn text_bytes(&self) -> usize {
        self.bytes
    }

    fn find(&self, hash: u64, text: &[u8]) -> Option<usize> {
        let at = *self.by_hash.get(&hash)?;
        let slot = self.slots.get(at)?.as_ref()?;
        (*slot.text == *text).then_some(at)
    }

    /// Makes a slot for a text that has none.
    fn insert(&mut self, hash: u64, text: &[u8]) -> usize {
        // Another text of the same hash gives way; only somebody who makes such texts up will see it happen.
        if let Some(&at) = self.by_hash.get(&hash) {
            self.evict(at);
        }
        while self.len() >= self.capacity || self.bytes + text.len() > self.most_bytes {
            let at = self.victim();
            self.evict(at);
        }
        let slot = Some(Slot {
            hash,
            text: text.into(),
            generation: self.generation,
            verdict: None,
            refused: false,
            used: false,
        });
        self.bytes += text.len();
        let at = self.free.pop().unwrap_or(self.slots.len());
        match self.slots.get_mut(at) {
            Some(place) => *place = slot,
            None => self.slots.push(slot),
        }
        self.by_hash.insert(hash, at);
        at
    }

    /// The next slot that nobody used since the hand passed it. There must be one that is taken.
    fn victim(&mut self) -> usize {
        loop {
            let at = self.hand;
            self.hand = if at + 1 < self.slots.len() { at + 1 } else { 0 };
            match self.slots.get_mut(at) {
                Some(Some(slot)) if slot.used => slot.used = false,
                Some(None) => {}
                Some(Some(_)) | None => return at,
            }
        }
    }

    fn evict(&mut self, at: usize) {
        let Some(slot) = self.slots.get_mut(at).and_then(Option::take) else {
            return;
        };
        self.by_hash.remove(&slot.hash);
        self.free.push(at);
        self.bytes -= slot.text.len();
        self.short_writes -= usize::from(slot.refused && slot.text.len() < SHORTEST);
    }
}

fn hash(text: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(text);
    hasher.finish()
}

/// A verdict that is not kept. Its place is used again once nobody holds the last one, without an allocation.
fn pass(place: &mut Arc<Verdict>, verdict: Verdict) -> &Arc<Verdict> {
    match Arc::get_mut(place) {
        Some(last) => *last = verdict,
        None => *place = Arc::new(verdict),
    }
    place
}

fn refuse(verdict: &Verdict) -> Verdict {
    Verdict { access: Access::Write, reason: Reason::RefusedByReplica, ..verdict.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{Effects, Kind};
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn read() -> Verdict {
        Verdict { access: Access::Read, reason: Reason::Read, kind: Kind::Other, hint: None, effects: Effects::empty() }
    }

    fn text(n: usize) -> Vec<u8> {
        format!("SELECT {n:0>80}").into_bytes()
    }

    #[test]
    fn a_text_is_classified_once_per_generation() {
        let mut cache = VerdictCache::new(8);
        let mut made = 0;
        for generation in [1, 1, 2, 2, 2] {
            cache.lookup_or(&text(1), generation, || {
                made += 1;
                read()
            });
        }
        assert_eq!(made, 2, "once for each of two generations");
    }

    #[test]
    fn short_and_very_long_texts_are_not_kept() {
        let mut cache = VerdictCache::new(8);
        let long = vec![b'x'; LONGEST + 1];
        for text in [b"SELECT 1".as_slice(), &long] {
            assert_eq!(cache.lookup_or(text, 1, read).access, Access::Read);
        }
        assert!(cache.is_empty());
    }

    #[test]
    fn a_refused_text_stays_a_write_until_the_generation_changes() {
        for known_before in [true, false] {
            for text in [b"SELECT f()".to_vec(), text(1)] {
                let mut cache = VerdictCache::new(8);
                cache.lookup_or(b"SELECT 2", 7, read);
                if known_before {
                    assert_eq!(cache.lookup_or(&text, 7, read).access, Access::Read);
                }
                cache.remember_write(&text);
                for _ in 0..3 {
                    let verdict = cache.lookup_or(&text, 7, read);
                    assert_eq!(verdict.access, Access::Write);
                    assert_eq!(verdict.reason, Reason::RefusedByReplica);
                }
                assert_eq!(cache.lookup_or(b"SELECT g()", 7, read).access, Access::Read);
                assert_eq!(cache.lookup_or(&text, 8, read).access, Access::Read);
                cache.remember_write(&text);
                assert_eq!(cache.lookup_or(&text, 8, read).access, Access::Write);
            }
        }
    }

    #[test]
    fn what_is_used_survives_what_is_not() {
        let mut cache = VerdictCache::new(4);
        for n in 0..4 {
            cache.lookup_or(&text(n), 1, read);
        }
        for n in 4..50 {
            cache.lookup_or(&text(0), 1, read);
            cache.lookup_or(&text(n), 1, read);
        }
        cache.lookup_or(&text(0), 1, || panic!("the text in steady use was evicted"));
        assert_eq!(cache.len(), 4);
    }

    #[test]
    fn bytes_are_bounded() {
        let mut cache = VerdictCache::new(16);
        for n in 0..100usize {
            let mut long = text(n);
            long.resize(LONGEST, b' ');
            cache.lookup_or(&long, 1, read);
            assert!(cache.text_bytes() <= 16 * BYTES_PER_ENTRY, "{} bytes", cache.text_bytes());
        }
        assert!(!cache.is_empty());
    }

    proptest! {
        #[test]
        fn it_answers_as_a_map_that_forgets(
            steps in proptest::collection::vec((0usize..24, 0u8..8, 1u64..3), 0..300),
            capacity in 1usize..12,
        ) {
            let mut cache = VerdictCache::new(capacity);
            let mut refused: HashMap<Vec<u8>, u64> = HashMap::new();
            let mut generation = 1;
            for (n, action, next) in steps {
                let text = if n < 4 { format!("SELECT {n}").into_bytes() } else { text(n) };
                if action == 0 {
                    generation = next;
                } else if action == 1 {
                    cache.remember_write(&text);
                    refused.insert(text, cache.generation);
                } else {
                    let made = Verdict { kind: Kind::Show(n.to_string()), ..read() };
                    let verdict = cache.lookup_or(&text, generation, || made.clone()).clone();
                    prop_assert_eq!(&verdict.kind, &made.kind, "a verdict of another text");
                    if verdict.access == Access::Write {
                        prop_assert_eq!(refused.get(&text), Some(&generation), "nobody refused it");
                    }
                }
                prop_assert!(cache.len() <= capacity);
            }
        }
    }
}
