//! An in-memory simulation of the platform, for three replicas on one thread (`chaos/raft`).
//!
//! Disks are simulated by [`disk`], the network by turmoil; time is the runtime's clock, which turmoil pauses and
//! advances. Threads are tasks; a helper's work runs in place, where another worker waits for it. All random numbers
//! come from one generator per process: the same seed gives the same run.
//!
//! Disk time passes only between request and execution: what a worker does in one call happens at one instant.
//! Power can still fail in the middle, at any operation ([`disk::cut_power_after`]).

pub mod disk;
pub mod fs;

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

pub use fs::FileExt;

use super::Work;

/// Connections between replicas.
pub mod net {
    pub use turmoil::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
    pub use turmoil::net::{TcpListener, TcpStream};
}

thread_local! {
    static DICE: RefCell<SmallRng> = RefCell::new(SmallRng::seed_from_u64(0));
    /// The longest time that a disk operation takes, in microseconds.
    static SLOWEST: Cell<u64> = const { Cell::new(1000) };
    /// The clocks of each machine and when they were set, by runtime id.
    static SET: RefCell<BTreeMap<String, (Clock, Duration)>> = const { RefCell::new(BTreeMap::new()) };
}

/// How the clocks of a machine deviate from the true time. The default is correct.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// Offset of the wall clock from the true time, in milliseconds; negative if behind.
    pub ahead: i64,
    /// Drift of the wall clock since it was set, in parts per million; negative if slow.
    pub drift: i64,
    /// Random error of each reading of the wall clock, up to ± this many milliseconds.
    pub lies: u64,
    /// Drift of the monotonic clock, in parts per million; negative if slow.
    pub pace: i64,
}

impl Clock {
    /// What the wall clock shows, in nanoseconds since 1970; it was set at `set`.
    fn wall(&self, now: i128, set: i128) -> i128 {
        let drifted = (now - set) * i128::from(self.drift) / MILLION;
        let lie = if self.lies == 0 {
            0
        } else {
            i128::from(below(2 * self.lies + 1)) - i128::from(self.lies)
        };
        nanos(EPOCH) + now + drifted + (i128::from(self.ahead) + lie) * MILLION
    }

    fn steady(&self, now: i128) -> i128 {
        now + now * i128::from(self.pace) / MILLION
    }
}

/// Nanoseconds per millisecond, and parts per million.
const MILLION: i128 = 1_000_000;

fn nanos(time: Duration) -> i128 {
    i128::try_from(time.as_nanos()).unwrap_or(i128::MAX)
}

fn duration(nanos: i128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
}

fn elapsed() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

/// Start time of all clocks: 2026-01-01.
const EPOCH: Duration = Duration::from_secs(1_767_225_600);

/// Seeds the random generator: everything that follows is a function of the seed. A disk takes up to `slowest` for
/// what a worker does in one call.
pub fn begin(seed: u64, slowest: Duration) {
    DICE.set(SmallRng::seed_from_u64(seed));
    SLOWEST.set(u64::try_from(slowest.as_micros()).unwrap_or(u64::MAX));
}

/// Sets the clocks of the calling machine. Its timers are not affected.
pub fn set_clock(clock: Clock) {
    SET.with_borrow_mut(|set| set.insert(machine(), (clock, elapsed())));
}

/// Id of the calling machine's runtime: each restart of a machine creates a new one.
fn machine() -> String {
    tokio::runtime::Handle::current().id().to_string()
}

fn clock() -> (Clock, i128) {
    let (clock, set) = SET.with_borrow(|set| set.get(&machine()).copied().unwrap_or_default());
    (clock, nanos(set))
}

/// The true time since 1970, at `elapsed` after the start of the run.
#[must_use]
pub fn true_time(elapsed: Duration) -> Duration {
    EPOCH + elapsed
}

/// Wall-clock time of the calling machine, since 1970.
pub fn unix_time() -> Duration {
    let (clock, set) = clock();
    duration(clock.wall(nanos(elapsed()), set))
}

/// Monotonic time of the calling machine.
pub fn steady_time() -> Duration {
    duration(clock().0.steady(nanos(elapsed())))
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

/// Locks a file for this life of the machine. `false`: it is locked already.
pub fn lock(file: &fs::File) -> io::Result<bool> {
    file.lock()
}

/// Allocates `size` bytes for the file.
pub fn allocate(file: &fs::File, size: u64) -> io::Result<()> {
    file.set_len(size)
}

/// Runs disk work after a simulated delay.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    disk_time().await;
    Ok(work())
}

/// Background work is skipped in the simulation.
#[allow(clippy::unnecessary_wraps)] // as the real one
pub fn background(
    _: &str,
    _: impl FnOnce() + Send + 'static,
) -> io::Result<Option<JoinHandle<()>>> {
    Ok(None)
}

/// A task with a job queue; for a helper, only its state.
pub enum Worker<W: Work> {
    Task(mpsc::UnboundedSender<W::Job>),
    InPlace(Arc<Mutex<Option<W>>>),
}

#[allow(clippy::unnecessary_wraps)] // as the real one
impl<W: Work> Worker<W> {
    pub fn spawn(_: &str, mut work: W) -> io::Result<Self> {
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

    pub fn spawn_helper(_: &str, work: W) -> io::Result<Self> {
        Ok(Self::InPlace(Arc::new(Mutex::new(Some(work)))))
    }

    pub fn send(&self, job: W::Job) -> Result<(), W::Job> {
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
