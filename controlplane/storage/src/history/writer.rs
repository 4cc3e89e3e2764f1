//! Write access to the open segment.

use std::sync::Arc;

use romana_statemachine::Record;

use super::error::HistoryError;
use super::frame;
use super::open_segment::{Index, Raw};
use crate::platform::FileExt;

/// The open segment, and what is not durable yet.
pub(super) struct Writer {
    pub(super) active: Arc<Raw>,
    /// End of the written part; readers may read up to here.
    pub(super) end: u64,
    /// Segments whose contents are not known to be durable.
    pub(super) unsynced: Vec<Arc<Raw>>,
    /// Whether files were created since the directory was synced.
    pub(super) new_files: bool,
    buffer: Vec<u8>,
}

impl Writer {
    pub(super) fn new(active: Arc<Raw>) -> Self {
        let end = active.index().end;
        Self { active, end, unsynced: Vec::new(), new_files: false, buffer: Vec::new() }
    }

    /// Appends records with one write and publishes them to readers.
    pub(super) fn write(&mut self, records: &[Record]) -> Result<(), HistoryError> {
        self.buffer.clear();
        let mut places = Vec::with_capacity(records.len());
        for record in records {
            places.push((record.revision, self.end + self.buffer.len() as u64));
            frame::push(&mut self.buffer, record);
        }
        self.put(|index| places.iter().for_each(|(revision, at)| index.note(*revision, *at)))?;
        self.owe(Arc::clone(&self.active));
        Ok(())
    }

    /// Marks a segment as not durable.
    pub(super) fn owe(&mut self, raw: Arc<Raw>) {
        if !self.unsynced.iter().any(|owed| Arc::ptr_eq(owed, &raw)) {
            self.unsynced.push(raw);
        }
    }

    /// Writes a mark: everything before `end` is durable.
    pub(super) fn mark(&mut self, end: u64) -> Result<(), HistoryError> {
        self.buffer.clear();
        self.buffer.extend_from_slice(&frame::mark(end));
        self.put(|_| ())
    }

    fn put(&mut self, note: impl FnOnce(&mut Index)) -> Result<(), HistoryError> {
        let Raw { file, path, .. } = &*self.active;
        file.write_all_at(&self.buffer, self.end).map_err(HistoryError::io("write", path))?;
        self.end += self.buffer.len() as u64;
        let mut index = self.active.index();
        note(&mut index);
        index.end = self.end;
        Ok(())
    }
}
