//! A machine made of memory, for three replicas on one thread (`chaos/raft`).
//!
//! The disks are [`disk`]; the network is turmoil's; time is the runtime's own, which turmoil keeps paused and
//! moves on. Threads are tasks, or are done in place where another worker waits for them. All dice are thrown
//! here, with one seed for the whole process: the same seed is the same run.
//!
//! A disk takes time only between asking and doing: what a worker does in one go happens at one instant.
//! The power can still go at any operation in the middle of it ([`disk::cut_power_after`]).

pub mod disk;
pub(crate) mod fs;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rand::distr::{Distribution, StandardUniform};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::mpsc;
use tokio::task::JoinError;
use tokio::time::sleep;

pub(crate) use fs::FileExt;

use super::Work;

/// Connections between replicas.
pub mod net {
    pub(crate) use turmoil::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
    pub use turmoil::net::{TcpListener, TcpStream};
}

thread_local! {
    static DICE: RefCell<SmallRng> = RefCell::new(SmallRng::seed_from_u64(0));
    /// The longest that a disk takes, microseconds.
    static SLOWEST: Cell<u64> = const { Cell::new(1000) };
    /// How far each machine's clock is ahead, milliseconds, by the id of its runtime.
    static CLOCKS: RefCell<BTreeMap<String, i64>> = const { RefCell::new(BTreeMap::new()) };
}

/// Where all clocks begin: 2026-01-01.
const EPOCH: Duration = Duration::from_secs(1_767_225_600);

/// Throws the dice anew: everything that follows is a function of the seed. A disk takes up to `slowest` for
/// what a worker does in one go.
pub fn begin(seed: u64, slowest: Duration) {
    DICE.set(SmallRng::seed_from_u64(seed));
    SLOWEST.set(u64::try_from(slowest.as_micros()).unwrap_or(u64::MAX));
}

/// Sets the wall clock of the machine that asks, so far before or after the true time. Its other clock, by
/// which it waits, is always right.
pub fn set_clock(ahead: i64) {
    CLOCKS.with_borrow_mut(|clocks| clocks.insert(machine(), ahead));
}

/// Each life of a machine has a runtime of its own.
fn machine() -> String {
    tokio::runtime::Handle::current().id().to_string()
}

/// The wall clock, since 1970.
pub(crate) fn unix_time() -> Duration {
    let elapsed = turmoil::sim_elapsed().unwrap_or_default();
    let ahead = CLOCKS.with_borrow(|clocks| clocks.get(&machine()).copied().unwrap_or(0));
    let by = Duration::from_millis(ahead.unsigned_abs());
    let now = EPOCH + elapsed;
    if ahead < 0 { now.saturating_sub(by) } else { now + by }
}

/// A clock that never jumps.
pub(crate) fn steady_time() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

/// A random number.
pub fn random<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    DICE.with_borrow_mut(|dice| dice.random())
}

/// A random number below `end`.
pub fn below(end: u64) -> u64 {
    DICE.with_borrow_mut(|dice| dice.random_range(0..end.max(1)))
}

async fn disk_time() {
    sleep(Duration::from_micros(below(SLOWEST.get()))).await;
}

/// Takes a file for this life of the machine alone. `false`: it is taken.
pub(crate) fn lock(file: &fs::File) -> io::Result<bool> {
    file.lock()
}

/// Gives the file `size` bytes of allocated room.
pub(crate) fn allocate(file: &fs::File, size: u64) -> io::Result<()> {
    file.set_len(size)
}

/// Waits for a disk.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    disk_time().await;
    Ok(work())
}

/// What may lag behind for as long as it likes, is not done at all.
#[allow(clippy::unnecessary_wraps)] // as the real one
pub(crate) fn background(
    _: &str,
    _: impl FnOnce() + Send + 'static,
) -> io::Result<Option<JoinHandle<()>>> {
    Ok(None)
}

/// A task with a queue; or, for a helper, nothing but its state.
pub(crate) enum Worker<W: Work> {
    Task(mpsc::UnboundedSender<W::Job>),
    InPlace(Arc<Mutex<Option<W>>>),
}

#[allow(clippy::unnecessary_wraps)] // as the real one
impl<W: Work> Worker<W> {
    pub(crate) fn spawn(_: &str, mut work: W) -> io::Result<Self> {
        let (queue, mut inbox) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(first) = inbox.recv().await {
                disk_time().await;
                work.take(first, &mut || inbox.try_recv().ok());
            }
            work.end();
        });
        Ok(Self::Task(queue))
    }

    pub(crate) fn spawn_helper(_: &str, work: W) -> io::Result<Self> {
        Ok(Self::InPlace(Arc::new(Mutex::new(Some(work)))))
    }

    pub(crate) fn send(&self, job: W::Job) -> Result<(), W::Job> {
        match self {
            Self::Task(queue) => queue.send(job).map_err(|error| error.0),
            Self::InPlace(work) => {
                let mut work = work.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(work) = &mut *work else { return Err(job) };
                work.take(job, &mut || None);
                Ok(())
            }
        }
    }
}

impl<W: Work> Drop for Worker<W> {
    fn drop(&mut self) {
        let Self::InPlace(work) = self else { return };
        if let Some(work) = work.lock().unwrap_or_else(PoisonError::into_inner).take() {
            work.end();
        }
    }
}
