//! Problems that a program cannot resolve without an operator: its parts report them
//! here, for status, metrics and log.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The problems of all parts of a program. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Problems(Arc<Mutex<Parts>>);

/// By part and code; the code is empty for problems that have none.
type Parts = BTreeMap<&'static str, BTreeMap<&'static str, Vec<String>>>;

/// A problem with a stable code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coded {
    /// The part that reports it.
    pub part: &'static str,
    /// Its code, in CamelCase.
    pub code: &'static str,
    pub what: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartLabels {
    part: &'static str,
}

impl Problems {
    /// Replaces the problems of a part that have no code; an empty list means that it works. New problems are
    /// logged once.
    pub fn report(&self, part: &'static str, problems: Vec<String>) {
        self.replace(part, "", problems);
    }

    /// Like [`Self::report`], for problems that their part has logged itself.
    pub fn note(&self, part: &'static str, problems: impl IntoIterator<Item = String>) {
        self.parts().entry(part).or_default().insert("", problems.into_iter().collect());
    }

    /// Sets the problem of a part with this code, or clears it (`None`). The change is logged.
    pub fn set(&self, part: &'static str, code: &'static str, problem: Option<String>) {
        self.replace(part, code, problem.into_iter().collect());
    }

    /// Clears all problems of a part that has ended.
    pub fn forget(&self, part: &str) {
        self.parts().remove(part);
    }

    /// All problems, by part.
    #[must_use]
    pub fn all(&self) -> Vec<String> {
        self.all_but("")
    }

    /// The same without those of a part that is shown elsewhere.
    #[must_use]
    pub fn all_but(&self, part: &str) -> Vec<String> {
        let parts = self.parts();
        let others = parts.iter().filter(|(name, _)| **name != part);
        others.flat_map(|(_, codes)| codes.values().flatten()).cloned().collect()
    }

    /// Problems with a code.
    #[must_use]
    pub fn coded(&self) -> Vec<Coded> {
        let parts = self.parts();
        let all = parts.iter().flat_map(|(part, codes)| codes.iter().map(move |of| (*part, of)));
        let coded = all.filter(|(_, (code, _))| !code.is_empty());
        let coded = coded.flat_map(|(part, (code, problems))| {
            problems.iter().map(|what| Coded { part, code, what: what.clone() })
        });
        coded.collect()
    }

    /// Number of problems of each part that has reported.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let count =
            |codes: &BTreeMap<_, Vec<_>>| codes.values().map(Vec::len).sum::<usize>() as u64;
        self.parts().iter().map(|(part, codes)| (*part, count(codes))).collect()
    }

    /// Registers the number of problems of each part as metrics.
    pub fn register(&self, registry: &mut Registry) {
        let counts = Family::<PartLabels, Gauge>::default();
        for (part, count) in self.counts() {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            counts.get_or_create(&PartLabels { part }).set(count);
        }
        registry.register("part_problems", "Problems that a part reports", counts);
    }

    /// Replaces the problems of a part that have this code, see [`Self::report`].
    pub(crate) fn replace(&self, part: &'static str, code: &'static str, problems: Vec<String>) {
        let mut parts = self.parts();
        let codes = parts.entry(part).or_default();
        let before = codes.insert(code, problems.clone()).unwrap_or_default();
        for problem in problems.iter().filter(|problem| !before.contains(problem)) {
            tracing::warn!(part, code, problem, "new problem");
        }
        if problems.is_empty() && !before.is_empty() {
            tracing::info!(part, code, "problem solved");
        }
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_last_until_they_are_solved_or_their_part_ends() {
        let problems = Problems::default();
        problems.set("a", "X", Some("one".into()));
        problems.set("a", "Y", Some("two".into()));
        problems.set("b", "X", Some("three".into()));
        problems.report("b", vec!["four".into(), "five".into()]);
        problems.set("a", "X", None);
        assert_eq!(problems.counts(), BTreeMap::from([("a", 1), ("b", 3)]));
        assert_eq!(problems.all(), ["two", "four", "five", "three"]);
        assert_eq!(problems.all_but("b"), ["two"]);
        let coded = problems.coded();
        assert_eq!(coded[0], Coded { part: "a", code: "Y", what: "two".into() });
        assert_eq!(coded.len(), 2, "only those with a code: {coded:?}");
        problems.forget("a");
        problems.report("b", Vec::new());
        assert_eq!(problems.counts(), BTreeMap::from([("b", 1)]));
    }
}
