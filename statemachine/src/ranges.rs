//! Sets of numbers stored as ranges: the free addresses of a block, the never-used blocks of a group. Numbers are
//! offsets (`u128`, wide enough for IPv6).

use imbl::OrdMap;

/// A persistent set of `u128`, as disjoint, non-adjacent, inclusive ranges. All operations are
/// O(log n) in the number of ranges; a clone is O(1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RangeSet {
    /// First number of a range → its last.
    ranges: OrdMap<u128, u128>,
}

impl RangeSet {
    /// The set of all numbers from `first` to `last`; empty when `first > last`.
    pub(crate) fn of(first: u128, last: u128) -> Self {
        let mut set = Self::default();
        if first <= last {
            set.ranges.insert(first, last);
        }
        set
    }

    /// The smallest member that is at least `from`.
    pub(crate) fn first_from(&self, from: u128) -> Option<u128> {
        match self.ranges.get_prev(&from) {
            Some((_, last)) if *last >= from => Some(from),
            _ => self.ranges.get_next(&from).map(|(first, _)| *first),
        }
    }

    /// Whether `n` is a member.
    pub(crate) fn contains(&self, n: u128) -> bool {
        self.first_from(n) == Some(n)
    }

    /// Whether there is no member.
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Removes `n`. Returns whether it was a member.
    pub(crate) fn remove(&mut self, n: u128) -> bool {
        let Some((first, last)) = self.range_of(n) else { return false };
        self.ranges.remove(&first);
        if first < n {
            self.ranges.insert(first, n - 1);
        }
        if n < last {
            self.ranges.insert(n + 1, last);
        }
        true
    }

    /// Inserts `n`, merging adjacent ranges. Returns whether it was new.
    pub(crate) fn insert(&mut self, n: u128) -> bool {
        if self.contains(n) {
            return false;
        }
        let before = n.checked_sub(1).and_then(|below| self.range_of(below));
        let after = n.checked_add(1).and_then(|above| self.range_of(above));
        let first = before.map_or(n, |(first, _)| first);
        let last = after.map_or(n, |(_, last)| last);
        if after.is_some() {
            self.ranges.remove(&(n + 1));
        }
        self.ranges.insert(first, last);
        true
    }

    /// The ranges in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u128, u128)> {
        self.ranges.iter().map(|(first, last)| (*first, *last))
    }

    fn range_of(&self, n: u128) -> Option<(u128, u128)> {
        self.ranges.get_prev(&n).filter(|(_, last)| **last >= n).map(|(f, l)| (*f, *l))
    }
}

/// Blocks of up to this many addresses use a bitmap.
const BITS: u128 = 64;

/// The free offsets of one block: a bitmap for small blocks (nearly all), ranges for large ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FreeSet {
    Bits(u64),
    Ranges(RangeSet),
}

impl FreeSet {
    /// All offsets from `first` to `last` of a block with `size` addresses.
    pub(crate) fn of(size: u128, first: u128, last: u128) -> Self {
        if size > BITS {
            return Self::Ranges(RangeSet::of(first, last));
        }
        let bits = (first..=last).filter(|n| *n < BITS).fold(0, |bits, n| bits | bit(n));
        Self::Bits(bits)
    }

    pub(crate) fn first_from(&self, from: u128) -> Option<u128> {
        match self {
            Self::Ranges(set) => set.first_from(from),
            Self::Bits(_) if from >= BITS => None,
            Self::Bits(bits) => {
                let rest = bits & !(bit(from) - 1);
                (rest != 0).then(|| u128::from(rest.trailing_zeros()))
            }
        }
    }

    pub(crate) fn contains(&self, n: u128) -> bool {
        self.first_from(n) == Some(n)
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Bits(bits) => *bits == 0,
            Self::Ranges(set) => set.is_empty(),
        }
    }

    pub(crate) fn remove(&mut self, n: u128) {
        match self {
            Self::Ranges(set) => _ = set.remove(n),
            Self::Bits(bits) => *bits &= !bit(n),
        }
    }

    pub(crate) fn insert(&mut self, n: u128) {
        match self {
            Self::Ranges(set) => _ = set.insert(n),
            Self::Bits(bits) => *bits |= bit(n),
        }
    }
}

/// The bit of an offset below [`BITS`]; 0 for larger offsets, which callers never pass.
fn bit(n: u128) -> u64 {
    u32::try_from(n).ok().and_then(|n| 1u64.checked_shl(n)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_split_and_join() {
        let mut set = RangeSet::of(0, 9);
        assert!(set.remove(4) && !set.remove(4));
        assert_eq!(set.iter().collect::<alloc::vec::Vec<_>>(), [(0, 3), (5, 9)]);
        assert_eq!(set.first_from(4), Some(5));
        assert!(set.insert(4) && !set.insert(4));
        assert_eq!(set.iter().collect::<alloc::vec::Vec<_>>(), [(0, 9)]);
        assert_eq!(set.first_from(10), None);
    }

    #[test]
    fn whole_of_ipv6_fits() {
        let mut set = RangeSet::of(0, u128::MAX);
        assert!(set.remove(u128::MAX) && set.insert(u128::MAX));
        assert!(set.remove(0));
        assert_eq!(set.first_from(0), Some(1));
    }

    #[test]
    fn bits_and_ranges_agree() {
        for (size, first, last) in [(8, 0, 7), (64, 1, 62), (1, 0, 0)] {
            let mut bits = FreeSet::of(size, first, last);
            let mut ranges = FreeSet::Ranges(RangeSet::of(first, last));
            for n in [3, 0, 5, 63] {
                assert_eq!(bits.contains(n), ranges.contains(n));
                bits.remove(n);
                ranges.remove(n);
                for from in 0..size {
                    assert_eq!(bits.first_from(from), ranges.first_from(from));
                }
            }
        }
    }
}
