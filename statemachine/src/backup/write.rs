//! Writes a backup, frame by frame. The caller sends or stores the bytes.

use alloc::string::ToString;
use alloc::vec::Vec;

use lz4_flex::block;

use super::{
    BackupError, COMPRESS_BYTES_MIN, End, FORMAT, FRAME_BYTES_MAX, Header, LZ4, MAGIC,
    PREFIX_BYTES, check_of, kind,
};
use crate::entry::{Digest, Record, Revision, wire};

/// Writes one backup: header, state, records, end, in this order.
#[derive(Debug)]
pub struct Writer {
    offset: u64,
    hasher: blake3::Hasher,
    /// Bytes of state still to be written.
    state_left: u64,
    next: (Revision, Digest),
    last: (Revision, Digest),
    records: u64,
}

impl Writer {
    /// Begins a backup, and returns its first bytes.
    #[must_use]
    pub fn begin(header: &Header) -> (Self, Vec<u8>) {
        let mut writer = Self {
            offset: 0,
            hasher: blake3::Hasher::new(),
            state_left: header.state_bytes,
            next: (header.oldest, header.previous),
            last: (header.revision, header.digest),
            records: 0,
        };
        let mut bytes = Vec::from(MAGIC);
        writer.written(&bytes);
        // A header is a few hundred bytes: it always fits.
        bytes.extend(writer.frame(kind::HEADER, &wire(&(FORMAT, header))).unwrap_or_default());
        (writer, bytes)
    }

    /// The next piece of the state's bytes.
    ///
    /// # Errors
    /// [`BackupError::Inconsistent`] when the state is longer than the header says.
    pub fn state(&mut self, piece: &[u8]) -> Result<Vec<u8>, BackupError> {
        let left = self.state_left.checked_sub(piece.len() as u64);
        self.state_left = left.ok_or_else(|| wrong("the state is longer than announced"))?;
        self.frame(kind::STATE, piece)
    }

    /// The next records.
    ///
    /// # Errors
    /// [`BackupError::Inconsistent`] when they do not come next, or do not fit a frame.
    pub fn records(&mut self, records: &[Record]) -> Result<Vec<u8>, BackupError> {
        for record in records {
            let (revision, digest) = &self.next;
            if record.revision != *revision || !record.follows(digest) {
                return Err(wrong("the records do not continue the history"));
            }
            self.next = (revision.next(), record.digest);
            self.records += 1;
        }
        self.frame(kind::RECORDS, &wire(records))
    }

    /// Ends the backup, and returns the last bytes and their content.
    ///
    /// # Errors
    /// [`BackupError::Inconsistent`] when state or records are missing.
    pub fn end(mut self) -> Result<(Vec<u8>, End), BackupError> {
        if self.state_left > 0 {
            return Err(wrong("the state is shorter than announced"));
        }
        if self.next != (self.last.0.next(), self.last.1) {
            return Err(wrong("the records do not end at the state"));
        }
        let digest = Digest(*self.hasher.finalize().as_bytes());
        let end = End { bytes: self.offset, records: self.records, digest };
        Ok((self.frame(kind::END, &wire(&end))?, end))
    }

    fn frame(&mut self, kind: u8, payload: &[u8]) -> Result<Vec<u8>, BackupError> {
        if payload.len() > FRAME_BYTES_MAX {
            return Err(wrong("a record is larger than a frame can be"));
        }
        let packed = (payload.len() >= COMPRESS_BYTES_MIN)
            .then(|| block::compress_prepend_size(payload))
            .filter(|packed| packed.len() < payload.len());
        let (kind, payload) = match &packed {
            Some(packed) => (kind | LZ4, packed.as_slice()),
            None => (kind, payload),
        };
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut frame = Vec::with_capacity(PREFIX_BYTES + payload.len());
        frame.extend_from_slice(&length.to_le_bytes());
        frame.push(kind);
        frame.extend_from_slice(&check_of(self.offset, length, kind, payload));
        frame.extend_from_slice(payload);
        self.written(&frame);
        Ok(frame)
    }

    fn written(&mut self, bytes: &[u8]) {
        self.offset += bytes.len() as u64;
        self.hasher.update(bytes);
    }
}

fn wrong(why: &str) -> BackupError {
    BackupError::Inconsistent { why: why.to_string() }
}
