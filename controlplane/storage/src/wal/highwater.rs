//! The high-water mark: the acknowledged end of the log, recorded in a separate file, to detect a log that lost its
//! end. A log whose newest segment was removed, truncated at a record boundary, overwritten with zeros or replaced by
//! an older copy is consistent in itself.
//!
//! ```text
//!   two slots of 512 bytes, written in turn: magic · segment u64 · offset u64 · CRC
//! ```
//!
//! Written after the sync that makes a group durable, and before the group is acknowledged; synced only at rotation
//! and at shutdown. So it is always correct, and after a power cut it may lag behind by the last moments. A missing
//! or damaged file proves nothing and is written again: the log is complete without it.

use std::io;
use std::path::{Path, PathBuf};

use super::error::WalError;
use super::frame::{u32_at, u64_at};
use crate::durable::{Disk, Files};
use crate::platform::FileExt;
use crate::platform::fs::{self, File, OpenOptions};

const MAGIC: [u8; 8] = *b"ROMANAHW";
/// Bytes that a disk writes atomically.
const SLOT: usize = 512;
/// Length of the data in a slot.
const NOTE: usize = 28;

/// End of the durable part: segment, and offset in it.
pub(super) type Point = (u64, u64);

/// The file, as the writer uses it.
#[derive(Debug)]
pub(super) struct HighWater {
    path: PathBuf,
    file: File,
    slot: u64,
}

/// Reads the mark; `None` when the file is missing or damaged.
pub(super) fn read(path: &Path) -> Result<Option<Point>, WalError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(WalError::Io { action: "read", path: path.to_owned(), source });
        }
    };
    let point = [0, SLOT].into_iter().filter_map(|at| decode(bytes.get(at..)?)).max();
    if point.is_none() {
        tracing::warn!(file = %path.display(), "the high-water mark of the log is damaged: rewriting it");
    }
    Ok(point)
}

impl HighWater {
    /// Creates or overwrites the file with `point`, durably.
    pub(super) fn open(path: &Path, point: Point) -> Result<Self, WalError> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(WalError::io("open", path))?;
        let mut bytes = [0; 2 * SLOT];
        for slot in bytes.chunks_mut(SLOT) {
            slot[..NOTE].copy_from_slice(&encode(point));
        }
        file.write_all_at(&bytes, 0).map_err(WalError::io("write", path))?;
        file.sync_all().map_err(WalError::io("sync", path))?;
        Disk.sync_parent(path)?;
        Ok(Self { path: path.to_owned(), file, slot: 0 })
    }

    /// Records that everything before `point` is durable.
    pub(super) fn note(&mut self, point: Point) -> Result<(), WalError> {
        self.slot = 1 - self.slot;
        let written = self.file.write_all_at(&encode(point), self.slot * SLOT as u64);
        written.map_err(WalError::io("write", &self.path))
    }

    /// Makes the last mark durable.
    pub(super) fn sync(&self) -> Result<(), WalError> {
        self.file.sync_data().map_err(WalError::io("sync", &self.path))
    }
}

fn encode((segment, offset): Point) -> [u8; NOTE] {
    let mut bytes = [0; NOTE];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&segment.to_le_bytes());
    bytes[16..24].copy_from_slice(&offset.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..24]);
    bytes[24..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Point> {
    let bytes = bytes.first_chunk::<NOTE>()?;
    let whole = bytes[..8] == MAGIC && crc32fast::hash(&bytes[..24]) == u32_at(bytes, 24);
    whole.then(|| (u64_at(bytes, 8), u64_at(bytes, 16)))
}
