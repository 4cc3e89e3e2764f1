//! What one read wants and has, and the blocks that reads unpacked lately.

use std::collections::VecDeque;
use std::sync::Arc;

use romana_statemachine::{Record, Revision};

use super::Shared;

/// Unpacked blocks, newest first: (segment, offset) and content.
pub(super) type Cache = VecDeque<((Revision, u64), Arc<Vec<u8>>)>;

/// How many unpacked blocks are kept.
const CACHE_BLOCKS: usize = 16;

/// Gathers the records of one read.
pub(super) struct Collector {
    /// The record wanted next.
    pub(super) next: Revision,
    pub(super) records: Vec<Record>,
    pub(super) records_left: usize,
    pub(super) bytes_left: usize,
    /// For its cache.
    pub(super) shared: Option<Arc<Shared>>,
}

impl Collector {
    /// Wants everything from `next` on.
    pub(super) fn all(next: Revision) -> Self {
        let (records_left, bytes_left) = (usize::MAX, usize::MAX);
        Self { next, records: Vec::new(), records_left, bytes_left, shared: None }
    }

    pub(super) fn is_full(&self) -> bool {
        self.records_left == 0
    }

    /// Takes a record whose wire form has `size` bytes, or is full. `false`: it is not the right one.
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
