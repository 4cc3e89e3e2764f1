//! Index of addresses by name.

use alloc::vec::Vec;
use core::net::IpAddr;

use imbl::Vector;

use crate::hash::Hash;
use crate::name::AddressName;

/// Where the address of a name is stored: the address itself and the prefix length of its block, so that the block is
/// one lookup away. Only the block stores the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) ip: IpAddr,
    pub(crate) block_len: u8,
}

/// A name's hash and place.
#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u32,
    place: Place,
}

/// Name → place: a hash table that grows and shrinks by one bucket at a time (linear hashing), so that no single
/// operation is long, in a persistent vector, so that a copy is O(1). A lookup touches two or three cache lines
/// regardless of the number of names; a tree needed five times as many.
///
/// Entries do not store the name: a match of the hash is confirmed by reading the name at its place. `BITS` of the
/// hash are used: 32, except in tests.
#[derive(Clone, Debug)]
pub(crate) struct Names<const BITS: u32 = 32> {
    buckets: Vector<Vec<Entry>>,
    len: usize,
}

/// Names per bucket, on average.
const LOAD: usize = 6;
/// Capacity added to a full bucket.
const SPARE: usize = 2;

impl<const BITS: u32> Default for Names<BITS> {
    fn default() -> Self {
        Self { buckets: Vector::unit(Vec::new()), len: 0 }
    }
}

impl<const BITS: u32> Names<BITS> {
    /// Number of names.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The place of the name, as confirmed by `has`.
    pub(super) fn find<T>(
        &self,
        name: &AddressName,
        has: impl Fn(Place) -> Option<T>,
    ) -> Option<T> {
        let hash = hash::<BITS>(name);
        let bucket = self.buckets.get(slot(hash, self.buckets.len()))?;
        let like = bucket.iter().filter(|entry| entry.hash == hash);
        like.map(|entry| entry.place).find_map(has)
    }

    /// Inserts a name that is not in the index.
    pub(super) fn insert(&mut self, name: &AddressName, place: Place) {
        let hash = hash::<BITS>(name);
        if let Some(bucket) = self.buckets.get_mut(slot(hash, self.buckets.len())) {
            // In small steps: there are very many buckets.
            if bucket.len() == bucket.capacity() {
                bucket.reserve_exact(SPARE);
            }
            bucket.push(Entry { hash, place });
        }
        self.len += 1;
        if self.len > self.buckets.len() * LOAD {
            self.grow();
        }
    }

    /// Removes a name with this address.
    pub(super) fn remove(&mut self, name: &AddressName, ip: IpAddr) {
        let hash = hash::<BITS>(name);
        let Some(bucket) = self.buckets.get_mut(slot(hash, self.buckets.len())) else { return };
        let is = |entry: &Entry| entry.hash == hash && entry.place.ip == ip;
        let Some(found) = bucket.iter().position(is) else { return };
        bucket.swap_remove(found);
        self.len -= 1;
        if self.buckets.len() > 1 && self.len < self.buckets.len() * (LOAD / 2) {
            self.shrink();
        }
    }

    /// An index of these names, which must be distinct.
    pub(super) fn of<'a>(names: impl Iterator<Item = (&'a AddressName, Place)>) -> Self {
        let entry = |(name, place)| Entry { hash: hash::<BITS>(name), place };
        let mut entries: Vec<_> = names.map(entry).collect();
        let (len, count) = (entries.len(), entries.len().div_ceil(LOAD).max(1));
        entries.sort_unstable_by_key(|entry| (slot(entry.hash, count), entry.hash, entry.place.ip));
        let mut left = entries.as_slice();
        let buckets = (0..count).map(|at| {
            let end = left.partition_point(|entry| slot(entry.hash, count) <= at);
            let (bucket, rest) = left.split_at(end);
            left = rest;
            bucket.to_vec()
        });
        Self { buckets: buckets.collect(), len }
    }

    /// Adds a bucket: it takes its share of the names of its parent.
    fn grow(&mut self) {
        let new = self.buckets.len();
        let Some(bucket) = self.buckets.get_mut(parent(new)) else { return };
        let moves = |entry: &Entry| slot(entry.hash, new + 1) == new;
        let moved = bucket.iter().filter(|entry| moves(entry)).copied().collect();
        bucket.retain(|entry| !moves(entry));
        self.buckets.push_back(moved);
    }

    /// Removes the last bucket: its names return to its parent.
    fn shrink(&mut self) {
        let Some(last) = self.buckets.pop_back() else { return };
        if let Some(bucket) = self.buckets.get_mut(parent(self.buckets.len())) {
            bucket.extend(last);
        }
    }
}

/// The bucket of a hash among `count`: selected by as many low bits as needed, or one fewer if that bucket does not
/// exist yet.
fn slot(hash: u32, count: usize) -> usize {
    let wide = count.next_power_of_two() - 1;
    let at = hash as usize & wide;
    if at < count { at } else { at & (wide >> 1) }
}

/// The bucket that holds the names of bucket `at` until that exists: the same index without its highest bit.
fn parent(at: usize) -> usize {
    at & !(1 << at.checked_ilog2().unwrap_or(0))
}

fn hash<const BITS: u32>(name: &AddressName) -> u32 {
    let hash = (Hash::of(name.as_str()) >> 32) as u32;
    hash >> (32 - BITS)
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;
    use alloc::format;

    use proptest::prelude::*;

    use super::*;

    fn place(number: u8) -> Place {
        Place { ip: [10, 0, 0, number].into(), block_len: 29 }
    }

    proptest! {
        /// With a three-bit hash nearly all names collide.
        #[test]
        fn collisions_change_nothing(deeds in prop::collection::vec((any::<bool>(), 0u8..24), 1..200)) {
            let (mut names, mut model) = (Names::<3>::default(), BTreeMap::new());
            for (puts, number) in deeds {
                let name = AddressName::from(format!("pod-{number}"));
                if puts && !model.contains_key(&name) {
                    names.insert(&name, place(number));
                    model.insert(name, place(number));
                } else if !puts {
                    names.remove(&name, place(number).ip);
                    model.remove(&name);
                }
                prop_assert_eq!(names.len(), model.len());
                for number in 0..24 {
                    let name = AddressName::from(format!("pod-{number}"));
                    let has = |at: Place| (at == place(number)).then_some(at);
                    prop_assert_eq!(names.find(&name, has), model.get(&name).copied());
                }
            }
            let again = Names::<3>::of(model.iter().map(|(name, place)| (name, *place)));
            prop_assert_eq!(again.len(), model.len());
            for (name, place) in &model {
                prop_assert_eq!(again.find(name, |at| (at == *place).then_some(at)), Some(*place));
            }
        }
    }

    #[test]
    fn buckets_come_and_go() {
        let mut names: Names = Names::default();
        let name = |n: u32| AddressName::from(format!("pod-{n}"));
        let place = |n: u32| Place { ip: IpAddr::from(n.to_be_bytes()), block_len: 29 };
        for n in 0..10_000 {
            names.insert(&name(n), place(n));
        }
        assert_eq!(names.buckets.len(), 10_000usize.div_ceil(LOAD));
        for n in 0..10_000 {
            let has = |at: Place| (at == place(n)).then_some(at);
            assert_eq!(names.find(&name(n), has), Some(place(n)));
        }
        assert!(names.buckets.iter().all(|bucket| bucket.len() < 10 * LOAD));
        for n in 0..10_000 {
            names.remove(&name(n), place(n).ip);
        }
        assert_eq!((names.len(), names.buckets.len()), (0, 1));
    }
}
