//! The part of `std::fs` that the replica uses, on simulated disks.

#![allow(
    missing_docs,
    clippy::len_without_is_empty,
    clippy::missing_errors_doc,
    reason = "as in std::fs"
)]

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::disk::{self, Disk, Node};

/// Like `std::os::unix::fs::FileExt`.
pub trait FileExt {
    fn read_exact_at(&self, into: &mut [u8], at: u64) -> io::Result<()>;
    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
}

/// An open file or directory.
#[derive(Debug)]
pub struct File {
    /// The path by which it was opened: determines the disk, and the directory.
    path: PathBuf,
    /// `None`: a directory.
    number: Option<u64>,
    life: u64,
    opening: u64,
    cursor: AtomicU64,
}

impl File {
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        OpenOptions::new().read(true).open(path)
    }

    pub fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        OpenOptions::new().write(true).create(true).truncate(true).open(path)
    }

    pub fn create_new(path: impl AsRef<Path>) -> io::Result<Self> {
        if exists(path.as_ref())? {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Self::create(path)
    }

    /// Runs `work` on the file, if its life has not ended.
    fn with<R>(&self, work: impl FnOnce(&mut Disk, u64) -> io::Result<R>) -> io::Result<R> {
        disk::with(&self.path, |disk| {
            if disk.life != self.life {
                return Err(io::Error::other("the process that opened the file is dead"));
            }
            work(disk, self.number.ok_or(io::ErrorKind::IsADirectory)?)
        })
    }

    pub fn set_len(&self, length: u64) -> io::Result<()> {
        self.with(|disk, number| disk.set_length(number, length))
    }

    pub fn sync_all(&self) -> io::Result<()> {
        if self.number.is_none() {
            return disk::with(&self.path, |disk| disk.sync_directory(&self.path));
        }
        self.with(Disk::sync)
    }

    pub fn sync_data(&self) -> io::Result<()> {
        self.sync_all()
    }

    pub fn metadata(&self) -> io::Result<Metadata> {
        self.with(Disk::length).map(Metadata)
    }

    pub(super) fn lock(&self) -> io::Result<bool> {
        self.with(|disk, number| disk.lock(number, self.opening))
    }
}

impl FileExt for File {
    fn read_exact_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        let read = self.with(|disk, number| disk.read(number, at, into))?;
        if read < into.len() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.with(|disk, number| disk.write(number, at, bytes))
    }
}

impl Read for File {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let at = self.cursor.load(Ordering::Relaxed);
        let read = self.with(|disk, number| disk.read(number, at, into))?;
        self.cursor.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all_at(bytes, self.cursor.load(Ordering::Relaxed))?;
        self.cursor.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            disk::with(&self.path, |disk| disk.close(number, self.opening));
        }
    }
}

/// Like `std::fs::Metadata`.
pub struct Metadata(u64);

impl Metadata {
    pub fn len(&self) -> u64 {
        self.0
    }
}

/// Like `std::fs::OpenOptions`. Access modes are not checked.
#[derive(Default)]
pub struct OpenOptions {
    create: bool,
    truncate: bool,
}

impl OpenOptions {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn read(&mut self, _: bool) -> &mut Self {
        self
    }

    pub fn write(&mut self, _: bool) -> &mut Self {
        self
    }

    pub fn create(&mut self, create: bool) -> &mut Self {
        self.create = create;
        self
    }

    pub fn truncate(&mut self, truncate: bool) -> &mut Self {
        self.truncate = truncate;
        self
    }

    pub fn open(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let path = path.as_ref();
        disk::with(path, |disk| {
            disk.powered()?;
            let number = match disk.node(path) {
                Some(Node::File(number)) => {
                    if self.truncate && disk.length(number)? > 0 {
                        disk.set_length(number, 0)?;
                    }
                    Some(number)
                }
                Some(Node::Directory) => None,
                None if self.create => Some(disk.create(path)?),
                None => return Err(io::ErrorKind::NotFound.into()),
            };
            let (path, life, opening) = (path.to_owned(), disk.life, disk.opening());
            Ok(File { path, number, life, opening, cursor: AtomicU64::new(0) })
        })
    }
}

/// Like `std::fs::DirEntry`.
pub struct DirEntry(PathBuf);

impl DirEntry {
    pub fn path(&self) -> PathBuf {
        self.0.clone()
    }
}

pub fn create_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    disk::with(path, |disk| {
        let mut ancestors: Vec<&Path> = path.ancestors().collect();
        ancestors.reverse();
        for ancestor in ancestors {
            match disk.node(ancestor) {
                Some(Node::Directory) => {}
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => disk.create_directory(ancestor)?,
            }
        }
        Ok(())
    })
}

pub fn exists(path: impl AsRef<Path>) -> io::Result<bool> {
    let path = path.as_ref();
    disk::with(path, |disk| disk.powered().map(|()| disk.node(path).is_some()))
}

pub fn read_dir(path: impl AsRef<Path>) -> io::Result<impl Iterator<Item = io::Result<DirEntry>>> {
    let path = path.as_ref();
    let names = disk::with(path, |disk| {
        disk.powered()?;
        match disk.node(path) {
            Some(Node::Directory) => Ok(disk.names_in(path)),
            _ => Err(io::Error::from(io::ErrorKind::NotFound)),
        }
    })?;
    Ok(names.into_iter().map(|path| Ok(DirEntry(path))))
}

pub fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    let (from, to) = (from.as_ref(), to.as_ref());
    disk::with(from, |disk| disk.rename(from, to))
}

pub fn remove_file(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    disk::with(path, |disk| disk.remove(path))
}
