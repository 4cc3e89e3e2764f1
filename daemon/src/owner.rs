//! Ensures that a directory belongs to one program, and that its files can be read. A replica's
//! data directory is emptied when its disk was lost or it joins again; the agent's state
//! directory records what runs on its host, and is never emptied. So the two programs refuse to
//! share a directory, or to nest theirs.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

use crate::file;

/// How deep subdirectories are searched.
const DEPTH_MAX: usize = 3;
/// Limit of directories searched, so that a large file system does not delay the start.
const DIRS_MAX: usize = 10_000;
/// Bytes of a file that are read to identify it.
const HEAD_BYTES_MAX: u64 = 64 << 10;
/// Files examined per directory.
const FILES_MAX: usize = 16;

/// A program with its own directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `romana-agent` with its `--state-dir`.
    Agent,
    /// `romanad` with its `--data-dir`.
    Replica,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Agent => "romana-agent",
            Self::Replica => "romanad",
        }
    }

    /// The remedy when a file of its directory is lost.
    fn lost(self) -> &'static str {
        match self {
            Self::Agent => {
                "If it is lost: stop what runs on this host, and start with an empty directory; what the host had is \
                 released when the agent reports"
            }
            Self::Replica => {
                "If it is lost: what this replica had acknowledged is on the others; `romana cluster replace ID` says \
                 how to start with an empty directory. The only replica starts with an empty directory and --restore \
                 of the last backup"
            }
        }
    }

    /// Whether a directory belongs to this program, judged by the content of files that only it writes.
    fn owns(self, dir: &Path) -> bool {
        match self {
            Self::Agent => {
                let within = ["attachments", "spool"].into_iter().flat_map(|name| {
                    let files = fs::read_dir(dir.join(name)).into_iter().flatten().flatten();
                    files.take(FILES_MAX).map(|file| file.path())
                });
                let files = ["instance", "view", "reserve"].map(|name| dir.join(name));
                files.into_iter().chain(within).any(|file| begins(&file, b"ROMANA1\n"))
            }
            Self::Replica => {
                let identity = file::read(&dir.join("identity.json"), HEAD_BYTES_MAX);
                identity.is_ok_and(|text| String::from_utf8_lossy(&text).contains("\"cluster_id\""))
            }
        }
    }
}

fn begins(path: &Path, head: &[u8]) -> bool {
    use std::io::Read;
    let mut found = vec![0; head.len()];
    let read = file::open(path).and_then(|(mut file, _)| file.read_exact(&mut found));
    read.is_ok() && found == head
}

/// Why a program cannot use a directory.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// It belongs to another program, contains such a directory, or is inside one.
    #[error(
        "{} cannot be the directory of {}: {} is that of {}, and whatever empties the one would delete the other. \
         Choose another directory", .dir.display(), .own.name(), .found.display(), .other.name()
    )]
    Shared {
        dir: PathBuf,
        /// The program that is starting.
        own: Program,
        /// The other program's directory.
        found: PathBuf,
        other: Program,
    },
    /// It contains a pipe or device, which may block on open or have no end.
    #[error(
        "{} is {kind}, and {} keeps regular files there: it does not start. Look at it with `ls -l`, and take it \
         away; if one of the program's files was there, put that back. {}", .path.display(), .own.name(), .own.lost()
    )]
    Special { path: PathBuf, kind: &'static str, own: Program },
}

/// Checks that a program can use a directory, which need not exist yet.
///
/// # Errors
/// [`Unfit`].
pub fn check(dir: &Path, own: Program) -> Result<(), Unfit> {
    let other = match own {
        Program::Agent => Program::Replica,
        Program::Replica => Program::Agent,
    };
    let real = real(dir);
    let above = real.ancestors().find(|above| other.owns(above)).map(Path::to_owned);
    match above.or_else(|| below(&real, other, DEPTH_MAX, &mut { DIRS_MAX })) {
        Some(found) => Err(Unfit::Shared { dir: dir.to_owned(), own, found, other }),
        None => readable(dir, own),
    }
}

/// Checks that all files in a program's directory can be opened without blocking.
///
/// # Errors
/// [`Unfit::Special`].
pub fn readable(dir: &Path, own: Program) -> Result<(), Unfit> {
    match special(dir, DEPTH_MAX, &mut { DIRS_MAX }) {
        Some((path, kind)) => Err(Unfit::Special { path, kind, own }),
        None => Ok(()),
    }
}

/// Finds a pipe or device, also behind a link. (Opening a socket fails, so sockets need no check.)
fn special(dir: &Path, depth: usize, left: &mut usize) -> Option<(PathBuf, &'static str)> {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(mut kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            *left = left.checked_sub(1)?;
            let found = depth.checked_sub(1).and_then(|depth| special(&path, depth, left));
            if found.is_some() {
                return found;
            }
        }
        if kind.is_symlink() {
            // A dangling link is never opened.
            let Ok(end) = fs::metadata(&path) else { continue };
            kind = end.file_type();
        }
        if kind.is_fifo() || kind.is_char_device() || kind.is_block_device() {
            return Some((path, file::name(kind)));
        }
    }
    None
}

/// Resolves the links of a path as far as it exists.
fn real(dir: &Path) -> PathBuf {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let there = dir.ancestors().find_map(|above| {
        let rest = dir.strip_prefix(above).ok()?;
        Some((fs::canonicalize(above).ok()?, rest))
    });
    let Some((mut real, rest)) = there else { return dir };
    for part in rest.components() {
        match part {
            Component::ParentDir => _ = real.pop(),
            part => real.push(part),
        }
    }
    real
}

fn below(dir: &Path, other: Program, depth: usize, left: &mut usize) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    for dir in dirs.map(|entry| entry.path()) {
        *left = left.checked_sub(1)?;
        if other.owns(&dir) {
            return Some(dir);
        }
        let found = depth.checked_sub(1).and_then(|depth| below(&dir, other, depth, left));
        if found.is_some() {
            return found;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn agent(dir: &Path) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("instance"), "ROMANA1\n00000000\n\"x\"").unwrap();
    }

    fn replica(dir: &Path) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("identity.json"), "{\"cluster_id\": \"x\"}").unwrap();
    }

    #[test]
    fn neither_is_in_the_others_directory() {
        for (make, other) in [(agent as fn(&Path), Program::Replica), (replica, Program::Agent)] {
            let root = tempfile::tempdir().unwrap();
            let at = |name: &str| root.path().join(name);
            make(&at("a/own"));
            symlink("a/own", at("link")).unwrap();
            for shared in ["a/own", "a", "a/own/sub/new", "link", "link/new", "a/x/../own", "."] {
                let refused = check(&at(shared), other).unwrap_err().to_string();
                assert!(refused.contains("a/own is that of"), "{shared}: {refused}");
            }
            for free in ["a/new", "b", "a/own2"] {
                assert!(check(&at(free), other).is_ok(), "{free}");
            }
            let same = if other == Program::Agent { Program::Replica } else { Program::Agent };
            assert!(check(&at("a/own"), same).is_ok());
        }
    }

    #[test]
    fn what_may_be_waited_for_is_not_opened() {
        use rustix::fs::{CWD, FileType as Kind, Mode, mknodat};
        for own in [Program::Agent, Program::Replica] {
            let root = tempfile::tempdir().unwrap();
            let at = |name: &str| root.path().join(name);
            fs::create_dir_all(at("wal/sub")).unwrap();
            symlink("nowhere", at("dangling")).unwrap();
            symlink("wal", at("link")).unwrap();
            assert!(check(root.path(), own).is_ok());
            symlink("/dev/zero", at("wal/device")).unwrap();
            let said = check(root.path(), own).unwrap_err().to_string();
            assert!(said.contains("wal/device is a character device"), "{said}");
            fs::remove_file(at("wal/device")).unwrap();
            mknodat(CWD, at("wal/sub/pipe"), Kind::Fifo, Mode::RWXU, 0).unwrap();
            let said = check(root.path(), own).unwrap_err().to_string();
            assert!(
                said.contains("wal/sub/pipe is a pipe") && said.contains("If it is lost"),
                "{said}"
            );
        }
    }

    #[test]
    fn an_agent_is_known_by_what_it_has_attached() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("attachments")).unwrap();
        fs::write(root.path().join("instance"), "somebody else's").unwrap();
        assert!(check(root.path(), Program::Replica).is_ok());
        fs::write(root.path().join("attachments/x"), "ROMANA1\n…").unwrap();
        assert!(check(root.path(), Program::Replica).is_err());
    }
}
