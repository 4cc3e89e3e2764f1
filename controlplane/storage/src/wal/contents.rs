//! The logical contents of the log, without payloads. Pure: the same code runs when writing and when recovering, so
//! that both agree on the meaning of a record.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::frame::Checkpoint;
use super::segment::Segment;

/// Vote, purge marker and the range of entries. The writer's view: it includes the group being written.
#[derive(Clone, Debug, Default)]
pub(super) struct LogState(pub(super) Checkpoint);

impl LogState {
    /// Appends `index`, or says why it cannot be appended now.
    pub(super) fn append(&mut self, index: u64) -> Result<(), String> {
        let log = &mut self.0;
        if log.purged.is_none() && log.first == log.next {
            // A log that never had entries starts at any index.
            (log.first, log.next) = (index, index);
        }
        if index != log.next {
            return Err(format!("entry {index} cannot be appended: the next one is {}", log.next));
        }
        log.next += 1;
        Ok(())
    }

    /// Keeps the entries before `next`. Returns whether that removed any.
    pub(super) fn truncate_from(&mut self, next: u64) -> bool {
        let next = next.max(self.0.first);
        let removes = next < self.0.next;
        self.0.next = self.0.next.min(next);
        removes
    }

    /// Purges entries up to `upto`; the log continues after it, even if it ended before. Returns whether that changed
    /// anything.
    pub(super) fn purge(&mut self, upto: u64, marker: &Bytes) -> bool {
        if self.0.purged.as_ref().is_some_and(|(have, _)| upto <= *have) {
            return false;
        }
        self.0.purged = Some((upto, marker.clone()));
        self.0.first = upto.saturating_add(1);
        self.0.next = self.0.next.max(self.0.first);
        true
    }

    /// The step that updates a [`Catalog`] to this state.
    pub(super) fn range(&self) -> Step {
        Step::Range { first: self.0.first, next: self.0.next }
    }
}

/// Location of an entry's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u64,
    /// Offset of the record's header, in bytes from the start of the segment.
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

/// The readers' view: the location of each durable entry.
///
/// Invariants: `places[i]` is that of entry `base + i`; each place's segment is in `segments`.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    base: u64,
    places: VecDeque<Place>,
    segments: BTreeMap<u64, Arc<Segment>>,
}

/// Adjacent entries in one segment.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) segment: Arc<Segment>,
    /// Index of the first entry.
    pub(super) index: u64,
    pub(super) places: Vec<Place>,
}

/// A run ends where more than this many bytes lie between two entries.
const GAP_BYTES_MAX: u64 = 4096;

impl Catalog {
    /// An empty catalog that starts at `base`.
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

    /// Whether there are any segments.
    pub(super) fn has_segments(&self) -> bool {
        !self.segments.is_empty()
    }

    /// Index of the first entry, or of the next one if there is none.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// Removes the segments before the one with the first entry (without entries: before `active`): the checkpoint of
    /// a later segment covers everything else in them.
    pub(super) fn take_unused(&mut self, active: u64) -> Vec<Arc<Segment>> {
        let needed = self.places.front().map_or(active, |place| place.segment);
        let used = self.segments.split_off(&needed);
        std::mem::replace(&mut self.segments, used).into_values().collect()
    }

    /// Locations of the existing entries of `from..to`: as many as have `max_bytes` of payload in total, but at least
    /// one. `Err`: index of the first entry, when `from` is before it.
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
