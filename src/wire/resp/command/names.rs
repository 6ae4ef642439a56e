//! From a name to a place in the table, without looking at letters one by one.
//!
//! A name of up to 16 bytes is one number, looked up in an open-addressed table that is at most half full. The few
//! longer names stand in a sorted list.

use std::cmp::Ordering;

/// Where a name means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// As a request's first word.
    Top,
    /// As the second word behind the container that stands at this place of the table.
    In(u16),
}

impl Place {
    #[inline]
    fn number(self) -> u64 {
        match self {
            Place::Top => 0,
            Place::In(index) => u64::from(index) + 1,
        }
    }

    /// Never 0 for a name that has a length.
    #[inline]
    fn key(self, len: usize) -> u64 {
        self.number() << 8 | len as u64
    }
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) index: u16,
    pub(super) is_container: bool,
}

/// Of the bytes of a name, the first eight and those behind them; bytes that are missing count as zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Bytes(u64, u64);

/// One short name.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// In small letters.
    bytes: Bytes,
    /// The bits by which the bytes may differ: capitals from small letters.
    free: Bytes,
    /// Where it means this, and how long it is; 0 in an empty slot.
    key: u64,
    named: Named,
}

#[derive(Debug, Clone)]
struct Long {
    place: Place,
    name: Box<[u8]>,
    named: Named,
}

/// A power of two that is known when this is compiled: no place can lie outside.
const SLOTS: usize = 4096;

/// Names that are taken; Redis 8 with its modules has some 600.
pub(super) const MOST_NAMES: usize = SLOTS / 2;

/// All names of a table.
#[derive(Debug, Clone)]
pub(super) struct Names {
    slots: Box<[Slot; SLOTS]>,
    long: Vec<Long>,
}

impl Names {
    pub(super) fn new() -> Names {
        Names { slots: Box::new([Slot::default(); SLOTS]), long: Vec::new() }
    }

    /// A name that stands there already keeps its meaning. `index` is below [`MOST_NAMES`], or it is not taken.
    pub(super) fn add(&mut self, place: Place, name: &[u8], index: usize) {
        if name.is_empty() || index >= MOST_NAMES || self.find(place, name).is_some() {
            return;
        }
        let named = Named { index: index as u16, is_container: false };
        let name = name.to_ascii_lowercase();
        let Some(bytes) = Bytes::of(&name) else {
            let name = name.into_boxed_slice();
            let at = self.long.partition_point(|long| long.compare(place, &name) == Ordering::Less);
            return self.long.insert(at, Long { place, name, named });
        };
        let mut at = bytes.start(place);
        while let Some(slot) = self.slots.get_mut(at % SLOTS) {
            if slot.key == 0 {
                *slot = Slot { bytes, free: bytes.letters(), key: place.key(name.len()), named };
                return;
            }
            at += 1;
        }
    }

    /// The command of this name has subcommands from now on; its place, or `None` if there is no such command.
    pub(super) fn become_container(&mut self, name: &[u8]) -> Option<u16> {
        let found = self.find(Place::Top, name)?;
        let short = self.slots.iter_mut().filter(|slot| slot.key != 0).map(|slot| &mut slot.named);
        for named in short.chain(self.long.iter_mut().map(|long| &mut long.named)) {
            named.is_container |= named.index == found.index;
        }
        Some(found.index)
    }

    #[inline]
    pub(super) fn find(&self, place: Place, name: &[u8]) -> Option<Named> {
        let Some(bytes) = Bytes::of(name) else { return self.find_long(place, name) };
        let key = place.key(name.len());
        let mut at = bytes.start(place);
        loop {
            let slot = self.slots.get(at % SLOTS)?;
            let low = (slot.bytes.0 ^ bytes.0) & !slot.free.0;
            let high = (slot.bytes.1 ^ bytes.1) & !slot.free.1;
            // One branch where a name is found at once, as nearly all are.
            if low | high | (slot.key ^ key) == 0 {
                return Some(slot.named);
            }
            if slot.key == 0 {
                return None;
            }
            at += 1;
        }
    }

    #[cold]
    fn find_long(&self, place: Place, name: &[u8]) -> Option<Named> {
        let at = self.long.binary_search_by(|long| long.compare(place, name)).ok()?;
        self.long.get(at).map(|long| long.named)
    }
}

impl Long {
    /// `name` in any case.
    fn compare(&self, place: Place, name: &[u8]) -> Ordering {
        let small = name.iter().map(u8::to_ascii_lowercase);
        self.place.cmp(&place).then_with(|| self.name.iter().copied().cmp(small))
    }
}

impl Bytes {
    /// `None` for none at all, which would look like an empty slot, and beyond 16.
    #[inline]
    fn of(name: &[u8]) -> Option<Bytes> {
        // GET and SET before all others.
        if let [a, b, c] = *name {
            return Some(Bytes(u64::from(u32::from_le_bytes([a, b, c, 0])), 0));
        }
        Some(match name.len() {
            // Two reads that overlap cover every length between theirs and its double.
            4..=7 => {
                let (first, last) = (name.first_chunk()?, name.last_chunk()?);
                let behind = u32::from_le_bytes(*last).checked_shr(8 * (8 - name.len() as u32));
                Bytes(u64::from(u32::from_le_bytes(*first)) | u64::from(behind.unwrap_or(0)) << 32, 0)
            }
            8..=16 => {
                let (first, last) = (name.first_chunk()?, name.last_chunk()?);
                let behind = u64::from_le_bytes(*last).checked_shr(8 * (16 - name.len() as u32));
                Bytes(u64::from_le_bytes(*first), behind.unwrap_or(0))
            }
            _ => match *name {
                [a, b] => Bytes(u64::from(u16::from_le_bytes([a, b])), 0),
                [a] => Bytes(u64::from(a), 0),
                _ => return None,
            },
        })
    }

    /// Where to begin to look: the same for capitals and small letters.
    #[inline]
    fn start(self, place: Place) -> usize {
        const SMALL: u64 = 0x2020_2020_2020_2020;
        let mixed = (self.0 | SMALL) ^ (self.1 | SMALL).rotate_left(23) ^ place.number();
        // The upper bits of a product depend on all bits of its factors.
        (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize
    }

    /// The bit that makes a small letter a capital, for each letter.
    fn letters(self) -> Bytes {
        let letters = |bytes: u64| {
            u64::from_le_bytes(bytes.to_le_bytes().map(|byte| if byte.is_ascii_lowercase() { 0x20 } else { 0 }))
        };
        Bytes(letters(self.0), letters(self.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_bytes_of_a_name_are_its_bytes(name in prop::collection::vec(any::<u8>(), 0..20)) {
            let mut expected = name.clone();
            expected.resize(16, 0);
            let found = Bytes::of(&name).map(|Bytes(low, high)| [low.to_le_bytes(), high.to_le_bytes()].concat());
            prop_assert_eq!(found, (1..=16).contains(&name.len()).then_some(expected));
        }

        #[test]
        fn bytes_are_a_name_only_if_they_differ_by_case(
            name in "[a-z_.|0-9-]{1,20}",
            damage in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 0..4),
        ) {
            let mut table = Names::new();
            table.add(Place::Top, name.as_bytes(), 1);
            let mut other = name.clone().into_bytes();
            for (at, bit) in damage {
                other[at.index(name.len())] ^= 1 << bit;
            }
            prop_assert_eq!(table.find(Place::Top, &other).is_some(), other.eq_ignore_ascii_case(name.as_bytes()));
        }

        #[test]
        fn what_was_added_is_found_and_nothing_else(
            names in prop::collection::hash_set("[a-z]{1,20}", 0..300),
            others in prop::collection::vec("[a-z]{1,20}", 0..50),
        ) {
            let names: Vec<String> = names.into_iter().collect();
            let mut table = Names::new();
            for (index, name) in names.iter().enumerate() {
                table.add(if index % 2 == 0 { Place::Top } else { Place::In(7) }, name.as_bytes(), index);
            }
            for (index, name) in names.iter().enumerate() {
                let (place, other) = if index % 2 == 0 { (Place::Top, Place::In(7)) } else { (Place::In(7), Place::Top) };
                let found = table.find(place, name.to_ascii_uppercase().as_bytes());
                prop_assert_eq!(found.map(|named| usize::from(named.index)), Some(index));
                prop_assert_eq!(table.find(other, name.as_bytes()), None);
                prop_assert_eq!(table.find(Place::In(8), name.as_bytes()), None);
            }
            for other in others.iter().filter(|other| !names.contains(other)) {
                prop_assert_eq!(table.find(Place::Top, other.as_bytes()), None);
            }
        }
    }
}
