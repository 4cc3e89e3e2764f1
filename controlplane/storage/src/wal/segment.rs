//! Segment files: made ahead as spares, started with a checkpoint, read at any offset.

use std::io;
use std::path::PathBuf;

use super::error::WalError;
use super::frame::{self, Checkpoint, Kind, Owner, Preamble};
use crate::durable;
use crate::platform::fs::{self, File, OpenOptions};
use crate::platform::{FileExt, allocate, random};

/// Ending of a segment's name.
pub(super) const SEGMENT: &str = "wal";
/// Ending of a spare's name.
pub(super) const SPARE: &str = "spare";

/// A segment that can be read, and written by the one writer.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) preamble: Preamble,
    pub(super) path: PathBuf,
    pub(super) file: File,
}

/// A file of full size without content that counts.
#[derive(Debug)]
pub(super) struct Spare {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) size: u64,
}

impl Spare {
    /// Makes the file `path` with `size` bytes of allocated room, durably, so that writing to it
    /// later cannot fail for want of room.
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
                // Room that is short now is not given to a file that nobody will use.
                let _ = fs::remove_file(&path);
                Err(WalError::Io { action: "allocate", path, source })
            }
        }
    }

    /// Makes it the segment `sequence`, durably. Returns where the first group goes.
    ///
    /// The name is given last: a file with a segment's name has a valid preamble and checkpoint,
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
        durable::finish(&self.file, &self.path, &path)?;
        Ok((Segment { preamble, path, file: self.file }, bytes.len() as u64))
    }
}

impl Segment {
    /// Fills `bytes` from `offset` on.
    pub(super) fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<(), WalError> {
        self.file.read_exact_at(bytes, offset).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged(offset, "the file ends before the entry"),
            _ => WalError::Io { action: "read", path: self.path.clone(), source },
        })
    }

    /// [`WalError::Damaged`] here.
    pub(super) fn damaged(&self, offset: u64, why: impl Into<String>) -> WalError {
        WalError::Damaged { file: self.path.clone(), offset, why: why.into() }
    }

    /// Writes a group.
    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), WalError> {
        self.file.write_all_at(bytes, offset).map_err(WalError::io("write", &self.path))
    }

    /// Makes everything written durable.
    pub(super) fn sync(&self) -> Result<(), WalError> {
        self.file.sync_data().map_err(WalError::io("sync", &self.path))
    }

    /// Replaces `from..until` by zeros.
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
