//! The in-memory part of the index: the open segment, and closed ones not yet written to disk.

use std::collections::HashMap;

use romana_statemachine::{Digest, Record, Revision};

use super::keys::{self, Key};

/// The keys of some segments, in memory.
#[derive(Debug, Default)]
pub(super) struct Tail {
    pub(super) first: Revision,
    pub(super) last: Revision,
    /// Digest of the history at the last record.
    pub(super) digest: Digest,
    postings: HashMap<Key, Vec<u32>>,
}

impl Tail {
    /// An empty tail that starts after a record.
    pub(super) fn after(revision: Revision, digest: Digest) -> Self {
        Self { first: revision.next(), last: revision, digest, postings: HashMap::new() }
    }

    /// Number of keys.
    pub(super) fn keys(&self) -> usize {
        self.postings.len()
    }

    /// Adds the next record.
    pub(super) fn add(&mut self, record: &Record) {
        let offset = u32::try_from(record.revision.since(self.first)).unwrap_or(u32::MAX);
        keys::of_record(record, |key| {
            let list = self.postings.entry(key).or_default();
            if list.last() != Some(&offset) {
                list.push(offset);
            }
        });
        (self.last, self.digest) = (record.revision, record.digest);
    }

    /// Revisions at which a key occurs, from `from` on, in order.
    pub(super) fn find(&self, key: &Key, from: Revision) -> Vec<Revision> {
        let list = self.postings.get(key).map(Vec::as_slice).unwrap_or_default();
        let revisions = list.iter().map(|offset| self.first.plus(u64::from(*offset)));
        revisions.filter(|revision| *revision >= from).collect()
    }

    /// All keys in order, with the offsets at which they occur.
    pub(super) fn sorted(&self) -> Vec<(&Key, &[u32])> {
        let mut all: Vec<_> = self.postings.iter().map(|(key, list)| (key, &list[..])).collect();
        all.sort_unstable_by_key(|(key, _)| **key);
        all
    }
}
