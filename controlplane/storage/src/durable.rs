//! Atomic file writes ([`Files`]) on the platform's file system, real or simulated.

use std::io;
use std::path::Path;

pub use romana_daemon::whole::{Failed, Files};

use crate::platform::fs::{self, File};

/// The platform's file system.
#[derive(Clone, Copy, Debug)]
pub struct Disk;

impl Files for Disk {
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
