//! The allocator thread: allocates segments ahead and removes purged ones, so that the writer never waits
//! for either. Unlinking 64 MiB can take 80 ms.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use super::Shared;
use super::error::WalError;
use super::segment::{SPARE, Segment, Spare};
use crate::durable::{Disk, Files};
use crate::platform::{Work, Worker, fs};

/// A request of the writer.
pub(super) enum Chore {
    /// Allocate a spare of this size.
    Make(u64),
    /// Remove these segments (their purge is durable).
    Retire(Vec<Arc<Segment>>),
}

/// The writer's handle to the thread.
pub(super) struct SegmentAllocator {
    dir: PathBuf,
    housekeeper: Worker<Housekeeper>,
    spares: Receiver<Result<Spare, WalError>>,
}

impl SegmentAllocator {
    /// Starts the thread. `retired`: unused segments found by recovery.
    pub(super) fn start(dir: PathBuf, shared: Arc<Shared>, size: u64) -> std::io::Result<Self> {
        let (outbox, spares) = mpsc::channel();
        let housekeeper =
            Housekeeper { dir: dir.clone(), shared, outbox, made: 0, pool: Vec::new() };
        let housekeeper = Worker::spawn_helper("wal-allocator", housekeeper)?;
        let allocator = Self { dir, housekeeper, spares };
        allocator.ask(Chore::Make(size));
        Ok(allocator)
    }

    /// Takes the spare that was allocated ahead, and requests the next one. If the allocation failed because the disk
    /// was full, it is tried again now: no data was written yet.
    pub(super) fn take(&self, size: u64) -> Result<Spare, WalError> {
        let spare = match self.spares.recv() {
            Ok(Err(WalError::Io { source, .. }))
                if source.kind() == std::io::ErrorKind::StorageFull =>
            {
                Spare::create(self.dir.join(format!("late.{SPARE}")), size)
            }
            Ok(spare) => spare,
            Err(_) => Err(WalError::Io {
                action: "allocate",
                path: self.dir.clone(),
                source: std::io::Error::other("the thread that makes segments has ended"),
            }),
        };
        self.ask(Chore::Make(size));
        spare
    }

    /// Hands segments over for removal.
    pub(super) fn retire(&self, segments: Vec<Arc<Segment>>) {
        if !segments.is_empty() {
            self.ask(Chore::Retire(segments));
        }
    }

    fn ask(&self, chore: Chore) {
        // If the allocator has ended, `take` reports it.
        _ = self.housekeeper.send(chore);
    }
}

/// State of the thread.
struct Housekeeper {
    dir: PathBuf,
    shared: Arc<Shared>,
    outbox: Sender<Result<Spare, WalError>>,
    /// Number of the last spare: names are not reused.
    made: u64,
    /// Retired segments for reuse: overwriting allocated blocks is faster than filling new ones (no journal commit in
    /// each fdatasync).
    pool: Vec<Spare>,
}

/// Maximum number of retired segments kept for reuse.
const POOL_MAX: usize = 2;

impl Work for Housekeeper {
    type Job = Chore;

    fn take(&mut self, chore: Chore, _: &mut dyn FnMut() -> Option<Chore>) {
        match chore {
            Chore::Make(size) => {
                let spare = match self.pool.pop() {
                    Some(spare) => Ok(spare),
                    None => Spare::create(self.next_path(), size),
                };
                _ = self.outbox.send(spare);
            }
            Chore::Retire(segments) => {
                if let Err(error) = self.retire(segments) {
                    self.shared.fail(error);
                }
            }
        }
    }

    /// Removes the spares; the next start allocates new ones.
    fn end(self) {
        for spare in self.pool {
            _ = fs::remove_file(spare.path);
        }
    }
}

impl Housekeeper {
    fn next_path(&mut self) -> PathBuf {
        self.made += 1;
        self.dir.join(format!("{}.{SPARE}", self.made))
    }

    /// Recycles or unlinks segments. The directory is synced before a file gets new contents: otherwise a
    /// power cut could restore its old name with the new bytes.
    fn retire(&mut self, segments: Vec<Arc<Segment>>) -> Result<(), WalError> {
        let mut recycled = Vec::new();
        for segment in segments {
            let path = segment.path.clone();
            match Arc::try_unwrap(segment) {
                // No reader holds it, and none can come: the catalog has dropped it.
                Ok(segment) if self.pool.len() + recycled.len() < POOL_MAX => {
                    let spare = self.next_path();
                    fs::rename(&path, &spare).map_err(WalError::io("rename", &path))?;
                    let size = segment.preamble.size;
                    recycled.push(Spare { path: spare, file: segment.file, size });
                }
                _ => fs::remove_file(&path).map_err(WalError::io("remove", &path))?,
            }
        }
        Disk.sync_dir(&self.dir)?;
        self.pool.append(&mut recycled);
        Ok(())
    }
}
