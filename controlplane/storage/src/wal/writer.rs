//! The writer thread: takes all changes queued during the last fdatasync, writes them with one call, makes them
//! durable with one call, then calls back in order.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::PoisonError;
use std::time::Instant;

use bytes::Bytes;

use super::allocator::SegmentAllocator;
use super::contents::{LogState, Place, Step};
use super::error::WalError;
use super::frame::{self, Kind, Owner, PAYLOAD_BYTES_MAX};
use super::highwater::HighWater;
use super::recover::Opened;
use super::segment::Segment;
use super::{Done, Shared};
use crate::platform::{Work, fs};

/// Maximum bytes of a group: bounds the buffer and the latency.
const GROUP_BYTES: usize = 4 << 20;

/// A change requested of the writer.
pub(super) enum Change {
    Append(Vec<(u64, Bytes)>),
    Vote(Bytes),
    TruncateAfter(Option<u64>),
    Purge(u64, Bytes),
}

/// A change and its callback.
pub(super) struct Job {
    pub(super) change: Change,
    pub(super) done: Done,
}

impl Change {
    /// Bytes that its records take.
    fn bytes(&self) -> usize {
        match self {
            Self::Append(entries) => entries.iter().map(|(_, e)| frame::record_len(e.len())).sum(),
            Self::Vote(payload) | Self::Purge(_, payload) => frame::record_len(payload.len()),
            Self::TruncateAfter(_) => frame::record_len(0),
        }
    }

    fn is_too_long(&self) -> bool {
        match self {
            Self::Append(entries) => entries.iter().any(|(_, e)| e.len() > PAYLOAD_BYTES_MAX),
            Self::Vote(payload) | Self::Purge(_, payload) => payload.len() > PAYLOAD_BYTES_MAX,
            Self::TruncateAfter(_) => false,
        }
    }
}

/// State of the thread.
pub(super) struct Writer {
    shared: Arc<Shared>,
    allocator: SegmentAllocator,
    log: LogState,
    active: Arc<Segment>,
    /// Offset of the next group. Everything before is durable.
    offset: u64,
    segment_bytes: u64,
    owner: Option<Owner>,
    buffer: Vec<u8>,
    /// Updates to publish to readers when the group is durable.
    steps: Vec<Step>,
    purged: bool,
    highwater: HighWater,
    /// Held until the thread ends.
    _lock: fs::File,
}

impl Writer {
    pub(super) fn new(
        dir: PathBuf,
        shared: Arc<Shared>,
        opened: Opened,
        (segment_bytes, owner): (u64, Option<Owner>),
    ) -> io::Result<Self> {
        let Opened { log, mut catalog, active, offset, highwater, lock, .. } = opened;
        let unused = catalog.take_unused(active.preamble.sequence);
        *shared.catalog.lock().unwrap_or_else(PoisonError::into_inner) = catalog;
        let allocator = SegmentAllocator::start(dir, Arc::clone(&shared), segment_bytes)?;
        allocator.retire(unused);
        let mut writer = Self {
            shared,
            allocator,
            log,
            active,
            offset,
            segment_bytes,
            owner,
            buffer: Vec::new(),
            steps: Vec::new(),
            purged: false,
            highwater,
            _lock: lock,
        };
        writer.mark();
        Ok(writer)
    }

    /// Writes a group and answers it.
    fn serve(&mut self, jobs: Vec<Job>) {
        let outcome = match self.shared.failed() {
            Some(cause) => Err(cause),
            None => self.commit(&jobs).map_err(|error| self.shared.fail(error)),
        };
        match outcome {
            Ok(refusals) => {
                for (job, refusal) in jobs.into_iter().zip(refusals) {
                    let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
                    (job.done)(refusal.map_or(Ok(()), refuse));
                }
            }
            Err(cause) => {
                for job in jobs {
                    (job.done)(Err(WalError::answer(&cause)));
                }
            }
        }
    }

    /// Makes a group durable and readable. `Ok`: for each job, why it was refused, if it was.
    fn commit(&mut self, jobs: &[Job]) -> Result<Vec<Option<String>>, WalError> {
        let bytes = frame::record_len(0) + jobs.iter().map(|job| job.change.bytes()).sum::<usize>();
        self.rotate_for(bytes)?;
        self.buffer.clear();
        self.push(Kind::Mark, self.offset, &[]);
        let empty = self.buffer.len();
        let refusals = jobs.iter().map(|job| self.encode(&job.change).err()).collect();
        if self.buffer.len() == empty {
            return Ok(refusals);
        }
        self.active.write_at(&self.buffer, self.offset)?;
        let started = Instant::now();
        self.active.sync()?;
        self.shared.synced(started.elapsed());
        self.offset += self.buffer.len() as u64;
        self.highwater.note((self.active.preamble.sequence, self.offset))?;
        self.publish();
        Ok(refusals)
    }

    /// Encodes one change into the group, or says why it is refused.
    fn encode(&mut self, change: &Change) -> Result<(), String> {
        if change.is_too_long() {
            return Err(format!("a payload is longer than {PAYLOAD_BYTES_MAX} bytes"));
        }
        match change {
            Change::Append(entries) => {
                for (index, payload) in entries {
                    self.log.append(*index)?;
                    let offset = self.push(Kind::Entry, *index, payload);
                    let segment = self.active.preamble.sequence;
                    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
                    let place = Place { segment, offset, length };
                    self.steps.push(Step::Entry(*index, place));
                }
            }
            Change::Vote(vote) => {
                self.log.0.vote = Some(vote.clone());
                self.push(Kind::Vote, 0, vote);
            }
            Change::TruncateAfter(last) => {
                let next = last.map_or(0, |last| last.saturating_add(1));
                if self.log.truncate_from(next) {
                    self.push(Kind::Truncate, next, &[]);
                    self.steps.push(self.log.range());
                }
            }
            Change::Purge(upto, marker) => {
                if self.log.purge(*upto, marker) {
                    self.push(Kind::Purge, *upto, marker);
                    self.steps.push(self.log.range());
                    self.purged = true;
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, kind: Kind, index: u64, payload: &[u8]) -> u64 {
        let salt = self.active.preamble.salt;
        frame::push(&mut self.buffer, self.offset, salt, (kind, index), payload)
    }

    /// Publishes the group to readers, and retires segments that a purge made unused.
    fn publish(&mut self) {
        let mut catalog = self.shared.catalog.lock().unwrap_or_else(PoisonError::into_inner);
        for step in self.steps.drain(..) {
            catalog.apply(step);
        }
        if std::mem::take(&mut self.purged) {
            let unused = catalog.take_unused(self.active.preamble.sequence);
            drop(catalog);
            self.allocator.retire(unused);
        }
    }

    /// Starts a new segment when `bytes` do not fit in this one. A group is never split; a segment
    /// with a single group may be longer than usual.
    fn rotate_for(&mut self, bytes: usize) -> Result<(), WalError> {
        let checkpoint = 2 * frame::PREAMBLE as u64;
        if self.offset + bytes as u64 <= self.segment_bytes || self.offset <= checkpoint {
            return Ok(());
        }
        let spare = self.allocator.take(self.segment_bytes)?;
        let sequence = self.active.preamble.sequence + 1;
        let (segment, offset) = spare.start(sequence, self.offset, self.owner, &self.log.0)?;
        self.active = Arc::new(segment);
        self.offset = offset;
        self.highwater.note((sequence, offset))?;
        self.highwater.sync()?;
        let mut catalog = self.shared.catalog.lock().unwrap_or_else(PoisonError::into_inner);
        catalog.add_segment(Arc::clone(&self.active));
        Ok(())
    }

    /// When idle: writes a mark that everything is durable, so that damage to the last group is distinguished from
    /// a torn write. Not synced; the next group begins with the same bytes at the same offset.
    fn mark(&mut self) {
        if self.shared.failed().is_some() {
            return;
        }
        self.buffer.clear();
        self.push(Kind::Mark, self.offset, &[]);
        if let Err(error) = self.active.write_at(&self.buffer, self.offset) {
            self.shared.fail(error);
        }
    }
}

impl Work for Writer {
    type Job = Job;

    fn take(&mut self, first: Job, more: &mut dyn FnMut() -> Option<Job>) {
        let mut next = Some(first);
        while let Some(job) = next {
            self.serve(gather(job, more));
            next = more();
        }
        self.mark();
    }

    fn end(self) {
        if self.shared.failed().is_none()
            && let Err(error) = self.active.sync().and_then(|()| self.highwater.sync())
        {
            self.shared.fail(error);
        }
    }
}

/// `first` and the queued jobs, up to the size of a group.
fn gather(first: Job, more: &mut dyn FnMut() -> Option<Job>) -> Vec<Job> {
    let mut bytes = first.change.bytes();
    let mut jobs = vec![first];
    while bytes < GROUP_BYTES {
        let Some(job) = more() else { break };
        bytes += job.change.bytes();
        jobs.push(job);
    }
    jobs
}
