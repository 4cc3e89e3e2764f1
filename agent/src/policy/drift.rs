//! Detects changes of the kernel's filter by other programs, concurrently with our own writes: reading takes
//! longer than writing, and writes do not wait for it.

use std::collections::{BTreeMap, BTreeSet};

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::diff::{Actual, full};
use super::model::{Family, Filter, Name};
use crate::policy::packet_filter::{FilterError, PacketFilter};

/// The result of a check.
pub(super) enum Seen {
    /// The whole filter.
    Whole(Actual),
    /// Number of members of each set.
    Sizes(BTreeMap<String, usize>),
}

/// A check in progress.
pub(super) struct Look {
    /// What was written since it began: it is unknown whether the check saw the old or new state.
    pub(super) written: Written,
    seen: JoinHandle<Result<Seen, FilterError>>,
    /// Callers that wait for the result.
    pub(super) verifying: Vec<oneshot::Sender<bool>>,
}

/// Keys of sets and chains that were written.
#[derive(Debug, Default)]
pub(super) struct Written {
    sets: BTreeSet<(Family, Name)>,
    chains: BTreeSet<(Family, Name)>,
}

impl Written {
    /// Records what a step from one filter to another writes.
    pub(super) fn note(&mut self, before: &Filter, after: &Filter) {
        self.sets.extend(changed(&before.sets, &after.sets));
        self.chains.extend(changed(&before.chains, &after.chains));
    }
}

impl Look {
    /// Reads the whole filter.
    pub(super) fn whole(filter: &PacketFilter, verifying: Vec<oneshot::Sender<bool>>) -> Self {
        let filter = filter.clone();
        let seen = tokio::spawn(async move { filter.read().await.map(Seen::Whole) });
        Self { written: Written::default(), seen, verifying }
    }

    /// Counts the members of sets: set changes are not announced, but added or
    /// removed members change the count.
    pub(super) fn sizes(filter: &PacketFilter) -> Self {
        let filter = filter.clone();
        let seen = tokio::spawn(async move { filter.set_sizes().await.map(Seen::Sizes) });
        Self { written: Written::default(), seen, verifying: Vec::new() }
    }

    /// Waits for the result.
    pub(super) async fn end(&mut self) -> Result<Seen, FilterError> {
        match (&mut self.seen).await {
            Ok(seen) => seen,
            Err(error) => Err(FilterError::Run {
                program: "the look".into(),
                source: std::io::Error::other(error),
            }),
        }
    }
}

/// Removes from the comparison what was written during the read: it is unknown whether the read saw the old
/// or new state. Returns the rest of the desired filter.
pub(super) fn steady(written: &Written, now: &Filter, actual: &mut Actual) -> Filter {
    let mut wanted = now.clone();
    for (family, name) in &written.sets {
        actual.sets.remove(&full(*family, name));
        wanted.sets.remove(&(*family, name.clone()));
    }
    for (family, name) in &written.chains {
        actual.chains.remove(&(*family, name.to_string()));
        wanted.chains.remove(&(*family, name.clone()));
    }
    wanted
}

/// Whether sets that were not written in the meantime have an unexpected number of members.
pub(super) fn miscounted(written: &Written, now: &Filter, sizes: &BTreeMap<String, usize>) -> bool {
    let written: BTreeSet<String> =
        written.sets.iter().map(|(family, name)| full(*family, name)).collect();
    let wanted: BTreeMap<String, usize> = now
        .sets
        .iter()
        .map(|((family, name), set)| (full(*family, name), set.members.len()))
        .collect();
    let differs = |name: &String| {
        !written.contains(name) && sizes.get(name).copied() != wanted.get(name).copied()
    };
    sizes.keys().chain(wanted.keys()).any(differs)
}

/// Keys under which two maps differ.
fn changed<K: Ord + Clone, V: PartialEq + Clone>(
    then: &OrdMap<K, V>,
    now: &OrdMap<K, V>,
) -> impl Iterator<Item = K> {
    let keys: Vec<K> = then
        .diff(now)
        .map(|item| match item {
            DiffItem::Add(key, _) | DiffItem::Remove(key, _) => key.clone(),
            DiffItem::Update { old: (key, _), .. } => key.clone(),
        })
        .collect();
    keys.into_iter()
}

#[cfg(test)]
mod tests {
    use super::super::diff::repair;
    use super::super::model::{Member, Set, SetKind, Style};
    use super::*;

    fn filter(sets: &[(&str, &[&str])]) -> Filter {
        let mut filter = Filter::default();
        for (name, members) in sets {
            let members =
                members.iter().map(|net| (Member::Net(net.parse().unwrap()), false)).collect();
            let set = Set { kind: SetKind::Nets, members };
            filter.sets.insert((Family::V4, (*name).into()), set);
        }
        filter
    }

    fn read(filter: &Filter) -> Actual {
        let set = |set: &Set| {
            let members = set.members.iter().map(|(member, except)| (member.to_string(), *except));
            (set.kind.as_str().to_owned(), members.collect())
        };
        let sets = filter.sets.iter().map(|((family, name), one)| (full(*family, name), set(one)));
        Actual { sets: sets.collect(), ..Actual::default() }
    }

    /// Set lines of a repair.
    fn lines(actual: &Actual, wanted: &Filter) -> Vec<String> {
        let style = |family| Style { family, mark: 1, log_group: 1 };
        let changes = repair(actual, wanted, &style, false);
        [changes.before, changes.after].concat()
    }

    #[test]
    fn own_changes_during_a_look_are_no_drift_and_foreign_ones_are() {
        let then = filter(&[("A", &["10.0.0.1/32"]), ("B", &["10.0.0.2/32"]), ("C", &[])]);
        let between = filter(&[("A", &["10.0.0.1/32"]), ("B", &["10.0.0.3/32"]), ("D", &[])]);
        // A set that was changed and changed back counts as written, too.
        let now = filter(&[("A", &["10.0.0.1/32"]), ("B", &["10.0.0.2/32"]), ("D", &[])]);
        let mut written = Written::default();
        written.note(&then, &between);
        written.note(&between, &now);
        // The read may have seen the state before or after the change.
        for moment in [&then, &between, &now] {
            let mut actual = read(moment);
            let wanted = steady(&written, &now, &mut actual);
            assert_eq!(lines(&actual, &wanted), [""; 0]);
            let sizes = read(moment).sets.into_iter().map(|(name, set)| (name, set.1.len()));
            assert!(!miscounted(&written, &now, &sizes.collect()));
        }
        let mut damaged = read(&now);
        damaged.sets.get_mut(&full(Family::V4, "A")).unwrap().1.clear();
        let sizes = damaged.sets.iter().map(|(name, set)| (name.clone(), set.1.len())).collect();
        assert!(miscounted(&written, &now, &sizes));
        let wanted = steady(&written, &now, &mut damaged);
        assert_eq!(lines(&damaged, &wanted), ["add A4 10.0.0.1"]);
    }
}
