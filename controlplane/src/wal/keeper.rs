//! The thread that makes segments ahead and takes away used ones, so that the writer never waits
//! for either: unlinking 64 MiB can take 80 ms.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use super::Shared;
use super::error::WalError;
use super::segment::{SPARE, Segment, Spare, sync_dir};

/// What the writer asks for.
enum Chore {
    /// A spare of this size.
    Make(u64),
    /// These are not needed any more (their purge is durable).
    Retire(Vec<Arc<Segment>>),
}

/// The writer's end.
pub(super) struct Keeper {
    dir: PathBuf,
    chores: Sender<Chore>,
    spares: Receiver<Result<Spare, WalError>>,
    thread: JoinHandle<()>,
}

impl Keeper {
    /// Starts the thread. `retired`: what recovery found to be unused.
    pub(super) fn start(dir: PathBuf, shared: Arc<Shared>, size: u64) -> std::io::Result<Self> {
        let (chores, inbox) = mpsc::channel();
        let (outbox, spares) = mpsc::channel();
        let mut worker = Worker { dir: dir.clone(), shared, outbox, made: 0, pool: Vec::new() };
        let thread = thread::Builder::new()
            .name("wal-keeper".to_owned())
            .spawn(move || worker.run(&inbox))?;
        let keeper = Self { dir, chores, spares, thread };
        keeper.ask(Chore::Make(size));
        Ok(keeper)
    }

    /// The spare that was made ahead; the next one is begun. A disk that was full when it was made
    /// gets a second chance now: no data was in it yet.
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

    /// Takes segments away, soon.
    pub(super) fn retire(&self, segments: Vec<Arc<Segment>>) {
        if !segments.is_empty() {
            self.ask(Chore::Retire(segments));
        }
    }

    /// Waits until everything asked for is done.
    pub(super) fn stop(self) {
        drop(self.chores);
        // It does not panic; if it did, nothing depends on it any more.
        let _ = self.thread.join();
    }

    fn ask(&self, chore: Chore) {
        // A keeper that has ended is noticed in `take`.
        let _ = self.chores.send(chore);
    }
}

struct Worker {
    dir: PathBuf,
    shared: Arc<Shared>,
    outbox: Sender<Result<Spare, WalError>>,
    /// Number of the last spare: names are not used twice.
    made: u64,
    /// Retired segments to be used again: overwriting allocated blocks is faster than filling new
    /// ones (no journal commit in each fdatasync).
    pool: Vec<Spare>,
}

/// How many retired segments are kept for later.
const POOL_MAX: usize = 2;

impl Worker {
    fn run(&mut self, inbox: &Receiver<Chore>) {
        while let Ok(chore) = inbox.recv() {
            match chore {
                Chore::Make(size) => {
                    let spare = match self.pool.pop() {
                        Some(spare) => Ok(spare),
                        None => Spare::create(self.next_path(), size),
                    };
                    let _ = self.outbox.send(spare);
                }
                Chore::Retire(segments) => {
                    if let Err(error) = self.retire(segments) {
                        self.shared.fail(error);
                    }
                }
            }
        }
        // Spares are made anew at the next start.
        for spare in self.pool.drain(..) {
            let _ = fs::remove_file(spare.path);
        }
    }

    fn next_path(&mut self) -> PathBuf {
        self.made += 1;
        self.dir.join(format!("{}.{SPARE}", self.made))
    }

    /// Recycles or unlinks. The directory is synced before a file gets new content: otherwise a
    /// power cut could bring its old name back, with bytes that do not belong to it.
    fn retire(&mut self, segments: Vec<Arc<Segment>>) -> Result<(), WalError> {
        let mut recycled = Vec::new();
        for segment in segments {
            let path = segment.path.clone();
            match Arc::try_unwrap(segment) {
                // Nobody reads it any more, and nobody can come: the catalog has let go of it.
                Ok(segment) if self.pool.len() + recycled.len() < POOL_MAX => {
                    let spare = self.next_path();
                    fs::rename(&path, &spare).map_err(WalError::io("rename", &path))?;
                    let size = segment.preamble.size;
                    recycled.push(Spare { path: spare, file: segment.file, size });
                }
                _ => fs::remove_file(&path).map_err(WalError::io("remove", &path))?,
            }
        }
        sync_dir(&self.dir)?;
        self.pool.append(&mut recycled);
        Ok(())
    }
}
