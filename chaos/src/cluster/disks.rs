//! Disk faults of replicas: small, full, slow or failing disks.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use super::Cluster;

/// A file that occupies disk space.
const BALLAST: &str = "ballast";

/// Size of a small disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SmallDisk {
    pub bytes: u64,
    /// Free space that the replica is configured to keep.
    pub reserve: u64,
}

/// In-memory disks, one for each replica. Unmounted on drop.
#[derive(Debug)]
pub(super) struct SmallDisks {
    pub(super) size: SmallDisk,
    mounted: Vec<PathBuf>,
}

impl SmallDisks {
    pub(super) fn new(size: SmallDisk) -> Self {
        Self { size, mounted: Vec::new() }
    }

    /// Unmounts a disk.
    pub(super) fn unmount(&mut self, dir: &Path) -> Result<()> {
        let output = Command::new("umount").arg(dir).output().context("run umount")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cannot unmount {}: {said}", dir.display());
        self.mounted.retain(|mounted| mounted != dir);
        Ok(())
    }

    /// Mounts a disk on a directory.
    pub(super) fn mount(&mut self, dir: &Path) -> Result<()> {
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={},mode=755", self.size.bytes), "tmpfs"])
            .arg(dir)
            .output()
            .context("run mount (small disks need root)")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cannot mount {}: {said}", dir.display());
        self.mounted.push(dir.to_owned());
        Ok(())
    }
}

impl Drop for SmallDisks {
    fn drop(&mut self) {
        for dir in &self.mounted {
            // Errors show later, when the directory is removed.
            _ = Command::new("umount").arg("-l").arg(dir).status();
        }
    }
}

/// The behaviour of a disk, if the cluster was started with the shim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    Good,
    /// Every sync fails.
    Broken,
    /// Every sync takes this much longer.
    Slow(Duration),
}

impl Cluster {
    /// Sets the behaviour of a replica's disk.
    ///
    /// # Errors
    /// The cluster was started without the shim.
    pub fn set_disk(&self, at: usize, disk: Disk) -> Result<()> {
        ensure!(self.shim.is_some(), "the cluster was started without the shim");
        let text = match disk {
            Disk::Good => String::new(),
            Disk::Broken => "eio".to_owned(),
            Disk::Slow(more) => format!("slow {}", more.as_millis()),
        };
        fs::write(self.disk_control(at), text).context("tell a disk what to do")
    }

    pub(super) fn disk_control(&self, at: usize) -> PathBuf {
        self.dir().join(format!("disk-{}", at + 1))
    }

    /// Fills a replica's disk until this many bytes are free.
    ///
    /// # Errors
    /// The disk cannot be filled.
    pub fn fill_disk(&self, at: usize, left: u64) -> Result<()> {
        let dir = self.data_dir(at);
        let file = File::create(dir.join(BALLAST)).context("make a ballast file")?;
        loop {
            let stat = statvfs(&dir).context("look at a disk")?;
            let free = stat.f_bavail * stat.f_frsize;
            if free <= left {
                return Ok(());
            }
            let held = file.metadata().context("look at the ballast file")?.len();
            match fallocate(&file, FallocateFlags::empty(), held, free - left) {
                Ok(()) => return Ok(()),
                // The replica writes concurrently, so there may be less space than computed.
                Err(Errno::NOSPC) => {}
                Err(error) => return Err(error).context("fill a disk"),
            }
        }
    }

    /// Frees the space that [`Cluster::fill_disk`] occupied.
    ///
    /// # Errors
    /// No space was occupied.
    pub fn empty_disk(&self, at: usize) -> Result<()> {
        fs::remove_file(self.data_dir(at).join(BALLAST)).context("remove the ballast file")
    }
}
