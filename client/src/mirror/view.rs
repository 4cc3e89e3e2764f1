//! What can be mirrored, and how far a mirror has got.

use romana_statemachine::name::HostName;
use romana_statemachine::{Record, Revision, Topic};
use serde::{Deserialize, Serialize};

use super::SnapshotError;
use crate::follow::Snapshot;

/// How far a view has got, and in which cluster's log. Saved with the view.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The revision up to which the view is complete.
    pub revision: Revision,
    /// The cluster's id, once known.
    #[serde(default)]
    pub cluster: Option<String>,
}

impl Cursor {
    /// At a revision of a cluster whose id is not known yet.
    #[must_use]
    pub fn at(revision: Revision) -> Self {
        Self { revision, cluster: None }
    }

    /// Moves to a later revision; an earlier one is ignored.
    pub fn advance(&mut self, revision: Revision) {
        self.revision = self.revision.max(revision);
    }
}

/// A part of the cluster's state, built from a snapshot and the records after it. Pure, and cheap to clone
/// (persistent maps), as every published view is a clone.
pub trait View: Clone + Send + Sync + 'static {
    /// The topics that it depends on.
    fn topics(&self) -> Vec<Topic>;

    /// The host that it is for: the feed skips records that concern other hosts only.
    fn host(&self) -> Option<HostName> {
        None
    }

    /// Builds the view from a snapshot.
    ///
    /// # Errors
    /// [`SnapshotError`]. The mirror keeps the old view.
    fn restart(&self, snapshot: &Snapshot) -> Result<Self, SnapshotError>;

    /// Applies the next record. Unknown content is skipped.
    fn apply(&mut self, record: &Record);

    /// How far it has got. Of several views: the cursor of the one that is furthest behind.
    fn cursor(&self) -> &Cursor;

    /// Applies a change to the cursor; of several views, to each of theirs.
    fn change_cursor(&mut self, change: &mut dyn FnMut(&mut Cursor));

    /// Advances the revision without a record.
    fn advance(&mut self, revision: Revision) {
        self.change_cursor(&mut |cursor| cursor.advance(revision));
    }

    /// The revision up to which it is complete.
    fn revision(&self) -> Revision {
        self.cursor().revision
    }

    /// Sets the cluster.
    fn set_cluster(&mut self, cluster: &str) {
        self.change_cursor(&mut |cursor| cursor.cluster = Some(cluster.to_owned()));
    }

    /// The cluster, once known.
    fn cluster(&self) -> Option<&str> {
        self.cursor().cluster.as_deref()
    }

    /// Whether a saved view can be continued with records. Otherwise it is
    /// published until a snapshot arrives.
    fn is_whole(&self) -> bool {
        true
    }
}

impl<A: View, B: View> View for (A, B) {
    fn topics(&self) -> Vec<Topic> {
        let mut topics = self.0.topics();
        topics.extend(self.1.topics());
        topics.sort();
        topics.dedup();
        topics
    }

    fn host(&self) -> Option<HostName> {
        // A filter for one host would withhold records from a view of all hosts.
        self.0.host().filter(|host| self.1.host().as_ref() == Some(host))
    }

    fn restart(&self, snapshot: &Snapshot) -> Result<Self, SnapshotError> {
        Ok((self.0.restart(snapshot)?, self.1.restart(snapshot)?))
    }

    fn apply(&mut self, record: &Record) {
        self.0.apply(record);
        self.1.apply(record);
    }

    fn cursor(&self) -> &Cursor {
        let (a, b) = (self.0.cursor(), self.1.cursor());
        if b.revision < a.revision { b } else { a }
    }

    fn change_cursor(&mut self, change: &mut dyn FnMut(&mut Cursor)) {
        self.0.change_cursor(change);
        self.1.change_cursor(change);
    }

    fn is_whole(&self) -> bool {
        self.0.is_whole() && self.1.is_whole()
    }
}
