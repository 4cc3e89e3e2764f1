//! Free disk space: how much there is, how much a replica needs, and whether an error means that the disk is full.
//!
//! A replica stops before its disk is full ([`SpaceGuard::low`]), and starts again only when more is free than it
//! needed before ([`SpaceGuard::short`]), so that it does not flap.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use romana_daemon::error::any_cause;
use romana_statemachine::time::Size;
use tokio::time::{MissedTickBehavior, interval};

/// How often free space is checked.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After a write failed because the disk was full, this much must be free before a restart.
const ROOM_MIN: u64 = 96 << 20;

/// Whether an error was caused by a full disk (or quota).
#[must_use]
pub fn is_full(error: &(dyn Error + 'static)) -> bool {
    any_cause(error, &|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| {
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        })
    })
}

/// Free bytes on the disk of `dir`, or of its nearest existing parent. Blocks briefly.
///
/// # Errors
/// The system call failed.
pub fn free(dir: &Path) -> io::Result<u64> {
    let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or_else(|| Path::new("."));
    let there = if there.as_os_str().is_empty() { Path::new(".") } else { there };
    let stat = rustix::fs::statvfs(there)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The free space that a replica needs.
#[derive(Clone, Debug)]
pub struct SpaceGuard {
    dir: PathBuf,
    reserve: u64,
    /// Why the last replica ran out of space, if it did.
    ran_out: Option<String>,
}

/// Not enough free space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LowSpace {
    pub dir: PathBuf,
    pub free: u64,
    pub needed: u64,
    /// The failed operation, if there was one.
    pub why: Option<String>,
}

impl std::fmt::Display for LowSpace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { dir, free, needed, why } = self;
        let dir = dir.display();
        let (free, needed) = (Size(*free), Size(*needed));
        write!(f, "the disk of {dir} has {free} free, {needed} are needed")?;
        why.as_ref().map_or(Ok(()), |why| write!(f, " ({why})"))
    }
}

impl SpaceGuard {
    /// Guards the disk of `dir`: keeps `reserve` bytes free; with 0, stops only when a write fails.
    #[must_use]
    pub fn new(dir: PathBuf, reserve: u64) -> Self {
        Self { dir, reserve, ran_out: None }
    }

    /// Records that the replica ran out of space: a restart then needs a quarter more, so that it does not
    /// flap.
    pub fn ran_out(&mut self, why: String) {
        self.ran_out = Some(why);
    }

    /// Bytes that must be free for a start.
    #[must_use]
    pub fn needed(&self) -> u64 {
        match self.ran_out {
            Some(_) if self.reserve == 0 => ROOM_MIN,
            Some(_) => self.reserve.saturating_add(self.reserve / 4),
            None => self.reserve,
        }
    }

    /// The directory whose disk is guarded.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether the last replica ran out of space.
    #[must_use]
    pub fn has_run_out(&self) -> bool {
        self.ran_out.is_some()
    }

    /// Resets that: a replica starts.
    pub fn begin(&mut self) {
        self.ran_out = None;
    }

    /// The missing space for a start. If free space cannot be read, start anyway; a failing write will tell.
    #[must_use]
    pub fn short(&self) -> Option<LowSpace> {
        self.compare(self.needed())
    }

    /// The free space, if it is less than `needed`.
    #[must_use]
    pub fn compare(&self, needed: u64) -> Option<LowSpace> {
        let free = free(&self.dir).ok().filter(|free| *free < needed)?;
        Some(LowSpace { dir: self.dir.clone(), free, needed, why: self.ran_out.clone() })
    }

    /// Waits until less than the reserve is free.
    pub async fn low(&self) -> LowSpace {
        let mut clock = interval(LOOK_EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            clock.tick().await;
            let room = Self { ran_out: None, ..self.clone() };
            let look = tokio::task::spawn_blocking(move || room.compare(room.reserve));
            if let Ok(Some(short)) = look.await {
                return short;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn full_is_found_below_other_errors() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        assert!(is_full(&full()));
        assert!(is_full(&io::Error::other(io::Error::other(full()))));
        let wal = crate::wal::WalError::Io { action: "write", path: "x".into(), source: full() };
        let stopped = crate::wal::WalError::Stopped(Arc::new(wal));
        assert!(is_full(&stopped) && is_full(&io::Error::other(stopped)));
        assert!(!is_full(&io::Error::from(io::ErrorKind::NotFound)));
    }

    #[test]
    fn what_ran_out_wants_more_to_begin_again() {
        let mut room = SpaceGuard::new(PathBuf::from("/nowhere/at/all"), 1 << 30);
        assert_eq!(room.needed(), 1 << 30);
        room.ran_out("a write failed".into());
        assert_eq!(room.needed(), 5 << 28);
        let mut none = SpaceGuard::new(PathBuf::from("/"), 0);
        assert!(none.short().is_none());
        none.ran_out("a write failed".into());
        assert!(none.needed() > 0);
        let short = SpaceGuard::new(PathBuf::from("/nowhere"), u64::MAX).short().unwrap();
        assert_eq!((short.needed, short.why), (u64::MAX, None));
    }
}
