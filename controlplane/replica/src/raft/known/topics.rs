//! When each topic changed last.

use romana_statemachine::{Record, Revision, Topic};

/// The revision of the last change of each topic, as far as this replica has applied the log. After a snapshot was
/// installed, all topics count as changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopicRevisions([Revision; Topic::ALL.len()]);

impl TopicRevisions {
    /// The last change of any of these topics; 0 without one.
    #[must_use]
    pub fn newest(&self, topics: &[Topic]) -> Revision {
        topics.iter().map(|topic| self.0[*topic as usize]).max().unwrap_or(Revision(0))
    }

    /// Takes what happened.
    pub(in crate::raft) fn take(&mut self, records: &[Record]) {
        for record in records {
            self.0[record.event.topic() as usize] = record.revision;
        }
    }

    /// Everything may have changed, up to a revision.
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
