//! The latest change of each topic.

use romana_statemachine::{Record, Revision, Topic};

/// The revision of the latest change of each topic, as far as this replica has applied the log. When a snapshot is
/// installed, all topics count as changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopicRevisions([Revision; Topic::ALL.len()]);

impl TopicRevisions {
    /// The latest change of any of these topics; 0 if there is none.
    #[must_use]
    pub fn newest(&self, topics: &[Topic]) -> Revision {
        topics.iter().map(|topic| self.0[*topic as usize]).max().unwrap_or(Revision(0))
    }

    /// Records the topics of applied records.
    pub(in crate::raft) fn take(&mut self, records: &[Record]) {
        for record in records {
            self.0[record.event.topic() as usize] = record.revision;
        }
    }

    /// Marks all topics as changed at a revision.
    pub(in crate::raft) fn all_changed(&mut self, at: Revision) {
        self.0 = [at; Topic::ALL.len()];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_numbered_in_their_order() {
        for (at, topic) in Topic::ALL.iter().enumerate() {
            assert_eq!(*topic as usize, at);
        }
        let mut revisions = TopicRevisions::default();
        assert_eq!(revisions.newest(&[]), 0);
        revisions.all_changed(Revision(7));
        assert_eq!(revisions.newest(&[Topic::Hosts]), 7);
    }
}
