//! The records collected by one read, and the cache of decompressed blocks.

use std::collections::VecDeque;
use std::sync::Arc;

use romana_statemachine::{Record, Revision};

use super::Shared;

/// Decompressed blocks, newest first: (segment, offset) and contents.
pub(super) type Cache = VecDeque<((Revision, u64), Arc<Vec<u8>>)>;

/// Number of cached blocks.
const CACHE_BLOCKS: usize = 16;

/// Collects the records of one read.
pub(super) struct Collector {
    /// Revision of the next record to collect.
    pub(super) next: Revision,
    pub(super) records: Vec<Record>,
    pub(super) records_left: usize,
    pub(super) bytes_left: usize,
    /// Gives access to the block cache.
    pub(super) shared: Option<Arc<Shared>>,
}

impl Collector {
    /// A collector without limits that starts at `next`.
    pub(super) fn all(next: Revision) -> Self {
        let (records_left, bytes_left) = (usize::MAX, usize::MAX);
        Self { next, records: Vec::new(), records_left, bytes_left, shared: None }
    }

    pub(super) fn is_full(&self) -> bool {
        self.records_left == 0
    }

    /// Takes a record with `size` bytes of wire form, or becomes full. `false`: it is not the next record.
    pub(super) fn take(&mut self, record: Record, size: usize) -> bool {
        if record.revision != self.next {
            return false;
        }
        if size > self.bytes_left && !self.records.is_empty() {
            self.records_left = 0;
            return true;
        }
        self.bytes_left = self.bytes_left.saturating_sub(size);
        self.records_left -= 1;
        self.next = self.next.next();
        self.records.push(record);
        true
    }

    pub(super) fn cached(&self, segment: Revision, offset: u64) -> Option<Arc<Vec<u8>>> {
        let cache = self.shared.as_ref()?.cache();
        let found = cache.iter().find(|(key, _)| *key == (segment, offset));
        found.map(|(_, bytes)| Arc::clone(bytes))
    }

    pub(super) fn cache(&self, segment: Revision, offset: u64, bytes: &Arc<Vec<u8>>) {
        let Some(shared) = &self.shared else { return };
        let mut cache = shared.cache();
        cache.push_front(((segment, offset), Arc::clone(bytes)));
        cache.truncate(CACHE_BLOCKS);
    }
}
