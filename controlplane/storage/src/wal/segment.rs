//! Segment files: allocated ahead as spares, started with a checkpoint, readable at any offset.

use std::io;
use std::path::PathBuf;

use super::error::WalError;
use super::frame::{self, Checkpoint, Kind, Owner, Preamble};
use crate::durable::{Disk, Files};
use crate::platform::fs::{self, File, OpenOptions};
use crate::platform::{FileExt, allocate, random};

/// File extension of a segment.
pub(super) const SEGMENT: &str = "wal";
/// File extension of a spare.
pub(super) const SPARE: &str = "spare";

/// A segment, readable by all and writable by the one writer.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) preamble: Preamble,
    pub(super) path: PathBuf,
    pub(super) file: File,
}

/// An allocated file without valid contents.
#[derive(Debug)]
pub(super) struct Spare {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) size: u64,
}

impl Spare {
    /// Creates the file `path` with `size` allocated bytes, durably, so that later writes cannot fail for lack of
    /// space.
    pub(super) fn create(path: PathBuf, size: u64) -> Result<Self, WalError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(WalError::io("create", &path))?;
        match allocate(&file, size).and_then(|()| file.sync_all()) {
            Ok(()) => Ok(Self { path, file, size }),
            Err(source) => {
                // Space is short: do not leave it allocated to a file that will not be used.
                let _ = fs::remove_file(&path);
                Err(WalError::Io { action: "allocate", path, source })
            }
        }
    }

    /// Turns the spare into segment `sequence`, durably. Returns the offset of the first group.
    ///
    /// The file is renamed last: a file with a segment's name has a valid preamble and checkpoint,
    /// or is damaged.
    pub(super) fn start(
        self,
        sequence: u64,
        previous_end: u64,
        owner: Option<Owner>,
        checkpoint: &Checkpoint,
    ) -> Result<(Segment, u64), WalError> {
        let (salt, size) = (random(), self.size);
        let preamble = Preamble { salt, sequence, size, previous_end, owner };
        let mut bytes = preamble.encode().to_vec();
        let state = romana_statemachine::entry::wire(checkpoint);
        frame::push(&mut bytes, 0, preamble.salt, (Kind::Checkpoint, sequence), &state);
        self.file.write_all_at(&bytes, 0).map_err(WalError::io("write", &self.path))?;
        let path = self.path.with_file_name(format!("{sequence:016}.{SEGMENT}"));
        Disk.finish(&self.file, &self.path, &path)?;
        Ok((Segment { preamble, path, file: self.file }, bytes.len() as u64))
    }
}

impl Segment {
    /// Reads `bytes` from `offset` on.
    pub(super) fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<(), WalError> {
        self.file.read_exact_at(bytes, offset).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged(offset, "the file ends before the entry"),
            _ => WalError::Io { action: "read", path: self.path.clone(), source },
        })
    }

    /// A [`WalError::Damaged`] for this segment.
    pub(super) fn damaged(&self, offset: u64, why: impl Into<String>) -> WalError {
        WalError::Damaged { file: self.path.clone(), offset, why: why.into() }
    }

    /// Writes a group at `offset`.
    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), WalError> {
        self.file.write_all_at(bytes, offset).map_err(WalError::io("write", &self.path))
    }

    /// Makes everything written durable.
    pub(super) fn sync(&self) -> Result<(), WalError> {
        self.file.sync_data().map_err(WalError::io("sync", &self.path))
    }

    /// Overwrites `from..until` with zeros.
    pub(super) fn zero(&self, from: u64, until: u64) -> Result<(), WalError> {
        let zeros = vec![0; 1 << 16];
        let mut at = from;
        while at < until {
            let count = (until - at).min(zeros.len() as u64);
            let some = usize::try_from(count).unwrap_or(zeros.len());
            self.write_at(&zeros[..some], at)?;
            at += count;
        }
        Ok(())
    }
}
