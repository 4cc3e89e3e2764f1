//! A disk with the weakest guarantees of POSIX and a page cache: synced data survives a power cut, and of everything
//! else any part may survive.
//!
//! ```text
//!   write, set_len ─► now ──sync──► safe          per file: each page that was not synced is kept or lost
//!   create, rename, remove ─► log of the directory ──sync of the directory──► safe names
//!                                                 per directory: a prefix of what was not synced is kept
//! ```
//!
//! The first component of a path names the machine: `/n1/data/wal` is on the disk of machine `n1`. An open file stays
//! valid when it is renamed or unlinked. Each start of a machine is a new life; files that were opened in an earlier
//! life stop working, as if their process had died.
//!
//! Weaker than most file systems: ext4 makes a new file's name durable with its first sync, and writes in order.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::below;

/// Bytes that reach the disk atomically.
const PAGE: usize = 512;

/// Operations that a disk acknowledges without performing them: this simulates the bugs of a control plane that does
/// not sync, all in one build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lie {
    #[default]
    None,
    /// Syncing a file has no effect.
    Sync,
    /// Syncing a file makes the data of the previous sync durable: it returns too early.
    LateSync,
    /// Syncing a directory has no effect.
    Directory,
}

thread_local! {
    static DISKS: RefCell<BTreeMap<String, Disk>> = const { RefCell::new(BTreeMap::new()) };
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    File(u64),
    Directory,
}

#[derive(Default)]
struct File {
    now: Vec<u8>,
    safe: Vec<u8>,
    dirty: BTreeSet<usize>,
    /// For [`Lie::LateSync`]: the contents that the next sync makes durable.
    late: Option<Vec<u8>>,
    /// The life and the open file that hold the lock.
    locked: Option<(u64, u64)>,
}

type Names = BTreeMap<PathBuf, Node>;

/// A change of names in one directory; `None`: removed.
struct Change(Vec<(PathBuf, Option<Node>)>);

#[derive(Default)]
pub(super) struct Disk {
    files: BTreeMap<u64, File>,
    now: Names,
    safe: Names,
    /// Changes that were not synced, by directory.
    unsynced: BTreeMap<PathBuf, Vec<Change>>,
    made: u64,
    pub(super) life: u64,
    /// The power is off: every operation fails.
    dark: bool,
    /// Number of operations until the power fails.
    cut_after: Option<u64>,
    /// The next sync fails, and its data never becomes durable.
    sync_fails: bool,
    failed_syncs: u64,
    lie: Lie,
}

/// The machine that a path belongs to.
fn owner(path: &Path) -> String {
    let first = path.iter().nth(1).unwrap_or_default();
    first.to_string_lossy().into_owned()
}

/// Runs `work` on the disk that a path belongs to.
pub(super) fn with<R>(path: &Path, work: impl FnOnce(&mut Disk) -> R) -> R {
    on(&owner(path), work)
}

fn on<R>(machine: &str, work: impl FnOnce(&mut Disk) -> R) -> R {
    DISKS.with_borrow_mut(|disks| work(disks.entry(machine.to_owned()).or_default()))
}

/// Sets how a machine's disk lies from now on.
pub fn lie(machine: &str, lie: Lie) {
    on(machine, |disk| disk.lie = lie);
}

/// Cuts the power of a machine in the middle of an operation, after `operations` more:
/// before a sync takes effect, after any other operation did. [`is_dark`] tells when it happened.
pub fn cut_power_after(machine: &str, operations: u64) {
    on(machine, |disk| disk.cut_after = Some(operations));
}

/// Whether the power of a machine is off.
#[must_use]
pub fn is_dark(machine: &str) -> bool {
    on(machine, |disk| disk.dark)
}

/// Cuts the power of a machine at once.
pub fn cut_power(machine: &str) {
    on(machine, Disk::cut);
}

/// Makes the next file sync on this machine fail; its pages are lost at the next power cut, even if they are
/// synced again.
pub fn fail_next_sync(machine: &str) {
    on(machine, |disk| disk.sync_fails = true);
}

/// Number of failed syncs on this machine.
#[must_use]
pub fn failed_syncs(machine: &str) -> u64 {
    on(machine, |disk| disk.failed_syncs)
}

/// Cancels scheduled faults that have not happened yet.
pub fn forget_faults(machine: &str) {
    on(machine, |disk| (disk.cut_after, disk.sync_fails) = (None, false));
}

/// Kills the processes of a machine: their open files are closed, their writes are in the page cache.
/// Every operation fails until [`power_on`].
pub fn kill(machine: &str) {
    on(machine, |disk| {
        disk.life += 1;
        disk.dark = true;
    });
}

/// Restores the power of a machine.
pub fn power_on(machine: &str) {
    on(machine, |disk| {
        (disk.dark, disk.cut_after, disk.sync_fails) = (false, None, false);
    });
}

fn no_power() -> io::Error {
    io::Error::other("the power is gone")
}

impl Disk {
    /// Counts an operation; returns whether the power fails during it.
    fn strike(&mut self) -> io::Result<bool> {
        self.powered()?;
        let Some(left) = &mut self.cut_after else { return Ok(false) };
        *left = left.saturating_sub(1);
        Ok(*left == 0)
    }

    pub(super) fn powered(&self) -> io::Result<()> {
        if self.dark { Err(no_power()) } else { Ok(()) }
    }

    /// The result of an operation that took effect, depending on whether the power failed during it.
    fn struck(&mut self, struck: bool) -> io::Result<()> {
        if struck {
            self.cut();
            return Err(no_power());
        }
        Ok(())
    }

    fn cut(&mut self) {
        if self.dark {
            return;
        }
        for (_, changes) in std::mem::take(&mut self.unsynced) {
            let kept = usize::try_from(below(changes.len() as u64 + 1)).unwrap_or(0);
            for change in changes.into_iter().take(kept) {
                change.apply(&mut self.safe);
            }
        }
        self.now.clone_from(&self.safe);
        let linked: BTreeSet<u64> = self.safe.values().filter_map(|node| node.file()).collect();
        self.files.retain(|number, _| linked.contains(number));
        self.files.values_mut().for_each(File::cut);
        (self.dark, self.cut_after) = (true, None);
        self.life += 1;
    }

    pub(super) fn node(&self, path: &Path) -> Option<Node> {
        self.now.get(path).copied().or_else(|| is_root(path).then_some(Node::Directory))
    }

    pub(super) fn names_in(&self, directory: &Path) -> Vec<PathBuf> {
        let names = self.now.keys().filter(|path| path.parent() == Some(directory));
        names.cloned().collect()
    }

    fn change(&mut self, directory: &Path, change: Change) -> io::Result<()> {
        let struck = self.strike()?;
        change.apply(&mut self.now);
        self.unsynced.entry(directory.to_owned()).or_default().push(change);
        self.struck(struck)
    }

    /// Creates a file and returns its number.
    pub(super) fn create(&mut self, path: &Path) -> io::Result<u64> {
        let directory = self.directory_of(path)?;
        self.made += 1;
        let number = self.made;
        self.files.insert(number, File::default());
        self.change(&directory, Change(vec![(path.to_owned(), Some(Node::File(number)))]))?;
        Ok(number)
    }

    pub(super) fn create_directory(&mut self, path: &Path) -> io::Result<()> {
        let directory = self.directory_of(path)?;
        self.change(&directory, Change(vec![(path.to_owned(), Some(Node::Directory))]))
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.powered()?;
        let directory = self.directory_of(path)?;
        self.node(path).and_then(Node::file).ok_or(io::ErrorKind::NotFound)?;
        self.change(&directory, Change(vec![(path.to_owned(), None)]))
    }

    /// Renames within one directory.
    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.powered()?;
        let directory = self.directory_of(to)?;
        let node = self.node(from).ok_or(io::ErrorKind::NotFound)?;
        if from.parent() != to.parent() || node == Node::Directory {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.change(&directory, Change(vec![(from.to_owned(), None), (to.to_owned(), Some(node))]))
    }

    fn directory_of(&self, path: &Path) -> io::Result<PathBuf> {
        let parent = path.parent().filter(|parent| self.node(parent) == Some(Node::Directory));
        Ok(parent.ok_or(io::ErrorKind::NotFound)?.to_owned())
    }

    pub(super) fn sync_directory(&mut self, path: &Path) -> io::Result<()> {
        let struck = self.strike()?;
        self.struck(struck)?;
        if self.lie == Lie::Directory {
            return Ok(());
        }
        for change in self.unsynced.remove(path).unwrap_or_default() {
            change.apply(&mut self.safe);
        }
        Ok(())
    }

    fn file(&mut self, number: u64) -> io::Result<&mut File> {
        self.files.get_mut(&number).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn read(&mut self, number: u64, at: u64, into: &mut [u8]) -> io::Result<usize> {
        self.powered()?;
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let rest = self.file(number)?.now.get(at..).unwrap_or_default();
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    pub(super) fn length(&mut self, number: u64) -> io::Result<u64> {
        Ok(self.file(number)?.now.len() as u64)
    }

    pub(super) fn write(&mut self, number: u64, at: u64, bytes: &[u8]) -> io::Result<()> {
        let struck = self.strike()?;
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let file = self.file(number)?;
        let end = at + bytes.len();
        if file.now.len() < end {
            file.resize(end);
        }
        file.now[at..end].copy_from_slice(bytes);
        file.dirty.extend(at / PAGE..end.div_ceil(PAGE));
        self.struck(struck)
    }

    pub(super) fn set_length(&mut self, number: u64, length: u64) -> io::Result<()> {
        let struck = self.strike()?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        self.file(number)?.resize(length);
        self.struck(struck)
    }

    pub(super) fn sync(&mut self, number: u64) -> io::Result<()> {
        let struck = self.strike()?;
        self.struck(struck)?;
        let (lie, fails) = (self.lie, std::mem::take(&mut self.sync_fails));
        let file = self.file(number)?;
        if fails {
            // As on Linux: the pages count as clean from now on.
            file.dirty.clear();
            self.failed_syncs += 1;
            return Err(io::Error::other("the disk failed"));
        }
        match lie {
            Lie::Sync => {}
            Lie::LateSync => {
                if let Some(late) = file.late.replace(file.now.clone()) {
                    file.safe = late;
                }
            }
            Lie::None | Lie::Directory => file.sync(),
        }
        Ok(())
    }

    pub(super) fn lock(&mut self, number: u64, opening: u64) -> io::Result<bool> {
        let life = self.life;
        let file = self.file(number)?;
        let taken = file.locked.is_some_and(|(by, _)| by == life);
        if !taken {
            file.locked = Some((life, opening));
        }
        Ok(!taken)
    }

    pub(super) fn close(&mut self, number: u64, opening: u64) {
        if let Some(file) = self.files.get_mut(&number)
            && file.locked.is_some_and(|(_, by)| by == opening)
        {
            file.locked = None;
        }
    }

    /// A number that identifies an open file.
    pub(super) fn opening(&mut self) -> u64 {
        self.made += 1;
        self.made
    }
}

fn is_root(path: &Path) -> bool {
    path.iter().count() <= 2
}

impl Node {
    pub(super) fn file(self) -> Option<u64> {
        match self {
            Self::File(number) => Some(number),
            Self::Directory => None,
        }
    }
}

impl Change {
    fn apply(&self, names: &mut Names) {
        for (path, node) in &self.0 {
            match node {
                Some(node) => names.insert(path.clone(), *node),
                None => names.remove(path),
            };
        }
    }
}

impl File {
    fn resize(&mut self, length: usize) {
        let pages = self.now.len().min(length) / PAGE..self.now.len().max(length).div_ceil(PAGE);
        self.dirty.extend(pages);
        self.now.resize(length, 0);
    }

    /// Makes the dirty pages durable.
    fn sync(&mut self) {
        self.safe.resize(self.now.len(), 0);
        for page in std::mem::take(&mut self.dirty) {
            self.keep(page);
        }
    }

    fn keep(&mut self, page: usize) {
        let range = page * PAGE..((page + 1) * PAGE).min(self.now.len());
        if let (Some(safe), Some(now)) = (self.safe.get_mut(range.clone()), self.now.get(range)) {
            safe.copy_from_slice(now);
        }
    }

    /// Applies a power cut: keeps a random subset of the unsynced pages, and either the old or the new length.
    fn cut(&mut self) {
        let dirty = std::mem::take(&mut self.dirty);
        if !dirty.is_empty() {
            let (some, grown) = (below(3), below(2) == 0);
            if self.now.len() < self.safe.len() || grown {
                self.safe.resize(self.now.len(), 0);
            }
            for page in dirty {
                // Keep none, all, or some.
                if some == 1 || some == 2 && below(2) == 0 {
                    self.keep(page);
                }
            }
        }
        self.now.clone_from(&self.safe);
        (self.late, self.locked) = (None, None);
    }
}
