//! The live addresses of one block.

use alloc::vec::Vec;

use imbl::OrdMap;

use crate::entry::Revision;
use crate::name::AddressName;

/// Blocks of up to this many addresses keep them in one vector.
const FEW: u128 = 64;

/// A live address. Its other properties follow from its block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) name: AddressName,
    pub(crate) revision: Revision,
}

/// Live addresses by offset: a sorted vector for small blocks (nearly all), a tree for large ones.
#[derive(Clone, Debug)]
pub(crate) enum Live {
    Few(Vec<(u8, Address)>),
    Many(OrdMap<u128, Address>),
}

impl Live {
    /// No addresses, in a block whose last offset is `last`.
    pub(crate) fn none(last: u128) -> Self {
        if last < FEW { Self::Few(Vec::new()) } else { Self::Many(OrdMap::new()) }
    }

    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Few(few) => few.len() as u64,
            Self::Many(many) => many.len() as u64,
        }
    }

    pub(crate) fn get(&self, offset: u128) -> Option<&Address> {
        match self {
            Self::Few(few) => few.get(place(few, offset).ok()?).map(|(_, address)| address),
            Self::Many(many) => many.get(&offset),
        }
    }

    /// In order, from an offset on.
    pub(crate) fn from(&self, offset: u128) -> impl Iterator<Item = (u128, &Address)> {
        let (few, many) = match self {
            Self::Few(few) => {
                let start = place(few, offset).unwrap_or_else(|start| start);
                (few.get(start..), None)
            }
            Self::Many(many) => (None, Some(many.range(offset..))),
        };
        let few = few.unwrap_or_default().iter();
        let few = few.map(|(offset, address)| (u128::from(*offset), address));
        few.chain(many.into_iter().flatten().map(|(offset, address)| (*offset, address)))
    }

    pub(crate) fn insert(&mut self, offset: u128, address: Address) {
        match self {
            Self::Many(many) => _ = many.insert(offset, address),
            Self::Few(few) => match place(few, offset) {
                Ok(at) => few[at].1 = address,
                Err(at) => {
                    // Capacity starts at one and doubles: many blocks have only one address.
                    if few.len() == few.capacity() {
                        few.reserve_exact(few.len().max(1));
                    }
                    few.insert(at, (u8::try_from(offset).unwrap_or(u8::MAX), address));
                }
            },
        }
    }

    pub(crate) fn remove(&mut self, offset: u128) {
        match self {
            Self::Many(many) => _ = many.remove(&offset),
            Self::Few(few) => {
                if let Ok(at) = place(few, offset) {
                    few.remove(at);
                }
            }
        }
    }
}

fn place(few: &[(u8, Address)], offset: u128) -> Result<usize, usize> {
    few.binary_search_by(|(at, _)| u128::from(*at).cmp(&offset))
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn small_and_large_blocks_agree(deeds in prop::collection::vec((any::<bool>(), 0u128..64), 1..200)) {
            let (mut few, mut many) = (Live::none(63), Live::none(64));
            prop_assert!(matches!((&few, &many), (Live::Few(_), Live::Many(_))));
            let mut model = BTreeMap::new();
            for (revision, (puts, offset)) in (1u64..).zip(deeds) {
                let address = Address { name: "pod".into(), revision: Revision(revision) };
                if puts {
                    few.insert(offset, address.clone());
                    many.insert(offset, address.clone());
                    model.insert(offset, address);
                } else {
                    few.remove(offset);
                    many.remove(offset);
                    model.remove(&offset);
                }
                for live in [&few, &many] {
                    prop_assert_eq!(live.len(), model.len() as u64);
                    prop_assert_eq!(live.get(offset), model.get(&offset));
                    prop_assert!(live.from(offset).eq(model.range(offset..).map(|(at, a)| (*at, a))));
                }
            }
        }
    }
}
