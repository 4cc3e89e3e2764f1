//! Index of the blocks with a free address, by owner: the first place an allocation searches.

use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;

use super::block::{OwnerKey, Owns};

/// Blocks with a free address, by owner. Nearly every owner has one: finding it takes one lookup, several times
/// cheaper than a range scan over (owner, block).
#[derive(Clone, Debug, Default)]
pub(super) struct OpenBlocks(OrdMap<OwnerKey, Few>);

#[derive(Clone, Debug)]
enum Few {
    One(IpNet),
    Many(OrdSet<IpNet>),
}

impl OpenBlocks {
    /// The open blocks of an owner, in order.
    pub(super) fn of(&self, owner: &dyn Owns) -> impl Iterator<Item = IpNet> + use<'_> {
        let (one, many) = match self.0.get(owner) {
            None => (None, None),
            Some(Few::One(cidr)) => (Some(*cidr), None),
            Some(Few::Many(cidrs)) => (None, Some(cidrs)),
        };
        one.into_iter().chain(many.into_iter().flatten().copied())
    }

    pub(super) fn contains(&self, owner: &OwnerKey, cidr: IpNet) -> bool {
        self.of(owner).any(|open| open == cidr)
    }

    /// Number of open blocks of all owners.
    pub(super) fn len(&self) -> usize {
        let count = |few: &Few| match few {
            Few::One(_) => 1,
            Few::Many(cidrs) => cidrs.len(),
        };
        self.0.values().map(count).sum()
    }

    pub(super) fn insert(&mut self, owner: &OwnerKey, cidr: IpNet) {
        match self.0.get_mut(owner) {
            None => _ = self.0.insert(owner.clone(), Few::One(cidr)),
            Some(Few::Many(cidrs)) => _ = cidrs.insert(cidr),
            Some(few @ Few::One(_)) => {
                let Few::One(first) = *few else { return };
                if first != cidr {
                    *few = Few::Many([first, cidr].into_iter().collect());
                }
            }
        }
    }

    pub(super) fn remove(&mut self, owner: &OwnerKey, cidr: IpNet) {
        let left = match self.0.get_mut(owner) {
            Some(Few::Many(cidrs)) => {
                cidrs.remove(&cidr);
                cidrs.len()
            }
            Some(Few::One(open)) if *open == cidr => 0,
            _ => return,
        };
        if left == 0 {
            self.0.remove(owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::ipam::Owner;

    #[test]
    fn one_and_many() {
        let owner = OwnerKey::new(Owner {
            host: "h".into(),
            network: "n".into(),
            tenant: "t".into(),
            segment: "s".into(),
        });
        let net = |text: &str| -> IpNet { text.parse().unwrap() };
        let (a, b) = (net("10.0.0.0/29"), net("10.0.0.8/29"));
        let mut open = OpenBlocks::default();
        open.remove(&owner, a);
        for cidr in [b, b, a] {
            open.insert(&owner, cidr);
        }
        assert_eq!(open.of(&owner).collect::<Vec<_>>(), [a, b]);
        assert_eq!((open.len(), open.contains(&owner, b)), (2, true));
        open.remove(&owner, a);
        open.remove(&owner, a);
        assert_eq!(open.of(&owner).collect::<Vec<_>>(), [b]);
        open.remove(&owner, b);
        assert_eq!((open.len(), open.of(&owner).count()), (0, 0));
    }
}
