//! Which address a name has.

use core::net::IpAddr;

use imbl::OrdMap;

use crate::hash::Hash;
use crate::name::AddressName;

/// Where the address of a name is: itself and the length of its block, with which the block is one
/// look-up away. The name stands there, and nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) ip: IpAddr,
    pub(crate) block_len: u8,
}

/// Name → place, by the hash of the name: small entries without pointers. What was taken for a name and
/// is another's is told by looking at the place; a name whose hash another one has is in `rest`.
/// `BITS` of the hash are used: all, but in tests.
#[derive(Clone, Debug)]
pub(crate) struct Names<const BITS: u32 = 64> {
    first: OrdMap<u64, Place>,
    rest: OrdMap<AddressName, Place>,
}

impl<const BITS: u32> Default for Names<BITS> {
    fn default() -> Self {
        Self { first: OrdMap::new(), rest: OrdMap::new() }
    }
}

impl<const BITS: u32> Names<BITS> {
    /// Number of names.
    pub(super) fn len(&self) -> usize {
        self.first.len() + self.rest.len()
    }

    /// The place that has the name, as `has` finds when it looks there.
    pub(super) fn find<T>(
        &self,
        name: &AddressName,
        has: impl Fn(Place) -> Option<T>,
    ) -> Option<T> {
        let first = self.first.get(&hash::<BITS>(name)).and_then(|place| has(*place));
        if first.is_some() || self.rest.is_empty() {
            return first;
        }
        self.rest.get(name).and_then(|place| has(*place))
    }

    /// Puts in a name that was not there.
    pub(super) fn insert(&mut self, name: &AddressName, place: Place) {
        let hash = hash::<BITS>(name);
        if let Some(other) = self.first.insert(hash, place) {
            self.first.insert(hash, other);
            self.rest.insert(name.clone(), place);
        }
    }

    /// Takes out a name that has this address.
    pub(super) fn remove(&mut self, name: &AddressName, ip: IpAddr) {
        let hash = hash::<BITS>(name);
        match self.first.remove(&hash) {
            Some(place) if place.ip == ip => return,
            Some(other) => _ = self.first.insert(hash, other),
            None => {}
        }
        self.rest.remove(name);
    }

    /// Puts in names that were not there: in the order of their hashes, which keeps the path to them
    /// in the processor's cache.
    pub(super) fn extend<'a>(&mut self, names: impl Iterator<Item = (&'a AddressName, Place)>) {
        let mut sorted: alloc::vec::Vec<_> =
            names.map(|(name, place)| (hash::<BITS>(name), name, place)).collect();
        sorted.sort_unstable_by_key(|(hash, _, place)| (*hash, place.ip));
        for (_, name, place) in sorted {
            self.insert(name, place);
        }
    }
}

fn hash<const BITS: u32>(name: &AddressName) -> u64 {
    Hash::of(name.as_str()) >> (64 - BITS)
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
        /// With two bits of hash nearly all names collide.
        #[test]
        fn collisions_change_nothing(deeds in prop::collection::vec((any::<bool>(), 0u8..24), 1..200)) {
            let (mut names, mut model) = (Names::<2>::default(), BTreeMap::new());
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
        }
    }
}
