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
pub struct Problems(Arc<Mutex<BTreeMap<&'static str, Vec<String>>>>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartLabels {
    part: &'static str,
}

impl Problems {
    /// Replaces the problems of a part; an empty list means that it works. New problems are logged once.
    pub fn report(&self, part: &'static str, problems: Vec<String>) {
        let before = self.parts().insert(part, problems.clone()).unwrap_or_default();
        for problem in problems.iter().filter(|problem| !before.contains(problem)) {
            tracing::warn!(part, problem, "new problem");
        }
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
        others.flat_map(|(_, problems)| problems).cloned().collect()
    }

    /// Registers the number of problems of each part as metrics.
    pub fn register(&self, registry: &mut Registry) {
        let counts = Family::<PartLabels, Gauge>::default();
        for (part, problems) in &*self.parts() {
            let count = i64::try_from(problems.len()).unwrap_or(i64::MAX);
            counts.get_or_create(&PartLabels { part }).set(count);
        }
        registry.register("part_problems", "Problems that a part reports", counts);
    }

    fn parts(&self) -> MutexGuard<'_, BTreeMap<&'static str, Vec<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
