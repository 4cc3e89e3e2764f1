//! Atomic, durable file replacement: write a temporary file, sync it, rename it, sync the
//! directory. After a power failure a file is either complete or absent. This is the only
//! implementation; callers define the content.
//!
//! ```text
//!   create beside ─► write ─► sync the file ─► rename ─► sync the directory
//! ```
//! If any step is left out, some file system brings back an empty file, a partial one, or the old name.
//!
//! Generic over the file system, because a replica's can be simulated
//! (`romana_storage::platform`); [`Machine`] is the real one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The operations of a file system, and on top of them the durable ones.
pub trait Files {
    /// An open file.
    type File: Write;

    /// Creates a file, or truncates an existing one.
    ///
    /// # Errors
    /// The system's error, here and below.
    fn create(&self, path: &Path) -> io::Result<Self::File>;

    /// Makes a file's content durable.
    ///
    /// # Errors
    /// After an error the content on disk is unknown.
    fn sync(&self, file: &Self::File) -> io::Result<()>;

    /// Renames a file within its directory, replacing an existing one.
    ///
    /// # Errors
    /// After an error nothing has changed.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes the entries of a directory durable.
    ///
    /// # Errors
    /// After an error the entries on disk are unknown.
    fn sync_entries(&self, dir: &Path) -> io::Result<()>;

    /// Replaces the file `path` atomically, by way of the temporary file `beside` in the same directory: after a
    /// power cut either the old or the new content is there.
    ///
    /// # Errors
    /// [`Failed`]: the file has either the old or the new content.
    fn replace(
        &self,
        path: &Path,
        beside: &Path,
        write: impl FnOnce(&mut Self::File) -> io::Result<()>,
    ) -> Result<(), Failed> {
        self.write(beside, write)?;
        self.put_in_place(beside, path)
    }

    /// Like [`Self::replace`] with the given bytes; the temporary file has `.tmp` appended to its name.
    ///
    /// # Errors
    /// As [`Self::replace`].
    fn put(&self, path: &Path, bytes: &[u8]) -> Result<(), Failed> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".tmp");
        self.replace(path, Path::new(&beside), |file| file.write_all(bytes))
    }

    /// Durably writes a file under a temporary name; [`Self::put_in_place`] gives it the final one.
    ///
    /// # Errors
    /// [`Failed`].
    fn write(
        &self,
        path: &Path,
        write: impl FnOnce(&mut Self::File) -> io::Result<()>,
    ) -> Result<(), Failed> {
        let mut file = self.create(path).map_err(Failed::at("create", path))?;
        write(&mut file).map_err(Failed::at("write", path))?;
        self.sync(&file).map_err(Failed::at("sync", path))
    }

    /// Makes the open file `beside` durable and renames it to its final name.
    ///
    /// # Errors
    /// [`Failed`].
    fn finish(&self, file: &Self::File, beside: &Path, path: &Path) -> Result<(), Failed> {
        self.sync(file).map_err(Failed::at("sync", beside))?;
        self.put_in_place(beside, path)
    }

    /// Durably renames a file whose content is durable already.
    ///
    /// # Errors
    /// [`Failed`].
    fn put_in_place(&self, from: &Path, to: &Path) -> Result<(), Failed> {
        self.rename(from, to).map_err(Failed::at("rename", from))?;
        self.sync_dir(parent(to))
    }

    /// Makes creations, renames and removals in a directory durable.
    ///
    /// # Errors
    /// [`Failed`].
    fn sync_dir(&self, dir: &Path) -> Result<(), Failed> {
        self.sync_entries(dir).map_err(Failed::at("sync", dir))
    }

    /// [`Self::sync_dir`] for the parent directory of a path.
    ///
    /// # Errors
    /// [`Failed`].
    fn sync_parent(&self, path: &Path) -> Result<(), Failed> {
        self.sync_dir(parent(path))
    }
}

/// The real file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine;

impl Files for Machine {
    type File = File;

    fn create(&self, path: &Path) -> io::Result<File> {
        File::create(path)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_entries(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct Failed {
    pub action: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

impl Failed {
    fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { action, path, source }
    }
}

impl From<Failed> for io::Error {
    /// Drops the context, for callers that add their own.
    fn from(failed: Failed) -> Self {
        failed.source
    }
}

/// The directory of a path.
#[must_use]
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Records the operations, and fails at one of them.
    #[derive(Default)]
    struct Witness {
        done: RefCell<Vec<String>>,
        fails_at: Option<usize>,
    }

    impl Witness {
        fn note(&self, what: String) -> io::Result<()> {
            let mut done = self.done.borrow_mut();
            done.push(what);
            if self.fails_at == Some(done.len()) { Err(io::Error::other("no")) } else { Ok(()) }
        }
    }

    impl Files for Witness {
        type File = Vec<u8>;

        fn create(&self, path: &Path) -> io::Result<Vec<u8>> {
            self.note(format!("create {}", path.display())).map(|()| Vec::new())
        }

        fn sync(&self, file: &Vec<u8>) -> io::Result<()> {
            self.note(format!("sync {}", String::from_utf8_lossy(file)))
        }

        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.note(format!("rename {} {}", from.display(), to.display()))
        }

        fn sync_entries(&self, dir: &Path) -> io::Result<()> {
            self.note(format!("sync {}", dir.display()))
        }
    }

    #[test]
    fn each_step_waits_for_the_one_before() {
        let steps = ["create d/a.tmp", "sync text", "rename d/a.tmp d/a", "sync d"];
        for fails_at in [None, Some(1), Some(2), Some(3), Some(4)] {
            let files = Witness { fails_at, ..Witness::default() };
            let (path, beside) = (Path::new("d/a"), Path::new("d/a.tmp"));
            let replaced = files.replace(path, beside, |file| file.write_all(b"text"));
            assert_eq!(*files.done.borrow(), steps[..fails_at.unwrap_or(steps.len())]);
            assert_eq!(replaced.is_err(), fails_at.is_some());
        }
        assert_eq!(parent(Path::new("a")), Path::new("."));
    }

    #[test]
    fn the_machine_replaces_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, beside) = (dir.path().join("a"), dir.path().join("b"));
        for text in ["old", "new"] {
            Machine.replace(&path, &beside, |file| file.write_all(text.as_bytes())).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert!(!beside.exists());
    }
}
