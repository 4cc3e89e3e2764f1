//! Group commit: all waiting proposals become one log entry.
//!
//! While one entry is being replicated, the next one fills up; a few are in flight at once. So a single caller waits
//! for one round, and five hundred callers share it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openraft::errors::{ClientWriteError, RaftError};
use romana_statemachine::limits::ENTRY_COMMANDS_MAX;
use romana_statemachine::{Millis, Outcome, Proposal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::raft::known::clocks::Clocks;
use crate::raft::peer::message::{Batch, NotCommitted};
use crate::raft::store::codec::{pack, unpack};
use crate::raft::store::machine::Raft;
use crate::raft::store::types::Payload;

/// Bytes of commands at which an entry is full. A single proposal may be longer.
const ENTRY_BYTES: usize = 1 << 20;
/// Maximum batch of one caller, in bytes: it must fit in a frame between replicas.
pub(super) const BATCH_BYTES_MAX: usize = 8 << 20;
/// Entries in flight.
const IN_FLIGHT: usize = 4;
/// Waiting callers; further ones are refused as busy, and so are those beyond the limit of queued bytes.
const QUEUE: usize = 16_384;
const QUEUE_BYTES_MAX: usize = 64 << 20;

const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const ABANDONED: u8 = 2;

impl Batch {
    /// Encodes proposals; `None` when they are too many or too large for one entry.
    pub(super) fn new(proposals: &[Proposal]) -> Option<Self> {
        let mut bytes = Vec::new();
        for proposal in proposals {
            bytes.extend_from_slice(&pack(proposal));
        }
        let count = u32::try_from(proposals.len()).ok()?;
        let fits = proposals.len() <= ENTRY_COMMANDS_MAX && bytes.len() <= BATCH_BYTES_MAX;
        fits.then(|| Self { count, bytes: bytes.into() })
    }

    /// Whether a batch from another replica can be committed: an entry that does not parse would stop every replica.
    pub(super) fn check(&self) -> bool {
        let count = self.count as usize;
        if count > ENTRY_COMMANDS_MAX || self.bytes.len() > BATCH_BYTES_MAX {
            return false;
        }
        let mut whole = pack(&count);
        whole.extend_from_slice(&self.bytes);
        unpack::<Vec<Proposal>>("batch", &whole).is_ok_and(|proposals| proposals.len() == count)
    }
}

/// The wire form of an entry, concatenated from the wire forms of its proposals.
fn entry_of(at: Millis, jobs: &[Job]) -> Bytes {
    let count: usize = jobs.iter().map(|job| job.batch.count as usize).sum();
    let mut entry = pack(&(at, count));
    entry.reserve(jobs.iter().map(|job| job.batch.bytes.len()).sum());
    for job in jobs {
        entry.extend_from_slice(&job.batch.bytes);
    }
    entry.into()
}

struct Job {
    batch: Batch,
    /// Decides the race between the caller that times out and the entry that takes the job.
    claim: Arc<AtomicU8>,
    reply: oneshot::Sender<Result<Vec<Outcome>, NotCommitted>>,
}

/// Commits proposals while this replica leads. Clones share the queue.
#[derive(Clone)]
pub(super) struct Proposer {
    jobs: mpsc::Sender<Job>,
    queued_bytes: Arc<AtomicUsize>,
}

impl Proposer {
    /// Starts the task that builds entries. It ends when the last clone is dropped.
    pub(super) fn start(raft: Raft, clocks: Clocks) -> Self {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        tokio::spawn(run(raft, clocks, queue, Arc::clone(&queued_bytes)));
        Self { jobs, queued_bytes }
    }

    /// Commits a batch: all of it in one entry, applied on this replica on return.
    pub(super) async fn propose(
        &self,
        batch: Batch,
        deadline: Instant,
    ) -> Result<Vec<Outcome>, NotCommitted> {
        let bytes = batch.bytes.len();
        if self.queued_bytes.load(Ordering::Relaxed) + bytes > QUEUE_BYTES_MAX {
            return Err(NotCommitted::Busy);
        }
        let (reply, answer) = oneshot::channel();
        let claim = Arc::new(AtomicU8::new(WAITING));
        let job = Job { batch, claim: Arc::clone(&claim), reply };
        self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Err(refused) = self.jobs.try_send(job) {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(match refused {
                mpsc::error::TrySendError::Full(_) => NotCommitted::Busy,
                mpsc::error::TrySendError::Closed(_) => {
                    NotCommitted::Unavailable("stopping".into())
                }
            });
        }
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(NotCommitted::Unknown("this replica is stopping".into())),
            Err(_) => Err(match claim.swap(ABANDONED, Ordering::AcqRel) {
                WAITING => NotCommitted::Unavailable("it was not proposed in time".into()),
                _ => NotCommitted::Unknown("it was proposed and not committed in time".into()),
            }),
        }
    }
}

async fn run(
    raft: Raft,
    clocks: Clocks,
    mut queue: mpsc::Receiver<Job>,
    queued_bytes: Arc<AtomicUsize>,
) {
    let mut flights = FuturesUnordered::new();
    let mut spare = queue.recv().await;
    clocks.settle().await;
    loop {
        if let Some(job) = spare.take() {
            let (jobs, left) = gather(job, &mut queue, &queued_bytes);
            spare = left;
            flights.push(commit(&raft, clocks.log_time(), jobs));
            if flights.len() >= IN_FLIGHT {
                flights.next().await;
            }
            continue;
        }
        tokio::select! {
            biased;
            Some(()) = flights.next() => {}
            job = queue.recv(), if flights.len() < IN_FLIGHT => match job {
                Some(job) => spare = Some(job),
                None => break,
            },
        }
    }
    while flights.next().await.is_some() {}
}

/// The first job and as many queued ones as fit in one entry; and the job that did not fit.
fn gather(
    first: Job,
    queue: &mut mpsc::Receiver<Job>,
    queued_bytes: &AtomicUsize,
) -> (Vec<Job>, Option<Job>) {
    let (mut jobs, mut commands, mut bytes) = (Vec::new(), 0, 0);
    let mut next = Some(first);
    while let Some(job) = next.take() {
        let (count, length) = (job.batch.count as usize, job.batch.bytes.len());
        let fits = commands + count <= ENTRY_COMMANDS_MAX && bytes + length <= ENTRY_BYTES;
        if !jobs.is_empty() && !fits {
            return (jobs, Some(job));
        }
        queued_bytes.fetch_sub(length, Ordering::Relaxed);
        let taken = job.claim.compare_exchange(WAITING, TAKEN, Ordering::AcqRel, Ordering::Acquire);
        if taken.is_ok() {
            commands += count;
            bytes += length;
            jobs.push(job);
        }
        next = queue.try_recv().ok();
    }
    (jobs, None)
}

/// Commits jobs as one entry and delivers the outcomes.
async fn commit(raft: &Raft, at: Millis, jobs: Vec<Job>) {
    if jobs.is_empty() {
        return;
    }
    let entry = Payload(entry_of(at, &jobs));
    let written = raft.client_write(entry).await;
    let declined = match written {
        Ok(response) => {
            let mut outcomes = response.data.0.into_iter();
            for job in jobs {
                let own = outcomes.by_ref().take(job.batch.count as usize).collect();
                _ = job.reply.send(Ok(own));
            }
            return;
        }
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => NotCommitted::NotLeader,
        Err(error) => NotCommitted::Unknown(error.to_string()),
    };
    for job in jobs {
        _ = job.reply.send(Err(declined.clone()));
    }
}

#[cfg(test)]
mod tests {
    use romana_statemachine::command::{AllocateAddress, Blackout};
    use romana_statemachine::{Actor, Command, Entry};

    use super::*;

    fn proposal(name: &str) -> Proposal {
        let ask = AllocateAddress {
            name: name.into(),
            host: "h".into(),
            tenant: "t".into(),
            segment: "s".into(),
            network: None,
            ip: None,
        };
        Proposal { actor: Actor::from("test"), command: Command::AllocateAddress(ask) }
    }

    fn job(batch: Batch) -> Job {
        Job { batch, claim: Arc::new(AtomicU8::new(WAITING)), reply: oneshot::channel().0 }
    }

    #[test]
    fn an_entry_of_batches_is_the_entry_of_their_proposals() {
        let proposals: Vec<Proposal> =
            (0..200).map(|number| proposal(&format!("name-{number}"))).collect();
        let jobs: Vec<Job> =
            proposals.chunks(7).map(|some| job(Batch::new(some).unwrap())).collect();
        let at = Millis(1_700_000_000_123);
        let entry = Entry { at, proposals };
        assert_eq!(entry_of(at, &jobs), romana_statemachine::entry::wire(&entry));
    }

    #[test]
    fn a_batch_that_does_not_parse_is_found() {
        let batch = Batch::new(&[proposal("a"), proposal("b")]).unwrap();
        assert!(batch.check());
        assert!(!Batch { count: 1, ..batch.clone() }.check());
        assert!(!Batch { count: 2, bytes: Bytes::from_static(&[250, 1]) }.check());
        assert!(!Batch { count: 2, bytes: batch.bytes.slice(1..) }.check());
    }

    #[test]
    fn too_many_or_too_long_is_no_batch() {
        let many = vec![proposal("a"); ENTRY_COMMANDS_MAX + 1];
        assert!(Batch::new(&many).is_none());
        let cidr = "x".repeat(BATCH_BYTES_MAX);
        let command = Command::AddBlackout(Blackout { cidr });
        assert!(Batch::new(&[Proposal { actor: Actor::from("test"), command }]).is_none());
    }

    #[test]
    fn an_entry_is_bounded_and_nothing_is_left_behind() {
        let (send, mut queue) = mpsc::channel(10_000);
        let batch = Batch::new(&[proposal("a")]).unwrap();
        let bytes = AtomicUsize::new(5000 * batch.bytes.len());
        for _ in 0..5000 {
            assert!(send.try_send(job(batch.clone())).is_ok());
        }
        let mut next = queue.try_recv().ok();
        let mut sizes = Vec::new();
        while let Some(first) = next {
            let (jobs, spare) = gather(first, &mut queue, &bytes);
            sizes.push(jobs.len());
            next = spare;
        }
        assert_eq!(sizes, [ENTRY_COMMANDS_MAX, 5000 - ENTRY_COMMANDS_MAX]);
        assert_eq!(bytes.load(Ordering::Relaxed), 0);
    }
}
