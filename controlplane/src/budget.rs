//! Resource budgets shared by all clients of one replica.
//!
//! ```text
//!   body ──bytes──► bodies      work on a blocking thread ──permit──► lookups, replays, plans, …
//!   answer ─bytes─► answers     stream that holds much    ──permit──► exports, states, backups
//! ```
//!
//! ## Laws
//! 1. Work over budget waits briefly and is then refused with `Busy`: 429 and Retry-After.
//! 2. A permit is held by the work or bytes that it stands for, not by the request: when a client disconnects,
//!    only the permits of finished work are released.
//! 3. Work whose client has disconnected ends when it next checks its [`Cancel`]; queued work ends at once.
//! 4. Small bodies and answers do not wait behind large ones.
//!
//! Out of scope: limits of one connection (`romana_daemon::listener`), and of peers (`romana_replica`).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

pub(crate) use romana_replica::Cancel;

use crate::error::{Code, Failure};

/// The first part of each body, which has a separate budget.
pub(crate) const SMALL_BYTES: usize = 64 << 10;
/// Budget for the first parts of all bodies, and for their remaining parts, in bytes.
const SMALL_BODIES_BYTES: usize = 32 << 20;
const LARGE_BODIES_BYTES: usize = 64 << 20;
/// Budget for all unwritten answers longer than [`SMALL_BYTES`], in bytes.
const ANSWERS_BYTES: usize = 64 << 20;
/// How long requests over budget wait.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// A pool of permits for one kind of work, or of bytes for one kind of data.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    permits: Arc<Semaphore>,
    size: usize,
    what: &'static str,
}

/// Permits taken from a pool; returned when dropped.
#[derive(Debug)]
pub(crate) struct Permits(Vec<OwnedSemaphorePermit>);

impl Permits {
    /// No permits.
    pub(crate) const fn none() -> Self {
        Self(Vec::new())
    }

    /// Adds more permits.
    pub(crate) fn add(&mut self, more: Self) {
        for more in more.0 {
            // Merge permits of the same pool.
            let same =
                |held: &&mut OwnedSemaphorePermit| Arc::ptr_eq(held.semaphore(), more.semaphore());
            match self.0.iter_mut().find(same) {
                Some(held) => held.merge(more),
                None => self.0.push(more),
            }
        }
    }
}

impl Pool {
    fn new(size: usize, what: &'static str) -> Self {
        Self { permits: Arc::new(Semaphore::new(size)), size, what }
    }

    /// Takes `count` permits now, or fails if too few are available.
    pub(crate) fn try_take(&self, count: usize) -> Result<Permits, Failure> {
        let wanted = self.wanted(count);
        let taken = Arc::clone(&self.permits).try_acquire_many_owned(wanted);
        taken.map(|permit| Permits(vec![permit])).map_err(|_| self.busy())
    }

    /// Takes `count` permits; waits briefly if too few are available.
    pub(crate) async fn take(&self, count: usize, deadline: Instant) -> Result<Permits, Failure> {
        if let Ok(held) = self.try_take(count) {
            return Ok(held);
        }
        let wanted = self.wanted(count);
        let until = deadline.min(Instant::now() + WAIT_MAX);
        let taken = timeout_at(until, Arc::clone(&self.permits).acquire_many_owned(wanted)).await;
        match taken {
            Ok(Ok(permit)) => Ok(Permits(vec![permit])),
            _ => Err(self.busy()),
        }
    }

    /// A request larger than the pool takes the whole pool.
    fn wanted(&self, count: usize) -> u32 {
        u32::try_from(count.min(self.size)).unwrap_or(u32::MAX)
    }

    fn busy(&self) -> Failure {
        let Self { size, what, .. } = self;
        let message = format!("this replica has {what} at its bound already, which is {size}");
        Failure::new(Code::Busy, message).with("budget", *what).with("bound", *size)
    }
}

/// The budgets of one replica. Clones are handles to the same budgets.
#[derive(Clone, Debug)]
pub(crate) struct Budgets {
    /// First parts of bodies, in bytes.
    pub(crate) small_bodies: Pool,
    /// Remaining parts of bodies, in bytes.
    pub(crate) large_bodies: Pool,
    /// Long answers, in bytes.
    pub(crate) answers: Pool,
    /// Lists and other scans of the state on runtime threads.
    pub(crate) walks: Pool,
    /// Queries that read the history in a few places.
    pub(crate) lookups: Pool,
    /// Replays of the history.
    pub(crate) replays: Pool,
    /// Proofs of all replicas' histories.
    pub(crate) proofs: Pool,
    /// Previews of changes to the whole state.
    pub(crate) plans: Pool,
    /// Checks of the whole state.
    pub(crate) checks: Pool,
    /// Past states being read by clients.
    pub(crate) states: Pool,
    /// Exports being read by clients.
    pub(crate) exports: Pool,
    /// Backups being read by clients: each holds an encoded state.
    pub(crate) backups: Pool,
}

impl Budgets {
    pub(crate) fn new() -> Self {
        Self {
            small_bodies: Pool::new(SMALL_BODIES_BYTES, "bytes of small bodies"),
            large_bodies: Pool::new(LARGE_BODIES_BYTES, "bytes of large bodies"),
            answers: Pool::new(ANSWERS_BYTES, "bytes of answers that nobody takes"),
            walks: Pool::new(4, "lists"),
            lookups: Pool::new(4, "questions to the audit"),
            replays: Pool::new(1, "replays of the history"),
            proofs: Pool::new(1, "proofs of the history"),
            plans: Pool::new(1, "plans and previews"),
            checks: Pool::new(1, "checks of the whole state"),
            states: Pool::new(2, "states of the past that are read"),
            exports: Pool::new(4, "exports of the history"),
            backups: Pool::new(2, "backups"),
        }
    }

    /// Takes the budget for a body that grew from `from` to `to` bytes.
    pub(crate) async fn body(
        &self,
        (from, to): (usize, usize),
        deadline: Instant,
    ) -> Result<Permits, Failure> {
        let mut held = Permits::none();
        let small = to.min(SMALL_BYTES) - from.min(SMALL_BYTES);
        if small > 0 {
            held.add(self.small_bodies.take(small, deadline).await?);
        }
        let large = to.max(SMALL_BYTES) - from.max(SMALL_BYTES);
        if large > 0 {
            held.add(self.large_bodies.take(large, deadline).await?);
        }
        Ok(held)
    }

    /// Counts an answer's body against the budget until it is written, if it is long and of known length.
    pub(crate) fn count(&self, body: Body) -> Result<Body, Failure> {
        let length = body.size_hint().exact().and_then(|length| usize::try_from(length).ok());
        match length {
            Some(length) if length > SMALL_BYTES => {
                let held = self.answers.try_take(length)?;
                Ok(Body::new(Counted { body, held: Some(held) }))
            }
            _ => Ok(body),
        }
    }
}

/// A body whose bytes release their permits when they are dropped.
struct Counted {
    body: Body,
    held: Option<Permits>,
}

/// Bytes with their permits.
struct Owned {
    bytes: Bytes,
    _permits: Permits,
}

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let held = &mut self.held;
        let owned = frame.map(|frame| {
            frame.map(|frame| {
                frame.map_data(|bytes| match held.take() {
                    Some(held) => Bytes::from_owner(Owned { bytes, _permits: held }),
                    None => bytes,
                })
            })
        });
        Poll::Ready(owned)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Runs blocking work on another thread. The permits are released when the work ends, and the work is
/// cancelled when its caller has gone.
pub(crate) async fn work<T: Send + 'static>(
    held: Permits,
    work: impl FnOnce(&Cancel) -> T + Send + 'static,
) -> Result<T, Failure> {
    Ok(work_on(held, work).await?.0)
}

/// The same, for work in several steps: returns the permits with the result.
pub(crate) async fn work_on<T: Send + 'static>(
    held: Permits,
    what: impl FnOnce(&Cancel) -> T + Send + 'static,
) -> Result<(T, Permits), Failure> {
    let cancel = Cancel::default();
    let _guard = cancel.on_drop();
    let done = tokio::task::spawn_blocking(move || (what(&cancel), held)).await;
    done.map_err(|error| Failure::new(Code::Internal, format!("the work ended: {error}")))
}

/// Runs long work on the current thread, and lets another thread run the other tasks.
pub(crate) fn apart<T>(what: impl FnOnce() -> T) -> T {
    let flavor = Handle::try_current().map(|handle| handle.runtime_flavor());
    match flavor {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(what),
        _ => what(),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn what_is_over_waits_and_is_refused() {
        let pool = Pool::new(2, "things");
        let one = pool.try_take(1).unwrap();
        let soon = Instant::now() + Duration::from_millis(20);
        let refused = pool.take(2, soon).await.unwrap_err();
        assert_eq!((refused.problem().code, refused.problem().retry_after_secs), ("Busy", Some(1)));
        let deadline = Instant::now() + Duration::from_secs(60);
        let waiting = tokio::spawn({
            let pool = pool.clone();
            async move { pool.take(2, deadline).await }
        });
        tokio::task::yield_now().await;
        drop(one);
        assert!(waiting.await.unwrap().is_ok());
        assert!(pool.try_take(2).is_ok());
    }

    #[tokio::test]
    async fn a_body_is_counted_in_two_parts() {
        let budgets = Budgets::new();
        let now = Instant::now();
        let mut held = budgets.body((0, 1000), now).await.unwrap();
        held.add(budgets.body((1000, SMALL_BYTES + 5), now).await.unwrap());
        held.add(budgets.body((SMALL_BYTES + 5, SMALL_BYTES + 7), now).await.unwrap());
        let left = |pool: &Pool| pool.permits.available_permits();
        assert_eq!(left(&budgets.small_bodies), SMALL_BODIES_BYTES - SMALL_BYTES);
        assert_eq!(left(&budgets.large_bodies), LARGE_BODIES_BYTES - 7);
        drop(held);
        assert_eq!(left(&budgets.small_bodies), SMALL_BODIES_BYTES);
        assert_eq!(left(&budgets.large_bodies), LARGE_BODIES_BYTES);
    }

    #[tokio::test]
    async fn an_answer_counts_until_its_bytes_are_gone() {
        let budgets = Budgets::new();
        let left = || budgets.answers.permits.available_permits();
        let short = budgets.count(Body::from(vec![0; SMALL_BYTES])).unwrap();
        assert_eq!(left(), ANSWERS_BYTES);
        drop(short);
        let mut body = budgets.count(Body::from(vec![7; ANSWERS_BYTES])).unwrap();
        assert_eq!(body.size_hint().exact(), Some(ANSWERS_BYTES as u64));
        let refused = budgets.count(Body::from(vec![0; SMALL_BYTES + 1])).unwrap_err();
        assert_eq!(refused.problem().status, 429);
        let bytes = body.frame().await.unwrap().unwrap().into_data().unwrap();
        drop(body);
        assert_eq!((left(), bytes.len()), (0, ANSWERS_BYTES));
        drop(bytes);
        assert_eq!(left(), ANSWERS_BYTES);
    }

    #[tokio::test]
    async fn work_is_told_when_its_client_has_gone() {
        let pool = Pool::new(1, "works");
        let (begun, beginning) = tokio::sync::oneshot::channel();
        let held = pool.try_take(1).unwrap();
        let working = tokio::spawn(work(held, move |cancel| {
            _ = begun.send(());
            while !cancel.is_cancelled() {
                std::thread::yield_now();
            }
        }));
        beginning.await.unwrap();
        assert!(pool.try_take(1).is_err());
        working.abort();
        // The permit is released when the work has noticed the cancellation.
        let deadline = Instant::now() + Duration::from_secs(60);
        pool.take(1, deadline).await.unwrap();
    }
}
