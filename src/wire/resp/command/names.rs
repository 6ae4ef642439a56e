//! From a name to a place in the table, without looking at letters one by one.
//!
//! A name of up to 16 bytes is one number: its bytes, capitals made small. It is looked up in an open-addressed table
//! that is at most a quarter full. The few longer names stand in a sorted list.

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
    fn number(self) -> u32 {
        match self {
            Place::Top => 0,
            Place::In(index) => u32::from(index) + 1,
        }
    }
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) index: u16,
    pub(super) is_container: bool,
}

/// Empty if `len` is 0: no command has an empty name.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    low: u64,
    high: u64,
    place: u32,
    len: u8,
    is_container: bool,
    index: u16,
}

#[derive(Debug, Clone)]
struct Long {
    place: Place,
    name: Box<[u8]>,
    named: Named,
}

/// All names of a table.
#[derive(Debug, Clone)]
pub(super) struct Names {
    /// A power of two.
    slots: Box<[Slot]>,
    long: Vec<Long>,
}

impl Names {
    /// Holds up to this many names.
    pub(super) fn with_capacity(names: usize) -> Names {
        let slots = (names * 4).next_power_of_two().max(16);
        Names { slots: vec![Slot::default(); slots].into_boxed_slice(), long: Vec::new() }
    }

    /// A name that stands there already keeps its meaning; an index beyond 65,535 is not taken.
    pub(super) fn add(&mut self, place: Place, name: &[u8], index: usize) {
        let Ok(index) = u16::try_from(index) else { return };
        let named = Named { index, is_container: false };
        if name.is_empty() || self.find(place, name).is_some() {
            return;
        }
        let Some((low, high)) = fold(name) else {
            let name = name.to_ascii_lowercase().into_boxed_slice();
            let at = self.long.partition_point(|long| long.compare(place, &name) == Ordering::Less);
            return self.long.insert(at, Long { place, name, named });
        };
        let mut at = self.start(place, low, high);
        while let Some(slot) = self.slots.get_mut(at & (self.slots.len() - 1)) {
            if slot.len == 0 {
                let len = name.len() as u8;
                *slot = Slot { low, high, place: place.number(), len, is_container: false, index };
                return;
            }
            at += 1;
        }
    }

    /// The command of this name has subcommands from now on; its place, or `None` if there is no such command.
    pub(super) fn become_container(&mut self, name: &[u8]) -> Option<u16> {
        let found = self.find(Place::Top, name)?;
        let slots = self.slots.iter_mut().filter(|slot| slot.len > 0 && slot.place == Place::Top.number());
        slots.filter(|slot| slot.index == found.index).for_each(|slot| slot.is_container = true);
        let long = self.long.iter_mut().filter(|long| long.place == Place::Top);
        long.filter(|long| long.named.index == found.index).for_each(|long| long.named.is_container = true);
        Some(found.index)
    }

    #[inline]
    pub(super) fn find(&self, place: Place, name: &[u8]) -> Option<Named> {
        let Some((low, high)) = fold(name) else { return self.find_long(place, name) };
        let mut at = self.start(place, low, high);
        loop {
            let slot = self.slots.get(at & (self.slots.len() - 1))?;
            if slot.len == 0 {
                return None;
            }
            if slot.low == low
                && slot.high == high
                && usize::from(slot.len) == name.len()
                && slot.place == place.number()
            {
                return Some(Named { index: slot.index, is_container: slot.is_container });
            }
            at += 1;
        }
    }

    #[inline]
    fn start(&self, place: Place, low: u64, high: u64) -> usize {
        let mixed = (low ^ high.rotate_left(23) ^ u64::from(place.number())).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // The upper bits depend on all bytes.
        (mixed >> 40) as usize
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

/// The bytes of a name as a number, low part first, capitals made small; `None` beyond 16 bytes. Names of different
/// lengths may be the same number: bytes that are missing count as zero.
#[inline]
fn fold(name: &[u8]) -> Option<(u64, u64)> {
    let (low, high) = match name.len() {
        // Two reads that overlap cover every length between theirs and its double.
        8..=16 => {
            let (first, last) = (name.first_chunk()?, name.last_chunk()?);
            let beyond = u64::from_le_bytes(*last).checked_shr(8 * (16 - name.len() as u32));
            (u64::from_le_bytes(*first), small(beyond.unwrap_or(0)))
        }
        4..=7 => {
            let (first, last) = (name.first_chunk()?, name.last_chunk()?);
            let beyond = u32::from_le_bytes(*last).checked_shr(8 * (8 - name.len() as u32));
            (u64::from(u32::from_le_bytes(*first)) | u64::from(beyond.unwrap_or(0)) << 32, 0)
        }
        _ => match *name {
            [a, b, c] => (u64::from(u32::from_le_bytes([a, b, c, 0])), 0),
            [a, b] => (u64::from(u16::from_le_bytes([a, b])), 0),
            [a] => (u64::from(a), 0),
            [] => (0, 0),
            _ => return None,
        },
    };
    Some((small(low), high))
}

/// Makes the capital letters among eight bytes small, all at once; other bytes stay as they are.
#[inline]
fn small(bytes: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const TOP: u64 = 0x80 * EACH;
    let low = bytes & !TOP;
    // The top bit of each byte says: at least `A`, more than `Z`. Seven bits plus at most 0x3f carry into no neighbour.
    let from_a = low + (0x80 - b'A' as u64) * EACH;
    let past_z = low + (0x7f - b'Z' as u64) * EACH;
    let is_capital = (from_a ^ past_z) & !bytes & TOP;
    bytes | is_capital >> 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes_of(low: u64, high: u64) -> Vec<u8> {
        [low.to_le_bytes(), high.to_le_bytes()].concat()
    }

    #[test]
    fn every_byte_is_made_small_as_ascii_says() {
        for byte in 0..=255u8 {
            let expected = u64::from_le_bytes([byte.to_ascii_lowercase(); 8]);
            assert_eq!(small(u64::from_le_bytes([byte; 8])), expected, "{byte:#x}");
        }
    }

    proptest! {
        #[test]
        fn a_name_is_its_bytes_in_small(name in prop::collection::vec(any::<u8>(), 0..20)) {
            let mut expected = name.to_ascii_lowercase();
            expected.resize(16, 0);
            let folded = fold(&name).map(|(low, high)| bytes_of(low, high));
            prop_assert_eq!(folded, (name.len() <= 16).then_some(expected));
        }

        #[test]
        fn what_was_added_is_found_and_nothing_else(
            names in prop::collection::hash_set("[a-z]{1,20}", 0..300),
            others in prop::collection::vec("[a-z]{1,20}", 0..50),
        ) {
            let names: Vec<String> = names.into_iter().collect();
            let mut table = Names::with_capacity(names.len());
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
