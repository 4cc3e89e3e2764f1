//! Problems of a replica's leader tasks, shown as problems of this member.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::raft::status::MemberProblem;

/// Task and problem code.
type Key = (&'static str, &'static str);

/// Problems of tasks, by task and code. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Problems(Arc<Mutex<BTreeMap<Key, String>>>);

impl Problems {
    fn all(&self) -> MutexGuard<'_, BTreeMap<Key, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets or clears a problem of a task, and logs the change.
    pub fn set(&self, task: &'static str, code: &'static str, what: Option<String>) {
        let mut all = self.all();
        match what {
            Some(what) => {
                let before = all.insert((task, code), what.clone());
                if before.is_none_or(|before| before != what) {
                    tracing::warn!(task, code, what, "leader task reports a problem");
                }
            }
            None => {
                if all.remove(&(task, code)).is_some() {
                    tracing::info!(task, code, "leader task recovered");
                }
            }
        }
    }

    /// Clears all problems of a task that ends because its replica no longer leads.
    pub fn forget(&self, task: &str) {
        self.all().retain(|(of, _), _| *of != task);
    }

    /// Number of problems per task; tasks without problems are left out.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for (task, _) in self.all().keys() {
            *counts.entry(*task).or_default() += 1;
        }
        counts
    }

    /// All problems, as problems of this member.
    pub(in crate::raft) fn list(&self) -> Vec<MemberProblem> {
        let shown = |((task, code), what): (&Key, &String)| MemberProblem {
            code: (*code).into(),
            what: format!("leader task {task}: {what}"),
            remedy: "the leader tries again by itself; if it stays, look at its log".into(),
        };
        self.all().iter().map(shown).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_stand_until_they_are_mended_or_the_task_ends() {
        let problems = Problems::default();
        problems.set("a", "X", Some("one".into()));
        problems.set("a", "Y", Some("two".into()));
        problems.set("b", "X", Some("three".into()));
        problems.set("a", "X", None);
        assert_eq!(problems.counts(), BTreeMap::from([("a", 1), ("b", 1)]));
        let list = problems.list();
        assert_eq!((&*list[0].code, &*list[0].what), ("Y", "leader task a: two"));
        problems.forget("a");
        assert_eq!(problems.counts(), BTreeMap::from([("b", 1)]));
    }
}
