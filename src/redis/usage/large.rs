//! The keys with the largest values: what one request or one reply about a key has carried, bytes.

use super::sketch::KeyId;

/// Keys that are kept, by service and thread.
const MOST: usize = 64;
/// What carries less is not looked at, bytes: most values are smaller, and looking would cost more than relaying them.
pub const LARGE: u64 = 4096;
/// What was not seen for so long leaves, ns.
const FORGET: u64 = 3_600_000_000_000;

/// One key.
#[derive(Debug, Clone, PartialEq)]
pub struct LargeKey {
    /// Which it is.
    pub id: KeyId,
    /// Beginning of the key.
    pub key: Box<[u8]>,
    /// Length of the whole key, bytes.
    pub len: usize,
    /// The most that a request or a reply has carried.
    pub bytes: u64,
    /// The command that did.
    pub command: Box<str>,
    /// When as much was carried last, ns.
    pub seen: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct LargeKeys {
    keys: Vec<LargeKey>,
}

impl LargeKeys {
    /// So many bytes were carried. `make` makes the entry if there is none.
    pub fn add(&mut self, id: KeyId, bytes: u64, now: u64, make: impl FnOnce() -> LargeKey) {
        if let Some(known) = self.keys.iter_mut().find(|known| known.id == id) {
            if bytes >= known.bytes {
                *known = LargeKey { bytes, seen: now, ..make() };
            }
            return;
        }
        if bytes < self.least() {
            return;
        }
        if self.keys.len() >= MOST
            && let Some((least, _)) = self.keys.iter().enumerate().min_by_key(|(_, known)| known.bytes)
        {
            self.keys.swap_remove(least);
        }
        self.keys.push(make());
    }

    /// What carries less is of no interest.
    pub fn least(&self) -> u64 {
        if self.keys.len() < MOST {
            return LARGE;
        }
        self.keys.iter().map(|known| known.bytes).min().unwrap_or(LARGE) + 1
    }

    /// Drops what was not seen for long.
    pub fn forget_old(&mut self, now: u64) {
        self.keys.retain(|known| now.saturating_sub(known.seen) < FORGET);
    }

    /// All of them, in no order.
    pub fn all(&self) -> &[LargeKey] {
        &self.keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(keys: &mut LargeKeys, n: u64, bytes: u64, now: u64) {
        let id = KeyId { db: 0, hash: n };
        keys.add(id, bytes, now, || LargeKey {
            id,
            key: Box::default(),
            len: 0,
            bytes,
            command: "get".into(),
            seen: now,
        });
    }

    fn sizes(keys: &LargeKeys) -> Vec<u64> {
        let mut sizes: Vec<u64> = keys.all().iter().map(|known| known.bytes).collect();
        sizes.sort_unstable();
        sizes
    }

    #[test]
    fn the_largest_stay_and_each_key_has_its_largest() {
        let mut keys = LargeKeys::default();
        (0..1000).for_each(|n| add(&mut keys, n, LARGE + (n * 7919) % 1000, 1));
        assert_eq!(sizes(&keys), (LARGE + 1000 - MOST as u64..LARGE + 1000).collect::<Vec<_>>());
        assert_eq!(keys.least(), LARGE + 1000 - MOST as u64 + 1);
        add(&mut keys, 5000, LARGE, 1);
        assert_eq!(keys.all().len(), MOST);
        assert!(sizes(&keys)[0] > LARGE);
    }

    #[test]
    fn a_key_that_is_not_large_any_more_leaves() {
        let mut keys = LargeKeys::default();
        add(&mut keys, 1, 9000, 5);
        add(&mut keys, 1, 8000, FORGET);
        assert_eq!(sizes(&keys), [9000], "the largest counts");
        add(&mut keys, 2, 9000, FORGET);
        keys.forget_old(FORGET + 5);
        assert_eq!(keys.all().iter().map(|known| known.id.hash).collect::<Vec<_>>(), [2]);
    }
}
