//! Computes the changes of a route table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ipnet::IpNet;

use super::Target;

/// A change of a route table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Add a route where we have none. Another program's route is never replaced (P8).
    Add(IpNet, Target),
    /// Replace our route of that prefix.
    Replace(IpNet, Target),
    /// Remove our route with this target; if it has changed since, it stays.
    Remove(IpNet, Target),
}

/// The operation, for error messages.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add(prefix, _) => write!(f, "adding the route to {prefix}"),
            Self::Replace(prefix, _) => write!(f, "replacing the route to {prefix}"),
            Self::Remove(prefix, _) => write!(f, "removing the route to {prefix}"),
        }
    }
}

/// Changes that turn the actual routes into the desired ones; correct routes are not touched. Additions
/// precede removals, so that a split or merged prefix stays reachable.
#[must_use]
pub fn diff(actual: &BTreeMap<IpNet, Target>, wanted: &BTreeMap<IpNet, Target>) -> Vec<Change> {
    let wrong = wanted.iter().filter(|(prefix, target)| actual.get(*prefix) != Some(*target));
    let gone = actual.iter().filter(|(prefix, _)| !wanted.contains_key(*prefix));
    let sets = wrong.map(|(prefix, target)| match actual.contains_key(prefix) {
        true => Change::Replace(*prefix, target.clone()),
        false => Change::Add(*prefix, target.clone()),
    });
    sets.chain(gone.map(|(prefix, target)| Change::Remove(*prefix, target.clone()))).collect()
}

/// The same changes where other programs have routes of the same prefixes: a replacement would hit the first
/// route, whosever it is, so ours is removed and added (P8).
#[must_use]
pub fn sparing(
    changes: Vec<Change>,
    actual: &BTreeMap<IpNet, Target>,
    foreign: &BTreeSet<IpNet>,
) -> Vec<Change> {
    let spared = changes.into_iter().flat_map(|change| match change {
        Change::Replace(prefix, target) if foreign.contains(&prefix) => {
            let old = actual.get(&prefix).map(|old| Change::Remove(prefix, old.clone()));
            old.into_iter().chain([Change::Add(prefix, target)]).collect()
        }
        change => vec![change],
    });
    spared.collect()
}

/// Additions only, while the desired state may be older than the kernel's (P4).
#[must_use]
pub fn missing(actual: &BTreeMap<IpNet, Target>, wanted: &BTreeMap<IpNet, Target>) -> Vec<Change> {
    let missing = wanted.iter().filter(|(prefix, _)| !actual.contains_key(*prefix));
    missing.map(|(prefix, target)| Change::Add(*prefix, target.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_beside_a_foreign_route_goes_and_comes() {
        let [a, b]: [IpNet; 2] = ["10.0.0.0/29", "10.0.0.8/29"].map(|text| text.parse().unwrap());
        let old = Target::Via(Vec::new());
        let actual = BTreeMap::from([(a, old.clone()), (b, old.clone())]);
        let new = Target::Unreachable;
        let replace = [a, b].map(|prefix| Change::Replace(prefix, new.clone())).to_vec();
        let spared = sparing(replace, &actual, &[a].into());
        let wanted = [Change::Remove(a, old), Change::Add(a, new.clone()), Change::Replace(b, new)];
        assert_eq!(spared, wanted);
    }
}
