//! What the log contains, without its bytes. Pure: the same code runs when writing and when reading
//! back, so that both agree on what a record means.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::frame::Checkpoint;
use super::segment::Segment;

/// Vote, purge marker and the range of entries. The writer's view: it includes what is being written.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger(pub(super) Checkpoint);

impl Ledger {
    /// Whether `index` can be appended now.
    pub(super) fn append(&mut self, index: u64) -> Result<(), String> {
        let log = &mut self.0;
        if log.purged.is_none() && log.first == log.next {
            // A log without a past starts where its owner says.
            (log.first, log.next) = (index, index);
        }
        if index != log.next {
            return Err(format!("entry {index} cannot be appended: the next one is {}", log.next));
        }
        log.next += 1;
        Ok(())
    }

    /// Keeps entries before `next`. Whether that removes any.
    pub(super) fn truncate_from(&mut self, next: u64) -> bool {
        let next = next.max(self.0.first);
        let removes = next < self.0.next;
        self.0.next = self.0.next.min(next);
        removes
    }

    /// Voids entries up to `upto`; the log goes on after it, also when it had not got there. Whether
    /// that is news.
    pub(super) fn purge(&mut self, upto: u64, marker: &Bytes) -> bool {
        if self.0.purged.as_ref().is_some_and(|(have, _)| upto <= *have) {
            return false;
        }
        self.0.purged = Some((upto, marker.clone()));
        self.0.first = upto.saturating_add(1);
        self.0.next = self.0.next.max(self.0.first);
        true
    }

    /// The step that brings a [`Catalog`] up to here.
    pub(super) fn range(&self) -> Step {
        Step::Range { first: self.0.first, next: self.0.next }
    }
}

/// Where an entry's record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u64,
    /// Of the record's header, bytes from the start of the segment.
    pub(super) offset: u64,
    /// Length of the payload, bytes.
    pub(super) length: u32,
}

/// A change of the [`Catalog`].
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Entry(u64, Place),
    /// Only these entries are valid.
    Range {
        first: u64,
        next: u64,
    },
}

/// The readers' view: where each durable entry is.
///
/// Invariants: `places[i]` is that of entry `base + i`; each place's segment is in `segments`.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    base: u64,
    places: VecDeque<Place>,
    segments: BTreeMap<u64, Arc<Segment>>,
}

/// Entries next to each other in one segment.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) segment: Arc<Segment>,
    /// Index of the first.
    pub(super) index: u64,
    pub(super) places: Vec<Place>,
}

/// A run is cut where more than this many bytes of something else lie between two entries.
const GAP_BYTES_MAX: u64 = 4096;

impl Catalog {
    /// A catalog of a log whose entries before `base` are somewhere else, or nowhere.
    pub(super) fn starting_at(base: u64) -> Self {
        Self { base, ..Self::default() }
    }

    pub(super) fn add_segment(&mut self, segment: Arc<Segment>) {
        self.segments.insert(segment.preamble.sequence, segment);
    }

    pub(super) fn apply(&mut self, step: Step) {
        match step {
            Step::Entry(index, place) => {
                if self.places.is_empty() {
                    self.base = index;
                }
                self.places.push_back(place);
            }
            Step::Range { first, next } => {
                let keep = usize::try_from(next.saturating_sub(self.base)).unwrap_or(usize::MAX);
                self.places.truncate(keep);
                let gone = usize::try_from(first.saturating_sub(self.base)).unwrap_or(usize::MAX);
                self.places.drain(..gone.min(self.places.len()));
                self.base = if self.places.is_empty() {
                    self.base.min(next).max(first)
                } else {
                    self.base.max(first)
                };
            }
        }
    }

    /// Whether a segment was added.
    pub(super) fn has_segments(&self) -> bool {
        !self.segments.is_empty()
    }

    /// The first entry that has a place (or would get one).
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// Removes the segments before the one with the first entry (without entries: before `active`):
    /// whatever else is in them, the checkpoint of a later one has too.
    pub(super) fn take_unused(&mut self, active: u64) -> Vec<Arc<Segment>> {
        let needed = self.places.front().map_or(active, |place| place.segment);
        let used = self.segments.split_off(&needed);
        std::mem::replace(&mut self.segments, used).into_values().collect()
    }

    /// Where the entries `from..to` are, as far as they exist: as many as have `max_bytes` of payload
    /// together, but one at least. `Err`: the first entry, when `from` is before it.
    pub(super) fn find(&self, from: u64, to: u64, max_bytes: usize) -> Result<Vec<Run>, u64> {
        let Some(skip) = from.checked_sub(self.base) else { return Err(self.base) };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let count = usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
        let mut runs: Vec<Run> = Vec::new();
        let mut bytes = 0_usize;
        for (index, place) in (from..).zip(self.places.iter().skip(skip).take(count)) {
            bytes = bytes.saturating_add(place.length as usize);
            if bytes > max_bytes && index > from {
                break;
            }
            match runs.last_mut() {
                Some(run) if run.is_near(place) => run.places.push(*place),
                _ => {
                    let Some(segment) = self.segments.get(&place.segment) else { break };
                    let segment = Arc::clone(segment);
                    runs.push(Run { segment, index, places: vec![*place] });
                }
            }
        }
        Ok(runs)
    }
}

impl Run {
    fn is_near(&self, place: &Place) -> bool {
        self.places.last().is_some_and(|last| {
            let end = last.offset + u64::from(last.length);
            last.segment == place.segment && (end..end + GAP_BYTES_MAX).contains(&place.offset)
        })
    }
}
