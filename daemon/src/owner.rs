//! Whose a directory is. A replica's data directory is emptied when its disk was lost or it joins again; the agent's
//! state directory has what runs on its host, and is never emptied. So the two programs refuse to share one, also
//! one inside the other.

use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::file;

/// How far below a directory is looked.
const DEPTH_MAX: usize = 3;
/// Directories that are looked at: nobody waits for a whole file system.
const DIRS_MAX: usize = 10_000;
/// Most of a file that is read to know it, bytes.
const HEAD_BYTES_MAX: u64 = 64 << 10;
/// Files of one directory that are looked at.
const FILES_MAX: usize = 16;

/// A program with a directory of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `romana-agent`, with its `--state-dir`.
    Agent,
    /// `romanad`, with its `--data-dir`.
    Replica,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Agent => "romana-agent",
            Self::Replica => "romanad",
        }
    }

    /// Whether a directory is this program's, by what is in the files that only it writes.
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

/// A directory is another program's, or has one of another program in it, or is in one.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} cannot be the directory of {}: {} is that of {}, and whatever empties the one would delete the other. \
     Choose another directory", .dir.display(), .own.name(), .found.display(), .other.name()
)]
pub struct Shared {
    dir: PathBuf,
    own: Program,
    found: PathBuf,
    other: Program,
}

/// Looks whether a program may have a directory for its own, which may not be there yet.
///
/// # Errors
/// [`Shared`].
pub fn check(dir: &Path, own: Program) -> Result<(), Shared> {
    let other = match own {
        Program::Agent => Program::Replica,
        Program::Replica => Program::Agent,
    };
    let real = real(dir);
    let above = real.ancestors().find(|above| other.owns(above)).map(Path::to_owned);
    match above.or_else(|| below(&real, other, DEPTH_MAX, &mut { DIRS_MAX })) {
        Some(found) => Err(Shared { dir: dir.to_owned(), own, found, other }),
        None => Ok(()),
    }
}

/// Where a path leads: links are followed as far as it exists.
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
    fn an_agent_is_known_by_what_it_has_attached() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("attachments")).unwrap();
        fs::write(root.path().join("instance"), "somebody else's").unwrap();
        assert!(check(root.path(), Program::Replica).is_ok());
        fs::write(root.path().join("attachments/x"), "ROMANA1\n…").unwrap();
        assert!(check(root.path(), Program::Replica).is_err());
    }
}
